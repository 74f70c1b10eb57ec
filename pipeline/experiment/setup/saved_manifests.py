"""Manifests as a person names them: a run, a ``manifest.csv`` left in one, or a source as ``--data`` takes it."""

from __future__ import annotations

from pathlib import Path

from cache.errors import UsageError
from pipeline.experiment.setup.run_setup import make_manifest
from pipeline.run_layout import MANIFEST, files_of_seeds
from stages.config.data import CLASSES, UNGROUPED, DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest


def saved_manifests(path: Path) -> list[Path]:
    """Return the manifest files that a path means: itself, or those of a run, seed by seed; none if it is neither."""
    if path.is_dir():
        return files_of_seeds(path, MANIFEST)
    return [path] if path.is_file() and path.suffix.lower() == ".csv" and _has_keys(path) else []


def load_one(path: Path) -> Manifest:
    """Return the manifest that a path means; of a run, the one of its first seed.

    Raises
    ------
    UsageError
        If it is neither a run nor a manifest.
    DataError
        If the manifest cannot be read.
    """
    paths = saved_manifests(path)
    if not paths:
        raise UsageError(f"{path} is neither a run directory (with seed-*/{MANIFEST}) nor a {MANIFEST} left in one")
    return Manifest.load(paths[0])


def load_all(source: str, cache: Path) -> list[Manifest]:
    """Return the manifests that a source means: of a run, those of all its seeds.

    Parameters
    ----------
    source : str
        A run, a manifest, or anything ``--data`` takes.
    cache : Path
        Folder of the caches, beside which the keys of files are remembered.

    Raises
    ------
    UsageError, DataError
        If there is no such source, or it cannot be read.
    """
    paths = saved_manifests(Path(source))
    if paths:
        return [Manifest.load(path) for path in paths]
    # which images there are is all that is asked: of which class, split or group they are needs no word
    options = DataConfig(source, allow_leakage=True, folders=(CLASSES,), group_by=UNGROUPED)
    return [make_manifest(options, FeatureConfig(cache=cache), seed=0, labels=False)]


def _has_keys(table: Path) -> bool:
    """Return whether a CSV file has the column that only manifests have."""
    with table.open("rb") as file:
        return b"key" in file.readline().strip().split(b",")
