"""
ECG paper: 12-lead recordings drawn as pages, with the place of every sample.

A page is drawn directly at the size that is asked for: the grid as the exact share of each pixel that its lines cover,
the traces at several times the resolution, averaged down. How papers on such pages draw them is not known to us:
layouts, looks and their ranges are our own choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import InputError, import_library
from .leads import STANDARD_LEADS, arrange_leads
from .signal_cleaning import MILLIVOLTS_PER_UNIT, check_waveform, repair_non_finite, usable_leads
from .signal_report import check_amplitude


LAYOUTS: tuple[str, ...] = ("3x4", "6x2", "12x1")
"""Rows x columns of leads. Beneath the 3x4 there is a strip of lead II over all 10 s."""

PAGE_SECONDS = 10.0
"""What a row of a page shows [s]; each column shows its own part of it."""

PAPER_SPEED = 25.0
"""Length of a second on ordinary paper [mm]."""

GAINS: tuple[float, ...] = (10.0, 5.0, 2.5)
"""Heights of a millivolt on paper [mm]: the ordinary one, and those for high voltages."""

GRID_STEPS: tuple[float, float] = (1.0, 5.0)
"""From a minor line of the grid to the next, and from a major one [mm]."""

PULSE_SECONDS = 0.2
"""Length of the pulse of 1 mV that a row begins with [s]."""

RHYTHM_LEAD = "II"
"""What the strip shows."""

MILLIMETERS_PER_INCH = 25.4

MINIMUM_SIZE = 64
"""Smallest height and width of a page [px]."""

MAXIMUM_SIZE = 10_000
"""Largest height and width of a page [px]."""

DEFAULT_PIXELS_PER_MM = 200.0 / MILLIMETERS_PER_INCH

Color = tuple[int, int, int]


@dataclass(frozen=True)
class PageLayout:
    """
    Where rows lie: `spacing` from a baseline to the next, `edge` from the first and the last one to the margins [mm].
    A baseline has at least 25 mm to the page's edge at the usual margins, for complexes of 2.5 mV.
    """

    rows: int
    columns: int
    spacing: float
    edge: float
    strip: bool = False

    @property
    def baselines(self) -> int:
        return self.rows + self.strip

    def panels(self, strip_lead: str = RHYTHM_LEAD) -> Iterator[tuple[str, int, float, float]]:
        """Name and row of each lead, and from which to which share of the time it is shown; the strip comes last."""
        for index, lead in enumerate(STANDARD_LEADS):
            column, row = divmod(index, self.rows)
            yield lead, row, column / self.columns, (column + 1) / self.columns
        if self.strip:
            yield strip_lead, self.rows, 0.0, 1.0


PAGE_LAYOUTS: dict[str, PageLayout] = {
    "3x4": PageLayout(rows=3, columns=4, spacing=30.0, edge=25.0, strip=True),
    "6x2": PageLayout(rows=6, columns=2, spacing=25.0, edge=20.0),
    "12x1": PageLayout(rows=12, columns=1, spacing=15.0, edge=20.0),
}

# A trace thinner than this at the page's size would vanish between the grid's lines [px].
_THINNEST_TRACE = 0.75
# Lines are drawn at no less than this resolution, and averaged down to the page's [px/mm].
_FINE_ENOUGH = 12.0
_MOST_FINE = 4
_SHIFT = 4  # Binary places of the coordinates that OpenCV is given.

# Grid colors, minor and major, of papers in use [RGB].
_GRIDS: tuple[tuple[Color, Color], ...] = (
    ((255, 205, 205), (240, 130, 130)),  # red
    ((255, 214, 224), (245, 150, 175)),  # pink
    ((255, 222, 196), (240, 160, 110)),  # orange
    ((214, 236, 214), (130, 190, 130)),  # green
    ((208, 224, 244), (130, 165, 215)),  # blue
    ((228, 216, 204), (180, 155, 135)),  # brown
)
_GRAY_GRID: tuple[Color, Color] = ((218, 218, 218), (160, 160, 160))


@dataclass(frozen=True)
class PaperStyle:
    """
    How a page looks. The defaults are the usual red grid on white with a black trace.

    Args:
        grid (`bool`, *optional*, defaults to `True`): Whether the paper has a grid: lines each 1 mm and each 5 mm.
        paper_color, minor_color, major_color, trace_color (`tuple[int, int, int]`, *optional*):
            Colors of the paper, the grid's 1 mm and 5 mm lines, and of traces and writing [RGB, 0 to 255].
        minor_width, major_width (`float`, *optional*, defaults to 0.1 and 0.25): Width of the grid's lines [mm].
        trace_width (`float`, *optional*, defaults to 0.35):
            Width of the traces [mm]; never drawn thinner than three quarters of a pixel.
        lead_names (`bool`, *optional*, defaults to `True`): Whether each lead's name stands over its trace.
        page_text (`bool`, *optional*, defaults to `True`): Whether paper speed and gain stand at the bottom.
        calibration_pulse (`bool`, *optional*, defaults to `True`):
            Whether each row begins with a pulse of 1 mV and 0.2 s. Without it, its place is not there either.
        text_size (`float`, *optional*, defaults to 3): Height of capital letters [mm].
        margin_left, margin_right, margin_top, margin_bottom (`float`, *optional*, defaults to 5):
            Paper around rows and traces [mm].
        grid_offset (`tuple[float, float]`, *optional*, defaults to `(0, 0)`):
            Where the grid's first 5 mm lines cross, from the page's upper left corner [mm]; at the default, baselines
            lie on lines.
    """

    grid: bool = True
    paper_color: Color = (255, 255, 255)
    minor_color: Color = _GRIDS[0][0]
    major_color: Color = _GRIDS[0][1]
    trace_color: Color = (0, 0, 0)
    minor_width: float = 0.1
    major_width: float = 0.25
    trace_width: float = 0.35
    lead_names: bool = True
    page_text: bool = True
    calibration_pulse: bool = True
    text_size: float = 3.0
    margin_left: float = 5.0
    margin_right: float = 5.0
    margin_top: float = 5.0
    margin_bottom: float = 5.0
    grid_offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("paper_color", "minor_color", "major_color", "trace_color"):
            color = tuple(int(value) for value in getattr(self, name))
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise InputError(f"{name} is {getattr(self, name)!r}: give red, green and blue from 0 to 255")
            object.__setattr__(self, name, color)
        for name in ("minor_width", "major_width", "trace_width", "text_size"):
            if not 0.0 < getattr(self, name) <= 20.0:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be above 0 and at most 20 mm")
        for name in ("margin_left", "margin_right", "margin_top", "margin_bottom"):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be between 0 and 100 mm")
        object.__setattr__(self, "grid_offset", tuple(float(value) for value in self.grid_offset))

    def in_black_and_white(self) -> PaperStyle:
        """The same style on white paper with a gray grid and a black trace."""
        minor, major = _GRAY_GRID
        return replace(self, paper_color=(255, 255, 255), minor_color=minor, major_color=major, trace_color=(0, 0, 0))

    @classmethod
    def draw(cls, generator: np.random.Generator) -> PaperStyle:
        """
        A random style for training.

        Black-and-white with probability 0.2 and no grid with 0.1 (spec section 3.3); colors, widths, margins and what
        stands beside the traces are our choice.

        Args:
            generator (`np.random.Generator`): Where the style is drawn from.
        """
        minor, major = _GRIDS[generator.integers(len(_GRIDS))]
        fade = generator.uniform(-0.15, 0.35)  # toward white, or darker
        minor, major = (
            _mixed(color, (255, 255, 255) if fade > 0 else (0, 0, 0), abs(fade)) for color in (minor, major)
        )
        paper = tuple(int(value) for value in 255 - generator.uniform(0, 1) * np.array([4, 8, 20]))
        gray = int(generator.integers(0, 52))  # up to a fifth of white
        trace = (gray, gray, gray) if generator.random() < 0.85 else (gray // 2, gray // 2, 70 + gray)
        left, right, top, bottom = generator.uniform(2.0, 12.0, 4)
        style = cls(
            grid=bool(generator.random() >= 0.1),
            paper_color=(paper[0], paper[1], paper[2]),
            minor_color=minor,
            major_color=major,
            trace_color=trace,
            minor_width=float(generator.uniform(0.08, 0.15)),
            major_width=float(generator.uniform(0.18, 0.35)),
            trace_width=float(generator.uniform(0.22, 0.5)),
            lead_names=bool(generator.random() < 0.9),
            page_text=bool(generator.random() < 0.8),
            calibration_pulse=bool(generator.random() < 0.8),
            text_size=float(generator.uniform(2.4, 4.2)),
            margin_left=float(left),
            margin_right=float(right),
            margin_top=float(top),
            margin_bottom=float(bottom),
            grid_offset=(float(generator.uniform(0.0, 5.0)), float(generator.uniform(0.0, 5.0))),
        )
        return style.in_black_and_white() if generator.random() < 0.2 else style


@dataclass(frozen=True)
class EcgPage:
    """
    A drawn page.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): The picture, uint8 [RGB].
        positions (`np.ndarray` of shape `(12, num_samples, 2)`):
            x and y of each sample in its lead's own panel, float32 [px, centers of pixels at whole numbers]; NaN
            where the sample is not drawn. A sample beyond the page's upper or lower edge keeps its true place.
        strip_positions (`np.ndarray` of shape `(num_samples, 2)`, *optional*): The same of the lead II strip of 3x4.
        pixels_per_mm (`tuple[float, float]`): Scale of the page in x and in y [px/mm].
    """

    image: np.ndarray
    positions: np.ndarray
    strip_positions: np.ndarray | None
    pixels_per_mm: tuple[float, float]

    @property
    def drawn(self) -> np.ndarray:
        """Which samples are drawn anywhere, the strip included: boolean `(12, num_samples)`."""
        drawn = np.isfinite(self.positions[..., 0])
        if self.strip_positions is not None:
            drawn[STANDARD_LEADS.index(RHYTHM_LEAD)] |= np.isfinite(self.strip_positions[:, 0])
        return drawn


def draw_page(
    signals: np.ndarray,
    sampling_rate: float,
    lead_mask: np.ndarray | None = None,
    *,
    layout: str = "3x4",
    image_size: Sequence[int] | None = None,
    pixels_per_mm: float | None = None,
    style: PaperStyle = PaperStyle(),
    paper_speed: float = PAPER_SPEED,
    gain: float = GAINS[0],
) -> EcgPage:
    """
    Draw 12 clean leads as a page.

    Each column shows its own part of the 10 s, as paper does: with 3x4, I to III the first 2.5 s, aVR to aVF the next.
    0 mV lies on a row's baseline. A trace may reach into the rows beside its own, and ends at the page's edge. Missing
    leads stay blank under their names, and so does the time after the end of a short recording.

    Args:
        signals (`np.ndarray` of shape `(12, num_samples)`): Finite leads in standard order [mV], at most 10 s.
        sampling_rate (`float`): Their rate [Hz].
        lead_mask (`np.ndarray` of shape `(12,)`, *optional*): True where a lead is present; all by default.
        layout (`str`, *optional*, defaults to `"3x4"`): One of [`LAYOUTS`].
        image_size (`Sequence[int]`, *optional*):
            Height and width of the picture [px]. The page fills it, squashed straight to it: nothing is cropped.
        pixels_per_mm (`float`, *optional*):
            Scale of a page of true proportions instead [px/mm], 200 dots per inch by default.
        style ([`PaperStyle`], *optional*): How the page looks.
        paper_speed (`float`, *optional*, defaults to 25): Length of a second [mm].
        gain (`float`, *optional*, defaults to 10): Height of a millivolt [mm].

    Returns:
        [`EcgPage`]: The picture and the place of every sample.

    Raises:
        InputError: If signals, layout or size cannot be used.
        ImportError: If OpenCV is not installed.
    """
    signals = np.asarray(signals)
    if signals.ndim != 2 or len(signals) != len(STANDARD_LEADS) or not signals.shape[1]:
        raise InputError(
            f"the signals have the shape {signals.shape}: give 12 leads in standard order (12, num_samples)"
        )
    if signals.dtype.kind not in "fiu":
        raise InputError(f"the signals have dtype {signals.dtype}: give real numbers [mV]")
    present = np.ones(12, dtype=bool) if lead_mask is None else np.asarray(lead_mask, dtype=bool)
    if present.shape != (12,):
        raise InputError(f"the lead mask has the shape {present.shape}: give one of (12,)")
    rate = _positive(sampling_rate, "the sampling rate")
    num_samples = signals.shape[1]
    if num_samples > math.ceil(PAGE_SECONDS * rate - 1e-6):
        raise InputError(
            f"the signals last {num_samples / rate:g} s and a page shows {PAGE_SECONDS:g} s: cut them before"
        )
    if not np.isfinite(signals[present]).all():
        raise InputError("the signals hold NaN or Inf: repair them first, or draw them with `render_page`")
    if layout not in PAGE_LAYOUTS:
        raise InputError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    plan = PAGE_LAYOUTS[layout]
    geometry = _Geometry(plan, style, _positive(paper_speed, "paper_speed"), _positive(gain, "gain"))
    height, width, scale_x, scale_y = _page_size(geometry, image_size, pixels_per_mm)

    seconds = np.arange(num_samples) / rate
    x = (geometry.left + seconds * geometry.paper_speed) * scale_x - 0.5
    positions = np.full((12, num_samples, 2), np.nan, dtype=np.float32)
    strip_positions = np.full((num_samples, 2), np.nan, dtype=np.float32) if plan.strip else None
    drawn: list[np.ndarray] = []
    for name, row, *shares in plan.panels():
        lead = STANDARD_LEADS.index(name)
        if present[lead]:
            edges = [min(math.ceil(share * PAGE_SECONDS * rate - 1e-6), num_samples) for share in shares]
            target, part = positions[lead], slice(*edges)
            if strip_positions is not None and row == plan.rows:
                target = strip_positions
            y = geometry.baseline(row) - geometry.gain * signals[lead, part].astype(np.float64)
            target[part, 0] = x[part]
            target[part, 1] = y * scale_y - 0.5
            drawn.append(target[part])

    paper, writing = _paper(geometry, height, width, scale_x, scale_y)
    pen = _Pen.make(style.trace_width, scale_x, scale_y)
    ink = np.maximum(pen.cover(drawn, height, width), writing)
    image = paper.copy()
    inked = np.flatnonzero(ink > 0)
    share = ink.reshape(-1)[inked, None].astype(np.float32) / 255.0
    pixels = image.reshape(-1, 3)
    pixels[inked] = pixels[inked] * (1.0 - share) + np.array(style.trace_color, dtype=np.float32) * share + 0.5
    return EcgPage(image, positions, strip_positions, (scale_x, scale_y))


def render_page(
    waveform: np.ndarray,
    sampling_rate: float,
    lead_names: Sequence[str],
    unit: str | Sequence[str],
    *,
    millivolts_per_unit: float | None = None,
    start_seconds: float = 0.0,
    do_repair: bool = True,
    max_non_finite: float = 0.2,
    **as_draw_page: Any,
) -> EcgPage:
    """
    Draw a recording as a page: 10 s of it, or what there is.

    Leads are found by name, inverted ones such as `-aVR` get their standard sign, and absent III, aVR, aVL and aVF are
    computed from I and II unless one of these is flat (see `arrange_leads`). `positions` of the page count samples
    from `start_seconds` on.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): The recording.
        sampling_rate (`float`): Its rate [Hz].
        lead_names (`Sequence[str]`): Name of each row.
        unit (`str` or `Sequence[str]`): Unit of all rows or of each: mV, uV, V or NU.
        millivolts_per_unit (`float`, *optional*):
            Height of one unit of a normalized recording (NU) [mV]. Such a recording has no millivolts of its own and
            is refused without it.
        start_seconds (`float`, *optional*, defaults to 0): Where the page begins in the recording [s].
        do_repair (`bool`, *optional*, defaults to `True`): Whether NaN and Inf are replaced from their neighbors.
        max_non_finite (`float`, *optional*, defaults to 0.2):
            A lead of which more than this share of the page's samples is NaN or Inf counts as missing.
        as_draw_page (*optional*): Layout, size and style, as [`draw_page`] takes them.

    Returns:
        [`EcgPage`]: The picture and the place of every sample.

    Raises:
        InputError: If the recording cannot be drawn; the message says why and what to do.
        ImportError: If OpenCV is not installed.
    """
    array, names, units = check_waveform(waveform, lead_names, unit)
    scales = [MILLIVOLTS_PER_UNIT[one] for one in units]
    normalized = "NU" in units
    if normalized:
        if millivolts_per_unit is None:
            raise InputError(
                "the recording is normalized (unit NU) and has no millivolts to draw: say how high one unit shall be, "
                "with `millivolts_per_unit`"
            )
        height = _positive(millivolts_per_unit, "millivolts_per_unit")
        scales = [height if one == "NU" else scale for one, scale in zip(units, scales, strict=True)]
    elif millivolts_per_unit is not None:
        raise InputError(f"millivolts_per_unit is for unit NU only, and the unit is {units[0]}: leave it out")

    rate = _positive(sampling_rate, "the sampling rate")
    if not (math.isfinite(start_seconds) and 0.0 <= start_seconds < array.shape[1] / rate):
        raise InputError(
            f"the page cannot begin at {start_seconds:g} s: the recording lasts {array.shape[1] / rate:g} s"
        )
    first = round(start_seconds * rate)
    part = array[:, first : first + math.ceil(PAGE_SECONDS * rate - 1e-6)]
    if not part.shape[1]:
        raise InputError(f"no sample is left after {start_seconds:g} s: begin earlier")
    part = part * np.array(scales, dtype=np.float32)[:, None]
    signals, present = arrange_leads(part, names, derive=not normalized)
    if not normalized:
        check_amplitude(signals[present], rate, units)

    finite = np.isfinite(signals)
    if not finite.all():
        if not do_repair:
            raise InputError("the recording holds NaN or Inf samples: repair them, or set `do_repair=True`")
        present = usable_leads(present, finite, max_non_finite)
        signals = repair_non_finite(np.where(present[:, None], signals, np.float32(0.0)))
    return draw_page(signals, rate, present, **as_draw_page)


@dataclass(frozen=True)
class _Geometry:
    """Where things lie on a page [mm from its upper left corner]."""

    plan: PageLayout
    style: PaperStyle
    paper_speed: float
    gain: float

    @property
    def left(self) -> float:
        """Where time 0 is: after the pulse, and as much again around it, 5 mm at 25 mm/s."""
        return self.style.margin_left + (
            PULSE_SECONDS * self.paper_speed + 5.0 if self.style.calibration_pulse else 0.0
        )

    @property
    def width(self) -> float:
        return self.left + PAGE_SECONDS * self.paper_speed + self.style.margin_right

    @property
    def height(self) -> float:
        return self.baseline(self.plan.baselines - 1) + self.plan.edge + self.style.margin_bottom

    def baseline(self, row: int) -> float:
        return self.style.margin_top + self.plan.edge + row * self.plan.spacing


def scale_text(paper_speed: float, gain: float) -> str:
    """Paper speed [mm/s] and gain [mm/mV] as they stand at the bottom of a page."""
    return f"{paper_speed:g} mm/s  {gain:g} mm/mV"


def _page_size(
    geometry: _Geometry, image_size: Sequence[int] | None, pixels_per_mm: float | None
) -> tuple[int, int, float, float]:
    """Height and width [px], and the scales in x and y [px/mm]."""
    if image_size is not None:
        if pixels_per_mm is not None:
            raise InputError("image_size and pixels_per_mm were both given: give one of them")
        if len(image_size) != 2 or any(int(side) != side for side in image_size):
            raise InputError(f"image_size is {image_size!r}: give height and width in pixels")
        height, width = (int(side) for side in image_size)
        scale_x, scale_y = width / geometry.width, height / geometry.height
    else:
        scale = DEFAULT_PIXELS_PER_MM if pixels_per_mm is None else _positive(pixels_per_mm, "pixels_per_mm")
        height, width = (round(min(side * scale, 1e9)) for side in (geometry.height, geometry.width))
        scale_x = scale_y = scale
    if min(height, width) < MINIMUM_SIZE or max(height, width) > MAXIMUM_SIZE:
        raise InputError(
            f"the page would have {width} x {height} pixels: its sides must be between {MINIMUM_SIZE} and "
            f"{MAXIMUM_SIZE} px"
        )
    return height, width, scale_x, scale_y


@dataclass(frozen=True)
class _Pen:
    """
    Draws lines of a width.

    OpenCV draws one pixel wide lines fastest: they are drawn so at `finer` times the page's resolution, widened by
    dilation with an ellipse of odd sides, and averaged down. What the ellipse lacks in width the `strength` of the
    ink makes up for.
    """

    finer: int
    sides: tuple[int, int]
    strength: float

    @classmethod
    def make(cls, millimeters: float, scale_x: float, scale_y: float) -> _Pen:
        finer = min(max(math.ceil(_FINE_ENOUGH / min(scale_x, scale_y)), 1), _MOST_FINE)
        widths = [max(millimeters * scale, _THINNEST_TRACE) * finer for scale in (scale_x, scale_y)]
        sides = [max(2 * math.floor((width - 1.0) / 2.0 + 1e-9) + 1, 1) for width in widths]
        strength = math.sqrt(widths[0] / sides[0] * widths[1] / sides[1])
        return cls(finer, (sides[0], sides[1]), strength)

    def cover(self, lines: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
        """How much of each pixel lines through points `(num_points, 2)` [px] cover: `(height, width)` uint8."""
        cv2 = import_cv2()
        fine = np.zeros((height * self.finer, width * self.finer), dtype=np.uint8)
        far = 4.0 * max(height, width)  # keeps coordinates within what OpenCV can hold
        points = [
            np.rint((np.clip(line, -far, far) + 0.5) * (self.finer << _SHIFT) - 0.5 * (1 << _SHIFT)).astype(np.int32)
            for line in lines
            if len(line)
        ]
        cv2.polylines(fine, points, False, 255, 1, cv2.LINE_AA if self.finer == 1 else cv2.LINE_8, _SHIFT)
        if self.sides != (1, 1):
            fine = cv2.dilate(fine, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, self.sides))
        if self.finer > 1:
            fine = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.convertScaleAbs(fine, alpha=self.strength)


@lru_cache(maxsize=4)
def _paper(
    geometry: _Geometry, height: int, width: int, scale_x: float, scale_y: float
) -> tuple[np.ndarray, np.ndarray]:
    """The paper with its grid `(height, width, 3)`, and how much writing and pulses cover it `(height, width)`."""
    plan, style = geometry.plan, geometry.style
    paper = np.empty((height, width, 3), dtype=np.uint8)
    paper[:] = style.paper_color
    if style.grid:
        paper = _grid(style, height, width, scale_x, scale_y)
    ink = np.zeros((height, width), dtype=np.uint8)
    if style.calibration_pulse:
        # Baseline, 1 mV, baseline.
        length = PULSE_SECONDS * geometry.paper_speed
        x = style.margin_left + np.array([0.0, 2.0, 2.0, 2.0 + length, 2.0 + length, 4.0 + length])
        y = geometry.gain * np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
        pulses = [
            np.stack([x * scale_x - 0.5, (geometry.baseline(row) - y) * scale_y - 0.5], axis=-1)
            for row in range(plan.baselines)
        ]
        ink = _Pen.make(style.trace_width, scale_x, scale_y).cover(pulses, height, width)
    texts: list[tuple[str, float, float]] = []
    if style.lead_names:
        above = 0.3 * plan.spacing
        for name, row, begin, _ in plan.panels():
            left = geometry.left + begin * PAGE_SECONDS * geometry.paper_speed
            texts.append((name, left + 1.0, geometry.baseline(row) - above))
    if style.page_text:
        text = scale_text(geometry.paper_speed, geometry.gain)
        texts.append((text, style.margin_left, geometry.height - max(style.margin_bottom, 2.0) / 2.0))
    for text, left, foot in texts:
        _write(ink, text, left, foot, style.text_size, scale_x, scale_y)
    return paper, ink


def _grid(style: PaperStyle, height: int, width: int, scale_x: float, scale_y: float) -> np.ndarray:
    """The paper with lines each 1 mm and 5 mm: `(height, width, 3)` uint8."""
    shares = [
        [
            _line_shares(size, scale, offset, spacing, line)
            for spacing, line in zip(GRID_STEPS, (style.minor_width, style.major_width), strict=True)
        ]
        for size, scale, offset in ((width, scale_x, style.grid_offset[0]), (height, scale_y, style.grid_offset[1]))
    ]
    across, down = (np.stack(axis, axis=-1) for axis in shares)
    # Most rows are alike: each kind is computed once.
    kinds, kind = np.unique(np.rint(down * 128.0), axis=0, return_inverse=True)
    covered = 1.0 - (1.0 - across[None]) * (1.0 - kinds[:, None] / 128.0)
    rows = np.empty((len(kinds), width, 3))
    rows[:] = style.paper_color
    for index, color in enumerate((style.minor_color, style.major_color)):
        rows += covered[..., index, None] * (np.array(color) - rows)
    return np.rint(rows).astype(np.uint8)[kind.reshape(-1)]


def _line_shares(size: int, scale: float, offset: float, spacing: float, line_width: float) -> np.ndarray:
    """How much of each pixel of a row or column parallel lines cover: `(size,)`, 0 to 1."""
    # Integral of the lines' shape up to each pixel's border, in periods.
    borders = (np.arange(-1, size + 2) / scale - offset) / spacing
    whole = np.floor(borders + 0.5)
    line = line_width / spacing
    integral = whole * line + np.clip(borders - whole, -line / 2.0, line / 2.0)
    shares = np.diff(integral) * spacing * scale
    if spacing * scale < 2.0:
        # Lines closer than two pixels would beat with the pixels.
        shares = np.convolve(shares, [0.25, 0.5, 0.25], mode="same")
    return np.clip(shares[1:-1], 0.0, 1.0)


def _write(ink: np.ndarray, text: str, left: float, foot: float, size: float, scale_x: float, scale_y: float) -> None:
    """Write a text with capitals of `size` into the ink, from `left` on, standing on `foot` [mm]."""
    cv2 = import_cv2()
    letters, capital, below = _letters(text)
    columns = max(round(letters.shape[1] / capital * size * scale_x), 1)
    rows = max(round(letters.shape[0] / capital * size * scale_y), 1)
    smaller = rows < letters.shape[0]
    letters = cv2.resize(letters, (columns, rows), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    x = round(left * scale_x)
    y = round((foot + below / capital * size) * scale_y) - rows
    # What does not fit on the page is cut.
    target = ink[max(y, 0) : max(y + rows, 0), max(x, 0) : max(x + columns, 0)]
    source = letters[max(-y, 0) :, max(-x, 0) :][: target.shape[0], : target.shape[1]]
    np.maximum(target, source, out=target)


@lru_cache(maxsize=64)
def _letters(text: str) -> tuple[np.ndarray, int, int]:
    """A text's coverage in uint8, the height of its capitals, and the room beneath its foot [px]."""
    cv2 = import_cv2()
    font, scale, thickness, room = cv2.FONT_HERSHEY_SIMPLEX, 1.5, 3, 24
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)

    def draw(what: str) -> np.ndarray:
        letters = np.zeros((height + 2 * room, width + 2 * room), dtype=np.uint8)
        cv2.putText(letters, what, (room, height + room), font, scale, 255, thickness, cv2.LINE_AA)
        return letters

    # The fonts of OpenCV 4 and 5 differ: a capital says how high and where they stand.
    capital = np.flatnonzero(draw("I").max(axis=1) > 127)
    letters = draw(text)
    columns, rows = (np.flatnonzero(letters.max(axis=axis)) for axis in (0, 1))
    top, bottom = min(rows[0], capital[0]), max(rows[-1], capital[-1]) + 1
    inked = np.ascontiguousarray(letters[top:bottom, columns[0] : columns[-1] + 1])
    return inked, int(capital[-1] - capital[0] + 1), int(bottom - capital[-1] - 1)


def _mixed(color: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(one + share * (two - one)) for one, two in zip(color, other, strict=True))
    return red, green, blue


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}: give a number") from None
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"{name} is {number:g}: it must be above 0")
    return number


def import_cv2() -> Any:
    """OpenCV, where something is drawn or warped."""
    return import_library("cv2", "drawing or reading a page")
