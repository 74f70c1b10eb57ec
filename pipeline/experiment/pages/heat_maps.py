"""What in images speaks for what a saved method says of them: Grad-CAM of the last map of its network.

Of heads on several depths it is the deepest map on which they depend; of mirror images the map of the image and that of
its mirror image, turned back; of ensembles and of means over networks the sum of what each member's map says, weighed
as the members are. Where no place of an image speaks for what is predicted (a class may be what is left where nothing
speaks for another), the map is of where it speaks least against it. An image without a map is never passed over in
silence: what there is to say comes with the maps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import CutonceError
from cache.inventory import open_cache
from pipeline.experiment.models.mixture_model import Network, open_networks
from pipeline.experiment.models.model_card import ModelCard, read_recipe
from pipeline.report.evidence import HeatMap, HeatMaps
from pipeline.run_layout import COLUMNS, HEAD, MEMBERS
from pipeline.text import percent
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import reading_from
from stages.data.images.rgb import as_colors
from stages.data.sources.open_image import read_image
from stages.extraction.extractor import Extractor
from stages.inspection.grad_cam import TappedMap, place_evidence, scores_of, strengths_of
from stages.network.graph.cuts import Cut
from stages.network.graph.hooked import HookedGraph, HookedTrunk
from stages.network.graph.pooling import Pool
from stages.network.graph.tap_places import find_taps
from stages.network.graph.tapped_trunk import PooledTensor
from stages.network.heads.base import layout_and_channels
from stages.network.heads.ensemble import EnsembleHead
from stages.network.heads.registry import saved_class
from stages.network.heads.serialization import load_head, read_head
from stages.tasks.base import task_from_json
from stages.tasks.single_label import SingleLabel
from stages.training.losses import logits_of

_DEEPEST = 8
"""Maps among which the last one is looked for that counts for what is predicted."""

_AT_ONCE = 4
"""Images that go through a network together, with all that their gradients need."""

_SLOW = 5.0
"""Seconds after which it is said what takes so long."""

_LOG = logging.getLogger("cutonce")

Explain = Callable[[Sequence[str], Sequence[int], Sequence[int]], "_Evidence"]
"""Locations of images that can be read, their places among those asked for, and outputs -> what speaks for these."""


class _Evidence(NamedTuple):
    """What places add to outputs, [b, h, w], and the views that they are of, uint8 [C, S, S] each."""

    places: Tensor
    views: list[Tensor]


class _UnexplainedError(CutonceError):
    """Why a method has no heat maps."""


def heat_maps(
    directory: Path | None, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]
) -> HeatMaps:
    """Return what in images speaks for outputs of a saved method, and what there is to say of those that have no map.

    A method whose head reads maps that are cached needs no network; any other is opened, in float32 on the processor.

    Parameters
    ----------
    directory : Path or None
        Of the method.
    keys, locations : sequence of str
        Of the images.
    classes : sequence of int
        Which output of each image is explained.
    """
    nothing: list[HeatMap | None] = [None] * len(keys)
    if not keys:
        return HeatMaps(nothing, "")
    try:
        found = _heat_maps(directory, keys, locations, classes)
    except CutonceError as error:
        found = HeatMaps(nothing, f"There are no heat maps: {str(error).rstrip('.')}.")
    if found.note:
        _LOG.info(f"note: {found.note[0].lower()}{found.note[1:].rstrip('.')}")
    return found


def _heat_maps(
    directory: Path | None, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]
) -> HeatMaps:
    card = None if directory is None else read_recipe(directory)
    if directory is None or card is None:
        raise _UnexplainedError("no model lies beside these results (an evaluation keeps none)")
    if card.samples is not None:
        raise _UnexplainedError("what is predicted for has several images")
    if (directory / COLUMNS).exists():
        raise _UnexplainedError("the method takes columns of a table")
    there = [place for place, location in enumerate(locations) if _image(location, card) is not None]
    if not there:
        raise _UnexplainedError("none of the images can be read any more")
    asked = [locations[place] for place in there], [classes[place] for place in there]
    cached = _of_cached_maps(directory, card, [keys[place] for place in there], *asked)
    found, note = (cached, "") if cached is not None else _of_networks(directory, card, *asked)
    maps: list[HeatMap | None] = [None] * len(keys)
    above_mean = strengths_of(found.places - found.places.mean(dim=(1, 2), keepdim=True))
    of_all = zip(there, found.views, strengths_of(found.places), above_mean, strict=True)
    for place, view, speaks, less_against in of_all:
        strengths = less_against if speaks is None else speaks
        maps[place] = None if strengths is None else HeatMap(_pixels(view), strengths, least_against=speaks is None)
    gone, silent = len(keys) - len(there), sum(maps[place] is None for place in there)
    against = sum(heat is not None and heat.least_against for heat in maps)
    notes = [
        note,
        f"{gone} of the {len(keys)} images cannot be read any more." if gone else "",
        f"In {against} of {len(there)} images no place speaks for what is predicted: the heat map is of where such "
        "an image speaks least against it."
        if against
        else "",
        f"{silent} of {len(there)} images have no heat map, as no place of them counts more than another."
        if silent
        else "",
    ]
    return HeatMaps(maps, " ".join(filter(None, notes)))


def _of_cached_maps(
    directory: Path, card: ModelCard, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]
) -> _Evidence | None:
    """Return what a head on cached maps says; None of one on vectors, or on the network's own blocks."""
    if card.unfreeze is not None or card.features_fingerprint is None or (directory / MEMBERS).exists():
        return None
    path = Path(card.features["cache"]) / card.features_fingerprint
    if not path.is_dir():
        return None
    store = open_cache(path)
    if not store.shards or len(store.row_shape) < 2 or store.missing(list(keys)):
        return None
    config = read_head(directory / HEAD)[0]
    if _needs_graph(config):
        return None
    head = load_head(directory / HEAD)[0].requires_grad_(requires_grad=False)
    layout = layout_and_channels(str(config["head"]), store.row_shape)[0]
    with torch.enable_grad():
        maps = torch.from_numpy(store.read(list(keys)).astype(np.float32)).requires_grad_()
        found = _found(_explained(card, _outputs(head, maps), classes), [TappedMap(maps, layout)])
    if found is None:
        raise _UnexplainedError("what the method answers does not depend on its maps smoothly, or they are no grid")
    preprocessing = Preprocessing.from_json(store.spec.preprocessing)
    return _Evidence(found, _views(locations, card, preprocessing))


def _needs_graph(config: dict[str, Any]) -> bool:
    """Return whether a head, or one within it, is made of the network's blocks."""
    name = str(config["head"])
    inner = [*config.get("members", ()), *([config["inner"]] if "inner" in config else ())]
    return (":" not in name and saved_class(name).needs_graph) or any(map(_needs_graph, inner))


def _of_networks(
    directory: Path, card: ModelCard, locations: Sequence[str], classes: Sequence[int]
) -> tuple[_Evidence, str]:
    """Return what the networks of a method say together, and what is to be said of those that were left out."""
    with _told_if_slow(card, len(locations)):
        networks = open_networks(directory, "cpu", precision="fp32")
        alike = _seeing_alike(networks)
        total: Tensor | None = None
        shown: list[Tensor] = []
        explained = 0.0
        for network in alike:
            views = _views(locations, network.recipe, network.extractor.backbone.preprocessing)
            found = _ExplainedNetwork(network).evidence(views, classes)
            if found is None:
                continue
            shown, explained = shown or views, explained + network.share
            total = _added(total, network.share * found)
    if total is None:
        extractor = alike[0].extractor
        raise _UnexplainedError(
            f"{extractor.backbone.name} has no map of several places up to {extractor.cut_names} on which what the "
            "method answers depends smoothly"
        )
    left_out = sum(network.share for network in networks) - explained
    note = ""
    if left_out > 1e-6:
        note = (
            f"The heat maps are of members that count for {percent(explained / (explained + left_out), digits=0)} of "
            "the mean; the others see another part of an image, or have no map."
        )
    return _Evidence(total, shown), note


def _seeing_alike(networks: Sequence[Network]) -> list[Network]:
    """Return the networks that see the same part of an image, whatever its size: of all such sets the weightiest."""
    groups = [[other for other in networks if _see_the_same(network, other)] for network in networks]
    return max(groups, key=lambda group: sum(network.share for network in group))


def _see_the_same(one: Network, other: Network) -> bool:
    """Return whether two networks see the same part of an image, to within a pixel."""
    first, second = (network.extractor.backbone.preprocessing for network in (one, other))
    pixel = 1.0 / min(*first.shape, *second.shape)
    if first.crop_mode != second.crop_mode:
        return False
    proportion, other_proportion = (each.shape[0] / each.shape[1] for each in (first, second))
    margin, other_margin = (each.resize / min(each.shape) for each in (first, second))
    seen_whole = first.crop_mode != "center"
    same_margin = seen_whole or bool(np.isclose(margin, other_margin, atol=pixel))
    return bool(np.isclose(proportion, other_proportion, atol=pixel)) and same_margin


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """Return the sum of evidence over areas, on the finer of two grids."""
    if total is None:
        return part
    rows, columns = (max(sides) for sides in zip(total.shape[1:], part.shape[1:], strict=True))
    finer, of_part = (
        functional.interpolate(one[:, None], (rows, columns), mode="bilinear", align_corners=False)[:, 0]
        for one in (total, part)
    )
    return finer + of_part


class _ExplainedNetwork:
    """A network as its last maps and what the method makes of them.

    Parameters
    ----------
    network : Network
        In float32, on the processor.
    """

    def __init__(self, network: Network) -> None:
        extractor = network.extractor
        self._extractor, self._recipe = extractor, network.recipe
        self._mirrored = extractor.options.mirror and network.recipe.unfreeze is None
        self._head = network.upper.model.head.requires_grad_(requires_grad=False)
        taps = _taps(extractor)
        self._maps = _last_maps(extractor, [tensor for tensor, _ in taps])
        self._network: nn.Module
        if isinstance(extractor.graph, HookedGraph):
            maps = [(cut, Pool("none", cut)) for cut in self._maps]
            self._network = HookedTrunk(extractor.graph, [*maps, *_single(taps)], "fp32", torch.device("cpu"))
        else:
            named: dict[str, tuple[Cut, nn.Module]] = {
                f"map_{number}": (cut, nn.Identity()) for number, cut in enumerate(self._maps)
            }
            named |= {f"row_{number}": tap for number, tap in enumerate(taps)}
            tapped = deepcopy(extractor.graph.evaluation_taps(named)).eval().requires_grad_(requires_grad=False)
            self._network = _with_tuned(tapped, network.upper.without_auxiliary_heads())

    def evidence(self, views: Sequence[Tensor], classes: Sequence[int]) -> Tensor | None:
        """Return what places add to outputs for views, uint8 [C, S, S]: [b, h, w]; None where no map counts for any."""
        if not self._maps:
            return None
        parts: list[Tensor | None] = []
        for start in range(0, len(views), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            parts.append(self._of_batch(torch.stack(list(views[part])), classes[part]))
        known = [part for part in parts if part is not None]
        if not known:
            return None
        shape = known[0].shape[1:]
        sizes = [len(views[start : start + _AT_ONCE]) for start in range(0, len(views), _AT_ONCE)]
        none = [torch.zeros(size, *shape) for size in sizes]
        return torch.cat([zero if part is None else part for part, zero in zip(parts, none, strict=True)])

    def _of_batch(self, views: Tensor, classes: Sequence[int]) -> Tensor | None:
        images = self._extractor.preprocess(views)
        seen = torch.cat([images, images.flip(-1)]) if self._mirrored else images
        with torch.enable_grad():
            # what has no parameter that trains is followed from the image on
            *maps, rows = self._maps_and_rows(seen.detach().clone().requires_grad_())
            if self._mirrored:
                rows = (rows[: len(images)] + rows[len(images) :]) / 2
            tapped = [TappedMap(values, cut.layout) for cut, values in zip(self._maps, maps, strict=True)]
            found = _found(_explained(self._recipe, _outputs(self._head, rows), classes), tapped)
        if found is None or not self._mirrored:
            return found
        return found[: len(images)] + found[len(images) :].flip(-1)

    def _maps_and_rows(self, images: Tensor) -> list[Tensor]:
        """Return the maps, and what the head is given of each image."""
        outputs = list(self._network(images))
        maps, parts = outputs[: len(self._maps)], outputs[len(self._maps) :]
        return [*maps, parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], dim=1)]


def _taps(extractor: Extractor) -> list[tuple[Cut, nn.Module]]:
    """Return the tensors that rows are made of, and what makes them, in the order of a row."""
    if extractor.tap_layout is None:
        return [(cut, Pool(extractor.options.pool, cut)) for cut in extractor.cuts]
    places = find_taps(extractor.graph, extractor.options.taps, extractor.options.pool.split(","))
    return [(place.tensor, PooledTensor(place)) for place in places]


def _single(taps: Sequence[tuple[Cut, nn.Module]]) -> list[tuple[Cut, Pool]]:
    """Return taps with one pooling each, as hooks take them."""
    single: list[tuple[Cut, Pool]] = []
    for tensor, pools in taps:
        of_tensor = cast(Sequence[Pool], pools.pools if isinstance(pools, PooledTensor) else [pools])
        single += [(tensor, pool) for pool in of_tensor]
    return single


def _last_maps(extractor: Extractor, tapped: Sequence[Cut]) -> list[Cut]:
    """Return the deepest cuts that are maps, up to the deepest tensor that rows are made of, from the image upwards."""
    order = {tensor.name: number for number, tensor in enumerate(extractor.graph.tensors)}
    end = max(order[tensor.name] for tensor in tapped)
    maps = [cut for cut in extractor.graph.cuts if cut.layout != "vector" and cut.places > 1]
    return [cut for cut in maps if order[cut.name] <= end][-_DEEPEST:]


def _with_tuned(network: nn.Module, tuned: dict[str, Tensor]) -> nn.Module:
    """Return a network with what was fine-tuned of it."""
    if tuned and (unknown := network.load_state_dict(tuned, strict=False).unexpected_keys):
        raise _UnexplainedError(f"the tuned weights {', '.join(unknown[:3])} have no place in the network as it is")
    return network


def _explained(card: ModelCard, answered: Tensor, classes: Sequence[int]) -> Tensor:
    """Return what is explained of what a head answers, [b]."""
    return scores_of(answered, classes, of_softmax=isinstance(task_from_json(card.task), SingleLabel))


def _outputs(head: nn.Module, rows: Tensor) -> Tensor:
    """Return what a head answers, [b, out_features]; of an ensemble the weighted sum of what its members answer."""
    if isinstance(head, EnsembleHead):
        members = zip(head.weights, head.members, strict=True)
        return torch.stack([weight * _outputs(member, rows) for weight, member in members]).sum(dim=0)
    return logits_of(head(rows))


def _found(scores: Tensor, maps: Sequence[TappedMap]) -> Tensor | None:
    """Return what places add to scores; what autograd cannot go through is an error with its words."""
    try:
        return place_evidence(scores, maps)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise _UnexplainedError(f"there is no gradient through this network ({reason})") from error


@contextmanager
def _told_if_slow(card: ModelCard, count: int) -> Iterator[None]:
    """Say, where it takes long, what is done: a network is opened although all results are there."""
    words = f"heat maps: {card.features['backbone']} is opened, and the {count} images shown go through it"
    timer = Timer(_SLOW, _LOG.info, [words])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _image(location: str, card: ModelCard) -> Tensor | None:
    """Return an image as it was read for the network; None of one that cannot be read any more."""
    try:
        return read_image(location, reading_from(card.features))
    except CutonceError:
        return None  # which `heat_maps` counts, and the page says where the image would be


def _views(locations: Sequence[str], card: ModelCard, preprocessing: Preprocessing) -> list[Tensor]:
    """Return images as the network sees them, uint8 [C, S, S] each."""
    return [preprocessing.render(read_image(location, reading_from(card.features))) for location in locations]


def _pixels(view: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(as_colors(view).permute(1, 2, 0).numpy())
