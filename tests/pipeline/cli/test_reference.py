"""What the pages say to type exists; the page of options itself is held beside the file of options."""

import re
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from pipeline.cli.app import app

ROOT = Path(__file__).parents[3]
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]+)")
OF_OTHERS = {
    *("nproc-per-node", "max-restarts", "nnodes", "rdzv-endpoint", "rdzv-backend", "rdzv-id"),
    *("extra", "nworkers", "nthreads", "array", "requeue", "data-binary", "pretend-cuda"),
}
"""Flags of torchrun, uv, dask, batch systems, curl and our own tests."""
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"]


def anchors(page):
    """What a link into a page may name: its headings, as GitHub makes anchors of them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def flags_of_commands():
    commands = [app.meta, *(app[name] for name in COMMANDS)]
    commands += [app["cache"][name] for name in app["cache"] if not name.startswith("-")]
    found = [argument for command in commands for argument in command.assemble_argument_collection()]
    return {name.removeprefix("--") for argument in found for name in argument.names} | {"help", "help-all"}


@pytest.fixture(scope="module")
def known():
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    of_benchmarks = {flag for script in scripts for flag in re.findall(r'"--([a-z-]+)"', script)}
    return flags_of_commands() | of_benchmarks | OF_OTHERS


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "changelog.md"],
    ids=lambda path: path.name,
)
def test_every_flag_on_a_page_is_one(page, known):
    assert set(FLAG.findall(page.read_text(encoding="utf-8"))) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_between_pages_leads_to_what_it_names(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
