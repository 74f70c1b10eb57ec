import gc

import pytest

from tests.photographs import make_folder


def pytest_collection_finish():
    """Leave the objects of the libraries, a million, out of every later search for garbage."""
    gc.freeze()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 3 classes of 24 photographs, shared: tests that change files make their own."""
    return make_folder(tmp_path_factory.mktemp("data") / "photographs")
