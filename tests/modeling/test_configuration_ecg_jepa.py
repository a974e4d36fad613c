import json

import pytest
import torch

from clear_hug_hf.modeling.configuration_ecg_jepa import AUTO_MAP, EcgJepaConfig
from clear_hug_hf.modeling.modeling_ecg_jepa import EcgJepaForPreTraining, EcgJepaModel


def test_when_config_is_saved_then_it_loads_equal(tmp_path):
    config = EcgJepaConfig.preset(
        "tiny", mask_type="random", mask_ratio=(0.5, 0.6), id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1}
    )
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "problem_type" not in saved
    loaded = EcgJepaConfig.from_pretrained(tmp_path)
    assert json.loads(loaded.to_json_string()) == saved
    assert loaded.id2label == {0: "NORM", 1: "MI"}
    assert loaded.mask_range == (0.5, 0.6)


def test_when_config_is_saved_then_all_auto_classes_are_named(tmp_path):
    config = EcgJepaConfig(auto_map={"AutoModel": "somebody/else--modeling_ecg_jepa.EcgJepaModel"})
    assert config.auto_map.keys() == AUTO_MAP.keys()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert saved == {
        "AutoConfig": "configuration_ecg_jepa.EcgJepaConfig",
        "AutoModel": "modeling_ecg_jepa.EcgJepaModel",
        "AutoModelForPreTraining": "modeling_ecg_jepa.EcgJepaForPreTraining",
        "AutoModelForSequenceClassification": "modeling_ecg_jepa.EcgJepaForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_ecg_jepa.EcgJepaForTokenClassification",
    }


PIPELINES = {"ecg-classification": {"impl": "pipeline_somewhere.Pipeline", "pt": ["AutoModel"]}}


def test_when_a_saved_config_names_a_pipeline_then_loading_leaves_it_out(tmp_path):
    EcgJepaConfig.preset("tiny").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "custom_pipelines": PIPELINES}))
    loaded = EcgJepaConfig.from_pretrained(tmp_path)
    assert not hasattr(loaded, "custom_pipelines")
    assert json.loads(loaded.to_json_string()) == saved


def test_when_a_config_names_a_pipeline_then_it_is_saved_only_beside_its_file(tmp_path):
    config = EcgJepaConfig.preset("tiny", custom_pipelines=PIPELINES)
    config.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "pipeline_somewhere.py").write_text("")
    config.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["custom_pipelines"] == PIPELINES


def test_when_preset_is_base_then_sizes_are_the_released_ones():
    config = EcgJepaConfig.preset("base")
    assert config.to_dict() == EcgJepaConfig().to_dict()
    with torch.device("meta"):
        encoder, pretraining = EcgJepaModel(config), EcgJepaForPreTraining(config)
    assert encoder.num_parameters() == 85_067_520
    assert encoder.num_parameters() + encoder.embeddings.positions.numel() == 85_374_720
    assert pretraining.num_parameters(only_trainable=True) == 96_299_520
    assert sum(parameter.numel() for parameter in pretraining.predictor.parameters()) == 11_232_000


def test_when_preset_is_unknown_then_it_is_refused():
    with pytest.raises(ValueError, match="no preset 'huge': choose one of tiny, base"):
        EcgJepaConfig.preset("huge")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size=100 is not a multiple of num_attention_heads=8"),
        ({"predictor_hidden_size": 100}, "predictor_hidden_size=100 is not a multiple of predictor_num_att"),
        ({"hidden_size": 6, "num_attention_heads": 3}, "hidden_size=6 is not a multiple of 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"sampling_rate": 0}, "sampling_rate must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"patch_size": 60}, "patch_size=60 does not divide num_samples=2500"),
        ({"num_mask_blocks": 0}, "num_mask_blocks must be at least 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1"),
        ({"classifier_dropout": -0.1}, "classifier_dropout must be"),
        ({"initializer_range": 0.0}, "initializer_range must be positive"),
        ({"lead_names": []}, "lead_names must name at least one lead"),
        ({"lead_names": ["II", "II"]}, "each only once"),
        ({"attention_pattern": "row"}, "attention_pattern must be one of cropa, full, got 'row'"),
        ({"attention_form": "pieces"}, "attention_form must be one of auto, dense, factorised"),
        ({"attention_pattern": "full", "attention_form": "factorised"}, "choose 'auto'"),
        ({"position_injection": "last"}, "position_injection must be one of every_layer, first_layer"),
        ({"mask_type": "rand"}, "mask_type must be one of multi_block, random, got 'rand'"),
        ({"mask_ratio": [0.5]}, "mask_ratio must be a lowest and a highest share"),
        ({"mask_ratio": [0.7, 0.6]}, "mask_ratio must be"),
        ({"mask_ratio": [0.0, 0.5]}, "mask_ratio must be"),
        ({"loss_type": "huber"}, "loss_type must be one of smooth_l1, l1, mse"),
        ({"ema_start": 0.9, "ema_end": 0.8}, "ema_start=0.9 and ema_end=0.8 must lie"),
        ({"problem_type": "ranking"}, "problem_type must be one of"),
        ({"label_thresholds": {"MI": 1.5}}, "label_thresholds must lie between 0 and 1"),
    ],
)
def test_when_fields_make_no_sense_then_they_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EcgJepaConfig(**fields)


def test_when_a_type_is_wrong_then_it_is_refused():
    with pytest.raises(Exception, match="hidden_size"):
        EcgJepaConfig(hidden_size="768")


def test_when_a_field_is_spoiled_later_then_building_and_saving_refuse_it(tmp_path):
    config = EcgJepaConfig.preset("tiny")
    config.mask_type = "some"
    with pytest.raises(ValueError, match="mask_type must be one of"):
        EcgJepaModel(config)
    with pytest.raises(Exception, match="mask_type must be one of"):
        config.save_pretrained(tmp_path)


def test_when_only_the_kind_of_mask_is_told_then_its_released_shares_follow():
    assert EcgJepaConfig().mask_range == (0.175, 0.225)
    assert EcgJepaConfig(mask_type="random").mask_range == (0.6, 0.7)


def test_when_leads_are_named_then_their_places_are_told():
    config = EcgJepaConfig()
    assert config.lead_indices(["V1", "II"]) == [2, 1]
    for names in (["III"], ["II", "II"]):
        with pytest.raises(ValueError, match="must name leads of the model, each once: choose from I, II, V1"):
            config.lead_indices(names)
