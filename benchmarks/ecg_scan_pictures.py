"""
What an ECG-Scan sees of pictures: the page that was found, the page at its size, and the leads that it rebuilds.

    python benchmarks/ecg_scan_pictures.py --model runs/scan/model --pictures photographs --output pictures
    python benchmarks/ecg_scan_pictures.py --pages path/to/record --output docs/pictures

The second form needs no model: it draws a record in each layout, clean and photographed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from clear_hug_hf import EcgScanFeatureExtractor
from clear_hug_hf.data.records import read_record
from clear_hug_hf.plotting import plot_page, save_figure
from clear_hug_hf.processing import LAYOUTS, InputError, PaperStyle, augment_page, find_page, load_page, render_page
from clear_hug_hf.training.folders import load_pretrained


def draw_pages(path: Path, output: Path) -> None:
    """A record in each layout: clean, in a random style, photographed, and at the size that the tiny model reads."""
    recording = read_record(path)
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    axes = figure.subplots(3, len(LAYOUTS))
    for column, layout in enumerate(LAYOUTS):
        inputs = (recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit)
        clean = render_page(*inputs, layout=layout, pixels_per_mm=5)
        generator = np.random.default_rng(column + 4)
        styled = render_page(*inputs, layout=layout, pixels_per_mm=5, style=PaperStyle.draw(generator))
        photographed = augment_page(styled.image, generator, 1.5)
        small = render_page(*inputs, layout=layout, image_size=EcgScanFeatureExtractor().image_size)
        for row, (image, what) in enumerate(
            ((clean.image, layout), (photographed, "photographed"), (small.image, "as the tiny model reads it"))
        ):
            axes[row, column].imshow(
                image, interpolation="nearest" if row == 2 else "antialiased", aspect="auto" if row == 2 else "equal"
            )
            axes[row, column].set_title(what, fontsize=9)
            axes[row, column].set_axis_off()
    path = save_figure(figure, output / "ecg_pages.png")
    # Few colors: a fifth of the size.
    Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)


@torch.no_grad()
def draw_pictures(model_folder: Path, pictures: Path, output: Path) -> None:
    """What a model sees of each picture of a folder."""
    model, extractor = load_pretrained(model_folder)
    processor = extractor.image_processor
    for path in sorted(pictures.iterdir()):
        try:
            picture = load_page(path)
            page = find_page(picture)
        except InputError as error:
            print(f"{path.name}: {error}")
            continue
        seen = processor.page_of(page.image, do_find_page=False)
        rebuilt = model.reconstruct(torch.from_numpy(processor.normalize_pages(seen[None])))[0].numpy()
        figure = plot_page(
            picture,
            page.corners,
            seen,
            reconstruction=rebuilt,
            sampling_rate=float(model.config.sampling_rate),
            title=path.name,
        )
        save_figure(figure, output / f"{path.stem}.png")
        corners = page.corners.round().astype(int).tolist()
        print(f"{path.name}: page at {corners}, turned by {page.rotation}, traces over {page.traces:.0%}")


def main() -> int:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a pre-trained ECG-Scan")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="pictures of pages")
    parser.add_argument("--pages", type=Path, metavar="RECORD", help="a record to draw")
    parser.add_argument("--output", type=Path, default=Path("pictures"), metavar="DIR", help="%(default)s")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.pictures is None) or not (arguments.pages or arguments.pictures):
        parser.error("give --model with --pictures, or --pages")
    if arguments.pages is not None:
        draw_pages(arguments.pages, arguments.output)
    if arguments.pictures is not None:
        draw_pictures(arguments.model, arguments.pictures, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
