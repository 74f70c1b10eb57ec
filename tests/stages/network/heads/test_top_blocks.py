"""The network's own blocks as a head: the same function before training, and which of it trains."""

import json

import pytest
import torch
from torch import nn

from cache.errors import UsageError, WeightsError
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.extraction.extractor import build_extractor
from stages.finetuning.setup import build_transfer_model
from stages.network.classifier import output_layers
from stages.network.heads.registry import build_head
from stages.network.heads.serialization import load_head, save_head
from stages.network.heads.top_blocks import TopHead
from stages.runtime.float32 import float32_products
from tests.stages.network.networks import graph, images, network

CUTS = {
    "resnet18": "layer3",  # BatchNorm
    "alexnet": "features",  # dropout, and linear layers above a map
    "timm:vit_tiny_patch16_224": "blocks.10",  # tokens
    "timm:tf_efficientnet_lite0": "blocks.5",  # functional dropout above
}


@pytest.fixture(scope="module")
def resnet_maps():
    """Rows of resnet18 at layer3, for 8 images."""
    resnet = graph("resnet18")
    with torch.no_grad():
        return resnet.section(None, resnet.resolve("layer3"))(images("resnet18", 8))


def top_of(name, out_features=3):
    return TopHead.from_graph(graph(name), graph(name).resolve(CUTS[name]), out_features)


@pytest.mark.parametrize("name", CUTS)
def test_with_the_networks_own_output_layer_it_gives_the_networks_logits(name):
    whole, cut = network(name), graph(name).resolve(CUTS[name])
    classifier = whole.get_submodule(output_layers(whole)[0])
    head = top_of(name, classifier.out_features).eval()
    head.output.load_state_dict(classifier.state_dict())
    with torch.no_grad():
        rows = graph(name).section(None, cut)(images(name, 2))
        torch.testing.assert_close(head(rows), whole(images(name, 2)), atol=1e-4, rtol=1e-4)


def test_maps_are_averaged_where_the_network_pools_after_its_output_layer():
    squeezenet = graph("squeezenet1_1")
    head = TopHead.from_graph(squeezenet, squeezenet.resolve("features.9"), 3)
    assert head(torch.randn(2, *head.config["row_shape"])).shape == (2, 3)


def test_a_training_step_changes_its_blocks_and_nothing_else(resnet_maps):
    head = top_of("resnet18").train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    backbone = {name: value.clone() for name, value in network("resnet18").state_dict().items()}
    nn.functional.cross_entropy(head(resnet_maps), torch.arange(8) % 3).backward()
    torch.optim.SGD(head.parameters(), lr=0.1).step()
    changed = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in head.named_parameters()}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks.")} == {"layer4"}
    assert all(torch.equal(value, backbone[name]) for name, value in network("resnet18").state_dict().items())
    assert not any(parameter.requires_grad for parameter in network("resnet18").parameters())


def test_batchnorm_stays_in_evaluation_mode_and_dropout_does_not(resnet_maps):
    head = top_of("resnet18")
    assert torch.equal(head.train()(resnet_maps), head.eval()(resnet_maps))
    head, rows = top_of("alexnet"), torch.randn(4, *graph("alexnet").resolve("features").shape)
    assert not torch.equal(head.train()(rows), head(rows))
    assert torch.equal(head.eval()(rows), head(rows))


def test_saved_blocks_come_back_the_same_on_the_graph_of_their_network(tmp_path, resnet_maps):
    head = top_of("resnet18")
    with torch.no_grad():
        head.get_parameter("blocks.layer4.0.conv1.weight").add_(0.1)
    save_head(tmp_path / "head", head, {})
    config = json.loads((tmp_path / "head.json").read_text())["config"]
    cut = graph("resnet18").resolve("layer3")
    assert config == {"head": "top", "row_shape": [256, 4, 4], "out_features": 3, "cut": cut.name}
    loaded, _ = load_head(tmp_path / "head", graph("resnet18"))
    assert torch.equal(loaded(resnet_maps), head.eval()(resnet_maps))
    assert loaded.config == head.config
    assert torch.equal(loaded.train()(resnet_maps), head.eval()(resnet_maps))
    with pytest.raises(UsageError, match=r"head\.json describes the head top.*CutGraph"):
        load_head(tmp_path / "head")
    for other in ("alexnet", "squeezenet1_1"):
        with pytest.raises(WeightsError, match=r"head\.json belongs to another network"):
            load_head(tmp_path / "head", graph(other))


def test_cuts_with_nothing_to_train_above_are_refused():
    resnet = graph("resnet18")
    for name in ("auto", "layer4", "avgpool", "fc"):
        with pytest.raises(UsageError, match=r"`head` top.*none with weights.*lower `cut`.*`pool` none"):
            TopHead.from_graph(resnet, resnet.resolve(name), 3)


def test_pooled_and_joined_rows_are_refused():
    resnet, cut = graph("resnet18"), graph("resnet18").resolve("layer3")
    assert build_head("top", (256, 4, 4), 3, at=(resnet, cut)).config["head"] == "top"
    with pytest.raises(UsageError, match=r"`head` top.*\[256, 4, 4\].*\[256\].*`pool` none"):
        build_head("top", (256,), 3, at=(resnet, cut))
    with pytest.raises(UsageError, match=r"`head` top.*one `cut`.*`pool` none"):
        build_head("top", (512,), 3)


def test_fine_tuning_goes_on_from_it_with_the_same_answers(tmp_path):
    options = FeatureConfig(
        "resnet18", "none", cut="layer3", pool="none", image_size=64, precision="fp32", cache=tmp_path
    )
    extractor = build_extractor(options)
    head = build_head("top", extractor.row_shape, 3, at=(extractor.graph, extractor.cut)).eval()
    upper = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="layer2"))
    pixels = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    targets = torch.arange(4, device=extractor.device) % 3
    with torch.no_grad(), float32_products():
        logits = upper.model.eval()(upper.frozen(upper.normalize(pixels)))
        of_the_head = head.to(extractor.device)(extractor.features(pixels).to(extractor.device))
        torch.testing.assert_close(logits, of_the_head, atol=1e-4, rtol=1e-4)
    upper.model.train()
    nn.functional.cross_entropy(upper.model(upper.frozen(upper.normalize(pixels))), targets).backward()
    untrained = [name for name, parameter in upper.model.named_parameters() if parameter.grad is None]
    assert {*untrained} == set()
