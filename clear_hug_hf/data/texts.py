"""Texts about recordings: their reports where there are any, else sentences of their labels; zero-shot prompts."""

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
"""The prompts of this package: for each label some sentences that a report of it could hold."""

# Of label sets that share a name the statements of PTB-XL go first: they are the most specific.
_DESCRIPTIONS: dict[str, str] = {}
for _name in ("ptbxl_all", *LABEL_SETS):
    for _label, _description in LABEL_SETS[_name].descriptions.items():
        _DESCRIPTIONS.setdefault(_label, _description)


def describe_label(name: str) -> str:
    """What a label means in words: its description in the label sets of this package, else its name."""
    return _DESCRIPTIONS.get(name, name.replace("_", " ").strip())


def clean_report(text: str) -> str:
    """
    A report as text encoders read it: lower case, `ekg` as `ecg`, without the asterisks and equals signs that machines
    frame statements with, and with single spaces (the cleaning of MERL and D-BETA).
    """
    text = re.sub(r"\bekg\b", "ecg", text.lower().strip())
    return " ".join(text.strip("*= ").split())


def label_sentence(names: Iterable[str]) -> str:
    """One sentence for the labels that a recording has, in their order; empty without any."""
    found = [describe_label(name) for name in names]
    return f"ecg with {', '.join(found)}".lower() if found else ""


def row_text(row: Mapping[str, Any]) -> str:
    """
    The text of a row of a prepared dataset.

    Args:
        row (`Mapping`): With `report`, `labels`, or neither.

    Returns:
        `str`: Its cleaned report where it has one, else a sentence of the labels that are 1; empty where nothing is
        known. A recording without any of its labels says nothing: that a finding is absent is no finding.
    """
    if row.get("report") and (report := clean_report(str(row["report"]))):
        return report
    labels = row.get("labels") or {}
    return label_sentence(name for name, value in labels.items() if value is not None and value == 1)


def add_text_column(dataset: datasets.Dataset) -> datasets.Dataset:
    """
    A prepared dataset whose column `report` holds the text of each row, as [`row_text`] gives it, and null where there
    is none; without labels, so that differently labelled sources can be joined.
    """
    columns = [name for name in ("report", "labels") if name in dataset.column_names]
    texts = [row_text(row) or None for row in dataset.select_columns(columns)]
    return dataset.remove_columns(columns).add_column("report", texts, feature=datasets.Value("string"))


def text_id(text: str) -> int:
    """A number that identical texts share (63 bits of their SHA-256), and -1 for no text."""
    if not text:
        return -1
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def read_prompts(label_names: Sequence[str], path: str | Path | None = None) -> dict[str, list[str]]:
    """
    Sentences that stand for labels in zero-shot classification.

    Args:
        label_names (`Sequence[str]`): The labels.
        path (`str` or `Path`, *optional*): A YAML file with a list of sentences, or one sentence, for each label;
            [`PROMPTS`] by default. A label that it lacks is said as [`label_sentence`] says it.

    Returns:
        `dict[str, list[str]]`: One or more sentences per label, in the order of `label_names`.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not such a file.
    """
    path = PROMPTS if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the prompts {path} do not exist: check the path")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no prompts: it must be lines of `label: [sentence, ...]`")
    prompts: dict[str, list[str]] = {}
    for name in label_names:
        given = found.get(name, label_sentence([name]))
        sentences = [given] if isinstance(given, str) else given
        if not isinstance(sentences, list) or not sentences or not all(isinstance(one, str) for one in sentences):
            raise InputError(f"{path}: the prompts of {name!r} are {given!r}: give one sentence or a list of them")
        prompts[name] = [clean_report(one) for one in sentences]
    return prompts
