"""Taps: tensors of a network, of all depths, whose pooled statistics are one row for each image.

Every cut can be a tap, and not every tap is a cut: inside a residual block two tensors cross. Where in a network the
taps lie is told in `tap_places`; the one pass that computes the row in `tapped_trunk`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

from cache.errors import CacheInputError, UsageError, listed, suggestion

TapKind = Literal["last", "stage", "block", "inner"]
"""What a tensor is of its network: the input of the classifier, or what it is pooled of; the output of a stage, or of a
block within one; or the expanded activation inside a block."""

_DEPTH_SETS: dict[str, tuple[TapKind, ...]] = {
    "last": ("last",),
    "stages": ("last", "stage"),
    "blocks": ("last", "stage", "block"),
    "all": ("last", "stage", "block", "inner"),
}

DEPTH_SETS = tuple(_DEPTH_SETS)
"""Words for sets of taps, each holding the one before."""


@dataclass(frozen=True)
class TapBlock:
    """One statistic of one tensor: some of the numbers of a row.

    Attributes
    ----------
    place : str
        The path of the step whose output it is of.
    pool : str
        How that is pooled; `none` where it is a vector.
    kind : {"last", "stage", "block", "inner"}
    width : int
        How many numbers it is.
    """

    place: str
    pool: str
    kind: TapKind
    width: int

    @property
    def name(self) -> str:
        """Place and pooling, ``blocks.3.1:avg``."""
        return f"{self.place}:{self.pool}"


@dataclass(frozen=True)
class TapLayout:
    """The blocks of a row, one after the other, from the image upwards.

    Attributes
    ----------
    blocks : tuple of TapBlock
        No two of one name.
    """

    blocks: tuple[TapBlock, ...]

    @property
    def width(self) -> int:
        """How many numbers a row is."""
        return sum(block.width for block in self.blocks)

    @property
    def slices(self) -> dict[str, slice]:
        """Where in a row each block stands, by its name."""
        stops = list(accumulate(block.width for block in self.blocks))
        return {block.name: slice(stop - block.width, stop) for block, stop in zip(self.blocks, stops, strict=True)}

    def depth_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return the sets of blocks that are worth comparing, by their words, the smallest first.

        Of sets that are equal the first is given, and none that is empty. Where there is neither, as where single
        tensors were named, all blocks are ``all``.
        """
        sets: dict[str, tuple[str, ...]] = {}
        for word, kinds in _DEPTH_SETS.items():
            names = tuple(block.name for block in self.blocks if block.kind in kinds)
            if names and names not in sets.values():
                sets[word] = names
        return sets

    def select(self, names: Collection[str]) -> TapLayout:
        """Return the layout of these blocks alone, in the order of the row.

        Raises
        ------
        UsageError
            If there is none of a name.
        """
        known = [block.name for block in self.blocks]
        for name in names:
            if name not in known:
                nearest = suggestion(name, known) or f" There are {listed(known)}."
                raise UsageError(f"a row has no block {name!r}.{nearest}")
        return TapLayout(tuple(block for block in self.blocks if block.name in names))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the blocks as JSON values."""
        return [asdict(block) for block in self.blocks]

    @classmethod
    def from_json(cls, values: Sequence[Mapping[str, Any]]) -> TapLayout:
        """Return the layout that :meth:`to_json` described.

        Raises
        ------
        CacheInputError
            If it is none.
        """
        try:
            blocks = tuple(TapBlock(**value) for value in values)
        except TypeError as error:
            raise CacheInputError(f"not a layout of taps: {error}") from error
        if any(block.kind not in get_args(TapKind) for block in blocks):
            raise CacheInputError(f"a block of taps is one of {', '.join(get_args(TapKind))}")
        return cls(blocks)
