"""How OpenMP's threads wait for each other. Apart from all else that has to do with threads, which imports torch."""

from __future__ import annotations

import math
import os

from stages.runtime.cgroup import cores_allowed


def configure_openmp() -> None:
    """Let threads that wait give up their core, unless the environment says otherwise.

    Threads of an operator that wait for each other must not hold a core that a decoding thread or a loader process
    could use: on a small machine that makes extraction and fine-tuning several times slower. OpenMP reads this once,
    when torch is first imported, so it is for programs to call, at their very beginning: the commands do.

    Where a container or a job is allowed less than the processors that it sees, there are as many threads as it is
    allowed processors: more would be halted in turn, and those that wait for them with them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    allowed = cores_allowed()
    if allowed is not None and allowed < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(math.ceil(allowed), 1)))
