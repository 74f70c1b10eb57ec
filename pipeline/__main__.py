"""``python -m pipeline``, installed as ``cutonce`` too: the app is in ``pipeline.cli.app``."""

import sys

from pipeline.own_packages import require_own_packages, search_working_folder_last

search_working_folder_last()
try:
    require_own_packages()
except ImportError as error:
    sys.exit(f"error: {error}")

from pipeline.cli.app import main as main  # noqa: E402 - what is found is settled first

if __name__ == "__main__":
    sys.exit(main())
