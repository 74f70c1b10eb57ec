import numpy as np
import pytest

from cache.errors import DataError, UsageError
from pipeline.evaluation.decision import Decision, decide, held_out, require_decidable
from pipeline.evaluation.results import Result
from stages.config.goals import goal_of
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel
from tests.pipeline.finished_runs import add, folded, of_task, predictions

TASK = SingleLabel(["functional", "defective"])
TEST = predictions([0, 1] * 10, [False] * 20)


def sure(scores, target):
    """Predictions of two classes, from the probability of the second."""
    scores = np.asarray(scores, np.float32)
    return of_task(TASK, np.stack([1 - scores, scores], axis=1), np.asarray(target))


VALIDATION = sure([0.05, 0.3, 0.2, 0.4, 0.9, 0.6, 0.8, 0.35], [0, 0, 0, 1, 1, 1, 1, 1])


def result_with(tmp_path, **kept):
    return Result.load(add(tmp_path, TEST, class_names=TASK.class_names, **kept))


def test_a_threshold_is_chosen_by_held_out_images_and_applied_to_others(tmp_path):
    result = result_with(tmp_path, validation=VALIDATION)
    decision = decide(result, goal_of("recall=0.8"), None)
    assert decision.threshold.value == pytest.approx(0.35)
    probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.1, 0.9]], np.float32)
    assert decision.predicted(probabilities).tolist() == [1, 0, 1]
    assert Decision().predicted(probabilities).tolist() == [0, 0, 1]
    named = decide(result, goal_of("defective:cost=1:1"), None).threshold
    assert (named.positive, named.predicted(np.array([[0.8, 0.2]]))[0]) == (1, 0)


def test_possible_classes_are_those_that_reach_the_probability_of_the_coverage(tmp_path):
    decision = decide(result_with(tmp_path, validation=VALIDATION), None, 0.8)
    assert decision.threshold is None
    assert decision.least == pytest.approx(0.35)
    assert decision.possible(np.array([[0.6, 0.4], [0.9, 0.1]])).tolist() == [[True, True], [True, False]]


def test_predictions_out_of_folds_come_before_those_for_the_validation_split_and_count_once(tmp_path):
    result = result_with(tmp_path, validation=VALIDATION, out_of_fold=folded(TEST, repeats=3))
    assert len(held_out(result)) == len(TEST)
    assert len(held_out(result_with(tmp_path / "b", validation=VALIDATION))) == len(VALIDATION)


def test_a_result_of_before_and_too_few_images_are_errors_that_say_so(tmp_path):
    with pytest.raises(DataError, match=r"kept no predictions for validation images.*`coverage` needs them"):
        decide(result_with(tmp_path), None, 0.9)
    few = sure([0.1] * 10 + [0.9] * 4, [0] * 10 + [1] * 4)
    with pytest.raises(DataError, match="4 held-out images of defective are too few"):
        decide(result_with(tmp_path / "few", validation=few), goal_of("recall=0.9"), None)


@pytest.mark.parametrize(
    ("task", "goal", "coverage", "words"),
    [
        (Regression(), None, 0.9, "`coverage` is for one class a sample, and the task is regression"),
        (SingleLabel(["a", "b", "c"]), "recall=0.9", None, "tells two classes apart, and there are 3"),
        (TASK, "defectiv:recall=0.9", None, r"no class 'defectiv', but functional and defective. Did you mean"),
    ],
)
def test_what_the_task_cannot_have_is_refused(task, goal, coverage, words):
    with pytest.raises(UsageError, match=words):
        require_decidable(task, goal_of(goal), coverage)
    require_decidable(task, None, None)


def test_a_temperature_makes_certainties_what_they_say_and_changes_no_prediction(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000)
    target = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    overconfident = sure(1 / (1 + np.exp(-3 * logits)), target)
    result = result_with(tmp_path, validation=overconfident)
    decision = decide(result, None, None, calibrate=True)
    assert decision.temperature == pytest.approx(3, rel=0.1)
    probabilities = overconfident.statistics["probabilities"]
    calibrated = decision.calibrated(probabilities)
    assert np.array_equal(calibrated.argmax(axis=1), probabilities.argmax(axis=1))
    assert np.allclose(calibrated[:, 1], 1 / (1 + np.exp(-logits * 3 / decision.temperature)), atol=1e-3)
    assert np.isfinite(decision.calibrated(np.array([[0.0, 1.0]], np.float32))).all()
    # a threshold for a recall is found at the same images with and without
    scores = [decide(result, goal_of("recall=0.9"), None, calibrate=calibrate) for calibrate in (False, True)]
    assert np.array_equal(scores[0].predicted(probabilities), scores[1].predicted(scores[1].calibrated(probabilities)))
