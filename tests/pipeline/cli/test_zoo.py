"""``zoo``: the table, the files, and networks compared on images."""

import csv
import json

import pytest

from pipeline.cli.app import main
from pipeline.experiment.probes import networks
from stages.network.backbones.counts import Counts


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *arguments):
    code = main(["zoo", *map(str, arguments)])
    captured = capsys.readouterr()
    return code or 0, captured.out, captured.err


def cells(out):
    """The rows of the table, by their first cells."""
    lines = [line for line in out.splitlines() if not line.startswith("-")]
    return {line.split()[0]: line.split() for line in lines if line and not line.startswith("backbone")}


def test_the_table_begins_with_the_best_and_says_how_much_is_left_out(capsys):
    code, out, _ = call(capsys, "--rows", 3)
    assert code == 0
    assert "3 of 2," in out
    assert "accuracies of timm's networks: --update fetches them" in out
    first = next(line for line in out.splitlines() if "%" in line)
    assert first.split()[:4] == ["vit_h_14", "download", "facebookresearch/SWAG", "88.6"]


def test_a_table_of_timms_is_fetched_shown_and_written_with_what_was_counted(capsys, home, monkeypatch):
    asked = []
    monkeypatch.setattr(networks, "count_network", lambda name: asked.append(name) or Counts(1_000_000, 2_000_000))
    monkeypatch.setattr(networks, "known_counts", dict)
    (home / "results.csv").write_text("model,top1,img_size\ntest_resnet.r160_in1k,41.6,192\n")
    files = ["--csv", "out/zoo.csv", "--json", "out/zoo.json"]
    code, out, _ = call(capsys, "--update", "--results", "results.csv", "--search", "R160 test", "--rows", 2, *files)
    assert code == 0
    assert "1 results of timm's networks from results.csv, 20" in out
    row = cells(out)["timm:test_resnet.r160_in1k"]
    assert row == [
        "timm:test_resnet.r160_in1k",
        "download",
        "apache-2.0",
        "41.6",
        "%",
        "at",
        "192",
        *["1", "M", "2", "M", "160"],
    ]
    assert asked[0] == row[0]
    assert len(asked) == 2
    with (home / "out" / "zoo.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert written[0] | {"accuracy": 0.416, "parameters": "1000000", "license": "apache-2.0"} == {
        **written[0],
        "accuracy": 0.416,
    }
    assert written[1]["accuracy"] == written[2]["parameters"] == ""  # not published, and not shown so not counted
    records = json.loads((home / "out" / "zoo.json").read_text())
    assert [record["name"] for record in records] == [line["name"] for line in written]
    assert records[1]["accuracy"] is None
    call(capsys, "--search", "R160 test", "--rows", 2)  # and what was counted is remembered in the user's cache
    assert list((home / ".cache" / "cutonce").glob("counts-*.csv"))


def test_the_first_networks_are_measured_and_those_that_cannot_be_say_why(capsys):
    code, out, _ = call(capsys, "--search", "test_resnet.r160", "--measure", 5)
    assert code == 0
    assert float(cells(out)["timm:test_resnet.r160_in1k"][-1].replace(",", "")) > 1
    _, out, _ = call(capsys, "--search", "test_vit.r160", "--measure", 1, "--image-size", 161)
    assert "not measured: timm:test_vit.r160_in1k: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suggest"], "--suggest compares networks on the images of --data"),
        (["--data", "digits"], "--suggest compares networks on the images of --data"),
        (["--backbone", "resnet18"], "--backbone names the candidates of --suggest"),
        (["--results", "file.csv"], "give --update too"),
        (["--measure", "-1"], "must be at least 0"),
        (["--update", "--results", "missing.csv"], "elsewhere and give the file: --results FILE"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, arguments, message):
    code, _, err = call(capsys, *arguments)
    assert code != 0
    assert message in err


def test_candidates_are_compared_on_images_and_a_command_goes_on(capsys, photographs, home):
    names = ["efficientnet_lite0", "resnet99"]
    given = ["--data", photographs, "--image-size", 32, "--crop-mode", "squash", "--json", "found.json"]
    code, out, _ = call(capsys, "--suggest", *given, "--backbone", *names, "--sample-size", 40)
    assert code == 0
    assert "candidates: efficientnet_lite0, resnet99" in out
    assert "not looked at: resnet99: There is no backbone" in out
    assert "on 40 images of train and validation, cross-validated; the test split had no part in it" in out
    assert "There is one candidate, efficientnet_lite0" in out
    command = out.splitlines()[-1].strip()
    assert command.startswith("cutonce run --data ")
    assert "--crop-mode squash --backbone efficientnet_lite0 --out runs/suggested" in command
    [record] = json.loads((home / "found.json").read_text())
    assert (record["name"], record["recommended"], record["tied"]) == ("efficientnet_lite0", True, True)
