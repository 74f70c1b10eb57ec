"""``python -m pipeline``, installed as ``cutonce`` too: the app is in ``pipeline.cli.app``."""

import sys

from pipeline.cli.app import main as main

if __name__ == "__main__":
    sys.exit(main())
