"""
Drawing of 12-lead recordings as pages of ECG paper, with the position of every sample.

Pages are drawn directly at the requested size: the grid by the exact fraction of each pixel that its lines cover, the
traces by supersampling. Layouts, styles and their ranges are our choice.
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
"""Rows x columns of leads. The 3x4 layout has a rhythm strip of lead II over all 10 s below."""

PAGE_SECONDS = 10.0
"""Duration of a row [s], which is divided among its columns."""

PAPER_SPEED = 25.0
"""Standard paper speed [mm/s]."""

GAINS: tuple[float, ...] = (10.0, 5.0, 2.5)
"""Gains [mm/mV]: the standard one, and those for high voltages."""

GRID_STEPS: tuple[float, float] = (1.0, 5.0)
"""Distance of minor and of major grid lines [mm]."""

PULSE_SECONDS = 0.2
"""Duration of the calibration pulse of 1 mV at the start of a row [s]."""

RHYTHM_LEAD = "II"
"""Lead of the rhythm strip."""

MILLIMETERS_PER_INCH = 25.4

MINIMUM_SIZE = 64
"""Minimum height and width of a page [px]."""

MAXIMUM_SIZE = 10_000
"""Maximum height and width of a page [px]."""

DEFAULT_PIXELS_PER_MM = 200.0 / MILLIMETERS_PER_INCH

Color = tuple[int, int, int]


@dataclass(frozen=True)
class PageLayout:
    """
    Layout of a page: `spacing` between baselines, and `edge` between the first or last baseline and the margin [mm].
    With the default margins, baselines are at least 25 mm from the edge of the page, for complexes of 2.5 mV.
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
        """Yield name, row, and start and end (fraction of the row) of each panel; the rhythm strip is the last."""
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

# Minimum line width, since thinner traces would be hardly visible among the grid lines [px].
_MIN_TRACE_WIDTH = 0.75
# Minimum resolution of the supersampled lines [px/mm], and maximum supersampling factor.
_MIN_RESOLUTION = 12.0
_MAX_SUPERSAMPLING = 4
_SHIFT = 4  # fractional bits of coordinates in OpenCV

# Common grid colors, minor and major [RGB].
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
    Style of a page. Defaults to a red grid on white paper with black traces.

    Args:
        grid (`bool`, *optional*, defaults to `True`): Whether to draw the grid of 1 mm and 5 mm lines.
        paper_color, minor_color, major_color, trace_color (`tuple[int, int, int]`, *optional*):
            Colors of the paper, of 1 mm and 5 mm lines, and of traces and text [RGB, 0 to 255].
        minor_width, major_width (`float`, *optional*, defaults to 0.1 and 0.25): Width of the grid lines [mm].
        trace_width (`float`, *optional*, defaults to 0.35):
            Width of the traces [mm], at least 0.75 px.
        lead_names (`bool`, *optional*, defaults to `True`): Whether to draw the names of the leads above the traces.
        page_text (`bool`, *optional*, defaults to `True`): Whether to draw paper speed and gain at the bottom.
        calibration_pulse (`bool`, *optional*, defaults to `True`):
            Whether each row starts with a pulse of 1 mV and 0.2 s.
        text_size (`float`, *optional*, defaults to 3): Height of capital letters [mm].
        margin_left, margin_right, margin_top, margin_bottom (`float`, *optional*, defaults to 5):
            Margins of the page [mm].
        grid_offset (`tuple[float, float]`, *optional*, defaults to `(0, 0)`):
            Position of the first 5 mm lines relative to the upper left corner of the page [mm]. By default, baselines
            coincide with grid lines.
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
                raise InputError(f"{name} must be red, green and blue between 0 and 255, got {getattr(self, name)!r}")
            object.__setattr__(self, name, color)
        for name in ("minor_width", "major_width", "trace_width", "text_size"):
            if not 0.0 < getattr(self, name) <= 20.0:
                raise InputError(f"{name} must be above 0 and at most 20 mm, got {getattr(self, name)!r}")
        for name in ("margin_left", "margin_right", "margin_top", "margin_bottom"):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise InputError(f"{name} must be between 0 and 100 mm, got {getattr(self, name)!r}")
        object.__setattr__(self, "grid_offset", tuple(float(value) for value in self.grid_offset))

    def in_black_and_white(self) -> PaperStyle:
        """Copy of the style with white paper, gray grid and black traces."""
        minor, major = _GRAY_GRID
        return replace(self, paper_color=(255, 255, 255), minor_color=minor, major_color=major, trace_color=(0, 0, 0))

    @classmethod
    def draw(cls, generator: np.random.Generator) -> PaperStyle:
        """
        Draw a random style for training: black and white with probability 0.2, and without grid with probability 0.1.

        Args:
            generator (`np.random.Generator`): Random generator.
        """
        minor, major = _GRIDS[generator.integers(len(_GRIDS))]
        fade = generator.uniform(-0.15, 0.35)  # toward white if positive, toward black if negative
        minor, major = (_mix(color, (255, 255, 255) if fade > 0 else (0, 0, 0), abs(fade)) for color in (minor, major))
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
    Page with a drawn recording.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): Image, uint8 [RGB].
        positions (`np.ndarray` of shape `(12, num_samples, 2)`):
            x and y of each sample in the panel of its lead, float32 [px, integers at pixel centers]; NaN for samples
            that are not drawn. Positions may be above or below the page.
        strip_positions (`np.ndarray` of shape `(num_samples, 2)`, *optional*): Positions in the rhythm strip of 3x4.
        pixels_per_mm (`tuple[float, float]`): Horizontal and vertical scale of the page [px/mm].
    """

    image: np.ndarray
    positions: np.ndarray
    strip_positions: np.ndarray | None
    pixels_per_mm: tuple[float, float]

    @property
    def drawn(self) -> np.ndarray:
        """Boolean mask `(12, num_samples)`, True for samples that are drawn in a panel or in the rhythm strip."""
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
    Draw 12 cleaned leads as a page.

    Columns show successive parts of the 10 s: in the 3x4 layout, I to III show the first 2.5 s, aVR to aVF the next.
    Traces may extend into adjacent rows and are clipped at the edge of the page. The panels of missing leads, and the
    time after the end of a short recording, are blank.

    Args:
        signals (`np.ndarray` of shape `(12, num_samples)`): Finite leads in standard order [mV], at most 10 s.
        sampling_rate (`float`): Sampling rate [Hz].
        lead_mask (`np.ndarray` of shape `(12,)`, *optional*): True for leads that are present; all by default.
        layout (`str`, *optional*, defaults to `"3x4"`): One of [`LAYOUTS`].
        image_size (`Sequence[int]`, *optional*):
            Height and width of the image [px]. The page is scaled to this size without preserving its aspect ratio.
        pixels_per_mm (`float`, *optional*):
            Scale of the page [px/mm], instead of `image_size`; 200 dots per inch by default.
        style ([`PaperStyle`], *optional*): Style of the page.
        paper_speed (`float`, *optional*, defaults to 25): Paper speed [mm/s].
        gain (`float`, *optional*, defaults to 10): Gain [mm/mV].

    Returns:
        [`EcgPage`]: Image and position of every sample.

    Raises:
        InputError: If an argument is invalid.
        ImportError: If OpenCV is not installed.
    """
    signals = np.asarray(signals)
    if signals.ndim != 2 or len(signals) != len(STANDARD_LEADS) or not signals.shape[1]:
        raise InputError(
            f"signals must be 12 leads in standard order of shape (12, num_samples), got shape {signals.shape}"
        )
    if signals.dtype.kind not in "fiu":
        raise InputError(f"signals must contain real numbers [mV], got dtype {signals.dtype}")
    present = np.ones(12, dtype=bool) if lead_mask is None else np.asarray(lead_mask, dtype=bool)
    if present.shape != (12,):
        raise InputError(f"lead_mask must have the shape (12,), got {present.shape}")
    rate = _positive(sampling_rate, "the sampling rate")
    num_samples = signals.shape[1]
    if num_samples > math.ceil(PAGE_SECONDS * rate - 1e-6):
        raise InputError(
            f"signals must be at most {PAGE_SECONDS:g} s long, the duration of a page, got {num_samples / rate:g} s"
        )
    if not np.isfinite(signals[present]).all():
        raise InputError("signals must not contain NaN or Inf: repair them, or use `render_page`")
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
    for name, row, *span in plan.panels():
        lead = STANDARD_LEADS.index(name)
        if present[lead]:
            edges = [min(math.ceil(edge * PAGE_SECONDS * rate - 1e-6), num_samples) for edge in span]
            target, part = positions[lead], slice(*edges)
            if strip_positions is not None and row == plan.rows:
                target = strip_positions
            y = geometry.baseline(row) - geometry.gain * signals[lead, part].astype(np.float64)
            target[part, 0] = x[part]
            target[part, 1] = y * scale_y - 0.5
            drawn.append(target[part])

    paper, text = _paper(geometry, height, width, scale_x, scale_y)
    pen = _Pen.make(style.trace_width, scale_x, scale_y)
    ink = np.maximum(pen.cover(drawn, height, width), text)
    image = paper.copy()
    inked = np.flatnonzero(ink > 0)
    alpha = ink.reshape(-1)[inked, None].astype(np.float32) / 255.0
    pixels = image.reshape(-1, 3)
    pixels[inked] = pixels[inked] * (1.0 - alpha) + np.array(style.trace_color, dtype=np.float32) * alpha + 0.5
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
    **kwargs: Any,
) -> EcgPage:
    """
    Draw up to 10 s of a recording as a page.

    The leads are arranged by name, see `arrange_leads`. The samples of `positions` start at `start_seconds`.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Recording.
        sampling_rate (`float`): Sampling rate [Hz].
        lead_names (`Sequence[str]`): Name of each row.
        unit (`str` or `Sequence[str]`): Unit of all rows or of each: mV, uV, V or NU.
        millivolts_per_unit (`float`, *optional*):
            Amplitude of one normalized unit (NU) [mV]. Required for recordings in NU.
        start_seconds (`float`, *optional*, defaults to 0): Start of the page in the recording [s].
        do_repair (`bool`, *optional*, defaults to `True`): Whether to replace NaN and Inf using nearby samples.
        max_non_finite (`float`, *optional*, defaults to 0.2):
            Maximum fraction of NaN and Inf samples of a lead on the page; other leads are treated as missing.
        kwargs: Layout, size and style, see [`draw_page`].

    Returns:
        [`EcgPage`]: Image and position of every sample.

    Raises:
        InputError: If an argument is invalid.
        ImportError: If OpenCV is not installed.
    """
    array, names, units = check_waveform(waveform, lead_names, unit)
    scales = [MILLIVOLTS_PER_UNIT[lead_unit] for lead_unit in units]
    normalized = "NU" in units
    if normalized:
        if millivolts_per_unit is None:
            raise InputError("millivolts_per_unit must be set to draw a recording in normalized units (NU)")
        scale = _positive(millivolts_per_unit, "millivolts_per_unit")
        scales = [scale if lead_unit == "NU" else MILLIVOLTS_PER_UNIT[lead_unit] for lead_unit in units]
    elif millivolts_per_unit is not None:
        raise InputError(f"millivolts_per_unit applies to unit NU only, but the unit is {units[0]}: remove it")

    rate = _positive(sampling_rate, "the sampling rate")
    if not (math.isfinite(start_seconds) and 0.0 <= start_seconds < array.shape[1] / rate):
        raise InputError(
            f"start_seconds must be between 0 and the duration of the recording ({array.shape[1] / rate:g} s), got "
            f"{start_seconds:g}"
        )
    first = round(start_seconds * rate)
    part = array[:, first : first + math.ceil(PAGE_SECONDS * rate - 1e-6)]
    if not part.shape[1]:
        raise InputError(f"the recording contains no samples after start_seconds={start_seconds:g}: start earlier")
    part = part * np.array(scales, dtype=np.float32)[:, None]
    signals, present = arrange_leads(part, names, derive=not normalized)
    if not normalized:
        check_amplitude(signals[present], rate, units)

    finite = np.isfinite(signals)
    if not finite.all():
        if not do_repair:
            raise InputError("the recording contains NaN or Inf: repair it, or set do_repair=True")
        present = usable_leads(present, finite, max_non_finite)
        signals = repair_non_finite(np.where(present[:, None], signals, np.float32(0.0)))
    return draw_page(signals, rate, present, **kwargs)


@dataclass(frozen=True)
class _Geometry:
    """Geometry of a page [mm from its upper left corner]."""

    plan: PageLayout
    style: PaperStyle
    paper_speed: float
    gain: float

    @property
    def left(self) -> float:
        """Horizontal position of time 0, to the right of the calibration pulse and 5 mm of space around it."""
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
    """Text with paper speed [mm/s] and gain [mm/mV] at the bottom of a page."""
    return f"{paper_speed:g} mm/s  {gain:g} mm/mV"


def _page_size(
    geometry: _Geometry, image_size: Sequence[int] | None, pixels_per_mm: float | None
) -> tuple[int, int, float, float]:
    """Height and width [px], and horizontal and vertical scale [px/mm]."""
    if image_size is not None:
        if pixels_per_mm is not None:
            raise InputError("image_size and pixels_per_mm cannot be combined: pass one of them")
        if len(image_size) != 2 or any(int(side) != side for side in image_size):
            raise InputError(f"image_size must be height and width in pixels, got {image_size!r}")
        height, width = (int(side) for side in image_size)
        scale_x, scale_y = width / geometry.width, height / geometry.height
    else:
        scale = DEFAULT_PIXELS_PER_MM if pixels_per_mm is None else _positive(pixels_per_mm, "pixels_per_mm")
        height, width = (round(min(side * scale, 1e9)) for side in (geometry.height, geometry.width))
        scale_x = scale_y = scale
    if min(height, width) < MINIMUM_SIZE or max(height, width) > MAXIMUM_SIZE:
        raise InputError(
            f"height and width of the page must be between {MINIMUM_SIZE} and {MAXIMUM_SIZE} px, got {height} x "
            f"{width} px"
        )
    return height, width, scale_x, scale_y


@dataclass(frozen=True)
class _Pen:
    """
    Draws lines of a given width.

    Lines that are one pixel wide, which OpenCV draws fastest, are drawn with `supersampling`, dilated by an ellipse
    with odd `sides`, and averaged. The `opacity` compensates for the rounded width of the ellipse.
    """

    supersampling: int
    sides: tuple[int, int]
    opacity: float

    @classmethod
    def make(cls, millimeters: float, scale_x: float, scale_y: float) -> _Pen:
        factor = min(max(math.ceil(_MIN_RESOLUTION / min(scale_x, scale_y)), 1), _MAX_SUPERSAMPLING)
        widths = [max(millimeters * scale, _MIN_TRACE_WIDTH) * factor for scale in (scale_x, scale_y)]
        sides = [max(2 * math.floor((width - 1.0) / 2.0 + 1e-9) + 1, 1) for width in widths]
        opacity = math.sqrt(widths[0] / sides[0] * widths[1] / sides[1])
        return cls(factor, (sides[0], sides[1]), opacity)

    def cover(self, lines: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
        """Coverage `(height, width)`, uint8, of each pixel by lines through points `(num_points, 2)` [px]."""
        cv2 = import_cv2()
        factor = self.supersampling
        canvas = np.zeros((height * factor, width * factor), dtype=np.uint8)
        limit = 4.0 * max(height, width)  # keeps coordinates within the range of OpenCV
        points = [
            np.rint((np.clip(line, -limit, limit) + 0.5) * (factor << _SHIFT) - 0.5 * (1 << _SHIFT)).astype(np.int32)
            for line in lines
            if len(line)
        ]
        cv2.polylines(canvas, points, False, 255, 1, cv2.LINE_AA if factor == 1 else cv2.LINE_8, _SHIFT)
        if self.sides != (1, 1):
            canvas = cv2.dilate(canvas, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, self.sides))
        if factor > 1:
            canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.convertScaleAbs(canvas, alpha=self.opacity)


@lru_cache(maxsize=4)
def _paper(
    geometry: _Geometry, height: int, width: int, scale_x: float, scale_y: float
) -> tuple[np.ndarray, np.ndarray]:
    """Paper with its grid `(height, width, 3)`, and coverage by text and calibration pulses `(height, width)`."""
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
    """Paper with lines every 1 mm and 5 mm: `(height, width, 3)` uint8."""
    coverage = [
        [
            _line_coverage(size, scale, offset, spacing, line)
            for spacing, line in zip(GRID_STEPS, (style.minor_width, style.major_width), strict=True)
        ]
        for size, scale, offset in ((width, scale_x, style.grid_offset[0]), (height, scale_y, style.grid_offset[1]))
    ]
    columns, rows = (np.stack(axis, axis=-1) for axis in coverage)
    # Compute every distinct row once, since most rows are identical.
    distinct, index_of_row = np.unique(np.rint(rows * 128.0), axis=0, return_inverse=True)
    covered = 1.0 - (1.0 - columns[None]) * (1.0 - distinct[:, None] / 128.0)
    colors = np.empty((len(distinct), width, 3))
    colors[:] = style.paper_color
    for index, color in enumerate((style.minor_color, style.major_color)):
        colors += covered[..., index, None] * (np.array(color) - colors)
    return np.rint(colors).astype(np.uint8)[index_of_row.reshape(-1)]


def _line_coverage(size: int, scale: float, offset: float, spacing: float, line_width: float) -> np.ndarray:
    """Fraction of each pixel of a row or column that parallel lines cover: `(size,)`, 0 to 1."""
    # Integral of the line profile up to the edge of each pixel, in periods.
    edges = (np.arange(-1, size + 2) / scale - offset) / spacing
    periods = np.floor(edges + 0.5)
    line = line_width / spacing
    integral = periods * line + np.clip(edges - periods, -line / 2.0, line / 2.0)
    coverage = np.diff(integral) * spacing * scale
    if spacing * scale < 2.0:
        # Smooth to prevent aliasing of lines that are less than two pixels apart.
        coverage = np.convolve(coverage, [0.25, 0.5, 0.25], mode="same")
    return np.clip(coverage[1:-1], 0.0, 1.0)


def _write(
    ink: np.ndarray, text: str, left: float, baseline: float, size: float, scale_x: float, scale_y: float
) -> None:
    """Draw text with capitals of height `size`, starting at `left` on `baseline` [mm]."""
    cv2 = import_cv2()
    letters, capital, below = _letters(text)
    columns = max(round(letters.shape[1] / capital * size * scale_x), 1)
    rows = max(round(letters.shape[0] / capital * size * scale_y), 1)
    interpolation = cv2.INTER_AREA if rows < letters.shape[0] else cv2.INTER_LINEAR
    letters = cv2.resize(letters, (columns, rows), interpolation=interpolation)
    x = round(left * scale_x)
    y = round((baseline + below / capital * size) * scale_y) - rows
    # Clip at the edge of the page.
    target = ink[max(y, 0) : max(y + rows, 0), max(x, 0) : max(x + columns, 0)]
    source = letters[max(-y, 0) :, max(-x, 0) :][: target.shape[0], : target.shape[1]]
    np.maximum(target, source, out=target)


@lru_cache(maxsize=64)
def _letters(text: str) -> tuple[np.ndarray, int, int]:
    """Coverage by a text as uint8, the height of its capitals, and its extent below the baseline [px]."""
    cv2 = import_cv2()
    font, scale, thickness, margin = cv2.FONT_HERSHEY_SIMPLEX, 1.5, 3, 24
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)

    def draw(characters: str) -> np.ndarray:
        letters = np.zeros((height + 2 * margin, width + 2 * margin), dtype=np.uint8)
        cv2.putText(letters, characters, (margin, height + margin), font, scale, 255, thickness, cv2.LINE_AA)
        return letters

    # Measure a capital letter, since the fonts of OpenCV 4 and 5 differ.
    capital = np.flatnonzero(draw("I").max(axis=1) > 127)
    letters = draw(text)
    columns, rows = (np.flatnonzero(letters.max(axis=axis)) for axis in (0, 1))
    top, bottom = min(rows[0], capital[0]), max(rows[-1], capital[-1]) + 1
    inked = np.ascontiguousarray(letters[top:bottom, columns[0] : columns[-1] + 1])
    return inked, int(capital[-1] - capital[0] + 1), int(bottom - capital[-1] - 1)


def _mix(color: Color, other: Color, fraction: float) -> Color:
    red, green, blue = (round(start + fraction * (end - start)) for start, end in zip(color, other, strict=True))
    return red, green, blue


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number, got {value!r}") from None
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"{name} must be positive, got {number:g}")
    return number


def import_cv2() -> Any:
    """Import OpenCV, which is optional."""
    return import_library("cv2", "drawing or reading a page")
