import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from stages.tasks.base import evaluate
from stages.tasks.dense import VOID, Dense
from stages.tasks.dense_metrics import class_iou, class_ious, pixel_counts
from stages.tasks.intervals import interval

CLASSES = ("sky", "road", "car", "sign")


def scored(masks, predicted, names=CLASSES):
    """The statistics of predicted classes."""
    task = Dense(names)
    activated = tuple(torch.eye(len(names))[mask.long()].permute(2, 0, 1) for mask in predicted)
    return task, task.statistic(activated, tuple(masks))


def torchmetrics_of(masks, predicted, num_classes):
    """The three metrics as torchmetrics computes them, over the pixels of all images together."""
    known = {"num_classes": num_classes, "ignore_index": VOID}
    metrics = {
        "miou": MulticlassJaccardIndex(average="macro", **known),
        "pixel_accuracy": MulticlassAccuracy(average="micro", **known),
        "mean_accuracy": MulticlassAccuracy(average="macro", **known),
    }
    for metric in metrics.values():
        for mask, prediction in zip(masks, predicted, strict=True):
            metric.update(prediction.long()[None], mask.long()[None])
    return {name: metric.compute().item() for name, metric in metrics.items()}


@pytest.mark.parametrize("absent", [(), (3,), (2, 3)], ids=["all occur", "one occurs nowhere", "two occur nowhere"])
@pytest.mark.parametrize("predicts_absent", [False, True])
def test_scores_are_those_of_torchmetrics_void_and_classes_that_occur_nowhere_included(absent, predicts_absent):
    generator = torch.Generator().manual_seed(len(absent))
    present = torch.tensor([number for number in range(4) if number not in absent])
    masks, predicted = [], []
    for height, width in ((7, 9), (5, 5), (8, 3)):  # masks of unlike sizes
        mask = present[torch.randint(len(present), (height, width), generator=generator)].to(torch.uint8)
        noise = torch.randint(4, mask.shape, generator=generator).to(torch.uint8)
        noise = noise if predicts_absent else present[noise.long() % len(present)].to(torch.uint8)
        predicted.append(torch.where(torch.rand(mask.shape, generator=generator) < 0.6, mask, noise))
        mask[torch.rand(mask.shape, generator=generator) < 0.2] = VOID
        masks.append(mask)
    task, statistics = scored(masks, predicted)
    ours = evaluate(task, statistics)
    for name, value in torchmetrics_of(masks, predicted, 4).items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name


def test_a_class_that_occurs_nowhere_does_not_count_as_an_iou_of_zero():
    mask = torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    task, statistics = scored([mask], [torch.tensor([[0, 0, 0, 1]])])
    ious = class_ious(pixel_counts(statistics.sum(axis=0)))
    assert ious[:2].tolist() == [2 / 3, 1 / 2]
    assert np.isnan(ious[2:]).all()
    assert evaluate(task, statistics)["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_scores_of_an_image_of_void_alone_are_not_defined():
    task, statistics = scored([torch.full((2, 2), VOID, dtype=torch.uint8)], [torch.zeros(2, 2)])
    assert not statistics.any()
    assert all(np.isnan(score) for score in evaluate(task, statistics).values())


def test_mean_iou_has_an_interval_of_resamples_of_whole_images():
    generator = torch.Generator().manual_seed(0)
    masks = [torch.randint(4, (6, 6), generator=generator) for _ in range(12)]
    predicted = [torch.where(torch.rand(6, 6, generator=generator) < 0.7, mask, 0) for mask in masks]
    task, statistics = scored(masks, predicted)
    metric = task.metrics["miou"]
    found = interval(metric, statistics, None)
    assert found.low < metric.score(statistics) < found.high


def test_the_interval_of_a_few_images_of_many_pixels_is_that_of_how_they_differ():
    """As if each of 30 images said one yes or no, it was 20 points wide where images differ by one."""
    random = np.random.default_rng(0)
    means, held, widths = 0.9, [], []
    for _ in range(60):
        shares = np.clip(random.normal(means, 0.02, 30), 0, 1)
        right = random.binomial(2000, shares)
        statistics = np.stack([[[hits, 2000 - hits], [2000 - hits, hits]] for hits in right])
        low, high = interval(class_iou(0), statistics, resamples=500)[:2]
        held.append(low <= means / (2 - means) <= high)
        widths.append(high - low)
    assert np.mean(held) >= 0.88
    assert max(widths) < 0.04
