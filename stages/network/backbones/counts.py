"""Parameters and multiply-adds of networks, counted on torch's meta device and remembered.

Counting one takes about a second, and there are more than a thousand: `counts.csv` beside this file holds what
``benchmarks/count_networks.py`` counted, and what else is counted is kept among the user's caches, for each version of
timm. No weight is drawn and no number computed for it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cache.atomic_write import write_atomically
from cache.errors import CacheError
from stages.config.image_size import shape_of_size
from stages.network.backbones.registry import find_family
from stages.network.image_channels import channels_of
from stages.runtime.user_folder import user_cache_folder

SHIPPED = Path(__file__).with_name("counts.csv")
"""What was counted for everyone."""


class Counts(NamedTuple):
    """What a network has and does.

    Attributes
    ----------
    parameters : int
        All of them, the classifier's too.
    multiply_adds : int
        Of convolutions, linear layers and attention, for one image of its own size.
    """

    parameters: int
    multiply_adds: int


def count_network(name: str) -> Counts | None:
    """Return the counts of the network that ``backbone`` calls so; None where it cannot be run without numbers."""
    try:
        module, shape = _built(name, "meta")
    except Exception:  # noqa: BLE001  some compute with numbers while they are built
        module, shape = _built(name, "cpu")
    image = torch.empty(1, channels_of(module), *shape, device="meta")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module.eval().requires_grad_(False).to("meta")(image)
    except Exception:  # noqa: BLE001  whatever networks of others raise: these counts stay unknown
        return None
    return Counts(sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2)


def _built(name: str, device: str) -> tuple[nn.Module, tuple[int, int]]:
    """Return a network without its weights, and the height and width of its images."""
    family = find_family(name)
    with torch.device(device):
        module, preprocessing, *_ = family.load(name.removeprefix(family.prefix), False, None)
    return module, shape_of_size(preprocessing.image_size)


def read_counts(path: Path) -> dict[str, Counts]:
    """Return what a file holds: what is counted -> its counts; nothing where there is no file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row[0]: Counts(int(row[1]), int(row[2])) for row in list(csv.reader(file))[1:]}
    except (OSError, ValueError, IndexError):  # a file that somebody broke holds nothing
        return {}


def write_counts(path: Path, counts: Mapping[str, Counts]) -> None:
    """Write a file for `read_counts`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", *Counts._fields])
    writer.writerows([key, *counts[key]] for key in sorted(counts))
    write_atomically(path, text.getvalue().encode())


def known_counts() -> dict[str, Counts]:
    """Return what is counted already: what came with this program, and what this user counted."""
    return {**read_counts(SHIPPED), **read_counts(_own_file())}


def remember_counts(counts: Mapping[str, Counts]) -> None:
    """Keep counts for later calls; a folder that cannot be written to keeps nothing."""
    path = _own_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_counts(path, {**read_counts(path), **counts})
    except (OSError, CacheError):
        return


def _own_file() -> Path:
    return user_cache_folder() / f"counts-timm-{version('timm')}.csv"
