"""Python in a process of its own, without the seconds that importing torch takes in each.

A server imports what the commands need, once for all tests of a worker, and each process is forked from it: it has used
none of that yet, no thread runs, and it is as much a process as any other, with its own environment, signals and end.
Tests that are about imports, or about what a process is before torch is there, start Python afresh with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch",
        "stages.extraction.extract",
        "stages.finetuning.finetune",
        "pipeline.cli.app",
        "pipeline.experiment.methods.outer_test",
        "pipeline.experiment.methods.finetune_methods",
        "sklearn.linear_model",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
    ]
)

_PRETENDING = ExitStack()
"""What a process believes until it ends: nobody held, a generator's context would end at once."""


class ReadyProcess:
    """A process that calls a function, in a folder and an environment of its own; what it says goes to files."""

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._said = tempfile.TemporaryDirectory()
        environment = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(
            target=_begin, args=(self._said.name, cwd or Path.cwd(), environment, function, *arguments)
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def said(self, stream: str = "stdout") -> str:
        """Return what it has said until now."""
        path = Path(self._said.name, stream)
        return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""

    def finish(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and return its exit code and what it said."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(str(self._process), timeout, self.said(), self.said("stderr"))
        completed = subprocess.CompletedProcess(
            self._process.name, self._process.exitcode, self.said(), self.said("stderr")
        )
        self._said.cleanup()
        return completed


def start(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> ReadyProcess:
    """Start what ``python`` does with these arguments: ``-m module``, ``-c code`` or a script, and its own."""
    return ReadyProcess(_run_python, *map(str, arguments), cwd=cwd, env=env)


def run(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Do what ``python`` does with these arguments, to its end."""
    completed = start(*arguments, cwd=cwd, env=env).finish()
    if check:
        assert completed.returncode == 0, completed.stderr
    return completed


def torchrun(count: int, *arguments: object, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Do what ``torchrun`` does, on this machine alone."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        start_method="forkserver",
    )
    command, failures = [*map(str, arguments)], ""
    with tempfile.TemporaryDirectory() as said:
        # in a thread, since the main one's would have the launcher's handlers of signals ever after
        with ThreadPoolExecutor(1) as launcher:
            launched = launcher.submit(elastic_launch(config, _run_rank), said, Path.cwd(), dict(os.environ), *command)
            try:
                launched.result(timeout=240)
            except ChildFailedError as error:
                failures = str(error)
        out, err = (Path(said, stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, 1 if failures else 0, out, err + failures)


def _begin(
    said: str, folder: Path, environment: Mapping[str, str], function: Callable[..., object], *arguments: object
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    _speak_to(said)
    pretend_as_the_tests_do()
    function(*arguments)


def pretend_as_the_tests_do() -> None:
    """Pretend where the tests that started this process do, as all processes of a machine find its GPU."""
    if "PRETEND_CUDA" in os.environ:
        from tests.pretended_cuda import pretend_cuda

        _PRETENDING.enter_context(pretend_cuda(rounds=True))


def _speak_to(folder: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))


def _run_python(how: str, *arguments: str) -> None:
    if how == "-c":
        code, *arguments = arguments
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif how == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *arguments]
        runpy.run_path(how, run_name="__main__")


def _run_rank(said: str, folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
    import torch

    for name, value in environment.items():
        os.environ.setdefault(name, value)  # but for what the launcher says to each rank
    torch.set_num_threads(1)  # as torchrun does
    os.chdir(folder)
    _speak_to(said)
    pretend_as_the_tests_do()
    _run_python(*arguments)
