"""The protocol of a task, what a metric is, and the registry of tasks.

A result keeps of each sample a *statistic*: as little as suffices for every metric of any selection of samples. A
score of the whole test split, of one group, of a bootstrap resample or of two methods with some samples swapped is
then the same function of other rows. ``stages.tasks.statistics`` draws the rows; what a statistic holds is the task's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import DataError, UsageError, alternatives
from cache.registry import Registration, Registry

Statistics = NDArray[Any]
"""One entry for each sample along the first axis, of whatever dtype and further shape the task chooses."""

TensorBatch = Tensor | tuple[Tensor, ...]
"""One tensor [b, ...], or b tensors where samples differ in size, as masks do."""

Reduction = Literal["sum", "none"]

BALANCED_ACCURACY = "balanced_accuracy"
"""The metric that counts rare classes as much as frequent ones."""


class OfCounts(Protocol):
    """A metric of resamples, made of the statistics once: sorted, for one.

    Attributes
    ----------
    work : int
        About how many numbers are gone through for a resample.
    """

    work: int

    def __call__(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the metric of each resample, [resamples], from how often each sample is in it, [resamples, n]."""
        ...


@dataclass(frozen=True)
class Metric:
    """One number that says how good the predictions for some samples are.

    Make one with `mean_metric` or `sum_metric` where possible: their resamples are sums, so an interval costs a matrix
    product. A metric that is no function of sums (an area under a curve, a rank correlation, a median) is computed anew
    for each resample, or has `weighted`, which scores many of them together.

    Attributes
    ----------
    name : str
        As in options, results and tables: ``f1_macro``.
    label : str
        As on the axis of a figure: ``macro-F1``.
    score : callable
        From the statistics of any samples, at least one, to the metric; nan where it is not defined for them.
    higher_is_better : bool
    as_percent : bool
        Whether people read it as a share: 87.9 %, and differences in points.
    note : str
        A sentence for who does not know it.
    ranks : bool
        Whether the better value is that of the better predictions, so that settings and methods may be chosen by it.
    of_certainty : bool
        Whether it changes where all outputs are divided by one number: how sure predictions are counts.
    per_sample : callable, optional
        From statistics to scores [n] whose mean is the metric; bool where a sample is right or wrong.
    summands : callable, optional
        From statistics to [n, ...], dense or a SciPy sparse array, whose sum over samples determines the metric.
    of_sum : callable, optional
        From that sum, flat, to the metric.
    of_outputs : callable, optional
        From outputs [n, out_features], not activated, and targets [n] to the metric, where an activation would change
        nothing: settings are compared by it, and of many rows an activation takes as long as a fit in closed form.
    weighted : callable, optional
        From statistics to what scores resamples of them, each given as how often it holds each sample.
    limits : (float, float)
        Between which it lies; an interval of one that lies between 0 and 1 is made as that of a share where a bootstrap
        collapses.
    of_parts : bool
        Whether it counts many parts of a sample, as pixels are of an image, so that few samples may tell much: then an
        interval is not held to be as wide as if each sample said one yes or no.
    """

    name: str
    label: str
    score: Callable[[Statistics], float]
    higher_is_better: bool = True
    as_percent: bool = False
    note: str = ""
    per_sample: Callable[[Statistics], NDArray[Any]] | None = None
    summands: Callable[[Statistics], Any] | None = None
    of_sum: Callable[[NDArray[Any]], float] | None = None
    of_outputs: Callable[[NDArray[Any], NDArray[Any]], float] | None = None
    weighted: Callable[[Statistics], OfCounts] | None = None
    ranks: bool = True
    limits: tuple[float, float] = (-math.inf, math.inf)
    of_certainty: bool = False
    of_parts: bool = False


_SIGNED = ("r2", "r2_original", "spearman", "qwk")
"""Metrics that are 1 at best, and below 0 where predictions are worse than none."""


def with_limits(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """Return metrics by their names, with what each lies between: 0 and 1, up to 1, or from 0 where less is better."""

    def limits(metric: Metric) -> tuple[float, float]:
        if not metric.higher_is_better:
            return 0.0, math.inf
        return (-math.inf, 1.0) if metric.name in _SIGNED else (0.0, 1.0)

    return {metric.name: replace(metric, limits=limits(metric)) for metric in metrics}


def mean_metric(
    name: str,
    label: str,
    per_sample: Callable[[Statistics], NDArray[Any]],
    *,
    higher_is_better: bool = True,
    as_percent: bool = False,
    note: str = "",
    score: Callable[[Statistics], float] | None = None,
    of_outputs: Callable[[NDArray[Any], NDArray[Any]], float] | None = None,
) -> Metric:
    """Return a metric that is the mean of the samples' own scores; `score` where it has to be computed another way."""

    def mean(statistics: Statistics) -> float:
        return float(np.mean(per_sample(statistics)))

    return Metric(
        name, label, score or mean, higher_is_better, as_percent, note, per_sample=per_sample, of_outputs=of_outputs
    )


def sum_metric(
    name: str,
    label: str,
    summands: Callable[[Statistics], Any],
    of_sum: Callable[[NDArray[Any]], float],
    *,
    higher_is_better: bool = True,
    as_percent: bool = False,
    note: str = "",
    of_outputs: Callable[[NDArray[Any], NDArray[Any]], float] | None = None,
) -> Metric:
    """Return a metric that is a function of a sum over samples, such as of counts of classes."""

    def score(statistics: Statistics) -> float:
        return of_sum(np.asarray(summands(statistics).sum(axis=0)).ravel())

    return Metric(name, label, score, higher_is_better, as_percent, note, None, summands, of_sum, of_outputs=of_outputs)


class Task(Protocol):
    """What is predicted. Everything that depends on it is asked of it.

    A batch goes ``output = model(inputs)``, ``loss(output, target)`` in training, and
    ``statistic(activate(output, shapes), target)`` in evaluation, where activated outputs of several views may be
    averaged in between. The statistics of all batches, one after the other, are what a result keeps.

    Attributes
    ----------
    name : str
        What it is registered as: ``single_label``.
    out_features : int
        Width of a head's output; for each place of a map where the head gives a map.
    metrics : mapping of str to Metric
        By their names, each scoring what `statistic` returns.
    primary : str
        The metric that selects, ranks and is tested; `with_primary` gives the task with another.
    shown : sequence of str
        The metrics that a table has columns for beside the primary one.
    columns : sequence of str
        What `cells` says of a sample.
    outputs : "logits" or "values"
        What leaves a head: logits, of which any positive multiple predicts the same with other probabilities; or values
        as they are.
    predicted_columns : sequence of str
        What `predicted_cells` says of a sample.
    calibrates : bool
        Whether `calibrated` sets anything, for which predictions have to be made.
    reads : "text" or "image"
        What `load` is given: the text that stands in the manifest, or the pixels of the image at that location. A task
        opens no file itself.
    """

    name: str
    out_features: int
    metrics: Mapping[str, Metric]
    primary: str
    shown: Sequence[str]
    columns: Sequence[str]
    outputs: Literal["logits", "values"]
    predicted_columns: Sequence[str]
    calibrates: bool
    reads: Literal["text", "image"]

    def load(self, raw: Any) -> Tensor:
        """Return the target of one sample.

        Raises
        ------
        DataError
            If `raw` is no target of this task.
        """
        ...

    def collate(self, targets: Sequence[Tensor]) -> TensorBatch:
        """Return the targets of a batch together: stacked where all are of one size, else side by side."""
        ...

    def loss(
        self,
        output: Tensor,
        target: TensorBatch,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        reduction: Reduction = "sum",
    ) -> Tensor:
        """Return what is minimized: summed over the samples, a scalar, or, with "none", of each sample, [b].

        A sample's loss is the mean over its known elements, labels or pixels, so that each sample counts alike.

        Parameters
        ----------
        output : Tensor [b, out_features, ...]
        target : TensorBatch
            As `collate` or `soft_target` gives it.
        smoothing : float
            In [0, 1): the share of a target that is spread evenly over all classes.
        class_weights : float32 [out_features], optional
            How much each class counts; [b, out_features] where that depends on the sample, as `weights` may say.

        Raises
        ------
        UsageError
            If smoothing or weights of classes mean nothing to this task.
        """
        ...

    def mean_loss(self, output: NDArray[np.float64], target: NDArray[Any]) -> float:
        """Return the mean of `loss` over the samples in float64, without gradients: what a temperature is fitted to.

        Parameters
        ----------
        output : float64 [n, out_features]
        target : array [n, ...]
        """
        ...

    def activate(self, output: Tensor, shapes: Sequence[tuple[int, ...]] | None = None) -> TensorBatch:
        """Return what the output says: probabilities, or values; it may be averaged over views.

        Parameters
        ----------
        output : Tensor [b, out_features, ...]
        shapes : sequence of tuple of int, optional
            Of each sample's target, or of its image where it has none: to these a map is brought before it is
            activated. Ignored where there is no map.
        """
        ...

    def predict(self, activated: TensorBatch) -> TensorBatch:
        """Return predictions in the form of targets."""
        ...

    def values(self, activated: TensorBatch) -> NDArray[Any]:
        """Return predictions as programs use them, [n, ...]: classes by number, labels as bool, or numbers."""
        ...

    def decode(self, predicted: Tensor) -> str:
        """Return the prediction for one sample as a cell of a table: what `load` would read, or a summary of a map."""
        ...

    def soft_target(self, target: TensorBatch) -> Tensor:
        """Return targets as floats that may be blended linearly, as mixup does, and that `loss` takes.

        Raises
        ------
        UsageError
            If targets of this task cannot be blended.
        """
        ...

    def statistic(self, activated: TensorBatch, target: TensorBatch) -> Statistics:
        """Return what is kept of each sample, [b, ...].

        Parameters
        ----------
        activated : TensorBatch
            As `activate` gives it.
        target : TensorBatch
            As `collate` or `soft_target` gives it; of one that was blended the largest part counts.

        Raises
        ------
        DataError
            If an activated output is not finite, which is what a training that diverged leaves behind. Here, because
            a statistic may be counts, which no longer show it.
        """
        ...

    def guesses(self, known: Statistics, asked: Statistics) -> list[Statistics]:
        """Return what would be kept of `asked` samples if each had been given the same answer, without a look at it.

        Parameters
        ----------
        known : array [m, ...]
            Statistics of samples whose targets tell what answer that is: the most frequent class, the mean.
        asked : array [n, ...]

        Returns
        -------
        list of array [n, ...]
            One for each answer that is the best under some metric.
        """
        ...

    def confusion(self, statistics: Statistics) -> NDArray[np.int64] | None:
        """Return how often each class (down) was predicted as which (across); None where there are no classes."""
        ...

    def labels(self, statistics: Statistics) -> NDArray[np.str_]:
        """Return the target of each sample in words, [n]: the same words for the same target."""
        ...

    def cells(self, statistic: Any) -> list[str]:
        """Return what the statistic of one sample says, as `columns` name it: the target, the prediction, then more."""
        ...

    def predicted_cells(self, activated: Tensor) -> list[str]:
        """Return what the activated output for one sample says, as `predicted_columns` name it: without a target."""
        ...

    def predicted_words(self, activated: Tensor) -> str:
        """Return what the activated output for one sample says in a line: the prediction, and how sure it is."""
        ...

    def confidence(self, statistics: Statistics) -> NDArray[Any] | None:
        """Return how sure the prediction for each sample is, [n]; None where predictions do not say."""
        ...

    def strata(self, target: NDArray[Any]) -> NDArray[Any] | None:
        """Return the stratum of each sample for folds and splits, int64 [n]; None where samples have none.

        Where a sample may be in several, or in none: bool [n, strata].
        """
        ...

    def weights(self, target: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return a weight for each sample, [n] with mean 1, that balances classes; None where samples have none.

        Where a sample has several labels, [n, out_features]: a weight for each of them, with mean 1 over those known.
        """
        ...

    def in_units(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return targets, [n, ...], as people have them: numbers not on the scale on which they are learned."""
        ...

    def scaled_to(self, targets: NDArray[Any]) -> Task:
        """Return the task with what the targets of the training samples, [n, ...], set of it: the scale of numbers.

        A task of which nothing is set so returns itself.

        Raises
        ------
        DataError
            If there is nothing to learn from them.
        """
        ...

    def calibrated(self, activated: TensorBatch, target: TensorBatch) -> Task:
        """Return the task with what predictions for samples that are no test samples set of it: thresholds, intervals.

        A task of which nothing is set so returns itself.
        """
        ...

    def uncalibrated(self) -> Task:
        """Return the task without that, and without what its training samples set.

        Results are of one task where these are equal; so the primary metric is the task's own, whichever ranked.
        """
        ...

    def with_primary(self, name: str) -> Task:
        """Return the task whose primary metric is the one of that name, as `find_metric` knows it.

        Raises
        ------
        UsageError
            If the task has no such metric, or it is not one to choose by.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what `task_from_json` makes this task from again; the primary metric if it is not the task's own."""
        ...


def find_metric(task: Task, name: str | None = None) -> Metric:
    """Return the metric of that name, a hyphen as good as an underscore; without a name the primary one.

    Raises
    ------
    UsageError
        If the task has no such metric.
    """
    wanted = str(name or task.primary).replace("-", "_")
    if wanted not in task.metrics:
        raise UsageError(f"there is no metric {name!r} for the task {task.name}.{alternatives(wanted, task.metrics)}")
    return task.metrics[wanted]


def primary_metric(task: Task, name: str) -> Metric:
    """Return the metric of that name, which is to choose settings and rank methods.

    Raises
    ------
    UsageError
        If the task has no such metric, or its better value is not that of better predictions.
    """
    metric = find_metric(task, name)
    if not metric.ranks:
        able = ", ".join(other.name for other in task.metrics.values() if other.ranks)
        raise UsageError(f"`metric` {metric.name} does not say how good predictions are; take one that does: {able}")
    return metric


def beside_primary(task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that a table shows beside the primary one, of those that it shows in any case."""
    return tuple(name for name in names if name != task.primary)


def said_primary(task: Task) -> dict[str, str]:
    """Return what `to_json` says of the primary metric: nothing where it is that of all tasks of the class."""
    return {} if task.primary == type(task).primary else {"primary": task.primary}


def ranked_by(task: Task, metric: str | None, *, balanced: bool = False) -> Task:
    """Return the task with the metric that selects settings and epochs, ranks methods and is tested.

    Parameters
    ----------
    metric : str, optional
        Its name; by default the task's own.
    balanced : bool
        Whether rare classes are trained to count as much as frequent ones: then they count as much in the score too, by
        balanced accuracy, where no metric is named and the task has that one.

    Raises
    ------
    UsageError
        If the task has no such metric.
    """
    if metric is None and balanced and BALANCED_ACCURACY in task.metrics:
        metric = BALANCED_ACCURACY
    return task if metric is None else task.with_primary(metric)


def evaluate(task: Task, statistics: Statistics) -> dict[str, float]:
    """Return every metric of the task; nan where one is not defined for these samples.

    Raises
    ------
    DataError
        If there is nothing to score.
    """
    if not len(statistics):
        raise DataError("there is no test image to evaluate on; give more images, or a larger `test_size`")
    return {name: metric.score(statistics) for name, metric in task.metrics.items()}


class _FromJSON(Protocol):
    name: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Task: ...


TASKS = Registry[Registration, type[_FromJSON]]("task", Registration, ["stages.tasks"], option="task")

Registered = TypeVar("Registered", bound=_FromJSON)


def register_task(name: str, *, help_text: str = "") -> Callable[[type[Registered]], type[Registered]]:
    """Make a class the task of that name. It needs a classmethod ``from_json``, the inverse of ``to_json``.

    A module of this room that has such a class is all it takes, or one that another package names under its entry
    points ``cutonce.tasks``.

    Parameters
    ----------
    name
        As in options and files; a literal in our own files.
    help_text
        What it is, in a few words; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another class has the name.
    """

    def named(task: type[Registered]) -> type[Registered]:
        task.name = name
        return task

    return TASKS.decorator(Registration(name, help_text=help_text), named)


def task_from_json(content: Mapping[str, Any]) -> Task:
    """Return the task that ``to_json`` wrote; ``name`` says which, a hyphen as good as an underscore.

    Raises
    ------
    UsageError
        If there is no task of that name.
    DataError
        If the rest is not what the task wrote.
    """
    given_name = str(content.get("name", ""))
    name = given_name.replace("-", "_")
    if name not in (known := TASKS.names()):
        raise UsageError(f"there is no task {given_name!r}.{alternatives(name, known)}")
    return TASKS.get(name).from_json(content)
