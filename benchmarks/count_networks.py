"""Count parameters and multiply-adds of all networks that `zoo` lists, for the file that comes with the program.

    python benchmarks/count_networks.py

What the file has is not counted again, so that a new version of timm costs its new networks alone, and a run that was
stopped goes on. All of timm takes half an hour of one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stages.network.backbones.counts import SHIPPED, count_network, read_counts, write_counts
from stages.network.backbones.registry import network_catalog

_SECONDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="the file that is filled up")
    parser.add_argument("--limit", type=int, help="stop after so many")
    options = parser.parse_args()
    counts = read_counts(options.out)
    entries = [entry for entry in network_catalog() if entry.counted_as and not entry.is_counted]
    unknown = {entry.counted_as: entry.name for entry in reversed(entries) if entry.counted_as not in counts}
    written = time.monotonic()
    for number, (key, name) in enumerate(list(reversed(unknown.items()))[: options.limit], 1):
        counted = count_network(name)
        print(f"{number} of {len(unknown)}: {name} {'cannot be counted' if counted is None else counted}", flush=True)
        if counted is not None:
            counts[key] = counted
        if time.monotonic() - written > _SECONDS:
            write_counts(options.out, counts)
            written = time.monotonic()
    write_counts(options.out, counts)


if __name__ == "__main__":
    main()
