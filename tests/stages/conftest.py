"""What stage 3 starts from: photographs, their cached features, and a linear probe on them."""

import copy
from typing import NamedTuple

import pytest
import torch

from stages.data import load_manifest
from stages.extract import extract
from stages.extractor import prepare, read_features
from stages.head import Rows, train_head
from stages.options import Data, Features, Head


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
def probe(photographs, tmp_path_factory):
    """The embedded network at a size that is quick, at full precision in the cache."""
    manifest = load_manifest(Data(str(photographs)))
    cache = tmp_path_factory.mktemp("probe") / "cache"
    extractor = prepare(Features(image_size=64, cache=cache, dtype="float32", batch_size=16))
    extract(extractor, manifest)
    features = read_features(extractor, manifest)
    train, val = (
        Rows(features[manifest.indices(split)], manifest.labels[manifest.indices(split)]) for split in ("train", "val")
    )
    head = train_head("logistic", Head(regularisation=(1e-2, 1e-1)), train, val, 3, 0, extractor.device)
    return Probe(extractor, manifest, features, head.module_without_val)
