"""Model cards, made from the files of the run that made the model: no number stands in a card that is not in them."""

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

from ..inference.classifier_outputs import model_label_names, model_thresholds
from ..processing.errors import InputError, import_library
from ..systems import SYSTEMS, System
from ..training.folders import CONVERSION, FOOTER, METRICS, PRETRAINING


CODE_LICENSE = "Apache-2.0"
# As the Hub spells them; "other" needs a name beside it.
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
# A threshold chosen on fewer recordings with the label, and an AUROC measured on them, say little.
_FEW = 10
_TEMPLATE = "model_card_template.md"
_NEEDED = ("license", "library_name", "tags")
_METRICS = {
    "auroc": ("AUROC", "roc_auc"),
    "average_precision": ("average precision", "average_precision"),
    "f1": ("F1", "f1"),
    "calibration_error": ("calibration error", "expected_calibration_error"),
}
# What the card shows the use of; of other models it shows that of their encoder.
RECORDING_CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForImageClassification")
"""Auto classes of the classifiers of recordings, or of pictures of them."""
_CLASSIFIERS = (*RECORDING_CLASSIFIERS, "AutoModelForTokenClassification")
_PIPELINES = {"AutoModelForImageClassification": "image-classification"}


class Card(NamedTuple):
    """
    A model card and what belongs to it.

    Args:
        card ([`ModelCard`]): The content of README.md.
        eval_results (`dict[str, str]`): Content of each `.eval_results/*.yaml` file.
        missing (`list[str]`): What the card should say and nothing told it, each as a few words.
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
    The card of a model.

    Args:
        repo_id (`str`): `ORG/NAME` on the Hub.
        config ([`PreTrainedConfig`]): The model's.
        auto_class (`str`): Auto class that loads it with all its weights, such as `"AutoModelForPreTraining"`.
        feature_extractor: The model's.
        facts (`Mapping[str, Mapping]`): What the run wrote, as `find_facts` reads it.
        license (`str`, *optional*): Of the weights, as the Hub spells it: one of [`LICENSES`].
        license_name (`str`, *optional*): What it is called, where it is `"other"`.
        dataset_id (`str`, *optional*): `ORG/NAME` on the Hub of the recordings that were tested; `.eval_results`
            needs one.
        num_parameters (`int`, *optional*): Of the model.
        dtype (`str`, *optional*, defaults to `"float32"`): How its weights are stored.

    Returns:
        [`Card`]

    Raises:
        InputError: If the licence is none, or a file of the run lacks a field that the card needs, or holds in it what
            cannot be: the message names it.
    """
    _check_licence(license, license_name)
    encoder, converted = _of_encoder(facts, PRETRAINING), _of_encoder(facts, CONVERSION)
    conversion = facts.get(CONVERSION)
    is_classifier = auto_class in RECORDING_CLASSIFIERS
    metrics = facts.get(METRICS) if is_classifier else None
    labels, thresholds = (model_label_names(config), model_thresholds(config)) if is_classifier else ([], [])
    missing = []
    if license is None:
        missing.append("the licence of the weights (--license)")
    if is_classifier and all(re.fullmatch(r"LABEL_\d+", name) for name in labels):
        missing.append("names of the labels (id2label in config.json)")
    if metrics is not None and (named := _field(metrics, "labels", METRICS)) != labels:
        raise InputError(
            f"{METRICS} is of the labels {', '.join(map(str, named))} and the model names {', '.join(labels)}: the "
            "file is of another model, take it away"
        )
    if is_classifier and metrics is None:
        missing.append(f"metrics ({METRICS}, which `clear-hug finetune` writes)")
    if not is_classifier and encoder is None and conversion is None:
        missing.append(f"how it was pre-trained ({PRETRAINING}, which `clear-hug pretrain` writes)")
    tested = _tested(metrics) if metrics is not None else None
    if tested is None and dataset_id is not None:
        raise InputError(f"nothing is recorded that was tested on {dataset_id}: leave out --dataset")
    if tested is not None and dataset_id is None:
        missing.append("the tested dataset's name on the Hub, for .eval_results (--dataset)")

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
        loaded_by=auto_class if auto_class in _CLASSIFIERS else "AutoModel",
        pretrained_with=SYSTEMS[config.model_type].objective.parts,
        reads_pages=hasattr(feature_extractor, "image_processor"),
        simulated=any(one.get("name") == "simulated" for one in _all_sources(facts)),
        summary=_summary(config, auto_class, labels, num_parameters, conversion),
        labels=[
            {"name": _cell(label), "threshold": f"{threshold:.3g}"}
            for label, threshold in zip(labels, thresholds, strict=True)
        ],
        threshold_note=_threshold_note(config),
        results=_result_tables(metrics) if is_classifier else _pretraining_tables(encoder),
        made=[*_made(metrics, encoder, converted), *_stored(dtype, (metrics or {}).get("measured") or {})],
        sources=sources,
        patients_note=" (patients)" if any("(" in cell for row in sources for cell in row[5:]) else "",
        recipes=_recipes(metrics, encoder),
        reads=_reads(config, feature_extractor),
        limits=_limits(metrics, encoder, converted),
        environment=_environment(metrics if is_classifier else encoder, conversion),
        licence=_licence(license_name or license, facts, converted),
        citations=_citations(config, facts),
        footer=FOOTER,
    )
    eval_results = {} if tested is None or dataset_id is None else _eval_results(tested, dataset_id, repo_id)
    return Card(text, eval_results, missing)


def _check_licence(license: str | None, name: str | None) -> None:
    if license is None:
        if name is not None:
            raise InputError("a name of the licence needs --license other")
        return
    if license not in LICENSES:
        near = difflib.get_close_matches(license.lower().replace(" ", "-"), LICENSES, n=2) or ["cc-by-4.0", "other"]
        raise InputError(f"{license!r} is no licence as the Hub spells it: did you mean {' or '.join(near)}?")
    if (license == "other") != (name is not None):
        raise InputError("with --license other, and only with it, say what the licence is called: --license-name NAME")


def read_card(path: str | Path) -> ModelCard:
    """
    A card that somebody wrote.

    Args:
        path (`str` or `Path`): A Markdown file that begins with a header in YAML.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is no text, its header is no YAML, or lacks a field that a model on the Hub needs.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"the card {path} does not exist: check the path, or leave out --card")
    if not path.is_file():
        raise InputError(f"{path} is a folder: name the card, a Markdown file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"the card {path} is no text in UTF-8: save it as one") from None
    lacking = list(_NEEDED)
    if text.startswith("---"):
        try:
            card = ModelCard(text)
            found = card.data.to_dict()
        except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the header of the card {path} is no YAML ({reason}): mend the lines between ---"
            ) from error
        lacking = [name for name in _NEEDED if not found.get(name)]
    if lacking:
        raise InputError(
            f"the card {path} lacks {', '.join(lacking)} in its header: add the field(s) between two lines of --- at "
            "its beginning, or leave out --card to have one made"
        )
    _check_licence(str(found["license"]), found.get("license_name"))
    return card


# ------------------------------------------------------------------------------------------------------------- facts


def _field(facts: Mapping[str, Any], path: str, where: str) -> Any:
    """A field of a run's file by the names on the way to it, parted by slashes: a label may have dots."""
    found: Any = facts
    for name in path.split("/"):
        if not isinstance(found, Mapping) or name not in found:
            raise InputError(
                f"{where} lacks the field {path.replace('/', '.')}, which the card needs: make the run again with "
                f"this version, or take {where} away and do without its numbers"
            )
        found = found[name]
    return found


def _of_encoder(facts: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """How the encoder came about: a file beside the model, or what the fine-tuning run wrote down of it."""
    return facts.get(name, facts.get(METRICS, {}).get("encoder", {}).get(name))


def _pretrained(encoder: Mapping[str, Any]) -> System:
    """The system of a run of pre-training."""
    name = _field(encoder, "system", PRETRAINING)
    if name not in SYSTEMS:
        raise InputError(f"{PRETRAINING} is of the system {name!r}: install the package that brings it")
    return SYSTEMS[name]


def _earlier(encoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The runs that a pre-training went on from, the latest first."""
    while encoder is not None and (encoder := encoder.get("initialized_from")) is not None:
        yield encoder


def _teachers(encoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The runs that made the encoder of signals that pages were aligned with."""
    teacher = (encoder or {}).get("signal_teacher")
    if teacher is not None:
        yield from (*_earlier(teacher), teacher)


def _check_metrics(found: Mapping[str, Any], where: str) -> None:
    """Refuse metrics that lack a part, or are none."""
    entries = {f"macro_{name}": _field(found, f"macro_{name}", METRICS) for name in _METRICS}
    for label, entry in _field(found, "per_label", METRICS).items():
        if entry.get("auroc") is not None:
            entries |= {f"per_label.{label}.{name}": entry.get(name) for name in _METRICS}
    for name, metric in entries.items():
        if metric is None and name.startswith("macro_"):
            continue
        known = metric if isinstance(metric, Mapping) else {}
        complete = {"value", "low", "high"} <= known.keys() and known["value"] is not None
        numbers = [one for part in ("value", "low", "high") if (one := known.get(part)) is not None]
        if not complete or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in numbers):
            raise InputError(
                f"{METRICS} holds {metric!r} as {where}.{name}, which is no metric with its interval: make the run "
                "again, or take the file away and do without its numbers"
            )


def _macros(tested: _Tested) -> dict[str, Mapping[str, Any]]:
    """Means over labels of the metrics that are defined, by name."""
    return {name: value for name in _METRICS if (value := tested.metrics[f"macro_{name}"]) is not None}


class _Tested(NamedTuple):
    """The split that results are stated of: the test recordings, where there are none those of the choice."""

    split: str
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    date: str | None


def _tested(metrics: Mapping[str, Any]) -> _Tested:
    results = _field(metrics, "pretrained", METRICS)
    split = "test" if "test" in results else "validation"
    found = _field(results, split, METRICS)
    _check_metrics(found, f"pretrained.{split}")
    data = _field(metrics, "data", METRICS)
    if not isinstance(data, Mapping):
        raise InputError(f"{METRICS} was written by an older version: make the run again")
    return _Tested(split, found, data, metrics.get("environment", {}).get("date"))


# ----------------------------------------------------------------------------------------------------------- results


def _model_index(tested: _Tested, dataset_id: str | None) -> list[EvalResult]:
    """Results as the header's `model-index` has them."""
    return [
        EvalResult(
            task_type="ecg-classification",
            task_name="ECG classification",
            dataset_type=dataset_id or _slug(_title(tested.data)),
            dataset_name=_title(tested.data),
            dataset_split=tested.split,
            dataset_config=tested.data.get("label_set"),
            metric_type=_METRICS[name][1],
            metric_name=f"macro {_METRICS[name][0]}",
            metric_value=round(value["value"], 4),
            metric_args={"interval_95": [round(value["low"], 4), round(value["high"], 4)]}
            if value["low"] is not None
            else None,
        )
        for name, value in _macros(tested).items()
    ]


def _eval_results(tested: _Tested, dataset_id: str, repo_id: str) -> dict[str, str]:
    """Results as the Hub reads them from `.eval_results/`."""
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
                notes=f"macro {_METRICS[name][0]}{_interval_words(value)} on the {tested.split} split",
            )
        )
    content = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return {f".eval_results/{_slug(dataset_id.split('/')[-1])}.yaml": content}


def _result_tables(metrics: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if metrics is None:
        return []
    columns = {"pretrained": "this model", "random_initialization": "the same, its encoder never trained"}
    runs = {name: _field(metrics, name, METRICS) for name in columns if name == "pretrained" or name in metrics}
    tables = []
    for split in ("test", "validation"):
        if split not in runs["pretrained"]:
            continue
        for name, run in runs.items():
            _check_metrics(_field(run, split, METRICS), f"{name}.{split}")
        found = runs["pretrained"][split]
        where = f"On {found['num_recordings']} {split} recordings of {found['num_patients']} patients"
        difference = metrics.get("macro_auroc_difference", {}).get(split)
        note = "Difference of macro AUROC, paired over patients: " + _interval(difference, sign=True) + "."
        tables.append(
            {
                "title": f"{where}, with 95 % intervals over patients:",
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
    """Its header, which says so where numbers are of recordings that chose the model: tables are quoted alone."""
    return name if split == "test" else f"{name} (optimistic: also used to choose epochs and thresholds)"


def _label_table(tested: _Tested) -> dict[str, Any]:
    rows, excluded = [], []
    for name, entry in _field(tested.metrics, "per_label", METRICS).items():
        if entry["auroc"] is None:
            excluded.append(name)
            continue
        rows.append([_cell(name), str(entry["num_positive"]), *(_interval(entry[one]) for one in _METRICS)])
    note = f"Excluded, with only one class present: {', '.join(map(_cell, excluded))}." if excluded else ""
    first = _first_column("label", tested.split)
    return {
        "title": f"Per label on the {tested.split} recordings:",
        "columns": [first, "with the label", *(title for title, _ in _METRICS.values())],
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
            "title": _pretrained(encoder).objective.loss_title,
            "columns": ["", f"after epoch {_field(result, 'epoch', PRETRAINING)}"],
            "rows": rows,
            "note": ("The epoch was chosen on the validation recordings. " if encoder.get("chosen") else "")
            + "What the representation is worth for a task is measured by fine-tuning it.",
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
    size = "" if num_parameters is None else f" ({_parameters(num_parameters)} parameters)"
    if conversion is not None:
        return (
            f"The released {conversion['kind']} `{conversion['file']}`{size} in the form of Transformers, converted "
            "by `clear-hug-hf`. The weights are those of the file; nothing was trained."
        )
    if auto_class in RECORDING_CLASSIFIERS:
        head = system.heads.get(getattr(config, "head_type", ""), "classifier")
        count = "1 label" if len(labels) == 1 else f"{len(labels)} labels"
        what = "a picture of a 12-lead ECG" if auto_class == RECORDING_CLASSIFIERS[1] else "a 12-lead ECG"
        return f"{system.display_name}{size} that names {count} of {what}, by a {head}."
    if auto_class == "AutoModelForTokenClassification":
        classes = ", ".join(map(_cell, model_label_names(config)))
        return f"{system.display_name}{size} that classifies every sample of every lead of a 12-lead ECG: {classes}."
    what = f"{size}, alone"
    if auto_class == "AutoModelForPreTraining":
        what = f", with the {system.objective.parts} that it was pre-trained with{size.replace(')', ' in all)')}"
    article = "An" if system.display_name.startswith("E") else "A"
    return f"{article} {system.display_name} encoder of 12-lead ECGs{what}: a starting point for labels of your own."


def _threshold_note(config: Any) -> str:
    if getattr(config, "label_thresholds", None):
        return "Thresholds are those with the best F1 on the validation recordings; they are saved in the config."
    return "No threshold was chosen for these labels: 0.5 stands for all."


def _made(
    metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None, conversion: Mapping[str, Any] | None
) -> list[str]:
    paragraphs = []
    if conversion is not None:
        size = f", {conversion['size']} size" if conversion.get("size") else ""
        what = "Converted from" if metrics is None else "**Encoder**: converted from"
        paragraphs.append(
            f"{what} `{conversion['file']}` (SHA-256 `{conversion['sha256']}`): a {conversion['kind']}"
            f"{size}, {conversion['num_tensors']} tensors, all of them used. The number of attention heads, "
            f"{conversion['num_attention_heads']}, is not in the file."
            + "".join(f" {note}" for note in _conversion_notes(conversion))
        )
    if encoder is not None:
        recipe, system = _field(encoder, "recipe", PRETRAINING), _pretrained(encoder)
        result = _field(encoder, "result", PRETRAINING)
        text = (
            f"**Pre-training** {system.objective.supervision}: {system.display_name}, {encoder.get('size') or 'own'} "
            f"size, {recipe.get('num_train_epochs')} epochs, seed {recipe.get('seed')}."
        )
        if encoder.get("chosen"):
            text += f" These are the weights after epoch {result['epoch']}, which had the lowest validation loss."
        for one in _earlier(encoder):
            text += f" It went on with the model of {_field(one, 'result/epoch', PRETRAINING)} epochs before."
        if (teacher := encoder.get("signal_teacher")) is not None:
            text += (
                f" The signal teacher: {_pretrained(teacher).display_name}, pre-trained without labels for "
                f"{_field(teacher, 'result/epoch', PRETRAINING)} epochs."
            )
        paragraphs.append(text)
    elif metrics is not None and conversion is None:
        paragraphs.append("**Pre-training**: nothing is recorded about the encoder that was fine-tuned.")
    if metrics is not None:
        recipe = _field(metrics, "recipe", METRICS)
        method = {
            "frozen": "the head was trained, the encoder stayed as it was",
            "full": "the whole model was trained",
            "lora": "the head and low-rank updates of the encoder were trained, and merged",
        }[recipe["method"]]
        control = ""
        if "random_initialization" in metrics:
            control = " The same was done with an encoder that was never trained, as a control."
        paragraphs.append(
            f"**Fine-tuning**: {method}; seed {recipe.get('seed')}. Chosen was "
            f"{_field(metrics, 'selected_by', METRICS).split(',')[0].removesuffix(' in both runs')}: epoch "
            f"{_field(metrics, 'pretrained/best_epoch', METRICS)}.{control}"
        )
    return paragraphs or ["Nothing is recorded about how these weights came about: they may be untrained."]


def _conversion_notes(conversion: Mapping[str, Any]) -> Iterator[str]:
    system = SYSTEMS.get(str(conversion.get("system")).replace("-", "_"))
    for name, by_value in (system.conversion_notes if system else {}).items():
        if (note := by_value.get(conversion.get(name, ""))) is not None:
            yield note


def _stored(dtype: str, measured: Mapping[str, Any]) -> list[str]:
    if dtype == "float32":
        return []
    when = "before they were rounded"
    if measured.get("weights") == dtype:
        when = f"with these weights, again on {measured['environment']['date']}"
    return [
        f"The weights are stored as {dtype} and computed with in float32. What was measured here was measured {when}."
    ]


def _source_rows(metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None) -> list[list[str]]:
    rows = []
    before = (metrics or {}).get("encoder", {}).get("finetuned_on")
    for used_for, sources in (
        *(("signal teacher", _field(one, "data", PRETRAINING)) for one in _teachers(encoder)),
        *(("earlier pre-training", one["data"]) for one in _earlier(encoder)),
        ("pre-training", _field(encoder, "data", PRETRAINING) if encoder is not None else []),
        ("fine-tuning before", [before] if before else []),
        ("fine-tuning", [_field(metrics, "data", METRICS)] if metrics is not None else []),
    ):
        for source in sources:
            counts = _field(source, "sets", METRICS if "fine" in used_for else PRETRAINING)
            rows.append(
                [
                    _cell(_title(source)),
                    used_for,
                    source.get("license") or "not stated",
                    _cell(source.get("label_set") or "own") if "fine" in used_for else "",
                    source.get("splits") or "not stated",
                    *(_count(counts.get(split)) for split in ("train", "validation", "test")),
                ]
            )
    return rows


def _recipes(
    metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings by what they were for."""
    found = []
    for purpose, facts in (("fine-tuning", metrics), ("pre-training", encoder)):
        if facts is not None and facts.get("recipe"):
            chosen = {**facts["recipe"], **{f"model.{name}": one for name, one in (facts.get("model") or {}).items()}}
            found.append((purpose, [(name, f"`{_cell(str(value))}`") for name, value in sorted(chosen.items())]))
    return found


def _reads(config: Any, extractor: Any) -> str:
    steps = [
        f"Any recording with named leads, at any rate from 50 Hz, in mV, uV, V or normalised, becomes "
        f"{len(config.lead_names)} leads ({', '.join(config.lead_names)}) at {config.sampling_rate:g} Hz"
    ]
    if (size := getattr(extractor, "image_size", None)) is not None:
        steps.append(f"drawn as a page of ECG paper of {size[1]} x {size[0]} px, {extractor.layout} by default")
    if getattr(extractor, "do_bandpass", False):
        steps.append(f"band-passed from {extractor.bandpass_low:g} to {extractor.bandpass_high:g} Hz")
    if getattr(extractor, "detector", None) and getattr(extractor, "reads_beats", True):
        steps.append(f"searched for R peaks by the detector `{extractor.detector}`")
    if getattr(extractor, "num_beats", None):
        steps.append(
            f"cut into at most {extractor.num_beats} beats of {extractor.beat_length} samples per window of "
            f"{extractor.window_seconds:g} s"
        )
    if getattr(extractor, "patch_size", None):
        steps.append(
            f"read in windows of {extractor.window_seconds:g} s, in patches of {extractor.patch_size} samples"
        )
    pictures = ""
    if size is not None:
        pictures = (
            " Pictures of pages, photographs or scans, are searched for the page, straightened and resized to that; "
            "nothing is cropped. Recordings in unknown units are refused unless `millivolts_per_unit` is set."
        )
    return (
        ", ".join(steps) + f". Missing leads are masked.{pictures} All settings are in `preprocessor_config.json`; "
        "the code is in this repository."
    )


def _limits(
    metrics: Mapping[str, Any] | None, encoder: Mapping[str, Any] | None, conversion: Mapping[str, Any] | None
) -> list[str]:
    limits = ["What other hospitals' devices, populations and labels do to it is not known from what stands here."]
    if metrics is not None:
        tested = _tested(metrics)
        if rare := metrics["data"].get("excluded_labels"):
            limits.append(
                f"Labels that fewer than {rare['fewer_than']} training recordings have are not among its outputs: "
                f"{', '.join(map(_cell, rare['labels']))}."
            )
        if tested.split == "validation":
            limits.append("There were no test recordings: all results are of those that the model was chosen on.")
        few = [
            _cell(name)
            for name, one in tested.metrics["per_label"].items()
            if one["num_positive"] < _FEW and one["auroc"] is not None
        ]
        if few:
            limits.append(
                f"Fewer than {_FEW} {tested.split} recordings have these labels, so that their results are unsure: "
                f"{', '.join(few)}."
            )
        if any(value["low"] == value["high"] for value in _macros(tested).values()):
            limits.append("An interval without width comes of few recordings without an error, not of certainty.")
    if conversion is not None:
        limits.append(
            "The preprocessing of the converted weights' authors is followed as far as it is known; their results "
            "have not been measured again."
        )
    return limits


def _environment(facts: Mapping[str, Any] | None, conversion: Mapping[str, Any] | None) -> str | None:
    found = (facts or {}).get("environment")
    if found is None:
        if conversion is None or not conversion.get("versions"):
            return None
        found = {"versions": conversion["versions"]}
    parts = [f"{name} {one}" for name, one in found["versions"].items()]
    if "python" in found:
        parts.insert(0, f"Python {found['python']}")
    if "device" in found:
        parts.append(found["device"])
    return ", ".join(parts) + (f"; {found['date']}." if "date" in found else ".")


def _licence(license: str | None, facts: Mapping[str, Mapping[str, Any]], conversion: Mapping[str, Any] | None) -> str:
    weights = f"Weights: {license}." if license else "**The licence of the weights is not stated: ask before use.**"
    parts = [weights, f"Code in this repository: {CODE_LICENSE}."]
    stated = {_title(one): one["license"] for one in _all_sources(facts) if one.get("license")}
    for title, of_data in stated.items():
        parts.append(f"{title}: {of_data}.")
    if conversion is not None:
        note = conversion.get("license_note", "Nothing is recorded about its licence")
        parts.append(
            f"The file that was converted is its authors' work. {note}: whether these weights "
            "may be passed on is for whoever publishes them to find out."
        )
    return " ".join(parts)


def _citations(config: Any, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    systems = [SYSTEMS[config.model_type], *map(_pretrained, _teachers(_of_encoder(facts, PRETRAINING)))]
    found = [*(system.paper for system in systems), *(one.get("citation") for one in _all_sources(facts))]
    return [f"- {one}" for one in dict.fromkeys(filter(None, found))]


def _all_sources(facts: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    encoder, metrics = _of_encoder(facts, PRETRAINING) or {}, facts.get(METRICS, {})
    labelled = [metrics.get("encoder", {}).get("finetuned_on"), metrics.get("data")]
    runs = (encoder, *_earlier(encoder), *_teachers(encoder))
    pretrained = [source for run in runs for source in run.get("data", [])]
    return [*pretrained, *(one for one in labelled if isinstance(one, Mapping))]


# ------------------------------------------------------------------------------------------------------------- words


def _title(source: Mapping[str, Any]) -> str:
    return source.get("title") or source.get("name") or "recordings"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "recordings"


def _cell(text: str) -> str:
    """Text that cannot break a table or become markup."""
    return re.sub(r"([|<>\\*_])", r"\\\1", " ".join(text.split()))


def _parameters(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


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
    return f" (95 % interval {metric['low']:.3f} to {metric['high']:.3f})"
