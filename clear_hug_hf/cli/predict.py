"""`clear-hug predict`: labels of recordings, with probabilities."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    EXIT_BAD_INPUT,
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_overwrite_option,
    add_verb,
    choose_labels,
    draw_page_prediction,
    draw_prediction,
    is_main_process,
    positive,
    quiet_libraries,
    report_rejected,
    say,
    share,
    to_device,
)


if TYPE_CHECKING:
    import numpy as np

    from ..data.preparation import Rejected
    from ..data.records import Recording, RecordReference
    from ..hub.pipeline_ecg_classification import EcgClassificationPipeline
    from ..processing import SignalReport


REPORTED = (
    "heart_rate",
    "sdnn_ms",
    "rmssd_ms",
    "irregularity",
    "beats_found",
    "beats_read",
    "missing_leads",
    "flat_leads",
    "clipped_leads",
    "amplitude_mv",
    "warnings",
)
"""What the table says of a recording beside its labels."""
_AGGREGATES = {"mean": "their mean", "max": "the highest of each label"}
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pdf")
"""What names of pictures end with; a PDF is refused with the way out."""


def add(verbs: Any) -> None:
    """Add `predict` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        "predict",
        run,
        "labels of recordings or of pictures of them, with probabilities",
        "Predict WFDB records (.hea with .dat or .mat; any rate from 50 Hz, any order of leads). A recording that is\n"
        "longer than the model's window, or has more beats than the model holds, is read window by window, and its\n"
        "probabilities are the mean over them (--aggregate). A label counts as found from the threshold on that\n"
        "fine-tuning chose for it. Exit status 1 if some records could not be used; they are named at the end.\n\n"
        "A model that reads pages (ECG-Scan) takes photographs and scans, too (PNG, JPEG, TIFF, WebP). The page is\n"
        "looked for and straightened; a page that stands on its head is not noticed.\n\n"
        "examples:\n"
        "  clear-hug predict patient7.hea --model runs/superclasses --pictures pictures\n"
        "  clear-hug predict ward3/ extra/A0001 --model runs/superclasses --top-k 2\n"
        "  clear-hug predict ward.csv --model runs/ward --output predictions.csv\n"
        "  clear-hug predict page.jpg --model runs/pages --pictures pictures\n"
        "  clear-hug predict ward3/ --model runs/superclasses --json > ward3.jsonl",
    )
    parser.add_argument(
        "records",
        nargs="+",
        type=Path,
        metavar="RECORD",
        help="records, folders of records, CSV tables with a column `path`, pictures of pages, or folders of these",
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="output of `finetune`, or hf://ORG/NAME"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per record and line")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a CSV table: a row per record (per window with --aggregate none), with the probability of each "
        "label, and what was found",
    )
    parser.add_argument(
        "--aggregate",
        choices=("mean", "max", "none"),
        default="mean",
        help="how the probabilities of windows become the recording's; none: each window's own (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="draw each record with its beats, predictions and the leads behind them, or what is seen of a page",
    )
    add_overwrite_option(parser, "the table and pictures of the same names")
    parser.add_argument(
        "--threshold",
        type=share,
        metavar="SHARE",
        help="from here on any label counts as found (default: each label's own in the model, else 0.5)",
    )
    parser.add_argument("--top-k", type=positive, metavar="K", help="show only the K most probable labels")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="show only these labels")


def run(arguments: argparse.Namespace) -> int:
    """Run `predict` and return the exit status."""
    from ..training.folders import load_classifier
    from ..utils.files import check_file, check_pictures, write_csv

    check_file(arguments.output, arguments.overwrite, [*arguments.records, arguments.model])
    check_pictures(arguments.pictures, overwrite=arguments.overwrite)
    quiet_libraries()
    model, extractor = load_classifier(arguments.model)
    to_device(model)

    from ..data.preparation import Rejected, describe_error
    from ..evaluation.predictions import check_gives_probabilities, model_label_names, model_thresholds
    from ..hub.pipeline_ecg_classification import EcgClassificationPipeline

    check_gives_probabilities(model.config)
    pipe = EcgClassificationPipeline(model, feature_extractor=extractor, device=model.device)
    names = model_label_names(model.config)
    shown = choose_labels(arguments.labels, names, f"the model in {arguments.model}")
    thresholds = dict(zip(names, model_thresholds(model.config), strict=True))
    if arguments.threshold is not None:
        thresholds = dict.fromkeys(names, arguments.threshold)
    rejected: list[Rejected] = []
    pages_of = {path: pictures_at(path) for path in arguments.records}
    pages = [page for found in pages_of.values() for page in found]
    references = records_to_predict([path for path in arguments.records if not pages_of[path]], rejected)
    check_file(arguments.output, overwrite=True, inputs=(reference.path for reference in references))
    check_pictures(arguments.pictures, overwrite=True, inputs=pages)
    table: list[dict[str, Any]] = []
    drawn: set[Path] = set()
    num_done = 0
    try:
        for page in pages:
            found_page = _predict_page(page, pipe, rejected)
            if found_page is None:
                continue
            probabilities, found_where, seen = found_page
            windows = [{"start": 0.0, "end": float(extractor.window_seconds), "skipped": [], "report": None}]
            together = None if arguments.aggregate == "none" else probabilities
            told = _told(pipe, windows, probabilities[None], together, shown, thresholds, arguments)
            num_done += 1
            if arguments.output is not None:
                table += _table_rows(str(page), told, shown)
            else:
                _print_record(str(page), told, thresholds, arguments.json, report=None)
            if arguments.pictures is not None:
                path = _free_name(arguments.pictures / f"{_file_name(str(page.with_suffix('')))}.png", drawn)
                draw_page_prediction(page, found_where, seen, names, probabilities, thresholds, path)
        for reference in _counted(references, shown=arguments.output is not None):
            record = reference.record_id
            try:
                recording = reference.read()
                inputs = list(pipe.preprocess(recording))
            except Exception as error:  # whatever is wrong with one file, the others are predicted
                rejected.append(Rejected(record, describe_error(error).removeprefix(f"{record}: ")))
                continue
            outputs = [pipe.forward(window) for window in inputs]
            of_windows, of_recording = pipe.score_windows(outputs, aggregate=arguments.aggregate)
            told = _told(pipe, outputs, of_windows, of_recording, shown, thresholds, arguments)
            num_done += 1
            if arguments.output is not None:
                table += _table_rows(record, told, shown)
            else:
                _print_record(record, told, thresholds, arguments.json, outputs[0]["report"])
            if arguments.pictures is not None:
                _draw_record(pipe, recording, outputs, of_windows, thresholds, arguments, drawn)
    except KeyboardInterrupt:
        if table:
            write_csv(arguments.output, table)
            total = len(references) + len(pages)
            say(f"\nstopped: {arguments.output} has the first {num_done} record(s) of {total}")
        raise
    if not num_done:
        for record, reason in rejected:
            # Messages about files name them; those about signals do not.
            named = reason if record in reason else f"{record}: {reason}"
            print(f"clear-hug: error: {named}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if arguments.output is not None:
        write_csv(arguments.output, table)
        say(f"{num_done} record(s), {len(table)} row(s): {arguments.output}")
    if arguments.pictures is not None:
        print(f"pictures: {arguments.pictures}", file=sys.stderr)
    report_rejected(rejected)
    return EXIT_SOME_FAILED if rejected else EXIT_OK


def _predict_page(
    path: Path, pipe: EcgClassificationPipeline, rejected: list[Rejected]
) -> tuple[Any, Any, Any] | None:
    """
    Probabilities of the labels of a picture, where its page is, and what the model sees of it; or nothing, with the
    reason in `rejected`.
    """
    import torch

    from ..data.preparation import Rejected, describe_error
    from ..processing import InputError, find_page, load_page

    if not hasattr(pipe.feature_extractor, "image_processor"):
        rejected.append(
            Rejected(
                str(path),
                f"{path} is a picture, and {type(pipe.model).__name__} reads recordings: name an ECG-Scan classifier, "
                "such as model_cards/ecg-scan-tiny-ptbxl-super",
            )
        )
        return None
    processor = pipe.feature_extractor.image_processor
    try:
        found = find_page(load_page(path))
        seen = processor.page_of(found.image, do_find_page=False)
    except (InputError, FileNotFoundError) as error:
        rejected.append(Rejected(str(path), describe_error(error)))
        return None
    if found.rotation:
        say(f"{path} was turned clockwise by {found.rotation} degrees, which way up is a guess: look at it")
    pixels = torch.from_numpy(processor.normalize_pages(seen[None])).to(pipe.model.device)
    with torch.no_grad():
        logits = pipe.model(pixels).logits.cpu()
    return pipe.score_windows([{"logits": logits}])[0][0], found, seen


def _told(
    pipe: EcgClassificationPipeline,
    windows: Sequence[Mapping[str, Any]],
    of_windows: np.ndarray,
    of_recording: np.ndarray | None,
    shown: Sequence[str],
    thresholds: dict[str, float],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """
    Where a recording, its windows and those that were skipped begin and end [s], and of each read the most probable of
    the labels to show, those that reach their thresholds, and which of these the heart rate contradicts; those of the
    recording only if they are put together.
    """
    from ..evaluation.predictions import model_label_names

    names, report = model_label_names(pipe.model.config), windows[0]["report"]
    notes_of_windows, notes_of_recording = pipe.find_contradictions(windows, of_windows, arguments.aggregate)

    def labels_of(probabilities: np.ndarray, notes: Mapping[str, str]) -> dict[str, Any]:
        of = {name: float(one) for name, one in zip(names, probabilities, strict=True) if name in shown}
        ranked = sorted(of, key=lambda name: -of[name])[: arguments.top_k]
        found = [name for name in ranked if of[name] >= thresholds[name]]
        return {
            "found": found,
            "probabilities": {name: of[name] for name in ranked},
            "notes": {name: notes[name] for name in found if name in notes},
        }

    places = [{"start": round(one["start"], 3), "end": round(one["end"], 3)} for one in windows]
    told: dict[str, Any] = {"start": places[0]["start"], "end": max(place["end"] for place in places)}
    told["aggregate"] = arguments.aggregate
    told["report"] = None if report is None else report.to_dict()
    if of_recording is not None:
        told |= labels_of(of_recording, notes_of_recording)
    rates = [None] * len(windows) if report is None else report.window_rates
    told["windows"] = [
        place | {"heart_rate": None if rate is None else round(rate, 1)} | labels_of(one, notes)
        for place, rate, one, notes in zip(places, rates, of_windows, notes_of_windows, strict=True)
    ]
    told["skipped"] = [{"start": round(start, 3), "end": round(end, 3)} for start, end in windows[0]["skipped"]]
    return told


def _draw_record(
    pipe: Any,
    recording: Recording,
    outputs: Sequence[Mapping[str, Any]],
    of_windows: np.ndarray,
    thresholds: dict[str, float],
    arguments: argparse.Namespace,
    drawn: set[Path],
) -> None:
    """A picture of each stretch that is as long as the model's window, with all that was read of it."""
    import numpy as np
    import torch

    from ..evaluation.predictions import group_contributions, model_label_names
    from ..processing.signal_cleaning import canonical_unit

    extractor, names = pipe.feature_extractor, model_label_names(pipe.model.config)
    inputs = recording.as_inputs()
    signal, lead_mask = extractor.clean(inputs.pop("waveforms"), **inputs)
    windows = extractor.replace(windows="all").split(signal, extractor.detect([signal], [lead_mask])[0])
    report = outputs[0]["report"]
    notes_of_windows, _ = pipe.find_contradictions(outputs, of_windows)
    units = [recording.unit] if isinstance(recording.unit, str) else recording.unit
    for number in dict.fromkeys(output["window"] for output in outputs):
        rows = [row for row, output in enumerate(outputs) if output["window"] == number]
        window = windows[number]
        place = f"_{window.start / extractor.sampling_rate:g}s" if len(windows) > 1 else ""
        contributions = None
        if "group_states" in outputs[rows[0]]:
            states = torch.cat([outputs[row]["group_states"] for row in rows]).to(pipe.model.device).float()
            contributions = group_contributions(pipe.model, states).mean(dim=0).detach().cpu().numpy()
        scores = of_windows[rows].max(axis=0) if arguments.aggregate == "max" else np.mean(of_windows[rows], axis=0)
        notes = {name: note for row in rows for name, note in notes_of_windows[row].items()}
        found = [name for name, score in zip(names, scores, strict=True) if score >= thresholds[name]]
        about = [*report.warnings, *(notes[name] for name in found if name in notes)]
        draw_prediction(
            pipe.model,
            scores,
            contributions,
            window.signal,
            window.r_peaks,
            lead_mask,
            extractor.sampling_rate,
            "NU" if extractor.do_rescale or "NU" in map(canonical_unit, units) else "mV",
            recording.record_id,
            _free_name(arguments.pictures / f"{_file_name(recording.record_id)}{place}.png", drawn),
            thresholds,
            note=". ".join(
                [
                    f" from {window.start / extractor.sampling_rate:g} s; the whole recording" * (len(windows) > 1)
                    + f": {report.summary()}",
                    *(one[0].upper() + one[1:] for one in about),
                ]
            ),
        )


def _free_name(path: Path, taken: set[Path]) -> Path:
    while path in taken:
        path = path.with_name(f"{path.stem}+.png")
    taken.add(path)
    return path


def _counted(references: Sequence[RecordReference], shown: bool) -> Iterator[RecordReference]:
    """References one at a time, with a bar over the records where nothing else is printed."""
    from tqdm.auto import tqdm

    yield from tqdm(references, desc="predict", unit="rec", disable=not (shown and is_main_process()))


def pictures_at(path: Path) -> list[Path]:
    """The picture at a path, or those of a folder without records, sorted."""
    if path.is_dir():
        if any(path.rglob("*.hea")):  # ends at the first record: there may be many
            return []
        return sorted(one for one in path.rglob("*") if one.suffix.lower() in PICTURES)
    return [path] if path.suffix.lower() in PICTURES else []


def records_to_predict(paths: Sequence[Path], rejected: list[Rejected]) -> list[RecordReference]:
    """The records at paths, in folders and in tables; what is not there goes to `rejected`."""
    from ..data.preparation import Rejected, describe_error
    from ..data.readers import open_source
    from ..data.records import RecordReference, find_records
    from ..processing import InputError

    references: list[RecordReference] = []
    for path in paths:
        try:
            if path.suffix.lower() == ".csv":
                table = open_source("csv", path, check_files=False)
                references += [table.reference(index) for index in range(len(table))]
            else:
                references += [RecordReference(header, str(header.with_suffix(""))) for header in find_records(path)]
        except (InputError, FileNotFoundError) as error:
            rejected.append(Rejected(str(path), describe_error(error)))
    # A record named twice, by itself and by its folder, is one.
    unique: dict[Path, RecordReference] = {}
    for reference in references:
        unique.setdefault(reference.path.resolve(), reference)
    return list(unique.values())


def _table_rows(record: str, told: dict[str, Any], shown: list[str]) -> list[dict[str, Any]]:
    """One row of the recording, or of each window where these are not put together."""
    rows = []
    report = told["report"] or {}
    for one in [told] if "probabilities" in told else told["windows"]:
        row: dict[str, Any] = {
            "record_id": record,
            "start": one["start"],
            "end": one["end"],
            "found": "; ".join(one["found"]),
            "notes": "; ".join(one["notes"].values()),
        }
        row |= {name: report.get(name) for name in REPORTED}
        row |= {name: "; ".join(value) for name, value in row.items() if isinstance(value, list)}
        if one is not told:
            row["heart_rate"] = one["heart_rate"]
        row = {name: "" if value is None else value for name, value in row.items()}
        # A label may be called as one of these columns.
        taken = tuple(row)
        values = {f"{name} (label)" if name in taken else name: one["probabilities"].get(name, "") for name in shown}
        rows.append(row | values)
    return rows


def _print_record(
    record: str,
    told: dict[str, Any],
    thresholds: dict[str, float],
    as_json: bool,
    report: SignalReport | None,
) -> None:
    if as_json:
        print(json.dumps({"record": record, **told}), flush=True)
        return
    windows, together = told["windows"], "probabilities" in told
    where = "a picture of a page" if report is None else f"{told['end']:g} s"
    if len(windows) > 1:
        where += f", read in {len(windows)} windows" + (f": {_AGGREGATES[told['aggregate']]}" if together else "")
    say(f"{record}  ({where})")
    if report is not None:
        say(f"  {report.summary()}")
        for warning in report.warnings:
            say(f"  ! {warning}")
    for one in [told] if together else windows:
        if not together and len(windows) > 1:
            say(f"  {one['start']:g}-{one['end']:g} s")
        for name, probability in one["probabilities"].items():
            mark = "*" if probability >= thresholds[name] else " "
            note = f"  ! {one['notes'][name]}" if name in one["notes"] else ""
            say(f"  {mark} {probability:6.1%}  {name}{note}")


def _file_name(record: str) -> str:
    """A record's id as the name of a file: the path's parts joined."""
    return "_".join(part for part in Path(record).parts if part not in ("/", "..", "."))
