"""Pictures of all kinds become what the model reads, and bad ones are refused with the reason."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from clear_hug_hf import EcgScanFeatureExtractor, EcgScanImageProcessor
from clear_hug_hf.data.records import read_record
from clear_hug_hf.processing import InputError, draw_page, load_page, render_page
from clear_hug_hf.processing.page_loading import MAX_PIXELS, PDF_DPI


@pytest.fixture(scope="module")
def page(shared: Path) -> np.ndarray:
    inputs = read_record(shared / "data" / "ptb" / "s0010_re").as_inputs()
    return render_page(inputs.pop("waveforms"), **inputs, pixels_per_mm=3).image


def _saved(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def test_when_a_picture_comes_in_any_form_then_it_is_the_same_picture(page: np.ndarray, tmp_path: Path) -> None:
    picture = Image.fromarray(page)
    path = tmp_path / "page.png"
    picture.save(path)
    for source in (path, str(path), path.read_bytes(), picture, page, page.transpose(2, 0, 1), page / 255.0):
        assert np.array_equal(load_page(source), page)
    assert np.array_equal(load_page(torch.from_numpy(page)), page)
    assert np.array_equal(load_page(page.astype(np.uint16) * 257), page)


def test_when_a_picture_is_gray_or_wide_or_has_a_palette_then_it_is_scaled_not_cut(page: np.ndarray) -> None:
    gray = np.asarray(Image.fromarray(page).convert("L"))
    expected = np.repeat(gray[..., None], 3, axis=2)
    assert np.array_equal(load_page(_saved(Image.fromarray(gray))), expected)
    wide = Image.fromarray(gray.astype(np.uint16) * 257)
    assert np.array_equal(load_page(_saved(wide)), expected), "16 bits"
    palette = load_page(_saved(Image.fromarray(page).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)))
    assert np.abs(palette.astype(int) - page).mean() < 5
    cmyk = load_page(_saved(Image.fromarray(page).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - page).mean() < 8


def test_when_a_picture_is_transparent_then_what_lies_behind_is_white_paper() -> None:
    picture = np.zeros((80, 90, 4), dtype=np.uint8)
    picture[:, :40, 3] = 255
    for source in (picture, _saved(Image.fromarray(picture))):
        result = load_page(source)
        assert (result[:, :40] == 0).all()
        assert (result[:, 40:] == 255).all()


def test_when_a_camera_noted_how_it_was_held_then_the_picture_is_turned(page: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(page, 1)))
    assert np.array_equal(load_page(_saved(lying, exif=exif)), page)


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _pdf(width: float, height: float, content: str = "", extra: str = "") -> bytes:
    """A PDF of a page of a size in points, and of drawing operators."""
    objects = [
        f"<</Type/Catalog/Pages 2 0 R{extra}>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {width} {height}]/Contents 4 0 R>>",
        f"<</Length {len(content)}>>stream\n{content}\nendstream",
    ]
    text, places = "%PDF-1.4\n", []
    for number, entry in enumerate(objects, 1):
        places.append(len(text))
        text += f"{number} 0 obj{entry}endobj\n"
    rows = "".join(f"{place:010d} 00000 n \n" for place in places)
    table = f"xref\n0 5\n0000000000 65535 f \n{rows}trailer<</Size 5/Root 1 0 R>>\n"
    return f"{text}{table}startxref\n{len(text)}\n%%EOF".encode()


def test_when_a_page_is_a_pdf_then_its_lines_or_its_scan_are_drawn(
    page: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = _saved(Image.fromarray(page), "PDF", resolution=PDF_DPI, quality=100)
    drawn = load_page(scan)
    assert np.ptp([drawn.shape, page.shape], axis=0).max() <= 1, "the size in points is rounded up"
    assert np.abs(drawn[: len(page), : page.shape[1]].astype(int) - page).mean() < 8
    (tmp_path / "scan.pdf").write_bytes(scan)
    np.testing.assert_array_equal(load_page(tmp_path / "scan.pdf"), drawn)

    # Scripts and links to other files are not followed.
    action = "/OpenAction<</S/JavaScript/JS(app.launchURL\\('http://example.invalid'\\))>>"
    lines = load_page(_pdf(72, 72, "1 0 0 RG 4 w 0 36 m 72 36 l S", action))
    assert lines.shape == (200, 200, 3)
    assert lines[100, 100].tolist() == [255, 0, 0]
    assert lines[20, 20].tolist() == [255, 255, 255]

    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ImportError, match=r"needs pypdfium2, which is not installed: .*\[pages\]"):
        load_page(scan)


def test_when_a_picture_is_bad_then_the_error_explains_what_to_do(page: np.ndarray, tmp_path: Path) -> None:
    jpeg = _saved(Image.fromarray(page), "JPEG")
    frames = [Image.new("RGB", (90, 90), color) for color in ("white", "black")]
    animated = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    side = int(MAX_PIXELS**0.5) + 1
    for source, message in (
        (b"%PDF-1.7 ...", "is a PDF that cannot be read: it is damaged, truncated or locked"),
        (_saved(Image.fromarray(page), "PDF")[:5000], "is a PDF that cannot be read"),
        (_saved(frames[0], "PDF", save_all=True, append_images=frames[1:]), "must contain a single page, got 2 pages"),
        (_pdf(10, 400), "must be at least 64 px wide and high, got 28 x 1111 px"),
        (_pdf(14000, 14000), "must have at most 100 million pixels"),
        (b"", "empty file"),
        (b"hello", "is not a supported image"),
        (jpeg[: len(jpeg) // 2], "damaged or truncated"),
        (animated, "must contain a single image, got 2 frames"),
        (_saved(Image.new("RGB", (10, 400))), "must be at least 64 px wide and high, got 10 x 400 px"),
        (_bomb(side, side), "must have at most 100 million pixels"),
        (_bomb(30000, 30000), "is too large"),
        (np.zeros((100, 100, 2)), "an image array must have shape"),
        (np.full((100, 100, 3), np.nan), "must contain finite values"),
        (np.full((100, 100, 3), -1), "values from 0 to 255 or 65535, got -1 to -1"),
        (12, "images must be a path, .*, got int"),
    ):
        with pytest.raises(InputError, match=message):
            load_page(source)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_page(tmp_path / "none.png")


def test_when_pages_are_read_then_nothing_is_cropped(page: np.ndarray) -> None:
    processor = EcgScanImageProcessor(image_size=(96, 128))
    marked = page.copy()
    for corner in ((slice(None, 12), slice(None, 12)), (slice(-12, None), slice(-12, None))):
        marked[corner] = (0, 0, 255)
    seen = processor.page_of(marked, do_find_page=False)
    assert seen.shape == (96, 128, 3)
    for place in ((0, 0), (-1, -1)):
        assert seen[place][2] - int(seen[place][0]) > 150, "the corners of the page are those of the picture"
    values = processor(marked, return_tensors="pt", do_find_page=False)["pixel_values"]
    assert values.shape == (1, 3, 96, 128)
    back = values[0].permute(1, 2, 0) * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean)
    torch.testing.assert_close(back, torch.from_numpy(seen) / 255, atol=1e-5, rtol=0)


def test_when_several_pictures_are_given_then_the_bad_one_is_named(page: np.ndarray) -> None:
    processor = EcgScanImageProcessor()
    assert processor([page, page], return_tensors="np")["pixel_values"].shape == (2, 3, 192, 256)
    with pytest.raises(InputError, match="image 1: the image does not look like an ECG page"):
        processor([page, np.full((100, 100, 3), 255, dtype=np.uint8)])
    with pytest.raises(InputError, match="no image was passed"):
        processor([])
    with pytest.raises(InputError, match="between 32 and 4096 px"):
        EcgScanImageProcessor(image_size=(8, 8))


def test_when_it_is_saved_then_it_comes_back(tmp_path: Path) -> None:
    processor = EcgScanImageProcessor(image_size=(64, 96), image_mean=(0.1, 0.2, 0.3), do_find_page=False)
    processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is EcgScanImageProcessor
    assert (again.image_size, again.image_mean, again.do_find_page) == ([64, 96], [0.1, 0.2, 0.3], False)


def test_when_a_recording_is_drawn_then_its_picture_reads_as_the_recording(shared: Path, tmp_path: Path) -> None:
    recording = read_record(shared / "data" / "ptb" / "s0010_re")
    extractor = EcgScanFeatureExtractor()
    signal, present = extractor.clean(
        recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit
    )
    drawn = extractor(**recording.as_inputs(), return_tensors="pt")["pixel_values"]
    picture = draw_page(signal[:, :1000], 100.0, present, image_size=extractor.image_size).image
    Image.fromarray(picture).save(tmp_path / "page.png")
    read = extractor.image_processor(tmp_path / "page.png", return_tensors="pt", do_find_page=False)["pixel_values"]
    torch.testing.assert_close(read, drawn)
    assert extractor.image_processor(tmp_path / "page.png")["pixel_values"].shape == (1, 3, 192, 256), "and is found"
