"""Entry point of `python -m clear_hug_hf.cli`, which equals `clear-hug`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
