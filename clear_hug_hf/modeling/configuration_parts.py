"""What the configs of all systems share: which part of a system a field belongs to, and what classifiers may learn."""

from typing import Any


ENCODER: dict[str, Any] = {"part": "encoder", "changes_features": True}
"""Of the encoder: with the same weights, another value gives other features or needs other weights."""
ENCODER_SAME_FEATURES: dict[str, Any] = {"part": "encoder", "changes_features": False}
"""Of the encoder, but not of what it computes in evaluation: dropout, initialization, rate of the recordings."""
PRETRAINING: dict[str, Any] = {"part": "pretraining", "changes_features": False}
"""Read by pre-training only: decoder, predictor, masks, losses, teachers."""
CLASSIFIER: dict[str, Any] = {"part": "classifier", "changes_features": False}
"""Of the classifier on top of the encoder."""

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
