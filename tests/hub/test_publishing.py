"""A published folder is complete, its card agrees with the run's files, and an error is one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from published import published_files
from safetensors.torch import load_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForSequenceClassification

from clear_hug_hf import ClearHugConfig, ClearHugFeatureExtractor, ClearHugForPreTraining
from clear_hug_hf.cli import main
from clear_hug_hf.hub.publishing import check_repo_id, stage
from clear_hug_hf.processing import InputError
from clear_hug_hf.training import folders


REPO = "your-name/ecg-demo"
NO_METRIC = r"pretrained\..* in metrics\.json is .*, not a metric with an interval"
CODE = published_files("modeling/modeling_clear_hug.py", "processing/feature_extraction_clear_hug.py")
AUTO_MAP = {
    "AutoConfig": "configuration_clear_hug.ClearHugConfig",
    "AutoModel": "modeling_clear_hug.ClearHugModel",
    "AutoModelForPreTraining": "modeling_clear_hug.ClearHugForPreTraining",
    "AutoModelForSequenceClassification": "modeling_clear_hug.ClearHugForSequenceClassification",
}


@pytest.fixture(scope="module")
def made(make_house: Callable[[str], Path]) -> Path:
    """A pre-training and a fine-tuning run, as a user would make them."""
    return make_house("clear_hug")


@pytest.fixture(scope="module")
def staged(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The fine-tuned run, staged with all that can be stated."""
    folder = tmp_path_factory.mktemp("staged") / "repository"
    return stage(made / "finetuned", folder, REPO, license="cc-by-4.0", dataset_id="your-name/ward")


# ------------------------------------------------------------------------------------------------------------ folder


def test_when_a_classifier_is_staged_then_the_repository_is_whole(staged: Any) -> None:
    assert set(staged.files) == CODE | {
        ".eval_results/ward.yaml",
        "README.md",
        "classifier_outputs.py",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "pipeline_ecg_classification.py",
        "preprocessor_config.json",
    }
    assert staged.files == {name: (staged.folder / name).stat().st_size for name in staged.files}
    assert staged.missing == []
    config = json.loads((staged.folder / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["id2label"] == {"0": "NORM", "1": "MI", "2": "STTC"}
    assert config["label_thresholds"].keys() == {"NORM", "MI", "STTC"}
    assert config["custom_pipelines"]["ecg-classification"]["pt"] == [
        "AutoModelForSequenceClassification",
        "AutoModelForImageClassification",
    ]
    extractor = json.loads((staged.folder / "preprocessor_config.json").read_text())
    assert extractor["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_clear_hug.ClearHugFeatureExtractor"}


def test_when_an_encoder_is_staged_then_its_decoder_and_facts_come_along(made: Path, tmp_path: Path) -> None:
    found = stage(made / "pretrained" / "best", tmp_path / "encoder", "your-name/encoder", license="cc-by-4.0")
    assert set(found.files) == CODE | {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "pretraining.json",
    }
    assert found.missing == []
    assert "custom_pipelines" not in json.loads((found.folder / "config.json").read_text())
    log = json.loads((made / "pretrained" / "pretraining.json").read_text())
    assert json.loads((found.folder / "pretraining.json").read_text())["result"] == log["best"]
    card = ModelCard.load(found.folder / "README.md")
    assert card.data.pipeline_tag == "feature-extraction"
    assert f"{log['best']['validation_loss']:.4f}" in card.text
    assert "model = AutoModel.from_pretrained" in card.text
    assert "`AutoModelForPreTraining` also loads the decoder." in card.text


def test_when_staged_again_then_it_is_replaced_and_nothing_else_ever_is(
    staged: Any, made: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    first = stage(made / "finetuned", folder, REPO, license="mit")
    second = stage(made / "finetuned", folder, REPO, license="cc-by-4.0")
    assert second.files.keys() == first.files.keys()
    assert "license: cc-by-4.0" in (folder / "README.md").read_text()

    # What a user changed in it is kept.
    card = (folder / "README.md").read_text() + "Thanks to my colleagues.\n"
    for name, text in (("README.md", card), ("notes.txt", "mine")):
        before = (folder / name).read_text() if (folder / name).exists() else None
        (folder / name).write_text(text)
        with pytest.raises(InputError, match=f"was changed after it was staged \\({name}\\)"):
            stage(made / "finetuned", folder, REPO)
        assert (folder / name).read_text() == text
        if before is not None:
            (folder / name).write_text(before)
    (folder / "notes.txt").unlink()
    stage(made / "finetuned", folder, REPO)

    with pytest.raises(InputError, match=f"was staged for {REPO}"):
        stage(made / "finetuned", folder, "you/another")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("all my work")
    with pytest.raises(InputError, match="not staged by"):
        stage(made / "finetuned", other, REPO)
    (tmp_path / ".other.staged.json").write_text("{}")
    with pytest.raises(InputError, match="not staged by"):
        stage(made / "finetuned", other, REPO)
    assert (other / "thesis.txt").read_text() == "all my work"
    for mine in (made / "finetuned" / "model", made / "finetuned"):
        with pytest.raises(InputError, match="is or contains the input"):
            stage(made / "finetuned", mine, REPO)
    assert folders.load_classifier(made / "finetuned")


# -------------------------------------------------------------------------------------------------------------- card


def test_when_a_card_is_made_then_data_splits_protocol_and_limits_are_in_it(staged: Any, made: Path) -> None:
    card = ModelCard.load(staged.folder / "README.md")
    metrics = json.loads((made / "finetuned" / "metrics.json").read_text())
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "transformers"
    assert {"ecg", "clear-hug", "custom_code", "ecg-classification"} <= set(card.data.tags)
    test = metrics["pretrained"]["test"]
    macro = test["macro_auroc"]
    interval = f"{macro['value']:.3f} ({macro['low']:.3f} to {macro['high']:.3f})"
    assert f"| macro AUROC | {interval} |" in card.text
    assert "randomly initialized encoder" in card.text
    assert "Difference in macro AUROC, paired over patients" in card.text
    assert f"| MI | {test['per_label']['MI']['num_positive']} |" in card.text
    for words in (
        "Not a medical device",
        "pre-training",
        "head on the frozen encoder",
        "official",
        "Weights: cc-by-4.0. Code in this repository: Apache-2.0.",
        "arXiv 2512.24002",
        metrics["environment"]["versions"]["torch"],
        "0.67 to 40 Hz",
    ):
        assert words in card.text, words
    # Both tables of recordings, with patients.
    assert card.text.count("| 48 (48) | 12 (12) | 12 (12) |") == 2


def test_when_results_are_of_recordings_that_chose_the_model_then_the_table_itself_reports_it(staged: Any) -> None:
    card = (staged.folder / "README.md").read_text()
    results = card.split("## Results")[1].split("## Training")[0]
    tables = re.findall(r"^(.*:)\n\n(\|.*)$", results, re.MULTILINE)
    warned = {title.split(" recordings")[0].split()[-1]: "optimistic" in header for title, header in tables}
    assert warned == {"test": False, "validation": True}


def test_when_results_are_stated_for_the_hub_then_both_forms_agree_with_the_run(staged: Any, made: Path) -> None:
    test = json.loads((made / "finetuned" / "metrics.json").read_text())["pretrained"]["test"]
    card = ModelCard.load(staged.folder / "README.md")
    stated = {one.metric_name: one for one in card.data.eval_results}
    assert stated["macro AUROC"].metric_value == round(test["macro_auroc"]["value"], 4)
    assert stated["macro AUROC"].metric_type == "roc_auc"
    assert stated["macro F1"].dataset_split == "test"
    assert stated["macro F1"].dataset_type == "your-name/ward"
    entries = yaml.safe_load((staged.folder / ".eval_results" / "ward.yaml").read_text())
    by_task = {entry["dataset"]["task_id"]: entry for entry in entries}
    assert by_task["ptbxl_super_macro_auroc"]["value"] == round(test["macro_auroc"]["value"], 4)
    assert by_task["ptbxl_super_macro_auroc"]["dataset"]["id"] == "your-name/ward"
    assert "on the test split" in by_task["ptbxl_super_macro_auroc"]["notes"]


def test_when_nothing_is_known_then_it_is_named_and_no_number_is_made_up(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ClearHugConfig.preset("tiny", hidden_size=32, num_hidden_layers=1, num_labels=2)
    model = AutoModelForSequenceClassification.from_config(config)
    folders.save_model_folder(tmp_path / "model", model, ClearHugFeatureExtractor())
    found = stage(tmp_path / "model", tmp_path / "staged", REPO)
    assert [one.split(" (")[0] for one in found.missing] == [
        "the license of the weights",
        "label names",
        "metrics",
    ]
    card = ModelCard.load(found.folder / "README.md")
    assert "No results are recorded for these weights." in card.text
    assert "The training of these weights is not recorded. They may be untrained." in card.text
    assert "No license is stated for the weights" in card.text
    assert card.data.eval_results is None
    assert not (found.folder / ".eval_results").exists()


def test_when_a_label_is_full_of_markup_then_the_card_stays_a_card(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "finetuned", tmp_path / "finetuned", ignore=shutil.ignore_patterns("control", "pictures"))
    for name in ("metrics.json", "model/config.json"):
        path = tmp_path / "finetuned" / name
        text = path.read_text().replace('"MI"', '"MI | <b>*very*_"')
        path.write_text(text.replace('"label_set": "ptbxl_super"', '"label_set": null'))
    about = {"license": "cc-by-4.0", "dataset_id": "your-name/ward"}
    found = stage(tmp_path / "finetuned", tmp_path / "staged", REPO, **about)
    # A set of labels without a name.
    assert "task_id: labels_macro_auroc" in (found.folder / ".eval_results" / "ward.yaml").read_text()
    text = (found.folder / "README.md").read_text()
    assert r"| MI \| \<b\>\*very\*\_ |" in text
    assert ModelCard(text).data.license == "cc-by-4.0"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        *((name, None, f"metrics.json lacks the field {name}") for name in ("pretrained", "recipe", "data")),
        ("selected_by", None, "metrics.json lacks the field selected_by"),
        ("pretrained/test/macro_auroc/low", None, NO_METRIC),
        ("pretrained/test/macro_auroc/value", "high", NO_METRIC),
        ("pretrained/test/macro_auroc/value", 7.3, NO_METRIC),
        ("pretrained/test/macro_f1/value", float("nan"), NO_METRIC),
        ("pretrained/validation/macro_auroc", "good", NO_METRIC),
        ("pretrained/test/per_label/MI/f1", None, NO_METRIC),
        ("labels", ["NORM", "CD"], "has the labels NORM, CD but the model has NORM, MI, STTC"),
        ("", '{"pretrained": ', r"metrics\.json is damaged"),
    ],
)
def test_when_metrics_are_damaged_or_of_another_model_then_no_card_states_them(
    made: Path, tmp_path: Path, path: str, value: Any, words: str
) -> None:
    shutil.copytree(made / "finetuned" / "model", tmp_path / "model")
    metrics = place = json.loads((made / "finetuned" / "metrics.json").read_text())
    *way, last = path.split("/")
    for name in way:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(metrics) if path else value)
    with pytest.raises(InputError, match=words):
        stage(tmp_path / "model", tmp_path / "staged", REPO)
    assert not (tmp_path / "staged").exists()


def test_when_the_best_epoch_is_not_the_last_then_the_card_names_which_and_how_it_was_chosen(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "pretrained", tmp_path / "run")
    path = tmp_path / "run" / "pretraining.json"
    facts = json.loads(path.read_text())
    facts["best"] = {**facts["result"], "epoch": 1, "validation_loss": 0.1234}
    path.write_text(json.dumps(facts))
    best = stage(tmp_path / "run" / "best", tmp_path / "best", REPO)
    card = (best.folder / "README.md").read_text()
    for words in (
        "|  | after epoch 1 |",
        "| validation recordings | 0.1234 |",
        "2 epochs, seed 0. The weights are those of epoch 1, which had the lowest validation loss.",
        "The epoch was selected on the validation recordings.",
    ):
        assert words in card, words
    last = stage(tmp_path / "run" / "model", tmp_path / "last", REPO)
    card = (last.folder / "README.md").read_text()
    assert "|  | after epoch 2 |" in card
    assert "selected on the validation recordings" not in card


def test_when_a_user_wrote_a_card_then_it_is_taken_if_it_has_its_fields(made: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\nlibrary_name: transformers\ntags: [ecg]\n---\n\n# Mine\n")
    found = stage(made / "finetuned", tmp_path / "staged", REPO, card=card)
    assert (found.folder / "README.md").read_text() == card.read_text()
    assert found.license == "mit"
    assert not any("license" in one for one in found.missing)
    stage(made / "finetuned", tmp_path / "staged", REPO, card=card, license="mit")
    with pytest.raises(InputError, match=r"states the license mit, but --license is cc-by-4.0"):
        stage(made / "finetuned", tmp_path / "staged", REPO, card=card, license="cc-by-4.0")

    for content, message in (
        (b"---\ntags: [ecg]\n---\n# Mine\n", "lacks license, library_name"),
        (b"# Mine, without a header\n", "lacks license, library_name, tags"),
        (b"---\ntags: [ecg\n---\n# Mine\n", r"the header of the card .* is not valid YAML"),
        (b"\x89PNG\r\n\x1a\n\xff", "is not UTF-8 text"),
    ):
        card.write_bytes(content)
        with pytest.raises(InputError, match=message):
            stage(made / "finetuned", tmp_path / "staged", REPO, card=card)
    with pytest.raises(InputError, match="is a folder: name the Markdown file"):
        stage(made / "finetuned", tmp_path / "staged", REPO, card=tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        stage(made / "finetuned", tmp_path / "staged", REPO, card=tmp_path / "none.md")


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["", "a b/c", "org/name/more", "-org/name", "org/na--me", "org/name.git", "ecg-demo"])
def test_when_a_repository_id_is_none_then_it_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"give ORG/NAME"):
        check_repo_id(name)
    assert check_repo_id(REPO) == REPO


@pytest.mark.parametrize("license", ["CC BY 4.0", "", "cc by", "bananas", "Apache-2.0"])
def test_when_a_licence_is_not_spelt_as_the_hub_does_then_it_is_refused(
    made: Path, tmp_path: Path, license: str
) -> None:
    with pytest.raises(InputError, match="is not a license identifier of the Hub: did you mean"):
        stage(made / "finetuned", tmp_path / "staged", REPO, license=license)


def test_when_the_hub_has_no_name_for_a_licence_then_it_needs_one_of_its_own(made: Path, tmp_path: Path) -> None:
    for license, name in (("other", None), ("mit", "Mine"), (None, "Mine")):
        with pytest.raises(InputError, match="--license other"):
            stage(made / "finetuned", tmp_path / "staged", REPO, license=license, license_name=name)
    found = stage(made / "finetuned", tmp_path / "staged", REPO, license="other", license_name="hospital-research")
    card = ModelCard.load(found.folder / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "hospital-research")
    assert "Weights: hospital-research." in card.text


def test_when_a_folder_holds_another_model_than_its_config_then_it_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "finetuned" / "model", tmp_path / "mixed")
    shutil.copy(made / "pretrained" / "model" / "model.safetensors", tmp_path / "mixed" / "model.safetensors")
    with pytest.raises(InputError, match=r"are not those of ClearHugForSequenceClassification: missing classifier"):
        stage(tmp_path / "mixed", tmp_path / "staged", REPO)
    shutil.copytree(made / "finetuned" / "model", tmp_path / "foreign")
    config = json.loads((tmp_path / "foreign" / "config.json").read_text())
    (tmp_path / "foreign" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(InputError, match="names BertModel, not a model of this package"):
        stage(tmp_path / "foreign", tmp_path / "staged", REPO)
    assert not (tmp_path / "staged").exists()


def test_when_weights_would_be_left_behind_then_staging_is_refused(made: Path, tmp_path: Path) -> None:
    model = ClearHugForPreTraining.from_pretrained(made / "pretrained" / "model")
    tensors = {**model.state_dict(), "extra.weight": torch.zeros(2)}
    model.save_pretrained(tmp_path / "model", state_dict=tensors)
    ClearHugFeatureExtractor().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"unexpected extra\.weight"):
        stage(tmp_path / "model", tmp_path / "staged", REPO)


# ------------------------------------------------------------------------------------------------------ command line


def test_when_a_dry_run_is_asked_for_then_all_is_written_and_printed_and_nothing_sent(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clear_hug_hf.hub.publishing.HfApi", None)  # whoever calls the Hub fails
    monkeypatch.chdir(tmp_path)
    message = ["--message", "two words"]
    assert main(["publish", str(made / "finetuned"), REPO, "--dry-run", "staged", "--private", *message]) == 0
    printed = capsys.readouterr().out
    assert "missing: the license of the weights (--license)" in printed
    assert "missing: the name of the test dataset on the Hub" in printed
    assert "model.safetensors" in printed
    assert f"{REPO} --license LICENSE --message 'two words' --private" in printed
    assert (tmp_path / "staged" / "README.md").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staged.staged.json", "staged"]


def test_when_there_is_no_token_or_licence_then_one_sentence_reports_it_and_the_folder_stays(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clear_hug_hf.hub.publishing.get_token", lambda: None)
    error = refused("publish", made / "finetuned", REPO, "--license", "cc-by-4.0")
    assert "no Hub token: log in with `hf auth login`" in error
    assert f"staged in published/{REPO}" in error
    assert AutoConfig.from_pretrained(tmp_path / "published" / REPO).id2label == {0: "NORM", 1: "MI", 2: "STTC"}
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "published" / REPO).num_beats == 15

    monkeypatch.setattr("clear_hug_hf.hub.publishing.get_token", lambda: "hf_something")
    assert "the license of the weights is missing" in refused("publish", made / "finetuned", REPO)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["publish", "{run}/finetuned", "no id at all"], "is not a repository id"),
        (["publish", "{run}/nothing", REPO], "does not exist"),
        (["publish", "{run}/data", REPO], "contains no model"),
        (["publish", "{run}/finetuned", REPO, "--dataset", "ward"], "has no owner"),
        (["publish", "{run}/finetuned", REPO, "--card", "none.md"], "card none.md does not exist"),
        (["publish", "{run}/finetuned", REPO, "--revision", "two words"], "is not a branch name"),
        (["publish", "{run}/pretrained", REPO, "--dataset", "you/ward"], "there are no results on"),
        (["publish", "hf://", REPO], "is not a valid model name"),
        (["publish", "hf://you/model@", REPO], "is not a valid model name"),
    ],
)
def test_when_publishing_is_asked_wrongly_then_one_sentence_reports_it_and_nothing_is_written(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*(word.format(run=made) for word in words))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_when_weights_are_stored_in_16_bits_then_the_model_still_computes_in_32(
    made: Path, staged: Any, tmp_path: Path, dtype: str
) -> None:
    small = stage(made / "finetuned", tmp_path / "small", REPO, license="cc-by-4.0", dtype=dtype)
    assert small.files["model.safetensors"] < 0.6 * staged.files["model.safetensors"]
    stored = load_file(small.folder / "model.safetensors")
    assert {one.dtype for one in stored.values() if one.is_floating_point()} == {getattr(torch, dtype)}
    model = AutoModelForSequenceClassification.from_pretrained(small.folder)
    before = AutoModelForSequenceClassification.from_pretrained(staged.folder)
    assert model.dtype == torch.float32
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=2**-8, atol=1e-6)
    assert f"stored as {dtype}" in (small.folder / "README.md").read_text()


def test_when_a_weight_does_not_fit_or_the_type_is_unknown_then_nothing_is_staged(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(made / "finetuned", folder)
    model, extractor, _ = folders.load_model(folders.find_model_folder(folder))
    model.classifier.bias.data[0] = 1e6
    folders.save_model_folder(folders.find_model_folder(folder), model, extractor)
    with pytest.raises(InputError, match=r"classifier\.bias exceed the range of float16"):
        stage(folder, tmp_path / "staged", REPO, dtype="float16")
    with pytest.raises(InputError, match="dtype is 'int4'"):
        stage(folder, tmp_path / "staged", REPO, dtype="int4")
    assert not (tmp_path / "staged").exists()
