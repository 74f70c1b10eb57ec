"""Counting without numbers comes to what torchvision publishes, and is done once."""

import csv

import pytest
import timm
import torchvision

from stages.network.backbones.counts import (
    SHIPPED,
    Counts,
    count_network,
    known_counts,
    read_counts,
    remember_counts,
    write_counts,
)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18", "timm:test_vit"])
def test_what_is_counted_is_what_the_network_has(name):
    counts = count_network(name)
    plain = name.removeprefix("timm:")
    module = timm.create_model(plain) if ":" in name else torchvision.models.get_model(plain)
    assert counts.parameters == sum(parameter.numel() for parameter in module.parameters())
    if plain == "resnet18":
        assert counts.multiply_adds == pytest.approx(
            torchvision.models.ResNet18_Weights.DEFAULT.meta["_ops"] * 1e9, rel=1e-3
        )


def test_what_was_counted_is_known_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "mine" not in known_counts()
    remember_counts({"mine": Counts(1, 2)})
    remember_counts({"other": Counts(3, 4)})
    assert known_counts().items() >= {"mine": Counts(1, 2), "other": Counts(3, 4)}.items()
    [file] = (tmp_path / ".cache" / "cutonce").iterdir()
    file.write_text("broken\nmine,1,many\n")
    assert "mine" not in known_counts()


def test_a_folder_that_cannot_be_written_to_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").touch()
    remember_counts({"mine": Counts(1, 2)})
    assert "mine" not in known_counts()


def test_counts_are_written_in_order_and_read_back(tmp_path):
    counts = {"b": Counts(1, 2), "a": Counts(10**12, 0)}
    write_counts(tmp_path / "counts.csv", counts)
    assert read_counts(tmp_path / "counts.csv") == counts
    assert [row[0] for row in csv.reader((tmp_path / "counts.csv").open())] == ["network", "a", "b"]


def test_what_comes_with_the_program_holds_networks_of_timm():
    shipped = read_counts(SHIPPED)
    assert len(shipped) > 300
    assert shipped["timm tf_efficientnet_lite0 1000 224"] == Counts(4_652_008, 385_187_552)
