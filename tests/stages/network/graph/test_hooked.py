"""Networks that cannot be traced: a hook takes what a named module gives, and what needs a trace is refused."""

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.network.graph.cuts import CutGraph
from stages.network.graph.hooked import HookedGraph, HookedTrunk, cut_graph, first_tensor, require_tensor_output
from stages.network.graph.pooling import Pool
from tests.stages.network.networks import network

CPU = torch.device("cpu")


class Undecided(nn.Module):
    """Runs its second block only on images that are bright enough: no trace can say what it computes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.several = Several()
        self.unused = nn.Linear(4, 4)
        self.counted = Counted()
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        maps = self.stem(images)
        if maps.mean() > 0.2:
            maps = self.block(maps)
        hidden = self.several(maps)["last_hidden_state"]
        self.counted(maps)
        return self.fc(hidden.mean(1))


class Several(nn.Module):
    """Gives a mapping, as transformers do, with the pooled output before the tokens."""

    def forward(self, maps):
        return {"pooled": maps.mean((2, 3)), "last_hidden_state": maps.flatten(2).transpose(1, 2)}


class Counted(nn.Module):
    def forward(self, maps):
        return len(maps)


@pytest.fixture
def undecided():
    torch.manual_seed(0)
    return Undecided().eval()


@torch.no_grad()
def test_what_a_hook_takes_is_what_the_module_gives(undecided):
    graph = cut_graph(undecided, 16)
    assert isinstance(graph, HookedGraph)
    images = torch.randn(4, 3, 16, 16) + 1
    stem, tokens = graph.resolve("stem"), graph.resolve("several")
    trunk = HookedTrunk(graph, [(tokens, Pool("none", tokens)), (stem, Pool("avg", stem))], "fp32", CPU)
    token_rows, stem_rows = trunk(images)
    maps = undecided.stem(images)
    assert torch.allclose(stem_rows, maps.mean((2, 3)), atol=1e-6)
    last = undecided.block(maps) if maps.mean() > 0.2 else maps
    assert torch.allclose(token_rows, last.flatten(2).transpose(1, 2), atol=1e-6)
    assert not trunk.train().network.training
    assert not undecided.stem._forward_hooks


def test_a_cut_knows_its_shape_and_what_lies_below_it(undecided):
    graph = cut_graph(undecided, 16)
    stem, last = graph.resolve("stem"), graph.resolve("fc")
    assert (stem.shape, stem.layout) == ((8, 7, 7), "nchw")
    assert stem.parameters_below == sum(parameter.numel() for parameter in undecided.stem.parameters())
    assert stem.multiply_adds_below == 3 * 9 * 8 * 49
    assert last.parameters_above == 0
    assert last.multiply_adds_above == 0
    assert graph.resolve("several").layout == "tokens"
    assert graph.peak_activation_bytes(last) >= 4 * 8 * 49
    assert graph.cuts[0].name == "stem.0"


def test_finding_the_cuts_leaves_network_and_generator_as_they_were(undecided):
    undecided.train()
    before = {name: tensor.clone() for name, tensor in undecided.state_dict().items()}
    state = torch.get_rng_state()
    assert cut_graph(undecided, 16).cuts
    assert undecided.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in undecided.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in undecided.modules())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("auto", r"Undecided cannot be traced .*no automatic cut: name the module .*such as several or fc"),
        ("steem", r"no layer 'steem'\. Did you mean 'stem'"),
        ("unused", "'unused' is no cut of Undecided: it does not run"),
        ("counted", "'counted' is no cut of Undecided: it gives a int, no row per image"),
    ],
)
def test_what_is_no_cut_says_why(undecided, name, message):
    with pytest.raises(UsageError, match=message):
        cut_graph(undecided, 16).resolve(name)


@pytest.mark.parametrize(
    "use",
    [
        lambda graph: graph.boundary("fc"),
        lambda graph: graph.section(graph.resolve("stem"), None),
        lambda graph: graph.evaluation_section(None, graph.resolve("stem")),
        lambda graph: graph.parameters_between(None, graph.resolve("stem")),
        lambda graph: graph.is_between(None, graph.resolve("stem"), graph.resolve("fc")),
        lambda graph: graph.blocks,
    ],
)
def test_what_needs_a_trace_is_refused_by_a_message(undecided, use):
    with pytest.raises(UsageError, match=r"Undecided cannot be traced .*nothing of it can be fine-tuned"):
        use(cut_graph(undecided, 16))


@torch.no_grad()
def test_threads_do_not_take_each_others_outputs(undecided):
    graph = cut_graph(undecided, 16)
    cut = graph.resolve("stem")
    trunk = HookedTrunk(graph, [(cut, Pool("none", cut))], "fp32", CPU)
    batches = [torch.full((2, 3, 16, 16), float(number)) for number in range(8)]
    expected = [undecided.stem(batch) for batch in batches]
    wrong = []

    def run(number):
        with torch.no_grad():
            for _ in range(30):
                if not torch.equal(trunk(batches[number])[0], expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_network_that_can_be_traced_is_not_hooked():
    assert type(cut_graph(network("squeezenet1_1"), 64)) is CutGraph


@dataclass
class Wrapped:
    tensor: torch.Tensor


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images)


def test_the_first_tensor_is_found_in_tuples_and_mappings():
    first, second = torch.zeros(1), torch.ones(1)
    assert first_tensor(first) is first
    assert first_tensor((None, [first, second])) is first
    assert first_tensor({"pooler_output": second, "last_hidden_state": first}) is first
    assert first_tensor({"loss": None, "logits": second}) is second
    assert first_tensor("word") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: None, "gave a NoneType for 3 images"),
        (lambda images: Wrapped(images), "gave a Wrapped"),
        (lambda images: images.mean(), r"gave a tensor \[\]"),
        (lambda images: images @ torch.ones(7, 7), r"cannot be run on images of 16 x 16 pixels \(RuntimeError"),
    ],
)
def test_a_module_that_gives_no_tensor_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        require_tensor_output(Gives(make), 16)
