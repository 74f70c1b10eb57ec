"""Fine-tuning without a run: images and targets in, a network that predicts those of images out."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cache import DigestCache
from cache.errors import DataError, UsageError, did_you_mean
from cache.keys import KEY_MEMO
from pipeline.library.arguments import cache_folder, group_names, require_share, seed_of
from pipeline.library.backbones import AnyBackbone, build_extractor_of, config_of
from pipeline.library.images import ImageList, Images, all_images, image_chunks, require_some, unreadable_error
from stages.config.data import AUTO, DENSE
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.config.other_words import near_options
from stages.data.group_split import labels_of_strata, split_units, stratified_group_split
from stages.data.images.preprocessing import stack_pixels
from stages.data.manifest import Manifest, load_targets
from stages.data.targets.arrays import read_arrays
from stages.data.targets.registry import Reading
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import read_features
from stages.finetuning.baselines import random_head
from stages.finetuning.finetune import FinetuneResult, require_trainable
from stages.finetuning.finetune import finetune as finetune_manifest
from stages.finetuning.predict_images import iter_predictions, predict_proba
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.transfer_model import (
    FrozenPart,
    TrainableTop,
    TransferModel,
    answers_in_tf32,
    rebuild_transfer_model,
)
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import require_head_for, train_head
from stages.fitting.problem import CutContext, FitProblem
from stages.network.graph.cuts import Cut
from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import FrozenTrunk
from stages.network.heads.base import Head
from stages.network.heads.serialization import rebuild_head
from stages.network.module_paths import has_prefix
from stages.runtime.allocator import freed_memory_returned
from stages.runtime.fresh_settings import usable_anywhere
from stages.runtime.progress import progress_bars
from stages.runtime.seeding import preserve_rng_state
from stages.tasks.base import Task, ranked_by
from stages.training.history import Epoch
from stages.training.losses import logits_of

TensorsByName: TypeAlias = dict[str, Tensor]

_LABEL = "label"
"""The column of a data frame."""

_OF_RUNS = ("backbone", "cache", "strict", "name", "baselines", "baseline_lr")
"""Options that are about runs and their tables, or arguments of their own."""


class TransferNetwork(nn.Module):
    """The whole network: normalised images, float32 [b, 3, S, S] -> logits [b, classes].

    Attributes
    ----------
    frozen : nn.Module or None
        What did not train; None where all did.
    trained : nn.Module
        Its output -> logits.
    """

    def __init__(
        self, extractor: Extractor, boundary: Cut | None, trained: TrainableTop, options: FinetuneConfig
    ) -> None:
        super().__init__()
        self._made_of = (extractor, options)
        self.frozen: FrozenTrunk | None = None
        if boundary is not None:
            taps = [(boundary, Pool("none", boundary))]
            self.frozen = FrozenTrunk(extractor.graph, taps, extractor.trunk.precision, extractor.device)
        self.trained = trained

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images that were normalised as the network wants them."""
        return logits_of(self.trained(self.below(images)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process, or a copy, makes it again: what is traced or frozen is not pickled."""
        extractor, options = self._made_of
        top, head = self.trained.top.state_dict(), self.trained.head
        of_top = {name: tensor for name, tensor in top.items() if not has_prefix(name, self.trained.auxiliary)}
        return _made_again, (extractor, options, head.config, _on_cpu(head.state_dict()), _on_cpu(of_top))

    def below(self, images: Tensor) -> Tensor:
        """Return the output of what did not train."""
        output: Tensor = FrozenPart(self.frozen)(images)
        return output


@usable_anywhere
def _made_again(
    extractor: Extractor, options: FinetuneConfig, head: dict[str, Any], of_head: TensorsByName, of_top: TensorsByName
) -> TransferNetwork:
    """Return the network that was pickled, in evaluation mode, on the device of its extractor."""
    rebuilt = rebuild_head(head, of_head, extractor.graph, "what was pickled").to(extractor.device)
    upper = rebuild_transfer_model(extractor, rebuilt, options.unfreeze, invert=options.invert_unfreeze)
    upper.model.top.load_state_dict(of_top)
    return _network_of(extractor, upper, options)


def _network_of(extractor: Extractor, upper: TransferModel, options: FinetuneConfig) -> TransferNetwork:
    module = TransferNetwork(extractor, upper.boundary, upper.model, options)
    return module.eval().requires_grad_(False)


def _on_cpu(tensors: TensorsByName) -> TensorsByName:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


@dataclass(frozen=True, eq=False)
class FinetunedNetwork:
    """A fine-tuned network that answers for images.

    Attributes
    ----------
    classes_ : array [k]
        In the order of the outputs: the classes, the names of labels, or those of numbers.
    task : Task
        What is predicted, with the thresholds or intervals that the validation images set.
    module : TransferNetwork
        In evaluation mode, on the device; `preprocess` makes its input.
    history : list of Epoch
        Of the training; epoch 0 is the head it started from.
    best : Epoch
        Whose weights were kept.
    """

    classes_: NDArray[Any]
    task: Task
    module: TransferNetwork
    history: list[Epoch]
    best: Epoch
    _extractor: Extractor
    _options: FinetuneConfig

    @usable_anywhere
    def preprocess(self, images: Tensor) -> Tensor:
        """Return photographs of one size, uint8 [b, 3, h, w], as the network wants them: float32, on the device.

        Raises
        ------
        ValueError
            If they are something else.
        """
        is_tensor = isinstance(images, Tensor)
        if not is_tensor or images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
            kind = f"{images.dtype} {list(images.shape)}" if is_tensor else f"a {type(images).__name__}"
            raise UsageError(f"images has to be a tensor, uint8 [b, 3, h, w], of one image or more, not {kind}")
        render = self._extractor.backbone.preprocessing.render
        return self._extractor.preprocess(stack_pixels([render(image) for image in images]))

    @usable_anywhere
    def predict_proba(self, images: Images) -> NDArray[np.float32]:
        """Return the probability of each class or label, float32 [n, k]; `images` as for :func:`pipeline.features`.

        Raises
        ------
        ValueError
            If an image cannot be read, something else than images is given, or numbers are predicted.
        """
        if self.task.outputs == "values":
            raise UsageError("numbers have no probabilities; predict returns them")
        return self._activated(images)

    @usable_anywhere
    def predict(self, images: Images) -> NDArray[Any]:
        """Return the most probable class of each image, [n]; which labels it has, bool [n, k]; its numbers, [n, k].

        One number for each image is [n].
        """
        values = self.task.values(torch.from_numpy(self._activated(images)))
        if values.ndim == 1:
            return np.asarray(self.classes_[values])
        return values[:, 0] if self.task.outputs == "values" and values.shape[1] == 1 else values

    def _activated(self, images: Images) -> NDArray[np.float32]:
        module = self.module
        upper = TransferModel(
            self._extractor.preprocess,
            module.below,
            module.trained,
            FrozenPart(module.frozen),
            tf32=answers_in_tf32(self._extractor),
        )
        parts = [np.empty((0, len(self.classes_)), dtype=np.float32)]
        for chunk in image_chunks(images):
            chunk.require_readable()
            for batch in iter_predictions(self._extractor, upper, self.task, chunk.locations, self._options.tta):
                if batch.failures:
                    raise unreadable_error([(chunk.locations[index], reason) for index, reason in batch.failures])
                parts.append(batch.activated)
        return np.concatenate(parts)


@usable_anywhere
def finetune(
    images: Images,
    labels: ArrayLike | None = None,
    *,
    task: str = AUTO,
    log_target: bool = False,
    ordinal: Sequence[str] = (),
    metric: str | None = None,
    class_weights: Literal["none", "balanced"] = "none",
    backbone: AnyBackbone = FeatureConfig.backbone,
    groups: ArrayLike | None = None,
    val_size: float = 0.2,
    seed: int = 0,
    cache: Path | str | None = None,
    progress: bool = False,
    **options: Any,
) -> FinetunedNetwork:
    """Fine-tune the top of a pretrained network: a head is fitted to its features first, and training starts from it.

    Parameters
    ----------
    images : sequence
        As for :func:`pipeline.features`. What a ``Dataset`` yields is asked for once, and kept in memory.
    labels : array [n], optional
        Classes, of any type that has an order. By default those that a ``Dataset`` yields, or the column ``label`` of a
        data frame. Of several labels, the names that each image has, as a list or joined with ``|``; or 0, 1 and nan
        (not known) [n, k], or a data frame of them. Of numbers, [n] or [n, k]; nan is not known.
    task : "auto", "single_label", "multi_label" or "regression"
        What is predicted; auto takes lists of names, and columns of 0 and 1, for labels, and all else for classes.
    log_target, ordinal
        Of numbers, as in ``DataConfig``: whether their logarithms are predicted; ordered classes, lowest first.
    metric : str, optional
        What the epoch that is kept, and the settings of the first head, are chosen by, such as ``f1_macro`` (default:
        the task's).
    class_weights : {"none", "balanced"}
        balanced: rare classes count as much as frequent ones, in training and, unless `metric` names another, in what
        chooses; of several labels, images with a label as much as those without it.
    backbone : str, nn.Module or Backbone
        As for :func:`pipeline.features`. A network of your own has to be one that can be traced, and it stays as it is:
        what trains is a copy.
    groups : array [n], optional
        Images of one group (a patient, a product) stay on one side of the split.
    val_size : float
        Share of the images of each class that validate: the epoch that does best on them is kept.
    seed : int
        Of the split and the training.
    cache : Path, optional
        Folder where features are kept, of which the first head is made; by default nothing is left on disk.
    progress : bool
        Whether progress bars are shown.
    **options
        Everything else is an option of the stages, named as in ``FeatureConfig`` (``cut``, ``image_size``,
        ``augment``, ...) and ``FinetuneConfig`` (``unfreeze``, ``epochs``, ...).

    Raises
    ------
    ValueError
        If an argument is not what it has to be, an image cannot be read, or the options cannot train this network.

    Examples
    --------
    >>> from pipeline import finetune
    >>> tuned = finetune(paths, labels, unfreeze="2", epochs=4)  # doctest: +SKIP
    >>> tuned.predict(new_paths)  # doctest: +SKIP
    """
    stage_options = _given_options(options)
    if str(task) == DENSE:
        raise UsageError("`task` dense is of masks, which TransferSegmenter and the command `finetune` learn")
    seed = seed_of("seed", seed)
    with TemporaryDirectory() as temporary, preserve_rng_state(), progress_bars(progress), freed_memory_returned():
        folder = cache_folder(cache, Path(temporary))
        features = config_of(backbone, cache=folder, **stage_options[FeatureConfig])
        config = FinetuneConfig(**{"num_workers": _loader_workers(), **stage_options[FinetuneConfig]})
        listed = all_images(images, None if cache is None else DigestCache(folder / KEY_MEMO))
        require_some(listed)
        given = _labels_of(images, labels, listed)
        reading, classes = read_arrays(given, task, log_target=log_target, ordinal=ordinal)
        manifest = labelled_manifest(listed, reading, groups, val_size, seed)
        balanced = HeadConfig(class_weights=class_weights).class_weights == "balanced"
        manifest = replace(manifest, task=ranked_by(manifest.task, metric, balanced=balanced))
        extractor = build_extractor_of(backbone, features, cached=cache is not None)
        config = config.for_task(manifest.task.name)
        for name in config.heads_for(manifest.task.name):
            require_head_for(name, manifest.task, extractor.row_shape, bags=False, option="init_head")
        require_trainable(extractor, config, manifest, balanced=balanced)
        head = _starting_head(extractor, manifest, config, seed, class_weights)
        tuned = finetune_manifest(FinetuneProblem(extractor, manifest, head, config, seed, balanced=balanced))
        return _network(extractor, classes, manifest, config, tuned)


def labelled_manifest(
    images: ImageList, reading: Reading, groups: ArrayLike | None, val_size: float, seed: int
) -> Manifest:
    """Return the manifest of images with a validation split, its task scaled to the training images.

    Raises
    ------
    ValueError
        If an image cannot be read, numbers do not match, or there is too little to split.
    """
    require_share("val_size", val_size)
    images.require_readable()
    _require_number("labels", reading.texts, images)
    names = group_names(groups, len(images))
    task = reading.make_task(reading.texts)
    num_classes = len(getattr(task, "class_names", ()))
    if num_classes == 1:
        raise DataError("labels holds 1 class; at least two are needed")
    targets = load_targets(task, reading.texts)
    strata = labels_of_strata(task.strata(targets), len(targets))
    units = split_units(images.keys, strata, [""] * len(images), names, seed)
    held_out_keys = stratified_group_split(units, val_size, min_kept=1)
    splits = ["val" if key in held_out_keys else "train" for key in images.keys]
    is_train = np.array([split == "train" for split in splits])
    of_train = [stratum for stratum, train in zip(strata, is_train, strict=True) if train]
    trained = {name for stratum in of_train for name in ((stratum,) if isinstance(stratum, str) else stratum)}
    if not held_out_keys or not trained.issuperset(map(str, range(num_classes))):
        raise DataError(
            "labels: a class or label has too few images, or groups, to train on some and validate on others; at least "
            "two of each are needed"
            if num_classes
            else "labels: too few images, or groups, to train on some and validate on others"
        )
    scaled = task.scaled_to(targets[is_train])
    return Manifest(
        images.locations,
        load_targets(scaled, reading.texts),
        splits,
        images.keys,
        scaled,
        groups=names,
        keyed_ns=images.keyed_ns,
    )


def _given_options(options: dict[str, Any]) -> dict[type, dict[str, Any]]:
    """Return the options of each stage."""
    names = {kind: {field.name for field in fields(kind)} - set(_OF_RUNS) for kind in (FeatureConfig, FinetuneConfig)}
    known = sorted(set().union(*names.values()))
    for name in options:
        if name not in known:
            raise UsageError(f"finetune has no option {name!r}.{did_you_mean(near_options(name, known))}")
    return {kind: {name: options[name] for name in options if name in names[kind]} for kind in names}


def _labels_of(images: Images, labels: ArrayLike | None, listed: ImageList) -> Any:
    if labels is not None:
        return labels
    if hasattr(images, "columns") and _LABEL in images.columns:
        return np.asarray(images[_LABEL])
    if listed.labels:
        return listed.labels
    raise UsageError(
        "labels has to be given, unless images are a Dataset of (image, label) or a data frame with a column 'label'"
    )


def _require_number(name: str, values: Sequence[Any] | NDArray[Any], images: ImageList) -> None:
    if np.ndim(values) != 1:
        raise UsageError(f"{name} has to hold one value for each image, [n], not {list(np.shape(values))}")
    if len(values) != len(images):
        raise UsageError(f"{name} holds {len(values)} values for {len(images)} images; there has to be one for each")


def _loader_workers() -> int | None:
    """Return 0 where processes that load images cannot be forked: they would import, or not even start."""
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return None if method == "fork" and not multiprocessing.current_process().daemon else 0


def _starting_head(
    extractor: Extractor,
    manifest: Manifest,
    config: FinetuneConfig,
    seed: int,
    class_weights: Literal["none", "balanced"],
) -> Head:
    """Return a head that was fitted to features of the training images, or one that knows nothing."""
    assert config.init_head is not None, "of a task"
    if config.init_head == "new":
        return random_head(extractor, manifest.task.out_features, seed)
    extraction = extract(extractor, manifest)
    if extraction.skipped:
        raise unreadable_error(extraction.skipped)
    train, val = (
        FeatureRows(read_features(extractor, part), part.targets, groups=part.group_numbers)
        for part in (manifest.select(manifest.indices(split)) for split in ("train", "val"))
    )
    context = CutContext(extractor.graph, extractor.cut)
    options = HeadConfig(class_weights=class_weights)
    problem = FitProblem(train, val, manifest.task, options, seed, extractor.device, context)
    return train_head(config.init_head, problem).module_train_only


def _network(
    extractor: Extractor,
    classes: NDArray[Any] | None,
    manifest: Manifest,
    config: FinetuneConfig,
    tuned: FinetuneResult,
) -> FinetunedNetwork:
    assert tuned.fit.best is not None
    task = manifest.task
    if classes is None:
        classes = np.array(getattr(task, "class_names", None) or getattr(task, "names", ()))
    if task.calibrates:
        val = manifest.select(manifest.indices("val"))
        of_val = torch.from_numpy(predict_proba(extractor, tuned.upper, val, config.tta))
        task = task.calibrated(of_val, torch.from_numpy(val.targets))
    module = _network_of(extractor, tuned.upper, config)
    return FinetunedNetwork(classes, task, module, tuned.fit.history, tuned.fit.best, extractor, config)
