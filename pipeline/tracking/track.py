"""Write the results of a command into a tracker: metrics, curves, options, and the page."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic_write import write_atomically
from pipeline.evaluation.results import Result, read_json
from pipeline.options.trackers import TRACKERS, TrackerKind
from pipeline.run_layout import REPORT, RESULT, TRACKING, seed_dir

_LOG = logging.getLogger("cutonce")

_LOGGED = "logged.json"
"""Which results each tracker has, by digests of their files."""


@dataclass(frozen=True)
class TrackedMethod:
    """What a tracker is given of one method and seed.

    Attributes
    ----------
    name : str
        The folder of the method in its run, and that of its seed before it.
    options : dict of str to (str, number, bool or None)
        What it was made with, and what was chosen.
    metrics : dict of str to float
        ``test/accuracy`` and so on; what is not defined is left out.
    curves : list of (int, dict of str to float)
        Of each epoch.
    page : Path or None
        The page of the run, where there is one.
    """

    name: str
    options: dict[str, Any]
    metrics: dict[str, float]
    curves: list[tuple[int, dict[str, float]]]
    page: Path | None

    @classmethod
    def of(cls, result: Result, run: Path) -> TrackedMethod:
        """Return what there is to track of a loaded result."""
        assert result.directory is not None
        page = run / REPORT
        metrics = {f"test/{name}": result.test.get(name) for name in result.task.metrics}
        metrics |= {f"val/{name}": value for name, value in result.val.items()}
        metrics |= {"seconds": result.seconds, "trainable_parameters": result.trainable_parameters}
        options = {"method": result.method, "name": result.name, "seed": result.seed, "backbone": result.backbone}
        return cls(
            result.directory.relative_to(run).as_posix(),
            {**options, **{name: _plain(value) for name, value in {**result.options, **result.settings}.items()}},
            _finite(metrics),
            [(int(row["epoch"]), _of_epoch(row)) for row in result.history],
            page if page.exists() else None,
        )


Track = Callable[[Path, Sequence[TrackedMethod]], str]
"""The run and its methods -> where they are now, in words. What it raises is told, and the run goes on."""


def register_tracker(name: str, *, needs: str = "", install: str = "", help_text: str = "") -> Callable[[Track], Track]:
    """Make a function a tracker.

    Parameters
    ----------
    name
        What `track` is for it. In our own files all of these are literals.
    needs, install
        As in :class:`~pipeline.options.trackers.TrackerKind`.
    help_text
        What help says of it; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """
    return TRACKERS.decorator(TrackerKind(name, needs, install, help_text=help_text))


def track_results(kind: str | None, run: Path, results: Sequence[Result]) -> None:
    """Write results into a tracker, those that it has not yet; a tracker that does not answer stops nothing.

    Parameters
    ----------
    kind : str or None
        Its name; None for none.
    run : Path
    results : sequence of Result
        Of this run; those that were not loaded are read again.
    """
    if kind is None:
        return
    where = ""
    try:
        track: Track = TRACKERS.get(kind)
        logged: dict[str, dict[str, str]] = read_json(run / TRACKING / _LOGGED) if _has_log(run) else {}
        of_kind = logged.setdefault(kind, {})
        for path in sorted(_files(run, results)):
            digest, name = _digest(path), _name(path.parent, run)
            if of_kind.get(name) == digest:
                continue
            where = track(run, [TrackedMethod.of(Result.load(path.parent), run)])
            (run / TRACKING).mkdir(exist_ok=True)
            of_kind[name] = digest  # one after the other, so that none is given twice where a later one fails
            write_atomically(run / TRACKING / _LOGGED, json.dumps(logged, indent=1).encode())
    except Exception as error:  # noqa: BLE001 (whatever a service or its library raises, results are on disk)
        _LOG.warning(
            f"{kind} did not take the results ({type(error).__name__}: {error}); they are in {run} all the same"
        )
        return
    _LOG.info(f"tracked by {kind}: {where}" if where else f"{kind} has all of these results")


def _files(run: Path, results: Sequence[Result]) -> Iterator[Path]:
    for result in results:
        found = seed_dir(run, result.seed) / f"{result.method}-{result.name}" / RESULT
        path = found if result.directory is None else result.directory / RESULT
        if path.exists() and path.is_relative_to(run):
            yield path


def _has_log(run: Path) -> bool:
    return (run / TRACKING / _LOGGED).exists()


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _name(folder: Path, run: Path) -> str:
    return folder.relative_to(run).as_posix()


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value, default=str)


def _of_epoch(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch in a history."""
    return _finite({name: value for name, value in row.items() if name != "epoch"})


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number, by its name; of mappings inside their numbers, with both names."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _finite({f"{name}/{inner}": number for inner, number in value.items()})
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found
