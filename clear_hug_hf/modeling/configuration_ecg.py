"""
What the configs of all systems share: common fields, the part of a system that each field belongs to, and checks.

A `config.json` may be damaged, or anyone's: each value is checked before a model is built from it, so that none of
them takes memory or fails later.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from functools import wraps
from pathlib import Path
from reprlib import repr as short
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


STANDARD_LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The twelve standard leads in the usual order."""

MAX_WEIGHTS = 2_000_000_000
"""Most weights of a model, 8 GB in single precision: the largest preset has 0.3 billion."""
MAX_TOKENS = 65_536
"""Most tokens that a recording may become."""
MAX_LAYERS = 1_000
MAX_LABELS = 100_000
MAX_SAMPLING_RATE = 10_000
"""Highest sampling rate [Hz]."""
MAX_SAMPLES = 1_000_000
"""Longest window, in one lead [samples]."""
_DTYPES = ("float16", "bfloat16", "float32", "float64")

# What a field says in its metadata: the part of the system that it belongs to ...
ENCODER: dict[str, Any] = {"part": "encoder", "changes_features": True}
"""Of the encoder: with the same weights, another value gives other features or needs other weights."""
ENCODER_SAME_FEATURES: dict[str, Any] = {"part": "encoder", "changes_features": False}
"""Of the encoder, but not of what it computes in evaluation: dropout, initialization, rate of the recordings."""
PRETRAINING: dict[str, Any] = {"part": "pretraining", "changes_features": False}
"""Read by pre-training only: decoder, predictor, masks, losses, teachers."""
CLASSIFIER: dict[str, Any] = {"part": "classifier", "changes_features": False}
"""Of the classifier on top of the encoder."""
SAME_NUMBERS: dict[str, Any] = {"changes_numbers": False}
"""Decides how something is computed and not what: a run goes on with another value."""


# ... and its range, which `EcgConfig.validate_architecture` checks.
def must(words: str, holds: Callable[[Any], bool]) -> dict[str, Any]:
    """
    Metadata of a field with a range. `None` is never checked.

    Args:
        words (`str`): What the refusal says after the name of the field and "must", such as "be at least 1".
        holds (`Callable`): Whether a value is within the range.
    """
    return {"range": (words, holds)}


def at_most(most: int) -> dict[str, Any]:
    """Metadata of a field that has a greatest value."""
    return {"most": most}


COUNT = must("be at least 1", lambda value: value >= 1)
LAYERS = COUNT | at_most(MAX_LAYERS)
SAMPLING_RATE = COUNT | at_most(MAX_SAMPLING_RATE)
RATE = must("be at least 0 and below 1", lambda value: 0 <= value < 1)
"""A dropout or the like."""
POSITIVE = must("be positive and finite", lambda value: 0 < value < float("inf"))
LOSS_WEIGHT = must("not be negative and must be finite", lambda value: 0 <= value < float("inf"))
ACTIVATION: dict[str, Any] = {"choices": tuple(ACT2FN)}


def sizes(prefix: str = "", *, width: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    """Fields that say how large a transformer is, for presets."""
    named = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {f"{prefix}{name}": size for name, size in {**named, "intermediate_size": inner}.items()}


AttentionForm = Literal["auto", "dense", "sparse"]
"""How attention that leaves pairs out is computed, `attention_form` in every config that has it: `"dense"` scores
every pair and masks most, `"sparse"` scores only those that may attend to each other, and `"auto"` is the one that was
measured to pay. The numbers are the same up to rounding."""

_Config = TypeVar("_Config", bound=PreTrainedConfig)


def strict_config(cls: type[_Config]) -> type[_Config]:
    """
    A strict dataclass, whose refusals of values are plain: the `ValueError` of the check itself, and one sentence for
    a value that is none of the choices of a `Literal`. Decorates each class of configs.
    """
    strict(cls)
    validate, set_field = cls.validate, cls.__setattr__  # type: ignore[attr-defined]
    choices = {one.name: found for one in fields(cls) if (found := _choices(one.type))}

    @wraps(validate)
    def plain_validate(self: Any) -> None:
        try:
            validate(self)
        except StrictDataclassClassValidationError as error:
            raise (error.__cause__ or error) from None

    @wraps(set_field)
    def plain_setattr(self: Any, name: str, value: Any) -> None:
        try:
            set_field(self, name, value)
        except StrictDataclassFieldValidationError as error:
            if name not in choices:
                raise
            raise _no_choice(name, value, choices[name]) from error

    cls.validate, cls.__setattr__ = plain_validate, plain_setattr  # type: ignore[attr-defined, method-assign]
    return cls


def _choices(kind: Any) -> tuple[str, ...]:
    """What a `Literal` allows, alone or beside `None`."""
    literals = [kind, *get_args(kind)]
    return next((get_args(one) for one in literals if get_origin(one) is Literal), ())


def _no_choice(name: str, value: Any, choices: Iterable[str]) -> ValueError:
    return ValueError(f"{name} must be one of {', '.join(choices)}, got {short(value)}.")


@strict_config
class EcgConfig(PreTrainedConfig):
    r"""
    What the configs of all systems share. A subclass is decorated with [`strict_config`], lies in
    `configuration_<model_type>.py`, beside the models in `modeling_<model_type>.py`, and states its `model_type`,
    `presets`, `auto_classes` and own fields; each field says in its metadata which part it belongs to.

    Class attributes:

    - **presets** (`dict[str, dict[str, Any]]`) -- Fields that differ from the defaults, by name of the size.
    - **auto_classes** (`dict[str, str]`) -- Names of the system's models, by Auto class. Every folder that a model is
      saved to names all of them, whichever was saved.

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate of the recordings [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            The leads, in the order of the model's inputs and outputs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Added to the variance in layer normalizations.
        head_type (`str`, *optional*, defaults to `"mean"`):
            How the classifier summarizes the encoder's states: `"mean"`, over what is there.
        classifier_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of what the classifiers read.
        problem_type (`str`, *optional*):
            What the classifier learns, which decides its loss: `"multi_label_classification"`, labels that are
            independent of each other, since a recording may have several diagnoses; `"single_label_classification"`,
            one class; or `"regression"`, values. By default the first labels decide: class numbers are one class, a
            single label without a name (`num_labels=1`) is a value, anything else is independent labels.
        label_thresholds (`dict[str, float]`, *optional*):
            From which probability on a label counts as found, for labels by name: chosen on validation recordings by
            fine-tuning. A label that is not in it has 0.5.

    Raises:
        `ValueError`: if fields contradict each other or a value is out of range.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    auto_classes: ClassVar[dict[str, str]] = {}
    # Of the outputs, what Trainer does not collect: predictions are the logits alone.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions"]

    sampling_rate: int = field(default=100, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    lead_names: list[str] | tuple[str, ...] = field(default=STANDARD_LEAD_NAMES, metadata=ENCODER)
    layer_norm_eps: float = field(default=1e-5, metadata=ENCODER | POSITIVE)
    head_type: Literal["mean"] = field(default="mean", metadata=CLASSIFIER)
    classifier_dropout: float | int = field(default=0.0, metadata=CLASSIFIER | RATE)
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = field(
        default=None, metadata=CLASSIFIER
    )
    label_thresholds: dict[str, float] | None = field(default=None, metadata=CLASSIFIER)

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_common_fields(kwargs)
        self.lead_names = list(self.lead_names)
        kwargs["auto_map"] = {**self._own_auto_map(), **(kwargs.get("auto_map") or {})}
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """
        A configuration of a named size.

        Args:
            name (`str`):
                One of `presets`.
            overrides:
                Fields that differ from the preset.

        Raises:
            `ValueError`: if there is no such preset.
        """
        if name not in cls.presets:
            raise ValueError(f"There is no preset {name!r}: choose one of {', '.join(cls.presets)}.")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Build from a dictionary, as [`PreTrainedConfig.from_dict`] does; `from_pretrained` and `AutoConfig` come here.

        The installed class leaves `custom_pipelines` out: `pipeline` would refuse such a config unless it may run the
        file in the folder, and the task that the file brings is registered where the package is installed.
        """
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        return super().from_dict(config_dict, **kwargs)

    @property
    def num_leads(self) -> int:
        """`int`: Number of leads."""
        return len(self.lead_names)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """
        Save to a folder, as [`PreTrainedConfig.save_pretrained`] does.

        A pipeline is named only in a folder that holds its file: the pipeline puts it there before it saves the model.
        """
        # A config that came from a Hub repository points to the code there; the saved folder holds its own.
        self.auto_map = self._own_auto_map()
        self._align_labels()
        pipelines: Mapping[str, Any] | None = vars(self).pop("custom_pipelines", None)
        files = [Path(save_directory, f"{one['impl'].split('.')[0]}.py") for one in (pipelines or {}).values()]
        try:
            if pipelines and all(file.is_file() for file in files):
                self.custom_pipelines = pipelines
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            if pipelines is not None:
                self.custom_pipelines = pipelines

    @classmethod
    def _own_auto_map(cls) -> dict[str, str]:
        """The `auto_map` of a folder that holds the code."""
        module = cls.__module__.split(".")[-1]
        models = module.replace("configuration_", "modeling_", 1)
        names = {auto_class: f"{models}.{name}" for auto_class, name in cls.auto_classes.items()}
        return {"AutoConfig": f"{module}.{cls.__name__}", **names}

    # ---------------------------------------------------------------------------------------------------------- checks

    def validate_architecture(self) -> None:
        """
        Refuse values that no model can be built from. Runs when a config is made and when it is saved, as the hook of
        transformers for this; models call it, too, since fields may have been set since the config was made.

        Raises:
            `ValueError`: if fields contradict each other or a value is out of range.
        """
        super().validate_architecture()
        for one in fields(self):
            value, rules = getattr(self, one.name), one.metadata
            if value is None:
                continue
            words, holds = rules.get("range", ("", None))
            if holds and not holds(value):
                raise ValueError(f"{one.name} must {words}, got {value}.")
            if "most" in rules and not value <= rules["most"]:
                raise ValueError(f"{one.name} must be at most {rules['most']}, got {short(value)}.")
            if "choices" in rules and value not in rules["choices"]:
                raise _no_choice(one.name, value, rules["choices"])
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"lead_names must name at least one lead and each only once, got {self.lead_names}.")
        for name, threshold in (self.label_thresholds or {}).items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"label_thresholds must lie between 0 and 1, got {threshold} for {name!r}.")

    def _check_transformers(self, prefixes: Iterable[str], rows: int, multiple_of: int = 1) -> None:
        """
        Refuse sizes of which no transformers can be built.

        Args:
            prefixes (`Iterable[str]`):
                Of the parts of the model, each with `hidden_size`, `num_hidden_layers`, `num_attention_heads` and
                `intermediate_size`.
            rows (`int`):
                Of the widest part's embeddings and positions, all together.
            multiple_of (`int`, *optional*, defaults to 1):
                What the widths must be a multiple of for sines and cosines as positions.
        """
        count = 0
        for prefix in prefixes:
            width, layers, heads, inner = (
                getattr(self, f"{prefix}{name}")
                for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
            )
            if width % heads:
                raise ValueError(
                    f"{prefix}hidden_size={width} is not a multiple of {prefix}num_attention_heads={heads}."
                )
            if width % multiple_of:
                raise ValueError(
                    f"{prefix}hidden_size={width} is not a multiple of {multiple_of}, as the positions need it."
                )
            count += count_weights(width, layers, inner, rows)
        check_num_weights(count)

    def _check_pieces(self, num_samples: int, name: str) -> int:
        """
        Tokens of all leads in a window that is cut into pieces, whose length the field `name` holds: one of each lead.
        Refuses a window that is no whole number of pieces, or has too many.
        """
        piece = getattr(self, name)
        if num_samples % piece:
            raise ValueError(f"{name}={piece} does not divide num_samples={num_samples}: choose one that does.")
        tokens = self.num_leads * (num_samples // piece)
        if tokens > MAX_TOKENS:
            raise ValueError(
                f"num_samples={num_samples} with {name}={piece} gives {tokens} tokens, and a recording may have "
                f"{MAX_TOKENS}: choose longer pieces or a shorter window."
            )
        return tokens

    def _check_common_fields(self, others: Mapping[str, Any]) -> None:
        """
        Refuse values of fields that every config has, which [`PreTrainedConfig`] takes as they come.

        `label2id` is filled in from `id2label` where it is left out.

        Args:
            others (`Mapping[str, Any]`): What the file holds beside the fields.
        """
        for name, value in others.items():
            taken = getattr(type(self), name, None)
            if callable(taken) or (isinstance(taken, property) and taken.fset is None):
                raise ValueError(f"{name} is no field of {type(self).__name__}: leave it out.")
            if name == "num_labels" and not (value is None and self.id2label is not None):
                _check_num_labels(value)
            if name == "auto_map" and not _is_dictionary(value or {}, str):
                raise ValueError(f"auto_map must name a class for each Auto class, got {short(value)}.")
        for name, dtype in (("dtype", self.dtype), ("torch_dtype", others.get("torch_dtype"))):
            # A dtype of torch is no string.
            if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
                raise _no_choice(name, dtype, _DTYPES)
        names = self.architectures
        if names is not None and not (isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)):
            raise ValueError(f"architectures must be a list of names of classes, got {short(names)}.")
        given = self.label2id
        self._align_labels()
        numbers = self.label2id if self.id2label is not None else None
        # The names that transformers gives by default say nothing of those in id2label.
        by_default = isinstance(given, Mapping) and all(name == f"LABEL_{number}" for name, number in given.items())
        if given is not None and given != numbers and not by_default:
            raise ValueError(
                f"label2id must give the numbers that id2label gives, or be left out, got {short(given)}."
            )

    def _align_labels(self) -> None:
        """Have `label2id` follow from `id2label`, which alone may have been set."""
        labels = self.id2label
        if labels is None:
            return
        keys = sorted(int(key) for key in labels if str(key).isdecimal()) if _is_dictionary(labels, str) else None
        if keys is None or keys != list(range(len(labels))) or len(keys) > MAX_LABELS:
            raise ValueError(f"id2label must name labels by their numbers from 0 on, got {short(labels)}.")
        if len(set(labels.values())) < len(labels):
            raise ValueError(f"id2label must name each label differently, got {short(labels)}.")
        self.label2id = {name: int(key) for key, name in labels.items()}


def count_weights(width: int, layers: int, inner: int, rows: int) -> int:
    """About how many weights the layers of a transformer have, and `rows` embeddings."""
    return layers * (4 * width * width + 2 * width * inner) + rows * width


def check_num_weights(count: int) -> None:
    """
    Refuse sizes that together ask for more weights than [`MAX_WEIGHTS`].

    Raises:
        `ValueError`: if they do.
    """
    if count > MAX_WEIGHTS:
        raise ValueError(
            f"the sizes ask for about {count:.2g} weights, and a model may have {MAX_WEIGHTS:.2g}: choose smaller "
            "widths, lengths or numbers of layers."
        )


def _check_num_labels(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LABELS:
        raise ValueError(f"num_labels must be a whole number from 0 to {MAX_LABELS}, got {short(value)}.")


def _is_dictionary(value: Any, of: type) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, of) for one in value.values())


# Saved folders hold the code. A subclass inherits this.
EcgConfig.register_for_auto_class()

__all__ = ["EcgConfig", "strict_config"]
