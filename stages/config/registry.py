"""Kinds of things that an option names (backbones, sources), each thing registered in a file of its own.

A registry finds them by itself: it imports every module of its package, and the plug-ins that other packages declare
under its group of entry points. What help says of them is read from the files and not imported, since help must not
wait for torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from cache.errors import UsageError


@dataclass(frozen=True)
class _Entry:
    value: Any
    help: str
    origin: str


class Registry:
    """Things of one kind by their names.

    Parameters
    ----------
    kind
        What they are, in words: ``backbone``. The decorator that registers them is called ``register_backbone``.
    package
        Each of its modules is imported, and registers what it has.
    group
        The entry points by which other packages have their modules imported too; each is named like what it registers.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._entries: dict[str, _Entry] = {}
        self._loaded = False
        self._loading = threading.RLock()

    def add(self, name: str, value: Any, help_text: str, origin: Any) -> None:
        """Register a thing.

        Parameters
        ----------
        name
            Of the thing.
        value
            The thing.
        help_text
            What the option's help says of it, such as ``a timm name (timm:convnext_nano)``.
        origin
            The function or class that is decorated.

        Raises
        ------
        UsageError
            If another function or class has the name.
        """
        described = f"{origin.__module__}.{origin.__qualname__}"
        known = self._entries.get(name)
        if known is not None and known.origin != described:
            raise UsageError(
                f"two {self.kind}s are called {name!r}: that of {known.origin} and that of {described}; uninstall one "
                "of the two, or give it another name"
            )
        self._entries[name] = _Entry(value, help_text, described)

    def entries(self) -> Mapping[str, Any]:
        """Return all things by their names; the first call imports what registers them.

        Raises
        ------
        UsageError
            If two have one name, or a plug-in cannot be imported.
        """
        with self._loading:
            if not self._loaded:
                package = importlib.import_module(self.package)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self.package}.{module.name}")
                for plug_in in entry_points(group=self.group):
                    self._load_plug_in(plug_in)
                self._loaded = True
        return {name: entry.value for name, entry in self._entries.items()}

    def origin(self, name: str) -> str:
        """Return which function or class is registered as `name`, for messages."""
        return self._entries[name].origin

    def help_text(self, name: str) -> str:
        """Return what help says of the thing registered as `name`."""
        return self._entries[name].help

    def help_texts(self) -> list[str]:
        """Return what help says of each thing; nothing is imported, and of a plug-in only its name is known."""
        own = self._help_of_files
        of_others = [entry.help for entry in self._entries.values() if entry.help not in own]
        return [*own, *of_others, *([] if self._loaded else self._help_of_plug_ins)]

    def _load_plug_in(self, plug_in: EntryPoint) -> None:
        try:
            plug_in.load()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"the {self.kind} {plug_in.name}, a plug-in of {_distribution(plug_in)}, cannot be imported "
                f"({type(error).__name__}: {error}); install a version of that package that works, or uninstall it"
            ) from error

    @cached_property
    def _help_of_files(self) -> list[str]:
        specification = importlib.util.find_spec(self.package)
        assert specification is not None
        folders = specification.submodule_search_locations or []
        files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
        return [text for file in files for text in self._help_in(file.read_text(encoding="utf-8"))]

    @cached_property
    def _help_of_plug_ins(self) -> list[str]:
        return [f"{one.name} (of {_distribution(one)})" for one in entry_points(group=self.group)]

    def _help_in(self, source: str) -> Iterator[str]:
        """Yield the help texts of what a file registers."""
        decorator = f"register_{self.kind.replace(' ', '_')}"
        if f"@{decorator}" not in source:
            return
        for definition in ast.parse(source).body:
            if isinstance(definition, ast.FunctionDef | ast.ClassDef):
                for call in definition.decorator_list:
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator:
                        yield from (ast.literal_eval(one.value) for one in call.keywords if one.arg == "help_text")


class OptionHelp(Mapping[str, str]):
    """Metadata of an option that names a thing of a registry: its help, made when it is asked for.

    Parameters
    ----------
    intro
        What comes before the things there are.
    registry
        Where they are registered.
    rest
        Sentences that come after them.
    """

    def __init__(self, intro: str, registry: Registry, rest: str = "") -> None:
        self._intro, self._registry, self._rest = intro, registry, rest

    def __getitem__(self, name: str) -> str:
        if name != "help":
            raise KeyError(name)
        *texts, last = self._registry.help_texts()
        things = f"{', '.join(texts)}, or {last}" if texts else last
        return f"{self._intro}: {things}.{f' {self._rest}' if self._rest else ''}"

    def __iter__(self) -> Iterator[str]:
        return iter(("help",))

    def __len__(self) -> int:
        return 1


def _distribution(plug_in: EntryPoint) -> str:
    return f"the package {plug_in.dist.name}" if plug_in.dist is not None else plug_in.value


BACKBONES = Registry("backbone", "stages.network.backbones", "cutonce.backbones")

SOURCES = Registry("source", "stages.data.sources", "cutonce.sources")
