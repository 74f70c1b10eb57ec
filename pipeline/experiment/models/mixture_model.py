"""A trained method as the networks that it takes to predict: one, or, of a mixture, several whose answers are averaged.

Whoever predicts with a saved method opens it here. Members on the same features are one network with one head, so that
images go through each network once. Networks that differ in nothing but in whether they see mirror images too have one
trunk, and answer together where images go through it (`together`). A mixture's folder holds whole models of its
members, and needs nothing else of the runs that they come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cache.errors import DataError
from pipeline.experiment.models.mixture_members import model_of_member, read_members
from pipeline.experiment.models.model_card import ModelCard, read_recipe
from pipeline.experiment.models.model_store import open_model
from pipeline.run_layout import HEAD
from stages.config.features import PrecisionChoice
from stages.extraction.extractor import Extractor
from stages.finetuning.predicted_batch import PredictedBatch
from stages.finetuning.transfer_model import TransferModel, head_on_features
from stages.network.backbones.base import Backbone
from stages.network.graph.mirrored import LooksTrunk, columns_of_look
from stages.network.heads.base import Head
from stages.network.heads.depths import ColumnsHead
from stages.network.heads.ensemble import EnsembleHead
from stages.network.heads.serialization import load_head
from stages.tasks.averaging import AveragingTask
from stages.tasks.base import Task, task_from_json


@dataclass(frozen=True)
class Network:
    """A network with what answers on it, and how much its answers count.

    Attributes
    ----------
    share : float
    recipe : ModelCard
        Of the member, or of the first of several on the same features.
    extractor : Extractor
    upper : TransferModel
        From rendered images to answers.
    """

    share: float
    recipe: ModelCard
    extractor: Extractor
    upper: TransferModel


def open_networks(
    directory: Path,
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    cache: Path | None = None,
    precision: PrecisionChoice | None = None,
) -> list[Network]:
    """Load a trained method, ready for images: one network, or those of a mixture in the order of their members.

    Parameters
    ----------
    directory, device, backbone, cache, precision
        As for `open_model`; of a mixture, a network is handed in to the members that were trained on one.

    Raises
    ------
    DataError, UsageError, WeightsError
        As `open_model`.
    """
    members, recipe = read_members(directory), read_recipe(directory)
    if not members or recipe is None:
        return [Network(1.0, *open_model(directory, device, backbone, cache, precision))]
    task = task_from_json(recipe.task)
    assert isinstance(task, AveragingTask), "of which a mixture was made"
    on_features: dict[str, list[int]] = {}
    for number in range(len(members)):
        card = read_recipe(model_of_member(directory, number))
        if card is None:
            raise DataError(f"{model_of_member(directory, number)} is not complete; make this ensemble again")
        alone = card.unfreeze is not None or card.features_fingerprint is None
        on_features.setdefault(f"member {number}" if alone else str(card.features_fingerprint), []).append(number)
    networks: list[Network] = []
    for numbers in on_features.values():
        folders = [model_of_member(directory, number) for number in numbers]
        first = read_recipe(folders[0])
        given = backbone if first is not None and first.handed_in is not None else None
        card, extractor, upper = open_model(folders[0], device, given, cache, precision)
        weights = [members[number].weight for number in numbers]
        if len(folders) == 1:
            networks.append(Network(weights[0], card, extractor, upper))
            continue
        heads = [load_head(folder / HEAD, extractor.graph)[0] for folder in folders]
        for share, head in _on_same_rows(heads, weights, task):
            networks.append(Network(share, card, extractor, head_on_features(extractor, head.to(extractor.device))))
    return _with_shared_trunks(networks)


def _with_shared_trunks(networks: Sequence[Network]) -> list[Network]:
    """Return networks of which those that compute the same below their heads hold it once."""
    known: dict[str, Extractor] = {}
    sharing: list[Network] = []
    for network in networks:
        extractor = network.extractor
        if network.recipe.unfreeze is not None:
            sharing.append(network)
            continue
        first = known.setdefault(_computed_of(extractor), extractor)
        if first is not extractor:
            extractor = replace(extractor, backbone=first.backbone, graph=first.graph, trunk=first.trunk)
            head = network.upper.model.head
            assert isinstance(head, Head)
            network = replace(network, extractor=extractor, upper=head_on_features(extractor, head))
        sharing.append(network)
    return sharing


def _computed_of(extractor: Extractor) -> str:
    """Return what tells one trunk from another: network, weights, what is tapped, arithmetic, and what it sees."""
    specs = [tap.cache.spec.to_json() for tap in extractor.taps]
    return json.dumps([{**spec, "dtype": ""} for spec in specs] + [str(extractor.device)], sort_keys=True)


def together(networks: Sequence[Network], task: Task) -> list[Network]:
    """Return networks for images to go through: those with one trunk as one, for which each view passes once.

    Not for features that are read from caches, which each network has of its own.

    Parameters
    ----------
    networks : sequence of Network
        As `open_networks` gives them.
    task : Task
        What they answer.
    """
    on_trunk: dict[tuple[int, str], list[Network]] = {}
    for number, network in enumerate(networks):
        alone = not network.recipe.shares_trunk or len(network.extractor.row_shape) > 1
        key = (-1 - number, "") if alone else (id(network.extractor.trunk), network.recipe.tta)
        on_trunk.setdefault(key, []).append(network)
    return [group[0] if len(group) == 1 else _as_one(group, task) for group in on_trunk.values()]


def _as_one(networks: Sequence[Network], task: Task) -> Network:
    """Return networks with one trunk as one network, whose head takes the rows of all side by side."""
    assert isinstance(task, AveragingTask), "of which a mixture was made"
    first, share = networks[0], sum(network.share for network in networks)
    width = first.extractor.row_shape[0]
    columns = [columns_of_look(number, width) for number in range(len(networks))]
    heads: list[Head] = []
    for network, own in zip(networks, columns, strict=True):
        head = network.upper.model.head
        assert isinstance(head, Head)
        heads.append(ColumnsHead(head, width * len(networks), [(own.start, own.stop)]))
    shares = [network.share / share for network in networks]
    head = EnsembleHead.weighted(heads, shares, task.activation).to(first.extractor.device)
    looks = [network.extractor.options.mirror for network in networks]
    upper = head_on_features(first.extractor, head, LooksTrunk(first.extractor.trunk, looks))
    # images are held against the training images of the first, by its features
    return Network(share, first.recipe, first.extractor, replace(upper, own_columns=columns[0]))


def _on_same_rows(heads: Sequence[Head], weights: Sequence[float], task: AveragingTask) -> Iterator[tuple[float, Head]]:
    """Yield one head for each shape of the rows that heads on the same features take, and how much it counts."""
    by_shape: dict[str, list[int]] = {}
    for number, head in enumerate(heads):
        by_shape.setdefault(str(head.config["row_shape"]), []).append(number)
    for numbers in by_shape.values():
        share = sum(weights[number] for number in numbers)
        shares = [weights[number] / share for number in numbers]
        yield share, EnsembleHead.weighted([heads[number] for number in numbers], shares, task.activation)


def mean_answers(networks: Sequence[Network], of_network: Callable[[Network], NDArray[np.float32]]) -> NDArray[Any]:
    """Return what networks answer for the same samples, [n, out_features], each counted as much as it counts."""
    if len(networks) == 1:
        return of_network(networks[0])
    mean = sum(network.share * of_network(network).astype(np.float64) for network in networks)
    return np.asarray(mean, dtype=np.float32)


def mean_batches(
    networks: Sequence[Network], of_network: Callable[[Network], Iterator[PredictedBatch]]
) -> Iterator[PredictedBatch]:
    """Yield what networks answer for the same images: of one as it comes, of several as one batch of all images.

    An image that one of them could not be given is none. Vectors are of the first network, whose training images they
    are compared with.
    """
    if len(networks) == 1:
        yield from of_network(networks[0])
        return
    indices: NDArray[np.int64] | None = None
    total: NDArray[np.float64] = np.empty(0)
    vectors: NDArray[np.float32] | None = None
    failures: dict[int, str] = {}
    for network in networks:
        batches = list(of_network(network))
        for batch in batches:
            failures |= {number: reason for number, reason in batch.failures if number not in failures}
        full = [batch for batch in batches if batch.indices]
        if not full:
            yield PredictedBatch([], np.empty((0, 1), np.float32), sorted(failures.items()))
            return
        answered = np.array([index for batch in full for index in batch.indices])
        answers = network.share * np.concatenate([batch.activated for batch in full]).astype(np.float64)
        if indices is None:
            indices, total = answered, answers
            known = [batch.vectors for batch in full if batch.vectors is not None]
            vectors = np.concatenate(known) if len(known) == len(full) else None
            continue
        kept, of_all, of_network_rows = np.intersect1d(indices, answered, assume_unique=True, return_indices=True)
        indices, total = kept, total[of_all] + answers[of_network_rows]
        vectors = None if vectors is None else vectors[of_all]
    assert indices is not None, "there is a network"
    yield PredictedBatch(indices.tolist(), total.astype(np.float32), sorted(failures.items()), vectors)
