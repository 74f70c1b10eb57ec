"""``index.h5``: one virtual array over all shards, for people with h5py or any HDF5 viewer.

A convenience: the cache never reads it back, and makes it anew from the shards. It checks no checksums.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import h5py
import numpy as np

from cache.shard import KEY_TYPE, MEMBERS, VIEW_TYPE, Shard, new_h5, write_encoding


def index_image(shards: Sequence[Shard], fingerprint: str) -> bytes:
    """Return the bytes of an index of at least one shard; the shards are found relative to the index.

    Rows of a shard that is gone later read as NaN with an empty key, not as zeros that look like features.
    """
    rows = sum(shard.rows for shard in shards)
    row_shape, dtype = shards[0].row_shape, shards[0].dtype
    # The fill value of text is left out: nothing is what h5py fills it with, and given one it writes stray memory.
    members = {"features": (row_shape, dtype, np.nan), "keys": ((), KEY_TYPE, None), "views": ((), VIEW_TYPE, -1)}
    image = BytesIO()
    with new_h5(image) as file:
        write_encoding(file, "feature-index")
        file.attrs["fingerprint"] = fingerprint
        for name, (shape, element_type, fill) in members.items():
            layout = h5py.VirtualLayout((rows, *shape), element_type)
            start = 0
            for shard in shards:
                source = h5py.VirtualSource(f"shards/{shard.path.name}", name, (shard.rows, *shape), element_type)
                layout[start : start + shard.rows] = source
                start += shard.rows
            write_encoding(file.create_virtual_dataset(name, layout, fillvalue=fill), MEMBERS[name])
    return image.getvalue()
