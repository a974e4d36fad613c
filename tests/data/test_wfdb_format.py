"""Records are read as `wfdb` reads them, and what cannot be read is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from clear_hug_hf.data.wfdb_format import read_header, read_samples
from clear_hug_hf.processing import InputError


_SIGNALS = "one.dat 16 100/mV 16 0 0 0 0 I\none.dat 16 100/mV 16 0 0 0 0 II\n"
_FOLDERS = ("ptbxl", "cinc2011", "challenge", "ludb", "ptb", "formats")


@pytest.mark.parametrize("folder", _FOLDERS)
def test_when_wfdb_can_read_a_record_then_the_samples_are_identical(shared: Path, folder: str) -> None:
    compared = 0
    for path in sorted((shared / "data" / folder).rglob("*.hea")):
        header = read_header(path)
        samples = read_samples(header)
        try:
            expected = wfdb.rdrecord(str(path.with_suffix("")))
        except wfdb.io.header.HeaderSyntaxError:
            assert header.num_samples == samples.shape[1]
            continue
        np.testing.assert_array_equal(samples, expected.p_signal.T.astype(np.float32), err_msg=str(path))
        assert header.sampling_rate == expected.fs
        assert [signal.name for signal in header.signals] == expected.sig_name
        assert [signal.unit for signal in header.signals] == expected.units
        compared += 1
    assert compared > 0


@pytest.mark.parametrize("format_", ["16", "212", "80", "24", "32"])
def test_when_a_record_is_written_by_wfdb_then_it_comes_back(tmp_path: Path, format_: str) -> None:
    signal = np.random.default_rng(0).normal(0.0, 0.3, (500, 3)).clip(-0.6, 0.6)
    wfdb.wrsamp(
        "one",
        fs=250,
        units=["mV", "uV", "mV"],
        sig_name=["I", "II", "V1"],
        p_signal=signal,
        fmt=[format_] * 3,
        adc_gain=[200.0, 150.5, 100.0],
        baseline=[0, 5, -3],
        write_dir=str(tmp_path),
    )
    header = read_header(tmp_path / "one.hea")
    expected = wfdb.rdrecord(str(tmp_path / "one")).p_signal.T.astype(np.float32)
    np.testing.assert_array_equal(read_samples(header), expected)
    assert [signal.unit for signal in header.signals] == ["mV", "uV", "mV"]


def test_when_a_sample_is_marked_invalid_then_it_is_nan(tmp_path: Path) -> None:
    digital = np.arange(24, dtype="<i2").reshape(12, 2)
    digital[3, 1] = -32768
    digital.tofile(tmp_path / "one.dat")
    (tmp_path / "one.hea").write_text("one 2 100 12\n" + _SIGNALS)
    samples = read_samples(read_header(tmp_path / "one.hea"))
    assert np.argwhere(np.isnan(samples)).tolist() == [[1, 3]]


def test_when_the_header_gives_no_length_then_the_file_does(tmp_path: Path) -> None:
    np.zeros((50, 2), dtype="<i2").tofile(tmp_path / "one.dat")
    (tmp_path / "one.hea").write_text("one 2 100\n" + _SIGNALS)
    assert read_samples(read_header(tmp_path / "one.hea")).shape == (2, 50)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "is not a WFDB header"),
        ("Dear colleague,\nplease find the recording attached.\n", "is not a WFDB header"),
        ("one 3 100 12\n" + _SIGNALS, "promises 3 leads but describes 2"),
        ("one 2\n" + _SIGNALS, "states no sampling rate"),
        ("one 2 fast 12\n" + _SIGNALS, "states the sampling rate 'fast'"),
        ("one 2 0 12\n" + _SIGNALS, "states the sampling rate '0'"),
        ("one 2 -100 12\n" + _SIGNALS, "states the sampling rate '-100'"),
        ("one 2 100 many\n" + _SIGNALS, "states 'many' samples"),
        ("one 0 100 12\n", "promises no leads"),
        ("one/2 2 100 12\n" + _SIGNALS, "multi-segment"),
        ("one 2 100 12\n" + _SIGNALS.replace("100/mV", "big/mV"), "cannot be read"),
        ("one 2 100 13\n" + _SIGNALS, "holds 12 samples per lead where the header promises 13"),
        ("one 2 100 12\n" + _SIGNALS.replace("one.dat", "two.dat"), "refers to two.dat, which is not beside it"),
    ],
)
def test_when_a_record_is_damaged_then_the_message_says_how(tmp_path: Path, header: str, message: str) -> None:
    np.zeros((12, 2), dtype="<i2").tofile(tmp_path / "one.dat")
    (tmp_path / "one.hea").write_text(header)
    with pytest.raises(InputError, match=message):
        read_samples(read_header(tmp_path / "one.hea"))


def test_when_the_header_is_missing_then_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_header(tmp_path / "none.hea")
