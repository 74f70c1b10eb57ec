"""Samples of several images train, validate and are predicted as the head of stage 2 was fitted to them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.finetune import FinetuneConfig
from stages.data.sample import ImageRef
from stages.extraction.read_features import fitted_aggregate, places_of, read_features
from stages.finetuning.baselines import random_head, unfitted_aggregate
from stages.finetuning.finetune import finetune, require_trainable
from stages.finetuning.predict_images import iter_sample_predictions, predict_proba
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.sample_views import ViewSampler, complete_samples, image_count
from stages.finetuning.setup import FinetuneSetup
from stages.finetuning.transfer_model import build_transfer_model
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.linear import LinearHead

QUICK = FinetuneConfig(unfreeze="blocks.6", epochs=2, lr=1e-3, head_lr=3e-3, finetune_batch_size=6, num_workers=0)

VIEWS = (ImageRef("a", "key a"), None, ImageRef("b", "key b"), ImageRef("c", "key c"), ImageRef("d", "key d"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("views")


def head_on(probe, pairs, kind):
    """Least squares on the rows of the pairs, and what it says of all of them."""
    aggregate = fitted_aggregate(probe.extractor, pairs.select(pairs.indices("train")), kind, places_of(pairs))
    rows = read_features(probe.extractor, pairs, aggregate=aggregate).astype(np.float64)
    with_bias = np.column_stack([rows, np.ones(len(rows))])
    solution = np.linalg.solve(
        with_bias.T @ with_bias + np.eye(with_bias.shape[1]), with_bias.T @ np.eye(3)[pairs.targets]
    )
    head = AggregatedHead(aggregate, LinearHead.from_coefficients(solution[:-1].T, solution[-1]))
    return head, with_bias @ solution


def problem_of(probe, pairs, cache, head, **changed):
    extractor = replace(
        probe.extractor, options=replace(probe.extractor.options, cache=cache, augment="light", views=2)
    )
    return FinetuneProblem(extractor, pairs, head, replace(QUICK, **changed), 0)


@pytest.mark.parametrize(("kind", "from_cache"), [("mean", False), ("max", True), ("concat", False), ("concat", True)])
def test_training_begins_with_the_outputs_of_the_head_on_samples(probe, pairs, cache, kind, from_cache):
    head, expected = head_on(probe, pairs, kind)
    problem = problem_of(probe, pairs, cache, head, from_cache=from_cache)
    run = FinetuneSetup.to_train(problem, lambda *_: None).run(problem)
    run.model.eval()
    with torch.no_grad():
        outputs, targets = zip(*((run.model(inputs), targets) for inputs, targets in run.val_batches()), strict=True)
    val = pairs.indices("val")
    assert np.allclose(torch.cat(outputs).cpu(), expected[val], atol=1e-3)
    assert torch.cat(targets).tolist() == pairs.targets[val].tolist()


def test_a_network_answers_for_samples_what_the_head_answers_for_their_rows(probe, pairs):
    head, expected = head_on(probe, pairs, "concat")
    upper = build_transfer_model(probe.extractor, head, QUICK)
    expected = torch.from_numpy(expected).softmax(dim=1)
    assert np.allclose(predict_proba(probe.extractor, upper, pairs), expected, atol=1e-3)
    flipped = predict_proba(probe.extractor, upper, pairs, "flip")
    assert not np.allclose(flipped, expected, atol=1e-4)
    assert np.allclose(flipped, expected, atol=0.3)


def test_an_image_that_cannot_be_read_is_missing_and_a_sample_without_any_is_told(probe, pairs, tmp_path):
    head, _ = head_on(probe, pairs, "mean")
    upper = build_transfer_model(probe.extractor, head, QUICK)
    lost, (first, second) = str(tmp_path / "lost.jpg"), (image.location for image in pairs.images[1])
    samples = [(first, second), (first, lost), (first, None), (lost, None)]
    batches = list(iter_sample_predictions(probe.extractor, upper, pairs.task, samples, "flip"))
    activated = np.concatenate([batch.activated for batch in batches if len(batch.activated)])
    assert [index for batch in batches for index in batch.indices] == [0, 1, 2]
    assert np.allclose(activated[1], activated[2], atol=1e-6)
    assert not np.allclose(activated[0], activated[1], atol=1e-6)
    assert [number for batch in batches for number, _ in batch.failures] == [3, 5]


@pytest.mark.parametrize("from_cache", [False, True], ids=["images", "views"])
def test_fine_tuning_learns_from_samples_with_few_images_at_a_time(probe, pairs, cache, from_cache):
    aggregate = unfitted_aggregate(probe.extractor, pairs, "concat")
    assert aggregate.indicators == [1]
    head = random_head(probe.extractor, 3, 0, aggregate)
    problem = problem_of(probe, pairs, cache, head, from_cache=from_cache)
    assert problem.samples_per_batch == 3
    given = []
    setup = FinetuneSetup.to_train(problem, lambda *_: None)
    setup.trainee.upper.model.top.register_forward_pre_hook(lambda _, inputs: given.append(len(inputs[0])))
    for inputs, targets in setup.source.train(1, 0):
        assert len(inputs) == len(targets) == 3
        setup.trainee.upper.model.eval()(inputs)
    assert max(given) <= 6
    result = finetune(problem)
    assert result.fit.best.val_score > 0.7
    assert result.fit.best.val_loss < 0.7 * result.fit.history[0].val_loss
    train, val = (pairs.select(pairs.indices(split)) for split in ("train", "val"))
    if from_cache:
        assert result.view_forwards == 2 * image_count(train) + image_count(val)
    else:
        assert result.backbone_forwards <= 2 * image_count(train) + image_count(val)


def test_of_a_sample_with_too_many_images_some_are_drawn_in_their_order_for_each_epoch():
    sampler = ViewSampler(2, 0)
    drawn = [sampler(VIEWS, "key", epoch) for epoch in range(20)]
    assert drawn == [sampler(VIEWS, "key", epoch) for epoch in range(20)]
    assert all(len(images) == 2 and images[0][0] < images[1][0] for images in drawn)
    assert {place for images in drawn for place, _ in images} == {0, 2, 3, 4}
    assert all(VIEWS[place] == image for images in drawn for place, image in images)
    assert [place for place, _ in ViewSampler(4, 0)(VIEWS, "key", 0)] == [0, 2, 3, 4]
    assert (sampler.size(VIEWS), ViewSampler(None, 0).size(VIEWS)) == (2, 4)


def test_samples_are_complete_as_soon_as_their_last_image_is():
    rows = torch.arange(8)
    batches = [([0, 0, 1], rows[:3], []), ([1, 3], rows[3:5], [(2, "torn")]), ([3, 4, 4], rows[5:], [])]
    complete = list(complete_samples(iter(batches), [VIEWS[:1], VIEWS[1:4], VIEWS[3:]], each=2))
    assert [[sample.number for sample in samples] for samples in complete] == [[0], [1], [2]]
    (first,), (second,), (third,) = complete
    assert [(place, [int(row) for row in rows]) for place, rows in first.rows] == [(0, [0, 1])]
    assert [place for place, _ in second.rows] == [1]
    assert second.failures == [(2, "torn")]
    assert [place for place, _ in third.rows] == [0, 1]


def test_what_mixes_two_images_is_refused_for_samples_of_several(probe, pairs):
    with pytest.raises(UsageError, match=r"`mixup` 0\.2 mixes two images, and here each sample has several"):
        require_trainable(probe.extractor, replace(QUICK, mixup=0.2), pairs)
    require_trainable(probe.extractor, QUICK, pairs)
