import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.experiment.best import other_looks
from pipeline.experiment.best.answer import combine
from pipeline.experiment.best.budget import Budget
from pipeline.experiment.best.look import Look
from pipeline.experiment.best.search import Search, _run
from stages.config.head_registry import find_head
from tests.pipeline.experiment.best.conftest import search_in


@pytest.fixture
def search(search_photographs, searched):
    return search_in(searched, search_photographs)


def test_larger_images_and_the_other_network_are_proposed_the_cheaper_pass_first(search):
    larger, second = other_looks.larger(search), other_looks.second_network(search)
    assert larger.extractor.image_shape == (64, 64)
    assert second.options.backbone == "efficientnet_lite2"
    trials = list(other_looks.other_looks(search))
    best = search.best_trials("", 3)
    assert len(best) == 3
    assert len({head for head, _, _ in best}) == 2
    looks = ["efficientnet_lite2", "64px"]  # at 32 pixels the larger network is the cheaper pass
    names = [[f"{best[0][0]}-{look}", f"{best[1][0]}-{look}", f"{best[2][0]}-{look}"] for look in looks]
    second = next(place for place in (1, 2) if best[place][0] in [head for head, _, _ in best[:place]])
    for of_look in names:
        of_look[second] += "-2"
    assert [trial.name for trial in trials] == [name for of_look in names for name in of_look]
    # each on the one setting of depths that served it best
    assert [trial.settings for trial in trials] == [settings for _, _, settings in best] * 2
    assert all(len(settings) == 1 for _, _, settings in best)
    assert len({(head, settings) for head, _, settings in best}) == 3


def test_of_one_head_there_are_two_at_most(search):
    of_logistic = [settings for head, _, settings in search.best_trials("", 9) if head == "logistic"]
    assert len(of_logistic) == len(set(of_logistic)) == 2
    scores = [score for _, score, _ in search.best_trials("", 9)]
    assert scores == sorted(scores, reverse=True)


def test_mirror_images_are_the_cheapest_look_and_the_others_are_of_both_where_they_helped(search):
    trials = list(other_looks.mirrored_look(search))
    best = search.best_trials("", 3)
    assert [trial.head for trial in trials] == [head for head, _, _ in best]
    assert trials[0].name == f"{best[0][0]}-mirror"
    assert trials[0].look.options == replace(search.main.options, mirror=True)
    # of the photographs features are there, of their mirror images none
    images = len(search.about.manifest.distinct_images.keys)
    assert trials[0].look.missing == images
    a_pass = search.main.seconds_an_image
    assert trials[0].look.seconds_left(search.main) == pytest.approx(images * a_pass)
    (head, score, _), *_ = best
    name = next(record.name for record in search.finished if (record.score, record.details["head"]) == (score, head))
    search.results[f"{head}-mirror"] = search.results[name]
    record = replace(search.finished[-1], name=f"{head}-mirror", details={"head": head, "look": "mirror"})
    for better, names in (
        (False, ["64px", "efficientnet_lite2"]),
        (True, ["64px-mirror", "efficientnet_lite2-mirror"]),
    ):
        search.records = [*search.records[:6], replace(record, score=score + (0.01 if better else 0.0))]
        looks = [other_looks.larger(search), other_looks.second_network(search)]
        assert [look.name for look in looks] == names
        assert [look.options.mirror for look in looks] == [better] * 2
    assert looks[0].seconds_left(search.main) == pytest.approx(2 * images * a_pass * 4)
    assert looks[0].seconds_left(search.main, guessed=True) == pytest.approx(2 * images * a_pass * 4)


def test_rows_that_are_of_mirror_images_already_have_no_such_look(search):
    search.main = Look("", replace(search.main.options, mirror=True), search.about)
    assert list(other_looks.mirrored_look(search)) == []


@pytest.mark.parametrize(("side", "larger"), [(224, "288px"), (32, "64px"), (128, "160px"), (300, "416px")])
def test_a_side_is_a_multiple_of_the_strides_and_larger(search, side, larger):
    seen = SimpleNamespace(image_shape=(side, side), backbone=SimpleNamespace(handed_in=False))
    search.main = SimpleNamespace(extractor=seen, options=search.main.options)
    assert other_looks.larger(search).name == larger
    seen.image_shape = (side, side + 1)
    assert other_looks.larger(search) is None


def test_weights_of_ones_own_have_no_second_network_and_nothing_comes_before_a_result(search, tmp_path):
    search.main = Look("", replace(search.main.options, weights="none"), search.about)
    assert other_looks.second_network(search) is None
    search.results.clear()
    assert list(other_looks.other_looks(search)) == []


class Trials:
    """Takes the trials of a class as they come, each with the score that its look is given."""

    def __init__(self, search, scores):
        self.search, self.scores = search, scores
        self.like = next(record for record in search.finished if record.details["head"] == "ridge")

    def __call__(self, trials):
        names = []
        for trial in trials:
            names.append(trial.name)
            details = {"head": trial.head, "look": trial.look.name}
            record = replace(self.like, name=trial.name, score=self.scores(trial.look.name), details=details)
            self.search.results[trial.name] = self.search.results[self.like.name]
            self.search.records = [*self.search.records, record]
        return names


def looks_of(names):
    return list(dict.fromkeys(name.partition("-")[2].removesuffix("-2") for name in names))


@pytest.mark.parametrize(
    ("best_side", "looks"),
    [
        (32, ["efficientnet_lite1"]),
        (64, ["efficientnet_lite1-64px", "96px"]),
        (128, ["efficientnet_lite1-64px", "96px", "128px", "160px"]),
    ],
)
def test_further_networks_see_the_best_size_and_images_grow_as_long_as_that_helps(search, best_side, looks):
    def score(look):
        side = int(look.removesuffix("px")) if look.endswith("px") and look[0].isdigit() else 32
        return 2.0 + side / 1000 if side <= best_side else 0.0

    take = Trials(search, score)
    assert looks_of(take(other_looks.other_looks(search))) == ["efficientnet_lite2", "64px"]
    trials = take(other_looks.further_looks(search))
    assert looks_of(trials) == looks
    assert len(trials) == 3 * len(looks)


def test_of_several_further_networks_the_cheaper_pass_comes_first(search, monkeypatch):
    """The largest has had its pass by then."""
    networks = ["efficientnet_lite9", "efficientnet_lite2", "efficientnet_lite1"]
    monkeypatch.setattr(other_looks, "other_networks", lambda _: networks)
    trials = list(other_looks.further_looks(search))
    assert looks_of([trial.name for trial in trials]) == ["efficientnet_lite1", "efficientnet_lite2"]


def test_without_a_larger_look_nothing_grows(search):
    """As where the pass failed, or no trial was made on it."""
    trials = list(other_looks.further_looks(search))
    assert looks_of([trial.name for trial in trials]) == ["efficientnet_lite1"]
    assert trials[0].look.options.image_size == search.main.options.image_size
    search.results.clear()
    assert list(other_looks.further_looks(search)) == []


def test_heads_of_all_looks_are_averaged_and_the_mean_is_ranked_with_them(search, searched, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(searched, copy)
    about = replace(search.about, directory=copy / "seed-0")
    again = Search.of(copy, about, Look("", search.main.options, about))
    again.results = dict(search.results)
    trial = next(iter(other_looks.other_looks(again)))
    _run(again, Budget(trials=1), 6, trial)
    mixed = next(result for result in combine(again) if result.name == "mixed")
    assert {"head-knn", "linear-ridge", trial.folder} <= set(mixed.settings["chosen from"].split(", "))
    assert mixed.cv is not None
    assert (copy / "seed-0" / "ensemble-mixed" / "members.json").exists()


@pytest.mark.parametrize(("repeated_below", "repeats"), [(300, 5), (10, 1)])
def test_epochs_over_many_numbers_and_in_many_folds_are_expected_to_take_as_much_longer(
    search, monkeypatch, repeated_below, repeats
):
    monkeypatch.setattr("stages.fitting.folds.REPEATED_BELOW", repeated_below)
    known = search.head_seconds("logistic")
    of_mlp, of_cosine = (find_head(head).cost / find_head("logistic").cost for head in ("mlp", "cosine"))
    assert search.head_seconds("cosine") / known == pytest.approx(of_cosine * repeats * 27_280 / 4096)
    assert search.head_seconds("mlp") / known == pytest.approx(of_mlp * repeats)  # in the span of the few rows
    monkeypatch.setattr("stages.fitting.span.EXACT_UP_TO", 0)
    search.about = replace(search.about, head=replace(search.about.head, nystroem_components=100_000))
    assert search.head_seconds("mlp") / known == pytest.approx(of_mlp * repeats)
    search.main = Look("", replace(search.main.options, taps="", pool="avg"), search.about)
    assert search.head_seconds("mlp") / known == pytest.approx(of_mlp * repeats)
    assert search.head_seconds("cosine") / known == pytest.approx(of_cosine * repeats)
    assert search.head_seconds("svm") / known == pytest.approx(find_head("svm").cost / find_head("logistic").cost)
