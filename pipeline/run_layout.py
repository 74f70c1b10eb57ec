"""The names of all files of a run directory, and of its folders.

In ``RUN`` are the options, the machine, the results of all methods and the page; in ``RUN/seed-0`` the splits under one
seed and what extraction did; in ``RUN/seed-0/linear-logistic`` one method: result, predictions, model, pictures. Where
each sample is tested in an outer fold, ``RUN/seed-0/fold-1`` has what one of them left, as a seed has.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

CONFIGURATION = "config.toml"
ENVIRONMENT = "environment.json"
RESULTS = "results.json"
PREDICTIONS_TABLE = "predictions.csv"
REPORT = "report.html"
MARKDOWN = "report.md"
TABLE = "table.csv"
FIGURES = "figures"
TRACKING = "tracking"
TRIALS = "trials.jsonl"  # where `best` has searched, as is the next
BEST = "best.json"
INSPECTION_PAGE = "inspect.html"
PROBE_PAGE = "probe.html"
CURVE_PAGE = "learning-curve.html"
LR_FIND_PAGE = "lr-find.html"
OTHER_PAGES = {
    INSPECTION_PAGE: "what is in the data",
    PROBE_PAGE: "where to cut",
    CURVE_PAGE: "whether more labels would help",
    LR_FIND_PAGE: "which learning rate to fine-tune with",
}
"""Pages of other commands, to which the report links where they are."""
EVALUATIONS = "evaluations"
EVALUATION = "evaluation.json"
TRAINED_IN = "trained in"  # a setting of its results: the folder of the method that was evaluated

# of a seed
MANIFEST = "manifest.csv"
SAMPLE_IMAGES = "manifest.images.csv"  # of samples of several images alone
EXTRACTION = "extraction.json"

# of a method
RESULT = "result.json"
PREDICTIONS = "predictions.npz"
VALIDATION = "validation.npz"
OUT_OF_FOLD = "out-of-fold.npz"
SHOWN_MASKS = "shown-masks.npz"  # where each pixel has a class
IMAGE_WEIGHTS = "image_weights.csv"  # of a head that weighs the images of a sample
MODEL_CARD = "model.json"
HEAD = "head.safetensors"
HEAD_WITHOUT_VAL = "head-without-val.safetensors"
TOP = "top.safetensors"
COLUMNS = "columns.json"
UNLIKE = "unlike.safetensors"
MEMBERS = "members.json"  # of a mean over several networks
MEMBER_MODELS = "members"  # folder of their models
CONTACT_SHEET = "contact-sheet.svg"
NEXT_CONTACT_SHEET = "next-contact-sheet.svg"  # while fine-tuning, as the checkpoint
RATES = "rates.png"
RANGE_TEST = "range-test.png"

MODEL_FILES = (MODEL_CARD, HEAD, str(Path(HEAD).with_suffix(".json")), TOP, COLUMNS, UNLIKE)
"""What a method needs to predict; the head without validation serves fine-tuning alone."""

_LONGEST_NAME = 200
"""Bytes of a folder's name that is made of others; file systems take 255."""

_SEED = "seed-"
_FOLD = "fold-"
_FRESH = "."
_REPLACED = ".replaced-"
_OF_SEED, _OF_FOLD = (re.compile(rf"{kind}\d+") for kind in (_SEED, _FOLD))
"""What the folders are called, and no others: not ``seed-0-old``, which somebody has put aside."""

_BESIDE_SEEDS = re.compile(rf"{re.escape(_REPLACED)}({_SEED}\d+)-(?:({_FOLD}\d+)-)?(.+)", re.DOTALL)


def seed_dir(run: Path, seed: int) -> Path:
    """Return the folder of all that belongs to one seed."""
    return run / f"{_SEED}{seed}"


def seed_dirs(run: Path) -> list[Path]:
    """Return the folders of the seeds."""
    return sorted(path for path in run.glob(f"{_SEED}*") if _OF_SEED.fullmatch(path.name))


def seed_of(directory: Path) -> int:
    """Return the seed whose folder this is."""
    return int(directory.name.removeprefix(_SEED))


def part_of_run(path: Path) -> str:
    """Return in words of which run a folder is a part, as that of a seed, a method or an evaluation; '' if of none."""
    seed = next((folder for folder in (path, *path.parents) if _OF_SEED.fullmatch(folder.name)), None)
    if seed is not None and (seed / MANIFEST).is_file():
        return f"{path} is a part of the run {seed.parent}: give that"
    if path.parent.name == EVALUATIONS and (path / EVALUATION).is_file():
        return f"{path} is an evaluation of the run {path.parent.parent}: give that"
    return ""


def comparison_dir(runs: Sequence[Path]) -> Path:
    """Return where a comparison goes: the folder of the one run; of several one beside the first, named after all."""
    different: dict[Path, Path] = {}
    for run in runs:
        different.setdefault(run.resolve(), run if run.name not in ("", "..") else run.resolve())
    if len(different) == 1:
        return runs[0]
    first = next(iter(different.values()))
    name = "+".join(run.name for run in different.values())
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{len(different)}-runs-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return first.parent / name


def fold_dir(directory: Path, number: int) -> Path:
    """Return the folder of an outer fold, in that of its seed."""
    return directory / f"{_FOLD}{number}"


def fold_dirs(directory: Path) -> list[Path]:
    """Return the folders of the outer folds in that of a seed, fold after fold."""
    folders = (path for path in directory.glob(f"{_FOLD}*") if _OF_FOLD.fullmatch(path.name))
    return sorted(folders, key=lambda path: (len(path.name), path))


def files_of_seeds(run: Path, name: str) -> list[Path]:
    """Return the files of that name in the folders of the seeds, seed after seed."""
    files = (path for directory in seed_dirs(run) if (path := directory / name).exists())
    return sorted(files, key=lambda path: (len(path.parent.name), path))


def methods_with(run: Path, name: str) -> list[Path]:
    """Return the files of that name in the folders of the methods, in the order of their paths.

    ``pipeline.evaluation.method_folders`` sees to it that none of these is missing.
    """
    return sorted(path for path in run.glob(f"{_SEED}*/*/{name}") if _OF_SEED.fullmatch(path.parent.parent.name))


def fresh_dir(method_dir: Path) -> Path:
    """Return where a method is written before it is put in its place, and no list of methods looks.

    RUN/.seed-0-linear-logistic of RUN/seed-0/linear-logistic, in the run for one of an outer fold too.
    """
    return _beside_seeds(method_dir, _FRESH)


def replaced_dir(method_dir: Path) -> Path:
    """Return where a method stands while another one takes its place."""
    return _beside_seeds(method_dir, _REPLACED)


def replaced_from(run: Path) -> list[Path]:
    """Return where methods stood that are being replaced, or were when a command was killed."""
    found = ((_BESIDE_SEEDS.fullmatch(path.name), path) for path in sorted(run.glob(f"{_REPLACED}{_SEED}*")))
    return [path.parent.joinpath(*filter(None, match.groups())) for match, path in found if match is not None]


def _beside_seeds(method_dir: Path, prefix: str) -> Path:
    seed = next((path for path in method_dir.parents if _OF_SEED.fullmatch(path.name)), method_dir.parent)
    run = seed.parent
    return run / (prefix + "-".join(method_dir.relative_to(run).parts))


def run_of(method_dir: Path) -> Path:
    """Return the run that the folder of a method is part of: RUN of RUN/seed-0/linear-logistic."""
    return method_dir.parent.parent
