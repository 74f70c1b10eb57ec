"""glibc keeps what is freed, for each thread that computes, whatever was started before."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's allocator")

BEGIN = """
import resource, threading, time
from stages.runtime.allocator import count_arenas, in_main_arena, share_one_arena, tune_malloc

def others(count):
    'Threads as a notebook has them, each with an arena of its own where glibc is not told otherwise.'
    def wait():
        block = bytearray(1 << 15)
        ready.wait()
        time.sleep(600)
    ready = threading.Barrier(count + 1)
    for _ in range(count):
        threading.Thread(target=wait, daemon=True).start()
    ready.wait()
"""


def output_of(script, **environment):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        variables.pop(name, None)
    run = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, env=variables)
    assert not run.returncode, run.stderr
    return run.stdout.split()


@glibc
def test_threads_have_arenas_of_their_own_until_they_are_to_share_one():
    script = """
before = count_arenas()
others(3)
with_threads = count_arenas()
print(share_one_arena(), with_threads - before, in_main_arena())
others(3)
print(count_arenas() - with_threads)
"""
    assert output_of(script) == ["True", "3", "True", "0"]


@glibc
def test_a_thread_knows_whether_its_arena_is_the_main_one():
    script = """
def tell():
    print(in_main_arena())
share_one_arena() if {shared} else None
thread = threading.Thread(target=tell)
thread.start()
thread.join()
"""
    assert output_of(script.format(shared=True)) == ["True"]
    assert output_of(script.format(shared=False)) == ["False"]


@glibc
@pytest.mark.parametrize("threads_before", [0, 5])
def test_a_thread_that_computes_faults_each_page_in_once(threads_before):
    script = f"""
others({threads_before})
import torch
from stages.runtime.threads import single_thread_pool
assert tune_malloc()
assert count_arenas() >= 1 + {threads_before}

def compute(turns):
    for _ in range(turns):
        torch.ones(20_000_000)
        both.wait()
both = threading.Barrier(2)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(2):  # the arenas of threads that ended go to the next ones
    with single_thread_pool(2, "compute") as pool:
        list(pool.map(compute, [30, 30]))  # until the heap has a place for what both want at once
        before = faults()
        list(pool.map(compute, [20, 20]))
        print((faults() - before) * resource.getpagesize() / 80e6)
"""
    assert max(float(count) for count in output_of(script)) < 10, "of 40 blocks"
