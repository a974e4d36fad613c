"""
How many pages of ECG paper a core draws a second, and how many it augments.

    OMP_NUM_THREADS=1 python benchmarks/ecg_paper_speed.py
    OMP_NUM_THREADS=1 python benchmarks/ecg_paper_speed.py --quick   # everything once: does it run?

A made-up recording of 10 s at 500 Hz is drawn in every layout, at the sizes of models and as a page of 200 dots per
inch: with one style, whose paper is kept from page to page, and with a new random style for each page, as in training,
without and with augmentation at full strength. Then each kind of augmentation alone. The comparison is a drawing of
the same page with matplotlib, made at 200 dots per inch and brought to the size by averaging: with a new figure for
each page, as a new style needs, and with one figure that is kept, in which only the traces' data change.
`times_matplotlib` compares one style with the figure that is kept, and random styles with new figures.

One thread. Rounds go over all rows in turn; numbers are from the median of the processor's time for a page, with the
fastest and the slowest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import REPOSITORY, describe_machine, write_csv
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from clear_hug_hf.processing.ecg_paper import LAYOUTS, PaperStyle, draw_page
from clear_hug_hf.processing.leads import STANDARD_LEADS
from clear_hug_hf.processing.page_augmentation import AUGMENTATIONS, augment_page


RESULTS = REPOSITORY / "benchmarks" / "results" / "ecg_paper_speed.csv"
RATE = 500.0
DPI = 200.0
SIZES: tuple[tuple[int, int] | None, ...] = ((256, 256), (336, 336), None)
"""Height and width [px]; none for a page of 200 dpi."""
KEPT, NEW = "matplotlib, figure kept", "matplotlib, new figures"


def make_signals() -> np.ndarray:
    """Twelve leads of 10 s [mV] with P waves, QRS complexes, T waves, drift and noise."""
    generator = np.random.default_rng(0)
    seconds = np.arange(round(10 * RATE)) / RATE
    since = (seconds + 0.3) % 0.8 - 0.4

    def wave(at: float, width: float) -> np.ndarray:
        return np.exp(-0.5 * ((since - at) / width) ** 2)

    heights = generator.uniform(-0.8, 1.5, (12, 1))
    signals = heights * wave(0.0, 0.012) - 0.3 * heights * wave(0.03, 0.012)
    signals += 0.1 * wave(-0.16, 0.025) + 0.25 * wave(0.24, 0.045)
    signals += 0.05 * np.sin(2 * np.pi * 0.25 * seconds) + generator.normal(0.0, 0.01, signals.shape)
    return signals.astype(np.float32)


class MatplotlibPage:
    """The same page with matplotlib, the traces' places taken from a page that is drawn here."""

    def __init__(self, signals: np.ndarray, layout: str, size: tuple[int, int] | None):
        page = draw_page(signals, RATE, layout=layout)
        height, width = page.image.shape[:2]
        self.size = size
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        scale = page.pixels_per_mm[0]
        for step, line_width, color in ((1.0, 0.1, "#ffcdcd"), (5.0, 0.25, "#f08282")):
            down = np.arange(0.0, width / scale, step) * scale - 0.5
            across = np.arange(0.0, height / scale, step) * scale - 0.5
            lines = [[(x, -0.5), (x, height)] for x in down] + [[(-0.5, y), (width, y)] for y in across]
            axes.add_collection(LineCollection(lines, colors=color, linewidths=line_width * 72 / 25.4))
        self.traces: list[Any] = []
        self.places: list[np.ndarray] = []
        for positions in (*page.positions, *(() if page.strip_positions is None else (page.strip_positions,))):
            drawn = positions[np.isfinite(positions[:, 0])]
            self.traces += axes.plot(drawn[:, 0], drawn[:, 1], color="black", linewidth=0.35 * 72 / 25.4)
            self.places.append(drawn)
        for lead, name in enumerate(STANDARD_LEADS):
            x, y = self.places[lead][0]
            axes.text(float(x), float(y) - 8 * scale, name, fontsize=11)

    def draw(self) -> np.ndarray:
        """The picture, drawn anew."""
        for trace, places in zip(self.traces, self.places, strict=True):
            trace.set_data(*places.T)
        self.canvas.draw()
        image = np.asarray(self.canvas.buffer_rgba())[..., :3]
        if self.size is not None:
            image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
        return image


def make_cases() -> dict[tuple[str, str, str], tuple[Callable[[], Any], int]]:
    """By what, layout and size: a function that makes one page, and how many of them are timed in a round."""
    signals = make_signals()
    generator = np.random.default_rng(0)
    styles = [PaperStyle.draw(np.random.default_rng(seed)) for seed in range(64)]
    turn = iter(range(10**9))
    cases: dict[tuple[str, str, str], tuple[Callable[[], Any], int]] = {}

    def draw(layout: str, size: tuple[int, int] | None, random: bool, augment: bool) -> Callable[[], Any]:
        def run() -> None:
            style = styles[next(turn) % len(styles)] if random else PaperStyle()
            page = draw_page(signals, RATE, layout=layout, image_size=size, style=style)
            if augment:
                augment_page(page.image, generator, 1.0, positions=page.positions, pixels_per_mm=page.pixels_per_mm)

        return run

    def new_figure(layout: str, size: tuple[int, int] | None) -> Callable[[], Any]:
        return lambda: MatplotlibPage(signals, layout, size).draw()

    def alone(size: tuple[int, int] | None, name: str) -> Callable[[], Any]:
        page = draw_page(signals, RATE, image_size=size)
        return lambda: augment_page(page.image, generator, 1.0, positions=page.positions, only=name)

    for size in SIZES:
        pages = 3 if size is None else 20
        resolution = "200 dpi" if size is None else f"{size[1]}x{size[0]}"
        for layout in LAYOUTS:
            cases[KEPT, layout, resolution] = MatplotlibPage(signals, layout, size).draw, 1
            cases[NEW, layout, resolution] = new_figure(layout, size), 1
            cases["one style", layout, resolution] = draw(layout, size, False, False), pages
            cases["random styles", layout, resolution] = draw(layout, size, True, False), pages
            cases["one style, augmented", layout, resolution] = draw(layout, size, False, True), pages
            cases["random styles, augmented", layout, resolution] = draw(layout, size, True, True), pages
        for name in AUGMENTATIONS:
            cases[f"augmentation alone: {name}", LAYOUTS[0], resolution] = alone(size, name), pages
    return cases


def main() -> None:
    """Time everything, print a line each, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all rows (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one page of everything, one round")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.relative_to(REPOSITORY)}, none with --quick")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    cases = make_cases()
    seconds: dict[tuple[str, str, str], list[float]] = {case: [] for case in cases}
    for run, _ in cases.values():
        run()  # warm-up
    for _ in range(1 if arguments.quick else arguments.rounds):
        for case, (run, pages) in cases.items():
            pages = 1 if arguments.quick else pages
            before = time.process_time()
            for _ in range(pages):
                run()
            seconds[case].append((time.process_time() - before) / pages)

    machine = describe_machine("opencv-python-headless", "matplotlib")
    rows = []
    for case, times in seconds.items():
        what, layout, size = case
        middle = statistics.median(times)
        compared = statistics.median(seconds[NEW if what.startswith("random") else KEPT, layout, size])
        rows.append(
            {
                "what": what,
                "layout": layout,
                "size": size,
                "pages_per_second": f"{1.0 / middle:.4g}",
                "fastest": f"{1.0 / min(times):.4g}",
                "slowest": f"{1.0 / max(times):.4g}",
                "times_matplotlib": "" if "alone" in what or what in (KEPT, NEW) else f"{compared / middle:.3g}",
                "rounds": len(times),
                "threads": cv2.getNumThreads(),
                **machine,
            }
        )
        print(
            f"{size:8s} {layout:5s} {what:32s} {rows[-1]['pages_per_second']:>8s} pages/s "
            f"({rows[-1]['slowest']} to {rows[-1]['fastest']})"
        )
    output = arguments.output or (None if arguments.quick else RESULTS)
    if output is not None:
        write_csv(output, rows)
        print(f"written: {output}")


if __name__ == "__main__":
    main()
