"""Searches on the cores of the host: side by side as far as there is room, and narrowed as they go."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.heads.fit_rbf_svm import KERNEL_UP_TO, RBFSVMFactory
from stages.fitting.solvers import grid as grid_module
from stages.fitting.solvers import host_search
from stages.fitting.solvers.grid import Grid
from stages.fitting.solvers.linear_models import LinearModelFactory
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes, skewed
from tests.stages.fitting.solvers.searched import VALUES, searched


def test_a_search_that_is_narrowed_on_a_part_finds_what_the_whole_search_finds(monkeypatch):
    rows, labels = skewed(count=4000, width=30)
    whole, *_ = searched(rows, labels)
    monkeypatch.setattr(grid_module, "SUBSAMPLE_FROM", 1000)
    narrowed, *_ = searched(rows, labels)
    on_part = [candidate for candidate in narrowed.candidates if "rows" in candidate]
    assert on_part
    assert {candidate["rows"] for candidate in on_part} == {3000 // 8}
    assert narrowed.chosen["score"] >= whole.chosen["score"] - 0.002
    assert len(narrowed.states) < len(whole.states)


class Watched(LinearModelFactory):
    """Makes models as it does, and notes how many are made at once."""

    at_work, most, lock = 0, 0, threading.Lock()

    def __call__(self, *arguments):
        with Watched.lock:
            Watched.at_work += 1
            Watched.most = max(Watched.most, Watched.at_work)
        time.sleep(0.05)
        try:
            return super().__call__(*arguments)
        finally:
            with Watched.lock:
                Watched.at_work -= 1


@pytest.mark.parametrize(("copies", "most"), [(1.5, [1]), (3.5, [2, 3]), (100, range(4, 11))])
def test_no_more_folds_are_fitted_side_by_side_than_there_is_room_for_however_many_cores(monkeypatch, copies, most):
    rows, labels = skewed(count=400, width=30)
    config = HeadConfig(c_values=VALUES[:2], cv=5)
    parts = (FeatureRows(rows[part], labels[part]) for part in (slice(300), slice(300, None)))
    problem = fit_problem(*parts, classes=int(labels.max()) + 1, options=config)
    make = Watched("logistic", problem.task, np.zeros(30, np.float32))
    fits = host_search.HostFits(Grid(make, VALUES[:2], config.scalers, problem.task), rows, labels)
    largest = 4 * 30 * max(len(fitted) for fitted, _ in problem.cv.splits)
    monkeypatch.setattr(host_search, "usable_cores", lambda: 64)
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda: 64)
    monkeypatch.setattr(host_search, "FITTING_BYTES", 1)
    monkeypatch.setattr(host_search, "free_memory", lambda device: int(2 * copies * largest))
    for fit in (
        lambda: fits.search(problem.cv, seed=0),
        lambda: fits.out_of_fold([("none", VALUES[0])] * 5, problem.cv.splits),
    ):
        Watched.most = 0
        fit()
        assert Watched.most in most


def test_kernel_machines_are_fitted_side_by_side_as_far_as_there_is_room_for_their_kernels(monkeypatch):
    rows, labels = skewed(count=400, width=30)
    config = HeadConfig(c_values=VALUES[:1], scalers=("standard",), cv=5)
    parts = (FeatureRows(rows[part], labels[part]) for part in (slice(300), slice(300, None)))
    problem = fit_problem(*parts, classes=3, options=config)
    make = RBFSVMFactory(problem.task, np.zeros(30, np.float32), 0, 2000)
    assert make.bytes_beside_rows(KERNEL_UP_TO) == 12 * KERNEL_UP_TO**2
    assert make.bytes_beside_rows(20_000) > 2 * 4 * 2000 * 20_000  # what their map makes of them, twice
    assert replace(make, partly_known=True).bytes_beside_rows(100) == 20 * 100**2
    fits = host_search.HostFits(Grid(make, VALUES[:1], config.scalers, problem.task), rows, labels)
    together, at_a_time = [], host_search.fits_side_by_side
    monkeypatch.setattr(
        host_search, "fits_side_by_side", lambda *given: together.append(at_a_time(*given)) or at_a_time(*given)
    )
    monkeypatch.setattr(host_search, "usable_cores", lambda: 64)
    monkeypatch.setattr(host_search, "FITTING_BYTES", 1)
    for room, most in (((12 * 320 + 4 * 30) * 320, [1, 1, 1]), ((12 * 400 + 4 * 30) * 400 * 2, [3, 3, 2])):
        monkeypatch.setattr(host_search, "free_memory", lambda device, room=room: 2 * room)
        together.clear()
        fits.search(problem.cv, seed=0)
        fits.out_of_fold([("standard", VALUES[0])] * 5, problem.cv.splits)
        fits.fitted(("standard", VALUES[0]), [slice(300), slice(400)], None)
        assert together == most
    within = replace(fits, grid=replace(fits.grid, make=replace(make, room=2 * 12 * 320**2)))
    together.clear()
    within.search(problem.cv, seed=0)
    within.fitted(("standard", VALUES[0]), [slice(300), slice(400)], None)
    assert together[1::2] == [2, 1]  # as their room says, though more would be free


@pytest.mark.parametrize("start", range(len(VALUES)))
def test_wherever_a_climb_begins_it_ends_at_the_best_value_with_those_beside_it_known(start):
    rows, labels = skewed(count=1200, width=60)
    model = LinearModelFactory("logistic", numbered_classes(3), np.zeros(60, np.float32))(
        "standard", rows[:800], labels[:800]
    )
    grid = Grid(None, VALUES, (), numbered_classes(3))
    known = {value: score for value, score, _ in host_search._hill_climb(model, grid, start, rows[800:], labels[800:])}
    top = VALUES.index(max(known, key=lambda value: (known[value], -value)))
    assert {VALUES[top - 1], VALUES[top + 1]} <= set(known)
    whole, *_ = searched(rows, labels, train=800)
    assert known[VALUES[top]] == pytest.approx(whole.chosen["score"], abs=0.005)


def test_a_climb_gives_each_value_with_its_own_state():
    rows, labels = skewed(count=900, width=30)
    model = LinearModelFactory("logistic", numbered_classes(3), np.zeros(30, np.float32))(
        "standard", rows[:600], labels[:600]
    )
    grid = Grid(None, VALUES, (), numbered_classes(3))
    states = {value: state for value, _, state in host_search._hill_climb(model, grid, 6, rows[600:], labels[600:])}
    alone = LinearModelFactory("logistic", numbered_classes(3), np.zeros(30, np.float32))(
        "standard", rows[:600], labels[:600]
    )
    for value, state in states.items():
        alone.state = state
        before = alone.evaluations
        alone.fit(value)
        assert alone.evaluations - before <= 3  # the state is that of this value, not of the one after it


def test_balanced_settings_are_scored_by_the_mean_of_the_recalls():
    rows, labels = skewed(count=600)
    search_result, grid, problem = searched(rows, labels, balanced=True)
    train = len(problem.train)
    model = grid.make(search_result.chosen["scaler"], rows[:train], labels[:train])
    model.state = search_result.states[search_result.chosen["scaler"], search_result.chosen["C"]]
    predicted = model.scores(rows[train:]).argmax(axis=1)
    assert search_result.chosen["score"] == pytest.approx(balanced_accuracy_score(labels[train:], predicted))
    assert search_result.chosen["score"] != pytest.approx((predicted == labels[train:]).mean())
