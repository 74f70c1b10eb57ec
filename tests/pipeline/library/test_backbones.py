"""Networks that are handed in from Python, wherever the library takes the name of one."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torch import nn

from pipeline.library import backbones
from pipeline.library.backbones import Preprocessing, backbone_from_module
from pipeline.library.estimators import FeatureExtractor, TransferClassifier
from pipeline.library.finetuning import finetune
from pipeline.library.functions import features
from stages.network.backbones.registry import load_backbone
from tests.own_network import OwnNetwork, SilentNetwork, unreadable_network
from tests.photographs import COLOURS, photograph

SIZE = 32
PICTURES = [np.array(photograph(colour, seed, 40)) for seed in range(8) for colour in COLOURS.values()]
LABELS = list(COLOURS) * 8
EVEN = Preprocessing(SIZE, 40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def built(monkeypatch):
    """The names of the networks that extractors are built for."""
    names = []
    build = backbones.build_extractor
    monkeypatch.setattr(
        backbones, "build_extractor", lambda options, given=None: names.append(given.name) or build(options, given)
    )
    backbones._remembered.cache_clear()
    return names


@torch.no_grad()
def test_features_are_what_the_network_makes_of_the_images_as_its_preprocessing_says():
    network = OwnNetwork().eval()
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in PICTURES]
    for given, preprocessing in [(network, Preprocessing(SIZE, 37)), (backbone_from_module(network, EVEN), EVEN)]:
        inputs = preprocessing.normalize(torch.stack([preprocessing.render(image) for image in tensors]))
        rows = features(PICTURES, given, image_size=SIZE, precision="fp32")
        assert np.allclose(rows, network.features(inputs).mean((2, 3)).numpy(), atol=1e-5)
        maps = features(PICTURES, given, "features", image_size=SIZE, pool="none", precision="fp32")
        assert np.allclose(maps, network.features(inputs).numpy(), atol=1e-5)


def test_another_image_size_scales_the_preprocessing_of_a_backbone():
    backbone = backbone_from_module(OwnNetwork(), EVEN)
    assert features(PICTURES[:2], backbone, "features", pool="none").shape == (2, 12, 13, 13)
    assert features(PICTURES[:2], backbone, "features", pool="none", image_size=64).shape == (2, 12, 29, 29)
    assert backbone.preprocessing == EVEN


def test_the_network_handed_in_stays_as_it_is():
    network = OwnNetwork().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    features(PICTURES[:3], network, image_size=SIZE)
    finetune(PICTURES, LABELS, backbone=network, image_size=SIZE, unfreeze="all", epochs=1, init_head="ncm", lr=0.1)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_cache_tells_a_network_by_its_tensors_and_its_settings(tmp_path, built):
    rows = features(PICTURES, OwnNetwork(), image_size=SIZE, cache=tmp_path)
    assert np.array_equal(features(PICTURES, OwnNetwork(), image_size=SIZE, cache=tmp_path), rows)
    assert len(list(tmp_path.glob("*/spec.json"))) == 1
    assert built == ["OwnNetwork"]  # the second call's is told to be the same
    scaled = features(PICTURES, OwnNetwork(2.0), image_size=SIZE, cut="fc", cache=tmp_path)
    other = OwnNetwork()
    nn.init.zeros_(other.fc.weight)
    trained = features(PICTURES, other, image_size=SIZE, cut="fc", cache=tmp_path)
    plain = features(PICTURES, OwnNetwork(), image_size=SIZE, cut="fc", cache=tmp_path)
    assert not np.allclose(scaled, plain)
    assert not np.allclose(trained, plain)
    assert len(list(tmp_path.glob("*/spec.json"))) == 4


def test_a_network_without_source_is_cached_under_a_name_alone(tmp_path):
    network = unreadable_network()
    rows = features(PICTURES, network, image_size=SIZE)
    with pytest.raises(
        ValueError, match=r"source of nowhere.Hidden cannot be read.*backbone_from_module\(module, name="
    ):
        features(PICTURES, network, image_size=SIZE, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    named = backbone_from_module(network, image_size=SIZE, name="hidden 1")
    assert np.array_equal(features(PICTURES, named, cache=tmp_path), rows)


def test_without_a_cache_a_name_stands_for_no_other_network(built):
    first, second = (backbone_from_module(OwnNetwork(scale), EVEN, name="mine") for scale in (1.0, 2.0))
    rows = [features(PICTURES, backbone, cut="fc") for backbone in (first, second, first)]
    assert not np.allclose(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    assert len(built) == 2


def test_a_backbone_whose_tensors_have_changed_is_refused():
    backbone = backbone_from_module(OwnNetwork(), EVEN)
    features(PICTURES[:2], backbone)
    nn.init.zeros_(backbone.module.fc.weight)
    with pytest.raises(ValueError, match="tensors of the backbone OwnNetwork have changed since it was made"):
        features(PICTURES[:2], backbone)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (
            SilentNetwork(),
            {},
            r"SilentNetwork gave a NoneType for 3 images, \[3, 3, 32, 32\]: a backbone has to give a",
        ),
        (OwnNetwork, {}, "backbone has to be a name, a torch.nn.Module, .*not the class OwnNetwork"),
        (5, {}, "not a int"),
        (OwnNetwork(), {"image_size": None}, "OwnNetwork comes without a preprocessing.*give `image_size`"),
        (OwnNetwork(), {"image_size": 4}, r"OwnNetwork cannot be run on images of 4 x 4 pixels \(RuntimeError"),
        (OwnNetwork(), {"weights": "none"}, "`weights` is for a backbone that is given by its name"),
        (nn.Linear(4, 2), {}, r"Linear cannot be run on images of 32 x 32 pixels"),
    ],
)
def test_what_is_no_backbone_says_why(backbone, options, message):
    options = {"image_size": SIZE, **options}
    with pytest.raises(ValueError, match=message):
        features(PICTURES, backbone, **options)
    with pytest.raises(ValueError, match=message):
        finetune(PICTURES, LABELS, backbone=backbone, **options)
    with pytest.raises(ValueError, match=message):
        FeatureExtractor(backbone, **options).fit(PICTURES).transform(PICTURES)


@pytest.mark.parametrize("given", ["module", "backbone", "loaded"])
def test_an_estimator_with_a_network_is_cloned_and_searched(given, tmp_path, built):
    network = {
        "module": OwnNetwork,
        "backbone": lambda: backbone_from_module(OwnNetwork(), EVEN),
        "loaded": lambda: load_backbone("efficientnet_lite0", "none", SIZE),
    }[given]()
    extractor = FeatureExtractor(network, image_size=SIZE, cache=tmp_path)
    assert extractor.get_params()["backbone"] is network
    assert type(network).__name__ in repr(clone(extractor))
    model = Pipeline([("extractor", extractor), ("classifier", TransferClassifier("ridge", random_state=0))])
    search = GridSearchCV(model, {"classifier__head": ["ridge", "ncm"]}, cv=2).fit(PICTURES, LABELS)
    assert search.best_score_ > 0.4
    assert len(built) == 1


def test_the_top_of_a_network_of_ones_own_is_fine_tuned():
    tuned = finetune(
        PICTURES, LABELS, backbone=OwnNetwork(), image_size=SIZE, unfreeze="all", epochs=2, init_head="ncm", lr=0.01
    )
    assert len(tuned.history) == 3
    assert tuned.predict(PICTURES[:3]).shape == (3,)
