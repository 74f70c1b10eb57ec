"""What a head answers for rows that are there, and the columns of a table as rows: no network, no image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import DataError
from stages.columns.table_encoder import TableEncoder, counted
from stages.fitting.feature_rows import BATCH_ROWS
from stages.network.heads.base import Head
from stages.tasks.base import Task
from stages.training.evaluation import predict

_LOG = logging.getLogger("cutonce")


def head_probabilities(head: Head, rows: NDArray[np.float32], task: Task) -> NDArray[np.float32]:
    """Return what a head answers for rows, [n, *row_shape]; without what fits heads, which takes a second to import."""
    return np.asarray(predict(head, torch.split(torch.from_numpy(rows), BATCH_ROWS), task).numpy())


def encoded_columns(
    columns: TableEncoder, names: Sequence[str], cells: Sequence[Mapping[str, str]]
) -> NDArray[np.float32]:
    """Return the columns of samples as numbers, and tell what is missing in them or new."""
    without = [name for name, of_sample in zip(names, cells, strict=True) if not of_sample.keys() >= {*columns.names}]
    if without:
        raise DataError(
            f"this method was trained with columns beside the images ({', '.join(columns.names)}), and "
            f"{without[0]} comes without: give a table that has these columns too, or say by `method` one that "
            "takes images alone"
        )
    table = columns.encode({name: [of_sample[name] for of_sample in cells] for name in columns.names}, names)
    for words, counts in (("no value", table.missing), ("what train never had", table.unseen)):
        if counts:
            _LOG.info(f"note: cells with {words}: {counted(counts)}")
    return table.values
