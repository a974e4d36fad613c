"""The tables of `table1.py` as Markdown, from the lines of its CSV alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clear_hug_hf.evaluation.protocol import PAPER, PAPER_FRACTIONS


Line = Mapping[str, str]
LABEL_SETS = {name: f"ptbxl_{name}" for name in ("super", "sub", "form", "rhythm")}
LINEAR, ATTENTION = ("logistic", ""), ("probe", "attention")


def task_table(lines: Sequence[Line], task: str) -> str:
    """
    All methods on a task, grouped by backbone: frozen encoders with a linear probe and with learned attention, what is
    trained as a whole in the columns of the linear probe, and the paper's rows in italics.
    """
    of_task = [line for line in lines if line["task"] == task]
    fractions = list(dict.fromkeys(line["fraction"] for line in of_task))
    largest = max(fractions, key=float)
    percents = [f"{100 * float(fraction):g} %" for fraction in fractions]
    ahead = f"ahead of random weights, {100 * float(largest):g} %"
    heads = ([f"{head}, {text}" for text in percents] for head in ("linear", "attention"))
    shown = [["method", *(title for titles in heads for title in (*titles, ahead))]]
    width = len(fractions) + 1
    published = PAPER[LABEL_SETS[task]].values
    left = dict.fromkeys(published)

    def paper_row(name: str) -> list[str]:
        left.pop(name, None)
        values = [
            f"*{published[name][PAPER_FRACTIONS[float(fraction)]]:.2f}*" if float(fraction) in PAPER_FRACTIONS else ""
            for fraction in fractions
        ]
        return [f"*{name} (paper)*", *values, *[""] * (width + 1)]

    for backbone in dict.fromkeys(line["backbone"] for line in of_task):
        shown.append([f"**{backbone or 'no encoder'}**", *[""] * (2 * width)])
        group = [line for line in of_task if line["backbone"] == backbone]
        for method in dict.fromkeys(line["method"] for line in group):
            own = [line for line in group if line["method"] == method]
            frozen = [_cells(own, how, fractions, largest) for how in (LINEAR, ATTENTION)]
            if any(frozen[0]) or any(frozen[1]):
                shown.append([method, *frozen[0], *frozen[1]])
            for protocol in dict.fromkeys(line["protocol"] for line in own):
                if protocol not in (LINEAR[0], ATTENTION[0]):
                    head = next(line["head"] for line in own if line["protocol"] == protocol)
                    name = f"{method}, fully fine-tuned" if protocol == "finetune" else method
                    shown.append([name, *_cells(own, (protocol, head), fractions, largest), *[""] * width])
            if name := own[0]["paper"]:
                shown.append(paper_row(name))
    if left:
        shown.append(["**in the paper only**", *[""] * (2 * width)])
        shown += [paper_row(name) for name in list(left)]
    return _table(shown, "---:")


def cost_table(lines: Sequence[Line]) -> str:
    """What the pre-training of each method cost."""
    shown = [["method", "backbone", "parameters", "epochs", "seconds of one core", "peak memory [MB]"]]
    for method in dict.fromkeys(line["method"] for line in lines if line["seconds"]):
        line = next(line for line in lines if line["method"] == method)
        parameters = f"{int(line['parameters']):,}"
        shown.append([method, line["backbone"], parameters, line["epochs"], line["seconds"], line["peak_mb"]])
    return _table(shown, "---")


def _cells(lines: Sequence[Line], how: tuple[str, str], fractions: Sequence[str], largest: str) -> list[str]:
    """The values of a method at all fractions, and its difference from random weights at the largest."""
    by_fraction = {line["fraction"]: line for line in lines if (line["protocol"], line["head"]) == how}
    values = [_percent(by_fraction.get(fraction), "", "") for fraction in fractions]
    return [*values, _percent(by_fraction.get(largest), "minus_random_", "+")]


def _percent(line: Line | None, prefix: str, sign: str) -> str:
    if line is None or not line[f"{prefix}value"]:
        return ""
    texts = (line[prefix + name] for name in ("value", "low", "high"))
    value, low, high = (f"{100 * float(text):{sign}.1f}" if text else "" for text in texts)
    return f"{value} ({low} to {high})" if low and high else value


def _table(rows: Sequence[Sequence[str]], align: str) -> str:
    lines = [rows[0], ["---", *[align] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
