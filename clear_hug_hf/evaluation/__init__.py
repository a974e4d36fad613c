"""Predictions of a model, and metrics with intervals over patients."""

from pathlib import Path


METRIC_MODULE = str(Path(__file__).parent / "ecg_multilabel")
"""What `evaluate.load` takes for the metrics of this package; it needs no network."""
