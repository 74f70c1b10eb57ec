import numpy as np
import pytest

from stages.tasks.metrics import class_metrics
from stages.tasks.running_score import RunningScore, sums_of
from stages.tasks.single_label import SingleLabel

TASK = SingleLabel("abc")
METRICS = class_metrics("abc")


@pytest.fixture(scope="module")
def statistics():
    generator = np.random.default_rng(0)
    fields = [("probabilities", np.float32, (3,)), ("target", np.int64)]
    samples = np.empty(97, dtype=np.dtype(fields))
    samples["probabilities"] = generator.dirichlet(np.ones(3), 97)
    samples["target"] = generator.integers(3, size=97)
    return samples


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("log_loss", "brier")])
def test_the_score_of_batches_is_to_the_bit_that_of_all_samples_at_once(name, statistics):
    running, other = RunningScore(METRICS[name]), RunningScore(METRICS[name])
    for batch in np.split(statistics[:60], [11, 37]):
        running.add(batch)
    other.add(statistics[60:])
    running.merge(other.state)
    assert running.count == 97
    assert running.value() == METRICS[name].score(statistics)


def test_a_mean_that_is_computed_in_another_way_is_the_same_to_within_rounding(statistics):
    running = RunningScore(METRICS["log_loss"])
    running.add(statistics)
    assert running.value() == pytest.approx(METRICS["log_loss"].score(statistics), rel=1e-6)


def test_samples_are_forgotten_where_sums_are_enough(statistics):
    kept = {}
    for name in ("accuracy", "f1_macro", "auc_macro"):
        running = RunningScore(METRICS[name])
        running.add(statistics)
        kept[name] = len(running.state[1])
    assert kept == {"accuracy": 0, "f1_macro": 0, "auc_macro": 1}
    assert sums_of(METRICS["auc_macro"], statistics) is None


def test_no_sample_has_no_score():
    assert np.isnan(RunningScore(METRICS["accuracy"]).value())
