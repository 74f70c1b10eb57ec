import gc

import pytest

from stages.runtime.openmp import configure_openmp
from tests.photographs import make_folder

configure_openmp()  # before torch is imported: tests share the cores


def pytest_collection_finish():
    """Leave the objects of the libraries, a million, out of every later search for garbage."""
    gc.freeze()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 3 classes of 24 photographs, shared: tests that change files make their own."""
    return make_folder(tmp_path_factory.mktemp("data") / "photographs")
