"""The winner of a run as one object in Python: predictions, a module of torch, an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from cache.errors import UsageError, listed
from pipeline.evaluation.decision import ONE_CLASS, class_names_of
from pipeline.experiment.models.mixture_model import Network, open_networks
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.prediction.classify_images import NO_CACHE, choose_model, decision_of, predict_listing
from pipeline.experiment.prediction.prediction import Prediction, SavedMethod
from pipeline.export.exported_module import ExportedModule, NetworkModule
from pipeline.library.export_model import open_trained
from pipeline.library.images import Images, all_images
from stages.network.backbones.base import Backbone
from stages.runtime.fresh_settings import usable_anywhere
from stages.runtime.progress import progress_bars
from stages.tasks.dense import Dense
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression


@usable_anywhere
def load(
    run: str | Path,
    method: str | None = None,
    *,
    seed: int | None = None,
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
) -> LoadedRun:
    """Return a trained method of a run, ready to predict.

    Parameters
    ----------
    run : Path
    method : str, optional
        A trained method by a name that the page has for it: ``linear-svm``, ``svm`` or ``SVM`` (default: what the page
        of the run says to take).
    seed : int, optional
        The seed whose model is taken (default: the first of the run).
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python.

    Raises
    ------
    ValueError
        If the run holds no such method, or it was trained on other weights than there are now.
    """
    if not isinstance(run, (str, PathLike)):
        raise UsageError(f"run has to be the path of a run, not {run!r}")
    if not isinstance(method, str | None):
        raise UsageError(f"method has to be the name of one, not {method!r}")
    choice = choose_model(Path(run), method, seed)
    loaded = LoadedRun(SavedMethod.read(choice.directory), choice.reason, device, backbone)
    if loaded.method.takes_images and not loaded.method.card.is_published:
        loaded.networks()  # which refuses other weights than it was trained on
    return loaded


class LoadedRun:
    """A trained method of a run.

    Its networks are opened when something has to go through them, once: features that the run's cache has, and columns
    of a table alone, need none.

    Attributes
    ----------
    method : SavedMethod
        What its folder says of it.
    reason : str
        Why it is the one, in words.
    decision : Decision
        How its run reads probabilities.
    class_names : tuple of str
        None where its task has no classes.
    """

    def __init__(
        self, method: SavedMethod, reason: str, device: str = "auto", backbone: nn.Module | Backbone | None = None
    ) -> None:
        self.method, self.reason, self.decision = method, reason, decision_of(method.directory)
        self._device, self._backbone = device, backbone
        self._networks: list[Network] | None = None
        self._opening = Lock()

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.method.directory)!r}, {self.reason})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave networks behind: another process opens them again."""
        return {**self.__dict__, "_networks": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opening=Lock())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return class_names_of(self.method.task)

    @usable_anywhere
    def networks(self) -> list[Network]:
        """Return what predicts images, as `predict` of the command opens it; it stays open.

        Raises
        ------
        ValueError
            If the weights there are now are others than it was trained on, or the method was trained anew meanwhile.
        """
        with self._opening:
            if self._networks is None:
                self._require_as_loaded()
                self._networks = open_networks(self.method.directory, self._device, self._backbone)
            return self._networks

    @usable_anywhere
    def predict(
        self,
        images: Images | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        *,
        use_cache: bool = True,
    ) -> list[Prediction]:
        """Return what is predicted for images, in their order, as the command ``predict`` says it.

        Parameters
        ----------
        images : sequence
            As of `features`: paths, images of Pillow, uint8 arrays [h, w, 3] or [h, w], of any sizes. None for methods
            on columns alone.
        columns : mapping of str to sequence, optional
            What a table says of each, by the names of its columns, or a data frame; where the method takes columns.
        use_cache : bool
            Whether features that the run's cache has are taken.

        Raises
        ------
        ValueError
            If there is nothing to predict, an image cannot be read, the method takes something else than an image a
            sample, or it was trained anew since it was loaded and its networks were not open yet.
        """
        self._require_images("predict", columns_alone=True)
        if self._networks is None:
            self._require_as_loaded()
        if self.method.takes_images == (images is None):
            raise UsageError(
                f"{self.method.directory.name} "
                + ("takes images, and none are given" if images is None else "looks at columns alone: leave images out")
            )
        with progress_bars(False):
            listing: list[tuple[str, dict[str, str]]] = []
            if images is not None:
                found = all_images(images)
                found.require_readable()
                listing = [(location, {}) for location in found.locations]
            if columns is not None:
                names, rows = _table(columns)
                if images is None:
                    listing = [(f"row {number}", {}) for number in range(len(rows))]
                if len(rows) != len(listing):
                    raise UsageError(f"columns say something of {len(rows)} samples, and there are {len(listing)}")
                listing = [
                    (location, dict(zip(names, row, strict=True)))
                    for (location, _), row in zip(listing, rows, strict=True)
                ]
            if not listing:
                raise UsageError("nothing is given to predict: `images` or `columns` are empty")
            predictions, failures = predict_listing(
                self.method,
                listing,
                decision=self.decision,
                # what is in memory has no file by whose bytes the cache knows it; and the head on what the cache has is
                # read from the run
                cache=None
                if use_cache and all(Path(location).is_file() for location, _ in listing) and self._is_as_loaded()
                else NO_CACHE,
                networks=self.networks,
            )
        if failures:
            raise UsageError(f"{listed([f'{location}: {reason}' for location, reason in failures], 3, '; ')}")
        return predictions

    def predict_proba(self, images: Images, columns: Mapping[str, Sequence[Any]] | None = None) -> NDArray[np.float32]:
        """Return the probabilities of classes, float32 [n, classes]; or numbers, in their unit, [n, targets]."""
        activated = np.stack([prediction.activated for prediction in self.predict(images, columns)])
        task = self.method.task
        return task.in_units(activated).astype(np.float32) if isinstance(task, Regression) else activated

    @usable_anywhere
    def module(self, *, normalized: bool = False) -> nn.Module:
        """Return the method as one module of torch, on the CPU, in evaluation mode; nothing of it trains.

        Parameters
        ----------
        normalized : bool
            By default it takes decoded pixels, uint8 [b, 3, h, w] of any size, and gives what the task makes of
            outputs: probabilities, numbers in their unit, or a mask and probabilities; what else it takes is in its
            ``input_names``. With `normalized` it takes images as the network sees them, float32 [b, 3, S, S], resized,
            cropped and normalized, and gives logits; so it can stand in another network, with gradients to the image.

        Raises
        ------
        ValueError
            If the method looks at tiles, or was trained anew since it was loaded; or, for `normalized`, takes more than
            one image a sample.
        """
        self._require_as_loaded()
        model = open_trained(self.method.directory, "cpu", self._backbone)
        module = ExportedModule(model)
        if not normalized:
            return module
        if module.input_names != ("images",):
            raise UsageError(f"normalized=True is for methods on images alone; this takes {module.input_names}")
        if len(model.networks) > 1:
            raise UsageError(
                f"normalized=True is for one network, and this is a mean over {len(model.networks)}, each of which "
                "sees images in its own way: take module(), which is given pixels"
            )
        return _OnNormalized(module)

    def estimator(self) -> BaseEstimator:
        """Return the method as a fitted estimator of scikit-learn, on images: a classifier or a regressor.

        Its `predict` takes a sequence of images as `predict` of this object does. It is fitted already: `fit` is
        refused.

        Raises
        ------
        ValueError
            If scikit-learn has no such estimator: of masks, samples of several images, or methods with columns.
        """
        self._require_images("estimator")
        if self.method.columns is not None:
            raise UsageError("an estimator takes images alone, and this method takes columns beside them")
        return RunRegressor(self) if isinstance(self.method.task, Regression) else RunClassifier(self)

    def _is_as_loaded(self) -> bool:
        """Whether the run has the method that was loaded still: classes and features are what was read then."""
        recipe = read_recipe(self.method.directory)
        return recipe is not None and recipe.identity == self.method.card.identity

    def _require_as_loaded(self) -> None:
        if not self._is_as_loaded():
            raise UsageError(
                f"{self.method.directory} was moved, removed or trained anew since it was loaded: load the run again"
            )

    def _require_images(self, what: str, *, columns_alone: bool = False) -> None:
        method = self.method
        one_image = method.takes_images and method.card.samples is None and not isinstance(method.task, Dense)
        if not one_image and not (columns_alone and not method.takes_images):
            raise UsageError(
                f"{what} is for methods on one image a sample, and {method.directory.name} is none: take module(), or "
                "the command `predict`"
            )


class _OnNormalized(nn.Module):
    """What a method gives for normalized images, before it is activated."""

    def __init__(self, module: ExportedModule) -> None:
        super().__init__()
        (network,) = module.networks
        assert isinstance(network, NetworkModule)
        self.below, self.model = network.below, network.model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or numbers on the scale on which they were learned, float32 [b, ...]."""
        outputs: Tensor = self.model.head(self.model.rows(self.below(images)))
        return outputs.float()


class _FittedEstimator(BaseEstimator):  # type: ignore[misc]
    """What estimators round a run have in common."""

    def __init__(self, run: LoadedRun) -> None:
        self.run = run

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: ArrayLike | None = None) -> _FittedEstimator:
        """Refuse: a run is trained by its commands.

        Raises
        ------
        ValueError
            In any case.
        """
        raise UsageError("this estimator is a method of a finished run: the commands `train` and `finetune` train it")


class RunClassifier(ClassifierMixin, _FittedEstimator):  # type: ignore[misc]
    """A method of a run as a classifier of images.

    Parameters
    ----------
    run : LoadedRun

    Attributes
    ----------
    classes_ : array [k]
    """

    @property
    def classes_(self) -> NDArray[np.str_]:
        """The names of the classes."""
        return np.array(self.run.class_names)

    def predict_proba(self, X: Images) -> NDArray[np.float32]:
        """Return the probability of each class, or of each label, float32 [n, k]."""
        check_is_fitted(self)
        return self.run.predict_proba(X)

    def predict(self, X: Images) -> NDArray[Any]:
        """Return the class of each image, by the threshold of the run where it has one; of labels 0 or 1, [n, k]."""
        probabilities, task = self.predict_proba(X), self.run.method.task
        if isinstance(task, MultiLabel):
            return task.values(torch.from_numpy(probabilities)).astype(np.int64)
        assert task.name == ONE_CLASS
        named: NDArray[Any] = self.classes_[self.run.decision.predicted(probabilities)]
        return named


class RunRegressor(RegressorMixin, _FittedEstimator):  # type: ignore[misc]
    """A method of a run as a regressor of images.

    Parameters
    ----------
    run : LoadedRun
    """

    def predict(self, X: Images) -> NDArray[np.float32]:
        """Return the number of each image, float32 [n], or [n, targets] of several."""
        check_is_fitted(self)
        values = self.run.predict_proba(X)
        return values[:, 0] if values.shape[1] == 1 else values


def _table(columns: Any) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the names of columns, and the cells of each row.

    Raises
    ------
    UsageError
        If they are neither a mapping nor a data frame, or of unlike lengths.
    """
    if not isinstance(columns, Mapping) and not hasattr(columns, "columns"):
        raise UsageError(f"columns has to be a mapping of names to sequences, or a data frame, not {columns!r}")
    names = list(getattr(columns, "columns", columns))  # over its values, not its names, goes a data frame of polars
    cells = {str(name): [_cell(value) for value in columns[name]] for name in names}
    if len({len(column) for column in cells.values()}) > 1:
        lengths = [f"{name} {len(column)}" for name, column in cells.items()]
        raise UsageError(f"columns are of unlike lengths: {listed(lengths, 5)}")
    return list(cells), list(zip(*cells.values(), strict=True))


def _cell(value: Any) -> str:
    """Return a value of a table as a CSV has it: what is missing is an empty cell."""
    return "" if value is None or str(value) in ("nan", "NaT", "<NA>") else str(value)
