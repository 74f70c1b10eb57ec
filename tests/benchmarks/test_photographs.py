import pytest
from PIL import Image

from benchmarks import photographs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    photographs.make_photographs(300, 64, 48, folder)
    return sorted(folder.rglob("*.jpg"), key=lambda path: path.name)


def test_no_two_photographs_have_the_same_pixels(files):
    assert len({Image.open(file).tobytes() for file in files}) == len(files) == 300


def test_photographs_of_both_originals_have_the_size_asked_for(files):
    assert {file.parent.name for file in files} == {"china", "flower"}
    assert {Image.open(file).size for file in files} == {(64, 48)}
