import json

import pytest
from transformers import AutoConfig

from clear_hug_hf.modeling import ClearHugConfig, ClearHugForPreTraining, ClearHugModel


def test_when_config_is_saved_then_it_loads_equal(tmp_path):
    config = ClearHugConfig.preset(
        "tiny", mask_ratio=0.75, id2label={0: "NORM", 1: "MI", 2: "CD"}, label2id={"NORM": 0, "MI": 1, "CD": 2}
    )
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "problem_type" not in saved
    for loaded in (ClearHugConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, ClearHugConfig)
        assert json.loads(loaded.to_json_string()) == saved
        assert loaded.id2label == {0: "NORM", 1: "MI", 2: "CD"}
        assert loaded.lead_group_indices() == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_when_config_is_saved_then_all_auto_classes_are_named(tmp_path):
    config = ClearHugConfig(auto_map={"AutoModel": "somebody/else--modeling_clear_hug.ClearHugModel"})
    assert set(config.auto_map) >= {
        "AutoConfig",
        "AutoModel",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
    }
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert saved["AutoModel"] == "modeling_clear_hug.ClearHugModel"


PIPELINES = {"ecg-classification": {"impl": "pipeline_somewhere.Pipeline", "pt": ["AutoModel"]}}


def test_when_a_saved_config_names_a_pipeline_then_loading_leaves_it_out(tmp_path):
    ClearHugConfig.preset("tiny", mask_ratio=0.75).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "custom_pipelines": PIPELINES}))
    for trust in (None, True):
        for loaded in (
            ClearHugConfig.from_pretrained(tmp_path),
            AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust),
            ClearHugConfig.from_dict(json.loads(path.read_text())),
        ):
            assert isinstance(loaded, ClearHugConfig)
            assert not hasattr(loaded, "custom_pipelines")
            assert json.loads(loaded.to_json_string()) == saved
    assert ClearHugConfig.from_dict(dict(saved), mask_ratio=0.5).mask_ratio == 0.5
    assert ClearHugConfig.from_dict(dict(saved), return_unused_kwargs=True, unknown=1)[1] == {"unknown": 1}


def test_when_a_config_names_a_pipeline_then_it_is_saved_only_beside_its_file(tmp_path):
    config = ClearHugConfig.preset("tiny", custom_pipelines=PIPELINES)
    config.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "pipeline_somewhere.py").write_text("")
    config.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["custom_pipelines"] == PIPELINES


def test_when_preset_is_base_then_sizes_are_the_released_ones():
    config = ClearHugConfig.preset("base")
    assert config.to_dict() == ClearHugConfig().to_dict()
    released = ClearHugForPreTraining(ClearHugConfig.preset("base", beat_embedding="conv"))
    assert released.num_parameters() / 1e6 == pytest.approx(56.6, abs=0.05)
    # The linear embedding has two thirds of a convolution's weights less.
    assert ClearHugForPreTraining(config).num_parameters() == released.num_parameters() - 2 * 96 * 768


def test_when_preset_is_large_then_sizes_are_those_of_the_paper():
    config = ClearHugConfig.preset("large")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (1024, 24)
    assert (config.intermediate_size, config.decoder_intermediate_size) == (1024, 1024)


def test_when_preset_is_unknown_then_it_is_refused():
    with pytest.raises(ValueError, match="no preset 'huge': choose one of tiny, small, base, large"):
        ClearHugConfig.preset("huge")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size=100 is not a multiple"),
        ({"decoder_hidden_size": 100}, "decoder_hidden_size=100 is not a multiple"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"num_beats": 0}, "num_beats must be at least 1"),
        ({"sampling_rate": 0}, "sampling_rate must be at least 1"),
        ({"beat_length": 1}, "beat_length must be at least 2"),
        ({"mask_ratio": 0.0}, "mask_ratio must lie between 0 and 1"),
        ({"mask_ratio": 1.0}, "mask_ratio must lie between 0 and 1"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be at least 0 and below 1"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob must be"),
        ({"classifier_dropout": 2.0}, "classifier_dropout must be"),
        ({"initializer_range": 0.0}, "initializer_range must be positive"),
        ({"cls_attention": "some"}, "cls_attention must be one of lead, full, reference_bias"),
        ({"decoder_visible_attention": "own"}, "decoder_visible_attention must be one of lead, all"),
        ({"beat_embedding": "patch"}, "beat_embedding must be one of linear, conv"),
        ({"head_type": "mlp"}, "head_type must be one of hug, mean, weighted, single_level"),
        ({"problem_type": "ranking"}, "problem_type must be one of"),
        ({"full_attention": True, "view_guidance": False}, "full_attention lets every token"),
        ({"full_attention": True, "cls_attention": "reference_bias"}, "full_attention cannot be combined"),
        ({"lead_names": []}, "lead_names must name at least one lead"),
        ({"lead_names": ["II", "II"]}, "each only once"),
        ({"lead_names": ["X", "Y", "Z"]}, "set lead_groups"),
        ({"lead_names": ["I", "II"], "lead_groups": [["I"]]}, "set lead_groups"),
        ({"lead_names": ["I", "II"], "lead_groups": [["I", "II"], ["V1"]]}, "set lead_groups"),
        ({"lead_names": ["I", "II"], "lead_groups": [["I", "II"], []]}, "set lead_groups"),
        ({"num_lead_embeddings": 12}, "num_lead_embeddings=12 has too few rows"),
        ({"num_time_embeddings": 0}, "num_time_embeddings must be at least 1"),
    ],
)
def test_when_fields_make_no_sense_then_they_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ClearHugConfig(**fields)


def test_when_a_type_is_wrong_then_it_is_refused():
    with pytest.raises(Exception, match="hidden_size"):
        ClearHugConfig(hidden_size="768")


def test_when_a_field_is_spoiled_later_then_building_and_saving_refuse_it(small_config, tmp_path):
    config = small_config()
    config.cls_attention = "some"
    with pytest.raises(ValueError, match="cls_attention must be one of"):
        ClearHugModel(config)
    with pytest.raises(Exception, match="cls_attention must be one of"):
        config.save_pretrained(tmp_path)


def test_when_leads_are_fewer_then_default_groups_follow():
    config = ClearHugConfig(lead_names=["V2", "II", "aVF"])
    assert config.num_leads == 3
    assert config.lead_group_indices() == [[1], [2], [0]]
