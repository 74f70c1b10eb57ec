import numpy as np
import pytest
from PIL import Image

from stages.config.pixel_values import parse_intensity_range
from stages.data.images.reading import PLAIN, Reading
from stages.data.pixel_quality import find_poor_images
from tests.stages.data.pictures import photograph


@pytest.fixture
def locations(tmp_path):
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (64, 64, 3))
    images = {
        "fine": photograph(64, 64),
        "dark": Image.fromarray((noise // 6).astype(np.uint8)),
        "light": Image.fromarray((255 - noise // 30).astype(np.uint8)),
        "two colors": Image.fromarray(np.repeat(np.uint8([[0], [200]]), 32, 0).repeat(64, 1)),
        "dim": Image.fromarray(random.integers(0, 4096, (64, 64)).astype(np.uint16)),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return [str(tmp_path / f"{name}.png") for name in (*images, "broken")]


def test_dark_light_and_empty_images_are_found_and_others_are_not(locations):
    found = find_poor_images(locations, PLAIN, threads=2)
    assert [(image.index, image.reason) for image in found] == [
        *((4, "dark"), (1, "dark")),
        (2, "light"),
        (3, "low information"),
    ]
    assert found[3].score == pytest.approx(1.0, abs=0.2)


def test_one_color_holds_nothing_and_not_less(tmp_path):
    Image.new("RGB", (8, 8), "gray").save(tmp_path / "plain.png")
    [found] = find_poor_images([str(tmp_path / "plain.png")], PLAIN, threads=1)
    assert f"{found.score:.2f}" == "0.00"


def test_images_are_judged_as_they_are_read(locations):
    found = find_poor_images(locations, Reading(parse_intensity_range("bits:12")), threads=1)
    assert 4 not in [image.index for image in found]
