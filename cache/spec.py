"""What a cached feature depends on, and the fingerprint that names the cache of all features made the same way.

Not here: labels, splits, paths, device, batch size. None of them changes a feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from cache.errors import CacheError, CacheInputError

STORAGE_TYPES = ("float16", "float32", "uint8")


@dataclass(frozen=True, eq=False)
class Spec:
    """Everything a cached feature depends on; two specs are equal when their fingerprints are.

    Attributes
    ----------
    backbone : str
        Name of the network.
    weights : str
        Digest of the weights' tensors.
    cut : str
        Layer whose output is cached.
    pooling : str
        How a feature map becomes a row.
    preprocessing : Mapping
        Resolved preprocessing, as JSON values.
    views : Mapping or None
        How the augmented views are made, as JSON values; None where there is only the clean view 0.
    precision : str
        Arithmetic of the trunk.
    dtype : str
        Type of the stored numbers: float16, float32, or uint8, see :mod:`cache.quantized`.
    decoder : str
        What turned file bytes into pixels.
    taps : sequence of Mapping or None
        The parts of a row that is of several layers, as JSON values; None, and not in the digest, where it is of one.

    Raises
    ------
    CacheInputError
        If a field has the wrong type or holds something JSON cannot say exactly.
    """

    backbone: str
    weights: str
    cut: str
    pooling: str
    preprocessing: Mapping[str, Any]
    views: Mapping[str, Any] | None
    precision: str
    dtype: str
    decoder: str
    taps: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            object.__setattr__(self, name, _field_value(name, getattr(self, name)))
        if self.dtype not in STORAGE_TYPES:
            raise CacheInputError(f"features cannot be stored as {self.dtype!r}; use float16, float32 or uint8")

    @cached_property
    def canonical(self) -> str:
        """The spec as JSON text: sorted names, no spaces, ASCII only, whole numbers without a point."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    @cached_property
    def fingerprint(self) -> str:
        """The first 32 hex digits of the SHA-256 of :attr:`canonical`."""
        return hashlib.sha256(self.canonical.encode("ascii")).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.taps is None:  # as before there were any
            del values["taps"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spec:
        """Return the spec that :meth:`to_json` described.

        Raises
        ------
        CacheError
            If a field is missing, unknown, or of the wrong type.
        """
        names = {field.name for field in fields(cls)} - {"taps"}
        unmatched = sorted(names ^ (set(values) - {"taps"}))
        if unmatched:
            raise CacheError(f"not a spec of this version of Cutonce: {', '.join(unmatched)} missing or unknown")
        return cls(**values)

    def __eq__(self, other: object) -> bool:
        return self.canonical == other.canonical if isinstance(other, Spec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.canonical)


def _field_value(name: str, value: Any) -> Any:
    """Return the field's value, checked; mappings as copies nobody else can change."""
    if name in ("views", "taps") and value is None:
        return None
    if name == "taps":
        if not isinstance(value, list | tuple) or not all(isinstance(part, Mapping) for part in value):
            raise CacheInputError(f"spec.taps is {type(value).__name__}; it has to be a sequence of mappings")
        return _canonical_value("spec.taps", value)
    if name in ("preprocessing", "views"):
        if not isinstance(value, Mapping):
            raise CacheInputError(f"spec.{name} is {type(value).__name__}; it has to be a mapping of JSON values")
        return _canonical_value(f"spec.{name}", value)
    if not isinstance(value, str):
        raise CacheInputError(f"spec.{name} is {value!r}; it has to be a string")
    return value


def _canonical_value(location: str, value: Any) -> Any:
    """Return `value` with one form for values that mean the same: 1.0 is 1, a tuple is a list, NaN is refused."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float) and value - value == 0:
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, list | tuple):
        return [_canonical_value(f"{location}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _canonical_value(f"{location}.{name}", item) for name, item in value.items()}
    raise CacheInputError(
        f"{location} is {value!r} ({type(value).__name__}); a spec holds finite numbers, strings, booleans, None, "
        "lists, and mappings with string names"
    )
