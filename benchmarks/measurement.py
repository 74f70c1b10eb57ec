"""Each side of a comparison runs in a process of its own, and says there what it took.

Fresh processes, because the sides differ in what a process can be only once: cutonce changes the settings of the
allocator and of OpenMP, and no baseline may profit or suffer from that. For the same reason whoever calls `measure`
must not have called `configure_openmp`, which sets an environment variable that child processes inherit.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent

FEATURES = Path("features.npy")
"""What a side that extracts features saves them as, in its folder: one row per image, in the order of the paths."""


@dataclass
class Measurement:
    """What one run of one side took.

    Attributes
    ----------
    images : int
        Images it went through.
    seconds : float
        Wall time inside the process, from after the imports and the construction of the network until the result is
        on disk (features) or complete (training).
    process_seconds : float
        Wall time of the whole process, as a person at the terminal waits for it.
    minor_faults : int
        Page faults served without the disk, in `seconds`; loader processes not counted.
    peak_memory : int
        Largest resident set of the process, in bytes; loader processes not counted.
    details : dict of str to float
        What only this side has to say.
    folder : str
        Where it ran.
    """

    images: int
    seconds: float = 0.0
    process_seconds: float = 0.0
    minor_faults: int = 0
    peak_memory: int = 0
    details: dict[str, float] = field(default_factory=dict)
    folder: str = ""

    @property
    def rate(self) -> float:
        """Images per second of `seconds`."""
        return self.images / self.seconds

    def features(self) -> NDArray[np.float64]:
        """Return the features it saved, [n, d]."""
        return np.load(self.folder / FEATURES).astype(np.float64)


@contextmanager
def measuring(images: int) -> Iterator[Measurement]:
    """Take the time, the page faults and the peak memory of the block, which goes through so many images."""
    measurement = Measurement(images)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    started = time.perf_counter()
    yield measurement
    measurement.seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    measurement.minor_faults = usage.ru_minflt - faults
    measurement.peak_memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(side: str, folder: Path, seconds: float | None = None, /, **arguments: Any) -> Measurement:
    """Run one side, a function of this package such as ``baselines.tutorial_features``, in a fresh process."""
    started = time.perf_counter()
    measurement = Measurement(**in_fresh_process(side, folder, seconds, **arguments))
    measurement.process_seconds = time.perf_counter() - started
    measurement.folder = str(folder)
    return measurement


def in_fresh_process(function: str, folder: Path, seconds: float | None = None, /, **arguments: Any) -> Any:
    """Return what a function of this package, called in a process of its own in `folder`, returns as JSON.

    Raises
    ------
    SystemExit
        If it fails; with everything the process said.
    subprocess.TimeoutExpired
        If it takes more than so many seconds.
    """
    command = [sys.executable, "-m", "benchmarks.measurement", function, json.dumps(arguments)]
    completed = run_to_end(command, cwd=folder, env=environment(), seconds=seconds)
    if completed.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with status {completed.returncode}:\n{completed.stdout}{completed.stderr}"
        )
    return json.loads(completed.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """Return the environment of a process that imports this package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def run_to_end(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, seconds: float | None
) -> subprocess.CompletedProcess[str]:
    """Return what a command came to and what it said.

    Raises
    ------
    subprocess.TimeoutExpired
        If it takes more than so many seconds; it is ended then, with all processes that it has started.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            said = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise subprocess.TimeoutExpired(command, error.timeout, *said) from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, *said)


def _answer(function: str, arguments: str) -> str:
    """Call a function of this package in this process, and return its result as JSON."""
    module, _, name = function.partition(".")
    result = getattr(import_module(f"benchmarks.{module}"), name)(**json.loads(arguments))
    return json.dumps(result, default=asdict)


if __name__ == "__main__":
    print(_answer(*sys.argv[1:]))
