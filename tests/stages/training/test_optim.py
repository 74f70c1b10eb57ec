import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from cache.errors import UsageError
from stages.training.losses import l1_penalty
from stages.training.optim import create_optimizer, layerwise_lrs, optimizers, parameter_groups

NETWORKS = {
    "resnet18": lambda: models.resnet18(),
    "convnext_tiny": lambda: models.convnext_tiny(),
    "vit": lambda: models.VisionTransformer(32, 16, 2, 2, 16, 32),
    "swin_t": lambda: models.swin_t(),
    "timm vit": lambda: timm.create_model("test_vit"),
    "timm efficientnet": lambda: timm.create_model("test_efficientnet"),
}


def everything(model, weight_decay=0.5, rate=0.1):
    return parameter_groups(model, [("all", [name for name, _ in model.named_children()], rate)], weight_decay)


def named(model, groups, **values):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]
        for group in groups
        if all(group[key] == value for key, value in values.items())
        for parameter in group["params"]
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_weight_decay_is_for_matrices_and_kernels_alone(network):
    model = NETWORKS[network]()
    tables = {name for name, _ in model.named_parameters(recurse=False)}
    blocks = [("tables", tables, 0.1), ("all", [name for name, _ in model.named_children()], 0.1)]
    decayed = named(model, parameter_groups(model, blocks, 0.5), weight_decay=0.5)
    layers = nn.Linear | nn.Conv2d | nn.MultiheadAttention
    kernels = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, layers)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }
    assert decayed == kernels


def test_what_a_network_says_has_no_weight_decay_has_none_also_in_sections_of_it():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.layer = nn.Linear(3, 3), nn.Linear(3, 3)

        def no_weight_decay(self):
            return {"query.weight"}

    whole = nn.Sequential(Network())
    assert named(whole, everything(whole), weight_decay=0.5) == {"0.layer.weight"}
    section = nn.ModuleDict({"top": nn.ModuleDict(dict(Network().named_children()))})
    groups = parameter_groups(section, [("top", ["top"], 0.1)], 0.5, no_decay=Network().no_weight_decay())
    assert named(section, groups, weight_decay=0.5) == {"top.layer.weight"}


def test_each_block_keeps_its_own_rate_and_frozen_parameters_stay_out():
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    model["body"].bias.requires_grad_(False)
    groups = parameter_groups(model, [("head", ["head"], 0.1), ("body", ["body"], 0.01)], 0.5)
    assert named(model, groups, lr=0.01, block="body") == {"body.weight"}
    assert named(model, groups, lr=0.1, block="head") == {"head.weight", "head.bias"}


def test_each_block_has_the_rate_of_the_one_above_times_the_factor():
    model = models.resnet18()
    blocks = [("head", ["fc"]), ("layer4", ["layer4"]), ("rest", ["conv1", "bn1", "layer1", "layer2", "layer3"])]
    groups = parameter_groups(model, layerwise_lrs(blocks, 1e-2, 0.1), 0.0)
    rates = {group["block"]: group["lr"] for group in groups}
    assert rates == pytest.approx({"head": 1e-2, "layer4": 1e-3, "rest": 1e-4})
    assert len(named(model, groups)) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([("head", ["fc"])], "conv1.weight is to train, and is in none of the blocks head"),
        (
            [("all", ["conv1", "bn1", "layer", "layer1", "layer2", "layer3", "layer4", "fc"]), ("two", ["fc"])],
            "two blocks",
        ),
    ],
)
def test_a_parameter_that_trains_is_in_one_block(blocks, said):
    with pytest.raises(UsageError, match=said):
        parameter_groups(models.resnet18(), layerwise_lrs(blocks, 1e-2, 0.1), 0.0)


def test_nothing_left_to_train_and_impossible_factors_are_refused():
    with pytest.raises(UsageError, match="nothing is left to train"):
        everything(nn.Sequential(nn.Linear(2, 2)).requires_grad_(False))
    with pytest.raises(UsageError, match="`layer_decay` 10 must be more than 0 and at most 1"):
        parameter_groups(nn.Sequential(nn.Linear(2, 2)), layerwise_lrs([("all", ["0"])], 1, 10), 0)


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    return model.to(memory_format=torch.channels_last)


def trained(model, optimizer, steps=5):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 3
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "lamb", "lion", "rmsprop", "nadamw"])
def test_every_optimizer_learns_and_leaves_alone_what_gets_no_gradient(name):
    model = small()
    optimizer = create_optimizer(name, everything(model, rate=1e-3))
    model[4].requires_grad_(False)
    before = copy.deepcopy(model[4].state_dict())
    losses = trained(model, optimizer)
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[key], value) for key, value in model[4].state_dict().items())


@pytest.mark.parametrize(
    ("name", "plain"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_fused_steps_come_to_what_plain_ones_come_to(name, plain):
    fused, reference = small(), small()
    optimizer = create_optimizer(name, everything(fused, rate=1e-2))
    assert optimizer.defaults["fused"]
    losses = trained(fused, optimizer, 10)
    assert losses == pytest.approx(trained(reference, plain(everything(reference, rate=1e-2)), 10), rel=1e-3)


def test_decay_is_decoupled_or_added_to_the_gradient_as_the_optimizer_has_it():
    shrunk = {}
    for name in ("sgd", "adam", "adamw"):
        weight = nn.ParameterDict({"weight": nn.Parameter(torch.full((2, 2), 4.0))})
        groups = parameter_groups(weight, [("all", ["weight"], 0.1)], 0.5)
        optimizer = create_optimizer(name, groups, momentum=0.0)
        weight["weight"].grad = torch.zeros(2, 2)
        optimizer.step()
        shrunk[name] = weight["weight"][0, 0].item()
    assert shrunk["sgd"] == pytest.approx(4 - 0.1 * 0.5 * 4)
    assert shrunk["adamw"] == pytest.approx(4 * (1 - 0.1 * 0.5))
    assert shrunk["adam"] == pytest.approx(4 - 0.1)  # the decay is the gradient, and Adam divides it by its own size


def test_momentum_is_nesterovs_for_sgd_and_none_for_zero():
    def group():
        return [{"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}]

    assert create_optimizer("sgd", group()).defaults["nesterov"]
    assert not create_optimizer("momentum", group()).defaults["nesterov"]
    assert create_optimizer("sgd", group(), 0.0).defaults["momentum"] == 0
    with pytest.raises(UsageError, match="`momentum` 1"):
        create_optimizer("sgd", group(), 1.0)


@pytest.mark.filterwarnings("error")
def test_an_optimizer_says_nothing_of_packages_that_would_make_it_quicker():
    create_optimizer("kron", everything(small()))


def test_an_unknown_optimizer_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"`opt` admw: .* Did you mean .*'adamw'"):
        create_optimizer("admw", [{"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}])
    assert {"sgd", "adam", "adamw"} <= set(optimizers())


def test_the_l1_penalty_is_the_sum_of_absolute_values():
    parameters = [nn.Parameter(torch.tensor([[1.0, -2.0]])), nn.Parameter(torch.tensor([-3.0]))]
    assert l1_penalty(parameters).item() == 6
