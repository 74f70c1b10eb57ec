"""Which source `data` means, and which one opens a location.

A source is a file with a function decorated by :func:`register_source`, which lists its samples, and, where these are
no files, the function that opens one of them; this file knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from cache.errors import UsageError, suggestion
from cache.registry import Registration
from stages.config.data import DataConfig
from stages.config.registry import SOURCES
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.table_file import describe_other

_BEGINNING = 4096
"""Bytes of a file by which its kind is told."""


class ListSamples(Protocol):
    """What lists the samples of a source."""

    def __call__(self, options: DataConfig, progress: Progress | None = None, /) -> SourceRecords:
        """Return what the source says of its samples.

        Parameters
        ----------
        options
            What is asked for; `data` is what was given, or, for a source that takes paths, the absolute path.
        progress
            Wraps what is iterated over slowly.

        Raises
        ------
        UsageError, DataError
            If there are none, or they cannot be used as they are.
        """
        ...


class OpenImage(Protocol):
    """What opens an image of a source whose images are not files."""

    def __call__(self, location: str, shorter_side: int | None = None, /) -> Tensor:
        """Return the image at a location, uint8 [3, H, W], in any process and any thread; nothing is downloaded.

        Parameters
        ----------
        location
            As the source listed it: its name, a colon, and what it needs to find the image.
        shorter_side
            To how many pixels the shorter side will be resized: a much larger image may come at reduced scale.

        Raises
        ------
        UnreadableImageError
            If there is no such image, or it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Source:
    """Where samples come from.

    Attributes
    ----------
    name
        What it is asked for by; with a colon at its end, what comes before the rest: ``torchvision:``.
    list
        Lists its samples.
    open
        Opens one of them; None where the locations are files.
    takes_path
        Says whether a path that exists is of this kind; None where the source is asked for by its name.
    """

    name: str
    list: ListSamples
    open: OpenImage | None
    takes_path: Callable[[Path], bool] | None

    def takes(self, data: str) -> bool:
        """Say whether `data` names this source."""
        by_name = data.startswith(self.name) if self.name.endswith(":") else data == self.name
        return self.takes_path is None and by_name


ListT = TypeVar("ListT", bound=ListSamples)


def register_source(
    name: str,
    *,
    help_text: str,
    open_image: OpenImage | None = None,
    takes_path: Callable[[Path], bool] | None = None,
) -> Callable[[ListT], ListT]:
    """Make a function what lists the samples of a source.

    A file in this folder with such a function is all it takes, or a module that another package names under its entry
    points ``cutonce.sources``.

    Parameters
    ----------
    name
        What `data` is for this source; with a colon at its end, what it begins with. The locations of images that are
        not files begin with it and a colon, too.
    help_text
        What the help of ``--data`` says of it, a literal: it is read without importing the file.
    open_image
        Opens an image of it. By default locations are files.
    takes_path
        For a source that is a file or a folder: whether a path that exists is one.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """

    def source_of(list_samples: ListT) -> Source:
        return Source(name, list_samples, open_image, takes_path)

    return SOURCES.decorator(Registration(name, help_text=help_text), source_of)


def list_samples(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return what the source that `options` name says of its samples.

    Raises
    ------
    UsageError
        If there is no such source, or two take the path.
    DataError
        If the source cannot be used as it is.
    """
    data, sources = options.data, _sources()
    match = next((source for source in sources if source.takes(data)), None)
    if match is not None:
        return match.list(options, progress)
    path = Path(data).expanduser().absolute()
    path_sources = [(source, source.takes_path) for source in sources if source.takes_path is not None]
    fitting = [source for source, takes_path in path_sources if takes_path(path)]
    if len(fitting) > 1:
        origins = " and ".join(SOURCES.origin(source.name) for source in fitting)
        raise UsageError(
            f"`data` {data} is taken by {origins}: let the `takes_path` of one take less, or uninstall its package"
        )
    if fitting:
        return fitting[0].list(replace(options, data=str(path)), progress)
    if path.exists():
        kinds = " nor ".join(SOURCES.known[source.name].help_text for source, _ in path_sources)
        other = _describe_file(path)
        raise UsageError(f"`data` {data} is {f'{other}. It is ' if other else ''}not {kinds}")
    names = [source.name for source in sources if source.takes_path is None]
    known = ", ".join(f"{name}NAME" if name.endswith(":") else name for name in names)
    raise UsageError(
        f"`data` {data}: there is no such folder or file, and no source of that name "
        f"({known}).{suggestion(data, names)}"
    )


def _describe_file(path: Path) -> str | None:
    """Return what a file is that no source takes, as far as its beginning tells, and what helps."""
    if not path.is_file():
        return None
    with suppress(OSError), path.open("rb") as file:
        return describe_other(path, file.read(_BEGINNING))
    return None


def opener_of(location: str) -> OpenImage | None:
    """Return what opens the image at a location; None if it is a file."""
    prefix, colon, _ = location.partition(":")
    openers = {source.name.removesuffix(":"): source.open for source in _sources()} if colon else {}
    return openers.get(prefix)


def _sources() -> list[Source]:
    return [*SOURCES.things().values()]
