"""Records are read as `wfdb` reads them, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import wfdb

from clear_hug_hf.data.records import find_records, read_record
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.wfdb_format import read_header, read_samples


_SIGNALS = "one.dat 16 100/mV 16 0 0 0 0 I\none.dat 16 100/mV 16 0 0 0 0 II\n"
_FOLDERS = ("ptbxl", "cinc2011", "challenge", "ludb", "ptb", "formats")


@pytest.mark.parametrize("folder", _FOLDERS)
def test_when_wfdb_can_read_a_record_then_the_samples_are_identical(shared: Path, folder: str) -> None:
    compared = 0
    headers = sorted((shared / "data" / folder).rglob("*.hea"))
    # The headers of a set are much alike, and `wfdb` is slow.
    for path in headers[:: len(headers) // 200 + 1]:
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
        ("one 3 100 12\n" + _SIGNALS, "declares 3 leads but describes 2"),
        ("one 2\n" + _SIGNALS, "contains no sampling rate"),
        ("one 2 fast 12\n" + _SIGNALS, "the sampling rate in .* must be a positive number .* got 'fast'"),
        ("one 2 0 12\n" + _SIGNALS, "the sampling rate in .* must be a positive number .* got '0'"),
        ("one 2 -100 12\n" + _SIGNALS, "the sampling rate in .* must be a positive number .* got '-100'"),
        ("one 2 100 many\n" + _SIGNALS, "the number of samples in .* must be an integer, got 'many'"),
        ("one 0 100 12\n", "declares no leads"),
        ("one/2 2 100 12\n" + _SIGNALS, "multi-segment"),
        ("one 2 100 12\n" + _SIGNALS.replace("100/mV", "big/mV"), "invalid signal line"),
        ("one 2 100 13\n" + _SIGNALS, "contains 12 samples per lead but the header declares 13"),
        ("one 2 100 12\n" + _SIGNALS.replace("one.dat", "two.dat"), "refers to two.dat, which is missing"),
        ("one 1 100 12\n" + _SIGNALS, "declares 1 leads but describes 2"),
        ("one 2 5e1 12\n" + _SIGNALS, "the sampling rate in .* must be a positive number .* got '5e1'"),
        ("one 2 \u0661\u0660\u0660 12\n" + _SIGNALS, "the sampling rate in .* must be a positive number"),
        ("one 2 100 1_2\n" + _SIGNALS, "the number of samples in .* must be an integer, got '1_2'"),
        ("one 2 100 12\n" + _SIGNALS.replace("100/mV", "1e30/mV"), "contains the implausible gain '1e30'"),
        ("one 2 100 12\n" + _SIGNALS.replace("100/mV", "1E2/mV"), "invalid signal line"),
        ("one 2 100 12\n" + _SIGNALS.replace(" 16 0 0", " 16 x 0"), "invalid signal line"),
        ("one 2 100 12\n" + _SIGNALS.replace("one.dat", "../one.dat"), "must be in the folder of the header"),
        ("one 2 100 12\n" + _SIGNALS.replace("one.dat", "/etc/hostname"), "must be in the folder of the header"),
        ("one 2 100 12\n" + _SIGNALS.replace("one.dat", "one\0.dat"), "invalid signal line"),
        ("one 2 100 12\n" + _SIGNALS.replace("one.dat", "x" * 500), "refers to x"),
        ("one 2 100 1000000000000\n" + _SIGNALS.replace(" 16 100", " 212 100"), "fewer than the header declares"),
        ("one 2 100 12\n" + _SIGNALS.replace(" 16 100", " 16x900000000 100"), "fewer than the header declares"),
        (
            "one 2 100 12\n" + _SIGNALS.replace(" 16 100", " 212:900000000 100"),
            "contains a skew that exceeds the signal length",
        ),
    ],
)
def test_when_a_record_is_damaged_then_the_message_reports_how(tmp_path: Path, header: str, message: str) -> None:
    np.zeros((12, 2), dtype="<i2").tofile(tmp_path / "one.dat")
    (tmp_path / "one.hea").write_text(header)
    with pytest.raises(InputError, match=message):
        read_samples(read_header(tmp_path / "one.hea"))


def test_when_the_header_is_missing_then_that_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_header(tmp_path / "none.hea")


@pytest.mark.parametrize("name", ["a\0b", "x" * 500])
def test_when_no_file_can_have_the_name_then_that_is_reported(tmp_path: Path, name: str) -> None:
    for read in (read_record, find_records):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / f"{name}.hea")


def _write(folder: Path, format_: str) -> Path:
    """Three leads in a format, as `wfdb` writes them; the header's path."""
    limit = 120 if format_ == "80" else 2000
    wfdb.wrsamp(
        "one",
        fs=100,
        units=["mV", "uV", "mV"],
        sig_name=["I", "II", "V1"],
        d_signal=np.random.default_rng(1).integers(-limit, limit, (60, 3)),
        fmt=[format_] * 3,
        adc_gain=[200.0, 150.5, 100.0],
        baseline=[0, 5, -3],
        write_dir=str(folder),
    )
    return folder / "one.hea"


@pytest.mark.parametrize("format_", ["16", "212", "80", "24", "32"])
def test_when_wfdb_writes_a_record_then_it_comes_back_unless_a_byte_of_it_changes(
    tmp_path: Path, format_: str
) -> None:
    header = _write(tmp_path, format_)
    expected = wfdb.rdrecord(str(tmp_path / "one")).p_signal.T.astype(np.float32)
    np.testing.assert_array_equal(read_samples(read_header(header)), expected)
    assert [signal.unit for signal in read_header(header).signals] == ["mV", "uV", "mV"]
    data = bytearray((tmp_path / "one.dat").read_bytes())
    data[45] ^= 2
    (tmp_path / "one.dat").write_bytes(data)
    with pytest.raises(InputError, match=r"the samples of lead \w+ do not match the checksum"):
        read_samples(read_header(header))
    # A writer that computes no checksums writes zeros.
    lines = header.read_text().splitlines()
    fields = [line.split() for line in lines[1:]]
    header.write_text("\n".join([lines[0], *(" ".join([*item[:6], "0", *item[7:]]) for item in fields)]))
    assert read_samples(read_header(header)).shape == (3, 60)


def test_when_a_baseline_is_large_then_the_samples_are_as_exact_as_those_of_wfdb(tmp_path: Path) -> None:
    np.arange(24, dtype="<i2").tofile(tmp_path / "one.dat")
    (tmp_path / "one.hea").write_text("one 2 100 12\n" + _SIGNALS.replace("100/mV", "100(123456789)/mV"))
    expected = wfdb.rdrecord(str(tmp_path / "one")).p_signal.T.astype(np.float32)
    np.testing.assert_array_equal(read_samples(read_header(tmp_path / "one.hea")), expected)


_ODD = ["", "0", "-1", "1e30", "5e1", "1E3", "\u0662", "\0", "/", "../", "~", "99999999999", "x", "(", ":", "+", " "]
_ODD += ["\t", "\n", "#", "\x0b", "\u2028", "\u00b5V", "1_0", ".5", "nan", "inf", "z" * 300, "9" * 5000]


@pytest.mark.parametrize("format_", ["16", "212"])
def test_when_headers_are_mutated_then_they_are_refused_or_read_as_wfdb_reads_them(
    tmp_path: Path, format_: str
) -> None:
    path = _write(tmp_path, format_)
    original = path.read_text()
    draw = random.Random(int(format_))
    accepted = refused = 0
    for _ in range(350):
        text = original
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(text))
            text = text[:place] + draw.choice(_ODD) + text[place + draw.randint(0, 3) :]
        path.write_text(text, encoding="utf-8")
        try:
            header = read_header(path)
            samples = read_samples(header)
        except (InputError, FileNotFoundError):
            refused += 1
            continue
        accepted += 1
        assert len(samples) == len(header.signals)
        try:
            expected = wfdb.rdrecord(str(path.with_suffix("")))
        except Exception:  # what wfdb cannot read cannot be compared
            continue
        assert header.sampling_rate == expected.fs, text
        np.testing.assert_array_equal(samples, expected.p_signal.T.astype(np.float32), err_msg=text)
    assert accepted >= 15
    assert refused >= 100
