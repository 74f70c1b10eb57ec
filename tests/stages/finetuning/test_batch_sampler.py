"""Which samples are in which batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import UsageError
from stages.finetuning.batch_sampler import EpochBatchSampler
from stages.runtime.distributed import Rank


@given(
    samples=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 5),
    epoch=st.integers(1, 9),
    data=st.data(),
)
def test_an_epoch_has_full_batches_of_different_samples_and_can_be_begun_anywhere(
    samples, batch_size, seed, epoch, data
):
    order = EpochBatchSampler(samples, batch_size, seed)
    batches = list(order.batches(epoch))
    seen = [index for batch in batches for index in batch]
    assert len(batches) == len(order) >= 1
    assert len(seen) == len(set(seen))
    assert {len(batch) for batch in batches} == {min(batch_size, samples)}
    assert set(seen) <= set(range(samples))
    assert samples - len(seen) < min(batch_size, samples)
    first = data.draw(st.integers(0, len(order)))
    assert list(order.batches(epoch, first)) == batches[first:]


@given(samples=st.integers(8, 100), count=st.sampled_from([1, 2, 4]), epoch=st.integers(1, 4))
def test_processes_together_see_what_one_alone_sees_batch_by_batch(samples, count, epoch):
    alone = EpochBatchSampler(samples, 8, 0)
    shares = [EpochBatchSampler(samples, 8, 0, Rank(index, count)) for index in range(count)]
    for whole, *parts in zip(alone.batches(epoch), *(share.batches(epoch) for share in shares), strict=True):
        assert sorted(whole) == sorted(index for part in parts for index in part)
        assert {len(part) for part in parts} == {len(whole) // count}


def test_epochs_and_seeds_differ():
    assert list(EpochBatchSampler(50, 10, 0).batches(1)) != list(EpochBatchSampler(50, 10, 0).batches(2))
    assert list(EpochBatchSampler(50, 10, 0).batches(1)) != list(EpochBatchSampler(50, 10, 1).batches(1))


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    with pytest.raises(UsageError, match=r"`finetune_batch_size` 9.*multiple of the 2"):
        EpochBatchSampler(100, 9, 0, Rank(0, 2))
    with pytest.raises(UsageError, match="training images"):
        EpochBatchSampler(1, 2, 0, Rank(0, 2))
