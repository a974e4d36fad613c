"""A released file gives its tensors, and one that is damaged, strange or could run code gives one sentence."""

from __future__ import annotations

import argparse
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clear_hug_hf.hub.checkpoints import (
    check_keys,
    checkpoint_digest,
    fill_model,
    load_state_dict,
    summarize_names,
)
from clear_hug_hf.processing import InputError
from clear_hug_hf.utils.files import file_digest


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"b.weight": torch.randn(40, 30, generator=generator), "a.bias": torch.randn(30, generator=generator)}


def refuse(path: Path, match: str, **kwargs) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_state_dict(path, **kwargs)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


class Bomb:
    """Its pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Strange:
    pass


# Formats


@pytest.mark.parametrize("zipped", [True, False])
def test_when_a_file_is_read_then_every_form_gives_the_same_tensors(tmp_path, tensors, zipped):
    torch.save({"model": tensors, "epoch": 99}, tmp_path / "entry.pth", _use_new_zipfile_serialization=zipped)
    torch.save(tensors, tmp_path / "plain.pth", _use_new_zipfile_serialization=zipped)
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("entry.pth", "plain.pth", "model.safetensors"):
        loaded = load_state_dict(tmp_path / name)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_when_one_bit_of_the_weights_flips_then_the_file_is_refused(tmp_path, tensors):
    path = tmp_path / "flipped.pth"
    torch.save({"model": tensors}, path)
    content = bytearray(path.read_bytes())
    content[content.index(tensors["b.weight"].numpy().tobytes()) + 100] ^= 1
    path.write_bytes(content)
    refuse(path, r"is damaged: the checksum of \S+ in it is wrong; download it again")


def test_when_a_file_was_saved_without_checksums_then_it_is_read(tmp_path, tensors):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors, tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(computed)
    assert torch.equal(load_state_dict(tmp_path / "plain.pth")["b.weight"], tensors["b.weight"])


def test_when_the_state_dict_has_another_name_then_it_is_found_by_it(tmp_path, tensors):
    torch.save({"encoder": tensors, "epoch": 99}, tmp_path / "encoder.pth")
    assert load_state_dict(tmp_path / "encoder.pth", entry="encoder").keys() == tensors.keys()
    refuse(tmp_path / "encoder.pth", "neither at the top level nor under 'model': its entries are 'encoder', 'epoch'")


def test_when_a_training_script_left_its_options_and_optimizer_then_the_weights_are_read(tmp_path, tensors):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    checkpoint = {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "epoch": 99,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(
            lr=5e-4, opt_betas=[0.9, 0.98], nested=argparse.Namespace(device=torch.device("cpu"))
        ),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert load_state_dict(tmp_path / "checkpoint.pth").keys() == tensors.keys()
    # What was allowed for this file is not allowed from then on.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.pth", weights_only=True)


# Code


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "args"])
def test_when_a_file_would_run_code_then_it_is_not_opened_and_the_function_is_named(tmp_path, tensors, zipped, place):
    made = tmp_path / "made by the file"
    for content, name in ((Bomb(exec, f"open({str(made)!r}, 'w')"), r"\S*exec"), (Strange(), r"\S*Strange")):
        checkpoint = {"model": tensors, "args": argparse.Namespace(value=1), place: content}
        torch.save(checkpoint, tmp_path / "bomb.pth", _use_new_zipfile_serialization=zipped)
        refuse(
            tmp_path / "bomb.pth", rf"other objects than tensors and plain values \({name}\): it is not loaded because"
        )
    assert not made.exists()


def test_when_code_hides_in_a_namespace_then_it_is_not_opened(tmp_path, tensors):
    made = tmp_path / "made by the file"
    hidden = argparse.Namespace(value=Bomb(exec, f"open({str(made)!r}, 'w')"))
    torch.save({"model": tensors, "args": hidden}, tmp_path / "bomb.pth")
    refuse(tmp_path / "bomb.pth", r"\(\S*exec\)")
    assert not made.exists()


def test_when_a_file_is_a_program_or_a_whole_model_then_it_is_not_opened(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    refuse(tmp_path / "module.pth", r"torch\.nn\.modules\.linear\.Linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "program.pth")
    refuse(tmp_path / "program.pth", "TorchScript program")


# Objects of other libraries


@pytest.fixture
def make_foreign(monkeypatch):
    """Makes objects of a class, of a subclass of dict and of one of list, of a library that is missing afterwards."""
    module = ModuleType("foreign_library")
    for name, base in (("Options", object), ("Table", dict), ("Row", list)):
        setattr(module, name, type(name, (base,), {"__module__": "foreign_library"}))
    monkeypatch.setitem(sys.modules, "foreign_library", module)

    def make():
        options = module.Options()
        options.rate = module.Row([1, 2.5, options])
        return {"options": options, "table": module.Table(a=options), "kind": module.Options}

    return make


@pytest.mark.parametrize("zipped", [True, False])
def test_when_a_file_holds_objects_of_a_missing_library_then_its_tensors_are_read_on_request(
    tmp_path, tensors, make_foreign, monkeypatch, zipped
):
    base = torch.arange(12).reshape(3, 4)
    weights = OrderedDict(
        **tensors,
        view=base[1:, ::2],
        half=torch.ones(3).to(torch.bfloat16),
        empty=torch.zeros(0, 2),
        scalar=torch.tensor(True),
        parameter=torch.nn.Parameter(torch.ones(2)),
        tied=base,
    )
    weights._metadata = {"": {"version": 1}}
    checkpoint = {"state_dict": weights, "hyper_parameters": make_foreign(), "optimizer": {"state": torch.ones(5)}}
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    torch.save({"model": make_foreign()}, tmp_path / "no_tensors.ckpt", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "foreign_library")

    refuse(path, r"foreign_library\.\w+\): it is not loaded because it could run code")
    loaded = load_state_dict(path, foreign=True)
    assert list(loaded) == list(weights)
    for key, tensor in weights.items():
        assert loaded[key].dtype == tensor.dtype
        assert torch.equal(loaded[key], tensor)
    assert "foreign_library" not in sys.modules
    refuse(
        tmp_path / "no_tensors.ckpt",
        r"no state dict, neither at the top level nor under 'model': its entries are 'model'",
        foreign=True,
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_when_a_file_tries_to_run_a_command_then_nothing_runs_and_no_object_passes_for_a_tensor(
    tmp_path, tensors, zipped
):
    made = tmp_path / "made by the file"
    path = tmp_path / "bomb.ckpt"
    bombs = [
        Bomb(exec, f"open({str(made)!r}, 'w')"),
        Bomb(Path.touch, made),
        Bomb(pickle.loads, pickle.dumps(Bomb(Path.touch, made))),
    ]
    torch.save({"state_dict": tensors, "hyper_parameters": bombs}, path, _use_new_zipfile_serialization=zipped)
    assert load_state_dict(path, foreign=True).keys() == tensors.keys()
    torch.save({"state_dict": {**tensors, "c": bombs[0]}}, path, _use_new_zipfile_serialization=zipped)
    refuse(path, r"values that are not tensors: c \(a exec\)", foreign=True)
    torch.save(bombs[1], path, _use_new_zipfile_serialization=zipped)
    refuse(path, "contains no state dict but a ", foreign=True)
    assert not made.exists()


@pytest.mark.parametrize(
    "name", ["collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter"]
)
def test_when_a_file_tries_to_change_the_reader_then_later_files_are_read_as_before(tmp_path, tensors, name):
    torch.save({"state_dict": tensors, "other": Strange()}, tmp_path / "good.ckpt")
    # Sets attributes of the function that the file names, as a dict and as slots.
    state = b"}(X\x07\x00\x00\x00__new__NX\x08\x00\x00\x00__init__Nu"
    for change in (state, b"N" + state + b"\x86"):
        with zipfile.ZipFile(tmp_path / "change.ckpt", "w") as archive:
            archive.writestr("change/data.pkl", b"\x80\x02c" + name.encode() + b"\n" + change + b"b.")
        refuse(tmp_path / "change.ckpt", "contains no state dict but a type", foreign=True)
        assert load_state_dict(tmp_path / "good.ckpt", foreign=True).keys() == tensors.keys()


def test_when_numpy_numbers_are_beside_the_weights_then_they_are_read_and_other_numpy_objects_are_not(
    tmp_path, tensors
):
    for number, value in enumerate((np.float64(0.93), np.int64(7), np.float32(0.5), np.bool_(True))):
        torch.save({"state_dict": tensors, "val_auroc": value}, tmp_path / f"{number}.pth")
        assert load_state_dict(tmp_path / f"{number}.pth").keys() == tensors.keys()
    torch.save({"state_dict": tensors, "scores": np.ones(3)}, tmp_path / "array.pth")
    refuse(tmp_path / "array.pth", "other objects than tensors and plain values")
    torch.save({"state_dict": tensors, "a": np.array([Strange()], dtype=object)[:1]}, tmp_path / "object.pth")
    refuse(tmp_path / "object.pth", "other objects than tensors and plain values")


# Archives


def zip_files(path: Path, compression: int = zipfile.ZIP_DEFLATED, **files: Path) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("weights/", "")
        archive.writestr("config.yaml", "rate: 240")
        for name, file in files.items():
            archive.write(file, name)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "name", ["last.ckpt", "weights/last.pth", "../../last.pt", "/etc/last.safetensors", "..\\last.pt"]
)
def test_when_an_archive_holds_a_checkpoint_then_it_is_read_without_unpacking(
    tmp_path, tensors, make_foreign, name, compression
):
    whole = tmp_path / "whole"
    if name.endswith(".safetensors"):
        save_file(tensors, whole)
    else:
        torch.save({"state_dict": tensors, "hyper_parameters": make_foreign()}, whole)
    (tmp_path / "folder").mkdir()
    path = zip_files(
        tmp_path / "folder" / "released.zip", compression, **{name: whole, "__MACOSX/._last.ckpt": Path(__file__)}
    )
    before = sorted(tmp_path.rglob("*"))
    loaded = load_state_dict(path, foreign=True)
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    assert checkpoint_digest(path) == file_digest(whole) == checkpoint_digest(whole)
    assert sorted(tmp_path.rglob("*")) == before


def test_when_an_archive_is_ambiguous_or_damaged_then_one_sentence_names_it(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.pth")
    refuse(
        zip_files(tmp_path / "two.zip", **{"a.pth": tmp_path / "a.pth", "b/a.pt": tmp_path / "a.pth"}),
        r"contains 2 checkpoints \(a\.pth, b/a\.pt\): unpack it and name one of them",
    )
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:3000])
    refuse(
        zip_files(tmp_path / "cut.zip", **{"cut.pth": tmp_path / "cut.pth"}),
        r"^cut\.pth in \S+cut\.zip is damaged or incomplete",
    )
    path = zip_files(tmp_path / "flipped.zip", zipfile.ZIP_STORED, **{"a.pth": tmp_path / "a.pth"})
    content = bytearray(path.read_bytes())
    content[content.index(tensors["b.weight"].numpy().tobytes()) + 100] ^= 1
    path.write_bytes(content)
    refuse(path, r"^a\.pth in \S+ cannot be unpacked \(Bad CRC-32 .*\): download it again")
    path.write_bytes(content[:2000])
    refuse(path, "damaged or incomplete")


# Damage


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_when_a_file_is_cut_off_then_it_suggests_to_download_it_again(tmp_path, tensors, zipped, share, foreign):
    torch.save({"model": tensors}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
    refuse(tmp_path / "cut.pth", "damaged or incomplete.* download it again", foreign=foreign)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_when_a_file_with_foreign_objects_is_cut_off_then_it_is_refused(tmp_path, tensors, share):
    for zipped in (True, False):
        torch.save(
            {"model": tensors, "other": Strange()}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped
        )
        content = (tmp_path / "whole.pth").read_bytes()
        (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
        refuse(tmp_path / "cut.pth", "damaged or incomplete", foreign=True)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.99])
def test_when_safetensors_are_cut_off_then_it_suggests_to_download_them_again(tmp_path, tensors, share):
    save_file(tensors, tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: int(share * len(content)) or 1])
    refuse(tmp_path / "cut.safetensors", "not a complete safetensors file .*: download it again")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_when_a_file_is_empty_then_it_is_reported(tmp_path, suffix):
    path = tmp_path / f"empty{suffix}"
    path.touch()
    refuse(path, "is empty: download it again")


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        b"<!DOCTYPE html><title>Sign in</title>",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)),
        b"cposix\nsystem\n(S'true'\ntR.",
    ],
)
def test_when_a_file_is_no_checkpoint_at_all_then_it_is_reported(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    refuse(tmp_path / "model.pth", "is not a checkpoint: name a file that torch.save wrote")
    (tmp_path / "model.safetensors").write_bytes(content)
    refuse(tmp_path / "model.safetensors", "not a complete safetensors file")


def test_when_an_archive_or_a_pickle_is_of_something_else_then_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refuse(tmp_path / "archive.pth", "torch.save did not write it")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(tmp_path / "pickle.pth", "torch.save did not write it")


def test_when_there_is_no_file_then_it_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist"):
        load_state_dict(tmp_path / "absent.pth")
    refuse(tmp_path, "is a folder")


# Contents


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "no state dict but a list"),
        (torch.zeros(2), "no state dict but a Tensor"),
        ({}, "no state dict but an empty dict"),
        ({"model": {}, "epoch": 3}, "its entries are 'model', 'epoch'"),
        ({"model": {"epoch": 3}}, "its entries are 'model'"),
        ({"model": torch.zeros(2)}, "its entries are 'model'"),
        ({"epoch": 3, "loss": 0.5}, "neither at the top level nor under 'model': its entries are 'epoch', 'loss'"),
        ({"model": {"a": torch.zeros(1), "epoch": 3, "name": "x"}}, r"not tensors: epoch \(a int\), name \(a str\)"),
        ({"a": torch.zeros(1), "epoch": 3}, r"not tensors: epoch \(a int\)"),
        ({"a": torch.zeros(1), "b": torch.zeros(1, device="meta")}, "meta tensors, which are not supported: b"),
        (
            {"a": torch.zeros(1), "b": torch.eye(2).to_sparse()},
            "sparse, quantized or meta tensors, which are not supported: b",
        ),
    ],
)
def test_when_a_file_holds_no_state_dict_then_it_explains_what_it_holds(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pth")
    refuse(tmp_path / "other.pth", message)


def test_when_many_names_are_listed_then_five_are_named_and_the_rest_counted():
    assert summarize_names("abcde") == "a, b, c, d, e"
    assert summarize_names("abcdefg") == "a, b, c, d, e and 2 more"


def test_when_keys_differ_then_both_sides_are_named_in_their_order(tensors):
    check_keys(tensors, ["a.bias", "b.weight"], "small model")
    with pytest.raises(InputError, match="not that of a small model: it lacks z, y; check"):
        check_keys(tensors, ["z", "a.bias", "b.weight", "y"], "small model")
    with pytest.raises(InputError, match=r"it lacks z, and it has the unexpected b\.weight, a\.bias"):
        check_keys(tensors, ["z"], "small model")


def test_when_values_are_no_weights_then_they_do_not_go_into_a_model():
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    for weight in (torch.full((2, 2), torch.nan), torch.full((2, 2), torch.inf), torch.ones((2, 2), dtype=torch.int8)):
        with pytest.raises(InputError, match="integers, NaN or infinite in weight"):
            fill_model(model, {"weight": weight, "bias": torch.zeros(2)})
    with pytest.raises(InputError, match=r"weight is \(3, 2\) instead of \(2, 2\)"):
        fill_model(model, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})
    assert torch.equal(model.weight, before)
    fill_model(model, {"weight": torch.ones(2, 2, dtype=torch.float16), "bias": torch.zeros(2)})
    assert model.weight.dtype == torch.float32
    assert (model.weight == 1).all()


def test_when_a_file_was_saved_in_the_usual_other_ways_then_its_tensors_are_the_same(tmp_path):
    tensors = {"a.weight": torch.ones(2), "b": torch.zeros(3)}
    for number, content in enumerate(
        [{"state_dict": tensors}, {f"module.{name}": one for name, one in tensors.items()}]
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        found = load_state_dict(path)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
