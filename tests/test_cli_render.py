"""`clear-hug render`: a record in, a picture of a page out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clear_hug_hf.cli import main
from clear_hug_hf.data.records import Recording, read_record
from clear_hug_hf.processing.ecg_paper import render_page


@pytest.fixture(scope="module")
def record(
    tmp_path_factory: pytest.TempPathFactory,
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
) -> Path:
    """A record of 10 s, and beside it `long` of 25 s without V6, and `normalized`."""
    folder = tmp_path_factory.mktemp("records")
    (recording,) = make_recordings(1)
    write_record(folder / "ten", recording)
    wave = np.tile(recording.waveform, 3)[:11, :2500]
    long = Recording(wave, 100.0, recording.lead_names[:11], "mV", "long")
    write_record(folder / "long", long)
    write_record(folder / "normalized", Recording(recording.waveform, 100.0, recording.lead_names, "NU", "n"))
    return folder / "ten.hea"


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_when_a_record_is_rendered_then_the_picture_is_its_page(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new folder" / "page.png"
    assert main(["render", str(record), str(page)]) == 0
    recording = read_record(record)
    expected = render_page(recording.waveform, 100.0, recording.lead_names, "mV")
    np.testing.assert_array_equal(_pixels(page), expected.image)
    with Image.open(page) as image:
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert "ten, 0 to 10 s of 10 s, 3x4" in capsys.readouterr().out
    assert [path.name for path in page.parent.iterdir()] == ["page.png"]


def test_when_a_size_is_given_then_the_picture_has_it(record: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"
    assert main(["render", str(record), str(page), "--size", "320", "256", "--layout", "6x2"]) == 0
    with Image.open(page) as image:
        assert (image.size, image.format) == ((320, 256), "JPEG")
    sizes = {}
    for options in (["--dpi", "100"], ["--pixels-per-mm", "4"], ["--dpi", "100", "--paper-speed", "50"]):
        assert main(["render", str(record), str(page), "--overwrite", *options]) == 0
        with Image.open(page) as image:
            sizes[" ".join(options)] = image.width
    assert sizes == {"--dpi 100": 1063, "--pixels-per-mm 4": 1080, "--dpi 100 --paper-speed 50": 2067}


def test_when_looks_are_chosen_then_the_picture_has_them(record: Path, tmp_path: Path) -> None:
    def render(*options: str) -> np.ndarray:
        page = tmp_path / "page.png"
        assert main(["render", str(record), str(page), "--size", "300", "300", "--overwrite", *options]) == 0
        return _pixels(page)

    plain = render()
    gray = render("--black-and-white")
    assert (gray == gray[..., :1]).all()
    assert (plain != plain[..., :1]).any()
    assert (render("--no-grid") == 255).all(axis=2).mean() > 0.5
    different = [render(option) for option in ("--no-lead-names", "--no-pulse", "--no-text")]
    different += [render("--gain", "20"), render("--random-style"), render("--augment", "1", "--seed", "5")]
    assert all((one != plain).any() for one in different)
    np.testing.assert_array_equal(render("--augment", "1", "--seed", "5"), different[-1])
    assert (render("--augment", "1", "--seed", "6") != different[-1]).any()
    np.testing.assert_array_equal(render("--augment", "0", "--seed", "6"), plain)


def test_when_a_record_is_long_or_lacks_leads_then_it_explains_what_is_drawn(
    record: Path, tmp_path: Path, printed_by: Callable[..., str]
) -> None:
    printed = printed_by("render", record.with_name("long"), tmp_path / "a.png", "--start", "20")
    assert "20 to 25 s of 25 s" in printed
    assert "blank leads, without a signal in this interval: V1, V2, V3, V4, V5, V6" in printed


def test_when_a_record_is_normalized_then_its_height_is_asked_for(
    record: Path, tmp_path: Path, run: Callable[..., None], refused: Callable[..., str]
) -> None:
    command = ["render", record.with_name("normalized"), tmp_path / "a.png"]
    assert "normalized" in refused(*command)
    run(*command, "--millivolts-per-unit", "0.2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing", "a.png"], "does not exist"),
        (["ten", "a.pdf"], "must have the extension .png or .jpg or .jpeg"),
        (["ten", "there.png"], "--overwrite"),
        (["ten", "ten.hea/a.png"], "is a file"),
        (["ten", "a.png", "--layout", "4x3"], "choose one of 3x4"),
        (["ten", "a.png", "--size", "10", "300"], "between 64"),
        (["ten", "a.png", "--start", "11"], "the duration of the recording (10 s)"),
    ],
)
def test_when_a_page_cannot_be_rendered_then_one_sentence_explains_why_and_nothing_is_written(
    record: Path, tmp_path: Path, refused: Callable[..., str], options: list[str], message: str
) -> None:
    (tmp_path / "there.png").write_text("kept")
    (tmp_path / "ten.hea").write_text("")
    name, page, *rest = options
    assert message in refused("render", record.with_name(name), tmp_path / page, *rest)
    assert (tmp_path / "there.png").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ten.hea", "there.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "3"], "augment is 3.0: it must be at most 2"),
        (["--dpi", "0"], "dpi is 0.0: it must be greater than 0"),
        (["--dpi", "100", "--size", "300", "300"], "choose one of them"),
        (["--size", "300"], "--size: expected 2 arguments"),
        (["--gain", "nan"], "gain is nan: it must be greater than 0"),
        (["--gain", "inf"], "gain is inf: it must be less than inf"),
        (["--seed", "-1"], "seed is -1: it must be at least 0"),
    ],
)
def test_when_an_option_is_impossible_then_the_parser_refuses_it(
    record: Path, tmp_path: Path, refused: Callable[..., str], options: list[str], message: str
) -> None:
    assert message in refused("render", record, tmp_path / "a.png", *options)
