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


def problem_of_files(locations):
    samples, sampler = SimpleNamespace(images=[], locations=locations), SimpleNamespace(size=len)
    samples.by_image = lambda: samples
    return SimpleNamespace(rank=SINGLE_PROCESS, samples_per_batch=32, sampler=sampler, train=samples)


def test_files_that_are_sent_as_they_are_take_room_as_large_as_they_are(monkeypatch, tmp_path):
    """A photograph of 12 megapixels takes thirty times what the network sees of it."""
    files = [tmp_path / f"{number}.jpg" for number in range(40)]
    for number, file in enumerate(files):
        with file.open("wb") as opened:
            opened.truncate((4 << 20) if number < 20 else 10)
    problem = problem_of_files([*map(str, files), str(tmp_path / "gone.jpg")])
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: 3 * 2 * (90 << 20))
    assert workers_with_room(8, Preprocessing(224, 256), problem) == 8
    assert workers_with_room(8, Preprocessing(224, 256), problem, encoded=True) == 2


def test_a_fine_tuning_goes_on_without_loaders_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: 1 << 20)
    problem = problem_of_files([])
    with caplog.at_level(logging.INFO, "cutonce"):
        assert workers_with_room(2, Preprocessing(224, 256), problem) == 0
    assert "this process loads the images itself" in caplog.text
