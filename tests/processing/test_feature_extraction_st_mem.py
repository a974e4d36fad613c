"""ST-MEM's feature extractor: three filtered and standardized windows of every ten seconds, as released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pulses import LEADS, known, make_pulses
from released import Released

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_st_mem import StMemFeatureExtractor


MIMIC_ORDER = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture(scope="module")
def extractor() -> StMemFeatureExtractor:
    return StMemFeatureExtractor()


@pytest.fixture(scope="module")
def released(shared) -> Released:
    return Released(shared / "parity" / "official_st_mem_small.safetensors")


def _starts(extractor: StMemFeatureExtractor, num_samples: int) -> list[int]:
    windows = extractor.split(np.zeros((12, num_samples), dtype=np.float32), np.empty(0, dtype=np.int64))
    return [window.start for window in windows]


# Released numbers


@pytest.mark.parametrize("order", [list(LEADS), MIMIC_ORDER, [*LEADS[6:], *LEADS[:6]]])
@pytest.mark.parametrize(
    ("case", "rate", "unit"), [("mv500", 500, "mV"), ("nu100", 100, "NU"), ("long500", 500, "mV")]
)
def test_when_real_recordings_are_read_then_windows_are_the_released_ones(
    extractor, released, case, rate, unit, order
) -> None:
    waveform = released.tensors[f"input.raw_{case}"].numpy()[[LEADS.index(name) for name in order]]
    call = {"sampling_rate": rate, "lead_names": order, "unit": unit}
    features = extractor(waveform, **call, windows="all", return_tensors="pt")
    torch.testing.assert_close(features["input_values"], released.tensors[f"input.values_{case}"], atol=1e-5, rtol=0)
    assert features["lead_mask"].all()
    assert features["attention_mask"].all()
    # Unless another choice is made, the first window alone is read.
    assert extractor(waveform, **call, return_tensors="pt")["input_values"].equal(features["input_values"][:1])


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    [
        (2500, [0, 125, 250]),
        (2400, [0, 75, 150]),
        (2401, [0, 75, 150]),
        (2252, [0, 1, 2]),
        # The released code divides by zero, makes four windows, or leaves the recording out.
        (2250, [0]),
        (2251, [0]),
        (2253, [0, 1, 2]),
        (2000, [0]),
    ],
)
def test_when_all_windows_are_read_then_there_are_three_up_to_the_end(extractor, num_samples, starts) -> None:
    assert _starts(extractor.replace(windows="all"), num_samples) == starts


def test_when_a_recording_is_long_then_every_stretch_has_its_windows(extractor) -> None:
    extractor = extractor.replace(windows="all")
    assert _starts(extractor, 5600) == [0, 125, 250, 2500, 2625, 2750]
    whole = extractor.replace(drop_remainder=False)
    assert _starts(whole, 5600) == [0, 125, 250, 2500, 2625, 2750, 3100, 3225, 3350]
    assert _starts(whole, 2625) == [0, 125, 250, 375], "none is read twice"
    assert _starts(extractor.replace(num_crops=1), 5000) == [0, 2500]
    assert _starts(extractor.replace(stride_seconds=9), 5600) == [0, 2250, 3350]
    assert _starts(extractor.replace(windows="center"), 5000) == [1375]


def test_when_a_recording_is_long_then_its_stretches_are_those_of_recordings_alone(extractor) -> None:
    waveform = make_pulses(25.3)
    together = extractor(waveform, **known(), windows="all", drop_remainder=False)["input_values"]
    parts = [waveform[:, first : first + 5000] for first in (0, 5000)]
    alone = extractor(parts, **known(), windows="all")["input_values"]
    np.testing.assert_allclose(together[:6], alone, atol=1e-5)
    assert len(together) == 9


@pytest.mark.parametrize("rate", [100.0, 257.0, 360.0, 999.9])
def test_when_a_recording_is_resampled_then_its_length_is_that_of_the_released_code(extractor, rate) -> None:
    for seconds in (9.0, 10.0, 25.3):
        waveform = make_pulses(seconds, rate=rate)
        signal, _ = extractor.clean(waveform, **known(sampling_rate=rate))
        assert signal.shape[1] == int(waveform.shape[1] * 250 / rate)
        assert signal.dtype == np.float32


# Outputs


def test_when_one_recording_is_read_then_the_outputs_have_the_documented_shapes(extractor) -> None:
    features = extractor(make_pulses(), **known(), windows="all", return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((3, 12, 2250), torch.float32),
        "lead_mask": ((3, 12), torch.bool),
        "attention_mask": ((3, 30), torch.bool),
    }
    values = features["input_values"].double()
    assert values.mean(dim=(1, 2)).abs().max() < 1e-6
    torch.testing.assert_close(values.std(dim=(1, 2), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)


def test_when_leads_are_missing_then_the_others_are_standardized_without_them(extractor) -> None:
    waveform, names = make_pulses(), ["V2", "I", "II", "V5"]
    rows = [LEADS.index(name) for name in names]
    few = extractor(waveform[rows], **known(lead_names=names))
    assert [name for name, present in zip(LEADS, few["lead_mask"][0], strict=True) if present] == [
        *LEADS[:6],
        "V2",
        "V5",
    ], "limb leads follow from I and II"
    present = few["lead_mask"][0]
    assert (few["input_values"][0, ~present] == 0).all()
    assert few["input_values"][0, present].std() == pytest.approx(1, abs=1e-5)
    whole = extractor(waveform, **known())["input_values"][0]
    ratio = few["input_values"][0, present].std(axis=1) / whole[present].std(axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_when_a_recording_is_short_then_its_whole_patches_are_marked(extractor) -> None:
    features = extractor(make_pulses(4.7), **known())
    assert features["attention_mask"].sum() == 15
    assert features["attention_mask"][0, :15].all()
    assert (features["input_values"][0, :, 15 * 75 :] == 0).all()
    assert features["input_values"].shape == (1, 12, 2250)
    assert np.isfinite(extractor(make_pulses(1.0), **known())["input_values"]).all()


def test_when_a_recording_is_constant_then_it_is_zero(extractor) -> None:
    features = extractor(np.ones((12, 2500)), **known(sampling_rate=250.0, unit="NU"), do_mask_flat_leads=False)
    assert (features["input_values"] == 0).all()
    assert features["lead_mask"].all()


def test_when_a_filter_is_switched_off_then_windows_are_only_standardized(extractor) -> None:
    waveform = make_pulses()[:, ::2].astype(np.float32)
    features = extractor(waveform, **known(sampling_rate=250.0), do_bandpass=False)
    window = waveform[:, :2250].astype(np.float64)
    np.testing.assert_allclose(features["input_values"][0], (window - window.mean()) / window.std(), atol=1e-5)
    assert np.abs(extractor(waveform, **known(sampling_rate=250.0), do_rescale=True)["input_values"]).max() == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 80}, "must be divisible by patch_size=80"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"stretch_seconds": 8}, "stretch_seconds=8 must not be shorter than window_seconds=9"),
        ({"num_crops": 0}, "num_crops must be"),
    ],
)
def test_when_a_setting_is_invalid_then_a_sentence_says_so(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        StMemFeatureExtractor(**settings)
