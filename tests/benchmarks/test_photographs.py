import numpy as np
import pytest
from PIL import Image

from benchmarks import photographs
from cache import key_of_bytes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    photographs.make_photographs(photographs.DISTINCT + 4, 64, 48, folder)
    return sorted(folder.rglob("*.jpg"), key=lambda path: path.name)


def test_every_photograph_has_a_key_of_its_own(files):
    assert len({key_of_bytes(file.read_bytes()) for file in files}) == len(files) == photographs.DISTINCT + 4


def test_a_copy_decodes_to_the_pixels_of_its_original(files):
    for copy, original in zip(files[photographs.DISTINCT :], files, strict=False):
        assert np.array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(original)))


def test_photographs_of_both_originals_have_the_size_asked_for(files):
    assert {file.parent.name for file in files} == {"china", "flower"}
    assert {Image.open(file).size for file in files} == {(64, 48)}
