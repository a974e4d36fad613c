"""Dataclasses as options: what the command line and YAML files accept, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from clear_hug_hf.processing import InputError
from clear_hug_hf.utils.arguments import ArgumentParser, Arguments


@dataclass(kw_only=True)
class Example(Arguments):
    records: list[Path] = field(metadata={"help": "Records.", "positional": True})
    model: Path = field(metadata={"help": "Model."})
    num_train_epochs: int = field(default=3, metadata={"help": "Epochs.", "gt": 0, "le": 9})
    fractions: list[float] = field(default_factory=lambda: [0.5], metadata={"help": "100 % or less.", "le": 1})
    reader_options: dict[str, Any] = field(default_factory=dict, metadata={"help": "Options."})
    precision: Literal["no", "bf16"] = field(default="no", metadata={"help": "Precision."})
    report_to: list[Literal["wandb", "none"]] | None = field(default=None, metadata={"help": "Trackers."})
    json: bool = field(default=False, metadata={"help": "As JSON."})
    control: bool = field(default=True, metadata={"help": "Control."})


@dataclass
class Settings(Arguments):
    seed: int = field(default=0, metadata={"help": "Seed."})
    report_to: list[str] = field(default_factory=list, metadata={"help": "Trackers."})


REQUIRED = ("a.hea", "b.hea", "--model", "m")


def _parse(*words: object) -> Example:
    (example,) = ArgumentParser((Example,)).parse([str(word) for word in words])
    return example


def test_when_words_are_parsed_then_fields_have_their_types() -> None:
    example = _parse("--json", *REQUIRED, "--num_train_epochs", 4, "--fractions", "0.1", "1", "--no_control")
    assert example == Example(
        records=[Path("a.hea"), Path("b.hea")],
        model=Path("m"),
        num_train_epochs=4,
        fractions=[0.1, 1.0],
        json=True,
        control=False,
    )
    assert _parse(*REQUIRED) == Example(records=["a.hea", "b.hea"], model="m")  # type: ignore[list-item, arg-type]


def test_when_pairs_are_parsed_then_values_are_json_or_yaml_lists_or_strings() -> None:
    words = ("folds=[1, 2]", "leads=[V5, II]", "rate=5e-05", "scaled=true", "title=a: b", "code=no", "path=x=y")
    assert _parse(*REQUIRED, "--reader-options", *words, "--reader-options", "rate=7").reader_options == {
        "folds": [1, 2],
        "leads": ["V5", "II"],
        "rate": 7,
        "scaled": True,
        "title": "a: b",
        "code": "no",
        "path": "x=y",
    }


def test_when_a_file_and_words_set_a_field_then_the_words_win_and_mappings_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "model: from-file\nnum-train-epochs: 5\nprecision: no\ncontrol: false\nreport_to: [wandb]\n"
        "reader_options: {folds: [1], rate: 5}\nfractions: null\n"
    )
    example = _parse("a.hea", "--config", path, "--num-train-epochs", 6, "--reader-options", "rate=7", "--control")
    assert (example.model, example.num_train_epochs, example.precision) == (Path("from-file"), 6, "no")
    assert (example.control, example.report_to, example.fractions) == (True, ["wandb"], [0.5])
    assert example.reader_options == {"folds": [1], "rate": 7}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (REQUIRED[:2], "--model is required"),
        (REQUIRED[2:], "^PATH is required"),
        (
            (*REQUIRED, "--num-train-epoch", "4"),
            r"unknown option --num-train-epoch: did you mean '--num-train-epochs'\?",
        ),
        ((*REQUIRED, "c.hea"), "unexpected argument 'c.hea': positional arguments must come before"),
        ((*REQUIRED, "--num-train-epochs", "many"), "--num-train-epochs: invalid int value: 'many'"),
        ((*REQUIRED, "--num-train-epochs", "0"), "num_train_epochs is 0: it must be greater than 0"),
        ((*REQUIRED, "--num-train-epochs", "10"), "num_train_epochs is 10: it must be at most 9"),
        ((*REQUIRED, "--fractions", "0.5", "1.5"), "fractions is 1.5: it must be at most 1"),
        ((*REQUIRED, "--fractions", "nan"), "fractions is nan: it must be at most 1"),
        ((*REQUIRED, "--precision", "fp8"), "invalid choice: 'fp8'"),
        ((*REQUIRED, "--report-to", "x"), "invalid choice: 'x'"),
        ((*REQUIRED, "--reader-options", "folds"), "folds is not of the form NAME=VALUE"),
        ((*REQUIRED, "--reader-options", "folds=[1"), r"\[1 is not a list or mapping"),
        ((*REQUIRED, "--config", "none.yaml"), "none.yaml does not exist"),
    ],
)
def test_when_words_do_not_fit_then_one_sentence_explains_why(words: tuple[str, ...], message: str) -> None:
    with pytest.raises((InputError, FileNotFoundError), match=message):
        _parse(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("records: [c.hea]", "unknown field 'records'"),
        ("json: 1", "json is 1: it must be true or false"),
        ("num_train_epochs: 2.5", "--num-train-epochs: invalid int value: '2.5'"),
        ("num_train_epochs: 0", "num_train_epochs is 0: it must be greater than 0"),
        ("report_to: [no]", "report_to holds False: put words such as no and null in quotes"),
        ("- 1", "must contain lines of `name: value`"),
        ("a: [", "is not a YAML file"),
    ],
)
def test_when_a_file_does_not_fit_then_one_sentence_names_the_field(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        _parse(*REQUIRED, "--config", tmp_path / "settings.yaml")


def test_when_an_option_is_repeated_then_lists_are_extended_and_the_last_value_counts() -> None:
    example = _parse(*REQUIRED, "--fractions", "0.1", "--fractions=0.2", "--num-train-epochs", 4, "--model", "n")
    assert (example.fractions, example.model) == ([0.1, 0.2], Path("n"))


def test_when_a_value_begins_with_a_hyphen_then_an_equals_sign_or_a_file_passes_it(tmp_path: Path) -> None:
    assert _parse("a.hea", "--model=-m").model == Path("-m")
    path = tmp_path / "settings.yaml"
    path.write_text("model: --seed\nreader_options: {title: -1-, day: 2020-01-31}\nfractions: [-1.0, 0.5]\n")
    example = _parse("a.hea", "--config", path)
    assert (example.model, example.fractions) == (Path("--seed"), [-1.0, 0.5])
    assert example.reader_options == {"title": "-1-", "day": "2020-01-31"}
    with pytest.raises(InputError, match="--model: expected one argument"):
        _parse("a.hea", "--model", "--seed")


def test_when_an_override_is_none_then_the_default_replaces_the_value_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("seed: 5\nreport_to: [wandb]\n")
    parser = ArgumentParser((Settings,))
    assert parser.read(path, {}) == (Settings(seed=5, report_to=["wandb"]),)
    assert parser.read(path, {"seed": 7, "report_to": None}) == (Settings(seed=7),)


def test_when_a_file_holds_an_empty_list_or_a_whole_number_with_a_point_then_both_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("report_to: []\nnum_train_epochs: 4.0\nreader_options: {}\n")
    example = _parse(*REQUIRED, "--config", path, "--reader-options", "scaled=False", "code=no")
    assert (example.report_to, example.num_train_epochs) == ([], 4)
    assert example.reader_options == {"scaled": False, "code": "no"}


def test_when_a_dataclass_is_made_in_python_then_it_checks_the_same() -> None:
    for wrong in ({"num_train_epochs": 0}, {"precision": "fp8"}, {"fractions": [2.0]}, {"report_to": ["x"]}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Example(records=[], model=Path("m"), **wrong)  # type: ignore[arg-type]


def test_when_help_is_printed_then_it_shows_bounds_of_use_and_defaults() -> None:
    shown = " ".join(ArgumentParser((Example,), prog="example").format_help().split())
    assert "usage: example PATH ... --model PATH [options]" in shown
    assert "--num-train-epochs N Epochs (default: 3)." in shown
    assert "--fractions X [X ...] 100 % or less (default: 0.5)." in shown
    assert "--json As JSON." in shown
    assert "--control, --no-control Control (default: yes)." in shown
    assert "--num_train_epochs" not in shown
    assert "--seed N Seed (default: 0)." in " ".join(ArgumentParser((Settings,)).format_help().split())
