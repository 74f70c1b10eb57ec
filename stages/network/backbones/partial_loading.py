"""Weights that fit a part of the network: loaded from the image upwards until the first layer that differs (T5).

A layer whose input is not pretrained gains nothing from pretrained weights, so nothing above that layer is loaded.
Files in which every tensor must fit, and the networks themselves, are `backbones`' business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from cache.errors import UsageError, WeightsError
from stages.network.backbones.key_mapping import suggest_mapping
from stages.network.graph.trace import layers_in_order
from stages.network.module_paths import ancestor_paths, has_prefix, shortest_prefixes


class LoadReportRow(NamedTuple):
    """What became of some tensors: loaded, skipped (of the file), missing (in the network) or ignored."""

    state: str
    tensors: int
    layers: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class PartialLoading:
    """What of a file was loaded into a network.

    Attributes
    ----------
    loaded : tuple of str
        Names of the tensors that the network took from the file.
    skipped : dict
        Names of those in the file that it did not take, and why.
    missing : tuple of str
        Names of those in the network that stay as they were.
    ignored : tuple of str
        Names, in the file and in the network, that were to be left out.
    difference : str or None
        The first layer that differs, and how; None if all layers fit.
    last : str
        The last layer that was loaded.
    tensors : int
        How many the network has.
    order : str
        What was taken for the order of the layers, in words.
    """

    loaded: tuple[str, ...]
    skipped: dict[str, str]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]
    difference: str | None
    last: str
    tensors: int
    order: str

    def __str__(self) -> str:
        """Return how much was loaded, in words."""
        return f"{len(self.loaded)} of {self.tensors} tensors up to {self.last}"

    @property
    def lines(self) -> list[LoadReportRow]:
        """What became of the tensors of file and network, those that share it on one line."""
        network_names, file_names = (*self.loaded, *self.missing), (*self.loaded, *self.skipped)
        lines = [LoadReportRow("loaded", len(self.loaded), shortest_prefixes(network_names, self.loaded), "")]
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name in self.skipped if self.skipped[name] == reason]
            lines.append(LoadReportRow("skipped", len(names), shortest_prefixes(file_names, names), reason))
        lines.append(
            LoadReportRow(
                "missing", len(self.missing), shortest_prefixes(network_names, self.missing), "stays as it was"
            )
        )
        lines.append(
            LoadReportRow(
                "ignored",
                len(self.ignored),
                shortest_prefixes((*network_names, *self.skipped, *self.ignored), self.ignored),
                "as asked",
            )
        )
        return [line for line in lines if line.tensors]


def load_partial_state_dict(
    module: nn.Module, weights: Mapping[str, torch.Tensor], origin: str, ignored: Collection[str] = ()
) -> PartialLoading:
    """Load weights from the image upwards until the first layer whose names or shapes differ, and none above it.

    Layers are taken in the order in which the network computes with them; where it cannot be traced, in that of its
    state_dict. A layer is loaded whole or not at all. One that only the file has makes the network differ too: at the
    end of the deepest module on its path that the network has (``layer1.2`` at the end of ``layer1``). What the file
    has besides at the top, such as auxiliary classifiers, stands in no layer's way. Tensors of whole numbers (counts of
    batches, tables of indices) are not learnt, and never differ.

    Parameters
    ----------
    module
        The network; what is not loaded stays as it is.
    weights
        A state_dict.
    origin
        Names the file in messages.
    ignored
        Prefixes of names that are left out: they are not loaded, and make no layer differ.

    Raises
    ------
    WeightsError
        If not even the first layer fits.
    """
    layers, order = _layers(module)
    network_tensors = {name: tensor for name, tensor in module.state_dict().items() if not has_prefix(name, ignored)}
    file_tensors = {name: tensor for name, tensor in weights.items() if not has_prefix(name, ignored)}
    below, difference = _until_the_first_difference(layers, network_tensors, file_tensors)
    loaded = {
        name: file_tensors[name]
        for layer in below
        for name in layers[layer]
        if _fits(name, network_tensors, file_tensors)
    }
    if not loaded:
        raise WeightsError(
            _nothing_fits(origin, [name for names in layers.values() for name in names], file_tensors, difference)
        )
    module.load_state_dict(loaded, strict=False)
    return PartialLoading(
        loaded=tuple(name for name in network_tensors if name in loaded),
        skipped={name: _why_skipped(name, network_tensors, difference) for name in file_tensors if name not in loaded},
        missing=tuple(name for name in network_tensors if name not in loaded and _is_learnt(network_tensors[name])),
        ignored=tuple(dict.fromkeys(name for name in (*weights, *module.state_dict()) if has_prefix(name, ignored))),
        difference=difference,
        last=next(layer for layer in reversed(below) if not loaded.keys().isdisjoint(layers[layer])),
        tensors=len(module.state_dict()),
        order=order,
    )


def _layers(module: nn.Module) -> tuple[dict[str, list[str]], str]:
    """Return the names of the tensors of each layer, in order from the image upwards, and what that order is.

    A layer is one step of the graph, or one tensor that is read alone, such as a class token. What the network does not
    compute with comes last.
    """
    try:
        steps, order = layers_in_order(module), "the order in which the network computes with them"
    except UsageError:
        steps, order = [], "the order of the state_dict, as the network cannot be traced"
    layers: dict[str, list[str]] = {}
    rest = [*module.state_dict()]
    for step in steps:
        if names := [name for name in rest if has_prefix(name, (step,))]:
            layers[step] = names
            rest = [name for name in rest if name not in names]
    for name in rest:
        owner = name.rpartition(".")[0]
        holds_layers = any(True for _ in module.get_submodule(owner).children())
        layers.setdefault(name if holds_layers else owner, []).append(name)
    return layers, order


def _until_the_first_difference(
    layers: Mapping[str, Sequence[str]],
    network_tensors: Mapping[str, torch.Tensor],
    file_tensors: Mapping[str, torch.Tensor],
) -> tuple[list[str], str | None]:
    """Return the layers below the first one that differs, and that one with how it differs, in words."""
    in_the_way = _layers_of_the_file_alone(layers, network_tensors, file_tensors)
    below: list[str] = []
    for layer, names in layers.items():
        differing = [
            name
            for name in names
            if name in network_tensors
            and _is_learnt(network_tensors[name])
            and not _fits(name, network_tensors, file_tensors)
        ]
        if layer in in_the_way:
            return below, f"{layer}: the network has no {in_the_way[layer]}"
        if differing and differing[0] not in file_tensors:
            return below, f"{layer}: the file has no {differing[0]}"
        if differing:
            shapes = [[*tensors[differing[0]].shape] for tensors in (file_tensors, network_tensors)]
            return below, f"{layer}: {differing[0]} is {shapes[0]} in the file and {shapes[1]} in the network"
        below.append(layer)
    return below, None


def _layers_of_the_file_alone(
    layers: Mapping[str, Sequence[str]],
    network_tensors: Mapping[str, torch.Tensor],
    file_tensors: Mapping[str, torch.Tensor],
) -> dict[str, str]:
    """Return the layers of the network that come next after something only the file has, with its name."""
    order = list(layers)
    modules = {
        path: index for index, layer in enumerate(order) for name in layers[layer] for path in ancestor_paths(name)
    }
    file_only: dict[str, str] = {}
    for name, tensor in file_tensors.items():
        path = next((path for path in reversed(ancestor_paths(name)) if path in modules), None)
        if name not in network_tensors and path is not None and _is_learnt(tensor):
            end = modules[path]
            next_layer = order[end : end + 1] if has_prefix(path, (order[end],)) else order[end + 1 : end + 2]
            file_only.update((layer, name) for layer in next_layer if layer not in file_only)
    return file_only


def _why_skipped(name: str, network_tensors: Collection[str], difference: str | None) -> str:
    if name not in network_tensors:
        return "the network has no such layer"
    return "of another shape" if difference is None else f"not below {difference}"


def _fits(name: str, network_tensors: Mapping[str, torch.Tensor], file_tensors: Mapping[str, torch.Tensor]) -> bool:
    return name in network_tensors and name in file_tensors and network_tensors[name].shape == file_tensors[name].shape


def _is_learnt(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()


def _nothing_fits(
    origin: str, network_keys: Sequence[str], file_keys: Mapping[str, torch.Tensor], difference: str | None
) -> str:
    rule = suggest_mapping(file_keys, network_keys)
    remedy = (
        f"Try `weights_rename` {rule}"
        if rule
        else "Where only their beginnings differ, give `weights_rename` OLD=NEW; else the backbone these weights are of"
    )
    file_names, network_names = (", ".join([*names][:3]) for names in (file_keys, network_keys))
    return (
        f"`weights` {origin}: not even the first layer fits ({difference}). The file begins with {file_names}; the "
        "network "
        f"with {network_names}. {remedy}."
    )
