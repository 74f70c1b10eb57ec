import pytest

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.config.image_size import read_size, shape_of_size, size_in_words, size_of_shape


@pytest.mark.parametrize(
    ("given", "size", "shape"),
    [
        (224, 224, (224, 224)),
        ("224", 224, (224, 224)),
        ("224x224", 224, (224, 224)),
        ("360 × 480", "360x480", (360, 480)),
    ],
)
def test_a_size_is_written_in_one_way_and_a_square_as_a_number(given, size, shape):
    assert read_size(given) == size
    assert shape_of_size(read_size(given)) == shape
    assert size_of_shape(*shape) == size
    assert FeatureConfig(image_size=given).image_size == size
    assert size_in_words(size) == f"{shape[0]} x {shape[1]}"


@pytest.mark.parametrize("given", ["", "wide", "360x", "0x5", 0, 2.5])
def test_what_is_no_size_is_refused_with_how_one_is_written(given):
    with pytest.raises(UsageError, match=r"`image_size`"):
        read_size(given)
