"""One of the processes that torchrun starts in test_ranks.py; alone, it trains on the whole of every batch."""

import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from stages.distributed import joined
from stages.machine import single_threaded
from stages.network.freezing import freeze, keep_in_evaluation
from stages.training.loop import Training, fit
from stages.training.optimisers import blockwise_groups, make_optimiser
from stages.training.schedules import Schedule, make_schedule
from stages.training.unfreezing import Unfreezing
from tests.stages.training.networks import pictures, quick_network

TRAIN, VAL = pictures(27), pictures(9, seed=1)
BATCH, EPOCHS = 8, 3
BLOCKS = {"head": ["classifier"], "body": ["conv_stem", "bn1", "blocks", "conv_head", "bn2"]}


class StopError(Exception):
    pass


class ShortOfMemory(nn.Module):
    """What the second process trains with: half of what it is given is too much for it, once in a while."""

    def forward(self, images):
        if self.training and len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return images


def training(rank, folder, *, batchnorm="eval", unfreezing=Unfreezing(("head", "body"), 1), **others):  # noqa: B008
    model = quick_network()
    if batchnorm == "eval":
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                keep_in_evaluation(layer)
    model.add_module("short_of_memory", ShortOfMemory() if rank.index == 1 else nn.Identity())
    model.register_forward_pre_hook(lambda model, inputs: model.short_of_memory(*inputs))
    groups = blockwise_groups(model, list(BLOCKS.items()), rate=1e-3, factor=0.5, weight_decay=1e-2)
    optimiser = make_optimiser("adamw", groups)
    scheduler = make_schedule(optimiser, Schedule("plateau"), 2, EPOCHS)

    def train_batches(epoch, first):
        order = torch.randperm(len(TRAIN[1]), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(BATCH)[first:]:  # the last is of three samples, of which one process has one
            own = part[rank.index :: rank.count]
            yield TRAIN[0][own], TRAIN[1][own]

    def prepare(epoch, first):
        if batchnorm == "eval":
            freeze(model, [name for block in unfreezing.trained(epoch) for name in BLOCKS[block]])
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    keep_in_evaluation(layer)

    done = fit(
        model,
        optimiser,
        scheduler,
        Training(EPOCHS, accumulate=2, l1=1e-5, clip=1.0, ema=0.9, label_smoothing=0.1, checkpoint_seconds=0.0),
        train_batches=train_batches,
        val_batches=lambda: [tuple(one[rank.index :: rank.count] for one in VAL)],
        checkpoint=folder / f"{batchnorm}-of-{rank.count}" / f"as-{rank.index}.pt",
        prepare=prepare,
        rank=rank,
        **others,
    )
    return [asdict(epoch) for epoch in done.history], model.state_dict()


def main(folder: Path) -> None:
    def stop(epoch):
        if epoch.epoch == 2:
            raise StopError

    with joined() as rank:
        try:
            training(rank, folder, on_epoch=stop)
        except StopError:
            history, weights = training(rank, folder)
        _, own_statistics = training(rank, folder, batchnorm="train")
        torch.save([history, weights, own_statistics], folder / f"{rank.index}-of-{rank.count}.pt")


if __name__ == "__main__":
    with single_threaded():
        main(Path(sys.argv[1]))
