"""What transformers' common model tests ask of a model, under their names where they have one."""

import copy
import inspect
import shutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from clear_hug_hf import ClearHugForPreTraining, ClearHugForSequenceClassification, ClearHugModel


MODELS = [ClearHugModel, ClearHugForPreTraining, ClearHugForSequenceClassification]
FORMS = [{}, {"full_attention": True}, {"cls_attention": "full"}, {"cls_attention": "reference_bias"}]
with_each_model = pytest.mark.parametrize("model_class", MODELS, ids=lambda model_class: model_class.__name__)


def main_output(output) -> torch.Tensor:
    for name in ("reconstruction", "logits", "last_hidden_state"):
        if name in output:
            return output[name]
    raise AssertionError(f"no main output in {list(output)}")


def training_loss(model, batch) -> torch.Tensor:
    parameters = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters  # compiled or not
    if "noise" in parameters:
        return model(**batch, noise=torch.linspace(0, 1, 360).reshape(2, 12, 15)).loss
    if "labels" in parameters:
        return model(**batch, labels=torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 1, 0, 1]])).loss
    return model(**batch).last_hidden_state.square().mean()


# Shapes and outputs


def test_when_forward_is_called_then_shapes_are_those_documented(small_config, make_batch):
    batch, config = make_batch(11, (11, 4)), small_config()
    encoder = ClearHugModel(config).eval()(**batch)
    assert encoder.last_hidden_state.shape == (2, 12 + 12 * 11, 32)
    assert encoder.lead_states.equal(encoder.last_hidden_state[:, :12])

    pretraining = ClearHugForPreTraining(config).eval()(**batch)
    assert pretraining.loss.shape == ()
    assert pretraining.reconstruction.shape == pretraining.target.shape == (2, 12, 11, 96)
    assert pretraining.bool_masked_pos.shape == (2, 12, 11)
    assert pretraining.bool_masked_pos.dtype == torch.bool

    classifier = ClearHugForSequenceClassification(config).eval()(**batch)
    assert classifier.logits.shape == (2, 5)
    assert classifier.group_states.shape == (2, 7, 32)
    assert classifier.loss is None


@pytest.mark.parametrize("head_type", ["mean", "weighted", "single_level"])
def test_when_the_head_is_not_hug_then_there_are_no_group_states(small_config, make_batch, head_type):
    output = ClearHugForSequenceClassification(small_config(head_type=head_type)).eval()(**make_batch())
    assert output.logits.shape == (2, 5)
    assert output.group_states is None


@with_each_model
def test_forward_signature(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert names[:5] == ["self", "input_values", "attention_mask", "time_ids", "lead_mask"]


def test_when_masks_are_left_out_then_everything_exists_and_times_are_unknown(small_config):
    beats = torch.randn(2, 12, 6, 96)
    model = ClearHugModel(small_config()).eval()
    spelled_out = model(
        beats,
        attention_mask=torch.ones(2, 6, dtype=torch.bool),
        time_ids=torch.zeros(2, 6, dtype=torch.long),
        lead_mask=torch.ones(2, 12, dtype=torch.bool),
    )
    assert model(beats).last_hidden_state.equal(spelled_out.last_hidden_state)
    # Masks of zeros and ones, and masks per lead, mean the same.
    other = model(
        beats, attention_mask=torch.ones(2, 12, 6), time_ids=torch.zeros(2, 12, 6), lead_mask=torch.ones(2, 12)
    )
    assert other.last_hidden_state.equal(spelled_out.last_hidden_state)


def test_when_a_beat_comes_later_than_the_table_then_the_last_row_stands_for_it(small_config):
    beats = torch.randn(1, 12, 3, 96)
    model = ClearHugModel(small_config()).eval()
    late = model(beats, time_ids=torch.tensor([[1, 15, 99]])).last_hidden_state
    assert late.equal(model(beats, time_ids=torch.tensor([[1, 15, 15]])).last_hidden_state)


@with_each_model
def test_model_outputs_equivalence(model_class, small_config, make_batch):
    batch = make_batch()
    model = model_class(small_config(attn_implementation="eager")).eval()
    options = {"output_hidden_states": True, "output_attentions": True}
    output, plain = model(**batch, **options), model(**batch, **options, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == len(output.to_tuple())
    for a, b in zip(output.to_tuple(), plain, strict=True):
        for x, y in zip(*((v if isinstance(v, tuple) else (v,)) for v in (a, b)), strict=True):
            assert x.equal(y)


@with_each_model
def test_hidden_states_output(model_class, small_config, make_batch):
    batch = make_batch()
    model = model_class(small_config()).eval()
    assert model(**batch).hidden_states is None
    hidden_states = model(**batch, output_hidden_states=True).hidden_states
    tokens = 12 + 36 if model_class is ClearHugForPreTraining else 192
    assert [tuple(states.shape) for states in hidden_states] == [(2, tokens, 32)] * 3
    model.config.output_hidden_states = True
    assert len(model(**batch).hidden_states) == 3


def test_when_hidden_states_are_given_then_the_last_is_the_output(small_config, make_batch):
    output = ClearHugModel(small_config()).eval()(**make_batch(), output_hidden_states=True)
    assert output.hidden_states[-1].equal(output.last_hidden_state)


@with_each_model
def test_attention_outputs(model_class, small_config, make_batch):
    batch = make_batch()
    model = model_class(small_config(attn_implementation="eager")).eval()
    assert model(**batch).attentions is None
    attentions = model(**batch, output_attentions=True).attentions
    tokens = 12 + 36 if model_class is ClearHugForPreTraining else 192
    assert [tuple(weights.shape) for weights in attentions] == [(2, 4, tokens, tokens)] * 2
    torch.testing.assert_close(attentions[0].sum(dim=-1), torch.ones(2, 4, tokens))


def test_when_leads_and_beats_are_missing_then_no_attention_goes_to_them(small_config, make_batch):
    batch = make_batch()
    model = ClearHugModel(small_config(attn_implementation="eager")).eval()
    real = batch["attention_mask"][:, None, :] & batch["lead_mask"][:, :, None]
    keys = torch.cat((real.any(dim=2), real.flatten(1)), dim=1)
    for weights in model(**batch, output_attentions=True).attentions:
        to_missing = weights.masked_fill(torch.eye(192, dtype=torch.bool), 0).sum(dim=2)
        assert to_missing.transpose(1, 2)[~keys].eq(0).all()
        # The summary of lead 0 attends to itself and to the beats of its lead alone.
        own = torch.zeros(192, dtype=torch.bool)
        own[0] = True
        own[12:27] = True
        assert weights[:, :, 0, ~own].eq(0).all()
        assert weights[0, :, 0, own].gt(0).all()


@with_each_model
def test_retain_grad_hidden_states_attentions(model_class, small_config, make_batch):
    model = model_class(small_config(attn_implementation="eager"))
    output = model(**make_batch(), output_hidden_states=True, output_attentions=True)
    kept = [output.hidden_states[0], output.attentions[0]]
    for tensor in kept:
        tensor.retain_grad()
    main_output(output).sum().backward()
    assert all(tensor.grad is not None for tensor in kept)


# Ways to compute


@pytest.mark.parametrize("fields", FORMS)
@with_each_model
def test_eager_matches_sdpa_inference(model_class, fields, small_config, make_batch):
    batch = make_batch()
    model = model_class(small_config(attn_implementation="sdpa", **fields)).eval()
    assert model.config._attn_implementation == "sdpa"
    fast = main_output(model(**batch))
    model.set_attn_implementation("eager")
    torch.testing.assert_close(main_output(model(**batch)), fast, atol=1e-5, rtol=0)


@with_each_model
def test_when_activations_are_checkpointed_then_gradients_are_the_same(model_class, small_config, make_batch):
    batch = make_batch()
    model = model_class(small_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    gradients = []
    for use_reentrant in (None, False, True):
        if use_reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            assert model.is_gradient_checkpointing
        model.zero_grad()
        training_loss(model, batch).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        assert other.keys() == gradients[0].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, msg=name)


@with_each_model
def test_when_training_then_every_weight_gets_a_gradient(model_class, small_config, make_batch):
    model = model_class(small_config()).train()
    training_loss(model, make_batch()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@with_each_model
def test_when_forward_runs_then_nothing_waits_for_the_device(model_class, small_config, make_batch):
    # Fake tensors have no values: .item(), .nonzero() and `if tensor:` raise.
    batch = make_batch()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = model_class(small_config()).train()
        fake = {name: mode.from_tensor(value) for name, value in batch.items()}
        if model_class is ClearHugForSequenceClassification:
            fake["labels"] = torch.zeros(2, 5)
        output = model(**fake)
    assert main_output(output).shape[0] == 2


@with_each_model
def test_when_on_the_meta_device_then_shapes_come_out(model_class, small_config, make_batch):
    model = model_class(small_config()).to("meta").train()
    output = main_output(model(**{name: value.to("meta") for name, value in make_batch().items()}))
    assert output.device.type == "meta"
    assert output.shape[0] == 2


@pytest.mark.parametrize("fields", [{}, {"cls_attention": "reference_bias", "beat_embedding": "conv"}])
@with_each_model
def test_when_captured_as_one_graph_then_numbers_are_the_same(model_class, fields, small_config, make_batch):
    batch = make_batch()
    torch._dynamo.reset()
    model = model_class(small_config(**fields)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(main_output(compiled(**batch)), main_output(model(**batch)))
    model.train()
    training_loss(compiled, batch).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@with_each_model
def test_when_compiled_then_numbers_are_the_same(model_class, small_config, make_batch):
    batch = make_batch()
    torch._dynamo.reset()
    model = model_class(small_config()).eval()
    with torch.no_grad():
        fast = main_output(torch.compile(model, fullgraph=True)(**batch))
        torch.testing.assert_close(fast, main_output(model(**batch)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fields", FORMS)
@with_each_model
def test_when_autocast_to_bfloat16_then_training_works_and_numbers_are_near(
    model_class, fields, small_config, make_batch
):
    batch = make_batch()
    model = model_class(small_config(initializer_range=0.05, **fields)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        training_loss(model, batch).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    exact = main_output(model(**batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = main_output(model(**batch))
    torch.testing.assert_close(near.float(), exact, atol=0.1, rtol=0.1)


@with_each_model
def test_when_weights_are_bfloat16_then_it_works(model_class, small_config, make_batch):
    model = model_class(small_config()).bfloat16().eval()
    assert main_output(model(**make_batch())).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@with_each_model
def test_when_on_a_gpu_then_numbers_are_those_of_the_cpu(model_class, implementation, small_config, make_batch):
    batch = make_batch()
    model = model_class(small_config(attn_implementation=implementation)).eval()
    expected = main_output(model(**batch))
    model.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = model(**{name: value.cuda() for name, value in batch.items()})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(main_output(output).cpu(), expected, atol=1e-4, rtol=1e-4)


# Loading and saving


@pytest.mark.parametrize("fields", [{}, {"beat_embedding": "conv", "cls_attention": "reference_bias"}])
@with_each_model
def test_save_load(model_class, fields, small_config, make_batch, tmp_path):
    batch = make_batch()
    model = model_class(small_config(**fields)).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not loaded.training
    assert main_output(loaded(**batch)).equal(main_output(model(**batch)))


@pytest.mark.parametrize(
    ("auto_class", "model_class"),
    zip((AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification), MODELS, strict=True),
)
def test_when_the_package_is_imported_then_auto_classes_know_the_models(
    auto_class, model_class, small_config, tmp_path
):
    model_class(small_config()).save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is model_class


@with_each_model
def test_can_init_all_missing_weights(model_class, small_config, tmp_path):
    # From a file that holds nothing, all weights are drawn as from scratch.
    config = small_config(initializer_range=0.02)
    scratch = model_class(config)
    scratch.save_pretrained(tmp_path, state_dict={"unrelated": torch.zeros(1)})
    loaded = model_class.from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        expected = scratch.get_parameter(name)
        assert parameter.isfinite().all(), name
        assert parameter.mean().item() == pytest.approx(expected.mean().item(), abs=0.02), name
        assert parameter.std(correction=0).item() == pytest.approx(expected.std(correction=0).item(), abs=0.01), name


@with_each_model
def test_init_weights_can_init_buffers(model_class, small_config):
    model = model_class(small_config())
    expected = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for _, buffer in model.named_buffers():
            buffer.fill_(99)
    model.apply(model._init_weights)
    for name, buffer in model.named_buffers():
        assert buffer.equal(expected[name]), name


@pytest.mark.parametrize("head_type", ["hug", "single_level"])
def test_when_loaded_then_buffers_are_those_of_a_new_model(small_config, head_type, tmp_path):
    for model_class in (ClearHugForSequenceClassification, ClearHugForPreTraining):
        model = model_class(small_config(head_type=head_type))
        model.save_pretrained(tmp_path / model_class.__name__)
        loaded = model_class.from_pretrained(tmp_path / model_class.__name__)
        assert [name for name, _ in loaded.named_buffers()]
        for name, buffer in loaded.named_buffers():
            assert buffer.equal(model.get_buffer(name)), name


@pytest.mark.parametrize("source", [ClearHugModel, ClearHugForPreTraining])
def test_when_an_encoder_becomes_a_classifier_then_only_the_head_is_new(source, small_config, tmp_path):
    encoder = source(small_config())
    encoder.save_pretrained(tmp_path)
    classifier, report = ClearHugForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, output_loading_info=True
    )
    assert report["missing_keys"]
    assert all(key.startswith(("head.", "classifier.")) for key in report["missing_keys"])
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert classifier.classifier.weight.shape == (3, 32)
    expected = (encoder if source is ClearHugModel else encoder.clear_hug).state_dict()
    for name, tensor in classifier.clear_hug.state_dict().items():
        assert tensor.equal(expected[name]), name


def test_when_a_classifier_is_loaded_as_encoder_then_nothing_is_missing(small_config, make_batch, tmp_path):
    classifier = ClearHugForSequenceClassification(small_config()).eval()
    classifier.save_pretrained(tmp_path)
    encoder, report = ClearHugModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    batch = make_batch()
    assert encoder(**batch).lead_states.equal(classifier.clear_hug(**batch).lead_states)


def test_when_labels_change_then_a_classifier_can_be_headed_anew(small_config, tmp_path):
    model = ClearHugForSequenceClassification(small_config())
    model.save_pretrained(tmp_path)
    names = ["NORM", "MI", "STTC"]
    loaded, report = ClearHugForSequenceClassification.from_pretrained(
        tmp_path,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    assert {key for key, *_ in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert loaded.config.num_labels == loaded.num_labels == 3
    assert loaded.config.id2label[1] == "MI"
    assert loaded(torch.randn(1, 12, 2, 96)).logits.shape == (1, 3)
    assert loaded.head.all_maps[0].weight.equal(model.head.all_maps[0].weight)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        ClearHugForSequenceClassification.from_pretrained(tmp_path, num_labels=3)


def test_when_the_head_type_changes_at_loading_then_the_encoder_stays(small_config, tmp_path):
    model = ClearHugForSequenceClassification(small_config())
    model.save_pretrained(tmp_path)
    loaded = ClearHugForSequenceClassification.from_pretrained(tmp_path, head_type="mean")
    assert loaded.clear_hug.norm.weight.equal(model.clear_hug.norm.weight)
    assert loaded.classifier.weight.equal(model.classifier.weight)


# Losses


def classifier_loss(config, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = ClearHugForSequenceClassification(config).eval()
    output = model(torch.randn(len(labels), 12, 3, 96), labels=labels)
    return output.loss, output.logits


def test_when_labels_are_independent_then_the_loss_is_binary_cross_entropy(small_config):
    labels = torch.randint(0, 2, (4, 5))
    loss, logits = classifier_loss(small_config(), labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(loss, expected)


def test_when_labels_are_nan_then_they_count_for_nothing(small_config):
    labels = torch.randint(0, 2, (4, 5)).float()
    labels[0] = torch.nan
    labels[2, 3] = torch.nan
    loss, logits = classifier_loss(small_config(), labels)
    known = ~labels.isnan()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", torch.full((2, 5), torch.nan)),
        ("regression", torch.full((2, 5), torch.nan)),
        ("single_label_classification", torch.full((2,), -100)),
    ],
)
def test_when_no_label_is_known_then_the_loss_is_zero_with_a_gradient(small_config, problem_type, labels):
    model = ClearHugForSequenceClassification(small_config(problem_type=problem_type))
    loss = model(torch.randn(2, 12, 3, 96), labels=labels).loss
    assert loss == 0
    loss.backward()
    assert all(p.grad.eq(0).all() for p in model.classifier.parameters())


def test_when_there_is_one_class_per_recording_then_the_loss_is_cross_entropy(small_config):
    labels = torch.tensor([0, 4, 2, -100])
    loss, logits = classifier_loss(small_config(problem_type="single_label_classification"), labels)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[:3], labels[:3]))


@pytest.mark.parametrize("num_labels", [1, 5])
def test_when_labels_are_values_then_the_loss_is_the_squared_error(small_config, num_labels):
    labels = torch.randn(4, num_labels)
    config = small_config(problem_type="regression", num_labels=num_labels)
    loss, logits = classifier_loss(config, labels.squeeze(1) if num_labels == 1 else labels)
    torch.testing.assert_close(loss, (logits - labels).square().mean())


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", torch.zeros(2)),
        ("multi_label_classification", torch.zeros(2, 4)),
        ("single_label_classification", torch.zeros(2, 5)),
        ("regression", torch.zeros(2)),
    ],
)
def test_when_labels_have_another_shape_then_they_are_refused(small_config, problem_type, labels):
    with pytest.raises(ValueError, match="labels must have shape"):
        classifier_loss(small_config(problem_type=problem_type), labels)


def test_when_a_loss_function_is_assigned_then_it_is_used(small_config):
    model = ClearHugForSequenceClassification(small_config())
    model.loss_function = lambda labels, logits, config, **kwargs: logits.new_tensor(42.0)
    assert model(torch.randn(2, 12, 3, 96), labels=torch.zeros(2, 5)).loss == 42


def test_when_trainer_accumulates_gradients_then_they_are_those_of_the_whole_batch(small_config, tmp_path):
    config = small_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = ClearHugForSequenceClassification(config)
    rows = [{"input_values": torch.randn(12, 3, 96), "labels": torch.rand(5).round()} for _ in range(4)]
    losses = []
    for batch_size, steps in ((4, 1), (1, 4)):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(copy.deepcopy(model), arguments, train_dataset=rows)
        trainer.train()
        losses.append(trainer.state.log_history[0])
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-3)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=1e-3)


# Bad input


@pytest.mark.parametrize(
    "shape", [(2, 12, 96), (2, 11, 15, 96), (2, 12, 16, 96), (2, 12, 0, 96), (2, 12, 15, 95), (12, 15, 96), (96,)]
)
@with_each_model
def test_when_beats_have_another_shape_then_they_are_refused(model_class, shape, small_config):
    with pytest.raises(ValueError, match="input_values must have shape"):
        model_class(small_config())(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("attention_mask", (2, 14)),
        ("attention_mask", (2, 11, 15)),
        ("time_ids", (2, 14)),
        ("time_ids", (1, 15)),
        ("lead_mask", (2, 11)),
        ("lead_mask", (2, 12, 15)),
        ("noise", (2, 180)),
        ("bool_masked_pos", (2, 15)),
    ],
)
def test_when_a_mask_has_another_shape_then_it_is_refused(name, shape, small_config):
    model = ClearHugForPreTraining(small_config())
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        model(torch.randn(2, 12, 15, 96), **{name: torch.ones(shape)})


# Learning


def test_when_trained_on_a_few_beats_then_the_reconstruction_gets_better(small_config):
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
