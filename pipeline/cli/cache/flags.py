"""What the sub-commands have in common: where the caches are, and how one is called in what they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cache import Spec

CacheFolder = Annotated[Path, Parameter(help="Folder of the feature cache.")]

_DIGITS = 12


def short(path: Path) -> str:
    """Return the beginning of a cache's fingerprint, which no other is likely to begin with."""
    return path.name[:_DIGITS]


def title(spec: Spec) -> str:
    """Return the beginning of a cache's fingerprint and what it is made of."""
    return f"{spec.fingerprint[:_DIGITS]} ({spec.backbone}, {spec.cut}, {spec.pooling})"
