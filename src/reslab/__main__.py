"""``python -m reslab``, as torchrun starts it."""

import sys

from reslab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
