import json
import shutil
from dataclasses import replace

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import read_search
from pipeline.experiment.best import answer
from pipeline.experiment.best.budget import Budget
from tests.pipeline.experiment.best.conftest import Clock


def results_of(run):
    return json.loads((run / "results.json").read_text())


def test_the_answer_is_written_after_each_trial(search_photographs, tmp_path, monkeypatch):
    seen = []
    renew = answer.renew

    def seeing(search, *rest):
        renew(search, *rest)
        found = results_of(tmp_path / "run")
        seen.append((len(search.results), found["chosen"]["folder"], read_search(tmp_path / "run").trials))

    monkeypatch.setattr("pipeline.experiment.best.run_best.renew", seeing)
    search_photographs(tmp_path / "run", 2)
    assert [(count, trials) for count, _, trials in seen] == [(1, 1), (2, 2)]
    assert seen[0][1] == "linear-logistic-last"
    assert (tmp_path / "run" / "seed-0" / "ensemble-greedy" / "model.json").exists()


def test_the_choice_reads_no_test_image(searched, monkeypatch):
    chosen = compare_runs([searched]).choice.chosen
    worst = {"accuracy": 0.0}
    score = Result.score
    monkeypatch.setattr(
        Result, "score", lambda self, name: worst.get(name, 0.0) if self.name == chosen.name else score(self, name)
    )
    assert compare_runs([searched]).choice.chosen.name == chosen.name


def test_methods_above_the_cost_that_is_allowed_are_not_taken(search_photographs, searched, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(searched, run)
    rows = compare_runs([run]).rows
    costs = {row.label: row.prediction_seconds for row in rows}
    limit = sorted(costs.values())[1] * 1000
    replace(read_search(run), max_predict_ms=limit).save(run)
    choice = compare_runs([run]).choice
    assert costs[choice.chosen.label] * 1000 <= limit
    assert "ms that an image may cost to predict, and so not taken" in " ".join(choice.words)
    assert {row.label for row in choice.ranked} == {*costs}
    replace(read_search(run), max_predict_ms=min(costs.values()) * 500).save(run)
    choice = compare_runs([run]).choice
    assert choice.chosen.label == min(costs, key=costs.get)
    assert "no method predicts an image within" in " ".join(choice.words)


def test_where_a_search_trained_all_the_time_that_took_is_no_reason(searched):
    choice = compare_runs([searched]).choice
    assert "or to train" not in " ".join(choice.words)
    assert choice.chosen.cv.mean == max(row.cv.mean for row in choice.ranked)


def test_an_ensemble_that_takes_long_is_made_up_for_at_the_end(search_photographs, tmp_path, monkeypatch):
    clock, made, combine = Clock(), [], answer.combine

    def slow(search):
        made.append(len(search.results))
        clock.now += 100
        return combine(search)

    monkeypatch.setattr(answer, "combine", slow)
    search_photographs(tmp_path / "run", budget=Budget(trials=3, clock=clock))
    assert made == [1, 3]
    members = Result.load(tmp_path / "run" / "seed-0" / "ensemble-greedy").settings["chosen from"]
    assert members == "kNN, logistic (all), logistic (last)"
