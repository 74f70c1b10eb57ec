"""Mirror images, images at another size, and other networks: a further pass each, when the heads on the first are done.

Mirror images come first, as theirs is the cheapest pass; where their means score better, the other looks are of both.
Networks err on other images, so that a mean over several is better than each, the more so the less alike they are.
Sizes are climbed: where larger images are better, so may still larger ones be.
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
from stages.config.image_size import read_size, shape_of_size
from stages.network.backbones.catalog import CatalogEntry
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


def further_looks(search: Search) -> Iterator[Trial]:
    """Yield the best heads on the other networks that are installed, the cheaper first, then on still larger images.

    The networks see images of the size that served best. Images grow as long as the last step made them better.
    """
    if not search.results:
        return
    step = larger(search)
    grows = step is not None and _is_better(search, step.name, (MIRROR, ""))
    asked = search.main.options.image_size
    side = step.options.image_size if step is not None and grows else asked
    looks = [
        _look(
            search,
            name if side == asked else f"{name}-{side}px",
            replace(search.main.options, backbone=name, image_size=side),
        )
        for name in other_networks(search)[1:]
    ]
    for look in sorted(filter(_is_counted, looks), key=lambda look: look.multiply_adds):
        yield from _best_trials_on(search, look)
    while step is not None and grows:
        last, step = step, larger(search, step)
        if step is None or not _is_counted(step):
            return
        yield from _best_trials_on(search, step)
        grows = _is_better(search, step.name, (last.name,))


def _is_better(search: Search, look: str, others: tuple[str, ...]) -> bool:
    """Return whether the best trial on a look scored better than the best on each of others; not without a trial."""
    of_look = search.best_trials(look, 1)
    of_others = [trial for other in others for trial in search.best_trials(other, 1)]
    return bool(of_look) and all(search.is_better(of_look[0][1], score) for _, score, _ in of_others)


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


def larger(search: Search, than: Look | None = None) -> Look | None:
    """Return the same network on larger images than those of a look, or of the first; None where it takes none."""
    extractor = search.main.extractor
    height, width = extractor.image_shape
    if height != width or extractor.backbone.handed_in:
        return None
    if than is not None and than.options.image_size is not None:
        height, _ = shape_of_size(read_size(than.options.image_size))
    side = max(int(height * _LARGER / _MULTIPLE + 0.5) * _MULTIPLE, height + _MULTIPLE)
    return _look(search, f"{side}px", replace(search.main.options, image_size=side))


def second_network(search: Search) -> Look | None:
    """Return another network of the same family whose weights are on this machine, the largest; None without one."""
    names = other_networks(search)
    return _look(search, names[0], replace(search.main.options, backbone=names[0])) if names else None


def other_networks(search: Search) -> list[str]:
    """Return the other networks of the same family whose weights are on this machine, the largest first."""
    options = search.main.options
    if options.weights != "default":
        return []
    family = options.backbone.rstrip("0123456789")
    others = [
        entry
        for entry in find_family(options.backbone).catalog()
        if entry.weights == "here" and entry.name != options.backbone and entry.name.rstrip("0123456789") == family
    ]

    def size(entry: CatalogEntry) -> tuple[float, str]:
        return entry.with_counts(known_counts()).multiply_adds or 0, entry.name

    return [entry.name for entry in sorted(others, key=size, reverse=True)]


def _look(search: Search, name: str, options: FeatureConfig) -> Look:
    """Return a look, of mirror images too where these helped."""
    mirror = options.mirror or _with_mirror(search)
    return search.look(f"{name}-{MIRROR}" if mirror else name, replace(options, mirror=mirror))
