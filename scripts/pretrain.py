"""
Pre-train CLEAR on recordings without labels: `clear-hug pretrain` for `accelerate launch`.

    python scripts/pretrain.py --data path/to/ptb-xl --output runs/pretrained
    accelerate launch scripts/pretrain.py --data path/to/ptb-xl --size base --epochs 100 --batch-size 256 --bf16

`--help` lists the options. The batch size is that of one process.
"""

import sys

from clear_hug_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
