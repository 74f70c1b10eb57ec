"""The page of a range test says which rate to take, and how; or that there is none."""

import numpy as np

from pipeline.report.lr_find import LRFinderReport, write_lr_finder
from stages.training.lr_finder import LRFinderResult
from tests.pipeline.report.pages import Page


def finder_result(suggestion, block=None):
    rates = np.geomspace(1e-7, 1.0, 40)
    losses = np.where(rates < 1e-2, 1 / (1 + 300 * rates), 30 * rates)
    return LRFinderResult(rates, losses, losses, suggestion, block)


def page_of(folder, tests, suggestions, command):
    report = LRFinderReport(tests, suggestions, "<b>photos", "resnet18, 3 unfrozen", command, ["split made here"])
    return report, Page(write_lr_finder(report, folder))


def test_a_rate_that_is_found_is_the_heading_and_a_command(tmp_path):
    command = "cutonce finetune --data photos --lr 1.3e-03"
    report, page = page_of(tmp_path, [finder_result(1.3e-3)], ["`lr` 1.3e-03"], command)
    assert report.headline == "Fine-tune with a learning rate of 1.3e\N{NON-BREAKING HYPHEN}03."
    assert report.headline in page.words
    assert command in page.words
    assert "--lr 1.3e-03" in page.words
    assert "<b>photos" in page.words
    assert page.foreign_scripts == []
    assert report.rows == [("all that trains", "1.3e-03", f"{report.tests[0].rates[report.tests[0].lowest]:.1e}", 40)]


def test_each_block_has_a_row_and_what_finds_none_says_so(tmp_path):
    tests = [finder_result(2e-3, "head"), finder_result(None, "layer4")]
    report, page = page_of(tmp_path, tests, ["head: `head_lr` 2.0e-03", "layer4: none"], "cutonce finetune")
    assert report.headline == "A learning rate is suggested for 1 of 2 blocks."
    assert [row[:2] for row in report.rows] == [("head", "2.0e-03"), ("layer4", "none")]
    assert "head: --head-lr 2.0e-03" in page.words
    without, page = page_of(tmp_path, [finder_result(None)], ["the loss never falls by more than chance"], "")
    assert without.headline.startswith("No learning rate is suggested")
    assert page.words.count("by more than chance") == 1
    assert "What next" not in page.words
    assert "The ring is" not in page.words
