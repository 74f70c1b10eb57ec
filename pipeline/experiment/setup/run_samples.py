"""The samples that the results of a run are about: a command that would bring others into it is refused.

Methods of a run are compared on the same test images and ranked by the same validation images, so one data set and one
way of splitting it belong to all of them. The manifests that were left in the run say which; that a folder was moved,
and its images are called otherwise, changes nothing. Results are of one task, so labels are not read otherwise (as
logarithms, in another order) either; intervals and folds are of groups, so that these stay, too. Folds and training in
epochs go by the order of samples, which is that of the run for whatever comes later.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from cache.errors import UsageError
from pipeline.evaluation.method_folders import files_of_methods
from pipeline.options.toml_file import read_configuration
from pipeline.run_layout import CONFIGURATION, MANIFEST, RESULT, seed_dir, seed_of
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_targets

_WITHOUT_EFFECT = ("data_root", "seeds", "allow_leakage", "metric")
"""Options of the data that say nothing of which samples there are."""


def seeds_with_results(run: Path) -> list[int]:
    """Return the seeds under which a run has results."""
    return sorted({seed_of(path.parent.parent) for path in files_of_methods(run, RESULT)})


def require_same_samples(run: Path, seed: int, data: DataConfig, manifest: Manifest) -> Manifest:
    """Refuse samples, labels or splits that are not those of the results that a run has; else return them in its order.

    Parameters
    ----------
    run : Path
    seed : int
        What the manifest was split under.
    data : DataConfig
        What it was made from.
    manifest : Manifest

    Raises
    ------
    UsageError
        If the run has results of other ones; names the options that differ with both values, and what to do.
    DataError
        If a manifest in the run is damaged.
    """
    saved = [other for other in seeds_with_results(run) if (seed_dir(run, other) / MANIFEST).exists()]
    if not saved:
        return manifest
    other = seed if seed in saved else saved[0]
    earlier = Manifest.load(seed_dir(run, other) / MANIFEST)
    # as nearly always: of a million samples, quicker than to count them
    if _columns(earlier) == _columns(manifest) and _task(earlier) == _task(manifest):
        return manifest
    changes = _changes(earlier, manifest, with_splits=other == seed)
    differing = _differing(run, data)
    splits_are_drawn = _counted(earlier, with_splits=True) != _counted(manifest, with_splits=True)
    if changes or (splits_are_drawn and differing.keys() - {"data"}):
        values = [f"`{name}` {now} and the run was made with {then}" for name, (then, now) in differing.items()]
        if values:
            reason = f"this command says {', '.join(values)}. Say what the run says, or give"
        elif any(manifest.groups) and not any(earlier.groups):
            reason = "images are kept together now that were not then. Say `group_by` none, or give"
        else:
            reason = f"what `data` {data.data} gives has changed since then. Give"
        raise UsageError(
            f"{run} has results of other samples{f' ({changes})' if changes else ''}: {reason} another `out`; what "
            "is in the cache serves both"
        )
    return _in_order_of(earlier, manifest, same_splits=other == seed)


def changes_of_samples(run: Path, seed: int, manifest: Manifest) -> str:
    """Return in words how samples differ from those that a run has under the seed; nothing where they do not.

    Raises
    ------
    DataError
        If the manifest in the run is damaged, or missing.
    """
    return _changes(Manifest.load(seed_dir(run, seed) / MANIFEST), manifest, with_splits=True)


def _differing(run: Path, data: DataConfig) -> dict[str, tuple[str, str]]:
    """Return the options of the data that a run was made with otherwise: by their names, what they were and are."""
    path = run / CONFIGURATION
    if not path.exists():
        return {}
    # a run of before there was an option was made with what is its default now
    defaults = {option.name: option.default for option in fields(DataConfig) if option.default is not MISSING}
    recorded = defaults | read_configuration(path)
    values = {
        name: (_as_text(recorded[name]), _as_text(getattr(data, name)))
        for name in (option.name for option in fields(DataConfig))
        if name in recorded and name not in _WITHOUT_EFFECT
    }
    return {name: (then, now) for name, (then, now) in values.items() if then != now}


def _as_text(value: Any) -> str:
    """Return the value of an option as it is written; a file has lists where options have tuples."""
    if value is None or value in ((), []):
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _columns(manifest: Manifest) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return keys, targets, splits and groups; of a mask its digest, as it is called otherwise when it was moved."""
    groups = manifest.groups if any(manifest.groups) else [""] * len(manifest)
    return manifest.keys, manifest.target_keys or manifest.target_texts, manifest.splits, groups


def _task(manifest: Manifest) -> dict[str, Any]:
    """Return what results have to have in common of a task."""
    return manifest.task.uncalibrated().to_json()


def _counted(manifest: Manifest, *, with_splits: bool) -> Counter[tuple[str, ...]]:
    keys, targets, splits, _ = _columns(manifest)
    return Counter(zip(keys, targets, *([splits] if with_splits else []), strict=True))


def _in_order_of(earlier: Manifest, manifest: Manifest, *, same_splits: bool) -> Manifest:
    """Return the same samples in the order of others, which is not that of files that were renamed or a sorted table.

    Of the same splits numbers have the very same scale: of a sum in another order it is another one in the last digit.
    """
    if earlier.keys == manifest.keys:
        return manifest
    then, now = (zip(*_columns(samples)[: 2 + same_splits], strict=True) for samples in (earlier, manifest))
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, sample in enumerate(now):
        places[sample].append(place)
    ordered = manifest.select([places[sample].pop() for sample in then])
    if not same_splits or manifest.task.reads == "image":
        return ordered
    task = earlier.task.with_primary(manifest.task.primary)
    return replace(ordered, task=task, targets=load_targets(task, ordered.target_texts))


def _together(manifest: Manifest) -> dict[str, frozenset[str]]:
    """Return the keys of all images of the group of each image that is in one with others, whatever it is called."""
    members: dict[str, set[str]] = defaultdict(set)
    keys, _, _, groups = _columns(manifest)
    for key, group in zip(keys, groups, strict=True):
        if group:
            members[group].add(key)
    of_group = {group: frozenset(together) for group, together in members.items() if len(together) > 1}
    return {key: of_group[group] for key, group in zip(keys, groups, strict=True) if group in of_group}


def _changes(earlier: Manifest, manifest: Manifest, *, with_splits: bool) -> str:
    """Return in words how the samples of two manifests differ; nothing where they are the same."""
    then, now = (Counter(samples.keys) for samples in (earlier, manifest))
    counted = {"more": (now - then).total(), "fewer": (then - now).total()}
    of_both = set(then) & set(now)
    if _counted(earlier, with_splits=with_splits) != _counted(manifest, with_splits=with_splits):
        (_, *then_said), (_, *now_said) = _columns(earlier), _columns(manifest)
        labels, splits = (
            _differently(dict(zip(earlier.keys, a, strict=True)), dict(zip(manifest.keys, b, strict=True)), of_both)
            for a, b in zip(then_said[:2], now_said[:2], strict=True)
        )
        splits *= with_splits
        counted |= {"with another label": labels, "in another split": splits}
        counted["of copies, otherwise"] = not any(counted.values())
    elif together := _differently(_together(earlier), _together(manifest), of_both):
        counted["in another group"] = together
    changes = [f"{count:,} {words}" for words, count in counted.items() if count]
    if not changes and _task(earlier) != _task(manifest):
        return "labels are read otherwise"
    return f"images: {', '.join(changes)}" if changes else ""


def _differently(then: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> int:
    return sum(then.get(key) != now.get(key) for key in keys)
