"""The page as an installed Chromium shows it: one browser, one page of 11 methods and 60 classes with all its figures."""

import re

import numpy as np
import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.report.page import write_report
from pipeline.run_layout import HEAD
from tests.browser import CHROMIUM, CONTRASTS, CUT_OFF, WIDTHS, chromium
from tests.page_figures import drawing
from tests.photographs import photograph
from tests.pipeline.finished_runs import HISTORY, SELECTION, add, folded, predictions
from tests.pipeline.report.pages import DrawnEvidence

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="not run: no Chromium is installed (`apt-get install chromium`)"),
]

CLASSES, TESTS = 60, 600
METHODS = (
    *(("linear", name) for name in ("logistic", "ridge", "lda", "svm", "ncm")),
    *(("head", name) for name in ("mlp", "torch-linear", "cosine")),
    *(("finetune", "top-3"), ("finetune", "all"), ("scratch", "all")),
)
WORDS = ("amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty")
NAMES = [f"{WORDS[number % 10]} {WORDS[number // 10]}" for number in range(CLASSES)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return large_page(tmp_path_factory.mktemp("browser"))


def large_page(root):
    """The page of 11 methods, 60 classes and photographs, as a run leaves it."""
    folder, photographs = root / "run", root / "photographs"
    photographs.mkdir()
    locations = [str(photographs / f"{number}.jpg") for number in range(TESTS)]
    for number in range(TESTS):
        photograph((40, 80, 190), number % 12, side=48).save(locations[number])
    labels, random = np.arange(TESTS) % CLASSES, np.random.default_rng(0)
    for number, (method, name) in enumerate(METHODS):
        made = predictions(labels, random.random(TESTS) > 0.7 + 0.02 * number, CLASSES, locations=locations)
        trains = method in ("finetune", "scratch")
        own = {"history": HISTORY} if trains or method == "head" else {"selection": SELECTION}
        if not trains:
            score = 0.7 + 0.02 * number
            cv = {"metric": "accuracy", "mean": score, "standard_error": 0.01, "folds": 5, "repeats": 1}
            own |= {"cv": cv, "out_of_fold": folded(made)}
        # numbers as long as those of an afternoon, the first method's the least, so that the best is marked in all columns
        costs = {"trainable_parameters": 12_672_802, "backbone_forwards": 110_455, "extraction_forwards": 112_624}
        own |= {**costs, "peak_memory_bytes": 12_370_000_000 + number * 10**9}
        own |= {"prediction_seconds_per_image": 0.1193 + number / 100, "seconds": 3554.9 + 110 * number}
        own["seconds_by_stage"] = {"extract": 128.2, "train": 3314.2 + 110 * number, "evaluate": 112.5}
        add(folder, made, method=method, name=name, val=0.7 + 0.02 * number, class_names=NAMES, **own)
        with (folder / "seed-0" / f"{method}-{name}" / HEAD).open("wb") as model:
            model.truncate(12_700_000 + number * 10**6)  # what a page says of its size
    configuration = {"data": str(photographs), "test": 0.25, "head": ["logistic", "ridge"], "epochs": 3}
    notes = ["split 75 / 25", *(f"not readable: {number}.png" for number in range(20))]
    versions = {"torch": "2.6", "cutonce": "0.2"}
    evidence = DrawnEvidence(locations[-3:], names=NAMES)
    with drawing(""):
        return write_report(folder, compare_runs([folder]), configuration, versions, notes, evidence)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser, page):
    """The page anew, on a window of a desk."""
    browser.media()
    browser.size(1280)
    browser.open(page)
    return browser


def test_nothing_goes_wrong_and_nothing_is_asked_for_but_the_file(tab, page):
    assert tab.run("document.querySelectorAll('button.sort').length") > 10  # the script ran
    assert tab.errors() == []
    outside = [address for address in tab.requests() if not address.startswith("data:")]
    assert outside == [page.as_uri()]


def test_the_page_is_light(page):
    assert page.stat().st_size <= 1_500_000


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off(tab, width):
    tab.size(width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(CUT_OFF) == []


SCROLLING = """[...document.querySelectorAll(".wide")].filter(region => !region.closest("details:not([open])")).map(region => {
  const hint = region.previousElementSibling, style = getComputedStyle(region);
  return {cut: region.scrollWidth > region.clientWidth + 2, fades: style.maskImage !== "none", tab: region.tabIndex,
          what: region.outerHTML.slice(0, 80), said: !hint.hidden && getComputedStyle(hint).visibility === "visible" && hint.textContent === "scroll →"};
})"""
SETTLED = (
    f"new Promise(done => {'requestAnimationFrame(() => ' * 3}done({SCROLLING}){')' * 3})"  # after new boxes are seen
)


def test_what_is_cut_on_a_phone_shows_that_it_scrolls_and_is_reached_by_keyboard(tab):
    tab.size(360)
    tab.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    regions = tab.run(SETTLED)
    assert len([region for region in regions if region["cut"]]) >= 4
    for region in regions:
        assert (region["fades"], region["said"], region["tab"] == 0) == (region["cut"],) * 3, region
    tab.run("document.querySelectorAll('.wide').forEach(region => { region.scrollLeft = 1e5; })")
    at_the_end = tab.run(SETTLED)
    assert not [region for region in at_the_end if region["fades"] or region["said"]]
    tab.size(1920)
    assert tab.run("document.querySelectorAll('.scrolls:not([hidden])').length") < 4


TEXT_SIZES = """[...document.querySelectorAll("figure .drawn-at svg")].filter(svg => svg.getClientRects().length).map(svg => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return Math.min(...[...svg.querySelectorAll("text")].map(text => scale * parseFloat(getComputedStyle(text).fontSize)));
})"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_text_of_graphs_is_large_enough(tab, width):
    tab.size(width)
    sizes = tab.run(TEXT_SIZES)
    assert len(sizes) > 10
    assert min(sizes) >= (11 if width == 360 else 10), sizes


def test_what_ranks_is_in_sight_on_a_desk(tab):
    box = "(() => { const b = document.querySelector('table.methods thead th:nth-child(2)').getBoundingClientRect();"
    left, right, words = tab.run(
        f"{box} return [b.left, b.right, document.querySelectorAll('table.methods thead th')[1].textContent]; }})()"
    )
    assert words.startswith("out of folds")
    assert 0 <= left < right <= 1280


def test_no_table_of_methods_is_scrolled_on_a_desk(tab):
    tab.size(1280)
    boxes = "[...document.querySelectorAll('table.methods')].map(t => t.parentElement)"
    widths = tab.run(f"{boxes}.map(box => [box.scrollWidth, box.clientWidth])")
    assert len(widths) == 2
    assert all(inner <= outer for inner, outer in widths), widths


ORDER = "[...document.querySelector('table.methods tbody').rows].map(row => row.cells[0].textContent.trim())"


def _click(tab, selector, number=0):
    """Click into the middle of an element as a mouse does."""
    x, y = tab.run(
        f"(() => {{ const e = document.querySelectorAll('{selector}')[{number}]; e.scrollIntoView({{block: 'center', "
        "inline: 'center'}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def _sorted_by(tab):
    return tab.run(
        "[...document.querySelectorAll('table.methods')[0].querySelectorAll('[aria-sort]')]"
        ".map(head => [head.cellIndex, head.getAttribute('aria-sort')])"
    )


def test_tables_are_sorted_by_a_click_and_say_so(tab):
    ranked = tab.run(ORDER)
    assert len(ranked) == len(METHODS)
    _click(tab, "table.methods button.sort", 0)
    by_name = tab.run(ORDER)
    assert by_name == sorted(by_name, key=str.lower) != ranked
    assert _sorted_by(tab) == [[0, "ascending"]]
    _click(tab, "table.methods button.sort", 0)
    assert tab.run(ORDER) == by_name[::-1]
    assert _sorted_by(tab) == [[0, "descending"]]
    tab.run("document.querySelectorAll('table.methods button.sort')[3].focus()")
    tab.press("Enter")  # the test score, best first
    assert _sorted_by(tab) == [[3, "descending"]]
    scores = tab.run(
        "[...document.querySelector('table.methods tbody').rows].map(row => parseFloat(row.cells[3].textContent))"
    )
    assert scores == sorted(scores, reverse=True)


OPEN = "document.querySelector('dialog').open"


def test_pictures_enlarge_by_mouse_and_by_keyboard(tab):
    assert not tab.run(OPEN)
    _click(tab, "button.enlarge")
    assert tab.run(OPEN)
    assert tab.run("document.querySelector('dialog img').getBoundingClientRect().width") > 400
    first = tab.run("document.querySelector('dialog .shown').textContent")
    _click(tab, "dialog .close")
    assert not tab.run(OPEN)
    tab.run("document.querySelector('button.enlarge').focus()")
    tab.press("Enter")
    assert tab.run(OPEN)
    tab.press("ArrowRight")
    assert tab.run("document.querySelector('dialog .shown').textContent") != first
    tab.press("ArrowLeft")
    assert tab.run("document.querySelector('dialog .shown').textContent") == first
    tab.press("Escape")
    assert not tab.run(OPEN)
    assert tab.run("document.activeElement.className") == "enlarge"  # and the focus is where it was


def test_an_enlarged_mistake_shows_its_heat_and_its_nearest_training_images(tab):
    tab.run("document.querySelector('#mistakes').parentElement.querySelector('button.enlarge').focus()")
    tab.press("Enter")
    boxes = tab.run(
        "[...document.querySelectorAll('dialog .why img')].map(image => { const b = image.getBoundingClientRect();"
        "return [Math.round(b.width), Math.round(b.height), image.alt]; })"
    )
    assert len(boxes) == 2 + 3
    assert all(min(width, height) > 50 for width, height, _ in boxes)
    assert boxes[0][:2] == boxes[1][:2]  # what speaks for the class lies over all of what the network sees
    tab.press("Escape")


def test_a_class_that_is_pressed_stands_out_among_the_points(tab):
    dim = (
        "[...document.querySelectorAll('.plane use')].filter(use => getComputedStyle(use).opacity < 0.5)"
        ".map(use => use.dataset.k)"
    )
    points = tab.run("document.querySelectorAll('.plane use').length")
    assert points == TESTS
    assert tab.run(dim) == []
    _click(tab, ".key button", 7)
    faint = tab.run(dim)
    assert len(faint) == TESTS - TESTS // CLASSES
    assert "7" not in faint
    _click(tab, ".key button", 7)
    assert tab.run(dim) == []


def test_commands_are_copied(tab):
    tab.run("navigator.clipboard.writeText = async text => { window.copied = text; }; 0")
    _click(tab, "pre.command button.copy")
    assert tab.run("window.copied") == tab.run("document.querySelector('pre.command code').textContent")
    assert tab.run("document.querySelector('button.copy').textContent") == "Copied"
    assert tab.run("window.copied").startswith("cutonce predict")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(tab, scheme):
    tab.media(scheme=scheme)
    contrasts = tab.run(CONTRASTS)
    assert contrasts["texts"] > 1000
    assert contrasts["low"] == []
    grounds = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (grounds == "rgb(255, 255, 255)") == (scheme == "light")


def test_it_prints_to_ten_pages(tab):
    assert tab.run("[...document.images].every(image => image.complete && image.naturalWidth)")  # else they print grey
    printed = tab.pdf()
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", printed)) <= 9
