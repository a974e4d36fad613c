"""Every way from a file to a prediction gives the same bits, and a file that cannot be used stops no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clear_hug_hf import EcgClassificationPipeline, Recording, read_record, render_page
from clear_hug_hf.cli import main
from clear_hug_hf.data.records import RecordReference, Rejected
from clear_hug_hf.evaluation.predictions import predict_recordings
from clear_hug_hf.inference.classifier_outputs import group_contributions, model_label_names
from clear_hug_hf.inference.records import RecordPrediction, embed_records, predict_records
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.folders import load_classifier


MODEL_CARDS = Path(__file__).resolve().parents[2] / "model_cards"
CLASSIFIERS = sorted(path.parent for path in MODEL_CARDS.glob("*-ptbxl-super/config.json"))
# Of 100, 500 and 1000 Hz; of one window, of more beats than a model holds, and of many windows.
RECORDS = ("ptbxl/records100/02000/02628_lr", "challenge/A0001", "challenge/E07938", "ptb/s0010_re")


class Entries:
    """A shipped classifier and the ways into it; each gives scores of a recording, then of its windows if several."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.model, self.extractor = load_classifier(folder)
        self.names = model_label_names(self.model.config)
        self.pipe = EcgClassificationPipeline(self.model, feature_extractor=self.extractor, device="cpu")

    def engine(self, path: Path) -> list[dict[str, float]]:
        (found,) = predict_records(self.model, self.extractor, [path])
        assert isinstance(found, RecordPrediction)
        windows = found.windows if len(found.windows) > 1 else []
        rows = [found.probabilities, *(one.probabilities for one in windows)]
        return [dict(zip(self.names, row.tolist(), strict=True)) for row in rows]

    def pipeline(self, path: Path) -> list[dict[str, float]]:
        found = {entry["label"]: entry for entry in self.pipe(str(path))}
        windows = zip(*(found[name].get("windows", ()) for name in self.names), strict=True)
        rows = [[found[name] for name in self.names], *windows]
        return [{name: one["score"] for name, one in zip(self.names, row, strict=True)} for row in rows]

    def command_line(self, path: Path) -> list[dict[str, float]]:
        assert main(["predict", str(path), "--model", str(self.folder), "--json"]) == 0
        record = json.loads(self.capsys.readouterr().out)
        windows = record["windows"] if len(record["windows"]) > 1 else []
        return [span["probabilities"] for span in (record, *windows)]


@pytest.fixture(params=CLASSIFIERS, ids=lambda path: path.name)
def entries(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Entries:
    return Entries(request.param, capsys)


@pytest.mark.parametrize("name", RECORDS)
def test_when_one_file_is_read_through_every_entry_then_the_bits_are_the_same(
    entries: Entries, shared: Path, name: str
) -> None:
    path, model, extractor = shared / "data" / name, entries.model, entries.extractor
    expected = entries.engine(path)
    assert entries.pipeline(path) == entries.command_line(path) == expected

    recording, reference = read_record(path), RecordReference(path, "mine")
    as_dict = {field: getattr(recording, field) for field in ("waveform", "sampling_rate", "lead_names", "unit")}
    found = list(predict_records(model, extractor, [path, str(path), recording, reference, as_dict]))
    assert [one.record_id for one in found] == [str(path), str(path), recording.record_id, "mine", "recording 4"]
    for one in found:
        np.testing.assert_array_equal(one.probabilities, list(expected[0].values()))
        assert [window.place for window in one.windows] == [window.place for window in found[0].windows]
    places = [window.place for window in found[0].windows]
    seconds = recording.waveform.shape[1] / recording.sampling_rate
    assert (places[0].start, places[-1].end) == (0.0, pytest.approx(seconds))
    # A0001 has so many beats that each of its ten seconds are two windows of a model of beats.
    assert sum(place.end - place.start for place in places) == pytest.approx(10.0 * np.ceil(seconds / 10))

    # The window that is evaluated, and the vectors, are made of the same inputs.
    first = [window.probabilities for window in found[0].windows if window.place.window == 0]
    evaluated, used, rejected = predict_recordings(model, [reference], extractor.replace(windows="first"))
    assert (used, rejected, evaluated.record_ids) == ([reference], [], ["mine"])
    np.testing.assert_array_equal(evaluated.probabilities[0], np.mean(first, axis=0))
    features = extractor(**recording.as_inputs(), windows="all", return_tensors="pt")
    with torch.no_grad():
        by_hand = model(**features).logits.sigmoid().mean(dim=0)
    np.testing.assert_allclose(list(expected[0].values()), by_hand.numpy(), atol=1e-6)
    (embedded,) = embed_records(model, extractor, [path])
    for window, vector in zip(embedded.places, embedded.vectors, strict=True):
        rows = [row for row, one in enumerate(found[0].windows) if one.place.window == window.window]
        states = []
        for row in rows:
            with torch.no_grad():
                output = model.base_model(**{key: tensor[row : row + 1] for key, tensor in features.items()})
            states.append(output.lead_states[0].numpy())
        np.testing.assert_array_equal(vector, np.mean(states, axis=0).mean(axis=0))


def test_when_a_page_is_read_through_every_entry_then_the_bits_are_the_same(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (one for one in CLASSIFIERS if "scan" in one.name)
    entries = Entries(folder, capsys)
    one = read_record(shared / "data" / "ptb" / "s0010_re")
    drawn = render_page(one.waveform, one.sampling_rate, one.lead_names, one.unit, pixels_per_mm=3)
    straight, tilted = tmp_path / "straight.png", tmp_path / "tilted.jpg"
    picture = Image.fromarray(drawn.image)
    picture.save(straight)
    picture.rotate(4, expand=True, fillcolor=(90, 60, 40)).save(tilted)
    for path in (straight, tilted):
        expected = entries.engine(path)
        assert entries.pipeline(path) == entries.command_line(path) == expected
        pixels = entries.extractor.image_processor(path, return_tensors="pt")
        with torch.no_grad():
            by_hand = entries.model(**pixels).logits.sigmoid()[0]
        np.testing.assert_allclose(list(expected[0].values()), by_hand.numpy(), atol=1e-7)
    found, of_pixels = predict_records(entries.model, entries.extractor, [straight, np.asarray(picture)])
    np.testing.assert_array_equal(found.probabilities, of_pixels.probabilities)
    assert found.report is None
    assert found.page.rotation == 0
    # A picture that is one page from edge to edge is not searched for it.
    whole = entries.extractor.image_processor(straight, do_find_page=False, return_pages=True)["pages"][0]
    np.testing.assert_array_equal(whole.image, drawn.image)
    assert whole.corners[2].tolist() == [picture.width, picture.height]


@pytest.fixture(scope="module")
def clear() -> tuple[Any, Any]:
    return load_classifier(MODEL_CARDS / "clear-hug-small-ptbxl-super")


def test_when_inputs_are_bad_then_the_others_are_read_one_at_a_time(
    clear: tuple[Any, Any],
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
    tmp_path: Path,
) -> None:
    good, other = make_recordings(2)
    header = write_record(tmp_path / "good", good)
    cut = write_record(tmp_path / "cut", other)
    cut.with_suffix(".dat").write_bytes(b"")
    silent = replace(other, waveform=np.zeros((12, 1000), dtype=np.float32), record_id="silent")
    given: list[int] = []

    def inputs() -> Iterator[Any]:
        for number, one in enumerate([cut, header, tmp_path / "absent", silent, 5, tmp_path / "page.png", good]):
            given.append(number)
            yield one

    for read in (predict_records, embed_records):
        given.clear()
        results = []
        for number, one in enumerate(read(*clear, inputs())):
            assert given == list(range(number + 1)), "no input is read before it is asked for"
            results.append(one)
        reasons = [one.reason if isinstance(one, Rejected) else "" for one in results]
        assert [bool(reason) for reason in reasons] == [True, False, True, True, True, True, False]
        assert results[3] == Rejected("silent", "the recording contains no signal: all leads are flat")
        assert "int is not a supported recording" in reasons[4]
        assert "page.png is an image, but ClearHugFeatureExtractor requires recordings" in reasons[5]
        assert results[6].record_id == good.record_id


def test_when_windows_are_put_together_otherwise_then_only_that_changes(
    clear: tuple[Any, Any], make_recordings: Callable[..., list[Recording]]
) -> None:
    model, extractor = clear
    fast, slow = make_recordings(2)
    both = replace(fast, waveform=np.concatenate([slow.waveform, fast.waveform], axis=1))
    mean, most, apart, batched = (
        next(predict_records(model, extractor, [both], **options))
        for options in ({}, {"aggregate": "max"}, {"aggregate": "none"}, {"batch_size": 8})
    )
    windows = np.stack([one.probabilities for one in mean.windows])
    assert len(windows) == 3
    np.testing.assert_array_equal(mean.probabilities, windows.mean(axis=0))
    np.testing.assert_array_equal(most.probabilities, windows.max(axis=0))
    assert apart.probabilities is None
    np.testing.assert_allclose(batched.probabilities, mean.probabilities, atol=1e-6)
    rates = [one.heart_rate for one in mean.windows]
    assert rates == mean.report.window_rates
    assert rates[0] < rates[1]


def test_when_the_head_reads_groups_then_their_contributions_make_the_logit(
    clear: tuple[Any, Any], make_recordings: Callable[..., list[Recording]]
) -> None:
    model, extractor = clear
    recording = make_recordings(2)[1]
    (found,) = predict_records(model, extractor, [recording])
    with torch.no_grad():
        output = model(**extractor(**recording.as_inputs(), windows="all", return_tensors="pt"))
        expected = group_contributions(model, output.group_states)[0].numpy()
    np.testing.assert_allclose(found.windows[0].contributions, expected, atol=1e-6)


def test_when_a_model_predicts_values_then_it_is_refused(
    clear: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clear[0].config, "problem_type", "regression")
    with pytest.raises(InputError, match="is a regression model and has no probabilities"):
        next(predict_records(*clear, []))
