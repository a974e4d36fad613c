"""TS-TCC learns to tell recordings apart, with the views that it declares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import set_seed

from clear_hug_hf import Recording
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.training.pretraining import pretrain
from clear_hug_hf.training.recipes import read_recipe


def test_when_trained_then_later_states_are_predicted_and_views_of_one_recording_are_closer_than_those_of_two(
    make_recordings: Callable[..., list[Recording]],
) -> None:
    recipe = read_recipe(
        objective="ts_tcc",
        config_overrides={"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        objective_overrides={"context_num_hidden_layers": 2, "num_times": 16},
        train_batch_size=32,
        num_train_epochs=10,
        learning_rate=1e-2,
        disable_tqdm=True,
    )
    set_seed(0)
    model, extractor = recipe.make_model(), recipe.make_feature_extractor()
    assert model.published.config.model_type == "ecg_resnet"
    dataset = prepare(make_recordings(64), extractor, (), progress=False).dataset
    collator = recipe.make_collator(model, extractor)
    batch = collator([*dataset.with_format("numpy")])

    @torch.no_grad()
    def margin() -> float:
        """How much more similar two views of one recording are than those of two recordings, around their mean."""
        states = model.pool(model.eval().backbone(**batch))
        first, second = torch.nn.functional.normalize(states - states.mean(dim=0), dim=1).chunk(2)
        similarities = first @ second.T
        others = similarities[~torch.eye(len(first), dtype=torch.bool)]
        return float(similarities.diagonal().mean() - others.mean())

    before = margin()
    history = pretrain(model, dataset, extractor, arguments=recipe.training, collator=collator).history
    # Views that change little are close from the start.
    assert 1 - margin() < 0.5 * (1 - before)
    assert history[-1]["temporal_loss"] < 0.9 * history[0]["temporal_loss"]
    assert history[-1]["contextual_loss"] < 0.9 * history[0]["contextual_loss"]
    assert history[-1]["accuracy"] > 3 / 32
