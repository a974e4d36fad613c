"""The command line end to end on a handful of recordings, and everything that it must refuse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers import pipeline

from clear_hug_hf.cli import main
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.records import Recording, RecordReference
from clear_hug_hf.evaluation.metrics import macro_auroc
from clear_hug_hf.training.cross_validation import OutOfFold
from clear_hug_hf.training.folders import load_classifier
from clear_hug_hf.workflows.predict import PredictArguments, predict
from clear_hug_hf.workflows.predict_records import REPORT_COLUMNS, LabeledRecord


MakeRecordings = Callable[..., list[Recording]]
WriteRecord = Callable[[Path, Recording], Path]
LABELS = ["NORM", "MI", "STTC"]
"""Those of the five superclasses that the synthetic recordings have."""


Capture = pytest.CaptureFixture[str]
Run = Callable[..., None]
Status = Callable[..., int]
Refused = Callable[..., str]
Printed = Callable[..., str]


@pytest.fixture(scope="module")
def runs(make_house: Callable[[str], Path]) -> Path:
    """Output folders `pretrained` and `finetuned` of the two verbs."""
    return make_house("clear_hug")


def _auroc(positive: Iterable[float], negative: Iterable[float]) -> float:
    """Share of pairs that are in the right order."""
    negative = list(negative)
    return float(np.mean([(high > low) + 0.5 * (high == low) for high in positive for low in negative]))


def test_when_a_model_is_finetuned_then_it_learns_and_its_groups_of_leads_are_drawn(runs: Path) -> None:
    metrics = json.loads((runs / "finetuned" / "metrics.json").read_text())
    for split in ("validation", "test"):
        # Fast hearts and inverted T waves are easy to tell.
        assert metrics["pretrained"][split]["macro_auroc"]["value"] > 0.8
    pictures = sorted(path.name for path in (runs / "finetuned" / "pictures").iterdir())
    assert pictures == ["group_activations.png", "prediction.png", "reconstruction.png", "recording.png", "roc.png"]


def test_when_labels_are_rare_then_they_are_left_out_by_name_and_the_card_reports_it(
    runs: Path, changed_ward: Callable[..., Path], tmp_path: Path, refused: Refused, printed_by: Printed
) -> None:
    table = changed_ward(rare=lambda table: (table.index < 3).astype(int))
    prepared, output = tmp_path / "prepared", tmp_path / "finetuned"
    printed_by("prepare", table, "--labels", "tachy", "rare", "--output-dir", prepared)
    command = [
        "finetune",
        "--data",
        prepared,
        "--model",
        runs / "pretrained",
        "--output-dir",
        output,
        "--num-train-epochs",
        "1",
    ]
    assert "no label has 40 positive and 40 negative training recordings" in refused(*command, "--min-positives", "40")
    printed = printed_by(*command, "--no-control", "--head-type", "mean", "--min-positives", "5")
    assert "skipped labels with fewer than 5 positive or negative training recordings: rare" in printed
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["labels"], metrics["head"]) == (["tachy"], "mean")
    assert "random_initialization" not in metrics
    assert metrics["data"]["excluded_labels"] == {"labels": ["rare"], "fewer_than": 5}
    printed_by("publish", output, "you/ward", "--dry-run", tmp_path / "staged")
    assert (
        "Labels with fewer than 5 training recordings are excluded: rare."
        in (tmp_path / "staged/README.md").read_text()
    )


def test_when_a_model_is_cross_validated_then_metrics_pictures_and_card_are_of_the_recordings_of_all_folds(
    runs: Path, changed_ward: Callable[..., Path], tmp_path: Path, refused: Refused, printed_by: Printed
) -> None:
    table = changed_ward(rare=lambda table: (table.index < 3).astype(int), split="")
    prepared, output = tmp_path / "prepared", tmp_path / "crossed"
    words = ["prepare", table, "--labels", "tachy", "rare", "--split-fractions", "0.8", "0.2", "0"]
    printed_by(*words, "--output-dir", prepared)
    command = ["finetune", "--data", prepared, "--model", runs / "pretrained", "--num-train-epochs", "1"]
    command += ["--head-type", "mean", "--min-positives", "3", "--output-dir", output]
    printed = printed_by(*command, "--folds", "2")
    assert "positive or negative training recordings: rare" in printed
    assert printed.count("fold 2 of 2") == 2
    metrics = json.loads((output / "metrics.json").read_text())
    count = sum(split["recordings"] for split in metrics["data"]["sets"].values())
    assert f"macro AUROC on {count} recordings, cross-validated in 2 folds" in printed
    assert f"evaluate --data {prepared}" not in printed, "it was trained on all of them"
    assert metrics["labels"] == ["tachy"]
    for name, folder in (("pretrained", output), ("random_initialization", output / "control")):
        assert metrics[name]["best_epoch_by_fold"] == [1, 1]
        assert "validation" not in metrics[name]
        crossed = OutOfFold.load(folder / "out_of_fold.csv")
        area = macro_auroc(crossed.predictions.labels, crossed.predictions.probabilities)
        assert metrics[name]["cross_validation"]["macro_auroc"]["value"] == pytest.approx(area)
        assert metrics[name]["macro_auroc_by_fold"] == crossed.macro_aurocs
        assert metrics[name]["cross_validation"]["num_recordings"] == len(crossed.folds) == count
    assert {path.stem for path in (output / "pictures").iterdir()} >= {"prediction", "recording", "roc"}
    assert "contains a cross-validated run: continue it with --folds" in refused(*command)
    calibrate = ["calibrate", "--model", output, "--data", prepared, "--output-dir", tmp_path / "calibrated"]
    assert "was trained with --folds, on the validation recordings, too: use --split test" in refused(*calibrate)
    assert "has no test recordings" in refused(*calibrate, "--split", "test")

    printed_by("publish", output, "you/ward", "--dry-run", tmp_path / "staged")
    card = " ".join((tmp_path / "staged/README.md").read_text().split())
    for words in (
        f"Results on {count} cross-validated recordings of {count} patients",
        "Each recording was predicted by a model that was neither trained nor selected on its patient",
        "Thresholds maximize F1 on the cross-validated recordings",
        "Model selection: 2-fold cross-validation by patient",
        "There are no test results",
        "macro AUROC, cross-validated",
    ):
        assert words in card, words
    assert "optimistic: epoch" not in card

    # The other methods differ in what is chosen.
    command[-1], command[command.index("--num-train-epochs") + 1] = tmp_path / "logistic", 7
    assert "leave out --head-type hug" in refused(*command, "--method", "logistic", "--head-type", "hug")
    printed = printed_by(
        *command[:7], "--method", "logistic", "--output-dir", command[-1], "--folds", 2, "--no-control"
    )
    assert "fitting a logistic regression on" in printed
    metrics = json.loads((tmp_path / "logistic" / "metrics.json").read_text())
    assert (metrics["head"], sorted(metrics["recipe"])) == ("mean", ["allow_absent_labels", "method", "seed"])
    assert len(metrics["pretrained"]["strength_by_fold"]) == 2
    printed_by("publish", tmp_path / "logistic", "you/ward", "--dry-run", tmp_path / "staged logistic")
    card = " ".join((tmp_path / "staged logistic/README.md").read_text().split())
    assert "logistic regression of the mean state of the frozen encoder, written into the classifier" in card
    assert f"inverse strength of the penalty {metrics['pretrained']['strength']:g}" in card


def test_when_a_model_is_evaluated_then_unknown_labels_are_named_and_fewer_can_be_chosen(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, printed_by: Printed
) -> None:
    arguments = ["evaluate", "--data", ptbxl_folder, "--model", runs / "finetuned"]
    assert "that the model does not have are not evaluated: HYP, CD" in printed_by(*arguments)
    assert "STTC" not in printed_by(*arguments, "--labels", "MI", "--split", "validation", "--pictures", tmp_path)
    with Image.open(tmp_path / "roc.png") as image:
        assert image.width > 200


def test_when_a_prepared_folder_is_evaluated_then_the_batch_size_changes_no_metric(
    runs: Path, tmp_path: Path, run: Run
) -> None:
    command = ["evaluate", "--data", runs / "data", "--model", runs / "finetuned", "--output"]
    run(*command, tmp_path / "default.json")
    run(*command, tmp_path / "large.json", "--batch-size", "64")
    assert (tmp_path / "default.json").read_bytes() == (tmp_path / "large.json").read_bytes()
    run(*command, tmp_path / "small.json", "--batch-size", "1")
    default, small = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("default", "small"))
    assert small["macro_auroc"] == pytest.approx(default["macro_auroc"], abs=1e-6)


def test_when_records_are_predicted_then_each_is_passed_on_before_the_next_is_read(
    runs: Path, ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, events = RecordReference.read, []

    def logged(reference: RecordReference) -> Recording:
        events.append(f"read {reference.record_id}")
        return read(reference)

    monkeypatch.setattr(RecordReference, "read", logged)
    table = ward.parent / "three.csv"
    table.write_text("path\nrecords/0-0\nrecords/1-0\nrecords/2-0\n")
    arguments = PredictArguments(records=[table], model=runs / "finetuned", top_k=1, threshold=0.0)
    predicted: list[LabeledRecord] = []

    def passed_on(record: LabeledRecord) -> None:
        events.append(f"passed on {record.record_id}")
        predicted.append(record)

    result = predict(arguments, passed_on)
    assert events == [f"{what} records/{number}-0" for number in range(3) for what in ("read", "passed on")]
    assert (result.num_records, result.num_rows, result.rejected) == (3, 0, [])
    for record in predicted:
        (positive,) = record.spans[0].predicted_positive
        assert record.spans[0].probabilities.keys() == {positive}
        assert record.to_dict()["windows"][0]["predicted_positive"] == [positive]


def test_when_fewer_labels_are_asked_for_then_only_they_are_shown(
    runs: Path, ptbxl_folder: Path, printed_by: Printed
) -> None:
    base = ["predict", ptbxl_folder / "records100/00000/00002_lr.dat", "--model", runs / "finetuned" / "model"]
    lines = printed_by(*base, "--top-k", "2", "--threshold", "0").splitlines()
    assert len(lines) == 4
    assert all(line.startswith("  * ") for line in lines[2:])
    lines = printed_by(*base, "--labels", "MI", "NORM").splitlines()
    assert {line.split()[-1] for line in lines[2:]} == {"MI", "NORM"}


def test_when_a_recording_is_long_then_its_windows_are_those_of_the_pipeline(
    runs: Path, make_recordings: MakeRecordings, write_record: WriteRecord, tmp_path: Path, printed_by: Printed
) -> None:
    one = make_recordings(2)[1]
    long = replace(one, waveform=np.tile(one.waveform, (1, 3))[:, :2500])
    record = write_record(tmp_path / "long", long).with_suffix("")
    base = ["predict", record, "--model", runs / "finetuned"]
    printed = printed_by(*base)
    assert "(25 s, read in 3 windows: their mean)" in printed
    assert "15-25 s" not in printed
    printed = printed_by(*base, "--aggregate", "none")
    assert "(25 s, read in 3 windows)" in printed
    assert "15-25 s" in printed

    pipe = pipeline("ecg-classification", model=str(runs / "finetuned" / "model"), device="cpu")
    table = tmp_path / "table.csv"
    for aggregate in ("mean", "max", "none"):
        result = pipe(record, aggregate=aggregate)
        predicted = json.loads(printed_by(*base, "--aggregate", aggregate, "--json"))
        assert [(window["start"], window["end"]) for window in predicted["windows"]] == [(0, 10), (10, 20), (15, 25)]
        printed_by(*base, "--aggregate", aggregate, "--output", table, "--overwrite")
        rows = pd.read_csv(table, float_precision="round_trip").to_dict("records")
        if aggregate == "none":
            expected = [{entry["label"]: entry["score"] for entry in window["labels"]} for window in result]
            assert "probabilities" not in predicted
            assert [window["probabilities"] for window in predicted["windows"]] == expected
            assert [(row["start"], row["end"]) for row in rows] == [(0, 10), (10, 20), (15, 25)]
        else:
            expected = [{entry["label"]: entry["score"] for entry in result}]
            assert predicted["probabilities"] == expected[0]
        assert [{label: row[label] for label in LABELS} for row in rows] == expected


@pytest.mark.parametrize("name", ["formats/muse-sinus", "cinc2011/1002867"])
def test_when_real_records_of_other_sources_are_predicted_then_they_are(
    runs: Path, shared: Path, name: str, printed_by: Printed
) -> None:
    printed = printed_by("predict", shared / "data" / name, "--model", runs / "finetuned", "--json")
    assert json.loads(printed)["windows"]


def test_when_a_window_has_no_signal_then_it_is_skipped_by_name_and_the_rest_is_predicted(
    runs: Path, make_recordings: MakeRecordings, write_record: WriteRecord, tmp_path: Path, printed_by: Printed
) -> None:
    one = make_recordings(2)[1]
    off = np.full_like(one.waveform, 5.0)
    parts = replace(one, waveform=np.concatenate([one.waveform, off, one.waveform], axis=1))
    record = write_record(tmp_path / "off", parts)
    predicted = json.loads(printed_by("predict", record, "--model", runs / "finetuned", "--json"))
    assert [(window["start"], window["end"]) for window in predicted["windows"]] == [(0, 10), (20, 30)]
    assert predicted["skipped"] == [{"start": 10, "end": 20}]
    assert predicted["report"]["warnings"][0] == "10-20 s skipped: every lead is flat or missing"


# ------------------------------------------------------------------------------------------------------- bad records


def _samples(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoil(header: Path) -> None:
        samples = header.with_suffix(".dat")
        samples.write_bytes(change(samples.read_bytes()))

    return spoil


# What the readers and the extractors refuse is tested with them.
BAD_RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing header": (Path.unlink, "bad.hea does not exist"),
    "text": (lambda header: header.write_text("Dear colleague,"), "is not a WFDB header"),
    "truncated": (_samples(lambda all_: all_[:5000]), "contains 208 samples per lead but the header declares 1000"),
    "flat": (_samples(lambda all_: bytes(len(all_))), "all leads are flat"),
    "all missing": (_samples(lambda all_: b"\0\x80" * (len(all_) // 2)), "every lead is NaN or Inf"),
}


@pytest.fixture
def bad_record(tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord) -> Path:
    """Header of a record, still whole, between two that stay so."""
    for name in ("a", "bad", "z"):
        write_record(tmp_path / "records" / name, make_recordings(1)[0])
    return tmp_path / "records" / "bad.hea"


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_when_a_record_is_bad_then_one_sentence_explains_why(
    kind: str, bad_record: Path, runs: Path, capsys: Capture, status: Status
) -> None:
    spoil, message = BAD_RECORDS[kind]
    spoil(bad_record)
    before = sorted(bad_record.parent.iterdir())
    capsys.readouterr()
    assert status("predict", bad_record.with_suffix(""), "--model", runs / "finetuned") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("clear-hug: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(bad_record.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["truncated", "text", "flat"])
def test_when_one_record_of_a_folder_is_bad_then_the_others_are_done_and_it_is_named_at_the_end(
    kind: str, bad_record: Path, runs: Path, capsys: Capture, status: Status
) -> None:
    spoil, message = BAD_RECORDS[kind]
    spoil(bad_record)
    capsys.readouterr()
    assert status("predict", bad_record.parent, "--model", runs / "finetuned", "--json") == 1
    captured = capsys.readouterr()
    assert [Path(json.loads(line)["record"]).name for line in captured.out.splitlines()] == ["a", "z"]
    lines = captured.err.splitlines()
    assert lines[0] == "clear-hug: 1 recording(s) failed:"
    assert lines[1].startswith(f"  {bad_record.with_suffix('')}: ")
    assert message in lines[1]


def test_when_a_table_names_records_that_cannot_be_read_then_the_others_are_done_and_they_are_named_at_the_end(
    runs: Path, ward: Path, tmp_path: Path, capsys: Capture, status: Status
) -> None:
    (tmp_path / "ecg.xml").write_text("<ecg/>")
    table = ward.parent / "some.csv"
    table.write_text(f"path\nrecords/0-0\nrecords/absent\n{tmp_path / 'ecg.xml'}\nrecords/1-0\n")
    capsys.readouterr()
    assert status("predict", table, "--model", runs / "finetuned", "--json") == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["record"] for line in captured.out.splitlines()] == ["records/0-0", "records/1-0"]
    lines = captured.err.splitlines()
    assert lines[0] == "clear-hug: 2 recording(s) failed:"
    assert lines[1].startswith("  records/absent: ")
    assert "ecg.xml is not in a supported format" in lines[2]


def test_when_a_training_record_is_bad_then_the_run_goes_on_and_names_it(
    ptbxl_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = tmp_path / "ptb-xl"
    shutil.copytree(ptbxl_folder, data)
    (data / "records100/00000/00003_lr.dat").write_bytes(b"short")
    output = tmp_path / "run"
    capsys.readouterr()
    words = ["pretrain", "--data", str(data), "--output-dir", str(output), "--num-train-epochs", "1"]
    words += ["--train-batch-size", "4", "--max-samples", "8"]
    assert main(words) == 1
    assert "  3: " in capsys.readouterr().err
    assert (output / "model" / "config.json").is_file()


# -------------------------------------------------------------------------------------------------- other bad inputs


def test_when_the_model_folder_is_bad_then_it_explains_what_is_missing(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    record = str(ptbxl_folder / "records100/00000/00001_lr")
    shutil.copytree(runs / "finetuned" / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert "contains no weights" in refused("predict", record, "--model", tmp_path / "model")
    assert "does not exist" in refused("predict", record, "--model", tmp_path / "none")
    message = refused("predict", record, "--model", runs / "pretrained")
    assert "no fine-tuned classifier" in message
    output = tmp_path / "run"
    for verb, option in (("finetune", "--output-dir"), ("evaluate", "--output")):
        assert "contains no weights" in refused(
            verb, "--data", ptbxl_folder, "--model", tmp_path / "model", option, output
        )
        assert not output.exists()


def test_when_labels_are_not_the_models_or_the_sources_then_they_are_named(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    record, output = ptbxl_folder / "records100/00000/00001_lr", tmp_path / "run"
    data, model = ["--data", ptbxl_folder], ["--model", runs / "finetuned"]
    assert "there is no label 'AFIB' in" in refused("predict", record, *model, "--labels", "AFIB")
    assert "there is no label 'HYP'" in refused("evaluate", *data, *model, "--labels", "HYP")
    finetune = ["finetune", *data, "--model", runs / "pretrained", "--output-dir", output, "--labels"]
    message = refused(*finetune, "MI", "HYP", "CD")
    assert "the label(s) HYP, CD cannot be learned" in message
    assert "`--labels MI`" in message
    assert "'AFIB'" in refused(*finetune, "AFIB")
    assert not output.exists()


def test_when_the_data_folder_is_bad_then_nothing_is_written(
    runs: Path, tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord, refused: Refused
) -> None:
    output, empty, unlabeled = tmp_path / "run", tmp_path / "empty", tmp_path / "unlabeled"
    empty.mkdir()
    write_record(unlabeled / "one", make_recordings(1)[0])
    for data, message in ((tmp_path / "none", "does not exist"), (empty, "contains no recordings")):
        for verb in ("pretrain", "demo"):
            assert message in refused(verb, "--data", data, "--output-dir", output)
    arguments = ["finetune", "--model", runs / "pretrained", "--output-dir", output, "--data", unlabeled]
    assert "there are no labels in" in refused(*arguments)
    (unlabeled / "one.dat").write_bytes(b"")
    message = refused("pretrain", "--data", unlabeled, "--output-dir", output)
    assert "no usable train recordings" in message
    assert "recording one: " in message
    assert "contains 0 samples" in message
    assert not output.exists()


def test_when_the_output_is_a_file_then_it_is_refused(ptbxl_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["pretrain", "--data", ptbxl_folder, "--output-dir", tmp_path / "file" / "run"]
    assert "is a file" in refused(*arguments)


def test_when_no_verb_is_named_then_the_help_goes_to_stderr(capsys: Capture) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.splitlines()[0]) == ("", "usage: clear-hug VERB [options]")
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == printed.err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clear-hug {version('clear-hug-hf')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predikt"], "unknown verb 'predikt': did you mean 'predict'?"),
        (["pretrain", "--epochs", "1"], "did you mean '--num-train-epochs' or '--warmup-epochs'?"),
        (["predict"], "RECORD is required"),
        (["publish", "runs/ward"], "ORG/NAME is required"),
        (["pretrain"], "there are no recordings to pre-train on"),
        (["predict", "a.hea", "--model", "m", "b.hea"], "unexpected argument 'b.hea': positional arguments must come"),
        (["predict", "--model", "m", "--labels", "A", "b.hea"], "RECORD is required"),
        (["predict", "a.hea", "--version"], "unknown option --version"),
    ],
)
def test_when_words_of_a_verb_are_missing_or_too_many_then_the_error_names_them(
    words: list[str], message: str, refused: Refused
) -> None:
    assert message in refused(*words)


def test_when_a_record_follows_a_list_option_then_it_is_refused_as_a_label(
    runs: Path, ward: Path, refused: Refused
) -> None:
    records = sorted(ward.parent.rglob("*.hea"))
    words = ["predict", records[0], "--model", runs / "finetuned", "--labels", "MI", records[1]]
    assert f"there is no label '{records[1]}' in the model" in refused(*words)


def test_when_help_is_asked_for_then_every_verb_shows_an_example(capsys: Capture) -> None:
    for verb in ("pretrain", "finetune", "evaluate", "predict", "benchmark", "demo"):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert f"clear-hug {verb} " in capsys.readouterr().out.split("examples:")[1]


# ------------------------------------------------------------------------------------------------ your own recordings


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, make_recordings: MakeRecordings, write_record: WriteRecord) -> Path:
    """A table of 60 records with two labels, without splits."""
    folder = tmp_path_factory.mktemp("ward")
    lines = ["path,patient_id,tachy,inv"]
    for recording in make_recordings(60):
        write_record(folder / "records" / recording.record_id, recording)
        labels = recording.labels or {}
        fast, inverted = int(labels["fast"]), int(labels["inverted"])
        lines.append(f"records/{recording.record_id},{recording.patient_id},{fast},{inverted}")
    (folder / "ward.csv").write_text("\n".join(lines) + "\n")
    return folder / "ward.csv"


@pytest.fixture
def changed_ward(ward: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the table with other columns: `changed_ward(rhythm=...)` gives its path."""

    def change(**columns: Any) -> Path:
        table = pd.read_csv(ward)
        table["path"] = f"{ward.parent}/" + table["path"]
        table.assign(**columns).to_csv(tmp_path / "changed.csv", index=False)
        return tmp_path / "changed.csv"

    return change


def test_when_a_table_is_all_there_is_then_three_commands_give_model_predictions_and_metrics(
    runs: Path, ward: Path, tmp_path: Path, printed_by: Printed, run: Run, refused: Refused
) -> None:
    output = tmp_path / "run"
    base = ["finetune", "--data", ward, "--model", runs / "pretrained", "--output-dir", output]
    assert "which columns" in refused(*base)
    assert not output.exists()
    learning = [
        "--head-type",
        "mean",
        "--method",
        "full",
        "--no-control",
        "--num-train-epochs",
        "10",
        "--per-device-train-batch-size",
        "8",
    ]
    printed = printed_by(*base, "--labels", "tachy", "inv", *learning)
    assert "has no column `split`: 70 % of the patients" in printed
    data = json.loads((output / "metrics.json").read_text())["data"]
    assert (data["name"], data["splits"]) == ("ward.csv", "random by patient")
    assert {split: one["recordings"] for split, one in data["sets"].items()} == {
        "train": 42,
        "validation": 6,
        "test": 12,
    }

    table = tmp_path / "predictions.csv"
    run("predict", ward, "--model", output, "--output", table)
    predicted = pd.read_csv(table)
    about = ["record_id", "start", "end", "predicted_positive", "notes", *REPORT_COLUMNS]
    assert list(predicted.columns) == [*about, "tachy", "inv"]
    assert predicted["record_id"].tolist() == [f"records/{patient}-0" for patient in range(60)]
    area = _auroc(predicted["tachy"][::2], predicted["tachy"][1::2])
    assert area > 0.8

    metrics = tmp_path / "metrics.json"
    evaluate = ["evaluate", "--data", ward, "--model", output, "--output", metrics]
    run(*evaluate)
    # By default the recordings that fine-tuning held out, so that no training patient is tested.
    tested = json.loads(metrics.read_text())
    trained = json.loads((output / "metrics.json").read_text())["pretrained"]["test"]
    assert (tested["split"], tested["num_recordings"]) == ("test", 12)
    assert tested["macro_auroc"] == pytest.approx(trained["macro_auroc"])
    run(*evaluate, "--split", "all", "--overwrite")
    evaluated = json.loads(metrics.read_text())
    assert (evaluated["split"], evaluated["num_recordings"]) == ("all", 60)
    # Probabilities in the table are rounded.
    assert evaluated["per_label"]["tachy"]["auroc"]["value"] == pytest.approx(area, abs=1e-3)
    assert evaluated["macro_f1"]["low"] <= evaluated["macro_f1"]["value"] <= evaluated["macro_f1"]["high"]


def test_when_records_are_drawn_then_each_window_has_a_picture(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, printed_by: Printed
) -> None:
    record = ptbxl_folder / "records100/00000/00002_lr"
    arguments = ["predict", record, "--model", runs / "finetuned", "--pictures", tmp_path / "p", "--json"]
    # What is printed stays one object per line.
    json.loads(printed_by(*arguments))
    (picture,) = (tmp_path / "p").iterdir()
    assert picture.name.endswith("records100_00000_00002_lr.png")
    with Image.open(picture) as image:
        assert image.width > 800


def _page_title(figure: Any) -> str:
    """The title above the paper of a picture, on one line."""
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes]
    return next(title for title in titles if title.startswith("Recording"))


def test_when_a_fast_heart_is_drawn_then_one_picture_states_that_all_its_beats_were_read(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("clear_hug_hf.plotting.save_figure", lambda figure, path: figures.append(figure))
    record = str(ptbxl_folder / "records100/00000/00000_lr")
    run("predict", record, "--model", runs / "finetuned", "--pictures", tmp_path)
    (figure,) = figures
    title = _page_title(figure)
    read, found = re.search(r": 1\d\d/min, .* (\d\d) of (\d\d) beats read$", title).groups()  # type: ignore[union-attr]
    assert read == found
    assert 17 <= int(found) <= 20


def test_when_another_source_names_labels_otherwise_then_a_mapping_evaluates_them(
    runs: Path, ward: Path, ptbxl_folder: Path, tmp_path: Path, refused: Refused, printed_by: Printed, capsys: Capture
) -> None:
    metrics = tmp_path / "metrics.json"
    base = ["evaluate", "--data", ward, "--model", runs / "finetuned"]
    assert "has no column 'NORM' or 'MI' or 'STTC': its columns for labels are tachy, inv" in refused(*base)
    assert "no label 'AFIB'" in refused(*base, "--map", "tachy=AFIB")
    assert "is not a mapping" in refused(*base, "--map", "tachy")
    assert "names no label of the data" in refused(*base, "--map", "=MI")
    assert "have no label 'slow'" in refused(*base, "--map", "tachy=MI", "slow=NORM")
    # What is measured stays on the screen, whatever happens with the second source.
    command = [*base, "--map", "tachy=MI", "--split", "all", "--compare-with", tmp_path / "none"]
    assert main([str(word) for word in command]) == 2
    assert "macro AUROC" in capsys.readouterr().out
    mapped = [*base, "--map", "tachy=MI", "inv=STTC+NORM", "--compare-with", ptbxl_folder, "--split", "all"]
    printed = printed_by(*mapped, "--output", metrics)
    # The split is that of the data: of the model's own source never patients that it was trained on.
    assert "on 60 recordings of" in printed
    assert "on 12 test recordings of" in printed
    assert "  lost: " in printed
    evaluated = json.loads(metrics.read_text())
    assert evaluated["mapping"] == {"tachy": ["MI"], "inv": ["STTC", "NORM"]}
    # Every synthetic PTB-XL recording that is not fast is normal, so that both classes are in both sources.
    loss = evaluated["loss"]
    assert loss["labels"] == ["tachy", "inv"]
    assert loss["other"]["value"] == pytest.approx(evaluated["macro_auroc"]["value"])
    assert loss["lost"]["value"] == pytest.approx(loss["own"]["value"] - loss["other"]["value"])
    assert loss["lost"]["low"] <= loss["lost"]["value"] <= loss["lost"]["high"]


def test_when_a_benchmark_is_asked_for_then_table_and_csv_are_written(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, run: Run, refused: Refused, printed_by: Printed
) -> None:
    prepared, output = tmp_path / "super", tmp_path / "benchmark"
    run("prepare", ptbxl_folder, "--labels", "ptbxl_super", "--output-dir", prepared)
    arguments = ["benchmark", "--tasks", prepared, "--models", f"clear={runs / 'pretrained'}"]
    arguments += ["--fractions", "0.25", "1", "--seeds", "0", "--probe-epochs", "2", "--output-dir", output]
    printed = printed_by(*arguments)
    assert "| method | super 25% | super 100% |" in printed
    assert "super: left out, with fewer than 1 training or test recordings of a class: HYP, CD" in printed
    rows = pd.read_csv(output / "results.csv")
    assert set(zip(rows["model"], rows["head"], rows["fraction"], strict=True)) == {
        (model, head, fraction) for model in ("clear", "random") for head in ("mean", "hug") for fraction in (0.25, 1)
    }
    assert "two folders are named" in refused(*arguments, "--models", "a=x", "a=y")
    assert "'random' is reserved" in refused(*arguments, "--models", f"random={runs / 'pretrained'}")
    assert "fractions is 0.0: it must be greater than 0" in refused(*arguments, "--fractions", "0")


_WRITING = {
    "predict": ("predict ward.csv --model model --output FILE", "mine.csv"),
    "evaluate": ("evaluate --data ward.csv --model model --output FILE", "mine.json"),
    "picture of evaluate": ("evaluate --data ward.csv --model model --pictures FOLDER", "roc.png"),
    "picture of predict": ("predict ward.csv --model model --pictures FOLDER", "mine.png"),
    "render": ("render records/0-0 FILE", "mine.png"),
    "embed": ("embed ward.csv --model model --output FILE", "mine.parquet"),
    "pretrain": ("pretrain --data data --output-dir FOLDER", "thesis.txt"),
    "restarted pretrain": ("pretrain --data data --restart --output-dir FOLDER", "thesis.txt"),
    "finetune": (
        "finetune --data ward.csv --labels tachy --model model --restart --output-dir FOLDER",
        "metrics.json",
    ),
    "prepare": ("prepare ward.csv --output-dir FOLDER", "README.md"),
    "benchmark": ("benchmark --tasks data --models model --output-dir FOLDER", "results.csv"),
    "demo": ("demo --output-dir FOLDER", "thesis.txt"),
    "overwriting demo": ("demo --overwrite --output-dir FOLDER", "thesis.txt"),
    "publish": ("publish model you/model --dry-run FOLDER", "README.md"),
    "export": ("export model --output-dir FOLDER", "model.onnx"),
    "convert": ("convert clear-hug checkpoint.pth FOLDER", "model.safetensors"),
}


@pytest.mark.parametrize("case", _WRITING)
def test_when_an_output_exists_that_another_run_made_then_nothing_is_lost(
    case: str, runs: Path, ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    if case == "export":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(ward.parent)
    (tmp_path / "out").mkdir()
    command, name = _WRITING[case]
    mine = tmp_path / "out" / name
    mine.write_text("mine")
    known = {"model": runs / "finetuned" / "model", "FILE": mine, "FOLDER": str(mine.parent)}
    words = [known.get(word, word) for word in command.split()]
    message = refused(*words)
    assert "already exists" in message or "contains" in message or "holds" in message
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert mine.read_text() == "mine"


def test_when_an_output_is_an_input_then_it_is_refused(runs: Path, ward: Path, refused: Refused) -> None:
    records, model = ward.parent / "records", str(runs / "finetuned")
    before = {path: path.read_bytes() for path in ward.parent.rglob("*") if path.is_file()}
    for read, output in ((ward, ward), (ward, records / "1-0.dat"), (records / "0-0", records / "0-0.dat")):
        words = ["predict", str(read), "--model", model, "--overwrite", "--output", str(output)]
        assert "in the input" in refused(*words)
    evaluate = ["evaluate", "--data", str(ward), "--model", model, "--overwrite", "--output"]
    assert "in the input" in refused(*evaluate, runs / "finetuned" / "metrics.json")
    assert {path: path.read_bytes() for path in ward.parent.rglob("*") if path.is_file()} == before


def test_when_a_table_is_to_be_overwritten_then_it_is(
    runs: Path, ward: Path, tmp_path: Path, run: Run, refused: Refused
) -> None:
    output = tmp_path / "table.csv"
    words = ["predict", ward.parent / "records" / "0-0", "--model", runs / "finetuned"]
    words += ["--output", output, "--pictures", tmp_path / "pictures"]
    run(*words)
    first = output.read_bytes()
    assert "already exists" in refused(*words)
    output.unlink()
    assert "already contains" in refused(*words)
    output.write_text("old")
    run(*words, "--overwrite")
    assert output.read_bytes() == first


def test_when_the_output_would_replace_another_model_then_nothing_is_lost(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    shutil.copytree(runs / "pretrained", tmp_path / "pretrained")
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    for output in (tmp_path / "pretrained", tmp_path / "pretrained" / "model"):
        arguments = ["finetune", "--data", ptbxl_folder, "--model", tmp_path / "pretrained"]
        for more in ([], ["--restart"]):
            message = refused(*arguments, "--output-dir", output, *more)
            assert "which no earlier run of this kind wrote" in message or "is or contains the input" in message
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before
    weights = (runs / "finetuned" / "model" / "model.safetensors").read_bytes()
    arguments = ["pretrain", "--data", ptbxl_folder, "--output-dir", runs / "finetuned", "--num-train-epochs", "1"]
    for more in ([], ["--restart"]):
        assert "which no earlier run of this kind wrote" in refused(*arguments, *more)
    assert (runs / "finetuned" / "model" / "model.safetensors").read_bytes() == weights


def test_when_a_table_is_poor_then_what_is_missing_is_reported_and_there_are_metrics_without_curves(
    runs: Path, changed_ward: Callable[..., Path], tmp_path: Path, printed_by: Printed, refused: Refused
) -> None:
    """No patients, classes in place of labels, few with the label for validation, and one class among the tested."""

    def split(table: pd.DataFrame) -> Any:
        apart = (table.index >= 50) & (table["tachy"] == 0)
        return np.select([table.index < 42, apart], ["train", "test"], "val")

    table = changed_ward(split=split, rhythm=lambda table: np.where(table["tachy"] == 1, "fast", "slow"))
    pd.read_csv(table).drop(columns="patient_id").to_csv(table, index=False)
    output = tmp_path / "run"
    base = ["--data", table, "--labels", "tachy"]
    train = ["finetune", "--model", runs / "pretrained", "--output-dir", output, "--num-train-epochs", "1", *base]
    assert "add a column of 1 and 0 for each label" in refused(*train[:-1], "rhythm")
    printed = printed_by(*train)
    assert "has no column `patient_id`: each recording counts as a patient" in printed
    assert "uncertain thresholds, from fewer than 10 positive validation recordings: tachy" in printed
    assert "no ROC curves: no label has both positive and negative recordings" in printed
    text = (output / "metrics.json").read_text()
    assert json.loads(text)["macro_auroc_difference"]["test"] is None
    assert "NaN" not in text
    printed = printed_by("evaluate", *base, "--model", output, "--pictures", tmp_path / "pictures")
    assert "undefined: no label has both positive and negative recordings" in printed


@pytest.mark.parametrize("classes", [("fast", "slow"), ("0", "2")], ids=["names", "numbers"])
def test_when_a_prepared_column_holds_classes_then_training_refuses_it(
    runs: Path, changed_ward: Callable[..., Path], tmp_path: Path, classes: tuple[str, str], run: Run, refused: Refused
) -> None:
    table = changed_ward(rhythm=lambda table: np.where(table["tachy"] == 1, *classes))
    output = tmp_path / "prepared"
    command = ["prepare", table, "--labels", "rhythm", "--output-dir", output]
    message = refused(*command)
    assert "'rhythm'" in message
    assert "add a column of 1 and 0" in message
    assert not output.exists()
    run(*command, "--reader-options", "problem_type=single_label_classification")
    for verb in (
        ["finetune", "--data", output, "--model", runs / "pretrained"],
        ["benchmark", "--tasks", output, "--models", runs / "pretrained"],
    ):
        message = refused(*verb, "--output-dir", tmp_path / "run")
        assert f"the labels of {output} are the classes of one column, 'rhythm'" in message
        assert "add a column of 1 and 0" in message
        assert not (tmp_path / "run").exists()


def _renamed(runs: Path, folder: Path, names: tuple[str, ...], **settings: Any) -> Path:
    """The classifier with other labels."""
    shutil.copytree(runs / "finetuned" / "model", folder)
    config = json.loads((folder / "config.json").read_text()) | settings
    config["id2label"], config["label2id"] = dict(enumerate(names)), {name: row for row, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_when_a_classifier_is_calibrated_then_only_its_config_changes_as_at_the_end_of_finetuning(
    runs: Path, tmp_path: Path, run: Run, printed_by: Printed, refused: Refused
) -> None:
    finetuned, output = runs / "finetuned", tmp_path / "calibrated"
    facts = json.loads((finetuned / "metrics.json").read_text())["pretrained"]["calibration"]
    raw = tmp_path / "raw"
    shutil.copytree(finetuned / "model", raw)
    config = json.loads((raw / "config.json").read_text())
    assert ("label_calibration" in config) == (facts["method"] != "none")
    (raw / "config.json").write_text(json.dumps({**config, "label_calibration": {"NORM": [3.0, 2.0]}}))
    command = ["calibrate", "--model", raw, "--data", runs / "data", "--output-dir", output]
    printed = printed_by(*command)
    assert f"{facts['log_loss']['temperature']:.4f}" in printed
    assert f"{facts['num_recordings']} recordings" in printed
    assert json.loads((output / "config.json").read_text()) == config
    for path in (finetuned / "model").iterdir():
        if path.name != "config.json":
            assert (output / path.name).read_bytes() == path.read_bytes()
    assert "exists and is not empty" in refused(*command)
    command[-1] = tmp_path / "few"
    assert "fewer than 5 patients: that is too few" in refused(*command, "--max-samples", "4")
    assert not command[-1].exists()
    run("evaluate", "--data", runs / "data", "--model", output, "--max-samples", "8")


def test_when_a_run_is_calibrated_then_the_copy_keeps_how_it_was_trained_and_only_loses_its_results(
    runs: Path, tmp_path: Path, printed_by: Printed
) -> None:
    output = tmp_path / "calibrated"
    printed_by(
        "calibrate", "--model", runs / "finetuned", "--data", runs / "data", "--output-dir", output, "--split", "test"
    )
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (runs / "finetuned", output))
    for name in ("recipe", "data", "encoder", "selected_by", "labels"):
        assert after[name] == before[name]
    assert after["pretrained"] == {"best_epoch": before["pretrained"]["best_epoch"]}
    assert "macro_auroc_difference" not in after
    assert json.loads((output / "calibration.json").read_text())["split"] == "test"
    printed_by("publish", output, "you/ward", "--dry-run", tmp_path / "staged")
    card = " ".join((tmp_path / "staged/README.md").read_text().split())
    for words in (
        "**Fine-tuning**: ",
        "**Pre-training** ",
        "Thresholds maximize F1 on the test recordings",
        "calibration and thresholds were replaced after the training",
        "No results are recorded for these weights",
        "no results of these weights with their present calibration",
    ):
        assert words in card, words
    assert "untrained" not in card
    assert (tmp_path / "staged/calibration.json").is_file()


def test_when_familiarity_is_asked_for_then_predictions_of_other_recordings_are_marked_everywhere(
    runs: Path, ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, printed_by: Printed
) -> None:
    monkeypatch.setattr("clear_hug_hf.training.familiarity.MIN_RECORDINGS", 10)
    output, record = tmp_path / "run", ward.parent / "records/0-0"
    command = ["finetune", "--data", runs / "data", "--model", runs / "pretrained", "--output-dir", output]
    command += ["--no-control", "--familiarity", "--num-train-epochs", "1", "--no-use-feature-cache"]
    assert "unlike the training recordings: " in printed_by(*command)
    model, _ = load_classifier(output)
    assert model.config.familiarity["num_recordings"] == len(load_prepared(runs / "data")[0]["validation"])
    for scale, is_unlike in ((1e-6, False), (1e6, True)):
        model.familiarity.pooled_scales.fill_(scale)
        model.familiarity.leads_scales.fill_(1e-6)
        model.save_pretrained(output / "model")
        found = json.loads(printed_by("predict", record, "--model", output, "--json"))
        assert (found["distance"] > 1) == is_unlike
        assert (found["unfamiliar"] is not None) == is_unlike
    run("predict", record, "--model", output, "--output", tmp_path / "table.csv")
    row = pd.read_csv(tmp_path / "table.csv").iloc[0]
    assert (row["distance"], row["unfamiliar"]) == (found["distance"], found["unfamiliar"])
    assert f"! {found['unfamiliar']}" in printed_by("predict", record, "--model", output)
    command.remove("--familiarity")
    assert "already holds this run" in printed_by(*command)
    assert load_classifier(output)[0].familiarity is None
    assert "distance" not in json.loads(printed_by("predict", record, "--model", output, "--json"))


@pytest.mark.parametrize("folds", [[], ["--folds", "2"]], ids=["split", "folds"])
def test_when_recordings_are_too_few_for_familiarity_then_those_that_are_fitted_count_before_training(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, folds: list[str]
) -> None:
    monkeypatch.setattr("clear_hug_hf.training.familiarity.MIN_RECORDINGS", 1000)
    sets, output = load_prepared(runs / "data")[0], tmp_path / "run"
    count = len(sets["train"]) + (len(sets["validation"]) if folds else 0)
    command = ["finetune", "--data", runs / "data", "--model", runs / "pretrained", "--output-dir", output]
    assert f"there are {count} training recordings" in refused(*command, "--familiarity", *folds)
    assert not output.exists()


def test_when_a_label_is_called_as_a_column_then_the_table_has_both(
    runs: Path, ward: Path, tmp_path: Path, run: Run, refused: Refused
) -> None:
    model = _renamed(runs, tmp_path / "model", ("NORM", "notes", "STTC"))
    table = tmp_path / "predictions.csv"
    assert "is a folder: name a file" in refused("predict", ward, "--model", model, "--output", tmp_path)
    run("predict", ward.parent / "records/0-0", "--model", model, "--output", table, "--threshold", "0")
    predicted = pd.read_csv(table)
    about = ["record_id", "start", "end", "predicted_positive", "notes", *REPORT_COLUMNS]
    assert list(predicted.columns) == [*about, "NORM", "notes (label)", "STTC"]
    assert set(predicted["predicted_positive"][0].split("; ")) == {"NORM", "notes", "STTC"}


def test_when_a_prediction_is_interrupted_then_what_is_done_is_written(
    runs: Path, ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, status: Status
) -> None:
    rows = tmp_path / "predictions.csv"
    arguments = ["predict", ward, "--model", runs / "finetuned", "--output", rows]
    read, calls = RecordReference.read, []

    def interrupted(reference: RecordReference) -> Recording:
        calls.append(reference)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return read(reference)

    monkeypatch.setattr(RecordReference, "read", interrupted)
    assert status(*arguments) == 130
    assert f"{rows} contains the first 16 of 60 record(s)" in capsys.readouterr().out
    assert pd.read_csv(rows)["record_id"].tolist() == [f"records/{patient}-0" for patient in range(16)]


def test_when_a_seed_is_negative_then_the_option_is_refused(refused: Refused) -> None:
    for verb in ("finetune", "evaluate"):
        assert "seed is -1: it must be at least 0" in refused(verb, "--data", "x", "--model", "y", "--seed", "-1")


def test_when_a_record_is_predicted_then_rate_beats_leads_and_what_is_implausible_are_reported(
    runs: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printed_by: Printed,
) -> None:
    fast = make_recordings(1)[0]
    waveform, names = fast.waveform[1:].copy(), fast.lead_names[1:]
    waveform[3] = 0.25
    record = write_record(tmp_path / "fast", replace(fast, waveform=waveform, lead_names=names)).with_suffix("")
    rhythms = ("SBRAD", "SR", "STACH")
    model = _renamed(runs, tmp_path / "model", rhythms, label_thresholds=dict.fromkeys(rhythms, 0.0))
    figures: list[Any] = []
    monkeypatch.setattr("clear_hug_hf.plotting.save_figure", lambda figure, path: figures.append(figure))
    base = ["predict", record, "--model", model]
    _, summary, warning, *labels = printed_by(*base, "--pictures", tmp_path / "pictures").splitlines()
    rate, read, found, about = re.fullmatch(  # type: ignore[union-attr]
        r"  (\d+)/min, SDNN \d+ ms, RMSSD \d+ ms \(\d+% of the RR interval\), (\d+) of (\d+) beats read; (.*)", summary
    ).groups()
    assert 100 <= int(rate) <= 120
    assert read == found
    assert about == "leads missing: I, aVL; leads flat: aVL"
    assert warning.startswith("  ! 2 of 12 leads are missing")
    notes = {line.split()[2]: line.partition("  ! ")[2] for line in labels}
    sentence = f"the heart rate of {rate}/min contradicts SBRAD: bradycardia is below 60/min"
    assert notes == {"SBRAD": sentence, "SR": "", "STACH": ""}
    (figure,) = figures
    title = _page_title(figure)
    assert summary.strip() in title
    assert "leads are missing" in title
    assert f"The heart rate of {rate}/min contradicts SBRAD" in title

    predicted = json.loads(printed_by(*base, "--json"))
    report = predicted["report"]
    assert predicted["notes"] == {"SBRAD": sentence}
    assert round(report["heart_rate"]) == int(rate)
    assert report["beats_read"] == report["beats_found"] == int(found)
    assert report["flat_leads"] == ["aVL"]
    assert report["warnings"] == [warning.removeprefix("  ! ")]
    printed_by(*base, "--output", tmp_path / "table.csv")
    (row,) = pd.read_csv(tmp_path / "table.csv").to_dict("records")
    for name in ("heart_rate", "beats_found", "beats_read"):
        assert row[name] == report[name]
    assert row["notes"] == sentence
    assert row["missing_leads"] == "; ".join(report["missing_leads"])
