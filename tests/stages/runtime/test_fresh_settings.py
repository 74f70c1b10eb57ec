"""The library in the midst of what a caller has set torch and NumPy to."""

import multiprocessing
import pickle
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.library.estimators import TransferClassifier
from pipeline.library.finetuning import finetune
from pipeline.library.functions import features
from pipeline.library.segmenter import TransferSegmenter
from stages.runtime.fresh_settings import fresh_settings, usable_anywhere


@contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SET = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "float64": float64_by_default,
    "errstate": lambda: np.errstate(all="raise"),
}

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 24, 32, 3), dtype=np.uint8)
LABELS = np.arange(12) % 2


@pytest.mark.parametrize("name", SET)
def test_within_it_torch_is_as_it_begins_and_afterwards_as_it_was(name):
    def found():
        settings = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        return (*settings, str(torch.get_default_device()), torch.get_default_dtype(), np.geterr()["under"])

    with SET[name]():
        before = found()
        with fresh_settings():
            assert found() == (True, False, False, "cpu", torch.float32, "ignore")
        assert found() == before


@pytest.fixture
def start_method():
    """Choose how processes start, or leave it open with None, as long as the test runs."""
    before = multiprocessing.get_start_method(allow_none=True)
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


def test_how_processes_start_is_left_for_the_caller_to_choose(start_method):
    """What asks for a lock, as tqdm and joblib do, settles it for the process; `set_start_method` is refused then."""
    start_method(None)
    usable_anywhere(multiprocessing.RLock)()
    assert multiprocessing.get_start_method(allow_none=True) is None
    multiprocessing.set_start_method("spawn")
    usable_anywhere(multiprocessing.RLock)()
    assert multiprocessing.get_start_method(allow_none=True) == "spawn"


def test_how_processes_start_is_not_taken_back_where_another_thread_has_chosen(start_method):
    start_method(None)
    usable_anywhere(multiprocessing.set_start_method)("spawn")
    assert multiprocessing.get_start_method(allow_none=True) == "spawn"


def test_of_two_threads_within_it_the_last_puts_the_default_type_back():
    first_left, second_entered = threading.Event(), threading.Event()

    def second():
        with fresh_settings():
            second_entered.set()
            first_left.wait(60)
            found.append(torch.get_default_dtype())

    found = []
    with float64_by_default():
        thread = threading.Thread(target=second)
        with fresh_settings():
            thread.start()
            second_entered.wait(60)
        first_left.set()
        thread.join()
        assert (found, torch.get_default_dtype()) == ([torch.float32], torch.float64)


def everything(folder):
    """What the library computes, by everything that trains or runs a network, and what is kept of it."""
    rows = features(PIXELS, image_size=32)
    head = TransferClassifier("mlp", random_state=0, device="cpu").fit(rows, LABELS)
    tuned = finetune(PIXELS, LABELS, image_size=32, unfreeze="1", epochs=1, init_head="ncm", num_workers=0)
    segmenter = TransferSegmenter("linear", epochs=1, image_size=64, random_state=0).fit(PIXELS, PIXELS[..., 0] > 127)
    probabilities = np.stack(segmenter.predict_proba(PIXELS[:2]))
    head.save(folder / "head")
    loaded = TransferClassifier.load(folder / "head", device="cpu")
    assert np.array_equal(loaded.predict_proba(rows), head.predict_proba(rows))
    again = pickle.loads(pickle.dumps(tuned))
    assert np.array_equal(again.predict_proba(PIXELS), tuned.predict_proba(PIXELS))
    linear = TransferClassifier("logistic", random_state=0).fit(rows, LABELS)
    return rows, head.predict_proba(rows), linear.predict_proba(rows), tuned.predict_proba(PIXELS), probabilities


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("name", SET)
def test_the_library_computes_the_same_bits_within_it(name, expected, tmp_path):
    with SET[name]():
        found = everything(tmp_path)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
