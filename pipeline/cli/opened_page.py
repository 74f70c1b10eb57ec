"""``--open``: the page that a command has written, in the browser of whoever gave it."""

from __future__ import annotations

from pathlib import Path


def open_in_browser(page: Path) -> None:
    """Open a page in the browser that the system, or the variable ``BROWSER``, names; say so where there is none."""
    import webbrowser

    from pipeline.cli.output import echo

    if not webbrowser.open(page.resolve().as_uri()):
        echo(f"no browser could be started (the variable BROWSER names one): the page is {page}")
