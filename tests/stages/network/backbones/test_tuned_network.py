"""A network that was fine-tuned is a backbone: the tuned blocks of its folder on the others as they were."""

import json
from dataclasses import asdict

import pytest
import safetensors.torch
import torch

from cache.errors import UsageError, WeightsError
from stages.config.features import FeatureConfig
from stages.network.backbones.registry import load_backbone


@pytest.fixture
def tuned(tmp_path):
    """The folder of a network whose last block is another one."""
    original = load_backbone("efficientnet_lite0")
    state = original.module.state_dict()
    top = {name: torch.randn_like(value) for name, value in state.items() if name.startswith("conv_head")}
    safetensors.torch.save_file(top, tmp_path / "top.safetensors")
    features = {**asdict(FeatureConfig(image_size=64, crop_mode="squash")), "cache": "cache"}
    card = {"features": features, "weights_digest": original.weights, "handed_in": None}
    (tmp_path / "model.json").write_text(json.dumps(card))
    return tmp_path, card, top, state


def test_it_has_the_tuned_blocks_and_the_others_as_they_were(tuned):
    folder, card, top, before = tuned
    backbone = load_backbone(f"run:{folder}")
    assert (backbone.identity, backbone.tuned_in) == ("efficientnet_lite0", folder)
    assert (backbone.preprocessing.image_size, backbone.preprocessing.crop_mode) == (64, "squash")
    assert backbone.weights != card["weights_digest"]
    assert top
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(value, top.get(name, before[name]))
    assert load_backbone(f"run:{folder}", image_size=96).preprocessing.image_size == 96
    assert load_backbone("efficientnet_lite0").tuned_in is None


def test_what_is_no_tuned_network_is_refused_in_words(tuned):
    folder, card, _, _ = tuned

    def written(**changed):
        (folder / "model.json").write_text(json.dumps({**card, **changed}))
        return f"run:{folder}"

    with pytest.raises(UsageError, match="there is no fine-tuned network; name the folder of one"):
        load_backbone(f"run:{folder.parent}")
    with pytest.raises(WeightsError, match="no longer those it was tuned from"):
        load_backbone(written(weights_digest="other"))
    with pytest.raises(UsageError, match="that Python handed in"):
        load_backbone(written(handed_in={"identity": "x"}))
    with pytest.raises(UsageError, match="with 4 channels"):
        load_backbone(written(features={**card["features"], "channels": "0,1,2,3"}))
    safetensors.torch.save_file({"nowhere.weight": torch.zeros(1)}, folder / "top.safetensors")
    with pytest.raises(WeightsError, match=r"has not, nowhere\.weight for one"):
        load_backbone(written())
    (folder / "top.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_backbone(written())
