"""`python -m throughline` is `throughline`."""

from __future__ import annotations

import sys

from throughline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
