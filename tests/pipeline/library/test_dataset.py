"""Cached features in loaders, whatever way their workers are started."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cache.errors import CacheError
from pipeline.library.dataset import CachedDataset
from tests.cache.conftest import features_of
from tests.pipeline.caches import KEYS, make_cache, make_manifest

ORDER = [*KEYS[30:5:-1], KEYS[7]]  # not the order of the cache, not all of it, one image twice


def one_hot(label):
    """Module level, so that it goes to spawned workers."""
    return torch.nn.functional.one_hot(label, 2)


def double(row):
    return 2 * row


@pytest.fixture
def dataset(tmp_path):
    return CachedDataset(make_cache(tmp_path, shape=(2, 3)), make_manifest(ORDER))


def test_items_are_the_rows_and_labels_of_the_samples(dataset):
    assert len(dataset) == len(ORDER)
    for index in (0, 5, -1):
        row, label = dataset[index]
        assert row.dtype == torch.float32
        assert np.array_equal(row.numpy(), features_of([ORDER[index]], (2, 3), 0)[0].astype(np.float32))
        assert label.dtype == torch.int64
        assert label.item() == dataset.manifest.targets[index]
    with pytest.raises(IndexError, match="26 samples"):
        dataset[26]


def test_a_split_holds_its_samples_alone(tmp_path):
    manifest = make_manifest(ORDER)
    cache = make_cache(tmp_path)
    sizes = {split: len(CachedDataset(cache, manifest, split)) for split in ("train", "val", "test")}
    assert sum(sizes.values()) == len(ORDER)
    val = CachedDataset(cache, manifest, "val")
    assert val.manifest.keys == [ORDER[index] for index in manifest.indices("val")]
    with pytest.raises(ValueError, match="split has to be one of 'train', 'val', 'test' or None for all, not 'valid'"):
        CachedDataset(cache, manifest, "valid")


def test_transforms_are_applied_to_rows_and_labels(tmp_path):
    plain = CachedDataset(make_cache(tmp_path), make_manifest(ORDER))
    changed = CachedDataset(plain.cache, plain.manifest, transform=double, target_transform=one_hot)
    assert torch.equal(changed[3][0], 2 * plain[3][0])
    assert changed[3][1].tolist() == [1 - plain[3][1], plain[3][1]]


def test_a_batch_is_one_read(dataset, monkeypatch):
    asked = []
    read = dataset.cache.read
    monkeypatch.setattr(dataset.cache, "read", lambda keys, view: asked.append(len(keys)) or read(keys, view))
    batches = list(DataLoader(dataset, batch_size=10))
    assert asked == [10, 10, 6]
    assert torch.equal(torch.cat([rows for rows, _ in batches]), torch.stack([dataset[i][0] for i in range(26)]))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_what_this_process_reads(tmp_path, context):
    torch.ones(512, 512).mm(torch.ones(512, 512))  # on several threads, of which a fork has none
    dataset = CachedDataset(make_cache(tmp_path, shape=(8, 32, 32)), make_manifest(ORDER), transform=double)
    expected_rows = [rows for rows, _ in DataLoader(dataset, batch_size=7)]
    loader = DataLoader(dataset, batch_size=7, num_workers=2, multiprocessing_context=context)
    assert all(torch.equal(rows, expected) for (rows, _), expected in zip(loader, expected_rows, strict=True))


def test_it_may_be_pickled(dataset):
    restored = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(dataset[4], restored[4], strict=True))


def view_of(row, key):
    return next(view for view in range(3) if np.array_equal(row.numpy(), features_of([key], (6,), view)[0]))


def test_without_a_view_each_item_draws_one_anew_and_the_seed_says_which(tmp_path):
    cache = make_cache(tmp_path, views=(0, 1, 2))
    dataset = CachedDataset(cache, make_manifest(ORDER), view=None)
    assert dataset.views == (0, 1, 2)

    def epochs(seed, **loader):
        torch.manual_seed(seed)
        rows = [torch.cat([rows for rows, _ in DataLoader(dataset, batch_size=9, **loader)]) for _ in range(2)]
        return [[view_of(row, key) for row, key in zip(epoch, ORDER, strict=True)] for epoch in rows]

    first, second = epochs(0)
    assert set(first) == {0, 1, 2}
    assert first != second
    assert epochs(0) == [first, second]
    in_workers = epochs(0, num_workers=2)
    assert in_workers[0] != in_workers[1]
    assert epochs(0, num_workers=2) == in_workers
    assert epochs(1, num_workers=2) != in_workers


def test_rows_that_are_missing_are_told_at_once(tmp_path):
    cache = make_cache(tmp_path, keys=KEYS[:20])
    with pytest.raises(CacheError, match=r"11 of 26 samples have no row \(view 0\)"):
        CachedDataset(cache, make_manifest(ORDER))
    with pytest.raises(CacheError, match=r"26 of 26 samples have no row \(any one view\)"):
        CachedDataset(cache, make_manifest(ORDER), view=None)


def test_samples_found_unreadable_are_left_out(tmp_path):
    cache = make_cache(tmp_path, keys=[key for key in KEYS if key != ORDER[2]])
    cache.mark_unreadable({ORDER[2]: "no image"})
    dataset = CachedDataset(cache, make_manifest(ORDER))
    assert dataset.manifest.keys == [key for key in ORDER if key != ORDER[2]]


def test_a_path_in_place_of_what_it_leads_to_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"cache has to be a FeatureCache, not '.*': cache\.open_cache opens"):
        CachedDataset(str(tmp_path), make_manifest(ORDER))
    with pytest.raises(ValueError, match=r"manifest has to be a Manifest, not 'runs/photos': Manifest\.load"):
        CachedDataset(make_cache(tmp_path), "runs/photos")


@pytest.mark.parametrize("view", ["0", 0.0])
def test_what_is_no_number_of_a_view_is_refused(dataset, view):
    with pytest.raises(ValueError, match=r"^view has to be the number of a view, or None to draw from all, not "):
        CachedDataset(dataset.cache, dataset.manifest, view=view)
