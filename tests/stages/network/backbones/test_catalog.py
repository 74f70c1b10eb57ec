"""The catalog says what was published, and nothing else."""

import pytest
import timm
import torch
import torchvision

from stages.config.registry import BACKBONES
from stages.network.backbones import timm_catalog as of_timm
from stages.network.backbones.base import LoadedNetwork, random_weights_source
from stages.network.backbones.catalog import CatalogEntry, find_entries, sort_entries
from stages.network.backbones.registry import backbone_names, network_catalog, register_backbone
from stages.network.backbones.timm_results import update_results
from tests.plug_ins import forget_afterwards


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(of_timm, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def catalog(home):
    return {entry.name: entry for entry in network_catalog()}


def test_every_network_of_torchvision_and_timm_is_listed_under_a_name_that_backbone_takes(catalog):
    assert set(torchvision.models.list_models(module=torchvision.models)) < catalog.keys()
    assert {f"timm:{name}" for name in timm.list_pretrained()} < catalog.keys()
    assert {name.partition(".")[0] for name in catalog} >= {name for name in backbone_names() if ":" in name}
    assert len(catalog) == len(network_catalog())


def test_of_timm_it_is_what_the_configuration_and_its_table_say(home):
    name = "timm:convnext_nano.in12k_ft_in1k"
    before = {entry.name: entry for entry in network_catalog()}[name]
    assert (before.accuracy, before.parameters, before.license, before.image_size) == (None, None, "apache-2.0", 224)
    (home / "results.csv").write_text("model,top1,top1_err,img_size\nconvnext_nano.in12k_ft_in1k,82.888,17.112,288\n")
    update_results(str(home / "results.csv"))
    after = {entry.name: entry for entry in network_catalog()}
    assert (after[name].accuracy, after[name].accuracy_image_size) == (pytest.approx(0.82888), 288)
    assert after["timm:convnext_tiny.fb_in1k"].accuracy is None
    assert after["timm:test_resnet.r160_in1k"].license == "apache-2.0"


def test_weights_that_are_on_this_machine_are_told_from_those_that_are_not(home):
    snapshot = home / "hub" / "models--timm--test_vit.r160_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    states = {entry.name: entry.weights for entry in network_catalog()}
    assert states["timm:test_vit.r160_in1k"] == states["resnet18"] == "download"
    assert states["efficientnet_lite0"] == "here"
    assert "none" in states.values()  # architectures without weights
    (snapshot / "model.safetensors").touch()
    checkpoints = home / "torch" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "resnet18-f37072fd.pth").touch()
    found = find_entries(network_catalog(), only_here=True)
    assert {"timm:test_vit.r160_in1k", "resnet18", "efficientnet_lite0"} <= {entry.name for entry in found}
    assert all(entry.weights == "here" for entry in found)


def test_a_family_of_ones_own_is_listed_with_what_it_says(monkeypatch, home):
    forget_afterwards(monkeypatch, BACKBONES)

    def loads(name, pretrained, image_size):
        return LoadedNetwork(torch.nn.Identity(), None, random_weights_source())

    register_backbone("mine:", names=lambda: ["a", "b"], help_text="mine")(loads)
    own = [CatalogEntry("other:c", license="mit")]
    register_backbone("other:", catalog=lambda: own, names=lambda: ["c"], help_text="other")(loads)
    listed = {entry.name: entry for entry in network_catalog()}
    assert listed["mine:a"] == CatalogEntry("mine:a")
    assert listed["other:c"].license == "mit"


ENTRIES = [
    CatalogEntry("vit_small", accuracy=0.7, parameters=9),
    CatalogEntry("Vit_large", accuracy=0.9, multiply_adds=5, parameters=50),
    CatalogEntry("resnet", image_size=32, multiply_adds=7),
]


@pytest.mark.parametrize(
    ("by", "order"),
    [("accuracy", "Vsr"), ("parameters", "sVr"), ("multiply-adds", "Vrs"), ("pixels", "rVs"), ("name", "Vrs")],
)
def test_the_best_or_the_smallest_come_first_and_what_is_not_known_last(by, order):
    initials = {"V": "Vit_large", "s": "vit_small", "r": "resnet"}
    assert [entry.name for entry in sort_entries(ENTRIES, by)] == [initials[letter] for letter in order]


def test_a_search_wants_all_its_words_in_any_order_and_case():
    assert [entry.name for entry in find_entries(ENTRIES, "VIT")] == ["vit_small", "Vit_large"]
    assert [entry.name for entry in find_entries(ENTRIES, "large vit")] == ["Vit_large"]
    assert find_entries(ENTRIES, "swin") == []


def test_counts_fill_in_what_is_not_published_alone():
    entry = CatalogEntry("a", counted_as="key")
    assert entry.with_counts({"key": (3, 4)}).multiply_adds == 4
    published = CatalogEntry("a", parameters=1, multiply_adds=2, counted_as="key")
    assert published.with_counts({"key": (3, 4)}) is published
