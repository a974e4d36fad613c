"""Texts about recordings repeat what their reports or labels contain, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clear_hug_hf import EcgJepaFeatureExtractor
from clear_hug_hf.data.label_sets import LABEL_SETS
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.texts import clean_report, describe_label, label_sentence, read_prompts, row_text, text_id
from clear_hug_hf.processing import InputError


def test_when_a_report_is_cleaned_then_case_frames_and_spellings_are_gone() -> None:
    assert clean_report("  ***Abnormal EKG***  ") == "abnormal ecg"
    assert clean_report("== Sinus\n rhythm ==") == "sinus rhythm"
    assert clean_report("ekgs differ") == "ekgs differ", "a word that only begins so is another word"


def test_when_there_is_a_report_then_it_goes_before_the_labels() -> None:
    row = {"report": "Sinus rhythm.", "labels": {"AFIB": 1.0}}
    assert row_text(row) == "sinus rhythm."
    assert row_text({**row, "report": None}) == "ecg with atrial fibrillation"
    assert row_text({**row, "report": " *** "}) == "ecg with atrial fibrillation"
    assert row_text({"labels": {"AFIB": 0.0, "SR": None, "PVC": float("nan")}}) == ""
    assert row_text({}) == ""


def test_when_labels_become_text_then_in_words_and_in_their_order() -> None:
    assert label_sentence(["IMI", "SR"]) == "ecg with inferior myocardial infarction, sinus rhythm"
    assert describe_label("my_own label") == "my own label"
    for names in (one.names for one in LABEL_SETS.values()):
        assert all(describe_label(name) for name in names)


def test_when_texts_are_the_same_then_so_are_their_numbers() -> None:
    assert text_id("sinus rhythm") == text_id("sinus rhythm") >= 0
    assert text_id("sinus rhythm") != text_id("sinus rhythm.")
    assert text_id("") == -1


def test_when_a_source_has_reports_then_prepared_rows_keep_them() -> None:
    waveform, lead_names = np.random.default_rng(0).normal(size=(1, 2500)), ["II"]
    recordings = [
        Recording(waveform, 250.0, lead_names, "mV", str(number), metadata=metadata)
        for number, metadata in enumerate(({"report": "Sinus rhythm"}, {}))
    ]
    dataset = prepare(recordings, EcgJepaFeatureExtractor(), progress=False).dataset
    assert list(dataset["report"]) == ["Sinus rhythm", None]


def test_when_prompts_are_read_then_each_label_has_some() -> None:
    names = [name for one in LABEL_SETS.values() for name in one.names]
    prompts = read_prompts(names)
    assert list(prompts) == list(dict.fromkeys(names))
    assert all(sentence for sentences in prompts.values() for sentence in sentences)
    assert len(prompts["MI"]) > 1
    assert prompts["AFIB"] == ["ecg with atrial fibrillation"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "contains no prompts"),
        ("MI: [1]", "the prompts of 'MI'"),
        ("MI: []", "the prompts"),
        ("a: b: c", "YAML"),
    ],
)
def test_when_prompts_are_no_prompts_then_the_error_names_the_problem(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(["MI"], path)
    with pytest.raises(FileNotFoundError, match="do not exist"):
        read_prompts(["MI"], tmp_path / "none.yaml")
