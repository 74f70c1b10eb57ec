from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cache.atomic_write
from cache.atomic_write import (
    existing_part,
    make_directory,
    remove,
    remove_stale_temporaries,
    stale_temporaries,
    write_atomically,
)
from cache.errors import CacheError
from tests.cache.processes import in_process


def leftover(folder: Path, host: str, pid: int, age: float) -> Path:
    path = folder / f"{host}-{pid}-0123456789abcdef.tmp"
    path.write_bytes(b"half a shard")
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_published_whole_under_its_own_name_only(tmp_path):
    write_atomically(tmp_path / "file", b"first")
    write_atomically(tmp_path / "file", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"second"


def test_it_reaches_the_disk_before_it_gets_its_name_and_the_name_afterwards(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(cache.atomic_write.os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to)))
    write_atomically(tmp_path / "file", b"content")
    assert order == ["fsync", "rename", "fsync"]


def test_a_temporary_name_tells_who_writes(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(Path, "replace", lambda self, to: names.append(self.name))
    write_atomically(tmp_path / "file", b"content")
    assert f"-{os.getpid()}-" in names[0]
    assert names[0].endswith(".tmp")


def test_a_full_disk_is_told_with_what_was_needed_and_leaves_nothing(tmp_path):
    write_atomically(tmp_path / "old", b"old")

    def write_too_much():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(CacheError) as caught:
            write_atomically(tmp_path / "new", bytes(200_000))
        return str(caught.value)

    message = in_process(write_too_much)
    assert "no room" in message
    assert "200,000 bytes needed" in message
    assert str(tmp_path / "new") in message
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_who_may_read_it_is_said_by_the_process_and_not_by_the_library_that_writes(tmp_path, mask):
    path, before = tmp_path / "file", os.umask(mask)
    try:
        with cache.atomic_write.atomic_path(path) as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_ctrl_c_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.atomic_write.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"content")
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder_is_refused_before_there_is_work_to_lose(read_only_folder):
    folder, become_reader = read_only_folder

    def prepare(path):
        become_reader()
        with pytest.raises(CacheError, match="cannot be written") as caught:
            make_directory(path)
        return str(caught.value)

    assert "choose another `cache`" in in_process(prepare, folder)
    assert "choose another `cache`" in in_process(prepare, folder / "new")
    with pytest.raises(CacheError, match="cannot be written"):
        make_directory(Path("/dev/null/cache"))


def test_leftovers_of_dead_writers_are_removed_and_files_of_live_ones_are_not(tmp_path):
    host, pid = socket.gethostname(), dead_pid()
    dead = [leftover(tmp_path, host, pid, age=120), leftover(tmp_path, "other-host", pid, age=7200)]
    alive = [
        leftover(tmp_path, host, os.getpid(), age=120),
        leftover(tmp_path, "another-host", pid, age=120),
        leftover(tmp_path, "fresh", pid, age=0),
    ]
    (tmp_path / "notes.tmp").write_text("somebody else's")
    assert stale_temporaries(tmp_path) == sorted(dead)
    remove_stale_temporaries(tmp_path)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in alive)
    assert (tmp_path / "notes.tmp").exists()


def test_files_links_and_whole_folders_are_removed_and_what_is_gone_is_no_error(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("folder", "file", "link", "gone"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_may_not_be_removed_is_told(read_only_folder):
    folder, become_reader = read_only_folder
    (folder / "file").touch()

    def use():
        become_reader()
        with pytest.raises(CacheError, match="file cannot be removed"):
            remove(folder / "file")

    in_process(use)


def test_what_is_there_of_a_path_is_the_nearest_that_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert existing_part(tmp_path / "a" / "b") == tmp_path
    assert existing_part(Path("a/b")) == tmp_path
    (tmp_path / "a").mkdir()
    assert existing_part(Path("a/b")) == tmp_path / "a"
    assert existing_part(tmp_path) == tmp_path
