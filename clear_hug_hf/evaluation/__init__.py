"""Predictions of a model, and metrics with intervals over patients."""
