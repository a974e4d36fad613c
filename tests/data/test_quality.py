"""Quality columns describe the recording as it came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from clear_hug_hf.data.quality import recording_quality
from clear_hug_hf.data.records import Recording


@pytest.fixture
def recording(make_recordings: Callable[..., list[Recording]]) -> Recording:
    return make_recordings(1, sampling_rate=500.0)[0]


def test_when_a_recording_is_clean_then_nothing_is_reported(recording: Recording) -> None:
    assert recording_quality(recording) == ([], 0.0, 0.0)


def test_when_leads_are_flat_or_empty_then_they_are_named_in_the_standard_order(recording: Recording) -> None:
    waveform = recording.waveform.copy()
    waveform[7], waveform[1] = 0.3, np.nan
    quality = recording_quality(replace(recording, waveform=waveform))
    assert quality.flat_leads == ["II", "V2"]
    assert quality.nan_share == pytest.approx(1 / 12)
    assert quality.clipped_share == 0.0, "a flat lead is not a clipped one"


def test_when_a_lead_rests_at_its_limits_then_those_samples_count(recording: Recording) -> None:
    waveform = recording.waveform.copy()
    waveform[3, 100:160], waveform[3, 900:905] = 9.0, 9.0  # 120 ms, and 10 ms that may be a peak
    waveform[4, -30:], waveform[5, :30] = 9.0, 9.0  # neighbours in memory, not in time
    waveform[6, 400:425] = -9.0
    quality = recording_quality(replace(recording, waveform=waveform))
    assert quality.clipped_share == pytest.approx((60 + 30 + 30 + 25) / waveform.size)
    waveform[6, 0] = np.inf
    assert recording_quality(replace(recording, waveform=waveform)).clipped_share == quality.clipped_share


def test_when_a_recording_has_other_leads_too_then_they_do_not_count(recording: Recording) -> None:
    wider = replace(
        recording,
        waveform=np.concatenate([np.full((1, 5000), np.nan, np.float32), recording.waveform]),
        lead_names=["vx", *recording.lead_names],
    )
    assert recording_quality(wider) == ([], 0.0, 0.0)
