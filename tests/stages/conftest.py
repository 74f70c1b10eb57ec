"""What stage 3 starts from: photographs, their cached features, and a linear probe on them."""

import copy
from typing import NamedTuple

import pytest
import torch

from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.fitting.fit_head import FeatureRows, train_head
from tests.stages.fitting.rows_of_digits import fit_problem


class Probe(NamedTuple):
    extractor: object
    manifest: object
    features: object
    head: object
    """Fitted without the validation split."""

    def ignorant(self):
        """The head with noise in it, so that fine-tuning has all to learn and improves on epoch 0."""
        blank = copy.deepcopy(self.head)
        with torch.no_grad():
            blank.output.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
            blank.output.bias.zero_()
        return blank


@pytest.fixture(scope="session")
def pairs(photographs, tmp_path_factory):
    """The photographs as a manifest of samples of two of a class; of each class three samples have one."""
    files = {name: sorted((photographs / name).iterdir()) for name in ("fire", "leaf", "sea")}
    lines = [
        f"{paths[row]},{paths[row + 1] if row % 8 else ''},{name}"
        for name, paths in files.items()
        for row in range(0, len(paths), 2)
    ]
    table = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    table.write_text("\n".join(["path,path_2,label", *lines]))
    return load_manifest(DataConfig(str(table)))


@pytest.fixture(scope="session")
def probe(photographs, tmp_path_factory):
    """The embedded network at a size that is quick, at full precision in the cache."""
    manifest = load_manifest(DataConfig(str(photographs)))
    cache = tmp_path_factory.mktemp("probe") / "cache"
    extractor = build_extractor(
        FeatureConfig(image_size=64, precision="fp32", cache=cache, storage_dtype="float32", extract_batch_size=16)
    )
    extract(extractor, manifest)
    features = read_features(extractor, manifest)
    train, val = (
        FeatureRows(features[manifest.indices(split)], manifest.targets[manifest.indices(split)])
        for split in ("train", "val")
    )
    head = train_head("logistic", fit_problem(train, val, classes=3, options=HeadConfig(c_values=(1e-2, 1e-1))))
    return Probe(extractor, manifest, features, head.module_train_only)
