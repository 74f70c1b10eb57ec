"""Which samples are in which batch: made of seed and epoch alone, dealt out to the processes that share the work."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cache.errors import UsageError
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.runtime.seeding import epoch_seed


def require_even_batches(samples: int, batch_size: int, rank: Rank) -> None:
    """Refuse batches that cannot be dealt out evenly to the processes that share the work.

    Raises
    ------
    UsageError
        That says what could.
    """
    if batch_size % rank.world_size or samples < rank.world_size:
        raise UsageError(
            f"`finetune_batch_size` {batch_size} has to be a multiple of the {rank.world_size} processes, and there "
            f"have to be as many training images ({samples}): each process has an equal share of every batch"
        )


class EpochBatchSampler:
    """The batches of an epoch, as lists of places; every process has its share of each.

    An epoch has full batches alone: those left over sit it out, others in every epoch. With less than a batch there is
    one of them all.

    Parameters
    ----------
    samples : int
    batch_size : int
        Of all processes together.
    seed : int
    rank : Rank

    Raises
    ------
    UsageError
        As `require_even_batches`.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, rank: Rank = SINGLE_PROCESS) -> None:
        require_even_batches(samples, batch_size, rank)
        self._samples, self._seed, self._rank = samples, seed, rank
        self._batch_size = min(batch_size, samples - samples % rank.world_size)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._samples // self._batch_size

    def batches(self, epoch: int, first: int = 0) -> Iterator[list[int]]:
        """Yield this process's places of each batch of an epoch, from batch number `first` on."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, epoch))
        order = torch.randperm(self._samples, generator=generator)
        for number in range(first, len(self)):
            batch = order[number * self._batch_size : (number + 1) * self._batch_size]
            yield batch[self._rank.index :: self._rank.world_size].tolist()
