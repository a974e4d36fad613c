"""
Pre-train on recordings without labels: `clear-hug pretrain` for `accelerate launch`, `torchrun` and Slurm.

    python scripts/pretrain.py --data path/to/prepared --output runs/pretrained
    accelerate launch --config_file scripts/launch/ddp.yaml scripts/pretrain.py \
        --config scripts/recipes/clear_base_mimic.yaml
    sbatch --nodes 2 scripts/launch/slurm.sbatch --config scripts/recipes/clear_base_mimic.yaml

`--help` lists the options; each overrides a field of the recipe. The batch size is that of all processes together, so
that a recipe trains the same on one GPU or many. Killed, the same command goes on from the last checkpoint.
"""

import sys

from clear_hug_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
