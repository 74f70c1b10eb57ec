"""What the flags of ``evaluate`` become; what it does is tested with the experiment."""

from pathlib import Path

import pytest

from pipeline.experiment import evaluate_run
from stages.config.data import DataConfig
from tests.pipeline.cli.test_commands import call


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for."""
    asked = []
    monkeypatch.setattr(evaluate_run, "evaluate_run", lambda *arguments: asked.append(arguments))
    return asked


def test_what_is_not_given_is_as_in_the_run_and_the_place_is_in_it(asked, capsys):
    code, _, err = call(capsys, "evaluate", "runs/a", "--data", "scans/other hospital.csv")
    assert (code, err) == (0, "")
    ((run, data, given, options, out),) = asked
    assert (run, data, given) == (Path("runs/a"), "scans/other hospital.csv", {})
    assert (options.seen, options.unknown, options.method, options.cache) == ("refuse", "refuse", None, None)
    assert out == Path("runs/a/evaluations/other-hospital")


def test_flags_reach_it_and_a_column_of_groups_takes_the_place_of_the_runs_rule(asked, capsys):
    flags = ["--group-column", "patient", "--target", "price", "area", "--seen", "leave-out", "--name", "north"]
    code, _, err = call(capsys, "evaluate", "runs/a", "--data", "new", *flags)
    assert (code, err) == (0, "")
    ((_, _, given, options, out),) = asked
    assert given == {"target": ("price", "area"), "group_by": "auto", "group_column": "patient"}
    assert options.seen == "leave-out"
    assert out == Path("runs/a/evaluations/north")


def test_what_columns_and_folders_are_is_taken_as_messages_about_the_data_advise(asked, capsys):
    flags = ["--images", "front", "back", "--folders", "dev=test,holdout=none", "--ignore-label", "sky"]
    assert call(capsys, "evaluate", "runs/a", "--data", "new", *flags)[0] == 0
    ((_, data, given, _, _),) = asked
    options = DataConfig(data, **given)
    assert (options.images, options.folders) == (("front", "back"), ("dev=test", "holdout=none"))
    assert options.ignore_label == ("sky",)


def test_two_places_and_unknown_words_are_refused(asked, capsys):
    code, _, err = call(capsys, "evaluate", "runs/a", "--data", "new", "--name", "x", "--out", "y")
    assert (code, "--name calls a folder in the run" in err) == (2, True)
    assert call(capsys, "evaluate", "runs/a", "--data", "new", "--seen", "maybe")[0] == 2
    assert not asked
