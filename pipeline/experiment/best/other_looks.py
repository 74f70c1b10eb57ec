"""Mirror images, images at another size, and another network: a second pass each, when the heads on the first are done.

Mirror images come first, as theirs is the cheapest pass; where their means score better, the other looks are of both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cache.errors import CutonceError
from pipeline.experiment.best.look import MIRROR, Look
from pipeline.experiment.best.trial import HeadTrial, Trial
from stages.config.features import FeatureConfig
from stages.network.backbones.counts import known_counts
from stages.network.backbones.registry import find_family

if TYPE_CHECKING:
    from pipeline.experiment.best.search import Search

_LOG = logging.getLogger("cutonce")

_LARGER = 4 / 3
"""Times the side of images in the second pass."""

_MULTIPLE = 32
"""What sides are multiples of, as strides of networks are."""

MOST_TRIALS = 3
"""Trials, the best so far, that are made on another look too."""


def mirrored_look(search: Search) -> Iterator[Trial]:
    """Yield the best heads on the means over images and their mirror images; of that pass only the latter are new."""
    options = search.main.options
    if search.results and not options.mirror and options.views == 1 and len(search.main.extractor.row_shape) == 1:
        yield from _best_trials_on(search, search.look(MIRROR, replace(options, mirror=True)))


def other_looks(search: Search) -> Iterator[Trial]:
    """Yield the best heads on images of a larger size, and on another network that is installed: the cheaper first.

    Each is on the depths that served it best on the first look: what a set of depths is worth hangs on the images.
    """
    if not search.results:
        return
    looks = [look for look in (larger(search), second_network(search)) if look is not None and _is_counted(look)]
    for look in sorted(looks, key=lambda look: look.multiply_adds):
        yield from _best_trials_on(search, look)


def _best_trials_on(search: Search, look: Look) -> Iterator[Trial]:
    heads: list[str] = []
    for head, _, settings in search.best_trials("", MOST_TRIALS):
        yield HeadTrial(head, look, f"{look.name}-2" if head in heads else look.name, settings)
        heads.append(head)
    look.forget()


def _with_mirror(search: Search) -> bool:
    """Return whether means over mirror images scored better than the images alone, of heads that were tried on both."""
    alone = {(head, settings): score for head, score, settings in search.best_trials("", len(search.finished))}
    on_means = search.best_trials(MIRROR, MOST_TRIALS)
    return any(
        (head, settings) in alone and search.is_better(score, alone[head, settings])
        for head, score, settings in on_means
    )


def _is_counted(look: Look) -> bool:
    """Return whether it is known, or can be found out, what the pass costs; where the network cannot be had, say so."""
    try:
        return look.multiply_adds > 0
    except CutonceError as error:
        _LOG.info(f"note: {look.name} is not tried: {error}")
        return False


def larger(search: Search) -> Look | None:
    """Return the same network on larger images; None where it takes none."""
    extractor = search.main.extractor
    height, width = extractor.image_shape
    side = max(int(height * _LARGER / _MULTIPLE + 0.5) * _MULTIPLE, height + _MULTIPLE)
    if height != width or extractor.backbone.handed_in:
        return None
    return _look(search, f"{side}px", replace(search.main.options, image_size=side))


def second_network(search: Search) -> Look | None:
    """Return another network of the same family whose weights are on this machine, the largest; None without one."""
    options = search.main.options
    family = options.backbone.rstrip("0123456789")
    others = [
        entry
        for entry in find_family(options.backbone).catalog()
        if entry.weights == "here" and entry.name != options.backbone and entry.name.rstrip("0123456789") == family
    ]
    if not others or options.weights != "default":
        return None
    entry = max(others, key=lambda entry: (entry.with_counts(known_counts()).multiply_adds or 0, entry.name))
    return _look(search, entry.name, replace(options, backbone=entry.name))


def _look(search: Search, name: str, options: FeatureConfig) -> Look:
    """Return a look, of mirror images too where these helped."""
    mirror = options.mirror or _with_mirror(search)
    return search.look(f"{name}-{MIRROR}" if mirror else name, replace(options, mirror=mirror))
