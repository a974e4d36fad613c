"""What transformers' common model tests ask of every model of every system, under their names where they have one."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_systems import SMALL_SYSTEMS, Batch, SmallSystem
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from clear_hug_hf.systems import SYSTEMS


def test_when_a_system_is_registered_then_it_is_tested_here() -> None:
    assert SMALL_SYSTEMS.keys() == SYSTEMS.keys(), "add a record to tests/support/small_systems.py"


MAIN_OUTPUTS = ("reconstruction", "prediction", "logits", "image_embeds", "last_hidden_state")


class Case(NamedTuple):
    """A model of a system, and the settings that make its form."""

    system: SmallSystem
    auto_class: str
    form: dict[str, Any]

    @property
    def is_captured(self) -> bool:
        return self.form in [({"": {}} | self.system.forms)[name] for name in self.system.captured]

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return self.system.models[self.auto_class]

    def build(self, **overrides: Any) -> PreTrainedModel:
        """A new model; settings that the system does not have are left out."""
        torch.manual_seed(0)
        fields = {"attn_implementation", *(field.name for field in dataclasses.fields(self.system.system.config))}
        known = {name: value for name, value in overrides.items() if name in fields}
        return self.model_class(self.system.config(**{"num_labels": 5, **self.form, **known}))

    def inputs(self) -> Batch:
        return self.system.inputs(self.model_class)


def _cases() -> Iterator[Any]:
    for name, system in SMALL_SYSTEMS.items():
        for form, fields in ({"": {}} | system.forms).items():
            for auto_class in system.models:
                words = filter(None, (name, auto_class, form))
                yield pytest.param(Case(system, auto_class, fields), id="-".join(words).replace(" ", "_"))


FORMS = {one.id: one for one in _cases()}
each_form = pytest.mark.parametrize("case", FORMS.values())
each_model = pytest.mark.parametrize("case", [one for one in FORMS.values() if not one.values[0].form])
each_captured = pytest.mark.parametrize("case", [one for one in FORMS.values() if one.values[0].is_captured])


def main_output(output: Any) -> torch.Tensor:
    return next(output[name] for name in MAIN_OUTPUTS if output.get(name) is not None)


def training_loss(model: Any, case: Case) -> torch.Tensor:
    """The model's own loss, or of an encoder the size of all that it gives."""
    batch = case.inputs()
    if "Classification" in case.model_class.__name__:
        batch["labels"] = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 1, 0, 1]])
        if "Token" in case.model_class.__name__:
            batch["labels"] = torch.arange(batch["input_values"].shape[2]).expand(2, -1) % 5
    output = model(**batch)
    if output.get("loss") is not None:
        return output.loss
    return sum(one.float().square().mean() for one in output.values() if torch.is_tensor(one) and one.requires_grad)


def move_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Away from how they start, be it as zeros or as another part."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def assert_equal(first: Any, second: Any) -> None:
    if isinstance(first, tuple):
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first.equal(second)


# Outputs


@each_model
def test_model_outputs_equivalence(case: Case) -> None:
    model, batch = case.build(attn_implementation="eager").eval(), case.inputs()
    options = {"output_hidden_states": True, "output_attentions": True}
    output, plain = model(**batch, **options), model(**batch, **options, return_dict=False)
    assert isinstance(plain, tuple)
    assert_equal(output.to_tuple(), plain)


@each_model
def test_hidden_states_output(case: Case) -> None:
    model, batch = case.build().eval(), case.inputs()
    if not hasattr(model(**batch), "hidden_states"):
        pytest.skip("gives no states")
    assert model(**batch).hidden_states is None
    output = model(**batch, output_hidden_states=True)
    assert len(output.hidden_states) == case.system.num_states
    if not case.system.has_towers:
        assert "last_hidden_state" not in output or output.hidden_states[-1].equal(output.last_hidden_state)
        model.config.output_hidden_states = True
        assert len(model(**batch).hidden_states) == case.system.num_states


@each_model
def test_attention_outputs(case: Case) -> None:
    model, batch = case.build(attn_implementation="eager").eval(), case.inputs()
    if not (case.system.has_attention and hasattr(model(**batch), "attentions")):
        pytest.skip("gives no weights of attention")
    assert model(**batch).attentions is None
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    for states, weights in zip(output.hidden_states[:-1], output.attentions, strict=True):
        assert weights.shape[2:] == (states.shape[1], states.shape[1])
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


@each_form
def test_when_a_batch_is_split_then_each_recording_gives_the_same_and_weighted_losses_add_up(case: Case) -> None:
    model, batch = case.build().eval(), case.inputs()
    together, alone = model(**batch), []
    for row in range(2):
        alone.append(model(**{name: one[row : row + 1] if len(one) == 2 else one for name, one in batch.items()}))
        torch.testing.assert_close(main_output(alone[row])[0], main_output(together)[row], atol=2e-5, rtol=0)
    if "loss_weight" in together:
        assert together.loss_weight == sum(one.loss_weight for one in alone)
        total = sum(one.loss * one.loss_weight for one in alone) / together.loss_weight
        torch.testing.assert_close(total, together.loss)


@each_model
def test_when_an_input_has_another_shape_then_it_is_refused_by_its_name(case: Case) -> None:
    model, batch = case.build(), case.inputs()
    main = batch[model.main_input_name]
    wrong = [(model.main_input_name, one) for one in (main[:, :0], main[:, :-1], main[0])]
    for name, value in batch.items():
        if value.ndim >= 3 or not case.system.has_towers:
            wrong += [(name, value[..., None])]
            if name != model.main_input_name or not case.system.any_length:
                wrong += [(name, value[..., :-1])]
            wrong += [(name, value[:1])] if name != model.main_input_name else []
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            model(**{**batch, name: value})


@each_model
def test_when_an_input_is_misspelled_then_it_is_refused_by_its_name(case: Case) -> None:
    with pytest.raises(TypeError, match="the model has no input 'leads_mask'"):
        case.build()(**case.inputs(), leads_mask=None)


@each_model
def test_when_a_model_is_copied_then_the_copy_is_whole(case: Case) -> None:
    model = case.build().train()
    copied = copy.deepcopy(model)
    assert [one.training for one in copied.modules()] == [one.training for one in model.modules()]
    assert [one.requires_grad for one in copied.parameters()] == [one.requires_grad for one in model.parameters()]
    assert main_output(copied.eval()(**case.inputs())).equal(main_output(model.eval()(**case.inputs())))


@each_model
def test_retain_grad_hidden_states_attentions(case: Case) -> None:
    model = case.build(attn_implementation="eager")
    output = model(**case.inputs(), output_hidden_states=True, output_attentions=True)
    if not hasattr(output, "attentions"):
        pytest.skip("gives neither states nor weights of attention")
    kept = [output.hidden_states[0], *(output.attentions or ())[:1]]
    for tensor in kept:
        tensor.retain_grad()
    main_output(output).sum().backward()
    assert all(tensor.grad is not None for tensor in kept)


# Ways to compute


@each_form
def test_eager_matches_sdpa_inference(case: Case) -> None:
    model, batch = case.build(attn_implementation="sdpa").eval(), case.inputs()
    assert model.config._attn_implementation == "sdpa"
    fast = main_output(model(**batch))
    model.set_attn_implementation("eager")
    torch.testing.assert_close(main_output(model(**batch)), fast, atol=1e-5, rtol=0)


@each_model
def test_when_activations_are_checkpointed_then_gradients_are_the_same(case: Case) -> None:
    model = case.build(**dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)).train()
    training_loss(model, case).backward()
    expected = gradients(model)
    for use_reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        assert model.is_gradient_checkpointing
        model.zero_grad()
        training_loss(model, case).backward()
        found = gradients(model)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name)


@each_form
def test_when_training_then_every_weight_but_frozen_ones_gets_a_gradient(case: Case) -> None:
    model = case.build().train()
    training_loss(model, case).backward()
    for name, parameter in model.named_parameters():
        frozen = any(part in name for part in case.system.frozen)
        assert parameter.requires_grad != frozen, f"{name}: processes that train together wait for its gradient"
        assert (parameter.grad is None) == frozen, name
        assert frozen or parameter.grad.isfinite().all(), name


@each_captured
def test_when_forward_runs_then_nothing_waits_for_the_device(case: Case) -> None:
    """Fake tensors have no values: .item(), .nonzero() and `if tensor:` raise."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = case.build().train()
        fake = {name: mode.from_tensor(value) for name, value in case.inputs().items()}
        if "Classification" in case.auto_class:
            fake["labels"] = torch.zeros(2, 5)
        output = model(**fake)
    assert main_output(output).shape[0] == 2


@each_captured
def test_when_on_the_meta_device_then_shapes_come_out(case: Case) -> None:
    model = case.build().to("meta").train()
    output = main_output(model(**{name: value.to("meta") for name, value in case.inputs().items()}))
    assert output.device.type == "meta"
    assert output.shape[0] == 2


@each_form
def test_when_autocast_to_bfloat16_then_training_works_and_numbers_are_near(case: Case) -> None:
    model = case.build(initializer_range=0.05).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        training_loss(model, case).backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    model.eval()
    exact = main_output(model(**case.inputs()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = main_output(model(**case.inputs()))
    torch.testing.assert_close(near.float(), exact, atol=0.1, rtol=0.1)


@each_form
def test_when_weights_are_bfloat16_then_so_is_what_comes_out(case: Case) -> None:
    if case.system.has_towers:
        pytest.skip("towers leave it to the caller to lower what goes in")
    output = main_output(case.build().bfloat16().eval()(**case.inputs()))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@each_model
def test_when_a_folder_is_loaded_in_bfloat16_then_it_computes(case: Case, tmp_path: Path) -> None:
    """What is fixed is not in the folder, and keeps its type."""
    case.build().save_pretrained(tmp_path)
    model = case.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    batch = {
        name: value.bfloat16() if value.is_floating_point() and name != "noise" else value
        for name, value in case.inputs().items()
    }
    output = main_output(model(**batch))
    assert output.isfinite().all()


# Loading and saving


@each_form
def test_save_load(case: Case, tmp_path: Path) -> None:
    model = move_weights(case.build()).eval()
    model.save_pretrained(tmp_path)
    loaded, report = getattr(transformers, case.auto_class).from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is case.model_class
    assert not any(report.values())
    assert not loaded.training
    assert main_output(loaded(**case.inputs())).equal(main_output(model(**case.inputs())))
    for name, buffer in model.named_buffers():
        assert buffer.equal(loaded.get_buffer(name)), name
    for name, parameter in model.named_parameters():
        assert parameter.equal(loaded.get_parameter(name)), name
        assert parameter.requires_grad == loaded.get_parameter(name).requires_grad, name
    # All Auto classes are there for whoever lacks the package, and code for them.
    auto_map = loaded.config.auto_map
    assert auto_map.keys() >= case.system.models.keys() | {"AutoConfig"}
    assert loaded.config.architectures == [case.model_class.__name__]
    for name, place in SYSTEMS[case.system.name].auto_classes.items():
        if place.endswith(f":{case.model_class.__name__}"):
            assert type(getattr(transformers, name).from_pretrained(tmp_path)) is case.model_class
            # Encoders may serve tasks that have no class of their own.
            named, task = case.model_class.__name__, name.removeprefix("AutoModel")
            assert named.endswith(task) or "For" not in named
    code = [f"{place.partition('.')[0]}.py" for place in auto_map.values()]
    for name in code:  # grows: what they import travels with them, and nothing else
        code += [f"{one}.py" for one in re.findall(r"^from \.(\w+) import", (tmp_path / name).read_text(), re.M)]
    assert {one.name for one in tmp_path.iterdir()} == {"config.json", "model.safetensors", *code}


@each_model
def test_can_init_all_missing_weights(case: Case, tmp_path: Path) -> None:
    """From a file that holds nothing, all weights are drawn as from scratch."""
    scratch = case.build()
    scratch.save_pretrained(tmp_path, state_dict={"unrelated": torch.zeros(1)})
    loaded = case.model_class.from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        expected = scratch.get_parameter(name)
        # Six standard errors of samples of this size, but less than the difference from zeros or twice the spread.
        spread, sure = expected.std(correction=0).item(), 6 / expected.numel() ** 0.5
        # Equal numbers would stay equal.
        assert spread or not name.endswith(("_token", "_queries")), name
        assert parameter.mean().item() == pytest.approx(expected.mean().item(), abs=sure * spread), name
        assert parameter.std(correction=0).item() == pytest.approx(spread, abs=min(sure, 0.9) * spread), name


@each_form
def test_init_weights_can_init_buffers(case: Case) -> None:
    model = case.build()
    expected = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.fill_(99 if buffer.dtype != torch.bool else 1)
    model.apply(model._init_weights)
    for name, buffer in model.named_buffers():
        if not (case.system.has_towers and "_model." in name):  # towers see to their own
            assert buffer.equal(expected[name]), name


def _to_head() -> Iterator[Any]:
    for name, system in SMALL_SYSTEMS.items():
        for auto_class in system.models:
            if "Classification" in auto_class:
                for source in [name for name in system.models if name in ("AutoModel", "AutoModelForPreTraining")]:
                    yield pytest.param(system, source, auto_class, id=f"{name}-{source}-{auto_class}")


@pytest.mark.parametrize(("system", "source", "head"), _to_head())
def test_when_an_encoder_becomes_a_classifier_then_only_the_head_is_new(
    system: SmallSystem, source: str, head: str, tmp_path: Path
) -> None:
    encoder = move_weights(Case(system, source, {}).build())
    encoder.save_pretrained(tmp_path)
    names = ["NORM", "MI", "STTC"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    model, report = system.models[head].from_pretrained(tmp_path, **labels, output_loading_info=True)
    assert {"classifier.weight", "classifier.bias"} <= report["missing_keys"]
    assert all(key.startswith(("head.", "classifier.")) for key in report["missing_keys"])
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert (model.config.num_labels, model.config.id2label[1]) == (3, "MI")
    expected = encoder.base_model.state_dict()
    for name, tensor in model.base_model.state_dict().items():
        assert tensor.equal(expected[name]), name
    # And back.
    model.save_pretrained(tmp_path / "classifier")
    for folder in (tmp_path, tmp_path / "classifier"):
        again, report = system.encoder.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        for name, tensor in again.state_dict().items():
            assert tensor.equal(expected[name]), name
    # With other labels, a classifier can be headed anew, if that is said.
    for more in ({}, {"ignore_mismatched_sizes": True}):
        load = {"num_labels": 4, "output_loading_info": True, **more}
        if not more:
            with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
                system.models[head].from_pretrained(tmp_path / "classifier", **load)
        else:
            other, report = system.models[head].from_pretrained(tmp_path / "classifier", **load)
            assert {key for key, *_ in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
            assert other.num_labels == 4
            for name, tensor in other.state_dict().items():
                assert name.startswith("classifier.") or tensor.equal(model.state_dict()[name]), name


STRANGER = """
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    auto_class = folder.name.split("-")[1]
    model = getattr(transformers, auto_class).from_pretrained(folder / "model", trust_remote_code=True).eval()
    # What a stranger saved loads again.
    model.save_pretrained(folder / "again")
    again = getattr(transformers, auto_class).from_pretrained(folder / "again", trust_remote_code=True).eval()
    batch, outputs = load_file(folder / "batch.safetensors"), {}
    for name, one in (("first", model), ("again", again)):
        assert type(one).__module__.startswith("transformers_modules."), type(one)
        with torch.no_grad():
            given = one(**batch)
        for key, value in given.items():
            if torch.is_tensor(value):
                outputs[f"{name}.{key}"] = value.contiguous().clone()
    save_file(outputs, folder / "outputs.safetensors")
assert "clear_hug_hf" not in sys.modules
"""


@pytest.fixture(scope="module")
def among_strangers(tmp_path_factory: pytest.TempPathFactory, stranger: Callable[..., None]) -> Path:
    """Folders of all models, by the tests' names, with what each gave in a process without the package."""
    folder = tmp_path_factory.mktemp("models")
    for name, case in FORMS.items():
        if not case.values[0].form:
            case.values[0].build().save_pretrained(folder / name / "model")
            save_file(case.values[0].inputs(), folder / name / "batch.safetensors")
    stranger(STRANGER, folder)
    return folder


@each_model
@pytest.mark.usefixtures("one_thread")
def test_when_the_package_is_absent_then_a_folder_gives_the_same_numbers(case: Case, among_strangers: Path) -> None:
    folder = among_strangers / f"{case.system.name}-{case.auto_class}"
    theirs = load_file(folder / "outputs.safetensors")
    with torch.no_grad():
        ours = case.model_class.from_pretrained(folder / "model").eval()(**case.inputs())
    found = {name for name, value in ours.items() if torch.is_tensor(value)}
    assert theirs.keys() == {f"{time}.{name}" for time in ("first", "again") for name in found}
    for name, tensor in theirs.items():
        # Where memory lies may decide the last bit of what towers give.
        tolerance = 1e-6 if case.system.has_towers else 0
        torch.testing.assert_close(tensor, ours[name.partition(".")[2]], atol=tolerance, rtol=0, msg=name)


# Compiled, and on a device


@each_captured
def test_when_captured_as_one_graph_then_numbers_are_the_same(case: Case) -> None:
    torch._dynamo.reset()
    model = case.build(num_hidden_layers=1, decoder_num_hidden_layers=1).eval()  # more of them only take longer
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(main_output(compiled(**case.inputs())), main_output(model(**case.inputs())))
    model.train()
    training_loss(compiled, case).backward()
    assert gradients(model).keys() == {name for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@each_captured
def test_when_compiled_then_numbers_are_the_same(case: Case) -> None:
    torch._dynamo.reset()
    model = case.build().eval()
    with torch.no_grad():
        fast = main_output(torch.compile(model, fullgraph=True)(**case.inputs()))
        torch.testing.assert_close(fast, main_output(model(**case.inputs())), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@each_model
def test_when_on_a_gpu_then_numbers_are_those_of_the_cpu(case: Case, implementation: str) -> None:
    model, batch = case.build(attn_implementation=implementation).eval(), case.inputs()
    expected = main_output(model(**batch))
    model.cuda()
    on_device = {name: value.cuda() for name, value in batch.items()}
    torch.cuda.set_sync_debug_mode("default" if case.system.has_towers else "error")
    try:
        output = model(**on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(main_output(output).cpu(), expected, atol=1e-4, rtol=1e-4)
