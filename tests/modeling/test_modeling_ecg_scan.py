"""ECG-Scan aligns pages with signals and texts. `tests/systems` asks it what all models owe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_systems import CLIP, PAGES, SMALL_SYSTEMS, VIT, make_beats, make_pages
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForImageClassification, ViTConfig, ViTModel

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugModel,
    EcgJepaConfig,
    EcgScanConfig,
    EcgScanForPreTraining,
    EcgScanModel,
)
from clear_hug_hf.modeling.losses_ecg_scan import gramian_volume, reconstruction_loss, soft_lead_loss


# Convolutional, where the common tests have transformers.
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_channels": 3,
}
CONVNEXT = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}


def make_config(**overrides: Any) -> EcgScanConfig:
    return SMALL_SYSTEMS["ecg_scan"].config(**{"vision_config": RESNET, "num_labels": 3, **overrides})


def pretraining(**overrides: Any) -> EcgScanForPreTraining:
    return EcgScanForPreTraining(make_config(**overrides)).eval()


make_batch = partial(make_pages, count=6)


# ------------------------------------------------------------------------------------------------------------- towers


def test_when_a_page_a_signal_and_a_text_are_given_then_all_are_unit_vectors_of_one_space() -> None:
    model, batch, beats = EcgScanModel(make_config()).eval(), make_batch(), make_beats()
    output = model(batch["pixel_values"], batch["input_ids"], batch["attention_mask"], signal_inputs=beats)
    for name in ("image_embeds", "signal_embeds", "text_embeds"):
        assert output[name].shape[1] == 24
        torch.testing.assert_close(output[name].norm(dim=1), torch.ones(len(output[name])))
    torch.testing.assert_close(model.get_image_features(batch["pixel_values"]), output.image_embeds)
    torch.testing.assert_close(model.get_signal_features(**beats), output.signal_embeds)
    torch.testing.assert_close(
        model.get_text_features(batch["input_ids"], batch["attention_mask"]), output.text_embeds
    )
    assert output.logits_per_image.shape == (6, 6)
    torch.testing.assert_close(output.logits_per_image, output.logits_per_text.T)
    assert output.lead_states.shape == (6, 1, 16)


def test_when_a_text_is_in_a_padded_batch_then_it_is_the_same_as_alone() -> None:
    model, batch = EcgScanModel(make_config()).eval(), make_batch()
    together = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    for index in range(6):
        alone = batch["input_ids"][index : index + 1, : int(batch["attention_mask"][index].sum())]
        torch.testing.assert_close(model.get_text_features(alone)[0], together[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("vision", "pooling"),
    [(VIT, "pooler"), (VIT, "first"), (VIT, "mean"), (CLIP, "pooler"), (CONVNEXT, "pooler")],
)
def test_when_the_tower_is_another_one_then_pages_of_another_size_and_any_pooling_do(
    vision: dict[str, Any], pooling: str
) -> None:
    model, batch = pretraining(vision_config=vision, image_pooling=pooling), make_batch()
    output = model(**batch)
    assert output.pooler_output.shape == (6, 16)
    assert torch.isfinite(output.loss)
    torch.testing.assert_close(model.reconstruct(batch["pixel_values"]), output.reconstruction)
    assert output.reconstruction.shape == (6, 12, 200)
    if pooling != "pooler":
        assert not [name for name, _ in model.named_parameters() if "pooler" in name], "no layer without a gradient"
        states = model.ecg_scan.encode_pages(batch["pixel_values"])[1]
        torch.testing.assert_close(output.pooler_output, states[:, 0] if pooling == "first" else states.mean(dim=1))


def test_when_the_teacher_is_ecg_jepa_then_it_serves_too() -> None:
    jepa = EcgJepaConfig.preset("tiny", hidden_size=32, num_hidden_layers=1)
    model = EcgScanModel(make_config(signal_config=jepa)).eval()
    assert model.get_signal_features(input_values=torch.randn(2, 8, 2500)).shape == (2, 24)


# ----------------------------------------------------------------------------------------------------------- training


def test_when_a_batch_is_learned_by_heart_then_cosine_and_volume_both_find_each_page() -> None:
    model, batch = pretraining(label_smoothing=0.0).train(), make_batch(count=8)
    optimizer = torch.optim.AdamW([entry for entry in model.parameters() if entry.requires_grad], lr=5e-3)
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
        # CLIP's last norm is of the class token that it pools.
        (CLIP, "first", ("post_layernorm",)),
        (CLIP, "mean", ("post_layernorm",)),
        ({**VIT, "model_type": "dinov2"}, "mean", ("mask_token",)),
    ],
)
def test_when_it_is_trained_then_everything_but_frozen_towers_gets_a_gradient(
    vision: dict[str, Any], pooling: str, unread: tuple[str, ...], tmp_path: Path
) -> None:
    pretraining(vision_config=vision, image_pooling=pooling, freeze_text=True).save_pretrained(tmp_path)
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
    model = pretraining()
    batch = make_batch()
    batch["text_mask"] = torch.zeros(6, dtype=torch.bool)
    output = model(**batch)
    assert output.loss_volume.item() == 0.0
    without = {name: entry for name, entry in batch.items() if name not in ("input_ids", "attention_mask", "text_ids")}
    assert model(**without).loss_pairwise.item() == pytest.approx(output.loss_pairwise.item(), abs=1e-6)
    model.train()
    model(**batch).loss.backward()
    unread = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unread, "processes that train together need a gradient of everything"


def test_when_some_have_texts_then_only_these_are_compared_by_them() -> None:
    model, batch = pretraining(), make_batch()
    batch["text_mask"] = torch.tensor([True, False, True, True, False, True])
    usual = model(**batch)
    batch["input_ids"][1] = 5
    changed = model(**batch)
    assert changed.loss.item() == pytest.approx(usual.loss.item(), abs=1e-6)
    batch["input_ids"][0] = 5
    assert model(**batch).loss.item() != pytest.approx(usual.loss.item(), abs=1e-6)


def test_when_texts_repeat_then_each_is_read_once_and_they_are_no_negatives() -> None:
    model, batch = pretraining(), make_batch()
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
    given = {name: entry for name, entry in batch.items() if name not in ("input_ids", "attention_mask")}
    assert model(**given, text_embeds=embeds).loss.item() == pytest.approx(once.loss.item(), abs=1e-5)


def test_when_a_batch_is_larger_then_the_device_is_not_waited_for_more_often() -> None:
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Those whose result, or its size, the processor must know before it goes on.
            if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "_unique2", "masked_select"):
                waits.append(str(func))
            return func(*args, **(kwargs or {}))

    model, result = pretraining().train(), []
    for count in (4, 12):
        waits: list[str] = []
        batch = make_batch(count=count)
        batch["text_mask"] = torch.arange(count) != 1
        with Waits():
            model(**batch)
        result.append(waits)
    assert result[0] == result[1]
    # For the texts that differ, and where the text encoder asks whether they are padded.
    assert len(result[0]) <= 2


def test_when_tokens_change_places_then_the_leads_are_others_where_places_are_known() -> None:
    torch.manual_seed(0)
    decoder, tokens = pretraining().decoder, torch.randn(2, 7, 16)
    moved = tokens[:, [0, 2, 1, 3, 4, 5, 6]]
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.3)
        torch.testing.assert_close(decoder(moved, None), decoder(tokens, None))
        assert (decoder(moved, (2, 3)) - decoder(tokens, (2, 3))).abs().mean() > 1e-3


def test_when_the_terms_are_weighed_then_errors_are_in_units_of_the_huber_delta() -> None:
    model, batch = pretraining(huber_delta=0.2, lead_weight=0.3), make_batch()
    output = model(**batch)
    weights = torch.where(batch["drawn_mask"], 1.0, 0.25) * batch["signal_mask"]
    rebuilt = reconstruction_loss(output.reconstruction, batch["waveforms"], weights, 0.2)
    leads = soft_lead_loss(output.reconstruction, batch["identity_mask"])
    torch.testing.assert_close(output.loss_reconstruction, rebuilt.detach() / 0.2**2)
    torch.testing.assert_close(output.loss_lead, leads.detach() / 0.2**2)
    expected = output.loss_volume + output.loss_pairwise + (rebuilt + 0.3 * leads) / 0.2**2
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("only", ["volume", "pairwise", "reconstruction", "lead"])
def test_when_terms_have_no_weight_then_the_loss_is_the_other(only: str) -> None:
    weights = {f"{name}_weight": float(name == only) for name in ("volume", "pairwise", "reconstruction", "lead")}
    output = pretraining(**weights)(**make_batch())
    assert output.loss.item() == pytest.approx(output[f"loss_{only}"].item(), rel=1e-5)
    assert output.loss.item() > 0


def test_when_the_tower_is_convolutional_then_adapters_find_where_pages_come_in() -> None:
    model = pretraining().train()
    assert model.get_input_embeddings() is model.ecg_scan.vision_model.embedder.embedder.convolution
    # As peft does before it trains adapters with checkpointed gradients.
    model.enable_input_require_grads()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[2].requires_grad))
    with torch.no_grad():
        model(**make_batch())
    assert seen == [True]


def test_when_autocast_to_bfloat16_then_volumes_stay_exact() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pretraining()(**make_batch()).loss_volume.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------- saving


STRANGER = """
import torch
import transformers
from safetensors.torch import load_file, save_file

model = transformers.AutoModelForPreTraining.from_pretrained(sys.argv[1], trust_remote_code=True)
assert "clear_hug_hf" not in sys.modules
save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, sys.argv[2])
"""


def test_when_temperatures_were_saved_as_scalars_then_they_load_bit_for_bit(
    stranger: Callable[..., None], tmp_path: Path
) -> None:
    """As folders were saved before; also where the package is absent."""
    model = pretraining()
    with torch.no_grad():
        model.volume_log_scale.fill_(1.2345678)
        model.ecg_scan.pairwise_log_scale.fill_(2.3456789)
    scalars = {
        name: entry.reshape(()) if name.endswith("_log_scale") else entry for name, entry in model.state_dict().items()
    }
    model.save_pretrained(tmp_path)
    save_file(scalars, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, info = EcgScanForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    other = pretraining()
    other.load_state_dict(scalars)
    stranger(STRANGER, tmp_path, tmp_path / "theirs.safetensors")
    for loaded in (again.state_dict(), other.state_dict(), load_file(tmp_path / "theirs.safetensors")):
        for name, tensor in model.state_dict().items():
            assert tensor.equal(loaded[name]), name  # and no scalar, which FSDP does not take


def test_when_a_classifier_is_made_of_a_pretrained_model_then_it_keeps_the_vision_tower_alone(tmp_path: Path) -> None:
    pretraining().save_pretrained(tmp_path / "pretrained")
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path / "pretrained")
    assert not [name for name in classifier.state_dict() if "signal" in name or "text" in name]
    classifier.save_pretrained(tmp_path / "classifier")
    assert AutoModel.from_pretrained(tmp_path / "classifier").image_projection is None


def test_when_towers_are_pretrained_then_the_model_starts_from_them(tmp_path: Path) -> None:
    vision, signal = (
        ViTModel(ViTConfig(**{k: v for k, v in VIT.items() if k != "model_type"})),
        ClearHugModel(ClearHugConfig.from_dict(PAGES["signal_config"])),
    )
    vision.save_pretrained(tmp_path / "vision")
    signal.save_pretrained(tmp_path / "signal")
    config = make_config(vision_config=None, signal_config=None, image_size=[64, 64])
    model = EcgScanForPreTraining.from_towers(config, vision=str(tmp_path / "vision"), signal=str(tmp_path / "signal"))
    for result, expected in ((model.ecg_scan.vision_model, vision), (model.ecg_scan.signal_model, signal)):
        for name, tensor in expected.state_dict().items():
            assert tensor.equal(result.state_dict()[name]), name
    assert model.config.signal_embed_dim == 32
    assert torch.isfinite(model(**make_batch(width=64)).loss)
    with pytest.raises(ValueError, match="choose one of clear_hug, ecg_jepa"):
        EcgScanForPreTraining.from_towers(config, signal=str(tmp_path / "vision"))


# ---------------------------------------------------------------------------------------------------------- bad input


def test_when_shapes_or_parts_do_not_fit_then_the_error_reports_it() -> None:
    model, batch = pretraining(), make_batch()
    with pytest.raises(ValueError, match=r"pixel_values must have shape \(any, 3, 64, 96\), got \(6, 3, 96, 64\)"):
        model(batch["pixel_values"].transpose(2, 3), waveforms=batch["waveforms"])
    with pytest.raises(ValueError, match="no training targets were passed"):
        model(batch["pixel_values"])
    with pytest.raises(ValueError, match=r"signal_embeds must have shape \(any, 32\)"):
        model(batch["pixel_values"], signal_embeds=torch.zeros(6, 31))
    with pytest.raises(ValueError, match="one row for each of the 6 pages, got 5"):
        model(batch["pixel_values"], signal_embeds=batch["signal_embeds"][:5])
    bare = EcgScanModel(make_config(signal_config=None, text_config=None))
    with pytest.raises(ValueError, match="the model has no text encoder"):
        bare.get_text_features(batch["input_ids"])
    with pytest.raises(ValueError, match="the model has no signal encoder"):
        bare.get_signal_features(input_values=torch.zeros(1, 12, 5, 96))
    with pytest.raises(ValueError, match="no image projection"):
        bare.get_image_features(batch["pixel_values"])
    with pytest.raises(ValueError, match="no inputs were passed"):
        bare()
    with pytest.raises(ValueError, match="defines neither signals nor texts to align"):
        EcgScanForPreTraining(make_config(signal_config=None, text_config=None))


@pytest.mark.slow  # compiles for a minute
def test_when_attention_is_flex_then_the_leads_are_the_same() -> None:
    model, pages = EcgScanForPreTraining(make_config()).eval(), make_batch()["pixel_values"]
    with torch.no_grad():
        expected = model.reconstruct(pages)
        model.set_attn_implementation({"": "flex_attention"})  # the decoder's, and not the towers'
        torch.testing.assert_close(model.reconstruct(pages), expected, atol=1e-5, rtol=1e-4)
