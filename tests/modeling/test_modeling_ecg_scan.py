"""ECG-Scan aligns pages with signals and texts, and what it saves is complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    ViTConfig,
    ViTModel,
)

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugModel,
    EcgJepaConfig,
    EcgScanConfig,
    EcgScanForImageClassification,
    EcgScanForPreTraining,
    EcgScanModel,
)
from clear_hug_hf.modeling.losses_ecg_scan import gramian_volume, reconstruction_loss, soft_lead_loss


VISION = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_channels": 3,
}
TEXT = {
    "model_type": "bert",
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "type_vocab_size": 1,
}
VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 16,
}
CLIP = {**VIT, "model_type": "clip_vision_model", "image_size": 96, "projection_dim": 8}
SIGNAL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
}


def make_config(**overrides: Any) -> EcgScanConfig:
    fields: dict[str, Any] = {
        "vision_config": VISION,
        "signal_config": ClearHugConfig(**SIGNAL),
        "text_config": TEXT,
        "image_size": [64, 96],
        "num_samples": 200,
        "projection_dim": 24,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "num_labels": 3,
    }
    return EcgScanConfig(**{**fields, **overrides})


def make_batch(count: int = 6, size: tuple[int, int] = (64, 96), seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    attention_mask = torch.arange(9)[None] < torch.randint(3, 10, (count, 1), generator=generator)
    return {
        "pixel_values": torch.randn(count, 3, *size, generator=generator),
        "waveforms": 0.2 * torch.randn(count, 12, 200, generator=generator),
        "drawn_mask": torch.rand(count, 12, 200, generator=generator) < 0.5,
        "signal_mask": torch.rand(count, 12, 200, generator=generator) < 0.9,
        "identity_mask": torch.arange(count) % 2 == 0,
        "signal_embeds": torch.randn(count, 32, generator=generator),
        "input_ids": torch.randint(3, 64, (count, 9), generator=generator),
        "attention_mask": attention_mask.long(),
        "text_mask": torch.ones(count, dtype=torch.bool),
        "text_ids": torch.arange(count),
    }


# ------------------------------------------------------------------------------------------------------------- towers


def test_when_a_page_a_signal_and_a_text_are_given_then_all_are_unit_vectors_of_one_space(
    make_batch: Callable[..., dict[str, torch.Tensor]],
) -> None:
    model = EcgScanModel(make_config()).eval()
    own = globals()["make_batch"]()
    output = model(own["pixel_values"], own["input_ids"], own["attention_mask"], signal_inputs=make_batch())
    for name in ("image_embeds", "signal_embeds", "text_embeds"):
        assert output[name].shape[1] == 24
        torch.testing.assert_close(output[name].norm(dim=1), torch.ones(len(output[name])))
    torch.testing.assert_close(model.get_image_features(own["pixel_values"]), output.image_embeds)
    torch.testing.assert_close(model.get_signal_features(**make_batch()), output.signal_embeds)
    torch.testing.assert_close(model.get_text_features(own["input_ids"], own["attention_mask"]), output.text_embeds)
    assert output.logits_per_image.shape == (6, 6)
    torch.testing.assert_close(output.logits_per_image, output.logits_per_text.T)
    assert output.lead_states.shape == (6, 1, 16)


def test_when_a_text_stands_in_a_padded_batch_then_it_is_the_same_as_alone() -> None:
    model, batch = EcgScanModel(make_config()).eval(), make_batch()
    together = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    for index in range(6):
        alone = batch["input_ids"][index : index + 1, : int(batch["attention_mask"][index].sum())]
        torch.testing.assert_close(model.get_text_features(alone)[0], together[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["pooler", "first", "mean"])
def test_when_the_tower_is_a_transformer_then_pages_of_another_size_and_any_pooling_do(pooling: str) -> None:
    model = EcgScanForPreTraining(make_config(vision_config=VIT, image_pooling=pooling)).eval()
    output = model(**make_batch())
    assert output.pooler_output.shape == (6, 16)
    assert torch.isfinite(output.loss)
    if pooling != "pooler":
        assert not [name for name, _ in model.named_parameters() if "pooler" in name], "no layer without a gradient"


@pytest.mark.parametrize(
    "vision",
    [
        CLIP,
        {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ],
)
def test_when_the_tower_is_another_backbone_then_it_serves_too(vision: dict[str, Any]) -> None:
    model = EcgScanForPreTraining(make_config(vision_config=vision)).eval()
    assert torch.isfinite(model(**make_batch()).loss)
    assert model.reconstruct(make_batch()["pixel_values"]).shape == (6, 12, 200)


def test_when_the_teacher_is_ecg_jepa_then_it_serves_too() -> None:
    jepa = EcgJepaConfig.preset("tiny", hidden_size=32, num_hidden_layers=1)
    model = EcgScanModel(make_config(signal_config=jepa)).eval()
    assert model.get_signal_features(input_values=torch.randn(2, 8, 2500)).shape == (2, 24)


def test_when_a_page_is_seen_then_the_rest_of_the_batch_changes_nothing() -> None:
    model, batch = EcgScanForPreTraining(make_config()).eval(), make_batch()
    together = model.reconstruct(batch["pixel_values"])
    torch.testing.assert_close(model.reconstruct(batch["pixel_values"][2:3])[0], together[2], atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------------------------- training


def test_when_a_batch_is_learnt_by_heart_then_cosine_and_volume_both_find_each_page() -> None:
    torch.manual_seed(0)
    model, batch = EcgScanForPreTraining(make_config(label_smoothing=0.0)), make_batch(8)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-3)
    first = None
    for _ in range(60):
        loss = model(**batch).loss
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = model(**batch)
    assert output.loss.item() < 0.5 * first
    target = torch.arange(8)
    assert (output.image_embeds @ output.signal_embeds.T).argmax(dim=1).equal(target)
    assert (output.image_embeds @ output.text_embeds.T).argmax(dim=1).equal(target)
    assert gramian_volume(output.image_embeds, output.signal_embeds, output.text_embeds).argmin(dim=1).equal(target)
    assert output.top1.item() == 1.0


@pytest.mark.parametrize(
    ("vision", "pooling", "unread"),
    [
        (VIT, "pooler", ()),
        (CLIP, "pooler", ()),
        # CLIP's last norm is of the class token that it pools.
        (CLIP, "first", ("post_layernorm",)),
        (CLIP, "mean", ("post_layernorm",)),
        ({**VIT, "model_type": "dinov2"}, "mean", ("mask_token",)),
    ],
)
def test_when_it_is_trained_then_everything_but_frozen_towers_gets_a_gradient(
    vision: dict[str, Any], pooling: str, unread: tuple[str, ...], tmp_path: Path
) -> None:
    EcgScanForPreTraining(make_config(vision_config=vision, image_pooling=pooling, freeze_text=True)).save_pretrained(
        tmp_path
    )
    model = EcgScanForPreTraining.from_pretrained(tmp_path).train()
    model(**make_batch()).loss.backward()
    for name, parameter in model.named_parameters():
        frozen = any(part in name for part in ("signal_model", "text_model", *unread))
        assert (parameter.grad is None) == frozen, name
        assert parameter.requires_grad != frozen, "processes that train together wait for a gradient of it"
    assert not model.ecg_scan.signal_model.training
    assert not model.ecg_scan.text_model.training
    assert model.ecg_scan.vision_model.training


def test_when_no_recording_has_a_text_then_pages_are_aligned_with_signals_alone() -> None:
    model = EcgScanForPreTraining(make_config()).eval()
    batch = make_batch()
    batch["text_mask"] = torch.zeros(6, dtype=torch.bool)
    output = model(**batch)
    assert output.loss_volume.item() == 0.0
    without = {name: one for name, one in batch.items() if name not in ("input_ids", "attention_mask", "text_ids")}
    assert model(**without).loss_pairwise.item() == pytest.approx(output.loss_pairwise.item(), abs=1e-6)
    model.train()
    model(**batch).loss.backward()
    unread = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unread, "processes that train together need a gradient of everything"


def test_when_some_have_texts_then_only_these_are_compared_by_them() -> None:
    model, batch = EcgScanForPreTraining(make_config()).eval(), make_batch()
    batch["text_mask"] = torch.tensor([True, False, True, True, False, True])
    usual = model(**batch)
    batch["input_ids"][1] = 5
    changed = model(**batch)
    assert changed.loss.item() == pytest.approx(usual.loss.item(), abs=1e-6)
    batch["input_ids"][0] = 5
    assert model(**batch).loss.item() != pytest.approx(usual.loss.item(), abs=1e-6)


def test_when_texts_repeat_then_each_is_read_once_and_they_are_no_negatives() -> None:
    model, batch = EcgScanForPreTraining(make_config()).eval(), make_batch()
    for name in ("input_ids", "attention_mask"):
        batch[name][3] = batch[name][1]
    batch["text_ids"] = torch.tensor([4, 9, 2, 9, 1, 3])
    reads = []
    model.ecg_scan.text_model.register_forward_pre_hook(
        lambda _, args, kwargs: reads.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    once = model(**batch)
    assert reads == [5]
    assert once.duplicate_texts.item() == pytest.approx(2 / 30)
    embeds = model.ecg_scan.encode_texts(batch["input_ids"], batch["attention_mask"])
    given = {name: one for name, one in batch.items() if name not in ("input_ids", "attention_mask")}
    assert model(**given, text_embeds=embeds).loss.item() == pytest.approx(once.loss.item(), abs=1e-5)


def test_when_a_batch_is_larger_then_the_device_is_not_waited_for_more_often() -> None:
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Those whose result, or its size, the processor must know before it goes on.
            if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "_unique2", "masked_select"):
                waits.append(str(func))
            return func(*args, **(kwargs or {}))

    model, found = EcgScanForPreTraining(make_config()).train(), []
    for count in (4, 12):
        waits: list[str] = []
        batch = make_batch(count)
        batch["text_mask"] = torch.arange(count) != 1
        with Waits():
            model(**batch)
        found.append(waits)
    assert found[0] == found[1]
    # For the texts that differ, and where the text encoder asks whether they are padded.
    assert len(found[0]) <= 2


def test_when_the_terms_are_weighed_then_errors_are_in_units_of_the_huber_delta() -> None:
    model, batch = EcgScanForPreTraining(make_config(huber_delta=0.2, lead_weight=0.3)).eval(), make_batch()
    output = model(**batch)
    weights = torch.where(batch["drawn_mask"], 1.0, 0.25) * batch["signal_mask"]
    rebuilt = reconstruction_loss(output.reconstruction, batch["waveforms"], weights, 0.2)
    leads = soft_lead_loss(output.reconstruction, batch["identity_mask"])
    torch.testing.assert_close(output.loss_reconstruction, rebuilt.detach() / 0.2**2)
    torch.testing.assert_close(output.loss_lead, leads.detach() / 0.2**2)
    expected = output.loss_volume + output.loss_pairwise + (rebuilt + 0.3 * leads) / 0.2**2
    torch.testing.assert_close(output.loss, expected)


def test_when_terms_have_no_weight_then_the_loss_is_the_others() -> None:
    batch = make_batch()
    for weights in ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)):
        names = ("volume", "pairwise", "reconstruction", "lead")
        chosen = {f"{name}_weight": weight for name, weight in zip(names, weights, strict=True)}
        output = EcgScanForPreTraining(make_config(**chosen)).eval()(**batch)
        only = names[weights.index(1.0)]
        assert output.loss.item() == pytest.approx(output[f"loss_{only}"].item(), rel=1e-5)
        assert output.loss.item() > 0


def test_when_gradients_are_checkpointed_then_they_are_the_same() -> None:
    torch.manual_seed(0)
    model, batch = EcgScanForPreTraining(make_config()).train(), make_batch()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append(model.decoder.lead_queries.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_when_the_tower_is_convolutional_then_adapters_find_where_pages_come_in() -> None:
    model = EcgScanForPreTraining(make_config()).train()
    assert model.get_input_embeddings() is model.ecg_scan.vision_model.embedder.embedder.convolution
    # As peft does before it trains adapters with checkpointed gradients.
    model.enable_input_require_grads()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[2].requires_grad))
    with torch.no_grad():
        model(**make_batch())
    assert seen == [True]


def test_when_it_computes_in_bfloat16_then_losses_are_finite() -> None:
    model, batch = EcgScanForPreTraining(make_config()).train(), make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert output.loss_volume.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize(
    ("model_class", "auto_class", "name"),
    [
        (EcgScanModel, AutoModel, "image_embeds"),
        (EcgScanModel, AutoModelForZeroShotImageClassification, "image_embeds"),
        (EcgScanForPreTraining, AutoModelForPreTraining, "reconstruction"),
        (EcgScanForImageClassification, AutoModelForImageClassification, "logits"),
    ],
)
def test_when_a_model_is_saved_then_it_comes_back(
    model_class: Any, auto_class: Any, name: str, tmp_path: Path
) -> None:
    model = model_class(make_config()).eval()
    model.save_pretrained(tmp_path)
    again, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is model_class
    assert not any(info.values())
    batch = make_batch()
    inputs = batch if model_class is EcgScanForPreTraining else {"pixel_values": batch["pixel_values"]}
    torch.testing.assert_close(again.eval()(**inputs)[name], model(**inputs)[name])
    if again.base_model.signal_model is not None:
        assert not any(one.requires_grad for one in again.train().base_model.signal_model.parameters())


def test_when_temperatures_were_saved_as_scalars_then_they_load_bit_for_bit(tmp_path: Path) -> None:
    model = EcgScanForPreTraining(make_config())
    with torch.no_grad():
        model.volume_log_scale.fill_(1.2345678)
        model.ecg_scan.pairwise_log_scale.fill_(2.3456789)
    scalars = {
        name: one.reshape(()) if name.endswith("_log_scale") else one for name, one in model.state_dict().items()
    }
    model.save_pretrained(tmp_path)
    save_file(scalars, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, info = EcgScanForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    other = EcgScanForPreTraining(make_config())
    other.load_state_dict(scalars)
    for loaded in (again, other):
        for name, tensor in model.state_dict().items():
            assert tensor.equal(loaded.state_dict()[name]), name
        assert all(parameter.ndim for parameter in loaded.parameters()), "FSDP takes no scalars"


def test_when_a_classifier_is_made_of_a_pretrained_model_then_it_keeps_the_vision_tower_alone(tmp_path: Path) -> None:
    model = EcgScanForPreTraining(make_config()).eval()
    model.save_pretrained(tmp_path / "pretrained")
    classifier, info = AutoModelForImageClassification.from_pretrained(
        tmp_path / "pretrained", output_loading_info=True
    )
    assert sorted(info["missing_keys"]) == ["classifier.bias", "classifier.weight"]
    assert not info["unexpected_keys"]
    for name, tensor in classifier.ecg_scan.vision_model.state_dict().items():
        assert tensor.equal(model.ecg_scan.vision_model.state_dict()[name])
    assert not [name for name in classifier.state_dict() if "signal" in name or "text" in name]
    classifier.save_pretrained(tmp_path / "classifier")
    encoder, info = AutoModel.from_pretrained(tmp_path / "classifier", output_loading_info=True)
    assert not any(info.values())
    assert encoder.image_projection is None
    labels = torch.tensor([[1.0, 0.0, float("nan")]] * 6)
    loss = classifier(make_batch()["pixel_values"], labels=labels).loss
    assert torch.isfinite(loss)


def test_when_attention_is_eager_then_reconstructions_are_the_same(tmp_path: Path) -> None:
    EcgScanForPreTraining(make_config(vision_config=VIT)).save_pretrained(tmp_path)
    pixels = make_batch()["pixel_values"]
    found = []
    for attention in ("eager", "sdpa"):
        model = EcgScanForPreTraining.from_pretrained(tmp_path, attn_implementation=attention).eval()
        assert model.config._attn_implementation == attention
        found.append(model.reconstruct(pixels))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_when_towers_are_pretrained_then_the_model_starts_from_them(tmp_path: Path) -> None:
    vision, signal = (
        ViTModel(ViTConfig(**{k: v for k, v in VIT.items() if k != "model_type"})),
        ClearHugModel(ClearHugConfig(**SIGNAL)),
    )
    vision.save_pretrained(tmp_path / "vision")
    signal.save_pretrained(tmp_path / "signal")
    config = make_config(vision_config=None, signal_config=None, image_size=[64, 64])
    model = EcgScanForPreTraining.from_towers(config, vision=str(tmp_path / "vision"), signal=str(tmp_path / "signal"))
    for found, expected in ((model.ecg_scan.vision_model, vision), (model.ecg_scan.signal_model, signal)):
        for name, tensor in expected.state_dict().items():
            assert tensor.equal(found.state_dict()[name]), name
    assert model.config.signal_embed_dim == 32
    assert torch.isfinite(model(**make_batch(size=(64, 64))).loss)
    with pytest.raises(ValueError, match="name one of clear_hug, ecg_jepa"):
        EcgScanForPreTraining.from_towers(config, signal=str(tmp_path / "vision"))


STRANGER = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clear_hug_hf":
            raise ImportError("clear_hug_hf is not installed here")


sys.meta_path.insert(0, Refuse())

import torch
import transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
pixels = load_file(sys.argv[2])["pixel_values"]
outputs = {}
for auto_class, name in (("AutoModel", "image_embeds"), ("AutoModelForImageClassification", "logits")):
    model = getattr(transformers, auto_class).from_pretrained(sys.argv[1], trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        outputs[name] = model(pixels)[name].clone()
assert "clear_hug_hf" not in sys.modules
save_file(outputs, sys.argv[3])
"""


def test_when_the_package_is_not_installed_then_a_folder_gives_the_same_numbers(tmp_path: Path) -> None:
    model, classifier = EcgScanModel(make_config()).eval(), EcgScanForImageClassification(make_config()).eval()
    classifier.ecg_scan.vision_model.load_state_dict(model.vision_model.state_dict())
    tensors = {f"ecg_scan.{name}": tensor for name, tensor in model.state_dict().items()}
    full = EcgScanForPreTraining(make_config())
    full.ecg_scan.load_state_dict(model.state_dict())
    full.save_pretrained(
        tmp_path / "model",
        state_dict={**full.state_dict(), **tensors, **dict(classifier.state_dict())},
    )
    # As folders were saved before, with temperatures as scalars.
    saved = load_file(tmp_path / "model" / "model.safetensors")
    scalars = {name: one.reshape(()) if name.endswith("_log_scale") else one for name, one in saved.items()}
    save_file(scalars, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert written["auto_map"]["AutoModelForImageClassification"] == "modeling_ecg_scan.EcgScanForImageClassification"
    pixels = make_batch()["pixel_values"]
    save_file({"pixel_values": pixels}, tmp_path / "pixels.safetensors")
    (tmp_path / "stranger.py").write_text(STRANGER)
    arguments = [tmp_path / "model", tmp_path / "pixels.safetensors", tmp_path / "outputs.safetensors"]
    subprocess.run(
        [sys.executable, tmp_path / "stranger.py", *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
    )
    found = load_file(tmp_path / "outputs.safetensors")
    torch.testing.assert_close(found["image_embeds"], model(pixels).image_embeds.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found["logits"], classifier(pixels).logits.detach(), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------- bad input


def test_when_shapes_or_parts_do_not_fit_then_the_error_says_so() -> None:
    model, batch = EcgScanForPreTraining(make_config()).eval(), make_batch()
    with pytest.raises(ValueError, match=r"pixel_values must have shape \(any, 3, 64, 96\), got \(6, 3, 96, 64\)"):
        model(batch["pixel_values"].transpose(2, 3), waveforms=batch["waveforms"])
    with pytest.raises(ValueError, match="there is nothing to learn from"):
        model(batch["pixel_values"])
    with pytest.raises(ValueError, match=r"signal_embeds must have shape \(any, 32\)"):
        model(batch["pixel_values"], signal_embeds=torch.zeros(6, 31))
    with pytest.raises(ValueError, match="one for each of the 6 pages, got 5"):
        model(batch["pixel_values"], signal_embeds=batch["signal_embeds"][:5])
    with pytest.raises(ValueError, match=r"waveforms must have shape \(6, 12, 200\)"):
        model(batch["pixel_values"], waveforms=batch["waveforms"][..., :100])
    bare = EcgScanModel(make_config(signal_config=None, text_config=None))
    with pytest.raises(ValueError, match="the model holds no text encoder"):
        bare.get_text_features(batch["input_ids"])
    with pytest.raises(ValueError, match="the model holds no signal encoder"):
        bare.get_signal_features(input_values=torch.zeros(1, 12, 5, 96))
    with pytest.raises(ValueError, match="no head for images"):
        bare.get_image_features(batch["pixel_values"])
    with pytest.raises(ValueError, match="nothing was given"):
        bare()
    with pytest.raises(ValueError, match="there is nothing to align pages with"):
        EcgScanForPreTraining(make_config(signal_config=None, text_config=None))


@pytest.mark.slow  # compiles for a minute
def test_when_attention_is_flex_then_the_leads_are_the_same() -> None:
    model, pages = EcgScanForPreTraining(make_config()).eval(), make_batch()["pixel_values"]
    with torch.no_grad():
        expected = model.reconstruct(pages)
        model.set_attn_implementation({"": "flex_attention"})  # the decoder's, and not the towers'
        torch.testing.assert_close(model.reconstruct(pages), expected, atol=1e-5, rtol=1e-4)
