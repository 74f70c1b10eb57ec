"""One of the processes that torchrun starts in test_distributed: extracts, and may be killed in its first life."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.runtime.distributed import process_group


def main(folder: str, cache: str, killed_rank: str) -> None:
    with process_group() as rank:
        extractor = build_extractor(
            FeatureConfig(image_size=32, cache=Path(cache), extract_batch_size=8, decode_threads=1)
        )
        manifest = rank.broadcast_from_first(lambda: load_manifest(DataConfig(folder)))
        if str(rank.index) == killed_rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            threading.Thread(target=kill_when_there_is_a_shard, args=(extractor.taps[0].cache.path,)).start()
        report = extract(extractor, manifest, rank, shard_seconds=0.1)
        sys.stdout.write(
            f"rank {rank.index} of {rank.world_size}: {report.extracted} + {report.extracted_by_others} + {report.hits}\n"
        )
        sys.stdout.flush()


def kill_when_there_is_a_shard(store: Path) -> None:
    while not any(store.glob("shards/*.h5")):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
