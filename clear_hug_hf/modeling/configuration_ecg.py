"""
Base configuration: common fields, field metadata and validation.

A `config.json` may be damaged or untrusted. Every value is validated before a model is built, so that a bad one cannot
exhaust memory or fail deep inside the model.
"""

import math
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

MAX_PARAMETERS = 2_000_000_000
"""Maximum number of parameters of a model (8 GB in float32); the largest preset has 0.3 billion."""
MAX_TOKENS = 65_536
"""Maximum number of tokens per recording."""
MAX_LAYERS = 1_000
MAX_LABELS = 100_000
_MAX_FAMILIARITY_SIZE = 1024
MAX_SAMPLING_RATE = 10_000
"""Maximum sampling rate [Hz]."""
MAX_SAMPLES = 1_000_000
"""Maximum window length per lead [samples]."""
_DTYPES = ("float16", "bfloat16", "float32", "float64")
# `_check_common_fields` checks their types with readable messages; some versions of transformers check them first.
_COMMON_FIELDS = ("architectures", "dtype", "id2label", "label2id")

# Field metadata: the part of the system that the field configures ...
ENCODER: dict[str, Any] = {"part": "encoder", "changes_features": True}
"""Encoder field: changing it changes the features or requires different weights."""
ENCODER_SAME_FEATURES: dict[str, Any] = {"part": "encoder", "changes_features": False}
"""Encoder field without effect on the features in evaluation mode: dropout, initialization, sampling rate."""
PRETRAINING: dict[str, Any] = {"part": "pretraining", "changes_features": False}
"""Field used in pre-training only: decoder, predictor, masking, losses, teachers."""
CLASSIFIER: dict[str, Any] = {"part": "classifier", "changes_features": False}
"""Field of the classifier on top of the encoder."""
EXECUTION_ONLY: dict[str, Any] = {"changes_numbers": False}
"""Field that selects an implementation without changing its result: a run may be resumed with another value."""


# ... and the values it accepts, checked by `EcgConfig.validate_architecture`.
def valid_if(requirement: str, is_valid: Callable[[Any], bool]) -> dict[str, Any]:
    """
    Field metadata that restricts the accepted values. `None` is never checked.

    Args:
        requirement (`str`): Completes the error message after the field name, for example "must be at least 1".
        is_valid (`Callable`): Returns whether a value is accepted.
    """
    return {"valid_if": (requirement, is_valid)}


def at_most(maximum: int) -> dict[str, Any]:
    """Field metadata that sets the maximum value."""
    return {"maximum": maximum}


COUNT = valid_if("must be at least 1", lambda value: value >= 1)
LAYERS = COUNT | at_most(MAX_LAYERS)
SAMPLING_RATE = COUNT | at_most(MAX_SAMPLING_RATE)
RATE = valid_if("must be at least 0 and below 1", lambda value: 0 <= value < 1)
"""Dropout, stochastic depth and label smoothing."""
POSITIVE = valid_if("must be positive and finite", lambda value: 0 < value < float("inf"))
LOSS_WEIGHT = valid_if("must be non-negative and finite", lambda value: 0 <= value < float("inf"))
ACTIVATION: dict[str, Any] = {"choices": tuple(ACT2FN)}


def transformer_sizes(prefix: str = "", *, width: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    """Size fields of a transformer, for presets."""
    values = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {f"{prefix}{name}": size for name, size in {**values, "intermediate_size": inner}.items()}


AttentionForm = Literal["auto", "dense", "sparse"]
"""Implementation of masked attention: `"dense"` computes all scores and masks most of them, `"sparse"` computes only
the allowed pairs, and `"auto"` selects the faster one by measurement. Results agree up to rounding."""

_Config = TypeVar("_Config", bound=PreTrainedConfig)


def strict_config(cls: type[_Config]) -> type[_Config]:
    """
    Class decorator for configs: a `huggingface_hub` strict dataclass with readable errors.

    Validation raises the original `ValueError` instead of a wrapper, and a value outside the choices of a `Literal`
    raises one that lists the choices.
    """
    strict(cls)
    validate, set_field = cls.validate, cls.__setattr__  # type: ignore[attr-defined]
    choices = {item.name: options for item in fields(cls) if (options := _literal_choices(item.type))}

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
            if name in choices:
                raise _invalid_choice(name, value, choices[name]) from error
            if name not in _COMMON_FIELDS:
                raise
            object.__setattr__(self, name, value)

    cls.validate, cls.__setattr__ = plain_validate, plain_setattr  # type: ignore[attr-defined, method-assign]
    return cls


def _literal_choices(annotation: Any) -> tuple[str, ...]:
    """Choices of a `Literal` or of an optional `Literal`, empty for other annotations."""
    candidates = [annotation, *get_args(annotation)]
    return next((get_args(candidate) for candidate in candidates if get_origin(candidate) is Literal), ())


def _invalid_choice(name: str, value: Any, choices: Iterable[str]) -> ValueError:
    return ValueError(f"{name} must be one of {', '.join(choices)}, got {short(value)}.")


@strict_config
class EcgConfig(PreTrainedConfig):
    r"""
    Base class of all configs. A subclass is decorated with [`strict_config`] and defined in
    `configuration_<model_type>.py`, next to `modeling_<model_type>.py`. It sets `model_type`, `presets`,
    `auto_classes` and its own fields, whose metadata names the part that they configure.

    Class attributes:

    - **presets** (`dict[str, dict[str, Any]]`) -- Model sizes: the fields that differ from the defaults, by name.
    - **auto_classes** (`dict[str, str]`) -- Names of the model classes, by Auto class. `config.json` lists all of
      them, whichever model is saved.

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the recordings [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of the model's inputs and outputs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer normalizations.
        head_type (`str`, *optional*, defaults to `"mean"`):
            How the classifier pools the states of the encoder: `"mean"` averages the present leads, `"attention"` is
            attention of a learned query to all present tokens.
        num_pooling_heads (`int`, *optional*):
            Number of attention heads of `head_type="attention"`. Must divide `hidden_size`; by default the largest
            divisor up to 16.
        classifier_dropout (`float`, *optional*, defaults to 0.0):
            Dropout probability before the classification layer.
        rhythm_features (`list[str]`, *optional*, defaults to none):
            Names of the rhythm features that the feature extractor returns as `rhythm`, and that the classifier reads
            besides the states of the encoder. Not part of the papers.
        problem_type (`str`, *optional*):
            Task of the classifier, which selects the loss: `"multi_label_classification"` (independent labels),
            `"single_label_classification"` (exclusive classes) or `"regression"`. By default it is inferred from the
            first labels: integer class indices mean one class per recording, a single unnamed label (`num_labels=1`)
            means regression, and anything else means independent labels.
        label_thresholds (`dict[str, float]`, *optional*):
            Probability from which a label is predicted positive, by label name. Fine-tuning selects the thresholds on
            the validation set; labels without an entry use 0.5.
        label_calibration (`dict[str, list[float]]`, *optional*):
            Scale and offset of the logit by label name: the calibrated probability is `sigmoid(scale * logit +
            offset)`. Models return logits without it; the pipeline and the package apply it.
        familiarity (`dict[str, int | float]`, *optional*):
            Sizes of the distance from the training recordings that the classifier computes: `num_rows` of the lead
            states and the `pooled_rank` and `leads_rank` of the covariances; and, if it was measured on held-out
            recordings, its `false_alarm_rate` among `num_recordings` recordings of the same source.

    Raises:
        `ValueError`: if a value is out of range or fields contradict each other.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    auto_classes: ClassVar[dict[str, str]] = {}
    # Trainer returns only the logits as predictions.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions", "distance"]

    sampling_rate: int = field(default=100, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    lead_names: list[str] | tuple[str, ...] = field(default=STANDARD_LEAD_NAMES, metadata=ENCODER)
    layer_norm_eps: float = field(default=1e-5, metadata=ENCODER | POSITIVE)
    head_type: Literal["mean", "attention"] = field(default="mean", metadata=CLASSIFIER)
    num_pooling_heads: int | None = field(default=None, metadata=CLASSIFIER | COUNT)
    classifier_dropout: float | int = field(default=0.0, metadata=CLASSIFIER | RATE)
    rhythm_features: list[str] | tuple[str, ...] = field(default=(), metadata=CLASSIFIER)
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = field(
        default=None, metadata=CLASSIFIER
    )
    label_thresholds: dict[str, float] | None = field(default=None, metadata=CLASSIFIER)
    label_calibration: dict[str, list[float]] | None = field(default=None, metadata=CLASSIFIER)
    familiarity: dict[str, int | float] | None = field(default=None, metadata=CLASSIFIER)

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_common_fields(kwargs)
        self.lead_names = list(self.lead_names)
        self.rhythm_features = list(self.rhythm_features)
        kwargs["auto_map"] = {**self._own_auto_map(), **(kwargs.get("auto_map") or {})}
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """
        Build the configuration of a named model size.

        Args:
            name (`str`):
                Key of `presets`.
            overrides:
                Fields to set on top of the preset.

        Raises:
            `ValueError`: if the preset does not exist.
        """
        if name not in cls.presets:
            raise ValueError(f"Unknown preset {name!r}: choose one of {', '.join(cls.presets)}.")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Build from a dictionary, see [`PreTrainedConfig.from_dict`]. `from_pretrained` and `AutoConfig` use it.

        The installed class drops `custom_pipelines`: otherwise `pipeline` would require `trust_remote_code=True` for a
        task that the installed package has already registered.
        """
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As [`PreTrainedConfig.to_dict`]; the fields that few models have are omitted if they are not set."""
        optional = ("num_pooling_heads", "rhythm_features", "label_calibration", "familiarity")
        return {name: value for name, value in super().to_dict().items() if name not in optional or value}

    @property
    def num_leads(self) -> int:
        """`int`: Number of leads."""
        return len(self.lead_names)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """
        Save to a folder, see [`PreTrainedConfig.save_pretrained`].

        `custom_pipelines` is written only if the folder contains the pipeline's code, which a pipeline saves before
        its model.
        """
        # The `auto_map` of a config loaded from the Hub refers to that repository; the saved folder has its own code.
        self.auto_map = self._own_auto_map()
        self._align_labels()
        pipelines: Mapping[str, Any] | None = vars(self).pop("custom_pipelines", None)
        files = [Path(save_directory, f"{task['impl'].split('.')[0]}.py") for task in (pipelines or {}).values()]
        try:
            if pipelines and all(file.is_file() for file in files):
                self.custom_pipelines = pipelines
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            if pipelines is not None:
                self.custom_pipelines = pipelines

    @classmethod
    def _own_auto_map(cls) -> dict[str, str]:
        """`auto_map` of a folder that contains the model code."""
        module = cls.__module__.split(".")[-1]
        models = module.replace("configuration_", "modeling_", 1)
        names = {auto_class: f"{models}.{name}" for auto_class, name in cls.auto_classes.items()}
        return {"AutoConfig": f"{module}.{cls.__name__}", **names}

    # ---------------------------------------------------------------------------------------------------------- checks

    def validate_architecture(self) -> None:
        """
        Validate the configuration. transformers calls this hook when a config is created or saved; models call it
        again because fields may have been changed in between.

        Raises:
            `ValueError`: if a value is out of range or fields contradict each other.
        """
        super().validate_architecture()
        check_fields(self)
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"lead_names must contain at least one lead and no duplicates, got {self.lead_names}.")
        if len(set(self.rhythm_features)) != len(self.rhythm_features) or len(self.rhythm_features) > MAX_LABELS:
            raise ValueError(f"rhythm_features must not contain duplicates, got {short(self.rhythm_features)}.")
        width = getattr(self, "hidden_size", None)
        if width and self.num_pooling_heads and width % self.num_pooling_heads:
            raise ValueError(f"num_pooling_heads={self.num_pooling_heads} must divide hidden_size={width}.")
        for name, threshold in (self.label_thresholds or {}).items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"label_thresholds must be between 0 and 1, got {threshold} for {name!r}.")
        if self.familiarity is not None:
            sizes = [self.familiarity.get(name, 1) for name in ("num_rows", "pooled_rank", "leads_rank")]
            rate = self.familiarity.get("false_alarm_rate", 0.0)
            if not (
                {"num_rows", "pooled_rank"} <= self.familiarity.keys()
                and all(isinstance(size, int) and 1 <= size <= _MAX_FAMILIARITY_SIZE for size in sizes)
                and 0 <= rate <= 1
            ):
                raise ValueError(
                    f"familiarity must have num_rows, pooled_rank and possibly leads_rank from 1 to "
                    f"{_MAX_FAMILIARITY_SIZE} and a false_alarm_rate from 0 to 1, got {short(self.familiarity)}."
                )
        for name, pair in (self.label_calibration or {}).items():
            if len(pair) != 2 or not all(math.isfinite(number) for number in pair) or pair[0] <= 0:
                raise ValueError(
                    f"label_calibration must hold a positive scale and an offset, got {short(pair)} for {name!r}."
                )

    def _check_transformers(self, prefixes: Iterable[str], rows: int, multiple_of: int = 1) -> None:
        """
        Validate the sizes of the model's transformers.

        Args:
            prefixes (`Iterable[str]`):
                Field prefixes of the transformers. Each has `hidden_size`, `num_hidden_layers`, `num_attention_heads`
                and `intermediate_size`, and may have `head_dim`.
            rows (`int`):
                Total number of rows in the embedding tables of the largest transformer.
            multiple_of (`int`, *optional*, defaults to 1):
                Divisor of the hidden sizes, as sinusoidal position embeddings require.
        """
        count = 0
        for prefix in prefixes:
            width, layers, heads, inner = (
                getattr(self, f"{prefix}{name}")
                for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
            )
            head_dim = getattr(self, f"{prefix}head_dim", None)
            if head_dim is None and width % heads:
                raise ValueError(
                    f"{prefix}hidden_size={width} must be divisible by {prefix}num_attention_heads={heads}."
                )
            if width % multiple_of:
                raise ValueError(
                    f"{prefix}hidden_size={width} must be divisible by {multiple_of} for its sinusoidal positions."
                )
            count += estimate_num_parameters(width, layers, inner, rows, heads * head_dim if head_dim else width)
        check_num_parameters(count + self._count_familiarity())

    def _count_familiarity(self) -> int:
        """Number of stored values of the distance from the training recordings, which count as parameters."""
        if self.familiarity is None:
            return 0
        rows, pooled, leads = (int(self.familiarity.get(n, 0)) for n in ("num_rows", "pooled_rank", "leads_rank"))
        return int(getattr(self, "hidden_size", 0)) * (pooled + rows * leads)

    def _count_patches(self, num_samples: int, name: str) -> int:
        """Number of patches of all leads in a window; the field `name` holds the patch length. Validates both."""
        length = getattr(self, name)
        if num_samples % length:
            raise ValueError(f"num_samples={num_samples} must be divisible by {name}={length}.")
        tokens = self.num_leads * (num_samples // length)
        if tokens > MAX_TOKENS:
            raise ValueError(
                f"num_samples={num_samples} with {name}={length} results in {tokens} tokens, but at most {MAX_TOKENS} "
                f"are allowed: increase {name} or shorten the window."
            )
        return tokens

    def _check_common_fields(self, extra_fields: Mapping[str, Any]) -> None:
        """
        Validate the fields of [`PreTrainedConfig`], which does not check them, and fill in `label2id`.

        Args:
            extra_fields (`Mapping[str, Any]`): Entries of the config file that are not dataclass fields.
        """
        for name, value in extra_fields.items():
            attribute = getattr(type(self), name, None)
            if callable(attribute) or (isinstance(attribute, property) and attribute.fset is None):
                raise ValueError(f"{name} is not a field of {type(self).__name__}: remove it.")
            if name == "num_labels" and not (value is None and self.id2label is not None):
                _check_num_labels(value)
            if name == "auto_map" and not _is_dictionary(value or {}, str):
                raise ValueError(f"auto_map must map Auto classes to class names, got {short(value)}.")
        for name, dtype in (("dtype", self.dtype), ("torch_dtype", extra_fields.get("torch_dtype"))):
            # `torch.dtype` is not a string.
            if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
                raise _invalid_choice(name, dtype, _DTYPES)
        names = self.architectures
        if not (names is None or (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names))):
            raise ValueError(f"architectures must be a list of class names, got {short(names)}.")
        label2id = self.label2id
        self._align_labels()
        expected = self.label2id if self.id2label is not None else None
        # The default names of transformers carry no information.
        is_default = isinstance(label2id, Mapping) and all(
            name == f"LABEL_{index}" for name, index in label2id.items()
        )
        if label2id is not None and label2id != expected and not is_default:
            raise ValueError(f"label2id must be the inverse of id2label or be omitted, got {short(label2id)}.")

    def _align_labels(self) -> None:
        """Derive `label2id` from `id2label`, which may have been set alone."""
        labels = self.id2label
        if labels is None:
            return
        keys = sorted(int(key) for key in labels if str(key).isdecimal()) if _is_dictionary(labels, str) else None
        if keys is None or keys != list(range(len(labels))) or len(keys) > MAX_LABELS:
            raise ValueError(f"id2label must map consecutive indices from 0 to label names, got {short(labels)}.")
        if len(set(labels.values())) < len(labels):
            raise ValueError(f"id2label must not contain duplicate names, got {short(labels)}.")
        self.label2id = {name: int(key) for key, name in labels.items()}


def check_fields(config: PreTrainedConfig) -> None:
    """
    Check the fields of a config against their metadata.

    Raises:
        `ValueError`: if a value is out of range.
    """
    for item in fields(config):
        name, value, metadata = item.name, getattr(config, item.name), item.metadata
        if value is None:
            continue
        requirement, is_valid = metadata.get("valid_if", ("", None))
        if is_valid and not is_valid(value):
            raise ValueError(f"{name} {requirement}, got {value}.")
        if "maximum" in metadata and not value <= metadata["maximum"]:
            raise ValueError(f"{name} must be at most {metadata['maximum']}, got {short(value)}.")
        if "choices" in metadata and value not in metadata["choices"]:
            raise _invalid_choice(name, value, metadata["choices"])


def estimate_num_parameters(width: int, layers: int, inner: int, rows: int, attended: int | None = None) -> int:
    """
    Approximate number of parameters of transformer layers, whose heads have `attended` features in total (`width` by
    default), and of embedding tables with `rows` rows in total.
    """
    return layers * (4 * width * (attended or width) + 2 * width * inner) + rows * width


def check_num_parameters(count: int) -> None:
    """
    Reject a model with more than [`MAX_PARAMETERS`] parameters.

    Raises:
        `ValueError`: if `count` is too large.
    """
    if count > MAX_PARAMETERS:
        raise ValueError(
            f"the model would have about {count:.2g} parameters, but at most {MAX_PARAMETERS:.2g} are allowed: reduce "
            "its widths, lengths or number of layers."
        )


def check_momentum(start: float, end: float) -> None:
    """
    Check the momentum of a moving average at the start and at the end of training.

    Raises:
        `ValueError`: if they are not between 0 and 1 and in ascending order.
    """
    if not 0 <= start <= end <= 1:
        raise ValueError(f"ema_start={start} and ema_end={end} must be between 0 and 1 and in ascending order.")


def _check_num_labels(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LABELS:
        raise ValueError(f"num_labels must be an integer between 0 and {MAX_LABELS}, got {short(value)}.")


def _is_dictionary(value: Any, value_type: type) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, value_type) for item in value.values())


# Saved folders contain the code. Subclasses inherit this.
EcgConfig.register_for_auto_class()

__all__ = ["EcgConfig", "strict_config"]
