"""The methods that a run has: found again by the very same command, and never replaced by another one unasked.

By its folder's name a run has a method once. What would train it in another way (another cut, another backbone, other
settings) is refused with the options that differ, unless it is told to overwrite it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from cache.errors import DataError, UsageError
from pipeline.evaluation.results import Result, to_json_value
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.models.model_card import ModelCard, config_to_json, read_recipe
from stages.config.data import DataConfig
from stages.config.features import OF_THE_MACHINE, FeatureConfig
from stages.config.heads import HeadConfig
from stages.config.version_1 import from_version_1
from stages.extraction.take_over import has_rows_of_version_1
from stages.tasks.base import task_from_json

_WITHOUT_EFFECT = (
    *(
        field.name for field in fields(DataConfig) if field.name not in ("metric", "test")
    ),  # samples are compared themselves
    *OF_THE_MACHINE,
    *("head", "ensemble", "num_workers", "checkpoint_minutes", "baselines", "baseline_lr", "name"),
)
"""Options that say nothing of how a method is trained."""

_OF_HEADS = [field.name for field in fields(HeadConfig)]


def find_finished(
    method_dir: Path, is_same: Callable[[str], bool], options: Mapping[str, Any], *, overwrite: bool, remedy: str = ""
) -> Result | None:
    """Return the result of a method that was trained in just this way, if the run has it.

    Parameters
    ----------
    method_dir : Path
    is_same : callable
        Says of the digest of everything that shaped what the run has whether it is that of this training.
    options : mapping
        What it is to be trained with, by the names of the options: told where the run has it trained otherwise.
    overwrite : bool
        Whether one that is trained otherwise may be replaced.
    remedy : str, optional
        What else helps then, before a comma.

    Raises
    ------
    UsageError
        If the run has it trained otherwise, and it may not be replaced; names what differs, with both values.
    """
    recipe = read_recipe(method_dir)
    if recipe is None:
        return None
    if is_same(recipe.identity):
        return Result.load(method_dir)
    if not overwrite:
        raise _trained_otherwise(method_dir, recipe, options, remedy)
    return None


def is_same_training(experiment: Experiment, identity_of: Callable[[str], str], identity: str) -> bool:
    """Return whether an identity is that of a method.

    Parameters
    ----------
    experiment : Experiment
    identity_of : callable
        Gives the identity of the method, of the fingerprint of its features. One on rows that version 1 of the decoder
        cached is the same, if today's cache holds the same rows.
    identity : str
        Of what was trained.
    """
    extractor = experiment.extractor
    if identity == identity_of(extractor.fingerprint):
        return True
    former = extractor.fingerprint_of_version_1
    if former is None or identity != identity_of(former):
        return False
    return has_rows_of_version_1(extractor, experiment.manifest.distinct_images.keys)


def require_same_features(
    method_dir: Path, fingerprints: Collection[str], options: Mapping[str, Any], remedy: str = ""
) -> None:
    """Refuse features that a method of the run was not trained on, before they are extracted.

    Raises
    ------
    UsageError
        As `find_finished`.
    """
    recipe = read_recipe(method_dir)
    if recipe is not None and recipe.features_fingerprint not in (None, *fingerprints):
        raise _trained_otherwise(method_dir, recipe, options, remedy)


def require_same_settings(method_dir: Path, options: Mapping[str, Any], names: Collection[str], remedy: str) -> None:
    """Refuse other settings than those that a method of the run was trained with, before anything is computed.

    Parameters
    ----------
    method_dir, options, remedy
        As for `find_finished`.
    names : collection of str
        Those of the options of which each shapes the training, so that another value is another training.

    Raises
    ------
    UsageError
        As `find_finished`.
    """
    recipe = read_recipe(method_dir)
    if recipe is None:
        return
    then, now = _trained_with(method_dir, recipe), to_json_value(options)
    if any(then[name] != now[name] for name in names if name in then and name in now):
        raise _trained_otherwise(method_dir, recipe, options, remedy)


def _trained_otherwise(method_dir: Path, recipe: ModelCard, options: Mapping[str, Any], remedy: str) -> UsageError:
    now = to_json_value(options)
    then = _trained_with(method_dir, recipe)
    ignored = {*_WITHOUT_EFFECT, *(["augment"] if _sees_evaluation_views_alone(then, now) else [])}
    changed = [name for name in now if name in then and name not in ignored and then[name] != now[name]]
    if "unfreeze" in now:  # what a head is fitted with shapes the start of a fine-tuning, if it does that
        changed = [name for name in changed if name not in _OF_HEADS] or changed
    differing = [f"`{name}` {_words(then[name])}, and this command says {_words(now[name])}" for name in changed]
    of_columns = ", on other cells of the table" if any(map(now.get, ("columns", "categories", "texts"))) else ""
    unknown = f"on other features{of_columns}, or with options that it did not keep"
    reason = f"with {'; with '.join(differing)}" if differing else unknown
    return UsageError(
        f"{method_dir} was trained {reason}. It is not replaced unasked: give another `out` (`compare` puts "
        f"runs side by side), {remedy}or `overwrite` to train it anew in its place"
    )


def _trained_with(method_dir: Path, recipe: ModelCard) -> dict[str, Any]:
    """Return the options that a method was trained with, as far as it kept them: those of stage 1 it always did.

    What was no option of stage 1 yet was as it is by default; the metric is that of the task.
    """
    try:
        recorded = Result.load(method_dir).options
    except DataError:  # what is damaged, or gone, has nothing to say
        recorded = {}
    metric = {"metric": task_from_json(recipe.task).primary}
    return {**config_to_json(FeatureConfig()), **from_version_1(recipe.features), **recorded, **metric}


def _sees_evaluation_views_alone(*trainings: Mapping[str, Any]) -> bool:
    """Return whether an augmentation has no part in these trainings: heads, on one view of each image."""
    return all(options.get("views") == 1 and "unfreeze" not in options for options in trainings)


def _words(value: Any) -> str:
    if value is None:
        return "its default"
    said = (" ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"
    return f"'{said}'" if said.endswith(",") else said  # one layer alone has a comma behind it
