import csv
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from cache.errors import DataError, UsageError
from pipeline.evaluation.comparison import compare_runs, renderings_words
from pipeline.evaluation.console import format_tables
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import (
    evaluate_test,
    fold_scores,
    load_results,
    write_predictions_csv,
    write_results_json,
)
from stages.tasks.base import TASKS, register_task
from stages.tasks.proportions import mcnemar
from tests.pipeline.finished_runs import Lengths, add, lengths, predictions
from tests.plug_ins import forget_afterwards

TESTS = 400
LABELS = np.arange(TESTS) % 2


def wrong(first, last):
    """Wrong on the images from `first` to `last`."""
    return (first <= np.arange(TESTS)) & (np.arange(TESTS) < last)


def add_method(run, wrong_at, *, method="linear", name="logistic", **fields):
    return add(run, predictions(LABELS, wrong_at), method=method, name=name, **fields)


def heads_and_finetune(run, head_wrong, finetune_wrong, **finetune):
    add_method(run, head_wrong, val=0.85, seconds=20)
    add_method(run, finetune_wrong, method="finetune", name="top-3", **{"val": 0.88, "seconds": 220, **finetune})
    return compare_runs([run])


def test_rows_are_the_means_over_the_seeds(tmp_path):
    add(tmp_path, predictions(LABELS, wrong(0, 80)), seed=0, val=0.8, seconds=10, peak_memory_bytes=5)
    later = range(1000, 1000 + TESTS)
    add(tmp_path, predictions(LABELS, wrong(0, 40), images=later), seed=1, val=0.9, seconds=30, peak_memory_bytes=3)
    (row,) = compare_runs([tmp_path]).rows
    assert row.seeds == (0, 1)
    assert row.score == pytest.approx((0.8 + 0.9) / 2)
    assert row.score_range == pytest.approx((0.8, 0.9))
    assert row.val_score == pytest.approx(0.85)
    assert row.seconds == 20
    assert row.seconds_by_stage == {"extract": 10, "train": 8, "evaluate": 2}
    assert row.peak_memory_bytes == 5
    assert row.confusion.tolist() == [[340, 60], [60, 340]]
    error = 1.96 * np.sqrt(0.85 * 0.15 / 800)
    low, high = row.ci95
    assert low < 0.85 - error - 0.004  # the two seeds differ by ten points, and train on samples that they share
    assert high > 0.85 + error + 0.004


def test_comparisons_of_the_same_results_are_equal(tmp_path):
    first = heads_and_finetune(tmp_path, wrong(0, 60), wrong(0, 40))
    assert compare_runs([tmp_path]) == first
    add_method(tmp_path, wrong(0, 20), name="svm")
    assert compare_runs([tmp_path]) != first


def test_one_seed_shows_the_interval_of_its_result(tmp_path):
    add_method(tmp_path, wrong(0, 80))
    (row,) = compare_runs([tmp_path]).rows
    assert list(row.ci95) == load_results([tmp_path])[0].test["ci95"]


def test_groups_of_the_test_samples_make_intervals_and_tests_and_their_number_is_stated(tmp_path):
    groups = [f"patient {image // 40}" for image in range(TESTS)]
    for name, last in (("logistic", 80), ("svm", 50)):  # both wrong on whole patients
        add(tmp_path / "grouped", predictions(LABELS, wrong(0, last), groups=groups), name=name)
        add_method(tmp_path / "single", wrong(0, last), name=name)
    grouped, single = (compare_runs([tmp_path / name]) for name in ("grouped", "single"))
    low, high = grouped.rows[0].ci95
    assert (grouped.groups, single.groups) == (10, None)
    assert high - low > 5 * np.diff(single.rows[0].ci95)
    assert grouped.rows[0].results[0].test["groups"] == 10
    assert grouped.tests[0].p_value > 0.05 > single.tests[0].p_value
    assert "over 10 groups" in grouped.verdict_text
    assert "Wilson over 10 groups" in format_tables(grouped, 200)


def test_a_method_that_is_no_better_than_the_commonest_class_is_warned_of(tmp_path):
    skewed = (np.arange(TESTS) % 10 == 0).astype(int)
    add(tmp_path / "poor", predictions(skewed, (np.arange(TESTS) % 9 == 1)))
    add(tmp_path / "good", predictions(skewed, wrong(0, 8)))
    poor, good = (compare_runs([tmp_path / name]).verdict_text for name in ("poor", "good"))
    assert "Warning: logistic is not shown to beat guessing. The best answer that is the same for every image" in poor
    assert "reaches 90.0 % accuracy: logistic is -1.2 points from that (95 % interval " in poor
    assert "guessing" not in good


def test_of_several_comparisons_holms_p_decides(tmp_path):
    add_method(tmp_path, wrong(0, 60), val=0.9)
    for name, last in (("svm", 74), ("ridge", 62), ("knn", 62), ("ncm", 62)):
        add_method(tmp_path, wrong(3, last), name=name, val=0.8 if name == "svm" else 0.5)
    comparison = compare_runs([tmp_path])
    (test,) = (test for test in comparison.tests if test.method == "SVM")
    assert test.p_value == mcnemar(14, 3) < 0.05
    assert (test.comparisons, test.p_holm) == (4, pytest.approx(4 * mcnemar(14, 3)))
    said = "is within what chance gives (-2.8 points, "
    assert said in comparison.verdict_text
    assert "McNemar p = 0.013, of 4 comparisons p = 0.051 by Holm)." in comparison.verdict_text


def test_results_of_unlike_metrics_are_compared_by_the_first_ones_or_by_the_one_that_is_named_and_that_is_said(
    tmp_path,
):
    """Ranked each by its own, the numbers of two metrics would be held against each other."""
    skewed = (np.arange(TESTS) % 10 == 0).astype(int)  # a rare class, which the first method never says
    common, fair = predictions(skewed, skewed == 1), predictions(skewed, (np.arange(TESTS) % 5 == 1))
    add(tmp_path, common, val={"accuracy": 0.9, "balanced_accuracy": 0.5})
    of_recall = fair.task.with_primary("balanced_accuracy")
    fields = {"task": of_recall, "test": evaluate_test(of_recall, fair.statistics, 0)}
    add(tmp_path, fair, name="svm", val={"accuracy": 0.8, "balanced_accuracy": 0.88}, **fields)
    for metric, name, first in ((None, "accuracy", "logistic"), ("balanced-accuracy", "balanced_accuracy", "svm")):
        comparison = compare_runs([tmp_path], metric)
        assert {row.metric.name for row in comparison.rows} == {comparison.metric.name} == {name}
        assert comparison.ranked[0].name == first
        assert {test.metric for test in comparison.tests} == {name}
        (note,) = comparison.notes
        assert f"Compared by {name}: " in note
    assert comparison.rows[0].score == 0.5
    low, high = comparison.rows[0].ci95
    assert low < 0.5 < high  # though no resample scores anything else
    with pytest.raises(UsageError, match="no metric 'r2' for the task single_label"):
        compare_runs([tmp_path], "r2")


def test_a_result_that_does_not_say_how_it_validates_by_the_metric_is_left_out_and_named(tmp_path):
    add_method(tmp_path, wrong(0, 60))
    with pytest.raises(DataError, match=r"does not say how it validates by f1_macro: train it again"):
        compare_runs([tmp_path], "f1_macro")
    add_method(tmp_path, wrong(0, 50), name="svm", val={"accuracy": 0.8, "f1_macro": 0.7})
    comparison = compare_runs([tmp_path], "f1_macro")
    assert [row.name for row in comparison.rows] == ["svm"]
    assert any(note.startswith("Left out: ") and "linear-logistic" in note for note in comparison.notes)


def test_scores_by_outer_fold_stand_side_by_side_and_it_is_said_how_each_sample_was_tested(tmp_path):
    folds = np.where(np.arange(TESTS) < 100, "Bern", "Graz")
    for name, wrong_at in (("logistic", wrong(0, 50)), ("svm", wrong(100, 130))):
        predicted = predictions(LABELS, wrong_at)
        predicted = Predictions(
            predicted.task, predicted.keys, predicted.locations, predicted.statistics, np.array(folds)
        )
        test = {**evaluate_test(predicted.task, predicted.statistics, 0), **fold_scores(predicted)}
        add(tmp_path, predicted, name=name, test={**test, "tested": "each of 2 groups"})
    comparison = compare_runs([tmp_path])
    assert comparison.folds == [("Bern", 100, (0.5, 1.0)), ("Graz", 300, (1.0, 0.9))]
    (note,) = comparison.notes
    assert "by heads that never saw it: each of 2 groups. What is kept is trained on all samples" in note
    assert comparison.tested == "each of 2 groups"


def test_paired_test_is_that_of_the_same_images(tmp_path):
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    (test,) = comparison.tests
    assert test.difference == pytest.approx(30 / TESTS)
    assert test.p_value == pytest.approx(mcnemar(40, 10))
    assert test.time_ratio == 11


def test_the_order_of_the_images_in_a_file_changes_nothing(tmp_path):
    expected = heads_and_finetune(tmp_path / "a", wrong(0, 60), wrong(40, 70)).tests
    order = np.random.default_rng(0).permutation(TESTS)
    add_method(tmp_path / "b", wrong(0, 60), val=0.85, seconds=20)
    shuffled = predictions(LABELS[order], wrong(40, 70)[order], images=order.tolist())
    add(tmp_path / "b", shuffled, method="finetune", name="top-3", val=0.88, seconds=220)
    assert compare_runs([tmp_path / "b"]).tests == expected


def test_the_same_images_under_several_seeds_do_not_pretend_to_be_more(tmp_path):
    expected = heads_and_finetune(tmp_path / "one", wrong(0, 60), wrong(40, 70))
    for seed in (1, 2):
        add_method(tmp_path / "three", wrong(0, 60), val=0.85, seconds=20, seed=seed)
        add_method(tmp_path / "three", wrong(40, 70), method="finetune", name="top-3", val=0.88, seconds=220, seed=seed)
    comparison = heads_and_finetune(tmp_path / "three", wrong(0, 60), wrong(40, 70))
    assert comparison.tests[0].p_value == expected.tests[0].p_value
    assert comparison.rows[0].ci95 == pytest.approx(expected.rows[0].ci95)
    assert comparison.test_images == "400 test images under 3 seeds"
    assert "ahead in 3 of 3 seeds" in comparison.verdict_text


def test_verdict_says_that_fine_tuning_pays(tmp_path):
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    low, high = (f"{100 * end:+.1f}" for end in comparison.tests[0].difference_ci95)
    assert comparison.verdict.outcome == "pays"
    assert comparison.verdict.headline == (
        f"Fine-tuning pays: 92.5 % against 85.0 % for the logistic head (+7.5 points, 95 % interval {low} to {high}, "
        "McNemar p < 0.001), at 11 times the time."
    )
    assert "Take fine-tune top-3." in comparison.verdict_text
    assert comparison.verdict.chosen.label == "fine-tune top-3"


def test_verdict_says_that_fine_tuning_does_not_pay(tmp_path):
    comparison = heads_and_finetune(tmp_path, wrong(40, 70), wrong(0, 60), val=0.8)
    assert comparison.verdict.outcome == "does not pay"
    assert comparison.verdict_text.startswith(
        "Fine-tuning does not pay here: 85.0 % against 92.5 % for the logistic head (-7.5 points"
    )
    assert "Take the logistic head." in comparison.verdict_text
    assert comparison.verdict.chosen.name == "logistic"


def test_verdict_says_what_images_and_columns_add_to_each_other(tmp_path):
    add_method(tmp_path, wrong(0, 60), val=0.85)
    add_method(tmp_path, wrong(0, 90), method="linear", name="ridge", val=0.8)
    add_method(tmp_path, wrong(20, 100), method="columns", val=0.82)
    assert "columns alone" not in compare_runs([tmp_path]).verdict_text  # without both there is nothing to say
    add_method(tmp_path, wrong(20, 58), method="joined", val=0.9)
    comparison = compare_runs([tmp_path])
    labels = [row.label for row in comparison.rows]
    assert labels == ["logistic", "ridge", "logistic on columns", "logistic + columns"]
    (sentence,) = (detail for detail in comparison.verdict.details if detail.startswith("Images alone"))
    assert sentence.startswith(
        "Images alone reach 85.0 % (logistic), columns alone 80.0 % (logistic on columns), both 90.5 % "
        "(logistic + columns): to the images the columns add +5.5 points, 95 % interval "
    )
    assert "; to the columns the images add +10.5 points, 95 % interval " in sentence
    assert "chance" not in sentence


def test_verdict_says_that_it_may_be_chance(tmp_path):
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(50, 107), val=0.84)
    assert comparison.verdict.outcome == "inconclusive"
    assert comparison.verdict_text.startswith(
        "Fine-tuning is not shown to pay here: 85.8 % against 85.0 % for the logistic head is within what chance "
        "gives with 400 test images (+0.8 points"
    )
    assert "Take the logistic head." in comparison.verdict_text
    assert comparison.verdict.chosen.name == "logistic"


def test_no_difference_at_all_is_chance(tmp_path):
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(0, 60))
    assert comparison.verdict.outcome == "inconclusive"
    assert "(+0.0 points, 95 % interval -1.0 to +1.0, McNemar p = 1)" in comparison.verdict_text
    assert "Up to 1.0 points either way remain possible." in comparison.verdict_text


@pytest.mark.parametrize(("val", "chosen"), [(0.84, "logistic"), (0.9, "top-3")])
def test_what_the_test_images_say_chooses_nothing(tmp_path, val, chosen):
    better = heads_and_finetune(tmp_path / "better", wrong(0, 60), wrong(40, 70), val=val)
    worse = heads_and_finetune(tmp_path / "worse", wrong(40, 70), wrong(0, 60), val=val)
    assert (better.verdict.outcome, worse.verdict.outcome) == ("pays", "does not pay")
    assert better.verdict.chosen.name == worse.verdict.chosen.name == chosen


def test_reference_is_chosen_by_validation_though_another_head_tests_better(tmp_path):
    add_method(tmp_path, wrong(0, 80), name="logistic", val=0.9)
    add_method(tmp_path, wrong(0, 40), name="svm", val=0.8)
    add_method(tmp_path, wrong(0, 10), method="finetune", name="top-3", val=0.7)
    comparison = compare_runs([tmp_path])
    assert comparison.reference.label == "logistic"
    assert [row.label for row in comparison.ranked] == ["logistic", "SVM", "fine-tune top-3"]
    ranking = "never by the test images; predictions for these were not kept, so ties are not known: logistic 90.0 %, "
    assert ranking in comparison.verdict_text


@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=4, max_size=4))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_ranking_is_the_same_whatever_the_test_split_says(tmp_path, mistakes):
    methods = [("linear", "logistic", 0.8), ("head", "mlp", 0.9), ("finetune", "top-1", 0.7), ("finetune", "all", 0.85)]
    for (method, name, val), mistaken in zip(methods, mistakes, strict=True):
        add(tmp_path, predictions([0, 1] * 4, mistaken), method=method, name=name, val=val)
    comparison = compare_runs([tmp_path])
    assert [row.name for row in comparison.ranked] == ["mlp", "all", "logistic", "top-1"]
    assert comparison.reference.name == "mlp"
    assert "fine-tune all, of 2 the best by validation" in comparison.verdict.headline


def test_one_method_has_nothing_to_be_compared_with(tmp_path):
    add_method(tmp_path, wrong(0, 60))
    comparison = compare_runs([tmp_path])
    assert comparison.verdict.outcome == "single"
    assert comparison.tests == ()
    assert comparison.verdict_text.startswith("The logistic head reaches 85.0 % (95 % interval ")
    assert comparison.verdict_text.endswith(
        "on 400 test images. It is the only method here: there is nothing to compare it with."
    )


def test_heads_alone_are_ranked_by_validation(tmp_path):
    add_method(tmp_path, wrong(0, 60), val=0.85)
    add_method(tmp_path, wrong(50, 100), method="head", name="mlp", val=0.86)
    comparison = compare_runs([tmp_path])
    assert comparison.verdict.outcome == "ranking"
    assert comparison.verdict_text.startswith(
        "Of 2 methods, validation accuracy ranks the MLP head first. It reaches 87.5 %"
    )
    assert (
        "The logistic head reaches 85.0 %. The difference is within what chance gives (-2.5 points"
        in comparison.verdict_text
    )
    low, high = comparison.tests[0].difference_ci95
    possible = f". Up to {100 * max(-low, high):.1f} points either way remain possible."
    assert possible in comparison.verdict_text


def test_verdict_says_what_the_pretrained_weights_were_worth(tmp_path):
    add_method(tmp_path, wrong(0, 200), method="scratch", name="all", val=0.5, seconds=900)
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    worth = "What the pretrained weights were worth: +42.5 points, 95 % interval "
    assert worth in comparison.verdict_text
    assert (
        "Fine-tune top-3 reaches 92.5 %; trained from scratch, the network reaches 50.0 %." in comparison.verdict_text
    )
    low, high = (
        comparison.verdict_text.split(worth)[1]
        .split(", McNemar p < 0.001, of 3 comparisons p < 0.001 by Holm.")[0]
        .split(" to ")
    )
    assert 37 < float(low) < 42.5 < float(high) < 48


def test_worth_that_may_be_chance_is_called_so(tmp_path):
    add_method(tmp_path, wrong(35, 67), method="scratch", name="all", val=0.5)
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    assert "were worth: +0.5 points, 95 % interval" in comparison.verdict_text
    assert "points either way remain possible. Fine-tune top-3 reaches 92.5 %; trained" in comparison.verdict_text


def test_worth_without_fine_tuning_is_held_against_the_best_head(tmp_path):
    add_method(tmp_path, wrong(0, 60), val=0.85)
    add_method(tmp_path, wrong(0, 200), method="scratch", name="all", val=0.5)
    verdict = compare_runs([tmp_path]).verdict_text
    assert "were worth: +35.0 points" in verdict
    assert "The logistic head reaches 85.0 %; trained from scratch, the network reaches 50.0 %." in verdict


def test_worth_is_that_of_two_methods_tested_on_the_same_renderings(tmp_path):
    add_method(tmp_path, wrong(0, 200), method="scratch", name="all", val=0.5)
    crops = {"test-time augmentation": "crops"}
    add_method(tmp_path, wrong(0, 20), method="finetune", name="top-3-crops", val=0.95, settings=crops)
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    assert (
        "Fine-tune top-3 reaches 92.5 %; trained from scratch, the network reaches 50.0 %." in comparison.verdict_text
    )


def test_scratch_alone_says_nothing_of_pretrained_weights(tmp_path):
    add_method(tmp_path, wrong(0, 60), method="scratch", name="all")
    add_method(tmp_path, wrong(0, 50), method="scratch", name="all-longer")
    assert "pretrained" not in compare_runs([tmp_path]).verdict_text


def test_reinitialized_layers_are_named_in_the_label_and_held_against_the_same_layers_pretrained(tmp_path):
    def tuned(name, last, val, **settings):
        settings = {"unfreeze": name.partition("-new")[0], **settings}
        add_method(tmp_path, wrong(0, last), method="finetune", name=name, val=val, settings=settings)

    tuned("layer4", 40, 0.8)
    tuned("all", 30, 0.9)
    tuned("layer4-new", 120, 0.7, reinitialised=["layer4"])
    comparison = compare_runs([tmp_path])
    assert [row.label for row in comparison.rows] == [
        "fine-tune all",
        "fine-tune layer4",
        "fine-tune layer4-new, re-initialised",
    ]
    assert "weights of the re-initialised layers were worth: +20.0 points" in comparison.verdict_text
    assert (
        "Fine-tune layer4 reaches 90.0 %; fine-tune layer4-new, re-initialised reaches 70.0 %."
        in comparison.verdict_text
    )


def test_frozen_network_stands_between_fine_tuning_and_scratch_and_is_held_against_the_cache(tmp_path):
    add_method(tmp_path, wrong(0, 200), method="scratch", name="all", val=0.5)
    add_method(tmp_path, wrong(0, 64), method="uncached", name="linear", val=0.84, seconds=600)
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    labels = ["logistic", "fine-tune top-3", "frozen network linear", "scratch all"]
    assert [row.label for row in comparison.rows] == labels
    assert (
        "Without the cache, every image through the frozen network in every epoch, frozen network linear reaches 84.0 % (-1.0 points"
        in comparison.verdict_text
    )
    assert "at 30 times the time" in comparison.verdict_text


@pytest.mark.parametrize(
    ("kind", "mark", "words"),
    [
        ("flip", " + flip", "“+ flip”: over the evaluation view and its mirror image."),
        (
            "crops",
            " + crops",
            "“+ crops”: over the evaluation view and the four corners of an image, and their mirror images.",
        ),
        ("none", "", None),
    ],
)
def test_test_time_augmentation_is_marked_and_explained(tmp_path, kind, mark, words):
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70), settings={"test-time augmentation": kind})
    assert [row.label for row in comparison.rows] == ["logistic", f"fine-tune top-3{mark}"]
    note = " ".join(renderings_words(comparison))
    assert (words in note and "The others see the evaluation view alone." in note) if words else not note
    said = " ".join(format_tables(comparison, 400).split())
    assert note in said if words else "averaged over renderings" not in said


def test_fine_tuning_without_a_head_is_ranked_not_judged(tmp_path):
    add_method(tmp_path, wrong(0, 60), method="finetune", name="top-1", val=0.8)
    add_method(tmp_path, wrong(0, 50), method="finetune", name="all", val=0.9)
    comparison = compare_runs([tmp_path])
    assert comparison.verdict.outcome == "ranking"
    assert comparison.reference.name == "all"


def test_runs_of_several_backbones_are_told_apart(tmp_path):
    for backbone, last in (("resnet18", 60), ("resnet50", 40)):
        add_method(tmp_path / backbone, wrong(0, last), backbone=backbone, val=1 - last / TESTS)
    comparison = compare_runs([tmp_path / "resnet18", tmp_path / "resnet50"])
    assert [row.label for row in comparison.rows] == ["logistic (resnet18)", "logistic (resnet50)"]
    assert "ranks the logistic (resnet50) head first" in comparison.verdict_text
    assert len(comparison.runs) == 2


def test_runs_of_the_same_name_are_told_apart_by_their_path(tmp_path):
    for folder in ("monday", "tuesday"):
        add_method(tmp_path / folder / "run", wrong(0, 60))
    labels = [row.label for row in compare_runs([tmp_path / "monday" / "run", tmp_path / "tuesday" / "run"]).rows]
    assert labels == [f"logistic ({tmp_path / folder / 'run'})" for folder in ("monday", "tuesday")]


def test_the_same_run_twice_counts_once(tmp_path):
    add_method(tmp_path / "run", wrong(0, 60))
    assert len(compare_runs([tmp_path / "run", tmp_path / "run" / ".." / "run"]).rows) == 1


def test_runs_on_other_data_are_refused(tmp_path):
    add_method(tmp_path / "a", wrong(0, 60))
    add(tmp_path / "b", predictions(LABELS, wrong(0, 60), images=range(5000, 5000 + TESTS)))
    with pytest.raises(DataError, match="were not tested on the same images"):
        compare_runs([tmp_path / "a", tmp_path / "b"])


def test_runs_whose_test_images_differ_are_compared_where_these_agree_and_that_is_said(tmp_path):
    add_method(tmp_path / "a", wrong(0, 60))
    later = predictions(LABELS, wrong(0, 20), images=range(100, 100 + TESTS))
    relabeled = predictions(1 - LABELS[:10], wrong(0, 0)[:10], images=range(300, 310))
    later.statistics[200:210] = relabeled.statistics  # ten of them have another label there
    add(tmp_path / "b", later, name="svm")
    comparison = compare_runs([tmp_path / "a", tmp_path / "b"])
    assert [len(row.statistics) for row in comparison.rows] == [290, 290]
    assert comparison.rows[0].score == 1.0  # its mistakes were on images that the other was not tested on
    assert comparison.rows[1].score == pytest.approx(270 / 290)
    assert "compared on the 290 that all of them were tested on with the same label, of 400." in comparison.notes[0]
    assert comparison.test_images == "290 test images"


def test_a_seed_that_not_every_method_has_is_left_out_and_said_so(tmp_path):
    add_method(tmp_path, wrong(0, 200), seed=1)
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    assert comparison.seeds == (0,)
    assert comparison.reference.score == pytest.approx(0.85)
    assert comparison.notes == ("logistic: seed 1 is left out, because not every method has it.",)
    assert len(comparison.results) == 3


def test_a_mean_that_a_seed_has_none_of_leaves_no_seed_out(tmp_path):
    for seed in (0, 1):
        add_method(tmp_path, wrong(0, 60), seed=seed)
        add_method(tmp_path, wrong(40, 70), seed=seed, name="svm")
    add_method(tmp_path, wrong(0, 30), method="ensemble", name="greedy")
    comparison = compare_runs([tmp_path])
    assert comparison.seeds == (0, 1)
    assert [row.label for row in comparison.rows] == ["logistic", "SVM"]
    assert comparison.notes == ("greedy ensemble is left out: there is none for seed 1.",)


def test_methods_without_a_common_seed_are_refused(tmp_path):
    add_method(tmp_path, wrong(0, 60), seed=0)
    add_method(tmp_path, wrong(0, 60), seed=1, name="svm")
    with pytest.raises(
        DataError, match=r"no seed is common to all methods \(logistic: 0; SVM: 1\).*with the `seeds` of"
    ):
        compare_runs([tmp_path])


def test_comparison_is_stored_as_plain_json(tmp_path):
    comparison = heads_and_finetune(tmp_path, wrong(0, 60), wrong(40, 70))
    path = write_results_json(
        tmp_path,
        comparison.results,
        verdict=comparison.verdict_text,
        comparisons=comparison.comparisons,
        configuration={},
        environment={},
    )
    assert '"method": "fine-tune top-3"' in path.read_text()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_table_is_aligned_and_says_what_its_numbers_are(tmp_path, seeds):
    for seed in seeds:
        add_method(tmp_path, wrong(0, 60), seconds=20, seed=seed)
        add_method(
            tmp_path, wrong(40, 70), method="finetune", name="top-3", seconds=1220, backbone_forwards=12_345, seed=seed
        )
    text = format_tables(compare_runs([tmp_path]), 200)
    scores, costs = (block.splitlines() for block in text.split("\n\n") if "-----" in block)
    header, rule, *rows = scores
    for column in ("method", "--method", "accuracy", "95 % interval", "macro-F1", "AUC"):
        assert column in header
    for column in ("features, s", "train, s", "test, s", "in all, s", "ms/image", "model", "peak memory"):
        assert column in costs[0]
    assert ("over seeds" in header) == (len(seeds) > 1)
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    tuned = next(line for line in rows if "fine-tune top-3  " in line)
    for figure in ("92.5 %", "0.925"):
        assert figure in tuned
    tuned = next(line for line in costs if "fine-tune top-3  " in line)
    for figure in ("1,220.0", "610.0", "1 GiB", "520 + 12,345"):
        assert figure in tuned
    assert "Accuracy on 400 test images" in text
    assert ("pooled" if len(seeds) > 1 else "one seed") in text


def test_table_of_many_classes_has_no_column_for_auc(tmp_path):
    add(tmp_path, predictions([0, 1, 2], [0, 0, 1], classes=3))
    assert "AUC" not in format_tables(compare_runs([tmp_path]), 200)


def test_most_frequent_class_is_known(tmp_path):
    add(tmp_path, predictions([0, 1, 1, 1], [0, 0, 0, 1]))
    assert compare_runs([tmp_path]).majority_class == (1, 0.75)


def test_metric_and_words_are_those_of_the_task_and_less_may_be_better(tmp_path, monkeypatch):
    forget_afterwards(monkeypatch, TASKS)
    register_task("lengths")(Lengths)
    random = np.random.default_rng(0)
    near, far = random.normal(0, 0.1, 200), random.normal(0, 1.0, 200)
    add(tmp_path, lengths(far), val=0.8, seconds=20)
    add(tmp_path, lengths(near), method="finetune", name="top-3", val=0.1, seconds=40)
    comparison = compare_runs([tmp_path])
    (test,) = comparison.tests
    assert [row.name for row in comparison.ranked] == ["top-3", "logistic"]
    assert (test.metric, test.higher_is_better, test.ahead) == ("mae", False, True)
    assert test.difference == pytest.approx(np.abs(near).mean() - np.abs(far).mean())
    assert test.p_value == pytest.approx(ttest_rel(np.abs(near), np.abs(far)).pvalue)  # nothing is right or wrong
    text = comparison.verdict_text
    assert comparison.verdict.outcome == "pays"
    assert f"Fine-tuning pays: {np.abs(near).mean():.3f} against {np.abs(far).mean():.3f} for the logistic" in text
    assert "Methods are ranked by validation mean error" in text
    assert not re.search(r"accuracy|points|McNemar|\d %(?! interval)", text)
    header = format_tables(comparison, 200).splitlines()[0]
    assert "mean error" in header
    assert "squared error" in header
    assert comparison.majority_class is None
    with write_predictions_csv(tmp_path, comparison.results).open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["length"], float(row["predicted"])) == ("0", pytest.approx(far[0], rel=1e-4))
