"""
Renew the tables of the README and of docs/ from the files in `benchmarks/results`, and the options from the parsers.

    python benchmarks/readme_tables.py           # rewrite them
    python benchmarks/readme_tables.py --check   # exit status 1 if a table is stale
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from importlib import import_module
from textwrap import dedent

from machine import REPOSITORY

from clear_hug_hf.cli import VERBS
from clear_hug_hf.objectives import objectives_of, shared_objectives
from clear_hug_hf.systems import SYSTEMS, Objective, load
from clear_hug_hf.utils.arguments import ArgumentParser


RESULTS = REPOSITORY / "benchmarks" / "results"
Row = dict[str, str]
# Today's terms for words in results that were measured earlier, longer ones first.
_TERMS = {
    "whole model, untrained": "full fine-tuning from random weights",
    "whole model from random": "full fine-tuning from random weights",
    "whole model": "full fine-tuning",
    "vision tower without training": "randomly initialized vision tower",
    "untrained": "randomly initialized",
    "neighbours": "neighbors",  # codespell:ignore neighbours
    "for shares of": "for fractions of",
}


def _read(name: str) -> list[Row]:
    return list(csv.DictReader(_text(name).splitlines()))


def _text(name: str) -> str:
    text = (RESULTS / name).read_text(encoding="utf-8")
    for word, term in _TERMS.items():
        text = text.replace(word, term)
    return text


def _table(header: list[str], rows: list[list[str]], numbers: bool = True) -> str:
    lines = [header, ["---", *["---:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def beat_detectors() -> str:
    """Accuracy and speed of the detectors on the recordings, and with lead II drowned in noise."""
    rows = _read("beat_detectors.csv")
    noisy = {row["detector"]: row for row in rows if row["recordings"] == "lead II drowned in noise"}
    body = [
        [
            row["detector"],
            f"{float(row['f1']):.4f}",
            f"{row['records_right']} of {row['records']}",
            f"{float(row['ms_per_record']):.2f}",
            f"{float(noisy[row['detector']]['f1']):.3f}" if row["detector"] in noisy else "",
        ]
        for row in rows
        if row["recordings"] == "as recorded"
    ]
    header = ["detector", "F1 at 150 ms", "records fully correct", "ms per record", "F1, lead II drowned in noise"]
    return _table(header, body) + "\n\n" + _where(rows[0])


def preparation() -> str:
    """Time of each part of both pipelines."""
    rows = _read("preparation.csv")
    parts = list(dict.fromkeys(row["part"] for row in rows))
    body = []
    for pipeline in dict.fromkeys(row["pipeline"] for row in rows):
        times = {row["part"]: float(row["ms_per_record"]) for row in rows if row["pipeline"] == pipeline}
        body.append([pipeline, *(f"{times[part]:.2f}" for part in parts)])
    return _table(["pipeline", *parts], body) + "\n\n" + _where(rows[0])


def prepare_dataset() -> str:
    """Time of each part of `clear-hug prepare` on each source, and of the released pipeline."""
    rows = _read("prepare_dataset.csv")
    sources = list(dict.fromkeys(row["source"] for row in rows))
    times = {(row["pipeline"], row["part"], row["source"]): float(row["ms_per_record"]) for row in rows}
    parts = list(dict.fromkeys(part for pipeline, part, _ in times if pipeline == "clear_hug_hf"))
    body = [[part, *(f"{times['clear_hug_hf', part, source]:.2f}" for source in sources)] for part in parts]
    released = [times["as released", "total", source] for source in sources]
    body.append(["total as released, without writing", *(f"{total:.2f}" for total in released)])
    ratios = [total / times["clear_hug_hf", "total", source] for total, source in zip(released, sources, strict=True)]
    body.append(["speedup", *(f"{ratio:.1f}" for ratio in ratios)])
    return _table(["ms per record", *sources], body) + "\n\n" + _where(rows[0])


def prepare_dataset_memory() -> str:
    """Peak memory of `clear-hug prepare` at two sizes."""
    rows = _read("prepare_dataset_memory.csv")
    columns = {
        "records": "records",
        "processes": "processes",
        "main_mib": "main process [MiB]",
        "largest_worker_mib": "largest worker [MiB]",
        "largest_worker_unshared_mib": "of which unshared [MiB]",
        "all_mib": "total [MiB]",
    }
    return _table(list(columns.values()), [[row[name] for name in columns] for row in rows])


def _interval(metric: dict[str, float], form: str) -> str:
    return f"{metric['value']:{form}} ({metric['low']:{form}} to {metric['high']:{form}})"


def _where(row: Row) -> str:
    return f"*{row['cpu']}, one thread, {row['date']}; the CSV lists versions.*"


def pretrain_step() -> str:
    """A pre-training step in the plain form, with each improvement alone, and with all."""
    return _steps(_read("pretrain_step_cpu_base.csv"))


def _steps(rows: list[Row]) -> str:
    steps = [row for row in rows if row["forward_s"]]
    columns = ("load_s", "forward_s", "backward_s", "optimizer_s")
    body = [
        [
            row["form"],
            f"{float(row['recordings_per_second']):.1f} ({float(row['slowest']):.1f} to {float(row['fastest']):.1f})",
            f"{float(row['times_plain']):.1f}",
            *(f"{float(row[column]):.2f}" for column in columns),
            f"{float(row['peak_memory_mib']) / 1024:.1f}",
            f"{float(row['fraction_of_matmul']):.0%}",
        ]
        for row in steps
    ]
    header = [
        "form",
        "recordings/s (slowest to fastest step)",
        "speedup",
        "load [s]",
        "forward [s]",
        "backward [s]",
    ]
    header += ["optimizer [s]", "memory [GiB]", "fraction of the matmul rate"]
    loaders = [
        f"{float(row['recordings_per_second']):,.0f} with {row['form'].removeprefix('loader, ')}"
        for row in rows
        if not row["forward_s"]
    ]
    loader = f"The loader alone, in recordings/s: {', '.join(loaders)}.\n\n" if loaders else ""
    machine = f"*{rows[0]['cpu']}, {rows[0]['cores']} cores, {rows[0]['date']}; the CSV lists versions.*"
    return f"{_table(header, body)}\n\n{loader}{machine}"


def ecg_jepa_speed() -> str:
    """ECG-JEPA's attention in each form, and below it the encoder and a step of pre-training."""
    rows = _read("ecg_jepa_speed.csv")
    attention = _speeds(rows, ("attention",), "ms", 1000.0)
    larger = _speeds(rows, ("encoder", "pre-training"), "s", 1.0)
    return f"{attention}\n\n{larger}\n\n{_where(rows[0])}"


def _speeds(rows: list[Row], begin: tuple[str, ...], unit: str, scale: float) -> str:
    body = []
    for row in rows:
        if row["what"].startswith(begin):
            times = [scale * float(row[name]) for name in ("seconds", "fastest", "slowest")]
            middle, low, high = (f"{time:#.3g}".rstrip(".") for time in times)
            what = f"{row['what']}, batch of {row['batch_size']}"
            body.append(
                [
                    what,
                    row["form"],
                    f"{middle} ({low} to {high})",
                    f"{float(row['times_plain']):.2f}",
                    row["saved_mib"],
                ]
            )
    header = ["what", "form", f"{unit} (fastest to slowest)", "speedup", "kept for backward [MiB]"]
    return _table(header, body)


def s4_convolution() -> str:
    """The convolutions and kernels of ECG-CPC's layers against direct forms."""
    rows = _read("s4_convolution.csv")
    body = []
    for row in rows:
        middle, low, high = (
            f"{1000 * float(row[name]):#.3g}".rstrip(".") for name in ("seconds", "fastest", "slowest")
        )
        what = f"{row['what']}, {row['tokens']} tokens"
        body.append([what, row["batch_size"], row["form"], f"{middle} ({low} to {high})", row["times_first_form"]])
    header = ["what", "recordings", "form", "ms (fastest to slowest)", "speedup"]
    return f"{_table(header, body)}\n\n{_where(rows[0])}"


def probe_cache() -> str:
    """A probe with kept features against one whose encoder runs every epoch."""
    rows = _read("probe_cache.csv")
    body = [[row["form"], row["seconds"], row["times_faster"], row["largest_difference"]] for row in rows]
    header = [f"{rows[0]['epochs']} epochs, {rows[0]['training_recordings']} recordings", "seconds", "speedup"]
    machine = f"*{rows[0]['cpu']}, {rows[0]['threads']} thread(s), {rows[0]['date']}; the CSV lists versions.*"
    return _table([*header, "largest difference of a probability"], body) + "\n\n" + machine


def protocol() -> str:
    """The table that `clear-hug benchmark` wrote."""
    return _text("protocol_ptbxl_tiny.md").strip()


def paper_ablations() -> str:
    """Macro AUROC of each method of the ablations."""
    rows = [row for row in _read("paper_ablations.csv") if row["what"] == "macro AUROC"]
    body = [[row["method"], _of_row(row, ".3f"), row["seeds"].replace(" ", ", ")] for row in rows]
    return _table(["method", "macro AUROC (95 %)", "seeds"], body)


def paper_ablation_differences() -> str:
    """Paired differences of the ablations."""
    rows = [row for row in _read("paper_ablations.csv") if row["what"] == "difference"]
    body = [[row["method"], row["minus"], _of_row(row, "+.3f")] for row in rows]
    return _table(["macro AUROC of", "minus that of", "difference (95 %)"], body)


def reconstruction() -> str:
    """How well each variant of CLEAR rebuilds hidden beats."""
    names = {
        "clear": "CLEAR",
        "no_view": "without view guidance",
        "no_conduction": "without conduction guidance",
        "neither": "without both",
        "masked_autoencoder": "masked autoencoder, full attention",
    }
    row_of = {row["method"]: row for row in _read("paper_ablations.csv") if row["what"] == "reconstruction error"}
    return _table(
        ["pre-trained as", "error (95 %)"], [[names[variant], _of_row(row_of[variant], ".3f")] for variant in names]
    )


def _of_row(row: Row, form: str) -> str:
    return f"{float(row['value']):{form}} ({float(row['low']):{form}} to {float(row['high']):{form}})"


def cross_dataset() -> str:
    """What a model of one source loses on another."""
    metrics = json.loads((RESULTS / "cross_dataset_cpsc2018.json").read_text(encoding="utf-8"))
    loss = metrics["loss"]
    body = [[name, f"{area['own']:.3f}", f"{area['other']:.3f}"] for name, area in loss["per_label"].items()]
    body.append(["macro", _interval(loss["own"], ".3f"), _interval(loss["other"], ".3f")])
    lost = f"Loss of macro AUROC: {_interval(loss['lost'], '+.3f')}."
    header = ["AUROC", "PTB-XL, fold 9 (optimistic: also used to choose the epoch)", "CPSC2018"]
    return _table(header, body) + "\n\n" + lost


def segmentation_ludb() -> str:
    """F1 per sample of each wave, and how far found onsets and offsets are from the marked ones."""
    rows = _read("segmentation_ludb.csv")
    of = {(row["method"], row["score"], row["wave"], row["minus"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    waves = ("P", "QRS", "T")
    body = [
        [
            method,
            *(_of_row(of[method, "f1", wave, ""], ".3f") for wave in (*waves, "mean")),
            *(
                ", ".join(
                    f"{float(of[method, f'{end}_mean', wave, '']['value']):+.0f} ± "
                    f"{float(of[method, f'{end}_sd', wave, '']['value']):.0f}"
                    for end in ("onset", "offset")
                )
                for wave in waves
            ),
        ]
        for method in methods
    ]
    header = ["method", *(f"F1 of {wave}" for wave in waves), "F1, mean"]
    header += [f"{wave} onset, offset [ms]" for wave in waves]
    control = of[methods[0], "f1", "mean", methods[1]]
    words = f"Difference of mean F1, {methods[0]} minus {methods[1]}: {_of_row(control, '+.3f')}."
    return f"{_table(header, body)}\n\n{words} {_where(rows[0])}"


def compare_systems() -> str:
    """Macro AUROC of CLEAR and ECG-JEPA after the same seconds of training, beside their controls."""
    rows = [row for row in _read("compare_systems.csv") if row["what"] == "macro AUROC"]
    body = [[row["method"], _of_row(row, ".3f"), row["seeds"].replace(" ", ", ")] for row in rows]
    epochs = dict(setting.split("=") for setting in rows[0]["epochs"].split())
    note = (
        f"*{rows[0]['seconds']} s of one core per pre-training run: {epochs['clear']} epochs of CLEAR and "
        f"{epochs['jepa']} of ECG-JEPA; {rows[0]['cpu']}, {rows[0]['date']}; the CSV lists versions.*"
    )
    return _table(["method", "macro AUROC (95 %)", "seeds"], body) + "\n\n" + note


def compare_systems_differences() -> str:
    """Paired differences of the comparison."""
    rows = [row for row in _read("compare_systems.csv") if row["what"] == "difference"]
    body = [[row["method"], row["minus"], _of_row(row, "+.3f")] for row in rows]
    return _table(["macro AUROC of", "minus that of", "difference (95 %)"], body)


def pretraining_ablations() -> str:
    """What moves the probe: heads on frozen encoders that were pre-trained in many ways."""
    rows = _read("pretraining_ablations.csv")
    of = {(row["what"], row["variant"], row["labels"], row["head"]): row for row in rows}
    names = list(dict.fromkeys(row["variant"] for row in rows))

    def cell(what: str, name: str, labels: str, head: str, form: str) -> str:
        row = of.get((what, name, labels, head))
        return "" if row is None else _of_row(row, form)

    body = []
    for name in names:
        row = next(other for other in rows if other["variant"] == name)
        values = [
            cell("macro AUROC", name, *which, ".3f") for which in (("100%", "hug"), ("100%", "mean"), ("10%", "hug"))
        ]
        ahead = cell("difference from the paper's form", name, "100%", "hug", "+.3f")
        body.append([row["about"], str(len(row["seeds"].split())), *values, ahead])
    header = ["pre-trained", "seeds", "HUG", "mean", "HUG, 10 % of the labels", "HUG, ahead of the paper's form"]
    most = max(rows, key=lambda row: int(row["recordings"] or 0))
    note = f"*Pre-trained on up to {int(most['recordings']):,} recordings; {most['cpu']}, one thread, {most['date']}.*"
    return _table(header, body) + "\n\n" + note


def heads() -> str:
    """What each way of fine-tuning reached on fold 9, beside its randomly initialized control."""
    body = []
    for row in _read("heads.csv"):
        cells = [
            _interval({part: float(row[f"{name}_{part}"]) for part in ("value", "low", "high")}, form)
            for name, form in (("auroc", ".3f"), ("control", ".3f"), ("difference", "+.3f"))
        ]
        how = f"{row['method']}, {row['head']}, at most {row['epochs']} epochs"
        body.append([row["labels"], row["encoder"], how, row["recordings"], *cells])
    header = ["labels", "encoder", "how", "recordings", *_FOLD_9, "difference"]
    return _table(header, body)


def frozen_heads() -> str:
    """Trained heads on a frozen encoder beside logistic regressions, cross-validated by patient."""
    body = []
    for row in _read("frozen_heads.csv"):
        cells = [
            _interval({part: float(row[f"{name}_{part}"]) for part in ("value", "low", "high")}, form)
            for name, form in (("auroc", ".3f"), ("difference", "+.3f"))
        ]
        is_reference = float(row["difference_low"]) == float(row["difference_high"]) == 0
        counts = f"{row['recordings']} ({row['num_labels']})"
        body.append([row["labels"], counts, row["method"], cells[0], "" if is_reference else cells[1]])
    return _table(["labels", "recordings (labels)", "how", "macro AUROC", "minus regression"], body)


def baselines() -> str:
    """What the shipped recipe reaches on PTB-XL, cross-validated by patient, beside its controls."""
    rows = [row for row in _read("baselines.csv") if row["what"] == "macro AUROC"]
    return _by_labels(["macro AUROC (95 %)"], {(row["method"],): row for row in rows}, rows, ".3f")


def rhythm() -> str:
    """AUROC of rhythms from the encoder, from the rhythm features and from both, beside trees on RR intervals."""
    rows = _read("rhythm.csv")
    names = {"encoder": "encoder", "rhythm": "rhythm features", "both": "both", "trees": "trees on RR intervals"}
    parts = []
    for source in dict.fromkeys(row["tested on"] for row in rows):
        of = {(row["label"], row["method"], row["minus"]): row for row in rows if row["tested on"] == source}
        first = next(iter(of.values()))
        body = [
            [
                label if not of[label, "both", ""]["positive"] else f"{label} ({of[label, 'both', '']['positive']})",
                *(_of_row(of[label, method, ""], ".3f") for method in names),
                _of_row(of[label, "both", "trees"], "+.3f"),
            ]
            for label in dict.fromkeys(label for label, *_ in of)
        ]
        tested = "cross-validated by patient" if source == "PTB-XL" else "trained on PTB-XL"
        header = [f"{source}, {first['recordings']} recordings, {tested}", *names.values(), "both minus trees"]
        parts.append(_table(header, body))
    return "\n\n".join([*parts, f"*AUROC with 95 % intervals over patients. {rows[0]['cpu']}, {rows[0]['date']}.*"])


def decoder_rule() -> str:
    """What a visible beat may attend to in the decoder: both rules, and the paired difference."""
    rows = [row for row in _read("decoder_rule.csv") if row["labels"]]
    names = {
        "CLEAR": "the visible beats of all leads (released code)",
        "CLEAR, decoder of equation 5": "the beats of its own lead (equation 5)",
        "randomly initialized": "no pre-training",
    }
    of = {(row["method"], row["minus"], row["labels"]): row for row in rows}
    body = []
    for head in ("mean", "HUG"):
        for method, about in names.items():
            cells = [about, head]
            for fraction in ("10%", "100%"):
                cells.append(_of_row(of[f"{method} + {head}", "", fraction], ".3f"))
                difference = of.get((f"{method} + {head}", f"CLEAR + {head}", fraction))
                cells.append("" if difference is None else _of_row(difference, "+.3f"))
            body.append(cells)
    ahead = "ahead of the released rule"
    header = ["a visible beat attends to", "head", "10 % of the labels", ahead, "all labels", ahead]
    return _table(header, body) + f"\n\n*{rows[0]['cpu']}, {rows[0]['date']}.*"


def baseline_differences() -> str:
    """Paired differences between the methods of `baselines`, with what pre-training took."""
    everything = _read("baselines.csv")
    rows = [row for row in everything if row["what"] == "difference"]
    table = _by_labels(["macro AUROC of", "minus that of"], {(r["method"], r["minus"]): r for r in rows}, rows, "+.3f")
    names = {"clear": "CLEAR", "masked_autoencoder": "the masked autoencoder"}
    took = {row["method"]: row for row in everything if row["what"] == "pre-training s"}
    words = ", ".join(f"{names[method]} {float(row['value']) / 60:.0f} minutes" for method, row in took.items())
    first = rows[0]
    return f"{table}\n\n*Pre-training took {words} on one core ({first['cpu']}, {first['date']}).*"


def _by_labels(header: list[str], keys: dict[tuple[str, ...], Row], rows: list[Row], form: str) -> str:
    """A column for each fraction of the labels."""
    fractions = list(dict.fromkeys(row["labels"] for row in rows))
    of = {(row["method"], row["minus"], row["labels"]): row for row in rows}
    body = [
        [
            *key,
            *(
                _of_row(measured, form) if (measured := of.get((row["method"], row["minus"], fraction))) else ""
                for fraction in fractions
            ),
        ]
        for key, row in keys.items()
    ]
    return _table([*header, *(f"{fraction.replace('%', ' %')} of the labels" for fraction in fractions)], body)


def encoders() -> str:
    """Systems with weights: what these were trained on, what they read, and how to get them."""
    body = []
    for name, system in SYSTEMS.items():
        shipped = sum(
            json.loads(path.read_text(encoding="utf-8"))["model_type"] == name
            for path in (REPOSITORY / "model_cards").glob("*/config.json")
        )
        own = f"{shipped} models shipped with this package" if shipped else ""
        weights = system.converter.weights if system.converter is not None else None
        if weights is None and not shipped:
            continue
        if weights is None:
            empty = [""] * 5
            body.append([system.title, *empty, own, system.paper])
            continue
        body.append(
            [
                system.title,
                weights.data,
                weights.objective,
                weights.num_parameters,
                weights.inputs,
                weights.license_note,
                f"{weights.source}; `clear-hug convert {name.replace('_', '-')}`" + (f"; {own}" if own else ""),
                system.paper,
            ]
        )
    header = ["encoder", "released weights: trained on", "objective", "parameters", "reads", "license"]
    return _table([*header, "how to get them", "cite"], body, numbers=False)


def objectives() -> str:
    """All objectives: what an encoder learns, which encoders it is for, and what is set if nothing else is named."""
    rows: list[tuple[str, Objective, list[str], str]] = [
        (f"`{name}`", objective, [name], objective.paper or system.paper)
        for name, system in SYSTEMS.items()
        for objective in system.objectives
    ]
    rows += [
        (f"`{objective.backbone}`", objective, _backbones(objective), objective.paper)
        for objective in shared_objectives().values()
    ]
    body = []
    for default, objective, backbones, paper in rows:
        others = [f"`{name}`" for name in backbones if f"`{name}`" != default]
        readers = sum(objective.name in objectives_of(system) for system in SYSTEMS.values())
        every = objective.config and len(backbones) == readers
        rest = "any other encoder of recordings" if every else ", ".join(others)
        views = dict.fromkeys(" + ".join(f"`{view}`" for view in names) for names in objective.views if names)
        settings = [f"`{name}={value}`" for name, value in objective.settings.items()]
        body.append(
            [
                f"`{objective.name}`",
                objective.summary,
                f"**{default}**" + (f", {rest}" if rest else ""),
                "yes" if objective.needs_full_batch else "",
                "; ".join([*([f"views {' and '.join(views)}"] if views else []), *settings]),
                paper,
            ]
        )
    header = ["`--objective`", "what is learned", "`--backbone`, the default first", "whole batch at once"]
    return _table([*header, "settings", "paper"], body, numbers=False)


def _backbones(objective: Objective) -> list[str]:
    """Systems whose encoders an objective takes."""
    import torch

    fitting = []
    for name, system in SYSTEMS.items():
        if objective.name not in objectives_of(system):
            continue
        config = load(objective.config)(backbone_config=system.config.preset("tiny"), **objective.settings)
        try:
            with torch.device("meta"):
                load(objective.model)(config)
        except ValueError:  # it lacks what the objective reads
            continue
        fitting.append(name)
    return fitting


def views() -> str:
    """All views of recordings, as their docstrings describe them."""
    from clear_hug_hf.data.views import VIEWS

    texts = {name: " ".join(str(view.__doc__).split()) for name, view in VIEWS.items()}
    body = [[f"`{name}`", text.replace("[`InputError`]", "`InputError`")] for name, text in texts.items()]
    return _table(["view", "change at strength 1"], body, numbers=False)


def encoder_latency() -> str:
    """What a prediction costs at the size of the released weights."""
    return latency("encoder_latency.csv")


def latency(name: str = "latency.csv") -> str:
    """What a prediction costs, for each shipped model and form."""
    rows = _read(name)
    body = [
        [
            row["model"],
            row["form"],
            f"{float(row['ms_one']):.1f} ({float(row['ms_one_fastest']):.1f} to {float(row['ms_one_slowest']):.1f})",
            f"{float(row['ms_preparing']):.1f}",
            f"{float(row['recordings_per_s']):,.0f}",
            row["largest_difference"],
        ]
        for row in rows
    ]
    header = ["model", "form", "ms, one recording", "of which preparation", "recordings/s, 64 prepared"]
    note = f"*{rows[0]['cpu']}, {rows[0]['threads']} threads, {rows[0]['date']}; the CSV lists versions.*"
    return _table([*header, "largest difference of a logit"], body) + "\n\n" + note


def shipped_weights() -> str:
    """The models under `model_cards/`, with the AUROC of the classifiers on fold 9 and of their controls."""
    body = []
    for folder in sorted(path.parent for path in (REPOSITORY / "model_cards").glob("*/config.json")):
        megabytes = f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}"
        if not (folder / "metrics.json").is_file():
            body.append([f"`{folder.name}`", "encoder", megabytes, "", "", ""])
            continue
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        areas = [
            _interval(metrics[run]["validation"]["macro_auroc"], ".3f")
            for run in ("pretrained", "random_initialization")
        ]
        difference = _interval(metrics["macro_auroc_difference"]["validation"], "+.3f")
        body.append([f"`{folder.name}`", f"{len(metrics['labels'])} labels", megabytes, *areas, difference])
    header = ["model", "output", "MB", "AUROC, fold 9 (optimistic)", "random weights (optimistic)", "difference"]
    note = (
        "*Macro AUROC on PTB-XL's fold 9 with 95 % intervals over patients, of the model and of the same head on a "
        "randomly initialized encoder. Optimistic: fold 9 was also used to choose epochs and thresholds.*"
    )
    return _table(header, body) + "\n\n" + note


def _scan(*kinds: str, name: str = "ecg_scan.csv") -> list[Row]:
    return [row for row in _read(name) if row["what"] in kinds]


def ecg_scan_long() -> str:
    """The same after an alignment five times as long, with the gap that is closed and what is rebuilt."""
    name = "ecg_scan_long.csv"
    rows = _scan("macro AUROC", name=name)
    body = [
        [
            row["method"].replace("strength", "photographed, strength"),
            _of_row(row, ".3f"),
            row["folds"].replace(" ", ", "),
        ]
        for row in rows
    ]
    words = [f"{row['method']} minus {row['minus']} {_of_row(row, '+.3f')}" for row in _scan("difference", name=name)]
    words += [f"gap closed by {row['method']} {_of_row(row, '.2f')}" for row in _scan("gap closed", name=name)]
    words += [
        f"{row['what']}, {row['method'].removesuffix(' + linear probe')} {_of_row(row, '.4f')}"
        for row in _scan("mV drawn", "mV residual", name=name)
    ]
    note = f"*{rows[0]['epochs']} epochs of alignment; {rows[0]['cpu']}, one thread, {rows[0]['date']}.*"
    return _table(["method", "macro AUROC (95 %)", "folds"], body) + f"\n\n{'; '.join(words)}. {note}"


def ecg_scan() -> str:
    """Macro AUROC of ECG-Scan on drawn pages, beside its controls and the ceiling."""
    # What follows a comma after the probe is another kind of page: the next table.
    rows = [row for row in _scan("macro AUROC") if not row["method"].startswith("ECG-Scan + linear probe,")]
    body = [[row["method"], _of_row(row, ".3f"), row["folds"].replace(" ", ", ")] for row in rows]
    first = rows[0]
    note = (
        f"*{first['recordings']} recordings of PTB-XL, cross-validated by patient (3 folds), and {first['in_mv']} in "
        f"mV; {first['epochs']} epochs of alignment, {first['finetuning_epochs']} of training on labels, "
        f"{first['teacher_epochs']} of the signal teacher; {first['cpu']}, one thread, {first['date']}; versions "
        "stand in the CSV.*"
    )
    return _table(["method", "macro AUROC (95 %)", "folds"], body) + "\n\n" + note


def ecg_scan_differences() -> str:
    """Paired differences, and how much of the gap between control and ceiling is closed."""
    body = [[row["method"], row["minus"], _of_row(row, "+.3f")] for row in _scan("difference")]
    closed = "; ".join(f"{row['method']} {_of_row(row, '.2f')}" for row in _scan("gap closed"))
    words = f"Fraction of the gap between the randomly initialized tower and the ceiling that is closed: {closed}."
    return _table(["macro AUROC of", "minus that of", "difference (95 %)"], body) + "\n\n" + words


def ecg_scan_robustness() -> str:
    """The probe of the full model on other layouts and on photographs of growing strength."""
    rows = [row for row in _scan("macro AUROC") if row["method"].startswith("ECG-Scan + linear probe")]
    names = {"": "3x4, clean, as trained on labels"}
    body = []
    for row in rows:
        rest = row["method"].removeprefix("ECG-Scan + linear probe").removeprefix(", ")
        body.append([names.get(rest, rest.replace("strength", "3x4, photographed, strength")), _of_row(row, ".3f")])
    return _table(["pages", "macro AUROC (95 %)"], body)


def ecg_scan_millivolts() -> str:
    """Errors of the reconstruction and residuals of its leads, in mV."""
    kinds = ("mV drawn", "mV unseen", "mV residual")
    rows = _scan(*kinds)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    of = {(row["method"], row["what"]): _of_row(row, ".4f") for row in rows}
    body = [
        [method.removesuffix(" + linear probe"), *(of.get((method, kind), "") for kind in kinds)] for method in methods
    ]
    header = [
        "of the reconstruction",
        "error where the page shows it",
        "elsewhere",
        "residual of the limb leads",
    ]
    words = "; ".join(
        f"{row['what'].removeprefix('difference of mV ')} {_of_row(row, '+.4f')}"
        for row in _read("ecg_scan.csv")
        if row["what"].startswith("difference of mV")
    )
    return _table(header, body) + f"\n\nDifference with and without the lead term [mV]: {words}."


def ecg_paper_speed() -> str:
    """Pages a second and core."""
    rows = [row for row in _read("ecg_paper_speed.csv") if not row["what"].startswith("augmentation alone")]
    sizes, layouts = (list(dict.fromkeys(row[name] for row in rows)) for name in ("size", "layout"))
    of = {(row["what"], row["size"], row["layout"]): float(row["pages_per_second"]) for row in rows}
    body = [
        [what, *(" / ".join(f"{of[what, size, layout]:.3g}" for layout in layouts) for size in sizes)]
        for what in dict.fromkeys(row["what"] for row in rows)
    ]
    header = ["pages per second and core, " + " / ".join(layouts), *sizes]
    return _table(header, body) + "\n\n" + _where(rows[0])


def command_line() -> str:
    """The verbs of `clear-hug` and their options, from the dataclasses that make their parsers."""
    parts = []
    for verb, summary in VERBS.items():
        module = import_module(f"clear_hug_hf.cli.{verb}")
        parser = ArgumentParser(module.ARGUMENTS, prog=f"clear-hug {verb}")
        usage = parser.format_usage().removeprefix("usage: ").strip()
        parts += [f"## {verb}", f"*{summary[0].upper()}{summary[1:]}.*", f"```text\n{usage}\n```"]
        for paragraph in module.DESCRIPTION.split("\n\n"):
            # What is indented keeps its lines.
            parts.append(f"```text\n{paragraph}\n```" if paragraph.startswith(" ") else paragraph.replace("*", "\\*"))
        for group in parser._action_groups:
            rows = [
                _option(parser, action) for action in group._group_actions if action.dest not in ("help", "config")
            ]
            if rows:
                title = {"positional arguments": "argument", "options": "option"}.get(
                    str(group.title), f"{group.title}"
                )
                parts.append(_table([title, "meaning"], rows, numbers=False))
        parts.append(f"```text\n{dedent(module.EXAMPLES).rstrip()}\n```")
    return "\n\n".join(parts)


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """The row of an option: how it is written, and its help text."""
    values = "" if action.nargs == 0 else parser._get_formatter()._format_args(action, action.dest.upper())
    words = f"{', '.join(action.option_strings)} {values}".strip().replace("|", "\\|")
    return [f"`{words}`", (action.help or "").replace("%%", "%").replace("|", "\\|")]


def unfamiliar() -> str:
    """Recordings that are marked as unlike those for training, by source and change."""
    rows = _read("unfamiliar.csv")

    def cells(row: Row) -> list[str]:
        count = int(row["count"]) - int(row["refused"])
        share = f"{int(row['marked'])} of {count} ({int(row['marked']) / count:.0%})" if count else ""
        return [row["recordings"], row["count"], row["refused"], share, row["median_distance"]]

    header = ["recordings", "number", "refused", "marked, of the others", "median distance"]
    return _table(header, [cells(row) for row in rows]) + f"\n\n{_where(rows[0])}"


def startup() -> str:
    """Time to import the package and to print help texts, at each commit."""
    rows = _read("startup.csv")
    commits = list(dict.fromkeys(row["commit"] for row in rows if row["commit"]))
    times = {
        (
            row["measured"],
            commit,
        ): f"{float(row['seconds']):.2f} ({float(row['fastest']):.2f} to {float(row['slowest']):.2f})"
        for row in rows
        for commit in ([row["commit"]] if row["commit"] else commits)
    }
    names = list(dict.fromkeys(row["measured"] for row in rows))
    body = [[name, *(times.get((name, commit), "") for commit in commits)] for name in names]
    machine = f"*{rows[0]['cpu']}, {rows[0]['cores']} cores, {rows[0]['date']}; the CSV lists versions.*"
    return f"{_table(['seconds', *(f'at {commit}' for commit in commits)], body)}\n\n{machine}"


# Columns with numbers from the recordings that models were selected on say so themselves: tables are quoted alone.
_FOLD_9 = (
    "macro AUROC, fold 9 (optimistic: also used to choose epochs and thresholds)",
    "from random weights (optimistic too)",
)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"shipped_weights": shipped_weights},
    "docs/cli.md": {"command_line": command_line},
    "docs/objectives.md": {"objectives": objectives, "views": views},
    "docs/encoders.md": {"encoders": encoders, "encoder_latency": encoder_latency},
    "docs/results.md": {
        "heads": heads,
        "frozen_heads": frozen_heads,
        "baselines": baselines,
        "baseline_differences": baseline_differences,
        "rhythm": rhythm,
        "protocol": protocol,
        "paper_ablations": paper_ablations,
        "paper_ablation_differences": paper_ablation_differences,
        "reconstruction": reconstruction,
        "pretraining_ablations": pretraining_ablations,
        "decoder_rule": decoder_rule,
        "cross_dataset": cross_dataset,
        "segmentation_ludb": segmentation_ludb,
        "compare_systems": compare_systems,
        "compare_systems_differences": compare_systems_differences,
        "ecg_scan": ecg_scan,
        "ecg_scan_differences": ecg_scan_differences,
        "ecg_scan_robustness": ecg_scan_robustness,
        "ecg_scan_long": ecg_scan_long,
        "ecg_scan_millivolts": ecg_scan_millivolts,
        "beat_detectors": beat_detectors,
        "preparation": preparation,
        "prepare_dataset": prepare_dataset,
        "prepare_dataset_memory": prepare_dataset_memory,
        "pretrain_step": pretrain_step,
        "ecg_jepa_speed": ecg_jepa_speed,
        "s4_convolution": s4_convolution,
        "ecg_paper_speed": ecg_paper_speed,
        "probe_cache": probe_cache,
        "latency": latency,
        "unfamiliar": unfamiliar,
        "startup": startup,
    },
}


def renew(page: str, text: str) -> str:
    """The text of a page with each of its tables renewed."""
    for name, make in TABLES[page].items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, started, rest = text.partition(first)
        _, ended, after = rest.partition(last)
        if not started or not ended:
            raise ValueError(f"{page} has no place marked for the table {name}")
        text = f"{before}{first}\n{make()}\n\n{last}{after}"
    return text


def main() -> int:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if a table is stale")
    arguments = parser.parse_args()
    stale = False
    for page in TABLES:
        path = REPOSITORY / page
        before = path.read_text(encoding="utf-8")
        after = renew(page, before)
        stale |= after != before
        if arguments.check:
            print(f"{page} is " + ("up to date" if after == before else "stale: run this without --check"))
        else:
            path.write_text(after, encoding="utf-8")
    return int(stale and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
