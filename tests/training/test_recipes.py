"""Recipes are explicit: fields are checked, the command line overrides them, and the help explains each."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.cli import VERBS
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.splits import assign_splits
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.pretraining import learning_rate_at
from clear_hug_hf.training.recipes import RECIPE_CLASSES, Recipe, read_recipe
from clear_hug_hf.utils.arguments import ArgumentParser


RECIPES = Path(__file__).resolve().parents[2] / "scripts" / "recipes"


def _parse(*words: str) -> Recipe:
    recipe, training = ArgumentParser(RECIPE_CLASSES).parse(words)
    return replace(recipe, training=training)


def _parser_of(verb: str) -> ArgumentParser:
    return ArgumentParser(importlib.import_module(f"clear_hug_hf.cli.{verb}").ARGUMENTS)


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_when_a_recipe_of_the_repository_is_read_then_it_makes_a_config(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.make_config().model_type == recipe.system
    assert recipe.make_objective_config()
    assert recipe.training.train_batch_size % (recipe.training.per_device_train_batch_size or 1) == 0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_when_recordings_are_prepared_for_a_recipe_then_no_recording_is_kept_from_training(
    path: Path, make_recordings: Callable[..., list[Recording]]
) -> None:
    comments = re.sub(r"\\\n#", "", path.read_text())
    for line in re.findall(r"^# +clear-hug prepare (.*)", comments, re.M):
        (arguments,) = _parser_of("prepare").parse(shlex.split(line))
        if arguments.source.name == "ptb-xl":  # has official folds
            assert arguments.split_fractions is None
            continue
        assert arguments.split_fractions is not None, line
        fractions = dict(zip(("train", "validation", "test"), arguments.split_fractions, strict=True))
        assert set(assign_splits(make_recordings(6), fractions).values()) == {"train"}, line


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize("launcher", [get_args_parser, launch_command_parser], ids=["torchrun", "accelerate"])
def test_when_a_launcher_starts_a_script_then_every_option_reaches_the_script(
    verb: str, launcher: Callable[[], argparse.ArgumentParser]
) -> None:
    options = [option for action in _parser_of(verb)._actions for option in action.option_strings]
    assert "--help" in options
    words = [word for option in options for word in (option, "x")]
    assert launcher().parse_args([f"scripts/{verb}.py", *words]).training_script_args == words


def test_when_no_recipe_is_named_then_it_is_the_tiny_one_of_the_repository() -> None:
    assert _parse() == read_recipe(RECIPES / "clear_tiny.yaml")


def test_when_the_base_recipe_is_read_then_it_is_the_papers() -> None:
    recipe = read_recipe(RECIPES / "clear_base_mimic.yaml")
    training = recipe.training
    assert (recipe.make_config().hidden_size, recipe.make_config().mask_ratio) == (768, 0.8)
    assert (training.num_train_epochs, training.train_batch_size, training.warmup_epochs) == (100, 6 * 256, 5)
    assert (training.learning_rate, training.min_learning_rate) == (5e-4, 1e-5)
    assert (training.adam_beta1, training.adam_beta2) == (0.9, 0.98)
    assert (training.weight_decay, training.max_grad_norm) == (0.05, 3.0)


def test_when_options_are_given_then_they_override_the_file(tmp_path: Path) -> None:
    text = "size: base\nconfig_overrides: {mask_ratio: 0.7, num_beats: 10}\nnum_train_epochs: 7\nlearning_rate: 5e-4\n"
    path = _write(tmp_path, text)
    recipe = _parse(
        *("--config", str(path), "--num-train-epochs", "9", "--adam_beta1", "0.8", "--data", "2024", "b"),
        *("--max-samples", "50", "--torch-compile", "--config-overrides", "mask_ratio=0.75", 'lead_names=["I"]'),
        *("--mixed-precision", "no", "--report-to", "wandb", "--streaming"),
    )
    assert recipe.config_overrides == {"mask_ratio": 0.75, "num_beats": 10, "lead_names": ["I"]}
    assert (recipe.size, recipe.data, recipe.max_samples, recipe.streaming) == ("base", ["2024", "b"], 50, True)
    training = recipe.training
    assert (training.num_train_epochs, training.learning_rate, training.adam_beta1) == (9, 5e-4, 0.8)
    assert (training.torch_compile, training.mixed_precision, training.report_to) == (True, "no", ["wandb"])
    assert _parse("--config", str(path), "--report-to", "none").training.report_to == []
    assert read_recipe(path, config_overrides={"num_beats": 9}).config_overrides == {"mask_ratio": 0.7, "num_beats": 9}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "cpc", "system": "ecg_resnet"}, "requires an encoder whose states do not depend on them"),
        ({"objective": "clear", "system": "ecg_resnet"}, "cannot be pre-trained with the objective 'clear'"),
        ({"objective": "simclr", "objective_overrides": {"temperature": 0}}, "temperature must be positive"),
        (
            {"objective": "simclr", "objective_overrides": {"temperatures": 1}},
            r"no field 'temperatures': did you mean",
        ),
        ({"objective": "clear", "objective_overrides": {"temperature": 1}}, "is configured by config_overrides"),
        ({"objective": "simclr", "views": ["crop+noise"]}, "there is no view 'noise': choose from crop"),
        ({"objective": "simclr", "views": ["crop", "crop", "crop"]}, "there are 3 views"),
        ({"objective": "cpc", "views": ["crop"]}, "compares no views"),
    ],
)
def test_when_an_objective_does_not_fit_then_it_is_refused_before_recordings_are_read(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(**fields).check_model()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1.0e-3", r"unknown field 'learning_rat': did you mean 'learning_rate'\?"),
        ("num_train_epoch: 5", r"unknown field 'num_train_epoch': did you mean 'num_train_epochs'\?"),
        ("zzz: 5", r"unknown field 'zzz': choose from objective, system, size, config_overrides"),
        ("help: true", "unknown field 'help'"),
        ("training: {}", "unknown field 'training'"),
        ("num_train_epochs: many", "num-train-epochs: invalid int value: 'many'"),
        ("num_train_epochs: 2.5", "num-train-epochs: invalid int value: '2.5'"),
        ("num_train_epochs: 0", "num_train_epochs is 0: it must be greater than 0"),
        ("num_train_epochs: .inf", "num-train-epochs: invalid int value: 'inf'"),
        ("learning_rate: .nan", "learning_rate is nan: it must be greater than 0"),
        ("max_samples: 0", "max_samples is 0: it must be greater than 0"),
        ("seed: -1", "seed is -1: it must be at least 0"),
        ("num_train_epochs: true", "num-train-epochs: invalid int value: 'True'"),
        ("torch_compile: 1", "torch_compile is 1: it must be true or false"),
        ("config_overrides: base", "base is not of the form NAME=VALUE"),
        ("adam_beta1: [0.9, 0.8]", "0.8"),
        ("report_to: [mlflow]", "invalid choice: 'mlflow'"),
        ("mixed_precision: fp16", "invalid choice: 'fp16'"),
        ("system: clear", "invalid choice: 'clear'"),
        ("- 1\n- 2", "must contain lines of `name: value`"),
        ("a: [", "is not a YAML file"),
        ("", "must contain lines of `name: value`"),
    ],
)
def test_when_a_recipe_is_wrong_then_the_field_and_the_mend_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(InputError, match=message):
        read_recipe(path)
    with pytest.raises(InputError, match=message):
        _parse("--config", str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "huge"}, "preset 'huge'"),
        ({"config_overrides": {"mask_ration": 0.5}}, r"no field 'mask_ration': did you mean 'mask_ratio'\?"),
        ({"config_overrides": {"mask_ratio": 2.0}}, "mask_ratio"),
        ({"config_overrides": {"mask_ratio": "much"}}, "mask_ratio"),
    ],
)
def test_when_the_model_of_a_recipe_is_wrong_then_it_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(**values).make_config()


def test_when_the_model_of_a_recipe_is_cut_otherwise_then_the_feature_extractor_goes_along() -> None:
    fewer = read_recipe(config_overrides={"num_beats": 10, "beat_length": 64, "sampling_rate": 250})
    prepared_with = ClearHugFeatureExtractor(detector="neurokit", num_beats=12)
    found = fewer.make_feature_extractor(prepared_with)
    assert (found.num_beats, found.beat_length, found.detector) == (10, 64, "neurokit")
    # What was stored at another rate cannot be made another.
    assert found.sampling_rate == 100.0
    assert read_recipe().make_feature_extractor(prepared_with) is prepared_with
    described = read_recipe(config_overrides={"use_beat_features": True})
    assert described.make_feature_extractor(prepared_with).use_beat_features
    leads = read_recipe(system="ecg_jepa", config_overrides={"lead_names": ["V2", "II"], "mask_type": "random"})
    assert leads.make_feature_extractor().lead_names == ["V2", "II"]
    pages = read_recipe(system="ecg_scan", size="large")
    assert pages.make_feature_extractor().image_size == pages.make_config().image_size == [336, 336]
    with pytest.raises(InputError, match="were prepared for another system than ecg_jepa: prepare them with"):
        leads.make_feature_extractor(prepared_with)


def test_when_a_recipe_is_absent_then_it_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml does not exist"):
        read_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("verb", VERBS)
def test_when_help_is_asked_for_then_every_option_is_explained(
    verb: str, status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = _parser_of(verb)
    assert all(len(action.help or "") > 10 for action in parser._actions)
    with pytest.raises(SystemExit) as leaving:
        status(verb, "--help")
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: clear-hug {verb}" in shown
    assert max(map(len, shown.splitlines())) <= 110
    assert "examples:" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_when_an_example_of_the_help_is_parsed_then_its_options_exist(verb: str) -> None:
    examples = importlib.import_module(f"clear_hug_hf.cli.{verb}").EXAMPLES.replace("\\\n", " ")
    commands = re.findall(rf"^ *clear-hug {verb} ?(.*)$", examples, re.M)
    assert commands
    for command in commands:
        assert _parser_of(verb)._parse_words(shlex.split(command.split(" > ")[0], comments=True)) is not None


def test_when_ecg_jepa_base_is_trained_then_its_rates_are_the_released_ones_but_for_where_the_cosine_begins() -> None:
    recipe = read_recipe(RECIPES / "ecg_jepa_base.yaml")
    training, steps_per_epoch = recipe.training, 100
    steps, warmup = training.num_train_epochs * steps_per_epoch, round(training.warmup_epochs * steps_per_epoch)
    ours = [
        learning_rate_at(step, steps, warmup, training.learning_rate, training.min_learning_rate)
        for step in range(steps)
    ]

    def released(step: int) -> float:
        """timm's cosine as the released script sets it: a linear warm-up from 1e-6, then a cosine begun at step 0."""
        if step < warmup:
            return 1e-6 + (5e-5 - 1e-6) * step / warmup
        return 1e-6 + 0.5 * (5e-5 - 1e-6) * (1 + math.cos(math.pi * step / steps))

    assert released(warmup) == pytest.approx(0.994 * 5e-5, rel=1e-3)
    assert ours[warmup - 1] == pytest.approx(5e-5)
    assert ours[-1] == pytest.approx(released(steps), rel=1e-3)
    assert max(abs(mine - released(step)) for step, mine in enumerate(ours)) < 0.05 * 5e-5
    assert recipe.make_config().drop_path_rate == pytest.approx(0.1)
