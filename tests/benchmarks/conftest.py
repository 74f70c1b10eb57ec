from types import SimpleNamespace

import pytest

from benchmarks import measurement
from tests import ready_processes


@pytest.fixture
def in_ready_processes(monkeypatch):
    """Let each side of a comparison run in a process that has imported everything, which nothing here is said of."""

    def run(command, cwd, env, **_):
        return ready_processes.run(*command[1:], cwd=cwd, env=env)

    monkeypatch.setattr(measurement, "subprocess", SimpleNamespace(run=run))
