"""Kept features are those of the encoder and the recordings at hand, and never of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import datasets
import numpy as np
import pytest
import torch
from small_models import LABELS, SMALL, make_model
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForSequenceClassification,
    CrtConfig,
    CrtForSequenceClassification,
    EcgCpcConfig,
    EcgCpcForSequenceClassification,
    EcgFmConfig,
    EcgFmForSequenceClassification,
    EcgJepaConfig,
    EcgJepaForSequenceClassification,
    EcgS4Config,
    EcgS4ForSequenceClassification,
    EcgScanConfig,
    EcgScanForImageClassification,
    HeartLangConfig,
    HeartLangForSequenceClassification,
    HubertEcgConfig,
    HubertEcgForSequenceClassification,
    StMemConfig,
    StMemForSequenceClassification,
)
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.inference.digests import settings_digest
from clear_hug_hf.training.features import EncodedDataset, dataset_labels, encode, features_key
from clear_hug_hf.training.folders import save_model_folder


def _model(**overrides: Any) -> ClearHugForSequenceClassification:
    return make_model(ClearHugForSequenceClassification, **overrides)


def _collator(label_names: tuple[str, ...] | None = LABELS, **settings: Any) -> EcgCollator:
    return EcgCollator(ClearHugFeatureExtractor(**settings), label_names=label_names)


def _changed(dataset: datasets.Dataset, row: int, change: Callable[[dict[str, Any]], None]) -> datasets.Dataset:
    rows = dataset.to_list()
    change(rows[row])
    return datasets.Dataset.from_list(rows, features=dataset.features)


@pytest.fixture(scope="module")
def dataset(make_rows: Callable[[int], datasets.Dataset]) -> datasets.Dataset:
    """Fast and slow hearts take turns, so that the recordings have different numbers of beats."""
    return make_rows(9)


def test_when_an_encoder_weight_changes_then_the_name_does(dataset: datasets.Dataset) -> None:
    model = _model()
    keys = {features_key(model, dataset, _collator())}
    parameters = dict(model.base_model.named_parameters())
    for parameter in parameters.values():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        keys.add(features_key(model, dataset, _collator()))
    assert len(keys) == 1 + len(parameters)


def test_when_a_setting_changes_then_the_name_does_where_features_would(dataset: datasets.Dataset) -> None:
    def key(**setting: Any) -> str:
        model = _model(**setting)
        model.base_model.load_state_dict(weights)
        return features_key(model, dataset, _collator())

    weights = _model().base_model.state_dict()
    # The test below checks this in the digest of settings, for every field of every system.
    assert key(layer_norm_eps=1e-3) != key()
    assert key(head_type="mean", num_labels=5, decoder_hidden_size=16, mask_ratio=0.5) == key()


_RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
_VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_VIT |= {"intermediate_size": 32, "image_size": 64, "patch_size": 16}
_GENERATOR = torch.Generator().manual_seed(0)
# Of each system: a classifier, its input, and other values of fields of its config that no rule gives.
_SYSTEMS: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig, torch.Tensor, dict[str, Any]]] = {
    "clear_hug": (
        ClearHugForSequenceClassification,
        ClearHugConfig.preset("tiny", **SMALL, use_beat_features=False, initializer_range=0.2),
        torch.randn((2, 12, 15, 96), generator=_GENERATOR),
        {"lead_groups": [["I", "II", "III", "aVR", "aVL", "aVF"], ["V1", "V2", "V3", "V4", "V5", "V6"]]},
    ),
    "ecg_jepa": (
        EcgJepaForSequenceClassification,
        EcgJepaConfig.preset("tiny", hidden_size=32, num_hidden_layers=2, intermediate_size=32, initializer_range=0.2),
        torch.randn((2, 8, 2500), generator=_GENERATOR),
        {"num_samples": 1000, "mask_ratio": [0.2, 0.3], "ema_end": 0.999, "patch_initializer_range": 0.1},
    ),
    "ecg_fm": (
        EcgFmForSequenceClassification,
        EcgFmConfig.preset("tiny", initializer_range=0.2),
        torch.randn((2, 12, 500), generator=_GENERATOR),
        {
            **{"conv_dim": [32, 32, 32, 16], "conv_kernel": [3, 2, 2, 2], "conv_stride": [2, 2, 2, 1]},
            **{"window_aggregation": {"LABEL_0": "max"}},
        },
    ),
    "heartlang": (
        HeartLangForSequenceClassification,
        HeartLangConfig.preset("tiny", hidden_size=32, num_beats=24, num_hidden_layers=2, initializer_range=0.2),
        torch.randn((2, 24, 96), generator=_GENERATOR),
        {"mask_ratio": 0.4, "tokenizer_config": {"vocab_size": 512, "num_beats": 24}},
    ),
    "ecg_cpc": (
        EcgCpcForSequenceClassification,
        EcgCpcConfig.preset("tiny", hidden_size=16, kernel_length=40),
        torch.randn((2, 12, 120), generator=_GENERATOR),
        {"conv_kernel_size": 5, "step_range": [0.01, 0.1]},
    ),
    "crt": (
        CrtForSequenceClassification,
        CrtConfig.preset("tiny", hidden_size=32, num_hidden_layers=2, num_samples=400, initializer_range=0.2),
        torch.randn((2, 12, 400), generator=_GENERATOR),
        {"num_samples": 480, "drop_ratio": [0.2, 0.5]},
    ),
    "ecg_s4": (
        EcgS4ForSequenceClassification,
        # The form in which every field has an effect.
        EcgS4Config(hidden_size=16, num_hidden_layers=2, kernel_type="nplr", kernel_length=40, stem_norm="batch"),
        torch.randn((2, 12, 120), generator=_GENERATOR),
        {"conv_kernel_size": 5, "step_range": [0.01, 0.1]},
    ),
    "hubert_ecg": (
        HubertEcgForSequenceClassification,
        HubertEcgConfig.preset(
            "tiny", hidden_size=32, num_hidden_layers=2, intermediate_size=32, initializer_range=0.2
        ),
        torch.randn((2, 1200), generator=_GENERATOR),
        {
            **{"conv_dim": [32, 32, 32, 32, 16], "conv_kernel": [8, 3, 3, 2, 2], "conv_stride": [4, 2, 2, 2, 1]},
            **{"vocab_sizes": [10, 20]},
        },
    ),
    "st_mem": (
        StMemForSequenceClassification,
        StMemConfig.preset("tiny", hidden_size=32, num_hidden_layers=2, intermediate_size=32, initializer_range=0.2),
        torch.randn((2, 12, 450), generator=_GENERATOR),
        {"mask_ratio": 0.5, "num_samples": 300},
    ),
    "ecg_scan": (
        EcgScanForImageClassification,
        EcgScanConfig.preset("tiny", vision_config=_RESNET, image_size=[64, 96]),
        torch.randn((2, 3, 64, 96), generator=_GENERATOR),
        {
            **{"vision_config": _VIT, "signal_config": {"model_type": "clear_hug", **SMALL}, "text_config": None},
            **{"signal_embed_dim": 16, "image_size": [64, 64]},
        },
    ),
}
_OTHERS = {
    **{"lead_names": ["I", "II", "V1"], "hidden_act": "silu"},
    **{"problem_type": "regression", "label_thresholds": {"LABEL_0": 0.1}, "num_pooling_heads": 1},
    "rhythm_features": ["log_rate"],
    "label_calibration": {"LABEL_0": [0.5, 0.0]},
    "familiarity": {"num_rows": 1, "pooled_rank": 1},
}


def _own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    names = {one.name for one in fields(PreTrainedConfig)} - {"problem_type"}
    return {one.name: one.metadata for one in fields(config) if one.name not in names}


def _other_value(system: str, name: str) -> Any:
    config, others = _SYSTEMS[system][1], {**_OTHERS, **_SYSTEMS[system][3]}
    value, hint = getattr(config, name), get_type_hints(type(config), localns={"torch": torch})[name]
    if name in others:
        return others[name]
    if get_origin(hint) is Literal:
        return next((choice for choice in get_args(hint) if choice != value), value)
    if isinstance(value, bool):
        return not value
    assert isinstance(value, int | float), f"give another value of {name} above"
    return 2 * value if isinstance(value, int) else 0.5


@pytest.mark.parametrize("system", _SYSTEMS)
def test_when_a_config_has_a_field_then_it_declares_its_part(system: str) -> None:
    found = _own_fields(_SYSTEMS[system][1])
    assert {name for name, metadata in found.items() if "part" not in metadata} == set()
    parts = {metadata["part"] for metadata in found.values()}
    # Encoders without an objective of their own have no fields of pre-training.
    assert parts - {"pretraining"} == {"encoder", "classifier"}


@pytest.mark.parametrize(
    ("system", "name"), [(key, name) for key, one in _SYSTEMS.items() for name in _own_fields(one[1])]
)
def test_when_a_field_changes_then_features_and_digest_change_or_neither_does(system: str, name: str) -> None:
    model_class, config, given, _ = _SYSTEMS[system]
    set_seed(0)
    base = model_class(config).eval().base_model
    other_config = type(config).from_dict({**config.to_dict(), name: _other_value(system, name)})
    # What a text model gives has its size.
    assert name == "text_embed_dim" or other_config.to_dict().get(name) != config.to_dict().get(name)
    other = model_class(other_config).eval().base_model
    try:
        other.load_state_dict(base.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(other(given).lead_states, base(given).lead_states, atol=1e-5, rtol=1e-5)
        changed = False
    except (AssertionError, RuntimeError, ValueError):
        changed = True
    assert (settings_digest(other_config) != settings_digest(config)) == changed


def test_when_a_tower_differs_only_in_its_labels_then_the_digest_stays() -> None:
    config, other = (EcgScanConfig.preset("tiny", vision_config=_RESNET) for _ in range(2))
    other.vision_config.id2label, other.vision_config.dtype = {0: "cat"}, torch.float32
    assert settings_digest(other) == settings_digest(config)
    other.vision_config.hidden_act = "gelu"
    assert settings_digest(other) != settings_digest(config)


def test_when_a_model_is_saved_or_has_another_head_on_top_then_the_name_stays(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    model = _model()
    expected = features_key(model, dataset, _collator())
    save_model_folder(tmp_path / "model", model, ClearHugFeatureExtractor())
    loaded = ClearHugForSequenceClassification.from_pretrained(tmp_path / "model")
    assert features_key(loaded, dataset, _collator()) == expected
    pretraining = make_model()
    pretraining.base_model.load_state_dict(model.base_model.state_dict())
    assert features_key(pretraining, dataset, _collator()) == expected


def test_when_what_is_read_of_a_recording_changes_then_the_name_does(dataset: datasets.Dataset) -> None:
    def sample(row: dict[str, Any]) -> None:
        row["signal"][11][-1] += 1

    def scale(row: dict[str, Any]) -> None:
        row["signal_scale"][3] *= 1.01

    def lead_mask(row: dict[str, Any]) -> None:
        row["lead_mask"][11] = not row["lead_mask"][11]

    def moved_peak(row: dict[str, Any]) -> None:
        row["r_peaks"][-1] += 1

    def lost_peak(row: dict[str, Any]) -> None:
        row["r_peaks"].pop()

    def rate(row: dict[str, Any]) -> None:
        row["sampling_rate"] = 250.0

    model, last = _model(), len(dataset) - 1
    keys = [features_key(model, dataset, _collator())]
    for change in (sample, scale, lead_mask, moved_peak, lost_peak, rate):
        keys += [features_key(model, _changed(dataset, row, change), _collator()) for row in (0, last)]
    order = list(range(len(dataset)))
    for rows in (order[::-1], [1, 0, *order[2:]], order[:-1], order[1:], [*order, 0]):
        keys.append(features_key(model, dataset.select(rows), _collator()))
    assert len(set(keys)) == len(keys)


def test_when_a_peak_belongs_to_the_next_recording_then_the_name_differs(dataset: datasets.Dataset) -> None:
    """The same peaks one after the other, but cut at another place."""
    rows = dataset.select([0, 1]).to_list()
    rows[1]["r_peaks"] = [rows[0]["r_peaks"].pop(), *rows[1]["r_peaks"]]
    moved = datasets.Dataset.from_list(rows, features=dataset.features)
    assert features_key(_model(), moved, _collator()) != features_key(_model(), dataset.select([0, 1]), _collator())


@pytest.mark.parametrize("setting", [{"num_beats": 12}, {"bandpass_low": 0.5}, {"detector": "xqrs"}])
def test_when_the_extractor_has_another_setting_then_the_name_differs(
    dataset: datasets.Dataset, setting: dict[str, Any]
) -> None:
    assert features_key(_model(), dataset, _collator(**setting)) != features_key(_model(), dataset, _collator())


def test_when_labels_and_names_of_recordings_change_then_the_name_stays(dataset: datasets.Dataset) -> None:
    def other(row: dict[str, Any]) -> None:
        row["labels"]["fast"] = 1 - row["labels"]["fast"]
        row["patient_id"], row["record_id"], row["split"] = "x", "y", "test"

    model = _model()
    expected = features_key(model, dataset, _collator())
    assert features_key(model, _changed(dataset, 4, other), _collator()) == expected
    assert features_key(model, dataset.remove_columns(["labels"]), _collator(())) == expected
    assert features_key(model, dataset, _collator(("inverted",))) == expected


def test_when_the_same_rows_lie_elsewhere_then_the_name_stays(dataset: datasets.Dataset, tmp_path: Path) -> None:
    model, order = _model(), list(range(len(dataset)))
    few = dataset.select(range(3))
    for size in (1, 2, 4):
        dataset.to_parquet(tmp_path / f"{size}.parquet", batch_size=size)
    laid_out = {
        "as it was": few,
        "picked": dataset.select([0, 1, 2]),
        "picked and copied": dataset.select([0, 1, 2]).flatten_indices(),
        "put in order": dataset.select([2, 1, 0]).select([2, 1, 0]),
        "made of pieces": datasets.concatenate_datasets([dataset.select([row]) for row in (0, 1, 2)]),
        "made anew": datasets.Dataset.from_list(few.to_list(), features=dataset.features),
        "the end of another": datasets.concatenate_datasets([dataset.select(order[3:]), few]).select(
            range(len(order) - 3, len(order))
        ),
        **{
            f"row groups of {size}": datasets.Dataset.from_parquet(
                str(tmp_path / f"{size}.parquet"), cache_dir=str(tmp_path / "cache")
            ).select(range(3))
            for size in (1, 2, 4)
        },
    }
    keys = {how: features_key(model, one, _collator()) for how, one in laid_out.items()}
    assert len(set(keys.values())) == 1, keys


def test_when_recordings_have_different_beats_or_leads_then_features_keep_the_order_and_need_no_batch_size(
    dataset: datasets.Dataset,
) -> None:
    def without(row: dict[str, Any]) -> None:
        row["signal"][5], row["lead_mask"][5] = [0] * len(row["signal"][5]), False

    dataset, model, collator = _changed(dataset, 2, without), _model().eval(), _collator()
    assert len({len(peaks) for peaks in dataset["r_peaks"]}) > 2
    expected, present = [], []
    for row in range(len(dataset)):
        batch = collator([dataset[row]])
        batch.pop("labels")
        with torch.no_grad():
            expected.append(model.base_model(**batch).lead_states)
        present.append(batch["lead_mask"])
    assert [tuple(place) for place in (~torch.cat(present)).nonzero()] == [(2, 5)]
    for batch_size in (1, 2, 64):
        encoded = encode(model, dataset, collator, batch_size=batch_size)
        torch.testing.assert_close(encoded.columns["lead_states"], torch.cat(expected), atol=1e-5, rtol=0)
        torch.testing.assert_close(encoded.columns["present"], torch.cat(present))
        truth = [[row["fast"], row["inverted"]] for row in dataset["labels"]]
        torch.testing.assert_close(encoded.columns["labels"], torch.tensor(truth))


def test_when_the_model_is_in_training_then_features_have_no_dropout(dataset: datasets.Dataset) -> None:
    model = _model(hidden_dropout_prob=0.5)
    quiet = encode(model.eval(), dataset, _collator()).columns["lead_states"]
    torch.testing.assert_close(encode(model.train(), dataset, _collator()).columns["lead_states"], quiet)


def _unusable(*args: object, **kwargs: object) -> None:
    raise AssertionError("the encoder was run")


def test_when_features_were_kept_then_the_encoder_is_not_run(
    dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = _model(), tmp_path / "kept"
    first = encode(model, dataset, _collator(), cache_dir=cache)
    plain = encode(model, dataset, _collator())
    assert [path.name for path in cache.iterdir()] == [f"{features_key(model, dataset, _collator())}.safetensors"]
    monkeypatch.setattr(type(model.base_model), "forward", _unusable)
    again = encode(model, dataset, _collator(), cache_dir=cache)
    for name, column in first.columns.items():
        assert torch.equal(column, again.columns[name])
        assert torch.equal(column, plain.columns[name])
    # Other labels of the same recordings need no other features.
    other = encode(model, dataset, _collator(("inverted",)), cache_dir=cache)
    assert torch.equal(other.columns["labels"], first.columns["labels"][:, 1:])
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(AssertionError, match="the encoder was run"):
        encode(model, dataset.select(range(4)), _collator(), cache_dir=cache)


def test_when_a_kept_file_is_damaged_or_of_others_then_it_is_made_anew(
    dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    expected = encode(model, dataset, _collator(), cache_dir=tmp_path)
    encode(model, dataset.select(range(4)), _collator(), cache_dir=tmp_path / "others")
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    (others,) = (tmp_path / "others").iterdir()
    for damaged in (whole[:-1], whole[:100], b"", b"nonsense", others.read_bytes()):
        path.write_bytes(damaged)
        found = encode(model, dataset, _collator(), cache_dir=tmp_path)
        for name, column in expected.columns.items():
            assert torch.equal(column, found.columns[name])
        assert path.read_bytes() == whole
    monkeypatch.setattr(type(model.base_model), "forward", _unusable)
    assert len(encode(model, dataset, _collator(), cache_dir=tmp_path)) == len(dataset)


def test_when_encoding_is_interrupted_then_nothing_is_kept(
    dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    with monkeypatch.context() as patch:
        patch.setattr(type(model.base_model), "forward", _unusable)
        with pytest.raises(AssertionError, match="the encoder was run"):
            encode(model, dataset, _collator(), cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_when_items_are_taken_together_then_they_are_those_taken_alone() -> None:
    columns = {
        "lead_states": torch.randn(6, 12, 4, generator=torch.Generator().manual_seed(0)),
        "present": torch.arange(72).reshape(6, 12) % 5 > 0,
        "labels": torch.arange(12.0).reshape(6, 2),
    }
    encoded, chosen = EncodedDataset(columns), [4, 0, 0, 5]
    assert len(encoded) == 6
    alone = [encoded[index] for index in chosen]
    together, selected = encoded.__getitems__(chosen), encoded.select(np.array(chosen))
    assert len(selected) == 4
    for name, column in columns.items():
        expected = torch.stack([item[name] for item in alone])
        assert torch.equal(expected, column[chosen])
        assert torch.equal(together[name], expected)
        assert torch.equal(selected.columns[name], expected)


def test_when_labels_are_unknown_then_they_are_nan_and_follow_the_names(dataset: datasets.Dataset) -> None:
    def unknown(row: dict[str, Any]) -> None:
        row["labels"]["fast"] = None

    changed = _changed(dataset.select(range(3)), 1, unknown)
    expected = torch.tensor([[1.0, 1.0], [0.0, torch.nan], [0.0, 1.0]])
    torch.testing.assert_close(dataset_labels(changed, ["inverted", "fast"]), expected, equal_nan=True)
    torch.testing.assert_close(dataset_labels(changed, None), expected[:, [1, 0]], equal_nan=True)
    assert dataset_labels(changed, ()).shape == (3, 0)
