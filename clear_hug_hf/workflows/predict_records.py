"""The labels of a recording, as text, as JSON and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..processing import SignalReport


REPORT_COLUMNS = (
    "heart_rate",
    "sdnn_ms",
    "rmssd_ms",
    "irregularity",
    "beats_found",
    "beats_read",
    "missing_leads",
    "flat_leads",
    "clipped_leads",
    "amplitude_mv",
    "warnings",
)
"""Columns of the table from [`SignalReport`]."""
_MAX_LABELS = 20
"""Number of labels that are printed if they are not predicted positive."""
_AGGREGATES = {
    "mean": "their mean",
    "max": "the maximum of each label",
    "model": "the mean or the maximum, as the model's config states for each label",
}


@dataclass(frozen=True)
class LabeledSpan:
    """
    Labels of a recording or of one of its windows.

    Args:
        start, end (`float`): Position in the recording [s].
        heart_rate (`float`, *optional*): Heart rate [1/min].
        predicted_positive (`list[str]`): Labels whose probability reaches their threshold, most probable first.
        probabilities (`dict[str, float]`): Probability of each label, most probable first.
        notes (`dict[str, str]`): A sentence for each label predicted positive that the heart rate contradicts.
    """

    start: float
    end: float
    heart_rate: float | None
    predicted_positive: list[str]
    probabilities: dict[str, float]
    notes: dict[str, str]


@dataclass(frozen=True)
class LabeledRecord:
    """
    Labels of a recording (`overall`, `None` with `aggregate="none"`) and of its windows, `start` and `end` [s] of
    skipped parts, and a report on the signal; or labels of a picture, and its clockwise rotation [degrees]. From a
    model that measures it also the `distance` from its training recordings, and if that is above 1 a sentence
    (`unfamiliar`).
    """

    record_id: str
    aggregate: str
    overall: LabeledSpan | None
    windows: list[LabeledSpan]
    skipped: list[dict[str, float]]
    report: SignalReport | None = None
    rotation: int = 0
    distance: float | None = None
    unfamiliar: str | None = None

    @property
    def spans(self) -> list[LabeledSpan]:
        """The recording, or its windows if these are not combined."""
        return self.windows if self.overall is None else [self.overall]

    @property
    def end(self) -> float:
        """End of the last window [s]."""
        return max(window.end for window in self.windows)

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary for JSON; with `aggregate="none"` it has the labels of the windows only."""
        overall = {} if self.overall is None else asdict(self.overall)
        return {
            "record": self.record_id,
            "start": self.windows[0].start,
            "end": self.end,
            "aggregate": self.aggregate,
            "report": None if self.report is None else self.report.to_dict(),
            **self._familiarity(),
            **{name: value for name, value in overall.items() if name not in ("start", "end", "heart_rate")},
            "windows": [asdict(window) for window in self.windows],
            "skipped": self.skipped,
        }

    def _familiarity(self) -> dict[str, Any]:
        """Distance and sentence, if the model measures the distance."""
        return {} if self.distance is None else {"distance": round(self.distance, 4), "unfamiliar": self.unfamiliar}

    def to_rows(self, label_names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each of [`LabeledRecord.spans`], with a column for each label."""
        report = {} if self.report is None else self.report.to_dict()
        rows = []
        for span in self.spans:
            values = {
                "record_id": self.record_id,
                "start": span.start,
                "end": span.end,
                "predicted_positive": span.predicted_positive,
                "notes": [*span.notes.values()],
                **{name: report.get(name) for name in REPORT_COLUMNS},
                **self._familiarity(),
                "heart_rate": span.heart_rate,
            }
            row = {
                name: "; ".join(value) if isinstance(value, list) else "" if value is None else value
                for name, value in values.items()
            }
            # A label may share the name of another column.
            row |= {
                f"{name} (label)" if name in values else name: span.probabilities.get(name, "") for name in label_names
            }
            rows.append(row)
        return rows

    def to_text(self) -> str:
        """Text to print: the record, its signal, and its labels, with an asterisk if predicted positive."""
        about = "a picture of a page" if self.report is None else f"{self.end:g} s"
        if len(self.windows) > 1:
            about += f", read in {len(self.windows)} windows"
            about += "" if self.overall is None else f": {_AGGREGATES[self.aggregate]}"
        lines = [f"{self.record_id}  ({about})"]
        if self.report is not None:
            lines += [f"  {self.report.summary()}", *(f"  ! {warning}" for warning in self.report.warnings)]
        if self.unfamiliar is not None:
            lines.append(f"  ! {self.unfamiliar}")
        for span in self.spans:
            if self.overall is None and len(self.windows) > 1:
                lines.append(f"  {span.start:g}-{span.end:g} s")
            for number, (name, probability) in enumerate(span.probabilities.items()):
                is_positive = name in span.predicted_positive
                if number >= _MAX_LABELS and not is_positive:
                    continue
                note = f"  ! {span.notes[name]}" if name in span.notes else ""
                lines.append(f"  {'*' if is_positive else ' '} {probability:6.1%}  {name}{note}")
            hidden = set([*span.probabilities][_MAX_LABELS:]) - {*span.predicted_positive}
            if hidden:
                lines.append(f"    and {len(hidden)} more, not predicted positive (--json lists all)")
        return "\n".join(lines)
