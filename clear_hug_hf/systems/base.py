"""
Declarations of systems: everything that the rest of the package knows about a system.

A declaration is data. It refers to classes and functions by `"module:name"`, like entry points, with a leading dot for
modules of this package. They are imported on first use, so that listing the systems does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


def load(reference: str) -> Any:
    """
    Import the object that a reference names.

    Args:
        reference (`str`): `"module:name"`; a leading dot stands for this package.
    """
    module, name = reference.split(":")
    return getattr(import_module(module, __package__.split(".")[0]), name)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """
    A pre-training objective: one of a system, whose pre-training model has the system's config, or one that encoders
    of all systems share, whose config contains that of the encoder.

    Args:
        name (`str`): Value of `--objective`.
        model (`str`): Reference to the pre-training model class.
        summary (`str`): Short description for the help of the command line.
        parts (`str`, *optional*): Modules that the saved model contains besides the encoder, as part of a sentence.
            A shared objective saves the encoder alone.
        title (`str`, *optional*): Name for model cards, if the system's name does not tell it, such as
            `"contrastive predictive coding"`.
        paper (`str`, *optional*): Authors, title, and a link, in Markdown, if it is not that of the system.
        config (`str`, *optional*): For a shared objective: reference to its config class, an [`ObjectiveConfig`].
        settings (`Mapping[str, Any]`, *optional*): Fields of the config that this name sets.
        backbone (`str`, *optional*): For a shared objective: system that is pre-trained if none is named.
        views (`tuple[tuple[str, ...], tuple[str, ...]]`, *optional*): Changes that make the first and the second view
            of a recording, for objectives that compare two views. The collator receives them as `views`.
        supervision (`str`, *optional*, defaults to `"without labels"`): What it learns from besides recordings.
        loss (`str`): Description of the loss for plots.
        loss_report (`tuple[str, str]`, *optional*): Text before and after the losses that a run reports.
        loss_title (`str`, *optional*): Title of the table of losses in the model card.
        collator (`str`, *optional*): Reference to the collator class, called with the feature extractor,
            `augmentation` and, with teachers, their arguments; see `Recipe.make_collator`.
        augmentation (`float`, *optional*, defaults to 0.0): Default strength of augmentations.
        teachers (`tuple[str, ...]`, *optional*): Fields of a recipe that name pre-trained models: either encoders with
            which the model is aligned or initialized (`from_towers`), of which the first one embeds all recordings
            before training, so that such an objective does not support streaming; or a `tokenizer`, whose codes the
            model predicts (`from_tokenizer`).
        teacher_objective (`str`, *optional*): Objective that trains the first teacher, if it is one of this system.
        reads_texts (`bool`, *optional*, defaults to `False`): Whether it also learns from reports and label texts.
        needs_full_batch (`bool`, *optional*, defaults to `False`): Whether the loss compares the recordings of a batch
            with each other, so that the batch must not be split into micro-batches.
        picture (`str`, *optional*): Reference to a function of model, dataset, feature extractor and path that plots
            the model's output for a recording.
    """

    name: str
    model: str
    summary: str
    parts: str = ""
    title: str = ""
    paper: str = ""
    config: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = ""
    views: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    supervision: str = "without labels"
    loss: str
    loss_report: tuple[str, str] = ("loss", "")
    loss_title: str = "Loss of pre-training:"
    collator: str = ".data.augmentation:AugmentingCollator"
    augmentation: float = 0.0
    teachers: tuple[str, ...] = ()
    teacher_objective: str = ""
    reads_texts: bool = False
    needs_full_batch: bool = False
    picture: str | None = None

    @property
    def public_names(self) -> dict[str, str]:
        """Modules of its classes by class name."""
        return {name: module for module, name in (name.split(":") for name in (self.config, self.model) if name)}


@dataclass(frozen=True, kw_only=True)
class ConverterOption:
    """
    An option of a converter.

    Args:
        help (`str`): Help text for the command line.
        choices (`tuple[str, ...]`, *optional*): Allowed values; without them it is a positive integer.
        many (`bool`, *optional*, defaults to `False`): Whether it is a list of strings.
        keyword (`str`, *optional*): Name of the function's argument, if it differs from the option.
    """

    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    keyword: str = ""


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """
    Facts about weights that their authors released, for model cards and the documentation.

    Args:
        data (`str`): Number and source of the recordings that they were trained on.
        objective (`str`): Pre-training objective.
        num_parameters (`str`): Number of parameters, such as `"30.8 M"`.
        inputs (`str`): Leads, window and sampling rate.
        source (`str`): Where to get the files, in Markdown.
        license_note (`str`): What the authors state about the license of code and weights, as a sentence without a
            full stop.
        hub_license (`str`, *optional*): Identifier of the weights' license on the Hub, if they state one.
        hub_files (`tuple[str, ...]`, *optional*): Names of checkpoints in a repository on the Hub, the one that is
            converted by default first.
    """

    data: str
    objective: str
    num_parameters: str
    inputs: str
    source: str
    license_note: str
    hub_license: str | None = None
    hub_files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Converter:
    """
    Converts a checkpoint that the authors of the paper released into a model folder.

    Args:
        function (`str`): Reference to a function of checkpoint, folder and the options as keywords. It returns the
            content of `conversion.json`.
        reads (`str`): Supported checkpoints, for the help of the command line.
        example (`str`): Example of checkpoint and folder, for the help of the command line.
        options (`Mapping[str, ConverterOption]`, *optional*): Options by name.
        weights ([`ReleasedWeights`], *optional*): Facts about the released weights.
    """

    function: str
    reads: str
    example: str
    options: Mapping[str, ConverterOption] = field(default_factory=dict)
    weights: ReleasedWeights | None = None


@dataclass(frozen=True, kw_only=True)
class System:
    """
    A family of models with a common config class and feature extractor.

    Args:
        name (`str`): The config's `model_type`, and the value of `--system`.
        title (`str`): Name of the system.
        classes (`Mapping[str, str]`): References by Auto class. `AutoConfig`, `AutoModel` and `AutoFeatureExtractor`
            are required; `AutoModelForPreTraining` is the model of the first objective and is listed only if there is
            none.
        objectives (`tuple[Objective, ...]`, *optional*): Its own pre-training objectives, the default first. Any
            encoder of recordings can also be pre-trained with the objectives that all systems share.
        description (`str`, *optional*): Name in the model card; defaults to the title.
        paper (`str`, *optional*): Authors, title, and a link, in Markdown.
        published (`Mapping[str, Mapping[str, tuple[float, float, float]]]`, *optional*): Macro AUROC in percent from
            the paper, with 1, 10 and 100% of the training recordings, by method and label set.
        heads (`Mapping[str, str]`, *optional*): Description of each `head_type` for the model card, the default first.
            Defaults to those of [`EcgForSequenceClassification`].
        converter ([`Converter`], *optional*): Converter of released weights.
        conversion_notes (`Mapping[str, Mapping[str, str]]`, *optional*): Sentences for the model card of converted
            weights, by field of `conversion.json` and its value.
        is_default (`bool`, *optional*, defaults to `False`): Whether it is used if no system is named.
    """

    name: str
    title: str
    classes: Mapping[str, str]
    objectives: tuple[Objective, ...] = ()
    description: str = ""
    paper: str = ""
    published: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    heads: Mapping[str, str] = field(
        default_factory=lambda: {
            "mean": "linear head on the mean of all leads",
            "attention": "linear head on attention pooling of all tokens",
        }
    )
    converter: Converter | None = None
    conversion_notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    is_default: bool = False

    @property
    def pretraining_parts(self) -> str:
        """Modules that a pre-training model has besides the encoder, as part of a sentence."""
        return self.objectives[0].parts if self.objectives else "head"

    @property
    def picture(self) -> str | None:
        """Picture of the default objective, see [`Objective`]."""
        return self.objectives[0].picture if self.objectives else None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Teachers of the default objective, see [`Objective`]."""
        return self.objectives[0].teachers if self.objectives else ()

    @property
    def display_name(self) -> str:
        """Name in the model card."""
        return self.description or self.title

    @property
    def auto_classes(self) -> dict[str, str]:
        """References by Auto class, including `AutoModelForPreTraining` if there is such a model."""
        if not self.objectives:
            return dict(self.classes)
        return {**self.classes, "AutoModelForPreTraining": self.objectives[0].model}

    @property
    def public_names(self) -> dict[str, str]:
        """Modules of its classes by class name."""
        names = {name: module for module, name in (reference.split(":") for reference in self.auto_classes.values())}
        for objective in self.objectives:
            names |= objective.public_names
        return names

    @property
    def reads_pages(self) -> bool:
        """Whether it supports pictures of recordings."""
        return "AutoImageProcessor" in self.classes

    @property
    def config(self) -> Any:
        """The config class."""
        return load(self.classes["AutoConfig"])

    @property
    def feature_extractor(self) -> Any:
        """The feature extractor class."""
        return load(self.classes["AutoFeatureExtractor"])

    def model(self, auto_class: str = "AutoModelForPreTraining") -> Any:
        """The model class of an Auto class; by default that of the default pre-training objective."""
        return load(self.auto_classes[auto_class])
