"""
Every view of one recording, for the documentation.

    python benchmarks/views.py

Draws a simulated recording, or with `--record` a WFDB record, at 250 Hz. Writes a PNG file to `docs/pictures`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from machine import REPOSITORY

from clear_hug_hf import prepare, read_record
from clear_hug_hf.data.simulation import simulate_recordings
from clear_hug_hf.data.views import VIEWS
from clear_hug_hf.plotting import plot_views, save_figure
from clear_hug_hf.processing.feature_extraction_ecg_waveform import EcgWaveformFeatureExtractor
from clear_hug_hf.processing.recording_inputs import read_row


SAMPLING_RATE = 250  # [Hz], which can represent mains hum.
LEADS = ("II", "V1", "V5")


def main() -> int:
    """Draw the views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="RECORD", help="WFDB record (default: a simulated recording)")
    parser.add_argument("--seed", type=int, default=330, metavar="N", help="seed of the views (default: 330)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "pictures", metavar="DIR")
    arguments = parser.parse_args()
    recording = simulate_recordings(2, 1)[1] if arguments.record is None else read_record(arguments.record)
    extractor = EcgWaveformFeatureExtractor(sampling_rate=SAMPLING_RATE)
    window = read_row(prepare([recording], extractor, progress=False).dataset.with_format("numpy")[0])
    drawn = {"the recording": window}
    for name, view in VIEWS.items():
        drawn[name] = view(window, np.random.default_rng(arguments.seed), SAMPLING_RATE, 1.0)
    print(save_figure(plot_views(drawn, SAMPLING_RATE, LEADS), arguments.output / "views.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
