"""A class for each pixel, as scikit-learn has classes: images and masks in, masks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from cache import DigestCache
from cache.errors import DataError, UsageError, WeightsError
from cache.keys import KEY_MEMO
from pipeline.experiment.methods.head_methods import masks_for
from pipeline.experiment.models.model_card import config_to_json
from pipeline.experiment.setup.dense_defaults import dense_features
from pipeline.library.argument_names import argument_names
from pipeline.library.arguments import cache_folder, group_names, head_path, require_one_head, require_share, seed_of
from pipeline.library.backbones import AnyBackbone, build_extractor_of
from pipeline.library.functions import feature_options
from pipeline.library.head_estimator import head_on_cpu
from pipeline.library.images import ImageList, Images, all_images, require_some, unreadable_error
from pipeline.library.masks import mask_files, masks_as_given
from stages.config.data import DENSE, DataConfig
from stages.config.features import CropMode, FeatureConfig, PrecisionChoice
from stages.config.heads import HeadConfig
from stages.data.group_split import split_units, stratified_group_split
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import Manifest
from stages.data.masks.class_table import ClassTable
from stages.data.masks.mask_classes import MaskClasses, read_mask
from stages.data.sources.target_columns import MASK
from stages.data.targets.columns import TargetColumns
from stages.data.targets.dense import read_masks
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import require_cached
from stages.finetuning.predict_masks import PredictedMask, iter_masks
from stages.finetuning.transfer_model import head_on_features
from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.fit_head import HeadResult, require_head_for, train_head
from stages.fitting.problem import FitProblem
from stages.network.heads.base import Head
from stages.network.heads.serialization import load_head, save_head
from stages.runtime.allocator import freed_memory_returned
from stages.runtime.fresh_settings import usable_anywhere
from stages.tasks.base import find_metric
from stages.tasks.dense import Dense

if TYPE_CHECKING:
    from typing_extensions import Self

_BUFFER = 512 << 20
"""Bytes of maps that are in memory while they are shuffled; the rest stays in the cache."""


class TransferSegmenter(BaseEstimator):  # type: ignore[misc]
    """A head on the maps of a frozen network that says the class of each pixel, trained as the command ``train`` does.

    Unlike `TransferClassifier` it takes images and not features: maps are large, and stay in a cache on disk.

    Parameters
    ----------
    head : {"lraspp", "linear", "fcn", "deeplabv3"}
    backbone : str, nn.Module or Backbone
        As of :func:`pipeline.features`.
    cut : str or tuple of str
        Whose maps the head sees; ``maps`` are the last blocks at the strides 8, 16 and 32.
    weights : str or Path
    image_size : int or str, optional
        At which images are seen, as ``"360x480"``, height first (default: the commonest size of the images).
    crop_mode : {"squash", "border"}
    intensity_range : str or (float, float)
    channels : str or sequence of int
    page : str or int
        As of :func:`pipeline.features`.
    precision : {"fp32", "tf32", "bf16", "fp16", "auto"}, optional
        Arithmetic of the network (default: auto on an NVIDIA GPU, fp32 elsewhere).
    class_names : sequence of str, optional
        Of the numbers 0, 1, ... in masks (default: the numbers that masks hold).
    ignore_label : int or str, optional
        The number, or color, in masks for no known class, besides 255.
    epochs : int, optional
        Of the training (default: what suits the head).
    lr : float, optional
        Its highest rate.
    class_weights : {"none", "balanced"}
        Whether pixels of rare classes weigh more.
    validation_fraction : float
        Share of the images that is held out, by which the epoch is chosen. What is fitted in the end is fitted on all.
    cache : Path, optional
        Folder where maps are kept; by default in a temporary one, for as long as the fit takes.
    device : str
    random_state : int, RandomState or None

    Attributes
    ----------
    classes_ : array of str [k]
        In the order of the numbers in predicted masks.
    head_ : Head
        Maps of a batch, joined flat -> logits [b, k, h, w], on the device.
    task_ : Dense
    result_ : HeadResult
        What was chosen, and how it validated.
    """

    def __init__(
        self,
        head: str = "lraspp",
        *,
        backbone: AnyBackbone = "efficientnet_lite0",
        cut: str | Sequence[str] = "maps",
        weights: str | Path = "default",
        image_size: int | str | None = None,
        crop_mode: CropMode = "squash",
        intensity_range: str | tuple[float, float] = "full",
        channels: str | Sequence[int] = "rgb",
        page: str | int = "first",
        precision: PrecisionChoice | None = None,
        class_names: Sequence[str] | None = None,
        ignore_label: int | str | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        class_weights: Literal["none", "balanced"] = "none",
        validation_fraction: float = 0.2,
        cache: Path | str | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.head = head
        self.backbone = backbone
        self.cut = cut
        self.weights = weights
        self.image_size = image_size
        self.crop_mode = crop_mode
        self.intensity_range = intensity_range
        self.channels = channels
        self.page = page
        self.precision = precision
        self.class_names = class_names
        self.ignore_label = ignore_label
        self.epochs = epochs
        self.lr = lr
        self.class_weights = class_weights
        self.validation_fraction = validation_fraction
        self.cache = cache
        self.device = device
        self.random_state = random_state

    @argument_names(fit_epochs="epochs", fit_lr="lr")
    @usable_anywhere
    def fit(self, images: Images, masks: Any, *, groups: ArrayLike | None = None) -> Self:
        """Extract the maps that the cache lacks, and train the head.

        Parameters
        ----------
        images : Images
            As of :func:`pipeline.features`.
        masks : sequence
            For each image the path of its mask, or an array [h, w] of the numbers of the classes, or [h, w, 3] of their
            colors; in the proportions of the image. 255 is of no known class.
        groups : array [n], optional
            Images of one group (a scene, a patient) are held out together.

        Raises
        ------
        ValueError
            If a parameter is wrong, an image or a mask cannot be read, or there is nothing to learn from.
        """
        require_share("validation_fraction", self.validation_fraction)
        require_one_head(self.head)
        seed = self._drawn_seed()
        with TemporaryDirectory(prefix="cutonce-") as folder:
            cache = cache_folder(self.cache, Path(folder) / "cache")
            memo = None if self.cache is None else DigestCache(cache / KEY_MEMO)
            listed = all_images(images, memo)
            require_some(listed)
            listed.require_readable()
            with masks_as_given(Path(folder)):
                manifest = self._manifest(listed, masks, groups, Path(folder), seed)
            self.extractor_ = self._extractor(manifest, cache)
            maps = self.extractor_.map_layout
            require_head_for(self.head, manifest.task, (maps.width,), bags=False, maps=maps)
            extraction = extract(self.extractor_, manifest)
            if extraction.skipped:
                raise unreadable_error(extraction.skipped)
            options = self._head_options()
            train, val = (
                StreamedFeatureRows(
                    require_cached(self.extractor_, manifest.select(places)),
                    [manifest.keys[place] for place in places],
                    places,
                    _BUFFER,
                )
                for places in (manifest.indices("train"), manifest.indices("val"))
            )
            problem = FitProblem(
                *(train, val, manifest.task, options, seed, self.extractor_.device),
                maps=maps,
                targets=masks_for(self.extractor_, manifest, options),
            )
            with freed_memory_returned():
                self.result_: HeadResult = train_head(self.head, problem)
        assert isinstance(manifest.task, Dense)
        assert manifest.mask_classes is not None
        self.task_: Dense = manifest.task
        self.mask_classes_: MaskClasses = manifest.mask_classes
        self.classes_: NDArray[np.str_] = np.array(self.task_.class_names)
        self.head_: Head = self.result_.module.to(self.extractor_.device)
        return self

    @usable_anywhere
    def predict(self, images: Images) -> list[NDArray[np.uint8]]:
        """Return the class of each pixel of images, uint8 [h, w] each, at the images' own sizes.

        The numbers are places in `classes_`.

        Raises
        ------
        ValueError
            If an image cannot be read.
        """
        return [np.asarray(answer.mask) for answer in self._answers(images)]

    @usable_anywhere
    def predict_proba(self, images: Images) -> list[NDArray[np.float16]]:
        """Return the probability of each class at each pixel of images, float16 [k, h, w] each.

        Raises
        ------
        ValueError
            If an image cannot be read.
        """
        return [np.asarray(answer.probabilities) for answer in self._answers(images, probabilities=True)]

    def score(self, images: Images, masks: Any) -> float:
        """Return the mean intersection over union of images, of every known pixel of their masks.

        Parameters
        ----------
        images, masks
            As of `fit`; masks hold what those that it was fitted to held.

        Raises
        ------
        ValueError
            If an image or a mask cannot be read, a mask holds what is no class, or is of another size than its image.
        """
        predicted = self.predict(images)
        if not predicted:
            raise UsageError("images holds none, and a score is of some")
        with TemporaryDirectory(prefix="cutonce-") as folder:
            files, _ = mask_files(masks, len(predicted), Path(folder))
            with masks_as_given(Path(folder)):
                true = [_true_mask(file, self.mask_classes_) for file in files]
        for number, (mask, truth) in enumerate(zip(predicted, true, strict=True)):
            if mask.shape != truth.shape:
                raise DataError(
                    f"masks[{number}] is {truth.shape[0]} x {truth.shape[1]} and its image {mask.shape[0]} x "
                    f"{mask.shape[1]}"
                )
        statistics = [self.task_.statistic_of_mask(mask, truth) for mask, truth in zip(predicted, true, strict=True)]
        return find_metric(self.task_).score(np.stack(statistics))

    def save(self, path: Path | str) -> None:
        """Write the head: its tensors to `path` with ``.safetensors``, all else to ``.json`` beside it.

        `load` reads it back. The network is not written: it is loaded again by its name. Nothing is pickled, and
        `result_` is not kept.

        Raises
        ------
        ValueError
            If the network was handed in, so that no name leads to it.
        """
        check_is_fitted(self)
        if not isinstance(self.backbone, str):
            raise UsageError("a network that was handed in has no name by which it could be loaded again")
        parameters = {name: value for name, value in self.get_params(deep=False).items() if name != "device"}
        if not isinstance(self.random_state, int | np.integer):
            parameters["random_state"] = None
        described = {
            "parameters": {name: _plain(value) for name, value in parameters.items()},
            "features": config_to_json(self.extractor_.options),
            "weights": self.extractor_.backbone.weights,
            "task": self.task_.to_json(),
            "mask_classes": self.mask_classes_.to_json(),
        }
        save_head(head_path(path), self.head_, described)

    @classmethod
    @usable_anywhere
    def load(cls, path: Path | str, *, device: str = "auto") -> Self:
        """Return a fitted segmenter that `save` wrote; it has no `result_`.

        Raises
        ------
        ValueError
            If there is no such head, it is no segmenter's, or the network's weights are others by now.
        """
        head, described = load_head(head_path(path))
        if "mask_classes" not in described or "features" not in described:
            raise UsageError(f"the head {path} was saved by no segmenter")
        stored = {name: _tuples(value) for name, value in described["features"].items()}
        options = FeatureConfig(**{**stored, "cache": Path(stored["cache"]), "device": device, "engine": "auto"})
        segmenter = cls(**{name: _tuples(value) for name, value in described["parameters"].items()}, device=device)
        segmenter.extractor_ = build_extractor_of(options.backbone, options, cached=True)
        if segmenter.extractor_.backbone.weights != described["weights"]:
            raise WeightsError(
                f"{path} was trained on other weights of {options.backbone} than `weights` {options.weights} gives now"
            )
        segmenter.task_ = Dense.from_json(described["task"])
        segmenter.mask_classes_ = MaskClasses.from_json(described["mask_classes"])
        segmenter.classes_ = np.array(segmenter.task_.class_names)
        segmenter.head_ = head.requires_grad_(False).to(segmenter.extractor_.device)
        return segmenter

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, with a head that a machine can read that has no GPU; the network is built again."""
        return head_on_cpu(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled, with the head where the network is."""
        super().__setstate__(state)
        if hasattr(self, "head_"):
            self.head_.to(self.extractor_.device)

    def _answers(self, images: Images, *, probabilities: bool = False) -> Iterator[PredictedMask]:
        check_is_fitted(self)
        listed = all_images(images)
        listed.require_readable()
        network = head_on_features(self.extractor_, self.head_)
        for answer in iter_masks(self.extractor_, network, listed.locations, probabilities=probabilities):
            if isinstance(answer.mask, str):
                raise unreadable_error([(listed.locations[answer.place], answer.mask)])
            yield answer

    def _manifest(self, images: ImageList, masks: Any, groups: ArrayLike | None, folder: Path, seed: int) -> Manifest:
        """Return the images with their masks, some of them held out."""
        files, keys = mask_files(masks, len(images), folder)
        ignored = () if self.ignore_label is None else (str(self.ignore_label),)
        table = None if self.class_names is None else ClassTable(self._class_names(), origin="class_names")
        columns = TargetColumns({MASK: files}, images.locations, [], "masks", True, True, (), table)
        reading = read_masks(columns, DataConfig("masks", task=DENSE, ignore_label=ignored))
        if reading.unreadable:
            raise unreadable_error(reading.unreadable)
        count = len(images)
        names = group_names(groups, count)
        units = split_units(images.keys, [""] * count, [""] * count, names, seed)
        held_out = stratified_group_split(units, self.validation_fraction, min_kept=1)
        splits = ["val" if key in held_out else "train" for key in images.keys]
        if len(set(splits)) < 2:
            raise DataError(f"none of {count} images can be held out for validation: give more, or other groups")
        return Manifest(
            images.locations,
            np.array(files, dtype=np.str_),
            splits,
            images.keys,
            reading.make_task(files),
            groups=names,
            mask_classes=reading.mask_classes,
            target_keys=keys,
            keyed_ns=images.keyed_ns,
        )

    def _class_names(self) -> tuple[str, ...]:
        names = tuple(() if self.class_names is None else self.class_names)
        is_sequence = not isinstance(self.class_names, str | Mapping | Set)
        if not is_sequence or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise UsageError(f"class_names has to be a sequence of different texts, not {self.class_names!r}")
        return names

    def _extractor(self, manifest: Manifest, cache: Path) -> Extractor:
        options = feature_options(
            cache,
            backbone=self.backbone,
            cut=self.cut,
            weights=self.weights,
            pool="none",
            image_size=self.image_size,
            crop_mode=self.crop_mode,
            intensity_range=self.intensity_range,
            channels=self.channels,
            page=self.page,
            precision=self.precision,
            device=self.device,
        )
        if isinstance(self.backbone, str):
            options = dense_features(options, manifest)
        return build_extractor_of(self.backbone, options, cached=True)

    def _head_options(self) -> HeadConfig:
        lr: dict[str, Any] = {} if self.lr is None else {"fit_lr": (self.lr,)}
        return HeadConfig(head=(self.head,), fit_epochs=self.epochs, class_weights=self.class_weights, **lr)

    def _drawn_seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return seed_of("random_state", self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _true_mask(file: str, classes: MaskClasses) -> NDArray[np.uint8]:
    try:
        return read_mask(file, classes)
    except UnreadableImageError as error:
        raise DataError(f"{file}: {error.reason}") from error


def _plain(value: Any) -> Any:
    """Return a parameter as JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
