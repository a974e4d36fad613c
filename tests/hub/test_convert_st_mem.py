"""Released ST-MEM files become models with every number of theirs, and other files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from released import Released, StateDict, jepa_tensors
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    pipeline,
)
from transformers.initialization import no_init_weights

from clear_hug_hf import STANDARD_LEADS
from clear_hug_hf.hub.convert_st_mem import (
    COPIES,
    FIXED,
    convert_st_mem_checkpoint,
    convert_st_mem_state_dict,
    convert_st_mem_to_folder,
    find_unused,
)
from clear_hug_hf.modeling.configuration_st_mem import StMemConfig
from clear_hug_hf.modeling.modeling_st_mem import (
    StMemForPreTraining,
    StMemForSequenceClassification,
    StMemModel,
    make_positions,
)
from clear_hug_hf.processing import InputError


HEADS = {"num_attention_heads": 2}
BOTH_HEADS = {**HEADS, "decoder_num_attention_heads": 2}


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_st_mem_small.safetensors")


# A file of any size

_NUMBERS = torch.randn(2_500_000, generator=torch.Generator().manual_seed(0))


class _Draw:
    """Draws tensors that all differ in their first number."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *shape: int) -> torch.Tensor:
        self.count += 1
        return _NUMBERS[self.count :][: torch.Size(shape).numel()].view(shape)

    def linear(self, name: str, size: int, *inputs: int) -> StateDict:
        return {f"{name}.weight": self(size, *inputs), f"{name}.bias": self(size)}


def _layers(draw: _Draw, prefix: str, count: int, width: int, attended: int, inner: int) -> StateDict:
    tensors: StateDict = {}
    for layer in (f"{prefix}{index}" for index in range(count)):
        tensors |= draw.linear(f"{layer}.attn.norm", width)
        tensors |= draw.linear(f"{layer}.attn.fn.to_qkv", 3 * attended, width)
        tensors |= draw.linear(f"{layer}.attn.fn.to_out.0", width, attended)
        tensors |= draw.linear(f"{layer}.ff.norm", width)
        tensors |= draw.linear(f"{layer}.ff.fn.net.0", inner, width) | draw.linear(
            f"{layer}.ff.fn.net.3", width, inner
        )
    return tensors


def make_file(kind: str = "encoder", width: int = 768, layers: int = 12, decoder_width: int = 256) -> StateDict:
    """A state dict with the released names, by default of the released size; other widths have one attention head."""
    draw = _Draw()
    patches = draw.linear("to_patch_embedding.1", 75) | draw.linear("to_patch_embedding.2", width, 75)
    patches |= draw.linear("to_patch_embedding.3", width)
    tensors = {
        "pos_embedding": make_positions(30, width)[None],
        "sep_embedding": draw(width),
        **{f"lead_embeddings.{index}": draw(width) for index in range(12)},
        **patches,
        **_layers(draw, "block", layers, width, width, 4 * width),
        **draw.linear("norm", width),
    }
    if kind == "classifier":
        return tensors | draw.linear("head", 2, width)
    if kind == "full":
        tensors = {f"encoder.{key}": tensor for key, tensor in tensors.items()} | patches
        tensors |= draw.linear("to_decoder_embedding", decoder_width, width)
        tensors |= {"mask_embedding": draw(1, 1, decoder_width)}
        tensors |= {"decoder_pos_embed": make_positions(30, decoder_width)[None]}
        tensors |= _layers(draw, "decoder_blocks.", 4, decoder_width, decoder_width, 4 * decoder_width)
        tensors |= draw.linear("decoder_norm", decoder_width) | draw.linear("decoder_head", 75, decoder_width)
    return tensors


@pytest.mark.parametrize(
    ("kind", "num_tensors", "model_class"),
    [
        ("encoder", 166, StMemModel),
        ("full", 228, StMemForPreTraining),
        ("classifier", 168, StMemForSequenceClassification),
    ],
)
def test_when_a_file_has_the_released_size_then_every_number_of_it_is_in_the_model(
    kind, num_tensors, model_class
) -> None:
    tensors = make_file(kind)
    assert len(tensors) == num_tensors
    with no_init_weights():  # which takes longer than all else
        model = convert_st_mem_state_dict(tensors)
    assert type(model) is model_class
    assert not model.training
    expected = StMemConfig(num_labels=2).to_dict()
    assert {name for name, value in model.config.to_dict().items() if value != expected[name]} <= {
        *("id2label", "label2id", "dtype", "architectures")
    }
    unused = {name for names in find_unused(tensors).values() for name in names}
    by_start = {float(tensor.flatten()[0]): tensor for key, tensor in tensors.items() if key not in unused}
    assert len(by_start) == num_tensors - len(unused)
    for name, weight in model.state_dict().items():
        parts = weight if "lead_embeddings" in name else [weight]
        if any(f"{part}_proj.weight" in name for part in "kv") or any(f"{part}_proj.bias" in name for part in "kv"):
            continue  # the second and the third part of a tensor, which follow
        for part in parts:
            tensor = by_start.pop(float(part.flatten()[0]))
            if "q_proj" in name:
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    assert model.state_dict()[name.replace("q_proj", f"{letter}_proj")].equal(third), name
            else:
                assert part.equal(tensor.view(part.shape)), name
    assert not by_start


# What a file contains


def test_when_the_full_file_is_converted_then_copies_and_fixed_positions_are_named(released) -> None:
    tensors = released.part("full")
    unused = find_unused(tensors)
    assert unused[FIXED] == ["encoder.pos_embedding", "decoder_pos_embed"]
    assert len(unused[COPIES]) == 6
    key = "to_patch_embedding.2.weight"
    with pytest.raises(InputError, match=rf"^{key} differ from the same tensors of the encoder"):
        convert_st_mem_state_dict({**tensors, key: tensors[key] + 1e-3}, **BOTH_HEADS)


def test_when_positions_agree_with_the_formula_then_they_are_not_stored() -> None:
    tensors = make_file(width=8, layers=1)
    stored = "embeddings.positions.weight"
    for noise, is_learned in ((0.0, False), (9e-6, False), (1.1e-5, True), (1.0, True)):
        positions = tensors["pos_embedding"] + noise
        changed = {**tensors, "pos_embedding": positions}
        model = convert_st_mem_state_dict(changed, num_attention_heads=1)
        assert model.config.learned_positions == is_learned
        assert (stored in model.state_dict()) == is_learned
        assert (FIXED in find_unused(changed)) != is_learned
        if is_learned:
            assert model.state_dict()[stored].equal(positions[0])
    full = make_file("full", width=8, layers=1, decoder_width=4)
    full["decoder_pos_embed"] = full["decoder_pos_embed"] + 1
    learned = convert_st_mem_state_dict(full, num_attention_heads=2, decoder_num_attention_heads=1)
    assert learned.decoder.positions.weight.equal(full["decoder_pos_embed"][0])
    assert learned.st_mem.embeddings.positions.weight.equal(full["encoder.pos_embedding"][0])


# Folders


@torch.no_grad()
def test_when_files_are_converted_to_folders_then_all_auto_classes_load_them(released, tmp_path) -> None:
    files = {
        "encoder": released.part("model"),
        "full": released.part("full"),
        "classifier": released.part("model") | released.part("classifier") | released.part("free_positions"),
    }
    for name, tensors in files.items():
        torch.save({"model": tensors, "epoch": 799, "config": {"model": {"width": 40}}}, tmp_path / f"{name}.pth")
        heads = BOTH_HEADS if name == "full" else HEADS
        facts = convert_st_mem_to_folder(tmp_path / f"{name}.pth", tmp_path / name, **heads)
        assert facts == json.loads((tmp_path / name / "conversion.json").read_text())
        assert facts["num_tensors"] == len(tensors)
        assert facts["unused_tensors"] == find_unused(tensors)
        assert facts["labels_known"] == (False if name == "classifier" else None)
    card = (tmp_path / "full" / "README.md").read_text()
    for words in (
        "a pre-trained ST-MEM model",
        "6 are not used (copies of tensors of the encoder, to which they are equal); 2 are not used (fixed positions",
        "Missing leads are left out.",
        "Their authors, not `clear-hug-hf`, trained the weights",
        "Chapman-Shaoxing, Ningbo and CODE-15%",
        "The terms are unclear, and non-commercial at most: the license file of their repository is CC BY-NC 4.0",
        "arXiv 2402.09450",
    ):
        assert words in card, words
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "full")
    assert (extractor.window_seconds, extractor.num_crops, extractor.do_mask_flat_leads) == (9, 3, False)
    waveform = released.tensors["input.raw_mv500"].numpy()
    inputs = extractor(
        waveform, sampling_rate=500, lead_names=STANDARD_LEADS, unit="mV", windows="all", return_tensors="pt"
    )
    for name in ("encoder", "full"):
        encoder = AutoModel.from_pretrained(tmp_path / name).eval()
        released.check("pooled_mv500", encoder(**inputs).pooler_output)
    model, report = AutoModelForPreTraining.from_pretrained(tmp_path / "full", output_loading_info=True)
    assert not any(report.values())
    noise = released.tensors["input.noise"]
    released.check("masked_loss", model.eval()(released.tensors["input.values_random"], noise=noise).loss)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    released.check("logits_free_positions", classifier(released.tensors["input.values_random"]).logits)
    # The authors average the logits of the three windows.
    classify = pipeline("ecg-classification", model=str(tmp_path / "classifier"), function_to_apply="none")
    scores = classify(waveform, sampling_rate=500, lead_names=STANDARD_LEADS, unit="mV")
    logits = classifier(released.tensors["input.values_mv500"]).logits.mean(dim=0)
    expected = {f"LABEL_{index}": value for index, value in enumerate(logits.tolist())}
    assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(expected, abs=1e-5)


def test_when_the_command_line_converts_then_publishing_stays_non_commercial(tmp_path, run, refused) -> None:
    torch.save({"model": make_file("classifier", width=8, layers=1)}, tmp_path / "best.pth")
    command = ["convert", "st-mem", tmp_path / "best.pth", tmp_path / "model"]
    assert "the width 8 is not a released size: pass --num-attention-heads" in refused(*command)
    run(*command, "--num-attention-heads", 1, "--labels", "NORM", "MI")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "NORM", "1": "MI"}
    message = refused("publish", tmp_path / "model", "you/st-mem", "--license", "mit", "--dry-run", tmp_path / "mit")
    assert "under cc-by-nc-4.0, which forbids commercial use" in message
    run("publish", tmp_path / "model", "you/st-mem", "--license", "cc-by-nc-4.0", "--dry-run", tmp_path / "staged")
    assert "its README reserves all rights" in (tmp_path / "staged" / "README.md").read_text()


def test_when_labels_or_heads_do_not_fit_then_a_sentence_says_so(tmp_path) -> None:
    for kind in ("classifier", "encoder"):
        torch.save(make_file(kind, width=8, layers=1), tmp_path / f"{kind}.pth")
    for name, options, message in (
        ("classifier", {"label_names": ["NORM"]}, "has 2 labels but 1 names were passed"),
        ("classifier", {"label_names": ["MI", "MI"]}, "a label name is empty or duplicate"),
        ("encoder", {"label_names": ["NORM"]}, "a pre-trained ST-MEM encoder, which has no labels"),
        ("encoder", {"decoder_num_attention_heads": 1}, "which has no decoder: remove decoder_num_attention_heads"),
        ("encoder", {"num_attention_heads": 3}, "which are not queries, keys and values of 3 attention heads"),
    ):
        with pytest.raises(InputError, match=message):
            convert_st_mem_to_folder(
                tmp_path / f"{name}.pth", tmp_path / "folder", **{"num_attention_heads": 1, **options}
            )
    assert not (tmp_path / "folder").exists()


# Other files


def test_when_a_file_is_another_one_then_a_sentence_refuses_it(tmp_path) -> None:
    tensors = make_file(width=8, layers=2)

    def refuse(tensors: StateDict, message: str, **heads: int) -> None:
        with pytest.raises(InputError, match=message) as caught:
            convert_st_mem_state_dict(tensors, **{"num_attention_heads": 1, **heads})
        assert "\n" not in str(caught.value)

    refuse({key: value for key, value in tensors.items() if key != "sep_embedding"}, "it lacks sep_embedding")
    refuse({**tensors, "stem.weight": torch.zeros(1)}, r"it has the unexpected stem\.weight")
    refuse(jepa_tensors(64), "the state dict is not that of a")
    # One head of the width of its layer has no output projection.
    few = {key: value for key, value in tensors.items() if "to_out" not in key}
    refuse(few, r"it lacks block0\.attn\.fn\.to_out\.0\.weight")
    refuse({key: value for key, value in tensors.items() if key != "lead_embeddings.11"}, r"reads 11 lead\(s\)")
    refuse({**tensors, "lead_embeddings.3": torch.zeros(7)}, "shapes of the tensors are inconsistent")
    refuse({**tensors, "norm.weight": torch.zeros(7)}, "shapes of the tensors are inconsistent")
    refuse({**tensors, "pos_embedding": torch.zeros(1, 2, 8)}, "has 2 positions of 8 numbers")
    refuse({**tensors, "pos_embedding": torch.zeros(32, 8)}, "instead of 3 nonempty dimension")
    refuse({**tensors, "sep_embedding": torch.full((8,), torch.nan)}, "NaN or infinite in")
    full = make_file("full", width=8, layers=1, decoder_width=6)
    refuse(full, "features and those of the decoder 3", decoder_num_attention_heads=2)
    path = tmp_path / "file.pth"
    torch.save({"model": tensors}, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is damaged or incomplete"):
        convert_st_mem_checkpoint(path, **HEADS)
