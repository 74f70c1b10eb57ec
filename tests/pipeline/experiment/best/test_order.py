"""From cheap to dear, by what heads say of themselves; no clock is asked."""

from dataclasses import replace

import pytest

from pipeline.experiment.best.look import Look, SearchedData
from pipeline.experiment.best.order import all_trials, choosing_head
from pipeline.experiment.best.search import Search
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from tests.pipeline.experiment.best.conftest import HEADS

KERNEL_RIDGE = ("kernel_ridge", "kernel_ridge-2", "kernel_ridge-3")


@pytest.fixture
def new_search(search_photographs, tmp_path):
    def new_search(head, **features):
        options = replace(search_photographs.features, taps="all", pool="avg,max,std", **features)
        manifest = load_manifest(search_photographs.data)
        about = SearchedData(search_photographs.data, manifest, 0, tmp_path / "seed-0", head)
        return Search(tmp_path, about, Look("", options, about))

    return new_search


def test_the_first_rung_then_heads_by_cost_and_by_how_far_down_their_depths_are_ranked(new_search):
    names = [trial.name for trial in all_trials(new_search(HeadConfig()))]
    assert names == [
        *("logistic-last", "logistic-stages", "logistic-blocks", "logistic-all"),
        *("ncm", "knn", "svm", "logistic-weights", "rbf", "ridge", "svm-2", "svm-3", "rbf-2"),
        "mlp",  # and no other look as long as nothing has a result
        *("sgd", "ridge-2", "rbf-3", "ridge-3", "sgd-2", "kernel_ridge", "sgd-3", "kernel_ridge-2", "kernel_ridge-3"),
    ]


def test_what_takes_longest_of_few_images_comes_last(new_search, monkeypatch):
    search = new_search(HeadConfig(head=("mlp", "kernel_ridge")))
    assert [trial.name for trial in all_trials(search)][-4:] == ["mlp", *KERNEL_RIDGE]
    monkeypatch.setattr("stages.fitting.folds.REPEATED_BELOW", 300)
    assert [trial.name for trial in all_trials(search)][-4:] == [*KERNEL_RIDGE, "mlp"]


def test_what_was_named_is_all_there_is_beside_the_head_that_ranks_depths(new_search):
    names = [trial.name for trial in all_trials(new_search(HeadConfig(head=("mlp", "svm"), depths=("last", "all"))))]
    assert names == ["logistic-last", "logistic-all", "svm", "logistic-weights", "svm-2", "mlp"]
    asked = HeadConfig(head=("mlp",), depths=("last",))  # whose blocks are of one width: no weighting changes anything
    assert [trial.name for trial in all_trials(new_search(asked))] == ["logistic-last", "mlp"]
    asked = HeadConfig(head=("mlp",), depths=("all",), block_weight=("equal",))
    assert [trial.name for trial in all_trials(new_search(asked))] == ["logistic-all", "mlp"]


def test_rows_of_one_cut_have_no_depths(new_search):
    search = new_search(HEADS)
    search.main.options = replace(search.main.options, taps="", pool="avg")
    assert [trial.name for trial in all_trials(search)] == ["logistic", "knn", "ridge"]
    search = new_search(HeadConfig(head=("rbf", "ridge")))
    search.main.options = replace(search.main.options, taps="", pool="avg")
    assert [trial.name for trial in all_trials(search)] == ["rbf", "ridge"]


@pytest.mark.parametrize(("task", "head"), [("single_label", "logistic"), ("regression", "ridge")])
def test_the_head_that_ranks_depths_is_the_first_of_the_task(task, head):
    assert choosing_head(task, ()) == head
