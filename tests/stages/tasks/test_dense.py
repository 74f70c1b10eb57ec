import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional

from cache.errors import DataError, UsageError
from stages.tasks.base import task_from_json
from stages.tasks.dense import VOID, Dense, highest

TASK = Dense(("sky", "road", "car"))
MASK = torch.tensor([[0, 0, 1], [2, VOID, 1]], dtype=torch.uint8)


def test_a_mask_stays_as_it_is_and_a_number_that_is_no_class_is_refused():
    assert TASK.load(MASK.numpy()).equal(MASK)
    with pytest.raises(DataError, match="holds 7, 9, beyond the 3 classes"):
        TASK.load(np.array([[0, 7], [9, VOID]], dtype=np.uint8))
    with pytest.raises(DataError, match=r"this one is \[2, 2, 3\]"):
        TASK.load(np.zeros((2, 2, 3), dtype=np.uint8))


def test_masks_of_one_size_are_one_tensor_and_others_stand_side_by_side():
    assert TASK.collate([MASK, MASK]).shape == (2, 2, 3)
    assert [mask.shape for mask in TASK.collate([MASK, MASK[:1]])] == [(2, 3), (1, 3)]


def test_the_loss_is_the_mean_over_known_pixels_of_each_sample_so_that_samples_count_alike():
    logits = torch.randn(3, 3, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    nearly_void = MASK.clone().fill_(VOID)
    nearly_void[0, 0] = 1
    masks = torch.stack([MASK, nearly_void, torch.full_like(MASK, VOID)])
    losses = TASK.loss(logits, masks, reduction="none")
    for index in range(2):
        expected = functional.cross_entropy(
            logits[index : index + 1], masks[index : index + 1].long(), ignore_index=VOID
        )
        torch.testing.assert_close(losses[index], expected)
    assert losses[2] == 0
    torch.testing.assert_close(TASK.loss(logits, masks), losses.sum())
    assert TASK.mean_loss(logits.detach().double().numpy(), masks.numpy()) == pytest.approx(losses.mean().item())
    TASK.loss(logits.half(), masks).backward()
    assert logits.grad[2].abs().sum() == 0  # what is void teaches nothing
    assert logits.grad.isfinite().all()


def test_weights_of_classes_count_in_the_loss_pixel_by_pixel():
    logits = torch.zeros(1, 3, 2, 3)
    weights = torch.tensor([3.0, 1.0, 0.0])
    per_pixel = np.log(3)
    assert TASK.loss(logits, MASK[None], class_weights=weights).item() == pytest.approx(
        per_pixel * (3 + 3 + 1 + 0 + 1) / 5
    )


def test_logits_are_brought_to_the_size_of_each_mask_before_they_are_activated():
    logits = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    small, large = TASK.activate(logits, [(5, 7), (9, 8)])
    for index, (activated, size) in enumerate(((small, (5, 7)), (large, (9, 8)))):
        brought = functional.interpolate(logits[index : index + 1], size, mode="bilinear", align_corners=False)
        assert activated.equal(brought.softmax(dim=1)[0])
    assert TASK.activate(logits, [(5, 7), (5, 7)]).shape == (2, 3, 5, 7)
    assert TASK.activate(logits).shape == logits.shape
    assert [mask.shape for mask in TASK.predict((small, large))] == [(5, 7), (9, 8)]
    assert TASK.values((small, large)).dtype == object
    assert TASK.values((small, small)).shape == (2, 5, 7)


def test_a_confusion_matrix_counts_known_pixels_alone():
    predicted = torch.tensor([[0, 1, 1], [2, 0, 2]])
    confusion = TASK.statistic(torch.eye(3)[predicted].permute(2, 0, 1)[None], MASK[None])
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[[1, 1, 0], [0, 1, 1], [0, 0, 1]]]
    assert TASK.confusion(np.concatenate([confusion, confusion])).sum() == 10
    assert TASK.labels(confusion).tolist() == ["sky"]
    cells = dict(zip(TASK.columns, TASK.cells(confusion[0]), strict=True))
    assert (cells["largest_class"], cells["predicted_largest_class"], cells["iou_car"]) == ("sky", "road", "0.5")


def test_a_training_that_diverged_and_a_mask_of_other_classes_are_no_statistics():
    with pytest.raises(DataError, match="not finite: the training diverged"):
        TASK.statistic(torch.full((1, 3, 2, 3), float("nan")), MASK[None])
    with pytest.raises(DataError, match="targets outside the 3 classes"):
        TASK.statistic(torch.zeros(1, 3, 2, 3), MASK[None] + (MASK[None] == 2) * 5)


def test_calling_all_pixels_by_the_most_frequent_class_is_the_guess_to_beat():
    known, asked = (np.zeros((2, 3, 3), dtype=np.int64) for _ in range(2))
    known[:, 1, 0], known[:, 0, 0] = 6, 5
    asked[:, 2, 2], asked[:, 1, 0] = 3, 1
    [guess] = TASK.guesses(known, asked)
    assert guess[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 3, 0]]


def test_a_map_is_summed_up_by_its_largest_classes():
    assert TASK.decode(MASK) == "sky 40.0 %, road 40.0 %, car 20.0 %"
    probabilities = torch.eye(3)[torch.tensor([[1, 1, 1, 0]])].permute(2, 0, 1)
    assert TASK.predicted_words(probabilities) == "road 75.0 %, sky 25.0 %"
    cells = dict(zip(TASK.predicted_columns, TASK.predicted_cells(probabilities), strict=True))
    assert cells == {"class": "road", "share_sky": "0.250000", "share_road": "0.750000", "share_car": "0.000000"}


def test_masks_are_not_blended():
    with pytest.raises(UsageError, match="`mixup` and `cutmix` are not for a class for each pixel"):
        TASK.soft_target(MASK[None])


@pytest.mark.parametrize("task", [TASK, Dense(("a", "b"), 11), TASK.with_primary("pixel_accuracy")])
def test_a_task_comes_back_from_json_and_in_other_processes(task):
    for again in (task_from_json(task.to_json()), pickle.loads(pickle.dumps(task))):
        assert again == task
        assert (again.primary, again.ignore) == (task.primary, task.ignore)
    assert task.uncalibrated().primary == "miou"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(()), "1 to 255 classes"),
        (lambda: Dense(list(map(str, range(256)))), "and here are 256"),
        (lambda: Dense(("a", "a")), "a is there more than once"),
        (lambda: Dense(("a", "b", "c"), 2), "between the 3 classes and 255"),
        (lambda: task_from_json({"name": "dense"}), "needs class_names"),
    ],
)
def test_classes_that_a_mask_cannot_tell_apart_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_the_highest_class_of_each_pixel_is_that_of_argmax_and_the_first_of_equals():
    probabilities = torch.randint(0, 4, (7, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    found = highest(probabilities)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), probabilities.numpy().argmax(axis=0))


@pytest.mark.parametrize("ignore", [VOID, 11])
def test_a_gpu_counts_a_batch_of_masks_as_a_cpu_does_and_is_waited_for_once(pretended_cuda, ignore):
    generator = torch.Generator().manual_seed(0)
    task = Dense(("sky", "road", "car"), ignore)
    probabilities = torch.rand(5, 3, 8, 9, generator=generator)
    masks = torch.randint(0, 3, (5, 8, 9), generator=generator, dtype=torch.uint8)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = ignore
    there = probabilities.to("cuda")
    before = pretended_cuda.synchronizations
    found = task.statistic(there, masks)
    assert pretended_cuda.synchronizations - before == 1
    assert found.dtype == np.int64
    assert np.array_equal(found, task.statistic(probabilities, masks))
    assert np.array_equal(task.statistic(there, masks.to("cuda")), found)


def test_a_gpu_refuses_the_same_as_a_cpu(pretended_cuda):
    probabilities, masks = torch.full((2, 3, 4, 4), 1 / 3).to("cuda"), torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[1, 2, 2] = 3
    with pytest.raises(DataError, match="outside the 3 classes"):
        TASK.statistic(probabilities, masks)
    with pytest.raises(DataError, match="not finite"):
        TASK.statistic(probabilities * torch.nan, masks)
    with pytest.raises(ValueError, match="are not those of masks"):
        TASK.statistic(probabilities, masks[:, :3])
