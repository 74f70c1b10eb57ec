"""New images whose features a cache has already: nothing is decoded, no network is loaded or runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache import DigestCache, FeatureCache
from cache.errors import CacheError
from cache.inventory import open_cache
from cache.keys import KEY_MEMO
from pipeline.experiment.models.model_card import ModelCard
from pipeline.experiment.prediction.head_answers import encoded_columns, head_probabilities
from pipeline.run_layout import HEAD
from stages.columns.table_encoder import TableEncoder
from stages.finetuning.predicted_batch import PredictedBatch
from stages.network.graph.taps import TapLayout
from stages.network.heads.base import Head
from stages.network.heads.serialization import load_head
from stages.tasks.base import Task

_AT_ONCE = 4096
"""Images whose features are in memory at a time."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class CachedImages:
    """Which of some images have features that a method's head takes as they are.

    Attributes
    ----------
    store : FeatureCache
    keys : dict of int to str
        Of those that have a row, by their places among the images; ascending.
    unreadable : dict of int to str
        Why others can never have one.
    head : Head
    vector_width : int
        How many of the last numbers of a row tell how unlike the training images an image is; all of them of a vector.
    """

    store: FeatureCache
    keys: dict[int, str]
    unreadable: dict[int, str]
    head: Head
    vector_width: int

    def answers(
        self,
        task: Task,
        columns: TableEncoder | None = None,
        listing: Sequence[tuple[str, Mapping[str, str]]] = (),
    ) -> list[PredictedBatch]:
        """Return what the head answers for these images, as a network on images would.

        Parameters
        ----------
        task
            What makes answers of outputs.
        columns : TableEncoder, optional
            What makes numbers of the columns that the head takes beside the features.
        listing : sequence of (location, cells)
            Of all images, where columns are taken.

        Raises
        ------
        CacheError
            If rows are damaged.
        DataError
            If an image comes without the columns.
        """
        places = list(self.keys)
        batches = [PredictedBatch([], np.empty((0, 1), np.float32), [*self.unreadable.items()])] * bool(self.unreadable)
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            features = self.store.read([self.keys[place] for place in part]).astype(np.float32, copy=False)
            rows: NDArray[np.float32] = features
            if columns is not None:
                asked = [listing[place] for place in part]
                values = encoded_columns(columns, [name for name, _ in asked], [cells for _, cells in asked])
                rows = np.concatenate([features, values], axis=1)
            answered = head_probabilities(self.head, rows, task)
            batches.append(PredictedBatch(part, answered, [], features[:, -self.vector_width :]))
        return batches


def find_cached(
    directory: Path, card: ModelCard, locations: Sequence[str], cache: Path | None = None
) -> CachedImages | None:
    """Return which images have features in a cache, where the method is a head on such features; None where it is none.

    A method of which the head takes the features of one cache, vectors, as they were cached: not a fine-tuned network,
    nor one on samples of several images or on features of several cuts, nor one that is tested on other renderings. And
    none on a network of the user's own, whose weights may be others by now: it is loaded, which checks that.

    Parameters
    ----------
    directory : Path
        Of the method.
    card : ModelCard
    locations : sequence of str
        Files.
    cache : Path, optional
        The folder of caches; by default that of the features it was trained on.
    """
    if card.unfreeze is not None or card.tta != "none" or card.samples is not None or card.features_fingerprint is None:
        return None
    if not card.is_published:
        return None
    root = cache or Path(card.features["cache"])
    path = root / card.features_fingerprint
    if not path.is_dir():
        return None
    try:
        store = open_cache(path)
    except CacheError as error:
        _LOG.info(f"note: images go through the network, as the cache cannot be opened: {error}")
        return None
    if not store.shards or len(store.row_shape) != 1:
        return None
    keys_by_location, _ = DigestCache(root / KEY_MEMO).keys([str(location) for location in locations])
    keys = {place: keys_by_location[name] for place, name in enumerate(locations) if name in keys_by_location}
    unreadable = store.unreadable()
    missing = {*store.missing([key for key in keys.values() if key not in unreadable])}
    return CachedImages(
        store,
        {place: key for place, key in keys.items() if key not in missing and key not in unreadable},
        {place: unreadable[key] for place, key in keys.items() if key in unreadable},
        load_head(directory / HEAD)[0],
        _width_of_deepest(store),
    )


def _width_of_deepest(store: FeatureCache) -> int:
    """Return the width of the deepest block of a row of taps; of a cut that of the row."""
    if store.spec.taps is None:
        return int(store.row_shape[0])
    return TapLayout.from_json(store.spec.taps).blocks[-1].width
