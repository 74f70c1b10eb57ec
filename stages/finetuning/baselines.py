"""What fine-tuning is held against: the network from scratch, and a new head on the frozen network."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from stages.config.finetune import Baseline, FinetuneConfig
from stages.config.head_registry import default_heads
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.finetuning.transfer_model import HEAD
from stages.network.aggregate import Aggregate, AggregateKind
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.base import Head, vector_width
from stages.network.heads.linear import LinearHead
from stages.network.heads.registry import build_head
from stages.runtime.seeding import fixed_seed


def random_head(extractor: Extractor, out_features: int, seed: int, aggregate: Aggregate | None = None) -> Head:
    """Return a linear head that knows nothing: all classes are about equally likely, numbers about their mean.

    Of samples of several images it is on the rows that `aggregate` makes of these.
    """
    row_shape = extractor.row_shape if aggregate is None else (aggregate.width,)
    with fixed_seed(seed):
        head = LinearHead(row_shape, out_features, dropout=0.0)
        nn.init.normal_(head.output.weight, std=0.01)
        nn.init.zeros_(head.output.bias)
    return head if aggregate is None else AggregatedHead(aggregate, head)


def random_map_head(extractor: Extractor, out_features: int, seed: int) -> Head:
    """Return a head on maps that knows nothing, of the kind that is the first for a class for each pixel."""
    layout = extractor.map_layout
    with fixed_seed(seed):
        return build_head(default_heads("dense")[0], (layout.width,), out_features, {"maps": layout.to_json()})


def unfitted_aggregate(extractor: Extractor, manifest: Manifest, kind: AggregateKind) -> Aggregate | None:
    """Return what makes a row of the images of a sample before any was seen; None where samples have one image.

    A missing image of ``concat`` is zeros, and an indicator says so.

    Raises
    ------
    UsageError
        If the features of an image are no vector.
    """
    if not manifest.images:
        return None
    places = max(map(len, manifest.images))
    missing = {
        place
        for index in manifest.indices("train")
        for place in range(places)
        if place >= len(manifest.images[index]) or manifest.images[index][place] is None
    }
    return Aggregate(kind, places, vector_width("linear", extractor.row_shape), sorted(missing))


def baseline(options: FinetuneConfig, name: Baseline) -> FinetuneConfig:
    """Return the options of a baseline with the schedule, optimiser and epochs of `options`.

    ``scratch`` is the whole network without pretrained weights, and ``uncached`` a new head on the frozen network,
    which every image goes through in every epoch. What begins with nothing has a rate of its own: at one that is right
    for pretrained blocks it would not have learned when the epochs are over, and look worse than it is.
    """
    plain = replace(
        options,
        unfreeze="all" if name == "scratch" else HEAD,
        invert_unfreeze=False,
        reinit="all" if name == "scratch" else None,
        invert_reinit=False,
        init_head="new",
        from_cache=False,
        wise_ft=False,
        lora=0,
        baselines=(),
        lr=options.baseline_lr,
        head_lr=options.baseline_lr,
        layer_decay=1.0,
        unfreeze_every=0,
        lr_find="none" if options.lr_find == "none" else "start",
        name=None,
    )
    return replace(plain, drop_path=None) if name == "uncached" else plain  # no block of it trains
