"""What options name that registers itself, see :mod:`cache.registry`: known here, where no torch is, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cache.registry import Registration, Registry

BACKBONES = Registry[Registration, Any]("backbone", Registration, ["stages.network.backbones"], option="backbone")

SOURCES = Registry[Registration, Any]("source", Registration, ["stages.data.sources"], option="data")


class OptionHelp(Mapping[str, str]):
    """Metadata of an option that names what is registered: its help, made when it is asked for.

    Parameters
    ----------
    text
        Returns the help.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def __getitem__(self, name: str) -> str:
        if name != "help":
            raise KeyError(name)
        return self._text()

    def __iter__(self) -> Iterator[str]:
        return iter(("help",))

    def __len__(self) -> int:
        return 1


def listed_help(registry: Registry[Any, Any]) -> str:
    """Return what help says of all things of a kind: "a file, a folder, or digits (...)"."""
    *texts, last = registry.help_texts()
    return f"{', '.join(texts)}, or {last}" if texts else last
