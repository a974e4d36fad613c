"""
What a system says of itself: everything that the rest of the package knows of one.

A declaration is data. Classes and functions stand in it as `"module:name"`, as entry points have them, with a leading
dot for modules of this package, and are imported when they are first asked for: to list the systems costs no import
of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


def load(reference: str) -> Any:
    """
    What a reference stands for.

    Args:
        reference (`str`): `"module:name"`; a module that begins with a dot is one of this package.
    """
    module, name = reference.split(":")
    return getattr(import_module(module, __package__.split(".")[0]), name)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """
    A way to pre-train an encoder. Several may share one encoder class.

    Args:
        name (`str`): Of the objective among those of its system.
        model (`str`): Reference to the model class of pre-training.
        summary (`str`): What it does with recordings, for the help of the command line; goes on after its title.
        parts (`str`): What the saved model holds beside the encoder, in the words of a sentence.
        supervision (`str`, *optional*, defaults to `"without labels"`): What it learns from besides recordings.
        loss (`str`): What the loss is, for the axis of its picture.
        loss_report (`tuple[str, str]`, *optional*): What stands before and after the losses that a run reports.
        loss_title (`str`, *optional*): What the loss is, above its table in the model card.
        collator (`str`, *optional*): Reference to what makes batches, called with the feature extractor,
            `augmentation` and, where it has teachers, what belongs to them; see `Recipe.make_collator`.
        augmentation (`float`, *optional*, defaults to 0.0): How much recordings are changed unless a recipe says it.
        teachers (`tuple[str, ...]`, *optional*): Fields of a recipe that name pre-trained encoders which the model
            aligns its states with or starts from (`from_towers`). All recordings are read by the first of them before
            training, so that such an objective cannot be trained from a stream.
        reads_texts (`bool`, *optional*, defaults to `False`): Whether it learns from reports and labels in words, too.
        needs_full_batch (`bool`, *optional*, defaults to `False`): Whether the loss compares the recordings of a batch
            with each other, so that the batch must not be split into micro-batches.
        picture (`str`, *optional*): Reference to a function of model, dataset, feature extractor and path that draws
            what the model makes of a recording.
    """

    name: str
    model: str
    summary: str
    parts: str
    supervision: str = "without labels"
    loss: str
    loss_report: tuple[str, str] = ("loss", "")
    loss_title: str = "Loss of pre-training:"
    collator: str = ".data.augmentation:AugmentingCollator"
    augmentation: float = 0.0
    teachers: tuple[str, ...] = ()
    reads_texts: bool = False
    needs_full_batch: bool = False
    picture: str | None = None


@dataclass(frozen=True, kw_only=True)
class ConverterOption:
    """
    What may be said of a checkpoint beside its place.

    Args:
        help (`str`): For the command line.
        choices (`tuple[str, ...]`, *optional*): Its values; without them it is a positive number.
        many (`bool`, *optional*, defaults to `False`): Whether it is a list of words.
        keyword (`str`, *optional*): What the function calls it, if not as the command line does.
    """

    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    keyword: str = ""


@dataclass(frozen=True, kw_only=True)
class Converter:
    """
    What makes a model folder of a checkpoint that the paper's authors released.

    Args:
        function (`str`): Reference to a function of checkpoint, folder and the options as keywords. It returns what
            stands in `conversion.json`.
        reads (`str`): What it takes, for the help of the command line.
        example (`str`): Checkpoint and folder of a call, likewise.
        options (`Mapping[str, ConverterOption]`, *optional*): By name.
    """

    function: str
    reads: str
    example: str
    options: Mapping[str, ConverterOption] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class System:
    """
    A family of models with one config class, and what makes their inputs.

    Args:
        name (`str`): The config's `model_type`, and the value of `--system`.
        title (`str`): What people call it.
        classes (`Mapping[str, str]`): References by Auto class. `AutoConfig`, `AutoModel` and `AutoFeatureExtractor`
            are needed; `AutoModelForPreTraining` is the model of the first objective and is not named again.
        objectives (`tuple[Objective, ...]`): How its encoder is pre-trained; the first is the usual one.
        description (`str`, *optional*): What the model card calls it; the title by default.
        paper (`str`, *optional*): Authors, title, and a link, in Markdown.
        published (`Mapping[str, Mapping[str, tuple[float, float, float]]]`, *optional*): Macro AUROC in percent that
            its paper states with 1, 10 and 100 % of the training recordings, by method and label set.
        heads (`Mapping[str, str]`, *optional*): Words of the model card for each `head_type` of its classifiers, the
            usual one first; by default a linear head on the mean of all leads.
        converter ([`Converter`], *optional*): Where weights were released.
        conversion_notes (`Mapping[str, Mapping[str, str]]`, *optional*): Sentences of the model card of converted
            weights, by field of `conversion.json` and its value.
        is_default (`bool`, *optional*, defaults to `False`): Whether it is meant where no system is named.
    """

    name: str
    title: str
    classes: Mapping[str, str]
    objectives: tuple[Objective, ...]
    description: str = ""
    paper: str = ""
    published: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=lambda: {"mean": "linear head on the mean of all leads"})
    converter: Converter | None = None
    conversion_notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    is_default: bool = False

    @property
    def objective(self) -> Objective:
        """The usual way to pre-train it."""
        return self.objectives[0]

    @property
    def display_name(self) -> str:
        """What the model card calls it."""
        return self.description or self.title

    @property
    def auto_classes(self) -> dict[str, str]:
        """References by Auto class, that of pre-training among them."""
        return {**self.classes, "AutoModelForPreTraining": self.objective.model}

    @property
    def public_names(self) -> dict[str, str]:
        """Module by name of each of its classes."""
        references = [*self.auto_classes.values(), *(one.model for one in self.objectives)]
        return {name: module for module, name in (one.split(":") for one in references)}

    @property
    def reads_pages(self) -> bool:
        """Whether it reads pictures of recordings."""
        return "AutoImageProcessor" in self.classes

    @property
    def config(self) -> Any:
        """The config class."""
        return load(self.classes["AutoConfig"])

    @property
    def feature_extractor(self) -> Any:
        """The class of feature extractors."""
        return load(self.classes["AutoFeatureExtractor"])

    def model(self, auto_class: str = "AutoModelForPreTraining") -> Any:
        """The model class that an Auto class stands for; by default that of the usual pre-training."""
        return load(self.auto_classes[auto_class])
