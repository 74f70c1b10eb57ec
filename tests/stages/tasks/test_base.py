import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from cache.errors import DataError, UsageError
from stages.tasks.base import (
    TASKS,
    evaluate,
    find_metric,
    mean_metric,
    ranked_by,
    register_task,
    sum_metric,
    task_from_json,
)
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel
from tests.plug_ins import forget_afterwards

TASK = SingleLabel(["cat", "dog"])


@pytest.fixture
def own_registry(monkeypatch):
    forget_afterwards(monkeypatch, TASKS)


@pytest.mark.parametrize("name", ["single_label", "single-label"])
def test_a_task_comes_back_from_what_it_wrote(name):
    restored = task_from_json({**json.loads(json.dumps(TASK.to_json())), "name": name})
    assert isinstance(restored, SingleLabel)
    assert restored.to_json() == TASK.to_json() == {"name": "single_label", "class_names": ["cat", "dog"]}


def test_the_registry_finds_a_task_without_anybody_importing_it():
    code = "from stages.tasks.base import task_from_json as t; print(t({'name': 'single_label', 'class_names': ['a']}).name)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "single_label\n"


def test_an_unknown_task_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"no task 'single-lable'\. Did you mean 'single_label'\?"):
        task_from_json({"name": "single-lable"})
    with pytest.raises(UsageError, match="no task ''"):
        task_from_json({})


@pytest.mark.parametrize("names", [None, [], "ab", [1, 2]])
def test_a_task_without_usable_classes_is_refused(names):
    with pytest.raises(DataError, match="needs class_names"):
        task_from_json({"name": "single_label", "class_names": names})


@pytest.mark.usefixtures("own_registry")
def test_one_decorated_class_is_a_task():
    @register_task("counting")
    class Counting(SingleLabel):
        pass

    task = task_from_json({"name": "counting", "class_names": ["one", "two"]})
    assert isinstance(task, Counting)
    assert task.to_json()["name"] == "counting"
    assert SingleLabel(["a"]).name == "single_label"
    assert "counting" in TASKS.names()


@pytest.mark.usefixtures("own_registry")
def test_a_second_class_of_the_same_name_is_refused():
    with pytest.raises(UsageError, match=r"two tasks are called 'single_label': .*SingleLabel.* and .*Other"):

        @register_task("single_label")
        class Other(SingleLabel):
            pass


def test_metrics_are_found_by_name_the_primary_one_without():
    assert find_metric(TASK).name == "accuracy"
    assert find_metric(TASK, "f1-macro").name == "f1_macro"
    with pytest.raises(UsageError, match=r"no metric 'acuracy' for the task single_label.*Did you mean 'accuracy'"):
        find_metric(TASK, "acuracy")


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        (TASK, "balanced-accuracy"),
        (MultiLabel("ab", [0.3, 0.4]), "f1_micro"),
        (Regression(("price",), (3.0,), (2.0,), interval=(1.0,)), "median_relative_error"),
        (Regression(levels=("mild", "severe")), "mae"),
    ],
    ids=["classes", "labels", "numbers", "levels"],
)
def test_a_task_that_is_given_another_metric_keeps_it_and_is_the_same_task_without_it(task, metric):
    chosen = task.with_primary(metric)
    assert find_metric(chosen).name == metric.replace("-", "_") == chosen.primary != task.primary
    assert "primary" not in task.to_json()  # digests and files are those of a task of which there was one metric
    assert chosen != task == chosen.with_primary(task.primary)
    for restored in (task_from_json(json.loads(json.dumps(chosen.to_json()))), pickle.loads(pickle.dumps(chosen))):
        assert (restored, restored.primary) == (chosen, chosen.primary)
    assert chosen.uncalibrated().to_json() == task.uncalibrated().to_json()
    assert task.primary in chosen.shown
    assert chosen.primary not in chosen.shown
    assert set(task.shown) - {chosen.primary} <= set(chosen.shown)


def test_what_predictions_and_training_samples_set_leaves_the_metric_as_it_is():
    labels = MultiLabel("ab").with_primary("f1_macro")
    probabilities, target = torch.tensor([[0.2, 0.9], [0.4, 0.1]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert labels.calibrated(probabilities, target).primary == "f1_macro"
    numbers = Regression().with_primary("rmse").scaled_to(np.array([[1.0], [3.0]]))
    assert numbers.calibrated(torch.zeros(3, 1), torch.ones(3, 1)).primary == "rmse"


def test_a_metric_that_a_task_does_not_have_or_that_says_not_how_good_predictions_are_is_refused():
    with pytest.raises(UsageError, match=r"no metric 'r2' for the task single_label. There are accuracy, .*log_loss"):
        TASK.with_primary("r2")
    with pytest.raises(UsageError, match=r"`metric` interval_coverage does not say how good.*: r2, mae, rmse"):
        Regression().with_primary("interval_coverage")


def test_where_rare_classes_count_as_much_as_frequent_ones_they_do_so_in_the_metric_unless_another_is_named():
    assert ranked_by(TASK, None) is TASK
    assert ranked_by(TASK, None, balanced=True).primary == "balanced_accuracy"
    assert ranked_by(TASK, "f1_macro", balanced=True).primary == "f1_macro"
    assert ranked_by(MultiLabel("ab"), None, balanced=True).primary == "map_macro"  # which counts each label alike


def test_nothing_to_evaluate_is_refused():
    nothing = TASK.statistic(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no test image"):
        evaluate(TASK, nothing)


def test_metrics_of_means_and_of_sums_score_any_selection():
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    mean = mean_metric("gap", "gap", lambda statistics: statistics[:, 1] - statistics[:, 0])
    ratio = sum_metric(
        "ratio", "ratio", lambda statistics: statistics, lambda sums: float(sums[1] / sums[0]), higher_is_better=False
    )
    assert (mean.score(rows), mean.score(rows[[2, 2, 0]])) == (2.0, 3.0)
    assert (ratio.score(rows), ratio.score(rows[1:])) == (15 / 9, 13 / 8)
    assert (mean.higher_is_better, ratio.higher_is_better) == (True, False)


def test_the_room_needs_no_other_room_and_loads_scikit_learn_and_scipy_when_they_are_used():
    code = (
        "import sys; from stages.tasks import statistics; from stages.tasks.base import TASKS; TASKS.things();"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('cache', 'stages', 'pipeline', 'sklearn', 'scipy')))"
    )
    loaded = eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert {name for name in loaded if not name.startswith("stages.tasks")} <= {
        "cache",
        "cache.errors",
        "cache.registry",
        "stages",
    }
