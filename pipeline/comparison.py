"""What the results of one or several runs say against each other: rows, paired tests, and a verdict in words.

Nothing is trained or read but finished results. Methods are ranked by validation accuracy; the test split only says
what the ranked methods reach and whether their difference is more than chance. How it looks is ``pipeline.report``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from pipeline.console import byte_count, count, table
from pipeline.results import CACHED, METHODS, Result, load_results, require_same_test_images, run_of
from stages.training.metrics import accuracy_interval, mcnemar, paired_difference

SIGNIFICANT = 0.05
"""The p-value below which a difference is called more than chance."""

STAGES = ("extract", "train", "evaluate")

TEST_TIME = {
    "flip": ("flip", "the evaluation view and its mirror image"),
    "crops": ("crops", "the centre and the four corners of an image, and their mirror images"),
}
"""Renderings that probabilities are averaged over: how a label names them, and what they are."""

Outcome = Literal["pays", "does not pay", "chance", "ranking", "single"]


@dataclass(frozen=True)
class Row:
    """One method of one run: its results over the seeds that every compared method has.

    Scores and seconds are means over the seeds (accuracy is the share of all tests that are right, which weighs each
    seed by its test images), peak memory is the largest, the confusion matrix the sum.
    """

    label: str
    run: Path
    results: tuple[Result, ...]
    images: NDArray[np.int64]
    """The number of the image that each test is about, int64 [tests]; the same for every row."""

    @property
    def method(self) -> str:
        """``linear``, ``head``, ``finetune``, ``frozen`` or ``scratch``."""
        return self.results[0].method

    @property
    def name(self) -> str:
        """The name of the head, or of what is fine-tuned."""
        return self.results[0].name

    @property
    def cached(self) -> bool:
        """Whether it trains on cached features."""
        return self.method in CACHED

    @property
    def unfrozen(self) -> Any:
        """What trains, as ``--unfreeze`` says it; None for a method that has no such option."""
        return self.results[0].settings.get("unfreeze")

    @property
    def reinitialised(self) -> bool:
        """Whether some layers were drawn anew, so that their pretrained weights played no part."""
        return bool(self.results[0].settings.get("reinitialised"))

    @property
    def test_time(self) -> str | None:
        """The renderings it is tested on, ``flip`` or ``crops``; None for the evaluation view alone."""
        kind = self.results[0].settings.get("test-time augmentation")
        return kind if kind in TEST_TIME else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds it is averaged over."""
        return tuple(result.seed for result in self.results)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test went right, bool [tests]: seed after seed, images of a seed in the order of their keys."""
        return np.concatenate([one.predictions.correct[one.predictions.by_key] for one in self.results])

    @cached_property
    def accuracy(self) -> float:
        """Share of all tests that are right."""
        return float(self.correct.mean())

    @property
    def accuracy_range(self) -> tuple[float, float]:
        """The lowest and the highest accuracy of a seed."""
        accuracies = [result.test["accuracy"] for result in self.results]
        return min(accuracies), max(accuracies)

    @cached_property
    def accuracy_ci95(self) -> tuple[float, float]:
        """The interval of the result itself for one seed; over all tests, images resampled, for several."""
        if len(self.results) == 1:
            low, high = self.results[0].test["accuracy_ci95"]
            return low, high
        return accuracy_interval(self.correct, self.images)

    @property
    def val_accuracy(self) -> float:
        """Mean validation accuracy: what methods are ranked by."""
        return self._mean(lambda result: result.val["accuracy"])

    @property
    def macro_f1(self) -> float:
        """Mean F1 averaged over classes."""
        return self._mean(lambda result: result.test["macro_f1"])

    @property
    def auc(self) -> float | None:
        """Mean area under the ROC curve; None where a result has none."""
        areas = [result.test["auc"] for result in self.results]
        known = [area for area in areas if area is not None]
        return float(np.mean(known)) if len(known) == len(areas) else None

    @property
    def log_loss(self) -> float:
        """Mean log loss."""
        return self._mean(lambda result: result.test["log_loss"])

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Confusion matrix summed over the seeds, int64 [true, predicted]."""
        summed: NDArray[np.int64] = np.sum([one.test["confusion"] for one in self.results], axis=0, dtype=np.int64)
        return summed

    @property
    def seconds(self) -> float:
        """Mean seconds from images to predictions, as if nothing had been cached."""
        return self._mean(lambda result: result.seconds)

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Mean seconds of each stage."""
        of_results = [one.seconds_by_stage for one in self.results]
        return {stage: float(np.mean([each.get(stage, 0.0) for each in of_results])) for stage in STAGES}

    @property
    def cpu_seconds(self) -> float:
        """Mean processor seconds."""
        return self._mean(lambda result: result.cpu_seconds)

    @property
    def peak_memory_bytes(self) -> int:
        """The largest memory any seed held."""
        return max(result.peak_memory_bytes for result in self.results)

    @property
    def trainable_parameters(self) -> int:
        """Parameters that are trained."""
        return max(result.trainable_parameters for result in self.results)

    @property
    def backbone_forwards(self) -> float:
        """Mean number of images through the backbone in this method's own work."""
        return self._mean(lambda result: result.backbone_forwards)

    @property
    def extraction_forwards(self) -> float:
        """Mean number of images through the backbone to fill the cache it trains from."""
        return self._mean(lambda result: result.extraction_forwards)

    def _mean(self, of: Callable[[Result], float]) -> float:
        return float(np.mean([of(result) for result in self.results]))


@dataclass(frozen=True)
class PairedTest:
    """One method against another on the same tests."""

    method: str
    against: str
    difference: float
    """Accuracy of `method` minus accuracy of `against`."""
    difference_ci95: tuple[float, float]
    p_value: float
    """McNemar's exact test; with several seeds the sign test over images, see ``stages.training.metrics.mcnemar``."""
    time_ratio: float
    """Seconds of `method` over seconds of `against`."""
    seeds_ahead: int
    """In how many seeds `method` is the more accurate."""

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Verdict:
    """What follows from a comparison, in words."""

    outcome: Outcome
    headline: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on the same test images.

    Attributes
    ----------
    rows : tuple of Row
        In the order of method and name.
    reference : Row
        What the others are tested against: the best method on cached features, or the best of all where there is
        none; the best by validation accuracy.
    tests : tuple of PairedTest
        Every other row against the reference, in the order of the rows.
    judgement : Verdict
        What follows.
    results : tuple of Result
        All results that were read, those of seeds that not every method has included.
    notes : tuple of str
        What was left out, and why.
    """

    rows: tuple[Row, ...]
    reference: Row
    tests: tuple[PairedTest, ...]
    judgement: Verdict
    results: tuple[Result, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What follows, in one paragraph."""
        return " ".join([self.judgement.headline, *self.judgement.details])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.results[0].class_names

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every method has."""
        return self.rows[0].seeds

    @property
    def runs(self) -> list[Path]:
        """The compared runs."""
        return list(dict.fromkeys(row.run for row in self.rows))

    @property
    def ranked(self) -> list[Row]:
        """The rows from the highest validation accuracy down; of equals the quicker one first."""
        return sorted(self.rows, key=_rank)

    @property
    def test_images(self) -> str:
        """How many images are tested, in words."""
        return _test_images(self.rows[0])

    @property
    def commonest(self) -> tuple[str, float]:
        """The most frequent class of the test images, and its share: what one is right at by always saying it."""
        of_true = self.rows[0].confusion.sum(axis=1)
        return self.class_names[of_true.argmax()], float(of_true.max() / of_true.sum())

    def test_of(self, row: Row) -> PairedTest | None:
        """Return the test of `row` against the reference; None for the reference itself."""
        return next((test for test in self.tests if test.method == row.label), None)

    @property
    def comparisons(self) -> list[dict[str, Any]]:
        """The paired tests as ``results.json`` holds them."""
        return [asdict(test) for test in self.tests]


def compare(run_dirs: Sequence[Path]) -> Comparison:
    """Compare the finished results of one or several runs on the same data.

    Raises
    ------
    DataError
        If results are missing or damaged, were not tested on the same images, or have no seed in common.
    """
    runs = list({path.resolve(): path for path in run_dirs}.values())
    results = load_results(runs)
    require_same_test_images(results)
    rows, notes = _rows(results)
    ranked = sorted(rows, key=_rank)
    reference = next((row for row in ranked if row.cached), ranked[0])
    tests = tuple(_test(row, reference) for row in rows if row is not reference)
    return Comparison(
        rows=tuple(rows),
        reference=reference,
        tests=tests,
        judgement=_verdict(ranked, reference, tests),
        results=tuple(results),
        notes=tuple(notes),
    )


def format_table(comparison: Comparison) -> str:
    """Return the comparison as an aligned text table, with what the numbers are below it."""
    several = len(comparison.seeds) > 1
    with_auc = any(row.auc is not None for row in comparison.rows)
    header = ["method", "accuracy", "95 % interval", *["over seeds"] * several, "macro-F1", *["AUC"] * with_auc]
    header += ["seconds", *STAGES, "peak memory", "trained", "forwards"]
    lines = []
    for row in comparison.rows:
        line = [row.label, percent(row.accuracy), _span(row.accuracy_ci95)]
        line += [_span(row.accuracy_range)] * several
        line += [f"{row.macro_f1:.3f}"] + ["-" if row.auc is None else f"{row.auc:.3f}"] * with_auc
        line += [f"{seconds:,.1f}" for seconds in (row.seconds, *row.seconds_by_stage.values())]
        line += [byte_count(row.peak_memory_bytes), count(row.trainable_parameters)]
        line += [f"{row.extraction_forwards:,.0f} + {row.backbone_forwards:,.0f}"]
        lines.append(line)
    below = [
        f"Accuracy on {comparison.test_images}. {interval_words(comparison)}",
        "forwards: images through the backbone to fill the cache + in the method's own work.",
        *renderings_words(comparison),
    ]
    return "\n".join([table(header, lines), "", *below])


def interval_words(comparison: Comparison) -> str:
    """Say what the accuracy intervals are made from."""
    if len(comparison.seeds) == 1:
        return "Intervals: bootstrap over the test images of the one seed."
    seeds = f"{len(comparison.seeds)} seeds"
    return f"Accuracy is the mean over {seeds}; intervals: bootstrap over images, the tests of all {seeds} pooled."


def renderings_words(comparison: Comparison) -> list[str]:
    """Say what the methods that are tested on several renderings of an image are tested on."""
    used = {row.test_time for row in comparison.rows}
    marked = [f"“+ {name}”: over {what}" for kind, (name, what) in TEST_TIME.items() if kind in used]
    if not marked:
        return []
    return [f"Probabilities averaged over renderings: {'; '.join(marked)}. The others see the evaluation view alone."]


def percent(share: float) -> str:
    """Return 0.879 as ``87.9 %``."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Return a difference of 0.025 as ``+2.5``."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0 makes minus zero zero


def _rows(results: Sequence[Result]) -> tuple[list[Row], list[str]]:
    """Return a row for each method and run over the seeds that all have, and what had to be left out."""
    of_method: dict[tuple[Path, str, str], list[Result]] = {}
    for result in results:
        of_method.setdefault((run_of(result), result.method, result.name), []).append(result)
    groups = sorted(of_method.items(), key=lambda item: (METHODS.index(item[0][1]), item[0][2]))
    labels = _labels([of_seeds[0] for _, of_seeds in groups])
    shared = set.intersection(*({one.seed for one in group} for _, group in groups))
    if not shared:
        seeds = "; ".join(
            f"{label}: {_listed(one.seed for one in group)}" for label, (_, group) in zip(labels, groups, strict=True)
        )
        raise DataError(f"no seed is common to all methods ({seeds}), so nothing was tested on the same images")
    kept = [tuple(one for one in group if one.seed in shared) for _, group in groups]
    keys = np.concatenate([one.predictions.keys[one.predictions.by_key] for one in kept[0]])
    images = np.unique(keys, return_inverse=True)[1]
    rows = [Row(label, key[0], some, images) for label, (key, _), some in zip(labels, groups, kept, strict=True)]
    notes = [
        f"{label}: seed {_listed(left_out)} is left out, because not every method has it."
        for label, (_, group) in zip(labels, groups, strict=True)
        if (left_out := [one.seed for one in group if one.seed not in shared])
    ]
    return rows, notes


def _labels(results: Sequence[Result]) -> list[str]:
    """Return what the methods of these results are called; the run is part of it where there are several."""
    runs = {run_of(result) for result in results}
    names = {run: run.name if len({one.name for one in runs}) == len(runs) else str(run) for run in runs}
    return [_method_words(result) + (f" ({names[run_of(result)]})" if len(runs) > 1 else "") for result in results]


def _method_words(result: Result) -> str:
    prefix = {"finetune": "fine-tune ", "frozen": "frozen network ", "scratch": "scratch "}.get(result.method, "")
    shown = {"svm": "SVM", "rbf": "RBF SVM", "mlp": "MLP", "knn": "kNN", "ncm": "nearest mean", "sgd": "SGD"}
    words = f"{prefix}{shown.get(result.name, result.name)}"
    if result.settings.get("reinitialised"):
        words += ", re-initialised"
    if (kind := result.settings.get("test-time augmentation")) in TEST_TIME:
        words += f" + {TEST_TIME[kind][0]}"
    return words


def _rank(row: Row) -> tuple[float, float]:
    """Order methods without a look at the test split."""
    return -row.val_accuracy, row.seconds


def _test(row: Row, reference: Row) -> PairedTest:
    difference = paired_difference(row.correct, reference.correct, row.images)
    ahead = (
        ours.test["accuracy"] > theirs.test["accuracy"]
        for ours, theirs in zip(row.results, reference.results, strict=True)
    )
    return PairedTest(
        method=row.label,
        against=reference.label,
        difference=difference.value,
        difference_ci95=(difference.low, difference.high),
        p_value=mcnemar(row.correct, reference.correct, row.images),
        time_ratio=row.seconds / max(reference.seconds, 1e-9),
        seeds_ahead=sum(ahead),
    )


# -- the verdict ------------------------------------------------------------------------------------------------------


def _verdict(ranked: Sequence[Row], reference: Row, tests: Sequence[PairedTest]) -> Verdict:
    """Say what follows; `ranked` is in the order of validation accuracy."""
    of_label = {test.method: test for test in tests}
    if len(ranked) == 1:
        headline = f"{_sentence(_called(reference))} reaches {_reached(reference)} on {_test_images(reference)}."
        return Verdict("single", headline, ("It is the only method here: there is nothing to compare it with.",))
    tuned = next((row for row in ranked if row.method == "finetune"), None)
    if tuned is None or not reference.cached:
        outcome, headline = _ranking(ranked, of_label, reference)
        details = []
    else:
        candidates = sum(row.method == "finetune" for row in ranked)
        outcome, headline = _judgement(tuned, reference, of_label[tuned.label], candidates)
        details = [_advice(outcome, tuned, reference, of_label[tuned.label], ranked)]
    if reference.cached:
        details += [
            f"Without the cache, every image through the frozen network in every epoch, {row.label} reaches "
            f"{percent(row.accuracy)} ({_evidence(of_label[row.label], reference)}), "
            f"{_time(of_label[row.label].time_ratio)}."
            for row in ranked
            if row.method == "frozen"
        ]
    details += [_worth(row, of_weights) for row in ranked if (of_weights := _with_all_weights(row, ranked)) is not None]
    ranking = ", ".join(f"{row.label} {percent(row.val_accuracy)}" for row in ranked)
    details.append(f"Methods are ranked by validation accuracy, never by the test images: {ranking}.")
    return Verdict(outcome, headline, tuple(details))


def _judgement(tuned: Row, reference: Row, test: PairedTest, candidates: int) -> tuple[Outcome, str]:
    """Say whether fine-tuning pays against the best method on cached features."""
    which = f" ({tuned.label}, of {candidates} the best by validation)" if candidates > 1 else ""
    reached = f"{percent(tuned.accuracy)} against {percent(reference.accuracy)} for {_called(reference)}"
    evidence = f"({_evidence(test, reference)}), {_time(test.time_ratio)}."
    if not test.significant:
        chance = f"is within what chance gives with {_test_images(reference)}"
        return "chance", f"Fine-tuning{which} is not shown to pay here: {reached} {chance} {evidence}"
    if test.difference > 0:
        return "pays", f"Fine-tuning{which} pays: {reached} {evidence}"
    return "does not pay", f"Fine-tuning{which} does not pay here: {reached} {evidence}"


def _advice(outcome: Outcome, tuned: Row, reference: Row, test: PairedTest, ranked: Sequence[Row]) -> str:
    """Say what to take, and where validation, by which one would have chosen, says otherwise."""
    quicker = tuned if test.time_ratio < 1 else reference
    taken = {"pays": tuned, "chance": quicker}.get(outcome, reference)
    advice = f"Take {_called(taken)}" + (", the quicker of the two" if outcome == "chance" else "")
    left = reference if taken is tuned else tuned
    if ranked.index(taken) > ranked.index(left):
        advice += ", although validation accuracy ranks the other one higher"
    return f"{advice}."


def _with_all_weights(row: Row, ranked: Sequence[Row]) -> Row | None:
    """Return what a method without some or all pretrained weights is held against: fine-tuning with all of them.

    Of several, the one that is tested on the same renderings and trains the same layers, as far as there is one, then
    the best by validation; the best head where nothing is fine-tuned. None for what has all its pretrained weights.
    """
    if row.method != "scratch" and not row.reinitialised:
        return None
    pretrained = sorted(
        (other for other in ranked if other.method == "finetune" and not other.reinitialised),
        key=lambda other: (other.test_time != row.test_time, other.unfrozen != row.unfrozen),
    )
    return next(iter([*pretrained, *(other for other in ranked if other.cached)]), None)


def _worth(row: Row, pretrained: Row) -> str:
    """Say what the pretrained weights that `row` does without were worth."""
    test = _test(pretrained, row)
    which = " of the re-initialised layers" if row.reinitialised else ""
    chance = "" if test.significant else ", within what chance gives"
    reached = "trained from scratch, the network" if row.method == "scratch" else row.label
    return (
        f"What the pretrained weights{which} were worth: {_evidence(test, row)}{chance}. "
        f"{_sentence(_called(pretrained))} reaches {percent(pretrained.accuracy)}; {reached} reaches "
        f"{percent(row.accuracy)}."
    )


def _ranking(ranked: Sequence[Row], of_label: dict[str, PairedTest], reference: Row) -> tuple[Outcome, str]:
    """Say what the best by validation reaches, and whether the test split tells it from the next."""
    first, second = ranked[0], ranked[1]
    if first is reference:
        next_one, test = second, of_label[second.label]
    else:  # the first is not a method on cached features, and the reference is the best of those
        next_one, test = reference, of_label[first.label]
    told = "more than" if test.significant else "within"
    return "ranking", (
        f"Of {len(ranked)} methods, validation accuracy ranks {_called(first)} first; it reaches {_reached(first)} on "
        f"{_test_images(first)}. {_sentence(_called(next_one))} reaches {percent(next_one.accuracy)}; the difference "
        f"({_evidence(test, reference)}) is {told} what chance gives."
    )


def _evidence(test: PairedTest, reference: Row) -> str:
    low, high = test.difference_ci95
    seeds = len(reference.seeds)
    name = "McNemar p" if seeds == 1 else "paired test p"
    p_value = "< 0.001" if test.p_value < 0.001 else f"= {test.p_value:.2g}"
    ahead = f", ahead in {test.seeds_ahead} of {seeds} seeds" if seeds > 1 else ""
    return f"{points(test.difference)} points, 95 % interval {points(low)} to {points(high)}, {name} {p_value}{ahead}"


def _reached(row: Row) -> str:
    low, high = row.accuracy_ci95
    return f"{percent(row.accuracy)} (95 % interval {percent(low)} to {percent(high)})"


def _test_images(row: Row) -> str:
    seeds = f" under {len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    return f"{len(np.unique(row.images)):,} test images{seeds}"


def _time(ratio: float) -> str:
    if ratio >= 1.2:
        return f"at {ratio:,.{0 if ratio >= 9.95 else 1}f} times the time"
    return "in about the same time" if ratio > 0.8 else f"in {100 * ratio:.0f} % of the time"


def _called(row: Row) -> str:
    return f"the {row.label} head" if row.cached else row.label


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _span(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))
