"""Gradual unfreezing: which blocks train in which epoch.

Here is the timetable alone. Who knows the layers freezes them (``stages.network.freezing``) when the loop says that an
epoch begins, by `prepare`. What gets no gradients stays as it is to the bit: neither momentum nor decay moves it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.errors import UsageError
from stages.config.bounds import require


@dataclass(frozen=True)
class UnfreezeSchedule:
    """Block by block from the top, a further one every few epochs (Howard & Ruder 2018, section 3.3).

    Attributes
    ----------
    blocks : tuple of str
        From the top down; the first trains from the beginning.
    every : int
        Epochs from one block to the next; 0 trains all from the beginning.
    """

    blocks: tuple[str, ...]
    every: int

    def __post_init__(self) -> None:
        require("unfreeze_every", self.every, "at least 0 epochs", lambda epochs: epochs >= 0)

    def check(self, epochs: int) -> None:
        """Refuse a timetable by which a block would never train.

        Raises
        ------
        UsageError
            With the number of epochs it takes.
        """
        last_start = (len(self.blocks) - 1) * self.every + 1
        if last_start > epochs:
            raise UsageError(
                f"`unfreeze_every` {self.every} lets the last of {len(self.blocks)} blocks (the head is one) train "
                f"from epoch {last_start} on, and there are {epochs}: unfreeze fewer blocks, more often, or train for "
                "more `epochs`"
            )

    def trainable_blocks(self, epoch: int) -> tuple[str, ...]:
        """Return the blocks that train in an epoch; epochs count from 1."""
        return self.blocks[: 1 + (epoch - 1) // self.every] if self.every else self.blocks

    def newly_unfrozen(self, epoch: int) -> str | None:
        """Return the block that trains from this epoch on and did not before, as long as there is one."""
        unfrozen = self.trainable_blocks(epoch)[len(self.trainable_blocks(epoch - 1)) :] if epoch > 1 else ()
        return unfrozen[0] if unfrozen else None
