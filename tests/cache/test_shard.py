"""What a shard must never do: serve a byte that was not written, reach outside itself, or stop a cache from opening."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureCache
from cache.errors import BrokenShardError, CacheError
from cache.shard import RowBatch, encode_shard, open_shard
from tests.cache.conftest import SPEC, features_of, fill, make_keys, shard_paths

KEYS = make_keys(5)


def image(shape: tuple[int, ...] = (6,)) -> bytes:
    return encode_shard(SPEC, [RowBatch(KEYS, 0, features_of(KEYS, shape))], seconds=5.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shard = tmp_path / "shard.h5"
    shard.write_bytes(image())
    return shard


def copied(path: Path, changed: dict[str, dict], tables_too: bool = False) -> None:
    """Write the shard again with datasets made by other arguments, everything else as it was."""
    with h5py.File(path) as source, h5py.File(path.with_suffix(".new"), "w") as file:
        file.attrs.update(source.attrs)
        for name, dataset in source.items():
            arguments = {"data": dataset[()], **changed.get(name, {})}
            if arguments.get("data") is None:
                del arguments["data"]
            file.create_dataset(name, **arguments).attrs.update(dataset.attrs)
        if tables_too:
            columns = b"".join(file[name][()].tobytes() for name in ("keys", "views", "checksums"))
            file.attrs["table-crc32"] = zlib.crc32(columns)
    path.with_suffix(".new").replace(path)


def test_a_shard_tells_plain_h5py_all_it_knows(path):
    with h5py.File(path) as file:
        assert json.loads(file.attrs["spec"]) == SPEC.to_json()
        assert file.attrs["fingerprint"] == SPEC.fingerprint
        assert file.attrs["seconds"] == 5.0
        assert [key.decode() for key in file["keys"]] == KEYS
        assert file["views"][()].tolist() == [0] * 5
        np.testing.assert_array_equal(file["features"], features_of(KEYS))
        assert file["checksums"][()].tolist() == [zlib.crc32(row.tobytes()) for row in file["features"][()]]
        columns = b"".join(file[name][()].tobytes() for name in ("keys", "views", "checksums"))
        assert file.attrs["table-crc32"] == zlib.crc32(columns)
        for element in (file, *file.values()):
            assert element.attrs["encoding-version"] == 1
            assert isinstance(element.attrs["encoding-type"], str)


def test_features_begin_at_a_page_so_that_they_can_be_mapped(tmp_path):
    path = tmp_path / "big.h5"
    path.write_bytes(image((5000,)))
    shard, _ = open_shard(path, SPEC)
    assert shard.storage.offset % 4096 == 0
    mapped = np.memmap(path, shard.dtype, "r", shard.storage.offset, (shard.rows, *shard.row_shape))
    np.testing.assert_array_equal(mapped, features_of(KEYS, (5000,)))


def served(path: Path) -> dict[str, bytes] | None:
    """Return what a reader would get of the shard, by key; None if it is refused."""
    try:
        shard, table = open_shard(path, SPEC)
    except BrokenShardError:
        return None
    rows = {}
    for start, stretch, damaged in shard.stretches():
        for row in set(range(len(stretch))) - set(damaged.tolist()):
            key = "".join(f"{int(half):016x}" for half in table.keys[start + row])
            rows[f"{key}/{table.views[start + row]}"] = stretch[row].tobytes()
    return rows


@settings(max_examples=300, deadline=None)
@given(data=st.data(), flip=st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_never_served(tmp_path_factory, data, flip):
    content = bytearray(image())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= flip
    path = tmp_path_factory.mktemp("flipped") / "shard.h5"
    path.write_bytes(content)
    truth = {f"{key}/0": row.tobytes() for key, row in zip(KEYS, features_of(KEYS), strict=True)}
    rows = served(path)
    assert rows is None or rows.items() <= truth.items()
    if rows is not None:
        assert len(rows) >= len(KEYS) - 1  # no more is lost than the row that was hit


def test_a_flipped_byte_in_a_row_costs_that_row_only_and_is_named(path):
    shard, _ = open_shard(path, SPEC)
    content = bytearray(path.read_bytes())
    content[shard.storage.offset + 3 * shard.row_bytes + 5] ^= 0x10
    path.write_bytes(content)
    shard, _ = open_shard(path, SPEC)
    [(start, _, damaged)] = shard.stretches()
    assert (start, damaged.tolist()) == (0, [3])


def test_sound_rows_are_not_checked_one_by_one(tmp_path, monkeypatch):
    """One checksum over a stretch of many blocks is compared with what those of the rows say together."""
    path = tmp_path / "big.h5"
    path.write_bytes(image((70_000,)))
    shard, _ = open_shard(path, SPEC)
    monkeypatch.setattr("cache.shard.row_checksums", lambda rows: pytest.fail("rows were checked one by one"))
    for start, count in ((0, 5), (0, 1), (1, 3), (4, 1)):
        assert not len(shard.read(start, np.empty((count, shard.row_bytes), np.uint8)))


def test_swapped_rows_are_damage(path):
    shard, _ = open_shard(path, SPEC)
    content = bytearray(path.read_bytes())
    first_row, second_row = (
        slice(shard.storage.offset + row * 24, shard.storage.offset + row * 24 + 24) for row in (1, 2)
    )
    content[first_row], content[second_row] = content[second_row], content[first_row]
    path.write_bytes(content)
    [(_, _, damaged)] = open_shard(path, SPEC)[0].stretches()
    assert damaged.tolist() == [1, 2]


def test_a_truncated_shard_is_refused_at_any_length(path):
    content = path.read_bytes()
    for length in [0, 1, 8, 100, *range(200, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(BrokenShardError, match=r"shard\.h5"):
            open_shard(path, SPEC)


def test_a_shard_that_shrinks_after_it_was_opened_is_an_error(path):
    shard, _ = open_shard(path, SPEC)
    path.write_bytes(path.read_bytes()[: shard.storage.offset + 30])
    with pytest.raises(CacheError, match="shorter than when it was opened"):
        list(shard.stretches())


@pytest.mark.parametrize("element", ["/", "features", "keys", "views", "checksums"])
def test_another_version_is_told_with_the_file_the_version_and_what_to_do(path, element):
    with h5py.File(path, "a") as file:
        file[element].attrs["encoding-version"] = 2
    with pytest.raises(
        CacheError, match=r"shard\.h5 was made by another version.*version 2.*reads version 1"
    ) as caught:
        open_shard(path, SPEC)
    assert not isinstance(caught.value, BrokenShardError)
    assert "`cache`" in str(caught.value)


@pytest.mark.parametrize(
    "filters", [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {"fletcher32": True}]
)
def test_a_shard_that_was_compressed_later_is_read_and_checked(tmp_path, filters):
    path = tmp_path / "shard.h5"
    path.write_bytes(image((500,)))
    copied(path, {"features": {"chunks": (2, 500), **filters}})
    shard, _ = open_shard(path, SPEC)
    [(_, stretch, damaged)] = shard.stretches()
    np.testing.assert_array_equal(stretch.view(np.float32), features_of(KEYS, (500,)))
    assert not len(damaged)
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 700] ^= 0xFF
    path.write_bytes(content)
    [(_, _, damaged)] = open_shard(path, SPEC)[0].stretches()
    assert len(damaged)
    assert set(damaged.tolist()) <= {2, 3}


def external_link(path: Path) -> None:
    with h5py.File(path.with_name("secret.h5"), "w") as secret:
        secret["features"] = features_of(KEYS)
    with h5py.File(path, "a") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink("secret.h5", "/features")


def soft_link(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.move("features", "elsewhere")
        file["features"] = h5py.SoftLink("/elsewhere")
        del file["views"]


def external_storage(path: Path) -> None:
    path.with_name("secret.bin").write_bytes(features_of(KEYS).tobytes())
    external = [(str(path.with_name("secret.bin")), 0, h5py.h5f.UNLIMITED)]
    copied(path, {"features": {"data": None, "shape": (5, 6), "dtype": "<f4", "external": external}})


def virtual(path: Path) -> None:
    with h5py.File(path.with_name("secret.h5"), "w") as secret:
        secret["features"] = features_of(KEYS)
    with h5py.File(path, "a") as file:
        attributes = dict(file["features"].attrs)
        del file["features"]
        layout = h5py.VirtualLayout((5, 6), "<f4")
        layout[:] = h5py.VirtualSource(path.with_name("secret.h5"), "features", (5, 6), "<f4")
        file.create_virtual_dataset("features", layout).attrs.update(attributes)


def group_loop(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["features"]
        file["features"] = file["/"]


def object_references(path: Path) -> None:
    with h5py.File(path) as file:
        references = np.array([file["features"].ref] * 5, dtype=h5py.ref_dtype)
    copied(path, {"keys": {"data": references, "dtype": h5py.ref_dtype}})


def one_more_member(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["more"] = h5py.ExternalLink("secret.h5", "/")


def giant_chunk(path: Path) -> None:
    features = {
        "data": None,
        "shape": (5, 15_000_000),
        "dtype": "<f4",
        "chunks": (5, 15_000_000),
        "compression": "gzip",
    }
    copied(path, {"features": features})
    with path.open("ab") as file:
        file.truncate(1 << 20)


def giant_features(path: Path) -> None:
    features = {"data": None, "shape": (5, 1 << 34), "dtype": "<f4", "chunks": (1, 1 << 28), "compression": "gzip"}
    copied(path, {"features": features})


def foreign_filter(path: Path) -> None:
    copied(path, {"features": {"chunks": (5, 6), "scaleoffset": 3}})


def giant_table(path: Path) -> None:
    copied(path, {"keys": {"data": None, "shape": (1 << 40,), "dtype": "S32", "chunks": (1024,)}})


def symbolic_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.h5"))
    path.symlink_to(path.with_name("elsewhere.h5"))


def attribute_of_references(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["fingerprint"] = file["keys"].ref


def giant_attribute(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["seconds"] = np.zeros(5000)


def no_rows(path: Path) -> None:
    changed = {"features": {"data": np.zeros((0, 6), "<f4")}, "keys": {"data": np.zeros(0, "S32")}}
    copied(path, {**changed, "views": {"data": np.zeros(0, "<i4")}, "checksums": {"data": np.zeros(0, "<u4")}}, True)


def never_written(path: Path) -> None:
    copied(path, {"features": {"data": None, "shape": (5, 6), "dtype": "<f4"}})


def sparse(path: Path) -> None:
    """A table of gigabytes in a file that takes no room on the disk."""
    with h5py.File(path, "a") as file:
        attributes = dict(file["keys"].attrs)
        del file["keys"]
        file.create_dataset("keys", (1 << 28,), "S32")[-1:] = b"0" * 32
        file["keys"].attrs.update(attributes)


HOSTILE = {
    never_written: "features were never written",
    sparse: "keys have the shape",
    external_link: "features is a link out of the shard",
    soft_link: "does not hold",
    external_storage: "not stored contiguously in the shard itself",
    virtual: "not stored contiguously in the shard itself",
    group_loop: "features is not a dataset",
    object_references: "not an array of |S32",
    one_more_member: "and nothing else",
    giant_features: "features of the shape (5, 17179869184) is more than",
    giant_chunk: "a chunk of the shape (5, 15000000) is more than",
    foreign_filter: "filter",
    giant_table: "keys have the shape",
    symbolic_link: "not a regular file",
    attribute_of_references: "fingerprint of / is not a single str",
    giant_attribute: "seconds of / is not a single float",
    no_rows: "keys have the shape",
    lambda path: path.write_text("<html>503</html>"): "damaged or not a shard",
    lambda path: copied(path, {"features": {"dtype": "<f8"}}): "not an array of float32",
    lambda path: copied(path, {"features": {"dtype": ">f4"}}): "not an array of float32",
    lambda path: copied(path, {"features": {"data": features_of(KEYS)[:4]}}): "not an array of float32",
    lambda path: copied(path, {"features": {"data": features_of(KEYS)[:, 0]}}): "features have the shape",
    lambda path: copied(path, {"views": {"dtype": "<i8"}}): "not an array of int32",
    lambda path: copied(path, {"views": {"data": np.full(5, -1, "<i4")}}, True): "view -1",
    lambda path: copied(path, {"checksums": {"data": np.zeros(5, "<u4")}}): "table of keys, views and checksums",
    lambda path: copied(path, {"keys": {"data": np.full(5, b"not hex digits", "S32")}}, True): "damaged or not a shard",
}


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: HOSTILE[attack])
def test_a_hostile_shard_is_refused_with_the_reason(path, attack):
    attack(path)
    with pytest.raises(BrokenShardError) as caught:
        open_shard(path, SPEC)
    assert HOSTILE[attack] in str(caught.value)
    assert "shard.h5" in str(caught.value)


def test_a_shard_of_another_spec_is_refused(tmp_path, cache: FeatureCache):
    fill(cache, KEYS)
    other = type(SPEC)(**{**SPEC.to_json(), "cut": "layer3"})
    with pytest.raises(BrokenShardError, match="another spec"):
        open_shard(shard_paths(cache)[0], other)


def test_a_shard_that_is_gone_is_not_called_broken(path):
    path.unlink()
    with pytest.raises(FileNotFoundError):
        open_shard(path, SPEC)


def test_a_shard_that_goes_while_it_is_opened_is_not_called_broken(path, monkeypatch):
    """HDF5 says many things when a file goes at the wrong moment; that it is gone decides."""

    def opening(name, *_args, **_options):
        Path(name).unlink()
        raise OSError("Unable to synchronously open file (file signature not found)")

    monkeypatch.setattr(h5py, "File", opening)
    with pytest.raises(FileNotFoundError):
        open_shard(path, SPEC)
