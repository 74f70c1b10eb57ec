"""A search on the photographs at a size that is quick, shared by those that read what it left."""

from dataclasses import replace

import pytest

from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import read_trials
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.look import Look, SearchedData
from pipeline.experiment.best.run_best import BestOptions, run_best
from pipeline.experiment.best.search import Search
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from tests.each_counts import let_each_count

HEADS = HeadConfig(
    head=("ridge", "knn", "logistic"), c_values=(1e-3, 1e-1), cv=3, n_neighbors=(1, 5), depths=("last", "all")
)

FIRST = ("logistic-last", "logistic-all", "knn", "logistic-weights", "ridge")
"""The first trials with these."""


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Searcher:
    """Searches on the photographs, with features that are extracted once."""

    def __init__(self, photographs, cache):
        self.data = DataConfig(str(photographs))
        self.features = FeatureConfig(image_size=32, cache=cache)

    def __call__(self, out, trials=None, *, head=HEADS, budget=None, **options):
        features = replace(self.features, **options.pop("features", {}))
        budget = budget if budget is not None else Budget(**({} if trials is None else {"trials": trials}))
        return run_best(self.data, features, head, BestOptions(budget, **options), out)


def search_in(run, searcher):
    """Return the search that left a run, with what it found."""
    options = replace(searcher.features, taps="all", pool="avg,max,std")
    about = SearchedData(searcher.data, load_manifest(searcher.data), 0, run / "seed-0", HEADS)
    search = Search.of(run, about, Look("", options, about))
    for record in read_trials(run):
        if record.folder is not None:
            search.results[record.name] = Result.load(run / "seed-0" / record.folder)
    return search


@pytest.fixture(autouse=True)
def divided_once(monkeypatch):
    """Few rows are divided into folds several times, which says nothing of searches."""
    monkeypatch.setattr("stages.fitting.folds.REPEATED_BELOW", 0)


@pytest.fixture(autouse=True)
def each_counts(monkeypatch):
    let_each_count(monkeypatch)


@pytest.fixture(scope="session")
def search_photographs(photographs, tmp_path_factory):
    return Searcher(photographs, tmp_path_factory.mktemp("best") / "cache")


@pytest.fixture(scope="session")
def searched(search_photographs, tmp_path_factory):
    """A run of five trials."""
    out = tmp_path_factory.mktemp("searched") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stages.fitting.folds.REPEATED_BELOW", 0)
        let_each_count(patched)
        search_photographs(out, len(FIRST))
    return out
