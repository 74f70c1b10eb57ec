"""Names in a file become those of the network, and rules that do nothing, or too much, are refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import UsageError, WeightsError
from stages.network.backbones.key_mapping import map_keys, require_ignorable, suggest_mapping

PARTS = st.text("abc", min_size=1, max_size=3)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(".".join)


def weights(*names):
    return {name: torch.tensor(float(at)) for at, name in enumerate(names)}


@pytest.mark.parametrize(
    ("rules", "names", "expected"),
    [
        (["backbone="], ["backbone.conv.weight", "head.weight"], ["conv.weight", "head.weight"]),
        (["backbone.="], ["backbone.conv.weight"], ["conv.weight"]),
        (["=backbone"], ["conv.weight", "bias"], ["backbone.conv.weight", "backbone.bias"]),
        (["encoder.layers=blocks"], ["encoder.layers.0.w", "encoder.norm.w"], ["blocks.0.w", "encoder.norm.w"]),
        (["head.fc=fc", "head="], ["head.fc.w", "head.norm.w"], ["fc.w", "norm.w"]),
        (["conv1=stem"], ["conv1.w", "conv10.w"], ["stem.w", "conv10.w"]),
        ([], ["conv.weight"], ["conv.weight"]),
    ],
)
def test_prefixes_are_exchanged(rules, names, expected):
    given_weights = weights(*names)
    mapped = map_keys(given_weights, rules, "file")
    assert [*mapped] == expected
    assert [*mapped.values()] == [*given_weights.values()]


@given(st.lists(NAMES, min_size=1, unique=True), PARTS)
def test_a_prefix_that_is_put_on_and_taken_off_leaves_every_name(names, prefix):
    prefixed = map_keys(weights(*names), [f"={prefix}"], "file")
    assert all(name.startswith(f"{prefix}.") for name in prefixed)
    assert [*map_keys(prefixed, [f"{prefix}="], "file")] == names


def test_rules_that_cannot_be_meant_are_refused():
    for rule in ("backbone", "a=b=c", "="):
        with pytest.raises(UsageError, match="write OLD=NEW"):
            map_keys(weights("backbone.w"), [rule], "file")
    with pytest.raises(WeightsError, match=r"nothing in x\.pth is called 'bakbone'\. Did you mean 'backbone'"):
        map_keys(weights("backbone.w"), ["bakbone="], "x.pth")
    with pytest.raises(WeightsError, match=r"makes 'w' and 'backbone\.w' of x\.pth both 'w'"):
        map_keys(weights("w", "backbone.w"), ["backbone="], "x.pth")
    with pytest.raises(WeightsError, match=r"`weights_ignore` qeue: neither x\.pth nor .*'queue'"):
        require_ignorable(["qeue"], ["queue", "conv.weight"], "x.pth")


def test_the_rule_that_would_help_is_found():
    assert suggest_mapping(["a.b.conv.weight", "a.b.bn.weight"], ["conv.weight", "bn.weight"]) == "a.b="
    assert suggest_mapping(["0.0.weight"], ["features.0.0.weight"]) == "=features"
    assert suggest_mapping(["features.0.weight"], ["conv.weight"]) == ""
