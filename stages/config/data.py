"""Which images, with which labels and splits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cache.errors import UsageError, alternatives, suggestion
from stages.config.bounds import is_share, require, require_at_least, require_choices, take_kinds
from stages.config.goals import goal_of
from stages.config.lists import take_lists
from stages.config.registry import COMMON, SOURCES, TARGETS, OptionHelp, listed_help

SPLITS = ("train", "val", "test")

AFTER_TRAINING = ("threshold_for", "coverage", "calibrate")
"""Options that shape no method, but what is made of its probabilities."""

CLASSES = "classes"
LEFT_OUT = "none"
"""Words of the option `folders`."""

AUTO = "auto"
BY_FOLDER = "folder"
UNGROUPED = "none"
"""Words of the option `group_by`."""

NESTED = "cv"
EACH_GROUP = "groups"
ONE_GROUP = "group="
"""Words of the option `test`; the name of the group comes after the last."""

DENSE = "dense"
"""The word of the option `task` for a class for each pixel: sources look for masks then."""

Unit = Literal["auto", "image", "folder"]


@dataclass(frozen=True)
class DataConfig:
    """Which images, with which labels and splits."""

    data: str = field(
        metadata=OptionHelp(lambda: f"Images: {listed_help(SOURCES)}. Samples of one group stay in one split.", COMMON)
    )
    """Images; help names the sources that are registered."""

    task: str = field(
        default=AUTO,
        metadata=OptionHelp(
            lambda: (
                f"What is predicted: {', '.join(TARGETS.named_help_texts())}, or auto (what a table plainly holds, "
                "else one class)."
            ),
            COMMON,
        ),
    )

    target: tuple[str, ...] = field(default=(), metadata=COMMON)
    """Columns of a table that hold what is predicted: price, or tag_* for columns of 0 and 1, one a label (default: the
    column label, labels or target)."""

    metric: str | None = None
    """What chooses settings and epochs, ranks methods, is tested and heads the page, as f1_macro (default: accuracy, or
    balanced_accuracy with --class-weights balanced; of labels map_macro, of numbers r2, of ordered classes qwk)."""

    threshold_for: str | None = None
    """Of two classes, what the probability from which on one is predicted is chosen for: recall=0.95 finds that share
    of the second class, cost=5:1 weighs a missed one five times a false alarm; defective:recall=0.95 names the class.
    Chosen on held-out images after training; the page shows what it changes, and predict goes by it."""

    coverage: float | None = None
    """Let predict name all classes that are possible, so that the true one is among them in this share of the cases,
    as 0.9 (one class a sample)."""

    calibrate: bool = False
    """Let predict divide logits by the one temperature that fits held-out images best, so that how sure it is says how
    often it is right; no prediction changes (one class a sample). The page says what that would do."""

    log_target: bool = False
    """Predict the logarithm of the numbers, which have to be above 0: for prices, counts and sizes, whose errors are
    shares."""

    ordinal: tuple[str, ...] = ()
    """The classes in their order, lowest first, as mild,moderate,severe, or auto where they are numbers: they are
    predicted as a number, and a near miss counts as a near miss."""

    ignore_label: tuple[str, ...] = ()
    """What masks hold, besides 255, where no class is known: a number, a color as #000000, or the name of a class in
    classes.txt or classes.csv. Such pixels count neither in training nor in scores."""

    data_root: Path | None = None
    """Where torchvision data sets are kept and downloaded to (default: ~/.cache/cutonce/datasets)."""

    folders: tuple[str, ...] = ()
    """What the folders in a folder are, where their names do not say it: classes, or the split of each one that is not
    called train, val or test, as dev=val unlabeled=none (none leaves it out)."""

    group_by: str = AUTO
    """Which images are of one subject and stay in one split: folder (those in one folder inside a class; of a table,
    those in one folder), a regular expression on the file name with the subject in brackets, as '^([^_]+)_', or none.
    auto takes what the source says, and folders inside the classes that look like subjects; a note says so."""

    group_column: str | None = None
    """Column of a table that says of which subject an image is, where it is not called group."""

    test_size: float = 0.25
    """Share of the samples put into the test split, per class, where the source has none."""

    test: str | None = None
    """Where no test split can be spared, or a site is to be one: cv (nested cross-validation: each sample is tested
    once, in five folds, by heads that never saw it; kept is one trained on all), groups (the same, group by group), or
    group=VALUE (that group alone is the test split)."""

    val_size: float = 0.2
    """Share of the training samples taken for validation, per class, where the source has no such split."""

    seeds: tuple[int, ...] = field(default=(0,), metadata=COMMON)
    """Each draws its own splits, where these are made, and training."""

    allow_leakage: bool = False
    """Go on although the same image stands in two of the given splits."""

    images: tuple[str, ...] = ()
    """Columns of a table that hold the images of a sample, as frontal,kitchen,bath; an empty field is a missing view
    (default: path, and path_2, path_3, ... where there are such)."""

    sample: Unit = "auto"
    """What a sample is: image, or folder (of a folder of classes: each folder inside a class, with all images in it).
    auto takes the rows of a table that have the same word in a column sample for one, and with `frames` each folder."""

    frames: int | None = None
    """Most images of a sample, evenly spaced over those that there are, in order: of a folder of frames, of the rows of
    a sample, or of a video file, which is read with this option alone (needs `pip install av`)."""

    @property
    def tests_each_sample(self) -> bool:
        """Whether there is no test split, and each sample is tested once, in outer folds."""
        return self.test in (NESTED, EACH_GROUP)

    def __post_init__(self) -> None:
        take_lists(self)
        take_kinds(self)
        if self.folders != (CLASSES,):
            for item in self.folders:
                name, _, split = item.rpartition("=")
                if not name or split not in (*SPLITS, LEFT_OUT):
                    raise UsageError(
                        f"`folders` {item!r} must be {CLASSES}, or FOLDER=SPLIT with the split {', '.join(SPLITS)} or "
                        f"{LEFT_OUT}"
                    )
        require_choices(self)
        require_at_least(self, {"frames": 1})
        require("seeds", self.seeds, "from 0 to 4,294,967,295", lambda seed: 0 <= seed < 2**32)  # as NumPy has them
        require("coverage", self.coverage, "between 0 and 1", is_share)
        goal_of(self.threshold_for)
        if len(set(self.images)) < len(self.images):
            raise UsageError(f"`images` {','.join(self.images)} names a column twice")
        if self.images and self.frames is not None:
            raise UsageError("`images` names the images of a sample and `frames` chooses among them: give one of them")
        if self.task != AUTO:
            object.__setattr__(self, "task", self.task.replace("-", "_"))
            if self.task not in (known := TARGETS.names()):
                there_are = alternatives(self.task, known, otherwise=f", or {AUTO}")
                raise UsageError(f"`task` {self.task}: there is no such task.{there_are}")
        if self.test is not None and self.test not in (NESTED, EACH_GROUP):
            _require_group(self.test)
        if self.group_column is not None and self.group_by != AUTO:
            raise UsageError("`group_by` and `group_column` both say which images belong together: give one of them")
        if self.group_by not in (AUTO, BY_FOLDER, UNGROUPED):
            _require_pattern(self.group_by)


def _require_group(text: str) -> None:
    """Raise UsageError unless a word of `test` names a group."""
    if not text.startswith(ONE_GROUP) or text == ONE_GROUP:
        is_number = text.replace(".", "", 1).isdecimal()
        raise UsageError(
            f"`test` {text!r} must be {NESTED}, {EACH_GROUP}, or {ONE_GROUP}VALUE"
            f"{'; the share of the test split is `test_size`' if is_number else suggestion(text, (NESTED, EACH_GROUP))}"
        )


def _require_pattern(text: str) -> None:
    """Raise UsageError unless a word of `group_by` is a regular expression with one pair of brackets for the group."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise UsageError(f"`group_by` {text!r} is no regular expression: {error}") from error
    if groups != 1:
        raise UsageError(
            f"`group_by` {text!r} must be {AUTO}, {BY_FOLDER}, {UNGROUPED}, or a regular expression with one pair of "
            "brackets around the subject in a file name, as '^([^_]+)_'"
        )
