"""`clear-hug predict`: labels of recordings, with probabilities."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    EXIT_BAD_INPUT,
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_verb,
    check_file,
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
    import datasets

    from ..data.preparation import Rejected
    from ..data.records import RecordReference


_RECORDS_AT_ONCE = 64
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pdf")
"""What names of pictures end with; a PDF is refused with the way out."""


def add(verbs: Any) -> None:
    """Add `predict` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        "predict",
        run,
        "labels of recordings or of pictures of them, with probabilities",
        "Predict WFDB records (.hea with .dat or .mat; any rate from 50 Hz, any order of leads). A recording longer\n"
        "than the model's window is predicted window by window. A label counts as found from the threshold on that\n"
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
        help="write a CSV table: a row per record and window, with the probability of each label, and what was found",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="draw each record with its beats, predictions and the leads behind them, or what is seen of a page",
    )
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
    from ..training.folders import check_writable, load_classifier, write_text

    check_file(arguments.output)
    if arguments.pictures is not None:
        check_writable(arguments.pictures)
    quiet_libraries()
    model, extractor = load_classifier(arguments.model)
    to_device(model)

    from ..data.preparation import prepare
    from ..evaluation.predictions import model_label_names, model_thresholds, predict
    from ..training.pretraining import as_csv

    names = model_label_names(model.config)
    shown = choose_labels(arguments.labels, names, f"the model in {arguments.model}")
    thresholds = dict(zip(names, model_thresholds(model.config), strict=True))
    if arguments.threshold is not None:
        thresholds = dict.fromkeys(names, arguments.threshold)
    rejected: list[Rejected] = []
    pages_of = {path: pictures_at(path) for path in arguments.records}
    pages = [page for found in pages_of.values() for page in found]
    references = records_to_predict([path for path in arguments.records if not pages_of[path]], rejected)
    table: list[dict[str, Any]] = []
    drawn: set[Path] = set()
    num_done = 0
    try:
        for page in pages:
            found_page = _predict_page(page, model, extractor, rejected)
            if found_page is None:
                continue
            probabilities, found_where, seen = found_page
            windows = [
                _window(0.0, extractor.window_seconds, names, probabilities, shown, thresholds, arguments.top_k)
            ]
            num_done += 1
            if arguments.output is not None:
                table += [_table_row(str(page), window, shown) for window in windows]
            else:
                _print_record(str(page), windows, thresholds, arguments.json, is_page=True)
            if arguments.pictures is not None:
                path = _free_name(arguments.pictures / f"{_file_name(str(page.with_suffix('')))}.png", drawn)
                draw_page_prediction(page, found_where, seen, names, probabilities, thresholds, path)
        for batch in _in_batches(references, shown=arguments.output is not None):
            dataset, failed = prepare(batch, extractor, windows="all", progress=False)
            rejected += failed
            if not len(dataset):
                continue
            found = predict(model, dataset, extractor)
            records = _windows_by_record(dataset, found, shown, thresholds, arguments.top_k)
            num_done += len(records)
            for record, windows in records.items():
                if arguments.output is not None:
                    table += [_table_row(record, window, shown) for window in windows]
                else:
                    _print_record(record, windows, thresholds, arguments.json)
            if arguments.pictures is not None:
                for row, record in enumerate(found.record_ids):
                    place = f"_{float(dataset[row]['window_start']):g}s" if len(records[record]) > 1 else ""
                    path = _free_name(arguments.pictures / f"{_file_name(record)}{place}.png", drawn)
                    draw_prediction(model, dataset, found, row, path, thresholds)
    except KeyboardInterrupt:
        if table:
            write_text(arguments.output, as_csv(table))
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
        write_text(arguments.output, as_csv(table))
        say(f"{num_done} record(s), {len(table)} window(s): {arguments.output}")
    if arguments.pictures is not None:
        print(f"pictures: {arguments.pictures}", file=sys.stderr)
    report_rejected(rejected)
    return EXIT_SOME_FAILED if rejected else EXIT_OK


def _predict_page(path: Path, model: Any, extractor: Any, rejected: list[Rejected]) -> tuple[Any, Any, Any] | None:
    """
    Probabilities of the labels of a picture, where its page is, and what the model sees of it; or nothing, with the
    reason in `rejected`.
    """
    import torch

    from ..data.preparation import Rejected, describe_error
    from ..processing import InputError, find_page, load_page

    if not hasattr(extractor, "image_processor"):
        rejected.append(
            Rejected(
                str(path),
                f"{path} is a picture, and {type(model).__name__} reads recordings: name a model that reads pages, "
                "such as `clear-hug finetune` makes of one of ECG-Scan",
            )
        )
        return None
    processor = extractor.image_processor
    try:
        found = find_page(load_page(path))
        seen = processor.page_of(found.image, do_find_page=False)
    except (InputError, FileNotFoundError) as error:
        rejected.append(Rejected(str(path), describe_error(error)))
        return None
    if found.rotation:
        say(f"{path} was turned clockwise by {found.rotation} degrees, which way up is a guess: look at it")
    pixels = torch.from_numpy(processor.normalize_pages(seen[None])).to(model.device)
    with torch.no_grad():
        logits = model(pixels).logits[0].float()
    one_of_many = model.config.problem_type == "single_label_classification"
    return (logits.softmax(dim=0) if one_of_many else logits.sigmoid()).cpu().numpy(), found, seen


def _window(
    start: float,
    end: float,
    names: Sequence[str],
    probabilities: Any,
    shown: Sequence[str],
    thresholds: dict[str, float],
    top_k: int | None,
) -> dict[str, Any]:
    """A window with the most probable of the labels to show, and those that reach their thresholds."""
    of = {name: float(one) for name, one in zip(names, probabilities, strict=True) if name in shown}
    ranked = sorted(of, key=lambda name: -of[name])[:top_k]
    return {
        "start": round(start, 3),
        "end": round(end, 3),
        "found": [name for name in ranked if of[name] >= thresholds[name]],
        "probabilities": {name: round(of[name], 6) for name in ranked},
    }


def _free_name(path: Path, taken: set[Path]) -> Path:
    while path in taken:
        path = path.with_name(f"{path.stem}+.png")
    taken.add(path)
    return path


def _in_batches(references: Sequence[RecordReference], shown: bool) -> Iterator[Sequence[RecordReference]]:
    """References a batch at a time, with a bar over the records where nothing else is printed."""
    from tqdm.auto import tqdm

    with tqdm(total=len(references), desc="predict", unit="rec", disable=not (shown and is_main_process())) as bar:
        for start in range(0, len(references), _RECORDS_AT_ONCE):
            batch = references[start : start + _RECORDS_AT_ONCE]
            yield batch
            bar.update(len(batch))


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


def _windows_by_record(
    dataset: datasets.Dataset, found: Any, shown: list[str], thresholds: dict[str, float], top_k: int | None
) -> dict[str, list[dict[str, Any]]]:
    """Start and end of each record's windows, with the most probable labels and those that reach their thresholds."""
    records: dict[str, list[dict[str, Any]]] = {}
    starts, rates = dataset["window_start"], dataset["sampling_rate"]
    for row, record in enumerate(found.record_ids):
        start = float(starts[row])
        end = start + len(dataset[row]["signal"][0]) / float(rates[row])
        probabilities = found.probabilities[row]
        records.setdefault(record, []).append(
            _window(start, end, found.label_names, probabilities, shown, thresholds, top_k)
        )
    return records


def _table_row(record: str, window: dict[str, Any], shown: list[str]) -> dict[str, Any]:
    probabilities = window["probabilities"]
    row: dict[str, Any] = {
        "record_id": record,
        "start": window["start"],
        "end": window["end"],
        "found": "; ".join(window["found"]),
    }
    # A label may be called as one of these columns.
    taken = tuple(row)
    return row | {f"{name} (label)" if name in taken else name: probabilities.get(name, "") for name in shown}


def _print_record(
    record: str, windows: list[dict[str, Any]], thresholds: dict[str, float], as_json: bool, is_page: bool = False
) -> None:
    if as_json:
        print(json.dumps({"record": record, "windows": windows}), flush=True)
        return
    seconds = windows[-1]["end"]
    if is_page:
        say(f"{record}  (a picture of a page)")
    elif len(windows) == 1:
        say(f"{record}  ({seconds:g} s)")
    else:
        say(f"{record}  ({seconds:g} s, longer than the model's window: predicted in {len(windows)} windows)")
    for window in windows:
        if len(windows) > 1:
            say(f"  {window['start']:g}-{window['end']:g} s")
        for name, probability in window["probabilities"].items():
            mark = "*" if probability >= thresholds[name] else " "
            say(f"  {mark} {probability:6.1%}  {name}")


def _file_name(record: str) -> str:
    """A record's id as the name of a file: the path's parts joined."""
    return "_".join(part for part in Path(record).parts if part not in ("/", "..", "."))
