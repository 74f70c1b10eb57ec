"""What settings are compared by is the task's."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import train_head
from stages.fitting.problem import FitProblem
from stages.fitting.scores import early_stop_margin, selection_score
from tests.ready_processes import run
from tests.stages.fitting.labels_and_numbers import label_task, number_task
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes, skewed
from tests.stages.fitting.tags import Tags, tagged


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 99))
def test_classes_are_scored_by_accuracy_or_by_the_metric_that_the_task_is_given(count, classes, seed):
    generator = np.random.default_rng(seed)
    outputs, labels = (
        generator.normal(size=(count, classes)).astype(np.float32),
        generator.integers(classes, size=count),
    )
    labels = np.where(generator.random(count) < 0.5, outputs.argmax(axis=1), labels)
    task, predicted = numbered_classes(classes), outputs.argmax(axis=1)
    assert selection_score(task, outputs, labels) == (predicted == labels).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that are predicted and never true
        by_recall = task.with_primary("balanced_accuracy")
        assert selection_score(by_recall, outputs, labels) == balanced_accuracy_score(labels, predicted)


def test_outputs_that_an_activation_would_round_to_a_tie_are_told_apart():
    outputs = np.array([[0.1, np.nextafter(np.float32(0.1), np.float32(1))]], dtype=np.float32)
    assert (torch.from_numpy(outputs).softmax(dim=1) == 0.5).all()
    assert selection_score(numbered_classes(2), outputs, np.array([1])) == 1


def test_of_a_metric_whose_lower_values_are_better_the_lowest_scores_best():
    task, target = Tags(2), np.array([[1, 0], [0, 0]], np.float32)
    right, half = np.array([[2, -2], [-1, -3]], np.float32), np.array([[2, 2], [-1, 3]], np.float32)
    assert selection_score(task, right, target) == 0
    assert selection_score(task, half, target) == -0.5


@pytest.mark.parametrize("metric", ["log_loss", "brier", "auc_macro"])
def test_margins_of_any_size_are_scored_as_the_logits_that_a_temperature_makes_of_them(metric):
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=300)
    logits = generator.normal(size=(300, 3)) + 2 * np.eye(3)[labels]
    task = numbered_classes(3).with_primary(metric)
    scores = [selection_score(task, size * logits, labels, margins=True) for size in (0.1, 1.0, 30.0)]
    assert scores == pytest.approx([scores[1]] * 3, abs=1e-4)
    assert len({round(selection_score(task, size * logits, labels), 4) for size in (0.1, 1.0, 30.0)}) == 3


def test_an_svm_is_chosen_by_how_sure_it_will_be_and_not_by_the_size_of_its_margins():
    rows, labels = skewed(count=900, width=60, classes=5)
    parts = [FeatureRows(rows[part], labels[part]) for part in (slice(400), slice(400, 500), slice(500, None))]
    losses = []
    for values in ((1e-2, 0.3), (1e-2,), (0.3,)):
        problem = fit_problem(*parts[:2], classes=5, options=HeadConfig(c_values=values, scalers=("standard",)))
        task = problem.task.with_primary("log_loss")
        head = train_head("svm", replace(problem, task=task)).module
        losses.append(
            -selection_score(task, head(torch.from_numpy(parts[2].features)).detach().numpy(), parts[2].labels)
        )
    assert losses[0] == losses[1] < losses[2] - 0.02


def test_a_head_that_diverged_scores_below_all_others():
    outputs = np.array([[np.nan, 1.0]], np.float32)
    assert selection_score(Tags(2), outputs, np.zeros((1, 2), np.float32)) == float("-inf")


def test_settings_of_a_task_without_strata_are_cross_validated_all_the_same():
    rows, tags = tagged(60)
    parts = (FeatureRows(rows[part], tags[part]) for part in (slice(40), slice(40, None)))
    problem = FitProblem(*parts, Tags(3), HeadConfig(), 0, torch.device("cpu"))
    assert len(problem.cv.splits) == 5
    assert sorted(np.concatenate([scored for _, scored in problem.cv.splits])) == list(range(60))
    with pytest.raises(UsageError, match=r"`head` ncm is for the task single_label, not for tags; no head is"):
        train_head("ncm", problem)


def test_a_head_that_is_not_for_a_task_names_those_that_are():
    code = """
import torch
from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import train_head
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.tasks.base import TASKS, register_task
from tests.stages.fitting.tags import Tags, tagged
register_task("tags")(Tags)
register_head("planes", label="planes", tasks=("tags",))(lambda problem: print("FITTED"))
rows, tags = tagged()
problem = FitProblem(FeatureRows(rows, tags), FeatureRows(rows, tags), Tags(3), HeadConfig(), 0, torch.device("cpu"))
print(TASKS.names())
for name in ("ncm", "mlp"):
    try: train_head(name, problem)
    except UsageError as error: print(error)
try: train_head("planes", problem)
except AttributeError: pass
"""
    said = run("-c", code, check=True).stdout
    assert "'single_label', 'tags')" in said
    for name, tasks in (("ncm", "single_label"), ("mlp", "single_label, multi_label and regression")):
        assert f"`head` {name} is for the task {tasks}, not for tags; take one that is: planes\n" in said
    assert "FITTED" in said


def test_where_the_metric_is_not_defined_the_lower_loss_is_better():
    labels = np.zeros((3, 2), np.float32)  # without a positive there is no average precision
    scores = [selection_score(label_task(2), np.full((3, 2), logit), labels) for logit in (-2.0, 1.0)]
    assert scores[1] < scores[0] < 0


def test_clearly_less_is_half_a_point_of_a_share_and_half_a_percent_of_an_error():
    assert early_stop_margin(number_task(1), -3.0) == 0.005
    assert early_stop_margin(Tags(2), -200.0) == pytest.approx(1.0)
