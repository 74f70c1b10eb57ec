"""Cached features as one file for other programs: ``.npz``, ``.parquet`` or ``.safetensors``.

A format is a function under :func:`register_export_format`, here or in a file of its own. In it the rows of a cache
meet the paths, labels and splits of a manifest, which the cache does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import FeatureCache
from cache.atomic_write import atomic_path
from cache.errors import CacheInputError, CutonceError, UsageError
from pipeline.options.export_formats import EXPORT_FORMATS, ExportFormat, writer_of
from stages.data.manifest import Manifest
from stages.runtime.progress import progress
from stages.runtime.tensor_files import is_utf8
from stages.runtime.unicode_text import as_unicode

_BATCH_BYTES = 64 << 20
_LONGEST_SAFETENSORS_HEADER = 99_000_000
"""The library reads headers of up to 100,000,000 bytes; the tensors have their places in it, too."""


@dataclass(frozen=True)
class Export:
    """What goes into a file.

    Attributes
    ----------
    cache : FeatureCache
    view : int
    keys : list of str
        One per row of the file, in its order.
    manifest : Manifest or None
        Its samples are the rows, one for one.
    """

    cache: FeatureCache
    view: int
    keys: list[str]
    manifest: Manifest | None

    def batches(self) -> Iterator[slice]:
        """Yield the rows a few at a time, with a progress bar."""
        step = max(1, _BATCH_BYTES // self.cache.shards[0].row_bytes)
        with progress(label="export", total=len(self.keys), unit="rows") as bar:
            for start in range(0, len(self.keys), step):
                rows = slice(start, min(start + step, len(self.keys)))
                yield rows
                bar.update(rows.stop - rows.start)

    def features(self) -> NDArray[Any]:
        """Return all rows, [n, *row_shape], storage type."""
        features = np.empty((len(self.keys), *self.cache.row_shape), dtype=self.cache.dtype)
        for rows in self.batches():
            self.cache.read(self.keys[rows], self.view, out=features[rows])
        return features


WriteExport = Callable[[Export, Path], None]
"""Writes what is exported into a file that is given its name when it is whole."""


def export_features(cache: FeatureCache, path: Path, manifest: Manifest | None = None, view: int = 0) -> Export:
    """Write rows of a cache, in the storage type, into one file; return what was written.

    ``.npz``
        Arrays `features`, `keys`, `view`, `spec` (JSON); with a manifest `paths`, `labels`, `splits`, `class_names`,
        `task` (JSON). Needs memory for all features. Nothing in it is pickled.
    ``.safetensors``
        Tensors `features`, `keys` (uint8 [n, 32], the hex digits) and `labels`; `view`, `spec`, and as JSON lists
        `paths`, `splits`, `class_names` and `task`, in the metadata. Needs memory for all features.
    ``.parquet``
        Columns `key`, `path`, `label`, `class`, `split`, `features` (a list of fixed size, flattened); `view`, `spec`,
        `row_shape`, `class_names` and `task` in the metadata of the schema. Written a few megabytes at a time. What is
        not Unicode in a path or a class is escaped with a backslash.

    A label is the number of a class; of several labels a row of 1, 0 and nan for one that is not known, in the order of
    `class_names`; of numbers the number itself, or a row of them, in the unit that they were given in. Where each pixel
    has a class it is the path of the mask, which ``.safetensors`` has as a JSON list in the metadata.

    Parameters
    ----------
    cache : FeatureCache
    path : Path
        Its ending names the format. It appears when all is written.
    manifest : Manifest, optional
        Whose samples are written, in its order, without those that were found unreadable; without it every row is,
        in the order in which they are stored.
    view : int

    Raises
    ------
    UsageError
        If the format is not known, needs a package that is not there, or cannot hold so many paths; or if there are no
        rows of this view.
    CacheError
        If samples of the manifest have no row, or rows are damaged.
    CutonceError, OSError
        If the file cannot be written.
    """
    write: WriteExport = writer_of(EXPORT_FORMATS, path)
    export = Export(cache, view, *_samples(cache, manifest, view))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(export, temporary)
    return export


def register_export_format(
    ending: str, *, needs: str = "", install: str = "", help_text: str = ""
) -> Callable[[WriteExport], WriteExport]:
    """Make a function what writes files whose names end so.

    Parameters
    ----------
    ending
        With its point, in small letters: ``.npz``.
    needs, install
        As in :class:`~pipeline.options.export_formats.ExportFormat`; literals in our own files.
    help_text
        What it is, in a few words; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered for the ending.
    """
    return EXPORT_FORMATS.decorator(ExportFormat(ending, needs, install, help_text=help_text))


def _samples(cache: FeatureCache, manifest: Manifest | None, view: int) -> tuple[list[str], Manifest | None]:
    """Return the keys of the rows to write, and the samples they belong to."""
    views = cache.views
    if view not in views:
        views_text = f"it has the views {', '.join(map(str, views))}" if views else "it is empty"
        raise UsageError(f"{cache.path} has no rows of view {view}; {views_text}")
    if manifest is None:
        return cache.keys(view), None
    manifest = manifest.by_image()
    missing = cache.missing(manifest.keys, view)
    if missing:
        example = manifest.locations[manifest.keys.index(missing[0])]
        raise CacheInputError(
            f"{len(missing)} of {len(manifest)} images of the manifest have no features (view {view}) in {cache.path} "
            f"(first: {example}); extract them first"
        )
    rejected = cache.unreadable()
    manifest = manifest.select([index for index, key in enumerate(manifest.keys) if key not in rejected])
    if not manifest.keys:
        raise UsageError(f"none of the manifest's images could be read when {cache.path} was made: nothing to write")
    return manifest.keys, manifest


def _labels(manifest: Manifest) -> NDArray[Any]:
    """Return the targets as people have them, [n] or [n, k]."""
    labels = manifest.task.in_units(manifest.targets)
    return labels[:, 0] if labels.ndim > 1 and labels.shape[1] == 1 and not manifest.class_names else labels


def _are_paths(manifest: Manifest) -> bool:
    """Return whether the labels are paths of masks."""
    return manifest.task.reads == "image"


@register_export_format(".npz")
def write_npz(export: Export, path: Path) -> None:
    """Arrays of NumPy, none of them pickled."""
    arrays = {
        "features": export.features(),
        "keys": np.array(export.keys, dtype="S32"),
        "view": np.array(export.view),
        "spec": np.array(export.cache.spec.canonical),
    }
    if export.manifest is not None:
        arrays["paths"] = np.array(export.manifest.locations)
        arrays["labels"] = _labels(export.manifest)
        arrays["splits"] = np.array(export.manifest.splits)
        arrays["class_names"] = np.array(export.manifest.class_names, dtype=np.str_)
        arrays["task"] = np.array(json.dumps(export.manifest.task.to_json()))
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its own option allow_pickle is not among the arrays


@register_export_format(".safetensors")
def write_safetensors(export: Export, path: Path) -> None:
    """Tensors, with the words about them as metadata."""
    from safetensors import SafetensorError
    from safetensors.numpy import save, save_file

    tensors: dict[str, NDArray[Any]] = {"keys": np.array(export.keys, dtype="S32").view(np.uint8).reshape(-1, 32)}
    metadata = {"view": str(export.view), "spec": export.cache.spec.canonical}
    if export.manifest is not None:
        labels = _labels(export.manifest)
        if _are_paths(export.manifest):
            metadata["labels"] = json.dumps(labels.tolist())
        else:
            tensors["labels"] = labels
        metadata["paths"] = json.dumps(export.manifest.locations)
        metadata["splits"] = json.dumps(export.manifest.splits)
        metadata["class_names"] = json.dumps(export.manifest.class_names)
        metadata["task"] = json.dumps(export.manifest.task.to_json())
    size = len(json.dumps(metadata))
    if size > _LONGEST_SAFETENSORS_HEADER:
        raise UsageError(
            f"the paths of {len(export.keys):,} images take {size:,} bytes, and the header of a safetensors file "
            f"{_LONGEST_SAFETENSORS_HEADER:,} at most; write .parquet or .npz"
        )
    tensors["features"] = export.features()
    try:
        if is_utf8(path):
            save_file(tensors, path, metadata)
        else:  # which the library does not open; takes the memory twice
            path.write_bytes(save(tensors, metadata))
    except SafetensorError as error:
        raise CutonceError(f"the safetensors file cannot be written: {error}") from error


@register_export_format(".parquet", needs="pyarrow", install="pyarrow>=16")
def write_parquet(export: Export, path: Path) -> None:
    """Table, written a few megabytes at a time."""
    import pyarrow
    from pyarrow import parquet

    cache, manifest = export.cache, export.manifest
    width = int(np.prod(cache.row_shape))
    features = pyarrow.list_(pyarrow.from_numpy_dtype(cache.dtype), width)
    columns: dict[str, tuple[Any, Any]] = {"key": (pyarrow.string(), export.keys)}
    metadata = {"view": export.view, "spec": cache.spec.to_json(), "row_shape": cache.row_shape}
    if manifest is not None:
        columns["path"] = pyarrow.string(), [as_unicode(location) for location in manifest.locations]
        labels = _labels(manifest)
        class_names = [as_unicode(name) for name in manifest.class_names]
        if _are_paths(manifest):
            columns["label"] = pyarrow.string(), [as_unicode(mask) for mask in labels.tolist()]
        elif labels.ndim == 1:
            columns["label"] = pyarrow.from_numpy_dtype(labels.dtype), labels
        else:
            columns["label"] = pyarrow.list_(pyarrow.from_numpy_dtype(labels.dtype), labels.shape[1]), list(labels)
        if class_names and labels.ndim == 1 and not _are_paths(manifest):
            columns["class"] = pyarrow.string(), [class_names[label] for label in labels]
        columns["split"] = pyarrow.string(), manifest.splits
        metadata |= {"class_names": class_names, "task": manifest.task.to_json()}
    schema = pyarrow.schema(
        [*((name, kind) for name, (kind, _) in columns.items()), ("features", features)],
        {name: json.dumps(value) for name, value in metadata.items()},
    )
    with parquet.ParquetWriter(path, schema, use_dictionary=["class", "split"]) as writer:
        for rows in export.batches():
            values = cache.read(export.keys[rows], export.view).reshape(-1)
            arrays = [pyarrow.array(column[rows], kind) for kind, column in columns.values()]
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), width))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
