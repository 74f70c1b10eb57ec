import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from cache.errors import DataError
from stages.tasks.single_label import SingleLabel

TASK = SingleLabel(["cat", "dog", "horse"])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]])


def test_what_is_loaded_is_decoded_to_the_same_word():
    batch = TASK.collate([TASK.load(word) for word in ("dog", "cat", "horse")])
    assert batch.dtype == torch.int64
    assert batch.tolist() == [1, 0, 2]
    assert [TASK.decode(number) for number in batch] == ["dog", "cat", "horse"]


def test_an_unknown_class_is_refused_with_the_nearest_one():
    with pytest.raises(DataError, match=r"'hores' is none of the 3 classes. Did you mean 'horse'\?"):
        TASK.load("hores")


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(DataError, match="cat is there more than once"):
        SingleLabel(["cat", "dog", "cat"])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_one_of_the_definition(smoothing):
    target = torch.tensor([0, 2, 2])
    log_probabilities = LOGITS.double() - LOGITS.double().exp().sum(dim=1, keepdim=True).log()
    soft = (1 - smoothing) * torch.eye(3, dtype=torch.float64)[target] + smoothing / 3
    each = -(soft * log_probabilities).sum(dim=1)
    assert torch.allclose(TASK.loss(LOGITS, target, smoothing=smoothing, reduction="none").double(), each)
    assert TASK.loss(LOGITS, target, smoothing=smoothing).item() == pytest.approx(each.sum().item())


def test_soft_targets_cost_what_the_classes_cost_and_may_be_blended():
    target = torch.tensor([0, 1, 2])
    soft = TASK.soft_target(target)
    assert soft.dtype == torch.float32
    assert torch.allclose(TASK.loss(LOGITS, soft), TASK.loss(LOGITS, target))
    blended = 0.3 * soft + 0.7 * soft.flip(0)
    expected = 0.3 * TASK.loss(LOGITS, target) + 0.7 * TASK.loss(LOGITS, target.flip(0))
    assert torch.allclose(TASK.loss(LOGITS, blended), expected)


def test_logits_of_half_precision_lose_nothing_further():
    half = LOGITS.bfloat16()
    assert TASK.activate(half).dtype == torch.float32
    assert torch.equal(TASK.loss(half, torch.tensor([0, 1, 2])), TASK.loss(half.float(), torch.tensor([0, 1, 2])))


def test_statistics_of_batches_one_after_the_other_are_those_of_all():
    probabilities, target = TASK.activate(LOGITS), torch.tensor([0, 2, 2])
    whole = TASK.statistic(probabilities, target)
    parts = [TASK.statistic(probabilities[:1], target[:1]), TASK.statistic(probabilities[1:], target[1:])]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(whole["probabilities"], probabilities.numpy())
    assert whole["probabilities"].dtype == np.float32
    assert TASK.predict(probabilities).tolist() == [0, 1, 2]
    assert TASK.confusion(whole).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_statistics_survive_a_file_without_pickle(tmp_path):
    kept = TASK.statistic(TASK.activate(LOGITS), torch.tensor([0, 2, 2]))
    np.savez_compressed(tmp_path / "kept.npz", statistics=kept)
    with np.load(tmp_path / "kept.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["statistics"], kept)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_predictions_of_a_training_that_diverged_are_refused(wrong):
    with pytest.raises(DataError, match="diverged; try a lower rate"):
        TASK.statistic(torch.tensor([[0.5, 0.5, wrong]]), torch.tensor([0]))


def test_of_a_mixed_sample_the_class_with_the_largest_share_is_the_true_one():
    probabilities, classes = TASK.activate(LOGITS), torch.tensor([0, 2, 2])
    mixed = 0.6 * TASK.soft_target(classes) + 0.4 * TASK.soft_target(torch.tensor([1, 1, 0]))
    assert np.array_equal(TASK.statistic(probabilities, mixed), TASK.statistic(probabilities, classes))


@pytest.mark.parametrize("target", [-1, 3])
def test_targets_that_are_no_class_are_refused(target):
    with pytest.raises(DataError, match="outside the 3 classes"):
        TASK.statistic(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([target]))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=100))
@settings(deadline=None)
def test_weights_are_those_of_scikit_learn_and_give_each_class_the_same_sum(labels):
    target = np.array(labels)
    weights = TASK.weights(target)
    assert weights.dtype == np.float32
    assert np.allclose(weights, compute_sample_weight("balanced", target))
    assert weights.mean() == pytest.approx(1)
    sums = [weights[target == label].sum() for label in np.unique(target)]
    assert np.allclose(sums, sums[0])
    assert np.array_equal(TASK.strata(target), target)


def test_cells_and_words_of_a_sample_are_its_truth_prediction_and_probabilities():
    kept = TASK.statistic(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]), torch.tensor([1, 2]))
    assert list(TASK.columns) == ["label", "predicted", "probability_cat", "probability_dog", "probability_horse"]
    assert [TASK.cells(statistic) for statistic in kept] == [
        ["dog", "cat", "0.7", "0.2", "0.1"],
        ["horse", "horse", "0.25", "0.25", "0.5"],
    ]
    assert TASK.labels(kept).tolist() == ["dog", "horse"]
    assert TASK.confidence(kept) == pytest.approx([0.7, 0.5])


def test_tasks_are_equal_where_their_classes_are():
    assert SingleLabel("ab") == SingleLabel("ab")
    assert hash(SingleLabel("ab")) == hash(SingleLabel("ab"))
    assert SingleLabel("ab") != SingleLabel("ba")
    assert SingleLabel("ab") != "ab"


def test_a_task_goes_to_other_processes():
    task = pickle.loads(pickle.dumps(SingleLabel(["cat", "dog"])))
    assert task == SingleLabel(["cat", "dog"])
    assert task.metrics.keys() == SingleLabel(["cat", "dog"]).metrics.keys()


def test_guesses_say_the_most_frequent_class_and_how_frequent_each_is():
    task = SingleLabel("abc")
    known = task.statistic(torch.eye(3)[[0, 0, 0, 0]], torch.tensor([0, 2, 2, 2]))
    asked = task.statistic(torch.eye(3)[[0, 1]], torch.tensor([2, 1]))
    (guess,) = task.guesses(known, asked)
    assert guess["probabilities"].tolist() == [[0.25, 0.0, 0.75]] * 2
    assert task.metrics["accuracy"].score(guess) == 0.5
    assert asked["probabilities"].tolist() == [[1, 0, 0], [0, 1, 0]]
