"""What a command leaves in a run before it computes anything."""

import shutil
from pathlib import Path

from pipeline.experiment.run_setup import init_run, record_options
from pipeline.options.toml_file import read_configuration
from stages.config.data import DataConfig
from stages.config.finetune import FinetuneConfig

FIXTURE = Path(__file__).parent / "fixtures" / "version_1" / "run"
OPTIONS = (DataConfig("photos"), FinetuneConfig(epochs=7))


def test_a_run_with_results_keeps_its_options_until_others_have_trained_something(tmp_path):
    """A range test into a run trains nothing that is kept: the page must not say its epochs."""
    run = shutil.copytree(FIXTURE, tmp_path / "run")
    kept = {name: (run / name).read_bytes() for name in ("config.toml", "environment.json")}
    init_run(run, *OPTIONS)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    record_options(run, *OPTIONS)
    assert read_configuration(run / "config.toml")["epochs"] == 7


def test_a_new_run_has_its_options_from_the_beginning(tmp_path):
    init_run(tmp_path / "run", *OPTIONS)
    assert read_configuration(tmp_path / "run" / "config.toml")["epochs"] == 7
    assert (tmp_path / "run" / "environment.json").exists()
