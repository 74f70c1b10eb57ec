"""What options name that registers itself, see :mod:`cache.registry`: known here, where no torch is, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cache.registry import Registration, Registry

BACKBONES = Registry[Registration, Any]("backbone", Registration, ["stages.network.backbones"], option="backbone")

SOURCES = Registry[Registration, Any]("source", Registration, ["stages.data.sources"], option="data")

TARGETS = Registry[Registration, Any](
    "target reader",
    Registration,
    ["stages.data.targets"],
    option="task",
    decorators={"register_targets": {}},
)
"""What reads the targets of a task from what people have, by the name of the task."""


@dataclass(frozen=True)
class EngineKind(Registration):
    """What an engine of stage 1 says of itself.

    Attributes
    ----------
    devices : tuple of str
        Types of the devices it computes on, as torch names them; none stands for any that no other engine names.
    automatic : bool
        Whether ``auto`` may choose it, or it has to be named.
    """

    devices: tuple[str, ...] = ()
    automatic: bool = True


ENGINES = Registry[EngineKind, Any]("engine", EngineKind, ["stages.extraction"], option="engine")


@dataclass(frozen=True)
class PoolingKind(Registration):
    """What a pooling says of itself.

    Attributes
    ----------
    needs_class_token : bool
        Whether only the output of a cut that has a class token can be pooled so.
    """

    needs_class_token: bool = False


POOLINGS = Registry[PoolingKind, Any]("pooling", PoolingKind, ["stages.network.graph"], option="pool")

OPTIMIZERS = Registry[Registration, Any]("optimizer", Registration, ["stages.training"], option="opt")
"""What there is beside timm's."""


@dataclass(frozen=True)
class ScheduleKind(Registration):
    """What a schedule of the learning rate says of itself.

    Attributes
    ----------
    settings : tuple of str
        The settings of ``stages.training.lr_schedules.LRScheduleConfig`` that mean something to it.
    """

    settings: tuple[str, ...] = ()


SCHEDULES = Registry[ScheduleKind, Any]("schedule", ScheduleKind, ["stages.training"], option="schedule")


COMMON: Mapping[str, Any] = MappingProxyType({"common": True})
"""Metadata of an option that most people use: the first level of help shows it."""


class OptionHelp(Mapping[str, Any]):
    """Metadata of an option that names what is registered: its help, made when it is asked for.

    Parameters
    ----------
    text
        Returns the help.
    metadata
        What else the metadata says, such as `COMMON`.
    """

    def __init__(self, text: Callable[[], str], metadata: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._text, self._metadata = text, metadata

    def __getitem__(self, name: str) -> Any:
        return self._text() if name == "help" else self._metadata[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("help", *self._metadata))

    def __len__(self) -> int:
        return 1 + len(self._metadata)


def listed_help(registry: Registry[Any, Any]) -> str:
    """Return what help says of all things of a kind: "a file, a folder, or digits (...)"."""
    *texts, last = registry.help_texts()
    return f"{', '.join(texts)}, or {last}" if texts else last
