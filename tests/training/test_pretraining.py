"""The loop trains what it should, at the rates it should, reproducibly, and leaves whole folders."""

from __future__ import annotations

import copy
import csv
import importlib.util
import inspect
import math
import shutil
import warnings
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from small_models import ENCODER, NO_DROPOUT, SMALL, make_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.testing import CompileCounter
from torch.fx.experimental import _config as symbolic_shapes
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining
from transformers.utils import ModelOutput

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    ClearHugModel,
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
)
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.views import ViewCollator
from clear_hug_hf.modeling.configuration_objective import ObjectiveConfig, strict_config
from clear_hug_hf.modeling.configuration_siamese import SiameseConfig
from clear_hug_hf.modeling.modeling_objective import ObjectiveModel
from clear_hug_hf.modeling.modeling_siamese import SiameseForPreTraining
from clear_hug_hf.processing import STANDARD_LEADS, InputError
from clear_hug_hf.training import pretraining
from clear_hug_hf.training.batches import StepPlan
from clear_hug_hf.training.pretraining import (
    PretrainingArguments,
    compile_layers,
    decay_groups,
    learning_rate_at,
    pretrain,
    scale_and_clip,
    without_duck_shapes,
)


def _changing(change: Callable[[Any, bool, int], Any]) -> Any:
    """A model that gives what a function makes of its output, whether it trains, and the number of that call."""

    class Changing(ClearHugForPreTraining):
        def forward(self, **kwargs: Any) -> Any:
            calls[self.training] += 1
            return change(super().forward(**kwargs), self.training, calls[self.training])

        forward.__signature__ = inspect.signature(ClearHugForPreTraining.forward)  # type: ignore[attr-defined]

    calls = {True: 0, False: 0}
    Changing.__name__ = "ClearHugForPreTraining"
    return make_model(Changing)


def _scaled(output: Any, factor: float) -> Any:
    output.loss = output.loss * factor
    return output


def _recipe(**overrides: Any) -> PretrainingArguments:
    return PretrainingArguments(
        **{"num_train_epochs": 2, "train_batch_size": 4, "learning_rate": 2e-3, "disable_tqdm": True, **overrides}
    )


def _pretrain(
    dataset: Any, folder: Path | None = None, validation: Any = None, *, model: Any = None, **recipe: Any
) -> Any:
    """Train a new model, or the given one; what else is given are fields of the recipe, or `restart`."""
    options = {name: recipe.pop(name) for name in ("restart", "collator") if name in recipe}
    extractor = ClearHugFeatureExtractor()
    return pretrain(model or make_model(), dataset, extractor, folder, validation, _recipe(**recipe), **options)


@pytest.fixture(scope="module")
def finished(dataset: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folder and result of a run by the recipe of these tests; no test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, _pretrain(dataset, folder)


Finished = tuple[Path, Any]


def test_when_a_model_is_pretrained_then_the_loss_falls_and_the_folder_loads(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    train, validation = dataset.select(range(14)), dataset.select(range(14, 18))
    result = _pretrain(train, tmp_path / "run", validation, num_train_epochs=15)
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
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best",
        "checkpoints",
        "model",
        "pretraining_log.csv",
        "pretraining_steps.csv",
    ]
    with (tmp_path / "run" / "pretraining_steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [int(row["step"]) for row in steps] == list(range(1, 46))
    assert [float(row["loss"]) for row in steps] == [row["loss"] for row in result.steps]
    assert sum(row["loss"] for row in result.steps[-3:]) / 3 == pytest.approx(result.history[-1]["train_loss"])


def test_when_an_epoch_was_best_then_its_model_is_kept(dataset: datasets.Dataset, tmp_path: Path) -> None:
    model = _changing(lambda output, training, call: output if training else _scaled(output, (1, 0.1, 1)[call - 1]))
    _pretrain(dataset, tmp_path, dataset.select(range(4)), model=model, num_train_epochs=3, save_total_limit=3)
    kept = {
        name: load_file(tmp_path / name / "model.safetensors")
        for name in ("best", "model", "checkpoints/step-00000008", "checkpoints/step-00000012")
    }
    for folder, checkpoint in (("best", 8), ("model", 12)):
        expected = kept[f"checkpoints/step-{checkpoint:08d}"]
        assert all(torch.equal(expected[name], tensor) for name, tensor in kept[folder].items())
    AutoModelForPreTraining.from_pretrained(tmp_path / "best")


def test_when_an_objective_trains_an_encoder_then_the_folder_holds_the_encoder_alone(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    """And no best epoch, where the loss ranks none."""

    @strict_config
    class SquaresConfig(ObjectiveConfig):
        model_type = "squares"

    class SquaresForPreTraining(ObjectiveModel):
        config_class = SquaresConfig
        ranks_by_loss = False

        def __init__(self, config: SquaresConfig):
            super().__init__(config)
            self.head = torch.nn.Linear(config.hidden_size, 1)
            self.post_init()

        def forward(self, **inputs: Any) -> ModelOutput:
            return ModelOutput(loss=self.head(self.pool(self.backbone(**inputs))).square().mean())

    torch.manual_seed(0)
    model = SquaresForPreTraining(SquaresConfig(backbone_config=ClearHugConfig.preset("tiny", **SMALL)))
    _pretrain(dataset, tmp_path, dataset.select(range(4)), model=model)
    assert not (tmp_path / "best").exists()
    encoder, info = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(encoder) is ClearHugModel
    assert not any(info.values())
    assert _same_weights(encoder, model.published)
    config = (tmp_path / "model" / "config.json").read_text()
    assert "squares" not in config.lower()
    changed = SquaresForPreTraining(SquaresConfig(backbone_config=ClearHugConfig.preset("tiny", **ENCODER)))
    with pytest.raises(InputError, match=r"a different run .*backbone_config"):
        _pretrain(dataset, tmp_path, dataset.select(range(4)), model=changed)


def _views_model() -> SiameseForPreTraining:
    torch.manual_seed(0)
    config = SiameseConfig(backbone_config=ClearHugConfig.preset("tiny", **SMALL), projection_sizes=[8, 8])
    return SiameseForPreTraining(config)


def _jepa_model() -> EcgJepaForPreTraining:
    torch.manual_seed(0)
    sizes = {name.replace("decoder", "predictor"): size for name, size in SMALL.items()}
    return EcgJepaForPreTraining(EcgJepaConfig.preset("tiny", **sizes, num_samples=1000))


@pytest.mark.parametrize("is_planted", [False, True])
@pytest.mark.parametrize("make", [_views_model, _jepa_model])
def test_when_the_encoder_is_made_constant_then_the_alarm_rises_once_and_else_it_is_silent(
    make: Callable[[], Any], is_planted: bool, dataset: datasets.Dataset, tmp_path: Path
) -> None:
    model = make()
    encoder = model.base_model
    extractor: Any = ClearHugFeatureExtractor()
    collator: Any = ViewCollator(extractor, views=(("crop",), ("jitter",)))
    if make is _jepa_model:
        extractor = EcgJepaFeatureExtractor(sampling_rate=100)
        collator = EcgCollator(extractor, label_names=())
        model.config.sampling_rate = 100
    if is_planted:
        encoder.register_forward_hook(lambda module, inputs, output: _constant(output))
    recipe = _recipe(train_batch_size=8)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        result = pretrain(model, dataset, extractor, tmp_path, None, recipe, collator=collator)
    alarms = [str(warning.message) for warning in raised if "collapsed" in str(warning.message)]
    assert len(alarms) == is_planted
    assert all(alarm.startswith("the encoder has collapsed: in epoch 1 it maps") for alarm in alarms)
    assert [row["collapsed"] for row in result.history] == [is_planted] * 2
    with (tmp_path / "pretraining_log.csv").open() as file:
        assert [row["collapsed"] for row in csv.DictReader(file)] == [str(is_planted)] * 2


def test_when_batches_have_a_single_recording_then_no_collapse_is_seen_in_them(dataset: datasets.Dataset) -> None:
    extractor, model = EcgJepaFeatureExtractor(sampling_rate=100), _jepa_model()
    model.config.sampling_rate = 100
    recipe = _recipe(num_train_epochs=1, per_device_train_batch_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (row,) = pretrain(model, dataset.select(range(4)), extractor, arguments=recipe).history
    assert (row["pooled_std"], row["collapsed"]) == (0, False)


def _constant(output: Any) -> Any:
    """An encoder's output with ones in place of all states, but for a thousandth."""
    for name in ("last_hidden_state", "pooler_output", "lead_states"):
        setattr(output, name, 1 + 1e-3 * getattr(output, name))
    return output


def test_when_a_loss_compares_recordings_then_a_batch_is_not_divided(dataset: datasets.Dataset) -> None:
    collator = ViewCollator(ClearHugFeatureExtractor(), views=((), ("crop",)))
    with pytest.raises(InputError, match="compares all 4 recordings of a process"):
        _pretrain(dataset, model=_views_model(), collator=collator, per_device_train_batch_size=2)
    with pytest.raises(InputError, match="set at least two for each process"):
        _pretrain(dataset, model=_views_model(), collator=collator, train_batch_size=1)
    model, sizes = _views_model(), []
    model.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(len(inputs["input_values"])), with_kwargs=True
    )
    _pretrain(dataset, model=model, collator=collator, train_batch_size=18, num_train_epochs=1)
    assert sizes == [36]


def test_when_a_model_refuses_its_inputs_then_the_run_ends_with_its_sentence(dataset: datasets.Dataset) -> None:
    def refuse(*values: Any) -> Any:
        raise ValueError("prediction_steps=600 must be less than\n the tokens")

    with pytest.raises(InputError, match=r"^prediction_steps=600 must be less than the tokens$"):
        _pretrain(dataset, model=_changing(refuse))


def test_when_bf16_is_asked_for_then_the_weights_stay_in_full_precision(
    dataset: datasets.Dataset, finished: Finished
) -> None:
    full, half = finished[1], _pretrain(dataset, mixed_precision="bf16")
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    assert half.history[-1]["train_loss"] == pytest.approx(full.history[-1]["train_loss"], rel=0.05)
    assert half.history[-1]["train_loss"] != full.history[-1]["train_loss"]


def test_when_a_model_follows_its_training_then_it_receives_the_progress(dataset: datasets.Dataset) -> None:
    class Following(ClearHugForPreTraining):
        def after_optimizer_step(self, progress: float) -> None:
            received.append(progress)

    received: list[float] = []
    _pretrain(dataset, model=make_model(Following))
    assert received == [step / 8 for step in range(1, 9)]


def test_when_the_loss_is_not_finite_then_the_last_good_folder_stays(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    model = _changing(lambda output, _, call: _scaled(output, 1 if call <= 4 else math.nan))
    plan = StepPlan(18, 4, 2, seed=0)
    batch = sorted(dataset["record_id"][index] for _, index in list(plan.positions(0))[4])
    with pytest.raises(InputError, match=rf"loss is nan at step 5 with learning rate \S+, .* {', '.join(batch)}: "):
        _pretrain(dataset, tmp_path, model=model)
    saved = AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    assert all(torch.isfinite(parameter).all() for parameter in saved.parameters())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert len((tmp_path / "pretraining_steps.csv").read_text().splitlines()) == 5


def test_when_one_part_of_a_step_is_not_finite_then_only_its_recordings_are_named(dataset: datasets.Dataset) -> None:
    model = _changing(lambda output, _, call: _scaled(output, math.inf if call == 6 else 1))
    with pytest.raises(InputError, match=r"loss is (inf|nan) at step 3 .* recordings \d+-0, \d+-0: "):
        _pretrain(dataset, model=model, per_device_train_batch_size=2)


def test_when_a_gradient_is_not_finite_then_the_run_stops_before_the_next_loss(dataset: datasets.Dataset) -> None:
    model = make_model()
    model.decoder.prediction.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(InputError, match="gradient norm is nan at step 1"):
        _pretrain(dataset, model=model, logging_steps=1)


def test_when_parameters_are_grouped_then_only_weights_of_maps_decay() -> None:
    model = make_model()
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
    [
        ("seed", -1),
        ("seed", 2**32),
        ("adam_beta2", 1.0),
        ("num_train_epochs", 0),
        ("train_batch_size", -1),
        ("learning_rate", 0.0),
        ("weight_decay", -0.1),
        ("mixed_precision", "fp8"),
    ],
)
def test_when_a_setting_is_out_of_range_then_it_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        PretrainingArguments(**{field: value})


# Parts of a step


@pytest.fixture(scope="module")
def steady(dataset: datasets.Dataset) -> Any:
    """What a run in steps of nine recordings gives."""
    return _pretrain(dataset, model=make_model(**NO_DROPOUT), train_batch_size=9)


@pytest.mark.parametrize(
    "changed",
    [{"per_device_train_batch_size": 3}, {"per_device_train_batch_size": 1}, {"gradient_checkpointing": True}],
)
def test_when_a_step_is_computed_otherwise_then_it_is_the_same_step(
    dataset: datasets.Dataset, steady: Any, changed: dict[str, Any]
) -> None:
    found = _pretrain(dataset, model=make_model(**NO_DROPOUT), train_batch_size=9, **changed)
    for first, second in zip(steady.steps, found.steps, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
        assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], abs=1e-5)
    for first, second in zip(steady.model.parameters(), found.model.parameters(), strict=True):
        torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("largest", [0.01, 1000.0])
def test_when_gradients_are_scaled_and_clipped_then_they_are_as_torch_does_it(
    dataset: datasets.Dataset, largest: float
) -> None:
    model = make_model(**NO_DROPOUT).eval()
    batch = EcgCollator(ClearHugFeatureExtractor(), ())(list(dataset.with_format("numpy")))
    output = model(**batch)
    (output.loss * output.loss_weight).backward()
    other = copy.deepcopy(model)
    other.zero_grad()
    other(**batch).loss.backward()
    expected = torch.nn.utils.clip_grad_norm_(other.parameters(), largest)
    norm = scale_and_clip(model, 1 / output.loss_weight, largest)
    torch.testing.assert_close(norm, expected)
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-7, rtol=1e-4)


def _batch(system: str, size: int, length: int, missing: bool) -> dict[str, Any]:
    lead_mask = torch.ones(size, 12, dtype=torch.bool)
    lead_mask[0, 3] = not missing
    attention_mask = torch.ones(size, length, dtype=torch.bool)
    attention_mask[0, -1] = not missing
    shape, seeds = ((12, length * 50), {"seed": length})
    if system == "clear_hug":
        shape, seeds = ((12, length, 96), {"seeds": torch.arange(size)})
    values = torch.randn(size, *shape)
    return {"input_values": values, "lead_mask": lead_mask, "attention_mask": attention_mask, **seeds}


@pytest.mark.parametrize("system", ["clear_hug", "ecg_jepa"])
def test_when_layers_are_compiled_then_other_shapes_and_masks_compile_nothing_more(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=counter))
    model = make_model()
    if system == "ecg_jepa":
        jepa = {name.replace("decoder", "predictor"): value for name, value in SMALL.items()}
        model = EcgJepaForPreTraining(EcgJepaConfig.preset("tiny", lead_names=list(STANDARD_LEADS), **jepa))
    compile_layers(model)

    def run(size: int, length: int, missing: bool) -> None:
        batch = _batch(system, size, length, missing)
        model.train()
        model(**batch).loss.backward()
        model.eval()
        with torch.no_grad():
            model(**batch)

    with without_duck_shapes():
        run(4, 11, missing=False)
        first = counter.frame_count
        assert first
        for size, length, missing in ((4, 9, False), (4, 14, True), (3, 12, True), (5, 10, False)):
            run(size, length, missing)
    assert counter.frame_count == first


def test_when_a_compiled_run_ends_then_torch_compiles_other_models_as_before(
    dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()  # what other tests compiled is not used again
    before, during = symbolic_shapes.use_duck_shape, []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        during.append(symbolic_shapes.use_duck_shape)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    _pretrain(dataset, model=make_model(**NO_DROPOUT), num_train_epochs=1, torch_compile=True)
    assert set(during) == {False}
    assert symbolic_shapes.use_duck_shape == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_when_layers_are_compiled_then_the_losses_are_the_same(dataset: datasets.Dataset, tmp_path: Path) -> None:
    runs = [
        _pretrain(dataset, tmp_path / str(on), model=make_model(**NO_DROPOUT), torch_compile=on)
        for on in (False, True)
    ]
    for first, second in zip(runs[0].steps, runs[1].steps, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-4)
    AutoModelForPreTraining.from_pretrained(tmp_path / "True" / "model")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_when_on_a_gpu_then_a_step_does_not_wait_for_the_device(
    dataset: datasets.Dataset, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = pretraining._Loop._train_step

    def watched(self: Any, step: Any) -> None:
        # The first steps set up libraries and the optimiser's state.
        torch.cuda.set_sync_debug_mode("error" if self.step > 2 else "default")
        try:
            train_step(self, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(pretraining._Loop, "_train_step", watched)
    result = _pretrain(dataset, num_train_epochs=4, mixed_precision=precision, logging_steps=100)
    assert next(result.model.parameters()).is_cuda
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


# Going on


def _stopping(stop_at: int) -> ClearHugForPreTraining:
    """A model that is interrupted in a step, as a run is that is killed."""

    def stop(output: Any, training: bool, call: int) -> Any:
        if training and call == stop_at:
            raise KeyboardInterrupt
        return output

    return _changing(stop)


def _same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


LONG = {"num_train_epochs": 3, "save_steps": 3, "recordings_per_epoch": 16, "shuffle_buffer_size": 8}


@pytest.fixture(scope="module", params=[False, True], ids=["rows", "streamed"])
def whole(request: pytest.FixtureRequest, dataset: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run is given, and what it gives where it was not interrupted."""
    rows: Any = dataset.select(range(16))
    if request.param:
        rows = rows.to_iterable_dataset(num_shards=2)
    given = rows, dataset.select(range(14, 18))
    return given, _pretrain(given[0], tmp_path_factory.mktemp("whole"), given[1], **LONG)


@pytest.mark.parametrize("stop_at", [3, 7, 9])
def test_when_a_run_is_interrupted_then_the_same_call_ends_with_the_same_weights(
    whole: Any, tmp_path: Path, stop_at: int
) -> None:
    (rows, validation), expected = whole
    assert expected.resumed_from is None
    with pytest.raises(KeyboardInterrupt):
        _pretrain(rows, tmp_path, validation, model=_stopping(stop_at), **LONG)
    # The new process starts from anywhere, and reads by others.
    resumed = _pretrain(
        rows, tmp_path, validation, model=make_model(seed=99), **LONG, dataloader_num_workers=int(stop_at == 7)
    )
    done = [step for step in (3, 4, 6, 8) if step < stop_at]
    assert resumed.resumed_from == (done[-1] if done else None)
    if done:
        assert _same_weights(resumed.model, expected.model)
        assert resumed.steps == expected.steps
        timeless = [
            [{k: v for k, v in row.items() if "second" not in k} for row in run.history] for run in (resumed, expected)
        ]
        assert timeless[0] == timeless[1]
    for name in ("model", "best"):
        AutoModelForPreTraining.from_pretrained(tmp_path / name)


def test_when_a_run_is_finished_then_the_same_call_trains_nothing_and_restart_trains_anew(
    dataset: datasets.Dataset, finished: Finished, tmp_path: Path
) -> None:
    folder, first = shutil.copytree(finished[0], tmp_path / "copied"), finished[1]
    log = (folder / "pretraining_log.csv").read_text()
    # How the attention is computed does not make it another run.
    again = _pretrain(dataset, folder, model=make_model(seed=99, attention_form="dense"))
    assert again.resumed_from == 8
    assert again.history == first.history
    assert again.steps == first.steps
    assert _same_weights(again.model, first.model)
    assert (folder / "pretraining_log.csv").read_text() == log
    anew = _pretrain(dataset, folder, restart=True)
    assert anew.resumed_from is None
    assert anew.steps == first.steps
    assert _same_weights(anew.model, first.model)
    assert _pretrain(dataset, seed=2).steps != first.steps


@pytest.mark.parametrize(
    ("model", "extractor", "order", "recipe", "message"),
    [
        ({"mask_ratio": 0.5}, {}, range(18), {}, r"the model: mask_ratio was 0\.8 and is now 0\.5"),
        ({"hidden_size": 64}, {}, range(18), {}, "the model: hidden_size was 32 and is now 64"),
        ({}, {"num_beats": 12}, range(18), {}, "the feature extractor: num_beats was 15 and is now 12"),
        ({}, {}, range(17), {}, "the dataset: recordings was 18 and is now 17"),
        ({}, {}, range(17, -1, -1), {}, r"mismatch in the dataset: record ids \(sha256\)"),
        ({}, {}, range(18), {"learning_rate": 1e-4}, r"the recipe: learning_rate was 0\.002 and is now 0\.0001"),
        ({}, {}, range(18), {"num_train_epochs": 5}, "the recipe: num_train_epochs was 2 and is now 5"),
        ({}, {}, range(18), {"train_batch_size": 6}, "the recipe: train_batch_size was 4 and is now 6"),
        ({}, {}, range(18), {"mixed_precision": "bf16"}, "the recipe: mixed_precision was 'no' and is now 'bf16'"),
    ],
)
def test_when_the_folder_holds_another_run_then_what_differs_is_named_and_nothing_changes(
    dataset: datasets.Dataset,
    finished: Finished,
    model: dict[str, Any],
    extractor: dict[str, Any],
    order: range,
    recipe: dict[str, Any],
    message: str,
) -> None:
    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    given = make_model(**model), dataset.select(order), ClearHugFeatureExtractor(**extractor)
    with pytest.raises(InputError, match=rf"contains a different run \({message}\)"):
        pretrain(*given, folder, arguments=_recipe(**recipe))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_when_a_tracker_is_named_then_losses_go_there_and_a_new_start_leaves_nothing_of_it(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    _pretrain(dataset, tmp_path, dataset, report_to=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tracking" / "pretraining")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("validation/loss")] == [4, 8]
    assert (tmp_path / "best").is_dir()
    _pretrain(dataset, tmp_path, restart=True)
    names = ["checkpoints", "model", "pretraining_log.csv", "pretraining_steps.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


# What cannot be trained


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"train_batch_size": 19}, "train_batch_size is 19, but there are 18 recordings.*at most 18"),
        ({"report_to": ("wandb",)}, "tracker wandb is not installed: `pip install wandb`"),
    ],
)
def test_when_a_recipe_does_not_fit_then_it_explains_what_would(
    dataset: datasets.Dataset, tmp_path: Path, recipe: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        _pretrain(dataset, tmp_path / "run", **recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_when_a_row_cannot_be_used_then_its_error_is_one_sentence_from_any_process(
    dataset: datasets.Dataset, num_workers: int
) -> None:
    class Refusing(EcgCollator):
        def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
            raise InputError("this row is broken: mend it")

    collator = Refusing(ClearHugFeatureExtractor(), ())
    with pytest.raises(InputError, match=r"^this row is broken: mend it$"):
        _pretrain(dataset, dataloader_num_workers=num_workers, collator=collator)


def test_when_the_validation_loss_is_not_finite_then_the_run_stops(dataset: datasets.Dataset, tmp_path: Path) -> None:
    model = _changing(lambda output, training, _: output if training else _scaled(output, math.nan))
    with pytest.raises(InputError, match="validation loss is nan after epoch 1"):
        _pretrain(dataset, tmp_path, dataset, model=model)
    assert not (tmp_path / "best").exists()


def test_when_the_rate_is_not_the_models_then_it_is_refused(dataset: datasets.Dataset, tmp_path: Path) -> None:
    model = make_model(sampling_rate=200)
    with pytest.raises(InputError, match=r"has sampling_rate 100\.0 and the model 200"):
        _pretrain(dataset, tmp_path / "run", model=model)
    with pytest.raises(InputError, match="recordings were prepared at 100 Hz, but the model reads 200 Hz"):
        pretrain(model, dataset, ClearHugFeatureExtractor(sampling_rate=200), tmp_path / "run", arguments=_recipe())
    assert not (tmp_path / "run").exists()


def test_when_launched_processes_are_not_connected_then_the_run_is_refused(
    dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(pretraining, "Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    with pytest.raises(InputError, match="2 processes were launched, but 1 are connected"):
        _pretrain(dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_when_a_stream_has_no_length_then_it_is_asked_for(dataset: datasets.Dataset) -> None:
    with pytest.raises(InputError, match="recordings_per_epoch"):
        _pretrain(dataset.to_iterable_dataset())


def test_when_there_is_nothing_to_train_on_then_nothing_is_written(dataset: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recordings"):
        _pretrain(dataset.select([]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
