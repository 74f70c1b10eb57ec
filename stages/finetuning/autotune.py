"""What a training found out by trying before it began: rates, and the quicker arithmetic."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.atomic_write import write_atomically
from stages.training.amp import Autocast
from stages.training.lr_finder import LRFinderResult
from stages.training.optim import Group

CHECKPOINT = "checkpoint.pt"


FOUND = "found.json"
"""What a training found out by trying before it began; a killed one that goes on does not try again."""


@dataclass
class AutotuneState:
    """What was found out by trying, before a training or as it went."""

    autocast: Autocast | None = None
    range_tests: list[LRFinderResult] = field(default_factory=list)

    def add(self, test: LRFinderResult) -> None:
        """Keep a range test; of a block that was tested before a training was killed, the newer one."""
        self.range_tests = [kept for kept in self.range_tests if kept.block != test.block] + [test]

    def save(self, folder: Path | None) -> None:
        """Leave it in the folder of the training, if there is anything."""
        if folder is None or (self.autocast is None and not self.range_tests):
            return
        folder.mkdir(parents=True, exist_ok=True)
        tests = [
            {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(test).items()}
            for test in self.range_tests
        ]
        write_atomically(folder / FOUND, json.dumps({"autocast": self.autocast, "range tests": tests}).encode())

    @classmethod
    def load(cls, folder: Path | None) -> AutotuneState:
        """Return what a killed training left; nothing where none began."""
        if folder is None or not (folder / CHECKPOINT).exists() or not (folder / FOUND).exists():
            return cls()
        saved: dict[str, Any] = json.loads((folder / FOUND).read_text(encoding="utf-8"))
        tests = [
            LRFinderResult(
                np.array(test["rates"]),
                np.array(test["losses"]),
                np.array(test["smoothed"]),
                test["suggestion"],
                test["block"],
            )
            for test in saved["range tests"]
        ]
        return cls(saved["autocast"], tests)


def rescale_lrs(groups: list[Group], test: LRFinderResult) -> None:
    """Give the groups that a range test was about the rate that it suggests, in their proportions."""
    if test.suggestion is None:
        return
    tested_groups = [group for group in groups if test.block in (None, group["block"])]
    factor = test.suggestion / max(float(group["lr"]) for group in tested_groups)
    for group in tested_groups:
        group["lr"] *= factor
