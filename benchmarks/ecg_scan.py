"""
ECG-Scan on pages of real recordings, cross-validated by patient: what alignment brings, and which of its terms.

    clear-hug prepare PTB_XL --labels ptbxl_all --system ecg_scan \\
        --extractor-settings millivolts_per_unit=0.11 --output-dir scan/xl
    clear-hug prepare CHALLENGE --system ecg_scan \\
        --extractor-settings millivolts_per_unit=0.11 --output-dir scan/challenge
    clear-hug prepare LUDB --system ecg_scan \\
        --extractor-settings millivolts_per_unit=0.11 --output-dir scan/ludb
    clear-hug prepare PTB_XL --labels ptbxl_super --output-dir scan/clear
    python benchmarks/ecg_scan.py --ptbxl scan/xl --clear scan/clear --millivolts scan/challenge scan/ludb

The recordings of PTB-XL (folds 1 to 9) are divided into three folds by patient. For each fold a CLEAR encoder is
pre-trained on the signals of nine tenths of the other two; pages of these and of two thirds of the recordings in mV
are then aligned with it and with sentences of the statements, with all terms, with each left out, and with the volume
divided by the area of signal and text; the seed of a run is the number of its fold. Each vision tower is judged by a
linear probe for the five superclasses (L2 strength chosen on the last tenth of the patients, which no training saw),
and zero-shot by prompts. Controls: the same tower without training, and trained on the superclasses alone, from
scratch; ceiling: the probe on what the signal teacher makes of the true signal. If interrupted, the same command
continues.

Writes `benchmarks/results/ecg_scan.csv`: macro AUROC with 95 % bootstrap intervals over patients, paired differences,
the share of the gap between control and ceiling that is closed, robustness by layout and strength of the augmentation,
and errors of the reconstruction in mV on recordings in mV that were left out of training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from machine import REPOSITORY, describe_machine, write_csv
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf import EcgScanForImageClassification, EcgScanForPreTraining
from clear_hug_hf.data.label_sets import LABEL_SETS
from clear_hug_hf.data.pages import SIGNAL_EMBEDS
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.splits import patient_folds
from clear_hug_hf.data.texts import add_text_column, read_prompts
from clear_hug_hf.evaluation.metrics import bootstrap_interval, macro_auroc, macro_auroc_samples
from clear_hug_hf.evaluation.protocol import holdout_split
from clear_hug_hf.modeling.losses_ecg_scan import lead_residuals
from clear_hug_hf.processing.recording_inputs import read_row
from clear_hug_hf.training.finetuning import FinetuningArguments, finetune
from clear_hug_hf.training.folders import classifier_config, load_for_finetuning
from clear_hug_hf.training.pretraining import pretrain
from clear_hug_hf.training.recipes import Recipe, read_recipe
from clear_hug_hf.training.teachers import make_tokenizer


NUM_FOLDS = 3
SUPERCLASSES = LABEL_SETS["ptbxl_super"]
STRENGTHS = (0.0, 0.5, 1.0, 2.0)
# Fields of the config that each variant of the objective sets.
VARIANTS: dict[str, dict[str, float]] = {
    "full": {},
    "no_volume": {"volume_weight": 0.0},
    "normalized": {"normalize_volume": True},
    "no_pairwise": {"pairwise_weight": 0.0},
    "no_reconstruction": {"reconstruction_weight": 0.0, "lead_weight": 0.0},
    "no_lead": {"lead_weight": 0.0},
}
TITLES = {
    "random": "randomly initialized vision tower + linear probe",
    "supervised": "vision tower from scratch on the labels",
    "full": "ECG-Scan + linear probe",
    "full zero-shot": "ECG-Scan, zero-shot",
    "full fine-tuned": "ECG-Scan, fine-tuned",
    "teacher": "signal teacher on the true signal + linear probe (ceiling)",
    "no_volume": "without the volume contrast + linear probe",
    "normalized": "with the volume over the pair's area + linear probe",
    "no_pairwise": "without the pairwise contrast + linear probe",
    "no_reconstruction": "without reconstruction and lead term + linear probe",
    "no_lead": "without the lead term + linear probe",
    "no_volume zero-shot": "without the volume contrast, zero-shot",
    "normalized zero-shot": "with the volume over the pair's area, zero-shot",
    "no_pairwise zero-shot": "without the pairwise contrast, zero-shot",
    "no_reconstruction zero-shot": "without reconstruction and lead term, zero-shot",
    "no_lead zero-shot": "without the lead term, zero-shot",
}
DIFFERENCES = [
    ("full", "random"),
    ("full", "supervised"),
    ("full fine-tuned", "supervised"),
    ("full", "teacher"),
    ("no_volume", "random"),
    ("full", "no_volume"),
    ("full", "normalized"),
    ("full", "no_pairwise"),
    ("full", "no_reconstruction"),
    ("full", "no_lead"),
    ("full zero-shot", "no_volume zero-shot"),
    ("full zero-shot", "no_pairwise zero-shot"),
    ("full zero-shot", "no_lead zero-shot"),
]


def superclasses(dataset: datasets.Dataset) -> tuple[datasets.Dataset, np.ndarray]:
    """Recordings with at least one of the superclasses of PTB-XL, and these, `(num_recordings, 5)`."""
    known = {code.rstrip("_"): names for code, names in SUPERCLASSES.codes.items()}
    rows = [
        {name for code, likelihood in row.items() if likelihood == 1 for name in known.get(code, ())}
        for row in dataset["labels"]
    ]
    kept = [place for place, names in enumerate(rows) if names]
    labels = np.array([[name in rows[place] for name in SUPERCLASSES.names] for place in kept], dtype=np.float64)
    return dataset.select(kept), labels


class Experiment:
    """The recordings, their folds, and what was trained on which."""

    def __init__(self, ptbxl: Path, millivolts: list[Path], output: Path, arguments: argparse.Namespace):
        self.output, self.arguments = output, arguments
        sets, self.extractor = load_prepared(ptbxl)
        everything = datasets.concatenate_datasets([sets[split] for split in ("train", "validation") if split in sets])
        self.rows, self.labels = superclasses(everything)
        self.texts = add_text_column(self.rows)
        self.folds = patient_folds(self.rows["record_id"], self.rows["patient_id"], NUM_FOLDS)
        extra = []
        for folder in millivolts:
            splits, _ = load_prepared(folder)
            extra += [add_text_column(splits[split]) for split in splits]
        self.extra = datasets.concatenate_datasets(extra) if extra else None
        if self.extra is not None:
            self.extra_folds = patient_folds(self.extra["record_id"], self.extra["patient_id"], NUM_FOLDS)
        self.patients = np.array(self.rows["patient_id"])

    def parts(self, fold: int) -> dict[str, np.ndarray]:
        """Places of the training, validation and test recordings of a fold."""
        others = np.flatnonzero(self.folds != fold)
        first, second = holdout_split(self.labels[others], list(self.patients[others]), 0.1, seed=fold)
        return {
            "train": others[first],
            "validation": others[second],
            "test": np.flatnonzero(self.folds == fold),
        }

    # ------------------------------------------------------------------------------------------------------ training

    def teacher(self, fold: int) -> Path:
        """The signal teacher of a fold: CLEAR, pre-trained on the signals of the training part alone."""
        folder = self.output / f"teacher-{fold}"
        source = Path(self.arguments.clear)
        if not (folder / "pretraining_log.csv").is_file() or not (folder / "model").is_dir():
            sets, extractor = load_prepared(source)
            everything = datasets.concatenate_datasets(list(sets.values()))
            wanted = {self.rows["record_id"][place] for place in self.parts(fold)["train"]}
            rows = [place for place, record in enumerate(everything["record_id"]) if record in wanted]
            recipe = read_recipe(seed=fold, num_train_epochs=self.arguments.teacher_epochs)
            set_seed(fold)
            pretrain(recipe.make_model(), everything.select(rows), extractor, folder, None, recipe.training)
        return folder

    def recipe(self, fold: int, variant: str) -> Recipe:
        """How a variant is trained."""
        return read_recipe(
            system="ecg_scan",
            signal_encoder=str(self.teacher(fold)),
            config_overrides=VARIANTS[variant],
            num_train_epochs=self.arguments.epochs,
            train_batch_size=self.arguments.batch_size,
            per_device_train_batch_size=self.arguments.batch_size,
            learning_rate=self.arguments.learning_rate,
            seed=fold,
        )

    def align(self, fold: int, variant: str) -> Path:
        """Pre-train a variant on all folds but one, unless it was done."""
        folder = self.output / f"{variant}-{fold}"
        recipe = self.recipe(fold, variant)
        set_seed(fold)
        model = recipe.make_model()
        rows = [self.texts.select(self.parts(fold)["train"])]
        if self.extra is not None:
            rows.append(self.extra.select(np.flatnonzero(self.extra_folds != fold)))
        sets = recipe.add_teachers(model, {"train": datasets.concatenate_datasets(rows)}, progress=False)
        collator = recipe.make_collator(model, self.drawing(recipe))
        extractor = self.drawing(recipe)
        result = pretrain(model, sets["train"], extractor, folder, None, recipe.training, collator=collator)
        last = result.history[-1]
        print(f"{variant}, fold {fold}: {last['epoch']} epochs in {last['seconds']:.0f} s, {last}", flush=True)
        return folder / "model"

    def drawing(self, recipe: Recipe) -> Any:
        """The feature extractor that draws pages at the model's size."""
        return recipe.make_feature_extractor(self.extractor)

    # ---------------------------------------------------------------------------------------------------- evaluation

    def pages(self, places: np.ndarray, extractor: Any, layout: str = "3x4", strength: float = 0.0) -> Any:
        """Batches of pages of some recordings, photographed with a strength."""
        rows = self.rows.select_columns(["signal", "signal_scale", "lead_mask", "r_peaks"]).with_format("numpy")
        for start in range(0, len(places), 64):
            chosen = [read_row(rows[int(place)]) for place in places[start : start + 64]]
            drawn: dict[str, Any] = {"layouts": [layout] * len(chosen)}
            if strength:
                drawn["generators"] = [np.random.default_rng([7, int(place)]) for place in places[start : start + 64]]
                drawn["strength"] = strength
            inputs = extractor.cut(*zip(*chosen, strict=True), **drawn)
            yield torch.from_numpy(inputs["pixel_values"])

    @torch.no_grad()
    def features(self, model: Any, places: np.ndarray, extractor: Any, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features and embeddings (if there are any) of pages."""
        base = model.base_model.eval()
        outputs = [base(pixels) for pixels in self.pages(places, extractor, **how)]
        pooled = torch.cat([output.pooler_output for output in outputs]).numpy()
        if outputs[0].image_embeds is None:
            return pooled, np.zeros((len(pooled), 0))
        return pooled, torch.cat([output.image_embeds for output in outputs]).numpy()

    def probe(self, features: dict[str, np.ndarray], fold: int) -> tuple[Any, float]:
        """A linear probe for each superclass, with the strength that is best on the validation recordings."""
        parts = self.parts(fold)
        scaler = StandardScaler().fit(features["train"])
        scaled = {name: scaler.transform(values) for name, values in features.items()}
        best: tuple[float, Any] = (-1.0, None)
        for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            heads = [
                LogisticRegression(C=strength, max_iter=2000).fit(scaled["train"], self.labels[parts["train"], column])
                for column in range(self.labels.shape[1])
            ]
            scores = np.stack([head.decision_function(scaled["validation"]) for head in heads], axis=1)
            validation_auroc = macro_auroc(self.labels[parts["validation"]], scores)
            if validation_auroc > best[0]:
                best = (validation_auroc, heads)

        def score(test: np.ndarray) -> np.ndarray:
            return np.stack([head.decision_function(scaler.transform(test)) for head in best[1]], axis=1)

        return score, best[0]

    def _kept(self, name: str, fold: int, make: Any) -> dict[str, np.ndarray]:
        path = self.output / "scores" / f"{name}-{fold}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **make())
        return dict(np.load(path))

    def evaluate(self, name: str, fold: int) -> dict[str, np.ndarray]:
        """Scores of a method on the test recordings of a fold, computed once."""
        return self._kept(name.replace(" ", "_"), fold, lambda: self._evaluate(name, fold))

    def _evaluate(self, name: str, fold: int) -> dict[str, np.ndarray]:
        parts = self.parts(fold)
        recipe = self.recipe(fold, "full")
        extractor = self.drawing(recipe)
        set_seed(fold)
        if name == "teacher":
            rows = recipe.add_teachers(recipe.make_model(), {"all": self.texts}, progress=False)["all"]
            embeds = np.array(rows[SIGNAL_EMBEDS], dtype=np.float32)
            score, _ = self.probe({part: embeds[places] for part, places in parts.items()}, fold)
            return {"scores": score(embeds[parts["test"]])}
        if name in ("supervised", "full fine-tuned"):
            return {"scores": self._finetune(name, fold)}
        if name == "random":
            model: Any = recipe.make_model()
        else:
            model = EcgScanForPreTraining.from_pretrained(self.output / f"{name}-{fold}" / "model")
        features = {part: self.features(model, places, extractor) for part, places in parts.items()}
        score, validation = self.probe({part: part_features[0] for part, part_features in features.items()}, fold)
        result = {"scores": score(features["test"][0]), "validation": np.array(validation)}
        if name == "random":
            return result
        result["zero_shot"] = self._zero_shot(model, features["test"][1])
        if name == "full":
            for layout in ("12x1", "6x2"):
                result[layout] = score(self.features(model, parts["test"], extractor, layout=layout)[0])
            for strength in STRENGTHS[1:]:
                moved = self.features(model, parts["test"], extractor, strength=strength)[0]
                result[f"strength {strength:g}"] = score(moved)
        if self.extra is not None:
            result |= self._reconstruction(model, fold, extractor)
        return result

    @torch.no_grad()
    def _zero_shot(self, model: Any, embeds: np.ndarray) -> np.ndarray:
        tokenizer = make_tokenizer(model.config)
        columns = []
        for sentences in read_prompts(SUPERCLASSES.names).values():
            tokens = tokenizer(sentences, padding=True, return_tensors="pt")
            mean = (
                model.base_model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).mean(dim=0).numpy()
            )
            columns.append(embeds @ (mean / np.linalg.norm(mean)))
        return np.stack(columns, axis=1)

    def _finetune(self, name: str, fold: int) -> np.ndarray:
        parts = self.parts(fold)
        extractor = self.drawing(self.recipe(fold, "full"))
        names = list(SUPERCLASSES.names)
        feature = {label: datasets.Value("float32") for label in names}
        values = [dict(zip(names, row, strict=True)) for row in self.labels]
        labeled = self.texts.add_column("labels", values, feature=feature)
        if name == "supervised":
            config = classifier_config(self.recipe(fold, "full").make_config(), names)
            model: Any = EcgScanForImageClassification(config)
        else:
            model, _ = load_for_finetuning(self.output / f"full-{fold}" / "model", names)
        arguments = FinetuningArguments(
            method="full",
            num_train_epochs=self.arguments.finetuning_epochs,
            early_stopping_patience=self.arguments.finetuning_epochs,
            per_device_train_batch_size=32,
            encoder_learning_rate=1e-3,
            layer_decay=1.0,
            seed=fold,
            disable_tqdm=True,
        )
        sets = [labeled.select(parts[part]) for part in ("train", "validation")]
        done = finetune(model, sets[0], sets[1], extractor, None, arguments).model.eval()
        with torch.no_grad():
            return torch.cat([done(pixels).logits for pixels in self.pages(parts["test"], extractor)]).numpy()

    @torch.no_grad()
    def _reconstruction(self, model: Any, fold: int, extractor: Any) -> dict[str, np.ndarray]:
        """Per recording: error on drawn and on other samples, residual of the leads, and those of a flat line."""
        assert self.extra is not None
        rows = self.extra.select(np.flatnonzero(self.extra_folds == fold))
        rows = rows.select_columns(["signal", "signal_scale", "lead_mask", "r_peaks"]).with_format("numpy")
        columns: dict[str, list[float]] = {
            name: [] for name in ("drawn", "unseen", "flat", "residual", "own_residual")
        }
        model.eval()
        for start in range(0, len(rows), 64):
            batch = [read_row(rows[place]) for place in range(start, min(start + 64, len(rows)))]
            batch_inputs = extractor.cut(*zip(*batch, strict=True), return_targets=True)
            rebuilt = model.reconstruct(torch.from_numpy(batch_inputs["pixel_values"])).numpy()
            truth = batch_inputs["waveforms"]
            residual = lead_residuals(torch.from_numpy(rebuilt)).numpy()
            own = lead_residuals(torch.from_numpy(truth)).numpy()
            for index in np.flatnonzero(batch_inputs["identity_mask"]):
                drawn, there = batch_inputs["drawn_mask"][index], batch_inputs["signal_mask"][index]
                errors = rebuilt[index] - truth[index]
                columns["drawn"].append(_rms(errors[drawn & there]))
                columns["unseen"].append(_rms(errors[~drawn & there]))
                columns["flat"].append(_rms(truth[index][drawn & there]))
                columns["residual"].append(_rms(residual[index]))
                columns["own_residual"].append(_rms(own[index]))
        return {f"mv {name}": np.array(values) for name, values in columns.items()}

    # ------------------------------------------------------------------------------------------------------- results

    def summarize(self) -> list[dict[str, Any]]:
        """Rows of the results, of the methods whose scores are all there."""
        samples: dict[str, np.ndarray] = {}
        by_fold: dict[str, list[float]] = {}
        kept: dict[str, list[dict[str, np.ndarray]]] = {}
        for name in ("random", "supervised", "full fine-tuned", "teacher", *VARIANTS):
            folds = self.arguments.folds
            paths = [self.output / "scores" / f"{name.replace(' ', '_')}-{fold}.npz" for fold in folds]
            if all(path.is_file() for path in paths):
                kept[name] = [dict(np.load(path)) for path in paths]
        scores: dict[str, list[np.ndarray]] = {}
        for name, folds_of_method in kept.items():
            scores[name] = [fold_result["scores"] for fold_result in folds_of_method]
            if name in VARIANTS:
                scores[f"{name} zero-shot"] = [fold_result["zero_shot"] for fold_result in folds_of_method]
        if "full" in kept:
            for key in ("12x1", "6x2", *(f"strength {strength:g}" for strength in STRENGTHS[1:])):
                scores[f"full, {key}"] = [scored[key] for scored in kept["full"]]
        for name, folds_scores in scores.items():
            of_folds = []
            by_fold[name] = []
            for fold, predicted in zip(self.arguments.folds, folds_scores, strict=True):
                places = self.parts(fold)["test"]
                labels, patients = self.labels[places], list(self.patients[places])
                of_folds.append(macro_auroc_samples(labels, [predicted], patients, 2000, seed=fold))
                by_fold[name].append(float(macro_auroc(labels, predicted)))
            samples[name] = np.mean(of_folds, axis=0)
        rows = [_row("macro AUROC", _title(name), "", drawn, by_fold[name], ".4f") for name, drawn in samples.items()]
        for first, second in DIFFERENCES:
            if first in samples and second in samples:
                between = np.subtract(by_fold[first], by_fold[second])
                rows.append(
                    _row(
                        "difference",
                        _title(first),
                        _title(second),
                        samples[first] - samples[second],
                        list(between),
                        ".4f",
                    )
                )
        for name in ("full", "full zero-shot", "full fine-tuned", "supervised"):
            if name in samples and {"random", "teacher"} <= samples.keys():
                gap = samples["teacher"] - samples["random"]
                rows.append(_row("gap closed", _title(name), "", (samples[name] - samples["random"]) / gap, [], ".3f"))
        rng = np.random.default_rng(0)
        for name, scored_folds in kept.items():
            for key in ("mv drawn", "mv unseen", "mv residual"):
                if key in scored_folds[0]:
                    values = np.concatenate([scored[key] for scored in scored_folds])
                    rows.append(_row(key.replace("mv ", "mV "), _title(name), "", _resampled(values, rng), [], ".4f"))
        if "full" in kept and "mv flat" in kept["full"][0]:
            for key, title in (("mv flat", "flat line"), ("mv own_residual", "the recordings themselves")):
                values = np.concatenate([scored[key] for scored in kept["full"]])
                what = "mV drawn" if key == "mv flat" else "mV residual"
                rows.append(_row(what, title, "", _resampled(values, rng), [], ".4f"))
            if "no_lead" in kept:
                for key in ("mv drawn", "mv unseen", "mv residual"):
                    between = np.concatenate([scored[key] for scored in kept["full"]]) - np.concatenate(
                        [scored[key] for scored in kept["no_lead"]]
                    )
                    rows.append(
                        _row(
                            f"difference of {key.replace('mv ', 'mV ')}",
                            _title("full"),
                            _title("no_lead"),
                            _resampled(between, rng),
                            [],
                            ".4f",
                        )
                    )
        about = {
            "recordings": str(len(self.rows)),
            "in_mv": "0" if self.extra is None else str(len(self.extra)),
            "epochs": str(self.arguments.epochs),
            "finetuning_epochs": str(self.arguments.finetuning_epochs),
            "teacher_epochs": str(self.arguments.teacher_epochs),
        }
        machine = describe_machine("torch", "transformers", "scikit-learn", "opencv-python-headless")
        return [{**row, **about, **machine} for row in rows]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else float("nan")


def _resampled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean over recordings, and that of 2,000 bootstrap samples of them."""
    values = values[np.isfinite(values)]
    drawn = rng.integers(len(values), size=(2000, len(values)))
    return np.concatenate([[values.mean()], values[drawn].mean(axis=1)])


def _title(name: str) -> str:
    first, comma, rest = name.partition(", ")
    return TITLES[first] + (f", {rest}" if comma else "")


def _row(what: str, method: str, minus: str, samples: np.ndarray, by_fold: list[float], form: str) -> dict[str, Any]:
    interval = bootstrap_interval(samples)
    return {
        "what": what,
        "method": method,
        "minus": minus,
        **{name: f"{value:.5f}" for name, value in interval.items() if value is not None},
        "folds": " ".join(f"{value:{form}}" for value in by_fold),
    }


def main() -> int:
    """Train, evaluate and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ptbxl", type=Path, required=True, metavar="DIR", help="prepared with ptbxl_all for ECG-Scan"
    )
    parser.add_argument(
        "--clear", type=Path, required=True, metavar="DIR", help="PTB-XL prepared for CLEAR, any labels"
    )
    parser.add_argument("--millivolts", type=Path, nargs="*", default=[], metavar="DIR", help="recordings in mV")
    parser.add_argument("--output", type=Path, default=Path("runs/ecg_scan"), metavar="DIR", help="%(default)s")
    parser.add_argument("--epochs", type=int, default=6, metavar="N", help="of each alignment (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="%(default)s")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="%(default)s")
    parser.add_argument("--finetuning-epochs", type=int, default=8, metavar="N", help="%(default)s")
    parser.add_argument("--teacher-epochs", type=int, default=25, metavar="N", help="%(default)s")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(NUM_FOLDS)), metavar="N", help="folds")
    parser.add_argument(
        "--variants", nargs="*", choices=tuple(VARIANTS), default=list(VARIANTS), help="of the objective"
    )
    parser.add_argument(
        "--controls",
        nargs="*",
        default=["random", "teacher", "supervised", "full fine-tuned"],
        choices=("random", "teacher", "supervised", "full fine-tuned"),
        help="what else is evaluated",
    )
    parser.add_argument("--only-summary", action="store_true", help="write the results of what is there")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "ecg_scan.csv", metavar="FILE"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    experiment = Experiment(arguments.ptbxl, arguments.millivolts, arguments.output, arguments)
    if not arguments.only_summary:
        for variant in arguments.variants:
            for fold in arguments.folds:
                experiment.align(fold, variant)
                scored = experiment.evaluate(variant, fold)
                print(variant, fold, f"validation {float(scored['validation']):.3f}", flush=True)
        for name in arguments.controls:
            for fold in arguments.folds:
                experiment.evaluate(name, fold)
                print(name, fold, flush=True)
    rows = experiment.summarize()
    if rows:
        write_csv(arguments.results, rows)
    for row in rows:
        minus = f" - {row['minus']}" if row["minus"] else ""
        print(f"{row['what']}: {row['method']}{minus}: {row['value']} ({row['low']} to {row['high']}) {row['folds']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
