"""Models of the library transformers, tiny and random, from a folder: no network is needed."""

import sys

import numpy as np
import pytest
import torch

from cache.errors import UsageError, WeightsError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.data.sources.open_image import read_image
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.network.backbones.registry import load_backbone

transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def save_dinov2(folder, **processor):
    torch.manual_seed(1)
    transformers.Dinov2Model(transformers.Dinov2Config(**TINY)).save_pretrained(folder)
    options = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, **processor}
    transformers.BitImageProcessor(**options, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_dinov2(tmp_path_factory.mktemp("dinov2"))


@torch.no_grad()
def test_features_are_what_the_library_computes(dinov2, photographs, tmp_path):
    options = FeatureConfig(
        f"hf:{dinov2}",
        cut="encoder.layer.1,layernorm",
        pool="cls",
        cache=tmp_path,
        storage_dtype="float32",
        precision="fp32",
        decode_on="cpu",  # as the library and `read_image` do it
    )
    extractor = build_extractor(options)
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(extractor, manifest)
    features = read_features(extractor, manifest)
    preprocessing = extractor.backbone.preprocessing
    image = preprocessing.normalize(preprocessing.render(read_image(manifest.locations[3]))[None])
    model = transformers.Dinov2Model.from_pretrained(dinov2)
    output = model.eval()(image, output_hidden_states=True)
    expected = torch.cat([output.hidden_states[-1][:, 0], output.last_hidden_state[:, 0]], 1)
    assert np.allclose(features[3], expected[0].numpy(), atol=1e-5)
    assert any("cannot be traced" in note for note in extractor.notes)


def test_the_image_processor_becomes_the_preprocessing(dinov2, tmp_path):
    preprocessing = load_backbone(f"hf:{dinov2}").preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.interpolation) == (32, 36, "bicubic")
    assert preprocessing.mean == pytest.approx((0.4, 0.4, 0.4))
    assert preprocessing.std == pytest.approx((0.3, 0.3, 0.3))
    assert load_backbone(f"hf:{dinov2}", image_size=64).preprocessing.resize == 72
    transformers.ViTModel(transformers.ViTConfig(**TINY)).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False).save_pretrained(tmp_path)
    squeezed = load_backbone(f"hf:{tmp_path}").preprocessing
    assert (squeezed.image_size, squeezed.resize, squeezed.std) == (32, 32, (1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match=r"ViTModel cannot be run on images of 48 x 48"):
        load_backbone(f"hf:{tmp_path}", image_size=48)


def test_a_processor_that_does_something_else_is_refused(tmp_path):
    save_dinov2(tmp_path, rescale_factor=1 / 127.5)
    with pytest.raises(UsageError, match="does what cannot be said as resize, centre crop and normalisation"):
        load_backbone(f"hf:{tmp_path}")


def test_the_identity_does_not_depend_on_the_folder(dinov2, tmp_path):
    original, moved = load_backbone(f"hf:{dinov2}"), load_backbone(f"hf:{save_dinov2(tmp_path)}")
    assert (original.identity, original.weights) == (moved.identity, moved.weights)
    assert original.identity.startswith("transformers Dinov2Model ")
    random = load_backbone(f"hf:{dinov2}", "none")
    assert random.identity == original.identity
    assert random.weights != original.weights
    assert random.weights_source == "random, seed 0"


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'transformers>=4\.48'"):
        load_backbone("hf:facebook/dinov2-base")


def test_files_that_cannot_be_fetched_are_a_message(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"facebook/no-such-model could not be fetched: config.json .*hf:FOLDER"):
        load_backbone("hf:facebook/no-such-model")
