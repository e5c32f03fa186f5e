"""``python -m wyrcli`` is ``wyr``."""

import sys

from wyrcli.cli import main

if __name__ == "__main__":
    sys.exit(main())
