"""How OpenMP's threads wait for each other. Apart from all else that has to do with threads, which imports torch."""

from __future__ import annotations

import os


def configure_openmp() -> None:
    """Let threads that wait give up their core, unless the environment says otherwise.

    Threads of an operator that wait for each other must not hold a core that a decoding thread or a loader process
    could use: on a small machine that makes extraction and fine-tuning several times slower. OpenMP reads this once,
    when torch is first imported, so it is for programs to call, at their very beginning: the commands do.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
