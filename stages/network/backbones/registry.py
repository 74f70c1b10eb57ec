"""Pretrained networks by name, with their weights' digest and their own preprocessing.

A family of networks is a function in a file of its own, decorated with :func:`register_backbone`; this file knows none
of them. Where a network is cut, and what trains, is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from cache.errors import UsageError, suggestion
from cache.registry import Registration
from stages.config.image_size import ImageSize
from stages.config.registry import BACKBONES
from stages.network.auxiliary_heads import load_heads
from stages.network.backbones.base import Backbone, LoadedNetwork, count_classes, fixed_init_seed
from stages.network.backbones.catalog import CatalogEntry
from stages.network.backbones.key_mapping import map_keys, require_ignorable
from stages.network.backbones.partial_loading import load_partial_state_dict
from stages.network.backbones.weights_file import digest_of_weights, load_weights, read_weights
from stages.network.classifier import detach_auxiliary_heads
from stages.network.graph.cuts import check_image_size
from stages.network.module_paths import has_prefix


class BackboneLoader(Protocol):
    """What loads a network of a family."""

    def __call__(self, name: str, pretrained: bool, image_size: ImageSize | None, /) -> LoadedNetwork:
        """Return the network called `name`, without the family's prefix.

        Parameters
        ----------
        name
            Of the network, one that the family accepts.
        pretrained
            Whether its own weights are wanted. If not, weights are drawn as usual: the generator has a fixed seed.
        image_size
            Side of the images in pixels, where one is asked for. A network that takes any size need not look at it.
        """
        ...


LoaderT = TypeVar("LoaderT", bound=BackboneLoader)


@dataclass(frozen=True)
class BackboneFamily:
    """Networks that are loaded in one way.

    Attributes
    ----------
    name
        With a colon at its end, what comes before the names of its networks: ``timm:``.
    load
        Loads one of them.
    names
        All there are, without the prefix, for suggestions.
    accepts
        Says whether the family takes a name.
    without_prefix
        Whether a name without the prefix will do, where no family without a prefix has it.
    catalog
        What is published of its networks, with their whole names.
    """

    name: str
    load: BackboneLoader
    names: Callable[[], Iterable[str]]
    accepts: Callable[[str], bool]
    without_prefix: bool
    catalog: Callable[[], Iterable[CatalogEntry]]

    @property
    def prefix(self) -> str:
        """What the names begin with; an empty string if with nothing."""
        return self.name if self.name.endswith(":") else ""


def register_backbone(
    name: str,
    *,
    help_text: str,
    names: Callable[[], Iterable[str]] = tuple,
    accepts: Callable[[str], bool] | None = None,
    without_prefix: bool = False,
    catalog: Callable[[], Iterable[CatalogEntry]] | None = None,
) -> Callable[[LoaderT], LoaderT]:
    """Make a function the loader of a family of networks.

    A file in this folder with such a function is all it takes, or a module that another package names under its entry
    points ``cutonce.backbones``.

    Parameters
    ----------
    name
        Of the family. With a colon at its end it is what its networks are asked for by: ``timm:``.
    help_text
        What the help of ``--backbone`` says of it, a literal: it is read without importing the file.
    names
        Returns all its networks, without the prefix, for suggestions.
    accepts
        Says whether there is a network of a name, without the prefix; by default, if it is among `names`.
    without_prefix
        Whether a name without the prefix will do, where no family without a prefix has it.
    catalog
        Returns what ``zoo`` lists of its networks, with their whole names; by default nothing but these.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """
    prefix = name if name.endswith(":") else ""

    def bare_catalog() -> Iterable[CatalogEntry]:
        return (CatalogEntry(f"{prefix}{network}") for network in names())

    def family_of(load: LoaderT) -> BackboneFamily:
        accepted = accepts or (lambda name: name in names())
        return BackboneFamily(name, load, names, accepted, without_prefix, catalog or bare_catalog)

    return BACKBONES.decorator(Registration(name, help_text=help_text), family_of)


def load_backbone(
    name: str,
    weights: str | Path = "default",
    image_size: ImageSize | None = None,
    *,
    match: Literal["exact", "partial"] = "exact",
    rename: Sequence[str] = (),
    ignore: Collection[str] = (),
) -> Backbone:
    """Return the network called `name` with weights.

    Parameters
    ----------
    name
        ``efficientnet_lite0``, ``1``, ``2`` (embedded), a torchvision name, a timm name, with or without ``timm:``
        before it, ``hf:`` and a model or folder of transformers, ``package.module:factory``, or one of another
        family. A name that torchvision and timm have is torchvision's.
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
    family, loading = find_family(name), None
    if weights in ("default", "none") and (match == "partial" or rename or ignore):
        raise UsageError(
            "`weights_match` partial, `weights_rename` and `weights_ignore` are for a file: give `weights` FILE "
            f"instead of {weights}, or leave them out."
        )
    with fixed_init_seed():
        network = family.load(name.removeprefix(family.prefix), weights == "default", image_size)
        module, preprocessing, source, auxiliary_places, identity, left_out, tuned_in = network
        heads = detach_auxiliary_heads(module, auxiliary_places)
        if weights not in ("default", "none"):
            state, source = map_keys(read_weights(Path(weights)), rename, str(weights)), f"file {weights}"
            state = {name: tensor for name, tensor in state.items() if not has_prefix(name, left_out)}
            require_ignorable(ignore, [*state, *module.state_dict()], str(weights))
            if match == "partial":
                loading = load_partial_state_dict(module, state, str(weights), ignore)
                source = f"{source}, {loading}"
            else:
                load_weights(module, state, str(weights), [*auxiliary_places, *ignore])
            not_loaded = loading.missing if loading else ()
            fed = {
                name: head
                for name, head in heads.items()
                if not any(has_prefix(missing, (auxiliary_places[name].layer,)) for missing in not_loaded)
            }
            load_heads(fed, {name: tensor for name, tensor in state.items() if not has_prefix(name, ignore)})
            source = f"{source}, without {', '.join(ignore)}" if ignore else source
    for part in (module, *heads.values()):
        part.eval().requires_grad_(False)
    if image_size not in (None, preprocessing.image_size):
        check_image_size(module, image_size)
        preprocessing = preprocessing.with_size(image_size)
    return Backbone(
        name=name,
        identity=identity or name,
        module=module,
        weights=digest_of_weights(module),
        weights_source=source,
        preprocessing=preprocessing,
        num_classes=count_classes(module),
        loading=loading,
        auxiliary=heads,
        auxiliary_places=dict(auxiliary_places),  # a plain one, which can be copied and pickled with the backbone
        tuned_in=tuned_in,
    )


def find_family(name: str) -> BackboneFamily:
    """Return the family that has a network of this name.

    A prefix decides; then a family without one; then one whose prefix may be left out.

    Raises
    ------
    UsageError
        If there is none, or several have it.
    """
    families = _families()
    for family in families:
        if family.prefix and name.startswith(family.prefix):
            if family.accepts(name.removeprefix(family.prefix)):
                return family
            raise _no_such_backbone(name)
    plain = [family for family in families if not family.prefix and family.accepts(name)]
    fitting = plain or [family for family in families if family.without_prefix and family.accepts(name)]
    if not fitting:
        raise _no_such_backbone(name)
    if len(fitting) > 1:
        loaders = " and ".join(BACKBONES.origin(family.name) for family in fitting)
        raise UsageError(f"the backbone {name!r} is of {loaders}: give it with the prefix of one, if it has a prefix")
    return fitting[0]


def backbone_names() -> tuple[str, ...]:
    """Return every name that :func:`load_backbone` takes and that can be listed, with its prefix."""
    return tuple(f"{family.prefix}{name}" for family in _families() for name in family.names())


def network_catalog() -> list[CatalogEntry]:
    """Return every network that can be listed, with what its family says of it."""
    return [entry for family in _families() for entry in family.catalog()]


def suggestions(name: str) -> str:
    """Return the names nearest to an unknown one, as the end of a message; an empty string if none is near."""
    shortest = dict.fromkeys(
        f"{'' if family.without_prefix else family.prefix}{plain}" for family in _families() for plain in family.names()
    )
    return suggestion(name, backbone_names() if ":" in name else shortest)


def _families() -> list[BackboneFamily]:
    return list(BACKBONES.things().values())


def _no_such_backbone(name: str) -> UsageError:
    return UsageError(f"There is no backbone {name!r}.{suggestions(name)}")
