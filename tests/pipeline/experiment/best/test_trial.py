from dataclasses import replace

from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import read_trials
from pipeline.experiment.best.trial import HeadTrial, rank_settings
from stages.fitting.halving import DepthSetting


def result_of(run, folder):
    return Result.load(run / "seed-0" / folder)


def test_ridge_tries_all_depths_and_others_take_what_it_ranks_first(searched):
    ridge = result_of(searched, "linear-ridge")
    tried = {(each["depths"], each["block weight"]) for each in ridge.selection}
    assert len(tried) == 12
    ranked = [tuple(setting) for setting in read_trials(searched)[-1].details["ranked"]]
    for folder, place in (("linear-logistic", 0), ("linear-logistic-2", 1)):
        settings = result_of(searched, folder).settings
        assert (settings["depths"], settings["block weight"]) == ranked[place]
    assert ranked[0][0] != ranked[1][0]  # the second is of other depths


def test_the_second_setting_is_of_other_depths_than_the_first():
    class Of:
        name = ""

    class Search:
        def by_ridge(self, look):
            return [DepthSetting("all", "sqrt"), DepthSetting("all", "dim"), DepthSetting("last", "sqrt")]

    ranked = rank_settings(Search(), HeadTrial("knn", Of(), 0))
    assert ranked == [DepthSetting("all", "sqrt"), DepthSetting("last", "sqrt"), DepthSetting("all", "dim")]


def test_trials_of_a_head_have_names_and_folders_of_their_own():
    class Of:
        name = "288px"

    trials = [HeadTrial("rbf", Of(), rank) for rank in (None, 0, 1)]
    assert [trial.name for trial in trials] == ["rbf-288px", "rbf-288px", "rbf-288px-2"]
    assert trials[2].folder == "head-rbf-288px-2"
    assert replace(trials[0], head="ridge").what == "ridge of 288px"
