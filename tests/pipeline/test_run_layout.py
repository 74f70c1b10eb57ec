import os
import re
from pathlib import Path

from pipeline import run_layout
from pipeline.run_layout import (
    comparison_dir,
    files_of_seeds,
    fold_dirs,
    methods_with,
    part_of_run,
    run_of,
    seed_dir,
    seed_dirs,
    seed_of,
)

PIPELINE = Path(run_layout.__file__).parent


def test_folders_of_seeds_are_found_again_in_the_order_of_the_seeds(tmp_path):
    for seed in (10, 2, 0):
        method = seed_dir(tmp_path, seed) / "linear-logistic"
        method.mkdir(parents=True)
        (method / run_layout.RESULT).touch()
        (method.parent / run_layout.MANIFEST).touch()
    assert [seed_of(path.parent) for path in files_of_seeds(tmp_path, run_layout.MANIFEST)] == [0, 2, 10]
    results = methods_with(tmp_path, run_layout.RESULT)
    assert {seed_of(path.parent.parent) for path in results} == {0, 2, 10}
    assert {run_of(path.parent) for path in results} == {tmp_path}


def test_what_somebody_has_put_aside_is_no_seed_and_no_fold(tmp_path):
    for name in ("seed-0", "seed-0-old", "seed-0 (copy)", "seed-"):
        for folder in ("linear-logistic", "fold-1", "fold-1-old"):
            (tmp_path / name / folder).mkdir(parents=True)
            (tmp_path / name / folder / run_layout.RESULT).touch()
        (tmp_path / name / run_layout.MANIFEST).touch()
    seed = tmp_path / "seed-0"
    assert seed_dirs(tmp_path) == [seed]
    assert fold_dirs(seed) == [seed / "fold-1"]
    assert files_of_seeds(tmp_path, run_layout.MANIFEST) == [seed / run_layout.MANIFEST]
    assert {path.parent.parent for path in methods_with(tmp_path, run_layout.RESULT)} == {seed}
    assert part_of_run(tmp_path / "seed-0-old" / "linear-logistic") == ""


def test_a_folder_in_a_run_is_told_from_one(tmp_path):
    seed = tmp_path / "run" / "seed-0"
    (seed / "linear-svm").mkdir(parents=True)
    assert part_of_run(seed) == part_of_run(tmp_path / "run") == ""  # as a run that is called so
    (seed / "manifest.csv").write_text("path,label,split,key\n")
    for folder in (seed, seed / "linear-svm"):
        assert part_of_run(folder).startswith(f"{folder} is a part of the run {tmp_path / 'run'}: give that")
    assert part_of_run(tmp_path / "run") == ""
    evaluation = tmp_path / "run" / run_layout.EVALUATIONS / "next-year"
    evaluation.mkdir(parents=True)
    assert part_of_run(evaluation) == ""
    (evaluation / run_layout.EVALUATION).touch()
    assert part_of_run(evaluation) == f"{evaluation} is an evaluation of the run {tmp_path / 'run'}: give that"


def test_runs_are_compared_in_a_folder_of_their_own_and_one_in_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = Path("runs/a"), Path("elsewhere/b")
    assert comparison_dir([a]) == comparison_dir([a, tmp_path / a]) == a
    assert comparison_dir([a, b]) == comparison_dir([a, b, a]) == Path("runs/a+b")
    assert comparison_dir([b, a]) == Path("elsewhere/b+a")
    assert comparison_dir([Path(), b]) == tmp_path.parent / f"{tmp_path.name}+b"
    many = [Path(f"runs/{letter * 30}") for letter in "abcdefgh"]
    assert comparison_dir(many) == comparison_dir(many) != comparison_dir(many[::-1])
    assert len(os.fsencode(comparison_dir(many).name)) < 30
    assert comparison_dir(many).parent == Path("runs")


def test_no_other_module_spells_the_name_of_a_file_of_a_run():
    names = {
        value
        for name, value in vars(run_layout).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    spelled = re.compile("|".join(f'"{re.escape(name)}"' for name in names if "." in name) + '|"seed-')
    sources = (path for path in PIPELINE.rglob("*.py") if path.name != "run_layout.py")
    assert [str(path) for path in sources if spelled.search(path.read_text(encoding="utf-8"))] == []
