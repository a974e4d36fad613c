"""The pipeline gives what extractor and model give by hand, for every kind of input, with and without the package."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from transformers import AutoConfig, AutoFeatureExtractor, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines import base as pipelines_base
from transformers.pipelines.pt_utils import KeyDataset

import clear_hug_hf
from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
    EcgClassificationPipeline,
    Recording,
    prepare,
    read_record,
)
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.inference.records import RecordPrediction, predict_records
from clear_hug_hf.modeling.modeling_ecg import Familiarity
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.folders import save_model_folder


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    # Larger than the default, so that recordings get scores of their own.
    "initializer_range": 0.3,
}
LABELS = ("a", "b", "c")
PIPELINE_FILE = "pipeline_ecg_classification.py"
Pipe = EcgClassificationPipeline
Recordings = list[Recording]
MakeRecordings = Callable[..., Recordings]
WriteRecord = Callable[[Path, Recording], Path]


@pytest.fixture(scope="module")
def model() -> ClearHugForSequenceClassification:
    torch.manual_seed(0)
    config = ClearHugConfig.preset("tiny", **SMALL, id2label=dict(enumerate(LABELS)))
    return ClearHugForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def pipe(model: ClearHugForSequenceClassification) -> EcgClassificationPipeline:
    return EcgClassificationPipeline(model, feature_extractor=ClearHugFeatureExtractor(), device="cpu")


@pytest.fixture(scope="module")
def published(pipe: Pipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(make_recordings: MakeRecordings) -> list[Recording]:
    """Of 10, 25 and 10 seconds at 100 Hz, and of 10 s at 250 Hz; of few beats, so that windows last ten seconds."""
    first, second, third, fourth = make_recordings(8)[1::2]
    long = replace(
        second, waveform=np.concatenate([second.waveform, third.waveform, fourth.waveform[:, :500]], axis=1)
    )
    return [first, long, fourth, make_recordings(2, sampling_rate=250.0)[1]]


@pytest.fixture
def paths(recordings: Recordings, write_record: WriteRecord, tmp_path: Path) -> list[str]:
    """The recordings as records, which round samples to 16 bits."""
    return [str(write_record(tmp_path / f"{index}", one)) for index, one in enumerate(recordings)]


def _about(recording: Recording) -> dict[str, Any]:
    """What must be known about its samples."""
    return {"sampling_rate": recording.sampling_rate, "lead_names": recording.lead_names, "unit": recording.unit}


@pytest.fixture(scope="module")
def dataset(make_recordings: MakeRecordings) -> datasets.Dataset:
    return prepare(make_recordings(5), ClearHugFeatureExtractor(), progress=False).dataset


CALIBRATION = {"a": [0.5, 0.2], "c": [1.5, -1.0]}


def _by_hand(pipe: Pipe, recording: Recording, **parameters: Any) -> np.ndarray:
    """Probabilities of the windows of a recording `(num_windows, num_labels)`."""
    inputs = pipe.feature_extractor(**{**recording.as_inputs(), "windows": "all", **parameters}, return_tensors="pt")
    with torch.no_grad():
        return pipe.model(**inputs).logits.sigmoid().numpy()


def _scores(result: list[dict[str, Any]]) -> np.ndarray:
    """Scores in the order of the labels; a result holds each label once."""
    found = {entry["label"]: entry["score"] for entry in result}
    assert len(found) == len(result) == len(LABELS)
    return np.array([found[label] for label in LABELS])


def test_when_a_recording_is_of_one_window_then_its_labels_are_sorted_by_the_scores_of_the_model(
    pipe: Pipe, recordings: Recordings
) -> None:
    result = pipe(recordings[0])
    np.testing.assert_allclose(_scores(result), _by_hand(pipe, recordings[0])[0], atol=1e-6)
    assert all(set(entry) == {"label", "score"} and type(entry["score"]) is float for entry in result)
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3


def test_when_a_recording_is_long_then_its_windows_are_put_together(pipe: Pipe, recordings: Recordings) -> None:
    windows = _by_hand(pipe, recordings[1])
    assert windows.shape == (3, 3)
    assert np.ptp(windows, axis=0).min() > 1e-4
    result = pipe(recordings[1])
    np.testing.assert_allclose(_scores(result), windows.mean(axis=0), atol=1e-6)
    for entry in result:
        assert [(one["start"], one["end"]) for one in entry["windows"]] == [(0.0, 10.0), (10.0, 20.0), (15.0, 25.0)]
        found = [one["score"] for one in entry["windows"]]
        np.testing.assert_allclose(found, windows[:, LABELS.index(entry["label"])], atol=1e-6)
    np.testing.assert_allclose(_scores(pipe(recordings[1], aggregate="max")), windows.max(axis=0), atol=1e-6)
    first = pipe(recordings[1], windows="first")
    np.testing.assert_allclose(_scores(first), windows[0], atol=1e-6)
    assert "windows" not in first[0]
    center = _by_hand(pipe, recordings[1], windows="center")[0]
    assert np.abs(center - windows).max(axis=1).min() > 1e-4
    np.testing.assert_allclose(_scores(pipe(recordings[1], windows="center")), center, atol=1e-6)


def test_when_a_recording_comes_in_any_form_then_the_scores_are_the_same(pipe: Pipe, paths: list[str]) -> None:
    header = Path(paths[3])
    recording = read_record(header)
    expected = pipe(recording)
    np.testing.assert_allclose(_scores(expected), _by_hand(pipe, recording)[0], atol=1e-6)
    for path in (header, str(header), header.with_suffix(""), str(header.with_suffix(".dat"))):
        assert pipe(path) == expected
    fields = {"sampling_rate": 250, "lead_names": tuple(recording.lead_names), "unit": ["mV"] * 12}
    assert pipe({"waveform": recording.waveform, **fields, "age": 60}) == expected
    assert pipe({"waveform": torch.from_numpy(recording.waveform).requires_grad_(), **fields}) == expected
    assert pipe({"waveform": recording.waveform.tolist(), **fields}) == expected
    assert pipe(recording.waveform, **fields) == expected
    assert pipe(torch.from_numpy(recording.waveform), **fields) == expected
    assert pipe(recording.waveform * 1000, **{**fields, "unit": "uV"})[0]["score"] == pytest.approx(
        expected[0]["score"], abs=1e-4
    )
    # The recording's own fields take precedence.
    assert pipe({"waveform": recording.waveform, "sampling_rate": 250}, **{**fields, "sampling_rate": 100}) == expected
    assert pipe(recording, sampling_rate=500, unit="NU") == expected


def test_when_there_are_many_recordings_then_there_are_as_many_results_in_order(
    pipe: Pipe, recordings: Recordings
) -> None:
    expected = [pipe(recording) for recording in recordings]
    assert len({result[0]["score"] for result in expected}) == 4
    assert pipe(recordings) == expected
    assert pipe(tuple(recordings)) == expected
    arrays = [recording.waveform for recording in recordings[:3]]
    stated = _about(recordings[0])
    assert pipe(arrays, **stated) == expected[:3]
    assert pipe([arrays[0], recordings[3]], **stated) == [expected[0], expected[3]]
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []

    read = []

    def generate() -> Iterator[Recording]:
        for number, recording in enumerate(recordings):
            read.append(number)
            yield recording

    results = pipe(generate())
    assert len(read) < 4  # results are made as they are asked for
    assert list(results) == expected
    assert list(pipe(map(recordings.__getitem__, range(4)))) == expected


def test_when_recordings_come_as_a_dataset_then_they_are_distinguished_from_one_recording(
    pipe: Pipe, paths: list[str]
) -> None:
    expected = [pipe(path) for path in paths]
    assert pipe(paths) == expected
    table = datasets.Dataset.from_dict({"path": paths})
    assert list(pipe(KeyDataset(table, "path"))) == expected
    assert list(pipe(table["path"])) == expected
    waveforms = datasets.Dataset.from_list(
        [{"waveform": one.waveform, **_about(one)} for one in map(read_record, paths[:2])]
    )
    formats = [waveforms.with_format("numpy"), waveforms.with_format("torch"), waveforms.to_iterable_dataset()]
    for rows in (waveforms, *formats):
        assert list(pipe(rows)) == expected[:2]


def test_when_a_record_of_wfdb_is_given_then_its_samples_and_header_are_read(pipe: Pipe, paths: list[str]) -> None:
    path = paths[3].removesuffix(".hea")
    expected = pipe(path)
    physical, digital = wfdb.rdrecord(path), wfdb.rdrecord(path, physical=False)
    assert pipe(physical) == expected
    assert pipe(digital) == expected
    assert digital.p_signal is None  # the record is left as it was
    assert pipe([physical, path, digital]) == [expected] * 3
    expanded = wfdb.rdrecord(path, smooth_frames=False)
    for record in (expanded, wfdb.MultiRecord(record_name="one"), wfdb.Record(d_signal=np.zeros((1000, 1), int))):
        record.sig_name = record.sig_name or ["I"]
        with pytest.raises(
            ValueError, match=r"contains no samples at a common sampling rate: read it with `wfdb.rdrec"
        ):
            pipe(record)
    bare = wfdb.Record(p_signal=physical.p_signal, fs=physical.fs, sig_name=physical.sig_name)
    with pytest.raises(ValueError, match="unit is required"):
        pipe(bare)
    assert pipe(bare, unit="mV") == expected


def test_when_a_table_names_recordings_then_there_is_a_list_of_results(pipe: Pipe, paths: list[str]) -> None:
    table = pd.DataFrame({"patient_id": list("abcd"), "path": paths}, index=[7, 7, 8, 9])
    assert pipe(table) == [pipe(path) for path in paths]
    assert pipe(table[:0]) == []
    table.iloc[2, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"row 2 of the table \(counted from 0\) has no path: fill in the column `path`"
    ):
        pipe(table)


def test_when_a_table_holds_samples_then_it_is_one_recording(pipe: Pipe, recordings: Recordings) -> None:
    one = recordings[3]
    expected = pipe(one)
    stated = {"sampling_rate": one.sampling_rate, "unit": "mV"}
    table = pd.DataFrame(one.waveform.T, columns=list(one.lead_names))
    assert pipe(table, **stated) == expected
    assert pipe([table, table[one.lead_names[::-1]]], **stated) == [expected, expected]
    assert pipe(pd.DataFrame(one.waveform.T), lead_names=one.lead_names, **stated) == expected
    with pytest.raises(ValueError, match="sampling_rate is required"):
        pipe(table, unit="mV")
    with pytest.raises(ValueError, match=r"must have a numeric column for each lead.* got I, who"):
        pipe(pd.DataFrame({"I": [0.0, 1.0], "who": ["a", "b"]}), **stated)


def test_when_rows_are_prepared_then_the_scores_are_those_of_predict(pipe: Pipe, dataset: datasets.Dataset) -> None:
    expected = predict(pipe.model, dataset, pipe.feature_extractor).probabilities
    assert np.ptp(expected, axis=0).min() > 1e-4
    for rows in (dataset, dataset.with_format("numpy"), dataset.with_format("torch"), list(dataset)):
        results = list(pipe(rows, batch_size=2))
        np.testing.assert_allclose([_scores(result) for result in results], expected, atol=1e-6)
    np.testing.assert_allclose(_scores(pipe(dataset[2])), expected[2], atol=1e-6)


def test_when_a_long_recording_is_partly_fast_then_its_prepared_rows_together_score_as_the_pipeline(
    pipe: Pipe, make_recordings: MakeRecordings
) -> None:
    fast, slow = make_recordings(2)
    both = replace(fast, waveform=np.concatenate([fast.waveform, slow.waveform], axis=1))
    rows = prepare([slow, both], pipe.feature_extractor.replace(windows="all"), progress=False).dataset
    found = predict(pipe.model, rows, pipe.feature_extractor)
    assert found.num_windows is not None
    assert found.num_windows.tolist() == [1, 2, 1]
    expected = [_scores(pipe(slow)), _scores(pipe(both))]
    assert len(pipe(both)[0]["windows"]) == 3
    # Prepared samples are rounded to 16 bits.
    np.testing.assert_allclose(found.by_recording().probabilities, expected, atol=1e-4)


def test_when_the_model_is_calibrated_then_windows_are_before_their_mean_and_every_way_gives_the_same(
    pipe: Pipe, recordings: Recordings, dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = pipe(recordings[1], function_to_apply="none", aggregate="none")
    uncalibrated = _scores(pipe(recordings[1]))
    monkeypatch.setattr(pipe.model.config, "label_calibration", CALIBRATION)
    assert pipe(recordings[1], function_to_apply="none", aggregate="none") == logits
    windows = np.array([_scores(window["labels"]) for window in logits])
    assert len(windows) > 1
    scales, offsets = np.array([CALIBRATION["a"], [1.0, 0.0], CALIBRATION["c"]]).T
    expected = (1 / (1 + np.exp(-(windows * scales + offsets)))).mean(axis=0)
    scores = _scores(pipe(recordings[1]))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores[1] == uncalibrated[1]
    (prediction,) = predict_records(pipe.model, pipe.feature_extractor, [recordings[1]])
    assert isinstance(prediction, RecordPrediction)
    assert prediction.probabilities is not None
    np.testing.assert_array_equal(prediction.probabilities, scores.astype(np.float32))
    rows = predict(pipe.model, dataset, pipe.feature_extractor).probabilities
    np.testing.assert_allclose([_scores(result) for result in pipe(list(dataset))], rows, atol=1e-6)


def test_when_the_model_knows_its_training_recordings_then_one_unlike_them_is_marked(
    pipe: Pipe, recordings: Recordings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipe(recordings[1])
    about = {"num_rows": 12, "pooled_rank": 1, "false_alarm_rate": 0.02, "num_recordings": 183}
    monkeypatch.setattr(pipe.model.config, "familiarity", about)
    monkeypatch.setattr(pipe.model, "familiarity", Familiarity(pipe.model.config))
    for scale, is_unlike in ((1e-3, False), (1e3, True)):
        pipe.model.familiarity.pooled_scales.fill_(scale)
        caplog.clear()
        with caplog.at_level("WARNING"):
            result = pipe(recordings[1], return_report=True)
        assert (
            any("unlike the recordings that the model was trained on" in text for text in caplog.messages) == is_unlike
        )
        (prediction,) = predict_records(pipe.model, pipe.feature_extractor, [recordings[1]])
        assert isinstance(prediction, RecordPrediction)
        assert result["labels"] == expected
        assert result["distance"] == pytest.approx(prediction.distance)
        assert result["distance"] == pytest.approx(np.mean([window.distance for window in prediction.windows]))
        assert (result["distance"] > 1) == is_unlike
        assert (result["unfamiliar"] is not None) == is_unlike
    assert "2.0% of 183 recordings of the same source" in result["unfamiliar"]
    assert "distance" not in pipe(recordings[1])[0]


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_when_windows_are_batched_then_nothing_changes(pipe: Pipe, recordings: Recordings, batch_size: int) -> None:
    recordings = [*recordings, recordings[1]]
    alone = pipe(recordings)
    batched = pipe(recordings, batch_size=batch_size)
    assert len(batched) == len(alone) == 5
    for one, other in zip(alone, batched, strict=True):
        np.testing.assert_allclose(_scores(one), _scores(other), atol=1e-6)
        assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
        assert [len(entry.get("windows", ())) for entry in one] == [len(entry.get("windows", ())) for entry in other]
    np.testing.assert_allclose(_scores(pipe(recordings[1], batch_size=batch_size)), _scores(alone[1]), atol=1e-6)


def test_when_labels_are_chosen_then_only_those_come(
    pipe: Pipe, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = pipe(recordings[0])
    scores = [entry["score"] for entry in everything]
    assert pipe(recordings[0], top_k=2) == everything[:2]
    assert pipe(recordings[0], top_k=np.int64(9)) == everything
    # A label counts from its threshold on.
    assert pipe(recordings[0], threshold=scores[1]) == everything[:2]
    assert pipe(recordings[0], threshold=scores[1], top_k=1) == everything[:1]
    assert pipe(recordings[0], threshold=float(np.nextafter(np.float32(scores[0]), np.float32(1)))) == []
    assert pipe(recordings[0], threshold=0) == everything

    names = [entry["label"] for entry in everything]
    limits = {names[0]: min(1.0, scores[0] + 0.01), names[2]: scores[2]}
    monkeypatch.setattr(pipe.model.config, "label_thresholds", limits)
    chosen = [entry for entry in everything[1:] if entry["label"] == names[2] or entry["score"] >= 0.5]
    assert pipe(recordings[0], threshold="model") == chosen
    monkeypatch.setattr(pipe.model.config, "label_thresholds", None)
    assert pipe(recordings[0], threshold="model") == pipe(recordings[0], threshold=0.5)


def test_when_the_problem_type_differs_then_so_does_the_function(
    pipe: Pipe, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = _scores(pipe(recordings[0], function_to_apply="none")).astype(np.float32)
    softmax = torch.from_numpy(logits).softmax(dim=0).numpy()
    for problem_type, expected in (
        ("multi_label_classification", torch.from_numpy(logits).sigmoid().numpy()),
        ("single_label_classification", softmax),
        ("regression", logits),
    ):
        monkeypatch.setattr(pipe.model.config, "problem_type", problem_type)
        np.testing.assert_allclose(_scores(pipe(recordings[0])), expected, atol=1e-6)
        np.testing.assert_allclose(_scores(pipe(recordings[0], function_to_apply="softmax")), softmax, atol=1e-6)
    with pytest.raises(ValueError, match="threshold requires scores from 0 to 1"):
        pipe(recordings[0], threshold=0.5)


def test_when_logits_are_huge_then_scores_are_finite(
    pipe: Pipe, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe.model.classifier.bias, "data", torch.tensor([-500.0, 0.0, 500.0]))
    with np.errstate(all="raise", under="ignore"):
        for function in ("sigmoid", "softmax"):
            scores = _scores(pipe(recordings[0], function_to_apply=function))
            assert scores[0] == pytest.approx(0.0)
            assert scores[2] == pytest.approx(1.0)


def test_when_parameters_are_given_early_then_a_call_can_override_them(
    model: ClearHugForSequenceClassification, pipe: Pipe, recordings: Recordings
) -> None:
    given = {"top_k": 1, "windows": "first", "batch_size": 2, **_about(recordings[0])}
    early = Pipe(model, feature_extractor=ClearHugFeatureExtractor(), device="cpu", **given)
    everything = pipe(recordings[1])
    assert len(early(recordings[1].waveform)) == 1
    assert "windows" not in early(recordings[1])[0]
    assert early(recordings[1].waveform, top_k=None, windows="all", batch_size=1) == everything
    assert len(early(recordings[1])) == 1


def test_when_a_window_holds_no_beat_then_the_extractors_choice_holds(
    pipe: Pipe, recordings: Recordings, dataset: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    waveform = np.concatenate([recordings[0].waveform, np.zeros((12, 1000), dtype=np.float32)], axis=1)
    half = replace(recordings[0], waveform=waveform, record_id="half")
    with caplog.at_level("WARNING"):
        np.testing.assert_allclose(_scores(pipe(half)), _scores(pipe(recordings[0])), atol=1e-2)
    assert caplog.messages == ["half: 10-20 s skipped: every lead is flat or missing"]
    alone = replace(half, waveform=np.flip(waveform, axis=1))
    with pytest.raises(InputError, match="half: the recording contains no signal between 0 s and 10 s"):
        pipe(alone, windows="first")
    masked = pipe(half, on_no_beats="mask")
    np.testing.assert_allclose(_scores(masked), _by_hand(pipe, half, on_no_beats="mask").mean(axis=0), atol=1e-6)
    row = {**dataset[0], "r_peaks": []}
    with pytest.raises(ValueError, match="the row contains no beats"):
        pipe(row)
    assert len(pipe(row, on_no_beats="mask")) == 3


def test_when_the_model_is_in_training_or_of_half_precision_then_scores_are_still_those(
    model: ClearHugForSequenceClassification, recordings: Recordings
) -> None:
    other = copy.deepcopy(model)
    half = EcgClassificationPipeline(other, feature_extractor=ClearHugFeatureExtractor(), device="cpu")
    other.train()
    expected = _by_hand(EcgClassificationPipeline(model, feature_extractor=half.feature_extractor), recordings[0])[0]
    np.testing.assert_allclose(_scores(half(recordings[0])), expected, atol=1e-6)
    other.to(torch.bfloat16)
    np.testing.assert_allclose(_scores(half(recordings[0])), expected, atol=0.03)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (5, "int is not a supported recording: pass the path of a recording, a dict"),
        (None, "NoneType is not a supported recording"),
        (b"one", "bytes is not a supported recording"),
        ([[[0.0, 1.0]]], "a list inside a list is not a recording"),
        ([5], "int is not a supported recording"),
        ({}, "must contain .*, got a dict with nothing"),
        ({"array": np.zeros((12, 1000))}, "must contain \"waveform\", got a dict with 'array'"),
        ({"signal": np.zeros((12, 1000))}, "lacks the column 'signal_scale'"),
        (np.zeros(1000), r"must have shape \(leads, samples\), got 1 dimension\(s\): pass several"),
        (np.zeros((2, 12, 1000)), r"got 3 dimension\(s\)"),
        ({"waveform": [[0.0, 1.0], [0.0]]}, "got rows of different lengths"),
        ({"waveform": "one"}, r"got 0 dimension\(s\)"),
        (np.zeros((12, 1000)), "sampling_rate is required"),
        (np.full((12, 1000), "a"), "must contain real numbers"),
    ],
)
def test_when_an_input_is_no_recording_then_one_sentence_reports_it(pipe: Pipe, inputs: Any, message: str) -> None:
    stated = {"sampling_rate": 100} if getattr(inputs, "dtype", None) == np.dtype("<U1") else {}
    with pytest.raises(ValueError, match=message) as caught:
        pipe(inputs, **stated)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling_rate": "fast"}, "sampling_rate must be a number .*, got 'fast'"),
        ({"sampling_rate": [100, 100]}, "sampling_rate must be one number"),
        ({"lead_names": None}, "lead_names is required"),
        ({"lead_names": "II"}, "lead_names must be a list with one name"),
        ({"lead_names": 12}, "lead_names must be a list with one name"),
        ({"lead_names": ["I", "II"]}, "12 rows but there are 2 lead names"),
        ({"unit": 1}, "unit must be mV, uV, V or NU"),
        ({"unit": "mmHg"}, "mmHg"),
        ({"unit": ["mV", "mV"]}, "one for each of the 12 leads, got 2"),
        ({"waveform": np.zeros((12, 1000))}, "all leads are flat"),
        ({"waveform": np.zeros((12, 50))}, "at least 1 s long"),
    ],
)
def test_when_a_recording_cannot_be_used_then_the_reason_is_reported(
    pipe: Pipe, recordings: Recordings, wrong: dict[str, Any], message: str
) -> None:
    fields = {"waveform": recordings[0].waveform, **_about(recordings[0]), **wrong}
    with pytest.raises(ValueError, match=message) as caught:
        pipe(fields)
    assert "\n" not in str(caught.value)
    # One bad recording among good ones is as loud.
    with pytest.raises(ValueError, match=message):
        pipe([recordings[0], Recording(record_id="bad", **fields)], batch_size=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling_rate": 500.0}, "prepared at 500 Hz and the model expects 100 Hz"),
        ({"r_peaks": None}, "lacks the column 'r_peaks'"),
        ({"signal": np.zeros((3, 1000))}, r"its signal has the shape \(3, 1000\), and its scales \(12,\)"),
        ({"signal_scale": [1.0]}, r"and its scales \(1,\); prepare the recordings again"),
    ],
)
def test_when_a_row_is_not_as_prepared_then_the_reason_is_reported(
    pipe: Pipe, dataset: datasets.Dataset, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe({**dataset[0], **wrong})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 0}, "top_k is 0: it must be an integer of at least 1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_k": True}, "top_k is True"),
        ({"threshold": 1.1}, 'threshold is 1.1: it must be a number from 0 to 1, or "model"'),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "mine"}, "threshold is 'mine'"),
        ({"threshold": True}, "threshold is True"),
        ({"threshold": 0.5, "function_to_apply": "none"}, "threshold requires scores from 0 to 1"),
        ({"function_to_apply": "relu"}, "function_to_apply is 'relu': choose one of 'sigmoid', 'softmax', 'none'"),
        ({"aggregate": "median"}, "aggregate is 'median': choose one of 'mean', 'max'"),
        (
            {"windows": "last"},
            "windows is 'last': choose one of 'first', 'center', 'all'",
        ),
        ({"on_no_beats": "skip"}, "on_no_beats is 'skip': choose one of 'raise', 'mask'"),
        ({"topk": 1}, "unknown parameter 'topk': choose from"),
        ({"batch_size": 0}, "batch_size is 0: it must be an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
    ],
)
def test_when_a_parameter_makes_no_sense_then_it_is_refused(
    pipe: Pipe, recordings: Recordings, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(recordings[0], **parameters)
    with pytest.raises(ValueError, match=message):
        EcgClassificationPipeline(pipe.model, feature_extractor=pipe.feature_extractor, **parameters)(recordings[0])


def test_when_a_record_cannot_be_read_then_the_file_is_named(
    pipe: Pipe, recordings: Recordings, write_record: WriteRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("absent", "absent.mat", "https://example.com/absent"):
        with pytest.raises(FileNotFoundError, match=r"absent\.hea does not exist: check the path of the record"):
            pipe([path])
    for folder in (str(tmp_path), ""):
        with pytest.raises(ValueError, match="is a folder: pass one record in it"):
            pipe(folder)
    header = write_record(tmp_path / "one", recordings[0])
    samples = header.with_suffix(".dat").read_bytes()
    header.with_suffix(".dat").write_bytes(samples[:1000])
    with pytest.raises(ValueError, match=r"one\.dat contains \d+ samples per lead but the header declares 1000"):
        pipe(header)
    header.with_suffix(".dat").write_bytes(samples)
    silent = replace(recordings[0], waveform=np.zeros((12, 1000), dtype=np.float32))
    with pytest.raises(InputError, match=r"two\.hea: the recording contains no signal: all leads are flat"):
        pipe(write_record(tmp_path / "two", silent))
    monkeypatch.setitem(sys.modules, "wfdb", None)
    assert len(pipe(header)) == 3, "samples of 16 bits need no other package"
    header.write_text(header.read_text().replace(" 16 ", " 212 "))
    with pytest.raises(ImportError, match=r"the format of .*one\.hea needs wfdb, which is not .*: pip install wfdb"):
        pipe(header)


def test_when_there_is_nothing_to_classify_with_then_it_is_reported(
    model: ClearHugForSequenceClassification, recordings: Recordings
) -> None:
    with pytest.raises(ValueError, match="the feature extractor is missing"):
        EcgClassificationPipeline(model)
    encoder = EcgClassificationPipeline(model.clear_hug, feature_extractor=ClearHugFeatureExtractor(), device="cpu")
    with pytest.raises(ValueError, match="ClearHugModel returns no logits"):
        encoder(recordings[0])


def test_when_the_package_is_imported_then_the_task_is_known_and_importing_again_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(pipelines_base.logger, "warning", lambda message, *_: warnings.append(message))
    importlib.reload(clear_hug_hf)
    assert PIPELINE_REGISTRY.check_task("ecg-classification")[1]["impl"] is EcgClassificationPipeline
    assert not warnings


def test_when_a_pipeline_is_saved_then_only_its_own_folder_names_it(
    pipe: Pipe, published: Path, tmp_path: Path
) -> None:
    saved = json.loads((published / "config.json").read_text())["custom_pipelines"]
    assert saved["ecg-classification"]["impl"] == "pipeline_ecg_classification.EcgClassificationPipeline"
    assert saved["ecg-classification"]["pt"] == [
        "AutoModelForSequenceClassification",
        "AutoModelForImageClassification",
    ]
    assert (published / PIPELINE_FILE).is_file()
    assert "padding_value" not in json.loads((published / "preprocessor_config.json").read_text())

    pipe.model.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert not (tmp_path / PIPELINE_FILE).exists()


@pytest.mark.parametrize("trust", [None, True])
def test_when_the_package_is_installed_then_a_published_folder_needs_no_trust(
    pipe: Pipe, published: Path, recordings: Recordings, trust: bool | None
) -> None:
    loaded = pipeline("ecg-classification", model=str(published), trust_remote_code=trust, device="cpu", top_k=2)
    assert type(loaded) is EcgClassificationPipeline
    assert type(loaded.model) is ClearHugForSequenceClassification
    result, expected = loaded(recordings[1]), pipe(recordings[1])[:2]
    assert [entry["label"] for entry in result] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in result] == pytest.approx([entry["score"] for entry in expected], abs=1e-6)
    assert not hasattr(AutoConfig.from_pretrained(published, trust_remote_code=trust), "custom_pipelines")
    assert type(AutoFeatureExtractor.from_pretrained(published, trust_remote_code=trust)) is ClearHugFeatureExtractor


STRANGER = """
import json

import torch
from transformers import AutoModelForSequenceClassification, pipeline

torch.set_num_threads(1)
folder, record, again, plain, results = sys.argv[1:]


def classify(*task, folder):
    pipe = pipeline(*task, model=folder, trust_remote_code=True, device="cpu", batch_size=2)
    for part in (pipe, pipe.model, pipe.feature_extractor):
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    return pipe, pipe(record)


scores = {}
pipe, scores["alone"] = classify(folder=folder)
scores["task"] = classify("ecg-classification", folder=folder)[1]
str(pipe.model.config)
# What a stranger saved loads again: a pipeline whole, a model without a pipeline.
pipe.save_pretrained(again)
scores["again"] = classify(folder=again)[1]
AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).save_pretrained(plain)
model = AutoModelForSequenceClassification.from_pretrained(plain, trust_remote_code=True)
pipe.model.load_state_dict(model.state_dict())
scores["plain"] = pipe(record)
samples = pipe.feature_extractor.read_record(record)["waveform"].tobytes().hex()
assert "clear_hug_hf" not in sys.modules

# Where the package is, importing it with its task brings nothing heavy.
heavy = ("datasets", "matplotlib", "pandas", "accelerate")
for name in list(sys.modules):
    if name.partition(".")[0] in heavy:
        del sys.modules[name]
del sys.meta_path[0]
import clear_hug_hf

with open(results, "w") as file:
    json.dump({"scores": scores, "samples": samples, "heavy": [*sys.modules.keys() & heavy]}, file)
"""


@pytest.mark.usefixtures("one_thread")
def test_when_the_package_is_absent_then_a_published_folder_gives_the_same_scores(
    published: Path, recordings: Recordings, write_record: WriteRecord, tmp_path: Path, stranger: Callable[..., None]
) -> None:
    header = write_record(tmp_path / "record", recordings[1])
    # As the Georgia records of the PhysioNet Challenge are headed, which wfdb refuses.
    header.write_text(header.read_text().replace("record 12", "record.mat 12", 1))
    stranger(STRANGER, published, header, *(tmp_path / name for name in ("again", "plain", "results.json")))
    found = json.loads((tmp_path / "results.json").read_text())
    expected = pipeline("ecg-classification", model=str(published), device="cpu")(header, batch_size=2)
    assert found["samples"] == read_record(header).waveform.tobytes().hex()
    assert found["scores"] == dict.fromkeys(("alone", "task", "again", "plain"), expected)
    assert found["heavy"] == []
    assert (tmp_path / "again" / PIPELINE_FILE).read_text() == (published / PIPELINE_FILE).read_text()
    assert "custom_pipelines" in json.loads((tmp_path / "again" / "config.json").read_text())
    assert "custom_pipelines" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_when_a_folder_holds_no_classifier_then_no_label_is_made_up(tmp_path: Path) -> None:
    pretrained = ClearHugForPreTraining(ClearHugConfig.preset("tiny", **SMALL))
    save_model_folder(tmp_path / "pretrained", pretrained, ClearHugFeatureExtractor())
    with pytest.raises(ValueError, match=r"those of a ClearHugForPreTraining.*untrained: fine-tune the model"):
        pipeline("ecg-classification", model=str(tmp_path / "pretrained"))


def test_when_a_slice_of_a_dataset_is_passed_then_it_is_distinguished_from_recordings(
    pipe: Pipe, recordings: Recordings
) -> None:
    dataset = prepare(recordings, pipe.feature_extractor, progress=False).dataset
    with pytest.raises(ValueError, match=r"a slice of a dataset is a dict of columns"):
        pipe(dataset[:2])
    assert len(list(pipe(dataset.select(range(2))))) == 2


def _with_labels(pipe: Pipe, *names: str) -> EcgClassificationPipeline:
    """The pipeline under other names of labels, all of them found."""
    model = copy.deepcopy(pipe.model)
    model.config.id2label = dict(enumerate(names))
    model.config.label_thresholds = dict.fromkeys(names, 0.0)
    return EcgClassificationPipeline(model, feature_extractor=pipe.feature_extractor, device="cpu")


def test_when_a_report_is_asked_for_then_it_is_beside_the_labels(
    pipe: Pipe, recordings: Recordings, dataset: datasets.Dataset
) -> None:
    for inputs, batch_size in ((recordings[0], 1), (recordings[1], 2), (dataset[0], 1)):
        result = pipe(inputs, return_report=True, batch_size=batch_size)
        assert result["labels"] == pipe(inputs, batch_size=batch_size)
        report = json.loads(json.dumps(result["report"]))
        assert 50 < report["heart_rate"] < 130
        assert report["beats_read"] == report["beats_found"] >= 8
        assert report["warnings"] == report["missing_leads"] == []
    assert pipe(dataset[0], return_report=True, windows="first")["report"]["beats_read"] == 15


def test_when_the_input_is_implausible_then_a_warning_reports_it_by_default(
    pipe: Pipe, recordings: Recordings, caplog: pytest.LogCaptureFixture
) -> None:
    pipe(recordings[0])
    assert not caplog.messages
    alone = replace(recordings[0], waveform=recordings[0].waveform[1:2, :100], lead_names=["II"])
    result = pipe(alone, return_report=True)
    assert caplog.messages == [f"{alone.record_id}: {warning}" for warning in result["report"]["warnings"]]
    assert "the recording is short (1 s" in caplog.messages[0]
    assert "11 of 12 leads are missing" in caplog.messages[1]


def test_when_the_rate_contradicts_a_label_then_it_has_a_note(
    pipe: Pipe, recordings: Recordings, make_recordings: MakeRecordings
) -> None:
    rhythm = _with_labels(pipe, "SBRAD", "SR", "STACH")

    def notes(labels: list[dict[str, Any]]) -> set[str]:
        return {one["label"] for one in labels if "note" in one}

    fast, slow = make_recordings(2)
    assert notes(rhythm(fast)) == {"SBRAD"}
    assert notes(rhythm(slow)) == {"STACH"}
    assert notes(rhythm(fast, threshold=0.99)) == set()
    rhythm.model.config.label_thresholds = dict.fromkeys(("SBRAD", "SR", "STACH"), 1.0)
    assert notes(rhythm(fast)) == set(), "what is not found contradicts nothing"
    rhythm.model.config.label_thresholds = dict.fromkeys(("SBRAD", "SR", "STACH"), 0.0)
    # Of windows and of their highest scores it is the windows' own rates that count.
    both = replace(fast, waveform=np.concatenate([slow.waveform, fast.waveform], axis=1))
    windows = rhythm(both, aggregate="none")
    assert [notes(window["labels"]) for window in windows] == [{"STACH"}, {"SBRAD"}, {"SBRAD"}]
    highest = {
        name: max(range(3), key=lambda row: {one["label"]: one["score"] for one in windows[row]["labels"]}[name])
        for name in ("SBRAD", "STACH")
    }
    expected = {name for name, row in highest.items() if (row == 0) == (name == "STACH")}
    assert notes(rhythm(both, aggregate="max")) == expected
