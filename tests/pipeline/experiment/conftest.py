"""What tests of experiments take from those of the stages, and runs that are trained once for several files."""

import pytest

from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.finetune_methods import run_finetune
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.setup.run_setup import record_options
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from tests.stages.conftest import pairs, probe  # noqa: F401 (fixtures)

OPTIONS = HeadConfig(c_values=(1e-3, 1e-1), scalers=("standard",), cv=3)


def trained(folder, photographs, heads, run="run", **features):
    """A run of heads on features of the options given."""
    options = FeatureConfig(**{"image_size": 64, "cache": folder / "cache", "extract_batch_size": 16, **features})
    extractor, data = build_extractor(options), DataConfig(str(photographs))
    manifest = load_manifest(data)
    extract(extractor, manifest)
    experiment = Experiment(extractor, manifest, 0, folder / run / "seed-0", data=data)
    run_heads(experiment, heads, OPTIONS)
    manifest.save(experiment.directory / "manifest.csv")
    record_options(experiment.directory.parent, data, options, OPTIONS)
    return experiment


@pytest.fixture(scope="session")
def trained_runs(photographs, tmp_path_factory):
    """Two runs on the same samples, at two sizes, and a network that was fine-tuned in the first."""
    folder = tmp_path_factory.mktemp("mixture")
    first = trained(folder, photographs, ["ridge", "ncm"], "run-64")
    trained(folder, photographs, ["ridge"], "run-32", image_size=32)
    run_finetune(first, FinetuneConfig(unfreeze="1", epochs=1, init_head="ridge", num_workers=0), OPTIONS)
    return folder, first


@pytest.fixture(scope="session")
def on_depths(photographs, tmp_path_factory):
    """A head on two cuts side by side."""
    return trained(tmp_path_factory.mktemp("depths"), photographs, ["ridge"], cut="blocks.4,auto", pool="avg")


@pytest.fixture(scope="session")
def on_images_alone(photographs, tmp_path_factory):
    """As `on_mirrored`, of images alone."""
    folder = tmp_path_factory.mktemp("alone")
    return trained(folder, photographs, ["ridge", "ncm"], taps="stages", pool="avg,std", crop_mode="squash")


@pytest.fixture(scope="session")
def on_mirrored(photographs, tmp_path_factory):
    """A head on statistics of all stages, of images and mirror images."""
    folder = tmp_path_factory.mktemp("mirrored")
    # a crop from the middle may be a pixel off it
    return trained(folder, photographs, ["ridge"], taps="stages", pool="avg,std", mirror=True, crop_mode="squash")
