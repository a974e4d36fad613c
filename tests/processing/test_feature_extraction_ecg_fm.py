"""ECG-FM's feature extractor: standardized leads in windows of five seconds, as released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pulses import LEADS, known, make_pulses
from released import Released

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_ecg_fm import EcgFmFeatureExtractor


MIMIC_ORDER = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture(scope="module")
def extractor() -> EcgFmFeatureExtractor:
    return EcgFmFeatureExtractor()


@pytest.fixture(scope="module")
def released(shared) -> Released:
    return Released(shared / "parity" / "official_ecg_fm_small.safetensors")


# Released numbers


@pytest.mark.parametrize("order", [list(LEADS), MIMIC_ORDER, [*LEADS[6:], *LEADS[:6]]])
@pytest.mark.parametrize(
    ("case", "rate", "unit"), [("mv500", 500, "mV"), ("nu100", 100, "NU"), ("long500", 500, "mV"), ("flat", 500, "mV")]
)
def test_when_real_recordings_are_read_then_windows_are_the_released_ones(
    extractor, released, case, rate, unit, order
) -> None:
    waveform = released.tensors[f"input.raw_{case}"].numpy()[[LEADS.index(name) for name in order]]
    call = {"sampling_rate": rate, "lead_names": order, "unit": unit}
    found = extractor(waveform, **call, windows="all", return_tensors="pt")
    expected = released.tensors[f"input.values_{case}"]
    torch.testing.assert_close(found["input_values"], expected, atol=1e-5, rtol=0)
    assert found["attention_mask"].all()
    assert found["lead_mask"].eq(expected[0].ne(0).any(dim=1)).all()
    # Unless another choice is made, the first window alone is read.
    assert extractor(waveform, **call, return_tensors="pt")["input_values"].equal(found["input_values"][:1])


# Outputs


def test_when_one_recording_is_read_then_the_outputs_have_the_documented_shapes(extractor) -> None:
    features = extractor(make_pulses(), **known(), windows="all", return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((2, 12, 2500), torch.float32),
        "attention_mask": ((2, 2500), torch.bool),
        "lead_mask": ((2, 12), torch.bool),
    }


def test_when_a_recording_is_cut_then_it_was_standardized_as_a_whole(extractor) -> None:
    waveform = make_pulses(15.0)
    waveform[:, 5000:] *= 3.0
    whole = (waveform - waveform.mean(axis=1, keepdims=True)) / waveform.std(axis=1, keepdims=True)
    windows = extractor(waveform, **known(), windows="all")["input_values"]
    np.testing.assert_allclose(np.concatenate(list(windows), axis=1), whole, atol=1e-5)
    assert windows[2].std() > 1.3


def test_when_the_rate_differs_then_the_ends_stay_where_they_are(extractor) -> None:
    ramp = np.linspace(-1.0, 1.0, 257 * 6) * np.arange(1, 13)[:, None]
    signal, _ = extractor.clean(ramp, **known(sampling_rate=257.0))
    assert signal.shape == (12, int(257 * 6 * 500 / 257))
    steps = np.diff(signal, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(axis=1, keepdims=True), steps.shape), atol=1e-5)
    np.testing.assert_allclose(signal.std(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "starts", "all_starts"),
    [(5.0, [0], [0]), (9.9, [0], [0, 2450]), (10.0, [0, 2500], [0, 2500]), (12.0, [0, 2500], [0, 2500, 3500])],
)
def test_when_a_rest_is_left_then_it_is_omitted_or_overlaps(extractor, seconds, starts, all_starts) -> None:
    call = {**known(), "windows": "all", "return_windows": True}
    assert extractor(make_pulses(seconds), **call)["window_starts"].tolist() == starts
    everything = extractor(make_pulses(seconds), **call, drop_remainder=False)
    assert everything["window_starts"].tolist() == all_starts
    dense = extractor(make_pulses(seconds), **call, stride_seconds=0.1)["window_starts"].tolist()
    assert dense == list(range(0, round(seconds * 500) - 2500 + 1, 50))


def test_when_a_recording_is_short_then_zeros_follow_and_are_marked(extractor) -> None:
    waveform = make_pulses(3.2)
    features = extractor(waveform, **known(), windows="all")
    assert features["attention_mask"].sum(axis=1).tolist() == [1600]
    assert features["attention_mask"][0, :1600].all()
    assert not features["input_values"][0, :, 1600:].any()
    expected = (waveform - waveform.mean(axis=1, keepdims=True)) / waveform.std(axis=1, keepdims=True)
    np.testing.assert_allclose(features["input_values"][0, :, :1600], expected, atol=1e-5)


def test_when_leads_are_missing_then_they_are_zero_and_marked(extractor) -> None:
    """Of eight leads the other four follow; without leg electrodes nothing does."""
    eight = [0, 1, *range(6, 12)]
    features = extractor(make_pulses()[eight], **known(lead_names=[LEADS[row] for row in eight]), return_reports=True)
    assert features["lead_mask"].all()
    np.testing.assert_allclose(
        features["input_values"], extractor(make_pulses(), **known())["input_values"], atol=1e-4
    )
    chest = [0, *range(6, 12)]
    features = extractor(make_pulses()[chest], **known(lead_names=[LEADS[row] for row in chest]), return_reports=True)
    assert np.flatnonzero(features["lead_mask"][0]).tolist() == chest
    assert not features["input_values"][0, 1:6].any()
    assert any("II, III, aVR, aVL, aVF" in warning for warning in features["reports"][0].warnings)


def test_when_a_lead_is_constant_then_it_is_zero_even_if_it_counts_as_present() -> None:
    waveform = make_pulses()
    waveform[7] = 0.3
    features = EcgFmFeatureExtractor(do_mask_flat_leads=False)(waveform, **known())
    assert features["lead_mask"].all()
    assert not features["input_values"][0, 7].any()
    assert np.isfinite(features["input_values"]).all()


def test_when_a_setting_makes_no_sense_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="drop_remainder must be true or false, got 2"):
        EcgFmFeatureExtractor(drop_remainder=2)
