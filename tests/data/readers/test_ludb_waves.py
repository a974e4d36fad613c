"""Marked waves of LUDB become a class for every sample; checked by hand against the marks of real records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from clear_hug_hf.data.readers.ludb import read_waves
from clear_hug_hf.evaluation.segmentation import UNKNOWN, WAVES, wave_intervals
from clear_hug_hf.processing import STANDARD_LEADS, InputError


@pytest.fixture
def write_marks(tmp_path: Path):
    """Writes a record's header at 500 Hz and the marks of lead I; gives the record's path."""

    def write(symbols: str, samples: list[int]) -> Path:
        (tmp_path / "1.hea").write_text("1 1 500 5000\n1.dat 16 1000/mV 16 0 0 0 0 i\n")
        wfdb.wrann("1", "i", np.array(samples), symbol=list(symbols), write_dir=str(tmp_path))
        return tmp_path / "1"

    return write


def _read(path: Path, sampling_rate: float = 500.0, num_samples: int = 5000) -> np.ndarray:
    return read_waves(path, ["I"], sampling_rate, num_samples)[0]


@pytest.mark.parametrize("record", ["1", "9", "101"])
def test_when_a_real_record_is_read_then_its_waves_are_the_marks(shared: Path, record: str) -> None:
    path = shared / "data" / "ludb" / "data" / record
    classes = read_waves(path.with_suffix(".hea"), STANDARD_LEADS, 500.0, 5000)
    for row, lead in zip(classes, STANDARD_LEADS, strict=True):
        annotation = wfdb.rdann(str(path), lead.lower())
        samples = annotation.sample.tolist()
        assert samples
        # These records have three marks for every wave: onset, peak, offset.
        triples = [
            (samples[place], annotation.symbol[place + 1], samples[place + 2]) for place in range(0, len(samples), 3)
        ]
        for symbol, wave in (("p", "P"), ("N", "QRS"), ("t", "T")):
            expected = [[first, last] for first, kind, last in triples if kind == symbol]
            assert wave_intervals(row, WAVES.index(wave)).tolist() == expected, (lead, wave)
        known = np.flatnonzero(row != UNKNOWN)
        assert (known[0], known[-1], len(known)) == (samples[0], samples[-1], samples[-1] - samples[0] + 1)


@pytest.mark.parametrize("rate", [100.0, 250.0, 360.0, 500.0, 1000.0])
def test_when_the_rate_is_another_then_samples_have_the_class_of_their_time(shared: Path, rate: float) -> None:
    path = shared / "data" / "ludb" / "data" / "1"
    original = read_waves(path, STANDARD_LEADS, 500.0, 5000)
    classes = read_waves(path, STANDARD_LEADS, rate, round(10 * rate))
    times = np.arange(classes.shape[1]) * 500.0 / rate
    exact = times == np.rint(times)
    np.testing.assert_array_equal(classes[:, exact], original[:, np.rint(times[exact]).astype(int)])
    # Between two marked samples the class is one of theirs, or none where one wave has ended and the next not begun.
    before, after = (original[:, np.minimum(edge(times).astype(int), 4999)] for edge in (np.floor, np.ceil))
    assert ((classes == before) | (classes == after) | (classes == 0)).all()


def test_when_an_onset_is_missing_or_late_then_the_wave_begins_at_its_first_mark(write_marks) -> None:
    # `N)`: the onset is the peak; `N()`: it follows the peak. Records 7, 95 and 111 have both.
    path = write_marks("N)(t)N()", [100, 140, 200, 240, 280, 700, 702, 750])
    row = _read(path)
    assert wave_intervals(row, 2).tolist() == [[100, 140], [702, 750]]
    assert wave_intervals(row, 3).tolist() == [[200, 280]]
    assert wave_intervals(row, 0).tolist() == [[141, 199], [281, 701]]
    assert wave_intervals(row, UNKNOWN).tolist() == [[0, 99], [751, 4999]]


@pytest.mark.parametrize(
    ("symbols", "samples"),
    [
        ("(N)(t(p)", [100, 120, 140, 200, 240, 500, 520, 540]),  # No offset.
        ("(N)()(p)", [100, 120, 140, 200, 240, 500, 520, 540]),  # No peak.
        ("(N)+(p)", [100, 120, 140, 200, 500, 520, 540]),  # A mark of another kind.
    ],
)
def test_when_marks_make_no_wave_then_what_lies_around_them_is_unknown(write_marks, symbols, samples) -> None:
    row = _read(write_marks(symbols, samples))
    assert wave_intervals(row, 2).tolist() == [[100, 140]]
    assert wave_intervals(row, 1).tolist() == [[500, 540]]
    assert wave_intervals(row, UNKNOWN).tolist() == [[0, 99], [141, 499], [541, 4999]]
    assert not (row == 0).any()


def test_when_a_signal_is_shorter_or_longer_than_the_marks_then_they_are_cut_or_unknown(write_marks) -> None:
    path = write_marks("(N)(t)", [100, 120, 140, 200, 240, 280])
    whole = _read(path)
    for length in (120, 170, 240, 300):
        np.testing.assert_array_equal(_read(path, num_samples=length), whole[:length])
    longer = _read(path, num_samples=6000)
    np.testing.assert_array_equal(longer[:5000], whole)
    assert (longer[5000:] == UNKNOWN).all()


def test_when_a_lead_has_no_waves_then_all_of_it_is_unknown(write_marks) -> None:
    assert (_read(write_marks("(", [100])) == UNKNOWN).all()


def test_when_marks_cannot_be_read_then_the_error_reports_which(write_marks) -> None:
    path = write_marks("(N)", [100, 120, 140])
    with pytest.raises(FileNotFoundError, match="annotations of lead V1"):
        read_waves(path, ["I", "V1"], 500.0, 5000)
    with pytest.raises(InputError, match="must be positive"):
        read_waves(path, ["I"], 0.0, 5000)
    with pytest.raises(InputError, match="must be positive"):
        read_waves(path, ["I"], 500.0, 0)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_waves(path.with_name("2"), ["I"], 500.0, 5000)
