"""The trial that tells whether a head sees the order of frames: clips shown forwards or backwards."""

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.fit_head import FeatureRows, FitProblem, head_probabilities, train_head
from stages.network.aggregate import Aggregate, padded
from stages.tasks.single_label import SingleLabel

TASK = SingleLabel(("forward", "reversed"))
CPU = torch.device("cpu")


def clips(count, seed):
    """Clips of 4 to 8 frames that drift along one direction of 12, and each of them the other way round; as bags."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.linspace(-1, 1, 12)
    rows, sizes, places = [], [], []
    for length in torch.randint(4, 9, (count,), generator=generator).tolist():
        start = torch.randn(12, generator=generator)
        noise = 0.1 * torch.randn(length, 12, generator=generator)
        clip = 5 + 10 * (start + torch.arange(length)[:, None] * drift + noise)  # of a scale that has to be taken out
        rows += [clip, clip.flip(0)]
        sizes += [length, length]
        places += [*range(length)] * 2
    bags = padded(torch.cat(rows), sizes, places, 8).numpy().astype(np.float32)
    return bags, np.tile([0, 1], count)


TRAIN, VAL, TEST = clips(40, 0), clips(10, 1), clips(20, 2)


def accuracy(name, rows_of, *, bags=False, **options):
    """The accuracy of a head on the test clips."""
    parts = [FeatureRows(rows_of(bags), labels) for bags, labels in (TRAIN, VAL)]
    config = HeadConfig(head=name, **options)
    head = train_head(name, FitProblem(*parts, TASK, config, 0, CPU, bags=bags)).module
    predicted = head_probabilities(head, rows_of(TEST[0]), TASK).argmax(axis=1)
    return np.mean(predicted == TEST[1])


@pytest.mark.parametrize("name", ["gru", "lstm", "transformer"])
def test_heads_on_frames_in_order_tell_forwards_from_backwards(name):
    assert accuracy(name, lambda bags: bags, bags=True, fit_lr=1e-2, fit_epochs=8, fit_batch_size=16) == 1.0


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_pooled_frames_stay_at_chance_whatever_the_head(name, kind):
    aggregate = Aggregate(kind, 8, 12)
    score = accuracy(name, lambda bags: aggregate(torch.from_numpy(bags)).numpy(), fit_epochs=5, cv=0)
    assert score == 0.5  # a clip and its reverse are the same row


def test_attention_without_an_order_stays_at_chance_too():
    assert accuracy("mil", lambda bags: bags, bags=True, fit_epochs=5) == 0.5


def test_attention_finds_the_one_image_that_counts():
    """The mean hides one image of a kind among many; its weight says which it is."""

    def samples(count, seed):
        generator = torch.Generator().manual_seed(seed)
        bags = torch.cat([torch.randn(count, 10, 8, generator=generator), torch.ones(count, 10, 1)], dim=2)
        labels = torch.arange(count) % 2
        bags[labels == 1, 3, 0] += 6
        return FeatureRows(bags.numpy(), labels.numpy())

    config = HeadConfig(head="mil", fit_epochs=12, fit_lr=1e-2, fit_dropout=0.1, fit_batch_size=32)
    problem = FitProblem(samples(200, 0), samples(60, 1), TASK, config, 0, CPU, bags=True)
    trained = train_head("mil", problem)
    assert trained.val_score > 0.95
    test = samples(40, 2)
    weights = trained.module.image_weights(torch.from_numpy(test.features[test.labels == 1]))
    assert (weights.argmax(dim=1) == 3).float().mean() > 0.9


def test_heads_for_several_images_refuse_samples_of_one():
    rows = FeatureRows(np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]))
    with pytest.raises(UsageError, match=r"`head` gru takes samples of several images .* and here each is one"):
        train_head("gru", FitProblem(rows, rows, TASK, HeadConfig(head="gru"), 0, CPU))


def test_aggregating_by_attention_is_a_head_of_its_own():
    assert HeadConfig(aggregate="attention").head == ("mil",)
    assert HeadConfig(head="gru", aggregate="attention").head == ("gru",)
    with pytest.raises(UsageError, match=r"`aggregate` attention is learned by a head of its own, `head` mil, and svm"):
        HeadConfig(head="svm", aggregate="attention")
