"""
Plots of recordings on ECG paper, their views, predictions and lead contributions, reconstructions, waves, group
activations, ROC curves and loss curves.

Every function returns a new `matplotlib.figure.Figure` without using `pyplot`, so that it works without a display and
has no global state. Notebooks display the returned figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from .evaluation.segmentation import UNKNOWN, WAVES, wave_intervals
from .processing.beats import cut_beats
from .processing.ecg_paper import (
    GAINS,
    GRID_STEPS,
    MILLIMETERS_PER_INCH,
    PAGE_LAYOUTS,
    PAGE_SECONDS,
    PAPER_SPEED,
    RHYTHM_LEAD,
    draw_page,
    scale_text,
)
from .processing.errors import InputError
from .processing.leads import STANDARD_LEADS
from .processing.signal_cleaning import MILLIVOLTS_PER_UNIT, canonical_unit
from .utils.files import atomic_file


_LAYOUTS = {"clinical": PAGE_LAYOUTS["3x4"], "rows": PAGE_LAYOUTS["12x1"]}
_FEW_LEADS = 3
"""Up to this many recorded leads, the clinical layout has a row per lead instead of mostly blank panels."""

_INK, _BEAT, _HIDDEN, _REBUILT = "#1a1a1a", "#0b5394", "#fde9c9", "#c1121f"
_PAPER, _FINE, _COARSE = "#fffafa", "#f6d9d9", "#e8b4b4"
_TINT, _FAINT, _AGAINST = "#fff0b3", "#bcc4cc", "#6d94ba"
_MIN_CONTRIBUTION = 0.005  # [logits]; smaller values are displayed as +0.00.
_RIGHT, _WRONG = "#e3edf6", "#f9e0e0"
_WAVE_COLORS = {"P": "#2a7f9e", "QRS": "#c1121f", "T": "#d98e04"}
_LEAD_NAME: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "va": "center", "color": _INK}
_NOT_RECORDED: dict[str, Any] = {"s": "not recorded", "ha": "center", "va": "center", "color": "#888888"}
_NOT_ANNOTATED: dict[str, Any] = {"facecolor": "white", "edgecolor": _FAINT, "hatch": "////", "linewidth": 0}
_PREDICTED_ALPHA = 0.28
_SPACING = 2.6  # Distance between rows of leads without ECG paper, in units of the y axis.
# Lower and upper ends of predicted waves (behind a lead) and annotated waves (below it), relative to the lead.
_PREDICTED_SPAN, _ANNOTATED_SPAN = _SPACING * np.array([-0.3, 0.5]), _SPACING * np.array([-0.4, -0.31])
_DPI = 110

_MARGINS = {"left": 0.3, "left_of_names": 0.55, "right": 0.8, "top": 0.45, "bottom": 0.65}  # Around paper [inches].
_LARGEST_PAPER = 60.0  # [inches]; longer recordings are scaled down.


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically and create its folder; as PNG, unless the suffix is another format."""
    path = Path(path)
    kind = path.suffix.removeprefix(".") or "png"
    with atomic_file(path) as partial:
        figure.savefig(partial, format=kind, dpi=_DPI, facecolor="white", bbox_inches="tight")
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
    Plot a recording on ECG paper with its beats.

    The paper is to scale when printed at full size: 25 mm/s, and 10 mm/mV or, if a lead would exceed the page, 5 or
    2.5 mm/mV, as labeled. A recording without a unit (NU) is scaled to a round height per unit, which is labeled, too.

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Leads in the standard order [`unit`].
        r_peaks (`np.ndarray`, *optional*): R peaks [samples], marked by triangles and thin lines.
        lead_mask (`np.ndarray` of shape `(12,)`, *optional*): True for recorded leads.
        sampling_rate (`float`, *optional*, defaults to 100.0): Sampling rate of the signal [Hz].
        layout (`str`, *optional*, defaults to `"clinical"`): `"clinical"` for three rows of four leads with a rhythm
            strip of lead II (or the first recorded lead), or one row per lead if at most three were recorded; `"rows"`
            for twelve rows.
        unit (`str`, *optional*, defaults to `"mV"`): Unit of the signal: mV, uV, V or NU.
        title (`str`, *optional*): Title of the figure.

    Raises:
        InputError: If the shape of the signal is wrong, or the layout or the unit is unknown.
    """
    signal, lead_mask = _checked(signal, lead_mask)
    paper = _Paper.make(layout, signal, lead_mask, sampling_rate, unit)
    figure = Figure(figsize=paper.size)
    axes = figure.add_axes(paper.place())
    _draw_page(axes, paper, signal, r_peaks, lead_mask, sampling_rate)
    axes.set_title(title or "", loc="left", fontsize=12)
    return figure


def plot_page(
    picture: np.ndarray,
    corners: np.ndarray,
    model_input: np.ndarray,
    *,
    reconstruction: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    layout: str = "3x4",
    label_names: Sequence[str] | None = None,
    probabilities: np.ndarray | None = None,
    thresholds: Sequence[float] | None = None,
    title: str | None = None,
    max_labels: int = 8,
) -> Figure:
    """
    Plot a picture of an ECG with the page found in it, the model's input, and its reconstruction and predictions.

    Args:
        picture (`np.ndarray` of shape `(height, width, 3)`): The picture, uint8 [RGB].
        corners (`np.ndarray` of shape `(4, 2)`): Corners of the page, as in [`FoundPage`] [px].
        model_input (`np.ndarray` of shape `(height, width, 3)`): The page at the model's resolution, uint8 [RGB].
        reconstruction (`np.ndarray` of shape `(12, num_samples)`, *optional*): Leads that the model reconstructed from
            the page [mV], plotted over it in the given layout.
        sampling_rate (`float`, *optional*, defaults to 100.0): Sampling rate of the reconstruction [Hz].
        layout (`str`, *optional*, defaults to `"3x4"`): Page layout of the reconstruction.
        label_names, probabilities, thresholds, max_labels (*optional*): Predictions, as in [`plot_prediction`].
        title (`str`, *optional*): Title of the figure.
    """
    columns = 2 + (label_names is not None)
    figure = Figure(figsize=(5.2 * columns, 4.2), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    if title is not None:
        figure.suptitle(title, fontsize=10)
    axes[0].imshow(picture)
    closed = np.concatenate([corners, corners[:1]])
    axes[0].plot(closed[:, 0], closed[:, 1], color=_BEAT, linewidth=1.6)
    axes[0].set_title("picture and detected page", fontsize=9)
    axes[1].imshow(model_input, interpolation="nearest")
    what = f"model input ({model_input.shape[1]} x {model_input.shape[0]} px)"
    if reconstruction is not None:
        page = draw_page(reconstruction, sampling_rate, layout=layout, image_size=model_input.shape[:2])
        for line in (*page.positions, *([] if page.strip_positions is None else [page.strip_positions])):
            axes[1].plot(line[:, 0], line[:, 1], color=_REBUILT, linewidth=0.7, alpha=0.9)
        axes[1].set_xlim(-0.5, model_input.shape[1] - 0.5)
        axes[1].set_ylim(model_input.shape[0] - 0.5, -0.5)
        what += " and reconstruction (red)"
    axes[1].set_title(what, fontsize=9)
    for ax in axes[:2]:
        ax.set_axis_off()
    if label_names is not None:
        values = np.asarray(probabilities, dtype=np.float64)
        limits = _checked_thresholds(thresholds, label_names)
        shown = np.argsort(-values, kind="stable")[:max_labels][::-1]
        axes[2].barh(
            [_wrapped(label_names[index], 30) for index in shown],
            values[shown],
            color=[_BEAT if values[index] >= limits[index] else _FAINT for index in shown],
        )
        axes[2].plot(limits[shown], np.arange(len(shown)), "|", color=_INK, markersize=12)
        axes[2].set_xlim(0, 1)
        axes[2].set_xlabel("probability (dark: at or above the threshold |)", fontsize=8)
        axes[2].spines[["top", "right"]].set_visible(False)
        axes[2].tick_params(labelsize=8)
    return figure


def plot_prediction(
    signal: np.ndarray,
    r_peaks: np.ndarray | None,
    label_names: Sequence[str],
    probabilities: np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    contributions: np.ndarray | None = None,
    group_names: Sequence[str] | None = None,
    lead_mask: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    unit: str = "mV",
    title: str | None = None,
    max_labels: int = 8,
) -> Figure:
    """
    Plot a recording on ECG paper with its predicted probabilities and the contributions of lead groups.

    A label is predicted positive if its probability is at least its threshold. Contributions are shown for the most
    probable positive label or, if there is none, for the most probable label. The leads of the single group that
    contributes most to its logit are highlighted, if any group of recorded leads does.

    Args:
        signal, r_peaks, lead_mask, sampling_rate, unit, title: As in [`plot_recording`].
        label_names (`Sequence[str]`): Names of the labels.
        probabilities (`np.ndarray` of shape `(num_labels,)`): Probabilities of the labels.
        thresholds (`np.ndarray` of shape `(num_labels,)`, *optional*): Decision thresholds; 0.5 by default.
        contributions (`np.ndarray` of shape `(num_groups, num_labels)`, *optional*): Contribution of each lead group
            to each logit, as `predict` returns them for heads that read lead groups [logits].
        group_names (`Sequence[str]`, *optional*): Names of the groups, as in `group_names` of `classifier_outputs`:
            leads joined by `/` (`V1-V6` for all six), groups joined by ` + `, or `all leads`. Required with
            `contributions`.
        max_labels (`int`, *optional*, defaults to 8): Number of labels shown, most probable first.

    Returns:
        `matplotlib.figure.Figure`: Its axes are the page, the probabilities, and, if given, the contributions.

    Raises:
        InputError: If lengths do not match, a probability is not from 0 to 1, a threshold or contribution is NaN, a
            group name is invalid, or the unit is unknown.
    """
    signal, lead_mask = _checked(signal, lead_mask)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    thresholds = _checked_thresholds(thresholds, label_names)
    if probabilities.shape != (len(label_names),) or not len(label_names):
        raise InputError(
            f"{probabilities.shape} probabilities do not fit {len(label_names)} labels: give one per label"
        )
    for name, probability in zip(label_names, probabilities, strict=True):
        if not 0.0 <= probability <= 1.0:
            raise InputError(f"the probability of {name!r} is {probability}: it must lie between 0 and 1")
    if max_labels < 1:
        raise InputError(f"max_labels is {max_labels}: it must be at least 1")
    positive = probabilities >= thresholds
    explained = int(np.argmax(np.where(positive | ~positive.any(), probabilities, -1.0)))
    highlighted: _Highlight | None = None
    added = np.empty(0)
    if contributions is not None:
        contributions = np.asarray(contributions, dtype=np.float64)
        added, highlighted = _explain(contributions, group_names, label_names, explained, lead_mask)

    shown = np.argsort(-probabilities, kind="stable")[:max_labels]
    names = [_wrapped(label_names[index], 30 if len(added) else 60) for index in shown]
    groups = [_wrapped(name, 30) for name in group_names or ()] if len(added) else []
    lines = max(name.count("\n") + 1 for name in (*names, *groups))
    num_bars = max(len(shown), len(added), 3)
    note = _note_on_hidden_labels(label_names, positive, np.setdiff1d(np.arange(len(positive)), shown))
    paper = _Paper.make("clinical", signal, lead_mask, sampling_rate, unit)
    heights = (paper.size[1], 1.4 + (0.19 + 0.13 * lines) * num_bars + 0.3 * bool(note))
    figure = Figure(figsize=(paper.size[0], sum(heights)), layout="constrained")
    below = figure.add_subfigure(figure.add_gridspec(2, 1, height_ratios=heights)[1])

    page = figure.add_axes(paper.place(below=heights[1]))
    _draw_page(page, paper, signal, r_peaks, lead_mask, sampling_rate, highlighted.leads if highlighted else ())
    page.set_title(_wrapped(title or "", 110), loc="left", fontsize=12)
    if len(added):
        subject = _shortened(label_names[explained], 17)  # what fits beside the name of the time axis
        text = (
            f"single lead group that contributes most to {subject}"
            if highlighted
            else f"no single lead group contributes to {subject}"
        )
        handles = [
            Patch(facecolor=_TINT if highlighted else "none", edgecolor=_FAINT if highlighted else "none", label=text)
        ]
        page.legend(
            handles=handles,
            handlelength=2.0 if highlighted else 0.0,
            loc="upper right",
            bbox_to_anchor=(1.0, -0.22 / paper.inches[1]),  # beneath the ticks
            frameon=False,
            fontsize=10,
            borderpad=0.2,
        )

    left: SubFigure = below
    if len(added):
        halves = below.add_gridspec(1, 2)
        left, right = below.add_subfigure(halves[0]), below.add_subfigure(halves[1])
    _draw_probabilities(left.add_subplot(), names, probabilities[shown], thresholds[shown], num_bars, note)
    if len(added):
        axes = right.add_subplot()
        _draw_contributions(axes, added, groups, highlighted.group if highlighted else None, num_bars)
        heading = _wrapped(f"Contribution of each lead group to {_shortened(label_names[explained], 90)}", 48)
        if not positive.any():
            heading += "\n(the most probable label; none reached its threshold)"
        axes.set_title(heading, loc="left", fontsize=11)
    return figure


def plot_reconstruction(
    signal: np.ndarray,
    r_peaks: np.ndarray | None,
    reconstruction: np.ndarray,
    bool_masked_pos: np.ndarray,
    lead_mask: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    eps: float = 1e-6,
    title: str | None = None,
) -> Figure:
    """
    Plot a recording with its masked beats or patches shaded and their reconstructions (Pan et al., 2026, Figure 4).

    The model reconstructs normalized beats. They are plotted with the mean and variance of the true beats, so that the
    figure compares shapes.

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Cleaned leads from which the beats were cut.
        r_peaks (`np.ndarray`, *optional*): R peaks [samples]; `None` for patches, which follow one another from the
            first sample.
        reconstruction (`np.ndarray` of shape `(12, num_beats, beat_length)`): Output of the model.
        bool_masked_pos (`np.ndarray` of shape `(12, num_beats)`): True for masked beats.
        eps (`float`, *optional*, defaults to 1e-6): `beat_norm_eps` of the model.
        lead_mask, sampling_rate, title: As in [`plot_recording`].

    Raises:
        InputError: If shapes do not match.
    """
    signal, lead_mask = _checked(signal, lead_mask)
    rebuilt = _rebuild(signal, lead_mask, r_peaks, reconstruction, bool_masked_pos, sampling_rate, eps)

    figure = Figure(figsize=(14.0, 13.0))
    axes = figure.add_subplot()
    for row, lead in enumerate(STANDARD_LEADS):
        offset = -_SPACING * row
        axes.text(-0.12, offset, lead, **_LEAD_NAME, ha="right")
        _draw_rebuilt_lead(axes, offset, row, rebuilt)
    axes.set_xlim(-0.02, rebuilt.seconds)
    axes.set_ylim(-_SPACING * (len(STANDARD_LEADS) - 0.4), 0.6 * _SPACING)
    axes.set_yticks([])
    axes.set_xlabel("time [s]  (each lead scaled to its row)", fontsize=11)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.legend(handles=_legend(), loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=11)
    axes.set_title(title or "", loc="left", fontsize=12)
    return figure


def plot_reconstructions(
    signal: np.ndarray,
    r_peaks: np.ndarray,
    reconstructions: Mapping[str, np.ndarray],
    bool_masked_pos: np.ndarray,
    leads: Sequence[str] = ("II", "V2", "V5"),
    lead_mask: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    eps: float = 1e-6,
    title: str | None = None,
) -> Figure:
    """
    Compare the reconstructions of several models: a row per model and a column per lead (Pan et al., 2026, Figure 4).

    Beats are plotted as in [`plot_reconstruction`]. Each row is labeled with the mean squared error over the masked
    beats of all recorded leads, including leads that are not shown. This is the model's loss, computed on normalized
    beats over full windows, including the zeros around a beat.

    Args:
        signal, r_peaks, bool_masked_pos, lead_mask, sampling_rate, eps, title: As in [`plot_reconstruction`]; all
            models have the same masked beats.
        reconstructions (`Mapping[str, np.ndarray]`): Outputs of shape `(12, num_beats, beat_length)` by model name.
        leads (`Sequence[str]`, *optional*, defaults to `("II", "V2", "V5")`): Leads to plot.

    Raises:
        InputError: If shapes do not match, a lead is unknown, there are no models or leads, or no beat is masked.
    """
    signal, lead_mask = _checked(signal, lead_mask)
    if not reconstructions or not leads:
        raise InputError("there is nothing to plot: pass at least one reconstruction and one lead")
    if unknown := [lead for lead in leads if lead not in STANDARD_LEADS]:
        raise InputError(f"unknown lead {unknown[0]!r}: choose from {', '.join(STANDARD_LEADS)}")
    figure = Figure(figsize=(2.2 + 4.2 * len(leads), 1.4 + 1.7 * len(reconstructions)), layout="constrained")
    grid = figure.subplots(
        len(reconstructions), len(leads), sharex=True, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.0}
    )
    for place, (name, reconstruction) in enumerate(reconstructions.items()):
        panels, is_last = grid[place], place == len(grid) - 1
        try:
            rebuilt = _rebuild(signal, lead_mask, r_peaks, reconstruction, bool_masked_pos, sampling_rate, eps)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if not rebuilt.hidden.any():
            raise InputError("no beat is masked: there is no reconstruction to compare")
        for axes, lead in zip(panels, leads, strict=True):
            axes.set_xlim(-0.02, rebuilt.seconds)
            axes.set_ylim(-0.6 * _SPACING, 0.6 * _SPACING)
            axes.set_yticks([])
            axes.tick_params(axis="x", length=3 if is_last else 0)
            axes.spines[["top", "left", "right"]].set_visible(False)
            axes.spines["bottom"].set_visible(is_last)
            _draw_rebuilt_lead(axes, 0.0, STANDARD_LEADS.index(lead), rebuilt)
        error_text = f"mean squared\nerror {rebuilt.error:.3f}"
        panels[0].set_ylabel(
            f"{_wrapped(name, 20)}\n{error_text}", rotation=0, ha="right", va="center", fontsize=11, labelpad=8
        )
    for axes, lead in zip(grid[0], leads, strict=True):
        axes.set_title(lead, fontsize=12, fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("time [s]", fontsize=11)
    figure.legend(handles=_legend(), loc="outside lower right", ncols=3, frameon=False, fontsize=11)
    if title:
        figure.suptitle(_wrapped(title, int(10 * figure.get_figwidth())), x=0.01, ha="left", fontsize=12)
    return figure


def plot_segmentation(
    signal: np.ndarray,
    lead_names: Sequence[str],
    sampling_rate: float,
    predicted: np.ndarray,
    marked: np.ndarray | None = None,
    unit: str = "mV",
    title: str | None = None,
) -> Figure:
    """
    Plot the waves of a recording: predicted ones behind each lead, and annotated ones as bars below it.

    Args:
        signal (`np.ndarray` of shape `(num_leads, num_samples)`): Leads [`unit`].
        lead_names (`Sequence[str]`): Name of each row.
        sampling_rate (`float`): Sampling rate of the signal [Hz].
        predicted (`np.ndarray` of shape `(num_leads, num_samples)`): Predicted class of every sample, an index in
            [`~evaluation.segmentation.WAVES`].
        marked (`np.ndarray` of shape `(num_leads, num_samples)`, *optional*): Annotated class of every sample, -100 if
            unknown.
        unit (`str`, *optional*, defaults to `"mV"`): Unit of the scale bar.
        title (`str`, *optional*): Title of the figure.

    Raises:
        InputError: If shapes or names do not match, there is no lead, a sample is not finite, or the rate is not
            positive.
    """
    signal, predicted = np.asarray(signal, dtype=np.float64), np.asarray(predicted)
    marked = None if marked is None else np.asarray(marked)
    if signal.ndim != 2 or not signal.size or len(lead_names) != len(signal):
        raise InputError(
            f"a signal of shape {signal.shape} does not fit {len(lead_names)} leads: give one row for each"
        )
    for name, classes in (("predicted", predicted), ("marked", marked)):
        if classes is not None and classes.shape != signal.shape:
            raise InputError(
                f"the {name} classes {classes.shape} do not fit the signal {signal.shape}: give one for every sample"
            )
    if not np.isfinite(signal).all():
        raise InputError("the signal holds NaN or infinite samples: repair it, as the feature extractor does")
    if not sampling_rate > 0:
        raise InputError(f"the sampling rate is {sampling_rate}: it must be a positive number [Hz]")
    duration = signal.shape[1] / sampling_rate
    seconds = np.arange(signal.shape[1]) / sampling_rate
    signal = signal - np.median(signal, axis=1, keepdims=True)
    scale, gain = _page_scale(signal)

    figure = Figure(figsize=(14.0, 1.0 + 1.5 * len(signal)), layout="constrained")
    axes = figure.add_subplot()
    for row, lead in enumerate(lead_names):
        offset = -_SPACING * row
        axes.text(-0.1, offset, lead, **_LEAD_NAME, ha="right")
        for wave, name in enumerate(WAVES[1:], start=1):
            style = {"facecolor": _WAVE_COLORS[name], "edgecolor": "none", "zorder": 0}
            _draw_spans(
                axes, predicted[row], wave, sampling_rate, offset + _PREDICTED_SPAN, alpha=_PREDICTED_ALPHA, **style
            )
            if marked is not None:
                _draw_spans(axes, marked[row], wave, sampling_rate, offset + _ANNOTATED_SPAN, **style)
        if marked is not None:
            _draw_spans(axes, marked[row], UNKNOWN, sampling_rate, offset + _ANNOTATED_SPAN, **_NOT_ANNOTATED)
        trace = np.clip(scale * signal[row], -0.45 * _SPACING, 0.6 * _SPACING)
        axes.plot(seconds, offset + trace, color=_INK, linewidth=0.9)

    axes.set_xlim(-0.02, duration)
    axes.set_ylim(-_SPACING * (len(signal) - 0.45), 0.55 * _SPACING)
    bottom = -_SPACING * (len(signal) - 1)
    _draw_scale_bar(axes, duration, bottom, scale * gain, f"{gain:g} {unit}")
    _finish_time_axis(axes, duration)
    handles = [
        Patch(facecolor=color, alpha=_PREDICTED_ALPHA, label=f"{name} predicted")
        for name, color in _WAVE_COLORS.items()
    ]
    if marked is not None:
        handles += [Patch(facecolor=color, label=f"{name} annotated") for name, color in _WAVE_COLORS.items()]
        handles.append(Patch(**_NOT_ANNOTATED, label="not annotated"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11)
    axes.set_title(_wrapped(title or "", 120), loc="left", fontsize=12)
    return figure


def plot_group_activations(
    activations: np.ndarray, label_names: Sequence[str], group_names: Sequence[str], title: str | None = None
) -> Figure:
    """
    Heat map of the contribution of each lead group to each label (Pan et al., 2026, Figure 5).

    Args:
        activations (`np.ndarray` of shape `(num_labels, num_groups)`): Contributions, for example from
            `contributions_by_label` [logits].
        label_names, group_names (`Sequence[str]`): Names of the rows and columns.
        title (`str`, *optional*): Title of the figure.

    Raises:
        InputError: If the names do not match the matrix.
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
        color = "white" if abs(value) > 0.6 * limit else _INK
        text = "n/a" if np.isnan(value) else f"{value:+.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color=color)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("contribution to the logit", fontsize=10)
    axes.set_xlabel("group of leads", fontsize=11)
    axes.set_title(title or "", loc="left", fontsize=12)
    return figure


def plot_roc_curves(
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str],
    thresholds: Sequence[float] | np.ndarray | None = None,
    title: str | None = None,
    columns: int = 4,
) -> Figure:
    """
    Plot the ROC curve of each label with its operating point and confusion matrix.

    The dot is the operating point at the threshold, and the four numbers are the confusion matrix there: true and
    false positives above, false and true negatives below. Labels with only one class present are listed at the bottom.

    Args:
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown.
        probabilities (`np.ndarray` of shape `(num_recordings, num_labels)`): Predictions.
        label_names (`Sequence[str]`): Name of each column.
        thresholds (`np.ndarray` of shape `(num_labels,)`, *optional*): As in [`plot_prediction`].
        title (`str`, *optional*): Title of the figure.
        columns (`int`, *optional*, defaults to 4): Number of panels per row.

    Returns:
        `matplotlib.figure.Figure`: Its axes are the panels, in the order of the labels.

    Raises:
        InputError: If shapes differ, a label is not 1, 0 or NaN, a probability is not finite, a threshold is NaN, or
        no
            label has both classes.
    """
    labels, probabilities = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if labels.shape != probabilities.shape or labels.ndim != 2 or labels.shape[1] != len(label_names):
        raise InputError(
            f"the shapes of labels {labels.shape} and probabilities {probabilities.shape} and {len(label_names)} "
            "label names do not match: pass one row per recording and one column per label"
        )
    if not np.isfinite(probabilities).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(probabilities))[0])
        raise InputError(f"the probability of {label_names[column]!r} in row {row} is {probabilities[row, column]}")
    if not np.isin(labels[~np.isnan(labels)], (0.0, 1.0)).all():
        raise InputError("the labels have values other than 1, 0 and NaN: ROC curves require binary labels")
    if columns < 1:
        raise InputError(f"columns is {columns}: it must be at least 1")
    thresholds = _checked_thresholds(thresholds, label_names)
    has_both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    if not has_both.any():
        raise InputError("no label has both classes: there is no ROC curve to plot")
    plotted = [int(column) for column in np.flatnonzero(has_both)]
    columns = min(columns, len(plotted))
    num_rows = -(-len(plotted) // columns)
    names = [_wrapped(label_names[column], 34) for column in plotted]
    excluded = ", ".join(name for name, both in zip(label_names, has_both, strict=True) if not both)

    width = max(3.2 * columns + 0.3, 4.2)
    letters = int(13 * width)
    bottom = _wrapped(f"excluded, only one class present: {excluded}", letters) if excluded else ""
    top = _wrapped(title, int(10 * width)) if title else ""
    panel = width / columns + 0.35 + 0.16 * max(name.count("\n") + 1 for name in names)
    height = panel * num_rows + 0.16 * (bottom.count("\n") + 2) + 0.2 * (top.count("\n") + 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(num_rows, columns)
    for place, (column, name) in enumerate(zip(plotted, names, strict=True)):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        known = ~np.isnan(labels[:, column])
        _draw_roc(axes, name, labels[known, column] == 1, probabilities[known, column], thresholds[column])
        if place % columns == 0:
            axes.set_ylabel("sensitivity", fontsize=9)
        if place + columns >= len(plotted):
            axes.set_xlabel("1 - specificity", fontsize=9)
    if bottom:
        figure.supxlabel(bottom, x=0.01, ha="left", fontsize=9)
    if top:
        figure.suptitle(top, x=0.01, ha="left", fontsize=12)
    return figure


def plot_views(
    views: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    sampling_rate: float = 100.0,
    leads: Sequence[str] = STANDARD_LEADS,
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """
    Plot views of a recording side by side, all at the scale of the first one.

    Args:
        views (`Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]`): Signal `(12, num_samples)`, R peaks
            [samples] and lead mask `(12,)` of each view, by title; the first one is usually the recording itself.
        sampling_rate (`float`, *optional*, defaults to 100.0): Sampling rate of the signals [Hz].
        leads (`Sequence[str]`, *optional*): Leads to plot (default: all twelve).
        columns (`int`, *optional*, defaults to 3): Number of panels per row.
        title (`str`, *optional*): Title of the figure.

    Raises:
        InputError: If the shape of a signal or mask is wrong.
    """
    checked = {name: (*_checked(signal, mask), r_peaks) for name, (signal, r_peaks, mask) in views.items()}
    rows = [STANDARD_LEADS.index(lead) for lead in leads]
    first = next(iter(checked.values()))[0][rows]
    # Robust to single artifacts; leads may overlap a little.
    spacing = float(np.quantile(np.abs(first - np.median(first, axis=1, keepdims=True)), 0.995)) * 2 or 1.0
    duration = max(signal.shape[1] for signal, *_ in checked.values()) / sampling_rate
    columns = min(columns, len(checked))
    height = 0.5 + 0.32 * len(rows)
    num_rows = -(-len(checked) // columns)
    figure = Figure(figsize=(4.6 * columns, height * num_rows + 0.3), layout="constrained")
    panels = figure.subplots(num_rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes, (name, (signal, mask, r_peaks)) in zip(panels, checked.items(), strict=False):
        seconds = np.arange(signal.shape[1]) / sampling_rate
        for place, row in enumerate(rows):
            baseline = -place * spacing
            axes.text(-0.01 * duration, baseline, leads[place], ha="right", fontsize=8, va="center", color=_INK)
            color = _INK if mask[row] else _FAINT
            axes.plot(seconds, signal[row] - np.median(signal[row]) + baseline, color=color, linewidth=0.6)
        axes.plot(r_peaks / sampling_rate, np.full(len(r_peaks), 0.9 * spacing), "v", color=_BEAT, markersize=3)
        axes.set_title(name, loc="left", fontsize=10)
    for axes in list(figure.axes)[len(checked) :]:
        axes.set_visible(False)
    for axes in figure.axes:
        axes.set_xlim(-0.04 * duration, duration)
        axes.set_ylim(-(len(rows) - 0.2) * spacing, 1.2 * spacing)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.supxlabel("seconds", fontsize=9)
    figure.suptitle(title or "", x=0.01, ha="left", fontsize=12)
    return figure


def plot_losses(history: Sequence[Mapping[str, Any]], title: str | None = None, loss: str = "loss") -> Figure:
    """
    Plot training and validation loss over epochs.

    Args:
        history (`Sequence[Mapping]`): Rows with `epoch`, `train_loss` and optionally `validation_loss`.
        title (`str`, *optional*): Title of the figure.
        loss (`str`, *optional*, defaults to `"loss"`): Label of the y axis.
    """
    figure = Figure(figsize=(8.0, 4.5))
    axes = figure.add_subplot()
    for name, label, color in (("train_loss", "training", _BEAT), ("validation_loss", "validation", _REBUILT)):
        points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", color=color, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", fontsize=11)
    axes.set_ylabel(loss, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=11)
    axes.set_title(title or "", loc="left", fontsize=12)
    return figure


def _checked(signal: np.ndarray, lead_mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 2 or len(signal) != len(STANDARD_LEADS):
        raise InputError(f"the signal has shape {signal.shape}: pass the 12 leads that the feature extractor returns")
    mask = np.ones(len(signal), dtype=bool) if lead_mask is None else np.asarray(lead_mask, dtype=bool)
    if mask.shape != (len(signal),):
        raise InputError(f"the lead mask has shape {mask.shape}: pass one value for each of the 12 leads")
    return signal, mask


def _checked_thresholds(thresholds: Sequence[float] | np.ndarray | None, label_names: Sequence[str]) -> np.ndarray:
    if thresholds is None:
        return np.full(len(label_names), 0.5)
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape != (len(label_names),):
        raise InputError(f"{thresholds.shape} thresholds do not match {len(label_names)} labels: pass one per label")
    for name, threshold in zip(label_names, thresholds, strict=True):
        if np.isnan(threshold):
            raise InputError(f"the threshold of {name!r} is NaN: it must be a number")
    return thresholds


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


class _Paper(NamedTuple):
    """A page of ECG paper, with seconds to the right and millimeters upward from the baseline of the first row."""

    rows: list[list[tuple[str, float, float]]]  # Leads from left to right, with start and end [s].
    spacing: float  # Distance between baselines [mm].
    low: float  # Lower edge of the page [mm].
    high: float  # Upper edge of the page [mm].
    seconds: float  # Length of the page [s].
    gain: float  # Height of one unit of the signal [mm].
    bar: str  # Label of the scale bar of 10 mm.
    text: str  # Text at the bottom.
    inches: tuple[float, float]  # Width and height of the page.
    left: float  # Left margin [inches].

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a figure with the page and its margins [inches]."""
        width, height = self.inches
        return self.left + width + _MARGINS["right"], _MARGINS["top"] + height + _MARGINS["bottom"]

    def place(self, below: float = 0.0) -> tuple[float, float, float, float]:
        """Position of the page in a figure with additional space below [inches], as matplotlib expects it."""
        width, height = self.size[0], self.size[1] + below
        bottom = below + _MARGINS["bottom"]
        return self.left / width, bottom / height, self.inches[0] / width, self.inches[1] / height

    @classmethod
    def make(cls, layout: str, signal: np.ndarray, lead_mask: np.ndarray, sampling_rate: float, unit: str) -> _Paper:
        if layout not in _LAYOUTS:
            raise InputError(f"layout is {layout!r}: choose 'clinical' or 'rows'")
        plan, unit = _LAYOUTS[layout], canonical_unit(unit)
        duration = signal.shape[1] / sampling_rate
        recorded = [lead for lead, is_recorded in zip(STANDARD_LEADS, lead_mask, strict=True) if is_recorded]
        if layout == "clinical" and 0 < len(recorded) <= _FEW_LEADS:
            rows = [[(lead, 0.0, duration)] for lead in recorded]
        else:
            strip = RHYTHM_LEAD if RHYTHM_LEAD in recorded or not recorded else recorded[0]
            rows = [[] for _ in range(plan.baselines)]
            for lead, row, begin, end in plan.panels(strip):
                rows[row].append((lead, begin * duration, end * duration))

        gain, text = _choose_gain(signal[lead_mask], plan.edge, unit)
        if len(rows) == len(recorded) < len(STANDARD_LEADS):
            text += f"   only {', '.join(recorded)} recorded"
        seconds = max(duration, PAGE_SECONDS)
        low, high = -(plan.spacing * (len(rows) - 1) + plan.edge), plan.edge
        inch = max(MILLIMETERS_PER_INCH, seconds * PAPER_SPEED / _LARGEST_PAPER)  # [mm of the page]
        inches = (seconds * PAPER_SPEED / inch, (high - low) / inch)
        left = _MARGINS["left_of_names" if layout == "rows" else "left"]
        return cls(rows, plan.spacing, low, high, seconds, gain, f"{10.0 / gain:g} {unit}", text, inches, left)


def _choose_gain(signal: np.ndarray, highest: float, unit: str) -> tuple[float, str]:
    """The largest standard height of one unit [mm] with which leads stay below `highest` [mm], and its label."""
    # Ignore the most extreme samples of each lead, so that a single spike does not shrink the page.
    level = float(np.quantile(np.abs(signal), 0.995, axis=1).max()) if signal.size else 0.0
    if unit == "NU":
        # Without a standard height: 1, 2 or 5 times a power of ten.
        limit = highest / level if level > 0 else 10.0
        power = 10.0 ** np.floor(np.log10(limit))
        gain = float(power * max(step for step in (1.0, 2.0, 5.0) if step * power <= limit or step == 1.0))
        return gain, f"{PAPER_SPEED:g} mm/s  {gain:g} mm per unit   no unit (NU): heights are not millivolts"
    millivolts = MILLIVOLTS_PER_UNIT[unit]
    gain = next((gain for gain in GAINS if gain * level * millivolts <= highest), GAINS[-1])
    return gain * millivolts, scale_text(PAPER_SPEED, gain)


def _draw_page(
    axes: Axes,
    paper: _Paper,
    signal: np.ndarray,
    r_peaks: np.ndarray | None,
    lead_mask: np.ndarray,
    sampling_rate: float,
    highlighted: Collection[str] = (),
) -> None:
    """Draw a recording on ECG paper with its beats, and highlight some of the recorded leads."""
    seconds = np.arange(signal.shape[1]) / sampling_rate
    spacing = paper.spacing
    has_strip = len(paper.rows[0]) > 1
    # With twelve rows there is no space for lead names between them.
    names_outside = len(paper.rows) == len(STANDARD_LEADS)
    bottom = -spacing * (len(paper.rows) - 1)
    _draw_paper(axes, paper)
    if r_peaks is not None and len(r_peaks):
        peaks = np.asarray(r_peaks) / sampling_rate
        axes.vlines(peaks, paper.low, paper.high, color=_BEAT, alpha=0.18, linewidth=0.9)
        top = (bottom if has_strip else 0.0) + 0.55 * spacing
        axes.plot(peaks, np.full(len(peaks), top), "v", color=_BEAT, markersize=6, clip_on=False)
    for row, parts in enumerate(paper.rows):
        baseline = -spacing * row
        for lead, start, stop in parts:
            index = STANDARD_LEADS.index(lead)
            inside = (seconds >= start) & (seconds < stop)
            if lead in highlighted and lead_mask[index]:
                corner = (start, baseline - 0.5 * spacing)
                axes.add_patch(Rectangle(corner, stop - start, spacing, facecolor=_TINT, edgecolor="none", zorder=-1))
            if lead_mask[index]:
                axes.plot(seconds[inside], baseline + paper.gain * signal[index, inside], color=_INK, linewidth=0.9)
            else:
                axes.text((start + stop) / 2, baseline, **_NOT_RECORDED)
            x, y, side = (start + 0.05, baseline + 0.42 * spacing, "left")
            if names_outside:
                x, y, side = (-0.08, baseline, "right")
            axes.text(x, y, lead, **_LEAD_NAME, ha=side)
            if start > 0:
                axes.vlines(start, baseline - 3.0, baseline + 3.0, color=_INK, linewidth=1.2)
    box = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.5}
    axes.text(0.08, paper.low + 2.5, paper.text, fontsize=9, va="center", color=_INK, bbox=box)
    _draw_scale_bar(axes, paper.seconds, bottom, 10.0, paper.bar)
    _finish_time_axis(axes, paper.seconds)


def _draw_spans(
    axes: Axes, classes: np.ndarray, kind: int, sampling_rate: float, ends: np.ndarray, **style: Any
) -> None:
    """Draw a box for every interval of a class between two heights."""
    for first, last in wave_intervals(classes, kind):
        corner = (first / sampling_rate, ends[0])
        axes.add_patch(Rectangle(corner, (last + 1 - first) / sampling_rate, ends[1] - ends[0], **style))


class _Highlight(NamedTuple):
    group: int
    leads: list[str]


def _explain(
    contributions: np.ndarray,
    group_names: Sequence[str] | None,
    label_names: Sequence[str],
    label: int,
    lead_mask: np.ndarray,
) -> tuple[np.ndarray, _Highlight | None]:
    """Contributions of groups to a label's logit, and the single group of recorded leads that contributes most."""
    if group_names is None:
        raise InputError("contributions require group names: pass group_names")
    if contributions.shape != (len(group_names), len(label_names)) or not len(group_names):
        raise InputError(
            f"{contributions.shape} contributions do not match {len(group_names)} groups and {len(label_names)} "
            "labels: pass groups x labels"
        )
    added = contributions[:, label]
    if not np.isfinite(added).all():
        raise InputError(f"the contributions to {label_names[label]!r} must be finite numbers")
    recorded = {lead for lead, is_recorded in zip(STANDARD_LEADS, lead_mask, strict=True) if is_recorded}
    leads_of = [_leads_of(name) for name in group_names]
    singles = [
        _Highlight(group, leads)
        for group, leads in enumerate(leads_of)
        if recorded.intersection(leads) and added[group] >= _MIN_CONTRIBUTION
    ]
    return added, max(singles, key=lambda single: added[single.group], default=None)


def _leads_of(group: str) -> list[str]:
    """Leads of a single group; empty for combined groups."""
    if " + " in group or group == "all leads":
        return []
    leads = [f"V{number}" for number in range(1, 7)] if group == "V1-V6" else group.split("/")
    if unknown := [lead for lead in leads if lead not in STANDARD_LEADS]:
        raise InputError(
            f"the group {group!r} has the unknown lead {unknown[0]!r}: choose from {', '.join(STANDARD_LEADS)}"
        )
    return leads


def _note_on_hidden_labels(label_names: Sequence[str], positive: np.ndarray, hidden: np.ndarray) -> str:
    if not len(hidden):
        return ""
    note = f"{len(hidden)} less probable label{'s are' if len(hidden) > 1 else ' is'} not shown"
    if number := int(positive[hidden].sum()):
        names = [_shortened(label_names[index], 24) for index in hidden if positive[index]][:3]
        more = f" and {number - 3} more" if number > 3 else ""
        note += f"; positive among them: {', '.join(names)}{more}"
    return note


def _draw_probabilities(
    axes: Axes, names: Sequence[str], probabilities: np.ndarray, thresholds: np.ndarray, num_bars: int, note: str
) -> None:
    places = np.arange(len(names))
    positive = probabilities >= thresholds
    axes.barh(places, probabilities, height=0.62, color=np.where(positive, _BEAT, _FAINT))
    visible = (thresholds >= 0) & (thresholds <= 1)
    ends = (places[visible] - 0.42, places[visible] + 0.42)
    axes.vlines(thresholds[visible], *ends, color="white", linewidth=4.5, clip_on=False)  # Sets it off from the bar.
    axes.vlines(thresholds[visible], *ends, color=_INK, linewidth=2.5, clip_on=False)
    axes.set_yticks(places, names, fontsize=10)
    for place, text in enumerate(axes.get_yticklabels()):
        weight = "bold" if positive[place] else "normal"
        text.set_fontweight(weight)
        axes.annotate(
            f"{probabilities[place]:.2f}",
            (1.0, place),
            xytext=(36, 0),  # Points to the right of the axes, where no bar or tick is.
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=10,
            fontweight=weight,
        )
    axes.set_xlim(0.0, 1.0)
    _finish_bars(axes, num_bars)
    legend = "probability (black tick: threshold; bold: at or above it)"
    axes.set_xlabel("\n".join([legend, *([_wrapped(note, 70)] if note else [])]), fontsize=10)
    axes.set_title("Predicted probabilities", loc="left", fontsize=11)


def _draw_contributions(
    axes: Axes, added: np.ndarray, names: Sequence[str], highlighted: int | None, num_bars: int
) -> None:
    order = np.argsort(-np.abs(added), kind="stable")
    places = np.arange(len(order))
    values = added[order]
    if highlighted is not None:
        strip = int(np.flatnonzero(order == highlighted)[0])
        axes.axhspan(strip - 0.47, strip + 0.47, facecolor=_TINT, edgecolor="none", zorder=0)
    axes.barh(places, values, height=0.62, color=np.where(values > 0, _REBUILT, _AGAINST))
    axes.axvline(0.0, color=_INK, linewidth=0.8)
    # Values are written at the ends of the bars, inside the axes.
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    reach = (high - low) or 1.0
    axes.set_xlim(low - (0.17 if low < 0 else 0.02) * reach, high + (0.17 if high > 0 else 0.02) * reach)
    for place, value in enumerate(values):
        gap, side = (0.012 * reach, "left") if value >= 0 else (-0.012 * reach, "right")
        axes.text(value + gap, place, f"{value:+.2f}", ha=side, va="center", fontsize=10)
    axes.set_yticks(places, [names[index] for index in order], fontsize=10)
    _finish_bars(axes, num_bars)
    axes.set_xlabel("contribution to the logit", fontsize=10)


def _finish_bars(axes: Axes, num_bars: int) -> None:
    """Set the limits for a number of bars, so that bars of adjacent charts have the same width."""
    axes.set_ylim(num_bars - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_roc(axes: Axes, name: str, truth: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    from sklearn.metrics import auc, roc_curve

    false_rate, true_rate, _ = roc_curve(truth, scores)
    positive = scores >= threshold
    cells = {"TP": positive & truth, "FP": positive & ~truth, "FN": ~positive & truth, "TN": ~positive & ~truth}
    counts = {kind: int(cell.sum()) for kind, cell in cells.items()}
    axes.plot([0, 1], [0, 1], "--", color=_FAINT, linewidth=0.9)
    axes.plot(false_rate, true_rate, color=_INK, linewidth=1.3)
    x, y = counts["FP"] / (~truth).sum(), counts["TP"] / truth.sum()
    axes.plot([x], [y], "o", color=_REBUILT, markersize=6, clip_on=False, zorder=5)

    # Counts are written below the curve or, if the curve is low, above it.
    width, height, left, low = 0.225, 0.19, 0.53, 0.03
    if np.interp(left, false_rate, true_rate) < low + 2 * height + 0.03:
        left, low = 0.02, 0.59
    for cell, (kind, count) in enumerate(counts.items()):
        corner = (left + cell % 2 * width, low + (1 - cell // 2) * height)
        color = _RIGHT if kind in ("TP", "TN") else _WRONG
        axes.add_patch(Rectangle(corner, width, height, facecolor=color, edgecolor="white", linewidth=1.5))
        axes.text(
            corner[0] + width / 2,
            corner[1] + height / 2,
            f"{kind}\n{count}",
            ha="center",
            va="center",
            fontsize=8.5,
            color=_INK,
            linespacing=1.1,
        )
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_box_aspect(1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    area = float(auc(false_rate, true_rate))
    axes.set_title(f"{name}\nAUROC {area:.3f}, threshold {threshold:.2f}", fontsize=9.5)


class _Rebuilt(NamedTuple):
    signal: np.ndarray
    lead_mask: np.ndarray
    sampling_rate: float
    values: np.ndarray  # Reconstructed beats with the mean and variance of the true ones.
    samples: np.ndarray  # Sample index in the recording for each sample of a beat's window; -1 outside the beat.
    hidden: np.ndarray  # Existing, masked beats.
    error: float  # Mean squared error over masked beats, NaN if there are none.

    @property
    def seconds(self) -> float:
        return self.signal.shape[1] / self.sampling_rate


def _rebuild(
    signal: np.ndarray,
    lead_mask: np.ndarray,
    r_peaks: np.ndarray | None,
    reconstruction: np.ndarray,
    bool_masked_pos: np.ndarray,
    sampling_rate: float,
    eps: float,
) -> _Rebuilt:
    """Scale and position reconstructed beats in the recording, and compare them with the true beats."""
    reconstruction, masked = np.asarray(reconstruction), np.asarray(bool_masked_pos, dtype=bool)
    peaks_shape = (0,) if r_peaks is None else np.shape(r_peaks)
    if (
        reconstruction.ndim != 3
        or reconstruction.shape[0] != len(signal)
        or masked.shape != reconstruction.shape[:2]
        or len(peaks_shape) != 1
    ):
        raise InputError(
            f"the shapes of reconstruction {reconstruction.shape}, masked positions {masked.shape} and R peaks "
            f"{peaks_shape} do not match: pass those of one recording"
        )
    num_beats, beat_length = reconstruction.shape[1:]
    # Cut the sample numbers as well, to locate every sample of a beat's window (-1 outside the beat).
    numbered = np.concatenate([signal, np.arange(1, signal.shape[1] + 1, dtype=np.float64)[None]])
    if r_peaks is None:
        places = np.arange(num_beats * beat_length).reshape(num_beats, beat_length)
        beat_mask = (places[:, -1] < signal.shape[1])[None]
        cut = (numbered[:, np.minimum(places, signal.shape[1] - 1)] * beat_mask[0][:, None])[None]
    else:
        cut, beat_mask, _ = cut_beats(
            numbered[None], np.asarray(r_peaks, dtype=np.int64)[None], num_beats, beat_length, sampling_rate
        )
    beats = cut[0, :-1]
    mean = beats.mean(axis=2, keepdims=True)
    deviation = np.sqrt(beats.var(axis=2, ddof=1, keepdims=True) + eps)
    hidden = masked & beat_mask[0] & lead_mask[:, None]
    errors = np.square(reconstruction - (beats - mean) / deviation).mean(axis=2)
    return _Rebuilt(
        signal,
        lead_mask,
        sampling_rate,
        values=reconstruction * deviation + mean,
        samples=cut[0, -1].astype(np.int64) - 1,
        hidden=hidden,
        error=float(errors[hidden].mean()) if hidden.any() else float("nan"),
    )


def _legend() -> list[Any]:
    """Legend of [`_draw_rebuilt_lead`], independent of which leads were recorded."""
    return [
        Line2D([], [], color=_INK, linewidth=0.9, label="recorded"),
        Line2D([], [], color=_REBUILT, linewidth=1.1, label="reconstructed"),
        Patch(color=_HIDDEN, label="masked"),
    ]


def _draw_rebuilt_lead(axes: Axes, offset: float, lead: int, rebuilt: _Rebuilt) -> None:
    """Draw one lead, scaled to its row, with masked beats shaded and their reconstructions."""
    if not rebuilt.lead_mask[lead]:
        axes.text(rebuilt.seconds / 2, offset, **_NOT_RECORDED)
        return
    recorded, sampling_rate = rebuilt.signal[lead], rebuilt.sampling_rate
    scale = 0.8 * _SPACING / max(float(np.ptp(recorded)), 1e-6)
    center = (recorded.max() + recorded.min()) / 2
    segments = []
    for beat in np.flatnonzero(rebuilt.hidden[lead]):
        inside = rebuilt.samples[beat] >= 0
        when = rebuilt.samples[beat, inside] / sampling_rate
        axes.fill_between(
            [when[0], when[-1] + 1 / sampling_rate],
            offset - 0.47 * _SPACING,
            offset + 0.47 * _SPACING,
            color=_HIDDEN,
            linewidth=0,
            zorder=0,
        )
        value = offset + scale * (rebuilt.values[lead, beat, inside] - center)
        segments.append(np.column_stack([when, np.clip(value, offset - 0.6 * _SPACING, offset + 0.6 * _SPACING)]))
    axes.plot(
        np.arange(len(recorded)) / sampling_rate,
        offset + scale * (recorded - center),
        color=_INK,
        linewidth=0.9,
    )
    axes.add_collection(LineCollection(segments, colors=_REBUILT, linewidths=1.1))


def _page_scale(signal: np.ndarray) -> tuple[float, float]:
    """Axis units per unit of the signal, 1 for normal amplitudes; and a round height for the scale bar."""
    height = float(np.quantile(np.abs(signal), 0.999))
    scale = min(1.0, 0.42 * _SPACING / height) if height > 0.35 else 0.4 * _SPACING / max(height, 1e-6)
    bar = next(
        (round_height for round_height in (1.0, 2.0, 5.0, 0.5, 0.2, 0.1) if 0.35 <= scale * round_height <= 1.3), 1.0
    )
    return scale, bar


def _draw_paper(axes: Axes, paper: _Paper) -> None:
    axes.set_facecolor(_PAPER)
    axes.set_xlim(0.0, paper.seconds)
    axes.set_ylim(paper.low, paper.high)
    for step, color, width in zip(GRID_STEPS, (_FINE, _COARSE), (0.3, 0.5), strict=True):
        times = np.arange(0.0, paper.seconds, step / PAPER_SPEED)
        heights = np.arange(np.ceil(paper.low / step) * step, paper.high, step)  # Baselines lie on lines.
        axes.vlines(times, paper.low, paper.high, color=color, linewidth=width, zorder=0)
        axes.hlines(heights, 0.0, paper.seconds, color=color, linewidth=width, zorder=0)


def _draw_scale_bar(axes: Axes, duration: float, y: float, height: float, text: str) -> None:
    x = duration * 1.008
    axes.plot([x, x], [y, y + height], color=_INK, linewidth=2, clip_on=False, solid_capstyle="butt")
    axes.text(x + 0.05, y + height / 2, text, fontsize=10, va="center", clip_on=False)


def _finish_time_axis(axes: Axes, duration: float) -> None:
    axes.set_yticks([])
    axes.set_xticks(np.arange(0.0, duration + 1e-6, 1.0))
    axes.set_xlabel("time [s]", fontsize=11)
    axes.spines[:].set_visible(False)
