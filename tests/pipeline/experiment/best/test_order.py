"""From cheap to dear, by what heads say of themselves; no clock is asked."""

from dataclasses import replace
from itertools import islice

import pytest

from pipeline.experiment.best.look import Look, SearchedData
from pipeline.experiment.best.order import all_trials
from pipeline.experiment.best.search import Search
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.fitting.halving import DepthSetting
from tests.pipeline.experiment.best.conftest import HEADS

RANKED = [DepthSetting("all", "sqrt"), DepthSetting("blocks", "sqrt"), DepthSetting("last", "dim")]


@pytest.fixture
def new_search(search_photographs, tmp_path):
    def new_search(head, **features):
        options = replace(search_photographs.features, taps="all", pool="avg,max,std", **features)
        manifest = load_manifest(search_photographs.data)
        about = SearchedData(search_photographs.data, manifest, 0, tmp_path / "seed-0", head)
        search = Search(tmp_path, about, Look("", options, about))
        search.rankings["", "ridge"] = RANKED
        return search

    return new_search


def test_ridge_ranks_depths_then_each_head_by_its_cost_then_the_dear_ones_again(new_search):
    names = [trial.name for trial in islice(all_trials(new_search(HeadConfig())), 13)]
    assert names == [
        *("ridge", "ncm", "knn", "kernel_ridge", "svm", "sgd", "logistic", "rbf"),
        *("kernel_ridge-2", "svm-2", "sgd-2", "logistic-2", "rbf-2"),
    ]


def test_heads_that_were_named_are_all_there_is_beside_the_one_that_ranks_depths(new_search):
    names = [trial.name for trial in all_trials(new_search(HeadConfig(head=("mlp", "logistic"))))]
    assert names == ["ridge", "logistic", "logistic-2", "mlp"]  # and no other look as long as nothing has a result


def test_rows_of_one_cut_have_no_depths(new_search):
    search = new_search(HEADS)
    search.main.options = replace(search.main.options, taps="", pool="avg")
    search.rankings.clear()
    assert [trial.name for trial in all_trials(search)] == ["ridge", "knn", "logistic"]
