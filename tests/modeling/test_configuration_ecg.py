"""The configs: what all systems share, and what each refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugForPreTraining,
    EcgJepaConfig,
    EcgJepaForPreTraining,
    EcgJepaModel,
    EcgScanConfig,
    EcgScanModel,
)
from clear_hug_hf.modeling.configuration_ecg import EcgConfig
from clear_hug_hf.systems import SYSTEMS


MODELS: dict[type[EcgConfig], Any] = {item.config: item.model("AutoModel") for item in SYSTEMS.values()}
CARDS = sorted((Path(__file__).parents[2] / "model_cards").glob("*/config.json"))
PIPELINES = {"ecg-classification": {"impl": "pipeline_somewhere.Pipeline", "pt": ["AutoModel"]}}
SIGNAL = {"model_type": "clear_hug", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY = {"vision_config": EcgScanConfig.presets["tiny"]["vision_config"]}

each_config = pytest.mark.parametrize("config_class", MODELS)


def _saved(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [
        (ClearHugConfig, {"mask_ratio": 0.75}),
        (EcgJepaConfig, {"mask_type": "random", "mask_ratio": (0.5, 0.6)}),
        (EcgScanConfig, {"lead_weight": 0.3, "signal_config": SIGNAL}),
    ],
)
def test_when_config_is_saved_then_it_loads_equal(config_class, fields, tmp_path):
    names = {0: "NORM", 1: "MI", 2: "CD"}
    config = config_class.preset("tiny", id2label=names, **fields)
    config.save_pretrained(tmp_path)
    saved = _saved(tmp_path)
    assert "problem_type" not in saved
    for loaded in (config_class.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is config_class
        assert json.loads(loaded.to_json_string()) == saved
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert loaded.id2label == names
        assert loaded.label2id == {"NORM": 0, "MI": 1, "CD": 2}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_when_a_shipped_config_is_saved_again_then_nothing_changes(path, tmp_path):
    config = AutoConfig.from_pretrained(path.parent)
    config.save_pretrained(tmp_path)
    shipped, saved = json.loads(path.read_text()), _saved(tmp_path)
    for item in (shipped, saved):
        # Some versions of transformers write only the fields of a nested config that differ from its defaults.
        for name in [name for name in item if isinstance(getattr(config, name, None), PreTrainedConfig)]:
            item[name] = {**json.loads(type(getattr(config, name))().to_json_string(use_diff=False)), **item[name]}
        item.pop("transformers_version")
        # Loading leaves pipelines out, and what has its default is not written.
        item.pop("custom_pipelines", None)
        if item.get("problem_type") is None:
            item.pop("problem_type", None)
    assert saved == shipped


@pytest.mark.parametrize(
    ("config_class", "auto_classes"),
    [
        (ClearHugConfig, {"AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification"}),
        (
            EcgJepaConfig,
            {
                *("AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification"),
                "AutoModelForTokenClassification",
            },
        ),
        (EcgScanConfig, {"AutoModel", "AutoModelForPreTraining", "AutoModelForImageClassification"}),
    ],
)
def test_when_config_is_saved_then_all_auto_classes_are_named(config_class, auto_classes, tmp_path):
    config = config_class.preset("tiny", auto_map={"AutoModel": "somebody/else--modeling_x.Model"})
    assert config.auto_map.keys() == {"AutoConfig", *auto_classes}
    assert config.auto_map["AutoModel"] == "somebody/else--modeling_x.Model"
    config.save_pretrained(tmp_path)
    saved = _saved(tmp_path)["auto_map"]
    assert saved.pop("AutoConfig") == f"configuration_{config.model_type}.{config_class.__name__}"
    assert saved["AutoModel"] == f"modeling_{config.model_type}.{MODELS[config_class].__name__}"
    assert saved.keys() == auto_classes
    for auto_class, name in saved.items():
        found = SYSTEMS[config.model_type].model(auto_class)
        assert name == f"{found.__module__.split('.')[-1]}.{found.__name__}"


@each_config
def test_when_a_saved_config_names_a_pipeline_then_loading_leaves_it_out(config_class, tmp_path):
    config_class.preset("tiny").save_pretrained(tmp_path)
    path, saved = tmp_path / "config.json", _saved(tmp_path)
    path.write_text(json.dumps({**saved, "custom_pipelines": PIPELINES}))
    for loaded in (
        config_class.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=None),
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=True),
        config_class.from_dict(json.loads(path.read_text())),
    ):
        assert type(loaded) is config_class
        assert not hasattr(loaded, "custom_pipelines")
        assert json.loads(loaded.to_json_string()) == saved
    assert config_class.from_dict(dict(saved), classifier_dropout=0.5).classifier_dropout == 0.5
    assert config_class.from_dict(dict(saved), return_unused_kwargs=True, unknown=1)[1] == {"unknown": 1}


@each_config
def test_when_a_config_names_a_pipeline_then_it_is_saved_only_beside_its_file(config_class, tmp_path):
    config = config_class.preset("tiny", custom_pipelines=PIPELINES)
    config.save_pretrained(tmp_path)
    assert "custom_pipelines" not in _saved(tmp_path)
    (tmp_path / "pipeline_somewhere.py").write_text("")
    config.save_pretrained(str(tmp_path))
    assert _saved(tmp_path)["custom_pipelines"] == PIPELINES


# ------------------------------------------------------------------------------------------------------------- presets


def test_when_preset_is_base_then_sizes_are_the_released_ones():
    clear = ClearHugConfig.preset("base")
    assert clear.to_dict() == ClearHugConfig().to_dict()
    jepa = EcgJepaConfig.preset("base")
    assert jepa.to_dict() == EcgJepaConfig().to_dict()
    with torch.device("meta"):
        convolved = ClearHugForPreTraining(ClearHugConfig.preset("base", beat_embedding="conv"))
        linear = ClearHugForPreTraining(clear)
        encoder, pretraining = EcgJepaModel(jepa), EcgJepaForPreTraining(jepa)
    assert convolved.num_parameters() / 1e6 == pytest.approx(56.6, abs=0.05)
    # The linear embedding has two thirds of a convolution's weights less.
    assert linear.num_parameters() == convolved.num_parameters() - 2 * 96 * 768
    assert encoder.num_parameters() == 85_067_520
    assert encoder.num_parameters() + encoder.embeddings.positions.numel() == 85_374_720
    assert pretraining.num_parameters(only_trainable=True) == 96_299_520
    assert sum(parameter.numel() for parameter in pretraining.predictor.parameters()) == 11_232_000


def test_when_preset_is_large_then_sizes_are_those_of_the_paper():
    config = ClearHugConfig.preset("large")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (1024, 24)
    assert (config.intermediate_size, config.decoder_intermediate_size) == (1024, 1024)


@pytest.mark.parametrize(("name", "fewest", "most"), [("tiny", 1e6, 4e6), ("base", 8e7, 2e8), ("large", 3e8, 3.5e8)])
def test_when_a_preset_of_pages_is_built_then_it_has_its_size(name, fewest, most):
    with torch.device("meta"):
        model = EcgScanModel(EcgScanConfig.preset(name, signal_embed_dim=128))
    assert fewest < model.num_parameters() < most


@pytest.mark.parametrize(
    ("config_class", "names"),
    [
        (ClearHugConfig, "tiny, small, base, large"),
        (EcgJepaConfig, "tiny, base"),
        (EcgScanConfig, "tiny, base, large"),
    ],
)
def test_when_preset_is_unknown_then_it_is_refused(config_class, names):
    with pytest.raises(ValueError, match=f"Unknown preset 'huge': choose one of {names}"):
        config_class.preset("huge")


# -------------------------------------------------------------------------------------------------------------- checks


@each_config
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling_rate": 0}, "sampling_rate must be at least 1, got 0"),
        ({"sampling_rate": 10_001}, "sampling_rate must be at most 10000, got 10001"),
        ({"classifier_dropout": 2.0}, "classifier_dropout must be at least 0 and below 1"),
        ({"classifier_dropout": -0.1}, "classifier_dropout must be"),
        ({"initializer_range": 0.0}, "initializer_range must be positive"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be positive"),
        ({"lead_names": []}, "lead_names must contain at least one lead"),
        ({"lead_names": ["II", "II"]}, "no duplicates"),
        ({"head_type": "mlp"}, "head_type must be one of .*mean.*attention.*, got 'mlp'"),
        ({"num_pooling_heads": 0}, "num_pooling_heads must be at least 1"),
        ({"num_pooling_heads": 7}, r"num_pooling_heads=7 must divide hidden_size=\d+\."),
        (
            {"problem_type": "ranking"},
            "problem_type must be one of regression, single_label_classification, multi_label_classification, got 'ra",
        ),
        ({"label_thresholds": {"MI": 1.5}}, "label_thresholds must be between 0 and 1, got 1.5 for 'MI'"),
        (
            {"label_calibration": {"MI": [0.0, 1.0]}},
            r"label_calibration must hold a positive scale.*\[0.0, 1.0\] for 'MI'",
        ),
        ({"label_calibration": {"MI": [1.0, float("nan")]}}, "label_calibration must hold a positive scale"),
        ({"label_calibration": {"MI": [1.0]}}, "label_calibration must hold a positive scale"),
        ({"id2label": {0: "MI", 2: "CD"}}, "id2label must map consecutive indices"),
    ],
)
def test_when_a_shared_field_makes_no_sense_then_it_is_refused(config_class, fields, message):
    if fields.keys() == {"initializer_range"} and not hasattr(config_class, "initializer_range"):
        pytest.skip("initializes weights by their number of inputs")
    with pytest.raises(ValueError, match=message):
        config_class(**fields)


REFUSED: dict[type[EcgConfig], list[tuple[dict[str, Any], str]]] = {
    ClearHugConfig: [
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size=100 must be divisible by"),
        ({"decoder_hidden_size": 100}, "decoder_hidden_size=100 must be divisible by"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"num_hidden_layers": 1001}, "num_hidden_layers must be at most 1000"),
        ({"num_beats": 0}, "num_beats must be at least 1"),
        ({"num_beats": 5462}, "num_beats must be at most 5461"),
        ({"beat_length": 1}, "beat_length must be at least 2"),
        ({"mask_ratio": 0.0}, "mask_ratio must be between 0 and 1"),
        ({"mask_ratio": 1.0}, "mask_ratio must be between 0 and 1"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be at least 0 and below 1"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob must be"),
        ({"hidden_act": "step"}, "hidden_act must be one of .*, got 'step'"),
        ({"cls_attention": "some"}, "cls_attention must be one of lead, full, reference_bias"),
        ({"decoder_visible_attention": "own"}, "decoder_visible_attention must be one of lead, all"),
        ({"beat_embedding": "patch"}, "beat_embedding must be one of linear, conv"),
        ({"head_type": "mlp"}, "head_type must be one of hug, mean, weighted, single_level, attention"),
        (
            {"full_attention": True, "view_guidance": False},
            "full_attention=True cannot be combined with view_guidance=False or",
        ),
        (
            {"full_attention": True, "cls_attention": "reference_bias"},
            "full_attention=True cannot be combined with cls_attention",
        ),
        ({"lead_names": ["X", "Y", "Z"]}, "lead_groups must contain each of the leads"),
        ({"lead_names": ["I", "II"], "lead_groups": [["I"]]}, "lead_groups must contain each of the leads"),
        (
            {"lead_names": ["I", "II"], "lead_groups": [["I", "II"], ["V1"]]},
            "lead_groups must contain each of the leads",
        ),
        ({"lead_names": ["I", "II"], "lead_groups": [["I", "II"], []]}, "lead_groups must contain each of the leads"),
        ({"num_lead_embeddings": 12}, "num_lead_embeddings must be greater than the number of leads"),
        ({"num_time_embeddings": 0}, "num_time_embeddings must be at least 1"),
    ],
    EcgJepaConfig: [
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size=100 must be divisible by num_attention_heads=8"),
        ({"predictor_hidden_size": 100}, "predictor_hidden_size=100 must be divisible by predictor_num_att"),
        ({"hidden_size": 6, "num_attention_heads": 3}, "hidden_size=6 must be divisible by 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"patch_size": 60}, "num_samples=2500 must be divisible by patch_size=60"),
        ({"num_samples": 10_000, "patch_size": 1}, "results in 80000 tokens, but at most 65536 are allowed"),
        ({"num_mask_blocks": 0}, "num_mask_blocks must be at least 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1"),
        ({"attention_pattern": "row"}, "attention_pattern must be one of cropa, full, got 'row'"),
        ({"attention_form": "pieces"}, "attention_form must be one of auto, dense, sparse"),
        ({"attention_pattern": "full", "attention_form": "sparse"}, "use 'auto' instead"),
        ({"position_injection": "last"}, "position_injection must be one of every_layer, first_layer"),
        ({"mask_type": "rand"}, "mask_type must be one of multi_block, random, got 'rand'"),
        ({"mask_ratio": [0.5]}, "mask_ratio must be a lowest and a highest fraction"),
        ({"mask_ratio": [0.7, 0.6]}, "mask_ratio must be"),
        ({"mask_ratio": [0.0, 0.5]}, "mask_ratio must be"),
        ({"loss_type": "huber"}, "loss_type must be one of smooth_l1, l1, mse"),
        ({"ema_start": 0.9, "ema_end": 0.8}, "ema_start=0.9 and ema_end=0.8 must be between 0 and 1"),
    ],
    EcgScanConfig: [
        ({"vision_config": {"model_type": "nonsense"}}, "use a model type of transformers"),
        ({"signal_config": {"model_type": "bert"}}, "choose one of 'clear_hug', 'ecg_jepa'"),
        ({"decoder_query_samples": 70}, "num_samples=1000 must be divisible by decoder_query_samples=70"),
        ({"decoder_hidden_size": 15}, "must be divisible by decoder_num_attention_heads"),
        ({"decoder_hidden_size": 6}, "decoder_hidden_size=6 must be divisible by 4"),
        ({"image_size": [16, 96]}, "between 32 and 4096 px"),
        ({"image_size": [96]}, "a height and a width"),
        ({"volume_weight": -1}, "volume_weight must be non-negative"),
        ({"huber_delta": 0}, "huber_delta must be positive"),
        ({"unseen_weight": 2}, "unseen_weight must be between 0 and 1"),
        ({"label_smoothing": 1}, "label_smoothing must be at least 0"),
        ({"image_pooling": "max"}, "image_pooling must be one of pooler, first, mean"),
        ({"projection_dim": 0}, "projection_dim must be at least 1"),
        ({"text_embed_dim": 0}, "text_embed_dim must be at least 1"),
    ],
}


@pytest.mark.parametrize(
    ("config_class", "fields", "message"), [(kind, *row) for kind, rows in REFUSED.items() for row in rows]
)
def test_when_fields_of_a_system_make_no_sense_then_they_are_refused(config_class, fields, message):
    with pytest.raises(ValueError, match=message):
        config_class(**{**(TINY if config_class is EcgScanConfig else {}), **fields})


@each_config
def test_when_a_type_is_wrong_then_it_is_refused(config_class):
    with pytest.raises(Exception, match="sampling_rate"):
        config_class(sampling_rate="100")


@each_config
def test_when_a_field_is_spoiled_later_then_building_and_saving_refuse_it(config_class, tmp_path):
    config = config_class.preset("tiny")
    with pytest.raises(ValueError, match=r"head_type must be one of .*mean.*, got 'some'"):
        config.head_type = "some"
    config.sampling_rate = 0
    with pytest.raises(ValueError, match="sampling_rate must be at least 1"):
        MODELS[config_class](config)
    with pytest.raises(ValueError, match="sampling_rate must be at least 1"):
        config.save_pretrained(tmp_path)


@each_config
def test_when_a_config_is_made_built_and_saved_then_it_is_checked_once_each(config_class, tmp_path, monkeypatch):
    seen, check = [], EcgConfig.validate_architecture
    monkeypatch.setattr(EcgConfig, "validate_architecture", lambda self: seen.append(self) or check(self))
    config = config_class.preset("tiny")
    assert len(seen) == 1
    MODELS[config_class](config)
    assert len(seen) == 2
    config.save_pretrained(tmp_path)
    # Some versions of transformers also make a config with defaults, to compare with.
    assert sum(checked is config for checked in seen) == 3


# ---------------------------------------------------------------------------------------------------- leads and masks


def test_when_leads_are_fewer_then_default_groups_follow():
    assert ClearHugConfig().lead_group_indices() == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9, 10, 11]]
    config = ClearHugConfig(lead_names=["V2", "II", "aVF"])
    assert config.num_leads == 3
    assert config.lead_group_indices() == [[1], [2], [0]]


def test_when_only_the_kind_of_mask_is_set_then_its_released_shares_follow():
    assert EcgJepaConfig().mask_range == (0.175, 0.225)
    assert EcgJepaConfig(mask_type="random").mask_range == (0.6, 0.7)
    assert EcgJepaConfig(mask_ratio=(0.5, 0.6)).mask_range == (0.5, 0.6)


def test_when_leads_are_named_then_their_indices_are_returned():
    config = EcgJepaConfig()
    assert config.lead_indices(["V1", "II"]) == [2, 1]
    for names in (["III"], ["II", "II"]):
        with pytest.raises(ValueError, match=r"must be distinct leads of the model \(I, II, V1"):
            config.lead_indices(names)


def test_when_a_teacher_is_saved_within_a_config_then_it_comes_back(tmp_path):
    config = EcgScanConfig.preset("tiny", signal_config=SIGNAL)
    config.save_pretrained(tmp_path)
    assert type(EcgScanConfig.from_pretrained(tmp_path).signal_config) is ClearHugConfig
    assert config.signal_embed_dim == 32
