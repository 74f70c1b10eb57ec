"""The first two stages as scikit-learn has them: images -> features -> classes.

    Pipeline([("extractor", FeatureExtractor(cache="features")), ("classifier", TransferClassifier("logistic"))])

So cross-validation, grid search and everything else of scikit-learn work on images. With a cache each image goes
through the network once per cut, however many folds and settings are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cache import FeatureCache
from cache.errors import DataError, UsageError
from pipeline.library.argument_names import argument_names
from pipeline.library.arguments import head_path
from pipeline.library.backbones import AnyBackbone
from pipeline.library.functions import extract_rows, extractor_for, feature_options
from pipeline.library.head_estimator import HeadEstimator, has_columns, require_features, require_known
from pipeline.library.images import Images, count_images
from pipeline.library.samples import SampleList, require_kind
from stages.config.data import DENSE
from stages.config.features import CropMode, FeatureConfig, Pooling, PrecisionChoice
from stages.data.targets.arrays import is_unknown
from stages.extraction.extractor import Extractor
from stages.network.aggregate import AggregateKind
from stages.runtime.fresh_settings import usable_anywhere
from stages.tasks.multi_label import MultiLabel
from stages.tasks.single_label import SingleLabel

_JSON = (bool, int, float, str)
"""Types of classes that JSON keeps."""

_AS_PARAMETERS = argument_names(extract_batch_size="batch_size")
"""Lets messages name options as parameters of `FeatureExtractor`."""


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What a pretrained network makes of images, as a step of a scikit-learn pipeline.

    It has nothing to learn, so it may transform without being fitted. What `images` may be, and the arguments, see
    :func:`pipeline.features`.

    Parameters
    ----------
    backbone : str, nn.Module or Backbone
    cut : str or tuple of str
    weights : str or Path
    pool : {"avg", "max", "avgmax", "cls", "clsavg", "grid2", "grid4"}
    image_size : int, optional
    crop_mode : {"center", "squash", "border"}
    mirror : bool
        Whether features are the mean over an image and its mirror image.
    intensity_range : str or (float, float)
    channels : str or sequence of int
    page : str or int
        Of files of more than 8 bits, other channels or several pages.
    aggregate : {"mean", "max", "concat"}, optional
        For samples of several images.
    precision : {"fp32", "tf32", "bf16", "fp16", "auto"}, optional
        Arithmetic of the network (default: auto on an NVIDIA GPU, fp32 elsewhere).
    cache : Path or FeatureCache, optional
        Folder where features are kept; without one every call computes them again.
    device : str
    batch_size : int, optional
    """

    def __init__(
        self,
        backbone: AnyBackbone = "efficientnet_lite0",
        *,
        cut: str | Sequence[str] = "auto",
        weights: str | Path = "default",
        taps: str | Sequence[str] = "",
        pool: Pooling | Sequence[Pooling] = "avg",
        image_size: int | None = None,
        crop_mode: CropMode = "center",
        mirror: bool = False,
        intensity_range: str | tuple[float, float] = "full",
        channels: str | Sequence[int] = "rgb",
        page: str | int = "first",
        aggregate: AggregateKind | None = None,
        precision: PrecisionChoice | None = None,
        cache: Path | str | FeatureCache | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.cut = cut
        self.weights = weights
        self.taps = taps
        self.pool = pool
        self.image_size = image_size
        self.crop_mode = crop_mode
        self.mirror = mirror
        self.intensity_range = intensity_range
        self.channels = channels
        self.page = page
        self.aggregate = aggregate
        self.precision = precision
        self.cache = cache
        self.device = device
        self.batch_size = batch_size

    @_AS_PARAMETERS
    def fit(self, X: Images, y: Any = None) -> FeatureExtractor:
        """Check the parameters; no image is touched and nothing is loaded."""
        self._options()
        require_kind(self.aggregate)
        count_images(X if self.aggregate is None else SampleList.of(X).images)
        return self

    @_AS_PARAMETERS
    @usable_anywhere
    def transform(self, X: Images) -> NDArray[np.floating]:
        """Return the features, float32 [n, d], of images.

        Raises
        ------
        ValueError
            If a parameter is wrong, an image cannot be read, or the features are no vectors.
        """
        samples = None if self.aggregate is None else SampleList.of(X)
        images = X if samples is None else samples.images
        rows = extract_rows(self._extractor(), images, keep=self.cache is not None, on_unreadable="raise")
        return rows if samples is None or self.aggregate is None else samples.rows(rows, self.aggregate)

    @_AS_PARAMETERS
    @usable_anywhere
    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return a name for each column: the cut, or the tap and its pooling, and the number in it.

        Raises
        ------
        ValueError
            If images of samples stand side by side: how many that are the images say.
        """
        if self.aggregate == "concat":
            raise UsageError("`aggregate` concat: how many columns there are hangs on the samples")
        extractor = self._extractor()
        layout = extractor.tap_layout
        widths = [(tap.name, math.prod(tap.shape)) for tap in extractor.taps]
        if layout is not None:
            widths = [(block.name, block.width) for block in layout.blocks]
        return np.array([f"{name}_{number}" for name, width in widths for number in range(width)], object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _options(self) -> FeatureConfig:
        return feature_options(
            self.cache,
            backbone=self.backbone,
            cut=self.cut,
            weights=self.weights,
            taps=self.taps,
            pool=self.pool,
            image_size=self.image_size,
            crop_mode=self.crop_mode,
            mirror=self.mirror,
            intensity_range=self.intensity_range,
            channels=self.channels,
            page=self.page,
            precision=self.precision,
            exact_spec=True,  # a transformer gives the same numbers of an image whatever else is asked for
            storage_dtype="float32",
            extract_batch_size=self.batch_size,
            device=self.device,
        )

    def _extractor(self) -> Extractor:
        extractor = extractor_for(self._options(), self.cache, self.backbone)
        if len(extractor.row_shape) != 1:
            raise UsageError(
                f"pool={self.pool!r} gives rows of shape {list(extractor.row_shape)} at {extractor.cut_names}, and an "
                "estimator takes vectors: choose 'avg', 'max' or 'avgmax'"
            )
        return extractor


class TransferClassifier(ClassifierMixin, HeadEstimator):  # type: ignore[misc]
    """A head on features: fitted, and its settings chosen, as the command ``train`` does it.

    Parameters
    ----------
    head : str
        ``logistic``, ``svm``, ``ridge``, ``ncm``, ``sgd`` (linear), ``rbf``, ``knn``, or trained in epochs ``linear``,
        ``mlp``, ``cosine``.
    c_values : tuple of float, optional
        Values of C that are tried (default: eleven from 1e-5 to 1).
    scalers : tuple of {"none", "standard", "l2"}
        Scalings of the features that are tried. ``standard`` holds the variance of each against those of its neighbors,
        as few rows tell it badly; columns of a table, more than 32 and in unlike units, are to be scaled before.
    cv : int, optional
        Folds of the cross-validation that chooses; 0 chooses on the part that is held out (default: 5 up to 10,000
        samples, else 0).
    validation_fraction : float
        Share of each class that is held out: heads that train in epochs stop by it. What is fitted in the end is
        fitted on all samples.
    class_weights : {"none", "balanced"}
        Whether rare classes weigh as much as frequent ones.
    metric : str, optional
        What settings and epochs are chosen by, such as ``f1_macro`` (default: ``accuracy``, or ``balanced_accuracy``
        with balanced weights; of labels ``map_macro``).
    device : str
    random_state : int, RandomState or None
        Of what is held out, and of all that is drawn.

    Attributes
    ----------
    classes_ : array [k]
    n_features_in_ : int
    head_ : nn.Module
        Features [b, d] -> logits [b, k], on the device.
    result_ : HeadResult
        What was chosen among what, and how it validated; a loaded one has none.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from pipeline import TransferClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> TransferClassifier("ridge", random_state=0).fit(X, y).predict(X[:3])
    array([0, 0, 0])
    """

    def __init__(
        self,
        head: str = "logistic",
        *,
        c_values: tuple[float, ...] | None = None,
        scalers: tuple[Literal["none", "standard", "l2"], ...] = ("none", "standard"),
        cv: int | None = None,
        validation_fraction: float = 0.2,
        class_weights: Literal["none", "balanced"] = "none",
        metric: str | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.head = head
        self.c_values = c_values
        self.scalers = scalers
        self.cv = cv
        self.validation_fraction = validation_fraction
        self.class_weights = class_weights
        self.metric = metric
        self.device = device
        self.random_state = random_state

    @usable_anywhere
    def fit(self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None) -> TransferClassifier:
        """Fit the head.

        Parameters
        ----------
        X : array [n, d]
        y : array [n] or [n, k]
            Classes, of any type; or 0 and 1 for each of k labels, of which a sample may have any number.
        groups : array [n], optional
            Samples of one group (a patient, a product) stay together in folds and in what is held out.

        Raises
        ------
        ValueError
            If a parameter is wrong, or there is nothing to learn from.
        """
        options = self._head_options(class_weights=self.class_weights)
        several = has_columns(y)
        if not several:
            _require_known_classes(y)
        require_features(X)
        features, targets = validate_data(
            self, X, y, dtype=[np.float32, np.float16], ensure_min_samples=2, multi_output=several
        )
        check_classification_targets(targets)
        self._label_task: MultiLabel | None = None
        if several:
            if not np.isin(targets, (0, 1)).all():
                raise DataError("y of several columns says of each label whether a sample has it: it holds 0 and 1")
            self.classes_ = np.arange(targets.shape[1])
            labels = targets.astype(np.float32)
        else:
            self.classes_, numbers = np.unique(targets, return_inverse=True)
            labels = numbers.astype(np.int64)
        if len(self.classes_) < 2:
            raise DataError(f"y holds one class only, {str(self.classes_[0])!r}; a classifier needs at least two")
        task = MultiLabel(list(map(str, self.classes_))) if several else self._task()
        fitted = self._fit_head(features, task, lambda _: labels, groups, options)
        if several:
            self._label_task = MultiLabel.from_json(fitted.to_json())
        return self

    @usable_anywhere
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class, or of each of several labels, float64 [n, k], as in `classes_`."""
        check_is_fitted(self)
        task = self._task() if self._label_task is None else self._label_task
        probabilities = self._answers(X, task).astype(np.float64)
        if self._label_task is not None:
            return probabilities
        normalised: NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
        return normalised

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each sample, [n]; of labels 0 or 1 for each, int64 [n, k].

        A label is predicted from a threshold on that was chosen on what was held out.
        """
        check_is_fitted(self)
        if self._label_task is not None:
            return self._label_task.values(torch.from_numpy(self.predict_proba(X))).astype(np.int64)
        classes: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return classes

    def save(self, path: Path | str) -> None:
        """Write the head: its tensors to `path` with ``.safetensors``, all else to ``.json`` beside it.

        `load` reads it back. Nothing is pickled. Of a random state that is no number nothing is kept, nor is `result_`.

        Raises
        ------
        ValueError
            If the classes are neither numbers, truth values nor text.
        """
        check_is_fitted(self)
        if self.classes_.dtype.kind not in "biufUO" or not all(
            isinstance(name, _JSON) for name in self.classes_.tolist()
        ):
            raise UsageError(
                f"classes of the type {self.classes_.dtype} cannot be saved: fit to numbers or text instead, such as "
                "y.astype(str)"
            )
        described = {
            **({} if self._label_task is None else {"labels": self._label_task.to_json()}),
            "class_names": self.classes_.tolist(),
            "class_type": self.classes_.dtype.str,
        }
        self._save_head(head_path(path), described)

    @classmethod
    @usable_anywhere
    def load(cls, path: Path | str, *, device: str = "auto") -> TransferClassifier:
        """Return a fitted classifier that `save` wrote, or one round the head of a run: ``RUN/seed-0/linear-svm/head``.

        It has no `result_`; one round the head of a run has default parameters, which it was not trained with.

        Parameters
        ----------
        path : Path
            With or without suffix.
        device : str
            Where it computes from now on.

        Raises
        ------
        ValueError
            If there is no such head, it is damaged, does not take vectors, or is of the classes of pixels.
        """

        def require(described: dict[str, Any]) -> None:
            if "class_names" not in described and "class_names" not in described.get("task", {}):
                raise UsageError(f"the head {path} was saved without its classes, so it is no classifier")
            if described.get("task", {}).get("name") == DENSE:
                raise UsageError(f"the head {path} says the class of each pixel, so it is no classifier of features")

        classifier, described = cls._load_head(head_path(path), device, require)
        task = described.get("task", {})  # of the head of a run
        names = described.get("class_names", task.get("class_names"))
        classifier.classes_ = np.array(names, dtype=described.get("class_type"))
        labels = task if task.get("name") == MultiLabel.name else described.get("labels")
        classifier._label_task = None if labels is None else MultiLabel.from_json(labels)
        return classifier

    def _task(self) -> SingleLabel:
        """Return the task, anew: it is no part of what is pickled."""
        return SingleLabel([str(number) for number in range(len(self.classes_))])


def _require_known_classes(y: ArrayLike) -> None:
    """Refuse text or objects of which some are None, NaN or pandas' NA, which is how a class is missing among them.

    Raises
    ------
    DataError
        That says of how many samples, and of which one first.
    """
    classes = np.asarray(y, dtype=None if hasattr(y, "dtype") else object)  # in a list of text NaN would become text
    if classes.dtype != object or not classes.ndim:
        return
    require_known([is_unknown(name) for name in classes.ravel()], "class")
