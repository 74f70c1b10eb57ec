"""torchvision's classification data sets by name: ``torchvision:FashionMNIST``, ``torchvision:EMNIST/letters``.

Those with masks are listed by ``torchvision_masks``.

What a set offers is read from its constructor: ``split=``, ``train=`` or neither, ``download=``, and ``loader=``. A set
with a loader keeps its images in files, and these become the locations. Samples of the others are reopened by
locations like ``torchvision:FashionMNIST/test/17``, in any process.
"""

from __future__ import annotations

import functools
import inspect
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision import datasets

from cache.errors import DataError, UsageError, suggestion
from stages.config.data import DataConfig
from stages.data.images.pixel_keys import key_of_pixels
from stages.data.images.rgb import UnreadableImageError, as_rgb
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.registry import register_source
from stages.data.sources.torchvision_masks import is_asked_for_masks, list_mask_set

PREFIX = "torchvision:"
"""What the name of a set, and the locations in it, begin with."""

DEFAULT_ROOT = Path("~/.cache/cutonce/datasets")

_ROOT = "?root="
"""Separates the root in a location, where it is not the default one."""

_SPLIT_WORDS = (("train", "trainval"), ("val", "valid"), ("test",))
"""What torchvision's sets call the three splits; of each the first that a set knows is taken."""

_MISSING = (OSError, RuntimeError, HTTPException, EOFError, zipfile.BadZipFile, tarfile.TarError, ImportError)
"""What torchvision raises where files are not there, not intact, or not to be had."""

_reading = threading.Lock()
"""torchvision promises nothing about threads, and some of its sets (FakeData) reseed the global generator."""


def torchvision_image(location: str, shorter_side: int | None = None) -> Tensor:
    """Return the sample at ``torchvision:NAME/PART/INDEX``, uint8 [3, H, W], with all its pixels. Downloads nothing.

    Raises
    ------
    UnreadableImageError
        If the set or the sample is not there.
    """
    sample, _, root = location.removeprefix(PREFIX).partition(_ROOT)
    try:
        name, *part, index = sample.split("/")
        _check_known(name)
        with _reading:
            dataset = _reopened(name, "/".join(part), Path(root) if root else DEFAULT_ROOT.expanduser())
            return as_rgb(dataset[int(index)][0])
    except (DataError, UsageError) as error:
        raise UnreadableImageError(str(error), location) from error
    except (OSError, IndexError, ValueError) as error:
        raise UnreadableImageError(f"no such sample: {error}", location) from error


@register_source("torchvision:", open_image=torchvision_image, help_text="a torchvision set (torchvision:Flowers102)")
def list_torchvision(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the samples of the set called `data`, downloaded first where that is needed and offered.

    Raises
    ------
    UsageError
        If there is no such set, it must be told which part is meant, or its samples are not an image with one class.
    DataError
        If its files are not there and could not be downloaded.
    """
    source = options.data
    name, _, variant = source.removeprefix(PREFIX).partition("/")
    root = (options.data_root or DEFAULT_ROOT).expanduser().absolute()
    _check_known(name)
    if is_asked_for_masks(name, options):
        if variant:
            raise UsageError(f"{PREFIX}{name}: masks are listed of all its parts; leave out /{variant}")
        return list_mask_set(name, root)
    _check_name(name, variant)
    locations, numbers, splits, keys = [], [], [], []
    names: list[str] = []
    for part, split, dataset in _parts(name, variant, root):
        names = [
            class_name if isinstance(class_name, str) else ", ".join(class_name)
            for class_name in getattr(dataset, "classes", names)
        ]
        indices = range(len(dataset))
        for index in progress(indices) if progress else indices:
            image, number = _sample(dataset, index, source)
            if isinstance(image, str):
                locations.append(image)
            else:
                locations.append(_location(name, part, index, root))
                keys.append(key_of_pixels(as_rgb(image)))
            numbers.append(number)
            splits.append(split)
    class_of = {number: _class_name(names, number) for number in sorted(set(numbers))}
    return SourceRecords(
        locations=locations,
        targets=[class_of[number] for number in numbers],
        class_names=tuple(class_of.values()),
        splits=splits,
        strata=[""] * len(locations),
        keys=keys or None,
    )


def _check_name(name: str, variant: str) -> None:
    """Refuse what cannot be a classification set opened by its name, before anything is downloaded."""
    _check_known(name)
    parameters = _parameters(name)
    required = {parameter.name for parameter in parameters.values() if parameter.default is parameter.empty} - {"root"}
    if required - {"split"}:
        raise UsageError(f"{PREFIX}{name} is not a classification data set: it needs {', '.join(sorted(required))}")
    if required and not variant:
        raise UsageError(
            f"say which part of {PREFIX}{name}, like {PREFIX}EMNIST/letters; PART is what its argument split takes"
        )
    if variant and "split" not in parameters:
        raise UsageError(f"{PREFIX}{name} has no parts to choose; leave out /{variant}")


def _check_known(name: str) -> None:
    known = [
        name_in_torchvision
        for name_in_torchvision in datasets.__all__
        if inspect.isclass(getattr(datasets, name_in_torchvision))
    ]
    if name not in known:
        raise UsageError(f"torchvision has no data set {name!r}.{suggestion(name, known)}")


def _parts(name: str, variant: str, root: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (part, split, data set) of what the set is divided into; the split is empty where it is not divided."""
    parameters = _parameters(name)
    if "train" in parameters:
        for split in ("train", "test"):
            part = f"{variant}/{split}" if variant else split
            yield part, split, _open(name, part, root, download=True)
    elif variant or "split" not in parameters:
        yield variant, "", _open(name, variant, root, download=True)
    else:
        for names_of_split in _SPLIT_WORDS:
            yield from _first_known(name, names_of_split, root)


def _first_known(name: str, split_names: tuple[str, ...], root: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield the part that is called by the first of `split_names` that the set knows, if there is one."""
    for word in split_names:
        try:
            yield word, split_names[0], _open(name, word, root, download=True)
            return
        except _UnknownPartError as error:
            unknown_part = error
    if split_names[0] == "train":
        raise UsageError(f"{PREFIX}{name} has no part called train: {unknown_part} Choose one: {PREFIX}{name}/PART")


class _UnknownPartError(UsageError):
    """The set has no such part."""


def _open(name: str, part: str, root: Path, *, download: bool) -> Any:
    """Construct the part of the set: ``train``, ``valid``, ``letters/test``, or all of it if `part` is empty."""
    parameters = _parameters(name)
    parts = part.split("/") if part else []
    arguments: dict[str, Any] = {"root": str(root), "download": download, "loader": str}  # str: a path stays a path
    if "train" in parameters:
        arguments["train"] = parts.pop() == "train"
    if parts:
        arguments["split"] = parts.pop()
    try:
        return getattr(datasets, name)(**{key: value for key, value in arguments.items() if key in parameters})
    except ValueError as error:
        if "argument split" in str(error):
            raise _UnknownPartError(str(error)) from error
        raise DataError(f"the files of {PREFIX}{name} in {root} are damaged: {error}") from error
    except _MISSING as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"the files of {PREFIX}{name} are not in {root} and could not be had ({reason}). Without a network, put "
            f"them there as torchvision keeps them (docs: torchvision.datasets.{name}), or choose the place with "
            "`data_root`"
        ) from error


@functools.cache
def _reopened(name: str, part: str, root: Path) -> Any:
    """Return the part of the set, opened once in each process."""
    return _open(name, part, root, download=False)


@functools.cache
def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """Return what the constructor takes, those of its base included where it hands keywords on to it."""
    parameters_by_name: dict[str, inspect.Parameter] = {}
    for cls in getattr(datasets, name).__mro__:
        if "__init__" in vars(cls):
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
            named_parameters = {
                parameter.name: parameter
                for parameter in parameters
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            }
            parameters_by_name = {**named_parameters, **parameters_by_name}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    return parameters_by_name


def _sample(dataset: Any, index: int, source: str) -> tuple[Image.Image | str, int]:
    try:
        sample = dataset[index]
    except _MISSING as error:
        raise DataError(f"{source}: sample {index} cannot be read: {error}") from error
    image, target = sample if isinstance(sample, tuple) and len(sample) == 2 else (sample, None)
    if not isinstance(image, (Image.Image, str)) or not isinstance(target, (int, np.integer)):
        raise UsageError(f"{source} is not a classification data set: its samples are not an image with one class")
    return image, int(target)


def _class_name(names: list[str], number: int) -> str:
    """Return the name of a class; its number where it has none, and beside it where several have the same."""
    if not 0 <= number < len(names):
        return str(number)
    return names[number] if names.count(names[number]) == 1 else f"{names[number]} ({number})"


def _location(name: str, part: str, index: int, root: Path) -> str:
    location = "/".join(word for word in (f"{PREFIX}{name}", part, str(index)) if word)
    return location if root == DEFAULT_ROOT.expanduser() else f"{location}{_ROOT}{root}"
