"""Networks of the user's own: by import path, handed in from Python, cached under what they are."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.data.images.preprocessing import Preprocessing
from stages.data.manifest import load_manifest
from stages.data.sources.open_image import read_image
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.finetuning.transfer_model import build_transfer_model
from stages.network.backbones.module_identity import identity_of_module
from stages.network.backbones.registry import load_backbone
from stages.network.backbones.user_module import backbone_from_module
from stages.network.heads.linear import LinearHead

AS_HERE = {"storage_dtype": "float32", "precision": "fp32", "decode_on": "cpu"}
"""As these tests compute what they expect, on whatever device."""

NETS = """
import torch
from torch import nn
from stages.data.images.preprocessing import Preprocessing

class Small(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.scale * self.features(x).mean((2, 3)))

class Undecided(Small):
    def forward(self, x):
        maps = self.features(x)
        if maps.mean() > 0:
            maps = maps * 2
        return self.fc(maps.mean((2, 3)))

def small():
    return Small(), Preprocessing(32, 40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def scaled():
    return Small(2.0)

def undecided():
    return Undecided()

def text():
    return "a network"

def broken():
    raise KeyError("weights")

def silent():
    return Silent()

class Silent(nn.Module):
    def forward(self, x):
        return None

def made():
    kind = {}
    exec("from torch import nn\\nclass Hidden(nn.Module):\\n    __module__ = 'hidden'\\n    def forward(self, x): return x", kind)
    return kind["Hidden"]()

NUMBER = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of networks in the current folder."""
    (tmp_path / "own_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield "own_nets"
    sys.modules.pop("own_nets", None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


@pytest.fixture
def manifest(photographs):
    return load_manifest(DataConfig(str(photographs)))


@torch.no_grad()
def test_an_import_path_is_cut_and_cached_like_any_backbone(nets, manifest, tmp_path):
    options = FeatureConfig("own_nets:small", cut="features", cache=tmp_path / "cache", **AS_HERE)
    extractor = build_extractor(options)
    assert extract(extractor, manifest).extracted == 72
    features = read_features(extractor, manifest)
    backbone = extractor.backbone
    assert backbone.preprocessing == Preprocessing(32, 40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    image = backbone.preprocessing.normalize(backbone.preprocessing.render(read_image(manifest.locations[5]))[None])
    assert np.allclose(features[5], backbone.module.features(image).mean((2, 3))[0].numpy(), atol=1e-5)
    rebuilt = build_extractor(options)
    assert extract(rebuilt, manifest).extracted == 0
    assert extractor.notes == []


@torch.no_grad()
def test_a_network_that_cannot_be_traced_is_cut_at_a_module_that_is_named(nets, manifest, tmp_path):
    options = FeatureConfig("own_nets:undecided", cut="features.1,features", image_size=32, cache=tmp_path, **AS_HERE)
    extractor = build_extractor(options)
    assert extract(extractor, manifest).extracted == 72
    features = read_features(extractor, manifest)
    backbone = extractor.backbone
    image = backbone.preprocessing.normalize(backbone.preprocessing.render(read_image(manifest.locations[7]))[None])
    maps = backbone.module.features[:2](image), backbone.module.features(image)
    assert np.allclose(
        features[7], torch.cat([feature_map.mean((2, 3)) for feature_map in maps], 1)[0].numpy(), atol=1e-5
    )
    (note,) = extractor.notes
    assert "Undecided cannot be traced" in note
    assert "what features.1,features gives" in note
    with pytest.raises(UsageError, match="no automatic cut: name the module"):
        build_extractor(replace(options, cut="auto"))


@pytest.mark.parametrize("unfreeze", ["features", "head", "all"])
def test_fine_tuning_from_a_hooked_cut_is_refused(nets, tmp_path, unfreeze):
    extractor = build_extractor(FeatureConfig("own_nets:undecided", cut="features", image_size=32, cache=tmp_path))
    head = LinearHead(extractor.row_shape, 3)
    with pytest.raises(UsageError, match="nothing of it can be fine-tuned"):
        build_transfer_model(extractor, head, FinetuneConfig(unfreeze=unfreeze))


def test_a_module_handed_in_is_the_one_that_is_imported(nets, tmp_path):
    from_path = load_backbone("own_nets:small")
    module = from_path.module
    handed_in = backbone_from_module(module, from_path.preprocessing)
    assert (handed_in.identity, handed_in.weights) == (from_path.identity, from_path.weights)
    options = FeatureConfig(cut="features", cache=tmp_path)
    extractor = build_extractor(options, handed_in)
    assert extractor.options.backbone == "Small"
    assert extractor.fingerprint == build_extractor(replace(options, backbone="own_nets:small")).fingerprint


def test_sizes_are_the_preprocessings_or_asked_for(nets):
    module = load_backbone("own_nets:small").module
    assert backbone_from_module(module, image_size=56).preprocessing == Preprocessing(56, 64)
    assert load_backbone("own_nets:small", image_size=64).preprocessing.resize == 80
    for load in (lambda: backbone_from_module(module), lambda: load_backbone("own_nets:scaled")):
        with pytest.raises(UsageError, match="nothing says how large its images are: give `image_size`"):
            load()


def test_the_identity_is_source_structure_and_settings_and_not_the_weights(nets, tmp_path):
    load_backbone("own_nets:small")
    own_nets = importlib.import_module("own_nets")
    first, other = own_nets.Small(), own_nets.Small()
    assert identity_of_module(first) == identity_of_module(other)
    changed = [own_nets.Small(2.0), own_nets.Undecided(), own_nets.Small(), own_nets.Small(), own_nets.Small()]
    changed[2].features[1] = nn.GELU()
    changed[3].features[0].stride = (1, 1)
    changed[4].register_buffer("mean", torch.ones(3), persistent=False)
    (tmp_path / "other_nets.py").write_text(NETS.replace("self.scale * self.features(x)", "self.features(x)"))
    importlib.invalidate_caches()
    other_nets = importlib.import_module("other_nets")
    other_modules = [other_nets.Small(), other_nets.Undecided()]  # of which the second inherits what has changed
    identities = {identity_of_module(module) for module in (first, *changed, *other_modules)}
    del sys.modules["other_nets"]
    assert len(identities) == 8


def test_without_a_source_there_has_to_be_a_name(nets):
    with pytest.raises(UsageError, match=r"source of hidden.Hidden cannot be read, .*none are cached. .*@NAME"):
        load_backbone("own_nets:made", image_size=32)
    assert load_backbone("own_nets:made@mine 2", image_size=32).identity == "mine 2"
    assert (
        backbone_from_module(load_backbone("own_nets:made@a", image_size=8).module, image_size=8, name="b").name == "b"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_nets:text", r"must return a torch.nn.Module, or one and its Preprocessing, and returned str"),
        ("own_nets:broken", r"broken\(\) raised KeyError: 'weights'"),
        ("own_nets:silent", "Silent gave a NoneType for 3 images"),
        ("own_nets:smal", r"own_nets.py has no 'smal'. Did you mean 'small'"),
        ("own_nets:NUMBER", "NUMBER is a int, which cannot be called"),
        ("no_nets:small", "there is no module 'no_nets' in"),
        ("timmm:convnext_nano", r"no module 'timmm' in .*Did you mean 'timm:convnext_nano'"),
    ],
)
def test_what_is_no_backbone_says_why(nets, name, message):
    with pytest.raises(UsageError, match=message):
        load_backbone(name, image_size=32)
