"""Pictures of predictions: a recording with its beats and labels, or a page as the model sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import draw_prediction, short_name


if TYPE_CHECKING:
    from ..data.records import Recording, RecordReference
    from ..inference.records import RecordPrediction


@dataclass
class PredictionPictures:
    """Draws predictions into a folder, each with a unique name; `thresholds` are in the order of the model."""

    folder: Path
    model: Any
    extractor: Any
    thresholds: dict[str, float]
    aggregate: str | list[str]
    _drawn: set[Path] = field(default_factory=set)

    def draw(self, source: Path | RecordReference, prediction: RecordPrediction) -> None:
        """Draw a recording, which is read again, or a picture of a page."""
        if isinstance(source, Path):
            self._draw_page(source, prediction)
        else:
            self._draw_recording(source.read(), prediction)

    def _draw_page(self, picture: Path, prediction: RecordPrediction) -> None:
        """Draw a picture with the outline of its page, the page as the model sees it, and its labels."""
        from ..plotting import plot_page, save_figure
        from ..processing import load_page

        assert prediction.page is not None
        figure = plot_page(
            load_page(picture),
            prediction.page.corners,
            self.extractor.image_processor.page_of(prediction.page.image, do_find_page=False),
            label_names=list(self.thresholds),
            probabilities=prediction.windows[0].probabilities,
            thresholds=list(self.thresholds.values()),
            title=short_name(str(picture)),
        )
        save_figure(figure, self._unique_path(str(picture.with_suffix(""))))

    def _draw_recording(self, recording: Recording, prediction: RecordPrediction) -> None:
        """Draw each window of a recording, with the predictions of all of its parts."""
        import numpy as np

        from ..inference.classifier_outputs import aggregate_windows
        from ..processing.signal_cleaning import canonical_unit

        inputs = recording.as_inputs()
        signal, lead_mask = self.extractor.clean(inputs.pop("waveforms"), **inputs)
        windows = self.extractor.replace(windows="all").split(signal, self.extractor.detect([signal], [lead_mask])[0])
        report = prediction.report
        assert report is not None
        units = [recording.unit] if isinstance(recording.unit, str) else recording.unit
        unit = "NU" if not self.extractor.keeps_unit or "NU" in map(canonical_unit, units) else "mV"
        for number in dict.fromkeys(part.place.window for part in prediction.windows):
            parts = [part for part in prediction.windows if part.place.window == number]
            window = windows[number]
            start = f"{window.start / self.extractor.sampling_rate:g}"
            contributions = [part.contributions for part in parts if part.contributions is not None]
            # With aggregate="none", the parts of a window are still averaged.
            probabilities = aggregate_windows(
                np.stack([part.probabilities for part in parts]),
                "mean" if self.aggregate == "none" else self.aggregate,
            )
            assert probabilities is not None
            notes = {name: note for part in parts for name, note in part.notes.items()}
            positive = [
                name
                for (name, threshold), probability in zip(self.thresholds.items(), probabilities, strict=True)
                if probability >= threshold
            ]
            sentences = [*report.warnings, *(notes[name] for name in positive if name in notes)]
            position = f" from {start} s; the entire recording" if len(windows) > 1 else ""
            draw_prediction(
                self.model,
                recording.record_id,
                self._unique_path(recording.record_id, f"_{start}s" if len(windows) > 1 else ""),
                thresholds=list(self.thresholds.values()),
                probabilities=probabilities,
                contributions=np.mean(contributions, axis=0) if contributions else None,
                signal=window.signal,
                r_peaks=window.r_peaks,
                lead_mask=lead_mask,
                sampling_rate=self.extractor.sampling_rate,
                unit=unit,
                note=". ".join(
                    [
                        f"{position}: {report.summary()}",
                        *(sentence[0].upper() + sentence[1:] for sentence in sentences),
                    ]
                ),
            )

    def _unique_path(self, record_id: str, suffix: str = "") -> Path:
        """A unique path, named after the parts of the record id."""
        name = "_".join(part for part in Path(record_id).parts if part not in ("/", "..", "."))
        path = self.folder / f"{name}{suffix}.png"
        while path in self._drawn:
            path = path.with_name(f"{path.stem}+.png")
        self._drawn.add(path)
        return path
