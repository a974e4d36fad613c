"""Leads are found by name, derived only where the identities hold, and never invented."""

from __future__ import annotations

import numpy as np
import pytest

from clear_hug_hf.processing import STANDARD_LEADS, InputError, arrange_leads, lead_and_sign


def _waveform(num_samples: int = 50) -> np.ndarray:
    """Twelve leads that obey Einthoven's and Goldberger's identities."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, num_samples))
    limb = np.stack([first, second, second - first, -(first + second) / 2, first - second / 2, second - first / 2])
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
    arranged, present = arrange_leads(rows[[1, 3]], ["-I", "ii"])
    np.testing.assert_allclose(arranged[:6], waveform[:6], atol=1e-12)
    assert np.flatnonzero(present).tolist() == [*range(6)]
    # A lead that is no standard one is left out.
    more = np.concatenate([np.ones((1, 50)), -waveform])
    arranged, _ = arrange_leads(more, ["vx", *(f"-{name}" for name in STANDARD_LEADS)])
    np.testing.assert_array_equal(arranged, waveform)


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


def test_when_a_chest_lead_is_missing_then_it_is_masked_and_not_invented() -> None:
    arranged, present = arrange_leads(np.delete(_waveform(), 8, axis=0), [*STANDARD_LEADS[:8], *STANDARD_LEADS[9:]])
    assert not present[8]
    assert present.sum() == 11
    assert not arranged[8].any()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["II", "ii"], "lead II is duplicated"),
        (["-aVR", "aVR"], "lead aVR is duplicated"),
        (["vx", "vy"], "at least one of the 12 standard leads"),
    ],
)
def test_when_leads_cannot_be_arranged_then_they_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        arrange_leads(_waveform()[:2], names)
