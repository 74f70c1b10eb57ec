"""Heads on features of several depths of a network: which depths, and what a block counts, are settings of the search.

On images unlike those that a network was trained on, what lies deeper than its last layer is worth more than the kind
of head; on everyday photographs it costs (docs/heads.md has figures). Which it is cross-validation tells: so each set
of depths is tried with each weighting (`block_weight`), under all settings of the head itself, and the best on rows
that were not fitted is taken. Out of folds the set is chosen on the other folds, as any setting is.

A fitted head sees the standardized rows through their products alone (`stages.fitting.span`). A torch head is trained
on the set of depths that ridge takes, whose search is the quickest by far; if it begins with a linear layer, on what
the rows are in their own span, which are fewer numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cache.errors import UsageError, listed
from stages.config.head_registry import HeadKind, import_head
from stages.config.heads import DepthSet
from stages.fitting.feature_rows import FeatureRows, StreamedFeatureRows
from stages.fitting.out_of_fold import OutOfFold, best_variants, put_together, variants_on_others
from stages.fitting.problem import DepthLayout, FitProblem
from stages.fitting.registry import FitFunction
from stages.fitting.result import HeadFit
from stages.fitting.span import BlockRows, Coordinates, DepthChoice
from stages.network.heads.registry import begins_linear

_CHOOSES = "ridge"

_SHARED = "depths"

KEPT_BYTES = 2 << 30
"""Most bytes of coordinates that are kept for the next head on the same rows."""

FEWEST_LANDMARKS = 100
"""Landmarks below which rows are not told apart."""


def fit_depths(kind: HeadKind, fit: FitFunction, taps: DepthLayout, problem: FitProblem) -> HeadFit:
    """Return a head fitted to rows of several depths, with the depths and the weighting that score best.

    Of equals the one with the fewest numbers is taken.

    Parameters
    ----------
    kind : HeadKind
    fit : callable
        Fits the head to rows that are vectors.
    taps : DepthLayout
    problem : FitProblem
    """
    if kind.in_epochs:
        return _fit_torch(kind, fit, taps, problem)
    best, candidates, folds = _search(fit, taps, problem)
    fitted, coordinates = best
    known = [fold for _, fold in folds if fold is not None]
    fold: Fold | None = _nothing  # of many rows, which are not kept for it
    if problem.divisions:
        fold = partial(best_variants, problem, known) if len(known) == len(folds) else None
    return replace(
        fitted,
        head=coordinates.on_rows(fitted.head),
        head_train_only=coordinates.on_rows(fitted.head_train_only),
        settings=_said(coordinates.choice) | _without_scaler(fitted.settings),
        candidates=candidates,
        fold=fold,
    )


Fold = Callable[[], OutOfFold | None]


def _search(
    fit: FitFunction, taps: DepthLayout, problem: FitProblem, *, finished: bool = True
) -> tuple[tuple[HeadFit, Coordinates], list[dict[str, Any]], list[tuple[DepthChoice, Fold | None]]]:
    """Return the best fit with the coordinates it is of, all that was tried, and what folds each choice.

    Heads are fitted to the best alone, and to none where they need not be `finished`.
    """
    best: tuple[float, HeadFit, Coordinates] | None = None
    candidates: list[dict[str, Any]] = []
    folds: list[tuple[DepthChoice, Fold | None]] = []
    for coordinates in _coordinates(taps, problem):
        fitted = fit(replace(_problem_on(coordinates.values, problem), deferred=True))
        said = _said(coordinates.choice)
        of_choice = [said | _without_scaler(candidate) for candidate in fitted.candidates]
        candidates += of_choice
        folds.append((coordinates.choice, fitted.fold if problem.divisions else None))
        score = max(float(candidate["score"]) for candidate in of_choice if "rows" not in candidate)
        if best is None or score > best[0]:
            best = score, fitted, coordinates
    assert best is not None
    _, fitted, coordinates = best
    return (fitted.finish() if fitted.finish is not None and finished else fitted, coordinates), candidates, folds


def best_scores(
    kind: HeadKind, fit: FitFunction, taps: DepthLayout, problem: FitProblem
) -> list[tuple[DepthChoice, float]]:
    """Return the best score of a fitted head under each set of depths and weighting; no head is kept.

    Parameters as in `fit_depths`.
    """
    assert not kind.in_epochs, "a head that trains in epochs takes what ridge says"
    found: dict[DepthChoice, float] = {}
    for coordinates in _coordinates(taps, problem):
        fitted = fit(replace(_problem_on(coordinates.values, problem), deferred=True))
        scores = [float(candidate["score"]) for candidate in fitted.candidates if "rows" not in candidate]
        found[coordinates.choice] = max(scores)
    return list(found.items())


def _fit_torch(kind: HeadKind, fit: FitFunction, taps: DepthLayout, problem: FitProblem) -> HeadFit:
    """Return a torch head that was trained on the depths, and with the weighting, that ridge takes.

    Where they are streamed it takes whole rows, as a head on one cut does.

    Raises
    ------
    UsageError
        If depths are named, and rows are streamed.
    """
    if isinstance(problem.train, StreamedFeatureRows):
        if problem.config.depths:
            raise UsageError(
                f"`depths` {' '.join(problem.config.depths)}: rows are larger than `max_memory_gb` allows, and a head "
                "that trains in epochs takes all depths of what it reads then: allow more, or name fewer of the `taps`"
            )
        return fit(replace(problem, taps=None))
    folds: list[tuple[DepthChoice, Fold | None]] = []
    if len(depth_choices(taps, problem)) == 1:
        (coordinates,) = _coordinates(taps, problem)
    else:
        ridge: FitFunction = import_head(_CHOOSES)
        (_, coordinates), _, folds = _search(ridge, taps, problem, finished=False)
    rows, choice = coordinates.rows, coordinates.choice
    config, views = replace(problem.config, fit_scaler="none"), problem.in_memory[0].augmented
    in_span = begins_linear(kind.name) and not views

    def coordinates_of(choice: DepthChoice) -> Coordinates:
        if choice == coordinates.choice:
            return coordinates
        alone = replace(problem.config, depths=(cast(DepthSet, choice.depths),), block_weight=(choice.weighting,))
        return next(_coordinates(taps, replace(problem, config=alone)))

    def fitted_on(choice: DepthChoice) -> tuple[HeadFit, Coordinates]:
        if in_span and (found := coordinates_of(choice)).triangle is not None:
            shown = found.spread(problem.seed)
        else:
            width = sum(rows.widths[name] for name in choice.names)
            shown = rows.numbers(choice, float(width))  # a number has the variance 1 in the mean
        shown_views = [shown.of(view) for view in views]
        return fit(replace(_problem_on(shown.values, problem, shown_views), config=config)), shown

    fitted, shown = fitted_on(choice)

    def fold() -> OutOfFold | None:
        if not problem.divisions:
            return None
        if not folds:
            return fitted.fold() if fitted.fold is not None else None
        said = [of_ridge for _, fold in folds if fold is not None and (of_ridge := fold()) is not None]
        picks = variants_on_others(problem, said)
        tried = {}
        for number in {pick for of_plan in picks for pick in of_plan}:
            picked = folds[number][0]
            torch_fold = fitted.fold if picked == choice else fitted_on(picked)[0].fold
            outputs = torch_fold() if torch_fold is not None else None
            assert outputs is not None
            tried[number] = outputs
        return put_together(problem, tried, picks)

    return replace(
        fitted,
        head=shown.on_rows(fitted.head),
        head_train_only=shown.on_rows(fitted.head_train_only),
        settings=_said(choice) | ({"depths chosen by": _CHOOSES} if folds else {}) | fitted.settings,
        candidates=[_said(choice) | candidate for candidate in fitted.candidates],
        fold=fold if fitted.fold is not None else None,
    )


def _coordinates(taps: DepthLayout, problem: FitProblem) -> Iterator[Coordinates]:
    """Yield what the rows are under each set of depths and each weighting, those of the fewest numbers first.

    What heads on the same rows share is kept for the next of them, where it is not large.
    """
    choices = depth_choices(taps, problem)
    shared: _Shared | None = problem.shared.get(_SHARED)
    if shared is None:
        widths = {block.name: block.width for block in taps.blocks}
        sets = taps.depth_sets().values()
        rows = BlockRows(problem.train, problem.val, widths, _landmarks(problem), problem.seed, sets)
        shared = problem.shared[_SHARED] = _Shared(rows, {})
    rows, kept = shared
    missing = [choice for choice in choices if choice not in kept]
    if rows.bytes_of([*kept, *missing]) > KEPT_BYTES:  # what other heads took is given up for what this one takes
        for choice in [choice for choice in kept if choice not in choices]:
            del kept[choice]
    if rows.bytes_of([*kept, *missing]) > KEPT_BYTES:
        # rows are gone through once more for each, so that one is in memory at a time
        for choice in choices:
            yield kept[choice] if choice in kept else next(rows.coordinates([choice]))
        return
    kept |= zip(missing, rows.coordinates(missing), strict=True)
    for choice in choices:
        yield kept[choice]


class _Shared(NamedTuple):
    """What heads on the same rows share: the rows, and their coordinates under the choices that were asked for."""

    rows: BlockRows
    kept: dict[DepthChoice, Coordinates]


def depth_choices(taps: DepthLayout, problem: FitProblem) -> list[DepthChoice]:
    """Return the sets of depths, each with each weighting, that the options say to try; of the fewest numbers first.

    Raises
    ------
    UsageError
        If the rows have no set of a name.
    """
    widths = {block.name: block.width for block in taps.blocks}
    sets, asked = taps.depth_sets(), problem.config.depths
    if unknown := [name for name in asked if name not in sets]:
        raise UsageError(f"`depths` {unknown[0]}: of the `taps` that are cached there are {listed(list(sets))}")
    order = sorted(asked or sets, key=lambda name: sum(widths[block] for block in sets[name]))
    return [DepthChoice(name, sets[name], weighting) for name in order for weighting in problem.config.block_weight]


def _landmarks(problem: FitProblem) -> int:
    """Return how many landmarks there are: as many as the options say, or, of streamed rows, as memory has room for.

    Raises
    ------
    UsageError
        If that is next to none.
    """
    wanted = problem.config.nystroem_components
    if not isinstance(problem.train, StreamedFeatureRows):
        return wanted
    assert problem.taps is not None, "of which the rows are"
    rows, allowed = len(problem.train) + len(problem.val), problem.train.memory_bytes
    widths = {block.name: block.width for block in problem.taps.blocks}
    sets = {name: sum(widths[block] for block in blocks) for name, blocks in problem.taps.depth_sets().items()}

    def landmark_bytes(layers: int, width: int) -> int:
        """Return what a landmark takes: its own numbers, standardized and as pieces, and what each row is beside it.

        That is a coordinate, a copy that a head is fitted to, and the products that it is made of, layer by layer.
        """
        return np.dtype(np.float32).itemsize * (2 * width + (2 + layers) * rows)

    each, fewest = landmark_bytes(len(sets), sum(widths.values())), min(wanted, FEWEST_LANDMARKS, rows)
    room = allowed // each
    if room < fewest:
        number_bytes = problem.train.stores[0].dtype.itemsize
        able = [
            name
            for layers, name in enumerate(sorted(sets, key=lambda name: sets[name]), 1)
            # in memory, as long as no more images are tested than half of these; or streamed
            if min(3 * rows * sets[name] * number_bytes // 2, landmark_bytes(layers, sets[name]) * fewest) <= allowed
        ]
        raise UsageError(
            f"features of several depths are fitted by what they are beside at least {fewest} of the images, "
            f"which takes more than `max_memory_gb` allows; allow {fewest * each / 1e9:.2g}, or name fewer of the "
            f"`taps`{f' ({able[-1]} would do)' if able else ''}, or take a head that trains in epochs"
        )
    return min(wanted, room)


def _problem_on(
    values: NDArray[np.float32], problem: FitProblem, views: Sequence[NDArray[np.float32]] = ()
) -> FitProblem:
    """Return the problem of a head on vectors, of which train has these further views."""
    parts, start = [], 0
    for rows in (problem.train, problem.val):
        groups = rows.groups if isinstance(rows, FeatureRows) else None
        parts.append(FeatureRows(values[start : start + len(rows)], rows.labels, groups=groups))
        start += len(rows)
    train = replace(parts[0], augmented=views)
    config = replace(problem.config, scalers=("none",))
    return replace(problem, train=train, val=parts[1], config=config, taps=None, shared={})


def _said(choice: DepthChoice) -> dict[str, Any]:
    return {"depths": choice.depths, "block weight": choice.weighting}


def _without_scaler(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "scaler"}


def _nothing() -> None:
    """Return no outputs: rows are not divided."""
