"""torchvision's segmentation sets: which files of theirs are images and which their masks, and what their classes are.

All but SBD keep both as files that anybody can open; SBD's masks are files of MATLAB's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchvision import datasets

from cache.errors import DataError
from stages.config.data import AUTO, DENSE, DataConfig
from stages.data.masks.class_table import ClassTable
from stages.data.sources.records import SourceRecords
from stages.data.sources.target_columns import MASK

_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Of Pascal VOC, in the order of their numbers (Everingham et al. 2010, table 1)."""


@dataclass(frozen=True)
class MaskSet:
    """A set of torchvision's with masks.

    Attributes
    ----------
    parts : tuple of (str, str)
        What torchvision calls each part, and the split that it is.
    part_option : str
        The argument of the constructor that takes it.
    arguments : dict
        Further arguments.
    masks : callable
        From the set to where its masks are.
    images : str
        The attribute that has where its images are.
    classes : ClassTable
    can_download : bool
    """

    parts: tuple[tuple[str, str], ...]
    part_option: str
    masks: Callable[[Any], Sequence[Any]]
    classes: ClassTable
    arguments: dict[str, Any] = field(default_factory=dict)
    images: str = "images"
    can_download: bool = True


def _cityscapes_classes() -> ClassTable:
    counted = [entry for entry in datasets.Cityscapes.classes if not entry.ignore_in_eval]
    left_out = tuple(entry.id for entry in datasets.Cityscapes.classes if entry.ignore_in_eval and entry.id >= 0)
    names, values = tuple(entry.name for entry in counted), tuple(entry.id for entry in counted)
    return ClassTable(names, values, origin="Cityscapes", void_values=left_out)


def _mask_sets() -> dict[str, MaskSet]:
    voc = ClassTable(_VOC, origin="Pascal VOC")
    two = (("train", "train"), ("val", "val"))
    return {
        "VOCSegmentation": MaskSet(two, "image_set", lambda found: found.masks, voc),
        "SBDataset": MaskSet(two, "image_set", lambda found: found.masks, voc, {"mode": "segmentation"}),
        "Cityscapes": MaskSet(
            two,
            "split",
            lambda found: [targets[0] for targets in found.targets],
            _cityscapes_classes(),
            {"target_type": "semantic"},
            can_download=False,
        ),
        "OxfordIIITPet": MaskSet(
            (("trainval", "train"), ("test", "test")),
            "split",
            lambda found: found._segs,
            ClassTable(("pet", "background", "unknown"), (1, 2, 3), origin="Oxford-IIIT Pet"),
            {"target_types": "segmentation"},
            images="_images",
        ),
    }


WITHOUT_CLASSES = ("VOCSegmentation", "SBDataset", "Cityscapes")
"""Sets whose samples have a mask, and nothing else that could be predicted."""


def is_asked_for_masks(name: str, options: DataConfig) -> bool:
    """Return whether the masks of a set are meant: where the task says so, or there is nothing else to predict."""
    return name in _mask_sets() and (options.task == DENSE or (options.task == AUTO and name in WITHOUT_CLASSES))


def list_mask_set(name: str, root: Path) -> SourceRecords:
    """Return the images of a set with their masks, downloaded first where that is needed and offered.

    Values that the set leaves out of its own evaluation stand for no class.

    Raises
    ------
    DataError
        If its files are not there and could not be had.
    """
    known = _mask_sets()[name]
    locations: list[str] = []
    masks: list[str] = []
    splits: list[str] = []
    for part, split in known.parts:
        found = _opened(name, known, part, root)
        of_part = [str(path) for path in getattr(found, known.images)]
        locations += of_part
        masks += [str(path) for path in known.masks(found)]
        splits += [split] * len(of_part)
    blank = [""] * len(locations)
    return SourceRecords(locations, masks, (), splits, blank, target_columns={MASK: masks}, class_table=known.classes)


def _opened(name: str, known: MaskSet, part: str, root: Path) -> Any:
    arguments = {**known.arguments, known.part_option: part}
    make = getattr(datasets, name)
    try:
        return make(str(root), **arguments)
    except (OSError, RuntimeError) as missing:
        if not known.can_download:
            raise DataError(
                f"the files of torchvision:{name} are not in {root} ({_first_line(missing)}), and cannot be "
                f"downloaded without an account: put them there as torchvision keeps them (docs: "
                f"torchvision.datasets.{name}), or choose the place with `data_root`"
            ) from missing
    try:
        return make(str(root), download=True, **arguments)
    except (OSError, RuntimeError, EOFError, ImportError) as error:
        raise DataError(
            f"the files of torchvision:{name} are not in {root} and could not be had ({_first_line(error)}). Without a "
            f"network, put them there as torchvision keeps them (docs: torchvision.datasets.{name}), or choose the "
            "place with `data_root`"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
