"""The loop trains what it should, at the rates it should, reproducibly, and leaves whole folders."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForPreTraining, set_seed

from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.modeling import ClearHugConfig, ClearHugForPreTraining
from clear_hug_hf.processing import ClearHugFeatureExtractor, InputError
from clear_hug_hf.training.pretraining import (
    PretrainingArguments,
    decay_groups,
    learning_rate_at,
    pretrain,
)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}


def _model() -> ClearHugForPreTraining:
    set_seed(0)
    return ClearHugForPreTraining(ClearHugConfig.preset("tiny", **SMALL))


def _recipe(**overrides: Any) -> PretrainingArguments:
    return PretrainingArguments(
        **{"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "progress": False, **overrides}
    )


@pytest.fixture(scope="module")
def dataset(make_recordings: Callable[..., list[Recording]]) -> datasets.Dataset:
    return prepare(make_recordings(18), ClearHugFeatureExtractor(), progress=False).dataset


def test_when_a_model_is_pretrained_then_the_loss_falls_and_the_folder_loads(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    train, validation = dataset.select(range(14)), dataset.select(range(14, 18))
    result = pretrain(_model(), train, ClearHugFeatureExtractor(), tmp_path / "run", validation, _recipe(epochs=15))
    losses = [row["validation_loss"] for row in result.history]
    assert losses[-1] < 0.8 * losses[0]
    assert not result.model.training

    with (tmp_path / "run" / "pretraining_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in rows] == losses
    # Fourteen recordings are three whole batches of four: the rest takes another turn in the next epoch.
    assert [int(row["step"]) for row in rows] == [3 * epoch for epoch in range(1, 16)]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-5)

    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "run" / "model")
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "run" / "model")
    assert extractor.to_dict() | {"auto_map": None} == ClearHugFeatureExtractor().to_dict() | {"auto_map": None}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model", "pretraining_log.csv"]


def test_when_seeds_are_equal_then_runs_are_and_else_they_differ(dataset: datasets.Dataset) -> None:
    runs = [
        pretrain(_model(), dataset, ClearHugFeatureExtractor(), arguments=_recipe(seed=seed)) for seed in (1, 1, 2)
    ]
    assert runs[0].history[-1]["train_loss"] == runs[1].history[-1]["train_loss"]
    assert runs[0].history[-1]["train_loss"] != runs[2].history[-1]["train_loss"]
    for first, second in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_when_bf16_is_asked_for_then_the_weights_stay_in_full_precision(dataset: datasets.Dataset) -> None:
    full = pretrain(_model(), dataset, ClearHugFeatureExtractor(), arguments=_recipe())
    half = pretrain(_model(), dataset, ClearHugFeatureExtractor(), arguments=_recipe(mixed_precision="bf16"))
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    assert half.history[-1]["train_loss"] == pytest.approx(full.history[-1]["train_loss"], rel=0.05)
    assert half.history[-1]["train_loss"] != full.history[-1]["train_loss"]


def test_when_a_model_follows_its_training_then_it_is_told_the_progress(dataset: datasets.Dataset) -> None:
    class Following(ClearHugForPreTraining):
        def after_optimizer_step(self, progress: float) -> None:
            told.append(progress)

    told: list[float] = []
    set_seed(0)
    pretrain(
        Following(ClearHugConfig.preset("tiny", **SMALL)), dataset, ClearHugFeatureExtractor(), arguments=_recipe()
    )
    assert told == [step / 8 for step in range(1, 9)]


def test_when_the_loss_is_not_finite_then_the_last_good_folder_stays(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    class Breaking(ClearHugForPreTraining):
        calls = 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            self.calls += 1
            return output if self.calls <= 4 else SimpleNamespace(loss=output.loss * math.nan)

    set_seed(0)
    model = Breaking(ClearHugConfig.preset("tiny", **SMALL))
    with pytest.raises(InputError, match="loss is nan at step 8"):
        pretrain(model, dataset, ClearHugFeatureExtractor(), tmp_path, arguments=_recipe())
    saved = AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    assert all(torch.isfinite(parameter).all() for parameter in saved.parameters())


def test_when_parameters_are_grouped_then_only_weights_of_maps_decay() -> None:
    model = _model()
    decaying, free = decay_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert len(decaying["params"]) + len(free["params"]) == len(names)
    for parameter in decaying["params"]:
        assert parameter.ndim == 2
        assert names[id(parameter)].endswith("weight")
    for parameter in free["params"]:
        name = names[id(parameter)]
        assert parameter.ndim == 1 or any(part in name for part in ("embedding", "position", "token"))


def test_when_the_rate_is_scheduled_then_it_rises_to_the_peak_and_falls_to_the_lowest() -> None:
    rates = [learning_rate_at(step, 100, 10, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10 + 89 // 2] == pytest.approx(0.55, abs=0.02)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", -1), ("learning_rate", 0.0), ("weight_decay", -0.1), ("mixed_precision", "fp8")],
)
def test_when_a_setting_is_out_of_range_then_it_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        PretrainingArguments(**{field: value})


def test_when_there_is_nothing_to_train_on_then_nothing_is_written(dataset: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recordings"):
        pretrain(_model(), dataset.select([]), ClearHugFeatureExtractor(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
