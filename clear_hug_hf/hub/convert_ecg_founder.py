"""Convert released ECGFounder and CLEF weights to models of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_ecg import STANDARD_LEAD_NAMES
from ..modeling.configuration_ecg_founder import EcgFounderConfig
from ..modeling.modeling_ecg_founder import EcgFounderForSequenceClassification, EcgFounderModel
from ..processing import InputError
from ..processing.feature_extraction_ecg_founder import EcgFounderFeatureExtractor
from .checkpoints import (
    build_model,
    check_keys,
    checkpoint_digest,
    label_fields,
    load_state_dict,
    name_size,
    tensor_shape,
)
from .converted import check_replaceable, save_converted


# Digest of the released file, as several projects state it; those of the other files are unknown.
DIGESTS = {"ee199f3781f4ae1f732973267f003da0a759ea12bddb0dd28a77faa60aca7997": "12_lead_ECGFounder.pth"}

SIZE_FIELDS = ("stem_channels", "stage_channels", "stage_depths", "group_size", "bottleneck_ratio")
# CLEF uses the network for a single lead and has no classifier.
CLEF = {
    "objective": "pre-training of a single lead",
    "data": "recordings of 161 thousand patients (CLEF of Nokia Bell Labs, which has its own paper to cite)",
    "license_note": "CLEF has the license BSD-3-Clause-Clear",
    "hub_license": "bsd-3-clause-clear",
}
ENCODER, CLASSIFIER = "ECGFounder encoder", "ECGFounder classifier"
STEM, STAGES, DENSE = "first_conv.conv", "stage_list", "dense"
BLOCK_KEYS = {
    "conv1.conv": "conv1",
    "conv2.conv": "conv2",
    "conv3.conv": "conv3",
    "se_fc1": "squeeze",
    "se_fc2": "excite",
}
NORM_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

RELEASED_LABELS = tuple(
    " ".join(label.split())
    for label in """
    ABNORMAL ECG | NORMAL SINUS RHYTHM | NORMAL ECG | SINUS RHYTHM | SINUS BRADYCARDIA | ATRIAL FIBRILLATION | SINUS
    TACHYCARDIA | otherwise normal ecg | LEFT AXIS DEVIATION | PREMATURE VENTRICULAR COMPLEXES | BORDERLINE ECG |
    RIGHT BUNDLE BRANCH BLOCK | SEPTAL INFARCT | LEFT ATRIAL ENLARGEMENT | NONSPECIFIC T WAVE ABNORMALITY | LOW
    VOLTAGE QRS | PREMATURE ATRIAL COMPLEXES | ANTERIOR INFARCT | INCOMPLETE RIGHT BUNDLE BRANCH BLOCK | PREMATURE
    SUPRAVENTRICULAR COMPLEXES | LEFT BUNDLE BRANCH BLOCK | NONSPECIFIC T WAVE ABNORMALITY NOW EVIDENT IN |
    NONSPECIFIC T WAVE ABNORMALITY NO LONGER EVIDENT IN | T WAVE INVERSION NOW EVIDENT IN | LATERAL INFARCT |
    NONSPECIFIC ST ABNORMALITY | LEFT VENTRICULAR HYPERTROPHY | T WAVE INVERSION NO LONGER EVIDENT IN | WITH RAPID
    VENTRICULAR RESPONSE | QT HAS SHORTENED | QT HAS LENGTHENED | FUSION COMPLEXES | ATRIAL FLUTTER | MARKED SINUS
    BRADYCARDIA | WITH SINUS ARRHYTHMIA | NONSPECIFIC ST AND T WAVE ABNORMALITY | LEFT ANTERIOR FASCICULAR BLOCK |
    RIGHT AXIS DEVIATION | ECTOPIC ATRIAL RHYTHM | UNDETERMINED RHYTHM | ANTEROSEPTAL INFARCT | RIGHTWARD AXIS | ST
    NOW DEPRESSED IN | WITH SHORT PR | WITH MARKED SINUS ARRHYTHMIA | ST NO LONGER DEPRESSED IN | INVERTED T WAVES
    HAVE REPLACED NONSPECIFIC T WAVE ABNORMALITY IN | NON-SPECIFIC CHANGE IN ST SEGMENT IN | NONSPECIFIC T WAVE
    ABNORMALITY HAS REPLACED INVERTED T WAVES IN | JUNCTIONAL RHYTHM | ELECTRONIC ATRIAL PACEMAKER | ABERRANT
    CONDUCTION | ELECTRONIC VENTRICULAR PACEMAKER | T WAVE INVERSION LESS EVIDENT IN | ANTEROLATERAL INFARCT | WITH
    REPOLARIZATION ABNORMALITY | RSR' OR QR PATTERN IN V1 SUGGESTS RIGHT VENTRICULAR CONDUCTION DELAY | T WAVE
    INVERSION MORE EVIDENT IN | WIDE QRS RHYTHM | WITH PREMATURE VENTRICULAR OR ABERRANTLY CONDUCTED COMPLEXES | RIGHT
    ATRIAL ENLARGEMENT | INFERIOR INFARCT | INCOMPLETE LEFT BUNDLE BRANCH BLOCK | VOLTAGE CRITERIA FOR LEFT
    VENTRICULAR HYPERTROPHY | OR DIGITALIS EFFECT | BIFASCICULAR BLOCK | ST NO LONGER ELEVATED IN | WITH SLOW
    VENTRICULAR RESPONSE | ST ELEVATION NOW PRESENT IN | PREMATURE ECTOPIC COMPLEXES | LEFT POSTERIOR FASCICULAR BLOCK
    | T WAVE AMPLITUDE HAS DECREASED IN | WITH A COMPETING JUNCTIONAL PACEMAKER | RIGHT SUPERIOR AXIS DEVIATION |
    BIATRIAL ENLARGEMENT | VENTRICULAR-PACED RHYTHM | ATRIAL-PACED RHYTHM | T WAVE AMPLITUDE HAS INCREASED IN | WITH
    QRS WIDENING | WITH 1ST DEGREE AV BLOCK | PROLONGED QT | WITH PROLONGED AV CONDUCTION | RIGHT VENTRICULAR
    HYPERTROPHY | WITH QRS WIDENING AND REPOLARIZATION ABNORMALITY | ATRIAL-SENSED VENTRICULAR-PACED RHYTHM | AV
    SEQUENTIAL OR DUAL CHAMBER ELECTRONIC PACEMAKER | PULMONARY DISEASE PATTERN | ACUTE MI / STEMI |
    INFERIOR-POSTERIOR INFARCT | NONSPECIFIC INTRAVENTRICULAR CONDUCTION DELAY | PREMATURE VENTRICULAR AND FUSION
    COMPLEXES | IN A PATTERN OF BIGEMINY | AV DUAL-PACED RHYTHM | SUPRAVENTRICULAR TACHYCARDIA | VENTRICULAR-PACED
    COMPLEXES | WIDE QRS TACHYCARDIA | RSR' PATTERN IN V1 | ST LESS DEPRESSED IN | VENTRICULAR TACHYCARDIA | EARLY
    REPOLARIZATION | ST MORE DEPRESSED IN | ANTEROLATERAL LEADS | ELECTRONIC DEMAND PACING | RBBB AND LEFT ANTERIOR
    FASCICULAR BLOCK | LATERAL INJURY PATTERN | BIVENTRICULAR PACEMAKER DETECTED | SUSPECT UNSPECIFIED PACEMAKER
    FAILURE | WOLFF-PARKINSON-WHITE | WITH VENTRICULAR ESCAPE COMPLEXES | INFERIOR INJURY PATTERN | CONSIDER RIGHT
    VENTRICULAR INVOLVEMENT IN ACUTE INFERIOR INFARCT | ST ELEVATION HAS REPLACED ST DEPRESSION IN | NONSPECIFIC
    INTRAVENTRICULAR BLOCK | MASKED BY FASCICULAR BLOCK | PEDIATRIC ECG ANALYSIS | BLOCKED | WITH UNDETERMINED RHYTHM
    IRREGULARITY | LEFTWARD AXIS | WITH 2ND DEGREE SA BLOCK MOBITZ I | ACUTE | ABNORMAL LEFT AXIS DEVIATION | WITH
    COMPLETE HEART BLOCK | NO P-WAVES FOUND | ST LESS ELEVATED IN | WITH RETROGRADE CONDUCTION | ST MORE ELEVATED IN |
    JUNCTIONAL BRADYCARDIA | WITH VARIABLE AV BLOCK | ANTERIOR INJURY PATTERN | WITH JUNCTIONAL ESCAPE COMPLEXES |
    ACUTE MI | ACUTE PERICARDITIS | POSTERIOR INFARCT | IDIOVENTRICULAR RHYTHM | WITH 2ND DEGREE SA BLOCK MOBITZ II |
    R IN AVL | SINUS/ATRIAL CAPTURE | AV DUAL-PACED COMPLEXES | INFEROLATERAL INJURY PATTERN | RBBB AND LEFT POSTERIOR
    FASCICULAR BLOCK | ANTEROLATERAL INJURY PATTERN | ATRIAL-PACED COMPLEXES | WITH SINUS PAUSE | BIVENTRICULAR
    HYPERTROPHY | ABNORMAL RIGHT AXIS DEVIATION | SUPRAVENTRICULAR COMPLEXES | WITH 2ND DEGREE AV BLOCK MOBITZ I |
    WITH 2:1 AV CONDUCTION | WITH AV DISSOCIATION | MULTIFOCAL ATRIAL TACHYCARDIA
    """.split("|")  # noqa: SIM905 (a line for each would be many)
)
"""The 150 statements of the released classifier, in the order of its outputs."""


def _count(state_dict: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of consecutive indices from 0 with keys under a prefix; at least one, so that missing keys are named."""
    count = 0
    while any(key.startswith(f"{prefix}.{count}.") for key in state_dict):
        count += 1
    return max(1, count)


def _map_keys(state_dict: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """Names in the classifier by released name; normalization layers, which the network does not use, have none."""
    named = {STEM: "ecg_founder.stem"}
    norms = ["first_bn"]
    for stage in range(_count(state_dict, STAGES)):
        for block in range(_count(state_dict, f"{STAGES}.{stage}.block_list")):
            old, new = f"{STAGES}.{stage}.block_list.{block}", f"ecg_founder.stages.{stage}.blocks.{block}"
            named |= {f"{old}.{key}": f"{new}.{name}" for key, name in BLOCK_KEYS.items()}
            norms += [f"{old}.bn{index}" for index in (1, 2, 3)]
    if any(key.startswith(f"{DENSE}.") for key in state_dict):
        named[DENSE] = "classifier"
    names = {f"{old}.{kind}": (f"{new}.{kind}",) for old, new in named.items() for kind in ("weight", "bias")}
    return names | {f"{norm}.{kind}": () for norm in norms for kind in NORM_KEYS}


def _read_sizes(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Fields of the config, from the shapes of the tensors."""
    stem_channels, num_leads, _ = tensor_shape(state_dict, f"{STEM}.weight", 3)
    channels, depths = [], []
    for stage in range(_count(state_dict, STAGES)):
        channels.append(tensor_shape(state_dict, f"{STAGES}.{stage}.block_list.0.conv3.conv.weight", 3)[0])
        depths.append(_count(state_dict, f"{STAGES}.{stage}.block_list"))
    inner, per_group, kernel_size = tensor_shape(state_dict, f"{STAGES}.0.block_list.0.conv2.conv.weight", 3)
    if inner % per_group:
        raise InputError(
            f"{STAGES}.0.block_list.0.conv2.conv.weight has {inner} channels in groups of {per_group}, which does not "
            "divide them: check that the file is the right one"
        )
    return {
        "num_leads": num_leads,
        "stem_channels": stem_channels,
        "stage_channels": channels,
        "stage_depths": depths,
        "kernel_size": kernel_size,
        "group_size": channels[0] * per_group // inner,
        "bottleneck_ratio": inner / channels[0],
    }


def convert_ecg_founder_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    label_names: Sequence[str] | None = None,
    lead_names: Sequence[str] | None = None,
    **config_overrides: Any,
) -> EcgFounderModel | EcgFounderForSequenceClassification:
    """
    Convert a released state dict to a model: a classifier, or an encoder if there is no classification layer. Shapes
    determine the sizes. The tensors of normalization layers are not used, because the released network does not.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`]; all names may have a common prefix.
        label_names (`Sequence[str]`, *optional*):
            Labels of the classifier. By default the 150 released ones if there are as many, else `LABEL_0`, ...
        lead_names (`Sequence[str]`, *optional*):
            Leads of the model. By default the twelve standard leads, or lead I for a single one.
        config_overrides:
            Other fields of [`EcgFounderConfig`].

    Returns:
        [`EcgFounderModel`] or [`EcgFounderForSequenceClassification`], in evaluation mode.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys, inconsistent shapes), or
            labels or leads do not match their number.
    """
    state_dict = _strip_prefix(state_dict)
    names = _map_keys(state_dict)
    is_classifier = f"{DENSE}.weight" in names
    check_keys(state_dict, names, CLASSIFIER if is_classifier else ENCODER)
    sizes = _read_sizes(state_dict)
    num_leads = sizes.pop("num_leads")
    if lead_names is None and num_leads in (1, len(STANDARD_LEAD_NAMES)):
        lead_names = STANDARD_LEAD_NAMES[:num_leads]
    if lead_names is None or len(lead_names) != num_leads:
        raise InputError(f"the model reads {num_leads} lead(s): pass lead_names with as many names")
    if is_classifier:
        count = tensor_shape(state_dict, f"{DENSE}.weight", 2)[0]
        if label_names is None and count == len(RELEASED_LABELS):
            label_names = RELEASED_LABELS
        sizes |= {"problem_type": "multi_label_classification", "num_labels": count}
        sizes |= label_fields(CLASSIFIER, True, label_names, count)
    else:
        label_fields(ENCODER, False, label_names)
        names = {
            old: tuple(target.removeprefix("ecg_founder.") for target in targets) for old, targets in names.items()
        }
    model_class = EcgFounderForSequenceClassification if is_classifier else EcgFounderModel
    fields = {**sizes, "lead_names": list(lead_names), **config_overrides}
    return build_model(model_class, fields, state_dict, names)


def _strip_prefix(state_dict: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Remove the prefix that a training framework put in front of all names."""
    key = next((key for key in state_dict if key.endswith(f".{STEM}.weight")), None)
    if key is None:
        return state_dict
    prefix = key.removesuffix(f"{STEM}.weight")
    return {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()}


def convert_ecg_founder_to_folder(
    path: str | Path,
    folder: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    lead_names: Sequence[str] | None = None,
    preprocessing: str = "fine_tuning",
) -> dict[str, Any]:
    """
    Convert a released file of ECGFounder or CLEF to a model folder with a feature extractor, a `conversion.json` and a
    model card.

    Args:
        path (`str` or `Path`): The released file.
        folder (`str` or `Path`): Output folder, see [`check_replaceable`].
        label_names, lead_names: See [`convert_ecg_founder_state_dict`].
        preprocessing (`str`, *optional*, defaults to `"fine_tuning"`): See [`EcgFounderFeatureExtractor`].

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors`, `unused_tensors` and
        `released_file`, the name of the released file with the same digest if it is known.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, or the folder is not writable or contains other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path, entry="state_dict", foreign=True)
    model = convert_ecg_founder_state_dict(state_dict, label_names=label_names, lead_names=lead_names)
    is_classifier = isinstance(model, EcgFounderForSequenceClassification)
    names = list((model.config.id2label or {}).values()) if is_classifier else []
    unused = [key for key, targets in _map_keys(_strip_prefix(state_dict)).items() if not targets]
    facts = {
        "system": "ecg-founder",
        "kind": CLASSIFIER if is_classifier else ENCODER,
        "num_tensors": len(state_dict),
        "unused_tensors": {"normalization layers, which the released network does not use": unused},
        "size": name_size(model.config, names=SIZE_FIELDS, sizes=("base", "clef_small", "clef_large")),
        "released_file": DIGESTS.get(checkpoint_digest(path)),
        "preprocessing": preprocessing,
        "labels_known": names[0] != "LABEL_0" if names else None,
    }
    if str(facts["size"]).startswith("clef") or not (is_classifier or model.config.num_leads > 1):
        facts |= CLEF
    config: EcgFounderConfig = model.config
    extractor = EcgFounderFeatureExtractor(
        sampling_rate=config.sampling_rate, lead_names=config.lead_names, preprocessing=preprocessing
    )
    auto_class = "AutoModelForSequenceClassification" if is_classifier else "AutoModel"
    return save_converted(path, folder, model, extractor, auto_class, facts)


__all__ = ["RELEASED_LABELS", "convert_ecg_founder_state_dict", "convert_ecg_founder_to_folder"]
