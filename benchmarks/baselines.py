"""What people do without cutonce. Nothing is tuned here, and nothing is made worse than it is commonly written.

Each function is run by `measurement.measure` in a process and a folder of its own. They take the network and its
weights from cutonce's own loader, in plain NCHW, so that features can be compared; the time for that is not counted.
torch is imported before anything of `stages`, which would have set how OpenMP's threads wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.frozen_training import BATCH_SIZE, new_head, order, train
from benchmarks.measurement import FEATURES, Measurement, measuring
from stages.data.images.preprocessing import Preprocessing
from stages.data.sources.open_image import read_image
from stages.network.backbones.registry import load_backbone
from stages.network.classifier import output_layers
from stages.network.graph.cuts import CutGraph
from stages.runtime.threads import usable_cores

Transform = Callable[[Any], Tensor]

FEATURE_BATCH_SIZE = 32
_TUTORIAL_BATCH, _GOOD_BATCH = 64, 256
WORKERS = 2


def tutorial_features(images: str, backbone: str, weights: str, device: str) -> Measurement:
    """Extract features as tutorials do: eager, NCHW, float32, Pillow and v1 transforms, loader processes."""
    loaded = load_backbone(backbone, weights)
    return _loop(images, loaded.module, _evaluation(loaded.preprocessing), device)


def features_of_our_pixels(images: str, backbone: str, weights: str, device: str, count: int) -> Measurement:
    """Extract features as `tutorial_features` does, but of the pixels that cutonce renders, of the first images."""
    loaded = load_backbone(backbone, weights)
    network = _without_output_layer(loaded.module).to(device)
    std = torch.tensor(loaded.preprocessing.std)[:, None, None]
    mean = torch.tensor(loaded.preprocessing.mean)[:, None, None]
    files = sorted(path for path, _ in _samples(images))[:count]
    with measuring(len(files)) as measurement, torch.no_grad():
        views = [loaded.preprocessing.render(read_image(file)).contiguous() for file in files]
        rows = [network(((view / 255 - mean) / std)[None].to(device)).cpu() for view in views]
    np.save(FEATURES, torch.cat(rows).numpy())
    return measurement


def loops(images: str, networks: list[dict[str, str]], device: str, counts: dict[str, int]) -> dict[str, float]:
    """Extract features with both loops of :func:`tutorial_loop` and :func:`plain_good_loop`, network by network.

    Parameters
    ----------
    networks
        Each with ``backbone`` and ``weights``.
    counts
        By the names ``tutorial`` and ``good``: how many of the images each loop takes.

    Returns
    -------
    dict
        Images per second by ``"<backbone> <loop>"``; a network has computed a batch before.
    """
    rates = {}
    for named in networks:
        for name, loop in (("tutorial", tutorial_loop), ("good", plain_good_loop)):
            loaded = load_backbone(named["backbone"], named["weights"])
            network = _without_output_layer(loaded.module).eval().to(device)
            files = [path for path, _ in _samples(images)][: counts[name]]
            rates[f"{named['backbone']} {name}"] = loop(files, network, loaded.preprocessing, device).rate
    return rates


def tutorial_loop(files: list[str], network: nn.Module, preprocessing: Preprocessing, device: str) -> Measurement:
    """Extract features as tutorials do on a large machine: a process a core, Pillow, v1 transforms, float32."""
    size = preprocessing.image_size
    with torch.no_grad():
        network(torch.zeros(min(_TUTORIAL_BATCH, len(files)), 3, size, size, device=device))
    with measuring(len(files)) as measurement, torch.no_grad():
        dataset = _Files(files, _decoded_by_pillow, _evaluation(preprocessing))
        loader = DataLoader(dataset, _TUTORIAL_BATCH, num_workers=usable_cores())
        np.save(FEATURES, torch.cat([network(inputs.to(device)).cpu() for inputs in loader]).numpy())
    return measurement


def plain_good_loop(files: list[str], network: nn.Module, preprocessing: Preprocessing, device: str) -> Measurement:
    """Extract features as somebody does who knows torch well, in a loop that is still short.

    A process a core, torchvision's decoder and v2 transforms on bytes, pinned batches, normalised on the device,
    channels_last and autocast to bfloat16.
    """
    network = network.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(part, device=device)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
    transform = v2.Compose(
        [
            v2.Resize(preprocessing.resize, preprocessing.interpolation_mode, antialias=True),
            v2.CenterCrop(preprocessing.image_size),
        ]
    )
    on_gpu = torch.device(device).type == "cuda"

    def features(inputs: Tensor) -> Tensor:
        on_device = inputs.to(device, non_blocking=True)
        normalized = on_device.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return network(normalized).float().cpu()

    with torch.inference_mode():
        features(torch.zeros(min(_GOOD_BATCH, len(files)), 3, *preprocessing.shape, dtype=torch.uint8))
    with measuring(len(files)) as measurement, torch.inference_mode():
        dataset = _Files(files, _decoded_by_torchvision, transform)
        loader = DataLoader(dataset, _GOOD_BATCH, num_workers=usable_cores(), pin_memory=on_gpu)
        np.save(FEATURES, torch.cat([features(inputs) for inputs in loader]).numpy())
    return measurement


class _Files(Dataset[Tensor]):
    """Files, decoded and transformed."""

    def __init__(self, files: list[str], decode: Callable[[str], Any], transform: Transform) -> None:
        self.files, self.decode, self.transform = files, decode, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.decode(self.files[index]))


def _decoded_by_pillow(file: str) -> Image.Image:
    return Image.open(file).convert("RGB")


def _decoded_by_torchvision(file: str) -> Tensor:
    return torchvision.io.decode_jpeg(torchvision.io.read_file(file), mode=torchvision.io.ImageReadMode.RGB)


def torchvision_features(images: str, backbone: str, weights: str, device: str) -> Measurement:
    """Extract features in a plain loop with the transforms that come with torchvision's weights."""
    transform = torchvision.models.get_model_weights(backbone).DEFAULT.transforms()
    return _loop(images, load_backbone(backbone, weights).module, transform, device)


def timm_features(images: str, backbone: str, weights: str, device: str) -> Measurement:
    """Extract features in a plain loop with the transform that timm makes for its network."""
    network: Any = load_backbone(backbone, weights).module
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    return _loop(images, network, transform, device)


def visbench_features(images: str, backbone: str, weights: str, device: str) -> Measurement:
    """Extract features with visbench: its FeatureCache, with a network of torchvision as its CustomBackbone."""
    from visbench.backbones.custom import CustomBackbone
    from visbench.cache import FeatureCache
    from visbench.data import ImageFolderDataset

    loaded = load_backbone(backbone, weights)
    graph = CutGraph(loaded.module, loaded.preprocessing.image_size)
    last_map = [cut for cut in graph.cuts if cut.layout == "nchw" and math.prod(cut.shape[1:]) > 1][-1]
    below_pooling = graph.section(None, last_map).eval()  # visbench averages the map by itself
    network = CustomBackbone(below_pooling, _evaluation(loaded.preprocessing), name=backbone, device=device)
    with measuring(len(_samples(images))) as measurement:
        dataset = ImageFolderDataset(Path(images))
        features = FeatureCache(Path("visbench-cache")).extract_dataset(
            network, dataset, batch_size=FEATURE_BATCH_SIZE, keep="pooled"
        )
    np.save(FEATURES, features["pooled"].numpy())
    return measurement


def tutorial_training(
    images: str, backbone: str, weights: str, device: str, augmented: bool, epochs: int
) -> Measurement:
    """Train the head of a frozen network as the tutorial does: every image through the network in every epoch.

    The tutorial leaves the network in training mode, in which the statistics of eight images at a time change the
    BatchNorm layers of the frozen part. Here it is in evaluation mode, which is no slower, so that both sides train on
    the same features.
    """
    loaded = load_backbone(backbone, weights)
    network = loaded.module.to(device)
    layer: Any = network.get_submodule(output_layers(network)[0])
    evaluation = _evaluation(loaded.preprocessing)
    with measuring(len(_samples(images + "/train")) * epochs) as measurement:
        sets = {
            "train": ImageFolder(images + "/train", _augmentation(loaded.preprocessing) if augmented else evaluation),
            "val": ImageFolder(images + "/val", evaluation),
        }
        head = new_head(layer.in_features, len(sets["train"].classes)).to(device)
        network.set_submodule(output_layers(network)[0], head)

        def batches(split: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            sampler = order(split, epoch, len(sets[split]))
            for inputs, labels in DataLoader(sets[split], BATCH_SIZE, sampler=sampler, num_workers=WORKERS):
                yield inputs.to(device), labels.to(device)

        accuracy = train(network, head, batches, epochs)
    measurement.details = {"validation accuracy": accuracy}
    return measurement


def _loop(images: str, module: nn.Module, transform: Transform, device: str) -> Measurement:
    network = _without_output_layer(module).to(device)
    with measuring(len(_samples(images))) as measurement:
        loader = DataLoader(ImageFolder(images, transform), FEATURE_BATCH_SIZE, num_workers=WORKERS)
        with torch.no_grad():
            rows = [network(inputs.to(device)).cpu() for inputs, _ in loader]
        np.save(FEATURES, torch.cat(rows).numpy())
    return measurement


def _without_output_layer(module: nn.Module) -> nn.Module:
    """Return the network with its features as output; where pooling comes after the output layer, with pooling."""
    name = output_layers(module)[0]
    pooled_before = isinstance(module.get_submodule(name), nn.Linear)
    module.set_submodule(name, nn.Identity() if pooled_before else nn.AdaptiveAvgPool2d(1))
    return module


def _evaluation(preprocessing: Preprocessing) -> Transform:
    return transforms.Compose(
        [
            transforms.Resize(preprocessing.resize, preprocessing.interpolation_mode),
            transforms.CenterCrop(preprocessing.image_size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


def _augmentation(preprocessing: Preprocessing) -> Transform:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(preprocessing.image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


def _samples(images: str) -> list[tuple[str, int]]:
    return ImageFolder(images).samples
