"""Limits of containers and jobs, in trees as Linux shows them."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from stages.runtime import cgroup
from stages.runtime.cgroup import cores_allowed, memory_left
from stages.runtime.device import free_memory
from stages.runtime.threads import usable_cores

ROOT = Path(__file__).parents[3]

GB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes what Linux would show: the groups of this process, and files below the mount."""

    def write(groups, files):
        (tmp_path / "groups").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "mount" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(cgroup, "_ROOT", tmp_path / "mount")
        monkeypatch.setattr(cgroup, "_OF_THIS_PROCESS", tmp_path / "groups")

    return write


def memory_2(limit, used=GB, files=GB // 4):
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 1\ninactive_file {files}\n",
    }


def inside(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


def test_a_container_of_version_2_has_its_limits_at_the_root(system):
    system("0::/\n", {"cpu.max": "150000 100000\n"} | memory_2(3 * GB))
    assert cores_allowed() == 1.5
    assert memory_left() == 2.25 * GB
    assert usable_cores() == min(2, len(os.sched_getaffinity(0)))
    assert free_memory(torch.device("cpu")) <= 2.25 * GB


def test_the_least_limit_above_a_job_counts(system):
    files = inside("slurm/job_7/step_0", {"cpu.max": "max 100000\n"} | memory_2("max"))
    files |= inside("slurm/job_7", {"cpu.max": "400000 100000\n"} | memory_2(8 * GB, 7 * GB))
    files |= inside("slurm", {"cpu.max": "6400000 100000\n"} | memory_2(4 * GB))
    files |= inside("other", {"cpu.max": "1000 100000\n"} | memory_2(GB))
    system("0::/slurm/job_7/step_0\n", files)
    assert cores_allowed() == 4
    assert memory_left() == 1.25 * GB


def test_version_1_has_a_folder_for_each_controller(system):
    files = inside("memory/docker/a", {"memory.limit_in_bytes": f"{2 * GB}\n", "memory.usage_in_bytes": f"{3 * GB}\n"})
    files |= {"memory/docker/a/memory.stat": "inactive_file 5\ntotal_inactive_file 0\n"}
    files |= {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "1\n"}
    files |= inside("cpu", {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"})
    files |= inside("cpu/docker/a", {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"})
    system("5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n", files)
    assert cores_allowed() == 0.5
    assert usable_cores() == 1
    assert memory_left() == 0, "more is taken than there is"


def test_a_group_that_a_container_does_not_see_leaves_those_that_it_does(system):
    system("4:cpu:/kubepods/pod/a\n", inside("cpu", {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"}))
    assert cores_allowed() == 2


@pytest.mark.parametrize(
    "groups", ["", "0::/\n", "0::/../outside\n", "3:memory:/\n2:cpu:/\n1:name=systemd:/a:b\n0::/\n"]
)
def test_where_there_is_no_limit_there_is_none(system, groups):
    system(groups, {"cgroup.procs": "1\n", "cpu.stat": ""})
    assert cores_allowed() is None
    assert memory_left() is None
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert free_memory(torch.device("cpu")) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_other_systems_have_no_such_limits(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup, "_OF_THIS_PROCESS", tmp_path / "none")
    assert cores_allowed() is None


@pytest.mark.parametrize(("given", "threads"), [(None, "1"), ("2", "2")])
def test_commands_have_as_many_threads_as_the_limit_allows(tmp_path, given, threads):
    (tmp_path / "groups").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("70000 100000\n")
    script = f"""
from pathlib import Path
from stages.runtime import cgroup
cgroup._ROOT, cgroup._OF_THIS_PROCESS = Path({str(tmp_path)!r}), Path({str(tmp_path / "groups")!r})
from stages.runtime.openmp import configure_openmp
configure_openmp()
import os, torch
print(os.environ["OMP_NUM_THREADS"], torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if given is None else {"OMP_NUM_THREADS": given})
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    said, used = run.stdout.split()
    assert said == threads
    assert int(used) <= int(threads)
