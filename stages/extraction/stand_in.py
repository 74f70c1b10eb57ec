"""Complete caches that serve where one's own lack rows: made on a server, read on a laptop.

What may differ is the arithmetic of the trunk and which library turned files into pixels: features are the same then,
to within rounding. All else in a spec makes another feature. Rows of two ways are never mixed: all that is read is of
one's own caches, or all of the others, and nothing is written into these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from cache import FeatureCache, Spec
from cache.errors import CacheError
from cache.inventory import find_caches, open_cache
from stages.data.images.reading import GPU_DECODER
from stages.extraction.extractor import CachedCut, Extractor, spec_of_views
from stages.extraction.take_over import version_1_serves
from stages.network.graph.trunk import precision_of

_DIGITS = 8
"""Of a fingerprint, that a message names."""


class Way(NamedTuple):
    """How rows were computed, as a spec has it: what two caches may differ in and still stand in for each other."""

    precision: str
    decoder: str


def decodes_alike(decoder: str, other: str) -> bool:
    """Return whether two decoders of specs differ in nothing but the library: what is read of a file is the same.

    Versions, pages, channels, intensities and a reduced size have to be equal.
    """
    return _without_library(decoder) == _without_library(other)


def _without_library(decoder: str) -> tuple[list[str], str]:
    name, _, version_and_settings = decoder.partition("/")
    return [part for part in name.split("+") if part != GPU_DECODER], version_and_settings


def stand_in(
    extractor: Extractor,
    keys: Sequence[str],
    evaluated: Sequence[str] = (),
    known: Collection[str] = (),
    like: Extractor | None = None,
) -> Extractor:
    """Return what features are read with: the extractor, or the same with complete caches of other ways.

    They are looked for where its own lack rows, and `exact_spec` does not ask for them. Of several the nearest is
    taken: one of the same precision, then of fp32, then any; of these one of the same decoder, then the first by name.
    A precision that is named by the options has to be theirs, and so has who decodes.

    Parameters
    ----------
    extractor : Extractor
    keys : sequence of str
        Of images of which every cached view is wanted.
    evaluated : sequence of str
        Of images of which the evaluation view is.
    known : collection of str
        Fingerprints of features that a run was trained on already: it goes on with these, where they are.
    like : Extractor, optional
        Nearest to whose features is nearest, where that is not the extractor itself: another cut that is read with it.
    """
    if extractor.options.exact_spec or extractor.stands_in or not {*extractor.fingerprints}.isdisjoint(known):
        return extractor
    lacks_rows = not _is_complete(extractor, keys, evaluated)
    if not lacks_rows and not known:
        return extractor
    own, near = way_of(extractor), way_of(like or extractor)
    candidates = sorted(
        _others(extractor),
        key=lambda way: (
            precision_of(way.precision) != precision_of(near.precision),
            way.precision != "fp32",
            way.precision != near.precision,
            way.decoder != near.decoder,
            way,
        ),
    )
    others = [_with_caches(extractor, own, way) for way in candidates]
    of_run = [other for other in others if other.fingerprint in known]
    allowed = [other for way, other in zip(candidates, others, strict=True) if _may_serve(extractor, way)]
    nearest = [] if not lacks_rows or version_1_serves(extractor, keys, evaluated) else allowed
    return next((other for other in (*of_run, *nearest) if _is_complete(other, keys, evaluated)), extractor)


def _may_serve(extractor: Extractor, way: Way) -> bool:
    """Return whether rows of another way are what was asked for: a precision or decoder that is named is meant."""
    options, own = extractor.options, way_of(extractor)
    return (options.precision in (None, "auto") or precision_of(way.precision) == precision_of(own.precision)) and (
        options.decode_on == "auto" or way.decoder == own.decoder
    )


def way_of(extractor: Extractor) -> Way:
    """Return how the rows were computed that an extractor reads."""
    spec = extractor.taps[0].cache.spec
    return Way(spec.precision, spec.decoder)


def _others(extractor: Extractor) -> set[Way]:
    """Return the other ways in which the folder has a cache of the first tap."""
    own = extractor.taps[0].cache
    try:
        paths = find_caches(own.root)
    except CacheError:  # there is no cache at all
        return set()
    ways = set()
    for path in paths:
        try:
            spec = open_cache(path).spec
        except CacheError:  # of another version, or damaged: whoever asks for it is told
            continue
        way = Way(spec.precision, spec.decoder)
        if decodes_alike(way.decoder, own.spec.decoder) and _in_way(own.spec, way) == spec != own.spec:
            ways.add(way)
    return ways


def _in_way(spec: Spec, way: Way) -> Spec:
    return Spec.from_json({**spec.to_json(), **way._asdict()})


def _with_caches(extractor: Extractor, own: Way, way: Way) -> Extractor:
    """Return the extractor with the caches of another way, all of one."""

    def of_way(tap: CachedCut) -> CachedCut:
        root, spec = tap.cache.root, _in_way(tap.cache.spec, way)
        view_cache = FeatureCache(root, spec_of_views(spec, extractor.augmentation))
        return CachedCut(tap.name, tap.cut, tap.shape, FeatureCache(root, spec), view_cache)

    taps = tuple(map(of_way, extractor.taps))
    names = ", ".join(tap.cache.spec.fingerprint[:_DIGITS] for tap in taps)
    differing = [
        f"{name} {there}, here {here}" for name, there, here in zip(way._fields, way, own, strict=True) if there != here
    ]
    words = (
        f"features are read from {'caches' if len(taps) > 1 else 'the cache'} {names}, complete and computed elsewhere "
        f"or with other options: {'; '.join(differing)} (`exact_spec` computes them anew)"
    )
    return replace(extractor, taps=taps, stands_in=words)


def _is_complete(extractor: Extractor, keys: Sequence[str], evaluated: Sequence[str]) -> bool:
    """Return whether every wanted row is there, or known never to be, and at least one is."""
    for cache, view, wanted in _wanted(extractor, keys, evaluated):
        if wanted and (not cache.path.is_dir() or cache.missing(wanted, view) or not cache.shards):
            return False
    return True


def _wanted(
    extractor: Extractor, keys: Sequence[str], evaluated: Sequence[str]
) -> Iterator[tuple[FeatureCache, int, list[str]]]:
    """Yield each cache with a view and the keys that are wanted of it."""
    for tap in extractor.taps:
        for view in range(extractor.cached_views):
            yield tap.cache_of_view(view), view, [*keys, *(() if view else evaluated)]
