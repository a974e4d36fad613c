"""Released HeartLang files become models with every tensor, or one sentence says why not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released import Released, StateDict
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioTokenization,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)

from clear_hug_hf.hub.convert_heartlang import (
    convert_heartlang_checkpoint,
    convert_heartlang_state_dict,
    convert_heartlang_to_folder,
    find_unused,
    released_heartlang_feature_extractor,
)
from clear_hug_hf.modeling.modeling_heartlang import HeartLangForPreTraining, HeartLangTokenizerModel
from clear_hug_hf.processing import InputError


def make_tower(prefix: str, features: int, layers: int, rows: int, inner: int, width: int = 768) -> StateDict:
    """A transformer with the released keys, and numbers that differ from tensor to tensor."""
    shapes = {
        "mask_token": (1, 1, width),
        "cls_token": (width,),
        "pos_embed": (1, 257, width),
        "token_embed.tokenConv.weight": (width, features, 3),
        "spa_embed.embed.weight": (16, width),
        "tem_embed.embed.weight": (16, width),
        "norm_layer.weight": (width,),
        "norm_layer.bias": (width,),
    }
    for index in range(layers):
        layer = f"transformer.layers.{index}"
        shapes |= {
            **{f"{layer}.0.norm.{suffix}": (width,) for suffix in ("weight", "bias")},
            f"{layer}.0.to_qkv.weight": (3 * rows, width),
            f"{layer}.0.to_out.0.weight": (width, rows),
            f"{layer}.0.to_out.0.bias": (width,),
            **{f"{layer}.1.net.0.{suffix}": (width,) for suffix in ("weight", "bias")},
            f"{layer}.1.net.1.weight": (inner, width),
            f"{layer}.1.net.1.bias": (inner,),
            f"{layer}.1.net.4.weight": (width, inner),
            f"{layer}.1.net.4.bias": (width,),
        }
    generator = torch.Generator().manual_seed(0)
    return {f"{prefix}{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def make_pretrained(layers: int = 1, codes: int = 8) -> StateDict:
    head = {"lm_head.weight": torch.randn(codes, 768), "lm_head.bias": torch.randn(codes)}
    return make_tower("", 96, layers, 512, 1024) | head


def make_classifier(labels: int = 5) -> StateDict:
    head = {"mlp_head.weight": torch.randn(labels, 768), "mlp_head.bias": torch.randn(labels)}
    return {f"backbone.{name}": tensor for name, tensor in make_pretrained().items()} | head


def make_tokenizer(layers: int = 1, decoder_layers: int = 1, codes: int = 8) -> StateDict:
    tensors = make_tower("encoder.", 96, layers, 128, 2048) | make_tower("decoder.", 128, decoder_layers, 128, 2048)
    for part, size in (("encode", 128), ("decode", 96)):
        for index, rows in ((0, 768), (2, size)):
            tensors[f"{part}_task_layer.{index}.weight"] = torch.randn(rows, 768)
            tensors[f"{part}_task_layer.{index}.bias"] = torch.randn(rows)
    return tensors | {
        "quantize.embedding.weight": torch.randn(codes, 128),
        "quantize.embedding.embed_avg": torch.randn(codes, 128),
        "quantize.embedding.cluster_size": torch.zeros(codes),
        "quantize.embedding.initted": torch.ones(1),
        "quantize.cluster_size": torch.zeros(codes),
    }


FILES = {"pretrained": make_pretrained, "classifier": make_classifier, "tokenizer": make_tokenizer}
each_file = pytest.mark.parametrize("kind", FILES)


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_heartlang_small.safetensors")


def save(tensors: StateDict, path: Path) -> Path:
    """A file as training scripts write it."""
    options = argparse.Namespace(model="heartlang", opt_betas=[0.9, 0.98])
    torch.save({"model": tensors, "optimizer": {}, "epoch": 199, "scaler": {}, "args": options}, path)
    return path


# Every tensor


@pytest.mark.parametrize(
    ("tensors", "num_tensors", "million_parameters"),
    [
        pytest.param(lambda: make_pretrained(layers=12, codes=8192), 142, 44.6, id="pretrained"),
        pytest.param(lambda: make_tokenizer(layers=4, decoder_layers=2, codes=8192), 95, 24.6, id="tokenizer"),
    ],
)
def test_when_a_file_has_the_released_size_then_every_tensor_is_in_the_model_or_named(
    tensors: Callable[[], StateDict], num_tensors: int, million_parameters: float
) -> None:
    state_dict = tensors()
    assert len(state_dict) == num_tensors
    model = convert_heartlang_state_dict(state_dict)
    assert round(sum(entry.numel() for entry in model.parameters()) / 1e6, 1) == million_parameters
    unused = {name for names in find_unused(state_dict).values() for name in names}
    # Random numbers are where they belong if each is there once.
    sums = sorted(tensor.double().sum().item() for tensor in model.state_dict().values())
    expected = [
        part.double().sum().item()
        for name, tensor in state_dict.items()
        if name not in unused
        for part in (tensor.chunk(3) if name.endswith("to_qkv.weight") else [tensor])
    ]
    assert sums == pytest.approx(sorted(expected), abs=1e-6)
    sizes = {name: getattr(model.config, name) for name in ("num_beats", "beat_length", "vocab_size", "head_dim")}
    assert sizes == {"num_beats": 256, "beat_length": 96, "vocab_size": 8192, "head_dim": 64}


def test_when_tensors_are_not_used_then_they_are_named_with_a_reason() -> None:
    assert find_unused(make_pretrained()) == {}
    assert list(find_unused(make_classifier()).values()) == [
        ["backbone.mask_token", "backbone.lm_head.weight", "backbone.lm_head.bias"]
    ]
    masks, averages = find_unused(make_tokenizer()).values()
    assert masks == ["encoder.mask_token", "decoder.mask_token"]
    assert len(averages) == 4
    # Files of fine-tuning may lack them.
    bare = {name: tensor for name, tensor in make_classifier().items() if "lm_head" not in name}
    del bare["backbone.mask_token"]
    assert find_unused(bare) == {}
    assert convert_heartlang_state_dict(bare).config.num_labels == 5


def test_when_the_codebook_is_loaded_then_no_gradient_is_computed_for_it(tmp_path: Path) -> None:
    convert_heartlang_state_dict(make_tokenizer()).save_pretrained(tmp_path)
    tokenizer = HeartLangTokenizerModel.from_pretrained(tmp_path)
    assert not tokenizer.codebook.weight.requires_grad
    assert not tokenizer.train().codebook.weight.requires_grad


def test_when_a_file_was_saved_by_the_training_script_then_it_is_read(tmp_path: Path) -> None:
    path = save(make_pretrained(), tmp_path / "checkpoint-200.pth")
    model = convert_heartlang_checkpoint(path)
    assert isinstance(model, HeartLangForPreTraining)
    assert not model.training


# Files that are something else


@pytest.mark.parametrize(
    ("kind", "key", "shape", "message"),
    [
        ("pretrained", "lm_head.bias", None, "not that of a HeartLang pre-trained encoder: it lacks lm_head.bias;"),
        ("pretrained", "mask_token", None, "it lacks mask_token;"),
        ("pretrained", "transformer.layers.0.0.to_qkv.bias", (1536,), "it has the unexpected transformer"),
        ("pretrained", "transformer.layers.2.0.norm.weight", (768,), "it lacks transformer.layers.0"),
        ("pretrained", "transformer.layers.0.0.to_qkv.weight", (1535, 768), "1535 rows, which are not queries, keys"),
        ("pretrained", "pos_embed", (257, 768), r"pos_embed has the shape \(257, 768\) instead of 3 nonempty"),
        ("pretrained", "pos_embed", (1, 1, 768), "num_beats must be at least 1"),
        ("pretrained", "norm_layer.bias", (767,), r"inconsistent: heartlang\.norm\.bias is \(767,\) instead of \(768"),
        ("pretrained", "spa_embed.embed.weight", (12, 768), "num_lead_embeddings must be greater than the number of"),
        ("classifier", "mlp_head.bias", None, "not that of a HeartLang classifier: it lacks mlp_head.bias;"),
        ("classifier", "backbone.norm_layer.bias", None, "it lacks backbone.norm_layer.bias;"),
        ("tokenizer", "decode_task_layer.2.bias", None, "not that of a HeartLang tokenizer: it lacks decode_task_"),
        ("tokenizer", "decoder.token_embed.tokenConv.weight", (768, 96, 3), "inconsistent: decoder.embeddings.beat_"),
    ],
)
def test_when_a_tensor_is_missing_left_over_or_of_another_shape_then_it_is_named(
    kind: str, key: str, shape: tuple[int, ...] | None, message: str
) -> None:
    tensors = FILES[kind]()
    if shape is None:
        del tensors[key]
    else:
        tensors[key] = torch.zeros(shape)
    if ".layers.2." in key:
        del tensors["transformer.layers.0.0.norm.weight"]
    with pytest.raises(InputError, match=message) as caught:
        convert_heartlang_state_dict(tensors)
    assert "\n" not in str(caught.value)


def test_when_heads_cannot_be_known_or_do_not_fit_then_one_sentence_tells(released: Released) -> None:
    with pytest.raises(InputError, match="width 48 is not a released size: pass num_attention_heads"):
        convert_heartlang_state_dict(released.part("model"))
    with pytest.raises(InputError, match="144 rows, which are not queries, keys and values of 5 attention heads"):
        convert_heartlang_state_dict(released.part("model"), num_attention_heads=5)
    heads = {kind: convert_heartlang_state_dict(make()).config.num_attention_heads for kind, make in FILES.items()}
    assert heads == {"pretrained": 8, "classifier": 8, "tokenizer": 2}


# Folders


@torch.no_grad()
def test_when_files_become_folders_then_the_folders_give_the_released_numbers(
    released: Released, tmp_path: Path
) -> None:
    model, tokenizer = released.part("model"), released.part("tokenizer")
    classifier = {f"backbone.{name}": tensor for name, tensor in model.items()} | released.part("classifier")
    for name, tensors, heads in (("pretrained", model, 3), ("classifier", classifier, 3), ("tokenizer", tokenizer, 2)):
        path = save(tensors, tmp_path / f"{name}.pth")
        convert_heartlang_to_folder(path, tmp_path / name, num_attention_heads=heads)
        facts = json.loads((tmp_path / name / "conversion.json").read_text())
        assert facts["num_tensors"] == len(tensors)
        assert facts["unused_tensors"] == find_unused(tensors)
    card = (tmp_path / "tokenizer" / "README.md").read_text()
    for words in (
        "62 tensors, of which 2 are not used (mask tokens, which a tokenizer does not read); 4 are not used",
        "model = AutoModelForAudioTokenization.from_pretrained",
        "codes = model(**inputs).codes",
        "Missing leads are left out.",
        "Their repository has the MIT license but does not mention the weights",
        "on about 800,000 recordings of MIMIC-IV-ECG",
    ):
        assert words in card, words
    waveform = released.tensors["input.raw_mv500"].numpy()
    inputs = AutoFeatureExtractor.from_pretrained(tmp_path / "classifier")(
        waveform, sampling_rate=500, lead_names=json.loads(released.metadata["lead_order"]), unit="mV",
        return_tensors="pt",
    )  # fmt: skip
    encoder = AutoModelForPreTraining.from_pretrained(tmp_path / "pretrained").heartlang
    released.check("last_hidden_state_mv500", encoder(**inputs).last_hidden_state)
    logits = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")(**inputs).logits
    released.check("logits_mv500", logits)
    codes = AutoModelForAudioTokenization.from_pretrained(tmp_path / "tokenizer")(
        released.tensors["input.beats_random"]
    )
    assert codes.codes.equal(released.tensors["expected.codes_without_ids"])


def test_when_labels_are_named_then_they_are_those_of_the_classifier(tmp_path: Path) -> None:
    path = save(make_classifier(labels=2), tmp_path / "checkpoint-best.pth")
    facts = convert_heartlang_to_folder(path, tmp_path / "model", label_names=["NORM", "MI"])
    assert (facts["labels_known"], facts["kind"]) == (True, "HeartLang classifier")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "NORM", "1": "MI"}
    for labels, message in ((["NORM"], "has 2 labels but 1 names"), (["MI", "MI"], "a label name is empty or dup")):
        with pytest.raises(InputError, match=message):
            convert_heartlang_to_folder(path, tmp_path / "other", label_names=labels)
    path = save(make_pretrained(), tmp_path / "checkpoint-200.pth")
    with pytest.raises(InputError, match="a HeartLang pre-trained encoder, which has no labels"):
        convert_heartlang_to_folder(path, tmp_path / "other", label_names=["NORM"])


def test_when_recordings_are_prepared_as_released_then_flat_and_lost_leads_stay_leads() -> None:
    extractor = released_heartlang_feature_extractor()
    assert (extractor.do_mask_flat_leads, extractor.max_non_finite, extractor.scaling) == (False, 1.0, "millivolt")
    assert extractor.detector == "xqrs"


def test_when_the_command_line_converts_then_its_verbs_read_the_folder(
    released: Released, tmp_path: Path, run: Callable[..., int], refused: Callable[..., str], shared: Path
) -> None:
    for name, part, heads in (("encoder", "model", 3), ("tokenizer", "tokenizer", 2)):
        path = save(released.part(part), tmp_path / f"{name}.pth")
        run("convert", "heartlang", path, tmp_path / name, "--num-attention-heads", heads)
    record = next(shared.rglob("*.hea"))
    run("embed", record, "--model", tmp_path / "encoder", "--output", tmp_path / "embeddings.parquet")
    other = ["--output", tmp_path / "codes.parquet"]
    message = refused("embed", record, "--model", tmp_path / "encoder", "--per-lead", *other)
    assert "heartlang has no vectors per lead, only one per recording: remove --per-lead" in message
    assert "contains no complete encoder" in refused("embed", record, "--model", tmp_path / "tokenizer", *other)
    assert "convert it with `clear-hug convert heartlang`" in refused(
        "convert", "clear-hug", tmp_path / "encoder.pth", tmp_path / "clear"
    )
    run("publish", tmp_path / "encoder", "you/heartlang", "--dry-run", tmp_path / "staged")
    assert "**No license is stated for the weights" in (tmp_path / "staged" / "README.md").read_text()


@pytest.mark.parametrize(
    ("source", "file", "kind"),
    [
        ("hf://PKUDigitalHealth/HeartLang", "checkpoints/pretrain/MIMIC-IV/checkpoint-200.pth", "pre-trained encoder"),
        ("hf://PKUDigitalHealth/HeartLang/checkpoints/vqhbr/any.pth", "checkpoints/vqhbr/any.pth", "tokenizer"),
    ],
)
def test_when_weights_are_on_the_hub_then_the_named_or_the_pretrained_file_is_converted(
    source: str, file: str, kind: str, tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repository: str, name: str, revision: str | None = None) -> str:
        assert (repository, name, revision) == ("PKUDigitalHealth/HeartLang", file, None)
        make = make_tokenizer if kind == "tokenizer" else make_pretrained
        return str(save(make(), tmp_path / "downloaded.pth"))

    monkeypatch.setattr("clear_hug_hf.hub.checkpoints.hf_hub_download", download)
    run("convert", "heartlang", source, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "conversion.json").read_text())["kind"] == f"HeartLang {kind}"
