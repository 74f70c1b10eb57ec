"""What the page of a large run weighs, how soon it is seen, and how many pages it prints to, by an installed Chromium.

::

    python -m benchmarks.page_weight
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from statistics import median

from tests.browser import chromium
from tests.pipeline.report.test_page_in_browser import CLASSES, METHODS, TESTS, large_page

_OPENED = 5
"""Times that the page is opened."""

_FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch)) as tab:
        page = large_page(Path(scratch))
        tab.media()
        tab.size(1280)
        seconds = []
        for _ in range(_OPENED):
            tab.open(page)
            seconds.append(tab.run(_FIRST_PAINT) / 1000)
        printed = len(re.findall(rb"/Type\s*/Page\b", tab.pdf()))
        print(f"{len(METHODS)} methods, {CLASSES} classes, {TESTS} test images")
        print(f"page             {page.stat().st_size / 1e6:.2f} MB")
        print(
            f"first paint      {median(seconds):.2f} s, median of {_OPENED} ({min(seconds):.2f} to {max(seconds):.2f})"
        )
        print(f"printed pages    {printed}")


if __name__ == "__main__":
    main()
