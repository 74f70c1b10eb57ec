import numpy as np
import pytest

from cache.errors import DataError
from pipeline.evaluation.method_folders import made_whole
from pipeline.evaluation.results import Result
from tests.pipeline.finished_runs import add, folded, predictions, result

LABELS = np.arange(40) % 2
MADE = predictions(LABELS, np.arange(40) < 4)


def test_out_of_fold_and_validation_predictions_come_back_as_they_were_saved(tmp_path):
    out_of_fold = folded(MADE, repeats=3, groups=[f"patient {number // 4}" for number in range(40)])
    loaded = Result.load(add(tmp_path, MADE, out_of_fold=out_of_fold, validation=MADE))
    for name, array in out_of_fold.arrays().items():
        np.testing.assert_array_equal(loaded.out_of_fold.arrays()[name], array)
    np.testing.assert_array_equal(loaded.out_of_fold.statistics, out_of_fold.statistics)
    np.testing.assert_array_equal(loaded.validation_predictions.statistics, MADE.statistics)
    assert (loaded.out_of_fold.folds, loaded.out_of_fold.repeats, len(loaded.out_of_fold)) == (5, 3, 120)


def test_a_result_of_before_has_neither(tmp_path):
    loaded = Result.load(add(tmp_path, MADE))
    assert (loaded.cv, loaded.out_of_fold, loaded.validation_predictions) == (None, None, None)


def test_a_training_that_is_replaced_leaves_nothing_of_its_own(tmp_path):
    directory = add(tmp_path, MADE, out_of_fold=folded(MADE), validation=MADE)
    with made_whole(directory) as fresh:
        result(MADE).save(fresh, MADE)
    assert {path.name for path in directory.iterdir()} == {"predictions.npz", "result.json"}


def test_damaged_predictions_are_refused_by_name(tmp_path):
    directory = add(tmp_path, MADE, out_of_fold=folded(MADE))
    (directory / "out-of-fold.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"out-of-fold\.npz is damaged"):
        _ = Result.load(directory).out_of_fold


def test_summary_is_of_all_folds_together_and_repeats_make_no_samples():
    metric = MADE.task.metrics["accuracy"]
    once, often = folded(MADE).summary(metric), folded(MADE, repeats=5).summary(metric)
    assert once == {
        "metric": "accuracy",
        "mean": 0.9,
        "standard_error": pytest.approx(np.sqrt(0.9 * 0.1 / 39)),
        "folds": 5,
        "repeats": 1,
    }
    assert often == {**once, "repeats": 5, "mean": pytest.approx(0.9)}
    grouped = folded(MADE, groups=np.arange(40) // 4).summary(metric)
    assert grouped["standard_error"] > 1.5 * once["standard_error"]


def test_order_is_that_of_the_samples_whatever_the_order_in_the_file():
    shuffled = np.random.default_rng(0).permutation(40)
    other = predictions(LABELS[shuffled], (np.arange(40) < 4)[shuffled], images=shuffled.tolist())
    one, two = folded(MADE, repeats=2), folded(other, repeats=2)
    np.testing.assert_array_equal(one.keys[one.order], two.keys[two.order])
    np.testing.assert_array_equal(one.statistics[one.order], two.statistics[two.order])
