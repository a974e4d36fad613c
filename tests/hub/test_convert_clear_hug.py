"""Released weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from clear_hug_hf.hub import convert_clear_hug_checkpoint, convert_clear_hug_state_dict, load_clear_hug_state_dict
from clear_hug_hf.modeling import ClearHugForPreTraining, ClearHugForSequenceClassification


IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


class Released:
    """The released layers at a small size with random weights: state dicts, inputs, and what they compute."""

    def __init__(self, path):
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.heads = {
            "num_attention_heads": int(self.metadata["heads"]),
            "decoder_num_attention_heads": int(self.metadata["decoder_heads"]),
        }
        self.inputs = {
            "input_values": self.tensors["input.signals"].unflatten(1, (12, 15)),
            "time_ids": self.tensors["input.time_ids"].unflatten(1, (12, 15)),
        }
        self.masked = self.tensors["input.masked"].view(1, 12, 15).expand(3, -1, -1)

    def state_dict(self, name: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(f"{name}."): tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}.")
        }

    def convert(self, name: str, implementation: str = "sdpa", **options):
        model = convert_clear_hug_state_dict(self.state_dict(name), **{**self.heads, **options})
        model.set_attn_implementation(implementation)
        return model

    def check(self, name: str, actual: torch.Tensor) -> None:
        expected = self.tensors[f"expected.{name}"]
        torch.testing.assert_close(actual.reshape(expected.shape), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def released(shared) -> Released:
    return Released(shared / "parity" / "official_clear_small.safetensors")


@IMPLEMENTATIONS
@pytest.mark.parametrize("as_noise", [False, True])
def test_when_pretrained_weights_are_converted_then_loss_and_reconstruction_agree(released, implementation, as_noise):
    model = released.convert("pretrain", implementation, cls_attention="lead")
    assert isinstance(model, ClearHugForPreTraining)
    hidden = {"noise": released.masked.float()} if as_noise else {"masked_positions": released.masked}
    with torch.no_grad():
        output = model(**released.inputs, **hidden)
    assert output.masked_positions.equal(released.masked)
    released.check("reconstruction", output.reconstruction)
    released.check("loss", output.loss)


@IMPLEMENTATIONS
def test_when_the_encoder_is_converted_then_states_agree(released, implementation):
    for name in ("pretrain", "linear", "hug"):
        encoder = released.convert(name, implementation, cls_attention="lead").clear_hug
        with torch.no_grad():
            released.check("last_hidden_state", encoder(**released.inputs).last_hidden_state)


@IMPLEMENTATIONS
def test_when_the_released_bias_is_kept_then_states_are_those_of_the_code_as_it_runs(released, implementation):
    model = released.convert("pretrain", implementation)
    assert model.config.cls_attention == "reference_bias"
    with torch.no_grad():
        released.check("released_bias_hidden_state", model.clear_hug(**released.inputs).last_hidden_state)


@IMPLEMENTATIONS
def test_when_classifiers_are_converted_then_logits_and_groups_agree(released, implementation):
    linear = released.convert("linear", implementation, cls_attention="lead")
    assert isinstance(linear, ClearHugForSequenceClassification)
    assert (linear.config.head_type, linear.config.num_labels) == ("mean", 5)
    hug = released.convert("hug", implementation, cls_attention="lead")
    assert (hug.config.head_type, hug.config.num_labels) == ("hug", 5)
    with torch.no_grad():
        released.check("linear_logits", linear(**released.inputs).logits)
        output = hug(**released.inputs)
    released.check("hug_groups", output.group_states)
    released.check("hug_logits", output.logits)


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    model = released.convert("pretrain")
    config, metadata = model.config, released.metadata
    assert config.hidden_size == int(metadata["embed_dim"])
    assert config.num_hidden_layers == int(metadata["depth"])
    assert config.intermediate_size == config.decoder_intermediate_size == int(metadata["mlp_dim"])
    assert config.decoder_hidden_size == int(metadata["decoder_embed_dim"])
    assert config.decoder_num_hidden_layers == int(metadata["decoder_depth"])
    assert (config.num_beats, config.beat_length, config.beat_embedding) == (15, 96, "conv")
    assert not model.training


def test_when_converted_then_it_saves_and_loads_as_any_model(released, tmp_path):
    hug = released.convert("hug", id2label=dict(enumerate("ABCDE")))
    hug.save_pretrained(tmp_path)
    loaded = ClearHugForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label[4] == "E"
    with torch.no_grad():
        assert loaded(**released.inputs).logits.equal(hug(**released.inputs).logits)


@pytest.mark.parametrize(
    ("width", "decoder_width", "heads", "decoder_heads"), [(768, 512, 8, 16), (1024, 1024, 16, 16)]
)
def test_when_sizes_are_released_ones_then_heads_are_known(width, decoder_width, heads, decoder_heads):
    model = convert_clear_hug_state_dict(released_tensors(width, decoder_width))
    assert model.config.num_attention_heads == heads
    assert model.config.decoder_num_attention_heads == decoder_heads


def released_tensors(width: int, decoder_width: int) -> dict[str, torch.Tensor]:
    """A pre-trained state dict with one narrow layer each in encoder and decoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (12, width),
        "pos_embed": (1, 192, width),
        "mask_token": (1, 1, decoder_width),
        "decoder_pos_embed": (1, 192, decoder_width),
        "token_embed.tokenConv.weight": (width, 96, 3),
        "spa_embed.embed.weight": (16, width),
        "tem_embed.embed.weight": (16, width),
        "decoder_embed.weight": (decoder_width, width),
        "decoder_embed.bias": (decoder_width,),
        "decoder_pred.weight": (96, decoder_width),
        "decoder_pred.bias": (96,),
    }
    for norm, size in (("norm_layer", width), ("decoder_norm", decoder_width)):
        shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    for stack, size in (("encoder_transformer", width), ("decoder_transformer", decoder_width)):
        layer = f"{stack}.layers.0"
        shapes |= {
            f"{layer}.self_attn.in_proj_weight": (3 * size, size),
            f"{layer}.self_attn.in_proj_bias": (3 * size,),
        }
        shapes |= {f"{layer}.self_attn.out_proj.weight": (size, size), f"{layer}.self_attn.out_proj.bias": (size,)}
        shapes |= {f"{layer}.ff.0.weight": (8, size), f"{layer}.ff.0.bias": (8,)}
        shapes |= {f"{layer}.ff.3.weight": (size, 8), f"{layer}.ff.3.bias": (size,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{layer}.{norm}.weight": (size,), f"{layer}.{norm}.bias": (size,)}
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


# Files


def test_when_a_file_is_read_then_both_formats_give_the_same_tensors(tmp_path):
    tensors = released_tensors(768, 512)
    torch.save({"model": tensors, "epoch": 99}, tmp_path / "checkpoint.pth")
    torch.save(tensors, tmp_path / "plain.pth")
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("checkpoint.pth", "plain.pth", "model.safetensors"):
        loaded = load_clear_hug_state_dict(tmp_path / name)
        assert loaded.keys() == tensors.keys()
    assert isinstance(convert_clear_hug_checkpoint(tmp_path / "checkpoint.pth"), ClearHugForPreTraining)


def test_when_a_file_would_run_code_then_it_is_not_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code ran')",))

    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_clear_hug_state_dict(tmp_path / "bomb.pth")


def test_when_a_file_is_missing_or_holds_no_state_dict_then_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*absent\.pth"):
        load_clear_hug_state_dict(tmp_path / "absent.pth")
    for content in ([torch.zeros(1)], {"model": {"epoch": 3}}, torch.zeros(2)):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="holds no state dict"):
            load_clear_hug_state_dict(tmp_path / "other.pth")


def test_when_keys_are_left_over_then_they_are_named():
    tensors = released_tensors(768, 512)
    tensors["moe.level9.weight"] = torch.zeros(1)
    tensors["encoder_transformer.layers.0.norm3.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"no CLEAR-HUG model has: encoder_.*norm3\.weight, moe\.level9\.weight"):
        convert_clear_hug_state_dict(tensors)


@pytest.mark.parametrize(
    "key", ["mask_token", "norm_layer.bias", "decoder_transformer.layers.0.self_attn.in_proj_bias"]
)
def test_when_a_key_is_missing_then_it_is_named(key):
    tensors = released_tensors(768, 512)
    del tensors[key]
    with pytest.raises(ValueError, match=f"lacks {key}"):
        convert_clear_hug_state_dict(tensors)


def test_when_it_is_no_clear_hug_file_then_it_is_refused():
    with pytest.raises(ValueError, match="no CLEAR-HUG state dict: it has no 'cls_token'"):
        convert_clear_hug_state_dict({"conv1.weight": torch.zeros(3)})


def test_when_heads_cannot_be_known_then_they_are_asked_for():
    with pytest.raises(ValueError, match="width 64 is not a released size: pass num_attention_heads"):
        convert_clear_hug_state_dict(released_tensors(64, 512))
    with pytest.raises(ValueError, match="width 48 is not a released size: pass decoder_num_attention_heads"):
        convert_clear_hug_state_dict(released_tensors(768, 48))


def test_when_shapes_contradict_each_other_then_it_is_refused():
    tensors = released_tensors(768, 512)
    tensors["decoder_pred.weight"] = torch.zeros(50, 512)
    with pytest.raises(
        ValueError, match=r"do not fit together: decoder\.prediction\.weight is \(50, 512\) and not \(96, 512\)"
    ):
        convert_clear_hug_state_dict(tensors)
    tensors = released_tensors(768, 512)
    tensors["pos_embed"] = torch.zeros(1, 190, 768)
    with pytest.raises(ValueError, match="whole number of beats"):
        convert_clear_hug_state_dict(tensors)
