import logging
from types import SimpleNamespace

import pytest

from stages.data.images.preprocessing import Preprocessing
from stages.finetuning.image_batches import workers_with_room
from stages.runtime import shared_memory
from stages.runtime.distributed import SINGLE_PROCESS
from stages.runtime.shared_memory import loaders_that_fit


@pytest.mark.parametrize(
    ("free", "sharing", "fitting"), [(1 << 20, 1, 0), (64 << 20, 1, 5), (64 << 20, 2, 2), (1 << 40, 1, 8), (None, 1, 8)]
)
def test_as_many_loaders_are_started_as_shared_memory_has_room_for(monkeypatch, free, sharing, fitting):
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: free)
    assert loaders_that_fit(8, 4 << 20, sharing) == fitting


def test_this_machine_says_what_it_has():
    free = shared_memory.free_shared_memory()
    assert free is None or free > 0


def test_a_fine_tuning_goes_on_without_loaders_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: 1 << 20)
    samples, sampler = SimpleNamespace(images=[]), SimpleNamespace(size=len)
    problem = SimpleNamespace(rank=SINGLE_PROCESS, samples_per_batch=32, sampler=sampler, train=samples)
    with caplog.at_level(logging.INFO, "cutonce"):
        assert workers_with_room(2, Preprocessing(224, 256), problem) == 0
    assert "this process loads the images itself" in caplog.text
