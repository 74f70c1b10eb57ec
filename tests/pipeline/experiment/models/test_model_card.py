"""What a folder says of a trained method, without a network."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cache.errors import DataError
from pipeline.experiment.models.model_card import ModelCard, config_to_json, read_columns, read_recipe, task_of_model
from stages.config.features import FeatureConfig

CARD = ModelCard(
    method="head",
    name="example",
    seed=0,
    task={"name": "single_label", "class_names": ["cat", "dog"]},
    features=config_to_json(FeatureConfig(backbone="resnet18", cache=Path("features"))),
    weights_digest="0",
    unfreeze=None,
    identity="0",
)


def write(folder, **changed):
    (folder / "model.json").write_text(json.dumps({**asdict(CARD), **changed}))
    return folder


def test_a_card_comes_back_as_it_was_written(tmp_path):
    assert asdict(read_recipe(write(tmp_path))) == json.loads(json.dumps(asdict(CARD)))
    assert task_of_model(tmp_path).class_names == ("cat", "dog")
    assert read_columns(tmp_path) is None


def test_a_folder_without_a_card_and_a_damaged_one_are_told_apart(tmp_path):
    assert read_recipe(tmp_path) is None
    with pytest.raises(DataError, match=r"holds no trained model \(model.json is missing\)"):
        task_of_model(tmp_path)
    with pytest.raises(DataError, match="damaged or was made by another version"):
        read_recipe(write(tmp_path, of_a_later_version=1))


@pytest.mark.parametrize(
    ("changed", "published"),
    [
        ({}, True),
        ({"backbone": "timm:resnet18.a1_in1k"}, True),
        ({"weights": "none"}, True),
        ({"weights": "own.safetensors"}, False),
        ({"backbone": "mine.nets:Network"}, False),
        ({"backbone": "timm:hf-hub:someone/network"}, False),
    ],
)
def test_only_a_network_that_a_name_alone_gives_is_published(changed, published):
    assert replace(CARD, features={**CARD.features, **changed}).is_published == published
    assert not replace(CARD, handed_in={"identity": "0"}).is_published
