"""What is printed and written of networks: the numbers themselves, what is not known, and how sure an order is."""

import csv
import json
import math
from dataclasses import replace

import pytest

from pipeline.report.networks import SuggestionReport, catalog_records, catalog_table, write_records
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.inspection.backbone_ranking import CandidateCost, RankedBackbone, Suggestion
from stages.network.backbones.catalog import CatalogEntry
from stages.tasks.base import Metric, find_metric
from stages.tasks.single_label import SingleLabel
from stages.tasks.statistics import Difference

ENTRIES = [
    CatalogEntry("a", 224, "here", "mit", 0.8123, 288, 11_689_512, 1_814_000_000, "key"),
    CatalogEntry("b", license="https://github.com/owner/name/blob/main/LICENSE"),
]


def test_a_table_shows_what_is_known_and_a_dash_for_the_rest():
    lines = catalog_table(ENTRIES, {}).splitlines()
    assert lines[2].split() == ["a", "here", "mit", *("81.2", "%", "at", "288"), *("11.7", "M", "1.81", "G"), "224"]
    assert lines[3].split() == ["b", "-", "owner/name", "-", "-", "-", "-"]
    measured = catalog_table(ENTRIES, {"a": 1234.5}).splitlines()
    assert measured[2].endswith("1,234")
    assert measured[3].endswith("-")


def test_files_hold_plain_numbers_and_nothing_where_nothing_is_known(tmp_path):
    records = catalog_records(ENTRIES, {"a": 12.5})
    write_records(records, tmp_path / "new" / "zoo.csv", tmp_path / "new" / "zoo.json")
    assert json.loads((tmp_path / "new" / "zoo.json").read_text()) == records
    with (tmp_path / "new" / "zoo.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["accuracy"], first["parameters"], first["images_per_second"]) == ("0.8123", "11689512", "12.5")
    assert {second[name] for name in second if name not in ("name", "license")} == {""}
    assert "counted_as" not in first


def suggestion(metric: Metric, *behind: tuple[float, float, float], **changed) -> Suggestion:
    ranked = [
        RankedBackbone(name, 0.9 + difference[0], 0.012, Difference(*difference))
        for name, difference in zip("xyz", ((0.0, 0.0, 0.0), *behind), strict=False)
    ]
    costs = {name: CandidateCost(64, rate, -0.5) for name, rate in zip("xyz", (10.0, 40.0, 90.0), strict=True)}
    return replace(Suggestion(ranked, costs, [], {}, 300, 3600, metric), **changed)


def report_of(found):
    return SuggestionReport(found, DataConfig("photos"), FeatureConfig(crop_mode="squash"))


ACCURACY = find_metric(SingleLabel("ab"))


def test_ties_are_told_and_the_quickest_of_them_is_taken():
    report = report_of(suggestion(ACCURACY, (-0.02, -0.05, 0.01), (-0.1, -0.14, -0.06)))
    rows = [line.split("  ") for line in report.table.splitlines()[2:]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0] == ["x", "90.0 % ± 1.2", "best", "-0.500", "64", "10", "6 min 0 s"]
    assert cells[1] == ["y", "(take this)", "88.0 % ± 1.2", "-2.0 (-5.0 to +1.0), tied", "-0.500", "64", "40", "90 s"]
    assert cells[2][2] == "-10.0 (-14.0 to -6.0)"
    assert "do not tell y from it" in " ".join(report.verdict)
    assert "take y, the quickest" in " ".join(report.verdict)
    assert "--crop-mode squash --backbone y --out" in report.lines[-1]
    assert [record["tied"] for record in report.records] == [True, True, False]
    assert [record["recommended"] for record in report.records] == [False, True, False]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (suggestion(ACCURACY, (-0.1, -0.14, -0.06)), "Take x: each of the others is behind it by more than chance"),
        (suggestion(ACCURACY), "There is one candidate, x"),
        (suggestion(ACCURACY, failed={"w": "no weights"}), "not looked at: w: no weights"),
    ],
)
def test_what_follows_is_said(found, words):
    assert words in " ".join(report_of(found).verdict)


def test_a_metric_that_is_no_share_is_a_number_and_what_the_sieve_took_out_is_listed():
    r2 = Metric("r2", "R2", lambda statistics: 0.0)
    found = suggestion(r2, (-0.1, -0.2, 0.0), sieved_out=["z"])
    report = report_of(found)
    assert "0.900 ± 0.012" in report.table
    assert "-0.100 (-0.200 to +0.000), tied" in report.table
    assert report.table.splitlines()[-1].split()[:4] == ["z", "left", "out", "by"]
    assert report.records[2] | {"name": "z", "r2": None, "tied": None} == report.records[2]
    unknown = {**found.costs, "x": CandidateCost(64, math.nan, 0.0)}
    assert report_of(replace(found, costs=unknown)).records[0]["images_per_second"] is None
