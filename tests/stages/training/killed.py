"""A training that test_resume.py starts and kills: momentum, an average, accumulation, and a network that draws."""

import sys
from pathlib import Path

import torch
from torch import nn

from stages.runtime.threads import single_threaded
from stages.training.config import TrainConfig
from stages.training.lr_schedules import LRScheduleConfig, make_schedule
from stages.training.optim import create_optimizer, layerwise_lrs, parameter_groups
from stages.training.train_loop import TrainHooks, TrainRun, train
from tests.stages.training.networks import TASK, pictures, quick_network

BATCHES, ACCUMULATED, EPOCHS = 7, 2, 3
BODY = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")
BLOCKS = [("head", ["1.classifier"]), ("body", [f"1.{name}" for name in BODY])]


class Noise(nn.Module):
    """An augmentation inside the model, drawn from torch's generator."""

    def forward(self, images):
        return images + 0.1 * torch.randn_like(images) if self.training else images


def main(checkpoint: str, weights: str) -> None:
    """Train with a checkpoint after every step, telling each batch; save the final weights."""
    model = nn.Sequential(Noise(), quick_network(drop_rate=0.3, drop_path_rate=0.2))
    groups = parameter_groups(model, layerwise_lrs(BLOCKS, 3e-3, 0.3), 1e-2)
    optimizer = create_optimizer("sgd", groups)
    scheduler = make_schedule(optimizer, LRScheduleConfig("onecycle"), -(-BATCHES // ACCUMULATED), EPOCHS)
    images, labels = pictures(4 * BATCHES)

    def train_batches(epoch, first):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for number, part in enumerate(order.split(4)[first:], start=first):
            sys.stdout.write(f"epoch {epoch} batch {number}\n")
            sys.stdout.flush()
            yield images[part], labels[part]

    config = TrainConfig(
        EPOCHS, seed=1, model_ema_decay=0.9, grad_accum_steps=ACCUMULATED, clip_grad=5.0, checkpoint_seconds=0.0
    )
    train(
        TrainRun(model, optimizer, config, TASK, train_batches, lambda: [pictures(9, seed=1)]),
        scheduler,
        TrainHooks(checkpoint=Path(checkpoint), identity={"network": "test_efficientnet"}),
    )
    torch.save(model.state_dict(), weights)


if __name__ == "__main__":
    with single_threaded():
        main(*sys.argv[1:])
