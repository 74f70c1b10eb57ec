"""Real processes for tests: run a function in a forked or spawned one, and hand back what it returned."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def _report(connection: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send(("returned", function(*arguments)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test has to see it
        connection.send(("raised", f"{type(error).__name__}: {error}"))


def in_processes(function: Callable[..., Any], arguments: list[tuple[Any, ...]], start: str = "fork") -> list[Any]:
    """Run `function` once per tuple of arguments, all at the same time, each in its own process."""
    context = multiprocessing.get_context(start)
    running = []
    for process_arguments in arguments:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(sender, function, process_arguments))
        process.start()
        sender.close()
        running.append((process, receiver))
    results = []
    for process, receiver in running:
        how, value = receiver.recv()
        process.join()
        assert how == "returned", value
        results.append(value)
    return results


def in_process(function: Callable[..., Any], *arguments: Any, start: str = "fork") -> Any:
    return in_processes(function, [arguments], start)[0]
