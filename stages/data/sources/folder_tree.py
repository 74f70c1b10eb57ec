"""Which images lie below a folder, whatever systems, programs and links have put among them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import listed

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .heic .heif"  # noqa: SIM905
    " .ppm .pgm .pbm .pnm .tga .ico .icns .jp2 .j2k .jpx .pcx .sgi .xbm .dds .psd .qoi".split()
)
"""Files with these endings are taken for images; one that cannot be read is listed with its reason later."""

_SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),  # network drives
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *("$recycle.bin", "recycler", "system volume information"),  # Windows
        *("lost+found", "__pycache__"),
    }
)
"""What systems and programs put among people's folders, in small letters; what begins with a dot is left out anyway."""

_OF_SYSTEM = re.compile(r"found\.\d{3}")
"""What Windows calls folders of files that it has rescued."""

_OWN_FILES = (("config.toml", "environment.json"), ("results.json", "report.html"), ("keys.sqlite",))
"""What a run of this program, a comparison of runs, and the folder of its caches hold, and no folder of images does."""

_OF_A_RUN = re.compile(r"seed-\d+|figures")
"""The folders in a run: left out where a run was written among the classes themselves."""


@dataclass
class FolderNotes:
    """What was met besides images, for the notes.

    Attributes
    ----------
    root : Path
        Where the names in the notes begin.
    ignored : Counter
        Files that are no images by their name: how many of each ending.
    system_folders : Counter
        Folders that systems and programs made: how many of each name.
    own_folders : list of str
        Runs and caches of this program.
    followed, not_followed : list of str
        Links to folders whose images count, and those that lead to a folder that is counted, or is around them.
    closed : list of str
        Folders that cannot be listed, with the reason.
    """

    root: Path
    ignored: Counter[str] = field(default_factory=Counter)
    system_folders: Counter[str] = field(default_factory=Counter)
    own_folders: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    not_followed: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def name(self, path: str | Path) -> str:
        """Return what a folder below the root is called in a note."""
        return os.path.relpath(path, self.root)

    def endings(self) -> str:
        """Return the most frequent endings of files that are no images, in brackets; nothing where there are none."""
        return f" ({_counts(self.ignored)})" if self.ignored else ""

    def texts(self) -> list[str]:
        """Return all of it in words."""
        notes = []
        if self.ignored:
            notes.append(f"ignored {self.ignored.total()} files that are not images by their name{self.endings()}")
        if self.followed:
            notes.append(f"links to folders that were followed: {len(self.followed)} ({listed(self.followed)})")
        if self.not_followed:
            notes.append(
                "links to folders that are counted already, or that the link lies in: "
                f"{len(self.not_followed)} left out ({listed(self.not_followed)})"
            )
        if self.system_folders:
            notes.append(f"left out folders that a system or a program made: {_counts(self.system_folders)}")
        if self.own_folders:
            notes.append(
                f"left out {listed(self.own_folders)}: what this program wrote (`out`, `cache`) is no class and has "
                "no images of the data"
            )
        if self.closed:
            notes.append(f"folders that cannot be opened, left out: {listed(self.closed)}")
        return notes


def images_below(folder: str | Path, notes: FolderNotes, endings: Container[str] = IMAGE_EXTENSIONS) -> list[str]:
    """Return the image files, by these endings, anywhere in `folder`, sorted.

    Hidden files and folders do not count, nor do those of systems and of this program. Links to folders are followed,
    each folder once: what can be reached without a link is found without.
    """
    images: list[str] = []
    start = os.path.realpath(folder)
    around = (start, os.path.realpath(notes.root))
    pending = [(os.fspath(folder), start)]
    links: list[tuple[str, str]] = []
    visited: set[str] = set()
    while pending or links:
        if pending:
            path, real_path = pending.pop()
        else:
            links.sort()
            path, real_path = links.pop(0)
            if real_path in visited or any(_contains(real_path, inner) for inner in around):
                notes.not_followed.append(notes.name(path))
                continue
            notes.followed.append(notes.name(path))
        if real_path in visited:
            continue
        visited.add(real_path)
        entries = _entries(path, notes)
        if real_path != start and _is_own({entry.name for entry in entries}):
            notes.own_folders.append(notes.name(path))
            continue
        for entry in entries:
            if leads_to(entry, os.DirEntry.is_dir):
                if _is_system_folder(entry.name, notes):
                    continue
                if entry.is_symlink():
                    links.append((entry.path, os.path.realpath(entry.path)))
                else:
                    pending.append((entry.path, f"{real_path.rstrip(os.sep)}{os.sep}{entry.name}"))
                continue
            ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (names may be anything; no Path is needed)
            if ending in endings:
                images.append(entry.path)
            else:
                notes.ignored[ending or "no ending"] += 1
    return sorted(images)


def find_subfolders(folder: Path, notes: FolderNotes) -> list[Path]:
    """Return the folders in `folder` that a person may have made for images, links to such ones included, sorted."""
    real_root = os.path.realpath(notes.root)
    entries = _entries(folder, notes)
    holds_a_run = _is_own({entry.name for entry in entries})
    found = []
    folders = [entry for entry in entries if leads_to(entry, os.DirEntry.is_dir)]
    for entry in sorted(folders, key=lambda entry: entry.name):
        if _is_system_folder(entry.name, notes):
            continue
        path = folder / entry.name
        if entry.is_symlink() and _contains(os.path.realpath(path), real_root):
            notes.not_followed.append(notes.name(path))
        elif (holds_a_run and _OF_A_RUN.fullmatch(entry.name)) or _is_own(
            {name for names in _OWN_FILES for name in names if (path / name).exists()}
        ):
            notes.own_folders.append(notes.name(path))
        else:
            found.append(path)
    return found


def leads_to(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Return whether an entry is of a kind, or links to one; of a link that leads to itself, or nowhere, nothing is."""
    try:
        return kind(entry)
    except OSError:
        return False


def _entries(folder: str | Path, notes: FolderNotes) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden; nothing of one that cannot be listed, which is noted."""
    try:
        with os.scandir(os.fspath(folder)) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        notes.closed.append(f"{notes.name(folder)} ({error.strerror})")
        return []


def _is_own(names: Container[str]) -> bool:
    return any(all(name in names for name in files) for files in _OWN_FILES)


def _is_system_folder(name: str, notes: FolderNotes) -> bool:
    if name.lower() not in _SYSTEM_FOLDERS and not _OF_SYSTEM.fullmatch(name.lower()):
        return False
    notes.system_folders[name] += 1
    return True


def _contains(outer: str, inner: str) -> bool:
    """Return whether a real path is another one or a folder around it."""
    return inner == outer or inner.startswith(f"{outer.rstrip(os.sep)}{os.sep}")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(5))
