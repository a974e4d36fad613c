"""Released ECG-CPC weights are read from a file of Lightning, whose other objects are never imported."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from released import Released
from transformers import AutoModel, AutoModelForPreTraining

from clear_hug_hf.hub import convert_ecg_cpc
from clear_hug_hf.hub.convert_ecg_cpc import convert_ecg_cpc_state_dict, convert_ecg_cpc_to_folder
from clear_hug_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from clear_hug_hf.modeling.modeling_ecg_cpc import EcgCpcForPreTraining, EcgCpcModel
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_ecg_cpc import EcgCpcFeatureExtractor
from clear_hug_hf.utils.files import file_digest


FIRST_KERNEL = "ts_encoder.predictor.predictor.s4_layers.0.kernel.kernel"
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "kernel_length": 40}
LETTERS = {
    "output_weights": "C",
    "input_weights": "B",
    "left": "P",
    "right": "Q",
    "eigenvalues": "w",
    "log_step": "log_dt",
}


def released_tensors(**fields: Any) -> dict[str, torch.Tensor]:
    """Random tensors with the released names, for the network of a config."""
    model = EcgCpcForPreTraining(EcgCpcConfig(**fields))
    length = model.config.kernel_length
    angles = torch.arange(length // 2 + 1, dtype=torch.float64) * (-2 * math.pi / length)
    roots = torch.complex(angles.cos(), angles.sin())
    tables = {"omega": roots, "z": 2 * (1 - roots) / (1 + roots)}
    tensors = {
        f"ts_encoder.predictor.predictor.s4_layers.{index}.kernel.kernel.{name}": torch.view_as_real(table).float()
        for index in range(model.config.num_hidden_layers)
        for name, table in tables.items()
    }
    for key, tensor in model.state_dict().items():
        value = torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor + 7
        name = key.rpartition(".")[2]
        if name in ("output_weights", "input_weights", "left", "right", "skip"):
            value = value[None]
        tensors[_released_name(key)] = value[:, None] if key.endswith("s4.output.bias") else value
    return tensors


def _released_name(key: str) -> str:
    if key == "projection.weight":
        return "ts_encoder.head_ssl.proj.0.weight"
    _, part, index, *rest = key.split(".")
    if part == "convolutions":
        return f"ts_encoder.encoder.layers.{index}.{0 if rest[0] == 'conv' else 1}.{rest[1]}"
    if rest[0] == "norm":
        return f"ts_encoder.predictor.predictor.norms.{index}.{rest[1]}"
    name = {"skip": "D", "kernel": f"kernel.kernel.{LETTERS.get(rest[-1])}", "output": f"output_linear.0.{rest[-1]}"}
    return f"ts_encoder.predictor.predictor.s4_layers.{index}.{name[rest[1]]}"


@pytest.fixture
def save_lightning(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Saves tensors as Lightning does, with hyper-parameters of a library that is missing afterwards."""
    module = ModuleType("foreign_library")
    module.Options = type("Options", (dict,), {"__module__": "foreign_library"})  # type: ignore[attr-defined]

    def save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "foreign_library", module)
            options = module.Options(rate=240, nested=module.Options())
            optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
            content = {"epoch": 3, "state_dict": tensors, "hyper_parameters": options, "optimizer_states": [optimizer]}
            torch.save(content, path)
        return path

    return save


# Weights


def test_when_the_size_is_the_released_one_then_all_tensors_go_in_and_come_out() -> None:
    tensors = released_tensors()
    assert len(tensors) == 77
    model = convert_ecg_cpc_state_dict(tensors)
    assert isinstance(model, EcgCpcForPreTraining)
    assert not model.training
    default = EcgCpcConfig().to_dict()
    assert {name: value for name, value in model.config.to_dict().items() if default[name] != value} == {}
    parameters = sum(parameter.numel() for parameter in model.ecg_cpc.parameters())
    assert parameters == pytest.approx(2.93e6, rel=0.01)
    found = {_released_name(key): tensor for key, tensor in model.state_dict().items()}
    for key, tensor in found.items():
        if not key.endswith("num_batches_tracked"):
            assert tensor.equal(tensors[key].reshape(tensor.shape)), key
    assert tensors.keys() - found.keys() == {key for key in tensors if key.endswith(("omega", "z"))}


def test_when_there_is_no_projection_then_it_is_the_encoder() -> None:
    tensors = released_tensors(**SMALL)
    complete = convert_ecg_cpc_state_dict(tensors)
    del tensors["ts_encoder.head_ssl.proj.0.weight"]
    encoder = convert_ecg_cpc_state_dict(tensors)
    assert type(encoder) is EcgCpcModel
    inputs = torch.randn(1, 12, 100)
    with torch.no_grad():
        assert encoder(inputs).pooler_output.equal(complete.ecg_cpc(inputs).pooler_output)


def test_when_a_file_is_converted_then_foreign_objects_are_not_imported_and_a_folder_comes_out(
    tmp_path: Path, shared: Path, save_lightning: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = Released(shared / "parity" / "official_ecg_cpc_small.safetensors")
    path = save_lightning(released.part("model"), tmp_path / "last.ckpt")
    monkeypatch.setitem(convert_ecg_cpc.DIGESTS, file_digest(path), "last_11597276.ckpt")
    facts = convert_ecg_cpc_to_folder(path, tmp_path / "converted")
    assert "foreign_library" not in sys.modules
    assert (facts["kind"], facts["size"], facts["num_tensors"]) == ("pre-trained ECG-CPC model", None, 51)
    unused = [key for keys in facts["unused_tensors"].values() for key in keys]
    assert len(unused) == 8
    assert {key.rpartition(".")[2] for key in unused} == {"omega", "z", "num_batches_tracked"}
    assert facts == json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert facts["sha256"] == file_digest(path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "converted").eval()
    encoder = AutoModel.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        released.check("predicted_mv500", model(released.tensors["input.values_mv500"]).prediction, 5e-5)
        released.check("pooled_mv500", encoder(released.tensors["input.values_mv500"]).pooler_output, 5e-5)
    extractor = EcgCpcFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert (extractor.sampling_rate, extractor.window_seconds, extractor.preprocessing) == (240, 2.5, "evaluation")
    card = (tmp_path / "converted" / "README.md").read_text()
    for words in ("HEEDB", "Al-Masud", "states no license", "as a third party states it", "CC BY 4.0"):
        assert words in card, words


def test_when_the_released_archive_is_named_then_the_checkpoint_in_it_is_converted(
    tmp_path: Path, save_lightning: Any
) -> None:
    path = save_lightning(released_tensors(**SMALL), tmp_path / "last_11597276.ckpt")
    with zipfile.ZipFile(tmp_path / "figshare.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "checkpoints/last_11597276.ckpt")
        archive.writestr("checkpoints/config_last_11597276_ckpt.yaml", "rate: 240")
    facts = convert_ecg_cpc_to_folder(tmp_path / "figshare.zip", tmp_path / "converted")
    assert (facts["file"], facts["sha256"]) == ("last_11597276.ckpt", file_digest(path))
    # The same checkpoint, unpacked, may be converted again.
    again = convert_ecg_cpc_to_folder(path, tmp_path / "converted")
    assert again == facts


# Bad input


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "ts_encoder.encoder.layers.2.0.weight",
            None,
            r"ECG-CPC model: it lacks ts_encoder\.encoder\.layers\.2\.0\.wei",
        ),
        (f"{FIRST_KERNEL}.C", None, r"it lacks \S+\.kernel\.kernel\.C;"),
        ("ts_encoder.other", torch.zeros(1), r"it has the unexpected ts_encoder\.other;"),
        (f"{FIRST_KERNEL}.omega", torch.zeros(21, 2), r"omega is not the table of the frequencies of 40 tokens"),
        (f"{FIRST_KERNEL}.omega", torch.zeros(1, 2), r"omega is not the table of the frequencies of 0 tokens"),
        (f"{FIRST_KERNEL}.z", torch.zeros(21, 2), r"\.z is not the table of the frequencies of 40 tokens"),
        (f"{FIRST_KERNEL}.z", torch.zeros(20, 2), r"\.z is not the table of the frequencies of 40 tokens"),
        (f"{FIRST_KERNEL}.w", torch.zeros(16, 3, 2), r"eigenvalues is \(16, 3, 2\) instead of \(16, 4, 2\)"),
        (f"{FIRST_KERNEL}.C", torch.zeros(2, 16, 4, 2), r"output_weights is \(2, 16, 4, 2\) instead of \(16, 4, 2\)"),
        (f"{FIRST_KERNEL}.log_dt", torch.full((16,), torch.nan), r"NaN or infinite in \S+log_step"),
        ("ts_encoder.encoder.layers.0.0.weight", torch.zeros(16, 8, 3), r"reads 8 lead\(s\): pass lead_names"),
        ("ts_encoder.encoder.layers.0.0.weight", torch.zeros(16, 12, 4), "conv_kernel_size must be odd, got 4"),
        ("ts_encoder.encoder.layers.0.0.weight", torch.zeros(16, 12), r"has the shape \(16, 12\) instead of 3"),
    ],
)
def test_when_a_tensor_is_missing_or_wrong_then_one_sentence_names_it(
    key: str, value: torch.Tensor | None, message: str
) -> None:
    tensors = released_tensors(**SMALL)
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value
    with pytest.raises(InputError, match=message) as caught:
        convert_ecg_cpc_state_dict(tensors)
    assert "\n" not in str(caught.value)


def test_when_tables_of_layers_differ_then_they_are_refused() -> None:
    tensors = released_tensors(**SMALL)
    other = released_tensors(**{**SMALL, "kernel_length": 60})
    tensors |= {key: tensor for key, tensor in other.items() if ".1.kernel.kernel." in key}
    with pytest.raises(InputError, match=r"tables of the layers are of \[40, 60\] tokens"):
        convert_ecg_cpc_state_dict(tensors)


def test_when_leads_are_others_then_they_must_be_named() -> None:
    tensors = released_tensors(**SMALL, lead_names=["I", "II"])
    with pytest.raises(InputError, match="pass lead_names"):
        convert_ecg_cpc_state_dict(tensors)
    model = convert_ecg_cpc_state_dict(tensors, lead_names=["I", "II"])
    assert model.config.lead_names == ["I", "II"]


def test_when_the_file_is_cut_off_or_of_another_system_then_nothing_is_written(
    tmp_path: Path, save_lightning: Any
) -> None:
    path = save_lightning(released_tensors(**SMALL), tmp_path / "last.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:-2000])
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2, 2)}}, tmp_path / "other.ckpt")
    for name, message in (
        ("cut.ckpt", "damaged or incomplete"),
        ("other.ckpt", "is not that of a pre-trained ECG-CPC"),
    ):
        with pytest.raises(InputError, match=message):
            convert_ecg_cpc_to_folder(tmp_path / name, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
