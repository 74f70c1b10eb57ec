"""A method of a run is there as it was, or as it is now: never a part of either, whoever is killed."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cache.atomic_write import atomic_path
from cache.errors import CacheError, DataError
from cache.kept import forget_kept, kept_words
from pipeline.evaluation.method_folders import files_of_methods, made_whole, put_back, remove_method, share_file
from pipeline.evaluation.results import Result, load_results
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.finetune_methods import run_finetune
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.models.model_store import open_model
from pipeline.run_layout import MODEL_CARD, RESULT, fold_dir, replaced_dir, seed_dir
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from tests.pipeline.finished_runs import predictions, result
from tests.ready_processes import ReadyProcess
from tests.renames import take_over

SMALL = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 64}


def experiment_of(photographs: Path, folder: Path, *, overwrite: bool = False) -> Experiment:
    extractor = build_extractor(FeatureConfig(cache=folder / "cache", device="cpu", **SMALL))
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(extractor, manifest)
    return Experiment(extractor, manifest, 0, folder / "run" / "seed-0", overwrite=overwrite)


def train_head(photographs: Path, folder: Path, neighbors: int) -> None:
    run_heads(experiment_of(photographs, folder, overwrite=True), ["knn"], HeadConfig(n_neighbors=(neighbors,)))


def tune(photographs: Path, folder: Path, percent: int) -> None:
    options = FinetuneConfig(
        unfreeze="1", epochs=1, init_head="ncm", num_workers=0, label_smoothing=percent / 100, name="net"
    )
    run_finetune(experiment_of(photographs, folder, overwrite=True), options, HeadConfig())


def killed_at(moment: int, train, *arguments: object) -> None:
    """Train, and be killed when the files of a run were given their names so many times."""
    renamed, count = os.rename, itertools.count(1)
    replaced = os.replace

    def killing(rename):
        def rename_or_die(source, target, **options):
            if "run" in Path(target).parts and "seed-0" in str(target) and next(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(source, target, **options)

        return rename_or_die

    take_over("rename", killing(renamed))
    take_over("replace", killing(replaced))
    train(*arguments)


@pytest.mark.parametrize(("train", "method"), [(train_head, "head-knn"), (tune, "finetune-net")])
def test_who_is_killed_while_a_method_is_written_leaves_the_former_one_or_the_new_one(
    photographs, tmp_path, train, method
):
    directory = tmp_path / "run" / "seed-0" / method
    train(photographs, tmp_path, 5)
    former, seen, moment = read_recipe(directory).identity, [], 0
    while former == read_recipe(directory).identity:
        moment += 1
        process = ReadyProcess(killed_at, moment, train, photographs, tmp_path, 7)
        code = process.finish().returncode
        assert code in (-signal.SIGKILL, 0), process.said("stderr")
        found = {result.directory.name: result for result in load_results([tmp_path / "run"])}[method]
        recipe, _, network = open_model(directory, "cpu")
        assert recipe.task == found.task.to_json()
        assert found.validation_predictions is not None
        assert network is not None
        seen.append(code)
    assert moment > 6  # it was killed before each file of the model, and before either folder was moved
    assert seen[:-1] == [-signal.SIGKILL] * (moment - 1)
    process = ReadyProcess(train, photographs, tmp_path, 9)
    assert process.finish().returncode == 0, process.said("stderr")
    assert read_recipe(directory).identity != former
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"seed-0"}, "nothing of the dead is left"


def write_slowly(directory: Path, content: str) -> None:
    for _ in range(5):
        with made_whole(directory) as fresh:
            for number in range(20):
                (fresh / f"{number}.txt").write_text(content)
                time.sleep(0.005)


def test_commands_that_write_a_method_at_once_do_so_one_after_the_other(tmp_path):
    directory = tmp_path / "seed-0" / "linear-ridge"
    processes = [ReadyProcess(write_slowly, directory, content) for content in "abc"]
    for process in processes:
        finished = process.finish()
        assert finished.returncode == 0, finished.stderr
    contents = {path.read_text() for path in directory.iterdir()}
    assert len(contents) == 1
    assert len(list(directory.iterdir())) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def fork_while_writing(directory: Path) -> None:
    with made_whole(directory):
        child = os.fork()
        if not child:
            time.sleep(120)
            os._exit(0)
    directory.with_name("child").write_text(str(child))


def test_a_process_that_was_forked_while_a_method_was_written_holds_up_nobody(tmp_path):
    directory = tmp_path / "seed-0" / "linear-ridge"
    forking = ReadyProcess(fork_while_writing, directory).finish()
    assert forking.returncode == 0, forking.stderr
    try:
        assert ReadyProcess(write_slowly, directory, "next").finish(timeout=60).returncode == 0
    finally:
        os.kill(int(directory.with_name("child").read_text()), signal.SIGKILL)


def test_a_method_that_is_made_anew_stands_where_it_stood_until_it_is_whole(tmp_path):
    directory = tmp_path / "seed-0" / "ensemble-greedy"
    directory.mkdir(parents=True)
    (directory / MODEL_CARD).write_text("former")
    forget_kept()
    for error in (KeyboardInterrupt, CacheError):
        with pytest.raises(error), made_whole(directory) as fresh:
            (fresh / RESULT).write_text("half")
            assert files_of_methods(tmp_path, RESULT) == []
            raise error
        assert [path.name for path in directory.iterdir()] == [MODEL_CARD]
        assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]
    assert kept_words() == ""
    (tmp_path / ".seed-0-ensemble-greedy").mkdir()  # of a command that was killed
    (tmp_path / ".seed-0-ensemble-greedy" / "head.safetensors").write_text("half")
    directory.rename(replaced_dir(directory))  # killed when the new one was about to take its place
    with pytest.raises(error), made_whole(directory):
        raise error
    assert [path.name for path in directory.iterdir()] == [MODEL_CARD]
    with made_whole(directory) as fresh:
        (fresh / RESULT).write_text("whole")
    assert [path.name for path in directory.iterdir()] == [RESULT]
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]
    assert kept_words() == "1 result"
    nowhere = directory.with_name("linear-new")
    with pytest.raises(CacheError, match=r"linear-new cannot be written: No such file"), made_whole(nowhere) as fresh:
        (fresh / "missing" / "file").write_text("nowhere")
    assert [path.name for path in directory.parent.iterdir()] == ["ensemble-greedy"]


def test_a_method_of_an_outer_fold_is_in_no_list_before_it_is_whole(tmp_path):
    directory = fold_dir(seed_dir(tmp_path, 3), 1) / "linear-fold-2-mine"
    with made_whole(directory) as fresh:
        (fresh / RESULT).write_text("half")
        assert files_of_methods(tmp_path, RESULT) == []
    assert (directory / RESULT).read_text() == "half"
    directory.rename(replaced_dir(directory))
    files_of_methods(tmp_path, RESULT)
    assert (directory / RESULT).exists()


def test_whoever_looks_for_methods_finds_one_that_was_about_to_be_replaced(tmp_path):
    directory = seed_dir(tmp_path, 0) / "finetune-replaced"
    made = result(predictions([0, 1, 0, 1], [0, 0, 0, 1]))
    for look in (lambda: load_results([tmp_path]), lambda: read_recipe(directory)):
        made.save(directory, predictions([0, 1, 0, 1], [0, 0, 0, 1]))
        directory.rename(replaced_dir(directory))
        look()
        assert Result.load(directory).test == made.test
        assert not replaced_dir(directory).exists()


def test_one_that_cannot_be_put_back_is_told_with_what_to_do(tmp_path, monkeypatch):
    directory = seed_dir(tmp_path, 0) / "linear-ridge"
    replaced_dir(directory).mkdir(parents=True)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DataError, match=r"about to replace .*linear-ridge: rename .*\.replaced-seed-0-linear-ridge to"):
        load_results([tmp_path])


def test_what_was_replaced_is_not_put_back_in_part_where_it_was_being_removed(tmp_path, monkeypatch):
    directory = seed_dir(tmp_path, 0) / "linear-ridge"
    for content in ("former", "new"):
        with monkeypatch.context() as patched:
            patched.setattr("shutil.rmtree", lambda *_, **__: None)  # as if killed before anything is removed
            with made_whole(directory) as fresh:
                (fresh / RESULT).write_text(content)
    (directory / RESULT).unlink()
    directory.rmdir()  # as a message says where one is damaged
    assert files_of_methods(tmp_path, RESULT) == []
    with made_whole(directory):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def test_a_method_that_is_taken_out_of_a_run_is_gone_at_once(tmp_path, monkeypatch):
    directory = seed_dir(tmp_path, 0) / "ensemble-greedy"
    remove_method(directory)  # there is none
    with made_whole(directory) as fresh:
        (fresh / RESULT).write_text("former")
    with monkeypatch.context() as patched:  # who is killed when it is moved leaves no part of it among the methods
        patched.setattr("shutil.rmtree", lambda *_, **__: None)
        remove_method(directory)
    assert files_of_methods(tmp_path, RESULT) == []
    assert not directory.exists()
    with made_whole(directory) as fresh:
        (fresh / RESULT).write_text("next")
    directory.rename(replaced_dir(directory))  # as a command leaves it that was killed while it replaced it
    remove_method(directory)
    assert files_of_methods(tmp_path, RESULT) == []
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def test_a_reader_that_puts_a_method_back_while_it_is_replaced_does_not_keep_it_from_that(tmp_path, monkeypatch):
    directory = seed_dir(tmp_path, 0) / "linear-ridge"
    directory.mkdir(parents=True)
    (directory / RESULT).write_text("former")
    rename, reads = Path.rename, iter(range(2))

    def disturbed(source, target):
        if target == directory and source != replaced_dir(directory) and next(reads, None) is not None:
            put_back(directory)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", disturbed)
    with made_whole(directory) as fresh:
        (fresh / RESULT).write_text("new")
    assert (directory / RESULT).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def test_a_result_that_is_replaced_while_it_is_read_is_the_former_one_or_the_new_one(tmp_path):
    directory = seed_dir(tmp_path, 0) / "linear-ridge"
    rights = [predictions([0, 1] * 50, [number < wrong for number in range(100)]) for wrong in (10, 30)]
    made = [result(predicted) for predicted in rights]

    def put(number: int) -> None:
        with made_whole(directory) as fresh:
            made[number].save(fresh, rights[number])

    put(0)
    stopped = threading.Event()

    def replace() -> None:
        for number in itertools.cycle((1, 0)):
            put(number)
            if stopped.is_set():
                return

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        scores = {load_results([tmp_path])[0].test["accuracy"] for _ in range(200)}
    finally:
        stopped.set()
        writer.join()
    assert scores == {0.9, 0.7}


@pytest.mark.parametrize("links", [True, False])
def test_a_shared_file_is_one_where_it_can_be_and_stays_as_it_was_when_the_other_is_replaced(
    tmp_path, monkeypatch, links
):
    def refused(*_):
        raise PermissionError("one name each")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    file, name = tmp_path / "file", tmp_path / "name"
    file.write_bytes(b"model")
    for _ in range(2):
        share_file(file, name)
        assert name.read_bytes() == b"model"
        assert name.samefile(file) == links
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "name"]
    with atomic_path(file) as temporary:
        temporary.write_bytes(b"trained anew")
    assert name.read_bytes() == b"model"
