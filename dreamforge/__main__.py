"""``python -m dreamforge`` is the command ``dreamforge``."""

import sys

from dreamforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
