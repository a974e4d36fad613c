"""`python -m clear_hug_hf.cli`, the same as `clear-hug`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
