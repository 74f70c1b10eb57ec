"""The search over C and scaling: what a short way leaves out must not be what is best."""

import pickle
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.folds import stratified_folds
from stages.fitting.heads import fit_rbf_svm as kernel
from stages.fitting.heads.fit_rbf_svm import KERNEL_UP_TO, RBFSVMFactory
from stages.fitting.heads.svm import fit_svm
from stages.fitting.solvers import grid_search as search
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.tasks.base import ranked_by
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes, skewed

VALUES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def searched(rows, labels, balanced=False, train=None):
    train = train or round(len(rows) * 0.75)
    config = HeadConfig(c_values=VALUES, cv=0, class_weights="balanced" if balanced else "none")
    classes = int(labels.max()) + 1
    parts = (FeatureRows(rows[part], labels[part]) for part in (slice(train), slice(train, None)))
    problem = fit_problem(*parts, classes=classes, options=config)
    make = LinearModelFactory("logistic", problem.task, np.zeros(rows.shape[1], np.float32), balanced)
    task = ranked_by(problem.task, None, balanced=balanced)
    grid = search.Grid(make, VALUES, config.scalers, task)
    return search.search(grid, rows, labels, problem.cv, seed=0), grid, problem


def test_a_search_that_is_narrowed_on_a_part_finds_what_the_whole_search_finds(monkeypatch):
    rows, labels = skewed(count=4000, width=30)
    whole, *_ = searched(rows, labels)
    monkeypatch.setattr(search, "SUBSAMPLE_FROM", 1000)
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
    fits = search.HostFits(search.Grid(make, VALUES[:2], config.scalers, problem.task), rows, labels)
    largest = 4 * 30 * max(len(fitted) for fitted, _ in problem.cv.splits)
    monkeypatch.setattr(search, "usable_cores", lambda: 64)
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda: 64)
    monkeypatch.setattr(search, "FITTING_BYTES", 1)
    monkeypatch.setattr(search, "free_memory", lambda device: int(2 * copies * largest))
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
    fits = search.HostFits(search.Grid(make, VALUES[:1], config.scalers, problem.task), rows, labels)
    together, at_a_time = [], search.fits_side_by_side
    monkeypatch.setattr(
        search, "fits_side_by_side", lambda *given: together.append(at_a_time(*given)) or at_a_time(*given)
    )
    monkeypatch.setattr(search, "usable_cores", lambda: 64)
    monkeypatch.setattr(search, "FITTING_BYTES", 1)
    for room, most in (((12 * 320 + 4 * 30) * 320, [1, 1, 1]), ((12 * 400 + 4 * 30) * 400 * 2, [3, 3, 2])):
        monkeypatch.setattr(search, "free_memory", lambda device, room=room: 2 * room)
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
    grid = search.Grid(None, VALUES, (), numbered_classes(3))
    known = {value: score for value, score, _ in search._hill_climb(model, grid, start, rows[800:], labels[800:])}
    top = VALUES.index(max(known, key=lambda value: (known[value], -value)))
    assert {VALUES[top - 1], VALUES[top + 1]} <= set(known)
    whole, *_ = searched(rows, labels, train=800)
    assert known[VALUES[top]] == pytest.approx(whole.chosen["score"], abs=0.005)


def test_a_climb_gives_each_value_with_its_own_state():
    rows, labels = skewed(count=900, width=30)
    model = LinearModelFactory("logistic", numbered_classes(3), np.zeros(30, np.float32))(
        "standard", rows[:600], labels[:600]
    )
    grid = search.Grid(None, VALUES, (), numbered_classes(3))
    states = {value: state for value, _, state in search._hill_climb(model, grid, 6, rows[600:], labels[600:])}
    alone = LinearModelFactory("logistic", numbered_classes(3), np.zeros(30, np.float32))(
        "standard", rows[:600], labels[:600]
    )
    for value, state in states.items():
        alone.state = state
        before = alone.evaluations
        alone.fit(value)
        assert alone.evaluations - before <= 3  # the state is that of this value, not of the one after it


def test_a_score_of_a_part_of_the_rows_is_never_the_choice():
    search_result = search.GridSearchResult(
        [{"C": 1.0, "scaler": "none", "score": 0.9, "rows": 10}, {"C": 2.0, "scaler": "none", "score": 0.8}]
    )
    assert search_result.chosen["C"] == 2.0


def test_the_head_of_a_search_on_held_out_rows_is_that_of_scikit_learn_on_all_rows():
    rows, labels = skewed(count=800)
    search_result, grid, problem = searched(rows, labels)
    train = len(problem.train)
    result, _ = search.refit_best(problem, search.HostFits(grid, rows, labels), search_result, calibrate=False)
    standard = result.settings["scaler"] == "standard"
    for head, count in ((result.head, len(rows)), (result.head_train_only, train)):
        exact = rows.astype(np.float64)
        scaler = ModeratedScaler(with_mean=standard, with_std=standard).fit(exact[:count])
        reference = LogisticRegression(C=result.settings["C"], tol=1e-9, max_iter=20000)
        reference.fit(scaler.transform(exact[:count]), labels[:count])
        expected = reference.predict_proba(scaler.transform(exact))
        assert np.abs(head(torch.from_numpy(rows)).softmax(dim=1).detach().numpy() - expected).max() < 1e-5


def test_balanced_settings_are_scored_by_the_mean_of_the_recalls():
    rows, labels = skewed(count=600)
    search_result, grid, problem = searched(rows, labels, balanced=True)
    train = len(problem.train)
    model = grid.make(search_result.chosen["scaler"], rows[:train], labels[:train])
    model.state = search_result.states[search_result.chosen["scaler"], search_result.chosen["C"]]
    predicted = model.scores(rows[train:]).argmax(axis=1)
    assert search_result.chosen["score"] == pytest.approx(balanced_accuracy_score(labels[train:], predicted))
    assert search_result.chosen["score"] != pytest.approx((predicted == labels[train:]).mean())


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_nystroem_with_all_rows_as_landmarks_is_the_exact_kernel(scaling):
    rows, labels = skewed(count=400, width=12, classes=2)
    factory = RBFSVMFactory(numbered_classes(2), np.zeros(12, np.float32), seed=0, landmarks=400, exact_up_to=10)
    quick = factory(scaling, rows, labels)
    assert isinstance(quick, kernel.NystroemModel)
    quick.fit(1e-3, final=True)
    head_scores = quick.head()(torch.from_numpy(rows)).detach().numpy()
    assert np.abs(head_scores - quick.scores(rows)).max() < 0.02
    mapped = quick.map(rows)
    scaled = quick.map.scaler(rows)
    assert np.abs(mapped @ mapped.T - rbf_kernel(scaled, scaled, quick.map.scaler.gamma)).max() < 1e-3


def test_fewer_landmarks_are_used_as_they_are_asked_for():
    rows, labels = skewed(count=400, width=12)
    factory = RBFSVMFactory(numbered_classes(3), np.zeros(12, np.float32), seed=0, landmarks=50, exact_up_to=10)
    model = factory("none", rows, labels)
    model.fit(1e-3)
    assert model.head().config["support"] == 50


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_a_classifier_of_scikit_learn_is_cross_validated_as_scikit_learn_does(classes, scaling):
    rows, labels = skewed(count=500, classes=classes)
    train, val = FeatureRows(rows[:400], labels[:400]), FeatureRows(rows[400:], labels[400:])
    options = HeadConfig(scalers=(scaling,), cv=4)
    problem = fit_problem(train, val, classes=classes + 1, options=options)  # of one class there is no row

    def make(settings):
        return LogisticRegression(max_iter=2000, **settings)

    result = search.cross_validate(problem, make, {"C": [1e-3, 1.0]})
    scaler = {"none": FunctionTransformer(), "standard": ModeratedScaler(), "l2": Normalizer()}[scaling]
    for candidate in result.candidates:
        model = make_pipeline(scaler, make({"C": candidate["C"]}))
        folds = StratifiedKFold(4, shuffle=True, random_state=0)
        assert candidate["score"] == pytest.approx(cross_val_score(model, rows, labels, cv=folds).mean(), abs=1e-9)
    assert result.settings["score"] == max(candidate["score"] for candidate in result.candidates)
    for head, count in ((result.head, 500), (result.head_train_only, 400)):
        model = make_pipeline(scaler, make({"C": result.settings["C"]})).fit(rows[:count], labels[:count])
        logits = result.settings["temperature"] * head(torch.from_numpy(rows)).detach()[:, :classes]
        assert np.abs(logits.softmax(dim=1).numpy() - model.predict_proba(rows)).max() < 1e-3
    assert (result.head(torch.from_numpy(rows)).argmax(dim=1) < classes).all()


def test_probabilities_of_left_out_rows_are_those_of_scikit_learn_at_the_lowest_log_loss():
    rows, labels = skewed(count=600, width=12)
    folds = stratified_folds(4, labels, seed=0)
    make_of = partial(LinearModelFactory, "logistic", numbered_classes(4))  # of one class there is no row
    values = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    probabilities = search.cross_val_proba(make_of, values, rows.astype(np.float16), labels, folds)
    assert probabilities.dtype == np.float32
    assert (probabilities[:, 3] == 0).all()
    expected = {}
    for c in values:
        model = make_pipeline(ModeratedScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=5000))
        expected[c] = cross_val_predict(model, rows, labels, cv=folds, method="predict_proba")
    best = min(expected.values(), key=lambda probabilities: log_loss(labels, probabilities))
    assert np.abs(probabilities[:, :3] - best).max() < 0.02  # fits stop early, as those that are compared do
    assert np.abs(probabilities[:, :3] - best).mean() < 1e-3


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_kernel_of_float32_products_is_that_of_scikit_learn(spread):
    """As of rows that some are much longer than others, and of equal ones."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((90, 300)).astype(np.float32)
    rows[:5] *= spread
    rows[80:] = rows[:10]
    gamma = 1 / (300 * rows.var())

    def quickly(others):
        return kernel._of_distances(kernel._squared_distances(rows, others), gamma)

    quick, slow = quickly(rows[20:]), rbf_kernel(rows.astype(np.float64), rows[20:], gamma)
    assert quick.dtype == np.float64
    assert np.abs(quick - slow).max() < 1e-5
    assert (np.diag(quickly(rows)) == 1).all()


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("part", [slice(0, 300), np.arange(0, 400, 3)], ids=["slice", "places"])
def test_machines_on_parts_of_rows_that_were_compared_before_say_what_they_would_say_alone(scaling, part, monkeypatch):
    monkeypatch.setattr(kernel, "PREPARED_FROM", 0)
    rows, labels = skewed(count=400, width=12)
    rows -= rows.mean(axis=0)
    alone = RBFSVMFactory(numbered_classes(3), np.zeros(12, np.float32), seed=0, landmarks=400)
    prepared, others = alone.prepared(rows, ["none", "l2"]), np.arange(300, 400)
    assert prepared.distances is not None
    for _ in range(2):  # what is compared before is not used up
        machines = [
            factory(scaling, rows[part], labels[part], places)
            for factory, places in ((alone, None), (prepared, part), (alone, part))
        ]
        for machine in machines:
            machine.fit(1e-3)
        expected, *said = [machine.scores(rows[others], others) for machine in machines]
        assert np.abs(expected).max() > 0.5
        for scores in said:
            assert np.abs(scores - expected).max() < 1e-3


@pytest.mark.parametrize("cv", [0, 5])
def test_a_search_compares_its_rows_once(cv, monkeypatch):
    monkeypatch.setattr(kernel, "PREPARED_FROM", 0)
    compare, compared = kernel._squared_distances, []
    monkeypatch.setattr(kernel, "_squared_distances", lambda *given: compared.append(0) or compare(*given))
    rows, labels = skewed(count=400, width=12)
    parts = [FeatureRows(rows[part], labels[part]) for part in (slice(0, 300), slice(300, 400))]
    options = HeadConfig(c_values=(1e-4, 1e-3), scalers=("none",), cv=cv)
    kernel.fit_rbf(fit_problem(*parts, classes=3, options=options))
    assert len(compared) == 1


def test_more_rows_than_memory_is_meant_for_are_not_compared_before(monkeypatch):
    monkeypatch.setattr(kernel, "_COMPARED_UP_TO", 99)
    factory = RBFSVMFactory(numbered_classes(3), np.zeros(12_000, np.float32), seed=0, landmarks=400)
    assert factory.prepared(np.zeros((100, 12_000), np.float32), ["none"]) is factory
    assert factory.prepared(np.zeros((99, 12_000), np.float32), ["none"]).distances.shape == (99, 99)
    assert factory.prepared(np.zeros((99, 10), np.float32), ["none"]) is factory  # next to nothing
    prepared = factory.prepared(np.zeros((99, 12_000), np.float32), ["none"])
    assert pickle.loads(pickle.dumps(prepared)).distances is None


@pytest.mark.parametrize("head", ["svm", "rbf"])
def test_what_a_search_said_of_rows_out_of_folds_is_not_fitted_again(head, monkeypatch):
    """Neither for the temperature nor for the comparison of heads; where it is too much to be kept, it is."""
    rows, labels = skewed(count=320, width=20)  # that many are divided once
    labels = np.where(np.random.default_rng(1).random(320) < 0.3, labels[::-1], labels)
    parts = [FeatureRows(rows[part], labels[part]) for part in (slice(240), slice(240, None))]
    problem = fit_problem(*parts, classes=3, options=HeadConfig(cv=3, c_values=VALUES[:5], scalers=("standard",)))
    problem = replace(problem, compared=True)
    fit = {"svm": fit_svm, "rbf": kernel.fit_rbf}[head]
    monkeypatch.setattr(search, "_KEPT_BYTES", 0)
    again = fit(problem)
    folds_again = again.fold()
    monkeypatch.undo()
    monkeypatch.setattr(search, "_out_of_fold", None)
    kept = fit(problem)
    folds = kept.fold()
    assert kept.settings["C"] == again.settings["C"]
    assert kept.settings["temperature"] == pytest.approx(again.settings["temperature"], rel=0.02)
    assert np.array_equal(folds.folds, folds_again.folds)
    assert np.abs(folds.outputs - folds_again.outputs).max() < 0.05 * np.abs(folds.outputs).max()
