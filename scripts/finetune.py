"""
Train a classifier on labeled recordings: `clear-hug finetune` for `accelerate launch`.

    python scripts/finetune.py --data path/to/ptb-xl --model runs/pretrained --output-dir runs/superclasses
    accelerate launch scripts/finetune.py --data path/to/ptb-xl --model runs/pretrained --method full

`--help` lists the options. The batch size is that of one process. `clear_hug_hf/workflows/finetune.py` is the recipe
in Python.
"""

import sys

from clear_hug_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
