import multiprocessing
import os
import signal
import time

import pytest

from cache.leases import Leases, pending_rows
from tests.cache.processes import in_process, in_processes

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "claims"


def take_all(folder, names, all_have_tried):
    with Leases(folder) as claims:
        acquired = [name for name in names if claims.acquire(name)]
        all_have_tried.wait()
    return acquired


def test_what_one_has_taken_no_other_gets_until_it_is_released(folder):
    with Leases(folder) as holder, Leases(folder) as other:
        assert holder.acquire("a")
        assert holder.acquire("a")
        assert not other.acquire("a")
        assert other.acquire("b")
        holder.release(["a"])
        assert other.acquire("a")
        assert not holder.acquire("a")
    assert list(folder.iterdir()) == []


def test_eight_processes_share_without_overlap_and_leave_nothing_behind(folder):
    names = [f"work-{index}" for index in range(200)]
    names_by_process = in_processes(take_all, [(folder, names, FORK.Barrier(8))] * 8)
    assert sorted(name for names in names_by_process for name in names) == sorted(names)
    assert list(folder.iterdir()) == []


def killed_owner(folder, names):
    """Let a process take names and kill it."""
    pid = os.fork()
    if pid == 0:
        with Leases(folder) as claims:
            for name in names:
                claims.acquire(name)
            (folder / "ready").touch()
            time.sleep(60)
        os._exit(0)
    while not (folder / "ready").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (folder / "ready").unlink()


def test_what_a_dead_process_had_taken_is_free_at_once(folder):
    with Leases(folder) as claims:
        killed_owner(folder, ["a", "b"])
        assert len(list(folder.glob("*.claim"))) == 2
        assert claims.acquire("a")
    with Leases(folder):  # whoever comes next cleans up
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []


def test_eight_processes_take_over_from_a_dead_one_without_overlap(folder):
    names = [f"work-{index}" for index in range(50)]
    folder.mkdir()
    for _ in range(5):
        killed_owner(folder, names)
        names_by_process = in_processes(take_all, [(folder, names, FORK.Barrier(8))] * 8)
        assert sorted(name for names in names_by_process for name in names) == sorted(names)


def test_a_silent_owner_on_another_machine_is_taken_for_dead(folder, monkeypatch):
    with Leases(folder) as claims:
        for name, silent in (("a", 30), ("b", 90)):
            path = folder / f"{name}.claim"
            path.write_text("another-machine pid:[1] 17 1700000000")
            os.utime(path, (time.time() - silent,) * 2)
        assert not claims.acquire("a")
        assert claims.acquire("b")


def test_an_owner_is_heard_through_all_its_claims(folder, monkeypatch):
    monkeypatch.setattr("cache.leases._BEAT_SECONDS", 0.05)
    with Leases(folder) as claims:
        claims.acquire("a")
        for path in folder.iterdir():
            os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while (folder / "a.claim").stat().st_mtime < time.time() - 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_process_number_that_was_given_away_again_is_no_sign_of_life(folder):
    def in_another_life() -> bool:
        with Leases(folder) as claims:
            fields = next(folder.glob("*.owner")).read_text().split()
            (folder / "a.claim").write_text(" ".join([*fields[:2], "1", str(int(fields[3]) - 10**6)]))
            return claims.acquire("a")

    assert in_process(in_another_life)


def test_without_hard_links_everything_is_granted(folder, monkeypatch):
    def no_links(source, target):
        raise OSError(95, "Operation not supported")

    with Leases(folder) as holder, Leases(folder) as other:
        monkeypatch.setattr(os, "link", no_links)
        assert holder.acquire("a")
        assert other.acquire("a")
        assert not holder.supported


def test_rows_that_are_not_on_disk_yet_are_counted_while_their_process_lives(folder):
    with Leases(folder) as one, Leases(folder) as other:
        one.tell_pending_rows()
        assert pending_rows(folder) == 0
        one.pending_rows, other.pending_rows = 300, 40
        one.tell_pending_rows()
        other.tell_pending_rows()
        assert pending_rows(folder) == 340
        one.pending_rows = 0
        one.tell_pending_rows()
        assert pending_rows(folder) == 40
        (told,) = (path for path in folder.glob("*.pending") if path.read_text().endswith(" 40"))
        content = told.read_text().split()
        told.write_text(" ".join([*content[:2], "99999999", *content[3:]]))  # of a process that was killed
        assert pending_rows(folder) == 0
        with Leases(folder):
            assert not told.exists()
    assert list(folder.iterdir()) == []
    assert pending_rows(folder / "not there") == 0
