"""`clear-hug predict`: labels of recordings, with probabilities."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    EXIT_BAD_INPUT,
    add_model_option,
    add_overwrite_option,
    add_records_option,
    add_verb,
    choose_labels,
    draw_prediction,
    is_main_process,
    load_on_device,
    positive,
    report_rejected,
    say,
    share,
    short_name,
)


if TYPE_CHECKING:
    import numpy as np

    from ..data.records import Recording, RecordReference
    from ..inference.records import RecordPrediction
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


def add(verbs: Any) -> None:
    """Add `predict` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        run,
        "labels of recordings or of pictures of them, with probabilities",
        "Predict WFDB records (.hea with .dat or .mat; any rate from 50 Hz, any order of leads). A recording that is\n"
        "longer than the model's window, or has more beats than the model holds, is read window by window, and its\n"
        "probabilities are the mean over them (--aggregate). A label counts as found from the threshold on that\n"
        "fine-tuning chose for it. Exit status 1 if some records could not be used; they are named at the end.\n\n"
        "A model that reads pages takes photographs and scans, too (PNG, JPEG, TIFF, WebP). The page is\n"
        "looked for and straightened; a page that stands on its head is not noticed.\n\n"
        "examples:\n"
        "  clear-hug predict patient7.hea --model runs/superclasses --pictures pictures\n"
        "  clear-hug predict ward3/ extra/A0001 --model runs/superclasses --top-k 2\n"
        "  clear-hug predict ward.csv --model runs/ward --output predictions.csv\n"
        "  clear-hug predict page.jpg --model runs/pages --pictures pictures\n"
        "  clear-hug predict ward3/ --model runs/superclasses --json > ward3.jsonl",
    )
    add_records_option(
        parser,
        "records, folders of records, CSV tables with a column `path`, pictures of pages, or folders of these",
    )
    add_model_option(parser, "output of `finetune`")
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
    from ..utils.files import check_file, check_picture_folder, write_csv

    check_file(arguments.output, arguments.overwrite, [*arguments.records, arguments.model])
    check_picture_folder(arguments.pictures, overwrite=arguments.overwrite)
    model, extractor = load_on_device(load_classifier, arguments.model)

    from tqdm.auto import tqdm

    from ..data.records import Rejected
    from ..inference.classifier_outputs import model_label_names, model_thresholds
    from ..inference.inputs import find_pictures, list_records
    from ..inference.records import check_is_classifier, predict_records

    check_is_classifier(model.config)
    names = model_label_names(model.config)
    shown = choose_labels(arguments.labels, names, f"the model in {arguments.model}")
    thresholds = dict(zip(names, model_thresholds(model.config), strict=True))
    if arguments.threshold is not None:
        thresholds = dict.fromkeys(names, arguments.threshold)
    pages_of = {path: find_pictures(path) for path in arguments.records}
    pages = [page for found in pages_of.values() for page in found]
    references, rejected = list_records([path for path in arguments.records if not pages_of[path]])
    check_file(arguments.output, overwrite=True, inputs=(reference.path for reference in references))
    check_picture_folder(arguments.pictures, overwrite=True, inputs=pages)
    inputs: list[Path | RecordReference] = [*pages, *references]
    table: list[dict[str, Any]] = []
    drawn: set[Path] = set()
    num_done = 0
    predictions = predict_records(model, extractor, inputs, aggregate=arguments.aggregate)
    shown_bar = arguments.output is not None and is_main_process()
    try:
        for one, found in tqdm(
            zip(inputs, predictions, strict=True), desc="predict", unit="rec", total=len(inputs), disable=not shown_bar
        ):
            if isinstance(found, Rejected):
                rejected.append(found)
                continue
            if found.page is not None and found.page.rotation:
                say(
                    f"{one} was turned clockwise by {found.page.rotation} degrees, which way up is a guess: look at it"
                )
            told = _told(found, names, shown, thresholds, arguments)
            num_done += 1
            if arguments.output is not None:
                table += _table_rows(found.record_id, told, shown)
            else:
                _print_record(found.record_id, told, thresholds, arguments.json, found.report)
            if arguments.pictures is not None and isinstance(one, Path):
                _draw_page(extractor, one, found, thresholds, arguments, drawn)
            elif arguments.pictures is not None:
                _draw_record(model, extractor, one.read(), found, thresholds, arguments, drawn)
    except KeyboardInterrupt:
        if table:
            write_csv(arguments.output, table)
            say(f"\nstopped: {arguments.output} has the first {num_done} record(s) of {len(inputs)}")
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
    return report_rejected(rejected)


def _told(
    found: RecordPrediction,
    names: Sequence[str],
    shown: Sequence[str],
    thresholds: dict[str, float],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """
    Where a recording, its windows and those that were skipped begin and end [s], and of each read the most probable of
    the labels to show, those that reach their thresholds, and which of these the heart rate contradicts; those of the
    recording only if they are put together.
    """

    def labels_of(probabilities: np.ndarray, notes: Mapping[str, str]) -> dict[str, Any]:
        of = {name: float(one) for name, one in zip(names, probabilities, strict=True) if name in shown}
        ranked = sorted(of, key=lambda name: -of[name])[: arguments.top_k]
        found = [name for name in ranked if of[name] >= thresholds[name]]
        return {
            "found": found,
            "probabilities": {name: of[name] for name in ranked},
            "notes": {name: notes[name] for name in found if name in notes},
        }

    places = [{"start": round(one.place.start, 3), "end": round(one.place.end, 3)} for one in found.windows]
    told: dict[str, Any] = {"start": places[0]["start"], "end": max(place["end"] for place in places)}
    told["aggregate"] = arguments.aggregate
    told["report"] = None if found.report is None else found.report.to_dict()
    if found.probabilities is not None:
        told |= labels_of(found.probabilities, found.notes)
    told["windows"] = [
        place
        | {"heart_rate": None if one.heart_rate is None else round(one.heart_rate, 1)}
        | labels_of(one.probabilities, one.notes)
        for place, one in zip(places, found.windows, strict=True)
    ]
    told["skipped"] = [{"start": round(start, 3), "end": round(end, 3)} for start, end in found.skipped]
    return told


def _draw_page(
    extractor: Any,
    picture: Path,
    found: RecordPrediction,
    thresholds: dict[str, float],
    arguments: argparse.Namespace,
    drawn: set[Path],
) -> None:
    """A picture with the page that was found in it, what the model sees of it, and its labels."""
    from ..plotting import plot_page, save_figure
    from ..processing import load_page

    assert found.page is not None
    figure = plot_page(
        load_page(picture),
        found.page.corners,
        extractor.image_processor.page_of(found.page.image, do_find_page=False),
        label_names=list(thresholds),
        probabilities=found.windows[0].probabilities,
        thresholds=list(thresholds.values()),
        title=short_name(str(picture)),
    )
    save_figure(figure, _free_path(arguments.pictures, str(picture.with_suffix("")), "", drawn))


def _draw_record(
    model: Any,
    extractor: Any,
    recording: Recording,
    found: RecordPrediction,
    thresholds: dict[str, float],
    arguments: argparse.Namespace,
    drawn: set[Path],
) -> None:
    """A picture of each stretch that is as long as the model's window, with all that was read of it."""
    import numpy as np

    from ..inference.classifier_outputs import aggregate_windows
    from ..processing.signal_cleaning import canonical_unit

    inputs = recording.as_inputs()
    signal, lead_mask = extractor.clean(inputs.pop("waveforms"), **inputs)
    windows = extractor.replace(windows="all").split(signal, extractor.detect([signal], [lead_mask])[0])
    report = found.report
    assert report is not None
    units = [recording.unit] if isinstance(recording.unit, str) else recording.unit
    for number in dict.fromkeys(one.place.window for one in found.windows):
        parts = [one for one in found.windows if one.place.window == number]
        window = windows[number]
        place = f"_{window.start / extractor.sampling_rate:g}s" if len(windows) > 1 else ""
        added = [one.contributions for one in parts if one.contributions is not None]
        scores = aggregate_windows(
            np.stack([one.probabilities for one in parts]), "max" if arguments.aggregate == "max" else "mean"
        )
        assert scores is not None
        notes = {name: note for one in parts for name, note in one.notes.items()}
        reached = [name for name, score in zip(thresholds, scores, strict=True) if score >= thresholds[name]]
        about = [*report.warnings, *(notes[name] for name in reached if name in notes)]
        draw_prediction(
            model,
            recording.record_id,
            _free_path(arguments.pictures, recording.record_id, place, drawn),
            thresholds=list(thresholds.values()),
            probabilities=scores,
            contributions=np.mean(added, axis=0) if added else None,
            signal=window.signal,
            r_peaks=window.r_peaks,
            lead_mask=lead_mask,
            sampling_rate=extractor.sampling_rate,
            unit="NU" if extractor.do_rescale or "NU" in map(canonical_unit, units) else "mV",
            note=". ".join(
                [
                    f" from {window.start / extractor.sampling_rate:g} s; the whole recording" * (len(windows) > 1)
                    + f": {report.summary()}",
                    *(one[0].upper() + one[1:] for one in about),
                ]
            ),
        )


def _free_path(folder: Path, record: str, place: str, taken: set[Path]) -> Path:
    """Where a picture goes that no other has `taken`: named as the parts of a record's id, and a place in it."""
    name = "_".join(part for part in Path(record).parts if part not in ("/", "..", "."))
    path = folder / f"{name}{place}.png"
    while path in taken:
        path = path.with_name(f"{path.stem}+.png")
    taken.add(path)
    return path


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
