"""Recordings to vectors: those of the mean head, in a table that is whole or not there."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForSequenceClassification,
    prepare,
    read_record,
)
from clear_hug_hf.data.records import Recording, RecordReference
from clear_hug_hf.inference import embeddings
from clear_hug_hf.inference.embeddings import write_embeddings
from clear_hug_hf.inference.records import embed_records
from clear_hug_hf.processing import InputError
from clear_hug_hf.training import folders


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def model() -> ClearHugForSequenceClassification:
    torch.manual_seed(0)
    return ClearHugForSequenceClassification(ClearHugConfig.preset("tiny", head_type="mean", **SMALL)).eval()


@pytest.fixture(scope="module")
def extractor() -> ClearHugFeatureExtractor:
    return ClearHugFeatureExtractor()


@pytest.fixture(scope="module")
def folder(model: Any, extractor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model"
    folders.save_model_folder(path, model, extractor)
    return path


@pytest.fixture
def references(
    tmp_path: Path, make_recordings: Callable[..., list[Recording]], write_record: Callable[..., Path]
) -> list[RecordReference]:
    """Five records, of which the third is damaged and the fourth twenty-five seconds long."""
    found = []
    for index, recording in enumerate(make_recordings(5)):
        if index == 3:
            recording.waveform = np.tile(recording.waveform, 3)[:, :2500]
        header = write_record(tmp_path / "records" / f"r{index}", recording)
        if index == 2:
            header.with_suffix(".dat").write_bytes(b"")
        found.append(RecordReference(header, f"r{index}", patient_id=recording.patient_id))
    return found


def test_when_recordings_are_embedded_then_the_vectors_are_what_the_mean_head_classifies(
    model: Any, extractor: Any, make_recordings: Callable[..., list[Recording]]
) -> None:
    recordings = make_recordings(4)
    # Limb leads only, and of these one flat: the mean is over the leads that are there.
    recordings[1].waveform, recordings[1].lead_names = recordings[1].waveform[:2], ["I", "II"]
    recordings[2].waveform[7] = 0.0
    vectors = np.concatenate([one.vectors for one in embed_records(model, extractor, recordings)])
    assert vectors.shape == (4, 32)
    assert vectors.dtype == np.float32
    for row, recording in enumerate(recordings):
        with torch.no_grad():
            logits = model(**extractor(**recording.as_inputs(), windows="all", return_tensors="pt")).logits.mean(0)
        by_hand = vectors[row] @ model.classifier.weight.detach().numpy().T + model.classifier.bias.detach().numpy()
        np.testing.assert_allclose(by_hand, logits.numpy(), atol=1e-6)

    by_lead = np.concatenate([one.vectors for one in embed_records(model, extractor, recordings, per_lead=True)])
    assert by_lead.shape == (4, 12, 32)
    assert np.isnan(by_lead).all(axis=2).sum(axis=1).tolist() == [0, 6, 1, 0]
    np.testing.assert_allclose(np.nanmean(by_lead, axis=1), vectors, atol=1e-6)
    # Of prepared rows they differ by what 16 bits leave out.
    rows = prepare(recordings, extractor, progress=False).dataset
    of_rows = np.concatenate([one.vectors for one in embed_records(model, extractor, rows)])
    np.testing.assert_allclose(of_rows, vectors, atol=1e-3)


def test_when_records_are_embedded_then_the_table_has_a_row_per_window_and_names_what_failed(
    model: Any, extractor: Any, references: list[RecordReference], tmp_path: Path
) -> None:
    output = tmp_path / "out" / "embeddings.parquet"
    num_rows, rejected = write_embeddings(model, extractor, references, output)
    table = pd.read_parquet(output)
    assert num_rows == len(table) == 6
    assert [one.record_id for one in rejected] == ["r2"]
    assert table["record_id"].tolist() == ["r0", "r1", "r3", "r3", "r3", "r4"]
    assert table["start"].tolist() == [0, 0, 0, 10, 15, 0]
    assert table["end"].tolist() == [10, 10, 10, 20, 25, 10]
    assert table["patient_id"].tolist() == ["p0", "p1", "p3", "p3", "p3", "p4"]
    about = json.loads(pq.read_schema(output).metadata[b"clear_hug_hf"])
    assert about["lead_names"][3] == "aVR"
    assert [path.name for path in output.parent.iterdir()] == ["embeddings.parquet"]
    (alone,) = embed_records(model, extractor, [read_record(references[4].path)])
    np.testing.assert_array_equal(table["embedding"][5], alone.vectors[0])

    before = output.read_bytes()
    write_embeddings(model, extractor, references, output)
    assert output.read_bytes() == before
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(next(other.base_model.parameters()))
    for changed, per_lead, records, message in (
        (model, True, references, r"a different table \(per_lead was False and is now True\): choose another output"),
        (other, False, references, r"a different table \(mismatch in encoder\)"),
        (model, False, references[:3], r"a different table \(mismatch in records\)"),
    ):
        with pytest.raises(InputError, match=message):
            write_embeddings(changed, extractor, records, output, per_lead=per_lead)
    assert output.read_bytes() == before
    write_embeddings(model, extractor, references, output, per_lead=True, overwrite=True)
    assert np.stack(pd.read_parquet(output)["embedding"][0]).shape == (12, 32)


def test_when_embedding_is_stopped_then_the_same_call_goes_on_and_another_is_refused(
    model: Any, extractor: Any, references: list[RecordReference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "RECORDS_PER_PART", 2)
    whole, output = tmp_path / "whole.parquet", tmp_path / "embeddings.parquet"
    write_embeddings(model, extractor, references, whole)
    read: list[str] = []

    def embed_two_parts(model: Any, extractor: Any, records: Any, **options: Any) -> Any:
        if len(read) >= 4:
            raise KeyboardInterrupt
        read.extend(record.record_id for record in records)
        return embed_records(model, extractor, records, **options)

    monkeypatch.setattr(embeddings, "embed_records", embed_two_parts)
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(model, extractor, references, output)
    assert not output.exists()
    with pytest.raises(InputError, match=r"parts contains a different table \(mismatch in records\): finish that one"):
        write_embeddings(model, extractor, references[:3], output)
    with pytest.raises(InputError, match=r"parts contains a different table \(per_lead was False and is now True\)"):
        write_embeddings(model, extractor, references, output, per_lead=True)

    read.clear()
    _, rejected = write_embeddings(model, extractor, references, output)
    assert read == ["r4"]
    assert [one.record_id for one in rejected] == ["r2"]
    assert pq.read_table(output).equals(pq.read_table(whole))
    assert sorted(path.name for path in tmp_path.glob("*embeddings*")) == ["embeddings.parquet"]


def test_when_no_record_can_be_used_then_there_is_no_table(
    model: Any, extractor: Any, references: list[RecordReference], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none of the 1 record\(s\) can be used: r2"):
        write_embeddings(model, extractor, references[2:3], tmp_path / "embeddings.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records"]


def test_when_embedding_is_asked_on_the_command_line_then_the_table_is_there_and_mistakes_are_reported(
    folder: Path,
    references: list[RecordReference],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: Callable[..., int],
    refused: Callable[..., str],
) -> None:
    output, records = tmp_path / "embeddings.parquet", tmp_path / "records"
    model = ["--model", folder]
    assert status("embed", records, *model, "--output", output) == 1
    printed = capsys.readouterr()
    assert "4 record(s), 6 window(s) of 32 numbers" in printed.out
    assert "r2" in printed.err
    assert len(pd.read_parquet(output)) == 6
    assert status("embed", records, records / "r0.hea", records / "r0", *model, "--output", output) == 1
    assert len(pd.read_parquet(output)) == 6
    capsys.readouterr()

    table = tmp_path / "ward.csv"
    table.write_text("path\nrecords/r0\nrecords/absent\nward.csv\nrecords/r1.hea\n")
    assert status("embed", table, *model, "--output", tmp_path / "ward.parquet") == 1
    assert set(pd.read_parquet(tmp_path / "ward.parquet")["record_id"]) == {"records/r0", "records/r1"}
    errors = capsys.readouterr().err
    assert "clear-hug: 2 recording(s) failed:\n  records/absent: " in errors
    assert "ward.csv is not in a supported format" in errors

    foreign, text = tmp_path / "foreign.parquet", tmp_path / "text.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    text.write_text("mine")
    for path in (foreign, text):
        before = path.read_bytes()
        assert "contains data that `embed` did not write" in refused("embed", records, *model, "--output", path)
        assert path.read_bytes() == before
    none = tmp_path / "none"
    for words, message in (
        ([records, *model, "--output", tmp_path / "table.csv"], "must have the extension .parquet"),
        ([records, *model, "--output", tmp_path], "is a folder: name a file"),
        ([records, "--model", none, "--output", output], "does not exist"),
        ([none, *model, "--output", output], "does not exist"),
    ):
        assert message in refused("embed", *words)
