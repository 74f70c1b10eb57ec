import pytest

from stages.runtime.threads import single_threaded


@pytest.fixture(autouse=True)
def _single_threaded():
    """Steps this small are slower on several threads, by far where other tests run beside."""
    with single_threaded():
        yield
