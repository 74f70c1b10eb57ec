"""What a head says of samples that have columns of a table: of these alone, or beside an image each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cache.errors import DataError
from stages.columns.table_encoder import TableEncoder, counted
from stages.extraction.extractor import Extractor
from stages.finetuning.predict_images import PredictedBatch
from stages.finetuning.transfer_model import TransferModel
from stages.fitting.fit_head import head_probabilities
from stages.network.heads.base import Head
from stages.runtime.progress import progress
from stages.tasks.base import Task

_LOG = logging.getLogger("cutonce")


def predict_with_columns(
    extractor: Extractor,
    upper: TransferModel,
    task: Task,
    listing: Sequence[tuple[str, Mapping[str, str]]],
    columns: TableEncoder,
) -> Iterator[PredictedBatch]:
    """Yield what a head on columns answers for samples, in order.

    A head on columns alone opens no image.

    Parameters
    ----------
    extractor, upper, task
        As `open_model` gives them, and what makes answers of outputs.
    listing : sequence of (location, cells)
        Where the image of each sample is, and what its table says of it by the names of the columns.
    columns : TableEncoder
        What the head was trained with.

    Raises
    ------
    DataError
        If a sample comes without one of the columns, or a cell is no number where it must be one.
    """
    locations = [location for location, _ in listing]
    without = [location for location, cells in listing if any(name not in cells for name in columns.names)]
    if without:
        raise DataError(
            f"this method was trained with columns beside the images ({', '.join(columns.names)}), and "
            f"{without[0]} comes without: give a table with the columns path and these, or say by `method` one that "
            "takes images alone"
        )
    table = columns.encode({name: [cells[name] for _, cells in listing] for name in columns.names}, locations)
    for words, counts in (("no value", table.missing), ("what train never had", table.unseen)):
        if counts:
            _LOG.info(f"note: cells with {words}: {counted(counts)}")
    head = upper.model.head
    assert isinstance(head, Head)
    if head.config["row_shape"] == [columns.width]:
        yield PredictedBatch(list(range(len(listing))), head_probabilities(head, table.values, task), [])
        return
    with progress(label="predict", total=len(locations), unit="images") as bar:
        requests = extractor.evaluation_requests(locations)
        for batch in extractor.run_batches(requests, lambda images: [extractor.features(images)], 1):
            bar.update(batch.finished)
            if not batch.indices:
                yield PredictedBatch([], np.empty((0, task.out_features), np.float32), batch.failures)
                continue
            rows = np.concatenate([batch.rows[0].astype(np.float32), table.values[batch.indices]], axis=1)
            yield PredictedBatch(batch.indices, head_probabilities(head, rows, task), batch.failures)
