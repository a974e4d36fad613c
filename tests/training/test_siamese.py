"""SimCLR, MoCo v3, BYOL, SimSiam and CLOCS learn to tell recordings apart, from Python and from the command line."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from clear_hug_hf import Recording
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.modeling.modeling_siamese import SiameseForPreTraining
from clear_hug_hf.modeling.modeling_ts_tcc import TsTccForPreTraining
from clear_hug_hf.objectives.siamese import OBJECTIVES
from clear_hug_hf.training.pretraining import pretrain
from clear_hug_hf.training.recipes import Recipe, read_recipe


NAMES = [objective.name for objective in OBJECTIVES]
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
# Projectors as wide as the papers' would take longer than all else.
SIZES: dict[str, dict[str, Any]] = {
    "simclr": {"projection_sizes": [None, 16]},
    "moco_v3": {"projection_sizes": [32, 16], "prediction_sizes": [32, 16]},
    "byol": {"projection_sizes": [32, 16], "prediction_sizes": [32, 16]},
    "simsiam": {"projection_sizes": [None, None, 16], "prediction_sizes": [8, 16]},
    "clocs": {"projection_sizes": [16]},
}


def _recipe(name: str, **fields: Any) -> Recipe:
    settings = {"train_batch_size": 16, "num_train_epochs": 6, "learning_rate": 1e-2, "disable_tqdm": True, **fields}
    return read_recipe(objective=name, config_overrides=BACKBONE, objective_overrides=SIZES[name], **settings)


@pytest.fixture(scope="module")
def dataset(make_recordings: Callable[..., list[Recording]]) -> datasets.Dataset:
    extractor = _recipe("simclr").make_feature_extractor()
    return prepare(make_recordings(64), extractor, (), progress=False).dataset


@torch.no_grad()
def _margin(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """How much more similar two views of one recording are than those of two recordings, around their mean."""
    states = model.pool(model.eval().backbone(**batch))
    states = torch.nn.functional.normalize(states - states.mean(dim=0), dim=1)
    first, second = states.chunk(2)
    similarities = first @ second.T
    different = ~torch.eye(len(first), dtype=torch.bool)
    return float(similarities.diagonal().mean() - similarities[different].mean())


@pytest.mark.parametrize("name", NAMES)
def test_when_trained_then_views_of_one_recording_are_closer_than_before_and_than_those_of_two(
    name: str, dataset: datasets.Dataset
) -> None:
    recipe = _recipe(name)
    set_seed(0)
    model = recipe.make_model()
    collator = recipe.make_collator(model, recipe.make_feature_extractor())
    batch = collator([*dataset.with_format("numpy")])
    del batch["groups"]
    before = _margin(model, batch)
    result = pretrain(model, dataset, recipe.make_feature_extractor(), arguments=recipe.training, collator=collator)
    after = _margin(result.model, batch)
    assert after > 0.3
    # Halves of a recording are close from the start.
    assert 1 - after < 0.8 * (1 - before)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert not any(row["collapsed"] for row in result.history)


# A momentum network, and a second loss with states of its own.
@pytest.mark.parametrize("name", ["byol", "ts_tcc"])
def test_when_a_run_of_a_shared_objective_is_stopped_then_it_resumes_to_the_same_bits(
    name: str,
    write_records: Callable[..., list[Recording]],
    run: Callable[..., None],
    status: Callable[..., int],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the moving average and of batch statistics, too; the folder holds the encoder alone."""
    write_records(tmp_path / "records", *(f"{number:02d}" for number in range(20)))
    sizes = SIZES.get(name, {"context_num_hidden_layers": 1, "num_times": 16})
    run("prepare", tmp_path / "records", "--system", "ecg_resnet", "--output-dir", tmp_path / "data")
    settings = {
        "--config-overrides": [f"{field}={value}" for field, value in BACKBONE.items()],
        "--objective-overrides": [f"{field}={value}" for field, value in sizes.items()],
    }
    words = ["--objective", name, "--data", tmp_path / "data", "--disable-tqdm", "--save-steps", 2]
    words += ["--num-train-epochs", 3, "--train-batch-size", 6]
    words += [word for option, values in settings.items() for word in (option, *values)]
    run("pretrain", *words, "--output-dir", tmp_path / "whole")

    command = ["pretrain", *words, "--output-dir", tmp_path / "stopped"]
    model_class: Any = {"byol": SiameseForPreTraining, "ts_tcc": TsTccForPreTraining}[name]
    forward, calls = model_class.forward, itertools.count(1)

    @functools.wraps(forward)
    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and next(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(model_class, "forward", stopping)
        assert status(*command) == 130
    run(*command)
    first, second = (
        load_file(max((tmp_path / run_name / "checkpoints").glob("step-*")) / "model.safetensors")
        for run_name in ("whole", "stopped")
    )
    assert any(key.startswith("momentum_") and key.endswith("running_var") for key in first) == (name == "byol")
    assert list(first) == list(second)
    assert all(first[key].equal(second[key]) for key in first)
    logs = [(tmp_path / run_name / "pretraining_steps.csv").read_text() for run_name in ("whole", "stopped")]
    assert logs[0] == logs[1]

    assert json.loads((tmp_path / "whole" / "pretraining.json").read_text())["objective"] == name
    assert json.loads((tmp_path / "whole" / "model" / "config.json").read_text())["model_type"] == "ecg_resnet"
    assert (tmp_path / "whole" / "pictures" / "views.png").is_file()
    assert (tmp_path / "whole" / "best").exists() == getattr(model_class, "ranks_by_loss", True)
    assert "views" in refused(*command, "--views", "crop")
