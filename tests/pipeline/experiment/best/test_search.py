"""As many trials are the same bits, however they came about; a search is stopped anywhere and has an answer."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from itertools import islice

import pytest

from cache.atomic_write import write_atomically
from cache.errors import CacheError, UsageError, WeightsError
from pipeline.cli.app import main
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import read_search, read_trials, write_trials
from pipeline.experiment.best import look, order, search, trial
from pipeline.experiment.best.budget import Budget, parse_budget
from pipeline.experiment.methods import ensemble_methods, head_methods
from stages.fitting.halving import DepthSetting
from tests.photographs import make_folder
from tests.pipeline.experiment.best.conftest import FIRST as FIRST_TRIALS
from tests.pipeline.experiment.best.conftest import HEADS, Clock, Searcher, search_in

FIRST = [*FIRST_TRIALS]
FOLDERS = {f"{'head' if name == 'knn' else 'linear'}-{name}" for name in FIRST} | {"ensemble-greedy"}
SAME = ("predictions.npz", "validation.npz", "out-of-fold.npz", "head.safetensors", "head.json")


def bits(run):
    """All that a search computed: by method and file; of archives their content, since they have times in them."""
    found = {path: path.read_bytes() for name in SAME for path in sorted(run.glob(f"seed-0/*/{name}"))}
    return {f"{path.parent.name}/{path.name}": content for path, content in found.items()}


def finished(run):
    return [record.name for record in read_trials(run) if record.number and record.state == "finished"]


def scores(run):
    tried = [record for record in read_trials(run) if record.number]
    return {record.name: (record.score, record.scored, record.details["settings"]) for record in tried}


def chosen(run):
    results = json.loads((run / "results.json").read_text())["results"]
    return [result["name"] for result in results if result.get("chosen")]


def test_trials_are_methods_of_the_run_and_one_of_all_is_chosen(searched):
    assert finished(searched) == FIRST
    assert {path.parent.name for path in searched.glob("seed-0/*/model.json")} == FOLDERS
    assert len(chosen(searched)) == 1
    assert read_search(searched).chosen["name"] == chosen(searched)[0]
    assert (searched / "report.html").exists()


def test_a_replay_and_as_many_trials_give_the_same_bits(searched, search_photographs, tmp_path, caplog):
    with pytest.raises(UsageError, match=r"`cv` 3 there and 4 here") as refused:
        search_photographs(tmp_path / "replayed", replay=searched, head=replace(HEADS, cv=4))
    command = str(refused.value).partition("With those of there: ")[2]
    with caplog.at_level("INFO", logger="cutonce"):
        assert main(shlex.split(command)[1:]) == 0
    again = f"cutonce best --config {tmp_path}/replayed/config.toml --replay {tmp_path}/replayed --out {tmp_path}/"
    assert f"The same trials again, to the same bits: {again}replayed-again" in caplog.text
    assert f"All 5 trials score as in {searched}, to the last digit." in caplog.text
    assert finished(tmp_path / "replayed") == FIRST
    assert bits(tmp_path / "replayed") == bits(searched)
    assert scores(tmp_path / "replayed") == scores(searched)


def test_a_budget_decides_how_many_trials_there_are_and_the_same_command_goes_on_to_the_same_bits(
    searched, search_photographs, tmp_path, monkeypatch
):
    clock, run_head, began = Clock(), trial.run_head, []

    def takes_ten_seconds(*arguments):
        began.append((arguments[-1], clock.now))
        clock.now += 10
        return run_head(*arguments)

    monkeypatch.setattr(trial, "run_head", takes_ten_seconds)
    # knn is expected to take 3 seconds and takes 10; two weightings of logistic would take twice the 10 that one took
    search_photographs(tmp_path / "run", budget=Budget(34, clock=clock))
    assert [name for name, _ in began] == FIRST[:3]
    assert clock.now - 100 <= 34
    summary = read_search(tmp_path / "run")
    assert (summary.upcoming[0]["name"], summary.upcoming[0]["seconds"]) == ("logistic-weights", 20)
    assert "block weight dim and equal (about 20 s)" in " ".join(summary.words)
    # the budget counts anew, and what is finished takes none of it
    monkeypatch.setattr(search, "all_trials", lambda found: islice(order.all_trials(found), 5))
    search_photographs(tmp_path / "run", budget=Budget(50, clock=clock))
    assert [name for name, _ in began] == FIRST
    assert "All there is to try has been tried" in " ".join(read_search(tmp_path / "run").words)
    assert bits(tmp_path / "run") == bits(searched)
    assert [record.at for record in read_trials(tmp_path / "run")] == [10, 20, 30, 40, 50]


def test_the_budget_that_is_named_for_the_next_trial_suffices_for_what_comes_before_it_too(
    searched, search_photographs, tmp_path, monkeypatch
):
    shutil.copytree(searched, tmp_path / "run")
    for name in ("knn", "logistic-weights", "ridge"):
        write_trials(tmp_path / "run", [record for record in read_trials(tmp_path / "run") if record.name != name])
    clock, find = Clock(), trial.find_finished_head

    def takes_two_seconds(*arguments):
        clock.now += 2
        return find(*arguments)

    monkeypatch.setattr(trial, "find_finished_head", takes_two_seconds)
    monkeypatch.setattr(search.Search, "head_seconds", lambda found, head: 2.5)
    search_photographs(tmp_path / "run", budget=Budget(0.1, clock=clock))
    assert finished(tmp_path / "run") == FIRST[:2]
    words = " ".join(read_search(tmp_path / "run").words)
    named = parse_budget(re.search(r"with a `budget` of ([\d.]+ \w+) for the next", words)[1])
    assert named == 7, "2.5 for the next after 2 for each that is finished, rounded up"
    search_photographs(tmp_path / "run", budget=Budget(named, clock=clock))
    assert finished(tmp_path / "run")[:3] == FIRST[:3]


def test_a_trial_that_is_stopped_leaves_the_answer_of_before_and_is_run_again(
    searched, search_photographs, tmp_path, monkeypatch
):
    save_model, stopped = head_methods.save_model, []

    def interrupted_in_logistic(directory, *arguments, **options):
        if directory.name.endswith("linear-logistic-all"):
            stopped.append("linear-logistic-all")
            raise KeyboardInterrupt
        save_model(directory, *arguments, **options)

    monkeypatch.setattr(head_methods, "save_model", interrupted_in_logistic)
    _, interrupted = search_photographs(tmp_path / "run", 5)
    assert interrupted
    assert stopped == ["linear-logistic-all"]  # its result was written, its model was not
    assert finished(tmp_path / "run") == FIRST[:1]
    assert [record.state for record in read_trials(tmp_path / "run")][-1] == "interrupted"
    assert chosen(tmp_path / "run")[0] == FIRST[0]
    assert not (tmp_path / "run" / "seed-0" / "linear-logistic-all" / "result.json").exists()
    assert (tmp_path / "run" / "report.html").exists()
    monkeypatch.setattr(head_methods, "save_model", save_model)
    search_photographs(tmp_path / "run", 5)
    assert finished(tmp_path / "run") == FIRST
    assert bits(tmp_path / "run") == bits(searched)


def test_the_first_trial_that_is_stopped_has_no_answer(search_photographs, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "run_head", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search_photographs(tmp_path / "run", 5)


def test_a_trial_that_fails_is_told_and_passed_over(search_photographs, tmp_path, monkeypatch, caplog):
    run_head = trial.run_head

    def fails(*arguments):
        if arguments[-1] == "knn":
            raise UsageError("it is not to be")
        return run_head(*arguments)

    monkeypatch.setattr(trial, "run_head", fails)
    with caplog.at_level("INFO", logger="cutonce"):
        search_photographs(tmp_path / "run", 3)
    assert finished(tmp_path / "run") == ["logistic-last", "logistic-all"]
    assert "knn failed, and is passed over: it is not to be" in caplog.text
    assert "Failed: kNN (it is not to be)." in " ".join(read_search(tmp_path / "run").words)


def test_a_trial_that_could_not_be_written_is_tried_again_by_the_same_command(
    searched, search_photographs, tmp_path, monkeypatch
):
    run_head = trial.run_head
    (tmp_path / "disk").write_text("no folder")

    def cannot_be_written(*arguments):
        if arguments[-1] == "knn":
            write_atomically(tmp_path / "disk" / "head.safetensors", b"all of it")
        return run_head(*arguments)

    monkeypatch.setattr(trial, "run_head", cannot_be_written)
    search_photographs(tmp_path / "run", 5)
    assert finished(tmp_path / "run") == [name for name in FIRST if name != "knn"]
    assert "Failed: kNN (" in " ".join(read_search(tmp_path / "run").words)
    monkeypatch.setattr(trial, "run_head", run_head)
    search_photographs(tmp_path / "run", 5)
    assert finished(tmp_path / "run") == FIRST
    assert "Failed" not in " ".join(read_search(tmp_path / "run").words)
    assert bits(tmp_path / "run") == bits(searched)


def test_other_options_are_refused_where_the_run_has_trials_made_with_these(searched, search_photographs, tmp_path):
    shutil.copytree(searched, tmp_path / "run")
    with pytest.raises(UsageError, match="c_values"):
        search_photographs(tmp_path / "run", 5, head=replace(HEADS, c_values=(1e-2,)))


def test_what_would_come_next_is_told_without_being_computed(search_photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "SHOWN_NEXT", 3)
    search_photographs(tmp_path / "run", 1)
    upcoming = [each["name"] for each in read_search(tmp_path / "run").upcoming]
    assert upcoming == ["logistic-all", "knn", "ridge"]  # weights would change nothing where the last layer is best


def test_the_time_of_the_extraction_is_counted_once(search_photographs, tmp_path, monkeypatch):
    clock, extract = Clock(), look.extract_features

    def in_thirty_seconds(*arguments):
        clock.now += 30
        return extract(*arguments)

    monkeypatch.setattr(look, "extract_features", in_thirty_seconds)
    budget = Budget(trials=1, clock=clock)
    search_photographs(tmp_path / "run", budget=budget, features={"cache": tmp_path / "cache"})
    assert [(record.number, record.at) for record in read_trials(tmp_path / "run")] == [(0, 30), (1, 30)]


def test_a_trial_of_which_nothing_can_be_said_is_passed_over(search_photographs, tmp_path, monkeypatch):
    seconds = trial.HeadTrial.seconds

    def unknown(self, search):
        if self.name == "knn":
            raise UsageError("it takes images of one size")
        return seconds(self, search)

    monkeypatch.setattr(trial.HeadTrial, "seconds", unknown)
    search_photographs(tmp_path / "run", 4)
    assert finished(tmp_path / "run") == ["logistic-last", "logistic-all", "logistic-weights"]
    assert [record.state for record in read_trials(tmp_path / "run") if record.name == "knn"] == ["failed"]


def test_an_ensemble_that_is_stopped_half_written_is_not_taken(search_photographs, tmp_path, monkeypatch):
    save = ensemble_methods.save_model

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ensemble_methods, "save_model", interrupted)
    _, stopped = search_photographs(tmp_path / "run", 4)
    assert stopped
    methods = {path.parent.name for path in (tmp_path / "run").glob("seed-0/*/result.json")}
    assert methods == {"linear-logistic-last", "linear-logistic-all"}
    assert len(chosen(tmp_path / "run")) == 1
    assert "the same command goes on" in " ".join(read_search(tmp_path / "run").words)
    monkeypatch.setattr(ensemble_methods, "save_model", save)


def test_an_ensemble_that_cannot_be_made_anew_stays_as_it_was(search_photographs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    search_photographs(run, 2)
    ensemble = run / "seed-0" / "ensemble-greedy"
    before = {path.name: path.read_bytes() for path in ensemble.iterdir()}

    def no_room(*_, **__):
        raise CacheError("no room for it")

    with monkeypatch.context() as patched:
        patched.setattr(ensemble_methods, "save_model", no_room)
        with pytest.raises(CacheError, match="no room for it"):
            search_photographs(run, 3)
    assert {path.name: path.read_bytes() for path in ensemble.iterdir()} == before
    search_photographs(run, 3)
    assert "kNN" in Result.load(ensemble).settings["chosen from"]


def test_heads_on_depths_are_kept_once(searched):
    """Nothing starts from them as they were without validation, and a kernel machine holds all rows."""
    assert list(searched.glob("seed-0/*/head.safetensors"))
    assert not list(searched.glob("seed-0/*/head-without-val.*"))


def test_nothing_is_left_in_the_way_of_a_model_that_is_not_complete_but_what_its_training_goes_on_from(tmp_path):
    names = {"head.safetensors", "head.json", "head-without-val.safetensors", "head-without-val.json", "result.json"}
    for name in {*names, "unlike.safetensors", "top.safetensors", "out-of-fold.npz", "checkpoint.pt"}:
        (tmp_path / name).write_text("half")
    (tmp_path / "model.json").write_text("{}")
    search.discard_half(tmp_path)
    assert names < {path.name for path in tmp_path.iterdir()}
    (tmp_path / "model.json").unlink()
    search.discard_half(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_a_prediction_may_cost_reaches_the_choice(search_photographs, tmp_path):
    comparison, _ = search_photographs(tmp_path / "run", 2, max_predict_ms=1e-6)
    assert read_search(tmp_path / "run").max_predict_ms == 1e-6
    assert "no method predicts an image within 1e-06 ms" in " ".join(comparison.choice.words)


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 12.0 GiB for an array"), RuntimeError("can't allocate memory: you tried\n many")],
)
def test_a_trial_that_memory_does_not_suffice_for_is_passed_over_and_tried_again_by_the_same_command(
    searched, search_photographs, tmp_path, monkeypatch, error
):
    run_head = trial.run_head

    def is_too_large(*arguments):
        if arguments[-1] == "knn":
            raise error
        return run_head(*arguments)

    monkeypatch.setattr(trial, "run_head", is_too_large)
    search_photographs(tmp_path / "run", 5)
    assert finished(tmp_path / "run") == [name for name in FIRST if name != "knn"]
    words = " ".join(read_search(tmp_path / "run").words)
    reason = str(error).partition("\n")[0]
    assert f"Failed: kNN (memory does not suffice for kNN on the best depths: {reason})." in words
    monkeypatch.setattr(trial, "run_head", run_head)
    search_photographs(tmp_path / "run", 5)
    assert finished(tmp_path / "run") == FIRST
    assert bits(tmp_path / "run") == bits(searched)


def test_a_trial_that_lacked_images_is_tried_again_when_these_are_back(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "photographs")
    away, place = tmp_path / "away.jpg", sorted(folder.glob("*/*"))[0]
    first_rung = order.first_rung

    def on_larger_images(found):
        yield from islice(first_rung(found), 1)
        if not away.exists():
            place.rename(away)
        yield trial.HeadTrial("logistic", found.look("48px", replace(found.main.options, image_size=48)), "48px")

    monkeypatch.setattr(search, "all_trials", on_larger_images)
    searcher = Searcher(folder, tmp_path / "cache")
    searcher(tmp_path / "run", 2)
    assert finished(tmp_path / "run") == ["logistic-last"]
    assert "Failed: logistic (48px) (1 of the images" in " ".join(read_search(tmp_path / "run").words)
    shutil.copyfile(away, place)
    searcher(tmp_path / "run", 2)
    assert finished(tmp_path / "run") == ["logistic-last", "logistic-48px"]


def test_a_defect_in_a_trial_is_not_passed_over(search_photographs, tmp_path, monkeypatch):
    def is_wrong(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(trial, "run_head", is_wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        search_photographs(tmp_path / "run", 5)


def test_records_stand_in_the_order_of_the_search_whenever_each_was_made(searched, search_photographs, tmp_path):
    """Of equal scores the first counts as the better one: what follows must not hang on what was run again."""
    shutil.copytree(searched, tmp_path / "run")
    begun = search_in(tmp_path / "run", search_photographs)
    again = next(record for record in begun.records if record.name == "knn")
    search.record_trial(begun, replace(again, at=999.0))
    assert [record.name for record in begun.finished] == FIRST == finished(tmp_path / "run")


def test_a_finished_trial_whose_network_is_damaged_since_stays_and_ends_nothing(
    search_photographs, tmp_path, monkeypatch, caplog
):
    def on_two_networks(found):
        yield from islice(order.first_rung(found), 1)
        second = found.look("lite2", replace(found.main.options, backbone="efficientnet_lite2"))
        yield trial.HeadTrial("logistic", second, "lite2", (DepthSetting("last", "sqrt"),))
        yield trial.HeadTrial("knn", found.main, rank=0)

    monkeypatch.setattr(search, "all_trials", on_two_networks)
    search_photographs(tmp_path / "run", 2)
    assert finished(tmp_path / "run") == ["logistic-last", "logistic-lite2"]
    build = look.build_extractor

    def damaged(options):
        if options.backbone == "efficientnet_lite2":
            raise WeightsError("its weights are damaged")
        return build(options)

    monkeypatch.setattr(look, "build_extractor", damaged)
    with caplog.at_level("INFO", logger="cutonce"):
        search_photographs(tmp_path / "run", 3)
    assert "logistic-lite2 is finished, and stays out of what comes next: its weights are damaged" in caplog.text
    assert finished(tmp_path / "run") == ["logistic-last", "logistic-lite2", "knn"]
    monkeypatch.setattr(look, "build_extractor", build)
    search_photographs(tmp_path / "run", 3)
    members = Result.load(tmp_path / "run" / "seed-0" / "ensemble-mixed").settings["chosen from"]
    assert "linear-logistic-lite2" in members
