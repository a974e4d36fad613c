"""
Pre-train on recordings without labels: `clear-hug pretrain` for `accelerate launch`, `torchrun` and Slurm.

    python scripts/pretrain.py --data path/to/prepared --output-dir runs/pretrained
    accelerate launch --config_file scripts/launch/ddp.yaml scripts/pretrain.py \
        --config scripts/recipes/clear_base_mimic.yaml
    sbatch --nodes 2 scripts/launch/slurm.sbatch --config scripts/recipes/clear_base_mimic.yaml

`--help` lists the options; each overrides a field of the recipe. `--train-batch-size` counts the recordings of all
processes together, so a recipe trains the same on one GPU or many. If killed, the same command continues from the last
checkpoint. `clear_hug_hf/workflows/pretrain.py` is the recipe in Python.
"""

import sys

from clear_hug_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
