import pickle

import numpy as np
import torch
from PIL import Image

from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.open_image import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_a_location_carries_its_pixels_wherever_a_location_goes():
    location = InMemoryImage("images[3]", PIXELS)
    assert location == "images[3]"
    restored = pickle.loads(pickle.dumps([location]))[0]
    assert isinstance(restored, InMemoryImage)
    assert np.array_equal(read_image(restored).permute(1, 2, 0).numpy(), PIXELS)


def test_arrays_tensors_and_pictures_are_read_alike():
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for pixels in (PIXELS, expected.contiguous(), Image.fromarray(PIXELS)):
        image = read_image(InMemoryImage("one", pixels))
        assert torch.equal(image, expected)
        assert image.permute(1, 2, 0).is_contiguous()
