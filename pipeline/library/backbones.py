"""What the library takes as a backbone: a name, as the commands, or a network that Python hands in."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, TypeAlias

from torch import nn

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.data.images.preprocessing import Preprocessing as Preprocessing
from stages.data.images.reading import require_resolved
from stages.extraction.extractor import Extractor, build_extractor
from stages.network.backbones.base import Backbone
from stages.network.backbones.handed_in import as_backbone, require_network
from stages.network.backbones.user_module import backbone_from_module as backbone_from_module

AnyBackbone: TypeAlias = str | nn.Module | Backbone
"""A name; a module, images float [b, 3, S, S] -> a tensor with a row for each; or what ``backbone_from_module`` and
``load_backbone`` return."""

_WEIGHTS_OPTIONS = ("weights", "weights_match", "weights_rename", "weights_ignore")

_BUILDING = Lock()
"""Threads that ask for the same network at once load it once."""


@dataclass(frozen=True)
class _HandedIn:
    """A network that was handed in, and what tells whether another one is the same."""

    backbone: Backbone = field(compare=False)
    same_by: Hashable


def config_of(backbone: AnyBackbone, **options: Any) -> FeatureConfig:
    """Return the options of stage 1, as the commands know them, for a backbone.

    Raises
    ------
    UsageError
        If an option is wrong, or only a data set tells what it comes to, or the backbone is neither a name nor a
        network, or has weights of its own and others are asked for.
    """
    if isinstance(backbone, str):
        config = FeatureConfig(backbone=backbone, **options)
        require_resolved(config)
        return config
    require_network(backbone)
    for name in _WEIGHTS_OPTIONS:
        default = getattr(FeatureConfig, name)
        if options.get(name, default) != default:
            raise UsageError(
                f"`{name}` is for a backbone that is given by its name; one that is handed in has its own weights"
            )
    config = FeatureConfig(backbone=type(backbone).__name__, **options)
    require_resolved(config)
    return config


def build_extractor_of(backbone: AnyBackbone, options: FeatureConfig, *, cached: bool) -> Extractor:
    """Return what extracts features of a backbone; `cached` says whether somebody may look for them again.

    Raises
    ------
    UsageError
        If the backbone does not exist, cannot be used, or, where its features are cached, nothing says what it is.
    """
    if isinstance(backbone, str):
        return build_extractor(options)
    return build_extractor(options, as_backbone(backbone, options.image_size, cached=cached))


def remembered_extractor(backbone: AnyBackbone, options: FeatureConfig, *, cached: bool) -> Extractor:
    """Return what extracts features; the last few stay loaded, so that a call costs no loading.

    Not those of a file of weights, which may have changed since, nor of a module whose features are not cached, which
    is told by nothing. Raises as :func:`build_extractor_of`.
    """
    with _BUILDING:
        if isinstance(backbone, str):
            return _remembered(options) if options.weights in ("default", "none") else build_extractor(options)
        wrapped = as_backbone(backbone, options.image_size, cached=cached)
        if not cached and wrapped is not backbone:
            return build_extractor(options, wrapped)
        same_by = (wrapped.identity if cached else wrapped.module, wrapped.weights, wrapped.preprocessing)
        return _remembered(options, _HandedIn(wrapped, same_by))


@lru_cache(maxsize=4)
def _remembered(options: FeatureConfig, handed_in: _HandedIn | None = None) -> Extractor:
    return build_extractor(options, None if handed_in is None else handed_in.backbone)
