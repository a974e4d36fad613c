"""Drawing of a recording as a page of ECG paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processing.errors import InputError
from ..utils.arguments import Arguments
from .shared import overwrite_field, seed_field


if TYPE_CHECKING:
    import numpy as np


_SUFFIXES = (".png", ".jpg", ".jpeg")
_MM_PER_INCH = 25.4
_POSITIVE = {"gt": 0, "lt": math.inf}


@dataclass(kw_only=True)
class RenderArguments(Arguments):
    """Recording to draw, the interval, its scale, and the look of the paper."""

    record: Path = field(
        metadata={"help": "Record to draw, with or without an extension.", "positional": True, "metavar": "RECORD"}
    )
    output: Path = field(
        metadata={"help": "Picture to write: a .png, .jpg or .jpeg file.", "positional": True, "metavar": "PAGE"}
    )
    layout: str = field(
        default="3x4",
        metadata={
            "help": "Rows x columns of leads: 3x4 with a rhythm strip of lead II, 6x2 or 12x1.",
            "metavar": "LAYOUT",
        },
    )
    start: float = field(default=0.0, metadata={"help": "Start of the page in the recording.", "metavar": "SECONDS"})
    dpi: float | None = field(
        default=None,
        metadata={"help": "Resolution of the page in dots per inch (default: 200).", "metavar": "DPI", **_POSITIVE},
    )
    pixels_per_mm: float | None = field(
        default=None,
        metadata={"help": "Resolution of the page in pixels per millimeter.", "metavar": "PIXELS", **_POSITIVE},
    )
    size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Width and height of the picture in pixels, to which the page is stretched as for models.",
            "nargs": 2,
            "metavar": ("WIDTH", "HEIGHT"),
        },
    )
    paper_speed: float = field(
        default=25.0, metadata={"help": "Paper speed in millimeters per second.", "metavar": "MM", **_POSITIVE}
    )
    gain: float = field(
        default=10.0, metadata={"help": "Gain in millimeters per millivolt.", "metavar": "MM", **_POSITIVE}
    )
    millivolts_per_unit: float | None = field(
        default=None,
        metadata={
            "help": "Millivolts per unit of a normalized record (unit NU), required to draw it.",
            "metavar": "MV",
            **_POSITIVE,
        },
    )
    grid: bool = field(default=True, metadata={"help": "Draw the grid."})
    black_and_white: bool = field(
        default=False, metadata={"help": "Draw a gray grid and black traces on white paper."}
    )
    lead_names: bool = field(default=True, metadata={"help": "Draw the names of the leads."})
    pulse: bool = field(default=True, metadata={"help": "Draw the calibration pulses."})
    text: bool = field(default=True, metadata={"help": "Print paper speed and gain at the bottom."})
    random_style: bool = field(default=False, metadata={"help": "Randomize colors, line widths and margins."})
    augment: float = field(
        default=0.0,
        metadata={
            "help": "Strength of imitated camera and scanner artifacts: 0 is none, 1 that of training, 2 the maximum.",
            "ge": 0.0,
            "le": 2.0,
            "metavar": "STRENGTH",
        },
    )
    seed: int = seed_field("Seed of --random-style and --augment.")
    overwrite: bool = overwrite_field("the picture")

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(value is not None for value in (self.dpi, self.pixels_per_mm, self.size)) > 1:
            raise InputError("dpi, pixels_per_mm and size are mutually exclusive: choose one of them")
        if self.size is not None and len(self.size) != 2:
            raise InputError(f"size is {' '.join(map(str, self.size))}: it must be a width and a height")


@dataclass(frozen=True)
class RenderResult:
    """The picture; the record, its duration and the interval drawn [s]; and the leads that are blank."""

    image: np.ndarray
    record_id: str
    start: float
    end: float
    seconds: float
    blank_leads: list[str]


def render(arguments: RenderArguments) -> RenderResult:
    """
    Draw a part of a recording as a page of ECG paper, and write the picture.

    Raises:
        FileNotFoundError: If the record does not exist.
        InputError: If the picture exists, or the record cannot be drawn with these settings.
    """
    import numpy as np

    from ..data.records import read_record
    from ..processing.ecg_paper import DEFAULT_PIXELS_PER_MM, PAGE_SECONDS, PaperStyle, render_page
    from ..processing.leads import STANDARD_LEADS
    from ..processing.page_augmentation import augment_page
    from ..utils.files import check_file

    check_file(arguments.output, arguments.overwrite, [arguments.record], _SUFFIXES)
    pixels_per_mm = arguments.pixels_per_mm
    if arguments.dpi is not None:
        pixels_per_mm = arguments.dpi / _MM_PER_INCH
    if pixels_per_mm is None and arguments.size is None:
        pixels_per_mm = DEFAULT_PIXELS_PER_MM
    generator = np.random.default_rng(arguments.seed)
    style = PaperStyle.draw(generator) if arguments.random_style else PaperStyle()
    style = replace(
        style,
        grid=style.grid and arguments.grid,
        lead_names=style.lead_names and arguments.lead_names,
        calibration_pulse=style.calibration_pulse and arguments.pulse,
        page_text=style.page_text and arguments.text,
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
        image_size=None if arguments.size is None else tuple(arguments.size[::-1]),
        pixels_per_mm=pixels_per_mm,
        style=style,
        paper_speed=arguments.paper_speed,
        gain=arguments.gain,
    )
    image = augment_page(page.image, generator, arguments.augment, pixels_per_mm=page.pixels_per_mm)
    _save(image, arguments.output, pixels_per_mm)
    seconds = recording.waveform.shape[1] / recording.sampling_rate
    return RenderResult(
        image=image,
        record_id=recording.record_id,
        start=arguments.start,
        end=min(arguments.start + PAGE_SECONDS, seconds),
        seconds=seconds,
        blank_leads=[name for name, drawn in zip(STANDARD_LEADS, page.drawn, strict=True) if not drawn.any()],
    )


def _save(image: Any, path: Path, pixels_per_mm: float | None) -> None:
    """Write a picture with its resolution, atomically."""
    from PIL import Image

    from ..utils.files import atomic_file

    options: dict[str, Any] = {} if pixels_per_mm is None else {"dpi": (pixels_per_mm * _MM_PER_INCH,) * 2}
    with atomic_file(path) as partial:
        Image.fromarray(image).save(partial, quality=95, **options)  # quality of JPEG, ignored for PNG
