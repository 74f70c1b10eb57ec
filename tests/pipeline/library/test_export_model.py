"""A trained method in one file: read back with the library of the format alone."""

import json

import pytest
import torch
from safetensors import safe_open

from cache.errors import CutonceError, DataError, UsageError
from pipeline.experiment.models.model_card import ModelCard, config_to_json
from pipeline.experiment.models.model_store import save_model
from pipeline.library.export_model import export_model, register_model_format
from pipeline.options.export_formats import MODEL_FORMATS
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.extraction.extractor import build_extractor
from stages.finetuning.transfer_model import build_transfer_model
from stages.network.heads.linear import LinearHead
from tests.plug_ins import forget_afterwards
from tests.saved_methods import make_images, saved_method


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A head on cached features, and the same with a fine-tuned block, each in a directory of its own."""
    folder = tmp_path_factory.mktemp("models")
    options = FeatureConfig(
        backbone="resnet18", weights="none", image_size=32, crop_mode="squash", cache=folder / "cache", device="cpu"
    )
    extractor = build_extractor(options)
    head = LinearHead(extractor.row_shape, 2, 0.0)
    for unfreeze in (None, "1"):
        tuned = unfreeze and build_transfer_model(extractor, head, FinetuneConfig(unfreeze=unfreeze))
        card = ModelCard(
            method="finetune" if unfreeze else "linear",
            name="example",
            seed=0,
            task={"name": "single_label", "class_names": ["cat", "dog"]},
            features=config_to_json(options),
            weights_digest=extractor.backbone.weights,
            unfreeze=unfreeze,
            identity="0",
        )
        save_model(folder / str(unfreeze), card, head, tuned=tuned or None)
    return folder


@pytest.mark.parametrize("unfreeze", [None, "1"])
def test_the_file_holds_every_tensor_that_was_trained_and_what_it_stands_on(models, tmp_path, unfreeze):
    model = export_model(models / str(unfreeze), tmp_path / "new" / "winner.safetensors", "cpu")
    with safe_open(tmp_path / "new" / "winner.safetensors", framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    trained = model.transfer.model
    expected = {f"head.{name}": tensor for name, tensor in trained.head.state_dict().items()}
    expected |= {f"top.{name}": tensor for name, tensor in trained.top.state_dict().items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert any(name.startswith("top.") for name in tensors) == (unfreeze is not None)
    assert json.loads(metadata["model"])["task"] == {"name": "single_label", "class_names": ["cat", "dog"]}
    seen = json.loads(metadata["preprocessing"])
    assert (seen["image_size"], seen["crop_mode"]) == (32, "squash")
    assert LinearHead(**{name: value for name, value in json.loads(metadata["head"]).items() if name != "head"})


def test_of_a_mean_over_networks_each_has_its_tensors_and_its_share(tmp_path):
    directory = saved_method(tmp_path, "resnet18", "mixture", make_images(tmp_path / "images", 3), 32)
    model = export_model(directory, tmp_path / "winner.safetensors", "cpu")
    with safe_open(tmp_path / "winner.safetensors", framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert json.loads(metadata["shares"]) == pytest.approx([0.5, 0.3, 0.2])
    for number, network in enumerate(model.networks):
        for name, tensor in network.upper.model.head.state_dict().items():
            assert torch.equal(tensors[f"networks.{number}.head.{name}"], tensor)
    sizes = [json.loads(metadata[f"networks.{number}.preprocessing"])["image_size"] for number in range(3)]
    assert sizes == [32, 64, 32]
    assert {name.split(".")[1] for name in tensors if ".top." in name} == {"2"}


def test_what_cannot_be_exported_leaves_no_file(models, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"winner\.pkl has to end with one of \.onnx, \.pt2, \.safetensors"):
        export_model(models / "None", tmp_path / "winner.pkl")
    with pytest.raises(DataError, match="holds no trained model"):
        export_model(tmp_path, tmp_path / "winner.safetensors")
    forget_afterwards(monkeypatch, MODEL_FORMATS)

    @register_model_format(".half")
    def write_half(model, path):
        """What fails in the middle."""
        path.write_text("half")
        raise OSError("no space left")

    register_model_format(".other", needs="a_package_nobody_has", install="a-package-nobody-has")(lambda *_: None)
    with pytest.raises(CutonceError, match=r"winner\.half cannot be written"):
        export_model(models / "None", tmp_path / "winner.half", "cpu")
    with pytest.raises(
        UsageError, match=r"a \.other file needs a_package_nobody_has: pip install 'a-package-nobody-has'"
    ):
        export_model(models / "None", tmp_path / "winner.other")
    assert not list(tmp_path.iterdir())
