from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.prefetch import prefetch_map


@pytest.fixture
def pool():
    with ThreadPoolExecutor(3) as threads:
        yield threads


@settings(deadline=None, max_examples=30)
@given(delays=st.lists(st.sampled_from([0.0, 0.001, 0.003]), max_size=12), ahead=st.integers(1, 8))
def test_results_come_in_the_order_of_the_items_whichever_is_quicker(delays, ahead):
    def slow(item):
        number, delay = item
        time.sleep(delay)
        return number

    with ThreadPoolExecutor(3) as pool:
        assert list(prefetch_map(slow, enumerate(delays), pool=pool, ahead=ahead)) == list(range(len(delays)))


def test_an_error_is_raised_in_the_place_of_its_result(pool):
    def invert(number):
        return 1 / number

    results = prefetch_map(invert, [1, 2, 0, 4], pool=pool, ahead=4)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("ahead", [1, 3])
def test_items_are_asked_for_when_there_is_room_and_computed_while_the_consumer_works(pool, ahead):
    asked, computed = [], []

    def items():
        for number in range(10):
            asked.append(number)
            yield number

    results = prefetch_map(computed.append, items(), pool=pool, ahead=ahead)
    assert asked == []
    for consumed, _ in enumerate(results, 1):
        assert len(asked) == min(consumed + ahead, 10)
        deadline = time.monotonic() + 10
        while len(computed) < len(asked) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(computed) == len(asked)


@pytest.mark.parametrize("end", ["closed", "error"])
def test_an_early_end_cancels_what_has_not_begun(end):
    begun, go_on = [], threading.Event()

    def wait(number):
        begun.append(number)
        if number:
            go_on.wait(10)
        elif end == "error":
            raise OSError("unplugged")
        return number

    with ThreadPoolExecutor(1) as pool:
        results = prefetch_map(wait, range(20), pool=pool, ahead=8)
        if end == "error":
            with pytest.raises(OSError, match="unplugged"):
                next(results)
        else:
            next(results)
            results.close()
        go_on.set()
    assert len(begun) <= 2


def test_a_result_is_not_kept_while_the_next_one_is_waited_for(pool):
    class Rows:
        pass

    given_away = []

    def make(number):
        if number and given_away:
            deadline = time.monotonic() + 10
            while given_away[0]() is not None and time.monotonic() < deadline:
                time.sleep(0.001)
            return given_away[0]() is None
        while number and not given_away:
            time.sleep(0.001)
        return Rows() if number == 0 else make(number)

    results = prefetch_map(make, range(2), pool=pool, ahead=1)
    given_away.append(weakref.ref(next(results)))
    assert next(results) is True
