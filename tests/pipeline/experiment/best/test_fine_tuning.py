"""Fine-tuning is tried where a learning curve says that it could win, and nowhere else."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cache.errors import UsageError
from pipeline.evaluation.trials import read_trials
from pipeline.experiment.best import fine_tuning
from pipeline.experiment.best.answer import combine
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.fine_tuning import Evidence, FinetuneTrial, fine_tunings, weigh_evidence
from pipeline.experiment.best.look import Look
from pipeline.experiment.best.search import _run
from pipeline.experiment.methods import finetune_methods
from stages.config.finetune import FinetuneConfig
from stages.inspection.extrapolation import Interval
from tests.pipeline.experiment.best.conftest import FIRST, search_in
from tests.pipeline.experiment.best.test_other_looks import search  # noqa: F401 (a fixture)

QUICK = FinetuneConfig(unfreeze="1", epochs=1, init_head="ridge", num_workers=0)


@pytest.fixture(scope="module")
def tuned(search_photographs, searched, tmp_path_factory):
    """A search in whose run one block was then fine-tuned."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(searched, run)
    begun = search_in(run, search_photographs)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stages.fitting.folds.REPEATED_BELOW", 0)
        patched.setattr(FinetuneTrial, "config", QUICK)
        begun.evidence = Evidence(True, "yes")
        (trial,) = fine_tunings(begun)
        assert trial.find(begun) is None
        _run(begun, Budget(trials=len(FIRST) + 1), len(FIRST) + 1, trial)
    return begun


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


def test_it_is_left_in_the_run_and_found_there_by_the_very_same_training_alone(tuned, search_photographs, monkeypatch):
    record = read_trials(tuned.run)[-1]
    assert (record.name, record.folder, record.state) == ("top-1", "finetune-top-1", "finished")
    assert (record.scored, record.details["evidence"]) == ("validation", "yes")
    result = tuned.results["top-1"]
    assert record.score == tuned.score_of(result) == result.val["accuracy"]
    assert (result.method, result.options["init_head"]) == ("finetune", "ridge")
    assert (tuned.about.directory / "finetune-top-1" / "top.safetensors").exists()
    monkeypatch.setattr(FinetuneTrial, "config", QUICK)
    monkeypatch.setattr(finetune_methods, "finetune", None)  # nothing is trained again
    again = search_in(tuned.run, search_photographs)
    again.evidence = Evidence(True, "yes")
    (trial,) = fine_tunings(again)
    assert trial.find(again).test == result.test
    monkeypatch.setattr(FinetuneTrial, "config", replace(QUICK, epochs=2))
    with pytest.raises(UsageError, match="`epochs` 1, and this command says 2"):
        trial.find(again)


def test_it_is_averaged_with_the_heads_by_what_they_say_of_validation(tuned):
    mixed = next(result for result in combine(tuned) if result.method == "mixture")
    folded = {record.folder for record in tuned.finished if record.scored == "folds"}
    assert len(folded) == len(FIRST)
    assert set(mixed.settings["chosen from"].split(", ")) == {*folded, "finetune-top-1"}
    assert (mixed.cv, mixed.settings["weights by"]) == (None, "loss on validation of what saw train alone")
    members = json.loads((tuned.about.directory / "mixture-greedy" / "members.json").read_text())
    assert sum(member["weight"] for member in members) == pytest.approx(1)
    tuned.about = replace(tuned.about, head=replace(tuned.about.head, ensemble="none"))
    assert combine(tuned) == []
