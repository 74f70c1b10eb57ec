"""Manifests as a person names them: a run, a ``manifest.csv`` left in one, or a source as ``--data`` takes it."""

from __future__ import annotations

from pathlib import Path

from cache.errors import UsageError
from pipeline.experiment.setup.run_setup import make_manifest
from pipeline.run_layout import MANIFEST, RESULT, files_of_seeds
from stages.config.data import CLASSES, UNGROUPED, DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest
from stages.data.sources.csv_file import is_table


def saved_manifests(path: Path) -> list[Path]:
    """Return the manifest files that a path means: itself, or those of a run, seed by seed; none if it is neither.

    A part of a run, as the folder of a seed or of a method, means the manifest of its seed, and not its own figures.
    """
    if path.is_dir():
        seed = path.parent if (path / RESULT).is_file() else path
        of_seed = seed / MANIFEST
        return files_of_seeds(path, MANIFEST) or [of_seed] * (of_seed.is_file() and _has_keys(of_seed))
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


def load_all(source: str, cache: Path, images: tuple[str, ...] = (), frames: int | None = None) -> list[Manifest]:
    """Return the manifests that a source means: of a run, those of all its seeds.

    Parameters
    ----------
    source : str
        A run, a manifest, or anything ``--data`` takes.
    cache : Path
        Folder of the caches, beside which the keys of files are remembered.
    images : tuple of str
        The columns of images, where the source is a table.
    frames : int, optional
        As the option, where the source is one of data.

    Raises
    ------
    UsageError, DataError
        If there is no such source, or it cannot be read.
    """
    paths = saved_manifests(Path(source))
    if paths:
        return [Manifest.load(path) for path in paths]
    # which images there are is all that is asked: of which class, split or group they are needs no word
    columns = images if is_table(Path(source)) else ()
    options = DataConfig(
        source, allow_leakage=True, folders=(CLASSES,), group_by=UNGROUPED, images=columns, frames=frames
    )
    return [make_manifest(options, FeatureConfig(cache=cache), seed=0, labels=False)]


def _has_keys(table: Path) -> bool:
    """Return whether a CSV file has the column that only manifests have."""
    with table.open("rb") as file:
        return b"key" in file.readline().strip().split(b",")
