"""What the verbs do for ECG-Scan alone; what they do for every system stands in `test_command_line.py`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_systems import SMALL_SYSTEMS
from transformers import AutoTokenizer, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from clear_hug_hf import (
    ClearHugFeatureExtractor,
    EcgScanFeatureExtractor,
    EcgScanForPreTraining,
    Recording,
    load_prepared,
    read_record,
    render_page,
)
from clear_hug_hf.data.pages import LAYOUT_PROBABILITIES, PageCollator
from clear_hug_hf.data.texts import add_text_column, row_text
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.recording_inputs import read_row
from clear_hug_hf.training import teachers
from clear_hug_hf.training.batches import StepCollator
from clear_hug_hf.training.folders import load_classifier
from clear_hug_hf.training.recipes import read_recipe
from clear_hug_hf.training.teachers import add_signal_embeds, make_tokenizer


Capture = pytest.CaptureFixture[str]
Run = Callable[..., None]
Refused = Callable[..., str]
Printed = Callable[..., str]


@pytest.fixture(scope="module")
def house(make_house: Callable[[str], Path]) -> Path:
    return make_house("ecg_scan")


@pytest.fixture(scope="module")
def page(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recording = read_record(shared / "data" / "ptb" / "s0010_re")
    drawn = render_page(
        recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit, pixels_per_mm=3
    )
    path = tmp_path_factory.mktemp("page") / "page.png"
    Image.fromarray(drawn.image).save(path)
    return path


# ------------------------------------------------------------------------------------------------------------ training


def test_when_pages_are_pretrained_then_terms_count_and_the_teacher_stayed(house: Path) -> None:
    steps = pd.read_csv(house / "pretrained" / "pretraining_steps.csv")
    assert (steps[["loss_volume", "loss_pairwise", "loss_reconstruction"]] > 0).all().all()
    kept = load_file(house / "pretrained" / "model" / "model.safetensors")
    before = load_file(house / "teacher" / "model.safetensors")
    for name, tensor in before.items():
        if name.startswith("clear_hug."):
            assert kept[name.replace("clear_hug.", "ecg_scan.signal_model.")].equal(tensor), name


def test_when_the_teacher_is_asked_beforehand_then_it_says_what_the_model_would(house: Path) -> None:
    rows = load_prepared(house / "data")[0]["train"].select(range(3))
    model = EcgScanForPreTraining.from_pretrained(house / "pretrained" / "model").eval()
    found = torch.tensor(
        add_signal_embeds(rows, model.base_model, house / "teacher", 2, progress=False)["signal_embeds"]
    )
    extractor = ClearHugFeatureExtractor()
    for index, row in enumerate(rows.with_format("numpy")):
        inputs = extractor(
            read_row(row)[0],
            sampling_rate=100.0,
            lead_names=row["lead_names"],
            unit="mV",
            return_tensors="pt",
        )
        with torch.no_grad():
            torch.testing.assert_close(found[index], model.base_model.encode_signals(**inputs)[0], atol=1e-5, rtol=0)


def test_when_the_teacher_is_asked_then_it_computes_on_the_device_of_the_process_and_goes_back(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = load_prepared(house / "data")[0]["train"].select(range(3))
    base = EcgScanForPreTraining.from_pretrained(house / "pretrained" / "model").base_model
    seen = []

    def encode(**inputs: torch.Tensor) -> torch.Tensor:
        seen.append({base.signal_model.device.type, *(one.device.type for one in inputs.values())})
        return torch.zeros(3, 32)

    monkeypatch.setattr(base, "encode_signals", encode)
    elsewhere = SimpleNamespace(device=torch.device("meta"), is_main_process=True)
    monkeypatch.setattr(teachers, "PartialState", lambda: elsewhere)
    moved: list[torch.device] = []

    def move(device: torch.device) -> None:
        moved.append(device)
        base.signal_model.to_empty(device=device)  # this one has no values to come back with

    monkeypatch.setattr(base.signal_model, "to", move)
    assert len(add_signal_embeds(rows, base, house / "teacher", progress=False)["signal_embeds"]) == 3
    assert seen == [{"meta"}]
    assert moved == [torch.device("meta"), torch.device("cpu")]


def test_when_pages_are_collated_then_seeds_decide_and_validation_pages_are_always_the_same(house: Path) -> None:
    sets, extractor = load_prepared(house / "data")
    rows = add_text_column(sets["train"]).with_format("numpy")
    batch = [rows[index] for index in range(6)]
    config = read_recipe(system="ecg_scan").make_config()
    collator = PageCollator(extractor, tokenizer=make_tokenizer(config), with_targets=True)
    clean = collator(batch)
    torch.testing.assert_close(collator(batch)["pixel_values"], clean["pixel_values"])
    first, again, other = (collator(batch, np.arange(6) + offset)["pixel_values"] for offset in (0, 0, 50))
    torch.testing.assert_close(first, again)
    assert (first != other).any()
    alone = collator(batch[2:3], np.array([2]))["pixel_values"]
    torch.testing.assert_close(alone[0], first[2], msg="whatever stands beside it")
    texts = [row_text(row) for row in sets["train"].select(range(6))]
    assert clean["text_mask"].tolist() == [bool(text) for text in texts]
    for one in range(6):
        for two in range(6):
            assert (clean["text_ids"][one] == clean["text_ids"][two]).item() == (texts[one] == texts[two])
    seeded = StepCollator(PageCollator(extractor), 4, seed=0, with_seeds=False)
    placed = [((0, index), row) for index, row in enumerate(batch)]
    steps = [torch.cat([one["pixel_values"] for one in seeded(placed).batches]) for _ in range(2)]
    torch.testing.assert_close(steps[0], steps[1])
    assert sum(LAYOUT_PROBABILITIES.values()) == pytest.approx(1.0)
    with pytest.raises(InputError, match="augmentation is 9"):
        PageCollator(extractor, augmentation=9)


def test_when_the_whole_model_is_finetuned_then_training_pages_are_drawn_anew(
    house: Path, tmp_path: Path, run: Run
) -> None:
    command = ["finetune", "--data", house / "data", "--model", house / "pretrained", "--method", "full"]
    run(*command, "--output-dir", tmp_path / "run", "--num-train-epochs", 2, "--no-control")
    model, extractor = load_classifier(tmp_path / "run")
    assert type(extractor) is EcgScanFeatureExtractor
    before = load_file(house / "pretrained" / "model" / "model.safetensors")
    name = "ecg_scan.vision_model.embedder.embedder.convolution.weight"
    assert not model.state_dict()[name].equal(before[name])


def test_when_labels_are_said_in_words_then_the_pipeline_of_transformers_scores_them_without_training(
    house: Path, page: Path
) -> None:
    folder = house / "pretrained" / "model"
    zero_shot = pipeline("zero-shot-image-classification", model=str(folder))
    words = ["ecg with atrial fibrillation", "ecg with normal ecg"]
    found = {
        one["label"]: one["score"] for one in zero_shot(str(page), candidate_labels=words, hypothesis_template="{}")
    }
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)
    model = EcgScanForPreTraining.from_pretrained(folder).base_model.eval()
    tokens = AutoTokenizer.from_pretrained(folder)(words, padding=True, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder)(page, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixels, tokens["input_ids"], tokens["attention_mask"]).logits_per_image[0]
    assert [found[word] for word in words] == pytest.approx(logits.softmax(dim=0).tolist(), abs=1e-4)


# ---------------------------------------------------------------------------------------------------------- prediction


def test_when_a_recording_and_its_page_are_predicted_then_both_have_one_format(
    house: Path, page: Path, shared: Path, tmp_path: Path, run: Run, printed_by: Printed
) -> None:
    record = shared / "data" / "ludb"
    record = next(iter(sorted(record.rglob("*.hea"))))
    command = ["predict", page, record, "--model", house / "finetuned", "--json", "--pictures", tmp_path / "pictures"]
    lines = [json.loads(line) for line in printed_by(*command).splitlines()]
    assert len(lines) == 2
    assert lines[0]["record"] == str(page)
    assert lines[0]["windows"][0].keys() == lines[1]["windows"][0].keys()
    assert lines[0]["windows"][0]["probabilities"].keys() == lines[1]["windows"][0]["probabilities"].keys()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    run("predict", page, "--model", house / "finetuned", "--output", tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["record_id"].tolist() == [str(page)]


def test_when_pipelines_read_a_page_then_ours_and_that_of_transformers_agree(house: Path, page: Path) -> None:
    folder = house / "finetuned" / "model"
    ours = pipeline("ecg-classification", model=str(folder))
    found = {one["label"]: one["score"] for one in ours(page)}
    assert {one["label"]: one["score"] for one in ours(Image.open(page))} == found
    theirs = pipeline("image-classification", model=str(folder), top_k=None)
    for one in theirs(str(page)):
        assert one["score"] == pytest.approx(found[one["label"]], abs=1e-5)


def test_when_real_scans_are_predicted_then_each_has_labels_and_a_picture(
    house: Path, shared: Path, tmp_path: Path, printed_by: Printed
) -> None:
    """They are no test set: what is tested is that they can be read."""
    scans = sorted((shared / "data" / "ecg_images").iterdir())
    command = ["predict", *scans[:3], scans[-1], "--model", house / "finetuned", "--json", "--pictures", tmp_path]
    lines = [json.loads(line) for line in printed_by(*command).splitlines()]
    assert [line["record"] for line in lines] == [str(scans[place]) for place in (0, 1, 2, -1)]
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_when_a_page_is_turned_then_it_is_said_beside_the_json(
    house: Path, page: Path, tmp_path: Path, run: Run, capsys: Capture
) -> None:
    with Image.open(page) as image:
        image.rotate(90, expand=True).save(tmp_path / "turned.png")
    capsys.readouterr()
    run("predict", tmp_path / "turned.png", "--model", house / "finetuned", "--json")
    printed = capsys.readouterr()
    assert json.loads(printed.out)["record"] == str(tmp_path / "turned.png")
    assert "turned.png was rotated clockwise by" in printed.err


@pytest.fixture(scope="module")
def bad_pictures(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "report.pdf").write_bytes(b"%PDF-1.7")
    Image.new("RGB", (400, 300), "white").save(folder / "white.png")
    Image.new("RGB", (10, 10), "white").save(folder / "small.png")
    jpeg = folder / "cut.jpg"
    Image.open(page).convert("RGB").save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:3000])
    return {path.stem: path for path in folder.iterdir()} | {"gone": folder / "gone.png"}


def test_when_pictures_are_bad_then_they_are_named_and_the_others_predicted(
    house: Path,
    page: Path,
    bad_pictures: dict[str, Path],
    capsys: Capture,
    refused: Refused,
    printed_by: Printed,
    status: Callable[..., int],
) -> None:
    for name, said in (
        ("report", "is a PDF that cannot be read"),
        ("white", "does not look like an ECG page"),
        ("small", "got 10 x 10 px"),
        ("cut", "is damaged or truncated"),
        ("gone", "does not exist"),
    ):
        assert said in refused("predict", bad_pictures[name], "--model", house / "finetuned")
    scans = bad_pictures["white"].parent / "scans" / "today"
    scans.mkdir(parents=True)
    shutil.copy(page, scans / "page.png")
    assert str(scans / "page.png") in printed_by("predict", scans.parent, "--model", house / "finetuned")
    command = ["predict", bad_pictures["white"], page, "--model", house / "finetuned"]
    assert status(*command) == 1
    printed = capsys.readouterr()
    assert str(page) in printed.out
    assert "white.png" in printed.err


def test_when_a_model_reads_recordings_then_pictures_are_refused(
    page: Path, refused: Refused, make_house: Callable[[str], Path]
) -> None:
    clear = make_house("clear_hug") / "finetuned"
    said = refused("predict", page, "--model", clear)
    assert "is an image, but ClearHugFeatureExtractor requires recordings" in said
    with pytest.raises(ValueError, match="is an image, but ClearHugFeatureExtractor requires recordings"):
        pipeline("ecg-classification", model=str(clear / "model"))(page)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_when_something_is_missing_then_one_sentence_says_what(
    house: Path, ptbxl_folder: Path, make_recordings: Callable[..., list[Recording]], tmp_path: Path, refused: Refused
) -> None:
    to = ["--output-dir", tmp_path / "out"]
    pages = ["--data", house / "data"]
    pretrain = ["pretrain", *SMALL_SYSTEMS["ecg_scan"].words(house), *pages, *to]
    finetune = [
        "finetune",
        *pages,
        "--model",
        house / "pretrained",
        "--method",
        "lora",
        "--output-dir",
        tmp_path / "lora",
    ]
    prepare = ["prepare", ptbxl_folder, "--system", "ecg_scan", "--extractor-settings", "millivolt=1", *to]
    embed = ["embed", ptbxl_folder, "--model", house / "pretrained", "--per-lead", "--output", tmp_path / "e.parquet"]
    for command, said in (
        (
            ["pretrain", "--system", "ecg_scan", *pages, *to],
            "set --signal-encoder to the folder of a pre-trained signal encoder",
        ),
        (
            ["pretrain", *pages, *to, "--signal-encoder", house / "teacher"],
            "signal_encoder is only for systems that align pages",
        ),
        ([*pretrain, "--streaming"], "cannot be streamed"),
        (finetune, "has none: use the method"),
        (prepare, "has no setting 'millivolt'"),
        (embed, "no vectors per lead"),
    ):
        assert said in refused(*command)
    assert not (tmp_path / "out").exists()


def test_when_normalized_recordings_are_prepared_with_a_scale_then_rows_are_in_millivolts(
    shared: Path, capsys: Capture, tmp_path: Path, run: Run, status: Callable[..., int]
) -> None:
    record = shared / "data" / "ptbxl" / "records100"
    record = next(iter(sorted(record.rglob("*.hea"))))
    command = ["prepare", record, "--system", "ecg_scan", "--output-dir"]
    assert status(*command, tmp_path / "refused") != 0
    assert "millivolts_per_unit must be set" in "".join(capsys.readouterr())
    run(*command, tmp_path / "pages", "--extractor-settings", "millivolts_per_unit=0.11")
    sets, extractor = load_prepared(tmp_path / "pages")
    row = next(iter(sets.values())).with_format("numpy")[0]
    signal, _, _ = read_row(row)
    np.testing.assert_allclose(signal, read_record(record).waveform[:, :1000] * 0.11, atol=1e-3)
    assert extractor.millivolts_per_unit == 0.11


def test_when_a_pretrained_model_is_published_then_it_keeps_its_tokenizer(
    house: Path, tmp_path: Path, run: Run
) -> None:
    run("publish", house / "pretrained", "your-name/scan", "--license", "cc-by-4.0", "--dry-run", tmp_path / "staged")
    kept = AutoTokenizer.from_pretrained(tmp_path / "staged")("sinus rhythm")["input_ids"]
    assert kept == AutoTokenizer.from_pretrained(house / "pretrained" / "model")("sinus rhythm")["input_ids"]
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "signal teacher, the text encoder and the decoder" in card
    # What the teacher learned from is part of the weights, too.
    assert "with the reports of the recordings" in card
    assert "Signal teacher: CLEAR-HUG, pre-trained without labels for 7 epochs." in card
    assert "| CinC 2011 | signal teacher | ODC-By 1.0 |" in card
    assert "- Silva et al." in card
    assert "CinC 2011: ODC-By 1.0" in card
    # The parts' configs say where they were loaded from.
    assert all(str(house) not in path.read_text() for path in (tmp_path / "staged").glob("*.json"))


def test_when_a_model_of_pages_is_published_then_its_card_says_what_it_is(
    house: Path, tmp_path: Path, run: Run
) -> None:
    command = ["publish", house / "finetuned", "your-name/pages", "--license", "cc-by-4.0"]
    run(*command, "--dry-run", tmp_path / "staged")
    card = (tmp_path / "staged" / "README.md").read_text()
    for said in (
        "pipeline_tag: image-classification",
        "independent implementation of the published idea",
        "from pictures of 12-lead ECGs",
        "pillow opencv-python-headless",
        'ecg("path/to/page.jpg")',
    ):
        assert said in card
