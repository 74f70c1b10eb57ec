"""Kernel machines: what they compute, and the memory they take, within what features may, in processes of their own."""

import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import head_probabilities, train_foldable_head, train_head
from stages.fitting.heads import fit_rbf_svm
from stages.fitting.heads.fit_rbf_svm import FEWEST_LANDMARKS, KERNEL_UP_TO, RBFSVMFactory, compared_within
from tests.ready_processes import ReadyProcess
from tests.stages.fitting.labels_and_numbers import labelled, problem_of
from tests.stages.fitting.rows_of_digits import TEN_CLASSES, fit_problem, numbered_classes, skewed

OPTIONS = HeadConfig(c_values=(1e-3, 1e-2), scalers=("standard", "none"))

BESIDE = 110_000_000
"""Bytes of a process that has fitted a few rows before, for what is no kernel: buffers of libraries, copies of rows."""


def apart(count: int, seed: int = 0):
    """Return rows [n, 32] of three classes that lie apart, which few machines take long over, and labels."""
    numbers = np.random.default_rng(seed)
    labels = numbers.integers(0, 3, count)
    means = np.random.default_rng(0).normal(size=(3, 32))
    return (means[labels] + 1.5 * numbers.normal(size=(count, 32))).astype(np.float32), labels


def problem(count: int, gigabytes: float | None, cv: int):
    rows, labels = apart(count)
    train = count * 4 // 5
    parts = (FeatureRows(rows[part], labels[part]) for part in (slice(train), slice(train, None)))
    return fit_problem(*parts, classes=3, options=replace(OPTIONS, max_memory_gb=gigabytes, cv=cv))


def most_memory() -> int:
    """Return the most bytes that this process ever had."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def fit_within(gigabytes: float, cv: int) -> None:
    """Fit a machine to 5,000 rows, whose kernel takes 0.3 GB, and say by how much the most memory has grown."""
    train_foldable_head("rbf", problem(600, None, cv))[1]()
    before = most_memory()
    trained, fold = train_foldable_head("rbf", problem(5000, gigabytes, cv))
    fold()
    said = most_memory() - before, trained.settings.get("landmarks", 0), trained.module.config["support"]
    sys.stdout.write(" ".join(map(str, said)))


@pytest.mark.skipif(sys.platform != "linux", reason="where the most memory is told otherwise")
@pytest.mark.parametrize("cv", [0, 3])
@pytest.mark.parametrize(("gigabytes", "exact"), [(0.32, True), (0.06, False)])
def test_a_kernel_machine_takes_no_more_than_features_may(gigabytes, exact, cv):
    finished = ReadyProcess(fit_within, gigabytes, cv).finish()
    assert finished.returncode == 0, finished.stderr
    rise, landmarks, support = map(int, finished.stdout.split())
    assert rise < gigabytes * 1e9 + BESIDE
    assert (landmarks == 0) == exact
    assert exact or support == landmarks


def test_what_finds_no_room_is_approximated_with_a_word_and_predicts_next_to_the_same(caplog):
    with caplog.at_level("INFO", logger="cutonce"):
        exact, approximated = (train_head("rbf", problem(1500, gigabytes, 3)) for gigabytes in (1.0, 0.02))
    (said,) = [record.message for record in caplog.records]
    landmarks = approximated.settings["landmarks"]
    assert said == (
        "rbf: to compare 1,500 rows with each other takes 0.027 GB, more than `max_memory_gb` leaves: "
        f"they are compared with {landmarks:,} of them"
    )
    assert FEWEST_LANDMARKS < landmarks < 1500
    assert "landmarks" not in exact.settings
    assert abs(exact.val_score - approximated.val_score) < 0.03
    rows, _ = apart(300, seed=1)
    answers = [head_probabilities(trained.module, rows, TEN_CLASSES) for trained in (exact, approximated)]
    assert (answers[0].argmax(axis=1) == answers[1].argmax(axis=1)).mean() > 0.95


def test_where_there_is_room_for_next_to_none_it_is_refused_with_what_helps():
    with pytest.raises(UsageError, match=r"`head` rbf compares 2,000 rows with at least 100 .*allow more, or take a"):
        train_head("rbf", problem(2000, 1e-3, 3))


@pytest.mark.parametrize("room", [3e6, 1e8, 1e9, 2e9])
@pytest.mark.parametrize("count", [100, 2000, 5000, 9000, KERNEL_UP_TO, 15_000, 200_000])
def test_either_all_parts_of_the_rows_are_compared_in_full_or_none_is(room, count):
    fewest = min(FEWEST_LANDMARKS, count)
    if 8 * count * fewest + 96 * fewest**2 > room:
        with pytest.raises(UsageError):
            compared_within(int(room), count, 2000)
        return
    exact_up_to, landmarks = compared_within(int(room), count, 2000)
    assert exact_up_to <= KERNEL_UP_TO
    assert 12 * exact_up_to**2 <= room
    if count <= KERNEL_UP_TO:
        assert exact_up_to in (0, max(exact_up_to, count))
    if count > exact_up_to:
        assert 8 * count * landmarks + 96 * landmarks**2 <= room
        assert landmarks <= 2000
    assert compared_within(int(room), count, 50)[1] == 50


def test_labels_that_are_not_all_known_have_room_for_the_copies_of_their_parts():
    rows, labels = labelled(count=400, unknown=0.2)
    kept = {}
    for gigabytes in (20 * 400**2 / 1e9, 14 * 400**2 / 1e9):
        options = replace(OPTIONS, max_memory_gb=gigabytes + rows.nbytes / 1e9, scalers=("none",))
        kept[gigabytes] = "landmarks" in train_head("rbf", problem_of(rows, labels, options=options)).settings
    assert [*kept.values()] == [False, True]


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_nystroem_with_all_rows_as_landmarks_is_the_exact_kernel(scaling):
    rows, labels = skewed(count=400, width=12, classes=2)
    factory = RBFSVMFactory(numbered_classes(2), np.zeros(12, np.float32), seed=0, landmarks=400, exact_up_to=10)
    quick = factory(scaling, rows, labels)
    assert isinstance(quick, fit_rbf_svm.NystroemModel)
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


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_kernel_of_float32_products_is_that_of_scikit_learn(spread):
    """As of rows that some are much longer than others, and of equal ones."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((90, 300)).astype(np.float32)
    rows[:5] *= spread
    rows[80:] = rows[:10]
    gamma = 1 / (300 * rows.var())

    def quickly(others):
        return fit_rbf_svm._of_distances(fit_rbf_svm._squared_distances(rows, others), gamma)

    quick, slow = quickly(rows[20:]), rbf_kernel(rows.astype(np.float64), rows[20:], gamma)
    assert quick.dtype == np.float64
    assert np.abs(quick - slow).max() < 1e-5
    assert (np.diag(quickly(rows)) == 1).all()


@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("part", [slice(0, 300), np.arange(0, 400, 3)], ids=["slice", "places"])
def test_machines_on_parts_of_rows_that_were_compared_before_say_what_they_would_say_alone(scaling, part, monkeypatch):
    monkeypatch.setattr(fit_rbf_svm, "PREPARED_FROM", 0)
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
    monkeypatch.setattr(fit_rbf_svm, "PREPARED_FROM", 0)
    compare, compared = fit_rbf_svm._squared_distances, []
    monkeypatch.setattr(fit_rbf_svm, "_squared_distances", lambda *given: compared.append(0) or compare(*given))
    rows, labels = skewed(count=400, width=12)
    parts = [FeatureRows(rows[part], labels[part]) for part in (slice(0, 300), slice(300, 400))]
    options = HeadConfig(c_values=(1e-4, 1e-3), scalers=("none",), cv=cv)
    fit_rbf_svm.fit_rbf(fit_problem(*parts, classes=3, options=options))
    assert len(compared) == 1


def test_more_rows_than_memory_is_meant_for_are_not_compared_before(monkeypatch):
    monkeypatch.setattr(fit_rbf_svm, "_COMPARED_UP_TO", 99)
    factory = RBFSVMFactory(numbered_classes(3), np.zeros(12_000, np.float32), seed=0, landmarks=400)
    assert factory.prepared(np.zeros((100, 12_000), np.float32), ["none"]) is factory
    assert factory.prepared(np.zeros((99, 12_000), np.float32), ["none"]).distances.shape == (99, 99)
    assert factory.prepared(np.zeros((99, 10), np.float32), ["none"]) is factory  # next to nothing
    prepared = factory.prepared(np.zeros((99, 12_000), np.float32), ["none"])
    assert pickle.loads(pickle.dumps(prepared)).distances is None
