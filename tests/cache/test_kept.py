from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureCache, key_of_bytes
from cache.kept import drop_file, forget_kept, keep, keep_file, kept_words


@pytest.fixture(autouse=True)
def nothing_kept():
    forget_kept()
    yield
    forget_kept()


def test_what_was_kept_is_said_with_its_number_in_the_order_it_came():
    assert kept_words() == ""
    keep("row of features")
    assert kept_words() == "1 row of features"
    keep_file("checkpoint", Path("a/checkpoint.pt"))
    keep_file("checkpoint", Path("a/checkpoint.pt"))
    assert kept_words() == "1 row of features, 1 checkpoint"
    drop_file("checkpoint", Path("a/checkpoint.pt"))
    drop_file("checkpoint", Path("b/checkpoint.pt"))
    keep_file("result", Path("a/result.json"))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: keep("row of features", 500), range(4)))
    assert kept_words() == "2,001 rows of features, 1 result"
    forget_kept()
    assert kept_words() == ""


def test_rows_count_once_their_shard_is_on_disk(tmp_path, spec):
    cache = FeatureCache(tmp_path, spec)
    keys = [key_of_bytes(bytes([number])) for number in range(3)]
    with cache.writer() as writer:
        writer.append(keys, np.ones((3, 7), np.float32))
        assert kept_words() == ""
        writer.flush()
        assert kept_words() == "3 rows of features"
    assert kept_words() == "3 rows of features"
