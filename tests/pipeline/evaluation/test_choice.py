import json

import numpy as np
import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.trials import SearchSummary, TrialRecord, write_trials
from pipeline.experiment.compare_runs import write_comparison
from tests.pipeline.finished_runs import add, folded, predictions

TESTS, SAMPLES, VAL = np.arange(100) % 2, np.arange(400) % 2, np.arange(120) % 2


def wrong(count, first=0, size=400):
    return (first <= np.arange(size)) & (np.arange(size) < first + count)


def add_head(
    run, name, mistakes, *, method="linear", val=0.8, test_mistakes=10, repeats=1, train=4.0, evaluate=1.0, **fields
):
    """A head that is wrong on some of the 400 samples of train and validation, and of the 120 of validation."""
    stages = {"extract": 5.0, "train": train, "evaluate": evaluate}
    return add(
        run,
        predictions(TESTS, wrong(test_mistakes, size=100)),
        method=method,
        name=name,
        val=val,
        seconds=sum(stages.values()),
        seconds_by_stage=stages,
        **{
            "samples": {"train": 280, "val": 120, "test": 100},
            "validation": predictions(VAL, wrong(20, size=120)),
            "out_of_fold": None if mistakes is None else folded(predictions(SAMPLES, mistakes), repeats=repeats),
            **fields,
        },
    )


def test_heads_are_ranked_out_of_folds_and_not_on_the_images_they_stopped_on(tmp_path):
    add_head(tmp_path, "logistic", wrong(40), val=0.85)
    add_head(tmp_path, "mlp", wrong(80), method="head", val=0.95)
    choice = compare_runs([tmp_path]).choice
    assert [row.name for row in choice.ranked] == ["logistic", "mlp"]
    assert (choice.chosen.name, choice.cross_validated) == ("logistic", True)
    assert choice.chosen.cv.mean == pytest.approx(0.9)
    assert choice.words == (
        "Heads are ranked by accuracy on train and validation out of 5 folds, the same for all, never by the test "
        "images. They reach logistic 90.0 %, MLP 80.0 %.",
    )


def test_of_those_within_one_standard_error_of_the_paired_difference_the_cheapest_is_taken(tmp_path):
    add_head(tmp_path, "mlp", wrong(40), method="head", train=40)
    add_head(tmp_path, "rbf", wrong(41, first=1), method="head", train=8)  # one more mistake; two samples differ
    add_head(tmp_path, "logistic", wrong(48), train=1)  # eight more, all of its own: 2 points, error 0.7
    comparison = compare_runs([tmp_path])
    assert [row.name for row in comparison.choice.tied] == ["mlp", "rbf"]
    assert comparison.verdict.chosen.name == comparison.reference.name == "rbf"
    assert (
        "Within one standard error of the paired difference from the best are MLP, RBF SVM. RBF SVM, which is cheaper "
        "to predict with or to train, is taken."
    ) in comparison.verdict_text


def test_of_those_that_cost_alike_the_best_is_taken_and_none_is_called_cheaper(tmp_path):
    add_head(tmp_path, "mlp", wrong(40), method="head", train=40)
    add_head(tmp_path, "rbf", wrong(41, first=1), method="head", train=35)
    comparison = compare_runs([tmp_path])
    assert comparison.verdict.chosen.name == "mlp"
    assert "MLP is taken, as no other is clearly cheaper to predict with or to train." in comparison.verdict_text


def test_what_predicts_quicker_is_cheaper_than_what_trains_quicker(tmp_path):
    add_head(tmp_path, "knn", wrong(40), method="head", train=0.1, evaluate=90.0)
    add_head(tmp_path, "mlp", wrong(40), method="head", train=40, evaluate=1.0)
    assert compare_runs([tmp_path]).choice.chosen.name == "mlp"


def test_times_that_another_run_would_turn_round_choose_nothing(tmp_path):
    add_head(tmp_path, "svm", wrong(41), train=1.0)
    add_head(tmp_path, "logistic", wrong(40), train=1.6)
    choice = compare_runs([tmp_path]).choice
    assert (len(choice.tied), choice.chosen.name) == (2, "logistic")


def test_repeats_and_seeds_make_no_samples(tmp_path):
    for name, mistakes in (("logistic", wrong(40)), ("svm", wrong(44, first=4))):
        add_head(tmp_path / "one", name, mistakes)
        for seed in (0, 1):
            add_head(tmp_path / "many", name, mistakes, repeats=5, seed=seed)
    one, many = (compare_runs([tmp_path / name]).choice for name in ("one", "many"))
    assert [row.cv.standard_error for row in many.ranked] == pytest.approx(
        [row.cv.standard_error for row in one.ranked]
    )
    assert [row.name for row in many.tied] == [row.name for row in one.tied]
    assert "5 folds, 5 times over" in many.words[0]


@pytest.mark.parametrize(("mistakes", "chosen"), [(18, "logistic"), (4, "top-3")])
def test_fine_tuning_has_to_be_shown_to_be_better_than_the_head_on_the_validation_split(tmp_path, mistakes, chosen):
    add_head(tmp_path, "logistic", wrong(40), val=100 / 120)
    tuned = {"validation": predictions(VAL, wrong(mistakes, size=120))}
    add_head(tmp_path, "top-3", None, method="finetune", val=1 - mistakes / 120, test_mistakes=0, **tuned)
    comparison = compare_runs([tmp_path])
    (contest,) = comparison.choice.contests
    assert (comparison.verdict.chosen.name, contest.won) == (chosen, chosen == "top-3")
    assert contest.difference.value == pytest.approx((20 - mistakes) / 120)
    (sentence,) = (words for words in comparison.choice.words if words.startswith("Fine-tune top-3 is not cross-"))
    assert "on the 120 validation images it is +" in sentence
    assert ("does not show it to be better" in sentence) == (chosen == "logistic")


@pytest.mark.parametrize(("method", "said"), [("finetune", "its best epoch"), ("mixture", "epoch of what is tuned in")])
def test_what_was_chosen_on_the_validation_images_is_said_of_what_trained(tmp_path, method, said):
    add_head(tmp_path, "logistic", wrong(40), val=100 / 120)
    told = {"validation": predictions(VAL, wrong(12, size=120)), "settings": {"members": "SVM 1.00"}}
    add_head(tmp_path, "greedy", None, method=method, val=0.9, **told)
    assert said in compare_runs([tmp_path]).choice.words[-1]


def test_validation_images_of_one_group_are_one_voice_in_a_contest(tmp_path):
    """Sixteen images more are right, of sixteen patients or of two."""
    for folder, groups in (
        ("alone", None),
        ("two", np.where(np.arange(120) < 20, np.arange(120) // 10, np.arange(120))),
    ):

        def validated(mistakes, groups=groups):
            made = predictions(VAL, wrong(mistakes, size=120))
            names = None if groups is None else groups.astype(str)
            return Predictions(made.task, made.keys, made.locations, made.statistics, groups=names)

        add_head(tmp_path / folder, "logistic", wrong(40), val=100 / 120, validation=validated(20))
        add_head(tmp_path / folder, "top-3", None, method="finetune", val=116 / 120, validation=validated(4))
    contests = {name: compare_runs([tmp_path / name]).choice.contests[0] for name in ("alone", "two")}
    assert [contest.won for contest in contests.values()] == [True, False]


def test_a_head_that_was_not_folded_ranks_all_by_validation_and_that_is_said(tmp_path):
    add_head(tmp_path, "logistic", wrong(40), val=0.85)
    add_head(tmp_path, "mlp", None, method="head", val=0.9, validation=None)
    choice = compare_runs([tmp_path]).choice
    assert (choice.cross_validated, choice.chosen.name) == (False, "mlp")
    assert "ranked by validation accuracy" in choice.words[0]
    assert "not kept, so ties are not known: MLP 90.0 %, logistic 85.0 %" in choice.words[0]


def test_too_few_images_to_rank_by_are_warned_of(tmp_path):
    few = {"train": 30, "val": 18, "test": 100}
    labels = np.arange(48) % 2
    for name, mistakes in (("logistic", wrong(4, size=48)), ("svm", wrong(7, size=48))):
        add_head(tmp_path, name, None, out_of_fold=folded(predictions(labels, mistakes)), samples=few)
    assert compare_runs([tmp_path]).choice.words[-1] == (
        "Warning: 48 training and validation images can hardly rank methods: differences of less than 7.1 points "
        "cannot be told from chance."
    )
    tuned = {"validation": predictions(VAL, wrong(14, first=10, size=120))}
    add_head(tmp_path, "top-3", None, method="finetune", samples=few, **tuned)
    choice = compare_runs([tmp_path]).choice
    _, low, high = choice.contests[0].difference
    assert (
        f"Warning: 18 validation images can hardly rank methods: differences of less than {50 * (high - low):.1f} "
        "points cannot be told from chance."
    ) in choice.words


def test_what_answers_as_the_head_does_says_nothing_of_what_chance_gives(tmp_path):
    few = {"train": 30, "val": 18, "test": 100}
    said = {"validation": predictions(VAL, wrong(14, size=120))}
    of_folds = folded(predictions(np.arange(48) % 2, wrong(4, size=48)))
    add_head(tmp_path, "logistic", None, out_of_fold=of_folds, samples=few, **said)
    add_head(tmp_path, "top-3", None, method="finetune", samples=few, **said)
    choice = compare_runs([tmp_path], "f1_macro").choice
    assert choice.contests[0].difference[1:] == (0, 0)
    assert "Warning: 18 validation images can hardly rank methods." in choice.words


def test_one_result_of_all_says_that_it_is_the_chosen_one(tmp_path):
    for seed in (0, 1):
        add_head(tmp_path, "logistic", wrong(40), seed=seed)
        add_head(tmp_path, "svm", wrong(80), seed=seed)
    (tmp_path / "environment.json").write_text("{}")
    write_comparison(compare_runs([tmp_path]), [tmp_path], tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())["results"]
    chosen = [(row["name"], row["seed"]) for row in stored if row.get("chosen")]
    assert chosen == [("logistic", 0)]


def test_where_a_search_trained_all_methods_what_that_took_is_no_reason(tmp_path):
    add_head(tmp_path, "mlp", wrong(40), method="head", train=40)
    add_head(tmp_path, "rbf", wrong(41, first=1), method="head", train=8)
    assert compare_runs([tmp_path]).choice.chosen.name == "rbf"
    SearchSummary(600.0, 2, 48.0, {}, (), ()).save(tmp_path)
    choice = compare_runs([tmp_path]).choice
    assert choice.chosen.name == "mlp"
    assert "MLP, the best, is taken" in " ".join(choice.words)
    SearchSummary(600.0, 2, 48.0, {}, (), (), max_predict_ms=1.0).save(tmp_path)
    assert "no method predicts an image within 1 ms" in " ".join(compare_runs([tmp_path]).choice.words)


def searched(run, mistakes_of_ensemble):
    """Eight heads with mistakes of their own, all as many but for the last, and their ensemble."""
    for number in range(8):
        mistakes = np.random.default_rng(number).permutation(wrong(60 - (number == 7)))
        add_head(run, f"head-{number}", mistakes, method="head")
    mistakes = np.random.default_rng(8).permutation(wrong(mistakes_of_ensemble))
    add_head(run, "greedy", mistakes, method="ensemble", settings={"members": "head-7 0.6, head-2 0.4"})
    SearchSummary(600.0, 8, 48.0, {}, (), ()).save(run)
    return compare_runs([run]).choice


def test_an_ensemble_that_scores_as_the_best_head_will_without_its_luck_is_taken(tmp_path):
    choice = searched(tmp_path, 62)
    assert choice.chosen.name == "greedy"
    assert 0.8 < choice.expected < 1 - 62 / 400
    words = " ".join(choice.words)
    assert (
        f"the best of 8 heads is in part luck. Chosen by a part of the images and scored on the rest, the best comes to {100 * choice.expected:.1f} %"
        in words
    )
    assert "Greedy ensemble, weighed within the folds, has no less, and is taken" in words
    assert "is taken. What a prediction may cost says `max_predict_ms`." in words


def test_an_ensemble_that_scores_less_than_that_is_not_taken(tmp_path):
    choice = searched(tmp_path, 90)
    assert choice.chosen.name == "head-7"
    assert "Greedy ensemble, weighed within the folds, has less." in " ".join(choice.words)


def test_a_best_score_in_a_run_that_no_search_made_is_left_as_it_is(tmp_path):
    add_head(tmp_path, "logistic", wrong(40))
    add_head(tmp_path, "mlp", wrong(80), method="head")
    assert compare_runs([tmp_path]).choice.expected is None


def test_of_equals_a_search_takes_the_one_that_it_tried_first_whatever_either_took(tmp_path):
    add_head(tmp_path, "rbf", wrong(40), method="head", train=40)
    add_head(tmp_path, "knn", wrong(40, first=1), method="head", train=8)
    SearchSummary(600.0, 2, 48.0, {}, (), ()).save(tmp_path)
    for first, second in (("rbf", "knn"), ("knn", "rbf")):
        tried = ((1, first), (2, second))
        write_trials(tmp_path, [TrialRecord(number, name, name, "finished", 1.0, number) for number, name in tried])
        choice = compare_runs([tmp_path]).choice
        assert (choice.chosen.name, [row.name for row in choice.ranked]) == (first, [first, second])
