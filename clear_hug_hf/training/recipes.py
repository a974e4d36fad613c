"""Pre-training recipes: what is pre-trained on what, from a YAML file whose fields the command line overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..processing.errors import InputError
from ..systems import DEFAULT_SYSTEM, SYSTEMS, Objective, load
from ..utils.arguments import ArgumentParser, Arguments, nearest
from .arguments import PretrainingArguments


@dataclass
class Recipe(Arguments):
    """
    What is pre-trained, on what; `training` says how.

    Raises:
        InputError: If a value is outside its bounds, there is no such system, or it has no such teacher.
    """

    _group = "model and data"

    system: str = field(
        default=DEFAULT_SYSTEM, metadata={"help": "Family of models to pre-train.", "choices": tuple(SYSTEMS)}
    )
    size: str = field(
        default="tiny",
        metadata={"help": "Preset of the system's config: tiny, and of small, base and large those that it has."},
    )
    config_overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Fields of the config that differ from the preset, such as mask_ratio=0.75."},
    )
    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of recordings, prepared or not; the splits of several are concatenated.",
            "metavar": "DIR",
        },
    )
    output_dir: str = field(default="runs/pretrained", metadata={"help": "Folder of the run.", "metavar": "DIR"})
    signal_encoder: str | None = field(
        default=None,
        metadata={
            "help": "For models of pages: folder of the pre-trained signal encoder that pages are aligned with. It "
            "should not have seen the recordings that the result is to be tested on.",
            "metavar": "FOLDER",
        },
    )
    vision: str | None = field(
        default=None,
        metadata={
            "help": "For models of pages: name or folder of a vision backbone of transformers to start from (default: "
            "the preset's, randomly initialized).",
            "metavar": "MODEL",
        },
    )
    text: str | None = field(
        default=None,
        metadata={
            "help": "For models of pages: name or folder of a pre-trained text encoder of transformers (default: a "
            "small one that reads bytes and is trained).",
            "metavar": "MODEL",
        },
    )
    augmentation: float | None = field(
        default=None,
        metadata={
            "help": "Strength of the augmentation, from 0 (none) to 2. Signals change in window, baseline, breathing "
            "and leads (default: 0, as in the papers); pages are bent, shaded and blurred like photographs (default: "
            "1).",
            "ge": 0,
            "le": 2,
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read prepared folders while training, without a copy in the cache of datasets: for sets larger "
            "than the free disk."
        },
    )
    max_samples: int | None = field(
        default=None, metadata={"help": "Use only the first recordings of each split.", "gt": 0, "metavar": "N"}
    )
    training: PretrainingArguments = field(default_factory=PretrainingArguments, metadata={"option": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augmentation is None:
            self.augmentation = self.objective.augmentation
        for name in ("signal_encoder", "vision", "text"):
            if getattr(self, name) is not None and name not in self.objective.teachers:
                raise InputError(f"{name} is for systems that align pages, not for {self.system}: leave it out")
        if self.objective.needs_full_batch and self.training.per_device_train_batch_size is None:
            self.training.per_device_train_batch_size = self.training.train_batch_size

    @property
    def objective(self) -> Objective:
        """How the system is pre-trained."""
        return SYSTEMS[self.system].objective

    def make_config(self) -> Any:
        """
        The model's config.

        Raises:
            InputError: If there is no such size, or a field or value is not one of the config's.
        """
        from huggingface_hub.errors import StrictDataclassError

        config_class = SYSTEMS[self.system].config
        known = [one.name for one in fields(config_class)]
        for name in self.config_overrides:
            if name not in known:
                raise InputError(f"the model has no field {name!r}{nearest(name, known)}")
        try:
            return config_class.preset(self.size, **self.config_overrides)
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise InputError(" ".join(str(error).split())) from error

    def make_feature_extractor(self, prepared_with: Any = None) -> Any:
        """
        The feature extractor of a new model: its `model_settings` follow the config where the preset or
        `config_overrides` names them.

        Args:
            prepared_with (*optional*): The one that recordings were prepared with, which decides everything else; a
                new one of the system by default.

        Raises:
            InputError: If it is of another system, or as in [`make_config`].
        """
        from ..data.model_files import extractor_settings

        config, extractor_class = self.make_config(), SYSTEMS[self.system].feature_extractor
        extractor = extractor_class() if prepared_with is None else prepared_with
        if type(extractor) is not extractor_class:
            raise InputError(
                f"the recordings were prepared for another system than {self.system}: prepare them with "
                f"`clear-hug prepare --system {self.system}`"
            )
        known = extractor_settings(extractor)
        named = {**config.presets[self.size], **self.config_overrides}
        chosen = {name: getattr(config, name) for name in extractor_class.model_settings if name in named}
        return extractor_class(**{**known, **chosen}) if chosen else extractor

    def make_model(self) -> Any:
        """
        A new model, with pre-trained towers where they are named; set the seed before.

        Raises:
            InputError: As [`make_config`], or if there is nothing to align pages with, or a tower cannot be loaded.
        """
        from ..data.model_files import load_config
        from .folders import find_model_folder

        config, model_class = self.make_config(), load(self.objective.model)
        if not self.objective.teachers:
            return model_class(config)
        if self.signal_encoder is None and config.signal_embed_dim is None:
            raise InputError(
                "pages are aligned with signals: name the folder of a pre-trained encoder of signals with "
                "--signal-encoder, such as `clear-hug pretrain` makes of the same recordings"
            )
        signal = None
        if self.signal_encoder is not None:
            signal = str(find_model_folder(self.signal_encoder))
            load_config(signal)
        try:
            return model_class.from_towers(config, vision=self.vision, signal=signal, text=self.text)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(" ".join(str(error).split())) from error

    def make_collator(self, model: Any, feature_extractor: Any) -> Any:
        """What makes batches of rows for the model, where that is not the loop's own."""
        from ..data.augmentation import AugmentingCollator
        from .teachers import make_tokenizer

        assert self.augmentation is not None
        collator = load(self.objective.collator)
        if not self.objective.teachers:
            if collator is AugmentingCollator and not self.augmentation:
                return None
            return collator(feature_extractor, augmentation=self.augmentation)
        return collator(
            feature_extractor,
            tokenizer=make_tokenizer(model.config, self.text),
            with_targets=True,
            with_signals=self.signal_encoder is not None,
            augmentation=self.augmentation,
        )

    def add_teachers(self, model: Any, sets: Mapping[str, Any], progress: bool = True) -> dict[str, Any]:
        """The recordings of each split with what teachers that stay as they are make of them, where there are any."""
        from .teachers import add_signal_embeds

        if self.signal_encoder is None:
            return dict(sets)
        return {
            split: add_signal_embeds(rows, model.base_model, self.signal_encoder, progress=progress)
            for split, rows in sets.items()
        }


RECIPE_CLASSES = (Recipe, PretrainingArguments)


def read_recipe(path: str | Path | None = None, **overrides: Any) -> Recipe:
    """
    A recipe from a file and what overrides it.

    Args:
        path (`str` or `Path`, *optional*): A YAML file; without one, the defaults.
        **overrides: Fields by name, with values as YAML has them. `config_overrides` are merged.

    Returns:
        [`Recipe`]

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is no YAML mapping, a field is unknown (it names the nearest one), or a value does not fit.
    """
    recipe, training = ArgumentParser(RECIPE_CLASSES).read(None if path is None else Path(path), overrides)
    return replace(recipe, training=training)
