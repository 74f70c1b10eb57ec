"""Fine-tuning is tried where a learning curve says that it could win, and nowhere else."""

from types import SimpleNamespace

import pytest

from pipeline.experiment.best import fine_tuning
from pipeline.experiment.best.fine_tuning import Evidence, FinetuneTrial, fine_tunings, weigh_evidence
from pipeline.experiment.best.look import Look
from stages.inspection.extrapolation import Interval
from tests.pipeline.experiment.best.test_other_looks import search  # noqa: F401 (a fixture)


def curve_says(monkeypatch, gain, *, holds=True):
    found = SimpleNamespace(holds=holds, gains={2: Interval(gain, gain - 0.01, gain + 0.01)})
    monkeypatch.setattr(fine_tuning, "measure_curve", lambda *_: "curve")
    monkeypatch.setattr(fine_tuning, "extrapolate", lambda curve, seed: found)


@pytest.mark.parametrize(
    ("gain", "holds", "best", "could_win", "words"),
    [
        (
            0.03,
            True,
            0.8,
            False,
            "twice as many images would bring logistic +3.0 points: it is images that are missing",
        ),
        (0.002, True, 0.8, True, "has to come from the features"),
        (0.002, True, 0.999, False, "within chance"),
        (0.002, False, 0.8, False, "does not say whether it could win"),
    ],
)
def test_the_rule(search, monkeypatch, gain, holds, best, could_win, words):  # noqa: F811
    curve_says(monkeypatch, gain, holds=holds)
    monkeypatch.setattr(type(search), "best_score", best)
    monkeypatch.setattr(type(search), "best_error", 0.01)
    evidence = weigh_evidence(search)
    assert evidence.could_win == could_win
    assert words in evidence.words


def test_a_real_curve_is_measured_on_the_depths_that_ridge_takes(search):  # noqa: F811
    evidence = weigh_evidence(search)
    assert isinstance(evidence, Evidence)
    said = ("twice as many images", "does not say whether", "within chance")
    assert any(words in evidence.words for words in said)


def test_nothing_is_weighed_where_there_is_no_time_for_it(search, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fine_tuning, "weigh_evidence", None)
    search.would_run = lambda trial: False
    assert [trial.name for trial in fine_tunings(search)] == ["top-3"]
    search.evidence = Evidence(False, "no")
    assert list(fine_tunings(search)) == []


def test_its_time_is_told_from_what_a_pass_took_and_it_starts_from_a_cut(search, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Look, "seconds_an_image", 0.1)
    search.evidence = Evidence(True, "yes")
    (trial,) = fine_tunings(search)
    assert isinstance(trial, FinetuneTrial)
    assert (trial.look.options.taps, trial.look.options.cut, trial.folder) == ("", "auto", "finetune-top-3")
    manifest = search.about.manifest
    images = len(manifest.indices("train")) + len(manifest.indices("val"))
    a_pass = trial.look.missing * 0.1
    assert trial.seconds(search) == pytest.approx(a_pass + 6 * images * 2 * 0.1)
    assert trial.details(search) == {"evidence": "yes"}
