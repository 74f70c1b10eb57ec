from types import SimpleNamespace

from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import read_trials
from pipeline.experiment.best.trial import HeadTrial, rank_settings
from stages.fitting.halving import DepthSetting


def result_of(run, folder):
    return Result.load(run / "seed-0" / folder)


def test_the_first_rung_ranks_depths_and_others_take_what_is_first(searched):
    taken = {record.name: record.details for record in read_trials(searched) if record.number}
    scores = {}
    for name in ("logistic-last", "logistic-all", "logistic-weights"):
        for each in result_of(searched, f"linear-{name}").selection:
            setting = each["depths"], each["block weight"]
            scores[setting] = max(each["score"], scores.get(setting, 0))
    assert len(scores) == 4
    ranked = [tuple(setting) for setting in taken["ridge"]["ranked"]]
    assert scores[ranked[0]] == max(scores.values())
    assert ranked[0][0] != ranked[1][0]  # the next is of other depths
    settings = result_of(searched, "linear-ridge").settings
    assert (settings["depths"], settings["block weight"]) == ranked[0] == tuple(taken["ridge"]["settings"][0])
    assert len(taken["logistic-weights"]["settings"]) == 2


def test_the_next_setting_is_of_other_depths_than_the_first():
    rung = [DepthSetting("all", "sqrt"), DepthSetting("all", "dim"), DepthSetting("last", "sqrt")]
    search = SimpleNamespace(first_rung=rung, chooser="logistic")
    ranked = rank_settings(search, HeadTrial("knn", SimpleNamespace(name=""), rank=0))
    assert ranked == [rung[0], rung[2], rung[1]]


def test_trials_of_a_head_have_names_and_folders_of_their_own():
    main, larger = SimpleNamespace(name=""), SimpleNamespace(name="288px")
    setting = DepthSetting("all", "dim")
    trials = [
        HeadTrial("rbf", main, rank=0),
        HeadTrial("rbf", main, "2", rank=1),
        HeadTrial("rbf", larger, "288px", (setting,)),
        HeadTrial("rbf", main, "all", (setting,)),
    ]
    assert [trial.folder for trial in trials] == ["head-rbf", "head-rbf-2", "head-rbf-288px", "head-rbf-all"]
    assert [trial.what for trial in trials] == [
        "RBF SVM on the best depths",
        "RBF SVM on the best but 1 of the depths",
        "RBF SVM on 288px, depths all",
        "RBF SVM on all, block weight dim",
    ]
