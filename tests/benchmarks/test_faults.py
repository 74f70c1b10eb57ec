import sys
from pathlib import Path

import pytest
import torch

from benchmarks import faults
from benchmarks.faults import FAULTS, Laboratory, Tally, extract_in_small_shards, main, opened, start
from cache.errors import CacheError
from tests.ready_processes import run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("faults"))


def test_the_script_prints_a_line_for_each_promise_and_ends_well_when_all_held():
    ended = run(ROOT / "benchmarks" / "faults.py", "--only", "kill", "--kills", "2", "--seed", "5")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].split("  ")[0] == "fault (how often)"
    assert lines[2].startswith("kill -9 while extracting, on one cache (2)  it opens, and nothing is broken")
    assert [line.split()[-2:] for line in lines[2:8]] == [["2", "2"]] * 4 + [["1", "1"]] * 2


@pytest.mark.parametrize("name", ["power", "flip", "rewrite"])
def test_what_is_promised_holds(name, laboratory):
    fault, _ = FAULTS[name]
    laboratory.random.seed(name)
    for tally in fault(laboratory, 2):
        assert tally.times == 2
        assert tally.promises
        assert tally.held, tally.rows


def test_processes_that_are_forked_find_the_network_where_they_can_compute(pretended_cuda, tmp_path):
    laboratory = Laboratory(tmp_path)
    manifest, extractor = laboratory.manifest(16), laboratory.extractor(tmp_path / "forked")
    torch.zeros(1, device="cuda")
    work = start(extract_in_small_shards, extractor, manifest)
    work.join()
    assert work.exitcode == 0
    assert len(opened(extractor)) == 16


def broken_promise(laboratory, times):
    tally = Tally("a fault")
    for number in range(times):
        with tally.once_more():
            tally.check("one", number != 2)
            tally.check("other", True)
    yield tally


def broken_cache(laboratory, times):
    tally = Tally("another fault")
    with tally.once_more():
        raise CacheError("it does not open")
    yield tally


@pytest.mark.parametrize(
    ("fault", "line", "said"),
    [
        (broken_promise, ["one", "4", "3"], "a fault, time 3, does not hold: one"),
        (broken_cache, ["(CacheError)", "1", "0"], "it does not open"),
    ],
)
def test_a_promise_that_does_not_hold_once_is_seen(fault, line, said, monkeypatch, capsys):
    monkeypatch.setattr(faults, "FAULTS", {"kill": (fault, 4)})
    monkeypatch.setattr(sys, "argv", ["faults.py", "--kills", "4"])
    assert main() == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2].split()[-3:] == line
    assert said in printed.err


def test_photographs_are_all_different_and_some_are_none(laboratory):
    manifest = laboratory.manifest(100)
    assert len(set(manifest.keys)) == len(manifest) == 100
    assert sum(Path(path).read_bytes().startswith(b"no picture") for path in manifest.locations) == 2
