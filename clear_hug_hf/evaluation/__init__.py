"""Predictions of a model, and metrics with intervals over patients."""

from pathlib import Path


METRIC_MODULE = str(Path(__file__).parent / "ecg_multilabel")
"""Path of the metric module for `evaluate.load`; it needs no network access."""
