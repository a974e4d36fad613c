"""Which part of a system each field of its config belongs to: the metadata of the field."""

from typing import Any


ENCODER: dict[str, Any] = {"part": "encoder", "changes_features": True}
"""Of the encoder: with the same weights, another value gives other features or needs other weights."""
ENCODER_SAME_FEATURES: dict[str, Any] = {"part": "encoder", "changes_features": False}
"""Of the encoder, but not of what it computes in evaluation: dropout, initialization, rate of the recordings."""
PRETRAINING: dict[str, Any] = {"part": "pretraining", "changes_features": False}
"""Read by pre-training only: decoder, predictor, masks, losses, teachers."""
CLASSIFIER: dict[str, Any] = {"part": "classifier", "changes_features": False}
"""Of the classifier on top of the encoder."""
