"""What comes of a folder or a table that is given as ``--data``."""

from pathlib import Path
from typing import Any

from cache.errors import CutonceError
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_manifest


def outcome(path: Path, **options: Any) -> str:
    """Return the summary and the notes of the manifest, or the error."""
    try:
        return words_of(load_manifest(DataConfig(str(path), **options)))
    except CutonceError as error:
        return f"error: {error}"


def words_of(manifest: Manifest) -> str:
    """Return how many images of which classes there are, and the notes that are not of splits."""
    classes = f"classes {', '.join(manifest.class_names)}" if any(manifest.class_names) else "no classes"
    made_here = ("test split made here", "validation split made here")
    notes = [note for note in manifest.notes if not note.startswith(made_here)]
    unreadable = [f"skipped {location}: {reason}" for location, reason in manifest.unreadable]
    return "\n".join([f"{', '.join(manifest.summary()[:1])}; {classes}", *notes, *unreadable])
