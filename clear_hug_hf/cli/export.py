"""`clear-hug export`: export a classifier to ONNX."""

from ..workflows.export import ExportArguments, export
from ..workflows.shared import say


ARGUMENTS = (ExportArguments,)
DESCRIPTION = """\
Export a classifier to ONNX, with its config and preprocessing, and report how far its logits are from the
model's. The exported model takes batches of any size and runs in onnxruntime on CPUs, browsers and phones.
Needs onnx, onnxscript and onnxruntime: pip install 'clear-hug-hf[export]'."""
EXAMPLES = """\
  clear-hug export runs/superclasses --output-dir exported
  clear-hug export hf://ORG/NAME --output-dir exported --int8

in Python:
  extractor = transformers.AutoFeatureExtractor.from_pretrained('exported')
  session = onnxruntime.InferenceSession('exported/model.onnx')
  inputs = extractor(waveform, sampling_rate=500, lead_names=names, unit='mV', return_tensors='np')
  logits = session.run(['logits'], dict(inputs))[0]
"""


def run(arguments: ExportArguments) -> int:
    """Run `export` and return the exit status."""
    result = export(arguments)
    say(f"{arguments.output_dir}:")
    for name, facts in result.files.items():
        difference = facts["largest_difference"]
        say(f"  {name:15s} {facts['bytes'] / 1e6:6.1f} MB, logits within {difference:.1e} of the model's")
    return 0
