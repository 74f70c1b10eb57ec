"""torchvision's segmentation networks as backbones: one path, any cut, the same numbers."""

import copy

import pytest
import torch
import torchvision

from cache.errors import WeightsError
from stages.network.backbones import torchvision_segmentation
from stages.network.backbones.registry import load_backbone
from stages.network.backbones.torchvision_segmentation import segmentation_catalog
from stages.network.classifier import output_layers, replace_classifier
from stages.network.graph.cuts import CutGraph
from stages.network.heads.deeplabv3 import DeepLabV3MapHead
from stages.network.heads.map_head import resized
from stages.network.map_layout import MapLayout
from stages.tasks.dense import Dense


@pytest.fixture(scope="module")
def deeplab(tmp_path_factory):
    torch.manual_seed(3)
    network = torchvision.models.get_model(
        "deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, aux_loss=True
    ).eval()
    for name, statistic in network.named_buffers():
        if name.endswith("running_var"):  # not those of a fresh one
            statistic.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("weights") / "deeplab.pth"
    torch.save(network.state_dict(), file)
    return network, load_backbone("deeplabv3_mobilenet_v3_large", file, 64)


def test_its_logits_are_torchvisions_and_the_auxiliary_classifier_of_a_file_is_left_out(deeplab):
    network, backbone = deeplab
    images = torch.rand(2, 3, 48, 80)
    assert torch.equal(backbone.module(images), network(images)["out"])
    assert not any(name.startswith("aux") for name in backbone.module.state_dict())
    assert backbone.num_classes == 21


def test_its_backbone_and_its_classifier_can_be_cut_and_both_parts_make_the_whole(deeplab):
    network, backbone = deeplab
    graph = CutGraph(backbone.module, 64)
    images = torch.rand(2, 3, 64, 64)
    for name in ("backbone.6", "backbone", "auto"):
        cut = graph.resolve(name)
        logits = graph.section(cut, None)(graph.section(None, cut)(images))
        torch.testing.assert_close(logits, network(images)["out"])
    assert graph.resolve("auto").name == "classifier.3"
    maps = graph.section(None, graph.resolve("backbone"))(images)
    torch.testing.assert_close(network.classifier(maps), backbone.module.classifier(network.backbone(images)["out"]))


def test_a_head_on_its_maps_with_the_weights_of_its_classifier_says_what_torchvisions_network_says(deeplab):
    network, backbone = deeplab
    graph = CutGraph(backbone.module, 64)
    layout = MapLayout.of_cuts([graph.resolve("backbone")], (64, 64))
    head = DeepLabV3MapHead((layout.width,), 21, layout.to_json(), rates=(12, 24, 36)).eval()
    head.head.load_state_dict(network.classifier.state_dict())
    head.norm.running_var.fill_(1 - head.norm.eps)  # so it leaves maps as they are; some torch refuses eps 0
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = head(graph.section(None, graph.resolve("backbone"))(images).flatten(1))
        expected = network(images)["out"]
    (probabilities,) = Dense([str(number) for number in range(21)]).activate(logits[:1], [(64, 64)])
    torch.testing.assert_close(resized(logits, (64, 64)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities, expected[0].softmax(0), rtol=1e-4, atol=1e-5)


def test_its_output_layer_is_replaced_as_any_classifiers(deeplab):
    module = copy.deepcopy(deeplab[1].module)
    assert output_layers(module) == ("classifier.4",)
    assert replace_classifier(module, 5)(torch.rand(1, 3, 32, 32)).shape == (1, 5, 32, 32)


def test_lraspp_gives_every_map_of_its_backbone_as_a_cut(tmp_path):
    torch.manual_seed(3)
    network = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    torch.save(network.state_dict(), tmp_path / "lraspp.pth")
    backbone = load_backbone("lraspp_mobilenet_v3_large", tmp_path / "lraspp.pth", 64)
    graph = CutGraph(backbone.module, 64)
    images = torch.rand(2, 3, 64, 64)
    maps = {
        name: graph.section(None, graph.resolve(cut))(images)
        for name, cut in {"low": "backbone.4", "high": "auto"}.items()
    }
    torch.testing.assert_close(network.backbone(images), maps)
    assert graph.resolve("backbone.12").shape == (112, 4, 4)
    assert backbone.num_classes == 0


def test_weights_that_cannot_be_fetched_are_a_clear_error(monkeypatch):
    def refused(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(torchvision_segmentation.torchvision.models, "get_model", refused)
    with pytest.raises(
        WeightsError, match=r"fcn_resnet50 could not be fetched: https.*fcn_resnet50_coco.*no network here"
    ):
        load_backbone("fcn_resnet50")


def test_the_catalog_tells_its_size_and_no_accuracy_of_another_data_set():
    catalog = {entry.name: entry for entry in segmentation_catalog()}
    assert len(catalog) == 6
    entry = catalog["lraspp_mobilenet_v3_large"]
    assert (entry.parameters, entry.image_size, entry.accuracy) == (3_221_538, 520, None)
