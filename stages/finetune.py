"""Stage 3: head + top blocks + images -> fine-tuned network.

Linear probing, then fine-tuning (Kumar et al. 2022): the network starts as trunk + top + the stage-2 head, so before
the first step it answers what stage 2 answered. The frozen trunk runs without autograd, in evaluation mode, always;
only what is above the boundary is a model that trains.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.computing import computed
from stages.data import Augmentation, Manifest, read_image, stream
from stages.extractor import Extractor
from stages.head import TrainedHead
from stages.network.cut import Cut
from stages.network.freezing import freeze, keep_batchnorm_in_evaluation
from stages.network.heads import Head as HeadModule
from stages.network.inference import InferenceTrunk
from stages.network.pooling import Pool
from stages.options import Finetune
from stages.progress import progress
from stages.training.loop import Epoch, Fit, Training, fit
from stages.training.optimisers import make_optimiser, parameter_groups
from stages.training.schedules import Schedule, make_schedule

VALIDATION_BYTES = 1 << 30
"""Frozen outputs of the validation images are computed once and kept in memory up to this size."""


@dataclass
class Upper:
    """The trainable part of a transferred network, and where it joins the frozen one.

    Attributes
    ----------
    frozen : callable
        Rendered images, uint8 [b, 3, S, S] -> what the model is given: the boundary cut's output, without autograd.
    model : nn.Sequential
        ``top`` (the network from the boundary to the cut), ``pool``, ``head``: boundary output -> logits. A head on
        cached features has its ``head`` alone here.
    trained : tuple of str
        Names of the layers of the top that train; empty for a head on cached features.
    """

    frozen: Callable[[Tensor], Tensor]
    model: nn.Sequential
    trained: tuple[str, ...] = ()

    def probabilities(self, images: Tensor) -> list[Tensor]:
        """Return the probabilities, float32 [b, classes], of rendered images, uint8 [b, 3, S, S], as a list of one."""
        self.model.eval()
        with torch.inference_mode():
            return [self.model(self.frozen(images)).float().softmax(dim=1)]


@dataclass
class FineTuned:
    """A fine-tuned network with its history and what it took.

    Attributes
    ----------
    upper : Upper
        With the weights of the best validation epoch.
    fit : Fit
    backbone_forwards : int
        Images that went through the backbone, training and validation together.
    trainable_parameters : int
    """

    upper: Upper
    fit: Fit
    backbone_forwards: int
    trainable_parameters: int

    @property
    def head(self) -> HeadModule:
        """The fine-tuned head."""
        head = self.upper.model.get_submodule("head")
        assert isinstance(head, HeadModule)
        return head


def join(extractor: Extractor, head: nn.Module, unfreeze: str) -> Upper:
    """Join a stage-2 head to the extractor's network, split where `unfreeze` says training begins.

    The weights are copies: fine-tuning leaves the extractor's backbone as it is.

    Raises
    ------
    UsageError
        If `unfreeze` names no layer below the cut.
    """
    graph, cut = extractor.graph, extractor.cut
    boundary = graph.boundary(unfreeze)
    order = [one.name for one in graph.cuts]
    if boundary.cut is not None and order.index(boundary.cut.name) >= order.index(cut.name):
        raise UsageError(
            f"--unfreeze {unfreeze} begins at or above the cut {cut.name}, so no block below the head would train; "
            "unfreeze a lower layer, more blocks, or cut higher"
        )
    top = copy.deepcopy(graph.section(boundary.cut, cut))
    names = [f"{name}." for name, _ in top.named_parameters()]
    # what lies above the cut, the original classifier for one, is replaced by the head
    trained = tuple(prefix for prefix in boundary.trainable if any(name.startswith(f"{prefix}.") for name in names))
    freeze(top, trained)
    parts = {"top": top, "pool": Pool(extractor.options.pool, cut), "head": copy.deepcopy(head).requires_grad_(True)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    model.to(memory_format=torch.channels_last)
    return Upper(_frozen(extractor, boundary.cut), model.to(extractor.device), trained)


def _frozen(extractor: Extractor, boundary: Cut | None) -> Callable[[Tensor], Tensor]:
    """Return the frozen part of a network: rendered images -> output of the boundary cut."""
    below = None
    if boundary is not None:
        precision = extractor.trunk.precision
        below = InferenceTrunk(extractor.graph, [(boundary, Pool("none", boundary))], precision, extractor.device)

    @torch.no_grad()  # not inference_mode, whose outputs autograd refuses
    def output(images: Tensor) -> Tensor:
        inputs = extractor.backbone.preprocessing.normalise(images.to(extractor.device, non_blocking=True))
        return inputs if below is None else below(inputs)[0]

    return output


def finetune(
    extractor: Extractor,
    start: TrainedHead,
    options: Finetune,
    manifest: Manifest,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> FineTuned:
    """Fine-tune the top blocks and the head on augmented training images; keep the best validation epoch.

    Parameters
    ----------
    extractor : Extractor
        The backbone and the cut the head was trained at.
    start : TrainedHead
        Its head fitted without the validation split is where training starts.
    options : Finetune
    manifest : Manifest
        Readable samples; the test split is not touched.
    checkpoint : Path, optional
        Written after every epoch. A killed call, repeated, goes on from it and ends where it would have ended.
    """
    upper = join(extractor, start.module_without_val, options.unfreeze)
    train, val = (manifest.select(manifest.indices(split)) for split in ("train", "val"))
    if not len(train.keys) or not len(val.keys):
        raise DataError("fine-tuning needs readable images in the train and the validation split")
    forwards = 0

    def through_trunk(images: Tensor) -> Tensor:
        nonlocal forwards
        forwards += len(images)
        return upper.frozen(images)

    loader = _training_loader(extractor, options, train, seed)

    def train_batches(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert isinstance(loader.sampler, EpochOrder)
        loader.sampler.epoch, loader.sampler.skipped = epoch, first * options.finetune_batch_size
        for images, labels in progress(loader, label=f"epoch {epoch}/{options.epochs}", unit="batches"):
            yield through_trunk(images), labels

    val_batches = _remembering(
        lambda: (
            (through_trunk(images), torch.from_numpy(val.labels[indices]))
            for indices, images in _evaluation_batches(extractor, val, "validate")
        )
    )
    model = upper.model
    if options.batchnorm == "eval":
        keep_batchnorm_in_evaluation(model.get_submodule("top"))
    blocks = [("head", ("head",), options.finetune_head_rate), ("top", ("top",), options.rate)]
    optimiser = make_optimiser("adamw", parameter_groups(model, blocks, options.weight_decay))
    scheduler = make_schedule(optimiser, Schedule(options.schedule, options.warmup), len(loader), options.epochs)

    done = fit(
        model,
        optimiser,
        scheduler,
        Training(options.epochs, seed, options.label_smoothing),
        train_batches=train_batches,
        val_batches=val_batches,
        checkpoint=checkpoint,
        identity={"training": training_identity(extractor, start, options, manifest, seed)},
        on_epoch=on_epoch,
    )
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return FineTuned(upper, done, forwards, trainable)


def image_probabilities(extractor: Extractor, upper: Upper, manifest: Manifest) -> NDArray[np.float32]:
    """Return the probabilities, float32 [n, classes], of the manifest's images through the evaluation view."""
    requests = extractor.evaluation_requests(manifest.locations)
    found: list[NDArray[np.generic]] = []
    with progress(label="evaluate", total=len(manifest.keys), unit="images") as bar:
        for done in computed(requests, upper.probabilities, extractor.device, extractor.batch_size, extractor.threads):
            _require_readable(manifest, done.failures)
            found += done.rows
            bar.update(len(done.indices))
    return np.concatenate(found).astype(np.float32, copy=False)


def training_identity(
    extractor: Extractor, start: TrainedHead, options: Finetune, manifest: Manifest, seed: int
) -> str:
    """Return a digest of everything that shapes a fine-tuning: a checkpoint of another one is not gone on from."""
    weights = hashlib.sha256()
    for name, value in sorted(start.module_without_val.state_dict().items()):
        weights.update(name.encode() + value.detach().cpu().numpy().tobytes())
    identity = {
        "spec": extractor.fingerprint,
        "head": weights.hexdigest(),
        "options": {name: value for name, value in asdict(options).items() if name != "loader_workers"},
        "augment": extractor.options.augment,
        "samples": key_of_bytes("".join(manifest.keys).encode() + manifest.labels.tobytes()),
        "splits": key_of_bytes(" ".join(manifest.splits).encode()),
        "seed": seed,
    }
    return key_of_bytes(json.dumps(identity, sort_keys=True, default=str).encode())


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Training images by (epoch, index): the rendering depends on seed, epoch and key, on nothing else."""

    def __init__(self, manifest: Manifest, augment: Augmentation, seed: int) -> None:
        self.locations, self.keys, self.labels = manifest.locations, manifest.keys, manifest.labels
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = position
        seed = int(key_of_bytes(f"{self.seed} {epoch} {self.keys[index]}".encode())[:15], 16)
        return self.augment(read_image(self.locations[index]), seed), int(self.labels[index])


class EpochOrder(Sampler[tuple[int, int]]):
    """The order of an epoch, made of seed and epoch, as (epoch, index) pairs."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch, self.skipped = size, seed, 1, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        return iter([(self.epoch, index) for index in order[self.skipped :]])


def _training_loader(
    extractor: Extractor, options: Finetune, train: Manifest, seed: int
) -> DataLoader[tuple[Tensor, int]]:
    workers = options.loader_workers
    if workers is None:
        workers = min(max((os.cpu_count() or 1) - 1, 0), 8)
    return DataLoader(
        AugmentedImages(train, extractor.augmentation, seed),
        batch_size=options.finetune_batch_size,
        sampler=EpochOrder(len(train.keys), seed),
        # a last batch of one image has no BatchNorm statistics; with less than one full batch there is nothing to drop
        drop_last=len(train.keys) >= options.finetune_batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=extractor.device.type == "cuda",
    )


def _evaluation_batches(extractor: Extractor, manifest: Manifest, label: str) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (indices, uint8 [b, 3, S, S]) of the evaluation view of every image, in order."""
    requests = extractor.evaluation_requests(manifest.locations)
    with progress(label=label, total=len(manifest.keys), unit="images") as bar:
        for batch in stream(requests, extractor.batch_size, extractor.threads):
            _require_readable(manifest, batch.failures)
            yield list(batch.indices), batch.images
            bar.update(len(batch.indices))


def _require_readable(manifest: Manifest, failures: Sequence[tuple[int, str]]) -> None:
    for index, reason in failures:
        raise DataError(f"{manifest.locations[index]} could be read before and cannot be read now: {reason}")


def _remembering(
    make: Callable[[], Iterator[tuple[Tensor, Tensor]]],
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Return `make` that computes its batches once and serves them from memory, if they fit `VALIDATION_BYTES`.

    The frozen outputs of the validation images are the same in every epoch.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    complete = False

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal complete
        if complete:
            yield from kept
            return
        kept.clear()
        size, fits = 0, True
        for batch in make():
            size += sum(tensor.numel() * tensor.element_size() for tensor in batch)
            fits = fits and size <= VALIDATION_BYTES
            if fits:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        complete = fits

    return batches
