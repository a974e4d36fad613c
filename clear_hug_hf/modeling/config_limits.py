"""
Limits of configs. A `config.json` may be damaged, or anyone's: each value is checked before a model is built from it,
so that none of them takes memory or fails later.
"""

from collections.abc import Iterable, Iterator, Mapping
from reprlib import repr as short
from typing import Any

from transformers.activations import ACT2FN


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
# What widths and depths are called in configs of transformers.
_WIDTHS = ("hidden_size", "hidden_sizes", "embed_dim", "embed_dims", "d_model", "dim", "embedding_size")
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths", "depth")
_INNER = ("intermediate_size", "intermediate_sizes", "d_ff", "ffn_dim", "mlp_dim")
_POSITIONS = ("max_position_embeddings", "n_positions")
_ROWS = ("vocab_size", "type_vocab_size")
# Rotary positions are computed: no table holds them.
_ROTARY = ("rope_parameters", "rope_theta")
_LARGEST_NUMBER = 2**24


def check_common_fields(config: Any, others: Mapping[str, Any]) -> None:
    """
    Refuse values of fields that every config has, which [`PreTrainedConfig`] takes as they come.

    `label2id` is filled in from `id2label` where it is left out.

    Args:
        config ([`PreTrainedConfig`]): With its own fields set.
        others (`Mapping[str, Any]`): What else the file holds.

    Raises:
        `ValueError`: if a value cannot be used.
    """
    for name, value in others.items():
        taken = getattr(type(config), name, None)
        if callable(taken) or (isinstance(taken, property) and taken.fset is None):
            raise ValueError(f"{name} is no field of {type(config).__name__}: leave it out.")
        if name == "num_labels" and not (value is None and config.id2label is not None):
            _check_count(name, value, 0, MAX_LABELS)
        if name == "auto_map" and not _is_dictionary(value or {}, str):
            raise ValueError(f"auto_map must name a class for each Auto class, got {short(value)}.")
    for name, dtype in (("dtype", config.dtype), ("torch_dtype", others.get("torch_dtype"))):
        # A dtype of torch is no string.
        if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
            raise ValueError(f"{name} must be one of {', '.join(_DTYPES)}, got {short(dtype)}.")
    names = config.architectures
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)):
        raise ValueError(f"architectures must be a list of names of classes, got {short(names)}.")
    given = config.label2id
    align_labels(config)
    numbers = config.label2id if config.id2label is not None else None
    # The names that transformers gives by default say nothing of those in id2label.
    by_default = isinstance(given, Mapping) and all(name == f"LABEL_{number}" for name, number in given.items())
    if given is not None and given != numbers and not by_default:
        raise ValueError(f"label2id must give the numbers that id2label gives, or be left out, got {short(given)}.")


def align_labels(config: Any) -> None:
    """
    Have `label2id` follow from `id2label`, which alone may have been set.

    Args:
        config ([`PreTrainedConfig`]): With its labels; `label2id` is replaced.

    Raises:
        `ValueError`: if `id2label` does not name each label once.
    """
    labels = config.id2label
    if labels is None:
        return
    keys = sorted(int(key) for key in labels if str(key).isdecimal()) if _is_dictionary(labels, str) else None
    if keys is None or keys != list(range(len(labels))) or len(keys) > MAX_LABELS:
        raise ValueError(f"id2label must name labels by their numbers from 0 on, got {short(labels)}.")
    if len(set(labels.values())) < len(labels):
        raise ValueError(f"id2label must name each label differently, got {short(labels)}.")
    config.label2id = {name: int(key) for key, name in labels.items()}


def check_at_most(config: Any, most: int, names: Iterable[str]) -> None:
    """Refuse fields with larger values; errors as in [`check_common_fields`]."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value <= most:
            raise ValueError(f"{name} must be at most {most}, got {short(value)}.")


def check_activation(name: str, value: str) -> None:
    """Refuse an activation that transformers does not have; errors as in [`check_common_fields`]."""
    if value not in ACT2FN:
        raise ValueError(f"{name} must be one of {', '.join(ACT2FN)}, got {short(value)}.")


def check_num_weights(count: int) -> None:
    """Refuse sizes that together ask for more weights than [`MAX_WEIGHTS`]; errors as in [`check_common_fields`]."""
    if count > MAX_WEIGHTS:
        raise ValueError(
            f"the sizes ask for about {count:.2g} weights, and a model may have {MAX_WEIGHTS:.2g}: choose smaller "
            "widths, lengths or numbers of layers."
        )


def check_weights(config: Any, prefixes: Iterable[str], rows: int) -> None:
    """
    Refuse sizes of which no model can be built.

    Args:
        config ([`PreTrainedConfig`]): Has `hidden_size`, `num_hidden_layers` and `intermediate_size` for each prefix.
        prefixes (`Iterable[str]`): Of the parts of the model.
        rows (`int`): Of the widest part's embeddings and positions, all together.

    Raises:
        `ValueError`: if there are too many layers or weights.
    """
    count = 0
    for prefix in prefixes:
        check_at_most(config, MAX_LAYERS, (f"{prefix}num_hidden_layers",))
        width, layers, inner = (
            getattr(config, f"{prefix}{name}") for name in ("hidden_size", "num_hidden_layers", "intermediate_size")
        )
        count += _layer_weights(width, layers, inner) + rows * width
    check_num_weights(count)


def _layer_weights(width: int, layers: int, inner: int) -> int:
    """About how many weights the layers of a transformer have."""
    return layers * (4 * width * width + 2 * width * inner)


def check_tower(name: str, settings: Mapping[str, Any], config_class: type) -> None:
    """
    Refuse a config of transformers that asks for what no memory holds, as far as usual names of fields tell.

    Args:
        name (`str`): Of the field that holds the config.
        settings (`Mapping[str, Any]`): The config as a dictionary.
        config_class (`type`): Its class, which tells whether positions are rotary.

    Raises:
        `ValueError`: if it does.
    """
    for field, value in settings.items():
        if any(abs(number) > _LARGEST_NUMBER for number in _whole_numbers(value)):
            raise ValueError(f"{name}.{field} must be at most {_LARGEST_NUMBER}, got {short(value)}.")
    depth = max(sum(_whole_numbers(settings.get(field))) for field in _DEPTHS)
    if depth > MAX_LAYERS:
        raise ValueError(f"{name} has {depth} layers, and a tower may have {MAX_LAYERS}.")
    rotary = any(hasattr(config_class, field) for field in _ROTARY)
    width, inner, rows = (
        max((number for field in fields for number in _whole_numbers(settings.get(field))), default=0)
        for fields in (_WIDTHS, _INNER, _ROWS if rotary else _ROWS + _POSITIONS)
    )
    check_num_weights(_layer_weights(width, depth, inner or width) + rows * width)


def _check_count(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {short(value)}.")


def _is_dictionary(value: Any, of: type) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, of) for one in value.values())


def _whole_numbers(value: Any) -> Iterator[int]:
    """The whole numbers in a value, however deep."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _whole_numbers(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _whole_numbers(one)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
