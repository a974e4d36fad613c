"""CLEAR-HUG: what its outputs are, and what it reads and refuses. `tests/systems` asks it what all models owe."""

import inspect
from functools import partial

import pytest
import torch
from small_systems import SMALL_SYSTEMS
from small_systems import make_beats as make_batch

from clear_hug_hf import ClearHugForPreTraining, ClearHugForSequenceClassification, ClearHugModel


small_config = partial(SMALL_SYSTEMS["clear_hug"].config, num_labels=5)
MODELS = [ClearHugModel, ClearHugForPreTraining, ClearHugForSequenceClassification]


def test_when_forward_is_called_then_shapes_are_those_documented():
    batch, config = make_batch(11, (11, 4)), small_config()
    encoder = ClearHugModel(config).eval()(**batch)
    assert encoder.last_hidden_state.shape == (2, 12 + 12 * 11, 32)
    assert encoder.lead_states.equal(encoder.last_hidden_state[:, :12])

    # The encoder computes visible beats only.
    pretraining = ClearHugForPreTraining(config).eval()(**batch, output_hidden_states=True)
    assert {tuple(states.shape) for states in pretraining.hidden_states} == {(2, 12 + 26, 32)}
    assert pretraining.loss.shape == ()
    assert pretraining.reconstruction.shape == pretraining.target.shape == (2, 12, 11, 96)
    assert pretraining.bool_masked_pos.shape == (2, 12, 11)
    assert pretraining.bool_masked_pos.dtype == torch.bool


@pytest.mark.parametrize("head_type", ["hug", "mean", "weighted", "single_level", "attention"])
def test_when_a_head_is_chosen_then_only_hug_gives_group_states_and_its_gradients_are_always_finite(head_type):
    model = ClearHugForSequenceClassification(small_config(head_type=head_type)).eval()
    output = model(**make_batch())
    assert output.logits.shape == (2, 5)
    assert output.loss is None
    assert (None if output.group_states is None else output.group_states.shape) == (
        (2, 7, 32) if head_type == "hug" else None
    )
    nothing_recorded = model(**make_batch(15, (15, 0)), labels=torch.ones(2, 5))
    nothing_recorded.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_when_the_head_type_changes_at_loading_then_the_encoder_stays(tmp_path):
    model = ClearHugForSequenceClassification(small_config())
    model.save_pretrained(tmp_path)
    loaded = ClearHugForSequenceClassification.from_pretrained(tmp_path, head_type="mean")
    assert loaded.clear_hug.norm.weight.equal(model.clear_hug.norm.weight)
    assert loaded.classifier.weight.equal(model.classifier.weight)


@pytest.mark.parametrize("model_class", MODELS)
def test_forward_signature(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert names[:5] == ["self", "input_values", "attention_mask", "time_ids", "lead_mask"]


def test_when_masks_are_left_out_then_everything_exists_and_times_are_unknown():
    beats = torch.randn(2, 12, 6, 96)
    model = ClearHugModel(small_config()).eval()
    expected = model(beats).last_hidden_state
    for shape, dtype in (((2, 6), torch.bool), ((2, 12, 6), torch.float32)):  # for all leads, and per lead
        masks = {"attention_mask": torch.ones(shape, dtype=dtype), "lead_mask": torch.ones(2, 12, dtype=dtype)}
        assert model(beats, **masks, time_ids=torch.zeros(shape)).last_hidden_state.equal(expected)


def test_when_a_beat_comes_later_than_the_table_then_the_last_row_represents_it():
    beats = torch.randn(1, 12, 3, 96)
    model = ClearHugModel(small_config()).eval()
    late = model(beats, time_ids=torch.tensor([[1, 15, 99]])).last_hidden_state
    assert late.equal(model(beats, time_ids=torch.tensor([[1, 15, 15]])).last_hidden_state)


def test_when_leads_and_beats_are_missing_then_no_attention_goes_to_them():
    batch = make_batch()
    model = ClearHugModel(small_config(attn_implementation="eager")).eval()
    real = batch["attention_mask"][:, None, :] & batch["lead_mask"][:, :, None]
    keys = torch.cat((real.any(dim=2), real.flatten(1)), dim=1)
    attentions = model(**batch, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(2, 4, 192, 192)] * 2
    for weights in attentions:
        to_missing = weights.masked_fill(torch.eye(192, dtype=torch.bool), 0).sum(dim=2)
        assert to_missing.transpose(1, 2)[~keys].eq(0).all()
        # The summary of lead 0 attends to itself and to the beats of its lead alone.
        own = torch.zeros(192, dtype=torch.bool)
        own[0] = True
        own[12:27] = True
        assert weights[:, :, 0, ~own].eq(0).all()
        assert weights[0, :, 0, own].gt(0).all()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_values", (2, 12, 16, 96)),  # more beats than it holds
        ("input_values", (2, 12, 0, 96)),
        ("attention_mask", (2, 11, 15)),
        ("bool_masked_pos", (2, 15)),
    ],
)
def test_when_an_input_has_another_shape_then_it_is_refused(name, shape):
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        ClearHugForPreTraining(small_config())(**{"input_values": torch.randn(2, 12, 15, 96), name: torch.ones(shape)})


def test_when_beat_features_and_model_do_not_belong_together_then_it_is_reported():
    batch = make_batch()
    plain, reader = ClearHugModel(small_config()), ClearHugModel(small_config(use_beat_features=True))
    for model, features, message in (
        (reader, None, "beat_features are required"),
        (reader, torch.zeros(2, 12, 15, 2), "beat_features must have shape"),
        (plain, torch.zeros(2, 12, 15, 3), "configured with use_beat_features=False"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch, beat_features=features)


def test_when_trained_on_a_few_beats_then_the_reconstruction_gets_better():
    config = small_config(initializer_range=0.02, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = ClearHugForPreTraining(config).train()
    # Beats that look alike in all leads, as conduction makes them.
    beats = torch.randn(4, 1, 15, 96).cumsum(dim=-1) * torch.linspace(0.5, 2, 12)[None, :, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(beats).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
