"""
What the tests of several processes train, in a process that knows its rank from its environment.

    python several_processes.py DATA OUTPUT RUN [RUN ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
from small_models import DECODER, ENCODER, NO_DROPOUT
from transformers import ByT5Tokenizer, set_seed

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgScanConfig,
    EcgScanFeatureExtractor,
    EcgScanForPreTraining,
    HeartLangConfig,
    HeartLangFeatureExtractor,
    HeartLangForPreTraining,
    HeartLangTokenizerModel,
)
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.pages import PageCollator
from clear_hug_hf.data.views import ViewCollator
from clear_hug_hf.modeling.configuration_siamese import SiameseConfig
from clear_hug_hf.modeling.modeling_siamese import SiameseForPreTraining
from clear_hug_hf.training.features import encode
from clear_hug_hf.training.pretraining import PretrainingArguments, pretrain
from clear_hug_hf.training.processes import connect_processes


IMAGE_SIZE = (64, 96)
EXTRACTORS = {
    "clear_hug": ClearHugFeatureExtractor(),
    "ecg_jepa": EcgJepaFeatureExtractor(),
    "ecg_scan": EcgScanFeatureExtractor(image_size=IMAGE_SIZE),
    "heartlang": HeartLangFeatureExtractor(on_lost_beats="ignore"),
}
# Without batch normalization, of which each process has its own.
_MLP = {
    f"{name}_{what}": value
    for name in ("projection", "prediction")
    for what, value in (("sizes", [16, 16]), ("norms", ["layer", "none"]))
}
_VIEWS: dict[str, dict[str, Any]] = {
    "shared": {**_MLP, "same_patient": "positive"},
    "momentum": {**_MLP, "target": "momentum", "contrast": "info_nce", "ema_start": 0.5},
}
_ENCODER = {**ENCODER, "num_hidden_layers": 2}
_TEXT = {**_ENCODER, **NO_DROPOUT, "model_type": "bert", "vocab_size": 384, "max_position_embeddings": 256}
_TOWERS: dict[str, dict[str, Any]] = {
    # Its last norm is of the class token alone, which nothing reads here.
    "clip": {**_ENCODER, "model_type": "clip_vision_model", "image_size": 96, "patch_size": 16},
    # Batch statistics.
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
}


def make_model(system: str, tower: str = "clip") -> Any:
    """A small model without dropout, the same every time."""
    set_seed(0)
    if tower in _VIEWS:
        backbone = ClearHugConfig.preset("tiny", **_ENCODER, **NO_DROPOUT)
        return SiameseForPreTraining(SiameseConfig(backbone_config=backbone, **_VIEWS[tower]))
    if system == "clear_hug":
        return ClearHugForPreTraining(ClearHugConfig.preset("tiny", **_ENCODER, **DECODER, **NO_DROPOUT))
    if system == "ecg_jepa":
        predictor = {name.replace("decoder", "predictor"): value for name, value in DECODER.items()}
        return EcgJepaForPreTraining(EcgJepaConfig.preset("tiny", **_ENCODER, **predictor))
    if system == "heartlang":
        codes = {"vocab_size": 24, "code_dim": 8, "decoder_num_hidden_layers": 1, "head_dim": 16}
        config = HeartLangConfig.preset("tiny", **_ENCODER, **NO_DROPOUT, **codes)
        if tower == "tokenizer":
            return HeartLangTokenizerModel(config)
        config.tokenizer_config = HeartLangConfig.preset("tiny", **_ENCODER, **NO_DROPOUT, **codes)
        model = HeartLangForPreTraining(config)
        model.tokenizer.codebook.weight.normal_()
        return model
    return EcgScanForPreTraining(
        EcgScanConfig(
            vision_config=_TOWERS[tower],
            signal_config=ClearHugConfig.preset("tiny", **_ENCODER),
            text_config=_TEXT,
            image_size=IMAGE_SIZE,
            image_pooling="mean",
            projection_dim=16,
            **{**DECODER, "decoder_query_samples": 200},
        )
    )


def make_collator(system: str, tower: str = "clip") -> Any:
    """What makes batches of rows; `None` for the loop's own."""
    if tower in _VIEWS:
        return ViewCollator(EXTRACTORS[system], views=(("crop", "wander"), ("jitter",)), with_groups=True)
    if system != "ecg_scan":
        return None
    tokenizer = ByT5Tokenizer(extra_ids=0)
    return PageCollator(EXTRACTORS[system], tokenizer=tokenizer, with_targets=True, with_signals=True)


def train(data: Path, system: str, tower: str, precision: str, output: Path | None = None) -> Any:
    """
    Two epochs of two steps of six recordings, three at a time unless their views are compared; the first four validate
    what is saved.
    """
    arguments = PretrainingArguments(
        num_train_epochs=2,
        train_batch_size=6,
        per_device_train_batch_size=6 if tower in _VIEWS else 3,
        learning_rate=2e-3,
        mixed_precision=precision,
        disable_tqdm=True,
    )
    dataset = datasets.load_from_disk(str(data / system))
    model, extractor = make_model(system, tower), EXTRACTORS[system]
    held_out = None if output is None else dataset.select(range(4))
    return pretrain(model, dataset, extractor, output, held_out, arguments, collator=make_collator(system, tower))


def encode_all(data: Path, cache: Path, hook: Any) -> Any:
    """Features of all recordings, as lists; the hook sees what this process reads."""
    model, dataset = make_model("clear_hug"), datasets.load_from_disk(str(data / "clear_hug"))
    model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    collator = EcgCollator(EXTRACTORS["clear_hug"], label_names=())
    return encode(model, dataset, collator, batch_size=2, cache_dir=cache).columns["lead_states"].tolist()


def main(data: Path, output: Path, runs: list[str]) -> None:
    """Train each of `system-tower-precision-ddp` or `-fsdp`, and write down what came of it in this process."""
    connect_processes()
    found: dict[str, Any] = {"read": 0}

    def count(module: Any, args: Any, kwargs: Any) -> None:
        found["read"] += len(next(iter(kwargs.values())))

    found["features"] = encode_all(data, output / "features", count)
    for name in runs:
        system, tower, precision, sharing = name.split("-")
        os.environ["ACCELERATE_USE_FSDP"] = str(sharing == "fsdp").lower()
        # Saving takes longer than training.
        result = train(data, system, tower, precision, output / name if tower == "resnet" else None)
        weights = result.model.state_dict() if sharing == "ddp" else {}
        found[name] = {
            "steps": result.steps,
            "validation_loss": result.history[-1]["validation_loss"],
            "codes": weights["codebook.weight"].tolist() if "codebook.weight" in weights else None,
            "batch_statistics": {key: value.tolist() for key, value in weights.items() if ".running_" in key},
        }
    (output / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
