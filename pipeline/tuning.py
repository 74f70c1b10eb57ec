"""Stage 3 in a comparison: fine-tuning and its baselines, each tested like every other method, and what they leave.

Everything is left in the folder of the method: weights, result, history, and the pictures that people judge it by.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache import key_of_bytes
from pipeline.console import byte_count, count, duration, say
from pipeline.methods import accuracy_in_words, finished, place_of, predictions_of, recipe_of, result_of, run_heads
from pipeline.models import (
    HEAD_WITHOUT_VAL,
    RECIPE,
    Recipe,
    copy_model,
    forget_model,
    open_model,
    read_recipe,
    save_model,
)
from pipeline.report.figures import range_test_curves, rate_schedule, save_png
from pipeline.results import Result
from stages.data import Manifest, Mixing, contact_sheet, read_image
from stages.distributed import ALONE, Rank
from stages.estimate import estimate
from stages.extractor import Extractor, readable_samples
from stages.finetune import CHECKPOINT, FOUND, FineTuned, baseline, finetune, new_head, training_identity
from stages.finetune import find_rates as range_tests
from stages.finetuning.evaluation import image_probabilities
from stages.finetuning.upper import HEAD, Upper
from stages.network.heads import Head as HeadModule
from stages.network.heads import load_head
from stages.options import Finetune, Head
from stages.training.cost import Cost, measured
from stages.training.history import Epoch
from stages.training.metrics import evaluate
from stages.training.range_test import RangeTest

CONTACT_SHEET = "contact-sheet.png"
RATES = "rates.png"
RANGE_TEST = "range-test.png"
TEST_TIME_AUGMENTATION = "test-time augmentation"

_SAID_ELSEWHERE = ("loader_workers", "checkpoint_minutes", "baselines", "baseline_rate", "label", "tta")
"""Options that are no settings of a training, or are told under another name."""

Method = Literal["finetune", "frozen", "scratch"]


def run_finetunings(
    extractor: Extractor,
    manifest: Manifest,
    options: Finetune,
    head: Head,
    seed: int,
    directory: Path,
    rank: Rank = ALONE,
) -> list[Result]:
    """Fine-tune, and train the baselines that are asked for, one result each."""
    asked = [options, *(baseline(options, which) for which in options.baselines)]
    return [run_finetune(extractor, manifest, one, head, seed, directory, rank) for one in asked]


def run_finetune(
    extractor: Extractor,
    manifest: Manifest,
    options: Finetune,
    head: Head,
    seed: int,
    directory: Path,
    rank: Rank = ALONE,
) -> Result:
    """Train from a stage-2 head (trained first if the run has none) and test; goes on from a killed call.

    Of several processes that train together the first tests and writes; all return its result.
    """
    start, start_seconds = rank.share(lambda: _start(extractor, manifest, options, head, seed, directory))
    manifest = readable_samples(extractor, manifest)
    method, name = method_of(options), name_of(options)
    place = directory / f"{method}-{name}"
    shaping = training_identity(extractor, start, options, manifest, seed)
    digest = key_of_bytes(json.dumps(shaping, sort_keys=True, default=str).encode())
    identity = f"{digest} {options.tta}"
    recipe = replace(
        recipe_of(extractor, manifest, seed, method, name, identity),
        unfreeze=options.unfreeze,
        invert_unfreeze=options.invert_unfreeze,
        tta=options.tta,
        training=digest,
    )
    done = rank.share(lambda: finished(place, identity))
    if done is not None:
        _say(rank, f"seed {seed}  {place.name}: already trained, {accuracy_in_words(done)}")
        return done
    twin = rank.share(lambda: _trained_alike(directory, digest))
    if twin is not None:
        _say(rank, f"seed {seed}  {place.name}: the weights of {twin.name}, tested with {options.tta} renderings")
        result = rank.share(lambda: _tested_otherwise(twin, extractor, manifest, options, recipe, place))
        _say(rank, f"seed {seed}  {place.name}: {accuracy_in_words(result)}")
        return result
    if rank.first:
        place.mkdir(parents=True, exist_ok=True)
        _draw_contact_sheet(extractor, manifest, options, seed, place / CONTACT_SHEET)
    _say(rank, f"seed {seed}  {place.name}: training, {options.epochs} epochs")
    with measured() as training:
        tuned = finetune(
            extractor,
            start,
            options,
            manifest,
            seed,
            place,
            rank=rank,
            on_epoch=_say_epoch if rank.first else lambda _: None,
            on_views=_say_what_views_take,
        )

    for one in tuned.range_tests:
        found = found_in_words(one, "the rate stays as it was given")
        _say(rank, f"  range test of {one.block or 'all blocks'}: {found}")

    def tested() -> Result:
        test, probabilities, testing = _answers_to_test(extractor, tuned.upper, manifest, options)
        assert tuned.fit.best is not None
        result = result_of(
            extractor,
            manifest,
            seed,
            method,
            name,
            _settings(extractor, options, tuned),
            tuned.fit.best.val_accuracy,
            test,
            probabilities,
            [training, testing],
            tuned.trainable_parameters,
        )
        result = _with_costs(result, options, tuned, training, start_seconds, len(test))
        forget_model(place)
        result.save(place, predictions_of(test, probabilities))
        _draw_plots(tuned, place)
        save_model(place, recipe, tuned.head, tuned=tuned.upper)
        for leftover in (CHECKPOINT, FOUND):
            (place / leftover).unlink(missing_ok=True)
        return result

    result = rank.share(tested)
    _say(rank, f"seed {seed}  {place.name}: {accuracy_in_words(result)}")
    return result


def _trained_alike(directory: Path, digest: str) -> Path | None:
    """Return where the run has the weights of the very same training, tested in another way."""
    models = {path.parent: read_recipe(path.parent) for path in sorted(directory.glob(f"*/{RECIPE}"))}
    return next((path for path, recipe in models.items() if recipe is not None and recipe.training == digest), None)


def _tested_otherwise(
    twin: Path, extractor: Extractor, manifest: Manifest, options: Finetune, recipe: Recipe, place: Path
) -> Result:
    """Test the weights of another method with other renderings, and leave a method of its own."""
    _, _, upper = open_model(twin, str(extractor.device))
    test, probabilities, testing = _answers_to_test(extractor, upper, manifest, options)
    trained = Result.load(twin)
    stages = {**trained.seconds_by_stage, "evaluate": testing.seconds}
    settings = {name: value for name, value in trained.settings.items() if name != TEST_TIME_AUGMENTATION}
    result = replace(
        trained,
        name=recipe.name,
        test=evaluate(test.labels, probabilities, seed=recipe.seed),
        seconds_by_stage=stages,
        seconds=sum(stages.values()),
        settings=settings | _as_tested(options),
    )
    forget_model(place)
    result.save(place, predictions_of(test, probabilities))
    copy_model(twin, place, recipe)
    for picture in (CONTACT_SHEET, RATES, RANGE_TEST):
        if (twin / picture).exists():
            shutil.copyfile(twin / picture, place / picture)
    return result


def _answers_to_test(
    extractor: Extractor, upper: Upper, manifest: Manifest, options: Finetune
) -> tuple[Manifest, NDArray[np.float32], Cost]:
    """Return the test split, the probabilities a network gives to its images, and what that took."""
    test = manifest.select(manifest.indices("test"))
    with measured() as testing:
        probabilities = image_probabilities(extractor, upper, test, options.tta)
    return test, probabilities, testing


def find_rates(
    extractor: Extractor,
    manifest: Manifest,
    options: Finetune,
    head: Head,
    seed: int,
    directory: Path,
    *,
    each_block: bool = False,
) -> list[RangeTest]:
    """Return range tests of a fine-tuning from a stage-2 head, and leave their plot in `directory`."""
    start, _ = _start(extractor, manifest, options, head, seed, directory)
    readable = readable_samples(extractor, manifest)
    tests = range_tests(extractor, start, options, readable, seed, each_block=each_block, on_views=_say_what_views_take)
    save_png(range_test_curves(tests), directory / RANGE_TEST)
    return tests


def found_in_words(test: RangeTest, otherwise: str) -> str:
    """Return the option with the rate that a range test suggests; where it suggests none, what follows from that."""
    if test.suggestion is None:
        return f"the loss never falls by more than chance; {otherwise}"
    return f"{'--finetune-head-rate' if test.block == HEAD else '--rate'} {test.suggestion:.1e}"


def method_of(options: Finetune) -> Method:
    """Return the method of transfer that a training is compared as."""
    if options.unfreeze == HEAD:
        return "frozen"
    everything = options.unfreeze == "all" and options.reinit == "all"
    return "scratch" if everything and not (options.invert_unfreeze or options.invert_reinit) else "finetune"


def name_of(options: Finetune) -> str:
    """Return what a training is called: as asked, or by what trains and where it trains from."""
    if options.label is not None:
        return options.label
    if method_of(options) != "finetune":
        return "network" if options.unfreeze == "all" else HEAD
    words = [f"top-{options.unfreeze}" if options.unfreeze.isdecimal() else options.unfreeze.replace(",", "+")]
    words += ["inverted"] * options.invert_unfreeze
    words += [f"new-{options.reinit.replace(',', '+')}"] if options.reinit is not None else []
    words += ["from-cache"] * options.from_cache
    words += [options.tta] if options.tta != "none" else []
    return "-".join(words)


def _start(
    extractor: Extractor, manifest: Manifest, options: Finetune, head: Head, seed: int, directory: Path
) -> tuple[HeadModule, float]:
    """Return the head that training starts from, one that never saw the validation split, and its price in seconds."""
    if options.start == "new":
        return new_head(extractor, len(manifest.class_names), seed), 0.0
    # it is fitted on the evaluation view: augmented ones are cached at the boundary, where training needs them
    of_images = replace(extractor, options=replace(extractor.options, views=1))
    result = run_heads(of_images, manifest, [options.start], head, seed, directory)[0]
    module, _ = load_head(directory / place_of(options.start) / HEAD_WITHOUT_VAL, extractor.graph)
    return module, result.seconds_by_stage["train"]


def _with_costs(
    result: Result, options: Finetune, tuned: FineTuned, training: Cost, start_seconds: float, tested: int
) -> Result:
    """Return a result with all that this training took, from images to predictions.

    What a killed and resumed training spent before is in its history. The head it starts from, and the features that
    was fitted on, are part of the price; so are cached views.
    """
    features = result.seconds_by_stage["extract"] if options.start != "new" else 0.0
    trained = max(training.seconds, sum(epoch.seconds for epoch in tuned.fit.history))
    stages = {
        **result.seconds_by_stage,
        "extract": features + tuned.view_seconds,
        "train": start_seconds + trained,
    }
    return replace(
        result,
        seconds_by_stage=stages,
        seconds=sum(stages.values()),
        backbone_forwards=tuned.backbone_forwards + tested,
        extraction_forwards=(result.extraction_forwards if options.start != "new" else 0) + tuned.view_forwards,
        history=[asdict(epoch) for epoch in tuned.fit.history],
    )


def _settings(extractor: Extractor, options: Finetune, tuned: FineTuned) -> dict[str, Any]:
    """Return what a reader of the result wants to know of how it was trained."""
    assert tuned.fit.best is not None
    settings = {
        name: value for name, value in asdict(options).items() if value is not None and name not in _SAID_ELSEWHERE
    }
    settings |= {
        "autocast": tuned.autocast,
        "augment": extractor.options.augment,
        "best epoch": tuned.fit.best.epoch,
        "trained blocks": list(tuned.upper.trained),
        "rates found": {one.block or "all": one.suggestion for one in tuned.range_tests},
    }
    if options.from_cache:
        settings["views"] = extractor.options.views
    if tuned.upper.reinitialised and method_of(options) != "scratch":
        settings["reinitialised"] = list(tuned.upper.reinitialised)
    return settings | _as_tested(options)


def _as_tested(options: Finetune) -> dict[str, Any]:
    return {TEST_TIME_AUGMENTATION: options.tta} if options.tta != "none" else {}


def _draw_contact_sheet(
    extractor: Extractor, manifest: Manifest, options: Finetune, seed: int, path: Path, images: int = 6, views: int = 7
) -> None:
    train = manifest.indices("train")
    chosen = manifest.select(train[:: max(len(train) // images, 1)][:images])
    mixing = None
    if (options.mixup or options.cutmix) and not options.from_cache:
        mixing = Mixing(options.mixup, options.cutmix, len(manifest.class_names))
    contact_sheet(
        [read_image(location) for location in chosen.locations],
        extractor.augmentation,
        range(seed * views, (seed + 1) * views),
        path,
        title=f"What the network sees while it trains: augmentation '{extractor.options.augment}'",
        mixing=mixing,
    )


def _draw_plots(tuned: FineTuned, place: Path) -> None:
    save_png(rate_schedule(tuned.rates, tuned.blocks, tuned.steps_per_epoch), place / RATES)
    if tuned.range_tests:
        save_png(range_test_curves(tuned.range_tests), place / RANGE_TEST)


def _say_what_views_take(maps: Extractor, train: Manifest) -> None:
    """Say what the cache of views takes, before it is paid."""
    found = estimate(maps, train)
    if found.images:
        (tap,) = found.taps
        say(
            f"cached views at {tap.cut}: {found.images:,} training images lack some of {maps.options.views} views; "
            f"{count(found.renderings)} renderings through the frozen part will take {duration(found.seconds)} and "
            f"{byte_count(tap.size)} in {maps.options.cache}"
        )


def _say_epoch(epoch: Epoch) -> None:
    trained = f"train {epoch.train_accuracy:.4f}  " if epoch.train_accuracy is not None else "as joined      "
    terms = "".join(f"  {name} {value:.4f}" for name, value in epoch.terms.items() if len(epoch.terms) > 1)
    say(
        f"  epoch {epoch.epoch:>3}  {trained}val {epoch.val_accuracy:.4f}  loss {epoch.val_loss:.4f}{terms}  "
        f"{duration(epoch.seconds) if epoch.seconds else ''}"
    )


def _say(rank: Rank, words: str) -> None:
    if rank.first:
        say(words)
