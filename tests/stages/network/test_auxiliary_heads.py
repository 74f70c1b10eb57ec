"""T10: auxiliary classifiers take part in training, from the cut they read at upwards, and in nothing else."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from cache.errors import UsageError
from stages.network.auxiliary_heads import auxiliary_heads_for, section_with_auxiliary
from stages.network.backbones.registry import load_backbone
from stages.network.backbones.weights_file import digest_of_weights
from stages.network.freezing import freeze
from stages.network.graph.cuts import CutGraph

WEIGHTS = {"googlenet": {"aux1": 0.3, "aux2": 0.3}, "inception_v3": {"AuxLogits": 0.4}}
LAYERS = {"aux1": "inception4a", "aux2": "inception4d", "AuxLogits": "Mixed_6e"}
SIZES = {"googlenet": 64, "inception_v3": 299}


@pytest.fixture(scope="module", params=["googlenet", "inception_v3"])
def found(request):
    """A backbone with auxiliary classifiers, whose activations do not vanish, and its graph."""
    backbone = load_backbone(request.param, "none", SIZES[request.param])
    for part in (backbone.module, *backbone.auxiliary.values()):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    return backbone, CutGraph(backbone.module, SIZES[request.param])


def images(backbone, count=2):
    size = SIZES[backbone.name]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def heads_of(backbone, graph, classes=1000):
    return auxiliary_heads_for(graph, backbone.auxiliary, backbone.auxiliary_places, classes)


def test_heads_know_their_place_and_the_weight_of_their_loss(found):
    backbone, graph = found
    heads = heads_of(backbone, graph, 7)
    assert {head.name: head.loss_weight for head in heads} == WEIGHTS[backbone.name]
    for head in heads:
        assert head.cut == graph.resolve(LAYERS[head.name])
        assert head.module.eval()(torch.zeros(2, *head.cut.shape)).shape == (2, 7)
        mine, theirs = head.module.state_dict(), backbone.auxiliary[head.name].state_dict()
        kept = [name for name in theirs if torch.equal(mine[name], theirs[name])]
        assert len(kept) == len(theirs) - 2  # all but the new output layer's weight and bias
        assert all(parameter.requires_grad for parameter in head.module.parameters())
    assert not any(parameter.requires_grad for part in backbone.auxiliary.values() for parameter in part.parameters())


def test_in_training_the_section_computes_what_torchvisions_network_does(found):
    backbone, graph = found
    heads = heads_of(backbone, graph)
    names = [head.name for head in heads]
    whole = copy.deepcopy(backbone.module)
    for name in names:
        setattr(whole, name, copy.deepcopy(backbone.auxiliary[name]))
    whole.aux_logits = True
    section = copy.deepcopy(section_with_auxiliary(graph, None, None, heads))
    # With the output layers of 1000 classes, too, they are the same network.
    section.load_state_dict(whole.state_dict())
    assert {*section.state_dict()} == {*whole.state_dict()}
    x = images(backbone)
    with torch.no_grad():
        torch.manual_seed(4)
        logits, *auxiliary = whole.train()(x)
        torch.manual_seed(4)
        output, head_outputs = section.train()(x)
    torch.testing.assert_close(output, logits)
    for name, expected in zip(reversed(names), auxiliary, strict=True):
        torch.testing.assert_close(head_outputs[name], expected)


@torch.no_grad()
def test_in_evaluation_the_section_is_the_plain_one_bit_for_bit(found):
    backbone, graph = found
    x = images(backbone)
    for start in (None, graph.resolve(LAYERS[next(iter(backbone.auxiliary))])):
        features = x if start is None else graph.section(None, start).eval()(x)
        with_heads = section_with_auxiliary(graph, start, None, heads_of(backbone, graph, 3)).eval()
        assert torch.equal(with_heads(features), graph.section(start, None).eval()(features))


def test_heads_that_are_not_on_the_way_do_not_take_part():
    backbone = load_backbone("googlenet", "none", 64)
    graph = CutGraph(backbone.module, 64)
    heads = heads_of(backbone, graph, 3)
    for start, end, expected in (
        (None, None, {"aux1", "aux2"}),
        ("inception3b", "auto", {"aux1", "aux2"}),
        ("inception4a", None, {"aux2"}),
        ("inception4b", "inception4d", {"aux2"}),
        ("inception4d", None, set()),
        (None, "inception4c", {"aux1"}),
    ):
        cuts = [graph.resolve(name) if name else None for name in (start, end)]
        section = section_with_auxiliary(graph, *cuts, heads)
        present = {name.partition(".")[0] for name in section.state_dict()} & {"aux1", "aux2"}
        assert present == expected, (start, end)
        output = section.train()(torch.randn(2, *(cuts[0].shape if cuts[0] else (3, 64, 64))))
        assert {*output[1]} == expected if expected else isinstance(output, torch.Tensor)


@pytest.mark.parametrize(
    ("name", "unfreeze"), [("googlenet", "all"), ("googlenet", "inception4b"), ("inception_v3", "Mixed_6e")]
)
def test_losses_of_the_heads_fall_in_training_from_the_image_and_from_a_cut(name, unfreeze):
    backbone = load_backbone(name, "none", SIZES[name])
    graph = CutGraph(backbone.module, SIZES[name])
    boundary = graph.boundary(unfreeze)
    torch.manual_seed(0)
    heads = heads_of(backbone, graph, 3)
    end = graph.resolve("auto")
    section = copy.deepcopy(section_with_auxiliary(graph, boundary.cut, end, heads, boundary.trainable))
    on_the_way = [head for head in heads if hasattr(section, head.name)]
    output_layer = nn.Linear(end.shape[0], 3)
    freeze(section, [*(prefix for prefix in boundary.trainable if prefix != "fc"), *(head.name for head in on_the_way)])
    count = 6 if name == "googlenet" else 3
    labels = torch.arange(count) % 3
    x = torch.randn(count, *(boundary.cut.shape if boundary.cut else (3, SIZES[name], SIZES[name])))
    x += 2 * labels.reshape(-1, 1, 1, 1) - 2
    optimizer = torch.optim.Adam([*section.parameters(), *output_layer.parameters()], lr=1e-3)
    section.train()
    for head in on_the_way:
        head_in_section = section.get_submodule(head.name)
        for layer in head_in_section.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # so that each step's loss can be compared with the one before
    history = []
    for _ in range(6 if name == "googlenet" else 3):
        features, logits = section(x)
        losses = {name: nn.functional.cross_entropy(value, labels) for name, value in logits.items()}
        assert all(value.shape == (count, 3) for value in logits.values())
        total = nn.functional.cross_entropy(output_layer(features), labels)
        total = total + sum(head.loss_weight * losses[head.name] for head in on_the_way)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert on_the_way
    for head in on_the_way:
        assert history[-1][head.name] < 0.7 * history[0][head.name], history
        assert all(parameter.grad is not None for parameter in section.get_submodule(head.name).parameters())


def test_images_too_small_for_a_head_are_refused_before_any_training():
    backbone = load_backbone("inception_v3", "none", 128)
    graph = CutGraph(backbone.module, 128)
    with pytest.raises(UsageError, match=r"AuxLogits cannot work on images of 128 pixels.*6 x 6.*`image_size` 299"):
        heads_of(backbone, graph, 3)
    assert load_backbone("resnet18", "none").auxiliary == {}


def test_features_and_digests_do_not_depend_on_the_heads(tmp_path, monkeypatch):
    module = torchvision.models.googlenet(init_weights=False, num_classes=5)
    state = module.state_dict()
    torch.save(state, tmp_path / "with.pth")
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("aux")}, tmp_path / "without.pth")
    with_heads, without = (load_backbone("googlenet", tmp_path / f"{name}.pth") for name in ("with", "without"))
    assert with_heads.weights == without.weights == digest_of_weights(with_heads.module)
    assert not {"aux1", "aux2"} & {name.partition(".")[0] for name in with_heads.module.state_dict()}
    for name in ("aux1", "aux2"):
        own = with_heads.auxiliary[name].state_dict()
        assert all(torch.equal(own[key], state[f"{name}.{key}"]) for key in own)
        assert without.auxiliary[name].fc2.out_features == 1000
    partial = load_backbone("googlenet", _cut_off(tmp_path, state, "inception4c"), match="partial")
    assert torch.equal(partial.auxiliary["aux1"].fc1.weight, state["aux1.fc1.weight"])
    assert not torch.equal(partial.auxiliary["aux2"].fc1.weight, state["aux2.fc1.weight"])


def _cut_off(folder, state, layer):
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith(layer)}, folder / "part.pth")
    return folder / "part.pth"


def test_pretrained_heads_come_with_the_networks_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name, weights in (
        ("googlenet", torchvision.models.GoogLeNet_Weights.DEFAULT),
        ("inception_v3", torchvision.models.Inception_V3_Weights.DEFAULT),
    ):
        module = torchvision.models.get_model(name, init_weights=False, aux_logits=True)
        torch.save(module.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2])
        backbone = load_backbone(name)
        assert {*backbone.auxiliary} == {*WEIGHTS[name]}
        for head, own in backbone.auxiliary.items():
            expected = module.get_submodule(head).state_dict()
            assert all(torch.equal(tensor, expected[key]) for key, tensor in own.state_dict().items())
