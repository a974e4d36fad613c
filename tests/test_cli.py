"""The command line end to end on a handful of recordings, and everything that it must refuse."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import pipeline

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForSequenceClassification,
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForSequenceClassification,
)
from clear_hug_hf.cli import demo, main
from clear_hug_hf.cli.predict import REPORTED
from clear_hug_hf.data.records import Recording, RecordReference
from clear_hug_hf.training.folders import save_model_folder


MakeRecordings = Callable[..., list[Recording]]
WriteRecord = Callable[[Path, Recording], Path]
RECIPE = ["--epochs", "30", "--batch-size", "8", "--seed", "0"]
LABELS = ["NORM", "MI", "STTC"]
"""Those of the five superclasses that the synthetic recordings have."""


Run = Callable[..., None]
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


def test_when_labels_are_rare_then_they_are_left_out_by_name_and_the_card_says_so(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    run: Run,
    status: Callable[..., int],
) -> None:
    table = ["path,patient_id,split,fast,rare"]
    for number, recording in enumerate(make_recordings(48)):
        write_record(tmp_path / "ward" / f"{number:02d}", recording)
        fast = (recording.labels or {})["fast"]
        table.append(f"ward/{number:02d},{recording.patient_id},{recording.split},{fast:g},{number in (0, 1, 2):d}")
    (tmp_path / "ward.csv").write_text("\n".join(table) + "\n")
    prepared, output = tmp_path / "prepared", tmp_path / "finetuned"
    run("prepare", tmp_path / "ward.csv", "--labels", "fast", "rare", "--output", prepared)
    command = ["finetune", "--data", prepared, "--model", runs / "pretrained", "--output", output, *RECIPE]
    assert status(*command, "--min-positives", "40") == 2
    assert "no label has 40 training recordings" in capsys.readouterr().err
    run(*command, "--no-control", "--min-positives", "5")
    assert "fewer than 5 training recordings have them, or have not: rare" in capsys.readouterr().out
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["labels"] == ["fast"]
    assert metrics["data"]["left_out"] == {"labels": ["rare"], "fewer_than": 5}
    run("publish", output, "you/ward", "--dry-run", tmp_path / "staged")
    assert "5 training recordings have are not among its outputs: rare." in (tmp_path / "staged/README.md").read_text()


def test_when_a_model_is_evaluated_then_the_numbers_are_those_of_finetuning(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    arguments = ["evaluate", "--data", ptbxl_folder, "--model", runs / "finetuned"]
    run(*arguments, "--output", tmp_path / "metrics.json")
    evaluated = json.loads((tmp_path / "metrics.json").read_text())
    trained = json.loads((runs / "finetuned" / "metrics.json").read_text())["pretrained"]["test"]
    assert evaluated["split"] == "test"
    assert evaluated["macro_auroc"] == pytest.approx(trained["macro_auroc"])
    printed = capsys.readouterr().out
    assert "12 test recordings of 12 patients" in printed
    assert "since the model does not know them: HYP, CD" in printed
    for metric in ("AUROC", "average precision", "F1", "calibration error"):
        assert f"macro {metric} " in printed
    run(*arguments, "--labels", "MI", "--split", "validation", "--pictures", tmp_path / "p")
    assert "STTC" not in capsys.readouterr().out
    with Image.open(tmp_path / "p" / "roc.png") as image:
        assert image.width > 200


def test_when_records_are_predicted_then_each_has_its_labels(
    runs: Path, ptbxl_folder: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    capsys.readouterr()
    folder = str(ptbxl_folder / "records100")
    run("predict", folder, "--model", runs / "finetuned", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    thresholds = json.loads((runs / "finetuned" / "model" / "config.json").read_text())["label_thresholds"]
    assert [line["record"] for line in lines] == [f"{folder}/00000/{index:05d}_lr" for index in range(72)]
    for line in lines:
        # The fast ones have more beats than the model holds.
        assert 1 <= len(line["windows"]) <= 2
        for one in (line, *line["windows"]):
            assert sorted(one["probabilities"]) == sorted(LABELS)
            assert set(one["found"]) == {
                name for name, share in one["probabilities"].items() if share >= thresholds[name]
            }
        assert (line["start"], line["end"]) == (line["windows"][0]["start"], line["windows"][-1]["end"]) == (0, 10)
    fast = [line["probabilities"]["MI"] for line in lines]
    assert _auroc(fast[0::2], fast[1::2]) > 0.8


def test_when_fewer_labels_are_asked_for_then_only_they_are_shown(
    runs: Path, ptbxl_folder: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    record = str(ptbxl_folder / "records100/00000/00002_lr.dat")
    base = ["predict", record, "--model", runs / "finetuned" / "model"]
    capsys.readouterr()
    run(*base, "--top-k", "2", "--threshold", "0")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("  * ") for line in lines[2:])
    run(*base, "--labels", "MI", "NORM")
    assert {line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]} == {"MI", "NORM"}


def test_when_a_recording_is_long_then_its_windows_are_predicted_and_that_is_said(
    runs: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    recording = make_recordings(2)[1]
    write_record(tmp_path / "long", replace(recording, waveform=np.tile(recording.waveform, (1, 3))[:, :2500]))
    base = ["predict", tmp_path / "long", "--model", runs / "finetuned"]
    capsys.readouterr()
    run(*base)
    printed = capsys.readouterr().out
    assert "(25 s, read in 3 windows: their mean)" in printed
    assert "15-25 s" not in printed
    run(*base, "--aggregate", "none")
    printed = capsys.readouterr().out
    assert "(25 s, read in 3 windows)" in printed
    assert "15-25 s" in printed
    run(*base, "--json")
    windows = json.loads(capsys.readouterr().out)["windows"]
    assert [(window["start"], window["end"]) for window in windows] == [(0, 10), (10, 20), (15, 25)]


@pytest.mark.parametrize("name", ["ptb/s0010_re", "formats/muse-sinus", "challenge/A0001.mat", "cinc2011/1002867"])
def test_when_real_records_of_any_source_are_predicted_then_they_are(
    runs: Path, shared: Path, name: str, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    capsys.readouterr()
    run("predict", shared / "data" / name, "--model", runs / "finetuned", "--json")
    assert json.loads(capsys.readouterr().out)["windows"]


@pytest.fixture(scope="module", params=["clear_hug", "ecg_jepa"])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained classifier, one of each system that reads recordings."""
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    model: Any
    extractor: Any
    if request.param == "clear_hug":
        model = ClearHugForSequenceClassification(ClearHugConfig(**shape, **names, initializer_range=0.3))
        extractor = ClearHugFeatureExtractor()
    else:
        model = EcgJepaForSequenceClassification(EcgJepaConfig(**shape, **names, initializer_range=0.3))
        extractor = EcgJepaFeatureExtractor()
    folder = tmp_path_factory.mktemp(request.param)
    save_model_folder(folder, model, extractor)
    return folder


@pytest.mark.parametrize(("name", "patient", "seconds"), [("short", 1, 10), ("long", 1, 25), ("fast", 0, 10)])
def test_when_a_recording_is_predicted_by_any_way_then_the_numbers_are_equal(
    classifier: Path,
    name: str,
    patient: int,
    seconds: int,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    one = make_recordings(2, sampling_rate=250.0)[patient]
    record = write_record(
        tmp_path / name, replace(one, waveform=np.tile(one.waveform, (1, 3))[:, : 250 * seconds])
    ).with_suffix("")
    pipe = pipeline("ecg-classification", model=str(classifier), device="cpu")
    base = ["predict", record, "--model", classifier]
    table = tmp_path / "table.csv"
    expected_windows = {"short": 1, "long": 3, "fast": 2 if "clear_hug" in classifier.name else 1}[name]
    for aggregate in ("mean", "max", "none"):
        result = pipe(record, aggregate=aggregate)
        capsys.readouterr()
        run(*base, "--aggregate", aggregate, "--json")
        told = json.loads(capsys.readouterr().out)
        assert len(told["windows"]) == expected_windows
        run(*base, "--aggregate", aggregate, "--output", table, "--overwrite")
        rows = pd.read_csv(table, float_precision="round_trip").to_dict("records")
        if aggregate == "none":
            expected = [{entry["label"]: entry["score"] for entry in window["labels"]} for window in result]
            places = [(window["start"], window["end"]) for window in result]
            assert "probabilities" not in told
            assert [window["probabilities"] for window in told["windows"]] == expected
            assert [(window["start"], window["end"]) for window in told["windows"]] == places
            assert [(row["start"], row["end"]) for row in rows] == places
        else:
            expected = [{entry["label"]: entry["score"] for entry in result}]
            assert told["probabilities"] == expected[0]
        assert [{label: row[label] for label in LABELS} for row in rows] == expected
    # The mean is what one gets who does not choose.
    capsys.readouterr()
    run(*base, "--json")
    assert json.loads(capsys.readouterr().out)["probabilities"] == {one["label"]: one["score"] for one in pipe(record)}


def test_when_a_window_has_no_signal_then_it_is_skipped_by_name_and_the_rest_is_predicted(
    classifier: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    run: Run,
) -> None:
    one = make_recordings(2)[1]
    off = np.full_like(one.waveform, 5.0)
    record = write_record(
        tmp_path / "off", replace(one, waveform=np.concatenate([one.waveform, off, one.waveform], axis=1))
    )
    capsys.readouterr()
    with caplog.at_level("WARNING"):
        run("predict", record, "--model", classifier, "--json")
    told = json.loads(capsys.readouterr().out)
    assert [(window["start"], window["end"]) for window in told["windows"]] == [(0, 10), (20, 30)]
    assert told["skipped"] == [{"start": 10, "end": 20}]
    assert told["report"]["warnings"][0] == "10-20 s left out: every lead is flat or missing there"


# ------------------------------------------------------------------------------------------------------- bad records

_HEADER = "bad 12 100 1000\n"
_SIGNALS = "".join(f"bad.dat 16 1000/mV 16 0 0 0 0 {name}\n" for name in ("I", "II", "III", "aVR", "aVL", "aVF"))
_SIGNALS += "".join(f"bad.dat 16 1000/mV 16 0 0 0 0 V{index}\n" for index in range(1, 7))


def _truncated(folder: Path) -> None:
    (folder / "bad.dat").write_bytes((folder / "bad.dat").read_bytes()[:5000])


def _headers(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "bad.hea").write_text(text) and None  # type: ignore[func-returns-value]


def _samples(change: Callable[[np.ndarray], np.ndarray], num_samples: int = 1000) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        digital = np.fromfile(folder / "bad.dat", dtype="<i2").reshape(1000, 12)
        change(digital)[:num_samples].astype("<i2").tofile(folder / "bad.dat")
        (folder / "bad.hea").write_text(_HEADER.replace("1000", str(num_samples)) + _SIGNALS)

    return write


BAD_RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing header": (lambda folder: (folder / "bad.hea").unlink(), "bad.hea does not exist"),
    "missing signals": (lambda folder: (folder / "bad.dat").unlink(), "refers to bad.dat, which is not beside it"),
    "truncated": (_truncated, "holds 208 samples per lead where the header promises 1000"),
    "too many leads": (_headers(_HEADER.replace("12", "15", 1) + _SIGNALS), "promises 15 leads but describes 12"),
    "text": (_headers("Dear colleague, the recording is attached.\n"), "is not a WFDB header"),
    "empty": (_headers(""), "is not a WFDB header"),
    "no rate": (_headers("bad 12\n" + _SIGNALS), "states no sampling rate"),
    "rate of zero": (_headers("bad 12 0 1000\n" + _SIGNALS), "sampling rate '0'"),
    "rate too low": (_headers("bad 12 20 1000\n" + _SIGNALS), "the sampling rate is 20 Hz"),
    "unknown lead": (_headers(_HEADER + _SIGNALS.replace(" V6", " Q6")), "unknown lead name 'Q6'"),
    "unknown unit": (_headers(_HEADER + _SIGNALS.replace("/mV", "/mmHg")), "unknown unit 'mmHg'"),
    "flat": (_samples(lambda digital: digital * 0), "all leads are flat"),
    "all missing": (_samples(lambda digital: np.full_like(digital, -32768)), "every lead is NaN or Inf"),
    "half a second": (_samples(lambda digital: digital, 50), "the recording lasts 0.5 s"),
}


@pytest.fixture
def bad_folder(tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord) -> Path:
    """A folder with the record `bad`, still whole."""
    write_record(tmp_path / "records" / "bad", make_recordings(1)[0])
    return tmp_path / "records"


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_when_a_record_is_bad_then_one_sentence_says_why(
    kind: str, bad_folder: Path, runs: Path, capsys: pytest.CaptureFixture[str], status: Callable[..., int]
) -> None:
    spoil, message = BAD_RECORDS[kind]
    spoil(bad_folder)
    before = sorted(bad_folder.rglob("*"))
    capsys.readouterr()
    assert status("predict", bad_folder / "bad", "--model", runs / "finetuned") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("clear-hug: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(bad_folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["truncated", "text", "flat"])
def test_when_one_record_of_a_folder_is_bad_then_the_others_are_done_and_it_is_named_at_the_end(
    kind: str,
    bad_folder: Path,
    runs: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    capsys: pytest.CaptureFixture[str],
    status: Callable[..., int],
) -> None:
    spoil, message = BAD_RECORDS[kind]
    spoil(bad_folder)
    for name in ("a", "z"):
        write_record(bad_folder / name, make_recordings(1)[0])
    capsys.readouterr()
    assert status("predict", bad_folder, "--model", runs / "finetuned", "--json") == 1
    captured = capsys.readouterr()
    assert [Path(json.loads(line)["record"]).name for line in captured.out.splitlines()] == ["a", "z"]
    lines = captured.err.splitlines()
    assert lines[0] == "clear-hug: 1 recording(s) could not be used:"
    assert lines[1].startswith(f"  {bad_folder / 'bad'}: ")
    assert message in lines[1]


def test_when_a_table_names_records_that_cannot_be_read_then_the_others_are_done_and_they_are_named_at_the_end(
    runs: Path, ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: Callable[..., int]
) -> None:
    (tmp_path / "ecg.xml").write_text("<ecg/>")
    table = ward.parent / "some.csv"
    table.write_text(f"path\nrecords/0-0\nrecords/absent\n{tmp_path / 'ecg.xml'}\nrecords/1-0\n")
    capsys.readouterr()
    assert status("predict", table, "--model", runs / "finetuned", "--json") == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["record"] for line in captured.out.splitlines()] == ["records/0-0", "records/1-0"]
    lines = captured.err.splitlines()
    assert lines[0] == "clear-hug: 2 recording(s) could not be used:"
    assert lines[1].startswith("  records/absent: ")
    assert "ecg.xml is not in a format that can be read" in lines[2]


def test_when_a_training_record_is_bad_then_the_run_goes_on_and_names_it(
    ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "ptb-xl"
    shutil.copytree(ptbxl_folder, data)
    (data / "records100/00000/00003_lr.dat").write_bytes(b"short")
    output = tmp_path / "run"
    capsys.readouterr()
    words = ["pretrain", "--data", str(data), "--output", str(output), "--epochs", "1"]
    words += ["--batch-size", "4", "--limit", "8"]
    assert main(words) == 1
    assert "  3: " in capsys.readouterr().err
    assert (output / "model" / "config.json").is_file()


# -------------------------------------------------------------------------------------------------- other bad inputs


def test_when_the_model_folder_is_bad_then_it_says_what_is_missing(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    record = str(ptbxl_folder / "records100/00000/00001_lr")
    shutil.copytree(runs / "finetuned" / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert "holds no weights" in refused("predict", record, "--model", tmp_path / "model")
    assert "does not exist" in refused("predict", record, "--model", tmp_path / "none")
    message = refused("predict", record, "--model", runs / "pretrained")
    assert "no fine-tuned classifier" in message
    output = tmp_path / "run"
    for verb in ("finetune", "evaluate"):
        arguments = [verb, "--data", ptbxl_folder, "--model", tmp_path / "model", "--output", output]
        assert "holds no weights" in refused(*arguments)
        assert not output.exists()


def test_when_labels_are_not_the_models_then_they_are_named(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, refused: Refused
) -> None:
    record, data = ptbxl_folder / "records100/00000/00001_lr", str(ptbxl_folder)
    message = refused("predict", record, "--model", runs / "finetuned", "--labels", "AFIB")
    assert "there is no label 'AFIB' in" in message
    two = tmp_path / "two"
    arguments = ["--model", runs / "pretrained", "--output", two, "--labels", "MI", "NORM", "--no-control"]
    run("finetune", "--data", data, *arguments, "--epochs", "1", "--head", "mean")
    metrics = json.loads((two / "metrics.json").read_text())
    assert metrics["labels"] == ["MI", "NORM"]
    assert "random_initialisation" not in metrics
    message = refused("evaluate", "--data", data, "--model", two, "--labels", "HYP")
    assert "there is no label 'HYP'" in message
    message = refused("finetune", "--data", data, *arguments[:2], "--labels", "MI", "HYP", "CD")
    assert "nothing can be learnt about the label(s) HYP, CD" in message
    assert "`--labels MI`" in message
    output = tmp_path / "run"
    arguments = ["--model", runs / "pretrained", "--output", output, "--labels", "AFIB"]
    assert "'AFIB'" in refused("finetune", "--data", data, *arguments)
    assert not output.exists()


def test_when_the_data_folder_is_bad_then_nothing_is_written(
    runs: Path,
    tmp_path: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    output, empty, unlabelled = tmp_path / "run", tmp_path / "empty", tmp_path / "unlabelled"
    empty.mkdir()
    write_record(unlabelled / "one", make_recordings(1)[0])
    for data, message in ((tmp_path / "none", "does not exist"), (empty, "holds no WFDB records")):
        for verb in ("pretrain", "demo"):
            assert message in refused(verb, "--data", data, "--output", output)
    arguments = ["finetune", "--model", runs / "pretrained", "--output", output, "--data", unlabelled]
    assert "there are no labels in" in refused(*arguments)
    (unlabelled / "one.dat").write_bytes(b"")
    message = refused("pretrain", "--data", unlabelled, "--output", output)
    assert "no usable train recordings" in message
    assert "recording one: " in message
    assert "holds 0 samples" in message
    assert not output.exists()


def test_when_the_output_is_a_file_then_it_is_refused(
    ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["pretrain", "--data", ptbxl_folder, "--output", tmp_path / "file" / "run"]
    assert "is a file" in refused(*arguments)


def test_when_help_is_asked_for_then_every_verb_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("pretrain", "finetune", "evaluate", "predict", "benchmark", "demo"):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert f"clear-hug {verb} " in capsys.readouterr().out.split("examples:")[1]


@pytest.fixture(scope="module")
def simulated_demo(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, str]:
    """The output folder of a small demo without data, and what was printed."""
    output, printed = tmp_path_factory.mktemp("demo") / "demo", io.StringIO()
    with contextlib.redirect_stdout(printed):
        run("demo", "--output", output, "--patients", "16", "--epochs", "1")
    return output, printed.getvalue()


def test_when_the_demo_runs_then_everything_is_there(simulated_demo: tuple[Path, str]) -> None:
    output, printed = simulated_demo
    assert "untrained encoder" in printed
    assert f"clear-hug predict YOUR_RECORD.hea --model {output}" in printed
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["data"]["title"] == "Simulated recordings of clear_hug_hf"
    assert metrics["data"]["sets"] == {
        "train": {"recordings": 24, "patients": 8},
        "validation": {"recordings": 12, "patients": 4},
        "test": {"recordings": 12, "patients": 4},
    }
    pretraining = json.loads((output / "pretrained" / "pretraining.json").read_text())
    assert metrics["encoder"]["pretraining.json"] == pretraining
    assert (output / "model" / "model.safetensors").is_file()
    assert (output / "pretrained" / "model" / "model.safetensors").is_file()
    assert (output / "pictures" / "group_activations.png").is_file()


def test_when_recordings_are_simulated_then_the_shipped_classifiers_do_not_see_them(
    simulated_demo: tuple[Path, str],
) -> None:
    output, printed = simulated_demo
    shipped = {path.name for path in demo.SHIPPED.iterdir() if path.is_dir()}
    assert shipped
    assert not shipped & {path.stem for path in (output / "pictures").iterdir()}
    assert not [name for name in shipped if name in printed]
    assert "shown of real recordings only: clear-hug demo --data FOLDER" in printed


def test_when_the_demo_reads_records_without_labels_then_it_pretrains_and_shows_the_shipped_weights(
    tmp_path: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    name = "clear-hug-small-ptbxl-super"
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / name).symlink_to(demo.SHIPPED / name)
    monkeypatch.setattr(demo, "SHIPPED", tmp_path / "shipped")
    ward, output = tmp_path / "ward", tmp_path / "run"
    for recording in make_recordings(10):
        write_record(ward / recording.record_id, recording)
    run("demo", "--data", ward, "--output", output, "--epochs", "1")
    printed = capsys.readouterr().out
    assert f"{name} on test recording " in printed
    assert (output / "pictures" / f"{name}.png").is_file()
    data = json.loads((output / "pretrained" / "pretraining.json").read_text())["data"][0]
    assert {split: one["recordings"] for split, one in data["sets"].items()} == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }
    assert f"{ward} has no labels, so that nothing was fine-tuned" in printed
    assert f"clear-hug prepare {ward} --labels" in printed
    assert not (output / "metrics.json").exists()


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


def test_when_a_table_is_all_there_is_then_three_commands_give_model_predictions_and_metrics(
    runs: Path, ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, refused: Refused
) -> None:
    output = tmp_path / "run"
    base = ["finetune", "--data", ward, "--model", runs / "pretrained", "--output", output]
    assert "which columns" in refused(*base)
    assert not output.exists()
    run(*base, "--labels", "tachy", "inv", "--no-control", *RECIPE)
    assert "has no column `split`: 70 % of the patients" in capsys.readouterr().out
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
    about = ["record_id", "start", "end", "found", "notes", *REPORTED]
    assert list(predicted.columns) == [*about, "tachy", "inv"]
    assert predicted["record_id"].tolist() == [f"records/{patient}-0" for patient in range(60)]
    area = _auroc(predicted["tachy"][::2], predicted["tachy"][1::2])
    assert area > 0.8

    metrics = tmp_path / "metrics.json"
    evaluate = ["evaluate", "--data", ward, "--model", output, "--output", metrics]
    run(*evaluate)
    # By default those that fine-tuning kept apart, so that nobody takes training patients for a test.
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


def test_when_all_windows_are_prepared_then_recordings_and_patients_are_counted_and_not_windows(
    runs: Path, tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord, run: Run
) -> None:
    table = ["path,split,fast"]
    for recording in make_recordings(36):
        twice = replace(recording, waveform=np.concatenate([recording.waveform] * 2, axis=1))
        write_record(tmp_path / "ward" / recording.record_id, twice)
        table.append(f"ward/{recording.record_id},{recording.split},{(recording.labels or {})['fast']:g}")
    (tmp_path / "ward.csv").write_text("\n".join(table) + "\n")
    prepared, output, found = tmp_path / "prepared", tmp_path / "run", tmp_path / "found.json"
    command = ["prepare", tmp_path / "ward.csv", "--labels", "fast", "--windows", "all", "--output", prepared]
    run(*command)
    command = ["finetune", "--data", prepared, "--model", runs / "pretrained", "--output", output, "--no-control"]
    run(*command, "--epochs", "2")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"]["sets"]["test"] == {"recordings": 6, "patients": 6}
    run("evaluate", "--data", prepared, "--model", output, "--output", found)
    for one in (metrics["pretrained"]["test"], json.loads(found.read_text())):
        assert (one["num_recordings"], one["num_patients"]) == (6, 6)
        assert one["per_label"]["fast"]["num_known"] == 6


def test_when_records_are_drawn_then_each_window_has_a_picture(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    record = str(ptbxl_folder / "records100/00000/00002_lr")
    arguments = ["predict", record, "--model", runs / "finetuned", "--pictures", tmp_path / "p", "--json"]
    capsys.readouterr()
    run(*arguments)
    # What is printed stays one object per line.
    json.loads(capsys.readouterr().out)
    (picture,) = (tmp_path / "p").iterdir()
    assert picture.name.endswith("records100_00000_00002_lr.png")
    with Image.open(picture) as image:
        assert image.width > 800


def _page_title(figure: Any) -> str:
    """What stands above the paper of a picture, on one line."""
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes]
    return next(title for title in titles if title.startswith("Recording"))


def test_when_a_fast_heart_is_drawn_then_one_picture_says_that_all_its_beats_were_read(
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
    runs: Path,
    ward: Path,
    ptbxl_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    run: Run,
    refused: Refused,
) -> None:
    metrics = tmp_path / "metrics.json"
    base = ["evaluate", "--data", ward, "--model", runs / "finetuned"]
    assert "has no column 'NORM' or 'MI' or 'STTC': it has tachy, inv" in refused(*base)
    assert "no label 'AFIB'" in refused(*base, "--map", "tachy=AFIB")
    assert "is no mapping" in refused(*base, "--map", "tachy")
    assert "names no label of the data" in refused(*base, "--map", "=MI")
    assert "have no label 'slow'" in refused(*base, "--map", "tachy=MI", "slow=NORM")
    mapped = [*base, "--map", "tachy=MI", "inv=STTC+NORM", "--compare-with", ptbxl_folder, "--split", "all"]
    run(*mapped, "--output", metrics)
    printed = capsys.readouterr().out
    # The split is that of the data: of the model's own source never patients that it was trained on.
    assert "on 60 all recordings of" in printed
    assert "on 12 test recordings of" in printed
    assert "  lost: " in printed
    found = json.loads(metrics.read_text())
    assert found["mapping"] == {"tachy": ["MI"], "inv": ["STTC", "NORM"]}
    # Every synthetic PTB-XL recording that is not fast is normal, so that both classes are in both sources.
    loss = found["loss"]
    assert loss["labels"] == ["tachy", "inv"]
    assert loss["other"]["value"] == pytest.approx(found["macro_auroc"]["value"])
    assert loss["lost"]["value"] == pytest.approx(loss["own"]["value"] - loss["other"]["value"])
    assert loss["lost"]["low"] <= loss["lost"]["value"] <= loss["lost"]["high"]


def test_when_a_benchmark_is_asked_for_then_table_and_csv_are_written(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, refused: Refused
) -> None:
    prepared, output = tmp_path / "super", tmp_path / "benchmark"
    run("prepare", ptbxl_folder, "--labels", "ptbxl_super", "--output", prepared)
    arguments = ["benchmark", "--tasks", prepared, "--models", f"clear={runs / 'pretrained'}"]
    arguments += ["--fractions", "25", "100", "--seeds", "0", "--probe-epochs", "2", "--output", output]
    capsys.readouterr()
    run(*arguments)
    printed = capsys.readouterr().out
    assert "| method | super 25% | super 100% |" in printed
    assert "super: left out, with fewer than 1 training or test recordings of a class: HYP, CD" in printed
    rows = pd.read_csv(output / "results.csv")
    assert set(zip(rows["model"], rows["head"], rows["fraction"], strict=True)) == {
        (model, head, fraction) for model in ("clear", "random") for head in ("mean", "hug") for fraction in (0.25, 1)
    }
    assert "two folders are called" in refused(*arguments, "--models", "a=x", "a=y")
    assert "'random' is taken" in refused(*arguments, "--models", f"random={runs / 'pretrained'}")
    assert "percentages above 0" in refused(*arguments, "--fractions", "0")


_WRITING = {
    "predict": ("predict ward.csv --model model --output FILE", "mine.csv"),
    "evaluate": ("evaluate --data ward.csv --model model --output FILE", "mine.json"),
    "picture of evaluate": ("evaluate --data ward.csv --model model --pictures FOLDER", "roc.png"),
    "picture of predict": ("predict ward.csv --model model --pictures FOLDER", "mine.png"),
    "render": ("render records/0-0 FILE", "mine.png"),
    "embed": ("embed ward.csv --model model --output FILE", "mine.parquet"),
    "pretrain": ("pretrain --data data --output FOLDER", "thesis.txt"),
    "restarted pretrain": ("pretrain --data data --restart --output FOLDER", "thesis.txt"),
    "finetune": ("finetune --data ward.csv --labels tachy --model model --restart --output FOLDER", "metrics.json"),
    "prepare": ("prepare ward.csv --output FOLDER", "README.md"),
    "benchmark": ("benchmark --tasks data --models model --output FOLDER", "results.csv"),
    "demo": ("demo --output FOLDER", "thesis.txt"),
    "overwriting demo": ("demo --overwrite --output FOLDER", "thesis.txt"),
    "publish": ("publish model you/model --dry-run FOLDER", "README.md"),
    "export": ("export model --output FOLDER", "model.onnx"),
    "convert": ("convert clear-hug checkpoint.pth FOLDER", "model.safetensors"),
}


@pytest.mark.parametrize("case", _WRITING)
def test_when_an_output_exists_that_another_run_made_then_nothing_is_lost(
    case: str,
    runs: Path,
    ward: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    refused: Refused,
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
    assert "is there already" in message or "holds" in message
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert mine.read_text() == "mine"


def test_when_an_output_is_an_input_then_it_is_refused(runs: Path, ward: Path, refused: Refused) -> None:
    records, model = ward.parent / "records", str(runs / "finetuned")
    before = {path: path.read_bytes() for path in ward.parent.rglob("*") if path.is_file()}
    for read, output in ((ward, ward), (ward, records / "1-0.dat"), (records / "0-0", records / "0-0.dat")):
        words = ["predict", str(read), "--model", model, "--overwrite", "--output", str(output)]
        assert "what is read" in refused(*words)
    evaluate = ["evaluate", "--data", str(ward), "--model", model, "--overwrite", "--output"]
    assert "what is read" in refused(*evaluate, runs / "finetuned" / "metrics.json")
    assert {path: path.read_bytes() for path in ward.parent.rglob("*") if path.is_file()} == before


def test_when_a_table_is_to_be_overwritten_then_it_is(
    runs: Path, ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, refused: Refused
) -> None:
    output = tmp_path / "table.csv"
    words = ["predict", ward.parent / "records" / "0-0", "--model", runs / "finetuned"]
    words += ["--output", output, "--pictures", tmp_path / "pictures"]
    run(*words)
    first = output.read_bytes()
    assert "is there already" in refused(*words)
    output.unlink()
    assert "holds" in refused(*words)
    output.write_text("old")
    run(*words, "--overwrite")
    assert output.read_bytes() == first


def test_when_the_output_would_replace_another_model_then_nothing_is_lost(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    shutil.copytree(runs / "pretrained", tmp_path / "pretrained")
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    for output in (tmp_path / "pretrained", tmp_path / "pretrained" / "model"):
        arguments = ["finetune", "--data", ptbxl_folder, "--model", tmp_path / "pretrained"]
        for more in ([], ["--restart"]):
            message = refused(*arguments, "--output", output, *more)
            assert "which no earlier run of this kind wrote" in message or "is, or holds, what is read" in message
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before
    weights = (runs / "finetuned" / "model" / "model.safetensors").read_bytes()
    arguments = ["pretrain", "--data", ptbxl_folder, "--output", runs / "finetuned", "--epochs", "1"]
    for more in ([], ["--restart"]):
        assert "which no earlier run of this kind wrote" in refused(*arguments, *more)
    assert (runs / "finetuned" / "model" / "model.safetensors").read_bytes() == weights


def test_when_a_label_has_one_class_among_the_tested_then_there_are_metrics_and_no_curves(
    runs: Path, ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    table = pd.read_csv(ward)
    table["path"] = str(ward.parent) + "/" + table["path"]
    table["split"] = np.where(table.index < 40, "train", "val")
    slow = table.index[(table["tachy"] == 0) & (table.index >= 50)]
    table.loc[slow, "split"] = "test"
    table.to_csv(tmp_path / "table.csv", index=False)
    base = ["--data", tmp_path / "table.csv", "--labels", "tachy"]
    train = ["finetune", *base, "--model", runs / "pretrained", "--output", tmp_path / "run"]
    run(*train, "--epochs", "1")
    assert "no ROC curves: no label has both classes" in capsys.readouterr().out
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert json.loads(text)["difference_of_macro_auroc"]["test"] is None
    assert "NaN" not in text
    evaluate = ["evaluate", *base, "--model", tmp_path / "run", "--pictures", tmp_path / "pictures"]
    run(*evaluate)
    assert "not defined: no label has both classes" in capsys.readouterr().out


def test_when_columns_are_classes_then_it_says_what_to_make_of_them(
    runs: Path, ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, refused: Refused
) -> None:
    table = pd.read_csv(ward)
    table["path"] = str(ward.parent) + "/" + table["path"]
    table["rhythm"] = np.where(table["tachy"] == 1, "fast", "slow")
    # Splits are drawn by id, which would else be a path that differs from run to run.
    table["record_id"] = [f"r{row}" for row in range(len(table))]
    table.drop(columns="patient_id").to_csv(tmp_path / "classes.csv", index=False)
    base = ["finetune", "--data", tmp_path / "classes.csv", "--model", runs / "pretrained"]
    base += ["--output", tmp_path / "run", "--no-control", "--epochs", "1"]
    assert "make a column of 1 and 0 for each label" in refused(*base, "--labels", "rhythm")
    run(*base, "--labels", "tachy")
    printed = capsys.readouterr().out
    assert "has no column `patient_id`: each recording counts as a patient of its own" in printed
    assert "fewer than 10 validation recordings with the label, so that its threshold is unsure: tachy" in printed


@pytest.mark.parametrize("classes", [("fast", "slow"), ("0", "2")], ids=["names", "numbers"])
def test_when_a_prepared_column_holds_classes_then_training_refuses_it(
    runs: Path,
    ward: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: tuple[str, str],
    run: Run,
    refused: Refused,
) -> None:
    table = pd.read_csv(ward)
    table["path"] = str(ward.parent) + "/" + table["path"]
    table["rhythm"] = np.where(table["tachy"] == 1, *classes)
    table.to_csv(tmp_path / "classes.csv", index=False)
    output = tmp_path / "prepared"
    command = ["prepare", tmp_path / "classes.csv", "--labels", "rhythm", "--output", output]
    said = refused(*command)
    assert "'rhythm'" in said
    assert "make a column of 1 and 0 for each class" in said
    assert not output.exists()
    run(*command, "--option", "problem_type=single_label_classification")
    to = ["--output", tmp_path / "run"]
    for verb in (
        ["finetune", "--data", output, "--model", runs / "pretrained", *to],
        ["benchmark", "--tasks", output, "--models", runs / "pretrained", *to],
    ):
        said = refused(*verb)
        assert f"the labels of {output} are the classes of one column, 'rhythm'" in said
        assert "make a column of 1 and 0 for each class" in said
        assert not (tmp_path / "run").exists()


def test_when_a_label_is_called_as_a_column_then_the_table_has_both(
    runs: Path, ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, refused: Refused
) -> None:
    model = tmp_path / "model"
    shutil.copytree(runs / "finetuned" / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["id2label"]["1"], config["label2id"] = "found", {"NORM": 0, "found": 1, "STTC": 2}
    (model / "config.json").write_text(json.dumps(config))
    table = tmp_path / "predictions.csv"
    assert "is a folder: name a file" in refused("predict", ward, "--model", model, "--output", tmp_path)
    run("predict", ward, "--model", model, "--output", table, "--threshold", "0")
    found = pd.read_csv(table)
    about = ["record_id", "start", "end", "found", "notes", *REPORTED]
    assert list(found.columns) == [*about, "NORM", "found (label)", "STTC"]
    assert set(found["found"][0].split("; ")) == {"NORM", "found", "STTC"}


def test_when_a_prediction_is_interrupted_then_what_is_done_is_written(
    runs: Path,
    ward: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Run,
    status: Callable[..., int],
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
    assert f"{rows} has the first 16 record(s) of 60" in capsys.readouterr().out
    assert pd.read_csv(rows)["record_id"].tolist() == [f"records/{patient}-0" for patient in range(16)]
    monkeypatch.undo()
    run(*arguments, "--overwrite")
    assert len(pd.read_csv(rows)) == 60


def test_when_a_seed_is_negative_then_the_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "--data", "x", "--model", "y", "--seed", "-1"])
    assert stopped.value.code == 2
    assert "-1 is not a whole number from 0" in capsys.readouterr().err


def _contradicted(folder: Path, classifier: Path) -> Path:
    """The classifier with labels of rhythm, all of them found."""
    shutil.copytree(classifier, folder)
    config = json.loads((folder / "config.json").read_text())
    names = ("SBRAD", "SR", "STACH")
    config["id2label"], config["label2id"] = dict(enumerate(names)), {name: row for row, name in enumerate(names)}
    config["label_thresholds"] = dict.fromkeys(names, 0.0)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_when_a_record_is_predicted_then_rate_beats_leads_and_what_is_implausible_are_said(
    classifier: Path,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    fast = make_recordings(1)[0]
    waveform, names = fast.waveform[1:].copy(), fast.lead_names[1:]
    waveform[3] = 0.25
    record = write_record(tmp_path / "fast", replace(fast, waveform=waveform, lead_names=names)).with_suffix("")
    model = _contradicted(tmp_path / "model", classifier)
    figures: list[Any] = []
    monkeypatch.setattr("clear_hug_hf.plotting.save_figure", lambda figure, path: figures.append(figure))
    capsys.readouterr()
    base = ["predict", record, "--model", model]
    run(*base, "--pictures", tmp_path / "pictures")
    _, summary, warning, *labels = capsys.readouterr().out.splitlines()
    rate, read, found, about = re.fullmatch(  # type: ignore[union-attr]
        r"  (\d+)/min, SDNN \d+ ms, RMSSD \d+ ms \(\d+% of the RR interval\), (\d+) of (\d+) beats read; (.*)", summary
    ).groups()
    assert 100 <= int(rate) <= 120
    assert read == found
    is_clear = "clear_hug" in classifier.name
    assert about == ("leads missing: I, aVL; leads flat: aVL" if is_clear else "leads missing: I; leads flat: aVL")
    assert warning.startswith("  ! 2 of 12 leads are missing" if is_clear else "  ! 1 of 8 leads are missing")
    notes = {line.split()[2]: line.partition("  ! ")[2] for line in labels}
    sentence = f"the heart rate of {rate}/min contradicts SBRAD: bradycardia is below 60/min"
    assert notes == {"SBRAD": sentence, "SR": "", "STACH": ""}
    (figure,) = figures
    title = _page_title(figure)
    assert summary.strip() in title
    assert "leads are missing" in title
    assert f"The heart rate of {rate}/min contradicts SBRAD" in title

    run(*base, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == {"SBRAD": sentence}
    assert round(told["report"]["heart_rate"]) == int(rate)
    assert told["report"]["beats_read"] == told["report"]["beats_found"] == int(found)
    assert told["report"]["flat_leads"] == ["aVL"]
    assert told["report"]["warnings"] == [warning.removeprefix("  ! ")]
    run(*base, "--output", tmp_path / "table.csv")
    (row,) = pd.read_csv(tmp_path / "table.csv").to_dict("records")
    assert {name: row[name] for name in ("heart_rate", "beats_found", "beats_read", "notes")} == {
        "heart_rate": told["report"]["heart_rate"],
        "beats_found": int(found),
        "beats_read": int(read),
        "notes": sentence,
    }
    assert row["missing_leads"] == "; ".join(told["report"]["missing_leads"])


@pytest.mark.parametrize(("unit", "looks_like"), [("mV", "uV"), ("uV", "mV")])
def test_when_the_unit_of_a_record_is_wrong_then_it_is_refused_with_the_one_that_fits(
    classifier: Path,
    unit: str,
    looks_like: str,
    make_recordings: MakeRecordings,
    write_record: WriteRecord,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    one = make_recordings(1)[0]
    factor = 1000 if unit == "mV" else 1
    header = write_record(tmp_path / "odd", replace(one, waveform=one.waveform, unit=unit))
    header.write_text(header.read_text().replace(f"1000/{unit}", f"{1000 / factor:g}/{unit}"))
    error = refused("predict", header, "--model", classifier)
    assert f"the samples look like {looks_like} and were given as {unit}, so correct the unit" in error
