"""docs/extending.md: its examples work as they stand; those about heads are run by the tests of their registry."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests import ready_processes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = "import sys; from pipeline.cli.app import main; sys.exit(main(sys.argv[1:]))"


def section(title):
    """The blocks of code of one section: pairs of language and text."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (content,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return BLOCK.findall(content)


def run(folder, *arguments):
    path = os.pathsep.join([str(folder), str(ROOT)])
    return ready_processes.run("-c", *arguments, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=True).stdout


def install(folder, text):
    """Write the metadata that pip would make of the entry points in a pyproject.toml."""
    for group, entries in tomllib.loads(text)["project"]["entry-points"].items():
        metadata = folder / f"{group.replace('.', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {group}\nVersion: 1.0\n")
        lines = [f"{name} = {module}" for name, module in entries.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


def write_plug_in(folder, title):
    """Write the files of a section, and install them as a package would; return what else it says, in order."""
    uses = []
    for language, text in section(title):
        if language == "toml":
            install(folder, text)
        elif name := re.match(r"# (\w+\.py)\n", text):
            (folder / name[1]).write_text(text)
        else:
            uses.append((language, text))
    return uses


@pytest.mark.parametrize(
    ("title", "printed"),
    [
        ("A backbone", ["nets:small: ", "flat:flat8: ", "features.2"]),
        ("A source", ["256 images"]),
    ],
)
def test_examples_work_as_they_stand(title, printed, tmp_path):
    output = ""
    for language, text in write_plug_in(tmp_path, title):
        if language == "sh":
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "cutonce"
                output += run(tmp_path, RUN, *arguments)
        else:
            output += run(tmp_path, text)
    assert all(phrase in output for phrase in printed), output


KINDS = {
    "A task": ("task_from_json({'name': 'fiar'})", "there is no task 'fiar'. Did you mean 'fair'"),
    "A pooling": ("FeatureConfig(pool='gme')", "`pool` gme: .*Did you mean 'gem'. There are avg, .*, gem"),
    "A transform of `--augment`": ("FeatureConfig(augment='negativ')", "`augment` negativ: .*Did you mean 'negative'"),
    "A schedule": ("FinetuneConfig(schedule='liner')", "`schedule` liner: .*Did you mean 'linear'"),
    "A cache format": ("FeatureConfig(compression='lzff')", "`compression` lzff: .*Did you mean 'lzf'"),
    "An engine": ("FeatureConfig(engine='loging')", "`engine` loging: .*Did you mean 'logging'"),
    "A format of `cache export`": ("export_features(cache, Path('few.cvs'))", r"has to end with one of \.csv, \.npz, "),
    "A format for trained models": (
        "export_model(Path('linear-mine'), Path('mine.npy'))",
        r"mine\.npy has to end with one of \.npz, \.onnx, \.pt2, \.safetensors",
    ),
    "An optimizer": ("create_optimizer('asdg', [])", "`opt` asdg: .*Did you mean .*'asgd'"),
}
"""Sections whose example uses what it adds: what is done with a name that is nearly right, the error."""


@pytest.fixture(scope="module")
def plug_ins(tmp_path_factory):
    """One thing of each kind, all of them installed, and the code that uses them."""
    folder = tmp_path_factory.mktemp("plug-ins")
    uses = [use for title in KINDS for use in write_plug_in(folder, title)]
    return folder, "".join(text for language, text in uses if language == "python")


def test_one_file_adds_a_thing_of_any_kind(plug_ins):
    folder, uses = plug_ins
    errors = "".join(
        f"try:\n    {nearly_right}\nexcept UsageError as error:\n    print(error)\n"
        for nearly_right, _ in KINDS.values()
    )
    printed = run(folder, f"{uses}\nfrom cache.errors import UsageError\n{errors}")
    for _, error in KINDS.values():
        assert re.search(error, printed)


def test_help_and_the_page_of_options_name_what_other_packages_add(plug_ins):
    folder, _ = plug_ins
    page = run(folder, "from pipeline.cli.reference import reference; print(reference())")
    for words in (
        "none (keep the map), gem (of the package cutonce.poolings)",
        "randomerasing, negative",
        "megabytes at a time), .csv (of the package cutonce.export_formats).",
        "besides what it computes), logging (of the package cutonce.engines). Not part",
        "slower to read), lzf (of the package cutonce.cache_formats). Not part",
        "onecycle, triangular, triangular2, exp_range, restarts, linear.",
        "momentum (plain), asgd (of the package cutonce.optimizers), or another that timm has",
    ):
        assert words in page


def test_a_name_that_is_taken_is_an_error_that_names_both(tmp_path):
    for group, name in (
        ("tasks", "single_label"),
        ("poolings", "avg"),
        ("ops", "flip"),
        ("schedules", "step"),
        ("cache_formats", "gzip"),
        ("engines", "cores"),
        ("export_formats", ".npz"),
        ("model_formats", ".safetensors"),
    ):
        install(tmp_path, f'[project.entry-points."cutonce.{group}"]\n"{name}" = "their_{group}"\n')
    printed = run(
        tmp_path,
        "from cache.errors import UsageError\n"
        "from cache.formats import CACHE_FORMATS\n"
        "from stages.config.features import FeatureConfig\n"
        "from stages.config.registry import ENGINES\n"
        "from pipeline.options.export_formats import EXPORT_FORMATS, MODEL_FORMATS\n"
        "from stages.network.graph.pooling import Pool\n"
        "from stages.training.lr_schedules import LRScheduleConfig\n"
        "from stages.training.optim import register_optimizer\n"
        "from stages.tasks.base import TASKS\n"
        "for attempt in (lambda: Pool('avg', None), lambda: FeatureConfig(augment='flip'),\n"
        "                lambda: LRScheduleConfig('step'), lambda: register_optimizer('adam')(Pool),\n"
        "                lambda: CACHE_FORMATS.get('gzip'),\n"
        "                lambda: ENGINES.get('cores'),\n"
        "                lambda: EXPORT_FORMATS.get('.npz'),\n"
        "                lambda: TASKS.get('single_label'), lambda: MODEL_FORMATS.get('.safetensors')):\n"
        "    try:\n        attempt()\n    except UsageError as error:\n        print(error)\n",
    )
    for both in (
        "two tasks are called 'single_label': that of stages.tasks.single_label and that of their_tasks (the package",
        "two poolings are called 'avg': that of stages.network.graph.pooling and that of their_poolings (the package",
        "two ops are called 'flip': that of stages.data.augment.transforms and that of their_ops (the package",
        "two schedules are called 'step': that of stages.training.lr_schedules and that of their_schedules (the",
        "two cache formats are called 'gzip': that of cache.shard_layout and that of their_cache_formats (the package",
        "two engines are called 'cores': that of stages.extraction.engine and that of their_engines (the package",
        "two export formats are called '.npz': that of pipeline.library.export and that of their_export_formats (the",
        "two model formats are called '.safetensors': that of pipeline.library.export_model and that of their_model_",
        "two optimizers are called 'adam': timm's and that of stages.network.graph.pooling.Pool",
    ):
        assert both in printed


def test_a_task_of_another_package_is_run_with_the_head_that_it_comes_with(tmp_path):
    (line,) = (text for language, text in write_plug_in(tmp_path, "A task") if language == "sh")
    program, *arguments = shlex.split(line)
    assert program == "cutonce"
    assert "head-fair_linear: test balanced accuracy" in run(tmp_path, RUN, *arguments)


def test_a_task_without_a_head_of_its_own_asks_for_one(tmp_path):
    write_plug_in(tmp_path, "A task")
    for metadata in tmp_path.glob("cutonce_heads-*.dist-info"):
        shutil.rmtree(metadata)
    error = run(
        tmp_path,
        "from stages.config.finetune import FinetuneConfig\n"
        "from stages.config.heads import HeadConfig\n"
        "for options in (HeadConfig(), FinetuneConfig()):\n"
        "    try:\n        options.heads_for('fair')\n    except ValueError as error:\n        print(error)",
    )
    assert error.count("`task` fair has no head that is trained where none is named: no head is for it") == 2


def test_a_source_of_another_package_is_in_help_and_errors(tmp_path):
    write_plug_in(tmp_path, "A source")
    shown = " ".join(run(tmp_path, RUN, "extract", "--help").replace("│", " ").split())
    assert "or shades (of the package cutonce.sources)" in shown
    error = run(
        tmp_path,
        "from stages.config.data import DataConfig\n"
        "from stages.data.sources.registry import list_samples\n"
        "try:\n    list_samples(DataConfig('shadse'))\nexcept ValueError as error:\n    print(error)",
    )
    assert re.search(r"no source of that name \(.*shades.*\)\. Did you mean 'shades'", error)
