"""Features in a cache, as stage 1 leaves them."""

import numpy as np

from cache import FeatureCache, Spec, key_of_bytes
from stages.fitting.feature_rows import StreamedFeatureRows

MEMORY = 64 << 20


def stored(root, name, features):
    """Return a cache of these rows and their keys."""
    spec = Spec(
        backbone=name,
        weights="0",
        cut="cut",
        pooling="avg",
        preprocessing={},
        views=None,
        precision="fp32",
        dtype="float16",
        decoder="none",
    )
    cache = FeatureCache(root, spec)
    keys = [key_of_bytes(str(number).encode()) for number in range(len(features))]
    with cache.writer() as writer:
        writer.append(keys, features)
    return cache, keys


def streamed(root, parts, memory=MEMORY):
    """Return the rows of splits as they are streamed from one cache, which may take so many bytes of memory."""
    cache, keys = stored(root, "rows", np.concatenate([part.features for part in parts]))
    ends = np.cumsum([0, *map(len, parts)])
    return [
        StreamedFeatureRows([cache], keys[start:end], part.labels, memory)
        for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True)
    ]
