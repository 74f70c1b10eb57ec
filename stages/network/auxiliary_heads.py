"""Auxiliary classifiers: heads on the way that give lower layers of a deep network a loss of their own (T10).

GoogLeNet (Szegedy et al. 2015) has two, Inception v3 (Szegedy et al. 2016) one. They take part in training alone: what
the network answers, and features, never depend on them. How the losses are added up is the training's business.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from cache.errors import UsageError
from stages.config.image_size import ImageSize
from stages.network.classifier import output_layers, replace_classifier
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.section import Section


class AuxiliaryPlace(NamedTuple):
    """The layer whose output an auxiliary classifier takes, and what its loss weighs beside the main one's 1."""

    layer: str
    loss_weight: float


@dataclass(frozen=True)
class AuxiliaryHead:
    """An auxiliary classifier, and its place in the network.

    Attributes
    ----------
    name
        As the network calls it: ``aux1``, ``aux2``, ``AuxLogits``.
    cut
        Where it reads.
    loss_weight
        What its loss weighs beside the main one's 1.
    module
        The output of the cut, float [b, *cut.shape] -> logits [b, classes].
    """

    name: str
    cut: Cut
    loss_weight: float
    module: nn.Module


def auxiliary_heads_for(
    graph: CutGraph, heads: Mapping[str, nn.Module], auxiliary_places: Mapping[str, AuxiliaryPlace], out_features: int
) -> tuple[AuxiliaryHead, ...]:
    """Return copies of a network's auxiliary classifiers that train, with new output layers, from the image upwards.

    Parameters
    ----------
    graph
        The network.
    heads
        Its auxiliary classifiers, as its backbone has them (`auxiliary`); of most networks there are none.
    auxiliary_places
        Where each belongs, as the backbone has it (`auxiliary_places`).
    out_features
        Of the new output layers.

    Raises
    ------
    UsageError
        If the images are so small that a classifier has no map to work on.
    """
    trained = []
    for name, head in heads.items():
        auxiliary_place = auxiliary_places[name]
        cut = graph.resolve(auxiliary_place.layer)
        new_head = replace_classifier(copy.deepcopy(head), out_features)
        _require_map(new_head, name, cut, graph.image_size)
        trained.append(AuxiliaryHead(name, cut, auxiliary_place.loss_weight, new_head.train().requires_grad_(True)))
    return tuple(trained)


def section_with_auxiliary(
    graph: CutGraph,
    start: Cut | None,
    end: Cut | None,
    heads: Collection[AuxiliaryHead],
    trainable: Collection[str] | None = None,
    *,
    folded: bool = False,
) -> Section:
    """Return a section that in training mode returns a pair: its output, and the logits of the heads on its way.

    In evaluation mode it is the plain section. Heads at or below `start`, or above `end`, do not take part. The others
    are in the section under their names, and so in its state_dict, as in torchvision's; what trains of it, for
    :func:`~stages.network.freezing.freeze`, has their names beside the network's.

    Parameters
    ----------
    graph, start, end, trainable, folded
        As of :meth:`~stages.network.graph.cuts.CutGraph.section`.
    heads
        As :func:`auxiliary_heads_for` returns them.
    """
    on_the_way = {head.name: (head.cut, head.module) for head in heads if graph.is_between(start, head.cut, end)}
    return graph.section(start, end, trainable, on_the_way, folded=folded)


def load_heads(heads: Mapping[str, nn.Module], weights: Mapping[str, torch.Tensor]) -> None:
    """Load the auxiliary classifiers of which a state_dict has every tensor; the others stay as they are.

    Their output layers get as many classes as in the file.
    """
    for name, head in heads.items():
        head_weights = {
            key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")
        }
        (output,) = output_layers(head)
        if f"{output}.weight" in head_weights and len(head_weights[f"{output}.weight"]) != len(
            head.get_parameter(f"{output}.weight")
        ):
            replace_classifier(head, len(head_weights[f"{output}.weight"]))
        state = head.state_dict()
        if all(
            key in head_weights and head_weights[key].shape == tensor.shape
            for key, tensor in state.items()
            if tensor.ndim
        ):
            head.load_state_dict({key: tensor for key, tensor in head_weights.items() if key in state}, strict=False)


def _require_map(head: nn.Module, name: str, cut: Cut, image_size: ImageSize) -> None:
    """Refuse images whose map is too small: Inception v3's head pools and convolves it without padding."""
    parameter = next(head.parameters())
    try:
        with torch.no_grad():
            head.eval()(torch.zeros(1, *cut.shape, dtype=parameter.dtype, device=parameter.device))
    except RuntimeError as error:
        shape = " x ".join(map(str, cut.shape[1:]))
        raise UsageError(
            f"The auxiliary classifier {name} cannot work on images of {image_size} pixels: the map at {cut.name} is "
            f"only {shape}. Use `image_size` 299, or train without it, with `no_auxiliary`."
        ) from error
