"""Kinds of things that are found by themselves, each thing under a decorator in a file of its own.

A registry reads the decorators from the text of its files, and imports what they decorate when it is asked for: the
help of an option names everything there is, and must not wait for torch. So a decorator in a file of ours takes
literals for whatever is to be known before the import. Other packages add things by entry points: the group of a kind,
``cutonce.heads``, has the modules that register them, each under the name of what it registers.

It lies in this room because the cache has a kind of its own, and imports no other room.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from cache.errors import UsageError, alternatives

_DECORATED = re.compile(
    r'^(?P<decorators>@.*?)^(?:def|class) .*?:\n(?: +"""(?P<docstring>.*?)(?:"""|\n))?', re.MULTILINE | re.DOTALL
)
"""A definition with decorators, at the margin of a file, down to the first line of its docstring."""


@dataclass(frozen=True)
class Registration:
    """What a decorator says of the thing below it, known before that is imported.

    Attributes
    ----------
    name : str
        What the thing is asked for by.
    help_text : str
        What help says of it; where the decorator says nothing, the docstring up to its first point, colon or end of
        line.
    module : str
        The file that registers it, as it is imported.
    """

    name: str
    help_text: str = field(default="", kw_only=True)
    module: str = field(default="", kw_only=True)


RegistrationT = TypeVar("RegistrationT", bound=Registration)
ThingT = TypeVar("ThingT")
DecoratedT = TypeVar("DecoratedT")


class Registry(Generic[RegistrationT, ThingT]):
    """Things of one kind by their names.

    Parameters
    ----------
    kind
        What they are, in words: ``cache format``. Their decorator is ``register_cache_format``, and other packages
        name theirs in the group ``cutonce.cache_formats``.
    registration
        The class of what their decorators say: each field of it that a decorator in a file of ours names is a literal.
    packages
        Whose files may have them.
    option
        The option that names one, for messages.
    decorators
        The names of the decorators, where there are others, each with the fields that it stands for.
    """

    def __init__(
        self,
        kind: str,
        registration: type[RegistrationT],
        packages: Sequence[str],
        *,
        option: str,
        decorators: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.kind = kind
        self.option = option
        self.group = f"cutonce.{kind.replace(' ', '_')}s"
        self._registration = registration
        self._packages = packages
        self._decorators = decorators or {f"register_{kind.replace(' ', '_')}": {}}
        self._registered: dict[str, RegistrationT] = {}
        self._things: dict[str, ThingT] = {}
        self._origins: dict[str, str] = {}
        self._all_things: Mapping[str, ThingT] | None = None
        self._loaded_plug_ins: set[str] = set()
        self._loading = threading.RLock()

    def register(self, registration: RegistrationT, thing: ThingT, origin: Any = None) -> None:
        """Take up a thing; :meth:`decorator` calls this.

        Parameters
        ----------
        registration
            What its decorator says of it.
        thing
            What is asked for by its name.
        origin
            The function or class that is decorated, where it is not the thing itself.

        Raises
        ------
        UsageError
            If another function or class has the name: names both.
        """
        origin = thing if origin is None else origin
        described = f"{origin.__module__}.{origin.__qualname__}"
        name = registration.name
        owner = self._origins.get(name)
        if owner is None and name in self.declared and self.declared[name].module != origin.__module__:
            owner = self.declared[name].module
        if owner not in (None, described):
            raise self._name_taken(name, [str(owner), described])
        help_text = registration.help_text or _beginning(origin.__doc__ or "")
        self._registered[name] = replace(registration, help_text=help_text, module=origin.__module__)
        self._things[name] = thing
        self._all_things = None
        self._origins[name] = described

    def decorator(
        self, registration: RegistrationT, thing_of: Callable[[Any], ThingT] | None = None
    ) -> Callable[[DecoratedT], DecoratedT]:
        """Return what registers the function or class below it, and leaves it as it is.

        Parameters
        ----------
        registration
            What the decorator was told.
        thing_of
            Makes of the function or class what is asked for by the name; by default it is that itself.
        """

        def register(decorated: DecoratedT) -> DecoratedT:
            thing: Any = decorated if thing_of is None else thing_of(decorated)
            self.register(registration, thing, decorated)
            return decorated

        return register

    @cached_property
    def declared(self) -> Mapping[str, RegistrationT]:
        """What the decorators in our own files say, by name, in the order of the files; nothing is imported."""
        registrations: dict[str, RegistrationT] = {}
        for package in self._packages:
            for path in _files_of(package):
                source = path.read_text(encoding="utf-8")
                if any(f"@{decorator}(" in source for decorator in self._decorators):
                    for registration in self._registrations_in(source, f"{package}.{path.stem}"):
                        if registration.name in registrations:
                            modules = [registrations[registration.name].module, registration.module]
                            raise self._name_taken(registration.name, modules)
                        registrations[registration.name] = registration
        return registrations

    @property
    def known(self) -> Mapping[str, RegistrationT]:
        """What is said of all things but those of plug-ins that were not imported yet; nothing is imported."""
        return {**self.declared, **self._registered}

    @property
    def plug_in_names(self) -> list[str]:
        """The names of plug-ins that were not imported yet."""
        return sorted({plug_in.name for plug_in in self._waiting_plug_ins} - {*self.known})

    def names(self) -> tuple[str, ...]:
        """Return all names; nothing is imported."""
        return (*self.known, *self.plug_in_names)

    def help_texts(self) -> list[str]:
        """Return what help says of each thing; nothing is imported, and of a plug-in only its name is known."""
        plug_ins = {plug_in.name: f"{plug_in.name} (of {_distribution(plug_in)})" for plug_in in self._waiting_plug_ins}
        return [
            *(registration.help_text for registration in self.known.values()),
            *(plug_ins[name] for name in self.plug_in_names),
        ]

    def named_help_texts(self) -> list[str]:
        """Return each name, with what help says of it in parentheses; nothing is imported."""
        return [*map(_named, self.known.values()), *self.help_texts()[len(self.known) :]]

    def require_known(self, name: str, otherwise: str = "", option: str = "") -> None:
        """Refuse a name that nothing has; nothing is imported.

        Parameters
        ----------
        name
            As it was given.
        otherwise
            What else the option may be, as the end of a list.
        option
            Which one the name was given for, where it is not the one that takes all.

        Raises
        ------
        UsageError
            With the nearest name and all of them, or what lists them.
        """
        names = self.names()
        if name not in names:
            listed_by = f"The help of `{self.option}`"
            there_are = alternatives(name, names, listed_by=listed_by, otherwise=otherwise)
            raise UsageError(f"`{option or self.option}` {name}: there is no such {self.kind}.{there_are}")

    def find(self, name: str, otherwise: str = "") -> RegistrationT:
        """Return what is said of a thing; of a plug-in, and of that alone, the module is imported.

        Raises
        ------
        UsageError
            If nothing has the name, see :meth:`require_known`, or two things have, or a plug-in cannot be imported.
        """
        self.require_known(name, otherwise)
        plug_ins = [plug_in for plug_in in self._plug_ins if plug_in.name == name]
        owners = [self.declared[name].module] if name in self.declared else []
        owners += [f"{plug_in.value} ({_distribution(plug_in)})" for plug_in in plug_ins]
        if len(owners) > 1:
            raise self._name_taken(name, owners)
        with self._loading:
            if name not in self._registered and plug_ins:
                self._load_plug_in(plug_ins[0])
                if name not in self._registered:
                    raise UsageError(f"{owners[0]} registers no {self.kind} {name}, which its entry point promises")
        return self.known[name]

    def get(self, name: str, otherwise: str = "") -> ThingT:
        """Return the thing of that name; its file is imported.

        Raises
        ------
        UsageError
            As :meth:`find`.
        """
        module = self.find(name, otherwise).module
        with self._loading:
            if name not in self._things:
                importlib.import_module(module)
        return self._things[name]

    def own_things(self) -> Mapping[str, ThingT]:
        """Return the things of our own files, in their order, and what else is registered so far."""
        with self._loading:
            for name, registration in self.declared.items():
                if name not in self._things:
                    importlib.import_module(registration.module)
        return {name: self._things[name] for name in self.known}

    def things(self) -> Mapping[str, ThingT]:
        """Return all things by their names; the first call imports what registers them.

        Raises
        ------
        UsageError
            If two have one name, or a plug-in cannot be imported.
        """
        all_things = self._all_things
        if all_things is None:
            with self._loading:
                self.own_things()
                for plug_in in self._waiting_plug_ins:
                    self._load_plug_in(plug_in)
                all_things = self._all_things = self.own_things()
        return all_things

    def origin(self, name: str) -> str:
        """Return which function or class is registered as `name`, for messages."""
        return self._origins[name]

    @property
    def _plug_ins(self) -> tuple[EntryPoint, ...]:
        return _entry_points(self.group, tuple(sys.path))

    @property
    def _waiting_plug_ins(self) -> list[EntryPoint]:
        return [plug_in for plug_in in self._plug_ins if plug_in.value not in self._loaded_plug_ins]

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
        self._loaded_plug_ins.add(plug_in.value)

    def _registrations_in(self, source: str, module: str) -> Iterator[RegistrationT]:
        """Yield what the decorators in the text of a file say."""
        known_fields = {field.name for field in fields(self._registration)}
        for definition in _DECORATED.finditer(source):
            (function,) = ast.parse(f"{definition['decorators']}def _(): ...").body
            assert isinstance(function, ast.FunctionDef)
            for call in function.decorator_list:
                if not isinstance(call, ast.Call) or ast.unparse(call.func) not in self._decorators:
                    continue
                arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in known_fields}
                try:
                    name = ast.literal_eval(call.args[0])
                    values = {argument: ast.literal_eval(value) for argument, value in arguments.items()}
                except ValueError as error:
                    raise ValueError(
                        f"{module}: @{ast.unparse(call)} is read without an import: literals only"
                    ) from error
                values = {"help_text": _beginning(definition["docstring"] or ""), **values}
                yield self._registration(name, module=module, **self._decorators[ast.unparse(call.func)], **values)

    def _name_taken(self, name: str, owners: Sequence[str]) -> UsageError:
        return UsageError(
            f"two {self.kind}s are called {name!r}: that of {' and that of '.join(owners)}; uninstall one of the two, "
            "or give it another name"
        )


@lru_cache(maxsize=1)
def _all_entry_points(path: tuple[str, ...]) -> Any:
    """Return what all installed packages declare: one search through all of them, for every kind."""
    return entry_points()


@lru_cache(maxsize=64)
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(_all_entry_points(path).select(group=group))


def _files_of(package: str) -> list[Path]:
    specification = importlib.util.find_spec(package)
    assert specification is not None
    folders = specification.submodule_search_locations or []
    return sorted(file for folder in folders for file in Path(folder).glob("*.py"))


def _distribution(plug_in: EntryPoint) -> str:
    return f"the package {plug_in.dist.name}" if plug_in.dist is not None else plug_in.value


def _beginning(docstring: str) -> str:
    """Return a docstring up to its first point, colon or end of line."""
    return re.split(r"[.:\n]", docstring.strip(), maxsplit=1)[0].strip()


def _named(registration: Registration) -> str:
    help_text = registration.help_text
    if help_text.split(" ")[0][1:].islower():  # a word, and no name
        help_text = help_text[0].lower() + help_text[1:]
    return f"{registration.name} ({help_text})" if help_text else registration.name
