"""Formats of files by their names and endings."""

import sys
from pathlib import Path

import pytest

from cache.errors import UsageError
from pipeline.options.export_formats import EXPORT_FORMATS, MODEL_FORMATS, model_format_names, writer_of


def test_all_packages_of_a_format_are_named_each_as_a_shell_takes_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"needs onnxruntime: pip install 'onnx' 'onnxscript' 'onnxruntime'$"):
        writer_of(MODEL_FORMATS, Path("a.onnx"))


def test_formats_of_models_have_names_for_the_option():
    assert model_format_names() == {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}


def test_an_ending_that_no_format_has_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match=r"a\.txt has to end with one of \.npz, \.parquet, \.safetensors"):
        writer_of(EXPORT_FORMATS, Path("a.txt"))
    assert callable(writer_of(MODEL_FORMATS, Path("A.SAFETENSORS")))
