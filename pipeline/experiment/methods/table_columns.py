"""The columns of a manifest that stand beside its images, as numbers for each split."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache import key_of_bytes
from cache.errors import listed
from stages.columns.cells import as_numbers
from stages.columns.checks import remarks, require_columns, require_no_target
from stages.columns.fit import ColumnChoice, fit_columns
from stages.columns.table_encoder import EncodedTable, TableEncoder, counted
from stages.config.data import SPLITS
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.data.sources.target_columns import LABEL, LABELS, MASK, NUMBER

OWN_COLUMNS = ("path", LABEL, LABELS, NUMBER, MASK, "split", "key", "group", "stratum")
"""What a manifest says of a sample itself, and a table of what is to be predicted."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class TableColumns:
    """The columns of the samples of a manifest, as numbers.

    Attributes
    ----------
    encoder : TableEncoder
        Fitted to train.
    encoded : dict of str to EncodedTable
        By split.
    digest : str
        Of what all samples have in the columns.
    notes : list of str
        What is to be said of them, in words.
    """

    encoder: TableEncoder
    encoded: dict[str, EncodedTable]
    digest: str
    notes: list[str]

    @property
    def settings(self) -> dict[str, Any]:
        """What a reader of a result wants to know of them."""
        counts = {
            f"{kind} in {split}": counted(getattr(table, kind))
            for split, table in self.encoded.items()
            for kind in ("missing", "unseen")
        }
        return {"columns": self.encoder.describe(), **{name: text for name, text in counts.items() if text}}


def column_choice(options: HeadConfig) -> ColumnChoice:
    """Return which columns the options name, and how they are used."""
    return ColumnChoice(
        options.columns,
        options.categories,
        options.texts,
        options.log_columns,
        options.impute,
        options.category_min_count,
    )


def encode_columns(manifest: Manifest, options: HeadConfig, target: Sequence[str] = ()) -> TableColumns | None:
    """Return the columns that the options name, as numbers fitted to train; None where they name none.

    `target` names the columns that are predicted, or patterns of their names, as the option of that name does.

    Raises
    ------
    UsageError
        If there is no such column.
    DataError
        If one is constant, is the target, or holds words where numbers are wanted.
    """
    choice = column_choice(options)
    predicted = [name for name in choice.names if any(fnmatchcase(name, pattern) for pattern in target)]
    require_columns(choice, manifest.extra, [*OWN_COLUMNS, *predicted])
    if not choice.names:
        return None
    columns = {name: manifest.extra[name] for name in choice.names}
    targets = manifest.target_texts
    require_no_target(choice, columns, targets, list(_parts_of_targets(manifest)))
    for name in choice.numbers:  # of all samples, so that all rows with words in them are named at once
        as_numbers(name, columns[name], manifest.locations, log=name in choice.log)
    parts = {split: manifest.select(manifest.indices(split)) for split in SPLITS}
    encoder = fit_columns(choice, parts["train"].extra, parts["train"].locations)
    encoded = {split: encoder.encode(part.extra, part.locations) for split, part in parts.items()}
    notes = [*remarks(choice, columns, targets), f"columns: {encoder.describe()}"]
    notes += [
        f"{split}: cells without a value: {counted(table.missing)}" for split, table in encoded.items() if table.missing
    ]
    notes += [
        f"{split}: cells with what train never had: {counted(table.unseen)}"
        for split, table in encoded.items()
        if table.unseen
    ]
    digest = key_of_bytes(json.dumps(columns).encode("utf-8", "surrogateescape"))
    return TableColumns(encoder, encoded, digest, notes)


def _parts_of_targets(manifest: Manifest) -> Iterator[NDArray[Any]]:
    """Yield the target in numbers: each number of it, or of each class whether a sample is of it."""
    if manifest.targets.ndim > 1:
        yield from manifest.targets.T
    else:
        shares = manifest.task.soft_target(torch.from_numpy(manifest.targets)).numpy()
        yield from (np.asarray(shares.T) > 0)


def log_notes(table: TableColumns) -> None:
    """Tell what is to be said of the columns."""
    for note in table.notes:
        _LOG.info(f"note: {note}")


def note_columns_left_out(options: HeadConfig) -> None:
    """Tell that a fine-tuning is of images alone, where columns are given with it."""
    names = column_choice(options).names
    if names:
        _LOG.info(f"note: a network is fine-tuned on images alone; the columns {listed(names)} have no part in it")
