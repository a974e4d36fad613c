"""Texts of recordings, from reports or, without one, from labels; and prompts for zero-shot classification."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import yaml

from ..processing.errors import InputError
from .label_sets import LABEL_SETS


PROMPTS = Path(__file__).with_name("zero_shot_prompts.yaml")
"""Default prompts: for each label, sentences that might occur in a report."""

# If label sets share a name, the statements of PTB-XL take precedence: they are the most specific.
_DESCRIPTIONS: dict[str, str] = {}
for _name in ("ptbxl_all", *LABEL_SETS):
    for _label, _description in LABEL_SETS[_name].descriptions.items():
        _DESCRIPTIONS.setdefault(_label, _description)


def describe_label(name: str) -> str:
    """The meaning of a label: its description in the label sets of this package, or its name."""
    return _DESCRIPTIONS.get(name, name.replace("_", " ").strip())


def clean_report(text: str) -> str:
    """
    Clean a report as MERL (Liu et al., 2024) and D-BETA do: lower case, `ekg` as `ecg`, single spaces, and without the
    asterisks and equals signs around automatic statements.
    """
    text = re.sub(r"\bekg\b", "ecg", text.lower().strip())
    return " ".join(text.strip("*= ").split())


def label_sentence(names: Iterable[str]) -> str:
    """A sentence that lists labels in order; empty without labels."""
    descriptions = [describe_label(name) for name in names]
    return f"ecg with {', '.join(descriptions)}".lower() if descriptions else ""


def row_text(row: Mapping[str, Any]) -> str:
    """
    The text of a row of a prepared dataset.

    Args:
        row (`Mapping`): A row with `report`, `labels`, or neither.

    Returns:
        `str`: The cleaned report or, without one, a sentence that lists the positive labels. Empty if there are none:
        negative labels have no text.
    """
    if row.get("report") and (report := clean_report(str(row["report"]))):
        return report
    labels = row.get("labels") or {}
    return label_sentence(name for name, value in labels.items() if value is not None and value == 1)


def add_text_column(dataset: datasets.Dataset) -> datasets.Dataset:
    """
    A prepared dataset whose column `report` contains the text of each row, as in [`row_text`], or null. Labels are
    removed, so that sources with different labels can be concatenated.
    """
    columns = [name for name in ("report", "labels") if name in dataset.column_names]
    texts = [row_text(row) or None for row in dataset.select_columns(columns)]
    return dataset.remove_columns(columns).add_column("report", texts, feature=datasets.Value("string"))


def text_id(text: str) -> int:
    """An id that identical texts share (63 bits of their SHA-256), or -1 for an empty text."""
    if not text:
        return -1
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def read_prompts(label_names: Sequence[str], path: str | Path | None = None) -> dict[str, list[str]]:
    """
    Read prompts for zero-shot classification.

    Args:
        label_names (`Sequence[str]`): The labels.
        path (`str` or `Path`, *optional*): A YAML file with one sentence or a list of sentences per label; [`PROMPTS`]
            by default. The prompt of a label without an entry is its [`label_sentence`].

    Returns:
        `dict[str, list[str]]`: One or more sentences per label, in the order of `label_names`.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file is invalid.
    """
    path = PROMPTS if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the prompts {path} do not exist: check the path")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} contains no prompts: write one line `label: [sentence, ...]` per label")
    prompts: dict[str, list[str]] = {}
    for name in label_names:
        entry = content.get(name, label_sentence([name]))
        sentences = [entry] if isinstance(entry, str) else entry
        if not isinstance(sentences, list) or not sentences or not all(isinstance(text, str) for text in sentences):
            raise InputError(
                f"{path}: the prompts of {name!r} are {entry!r}: they must be a sentence or a list of them"
            )
        prompts[name] = [clean_report(sentence) for sentence in sentences]
    return prompts
