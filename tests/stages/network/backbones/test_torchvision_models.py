"""What torchvision's catalog says; that its networks load is held by the tests of the registry."""

import pytest
import torchvision

from stages.network.backbones.torchvision_models import torchvision_catalog


def test_of_torchvision_it_is_what_the_weights_say():
    catalog = {entry.name: entry for entry in torchvision_catalog()}
    entry = catalog["resnet18"]
    published = torchvision.models.ResNet18_Weights.DEFAULT.meta
    assert entry.accuracy == pytest.approx(published["_metrics"]["ImageNet-1K"]["acc@1"] / 100)
    assert (entry.parameters, entry.image_size) == (11_689_512, 224)
    assert entry.multiply_adds == 1_814_000_000
    assert entry.license is None
    assert "SWAG" in catalog["vit_h_14"].license
