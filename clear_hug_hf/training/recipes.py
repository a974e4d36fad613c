"""Pre-training recipes: the model, its data and its training, from YAML files and the command line."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..objectives import backbone_names, find_objective, objective_names, objectives_of
from ..processing.errors import InputError
from ..systems import DEFAULT_SYSTEM, SYSTEMS, Objective, System, load
from ..utils.arguments import ArgumentParser, Arguments, nearest
from .arguments import PretrainingArguments, augmentation_field


@dataclass
class Recipe(Arguments):
    """
    The model to pre-train, its data, and the settings of its `training`.

    Raises:
        InputError: If a value is outside its bounds, the system is unknown or cannot be pre-trained with the
            objective, or an option is set that the objective does not use.
    """

    _group = "model and data"

    objective: str | None = field(
        default=None,
        metadata={
            "help": "What the encoder learns (default: the objective of the system).",
            "choices": objective_names(),
        },
    )
    system: str | None = field(
        default=None,
        metadata={
            "help": "Family of encoders to pre-train (default: the backbone for which the objective is meant; "
            f"without an objective {DEFAULT_SYSTEM}).",
            "choices": backbone_names(),
            "aliases": ["--backbone"],
        },
    )
    size: str = field(
        default="tiny",
        metadata={"help": "Preset of the config: tiny, or small, base or large if the system has it."},
    )
    config_overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Fields of the encoder's config that override the preset, such as mask_ratio=0.75."},
    )
    objective_overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Fields of the config of an objective that systems share, such as temperature=0.2; other "
            "objectives are configured by --config-overrides."
        },
    )
    views: list[str] = field(
        default_factory=list,
        metadata={
            "help": "For objectives that compare two views of a recording: the changes that make the first and the "
            "second view, each joined by +, such as crop+time_out crop+jitter; a single one stands for both "
            "(default: those of the objective).",
            "metavar": "VIEW",
        },
    )
    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of recordings, prepared or not; their splits are concatenated.",
            "metavar": "DIR",
        },
    )
    output_dir: str = field(default="runs/pretrained", metadata={"help": "Folder of the run.", "metavar": "DIR"})
    signal_encoder: str | None = field(
        default=None,
        metadata={
            "help": "For models of pages: folder of the pre-trained signal encoder that pages are aligned with, which "
            "should not have been trained on the recordings of later tests.",
            "metavar": "FOLDER",
        },
    )
    vision: str | None = field(
        default=None,
        metadata={
            "help": "For models of pages: name or folder of a pre-trained vision backbone of transformers (default: "
            "the preset's, randomly initialized).",
            "metavar": "MODEL",
        },
    )
    text: str | None = field(
        default=None,
        metadata={
            "help": "For models of pages: name or folder of a pre-trained text encoder of transformers (default: a "
            "small byte-level encoder, trained from random initialization).",
            "metavar": "MODEL",
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "For objectives that predict codes: folder of the trained tokenizer of the recordings.",
            "metavar": "FOLDER",
        },
    )
    augmentation: float | None = augmentation_field("Strength", "; of views 1")
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Stream prepared folders without copying them to the cache of datasets, for data larger than the "
            "free disk space."
        },
    )
    max_samples: int | None = field(
        default=None, metadata={"help": "Use only the first N recordings of each split.", "gt": 0, "metavar": "N"}
    )
    training: PretrainingArguments = field(default_factory=PretrainingArguments, metadata={"option": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.system, objective = find_objective(self.objective, self.system)
        self.objective = objective.name
        if self.augmentation is None:
            self.augmentation = objective.augmentation
        for name in ("signal_encoder", "vision", "text"):
            if getattr(self, name) is not None and name not in objective.teachers:
                raise InputError(f"{name} is only for systems that align pages, not for {self.system}: leave it out")
        if self.tokenizer is not None and "tokenizer" not in objective.teachers:
            raise InputError(f"the objective {objective.name} predicts no codes: leave tokenizer out")
        if self.objective_overrides and not objective.config:
            raise InputError(f"the objective {objective.name} is configured by config_overrides: set its fields there")
        if self.views and not any(objective.views):
            raise InputError(f"the objective {objective.name} compares no views: leave views out")
        if len(self.views) > 2:
            raise InputError(f"there are {len(self.views)} views: set one for both, or a first and a second one")
        if self.views:
            from ..data.views import check_views

            check_views([names.split("+") for names in (self.views[0], self.views[-1])])
        if objective.needs_full_batch and self.training.per_device_train_batch_size is None:
            self.training.per_device_train_batch_size = self.training.train_batch_size

    @property
    def backbone(self) -> System:
        """Declaration of the system."""
        return SYSTEMS[str(self.system)]

    @property
    def pretraining_objective(self) -> Objective:
        """Declaration of the objective."""
        return objectives_of(self.backbone)[str(self.objective)]

    def make_config(self) -> Any:
        """
        The config of the encoder, which an objective of the system shares.

        Raises:
            InputError: If the preset is unknown, or the config does not have a field or accept its value.
        """
        config_class, objective = self.backbone.config, self.pretraining_objective
        check_field_names(self.config_overrides, config_class, "config")
        settings = {} if objective.config else objective.settings
        with config_errors():
            return config_class.preset(self.size, **{**settings, **self.config_overrides})

    def make_objective_config(self) -> Any:
        """The config of the pre-training model; errors as in [`make_config`]."""
        config, objective = self.make_config(), self.pretraining_objective
        if not objective.config:
            return config
        config_class = load(objective.config)
        check_field_names(self.objective_overrides, config_class, "config of the objective")
        with config_errors():
            return config_class(backbone_config=config, **{**objective.settings, **self.objective_overrides})

    def check_model(self) -> None:
        """Check the config, and that the objective supports the encoder; errors as in [`make_config`]."""
        import torch

        config, objective = self.make_objective_config(), self.pretraining_objective
        if objective.config:
            with config_errors(), torch.device("meta"):
                load(objective.model)(config)

    def make_feature_extractor(self, prepared_with: Any = None) -> Any:
        """
        The feature extractor of a new model. Its `model_settings` follow the config if the preset or
        `config_overrides` sets them.

        Args:
            prepared_with (*optional*): The feature extractor of prepared recordings, which determines all other
                settings (default: the system's defaults).

        Raises:
            InputError: If `prepared_with` is of another system, or as in [`make_config`].
        """
        from ..data.model_files import extractor_settings

        config, extractor_class = self.make_config(), self.backbone.feature_extractor
        extractor = extractor_class() if prepared_with is None else prepared_with
        if type(extractor) is not extractor_class:
            raise InputError(
                f"the recordings were prepared for another system than {self.system}: prepare them with "
                f"`clear-hug prepare --system {self.system}`"
            )
        explicit = {**config.presets[self.size], **self.config_overrides}
        overrides = {name: getattr(config, name) for name in extractor_class.model_settings if name in explicit}
        return extractor_class(**{**extractor_settings(extractor), **overrides}) if overrides else extractor

    def make_model(self) -> Any:
        """
        A new model, with the pre-trained towers or the tokenizer of the recipe. Set the seed first.

        Raises:
            InputError: If a teacher cannot be loaded, or as in [`make_config`] and [`check_teachers`].
        """
        from ..data.model_files import load_config

        config, objective = self.make_objective_config(), self.pretraining_objective
        model_class = load(objective.model)
        self.check_teachers()
        if not objective.teachers:
            with config_errors():
                return model_class(config)
        folder = self.teacher_folder
        if folder is not None:
            load_config(folder)
        try:
            if "tokenizer" in objective.teachers:
                return model_class.from_tokenizer(config, folder)
            signal = None if folder is None else str(folder)
            return model_class.from_towers(config, vision=self.vision, signal=signal, text=self.text)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(" ".join(str(error).split())) from error

    @property
    def teacher_folder(self) -> Path | None:
        """Folder of the first teacher, if there is one."""
        from .folders import find_model_folder

        name = self.tokenizer or self.signal_encoder
        return None if name is None else find_model_folder(name)

    @property
    def teacher_digest(self) -> str | None:
        """Digest of the weights of the first teacher, with which an interrupted run must be resumed."""
        if (folder := self.teacher_folder) is None:
            return None
        digest = hashlib.sha256()
        for path in sorted(folder.glob("model*.safetensors")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def check_teachers(self) -> None:
        """
        Check that the recipe names what the objective learns from.

        Raises:
            InputError: If a page model has no signal encoder, or there is no tokenizer whose codes could be predicted.
        """
        objective = self.pretraining_objective
        if "tokenizer" in objective.teachers and self.tokenizer is None:
            raise InputError(
                f"the objective {objective.name} predicts the codes of a tokenizer: set --tokenizer to the folder of "
                f"one, such as a run of `clear-hug pretrain --objective {objective.teacher_objective}` on the same "
                "recordings"
            )
        if (
            "signal_encoder" in objective.teachers
            and self.signal_encoder is None
            and self.make_config().signal_embed_dim is None
        ):
            raise InputError(
                "pages are aligned with signals: set --signal-encoder to the folder of a pre-trained signal encoder, "
                "such as one that `clear-hug pretrain` trained on the same recordings"
            )

    def settings_unlike_teacher(self, feature_extractor: Any) -> list[str]:
        """Names of the settings in which a feature extractor differs from that of the first teacher."""
        from ..data.model_files import extractor_settings, load_feature_extractor

        assert self.teacher_folder is not None
        settings = extractor_settings(feature_extractor)
        others = extractor_settings(load_feature_extractor(self.teacher_folder))
        return sorted(name for name in settings if settings[name] != others.get(name, settings[name]))

    def make_collator(self, model: Any, feature_extractor: Any) -> Any:
        """The collator of the objective, or `None` for the default of [`pretrain`]."""
        from ..data.augmentation import AugmentingCollator
        from .teachers import make_tokenizer

        assert self.augmentation is not None
        objective = self.pretraining_objective
        collator = load(objective.collator)
        if any(objective.views):
            views = [tuple(names.split("+")) for names in self.views] or objective.views
            with_groups = "groups" in inspect.signature(model.forward).parameters
            return collator(
                feature_extractor, views=(views[0], views[-1]), augmentation=self.augmentation, with_groups=with_groups
            )
        if "signal_encoder" not in objective.teachers:
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
        """Add the embeddings of frozen teachers to the recordings of each split, if the recipe has any."""
        from .teachers import add_signal_embeds

        if self.signal_encoder is None:
            return dict(sets)
        return {
            split: add_signal_embeds(rows, model.base_model, self.signal_encoder, progress=progress)
            for split, rows in sets.items()
        }


def check_field_names(names: Iterable[str], config_class: Any, what: str) -> None:
    """Raise `InputError` for a name that is not a field of a config class, which `what` describes."""
    known = [setting.name for setting in fields(config_class)]
    for name in names:
        if name not in known:
            raise InputError(f"the {what} has no field {name!r}{nearest(name, known)}")


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise an `InputError` for the errors of configs."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error


RECIPE_CLASSES = (Recipe, PretrainingArguments)


def read_recipe(path: str | Path | None = None, **overrides: Any) -> Recipe:
    """
    Read a recipe from a YAML file and overrides.

    Args:
        path (`str` or `Path`, *optional*): A YAML file (default: the default recipe).
        **overrides: Fields by name; `None` restores the default. `config_overrides` are merged.

    Returns:
        [`Recipe`]

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file is not a YAML mapping, a field is unknown (the message names the most similar one), or
            a value is invalid.
    """
    recipe, training = ArgumentParser(RECIPE_CLASSES).read(None if path is None else Path(path), overrides)
    return replace(recipe, training=training)
