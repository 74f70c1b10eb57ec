import pytest

from tests.photographs import make_folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 3 classes of 24 photographs, shared: tests that change files make their own."""
    return make_folder(tmp_path_factory.mktemp("data") / "photographs")
