"""A problem that a small network learns in seconds, for the tests of the loop."""

import torch
from torch import nn

from stages.tasks.single_label import SingleLabel
from stages.training.config import TrainConfig
from stages.training.lr_schedules import LRScheduleConfig, make_schedule
from stages.training.optim import create_optimizer, parameter_groups
from stages.training.train_loop import TrainHooks, TrainRun, train

CLASSES, PER_BATCH, BATCHES = 3, 40, 6
TASK = SingleLabel("abc")


def blobs(n=PER_BATCH * BATCHES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    centers = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return centers[labels] + torch.randn(n, 4, generator=generator), labels


TRAIN, VAL = blobs(), blobs(seed=1)


def small_network(dropout=0.3, normalized=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(16)] if normalized else []
        return nn.Sequential(nn.Linear(4, 16), *norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES))


def batches_of(epoch, first=0):
    order = torch.randperm(len(TRAIN[0]), generator=torch.Generator().manual_seed(epoch))
    for part in order.split(PER_BATCH)[first:]:
        yield TRAIN[0][part], TRAIN[1][part]


def train_blobs(
    model,
    epochs,
    *,
    rate=0.02,
    optimizer="adamw",
    schedule=LRScheduleConfig("cosine", 0.1),  # noqa: B008
    weight_decay=0.01,
    train_batches=batches_of,
    val=VAL,
    lasting=8,
    options=None,
    task=TASK,
    class_weights=None,
    **hooks,
):
    """Train a model whose children are one block."""
    names = [name for name, _ in model.named_children()]
    made = create_optimizer(optimizer, parameter_groups(model, [("all", names, rate)], weight_decay))
    settings = TrainConfig(epochs, seed=3, **(options or {}))
    steps = -(-BATCHES // settings.grad_accum_steps)
    scheduler = make_schedule(made, schedule, steps, lasting)
    run = TrainRun(model, made, settings, task, train_batches, lambda: [val], class_weights=class_weights)
    return train(run, scheduler, TrainHooks(**hooks))


def same(one, other):
    """Whether two models have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
