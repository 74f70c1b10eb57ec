"""How long stage 2 takes on an accelerator, on made-up features.

::

    python benchmarks/gpu_heads.py                     # on a GPU: minutes
    python benchmarks/gpu_heads.py --device cpu --quick  # the same code on cores, small, to see that it works
    python benchmarks/gpu_heads.py --only settings     # or: large

1. ``settings``: 40 settings of logistic regression (20 values of C, features as they are and standardized) and the fits
   of the best one to train and to all rows, on 50,000 x 1,280 features of 100 classes; then the same by the solver for
   cores, with the difference of the log loss on the held-out rows, and whether the same setting was chosen.
2. ``large``: 1.28 million x 2,048 features of 1,000 classes in float16: ridge with 52 penalties and its last fits; and
   logistic regression with 20 values of C, each from where the one before ended, with the difference of the log loss on
   held-out rows from that of a fit of the best value that goes on to the end.

Features lie in the memory of the host when the clock starts, as they are stored; what is timed is all that follows,
sending included. One small fit beforehand pays for what a process pays once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scipy.special import log_softmax

from pipeline.cli.output import echo
from pipeline.text import table
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.heads.logistic import fit_logistic
from stages.fitting.heads.ridge import fit_ridge
from stages.fitting.problem import FitProblem
from stages.fitting.result import HeadFit
from stages.fitting.scores import logits
from stages.fitting.solvers.device_linear import DeviceLinearModels, LinearFit
from stages.fitting.solvers.device_search import DeviceFits
from stages.fitting.solvers.grid_search import refit_best
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.tasks.single_label import SingleLabel

BLOCK_ROWS = 1 << 15
"""Rows that are made at a time."""

CORES = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """How much is made up.

    Attributes
    ----------
    train, val : int
        Rows.
    width : int
        Numbers of a row.
    classes : int
    """

    train: int
    val: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.train:,} + {self.val:,} x {self.width:,} x {self.classes:,}"


SIZES = {"settings": Size(40_000, 10_000, 1280, 100), "large": Size(1_280_000, 10_000, 2048, 1000)}
QUICK = {"settings": Size(1_000, 400, 48, 5), "large": Size(3_000, 400, 48, 8)}


def made_up(size: Size, device: torch.device, config: HeadConfig, *, noise: float = 2.0) -> FitProblem:
    """Return a problem of rows like those after a ReLU and a pooling, float16, about classes that overlap."""
    generator = torch.Generator(device).manual_seed(0)
    latent = min(size.width, 96)  # features of networks vary in far fewer directions than they have numbers
    means = torch.randn(size.classes, latent, generator=generator, device=device)
    mixing = torch.randn(latent, size.width, generator=generator, device=device) / latent**0.5
    spread = torch.linspace(0.2, 2, size.width, device=device)
    count = size.train + size.val
    labels = torch.randint(size.classes, (count,), generator=generator, device=device)
    labels[: size.classes] = torch.arange(size.classes, device=device)
    features = np.empty((count, size.width), np.float16)
    for start in range(0, count, BLOCK_ROWS):
        part = labels[start : start + BLOCK_ROWS]
        inner = means[part] + noise * torch.randn(len(part), latent, generator=generator, device=device)
        outer = inner @ mixing + 0.5 * torch.randn(len(part), size.width, generator=generator, device=device)
        features[start : start + BLOCK_ROWS] = outer.relu_().mul_(spread).half().cpu().numpy()
    targets, train = labels.cpu().numpy(), slice(0, size.train)
    parts = [FeatureRows(features[part], targets[part]) for part in (train, slice(size.train, count))]
    task = SingleLabel([str(number) for number in range(size.classes)])
    return FitProblem(*parts, task, config, 0, device)


def factory_of(problem: FitProblem) -> Callable[[np.ndarray], LinearModelFactory]:
    """Return what makes models of logistic regression, from the mean of the rows."""
    return lambda center: LinearModelFactory("logistic", problem.task, center)


def searched(problem: FitProblem) -> HeadFit:
    """Search and fit as `fit_logistic` does on a GPU, on whatever device the problem names."""
    fits = DeviceFits.of(problem, factory_of(problem), margins=False)
    return refit_best(problem, fits, fits.search(problem.cv, problem.seed))[0]


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean loss of scores [n, classes]."""
    return -float(log_softmax(scores.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def settings(size: Size, device: torch.device, *, cores: bool = True) -> Iterator[list[str]]:
    """Yield rows of a table: how long 40 settings and the last fits take, and how far from those of cores they are."""
    values = tuple(float(value) for value in np.geomspace(1e-5, 1, 20))
    problem = made_up(size, device, HeadConfig(c_values=values, scalers=("none", "standard"), cv=0))
    started = time.perf_counter()
    fitted = searched(problem)
    seconds = time.perf_counter() - started
    title = f"40 logistic settings + refit, {size}"
    tried = f"{len(fitted.candidates)} fits in the search"
    yield [title, str(device), f"{seconds:.2f}", f"{tried}; chosen: {_setting(fitted)}"]
    if cores:
        started = time.perf_counter()
        reference = fit_logistic(replace(problem, device=CORES, shared={}))
        seconds = time.perf_counter() - started
        losses = [
            log_loss(logits(each.head_train_only, problem.val), problem.val.labels) for each in (fitted, reference)
        ]
        same = "the same setting" if _setting(fitted) == _setting(reference) else f"another: {_setting(reference)}"
        note = f"{same}; log loss on the device {losses[0] - losses[1]:+.5f} (of {losses[1]:.4f})"
        yield [title, "solver for cores", f"{seconds:.2f}", note]


def _setting(fitted: HeadFit) -> str:
    return f"{fitted.settings['scaler']}, C {fitted.settings['C']:.3g}"


def large(size: Size, device: torch.device) -> Iterator[list[str]]:
    """Yield rows of a table: how long ridge and a path of logistic regression take on many rows."""
    values = tuple(float(value) for value in np.geomspace(1e-6, 1, 18))
    problem = made_up(size, device, HeadConfig(c_values=values, scalers=("standard",), cv=0))
    started = time.perf_counter()
    ridge = fit_ridge(problem)
    seconds = time.perf_counter() - started
    note = f"chosen: C {ridge.settings['C']:.3g}, accuracy {ridge.settings['score']:.4f}"
    yield [f"ridge, {len(ridge.candidates)} penalties, {size}", str(device), f"{seconds:.2f}", note]
    started = time.perf_counter()
    fits = DeviceFits.of(problem, factory_of(problem), margins=False)
    train = fits.rows.at(slice(0, size.train))
    models = DeviceLinearModels(fits.factory, train, problem.train.labels, [slice(0, size.train)])
    held_out, state, losses, states = fits.rows.at(slice(size.train, None)), None, [], []
    path = [LinearFit("standard", float(value)) for value in np.geomspace(1e-6, 1e-1, 20)]
    for fit in path:
        (state,) = models.fit([fit], [state])
        losses.append(log_loss(models.scores([fit], [state], held_out)[0], problem.val.labels))
        states.append(state)
    seconds = time.perf_counter() - started
    best = int(np.argmin(losses))
    started = time.perf_counter()
    converged = models.fit([path[best]], [states[best]], final=True)
    loss = log_loss(models.scores([path[best]], converged, held_out)[0], problem.val.labels)
    going_on = time.perf_counter() - started
    where = "resident" if fits.rows.resident is not None else "sent in blocks"
    note = (
        f"rows {where}; best: C {path[best].c:.3g}, log loss {losses[best]:.4f}, {losses[best] - loss:+.5f} from where "
        f"{going_on:.1f} s more bring it"
    )
    yield [f"logistic, {len(path)} warm-started penalties, {size}", str(device), f"{seconds:.2f}", note]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=sorted(SIZES))
    parser.add_argument("--no-cores", action="store_true", help="leave out the solver for cores")
    arguments = parser.parse_args()
    device, sizes = torch.device(arguments.device), QUICK if arguments.quick else SIZES
    searched(made_up(QUICK["settings"], device, HeadConfig(c_values=(1e-3, 1e-2), cv=0)))
    parts: list[Iterator[list[str]]] = []
    if arguments.only != "large":
        parts.append(settings(sizes["settings"], device, cores=not arguments.no_cores))
    if arguments.only != "settings":
        parts.append(large(sizes["large"], device))
    rows = []
    for row in chain.from_iterable(parts):
        print("; ".join(row), file=sys.stderr, flush=True)  # what comes after it may take long
        rows.append(row)
    echo(table(["what", "where", "seconds", "what came of it"], rows, left=2))


if __name__ == "__main__":
    main()
