"""Recordings become pages with true targets, and a model's folder serves recordings and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from clear_hug_hf import EcgScanFeatureExtractor, EcgScanImageProcessor
from clear_hug_hf.data.records import Recording, find_records, read_record
from clear_hug_hf.processing import LAYOUTS, InputError
from clear_hug_hf.processing.leads import satisfies_identities


@pytest.fixture(scope="module")
def recording(make_recordings: Callable[..., list[Recording]]) -> Recording:
    return make_recordings(1)[0]


def _clean(extractor: EcgScanFeatureExtractor, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    return extractor.clean(recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit)


def test_when_it_is_saved_then_one_file_serves_recordings_and_pictures(tmp_path: Path) -> None:
    extractor = EcgScanFeatureExtractor(image_size=(96, 128), layout="12x1", millivolts_per_unit=0.2)
    extractor.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is EcgScanFeatureExtractor
    assert again.to_dict() == extractor.to_dict()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is EcgScanImageProcessor
    assert (processor.image_size, processor.image_mean) == (again.image_size, again.image_mean)


def test_when_a_recording_is_drawn_then_targets_describe_what_the_page_shows(recording: Recording) -> None:
    extractor = EcgScanFeatureExtractor()
    signal, present = _clean(extractor, recording)
    short = signal[:, :700]
    shares = {"3x4": (250, 1000), "6x2": (500, 500), "12x1": (1000, 1000)}
    for layout in LAYOUTS:
        result = extractor.cut(
            [signal[:, :1000], short], [None] * 2, [present] * 2, layouts=[layout] * 2, return_targets=True
        )
        assert result["pixel_values"].shape == (2, 3, 192, 256)
        assert result["pixel_values"].dtype == np.float32
        np.testing.assert_array_equal(result["waveforms"][0], signal[:, :1000])
        assert (result["waveforms"][1, :, 700:] == 0).all()
        assert result["signal_mask"].sum(axis=(1, 2)).tolist() == [12 * 1000, 12 * 700]
        assert result["drawn_mask"][0].sum(axis=1)[[0, 1]].tolist() == list(shares[layout]), "lead II has a strip"
        assert not (result["drawn_mask"] & ~result["signal_mask"]).any()


def test_when_leads_obey_the_identities_then_it_is_measured_not_assumed(shared: Path) -> None:
    extractor = EcgScanFeatureExtractor()
    path = find_records(shared / "data" / "challenge")[0]
    signal, present = _clean(extractor, read_record(path))
    assert satisfies_identities(signal)
    swapped = signal[[0, 1, 2, 3, 5, 4, *range(6, 12)]]
    apart = signal / signal.std(axis=1, keepdims=True)
    missing = present.copy()
    missing[2] = False
    windows = [signal[:, :1000], swapped[:, :1000], apart[:, :1000], signal[:, :1000]]
    result = extractor.cut(windows, [None] * 4, [present, present, present, missing], return_targets=True)
    assert result["identity_mask"].tolist() == [True, False, False, False]


def test_when_a_generator_is_given_then_pages_differ_and_its_seed_repeats_them(recording: Recording) -> None:
    extractor = EcgScanFeatureExtractor()
    signal, present = _clean(extractor, recording)

    def drawn(seed: int, strength: float = 1.0) -> np.ndarray:
        generators = [np.random.default_rng(seed)]
        window = [signal[:, :1000]], [None], [present]
        return extractor.cut(*window, generators=generators, strength=strength)["pixel_values"]

    assert np.array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))
    assert not np.array_equal(drawn(3), drawn(3, strength=0.0))


def test_when_a_recording_is_in_unknown_units_then_it_is_refused_unless_a_scale_is_given(
    recording: Recording,
) -> None:
    normalized = replace(recording, unit="NU")
    with pytest.raises(InputError, match="millivolts_per_unit must be set"):
        EcgScanFeatureExtractor()(**normalized.as_inputs())
    scaled = EcgScanFeatureExtractor(millivolts_per_unit=0.5)
    result = scaled(**normalized.as_inputs(), return_tensors="pt")["pixel_values"]
    half = replace(recording, waveform=recording.waveform * 0.5)
    torch.testing.assert_close(
        result, EcgScanFeatureExtractor()(**half.as_inputs(), return_tensors="pt")["pixel_values"]
    )
    mixed = replace(recording, unit=["NU"] + ["mV"] * (len(recording.lead_names) - 1))
    with pytest.raises(InputError, match="leads in NU cannot be combined"):
        scaled(**mixed.as_inputs())
    assert EcgScanFeatureExtractor(millivolts_per_unit=0.5)(**recording.as_inputs())["pixel_values"] is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "4x3"}, "layout must be one of .*, got '4x3'"),
        ({"window_seconds": 12}, "window_seconds must be at most 10"),
        ({"millivolts_per_unit": -1}, "millivolts_per_unit must be a number between .*, got -1"),
        ({"image_size": (8, 8)}, "between 32 and 4096 px"),
    ],
)
def test_when_a_setting_cannot_be_then_the_error_explains_why(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EcgScanFeatureExtractor(**settings).image_processor  # noqa: B018
