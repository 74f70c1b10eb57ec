"""What timm publishes of its networks: in its configurations, and, once fetched, in its table of ImageNet results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
from huggingface_hub.constants import HF_HUB_CACHE

from stages.network.backbones.catalog import CatalogEntry, WeightsState
from stages.network.backbones.download import checkpoint_folder
from stages.network.backbones.timm_results import TimmResult, read_results

_WEIGHTS_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")


def timm_catalog() -> Iterator[CatalogEntry]:
    """Yield all of timm's networks: one for each of the weights there are, then the architectures without any."""
    table = read_results()
    results = table.results if table else {}
    with_weights = timm.list_pretrained()
    for name in with_weights:
        yield _entry(name, timm.get_pretrained_cfg(name), results.get(name))
    architectures = {name.partition(".")[0] for name in with_weights}
    for name in timm.list_models():
        if name not in architectures:
            yield _entry(name, timm.get_pretrained_cfg(name), None)


def _entry(name: str, configuration: Any, result: TimmResult | None) -> CatalogEntry:
    if configuration is None:
        return CatalogEntry(f"timm:{name}", weights="none")
    size = configuration.input_size[-1]
    license_name = configuration.license
    return CatalogEntry(
        f"timm:{name}",
        image_size=size,
        weights=_state(configuration),
        license=None if license_name == "unknown" else license_name,
        accuracy=result.accuracy if result else None,
        accuracy_image_size=result.image_size if result and result.image_size != size else None,
        counted_as=f"timm {name.partition('.')[0]} {configuration.num_classes} {size}",
    )


def _state(configuration: Any) -> WeightsState:
    if not configuration.has_weights:
        return "none"
    if configuration.hf_hub_id:
        snapshots = Path(HF_HUB_CACHE) / f"models--{configuration.hf_hub_id.replace('/', '--')}" / "snapshots"
        is_here = any(file.suffix in _WEIGHTS_ENDINGS for file in snapshots.glob("*/*"))
    else:
        is_here = (Path(checkpoint_folder()) / Path(urlparse(configuration.url).path).name).exists()
    return "here" if is_here else "download"
