"""
Time of a probe with kept features against one whose encoder runs every epoch, and how far their results are apart.

    python benchmarks/probe_cache.py --data prepared/ptb-xl --model runs/pretrained --recordings 256

Both train the same head with the same seed on the same training recordings, in one process, one after the other: with
the encoder in every epoch, with features computed once, and with features that an earlier run kept on disk. Writes
`benchmarks/results/probe_cache.csv`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from machine import REPOSITORY, describe_machine, write_csv
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.training.finetuning import FinetuningArguments, finetune
from clear_hug_hf.training.folders import load_for_finetuning


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="output of `clear-hug prepare`")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of `clear-hug pretrain`")
    parser.add_argument("--recordings", type=int, default=256, metavar="N", help="for training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--head", default="hug", help="default: %(default)s")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sets, _ = load_prepared(arguments.data)
    names = list(sets["train"].features["labels"])
    train = sets["train"].select(range(arguments.recordings))
    common: dict[str, Any] = {
        "num_train_epochs": arguments.epochs,
        "early_stopping_patience": arguments.epochs,
        "allow_absent_labels": True,
    }
    rows: list[dict[str, Any]] = []
    expected = None
    with tempfile.TemporaryDirectory() as cache:
        forms = (
            ("encoder in every epoch", False, None),
            ("features computed once", True, cache),
            ("features kept by an earlier run", True, cache),
        )
        for form, precompute, cache_dir in forms:
            set_seed(0)
            model, extractor = load_for_finetuning(arguments.model, names, head_type=arguments.head)
            recipe = FinetuningArguments(precompute=precompute, disable_tqdm=True, **common)
            started = time.perf_counter()
            result = finetune(model, train, sets["validation"], extractor, None, recipe, cache_dir=cache_dir)
            seconds = time.perf_counter() - started
            probabilities = predict(result.model, sets["validation"], extractor).probabilities
            expected = probabilities if expected is None else expected
            rows.append(
                {
                    "form": form,
                    "epochs": arguments.epochs,
                    "training_recordings": len(train),
                    "validation_recordings": len(sets["validation"]),
                    "seconds": f"{seconds:.2f}",
                    "times_faster": f"{float(rows[0]['seconds']) / seconds:.1f}" if rows else "1.0",
                    "largest_difference": f"{np.abs(probabilities - expected).max():.1e}",
                    "threads": torch.get_num_threads(),
                    **describe_machine("torch", "transformers"),
                }
            )
            print(
                {name: rows[-1][name] for name in ("form", "seconds", "times_faster", "largest_difference")},
                flush=True,
            )
    write_csv(REPOSITORY / "benchmarks" / "results" / "probe_cache.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
