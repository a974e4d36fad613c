"""`clear-hug render`: a recording as a page of ECG paper."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from .shared import EXIT_OK, add_overwrite_option, add_verb, say, seed, share


_ENDINGS = (".png", ".jpg", ".jpeg")
_MM_PER_INCH = 25.4


def add(verbs: Any) -> None:
    """Add `render` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        run,
        "a recording as a page of ECG paper",
        "Draw 10 s of a WFDB record (.hea with .dat or .mat; any rate, any order of leads) as a page of ECG paper,\n"
        "at 25 mm/s and 10 mm/mV. Each column of leads shows its own part of the 10 s, as on paper. Leads that the\n"
        "record lacks stay blank; absent III, aVR, aVL and aVF are computed from I and II.\n\n"
        "examples:\n"
        "  clear-hug render patient7.hea page.png\n"
        "  clear-hug render patient7.hea page.png --layout 12x1 --start 20 --dpi 300\n"
        "  clear-hug render patient7.hea model_input.png --size 256 256\n"
        "  clear-hug render patient7.hea photograph.jpg --random-style --augment 1 --seed 3\n"
        "  clear-hug render ptb-xl/00001_lr normalised.png --millivolts-per-unit 0.2",
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="the record, with or without an extension")
    parser.add_argument("output", type=Path, metavar="PAGE", help="the picture: a .png, .jpg or .jpeg file")
    parser.add_argument(
        "--layout",
        default="3x4",
        metavar="LAYOUT",
        help="rows x columns of leads: 3x4 with a strip of lead II beneath, 6x2 or 12x1 (default: %(default)s)",
    )
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="SECONDS", help="where the page begins (default: %(default)g)"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--dpi", type=_above_zero, metavar="DPI", help="dots per inch of the page (default: 200)")
    size.add_argument("--pixels-per-mm", type=_above_zero, metavar="PIXELS", help="the same per millimetre")
    size.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("WIDTH", "HEIGHT"),
        help="size of the picture [px]; the page is squashed to it, as models see it",
    )
    parser.add_argument(
        "--paper-speed", type=_above_zero, default=25.0, metavar="MM", help="millimetres per second (default: 25)"
    )
    parser.add_argument(
        "--gain", type=_above_zero, default=10.0, metavar="MM", help="millimetres per millivolt (default: 10)"
    )
    parser.add_argument(
        "--millivolts-per-unit",
        type=_above_zero,
        metavar="MV",
        help="height of one unit of a normalised record (unit NU), which cannot be drawn without it",
    )
    look = parser.add_argument_group("looks")
    look.add_argument("--no-grid", action="store_true", help="paper without a grid")
    look.add_argument("--black-and-white", action="store_true", help="grey grid and black trace on white paper")
    look.add_argument("--no-lead-names", action="store_true", help="no names over the traces")
    look.add_argument("--no-pulse", action="store_true", help="no calibration pulses")
    look.add_argument("--no-text", action="store_true", help="no paper speed and gain at the bottom")
    look.add_argument("--random-style", action="store_true", help="colours, widths and margins drawn by the seed")
    look.add_argument(
        "--augment",
        type=_strength,
        default=0.0,
        metavar="STRENGTH",
        help="as if photographed or scanned, from 0 (not at all) over 1 (as in training) to 2",
    )
    look.add_argument("--seed", type=seed, default=0, help="of --random-style and --augment (default: %(default)s)")
    add_overwrite_option(parser, "the picture")


def run(arguments: argparse.Namespace) -> int:
    """Run `render` and return the exit status."""
    from dataclasses import replace

    import numpy as np

    from ..data.records import read_record
    from ..processing.ecg_paper import DEFAULT_PIXELS_PER_MM, PAGE_SECONDS, PaperStyle, render_page
    from ..processing.leads import STANDARD_LEADS
    from ..processing.page_augmentation import augment_page
    from ..utils.files import check_file

    output: Path = arguments.output
    check_file(output, arguments.overwrite, [arguments.record], _ENDINGS)

    scale = arguments.pixels_per_mm
    if arguments.dpi is not None:
        scale = arguments.dpi / _MM_PER_INCH
    if scale is None and arguments.size is None:
        scale = DEFAULT_PIXELS_PER_MM
    generator = np.random.default_rng(arguments.seed)
    style = PaperStyle.draw(generator) if arguments.random_style else PaperStyle()
    style = replace(
        style,
        grid=style.grid and not arguments.no_grid,
        lead_names=style.lead_names and not arguments.no_lead_names,
        calibration_pulse=style.calibration_pulse and not arguments.no_pulse,
        page_text=style.page_text and not arguments.no_text,
    )
    if arguments.black_and_white:
        style = style.in_black_and_white()

    recording = read_record(arguments.record)
    page = render_page(
        recording.waveform,
        recording.sampling_rate,
        recording.lead_names,
        recording.unit,
        millivolts_per_unit=arguments.millivolts_per_unit,
        start_seconds=arguments.start,
        layout=arguments.layout,
        image_size=None if arguments.size is None else arguments.size[::-1],
        pixels_per_mm=scale,
        style=style,
        paper_speed=arguments.paper_speed,
        gain=arguments.gain,
    )
    image = augment_page(page.image, generator, arguments.augment, pixels_per_mm=page.pixels_per_mm)
    _save(image, output, scale)

    height, width = image.shape[:2]
    lasts = recording.waveform.shape[1] / recording.sampling_rate
    end = min(arguments.start + PAGE_SECONDS, lasts)
    say(
        f"{output}: {recording.record_id}, {arguments.start:g} to {end:g} s of {lasts:g} s, {arguments.layout}, "
        f"{width} x {height} px"
    )
    blank = [name for name, drawn in zip(STANDARD_LEADS, page.drawn, strict=True) if not drawn.any()]
    if blank:
        say(f"blank, since there is nothing of them in that time: {', '.join(blank)}")
    return EXIT_OK


def _save(image: Any, path: Path, pixels_per_mm: float | None) -> None:
    """Write a picture so that it is complete whenever it exists under its name; the scale goes with it."""
    from PIL import Image

    from ..utils.files import atomic_file

    options: dict[str, Any] = {} if pixels_per_mm is None else {"dpi": (pixels_per_mm * _MM_PER_INCH,) * 2}
    with atomic_file(path) as partial:
        Image.fromarray(image).save(partial, quality=95, **options)  # of JPEG; PNG has none


def _above_zero(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0.0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _strength(text: str) -> float:
    return share(text, most=2.0)
