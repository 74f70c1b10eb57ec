"""Work done ahead of who consumes it, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, pool: Executor, ahead: int
) -> Generator[Result, None, None]:
    """Yield the function of each item, in the order of the items, while the next ones are computed in `pool`.

    What the function raises is raised in the place of its result. Closing the generator, or an error, cancels what has
    not begun; close it before the pool.

    Parameters
    ----------
    items : iterable
        Asked for in this thread, each when there is room for it.
    pool : Executor
    ahead : int
        Calls that are handed out, at least 1: of as many, the consumer waits for the first, and computing goes on with
        as many while it has a result.
    """
    remaining = iter(items)
    running: deque[Future[Result]] = deque()
    try:
        running.extend(pool.submit(function, item) for item in islice(remaining, ahead))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
            del result  # it is the consumer's alone while the next one is waited for
    finally:
        for future in running:
            future.cancel()
