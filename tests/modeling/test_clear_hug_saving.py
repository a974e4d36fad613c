"""Saved folders are complete: they load where the package is not installed, and give the same numbers."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_hug_hf import ClearHugForPreTraining, ClearHugForSequenceClassification, ClearHugModel


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
folder = sys.argv[1]
batch = load_file(sys.argv[2])
outputs = {}
for auto_class, name in (
    ("AutoModel", "lead_states"),
    ("AutoModelForPreTraining", "reconstruction"),
    ("AutoModelForSequenceClassification", "logits"),
):
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        outputs[name] = model(**batch)[name].clone()
    again = sys.argv[3] + auto_class
    model.save_pretrained(again)
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert config.lead_names[3] == "aVR"
assert "clear_hug_hf" not in sys.modules
# What a stranger saved loads again.
again = sys.argv[3] + "AutoModelForSequenceClassification"
model = transformers.AutoModel.from_pretrained(again, trust_remote_code=True)
with torch.no_grad():
    outputs["lead_states_again"] = model.eval()(**batch).lead_states.clone()
save_file(outputs, sys.argv[4])
"""


@pytest.fixture
def folder(small_config, tmp_path):
    """A folder with encoder, decoder and head, so that every Auto class finds its weights."""
    config = small_config()
    classifier = ClearHugForSequenceClassification(config)
    pretraining = ClearHugForPreTraining(config)
    pretraining.clear_hug.load_state_dict(classifier.clear_hug.state_dict())
    tensors = {**pretraining.state_dict(), **classifier.state_dict()}
    classifier.save_pretrained(tmp_path / "model", state_dict=tensors)
    return tmp_path / "model"


@pytest.mark.parametrize("model_class", [ClearHugModel, ClearHugForPreTraining, ClearHugForSequenceClassification])
def test_when_any_model_is_saved_then_code_and_all_auto_classes_are_there(model_class, small_config, tmp_path):
    model_class(small_config()).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "configuration_clear_hug.py",
        "configuration_ecg.py",
        "model.safetensors",
        "fast_forms.py",
        "modeling_ecg.py",
        "modeling_clear_hug.py",
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_clear_hug.ClearHugConfig",
        "AutoModel": "modeling_clear_hug.ClearHugModel",
        "AutoModelForPreTraining": "modeling_clear_hug.ClearHugForPreTraining",
        "AutoModelForSequenceClassification": "modeling_clear_hug.ClearHugForSequenceClassification",
    }
    assert config["architectures"] == [model_class.__name__]


def test_when_the_package_is_absent_then_a_saved_folder_gives_the_same_numbers(folder, make_batch, tmp_path):
    batch = make_batch()
    save_file(batch, tmp_path / "batch.safetensors")
    (tmp_path / "stranger.py").write_text(STRANGER)
    arguments = [folder, tmp_path / "batch.safetensors", tmp_path / "again", tmp_path / "outputs.safetensors"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, tmp_path / "stranger.py", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    theirs = load_file(tmp_path / "outputs.safetensors")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            lead_states = ClearHugModel.from_pretrained(folder)(**batch).lead_states
            assert theirs["lead_states"].equal(lead_states)
            assert theirs["lead_states_again"].equal(lead_states)
            reconstruction = ClearHugForPreTraining.from_pretrained(folder)(**batch).reconstruction
            assert theirs["reconstruction"].equal(reconstruction)
            logits = ClearHugForSequenceClassification.from_pretrained(folder)(**batch).logits
            assert theirs["logits"].equal(logits)
    finally:
        torch.set_num_threads(threads)
