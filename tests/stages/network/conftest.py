"""One thread: the images are so small that threads cost more than they save. Networks are let go at the end."""

import pytest
import torch

from tests.stages.network.networks import forget_networks


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def no_network_outlives_the_room():
    yield
    forget_networks()
