"""A model folder is complete or absent, and errors name what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_models import make_model

from clear_hug_hf import ClearHugFeatureExtractor, shipped_model
from clear_hug_hf.processing import InputError
from clear_hug_hf.training import folders


LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    folders.save_model_folder(folder / "model", make_model(), ClearHugFeatureExtractor(detector="xqrs"))
    return folder


def test_when_a_pretrained_folder_is_loaded_for_labels_then_the_encoder_is_its(pretrained: Path) -> None:
    source, _ = folders.load_pretrained(pretrained)
    model, extractor = folders.load_for_finetuning(pretrained, LABELS, head_type="weighted")
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert model.config.head_type == "weighted"
    assert model.classifier.out_features == 3
    assert extractor.detector == "xqrs"
    for name, tensor in source.clear_hug.state_dict().items():
        assert torch.equal(model.clear_hug.state_dict()[name], tensor)
    assert folders.has_decoder(pretrained / "model")


def test_when_a_classifier_is_given_other_labels_then_its_encoder_stays(pretrained: Path, tmp_path: Path) -> None:
    model, extractor = folders.load_for_finetuning(pretrained, LABELS)
    folders.save_model_folder(tmp_path / "model", model, extractor)
    again, _ = folders.load_for_finetuning(tmp_path, ("x", "y"))
    assert again.classifier.out_features == 2
    assert torch.equal(again.clear_hug.state_dict()["norm.weight"], model.clear_hug.state_dict()["norm.weight"])
    loaded, _ = folders.load_classifier(tmp_path)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    assert not folders.has_decoder(tmp_path / "model")
    with pytest.raises(InputError, match="with a decoder"):
        folders.load_pretrained(tmp_path)


def test_when_there_is_one_label_then_it_is_a_diagnosis_whatever_the_folder_learnt(
    pretrained: Path, tmp_path: Path
) -> None:
    model, extractor = folders.load_for_finetuning(pretrained, ["stemi"])
    assert model.config.problem_type == "multi_label_classification"
    model.config.problem_type = "regression"
    folders.save_model_folder(tmp_path, model, extractor)
    again, _ = folders.load_for_finetuning(tmp_path, ["stemi"])
    assert again.config.problem_type == "multi_label_classification"


def test_when_a_pretrained_folder_is_used_as_a_classifier_then_it_suggests_to_finetune(pretrained: Path) -> None:
    with pytest.raises(InputError, match=r"no fine-tuned classifier.*clear-hug finetune"):
        folders.load_classifier(pretrained)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "contains no weights"),
        ("config.json", "contains no model"),
        ("preprocessor_config.json", "contains no feature extractor"),
    ],
)
def test_when_a_file_is_missing_then_it_is_named(pretrained: Path, tmp_path: Path, name: str, message: str) -> None:
    shutil.copytree(pretrained / "model", tmp_path / "broken")
    (tmp_path / "broken" / name).unlink()
    with pytest.raises(InputError, match=message):
        folders.load_classifier(tmp_path / "broken")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_when_a_file_is_garbage_then_one_sentence_reports_it(pretrained: Path, tmp_path: Path, name: str) -> None:
    model, extractor = folders.load_for_finetuning(pretrained, LABELS)
    folders.save_model_folder(tmp_path / "broken", model, extractor)
    (tmp_path / "broken" / name).write_text("not what it should be")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        folders.load_classifier(tmp_path / "broken")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_when_weights_are_not_finite_then_the_first_is_named(pretrained: Path, tmp_path: Path, value: float) -> None:
    model, extractor = folders.load_for_finetuning(pretrained, LABELS)
    with torch.no_grad():
        model.clear_hug.norm.weight[3] = value
    folders.save_model_folder(tmp_path / "broken", model, extractor)
    with pytest.raises(
        InputError, match=r"clear_hug\.norm\.weight in .*broken has weights that are NaN or infinite: copy or download"
    ):
        folders.load_classifier(tmp_path / "broken")


def test_when_an_encoder_has_another_shape_then_it_is_not_replaced_by_a_new_one(
    pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(pretrained / "model", tmp_path / "broken")
    settings = json.loads((tmp_path / "broken" / "config.json").read_text())
    (tmp_path / "broken" / "config.json").write_text(json.dumps({**settings, "hidden_size": 64}))
    with pytest.raises(InputError, match=r"no complete encoder.*another shape"):
        folders.load_for_finetuning(tmp_path / "broken", LABELS)


def test_when_there_is_no_folder_then_that_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        folders.load_classifier(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="use a shipped model: clear-hug-small, clear-hug-small-ptbxl-form"):
        folders.load_classifier("clear-hug-small-ptbxl-all")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        folders.load_classifier(tmp_path / "file")


def test_when_a_shipped_model_is_named_then_its_folder_is_loaded(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_model("ecg-jepa-tiny") == folders.find_model_folder("ecg-jepa-tiny")
    assert folders.load_encoder("ecg-jepa-tiny")[0].config.model_type == "ecg_jepa"
    with pytest.raises(InputError, match="this package ships no model 'ecg-jepa': choose from clear-hug-small,"):
        shipped_model("ecg-jepa")
    (tmp_path / "ecg-jepa-tiny").symlink_to(pretrained)
    assert folders.load_encoder("ecg-jepa-tiny")[0].config.model_type == "clear_hug", (
        "a folder of that name goes first"
    )
