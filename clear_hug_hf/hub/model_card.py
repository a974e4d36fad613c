"""Model cards, generated from the files of the training run: every number in a card comes from these files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from ..inference.classifier_outputs import familiarity_threshold, model_label_names, model_thresholds
from ..objectives import find_objective
from ..processing.errors import InputError, import_library
from ..systems import SYSTEMS, Objective, System
from ..training.folders import CALIBRATION, CONVERSION, FOOTER, METRICS, PRETRAINING
from .checkpoints import with_article


CODE_LICENSE = "Apache-2.0"
# License identifiers of the Hub; "other" requires a license name.
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl
    ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl
    zlib
    """.split()  # noqa: SIM905 (a line for each would be seventy)
)
# With fewer positive recordings, thresholds and AUROC of a label are unreliable.
_MIN_POSITIVES = 10
_TEMPLATE = "model_card_template.md"
_REQUIRED_FIELDS = ("license", "library_name", "tags")
_METRICS = {
    "auroc": ("AUROC", "roc_auc"),
    "average_precision": ("average precision", "average_precision"),
    "f1": ("F1", "f1"),
    "calibration_error": ("calibration error", "expected_calibration_error"),
}
# Cards show how to use these models; for others they show the encoder.
RECORDING_CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForImageClassification")
"""Auto classes of models that classify recordings or pictures of recordings."""
_CLASSIFIERS = (*RECORDING_CLASSIFIERS, "AutoModelForTokenClassification")
_TOKENIZER = "AutoModelForAudioTokenization"
_TEACHERS = {"signal_teacher": "signal teacher", "tokenizer": "tokenizer"}
_SPLITS = {"test": "test", "cross_validation": "cross-validated", "validation": "validation"}
_PIPELINES = {"AutoModelForImageClassification": "image-classification"}


_CROSS_VALIDATED = (
    ". Each recording was predicted by a model that was neither trained nor selected on its patient; the published "
    "weights were then trained on all of these recordings"
)


class Card(NamedTuple):
    """
    A model card with its evaluation results.

    Args:
        card ([`ModelCard`]): Content of README.md.
        eval_results (`dict[str, str]`): Content of each `.eval_results/*.yaml` file.
        missing (`list[str]`): Missing information, each as a short phrase.
    """

    card: ModelCard
    eval_results: dict[str, str]
    missing: list[str]


def make_card(
    repo_id: str,
    config: Any,
    auto_class: str,
    feature_extractor: Any,
    facts: Mapping[str, Mapping[str, Any]],
    *,
    license: str | None = None,
    license_name: str | None = None,
    dataset_id: str | None = None,
    num_parameters: int | None = None,
    dtype: str = "float32",
) -> Card:
    """
    Generate the card of a model.

    Args:
        repo_id (`str`): `ORG/NAME` on the Hub.
        config ([`PreTrainedConfig`]): Config of the model.
        auto_class (`str`): Auto class that loads all weights, such as `"AutoModelForPreTraining"`.
        feature_extractor: Feature extractor of the model.
        facts (`Mapping[str, Mapping]`): Files of the run, as `find_facts` reads them.
        license (`str`, *optional*): License of the weights, one of [`LICENSES`].
        license_name (`str`, *optional*): Name of the license if `license` is `"other"`.
        dataset_id (`str`, *optional*): `ORG/NAME` of the test dataset on the Hub, required for `.eval_results`.
        num_parameters (`int`, *optional*): Number of parameters of the model.
        dtype (`str`, *optional*, defaults to `"float32"`): Storage dtype of the weights.

    Returns:
        [`Card`]

    Raises:
        InputError: If the license is unknown, or a file of the run lacks a required field or has an invalid value.
    """
    _check_license(license, license_name)
    encoder, converted = _encoder_facts(facts, PRETRAINING), _encoder_facts(facts, CONVERSION)
    _check_terms(converted, license)
    conversion = facts.get(CONVERSION)
    is_classifier = auto_class in RECORDING_CLASSIFIERS
    metrics = facts.get(METRICS) if is_classifier else None
    # `clear-hug calibrate` leaves out the results of the model before.
    calibration = facts.get(CALIBRATION) if is_classifier else None
    labels, thresholds = (model_label_names(config), model_thresholds(config)) if is_classifier else ([], [])
    missing = []
    if license is None:
        missing.append("the license of the weights (--license)")
    if is_classifier and all(re.fullmatch(r"LABEL_\d+", name) for name in labels):
        missing.append("label names (id2label in config.json)")
    if metrics is not None and (measured := _field(metrics, "labels", METRICS)) != labels:
        raise InputError(
            f"{METRICS} has the labels {', '.join(map(str, measured))} but the model has {', '.join(labels)}: remove "
            "the file, it belongs to another model"
        )
    if is_classifier and metrics is None:
        missing.append(f"metrics ({METRICS}, which `clear-hug finetune` writes)")
    if not is_classifier and encoder is None and conversion is None:
        missing.append(f"the pre-training run ({PRETRAINING}, which `clear-hug pretrain` writes)")
    tested = _tested(metrics) if metrics is not None and calibration is None else None
    if tested is None and dataset_id is not None:
        raise InputError(f"there are no results on {dataset_id}: remove --dataset")
    if tested is not None and dataset_id is None:
        missing.append("the name of the test dataset on the Hub, for .eval_results (--dataset)")

    name = repo_id.split("/")[-1]
    sources = _source_rows(metrics, encoder)
    import_library("jinja2", "making a model card")
    text = ModelCard.from_template(
        ModelCardData(
            license=license,
            license_name=license_name,
            library_name="transformers",
            pipeline_tag=_PIPELINES.get(auto_class, None if auto_class in _CLASSIFIERS else "feature-extraction"),
            tags=[
                "ecg",
                "electrocardiogram",
                "12-lead-ecg",
                config.model_type.replace("_", "-"),
                "clear-hug-hf",
                "custom_code",
                *(["ecg-classification"] if is_classifier else []),
            ],
            model_name=name if tested is not None else None,
            eval_results=None if tested is None else _model_index(tested, dataset_id),
        ),
        template_str=files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"),
        name=name,
        repo_id=repo_id,
        auto_class=auto_class,
        loaded_by=auto_class if auto_class in (*_CLASSIFIERS, _TOKENIZER) else "AutoModel",
        is_tokenizer=auto_class == _TOKENIZER,
        pretrained_with=SYSTEMS[config.model_type].pretraining_parts,
        reads_pages=hasattr(feature_extractor, "image_processor"),
        simulated=any(source.get("name") == "simulated" for source in _all_sources(facts)),
        summary=_summary(config, auto_class, labels, num_parameters, conversion),
        labels=[
            {"name": _cell(label), "threshold": f"{threshold:.3g}"}
            for label, threshold in zip(labels, thresholds, strict=True)
        ],
        threshold_note=_threshold_note(config, metrics, calibration),
        results=_result_tables(None if tested is None else metrics) if is_classifier else _pretraining_tables(encoder),
        made=[
            *_made(metrics, encoder, converted),
            *_calibrated(calibration),
            *_stored(dtype, (metrics or {}).get("measured") or {}),
        ],
        sources=sources,
        patients_note=" (patients)" if any("(" in cell for row in sources for cell in row[5:]) else "",
        recipes=_recipes(metrics, encoder),
        reads=_reads(config, feature_extractor),
        limits=_limits(metrics, tested, converted),
        environment=_environment(metrics if is_classifier else encoder, conversion),
        license_text=_license_text(license_name or license, facts, converted),
        citations=_citations(config, facts),
        footer=FOOTER,
    )
    eval_results = {} if tested is None or dataset_id is None else _eval_results(tested, dataset_id, repo_id)
    return Card(text, eval_results, missing)


def _check_license(license: str | None, name: str | None) -> None:
    if license is None:
        if name is not None:
            raise InputError("--license-name requires --license other")
        return
    if license not in LICENSES:
        close = difflib.get_close_matches(license.lower().replace(" ", "-"), LICENSES, n=2) or ["cc-by-4.0", "other"]
        raise InputError(f"{license!r} is not a license identifier of the Hub: did you mean {' or '.join(close)}?")
    if (license == "other") != (name is not None):
        raise InputError("--license other requires --license-name NAME, and other licenses do not allow it")


def _check_terms(converted: Mapping[str, Any] | None, license: str | None) -> None:
    """Check that a license of converted weights does not allow commercial use if their authors forbid it."""
    stated = (converted or {}).get("hub_license") or ""
    if "-nc" in stated and license not in (None, "other") and "-nc" not in str(license):
        raise InputError(
            f"the weights are converted from a file under {stated}, which forbids commercial use, so --license "
            f"{license} is not possible: use --license {stated}"
        )


def read_card(path: str | Path) -> ModelCard:
    """
    Read and check a custom model card.

    Args:
        path (`str` or `Path`): A Markdown file that starts with a YAML header.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is not a text file, or its header is invalid or lacks a field that the Hub requires.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"the card {path} does not exist: check the path, or remove --card")
    if not path.is_file():
        raise InputError(f"{path} is a folder: name the Markdown file of the card")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"the card {path} is not UTF-8 text: save it as UTF-8") from None
    missing = list(_REQUIRED_FIELDS)
    if text.startswith("---"):
        try:
            card = ModelCard(text)
            header = card.data.to_dict()
        except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the header of the card {path} is not valid YAML ({reason}): fix the lines between ---"
            ) from error
        missing = [name for name in _REQUIRED_FIELDS if not header.get(name)]
    if missing:
        raise InputError(
            f"the header of the card {path} lacks {', '.join(missing)}: add the field(s) between two lines of --- at "
            "the beginning, or remove --card to generate a card"
        )
    _check_license(str(header["license"]), header.get("license_name"))
    return card


# ------------------------------------------------------------------------------------------------------------- facts


def _field(facts: Mapping[str, Any], path: str, where: str) -> Any:
    """A nested field of a run's file, by its path with slashes: labels may contain dots."""
    value: Any = facts
    for name in path.split("/"):
        if not isinstance(value, Mapping) or name not in value:
            raise InputError(
                f"{where} lacks the field {path.replace('/', '.')}, which the card requires: repeat the run with this "
                f"version, or remove {where} to publish without its numbers"
            )
        value = value[name]
    return value


def _encoder_facts(facts: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """A file about the encoder: beside the model, or as recorded by the fine-tuning run."""
    return facts.get(name, facts.get(METRICS, {}).get("encoder", {}).get(name))


def _system(encoder: Mapping[str, Any]) -> System:
    """The system of a pre-training run."""
    name = _field(encoder, "system", PRETRAINING)
    if name not in SYSTEMS:
        raise InputError(f"{PRETRAINING} is of the unknown system {name!r}: install the package that provides it")
    return SYSTEMS[name]


def _objective(encoder: Mapping[str, Any]) -> Objective:
    """The objective of a pre-training run."""
    system = _system(encoder)
    try:
        return find_objective(encoder.get("objective"), system.name)[1]
    except InputError as error:
        raise InputError(f"{PRETRAINING}: {error}") from error


def _earlier_runs(encoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The runs that initialized a pre-training run, latest first."""
    while encoder is not None and (encoder := encoder.get("initialized_from")) is not None:
        yield encoder


def _teacher_title(encoder: Mapping[str, Any] | None) -> str:
    """What the teacher of a run is called."""
    return next((title for name, title in _TEACHERS.items() if (encoder or {}).get(name) is not None), "")


def _teacher_runs(encoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The pre-training runs of the signal teacher that pages were aligned with, or of a tokenizer."""
    for name in _TEACHERS:
        if (teacher := (encoder or {}).get(name)) is not None:
            yield from (*_earlier_runs(teacher), teacher)


def _check_metrics(metrics: Mapping[str, Any], where: str) -> None:
    """Raise an [`InputError`] if metrics are incomplete or invalid."""
    entries = {f"macro_{name}": _field(metrics, f"macro_{name}", METRICS) for name in _METRICS}
    for label, entry in _field(metrics, "per_label", METRICS).items():
        if entry.get("auroc") is not None:
            entries |= {f"per_label.{label}.{name}": entry.get(name) for name in _METRICS}
    for name, metric in entries.items():
        if metric is None and name.startswith("macro_"):
            continue
        parts = metric if isinstance(metric, Mapping) else {}
        is_complete = {"value", "low", "high"} <= parts.keys() and parts["value"] is not None
        numbers = [number for part in ("value", "low", "high") if (number := parts.get(part)) is not None]
        if not is_complete or not all(isinstance(number, int | float) and 0 <= number <= 1 for number in numbers):
            raise InputError(
                f"{where}.{name} in {METRICS} is {metric!r}, not a metric with an interval: repeat the run, or remove "
                "the file to publish without its numbers"
            )


def _macros(tested: _Tested) -> dict[str, Mapping[str, Any]]:
    """Macro averages of the metrics that are defined, by name."""
    return {name: value for name in _METRICS if (value := tested.metrics[f"macro_{name}"]) is not None}


class _Tested(NamedTuple):
    """The recordings of the reported results: the first of [`_SPLITS`] that a run has."""

    split: str
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    date: str | None

    @property
    def words(self) -> str:
        """What the recordings are called."""
        return _SPLITS[self.split]


def _tested(metrics: Mapping[str, Any]) -> _Tested:
    results = _field(metrics, "pretrained", METRICS)
    split = next((name for name in _SPLITS if name in results), "validation")
    split_metrics = _field(results, split, METRICS)
    _check_metrics(split_metrics, f"pretrained.{split}")
    data = _field(metrics, "data", METRICS)
    if not isinstance(data, Mapping):
        raise InputError(f"{METRICS} was written by an older version: repeat the run")
    return _Tested(split, split_metrics, data, metrics.get("environment", {}).get("date"))


# ----------------------------------------------------------------------------------------------------------- results


def _model_index(tested: _Tested, dataset_id: str | None) -> list[EvalResult]:
    """Results for the `model-index` of the header."""
    is_crossed = tested.split == "cross_validation"
    return [
        EvalResult(
            task_type="ecg-classification",
            task_name="ECG classification",
            dataset_type=dataset_id or _slug(_title(tested.data)),
            dataset_name=_title(tested.data),
            dataset_split="train+validation" if is_crossed else tested.split,
            dataset_config=tested.data.get("label_set"),
            metric_type=_METRICS[name][1],
            metric_name=f"macro {_METRICS[name][0]}{', cross-validated' if is_crossed else ''}",
            metric_value=round(value["value"], 4),
            metric_args={"interval_95": [round(value["low"], 4), round(value["high"], 4)]}
            if value["low"] is not None
            else None,
        )
        for name, value in _macros(tested).items()
    ]


def _eval_results(tested: _Tested, dataset_id: str, repo_id: str) -> dict[str, str]:
    """Results for `.eval_results/`, as the Hub reads them."""
    entries = []
    for name, value in _macros(tested).items():
        task = "_".join([tested.data.get("label_set") or "labels", "macro", name])
        entries.append(
            EvalResultEntry(
                dataset_id=dataset_id,
                task_id=task,
                value=round(value["value"], 4),
                date=tested.date,
                source_url=f"https://huggingface.co/{repo_id}/blob/main/{METRICS}",
                source_name=f"{METRICS} of the run",
                notes=f"macro {_METRICS[name][0]}{_interval_words(value)} on the {tested.words} "
                f"{'recordings' if tested.split == 'cross_validation' else 'split'}",
            )
        )
    content = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return {f".eval_results/{_slug(dataset_id.split('/')[-1])}.yaml": content}


def _result_tables(metrics: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if metrics is None:
        return []
    columns = {"pretrained": "this model", "random_initialization": "randomly initialized encoder"}
    runs = {name: _field(metrics, name, METRICS) for name in columns if name == "pretrained" or name in metrics}
    tables = []
    for split, words in _SPLITS.items():
        if split not in runs["pretrained"]:
            continue
        for name, run in runs.items():
            _check_metrics(_field(run, split, METRICS), f"{name}.{split}")
        result = runs["pretrained"][split]
        counts = f"{result['num_recordings']} {words} recordings of {result['num_patients']} patients"
        difference = metrics.get("macro_auroc_difference", {}).get(split)
        note = "Difference in macro AUROC, paired over patients: " + _interval(difference, sign=True) + "."
        tables.append(
            {
                "title": f"Results on {counts}, with 95% confidence intervals over patients"
                f"{_CROSS_VALIDATED if split == 'cross_validation' else ''}:",
                "columns": [_first_column("metric", split), *(columns[name] for name in runs)],
                "rows": [
                    [f"macro {title}", *(_interval(run[split][f"macro_{name}"]) for run in runs.values())]
                    for name, (title, _) in _METRICS.items()
                ],
                "note": "" if difference is None else note,
            }
        )
    tables.append(_label_table(_tested(metrics)))
    return tables


def _first_column(name: str, split: str) -> str:
    """The header of the first column, which marks results that are not of a test: tables are quoted alone."""
    notes = {
        "test": "",
        "cross_validation": " (cross-validated; F1 and calibration error are optimistic: thresholds and calibration "
        "were selected on these recordings)",
        "validation": " (optimistic: epoch and thresholds were selected on these recordings)",
    }
    return f"{name}{notes[split]}"


def _label_table(tested: _Tested) -> dict[str, Any]:
    rows, excluded = [], []
    for name, entry in _field(tested.metrics, "per_label", METRICS).items():
        if entry["auroc"] is None:
            excluded.append(name)
            continue
        rows.append([_cell(name), str(entry["num_positive"]), *(_interval(entry[metric]) for metric in _METRICS)])
    note = f"Excluded, with only one class present: {', '.join(map(_cell, excluded))}." if excluded else ""
    first = _first_column("label", tested.split)
    return {
        "title": f"Results per label on the {tested.words} recordings:",
        "columns": [first, "positives", *(title for title, _ in _METRICS.values())],
        "rows": rows,
        "note": note,
    }


def _pretraining_tables(encoder: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if encoder is None:
        return []
    result = _field(encoder, "result", PRETRAINING)
    rows = [["training recordings", f"{_field(result, 'train_loss', PRETRAINING):.4f}"]]
    if result.get("validation_loss") is not None:
        rows.append(["validation recordings", f"{result['validation_loss']:.4f}"])
    return [
        {
            "title": _objective(encoder).loss_title,
            "columns": ["", f"after epoch {_field(result, 'epoch', PRETRAINING)}"],
            "rows": rows,
            "note": ("The epoch was selected on the validation recordings. " if encoder.get("chosen") else "")
            + "Fine-tune the encoder to measure its quality for a task.",
        }
    ]


# ------------------------------------------------------------------------------------------------------------- prose


def _summary(
    config: Any,
    auto_class: str,
    labels: Sequence[str],
    num_parameters: int | None,
    conversion: Mapping[str, Any] | None,
) -> str:
    system = SYSTEMS[config.model_type]
    article = "An" if system.display_name.startswith("E") else "A"
    size = "" if num_parameters is None else f" ({_parameters(num_parameters)} parameters)"
    if conversion is not None:
        return (
            f"The released {conversion['kind']} `{conversion['file']}`{size}, converted to Transformers by "
            "`clear-hug-hf`. The weights are unchanged."
        )
    if auto_class in RECORDING_CLASSIFIERS:
        head = system.heads.get(getattr(config, "head_type", ""), "classifier")
        count = "1 label" if len(labels) == 1 else f"{len(labels)} labels"
        inputs = "pictures of 12-lead ECGs" if auto_class == RECORDING_CLASSIFIERS[1] else "12-lead ECGs"
        classifier = f"{article} {system.display_name} classifier"
        with_size = "" if num_parameters is None else f" with {_parameters(num_parameters)} parameters"
        sentence = f"{classifier}{with_size} that predicts {count} from {inputs}, using a {head}"
        if config.rhythm_features:
            return (
                f"{sentence} and, as an extension of the paper by this package, {len(config.rhythm_features)} rhythm "
                "features of the detected beats, such as heart rate and irregularity, whose logits are added."
            )
        return f"{sentence}."
    if auto_class == "AutoModelForTokenClassification":
        classes = ", ".join(map(_cell, model_label_names(config)))
        return f"{system.display_name}{size} that classifies every sample of every lead of a 12-lead ECG: {classes}."
    if auto_class == _TOKENIZER:
        return f"{article} {system.display_name} tokenizer of 12-lead ECGs{size}, which gives each beat a code."
    parts = size
    if auto_class == "AutoModelForPreTraining":
        parts = f" with the {system.pretraining_parts} of pre-training{size.replace(')', ' in total)')}"
    return f"{article} {system.display_name} encoder of 12-lead ECGs{parts}, for fine-tuning on your own labels."


def _threshold_note(
    config: Any, metrics: Mapping[str, Any] | None, calibration: Mapping[str, Any] | None = None
) -> str:
    note = "No thresholds were selected: 0.5 is used for all labels."
    where = "cross-validated" if "folds" in (metrics or {}) else "validation"
    if calibration is not None:
        where = _field(calibration, "split", CALIBRATION)
    if getattr(config, "label_thresholds", None):
        note = f"Thresholds maximize F1 on the {where} recordings and are saved in the config."
    if getattr(config, "label_calibration", None):
        note += (
            f" Probabilities are calibrated on the {where} recordings: the sigmoid of scale · logit + offset, with "
            "`label_calibration` of the config. The pipeline applies it; `logits` of the model are without it."
        )
    if familiarity := getattr(config, "familiarity", None):
        note += (
            " The model also measures how far a recording is from its training recordings; predictions of those with "
            f"a `distance` above 1 are marked, {familiarity_threshold(familiarity)}."
        )
    return note


def _calibrated(calibration: Mapping[str, Any] | None) -> list[str]:
    """What `clear-hug calibrate` did after the training."""
    if calibration is None:
        return []
    count, split, data = (_field(calibration, name, CALIBRATION) for name in ("num_recordings", "split", "data"))
    return [
        "**Calibration**: calibration and thresholds were replaced after the training, by those of "
        f"{count} {split} recordings ({_cell(_title(data))})."
    ]


def _made(
    metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None, conversion: Mapping[str, Any] | None
) -> list[str]:
    paragraphs = []
    if conversion is not None:
        size = f", {conversion['size']} size" if conversion.get("size") else ""
        verb = "Converted" if metrics is None else "**Encoder**: converted"
        paragraphs.append(
            f"{verb} from `{conversion['file']}` (SHA-256 `{conversion['sha256']}`): "
            f"{with_article(conversion['kind'])}"
            f"{size} with {tensor_counts(conversion)}." + "".join(f" {note}" for note in _conversion_notes(conversion))
        )
    if encoder is not None:
        recipe, system, objective = _field(encoder, "recipe", PRETRAINING), _system(encoder), _objective(encoder)
        result = _field(encoder, "result", PRETRAINING)
        text = (
            f"**Pre-training** {objective.supervision}{f' by {objective.title}' if objective.title else ''}: "
            f"{system.display_name}, {encoder.get('size') or 'own'} "
            f"size, {recipe.get('num_train_epochs')} epochs, seed {recipe.get('seed')}."
        )
        if encoder.get("chosen"):
            text += f" The weights are those of epoch {result['epoch']}, which had the lowest validation loss."
        for run in _earlier_runs(encoder):
            text += f" Initialized from a run of {_field(run, 'result/epoch', PRETRAINING)} epochs."
        for name, title in _TEACHERS.items():
            if (teacher := encoder.get(name)) is not None:
                text += (
                    f" {title.capitalize()}: {_system(teacher).display_name}, pre-trained without labels for "
                    f"{_field(teacher, 'result/epoch', PRETRAINING)} epochs."
                )
        paragraphs.append(text)
    elif metrics is not None and conversion is None:
        paragraphs.append("**Pre-training**: not recorded.")
    if metrics is not None:
        recipe = _field(metrics, "recipe", METRICS)
        method = {
            "frozen": "head on the frozen encoder",
            "full": "full fine-tuning",
            "lora": "head and low-rank adapters of the encoder (LoRA, merged)",
            "logistic": "logistic regression of the mean state of the frozen encoder, written into the classifier",
        }[recipe["method"]]
        control = ""
        if "random_initialization" in metrics:
            control = " As a control, the same was done with a randomly initialized encoder."
        selection = _field(metrics, "selected_by", METRICS).split(";")[0]
        if recipe["method"] == "logistic":
            chosen = f"inverse strength of the penalty {_field(metrics, 'pretrained/strength', METRICS):g}"
        else:
            chosen = f"epoch {_field(metrics, 'pretrained/best_epoch', METRICS)}"
        paragraphs.append(
            f"**Fine-tuning**: {method}, seed {recipe.get('seed')}. Model selection: {selection}; {chosen}.{control}"
        )
    return paragraphs or ["The training of these weights is not recorded. They may be untrained."]


def tensor_counts(conversion: Mapping[str, Any]) -> str:
    """Number of tensors of a converted file, and which ones are not used."""
    text = f"{conversion['num_tensors']} tensors"
    if not (unused := conversion.get("unused_tensors")):
        return f"{text}, all of which are used"
    reasons = "; ".join(f"{len(names)} are not used ({reason})" for reason, names in unused.items())
    return f"{text}, of which {reasons}"


def _conversion_notes(conversion: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about a converted file: what it does not contain, what it was trained on, and notes of its system."""
    if "num_attention_heads" in conversion:
        yield f"The number of attention heads, {conversion['num_attention_heads']}, is not in the file."
    system = SYSTEMS.get(str(conversion.get("system")).replace("-", "_"))
    if system is not None and system.converter is not None and (weights := system.converter.weights) is not None:
        yield (
            "Their authors, not `clear-hug-hf`, trained the weights "
            f"({conversion.get('objective', weights.objective)}) on {conversion.get('data', weights.data)}: results "
            "on recordings of these sources are not those of an external test."
        )
    for name, by_value in (system.conversion_notes if system else {}).items():
        if (note := by_value.get(conversion.get(name, ""))) is not None:
            yield note


def _stored(dtype: str, measured: Mapping[str, Any]) -> list[str]:
    if dtype == "float32":
        return []
    when = "before rounding"
    if measured.get("weights") == dtype:
        when = f"with the stored weights on {measured['environment']['date']}"
    return [f"Weights are stored as {dtype} and used in float32. Results were measured {when}."]


def _source_rows(metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None) -> list[list[str]]:
    rows = []
    earlier = (metrics or {}).get("encoder", {}).get("finetuned_on")
    for used_for, sources in (
        *((_teacher_title(encoder), _field(run, "data", PRETRAINING)) for run in _teacher_runs(encoder)),
        *(("earlier pre-training", run["data"]) for run in _earlier_runs(encoder)),
        ("pre-training", _field(encoder, "data", PRETRAINING) if encoder is not None else []),
        ("earlier fine-tuning", [earlier] if earlier else []),
        ("fine-tuning", [_field(metrics, "data", METRICS)] if metrics is not None else []),
    ):
        for source in sources:
            counts = _field(source, "sets", METRICS if "fine" in used_for else PRETRAINING)
            rows.append(
                [
                    _cell(_title(source)),
                    used_for,
                    source.get("license") or "not stated",
                    _cell(source.get("label_set") or "custom") if "fine" in used_for else "",
                    source.get("splits") or "not stated",
                    *(_count(counts.get(split)) for split in ("train", "validation", "test")),
                ]
            )
    return rows


def _recipes(
    metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Hyperparameters by stage of training."""
    recipes = []
    for stage, facts in (("fine-tuning", metrics), ("pre-training", encoder)):
        if facts is not None and facts.get("recipe"):
            overrides = {f"model.{name}": value for name, value in (facts.get("model") or {}).items()}
            settings = sorted({**facts["recipe"], **overrides}.items())
            recipes.append((stage, [(name, f"`{_cell(str(value))}`") for name, value in settings]))
    return recipes


def _reads(config: Any, extractor: Any) -> str:
    leads = f"{len(config.lead_names)} leads ({', '.join(config.lead_names)})"
    steps = [f"resampled to {config.sampling_rate:g} Hz with {leads}"]
    if getattr(extractor, "do_bandpass", False):
        steps.append(f"band-pass filtered from {extractor.bandpass_low:g} to {extractor.bandpass_high:g} Hz")
    if (size := getattr(extractor, "image_size", None)) is not None:
        steps.append(f"drawn as a page of ECG paper of {size[1]} x {size[0]} px, {extractor.layout} by default")
    if getattr(extractor, "num_beats", None):
        steps.append(
            f"divided into at most {extractor.num_beats} beats of {extractor.beat_length} samples per window of "
            f"{extractor.window_seconds:g} s"
        )
    if getattr(extractor, "patch_size", None):
        steps.append(
            f"divided into patches of {extractor.patch_size} samples in windows of {extractor.window_seconds:g} s"
        )
    last = f" and {steps.pop()}" if len(steps) > 1 else ""
    text = (
        "Recordings with named leads, at any sampling rate from 50 Hz, in mV, uV, V or normalized. They are "
        f"{', '.join(steps)}{last}."
    )
    if getattr(extractor, "detector", None) and getattr(extractor, "reads_beats", True):
        text += f" R peaks are found by the detector `{extractor.detector}`."
    text += f" Missing leads are {extractor.missing_leads}."
    if size is not None:
        text += (
            " In photographs and scans, the page is found, rectified and resized, not cropped. Recordings in unknown "
            "units are refused unless `millivolts_per_unit` is set."
        )
    return f"{text} All settings are in `preprocessor_config.json`, and the code is in this repository."


def _limits(
    metrics: Mapping[str, Any] | None, tested: _Tested | None, conversion: Mapping[str, Any] | None
) -> list[str]:
    limits = ["Performance on other devices, populations and label definitions is unknown."]
    if metrics is not None and (rare := metrics["data"].get("excluded_labels")):
        limits.append(
            f"Labels with fewer than {rare['fewer_than']} training recordings are excluded: "
            f"{', '.join(map(_cell, rare['labels']))}."
        )
    if metrics is not None and tested is None:
        limits.append("There are no results of these weights with their present calibration and thresholds.")
    if tested is not None:
        if tested.split == "cross_validation":
            limits.append(
                "There are no test results: those above are of models that were each trained on the other folds, "
                "not of these weights, which were trained on all folds."
            )
        if tested.split == "validation":
            limits.append("There are no test results: the model was selected on the recordings of all results above.")
        few = [
            _cell(name)
            for name, entry in tested.metrics["per_label"].items()
            if entry["num_positive"] < _MIN_POSITIVES and entry["auroc"] is not None
        ]
        if few:
            limits.append(
                f"Results of labels with fewer than {_MIN_POSITIVES} positive {tested.words} recordings are "
                f"unreliable: {', '.join(few)}."
            )
        if any(value["low"] == value["high"] for value in _macros(tested).values()):
            limits.append("Intervals of zero width reflect a small number of recordings, not certainty.")
    if conversion is not None:
        limits.append(
            "Preprocessing follows the authors of the converted weights as far as it is known. Their results were not "
            "reproduced."
        )
    return limits


def _environment(facts: Mapping[str, Any] | None, conversion: Mapping[str, Any] | None) -> str | None:
    environment = (facts or {}).get("environment")
    if environment is None:
        if conversion is None or not conversion.get("versions"):
            return None
        environment = {"versions": conversion["versions"]}
    parts = [f"{name} {version}" for name, version in environment["versions"].items()]
    if "python" in environment:
        parts.insert(0, f"Python {environment['python']}")
    if "device" in environment:
        parts.append(environment["device"])
    return ", ".join(parts) + (f"; {environment['date']}." if "date" in environment else ".")


def _license_text(
    license: str | None, facts: Mapping[str, Mapping[str, Any]], conversion: Mapping[str, Any] | None
) -> str:
    weights = f"Weights: {license}." if license else "**No license is stated for the weights: ask before use.**"
    parts = [weights, f"Code in this repository: {CODE_LICENSE}."]
    data_licenses = {_title(source): source["license"] for source in _all_sources(facts) if source.get("license")}
    for title, data_license in data_licenses.items():
        parts.append(f"{title}: {data_license}.")
    if conversion is not None:
        note = conversion.get("license_note", "Its license is not recorded")
        parts.append(
            f"The converted file is the work of its authors. {note}. Publishers of these weights must check whether "
            "redistribution is allowed."
        )
    return " ".join(parts)


def _citations(config: Any, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    encoder = _encoder_facts(facts, PRETRAINING)
    systems = [SYSTEMS[config.model_type], *map(_system, _teacher_runs(encoder))]
    objectives = [] if encoder is None else [_objective(encoder).paper]
    citations = [*(system.paper for system in systems), *objectives]
    citations += [str(source.get("citation") or "") for source in _all_sources(facts)]
    return [f"- {citation}" for citation in dict.fromkeys(filter(None, citations))]


def _all_sources(facts: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    encoder, metrics = _encoder_facts(facts, PRETRAINING) or {}, facts.get(METRICS, {})
    labeled = [metrics.get("encoder", {}).get("finetuned_on"), metrics.get("data")]
    runs = (encoder, *_earlier_runs(encoder), *_teacher_runs(encoder))
    pretrained = [source for run in runs for source in run.get("data", [])]
    return [*pretrained, *(source for source in labeled if isinstance(source, Mapping))]


# ------------------------------------------------------------------------------------------------------------- words


def _title(source: Mapping[str, Any]) -> str:
    return source.get("title") or source.get("name") or "recordings"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "recordings"


def _cell(text: str) -> str:
    """Text of a table cell, with Markdown characters escaped."""
    return re.sub(r"([|<>\\*_])", r"\\\1", " ".join(text.split()))


def _parameters(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k"


def _count(counts: Mapping[str, int] | None) -> str:
    return "" if counts is None else f"{counts['recordings']} ({counts['patients']})"


def _interval(metric: Mapping[str, Any] | None, sign: bool = False) -> str:
    if metric is None:
        return "not defined"
    form = "+.3f" if sign else ".3f"
    if metric["low"] is None:
        return f"{metric['value']:{form}}"
    return f"{metric['value']:{form}} ({metric['low']:{form}} to {metric['high']:{form}})"


def _interval_words(metric: Mapping[str, Any]) -> str:
    if metric["low"] is None:
        return ""
    return f" (95% interval {metric['low']:.3f} to {metric['high']:.3f})"
