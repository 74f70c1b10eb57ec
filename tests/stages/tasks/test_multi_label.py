import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cache.errors import DataError
from stages.tasks.base import evaluate, task_from_json
from stages.tasks.multi_label import MultiLabel

TASK = MultiLabel(["cat", "dog", "sea horse"])
UNKNOWN = float("nan")
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0], [-1.0, 0.2, 4.0]])
TARGET = torch.tensor([[1.0, 0.0, UNKNOWN], [0.0, 1.0, 1.0], [UNKNOWN, UNKNOWN, UNKNOWN]])

names = st.lists(
    st.text(st.characters(blacklist_characters="|?", blacklist_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(names, st.data())
@settings(deadline=None, max_examples=60)
def test_any_labels_are_read_as_they_are_written(class_names, data):
    task = MultiLabel(class_names)
    width = len(class_names)
    target = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0, UNKNOWN]), min_size=width, max_size=width)))
    loaded = task.load(task.decode(target))
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.nan_to_num(7), target.nan_to_num(7))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", [0, 0, 0]),
        ("dog|cat", [1, 1, 0]),
        (" cat | dog|cat", [1, 1, 0]),
        ("sea horse|", [0, 0, 1]),
        ("?cat|dog", [UNKNOWN, 1, 0]),
        ("? cat", [UNKNOWN, 0, 0]),
    ],
)
def test_order_blanks_and_repetitions_mean_nothing_and_no_text_is_no_label(text, target):
    assert np.array_equal(TASK.load(text), target, equal_nan=True)


def test_what_is_no_label_is_refused():
    with pytest.raises(DataError, match=r"'dgo' is none of the 3 labels. Did you mean 'dog'\?"):
        TASK.load("cat|dgo")
    with pytest.raises(
        DataError, match=r"'dog\|\?dog' says of 'dog' that the sample has it, and that this is not known"
    ):
        TASK.load("dog|?dog")
    for wrong in ("a|b", "?a", "", " a"):
        with pytest.raises(DataError, match="the name of a label holds no"):
            MultiLabel(["x", wrong])
    with pytest.raises(DataError, match="x is there more than once"):
        MultiLabel(["x", "x"])


def test_loss_is_torchs_over_the_labels_that_are_known():
    each = TASK.loss(LOGITS, TARGET, reduction="none")
    known = [
        functional.binary_cross_entropy_with_logits(LOGITS[0, :2], TARGET[0, :2]),
        functional.binary_cross_entropy_with_logits(LOGITS[1], TARGET[1]),
        torch.tensor(0.0),
    ]
    assert torch.allclose(each, torch.stack(known))
    assert TASK.loss(LOGITS, TARGET).item() == pytest.approx(float(sum(known)))
    assert TASK.mean_loss(LOGITS.double().numpy(), TARGET.numpy()) == pytest.approx(float(sum(known)) / 3)


def test_an_unknown_label_has_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    TASK.loss(logits, TARGET).backward()
    assert torch.equal(logits.grad == 0, TARGET.isnan())


def test_smoothing_moves_targets_towards_one_half_and_weights_count():
    target, weights = TARGET[:2].nan_to_num(0), torch.tensor([2.0, 0.0, 1.0])
    expected = functional.binary_cross_entropy_with_logits(
        LOGITS[:2], 0.8 * target + 0.1, weight=weights, reduction="none"
    ).mean(dim=1)
    assert torch.allclose(
        TASK.loss(LOGITS[:2], target, smoothing=0.2, class_weights=weights, reduction="none"), expected
    )


def test_blended_targets_are_learned_as_shares_and_stay_unknown():
    soft = TASK.soft_target(TARGET)
    blended = 0.3 * soft[:1] + 0.7 * soft[1:2]
    assert np.allclose(blended, [[0.3, 0.7, UNKNOWN]], equal_nan=True)
    expected = functional.binary_cross_entropy_with_logits(LOGITS[:1, :2], blended[:, :2])
    assert TASK.loss(LOGITS[:1], blended).item() == pytest.approx(expected.item())
    statistic = TASK.statistic(TASK.activate(LOGITS[:1]), blended)
    assert np.array_equal(statistic["target"], [[0, 1, UNKNOWN]], equal_nan=True)


def test_a_statistic_holds_what_is_predicted_by_the_thresholds():
    task = MultiLabel(TASK.class_names, [0.95, 0.5, 0.1])
    statistics = task.statistic(task.activate(LOGITS), TARGET)
    assert statistics["predicted"].tolist() == [[False, False, True], [False, True, True], [False, True, True]]
    assert task.predict(task.activate(LOGITS)).tolist() == statistics["predicted"].tolist()
    assert task.cells(statistics[1])[:2] == ["dog|sea horse", "dog|sea horse"]
    assert task.labels(statistics).tolist() == ["cat|?sea horse", "dog|sea horse", "?cat|?dog|?sea horse"]
    assert len(task.cells(statistics[0])) == len(task.columns)


def test_confidence_is_that_of_the_least_certain_label():
    statistics = TASK.statistic(torch.tensor([[0.9, 0.2, 0.6]]), torch.zeros(1, 3))
    assert TASK.confidence(statistics) == pytest.approx([0.6])


def test_a_diverged_training_is_refused():
    with pytest.raises(DataError, match="not finite"):
        TASK.statistic(torch.tensor([[0.1, UNKNOWN, 0.2]]), torch.zeros(1, 3))


def test_thresholds_are_those_of_the_best_f1_on_the_calibration_samples_and_no_others():
    random = np.random.default_rng(0)
    target = (random.random((300, 3)) < [0.5, 0.1, 0.0]).astype(np.float32)
    target[random.random((300, 3)) < 0.1] = np.nan
    activated = torch.from_numpy(random.random((300, 3)) * 0.5 + 0.3 * np.nan_to_num(target)).float()
    task = TASK.calibrated(activated, torch.from_numpy(target))
    for label in range(2):
        known = ~np.isnan(target[:, label])
        scores, truth = activated.numpy()[known, label], target[known, label] == 1
        f1 = [2 * (truth & (scores >= cut)).sum() / (truth.sum() + (scores >= cut).sum()) for cut in np.unique(scores)]
        predicted = scores >= np.float32(task.thresholds[label])
        assert 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()) == pytest.approx(max(f1))
    assert task.thresholds[2] == 0.5  # nobody has it
    assert (
        task.statistic(1 - activated, 1 - torch.from_numpy(target))["predicted"].tolist()
        == (1 - activated.numpy() >= np.float32(task.thresholds)).tolist()
    )  # what is scored later moves no threshold


def test_a_threshold_tells_neighboring_numbers_apart():
    high = np.float32(0.9)
    low = np.nextafter(high, np.float32(0))
    activated, target = torch.tensor([[high], [low]]), torch.tensor([[1.0], [0.0]])
    task = MultiLabel(["a"]).calibrated(activated, target)
    assert task.predict(activated).tolist() == [[1.0], [0.0]]


def test_thresholds_make_no_other_task_and_are_kept_with_it():
    task = MultiLabel(["a", "b"], [0.25, 0.5])
    for restored in (task_from_json(json.loads(json.dumps(task.to_json()))), pickle.loads(pickle.dumps(task))):
        assert restored == task
        assert hash(restored) == hash(task)
        assert restored.thresholds == (0.25, 0.5)
    assert task != MultiLabel(["a", "b"])
    assert task.uncalibrated() == MultiLabel(["a", "b"])
    assert task.scaled_to(np.zeros((2, 2))) == task
    for wrong in ({"thresholds": [0.5]}, {"thresholds": ["x", "y"]}, {"class_names": []}):
        with pytest.raises(DataError):
            task_from_json({**task.to_json(), **wrong})


def test_strata_are_the_labels_that_a_sample_has():
    assert TASK.strata(TARGET.numpy()).tolist() == [[True, False, False], [False, True, True], [False] * 3]


def test_weights_give_those_with_a_label_and_those_without_the_same_sum():
    target = np.array([[1, 0], [0, 0], [0, 0], [0, np.nan]], dtype=np.float32)
    weights = TASK.weights(target)
    assert weights[:, 0].tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])
    assert weights[:, 1].tolist() == [1, 1, 1, 0]


def test_every_metric_is_defined_where_a_label_has_no_positive_and_another_is_unknown():
    target = torch.tensor([[1.0, 0.0, UNKNOWN], [0.0, 0.0, UNKNOWN], [1.0, 0.0, UNKNOWN]])
    scores = evaluate(TASK, TASK.statistic(TASK.activate(LOGITS), target))
    assert all(np.isfinite(list(scores.values())))
    nothing = evaluate(TASK, TASK.statistic(TASK.activate(LOGITS), torch.zeros(3, 3)))
    assert np.isnan([nothing[name] for name in ("map_macro", "map_micro", "auc_macro")]).all()


def test_guesses_are_the_shares_of_labels_by_thresholds_and_all_labels():
    task = MultiLabel(["a", "b"], [0.5, 0.5])
    known = task.statistic(torch.zeros(4, 2), torch.tensor([[1.0, 0], [1, 0], [1, float("nan")], [0, 1]]))
    by_threshold, all_labels = task.guesses(known, known[:2])
    assert by_threshold["probabilities"].tolist() == [[0.75, pytest.approx(1 / 3)]] * 2
    assert by_threshold["predicted"].tolist() == [[True, False]] * 2
    assert all_labels["predicted"].all()
