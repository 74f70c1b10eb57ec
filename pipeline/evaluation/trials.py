"""What a search for the best method has tried, and when: the records that ``best`` leaves in a run.

``trials.jsonl`` has a line for each trial, ``best.json`` what the search was asked for and what it came to. A run
without them was not searched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cache.atomic_write import write_atomically
from cache.errors import DataError
from pipeline.evaluation.methods import get_method, is_method
from pipeline.evaluation.results import json_text, read_json, to_json_value
from pipeline.run_layout import BEST, CONFIGURATION, TRIALS
from stages.config.head_registry import head_label

State = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a search.

    Attributes
    ----------
    number : int
        In the order of the search, from 1; 0 is the extraction of the features that come first.
    name : str
        What its method is called, as in its result.
    what : str
        In words.
    state : {"finished", "failed", "interrupted"}
    seconds : float
        What it took.
    at : float
        Seconds of search when it ended, those of earlier commands included.
    folder : str or None
        Of its method, in that of the seed.
    score : float or None
        Out of folds, or on the validation split; None where it has none.
    scored : {"folds", "validation"} or None
        By what.
    answer : float or None
        What the method to take, the ensemble among them, scored out of folds after it; None where it has no such score.
    reason : str
        Why it failed.
    details : dict
        What the order of later trials, and their estimated cost, follow from.
    """

    number: int
    name: str
    what: str
    state: State
    seconds: float
    at: float
    folder: str | None = None
    score: float | None = None
    scored: Literal["folds", "validation"] | None = None
    answer: float | None = None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call its method."""
        method = (self.folder or "").partition("-")[0]
        return get_method(method).label(self.name) if is_method(method) else head_label(self.name)


def read_trials(run: Path) -> list[TrialRecord]:
    """Return the trials of a run, in their order; none of a run that was not searched.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = run / TRIALS
    if not path.exists():
        return []
    known = {each.name for each in fields(TrialRecord)}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [TrialRecord(**{name: value for name, value in line.items() if name in known}) for line in lines]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it: `best` finds the methods that are finished again, and writes it "
            "anew"
        ) from error


def replay_command(run: Path, out: Path) -> list[str]:
    """Return the words of the command that makes the trials of a run again, with its options."""
    options = ["--config", str(run / CONFIGURATION), "--replay", str(run)]
    return ["cutonce", "best", *options, "--out", str(out)]


def write_trials(run: Path, trials: Sequence[TrialRecord]) -> None:
    """Write the trials of a run, whole: a command that is killed leaves the file of before."""
    lines = [json.dumps(to_json_value(asdict(trial))) for trial in trials]
    write_atomically(run / TRIALS, "".join(f"{line}\n" for line in lines).encode())


@dataclass(frozen=True)
class SearchSummary:
    """What a search was asked for, and what it came to.

    Attributes
    ----------
    budget : float or None
        Seconds of the last command; None where trials were counted.
    trials : int
        That are finished.
    seconds : float
        Of search, of all commands.
    chosen : dict
        As in ``results.json``; empty as long as there is none.
    words : tuple of str
        What was tried, and what more minutes might bring.
    upcoming : tuple of dict
        The trials that would come next: `what`, and estimated `seconds`.
    max_predict_ms : float or None
        What a prediction may cost, in milliseconds an image.
    options : dict
        Those that shape the trials.
    """

    budget: float | None
    trials: int
    seconds: float
    chosen: dict[str, Any]
    words: tuple[str, ...]
    upcoming: tuple[dict[str, Any], ...]
    max_predict_ms: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def save(self, run: Path) -> None:
        """Write ``best.json``."""
        write_atomically(run / BEST, json_text(asdict(self)).encode())


def read_search(run: Path) -> SearchSummary | None:
    """Return what the search of a run came to; None of a run that was not searched.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = run / BEST
    if not path.exists():
        return None
    stored = read_json(path, "delete it, and `best` writes it anew")
    known = {each.name for each in fields(SearchSummary)}
    try:
        found = {name: value for name, value in stored.items() if name in known}
        return SearchSummary(**{**found, "words": tuple(found["words"]), "upcoming": tuple(found["upcoming"])})
    except (TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and `best` writes it anew") from error
