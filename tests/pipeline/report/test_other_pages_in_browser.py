"""The pages of `inspect`, `probe-layers`, `learning-curve` and `lr-find` in an installed Chromium, as the commands leave them."""

import shutil

import pytest

from pipeline.cli.app import main
from pipeline.run_layout import OTHER_PAGES
from tests.browser import CHROMIUM, CONTRASTS, CUT_OFF, WIDTHS, chromium
from tests.page_figures import drawing
from tests.photographs import make_folder

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="not run: no Chromium is installed (`apt-get install chromium`)"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with the pages of all four commands, on photographs of which some are copies and some have wrong labels."""
    folder = tmp_path_factory.mktemp("pages")
    photographs = make_folder(folder / "photographs")
    for number in range(3):
        shutil.copyfile(
            photographs / "fire" / f"00{number}.jpg", photographs / "fire" / f"copy-{number}-with-a-long-name.jpg"
        )
        shutil.copyfile(photographs / "sea" / f"01{number}.jpg", photographs / "leaf" / f"wrong-{number}.jpg")
    common = ["--data", photographs, "--allow-leakage", "--image-size", "64", "--cache", folder / "cache"]
    commands = [
        ["inspect"],
        ["probe-layers"],
        ["learning-curve", "--draws", "2"],
        ["lr-find", "--unfreeze", "1", "--init-head", "new", "--num-workers", "0"],
    ]
    with drawing(""):
        for name, *options in commands:
            assert main([str(word) for word in (name, *common, *options, "--out", folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(params=list(OTHER_PAGES))
def tab(browser, run, request):
    """One of the pages, on a window of a notebook."""
    browser.media()
    browser.size(1280)
    browser.open(run / request.param)
    return browser


def test_nothing_goes_wrong_and_nothing_is_asked_for_but_the_file(tab):
    assert tab.errors() == []
    assert len([address for address in tab.requests() if not address.startswith("data:")]) == 1
    assert tab.run("document.querySelector('.verdict h2').textContent.trim().length") > 10


def test_nothing_is_cut_off(tab):
    for width in WIDTHS:
        tab.size(width)
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(CUT_OFF) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(tab, scheme):
    tab.media(scheme=scheme)
    contrasts = tab.run(CONTRASTS)
    assert contrasts["texts"] > 20
    assert contrasts["low"] == []


def test_figures_take_the_colors_of_the_scheme(tab):
    ink = "[...new Set([...document.querySelectorAll('figure svg text')].map(text => getComputedStyle(text).fill))].sort()"
    light = tab.run(ink)
    tab.media(scheme="dark")
    assert not set(light) & set(tab.run(ink))
