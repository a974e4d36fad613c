"""Recipes say what they mean: fields are checked, the command line overrides them, and the help explains each."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.cli import _parser
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.splits import assign_splits
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.pretraining import PretrainingArguments, learning_rate_at
from clear_hug_hf.training.recipes import Recipe, add_recipe_options, read_recipe, recipe_from_options


RECIPES = Path(__file__).resolve().parents[2] / "scripts" / "recipes"


def _parse(*words: str) -> Recipe:
    parser = argparse.ArgumentParser()
    add_recipe_options(parser)
    return recipe_from_options(parser.parse_args(words))


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_when_a_recipe_of_the_repository_is_read_then_it_makes_a_config(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.make_config().model_type == recipe.system
    assert recipe.training.batch_size % (recipe.training.micro_batch_size or 1) == 0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_when_recordings_are_prepared_as_a_recipe_says_then_no_recording_is_kept_from_training(
    path: Path, make_recordings: Callable[..., list[Recording]]
) -> None:
    comments = re.sub(r"\\\n#", "", path.read_text())
    for line in re.findall(r"^# +clear-hug (prepare .*)", comments, re.M):
        arguments = _parser().parse_args(shlex.split(line))
        if arguments.source.name == "ptb-xl":  # has official folds
            assert arguments.split_fractions is None
            continue
        assert arguments.split_fractions is not None, line
        shares = dict(zip(("train", "validation", "test"), arguments.split_fractions, strict=True))
        assert set(assign_splits(make_recordings(6), shares).values()) == {"train"}, line


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize("launcher", [get_args_parser, launch_command_parser], ids=["torchrun", "accelerate"])
def test_when_a_launcher_starts_a_script_then_every_option_reaches_the_script(
    verb: str, launcher: Callable[[], argparse.ArgumentParser]
) -> None:
    verbs = next(one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    options = [option for one in verbs.choices[verb]._actions for option in one.option_strings]
    assert "--help" in options
    words = [word for option in options for word in (option, "x")]
    assert launcher().parse_args([f"scripts/{verb}.py", *words]).training_script_args == words


def test_when_no_recipe_is_named_then_it_is_the_tiny_one_of_the_repository() -> None:
    assert _parse() == read_recipe(RECIPES / "clear_tiny.yaml")


def test_when_the_base_recipe_is_read_then_it_is_the_papers() -> None:
    recipe = read_recipe(RECIPES / "clear_base_mimic.yaml")
    training = recipe.training
    assert (recipe.make_config().hidden_size, recipe.make_config().mask_ratio) == (768, 0.8)
    assert (training.epochs, training.batch_size, training.warmup_epochs) == (100, 6 * 256, 5)
    assert (training.learning_rate, training.min_learning_rate) == (5e-4, 1e-5)
    assert (training.betas, training.weight_decay, training.max_grad_norm) == ((0.9, 0.98), 0.05, 3.0)


def test_when_options_are_given_then_they_override_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "size: base\nmodel: {mask_ratio: 0.7, num_beats: 10}\nepochs: 7\nlearning_rate: 5e-4\n")
    recipe = _parse(
        "--config",
        str(path),
        *("--epochs", "9", "--betas", "0.8", "0.9", "--data", "2024", "b", "--limit", "50", "--compile"),
        *("--model-option", "mask_ratio=0.75", "--mixed-precision", "no", "--trackers", "wandb", "--streaming"),
    )
    assert recipe.model == {"mask_ratio": 0.75, "num_beats": 10}
    assert (recipe.size, recipe.data, recipe.limit, recipe.streaming) == ("base", ("2024", "b"), 50, True)
    training = recipe.training
    assert (training.epochs, training.learning_rate, training.betas) == (9, 5e-4, (0.8, 0.9))
    assert (training.compile, training.mixed_precision, training.trackers) == (True, "no", ("wandb",))
    assert _parse("--config", str(path), "--trackers", "--no-progress").training.trackers == ()
    # What the file leaves out is as for everyone, not as for the tiny recipe.
    assert _parse("--config", str(path)).training.batch_size == PretrainingArguments().batch_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1.0e-3", r"unknown field 'learning_rat': did you mean 'learning_rate'\?"),
        ("epoch: 5", r"unknown field 'epoch': did you mean 'epochs'\?"),
        ("zzz: 5", r"unknown field 'zzz': choose from system, size"),
        ("epochs: many", "epochs is 'many': give a whole number"),
        ("epochs: 2.5", "epochs is 2.5: give a whole number"),
        ("epochs: 0", "epochs is 0: it must be positive"),
        ("epochs: .inf", "epochs is inf: give a whole number"),
        ("limit: 0", "limit is 0: it must be positive"),
        ("seed: -1", "seed is -1"),
        ("epochs: true", "epochs is True: give a whole number"),
        ("compile: 1", "compile is 1: give true or false"),
        ("model: base", "model is 'base'"),
        ("betas: [0.9]", "betas"),
        ("betas: [0.9, x]", "betas is .*give a list"),
        ("trackers: [mlflow]", "no tracker 'mlflow'"),
        ("mixed_precision: fp16", "mixed_precision is 'fp16'"),
        ("- 1\n- 2", "is not a recipe"),
        ("a: [", "is not a YAML file"),
        ("", "is not a recipe"),
    ],
)
def test_when_a_recipe_is_wrong_then_the_field_and_the_mend_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"system": "clear"}, r"no system 'clear': did you mean 'clear_hug'\?"),
        ({"size": "huge"}, "Unknown preset 'huge'"),
        ({"model": {"mask_ration": 0.5}}, r"no field 'mask_ration': did you mean 'mask_ratio'\?"),
        ({"model": {"mask_ratio": 2.0}}, "mask_ratio"),
        ({"model": {"mask_ratio": "much"}}, "mask_ratio"),
    ],
)
def test_when_the_model_of_a_recipe_is_wrong_then_it_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(None, values).make_config()


def test_when_the_model_of_a_recipe_is_cut_otherwise_then_the_feature_extractor_goes_along() -> None:
    fewer = read_recipe(None, {"model": {"num_beats": 10, "beat_length": 64, "sampling_rate": 250}})
    prepared_with = ClearHugFeatureExtractor(detector="neurokit", num_beats=12)
    found = fewer.make_feature_extractor(prepared_with)
    assert (found.num_beats, found.beat_length, found.detector) == (10, 64, "neurokit")
    # What was stored at another rate cannot be made another.
    assert found.sampling_rate == 100.0
    assert read_recipe(None).make_feature_extractor(prepared_with) is prepared_with
    described = read_recipe(None, {"model": {"use_beat_features": True}})
    assert described.make_feature_extractor(prepared_with).use_beat_features
    leads = read_recipe(None, {"system": "ecg_jepa", "model": {"lead_names": ["V2", "II"], "mask_type": "random"}})
    assert leads.make_feature_extractor().lead_names == ["V2", "II"]
    pages = read_recipe(None, {"system": "ecg_scan", "size": "large"})
    assert pages.make_feature_extractor().image_size == pages.make_config().image_size == [336, 336]
    with pytest.raises(InputError, match="were prepared for another system than ecg_jepa: prepare them with"):
        leads.make_feature_extractor(prepared_with)


def test_when_a_model_option_is_no_yaml_then_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("lead_groups=[1", "mask_ratio"):
        with pytest.raises(SystemExit):
            _parse("--model-option", option)
    assert "is not a value as YAML has it" in capsys.readouterr().err


def test_when_a_recipe_is_absent_then_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml does not exist"):
        read_recipe(tmp_path / "none.yaml")


def test_when_help_is_asked_for_then_every_field_is_explained() -> None:
    parser = argparse.ArgumentParser()
    add_recipe_options(parser)
    options = {action.dest: action for action in parser._actions}
    for owner in (Recipe, PretrainingArguments):
        for one in fields(owner):
            if one.name != "training":
                assert len(options[one.name].help or "") > 10
    parser.format_help()


def test_when_ecg_jepa_base_is_trained_then_its_rates_are_the_released_ones_but_for_where_the_cosine_begins() -> None:
    recipe = read_recipe(RECIPES / "ecg_jepa_base.yaml")
    training, steps_per_epoch = recipe.training, 100
    steps, warmup = training.epochs * steps_per_epoch, round(training.warmup_epochs * steps_per_epoch)
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
