"""Real networks that are quick: timm's test models, with statistics that fit the images they are shown."""

import timm
import torch
from torch import nn

from stages.tasks.single_label import SingleLabel

CLASSES, SIZE = 3, 64
TASK = SingleLabel("abc")


def pictures(count, seed=0):
    """Noise, brighter in the third of the image that the label names; float32 [count, 3, 64, 64]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    labels = torch.arange(count) % CLASSES
    for image, label in zip(images, labels, strict=True):
        image[:, label * SIZE // CLASSES : (label + 1) * SIZE // CLASSES] += 1.0
    return images, labels


def quick_network(name="test_efficientnet", **options):
    """Return the network in training mode, its BatchNorm adapted to pictures, as that of a trained network is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=CLASSES, **options)
        layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            model.train()(pictures(12)[0])
        for layer in layers:
            layer.momentum = 0.1
            layer.num_batches_tracked.zero_()
    return model
