"""
Pictures: recordings on ECG paper, reconstructions, group activations, loss curves.

Every function gives a `matplotlib.figure.Figure` of its own, without `pyplot` and its global state: they work without
a display, and in a notebook a figure shows itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .processing.beats import cut_beats
from .processing.errors import InputError
from .processing.leads import STANDARD_LEADS


# Rows and columns of the clinical layout; the rhythm strip below shows lead II in full.
CLINICAL_LAYOUT = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
RHYTHM_LEAD = "II"

_INK, _BEAT, _HIDDEN, _REBUILT = "#1a1a1a", "#0b5394", "#fde9c9", "#c1121f"
_PAPER, _FINE, _COARSE = "#fffafa", "#f6d9d9", "#e8b4b4"
_SPACING = 2.6  # Between the rows of a page, in the unit of the y axis.
_DPI = 110


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, making the folder it belongs in."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, facecolor="white", bbox_inches="tight")
    return path


def plot_recording(
    signal: np.ndarray,
    r_peaks: np.ndarray | None = None,
    lead_mask: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    layout: str = "clinical",
    unit: str = "mV",
    title: str | None = None,
) -> Figure:
    """
    A recording on ECG paper with its beats marked.

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Leads in the standard order [`unit`].
        r_peaks (`np.ndarray`, *optional*): R peaks [samples], marked by triangles and thin lines.
        lead_mask (`np.ndarray` of shape `(12,)`, *optional*): True where a lead was recorded.
        sampling_rate (`float`, *optional*, defaults to 100.0): Rate of the signal [Hz].
        layout (`str`, *optional*, defaults to `"clinical"`): `"clinical"` for three rows of four leads and lead II in
            full below them, `"rows"` for twelve rows.
        unit (`str`, *optional*, defaults to `"mV"`): Named at the scale bar.
        title (`str`, *optional*): Above the picture.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        InputError: If the signal has another shape, or the layout is unknown.
    """
    signal, lead_mask = _checked(signal, lead_mask)
    seconds = np.arange(signal.shape[1]) / sampling_rate
    duration = signal.shape[1] / sampling_rate
    if layout == "clinical":
        # Each of the four columns shows its part of the time, as an electrocardiograph prints it.
        rows = [
            [(lead, column * duration / 4, (column + 1) * duration / 4) for column, lead in enumerate(leads)]
            for leads in CLINICAL_LAYOUT
        ]
        rows.append([(RHYTHM_LEAD, 0.0, duration)])
    elif layout == "rows":
        rows = [[(lead, 0.0, duration)] for lead in STANDARD_LEADS]
    else:
        raise InputError(f"layout is {layout!r}: choose 'clinical' or 'rows'")

    scale, gain = _page_scale(signal[lead_mask])
    figure = Figure(figsize=(13.0, 1.0 + 1.55 * len(rows) if layout == "clinical" else 1.0 + 0.95 * len(rows)))
    axes = figure.add_subplot()
    bottom = -_SPACING * (len(rows) - 1)
    _draw_paper(axes, duration, bottom - 0.6 * _SPACING, 0.65 * _SPACING)
    if r_peaks is not None and len(r_peaks):
        peaks = np.asarray(r_peaks) / sampling_rate
        axes.vlines(peaks, bottom - 0.6 * _SPACING, 0.65 * _SPACING, color=_BEAT, alpha=0.18, linewidth=0.9)
        top = (bottom if layout == "clinical" else 0.0) + 0.55 * _SPACING
        axes.plot(peaks, np.full(len(peaks), top), "v", color=_BEAT, markersize=6, clip_on=False)
    for row, parts in enumerate(rows):
        offset = -_SPACING * row
        for lead, start, stop in parts:
            index = STANDARD_LEADS.index(lead)
            inside = (seconds >= start) & (seconds < stop)
            if lead_mask[index]:
                axes.plot(seconds[inside], offset + scale * signal[index, inside], color=_INK, linewidth=0.9)
            else:
                axes.text((start + stop) / 2, offset, "not recorded", ha="center", va="center", color="#888888")
            x, y, side = (start + 0.05, offset + 0.42 * _SPACING, "left")
            if layout == "rows":
                x, y, side = (-0.08, offset, "right")
            axes.text(x, y, lead, ha=side, va="center", fontsize=11, fontweight="bold", color=_INK)
            if start > 0:
                axes.vlines(start, offset - 0.3, offset + 0.3, color=_INK, linewidth=1.2)
    _draw_scale_bar(axes, duration, bottom, scale * gain, f"{gain:g} {_unit_name(unit)}")
    _finish_time_axis(axes, duration)
    if title:
        axes.set_title(title, loc="left", fontsize=12)
    return figure


def plot_reconstruction(
    signal: np.ndarray,
    r_peaks: np.ndarray,
    reconstruction: np.ndarray,
    masked_positions: np.ndarray,
    lead_mask: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    eps: float = 1e-6,
    title: str | None = None,
) -> Figure:
    """
    A recording with its hidden beats shaded and what the model made of them.

    The model rebuilds beats that are normalised one by one; each is shown with the mean and variance of the true beat,
    so that the picture compares shapes (the paper's Figure 4).

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Cleaned leads, as the beats were cut from.
        r_peaks (`np.ndarray`): R peaks [samples].
        reconstruction (`np.ndarray` of shape `(12, num_beats, beat_length)`): The model's output.
        masked_positions (`np.ndarray` of shape `(12, num_beats)`): True where a beat was hidden.
        lead_mask (`np.ndarray` of shape `(12,)`, *optional*): True where a lead was recorded.
        sampling_rate (`float`, *optional*, defaults to 100.0): Rate of the signal [Hz].
        eps (`float`, *optional*, defaults to 1e-6): The model's `beat_norm_eps`.
        title (`str`, *optional*): Above the picture.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        InputError: If shapes do not belong together.
    """
    signal, lead_mask = _checked(signal, lead_mask)
    num_beats, beat_length = reconstruction.shape[1:]
    if reconstruction.shape[0] != len(signal) or masked_positions.shape != reconstruction.shape[:2]:
        raise InputError("reconstruction, masked positions and signal do not belong to one recording")
    duration = signal.shape[1] / sampling_rate
    # Cutting the sample numbers as well says where every sample of a beat's window lies (-1 outside the beat).
    numbered = np.concatenate([signal, np.arange(1, signal.shape[1] + 1, dtype=np.float64)[None]]).astype(np.float64)
    beats, beat_mask, _ = cut_beats(
        numbered[None], np.asarray(r_peaks, dtype=np.int64)[None], num_beats, beat_length, sampling_rate
    )
    samples = beats[0, -1].astype(np.int64) - 1
    mean = beats[0, :-1].mean(axis=2, keepdims=True)
    deviation = np.sqrt(beats[0, :-1].var(axis=2, ddof=1, keepdims=True) + eps)
    rebuilt = reconstruction * deviation + mean

    figure = Figure(figsize=(14.0, 13.0))
    axes = figure.add_subplot()
    for row, lead in enumerate(STANDARD_LEADS):
        offset = -_SPACING * row
        axes.text(-0.12, offset, lead, fontsize=11, fontweight="bold", ha="right", va="center", color=_INK)
        if not lead_mask[row]:
            axes.text(duration / 2, offset, "not recorded", ha="center", va="center", color="#888888")
            continue
        scale = 0.8 * _SPACING / max(float(np.ptp(signal[row])), 1e-6)
        centre = (signal[row].max() + signal[row].min()) / 2
        segments = []
        for beat in np.flatnonzero(masked_positions[row] & beat_mask[0]):
            inside = samples[beat] >= 0
            when = samples[beat, inside] / sampling_rate
            axes.fill_between(
                [when[0], when[-1] + 1 / sampling_rate],
                offset - 0.47 * _SPACING,
                offset + 0.47 * _SPACING,
                color=_HIDDEN,
                linewidth=0,
                zorder=0,
            )
            value = offset + scale * (rebuilt[row, beat, inside] - centre)
            segments.append(np.column_stack([when, np.clip(value, offset - 0.6 * _SPACING, offset + 0.6 * _SPACING)]))
        axes.plot(
            np.arange(signal.shape[1]) / sampling_rate,
            offset + scale * (signal[row] - centre),
            color=_INK,
            linewidth=0.9,
            label="recorded" if row == 0 else None,
        )
        axes.add_collection(
            LineCollection(segments, colors=_REBUILT, linewidths=1.1, label="rebuilt" if row == 0 else None)
        )
    axes.fill_between([], [], color=_HIDDEN, label="hidden from the model")
    axes.set_xlim(-0.02, duration)
    axes.set_ylim(-_SPACING * (len(STANDARD_LEADS) - 0.4), 0.6 * _SPACING)
    axes.set_yticks([])
    axes.set_xlabel("time [s]  (each lead scaled to its row)", fontsize=11)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=11)
    if title:
        axes.set_title(title, loc="left", fontsize=12)
    return figure


def plot_group_activations(
    activations: np.ndarray, label_names: Sequence[str], group_names: Sequence[str], title: str | None = None
) -> Figure:
    """
    Heat map of what each group of leads adds to each label (the paper's Figure 5).

    Args:
        activations (`np.ndarray` of shape `(num_labels, num_groups)`): For example from `contributions_by_label`
            [logits].
        label_names (`Sequence[str]`): Names of the rows.
        group_names (`Sequence[str]`): Names of the columns.
        title (`str`, *optional*): Above the picture.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        InputError: If the names do not fit the matrix.
    """
    activations = np.asarray(activations, dtype=np.float64)
    if activations.shape != (len(label_names), len(group_names)):
        raise InputError(
            f"{activations.shape} activations do not fit {len(label_names)} labels and {len(group_names)} groups"
        )
    limit = float(np.nanmax(np.abs(activations), initial=0.0)) or 1.0
    figure = Figure(figsize=(2.6 + 1.25 * len(group_names), 2.4 + 0.55 * len(label_names)))
    axes = figure.add_subplot()
    image = axes.imshow(activations, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(group_names)), [name.replace(" + ", "\n+ ") for name in group_names], fontsize=10)
    axes.set_yticks(range(len(label_names)), label_names, fontsize=11)
    axes.tick_params(length=0)
    for row, column in np.ndindex(activations.shape):
        value = activations[row, column]
        colour = "white" if abs(value) > 0.6 * limit else _INK
        text = "n/a" if np.isnan(value) else f"{value:+.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("added to the logit", fontsize=10)
    axes.set_xlabel("group of leads", fontsize=11)
    if title:
        axes.set_title(title, loc="left", fontsize=12)
    return figure


def plot_losses(history: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """
    Training and validation loss over the epochs.

    Args:
        history (`Sequence[Mapping]`): Rows with `epoch`, `train_loss` and, where there is one, `validation_loss`.
        title (`str`, *optional*): Above the picture.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(8.0, 4.5))
    axes = figure.add_subplot()
    for name, label, colour in (("train_loss", "training", _BEAT), ("validation_loss", "validation", _REBUILT)):
        points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", color=colour, label=label)
    axes.set_xlabel("epoch", fontsize=11)
    axes.set_ylabel("loss (mean squared error of hidden beats)", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=11)
    if title:
        axes.set_title(title, loc="left", fontsize=12)
    return figure


def _checked(signal: np.ndarray, lead_mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 2 or len(signal) != len(STANDARD_LEADS):
        raise InputError(
            f"the signal has shape {signal.shape}: give the 12 leads as the feature extractor cleans them"
        )
    mask = np.ones(len(signal), dtype=bool) if lead_mask is None else np.asarray(lead_mask, dtype=bool)
    return signal, mask


def _page_scale(signal: np.ndarray) -> tuple[float, float]:
    """Axis units per unit of the signal, 1 for ordinary amplitudes; and a round height for the scale bar."""
    height = float(np.quantile(np.abs(signal), 0.999)) if signal.size else 1.0
    scale = min(1.0, 0.42 * _SPACING / height) if height > 0.35 else 0.4 * _SPACING / max(height, 1e-6)
    bar = next(
        (round_height for round_height in (1.0, 2.0, 5.0, 0.5, 0.2, 0.1) if 0.35 <= scale * round_height <= 1.3), 1.0
    )
    return scale, bar


def _draw_paper(axes: Axes, duration: float, low: float, high: float) -> None:
    axes.set_facecolor(_PAPER)
    axes.set_xlim(0.0, duration)
    axes.set_ylim(low, high)
    for step, height, colour, width in ((0.04, 0.1, _FINE, 0.3), (0.2, 0.5, _COARSE, 0.5)):
        axes.vlines(np.arange(0.0, duration, step), low, high, color=colour, linewidth=width, zorder=0)
        axes.hlines(np.arange(low, high, height), 0.0, duration, color=colour, linewidth=width, zorder=0)


def _draw_scale_bar(axes: Axes, duration: float, y: float, height: float, text: str) -> None:
    x = duration * 1.008
    axes.plot([x, x], [y, y + height], color=_INK, linewidth=2, clip_on=False, solid_capstyle="butt")
    axes.text(x + 0.05, y + height / 2, text, fontsize=10, va="center", clip_on=False)


def _finish_time_axis(axes: Axes, duration: float) -> None:
    axes.set_yticks([])
    axes.set_xticks(np.arange(0.0, duration + 1e-6, 1.0))
    axes.set_xlabel("time [s]", fontsize=11)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _unit_name(unit: str) -> str:
    return "SD" if unit == "NU" else unit
