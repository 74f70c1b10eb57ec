from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import Spec
from cache.errors import CacheError
from tests.cache.conftest import SPEC

TEXT = ("backbone", "weights", "cut", "pooling", "precision", "decoder")

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.text(), json_values, max_size=4)


@given(name=st.sampled_from(TEXT), text=st.text())
def test_every_text_field_changes_the_fingerprint(name, text):
    other = dataclasses.replace(SPEC, **{name: text})
    assert (other.fingerprint == SPEC.fingerprint) == (getattr(SPEC, name) == text)


@given(name=st.sampled_from(["preprocessing", "views"]), one=mappings, other=mappings)
def test_every_mapping_changes_the_fingerprint_by_what_it_says(name, one, other):
    first, second = dataclasses.replace(SPEC, **{name: one}), dataclasses.replace(SPEC, **{name: other})
    same = json.dumps(getattr(first, name), sort_keys=True) == json.dumps(getattr(second, name), sort_keys=True)
    assert (first.fingerprint == second.fingerprint) == same == (first == second)


def test_the_storage_type_and_having_views_change_the_fingerprint():
    variants = [dataclasses.replace(SPEC, dtype="float16"), dataclasses.replace(SPEC, views={})]
    assert len({SPEC.fingerprint, *(other.fingerprint for other in variants)}) == 3


@given(mapping=mappings)
def test_order_of_names_and_kind_of_sequence_do_not_matter(mapping):
    backwards = dict(reversed(list(mapping.items())))
    assert dataclasses.replace(SPEC, views=mapping) == dataclasses.replace(SPEC, views=backwards)
    as_list, as_tuple = ({"mean": kind([0.5, 1.0])} for kind in (list, tuple))
    assert dataclasses.replace(SPEC, views=as_list) == dataclasses.replace(SPEC, views=as_tuple)


def test_equal_numbers_are_equal_however_they_are_written():
    assert dataclasses.replace(SPEC, views={"a": 1}) == dataclasses.replace(SPEC, views={"a": 1.0})
    assert dataclasses.replace(SPEC, views={"a": 0}) == dataclasses.replace(SPEC, views={"a": -0.0})
    assert dataclasses.replace(SPEC, views={"a": 1}) != dataclasses.replace(SPEC, views={"a": True})


@given(preprocessing=mappings, views=st.none() | mappings, text=st.text())
def test_a_spec_survives_json(preprocessing, views, text):
    spec = dataclasses.replace(SPEC, preprocessing=preprocessing, views=views, backbone=text)
    restored = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert restored == spec
    assert restored.fingerprint == spec.fingerprint
    assert hash(restored) == hash(spec)


def test_the_fingerprint_is_the_same_in_every_process_and_release():
    """Changing this value orphans every cache there is."""
    assert SPEC.fingerprint == "1cbc7033ed84ec43d84679e37aa7483a"


def test_a_mapping_changed_later_does_not_change_the_spec():
    mapping = {"image_size": 224}
    spec = dataclasses.replace(SPEC, preprocessing=mapping)
    mapping["image_size"] = 300
    assert spec.preprocessing == {"image_size": 224}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", object(), {1: "number as a name"}])
def test_what_json_cannot_say_exactly_is_refused_by_name(value):
    with pytest.raises(CacheError, match=r"spec\.preprocessing\.wrong"):
        dataclasses.replace(SPEC, preprocessing={"wrong": value})


def test_wrong_types_and_storage_types_are_refused():
    with pytest.raises(CacheError, match=r"spec\.cut"):
        dataclasses.replace(SPEC, cut=None)
    with pytest.raises(CacheError, match=r"spec\.preprocessing"):
        dataclasses.replace(SPEC, preprocessing="224")
    with pytest.raises(CacheError, match="bfloat16"):
        dataclasses.replace(SPEC, dtype="bfloat16")


def test_fields_of_another_version_are_named():
    with pytest.raises(CacheError, match="engine"):
        Spec.from_json({**SPEC.to_json(), "engine": "x"})
    with pytest.raises(CacheError, match="cut"):
        Spec.from_json({name: value for name, value in SPEC.to_json().items() if name != "cut"})


def test_importing_the_errors_loads_neither_h5py_nor_numpy():
    code = "import sys, cache.errors; sys.exit(bool({'h5py', 'numpy', 'sqlite3'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode
        == 0
    )
