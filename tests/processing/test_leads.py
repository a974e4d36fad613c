"""Leads are found by name, derived only where the identities hold, and never invented."""

from __future__ import annotations

import numpy as np
import pytest

from clear_hug_hf.processing import STANDARD_LEADS, InputError, arrange_leads, canonical_lead_name


def _waveform(num_samples: int = 50) -> np.ndarray:
    """Twelve leads that obey Einthoven's and Goldberger's identities."""
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, num_samples))
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limb, rng.standard_normal((6, num_samples))])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("avr", "aVR"),
        ("AVL", "aVL"),
        (" v1 ", "V1"),
        ("DII", "II"),
        ("Lead III", "III"),
        ("ecg_V6", "V6"),
        ("vx", None),
    ],
)
def test_when_a_lead_name_is_spelled_differently_then_the_standard_name_is_found(
    name: str, expected: str | None
) -> None:
    assert canonical_lead_name(name) == expected


def test_when_a_lead_name_is_unknown_then_it_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="unknown lead name 'pleth'"):
        canonical_lead_name("pleth")


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


def test_when_no_standard_lead_is_there_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="none of the 12 standard leads"):
        arrange_leads(_waveform()[:2], ["vx", "vy"])
