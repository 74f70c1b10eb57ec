import pytest

from benchmarks import measurement
from tests import ready_processes


@pytest.fixture
def in_ready_processes(monkeypatch):
    """Let each side of a comparison run in a process that has imported everything, which nothing here is said of."""

    def run(command, *, cwd=None, env=None, seconds=None):
        return ready_processes.run(*command[1:], cwd=cwd or measurement.ROOT, env=env)

    monkeypatch.setattr(measurement, "run_to_end", run)
