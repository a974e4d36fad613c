"""`clear-hug prepare`, and the other verbs on what it writes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from clear_hug_hf.cli import main
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.records import Recording
from clear_hug_hf.training.folders import load_feature_extractor


Printed = Callable[..., str]
Refused = Callable[..., str]
RECIPE = ["--num-train-epochs", "3", "--per-device-train-batch-size", "8", "--no-control"]


@pytest.fixture(scope="module")
def prepared(ptbxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PTB-XL prepared with its superclasses, and one setting that is not a new model's."""
    folder = tmp_path_factory.mktemp("prepare") / "prepared"
    command = ["prepare", str(ptbxl_folder), "--labels", "ptbxl_super", "--output-dir", str(folder)]
    assert main([*command, "--shard-size", "20", "--windows", "all"]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folders of `pretrain` and `finetune` on the prepared folder."""
    folder, data = tmp_path_factory.mktemp("runs"), ["--data", str(prepared)]
    pretrained = str(folder / "pretrained")
    recipe = ["--num-train-epochs", "1", "--train-batch-size", "16"]
    assert main(["pretrain", *data, "--output-dir", pretrained, *recipe]) == 0
    command = ["finetune", *data, "--model", pretrained, "--output-dir", str(folder / "finetuned")]
    assert main([*command, "--labels", "STTC", "MI", *RECIPE]) == 0
    return folder


def test_when_a_source_is_prepared_then_counts_are_shown_and_the_second_time_nothing_is_done(
    ptbxl_folder: Path, tmp_path: Path, printed_by: Printed, refused: Refused
) -> None:
    command = ["prepare", ptbxl_folder, "--output-dir", tmp_path / "prepared"]
    assert "train               48        48         0        48" in printed_by(*command)
    assert "was already prepared with these settings: no recording was read" in printed_by(*command)
    (training,) = re.findall(r"^clear-hug (pretrain .*)$", (tmp_path / "prepared" / "README.md").read_text(), re.M)
    assert "data folder THIS_FOLDER does not exist" in refused(*training.split())
    message = refused(*command, "--windows", "center")
    assert "feature_extractor: windows was 'first' and is now 'center'" in message


def test_when_settings_are_in_a_yaml_file_then_options_override_them(
    prepared: Path, ptbxl_folder: Path, tmp_path: Path, printed_by: Printed, refused: Refused
) -> None:
    settings = {"labels": ["ptbxl_super"], "output_dir": str(prepared), "shard-size": 20, "windows": "center"}
    (tmp_path / "settings.yaml").write_text(json.dumps(settings))
    command = ["prepare", ptbxl_folder, "--config", tmp_path / "settings.yaml"]
    assert "windows was 'all' and is now 'center'" in refused(*command)
    assert "was already prepared with these settings" in printed_by(*command, "--windows", "all")


def test_when_jobs_of_an_array_prepare_then_they_report_how_far_the_whole_is(
    ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(ptbxl_folder), "--output-dir", str(tmp_path / "jobs"), "--shard-size", "20"]
    assert main([*command, "--shard-index", "1", "--num-shards", "2"]) == 0
    assert "2 of 5 shards are done" in capsys.readouterr().out
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "resuming, 2 of 5 shards are finished" in captured.err
    assert "train               48" in captured.out


def test_when_some_records_are_rejected_then_the_status_reports_it(
    ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "source", tmp_path / "prepared"
    shutil.copytree(ptbxl_folder, source)
    (source / "records100" / "00000" / "00003_lr.dat").unlink()
    assert main(["prepare", str(source), "--output-dir", str(output)]) == 1
    assert "rejected.csv lists the rejected recordings and why" in capsys.readouterr().out
    rejected = pd.read_csv(output / "rejected.csv", dtype=str)
    assert rejected["record_id"].tolist() == ["3"]
    assert "00003_lr.dat, which is missing" in rejected["reason"][0]


def test_when_own_recordings_are_listed_in_a_table_then_their_labels_and_drawn_splits_are_kept(
    make_recordings: Callable[..., list[Recording]], write_record: Callable[[Path, Recording], Path], tmp_path: Path
) -> None:
    rows = []
    for index, recording in enumerate(make_recordings(10, per_patient=2)):
        write_record(tmp_path / recording.record_id, replace(recording, labels=None))
        rows.append({"path": recording.record_id, "patient_id": recording.patient_id, "afib": index % 2, "age": 60})
    pd.DataFrame(rows).to_csv(tmp_path / "own.csv", index=False)
    output = tmp_path / "prepared"
    command = ["prepare", str(tmp_path / "own.csv"), "--labels", "afib", "--output-dir", str(output)]
    assert main([*command, "--split-fractions", "0.6", "0.2", "0.2", "--seed", "3"]) == 0
    datasets, _ = load_prepared(output)
    patients = [set(dataset["patient_id"]) for dataset in datasets.values()]
    assert [len(members) for members in patients] == [6, 2, 2]
    assert len(set.union(*patients)) == 10
    assert sum(row["afib"] for dataset in datasets.values() for row in dataset["labels"]) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "nothing"], "nothing"),
        (["--labels", "ptbxl_super", "ptbxl_all"], "2 label sets for ptbxl: choose one"),
        (["--reader-options", "color=red"], "ptbxl has no option 'color': choose from label_set"),
        (["--reader-options", "sampling_rate=250"], "not at 250 Hz"),
        (["--kind", "ludb"], "ludb.csv does not exist"),
        (["--stride-seconds", "5"], "--stride-seconds needs --windows all"),
        (["--windows", "all", "--stride-seconds", "-5"], "stride_seconds must be a number between"),
        (["--shard-index", "3"], "set both"),
        (["--split-fractions", "0.5", "0.5", "0.5"], "sum to 1"),
        (["--split-fractions", "0.5", "0.5"], "--split-fractions: expected 3 arguments"),
        (["--split-fractions", "1.5", "0", "0"], "split_fractions is 1.5: it must be at most 1"),
        (["--extractor-settings", "color=1"], "ClearHugFeatureExtractor has no setting 'color'"),
        (["--model", "absent", "--system", "clear_hug"], "leave out one of them"),
        (["--model", "absent"], "the model folder absent does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_when_an_option_cannot_be_used_then_one_sentence_reports_it_and_nothing_is_written(
    ptbxl_folder: Path, tmp_path: Path, refused: Refused, arguments: list[str], message: str
) -> None:
    assert message in refused("prepare", ptbxl_folder, "--output-dir", tmp_path / "prepared", *arguments)
    assert not (tmp_path / "prepared").exists()


def test_when_there_are_no_records_then_one_sentence_reports_it(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "source").mkdir()
    assert "contains no recordings" in refused("prepare", tmp_path / "source", "--output-dir", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_when_help_is_asked_for_then_it_teaches_the_table_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    shown = capsys.readouterr().out
    assert "path,patient_id,split,afib,lvh" in shown
    assert "ptbxl_super" in shown


def test_when_models_are_trained_on_a_prepared_folder_then_they_keep_its_extractor(runs: Path) -> None:
    assert load_feature_extractor(runs / "pretrained" / "model").windows == "all"
    metrics = json.loads((runs / "finetuned" / "metrics.json").read_text())
    assert metrics["labels"] == ["STTC", "MI"]
    counts = {split: one["recordings"] for split, one in metrics["data"]["sets"].items()}
    assert counts == {"train": 48, "validation": 12, "test": 12}
    assert metrics["data"]["title"].startswith("PTB-XL")
    assert (metrics["data"]["license"], metrics["data"]["label_set"]) == ("CC BY 4.0", "ptbxl_super")


def test_when_a_model_is_evaluated_then_prepared_and_raw_recordings_agree(
    runs: Path, prepared: Path, ptbxl_folder: Path, tmp_path: Path
) -> None:
    found = []
    for name, data in (("prepared", prepared), ("raw", ptbxl_folder)):
        command = ["evaluate", "--data", str(data), "--model", str(runs / "finetuned"), "--labels", "MI", "STTC"]
        assert main([*command, "--output", str(tmp_path / f"{name}.json")]) == 0
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert found[0]["macro_auroc"] == found[1]["macro_auroc"]
    assert found[0]["num_recordings"] == 12


def test_when_a_folder_was_prepared_otherwise_then_the_model_refuses_it_and_prepare_can_mend_it(
    runs: Path, prepared: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(runs / "finetuned" / "model", model)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps({**settings, "do_rescale": True}))
    evaluate = ["evaluate", "--model", str(model), "--labels", "STTC", "MI", "--data"]
    assert main([*evaluate, str(prepared)]) == 2
    assert "was prepared with do_rescale=False, but the model requires do_rescale=True" in capsys.readouterr().err
    command = ["prepare", str(ptbxl_folder), "--labels", "ptbxl_super", "--output-dir", str(tmp_path / "again")]
    assert main([*command, "--model", str(model)]) == 0
    assert main([*evaluate, str(tmp_path / "again")]) == 0


def test_when_recordings_are_scaled_and_short_as_the_papers_cpsc_then_the_classifier_is_trained_and_reads_them_so(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared, output = str(tmp_path / "prepared"), tmp_path / "run"
    command = ["prepare", str(ptbxl_folder), "--labels", "ptbxl_super", "--output-dir", prepared]
    command += ["--extractor-settings", "do_rescale=true", "window_seconds=5", "--windows", "all"]
    assert main(command) == 0
    assert len(load_prepared(prepared)[0]["test"]) == 24, "two windows of each recording"
    command = ["finetune", "--data", prepared, "--model", str(runs / "pretrained"), "--output-dir", str(output)]
    assert main([*command, "--num-train-epochs", "1", "--no-control"]) == 0
    adopted = capsys.readouterr().out.split(f"adopts the preprocessing of {prepared}: ")[1].splitlines()[0]
    assert {*adopted.split(", ")} == {"window_seconds=5", "do_rescale=True"}
    settings = json.loads((output / "model" / "preprocessor_config.json").read_text())
    assert (settings["do_rescale"], settings["rescale_limit"], settings["window_seconds"]) == (True, 3.0, 5)
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["data"]["sets"]["test"] == {"recordings": 12, "patients": 12}
    found = [metrics["pretrained"]["test"]]
    for name, data in (("prepared", prepared), ("raw", str(ptbxl_folder))):
        command = ["evaluate", "--data", data, "--model", str(output), "--output", str(tmp_path / f"{name}.json")]
        assert main(command) == 0
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    for one in found:
        assert one["macro_auroc"] == found[0]["macro_auroc"]
        # Windows are not counted.
        assert (one["num_recordings"], one["num_patients"], one["per_label"]["MI"]["num_known"]) == (12, 12, 12)


def test_when_a_prepared_folder_has_no_labels_then_finetuning_refuses_it(
    runs: Path, ptbxl_folder: Path, tmp_path: Path, run: Callable[..., None], refused: Refused
) -> None:
    prepared, output = tmp_path / "prepared", tmp_path / "run"
    run("prepare", ptbxl_folder, "--output-dir", prepared)
    message = refused("finetune", "--data", prepared, "--model", runs / "pretrained", "--output-dir", output)
    assert "there are no labels in the recordings of" in message


def test_when_a_label_has_one_value_then_a_warning_of_one_line_reports_it(
    ptbxl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = sorted(ptbxl_folder.rglob("*.hea"))[0]
    (tmp_path / "one.csv").write_text(f"path,af\n{record},0\n")
    assert main(["prepare", str(tmp_path / "one.csv"), "--labels", "af", "--output-dir", str(tmp_path / "out")]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) == 1
    assert warned[0].startswith("clear-hug: warning: the label 'af' of")
