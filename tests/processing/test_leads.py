"""Leads are found by name, derived only where the identities hold, and never invented."""

from __future__ import annotations

import numpy as np
import pytest

from clear_hug_hf import ClearHugFeatureExtractor, EcgJepaFeatureExtractor, EcgScanFeatureExtractor
from clear_hug_hf.processing import STANDARD_LEADS, EcgFeatureExtractor, InputError, arrange_leads, lead_and_sign


def _waveform(num_samples: int = 50) -> np.ndarray:
    """Twelve leads that obey Einthoven's and Goldberger's identities."""
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, num_samples))
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limb, rng.standard_normal((6, num_samples))])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("avr", ("aVR", 1)),
        ("AVL", ("aVL", 1)),
        (" v1 ", ("V1", 1)),
        ("DII", ("II", 1)),
        ("Lead III", ("III", 1)),
        ("ecg_V6", ("V6", 1)),
        ("ECG-II", ("II", 1)),
        ("Lead-I", ("I", 1)),
        ("Lead - I", ("I", 1)),
        ("vx", (None, 1)),
        ("-aVR", ("aVR", -1)),
        ("\u2212aVR", ("aVR", -1)),
        ("\u2013 avr", ("aVR", -1)),
        ("-DII", ("II", -1)),
        ("-ECG-II", ("II", -1)),
        ("Lead -aVR", ("aVR", -1)),
        ("-vx", (None, -1)),
        ("aVR", ("aVR", 1)),
    ],
)
def test_when_a_lead_is_spelled_in_any_way_then_its_standard_name_and_sign_are_found(
    name: str, expected: tuple[str | None, int]
) -> None:
    assert lead_and_sign(name) == expected


@pytest.mark.parametrize("name", ["pleth", "--aVR", "-Lead -aVR", "aVR-", "a-VR", "-"])
def test_when_a_lead_is_unknown_or_its_sign_unclear_then_it_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown lead name '{name}'"):
        lead_and_sign(name)


def test_when_leads_are_inverted_then_they_get_their_standard_signs() -> None:
    waveform = _waveform()
    # Cabrera's order; I is inverted, too, so that leads derived from it would show a lost sign.
    order = ["aVL", "-I", "-aVR", "II", "aVF", "III", *STANDARD_LEADS[6:]]
    signs = [-1 if name[0] == "-" else 1 for name in order]
    rows = waveform[[STANDARD_LEADS.index(name.strip("-")) for name in order]] * np.array(signs)[:, None]
    arranged, present = arrange_leads(rows, order)
    np.testing.assert_array_equal(arranged, waveform)
    assert present.all()
    arranged, _ = arrange_leads(rows[[1, 3]], ["-I", "II"])
    np.testing.assert_allclose(arranged[:6], waveform[:6], atol=1e-12)
    arranged, _ = arrange_leads(-waveform, [f"-{name}" for name in STANDARD_LEADS])
    np.testing.assert_array_equal(arranged, waveform)


def test_when_leads_come_in_another_order_and_case_then_they_are_put_in_order() -> None:
    waveform = _waveform()
    order = np.random.default_rng(1).permutation(12)
    arranged, present = arrange_leads(waveform[order], [STANDARD_LEADS[i].upper() for i in order])
    np.testing.assert_array_equal(arranged, waveform)
    assert present.all()


def test_when_limb_leads_are_absent_then_they_follow_from_one_and_two() -> None:
    waveform = _waveform()
    kept = [0, 1, *range(6, 12)]
    arranged, present = arrange_leads(waveform[kept], [STANDARD_LEADS[i] for i in kept])
    np.testing.assert_allclose(arranged, waveform, atol=1e-12)
    assert present.all()


def test_when_derivation_is_off_then_absent_limb_leads_stay_missing() -> None:
    waveform = _waveform()
    arranged, present = arrange_leads(waveform[:2], ["I", "II"], derive=False)
    assert present.tolist() == [True, True] + [False] * 10
    assert not arranged[2:].any()


@pytest.mark.parametrize("flat", ["I", "II"])
@pytest.mark.parametrize("with_nan", [False, True])
def test_when_lead_one_or_two_is_flat_then_no_limb_lead_is_derived_from_it(flat: str, with_nan: bool) -> None:
    waveform = _waveform()
    waveform[STANDARD_LEADS.index(flat)] = 0.25
    if with_nan:
        waveform[STANDARD_LEADS.index(flat), 3] = np.nan
    kept = [0, 1, *range(6, 12)]
    arranged, present = arrange_leads(waveform[kept], [STANDARD_LEADS[i] for i in kept])
    assert np.flatnonzero(~present).tolist() == [2, 3, 4, 5]
    assert not arranged[2:6].any()


@pytest.mark.parametrize(
    "extractor",
    [ClearHugFeatureExtractor(), EcgJepaFeatureExtractor(), EcgScanFeatureExtractor()],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("do_mask_flat_leads", [True, False])
def test_when_lead_one_fell_off_then_every_system_misses_what_is_derived_from_it(
    extractor: EcgFeatureExtractor, do_mask_flat_leads: bool
) -> None:
    waveform = np.random.default_rng(0).standard_normal((3, 5000))
    waveform[0] = 0.0
    signal, present = extractor.clean(waveform, 500.0, ["I", "II", "V1"], "mV", do_mask_flat_leads=do_mask_flat_leads)
    found = [lead for lead, is_there in zip(STANDARD_LEADS, present, strict=True) if is_there]
    assert found == (["II", "V1"] if do_mask_flat_leads else ["I", "II", "V1"])
    assert not signal[~present].any()


def test_when_a_chest_lead_is_missing_then_it_is_masked_and_not_invented() -> None:
    waveform = _waveform()
    arranged, present = arrange_leads(np.delete(waveform, 8, axis=0), [n for n in STANDARD_LEADS if n != "V3"])
    assert not present[8]
    assert present.sum() == 11
    assert not arranged[8].any()


def test_when_extra_leads_are_there_then_they_are_left_out() -> None:
    waveform = np.concatenate([_waveform(), np.ones((3, 50))])
    arranged, _ = arrange_leads(waveform, [*STANDARD_LEADS, "vx", "vy", "vz"])
    np.testing.assert_array_equal(arranged, waveform[:12])


def test_when_a_lead_appears_twice_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="lead II appears twice"):
        arrange_leads(_waveform()[:2], ["II", "ii"])
    with pytest.raises(InputError, match="lead aVR appears twice"):
        arrange_leads(_waveform()[:2], ["-aVR", "aVR"])


def test_when_no_standard_lead_is_there_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="none of the 12 standard leads"):
        arrange_leads(_waveform()[:2], ["vx", "vy"])
