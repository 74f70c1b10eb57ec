"""A head on disk: tensors as safetensors, and in JSON what it takes to build it again. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from cache.atomic_write import write_atomically
from cache.errors import UsageError, WeightsError
from stages.network.graph.cuts import CutGraph
from stages.network.heads.base import Head
from stages.network.heads.registry import saved_class, unfilled_head
from stages.runtime.tensor_files import load_tensors

FORMAT = "cutpoint-head"
VERSION = 2

OLD_NAMES = {1: {"num_classes": "out_features"}}
"""By the version of a file: what it calls an entry of a head's `config`, and what that is called now."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file of safetensors, which appears whole or not at all.

    Raises
    ------
    CacheError
        If it cannot be written.
    """
    # copies, because safetensors refuses tensors that share their memory, as tied weights do
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(copies, None if metadata is None else dict(metadata)))


def save_head(path: Path, head: Head, metadata: Mapping[str, Any]) -> None:
    """Write a head beside `path`: its tensors to ``.safetensors``, how to build it and `metadata` to ``.json``.

    Each file appears whole or not at all.
    """
    description = {"format": FORMAT, "version": VERSION, "config": head.config, "metadata": dict(metadata)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path.with_suffix(".safetensors"), head.state_dict())
    write_atomically(path.with_suffix(".json"), json.dumps(description, indent=2).encode())


def load_head(path: Path, graph: CutGraph | None = None) -> tuple[Head, dict[str, Any]]:
    """Return the head that `save_head` wrote, in evaluation mode, and its metadata.

    A module of the user's own is imported again, from the name in the ``.json``.

    Parameters
    ----------
    path
        With or without suffix.
    graph
        The network that the head was trained on; ``top`` is made of its blocks.

    Raises
    ------
    WeightsError
        If the files are missing, damaged, of an unknown version, or do not belong together, or `graph` is not the
        network of a head ``top``.
    UsageError
        If a head ``top`` is loaded without `graph`, or the user's own module is not there.
    """
    described, stored = path.with_suffix(".json"), path.with_suffix(".safetensors")
    config, metadata = read_head(path)
    try:
        tensors = load_tensors(stored)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    try:
        return rebuild_head(config, tensors, graph, described), metadata
    except (KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{stored} does not hold the head that {described} describes: {error}") from error


def rebuild_head(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], graph: CutGraph | None, described: Path | str
) -> Head:
    """Return the head with a `config` and these tensors, in evaluation mode.

    Parameters
    ----------
    config, tensors
        As a head has them: its `config` and its ``state_dict``.
    graph
        The network that the head was trained on; ``top`` is made of its blocks.
    described
        What messages call what the two come from.

    Raises
    ------
    WeightsError
        If such a head is not known here, or belongs to another network.
    UsageError
        If a head ``top`` is built without `graph`, or the user's own module is not there.
    KeyError, TypeError, RuntimeError
        If config and tensors do not belong together.
    """
    head = _rebuilt(dict(config), graph, described)
    head.load_state_dict(tensors)
    return head.eval()


def read_head(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how a head that `save_head` wrote is built, and its metadata, without its tensors.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of an unknown version.
    """
    described = path.with_suffix(".json")
    try:
        description = json.loads(described.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise WeightsError(f"{described} does not describe a head of Cutonce.")
    version = description.get("version")
    if version not in (VERSION, *OLD_NAMES):
        raise WeightsError(
            f"{described} has version {version!r}, and this Cutonce reads versions up to {VERSION}. "
            "Train the head again, or install the Cutonce that wrote it."
        )
    try:
        renamed = OLD_NAMES.get(version, {})
        config = {renamed.get(name, name): value for name, value in dict(description["config"]).items()}
        return config, dict(description["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{described} does not describe a head: {error}") from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    described, stored = path.with_suffix(".json"), path.with_suffix(".safetensors")
    return WeightsError(f"The head {described} with {stored.name} cannot be read: {error}. Train it again.")


def _rebuilt(config: dict[str, Any], graph: CutGraph | None, described: Path | str) -> Head:
    """Return a head with its `config`; a missing or unknown entry raises KeyError or TypeError."""
    name = config["head"]
    if ":" in name:
        return unfilled_head(config, graph)
    try:
        head_class = saved_class(name)
    except UsageError as error:
        raise WeightsError(
            f"{described} describes a head that is not known here; install the package that registers it ({error})"
        ) from error
    if graph is None and head_class.needs_graph:
        raise UsageError(
            f"{described} describes the head {name}, which is made of the blocks of its network: load it with the "
            "CutGraph of the backbone it was trained on."
        )
    try:
        return unfilled_head(config, graph)
    except UsageError as error:
        raise WeightsError(f"{described} belongs to another network: {error}") from error
