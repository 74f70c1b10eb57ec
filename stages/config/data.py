"""Which images, with which labels and splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import UsageError
from stages.config.lists import take_lists
from stages.config.registry import COMMON, SOURCES, OptionHelp, listed_help

SPLITS = ("train", "val", "test")

CLASSES = "classes"
LEFT_OUT = "none"
"""Words of the option `folders`."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, with which labels and splits."""

    data: str = field(
        metadata=OptionHelp(lambda: f"Images: {listed_help(SOURCES)}. Samples of one group stay in one split.", COMMON)
    )
    """Images; help names the sources that are registered."""

    data_root: Path | None = None
    """Where torchvision data sets are kept and downloaded to (default: ~/.cache/cutonce/datasets)."""

    folders: tuple[str, ...] = ()
    """What the folders in a folder are, where their names do not say it: classes, or the split of each one that is not
    called train, val or test, as dev=val unlabeled=none (none leaves it out)."""

    test_size: float = 0.25
    """Share of the samples put into the test split, per class, where the source has none."""

    val_size: float = 0.2
    """Share of the training samples taken for validation, per class, where the source has no such split."""

    seeds: tuple[int, ...] = field(default=(0,), metadata=COMMON)
    """Each seed is one repetition: it draws the splits that are made here, and the training."""

    allow_leakage: bool = False
    """Go on although the same image stands in two of the given splits."""

    def __post_init__(self) -> None:
        take_lists(self)
        if self.folders != (CLASSES,):
            for item in self.folders:
                name, _, split = item.rpartition("=")
                if not name or split not in (*SPLITS, LEFT_OUT):
                    raise UsageError(
                        f"`folders` {item!r} must be {CLASSES}, or FOLDER=SPLIT with the split {', '.join(SPLITS)} or "
                        f"{LEFT_OUT}"
                    )
