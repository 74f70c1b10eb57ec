"""Modules of the user's own: found, checked before time is spent on them, and saved without pickle."""

import sys

import pytest
import torch

from cache.errors import UsageError
from stages.network.heads.ensemble import EnsembleHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.registry import build_head
from stages.network.heads.serialization import load_head, save_head
from stages.network.heads.user_module import ImportedHead

MODULE = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, row_shape, out_features):
        super().__init__()
        assert isinstance(row_shape, tuple)
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.output = nn.Linear(8, out_features)

    def forward(self, rows):
        return self.output(self.layers(rows))

class Tied(nn.Module):
    def __init__(self, row_shape, out_features):
        super().__init__()
        self.first = nn.Linear(row_shape[0], row_shape[0])
        self.second = nn.Linear(row_shape[0], row_shape[0])
        self.second.weight = self.first.weight
        self.output = nn.Linear(row_shape[0], out_features)

    def forward(self, rows):
        return self.output(self.second(self.first(rows)))

class Misshapen(Flat):
    def forward(self, rows):
        return super().forward(rows).T

class Decided(Flat):
    def forward(self, rows):
        return super().forward(rows).argmax(1, keepdim=True).expand(-1, self.output.out_features)

class Pair(Flat):
    def forward(self, rows):
        return super().forward(rows), rows

class VectorsAlone(nn.Module):
    def __init__(self, row_shape, out_features):
        super().__init__()
        self.output = nn.Linear(row_shape[-1], out_features)

    def forward(self, rows):
        return self.output(rows.view(2, 12))

class RandomFeatures(nn.Module):
    def __init__(self, row_shape, out_features):
        super().__init__()
        numbers = torch.Generator().manual_seed(0)
        features = nn.init.normal_(torch.empty(row_shape[0], 16), generator=numbers)
        self.register_buffer("features", features, persistent=False)  # made again from its seed, and not saved
        self.output = nn.Linear(16, out_features)

    def forward(self, rows):
        return self.output((rows @ self.features).cos())

class Raising(nn.Module):
    def __init__(self, row_shape, out_features):
        raise ValueError("these rows are not mine")

class TakesNothing(nn.Module):
    pass

class WithoutParameters(nn.Module):
    def __init__(self, row_shape, out_features):
        super().__init__()
        self.out_features = out_features

    def forward(self, rows):
        return torch.zeros(len(rows), self.out_features)

class Remembering(Flat):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass

class NoModule:
    pass

def make(row_shape, out_features):
    return Flat(row_shape, out_features)
"""


@pytest.fixture(autouse=True)
def module_of_the_users(tmp_path, monkeypatch):
    """A package `mine` in the current folder, which is not on the path."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "heads.py").write_text(MODULE)
    (package / "needy.py").write_text("import a_package_that_is_not_there\n")
    (package / "broken.py").write_text("def forward(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize("shape", [(12,), (6, 5, 5), (25, 6)])
def test_a_module_of_ones_own_is_a_head_and_comes_back_the_same(tmp_path, shape):
    head = build_head("mine.heads:Flat", shape, 3)
    assert isinstance(head, ImportedHead)
    assert head.training
    assert head.module.training
    assert head.module.layers[2].num_batches_tracked == 0, "the check must leave no trace in the statistics"
    x = torch.randn(4, *shape)
    head(x)
    save_head(tmp_path / "head", head, {})
    assert head.config == {"head": "mine.heads:Flat", "row_shape": [*shape], "out_features": 3}
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(x), head.eval()(x))
    assert loaded.config == head.config


def test_what_a_module_makes_again_from_a_seed_is_there_in_an_ensemble_that_is_loaded_too(tmp_path):
    """Other members draw what they begin with from a generator of their own."""
    head, rows = build_head("mine.heads:RandomFeatures", (8,), 3).eval(), torch.randn(5, 8)
    assert len(head.state_dict()) == 2
    ensemble = EnsembleHead.weighted([head, LinearHead((8,), 3)], [0.5, 0.5], "softmax")
    save_head(tmp_path / "head", ensemble, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(rows), ensemble(rows))


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    head, x = build_head("mine.heads:Tied", (12,), 3), torch.randn(4, 12)
    save_head(tmp_path / "head", head, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(x), head.eval()(x))
    assert loaded.module.first.weight is loaded.module.second.weight


def test_a_head_whose_module_is_gone_says_so(tmp_path):
    save_head(tmp_path / "head", build_head("mine.heads:Flat", (12,), 3), {})
    (tmp_path / "mine" / "heads.py").unlink()
    del sys.modules["mine.heads"]
    with pytest.raises(UsageError, match=r"mine\.heads:Flat: there is no module 'mine\.heads' in "):
        load_head(tmp_path / "head")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.heads:Flat", r"there is no module 'nowhere' in .*, nor is one installed"),
        ("mine.hats:Flat", r"there is no module 'mine\.hats'"),
        ("mine.needy:Flat", r"importing 'mine\.needy' raised ModuleNotFoundError: No module named 'a_package"),
        ("mine.broken:Flat", r"importing 'mine\.broken' raised SyntaxError"),
        ("mine.heads:Flatt", r"heads\.py has no 'Flatt'.*Did you mean 'Flat'"),
        ("mine.heads:NoModule", r"NoModule must be a class derived from torch\.nn\.Module"),
        ("mine.heads:make", r"make must be a class derived from torch\.nn\.Module, and is a function"),
        ("mine.heads:Raising", r"Raising\(\(12,\), 3\) raised ValueError: these rows are not mine"),
        ("mine.heads:TakesNothing", r"TakesNothing\(\(12,\), 3\) raised TypeError"),
        ("mine.heads:VectorsAlone", None),
        ("mine.heads:Misshapen", r"\[2, 12\], it must return logits, float \[2, 3\], and gave torch\.float32 \[3, 2\]"),
        ("mine.heads:Decided", r"and gave torch\.int64 \[2, 3\]"),
        ("mine.heads:Pair", r"and gave a tuple"),
        ("mine.heads:WithoutParameters", r"has no parameters"),
        ("mine.heads:Remembering", r"more than tensors in its state_dict \(_extra_state\)"),
        ("mine/heads.py:Flat", r"is no import path: write package\.module:Class"),
        (":Flat", r"is no import path"),
        ("mine.heads:", r"is no import path"),
    ],
)
def test_what_cannot_be_a_head_is_refused_with_the_reason(name, message):
    if message is None:
        assert build_head(name, (12,), 3).config["head"] == name
        with pytest.raises(UsageError, match=r"a batch of zeros, \[2, 6, 5, 5\], raised RuntimeError"):
            build_head(name, (6, 5, 5), 3)
        return
    with pytest.raises(UsageError, match=message) as raised:
        build_head(name, (12,), 3)
    assert name in str(raised.value)


def test_a_function_named_in_a_damaged_file_is_not_called(tmp_path, monkeypatch):
    """A head's description may come from elsewhere: nothing but a module's class is ever called."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"makedirs must be a class derived"):
        ImportedHead("os:makedirs", (12,), 3)
