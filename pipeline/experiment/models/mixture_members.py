"""Who the members of a saved mixture are, and copies of their models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.atomic_write import write_atomically
from cache.errors import DataError
from pipeline.evaluation.method_folders import share_file
from pipeline.run_layout import MEMBER_MODELS, MEMBERS, MODEL_FILES


@dataclass(frozen=True)
class Member:
    """A line of ``members.json``.

    Attributes
    ----------
    path : str
        Where the member was trained: relative to the folder of the seed, or, in another run, to the run.
    weight : float
        How much its answers count; all weights together are 1.
    seconds_per_image : float or None
        What an image takes with it alone, as it was measured; None where that was not kept.
    backbone, cut, image_size
        What it stands on.
    """

    path: str
    weight: float
    seconds_per_image: float | None
    backbone: str
    cut: str | None
    image_size: int | str | None


def save_members(directory: Path, members: Sequence[Member], models: Sequence[Path]) -> None:
    """Copy what members need to predict into the folder of a mixture, and write who they are."""
    shutil.rmtree(directory / MEMBER_MODELS, ignore_errors=True)
    for number, model in enumerate(models):
        folder = model_of_member(directory, number)
        folder.mkdir(parents=True)
        for name in MODEL_FILES:
            for file in (model / name, (model / name).with_suffix(".json")):
                if file.exists():
                    share_file(file, folder / file.name)
    write_atomically(directory / MEMBERS, json.dumps([asdict(member) for member in members], indent=1).encode())


def read_members(directory: Path) -> list[Member]:
    """Return the members of a saved mixture; none of any other method.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = directory / MEMBERS
    if not path.exists():
        return []
    try:
        return [Member(**member) for member in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); make this ensemble again") from error


def model_of_member(directory: Path, number: int) -> Path:
    """Return the folder of the model of a member."""
    return directory / MEMBER_MODELS / str(number)
