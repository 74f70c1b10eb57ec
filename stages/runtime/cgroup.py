"""What a container or a job of a cluster may use of the machine: limits of Linux's control groups, both versions.

A processor that such a limit leaves idle, and memory beyond it, are nothing that the system's own counts tell: threads
for all processors of the machine are halted most of the time, and a process that takes the machine's memory is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OF_THIS_PROCESS = Path("/proc/self/cgroup")

_NO_LIMIT = 1 << 60
"""Version 1 has a number for no limit, just below the largest."""


def cores_allowed() -> float | None:
    """Return how many processors' time this process may use; None where that is not limited, or cannot be known."""
    return _least("cpu", _core_quota)


def memory_left() -> int | None:
    """Return how many bytes this process may still take; None where that is not limited, or cannot be known.

    Pages of files that were read and are not in use count as free, as the system gives them up first.
    """
    left = _least("memory", _memory_left)
    return None if left is None else max(int(left), 0)


def _least(controller: str, read: Callable[[Path], float | None]) -> float | None:
    """Return the least limit of the group of this process and those that it is part of."""
    limits = []
    for folder in _groups(controller):
        try:
            limit = read(folder)
        except (OSError, ValueError):  # not this version, no such limit at the root, or not for us to read
            continue
        if limit is not None:
            limits.append(limit)
    return min(limits, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups of this process, from its own up, as far as a container sees them."""
    try:
        lines = _OF_THIS_PROCESS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = _ROOT / controller if controllers else _ROOT
        own = mount / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount) and folder.is_dir())


def _core_quota(folder: Path) -> float | None:
    if (version_2 := folder / "cpu.max").exists():
        quota, period = version_2.read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period"))
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _memory_left(folder: Path) -> float | None:
    is_version_2 = (folder / "memory.max").exists()
    limit, used = ("max", "current") if is_version_2 else ("limit_in_bytes", "usage_in_bytes")
    allowed = (folder / f"memory.{limit}").read_text().strip()
    if allowed == "max" or int(allowed) >= _NO_LIMIT:
        return None
    counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    unused_files = int(counts["inactive_file" if is_version_2 else "total_inactive_file"])
    return int(allowed) - int((folder / f"memory.{used}").read_text()) + unused_files
