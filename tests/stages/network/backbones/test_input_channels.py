import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.extraction.extractor import build_extractor
from stages.network.backbones.input_channels import with_channels
from stages.network.backbones.registry import load_backbone
from stages.network.image_channels import channels_of


@pytest.fixture
def resnet():
    return load_backbone("resnet18", "none", 64)


@pytest.mark.parametrize("count", [2, 4, 6, 8])
def test_the_filters_are_repeated_and_keep_their_sum(resnet, count):
    """As timm does; of equal channels a widened network makes what it made of three."""
    before = resnet.module.conv1.weight.clone()
    widened = with_channels(resnet, count)
    weight = widened.module.conv1.weight
    assert weight.shape[1] == channels_of(widened.module) == len(widened.preprocessing.mean) == count
    for channel in range(count):
        assert torch.allclose(weight[:, channel], before[:, channel % 3] * 3 / count)
    assert widened.weights != resnet.weights
    assert f"conv1 widened to {count} channels" in widened.weights_source


def test_a_network_without_a_first_convolution_over_colors_is_refused(resnet):
    resnet.module.conv1 = nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (64, 64)), nn.AvgPool2d(2))
    resnet.module.forward = resnet.module.conv1.forward
    with pytest.raises(UsageError, match="no first convolution over red, green and blue"):
        with_channels(resnet, 5)


def test_features_of_many_channels_are_extracted_and_the_network_of_others_stays_as_it_is(tmp_path):
    options = FeatureConfig("resnet18", weights="none", image_size=64, channels="0,1,2,3,4", cache=tmp_path)
    extractor = build_extractor(options)
    images = torch.randint(0, 256, (2, 5, 64, 64), dtype=torch.uint8)
    assert extractor.features(images).shape == (2, 512)
    assert (
        len(
            {
                build_extractor(
                    FeatureConfig("resnet18", weights="none", image_size=64, channels=channels, cache=tmp_path)
                ).fingerprint
                for channels in ("rgb", "2,1,0", "0,1,2,3,4", "4,3,2,1,0")
            }
        )
        == 4
    )


def test_an_augmentation_of_colors_is_refused_before_any_image_is_read(tmp_path):
    with pytest.raises(UsageError, match="`augment` strong works on red, green and blue, and there are 5 `channels`"):
        build_extractor(
            FeatureConfig("resnet18", weights="none", image_size=64, channels="0,1,2,3,4", augment="strong")
        )
    with pytest.raises(UsageError, match="have to be looked for in the images of a data set"):
        build_extractor(FeatureConfig("resnet18", weights="none", channels="all"))
