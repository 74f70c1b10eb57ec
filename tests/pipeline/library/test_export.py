"""Every file is read back with the library of its format alone."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from safetensors import safe_open

from cache import FeatureCache, Spec
from cache.errors import CacheError, CutonceError, UsageError
from pipeline.library import export
from pipeline.library.export import export_features
from stages.data.manifest import Manifest, load_targets
from stages.tasks.dense import Dense
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.cache.conftest import SPEC, features_of, make_keys, shard_paths
from tests.cache.processes import in_process
from tests.pipeline.caches import KEYS, make_cache, make_manifest

ORDER = [*KEYS[30:5:-1], KEYS[7]]  # not the order of the cache, not all of it, one image twice


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    names = arrays.pop("class_names", None)
    content = {name: arrays[name].tolist() for name in ("paths", "labels", "splits") if name in arrays}
    keys = [key.decode() for key in arrays["keys"]]
    spec, view = json.loads(str(arrays["spec"])), int(arrays["view"])
    return arrays["features"], keys, content, None if names is None else names.tolist(), spec, view


def read_safetensors(path):
    with safe_open(path, framework="np") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert tensors["keys"].dtype == np.uint8
    content = {name: json.loads(metadata[name]) for name in ("paths", "splits") if name in metadata}
    if "labels" in tensors:
        content["labels"] = tensors["labels"].tolist()
    elif "labels" in metadata:
        content["labels"] = json.loads(metadata["labels"])
    names = json.loads(metadata["class_names"]) if "class_names" in metadata else None
    keys = [bytes(key).decode() for key in tensors["keys"]]
    return tensors["features"], keys, content, names, json.loads(metadata["spec"]), int(metadata["view"])


def read_parquet(path):
    table = parquet.read_table(path)
    metadata = {name.decode(): json.loads(value) for name, value in table.schema.metadata.items()}
    width = table.schema.field("features").type.list_size
    assert width == np.prod(metadata["row_shape"])
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["features"].chunks])
    columns = {"path": "paths", "label": "labels", "split": "splits"}
    content = {columns[name]: table[name].to_pylist() for name in table.column_names if name in columns}
    names = metadata.get("class_names")
    if "class" in table.column_names:
        assert table["class"].to_pylist() == [names[label] for label in content["labels"]]
    features = flat.reshape(-1, *metadata["row_shape"])
    return features, table["key"].to_pylist(), content, names, metadata["spec"], metadata["view"]


READERS = {".npz": read_npz, ".safetensors": read_safetensors, ".parquet": read_parquet}
ENDINGS = pytest.mark.parametrize("ending", READERS)


@ENDINGS
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_manifest_is_written_in_its_order_with_all_it_says_and_the_bits_of_the_cache(tmp_path, ending, dtype):
    spec = Spec.from_json({**SPEC.to_json(), "dtype": dtype})
    cache = make_cache(tmp_path, shape=(2, 3), spec=spec)
    manifest = make_manifest(ORDER)
    path = tmp_path / "new" / f"photos{ending}"
    export_features(cache, path, manifest)
    features, keys, content, names, written_spec, view = READERS[ending](path)
    assert (features.dtype, features.shape) == (np.dtype(dtype), (26, 2, 3))
    np.testing.assert_array_equal(features, features_of(ORDER, (2, 3)).astype(dtype))
    paths = manifest.locations
    if ending == ".parquet":
        paths = [path.replace("\udcff", "\\udcff") for path in paths]  # parquet holds Unicode only
    dog = "d\\udcf6g" if ending == ".parquet" else "d\udcf6g"
    assert (keys, names, view) == (ORDER, ["cat", dog], 0)
    assert content == {"paths": paths, "labels": manifest.targets.tolist(), "splits": manifest.splits}
    assert Spec.from_json(written_spec) == spec
    assert [path.name for path in path.parent.iterdir()] == [path.name]


@ENDINGS
@pytest.mark.parametrize(
    ("task", "texts", "labels"),
    [
        (MultiLabel(["a", "b"]), ["a|b", "b"], [[1, 1], [0, 1]]),
        (Regression(("price",), (5.0,), (2.0,)), ["7.5", "-1"], [7.5, -1]),
        (Regression(("w", "h"), (0.0, 1.0), (2.0, 3.0), log=True), ["1|2", "4|8"], [[1, 2], [4, 8]]),
    ],
    ids=["several labels", "a number", "several numbers"],
)
def test_labels_and_numbers_are_written_as_people_have_them(tmp_path, ending, task, texts, labels):
    manifest = Manifest(["x", "y"], load_targets(task, texts), ["train", "test"], KEYS[:2], task)
    export_features(make_cache(tmp_path), tmp_path / f"photos{ending}", manifest)
    _, _, content, names, *_ = READERS[ending](tmp_path / f"photos{ending}")
    np.testing.assert_allclose(content["labels"], labels, rtol=1e-12)
    assert names == list(manifest.class_names)


@ENDINGS
def test_where_each_pixel_has_a_class_labels_are_the_paths_of_masks(tmp_path, ending):
    masks = ["masks/a, 1.png", "tile:0,0,8,8:masks/\N{GRINNING FACE}.png"]
    manifest = Manifest(["a.png", "b.png"], np.array(masks), ["train", "test"], KEYS[:2], Dense(["sky", "road"]))
    export_features(make_cache(tmp_path), tmp_path / f"maps{ending}", manifest)
    _, keys, content, names, _, _ = READERS[ending](tmp_path / f"maps{ending}")
    assert (keys, content["labels"], names) == (KEYS[:2], masks, ["sky", "road"])


@ENDINGS
def test_without_a_manifest_every_row_of_a_view_is_written_as_it_is_stored(tmp_path, ending):
    cache = make_cache(tmp_path, views=(0, 2))
    path = tmp_path / f"all{ending}"
    export_features(cache, path, view=2)
    features, keys, content, names, _, view = READERS[ending](path)
    np.testing.assert_array_equal(features, features_of(KEYS, view=2))
    assert (keys, content, names, view) == (KEYS, {}, None, 2)


@ENDINGS
def test_batches_join_without_a_seam(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(export, "_BATCH_BYTES", 7 * 24)
    path = tmp_path / f"photos{ending}"
    export_features(make_cache(tmp_path), path, make_manifest(ORDER))
    features, keys, content, *_ = READERS[ending](path)
    np.testing.assert_array_equal(features, features_of(ORDER))
    assert (keys, content["labels"]) == (ORDER, make_manifest(ORDER).targets.tolist())
    if ending == ".parquet":
        assert parquet.ParquetFile(path).num_row_groups == 4


def _rise_of_memory(place: Path, rows: int) -> int:
    """Return by how many bytes the most memory this process ever had grows when it exports so many rows."""
    keys, cache = make_keys(rows), FeatureCache(place / str(rows), SPEC)
    with cache.writer(shard_bytes=4 << 20) as writer:
        for start in range(0, rows, 100):
            part = keys[start : start + 100]
            writer.append(part, np.random.default_rng(start).standard_normal((len(part), 4096)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    export_features(cache, place / f"{rows}.parquet")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_a_table_needs_memory_for_a_batch_and_not_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_BATCH_BYTES", 1 << 20)

    def measure():
        _rise_of_memory(tmp_path, 300)
        return _rise_of_memory(tmp_path, 5000)

    assert in_process(measure) < 30_000_000
    assert (tmp_path / "5000.parquet").stat().st_size > 75_000_000


def test_unreadable_images_are_left_out_and_missing_ones_are_an_error(tmp_path):
    cache = make_cache(tmp_path, KEYS[2:])
    cache.mark_unreadable({KEYS[0]: "truncated JPEG"})
    path = tmp_path / "photos.npz"
    with pytest.raises(
        CacheError, match=r"1 of 40 images of the manifest have no features .view 0.*\(first: photos/1,"
    ):
        export_features(cache, path, make_manifest(KEYS))
    cache.mark_unreadable({KEYS[1]: "text named .jpg"})
    assert export_features(cache, path, make_manifest(KEYS)).keys == KEYS[2:]
    assert read_npz(path)[1] == KEYS[2:]
    with pytest.raises(UsageError, match="none of the manifest's images could be read"):
        export_features(cache, path, make_manifest(KEYS[:2]))


@ENDINGS
def test_a_damaged_row_is_not_exported_and_what_was_there_stays(tmp_path, ending):
    cache = make_cache(tmp_path)
    path = tmp_path / f"photos{ending}"
    path.write_text("from before")
    [shard] = cache.shards
    content = bytearray(shard.path.read_bytes())
    content[content.index(features_of(KEYS[3:4]).tobytes())] ^= 1
    shard.path.write_bytes(content)
    with pytest.raises(CacheError, match=f"row 3 of .*{KEYS[3]}.*repair"):
        export_features(cache, path, make_manifest(ORDER + KEYS[:6]))
    assert path.read_text() == "from before"
    assert not list(tmp_path.glob("*.tmp"))


def test_what_cannot_be_exported_is_told(tmp_path, monkeypatch):
    cache = make_cache(tmp_path, views=(1, 2))
    with pytest.raises(UsageError, match=r"has to end with one of \.npz, \.parquet, \.safetensors"):
        export_features(cache, tmp_path / "photos.csv")
    with pytest.raises(UsageError, match="no rows of view 0; it has the views 1, 2"):
        export_features(cache, tmp_path / "photos.npz")
    cache.prune([])
    with pytest.raises(UsageError, match="no rows of view 0; it is empty"):
        export_features(cache, tmp_path / "photos.npz")
    assert shard_paths(cache) == []
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install 'pyarrow>=16'"):
        export_features(cache, tmp_path / "photos.parquet")


def test_more_paths_than_a_safetensors_header_holds_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_LONGEST_SAFETENSORS_HEADER", 1000)
    with pytest.raises(UsageError, match=r"the paths of 40 images take [\d,]+ bytes.*write \.parquet or \.npz"):
        export_features(make_cache(tmp_path), tmp_path / "photos.safetensors", make_manifest(KEYS))


def test_a_header_just_below_the_limit_is_read_by_the_library(tmp_path):
    cache, manifest = make_cache(tmp_path), make_manifest(KEYS)
    manifest.locations[0] = "x" * (export._LONGEST_SAFETENSORS_HEADER - 20_000)
    export_features(cache, tmp_path / "photos.safetensors", manifest)
    assert read_safetensors(tmp_path / "photos.safetensors")[2]["paths"] == manifest.locations


@ENDINGS
def test_a_full_disk_is_told_in_words_and_leaves_nothing(tmp_path, ending):
    cache = make_cache(tmp_path, shape=(3000,))

    def use():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises((CutonceError, OSError), match="too large"):
            export_features(cache, tmp_path / f"photos{ending}", make_manifest(KEYS))

    in_process(use)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
