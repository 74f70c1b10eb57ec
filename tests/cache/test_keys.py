from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

import cache.keys
from cache import DigestCache, key_of_bytes, key_of_file
from tests.cache.processes import in_process, in_processes

OLD = 1_600_000_000_000_000_000


def put(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def let_time_pass(monkeypatch) -> None:
    """Files written just now count as settled: their change lies further back than the clock's resolution."""
    now = time.time_ns
    monkeypatch.setattr(cache.keys.time, "time_ns", lambda: now() + 10_000_000_000)


def remembered(memo: DigestCache) -> int:
    with sqlite3.connect(memo.path) as database:
        return database.execute("SELECT count(*) FROM keys_1").fetchone()[0]


def test_the_key_is_the_beginning_of_the_sha256_of_the_bytes(tmp_path):
    content = os.urandom(3_000_000)
    assert key_of_bytes(content) == hashlib.sha256(content).hexdigest()[:32]
    assert key_of_file(put(tmp_path / "image", content)) == key_of_bytes(content)
    assert key_of_file(put(tmp_path / "empty", b"")) == key_of_bytes(b"")


def test_a_renamed_or_copied_file_has_the_same_key_and_an_edited_one_another(tmp_path):
    original, copy, other = (put(tmp_path / name, name[:1].encode()) for name in ("a.jpg", "a copy.jpg", "b.jpg"))
    keys, unreadable = DigestCache(None).keys([original, copy, other])
    assert keys[original] == keys[copy] == key_of_bytes(b"a")
    assert keys[other] == key_of_bytes(b"b")
    assert not unreadable


def test_remembered_files_are_not_read_again(tmp_path, monkeypatch):
    paths = [put(tmp_path / f"{index}", b"%d" % index) for index in range(1200)]
    memo = DigestCache(tmp_path / "memo" / "keys.sqlite")
    let_time_pass(monkeypatch)
    first, _ = memo.keys(paths)
    monkeypatch.setattr(cache.keys, "_hash", lambda path: pytest.fail(f"{path} was read again"))
    assert DigestCache(memo.path).keys(paths)[0] == first
    assert memo.note is None


def test_the_memo_knows_a_file_by_its_absolute_path(tmp_path, monkeypatch):
    put(tmp_path / "image", b"here")
    memo = DigestCache(tmp_path / "keys.sqlite")
    let_time_pass(monkeypatch)
    monkeypatch.chdir(tmp_path)
    memo.keys(["image"])
    monkeypatch.chdir("/")
    monkeypatch.setattr(cache.keys, "_hash", lambda path: pytest.fail(f"{path} was read again"))
    assert memo.keys([str(tmp_path / "image")])[0] == {str(tmp_path / "image"): key_of_bytes(b"here")}


def test_a_forgotten_file_is_hashed_again_and_the_others_are_not(tmp_path, monkeypatch):
    paths = [put(tmp_path / name, name.encode()) for name in ("a", "b", "c")]
    memo = DigestCache(tmp_path / "keys.sqlite")
    memo.forget(paths)
    assert not memo.path.exists()
    let_time_pass(monkeypatch)
    first, _ = memo.keys(paths)
    monkeypatch.chdir(tmp_path)
    memo.forget(["b"])
    assert remembered(memo) == 2
    read = []
    hashed = cache.keys._hash
    monkeypatch.setattr(cache.keys, "_hash", lambda path: read.append(path) or hashed(path))
    assert memo.keys(paths)[0] == first
    assert read == [paths[1]]
    DigestCache(None).forget(paths)


def test_an_edited_file_is_hashed_again(tmp_path, monkeypatch):
    path = put(tmp_path / "image", b"before")
    memo = DigestCache(tmp_path / "keys.sqlite")
    let_time_pass(monkeypatch)
    memo.keys([path])
    assert remembered(memo) == 1
    put(tmp_path / "image", b"after!")
    assert memo.keys([path])[0][path] == key_of_bytes(b"after!")


def test_an_edit_that_puts_the_time_of_modification_back_is_seen(tmp_path, monkeypatch):
    path = put(tmp_path / "image", b"before")
    os.utime(path, ns=(OLD, OLD))
    memo = DigestCache(tmp_path / "keys.sqlite")
    let_time_pass(monkeypatch)
    memo.keys([path])
    assert remembered(memo) == 1
    put(tmp_path / "image", b"after!")
    os.utime(path, ns=(OLD, OLD))
    assert memo.keys([path])[0][path] == key_of_bytes(b"after!")


def test_a_file_changed_within_the_clocks_resolution_is_not_trusted_to_the_memo(tmp_path):
    path = put(tmp_path / "image", b"just now")
    memo = DigestCache(tmp_path / "keys.sqlite")
    assert memo.keys([path])[0][path] == key_of_bytes(b"just now")
    assert remembered(memo) == 0


def test_a_file_that_changes_while_it_is_hashed_is_not_trusted_to_the_memo(tmp_path, monkeypatch):
    path = put(tmp_path / "image", b"before")
    real = cache.keys._hash

    def change_then_hash(path):
        put(tmp_path / "image", b"after, and longer")
        return real(path)

    memo = DigestCache(tmp_path / "keys.sqlite")
    let_time_pass(monkeypatch)
    monkeypatch.setattr(cache.keys, "_hash", change_then_hash)
    assert memo.keys([path])[0][path] == key_of_bytes(b"after, and longer")
    assert remembered(memo) == 0


def test_names_with_any_bytes_in_them_are_hashed_and_remembered(tmp_path, monkeypatch):
    names = ["new\nline", "\N{GRINNING FACE}", os.fsdecode(b"not utf-8 \xff\xfe"), "'; DROP TABLE keys_1", "x" * 255]
    paths = [put(tmp_path / name, name.encode("utf-8", "surrogateescape")) for name in names]
    memo = DigestCache(tmp_path / "keys.sqlite")
    let_time_pass(monkeypatch)
    keys, unreadable = memo.keys(paths)
    assert (len(keys), unreadable, remembered(memo)) == (5, {}, 5)
    monkeypatch.setattr(cache.keys, "_hash", lambda path: pytest.fail(f"{path!r} was read again"))
    assert memo.keys(paths)[0] == keys


def test_files_that_cannot_be_read_are_told_with_their_reasons_and_stop_nothing(tmp_path):
    good = put(tmp_path / "good", b"good")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        str(tmp_path / "folder.png"): "directory",
        str(tmp_path / "dangling"): "link to a file that does not exist",
        str(tmp_path / "pipe"): "not a regular file",
        str(tmp_path / "nowhere"): "No such file",
        str(tmp_path / ("y" * 300)): "too long",
        "null\0byte": "null",
        "lone \ud800 surrogate": "surrogate",
    }
    keys, unreadable = DigestCache(tmp_path / "keys.sqlite").keys([*wrong, good])
    assert list(keys) == [good]
    assert unreadable.keys() == wrong.keys()
    for path, part in wrong.items():
        assert part in unreadable[path]


def test_a_file_without_permission_is_told(read_only_folder):
    folder, become_reader = read_only_folder
    path = put(folder / "secret", b"secret")
    Path(path).chmod(0)

    def read():
        become_reader()
        return DigestCache(None).keys([path])

    assert in_process(read) == ({}, {path: "Permission denied"})


def test_a_memo_in_a_folder_without_permission_is_noted_and_the_keys_are_right(read_only_folder, monkeypatch):
    folder, become_reader = read_only_folder
    path = put(folder / "image", b"image")
    let_time_pass(monkeypatch)
    DigestCache(folder / "old.sqlite").keys([path])
    other = put(folder / "other", b"other")

    def read(name):
        become_reader()
        memo = DigestCache(folder / name)
        return memo.keys([path, other]), memo.note

    expected = {path: key_of_bytes(b"image"), other: key_of_bytes(b"other")}
    for name in ("none.sqlite", "no folder/keys.sqlite", "old.sqlite"):
        (keys, unreadable), note = in_process(read, name)
        assert (keys, unreadable) == (expected, {})
        assert "not remembered" in note
        assert name in note


def test_a_read_only_memo_still_answers(read_only_folder, monkeypatch):
    folder, become_reader = read_only_folder
    path = put(folder / "image", b"image")
    let_time_pass(monkeypatch)
    DigestCache(folder / "keys.sqlite").keys([path])

    def read():
        become_reader()
        monkeypatch.setattr(cache.keys, "_hash", lambda path: pytest.fail(f"{path} was read again"))
        return DigestCache(folder / "keys.sqlite").keys([path])[0]

    assert in_process(read) == {path: key_of_bytes(b"image")}


def test_a_damaged_memo_is_noted_and_the_keys_are_right(tmp_path):
    path = put(tmp_path / "image", b"image")
    memo = DigestCache(put(tmp_path / "keys.sqlite", b"not a database at all" * 100))
    assert memo.keys([path])[0] == {path: key_of_bytes(b"image")}
    assert "not a database" in memo.note


def test_progress_sees_every_path_in_order(tmp_path):
    paths = [put(tmp_path / str(index), b"x") for index in range(20)]
    seen = []

    def progress(iterable):
        assert len(iterable) == 20
        for item in iterable:
            seen.append(item)
            yield item

    DigestCache(None).keys(paths, progress=progress)
    assert seen == paths


def _keys_with_memo(memo: Path, paths: list[str]) -> tuple[dict[str, str], str | None]:
    digests = DigestCache(memo)
    return digests.keys(paths)[0], digests.note


def test_processes_share_one_memo_at_once(tmp_path, monkeypatch):
    paths = [put(tmp_path / str(index), b"%d" % index) for index in range(1500)]
    let_time_pass(monkeypatch)
    results = in_processes(_keys_with_memo, [(tmp_path / "keys.sqlite", paths)] * 4)
    assert all(keys == results[0][0] and note is None for keys, note in results)
    assert remembered(DigestCache(tmp_path / "keys.sqlite")) == 1500


def test_files_are_hashed_while_the_next_ones_are_looked_up(tmp_path, monkeypatch):
    paths = [str(tmp_path / str(number)) for number in range(7)]
    for path in paths:
        Path(path).write_text(path)
    looked_up = []
    monkeypatch.setattr(cache.keys, "_BATCH", 2)
    monkeypatch.setattr(cache.keys, "_stat", lambda path, stat=cache.keys._stat: looked_up.append(path) or stat(path))
    outcomes = DigestCache(None)._outcomes(paths, None)
    assert next(outcomes) == (key_of_file(paths[0]), "")
    assert looked_up == paths[:4]
    assert [key for key, _ in outcomes] == [key_of_file(path) for path in paths[1:]]
