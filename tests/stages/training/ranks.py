"""One of the processes that torchrun starts in test_ranks.py; alone, it trains on the whole of every batch."""

import sys
from pathlib import Path

import torch
from torch import nn

from stages.network.freezing import freeze, lock_eval_mode
from stages.runtime.distributed import process_group
from stages.runtime.threads import single_threaded
from stages.training.config import TrainConfig
from stages.training.gradual_unfreezing import UnfreezeSchedule
from stages.training.lr_schedules import LRScheduleConfig, make_schedule
from stages.training.optim import create_optimizer, layerwise_lrs, parameter_groups
from stages.training.train_loop import TrainHooks, TrainRun, train
from tests.stages.training.networks import TASK, pictures, quick_network

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


def training(rank, folder, *, batchnorm="eval", unfreezing=UnfreezeSchedule(("head", "body"), 1), **others):  # noqa: B008
    model = quick_network()
    if batchnorm == "eval":
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                lock_eval_mode(layer)
    model.add_module("short_of_memory", ShortOfMemory() if rank.index == 1 else nn.Identity())
    model.register_forward_pre_hook(lambda model, inputs: model.short_of_memory(*inputs))
    groups = parameter_groups(model, layerwise_lrs(list(BLOCKS.items()), 1e-3, 0.5), 1e-2)
    optimizer = create_optimizer("adamw", groups)
    scheduler = make_schedule(optimizer, LRScheduleConfig("plateau"), 2, EPOCHS)

    def train_batches(epoch, first):
        order = torch.randperm(len(TRAIN[1]), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(BATCH)[first:]:  # the last is of three samples, of which one process has one
            own = part[rank.index :: rank.world_size]
            yield TRAIN[0][own], TRAIN[1][own]

    def prepare(epoch, first):
        if batchnorm == "eval":
            freeze(model, [name for block in unfreezing.trainable_blocks(epoch) for name in BLOCKS[block]])
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    lock_eval_mode(layer)

    config = TrainConfig(
        EPOCHS,
        grad_accum_steps=2,
        l1=1e-5,
        clip_grad=1.0,
        model_ema_decay=0.9,
        label_smoothing=0.1,
        checkpoint_seconds=0.0,
    )
    own_val = tuple(tensor[rank.index :: rank.world_size] for tensor in VAL)
    run = TrainRun(model, optimizer, config, TASK, train_batches, lambda: [own_val], rank)
    checkpoint = folder / f"{batchnorm}-of-{rank.world_size}" / f"as-{rank.index}.pt"
    result = train(run, scheduler, TrainHooks(checkpoint, on_epoch_start=prepare, **others))
    return [epoch.to_json("accuracy") for epoch in result.history], model.state_dict()


def main(folder: Path) -> None:
    def stop(epoch):
        if epoch.epoch == 2:
            raise StopError

    with process_group() as rank:
        try:
            training(rank, folder, on_epoch=stop)
        except StopError:
            history, weights = training(rank, folder)
        _, own_statistics = training(rank, folder, batchnorm="train")
        torch.save([history, weights, own_statistics], folder / f"{rank.index}-of-{rank.world_size}.pt")


if __name__ == "__main__":
    with single_threaded():
        main(Path(sys.argv[1]))
