"""The upper part of a transferred network, which trains, and where it joins the frozen part below it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cache.errors import UsageError
from stages.config.finetune import FinetuneConfig
from stages.extraction.extractor import Extractor
from stages.finetuning.lora import add_lora
from stages.network.aggregate import padded
from stages.network.auxiliary_heads import AuxiliaryHead, auxiliary_heads_for, section_with_auxiliary
from stages.network.freezing import freeze, lock_eval_mode
from stages.network.graph.cuts import Boundary, Cut
from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import FrozenTrunk
from stages.network.heads.base import Head
from stages.network.heads.map_head import MapHead
from stages.network.memory_format import to_channels_last
from stages.network.module_paths import has_prefix
from stages.network.reinit import reinit_parameters
from stages.network.stochastic_depth import set_stochastic_depth
from stages.runtime.float32 import float32_products
from stages.runtime.norm_layers import NORM_LAYERS
from stages.tasks.base import Task
from stages.training.losses import Output, logits_of
from stages.training.sample_images import Inputs, SampleImages

HEAD = "head"
"""What ``--unfreeze`` says where the head alone trains, and the name of the topmost block."""

_HEAD_OF_NETWORK = "network's head"
"""What a block is called that a network itself calls head, of which layers lie below the cut."""


class TrainableTop(nn.Module):
    """What trains: output of the boundary, float [b, ...] -> logits [b, classes].

    Of samples of several images each goes through it by itself, up to the head, which takes all of a sample.

    In training mode, with auxiliary classifiers, it answers (logits, [(weight, auxiliary logits), ...]).

    Attributes
    ----------
    top : nn.Module
        The network from the boundary to the cut.
    pool, dropout, head : nn.Module
    auxiliary : dict of str to float
        Names in the top of the auxiliary classifiers on the way, and what their losses weigh.
    """

    def __init__(
        self,
        top: nn.Module,
        pool: nn.Module,
        head: nn.Module,
        dropout: float = 0.0,
        auxiliary: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.top, self.pool, self.dropout, self.head = top, pool, nn.Dropout(dropout), head
        self.auxiliary = dict(auxiliary or {})

    def forward(self, x: Inputs) -> Output:
        """Compute the logits of a batch."""
        if isinstance(x, SampleImages):
            # nothing is kept of them in evaluation, so any number of images can be taken in turns
            parts = [x.images] if self.training else torch.split(x.images, x.at_a_time)
            return self.answer(replace(x, images=torch.cat([self.rows(part) for part in parts])))
        output = self.top(x)
        if isinstance(output, tuple):
            main, auxiliary_logits = output
            auxiliary = [(self.auxiliary[name], logits) for name, logits in auxiliary_logits.items()]
            return self.head(self.dropout(self.pool(main))), auxiliary
        logits: Tensor = self.head(self.dropout(self.pool(output)))
        return logits

    def rows(self, x: Tensor) -> Tensor:
        """Compute what the head is given of each image, [m, d]."""
        rows: Tensor = self.dropout(self.pool(self.top(x)))
        return rows

    def answer(self, rows: SampleImages) -> Tensor:
        """Compute the logits of samples, [b, classes], of what `rows` gave."""
        config: dict[str, Any] = getattr(self.head, "config")  # noqa: B009 (a module's attributes have no types)
        places = max(config["row_shape"][0], 1 + max(rows.places, default=0))
        logits: Tensor = self.head(padded(rows.images, rows.sizes, rows.places, places))
        return logits


@dataclass(frozen=True)
class MapRoute:
    """Which of the maps that a head reads are frozen, and which are made by what trains.

    Attributes
    ----------
    boundary : Cut or None
        Where the frozen part ends; None where training begins at the image.
    frozen : tuple of Cut
        What the frozen part gives, from the image upwards: the maps at and below the boundary, and the boundary's own.
    trained : tuple of Cut
        The maps above it, from the image upwards.
    row : tuple of Cut
        All maps, in the order in which the head has them in its rows.
    """

    boundary: Cut | None
    frozen: tuple[Cut, ...]
    trained: tuple[Cut, ...]
    row: tuple[Cut, ...]

    @classmethod
    def of(cls, extractor: Extractor, boundary: Cut | None) -> MapRoute:
        """Return the route from a boundary to the maps that an extractor gives."""
        row = extractor.cuts
        order = [cut.name for cut in extractor.graph.cuts]
        upwards = sorted(row, key=lambda cut: order.index(cut.name))
        if boundary is None:
            return cls(None, (), tuple(upwards), row)
        end = order.index(boundary.name)
        below = [cut for cut in upwards if order.index(cut.name) < end]
        trained = [cut for cut in upwards if order.index(cut.name) > end]
        return cls(boundary, (*below, boundary), tuple(trained), row)


class TrainableMaps(TrainableTop):
    """What trains where a head reads maps of several depths: what the frozen part gives -> logits [b, classes, h, w].

    The frozen part gives its maps flat and side by side, float [b, n], or, where there is none, the image.

    Attributes
    ----------
    route : MapRoute
    """

    def __init__(self, top: nn.Module, head: nn.Module, dropout: float, route: MapRoute) -> None:
        super().__init__(top, nn.Identity(), head, dropout)
        self.route = route

    def forward(self, x: Inputs) -> Output:
        """Compute the logits of a batch."""
        assert isinstance(x, Tensor)
        logits: Tensor = self.head(self.rows(x))
        return logits

    def rows(self, x: Tensor) -> Tensor:
        """Compute the maps that the head is given of each image, flat and side by side, [m, d]."""
        route, maps, start = self.route, dict[str, Tensor](), x
        if route.boundary is not None:
            parts = torch.split(x, [math.prod(cut.shape) for cut in route.frozen], dim=1)
            maps = {cut.name: part for cut, part in zip(route.frozen, parts, strict=True)}
            start = maps[route.boundary.name].reshape(-1, *route.boundary.shape)
        if route.trained:
            outputs = self.top(start)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            maps |= {cut.name: output.flatten(1) for cut, output in zip(route.trained, outputs, strict=True)}
        rows: Tensor = self.dropout(torch.cat([maps[cut.name] for cut in route.row], dim=1))
        return rows


class FrozenPart(nn.Module):
    """What lies below the model: normalized images -> the output of the boundary, or rows of several taps side by side.

    Parameters
    ----------
    trunk : nn.Module or None
        Gives a row for each tap; None where training begins at the image.
    flat : bool
        Whether the rows are laid flat although there is one.
    """

    def __init__(self, trunk: nn.Module | None, *, flat: bool = False) -> None:
        super().__init__()
        self.trunk, self.flat = trunk, flat

    def forward(self, images: Tensor) -> Tensor:
        """Compute what the model is given of each image."""
        if self.trunk is None:
            return images
        rows: tuple[Tensor, ...] = self.trunk(images)
        return torch.cat([part.flatten(1) for part in rows], dim=1) if self.flat or len(rows) > 1 else rows[0]


@dataclass(frozen=True)
class TransferModel:
    """The trainable part of a transferred network, and where it joins the frozen one.

    Attributes
    ----------
    normalize : callable
        Rendered images, uint8 [b, 3, S, S] -> float32 [b, 3, S, S], on the device.
    frozen : callable
        Normalised images -> what the model is given: the output of the boundary, without autograd.
    model : TrainableTop
        A head on cached features is one with nothing below its head.
    below : FrozenPart
        What `frozen` computes, as a module.
    boundary : Cut or None
        Where the frozen part ends; None where training begins at the image.
    blocks : tuple of (name, parameter names)
        What trains of the model, from the head down.
    eval_mode_norms : tuple of str
        Normalisation layers of the top that stay in evaluation mode although they train.
    reinitialized : tuple of str
        Prefixes of what was drawn anew.
    own_columns : slice
        Which numbers of what the head is given are the features that it was opened on; all of them, where those of no
        other look stand beside them.
    tf32 : bool
        Whether an NVIDIA GPU may round factors to TF32 in what answers above the frozen part.
    """

    normalize: Callable[[Tensor], Tensor]
    frozen: Callable[[Tensor], Tensor]
    model: TrainableTop
    below: FrozenPart
    boundary: Cut | None = None
    blocks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    eval_mode_norms: tuple[str, ...] = ()
    reinitialized: tuple[str, ...] = ()
    own_columns: slice = field(default_factory=lambda: slice(None))
    tf32: bool = False

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the blocks below the head that train, from the top down."""
        return tuple(name for name, _ in self.blocks if name != HEAD)

    def activated(self, images: Tensor, task: Task) -> list[Tensor]:
        """Return what the task makes of the outputs for rendered images, uint8 [b, 3, S, S], then the head's input."""
        return self.activated_of(self.rows(images)[0], task)

    def logits(self, images: Tensor) -> list[Tensor]:
        """Return the outputs for rendered images, uint8 [b, 3, S, S], as the task takes them, then the head's input."""
        return self.logits_of(self.rows(images)[0])

    def rows(self, images: Tensor) -> list[Tensor]:
        """Return what the head is given of each of rendered images, uint8 [m, 3, S, S], as a list of one."""
        self.model.eval()
        with torch.inference_mode(), float32_products(tf32=self.tf32):
            return [self.model.rows(self.frozen(self.normalize(images)))]

    def activated_of(self, rows: Tensor, task: Task) -> list[Tensor]:
        """Return what the task makes of the outputs for what `rows` gave, then that."""
        logits, _ = self.logits_of(rows)
        with torch.inference_mode():
            activated = task.activate(logits)
        assert isinstance(activated, Tensor)
        return [activated, rows]

    def logits_of(self, rows: Tensor) -> list[Tensor]:
        """Return the outputs, as the task takes them, for what `rows` gave, then that."""
        self.model.eval()
        with torch.inference_mode(), float32_products():
            return [logits_of(self.model.head(rows)), rows]

    def answer(self, rows: SampleImages, task: Task) -> Tensor:
        """Return what the task makes of the outputs for samples of several images, of what `rows` gave, on the CPU."""
        self.model.eval()
        with torch.inference_mode(), float32_products():
            activated = task.activate(self.model.answer(rows.to(next(self.model.parameters()).device)))
        assert isinstance(activated, Tensor)
        return activated.cpu()

    def without_auxiliary_heads(self) -> dict[str, Tensor]:
        """Return the tensors of the top that answer, by their names in the network."""
        top = self.model.top.state_dict()
        return {name: value for name, value in top.items() if not has_prefix(name, self.model.auxiliary)}

    def train_only(self, blocks: Collection[str]) -> None:
        """Freeze all but these blocks, for now."""
        trained = {name for block, names in self.blocks if block in blocks for name in names}
        freeze(self.model, trained)
        for name in self.eval_mode_norms:
            lock_eval_mode(self.model.get_submodule(name))


def build_transfer_model(extractor: Extractor, head: Head, options: FinetuneConfig, seed: int = 0) -> TransferModel:
    """Join a head to the extractor's network, split where ``--unfreeze`` says training begins.

    The weights are copies: fine-tuning leaves the extractor's network, and the head, as they are.

    Parameters
    ----------
    head
        Pooled output of the cut -> logits.
    seed
        What is drawn anew depends on it.

    Raises
    ------
    UsageError
        If nothing below the cut would train, what is drawn anew would stay frozen, or the network has no stochastic
        depth to set.
    """
    boundary = _boundary(extractor, options)
    # an auxiliary classifier would have to say of each image what is known of the sample
    options = replace(options, auxiliary=options.auxiliary and not head.takes_bags)
    top, auxiliary = _top(extractor, boundary, options, int(head.config["out_features"]))
    names = [name for name, _ in top.named_parameters()]
    reinitialized: tuple[str, ...] = ()
    if options.reinit is not None:
        reinitialized = _layers_to_reinit(extractor, boundary, options, names)
        reinit_parameters(top, reinitialized, options.init, seed, extractor.backbone.module)
    if options.drop_path is not None:
        set_stochastic_depth(top, options.drop_path)
    trainable = add_lora(top, boundary.trainable, options.lora, seed) if options.lora else boundary.trainable
    new_head, dropout = copy.deepcopy(head).requires_grad_(True), options.finetune_dropout
    if isinstance(head, MapHead):
        model: TrainableTop = TrainableMaps(top, new_head, dropout, MapRoute.of(extractor, boundary.cut))
    else:
        model = TrainableTop(top, Pool(extractor.options.pool, extractor.cut), new_head, dropout, auxiliary)
    model.to(extractor.device)
    to_channels_last(model)
    below = _below(extractor, boundary.cut, model.route.frozen if isinstance(model, TrainableMaps) else ())
    upper = TransferModel(
        normalize=extractor.preprocess,
        frozen=torch.no_grad()(below.forward),  # not inference_mode, whose outputs autograd refuses
        model=model,
        boundary=boundary.cut,
        blocks=tuple(_blocks(extractor.graph.blocks, model, trainable)),
        eval_mode_norms=tuple(_fixed_statistics(top, options, (*reinitialized, *auxiliary))),
        reinitialized=reinitialized,
        below=below,
        tf32=answers_in_tf32(extractor),
    )
    upper.train_only([name for name, _ in upper.blocks])
    return upper


def answers_in_tf32(extractor: Extractor) -> bool:
    """Return whether what trained above a frozen part answers in TF32: where that is not in full float32 itself.

    Whatever torch is set to, so that a network answers in any process what it was tested with.
    """
    return extractor.device.type == "cuda" and extractor.trunk.precision != "fp32"


def head_on_features(extractor: Extractor, head: Head, rows_of: nn.Module | None = None) -> TransferModel:
    """Return a head on cached features as a network on images: nothing lies below the head, and nothing trains.

    The rows that it takes are those of the extractor, or of another module of normalized images.
    """
    model = TrainableTop(nn.Identity(), nn.Identity(), head)
    rows_of = extractor.row_module if rows_of is None else rows_of
    frozen = partial(extractor.forward_features, rows_of=rows_of)
    return TransferModel(extractor.preprocess, frozen, model, FrozenPart(rows_of))


def rebuild_transfer_model(extractor: Extractor, head: Head, unfreeze: str, *, invert: bool = False) -> TransferModel:
    """Return what a training with these options ended as, for its weights to be loaded into; nothing trains.

    Auxiliary classifiers, which are of use in training alone, are not there.
    """
    return build_transfer_model(
        extractor, head, FinetuneConfig(unfreeze=unfreeze, invert_unfreeze=invert, auxiliary=False)
    )


def _boundary(extractor: Extractor, options: FinetuneConfig) -> Boundary:
    """Return where training begins; what lies above the cut, the original classifier for one, is no part of it."""
    graph, cut = extractor.graph, extractor.deepest_cut
    if options.unfreeze == HEAD:
        if options.invert_unfreeze:
            raise UsageError(
                "`unfreeze` head `invert_unfreeze` would train all but the head, which is new; use `unfreeze` all"
            )
        return Boundary(cut, ())
    boundary = graph.boundary(options.unfreeze, invert=options.invert_unfreeze)
    order = [graph_cut.name for graph_cut in graph.cuts]
    if boundary.cut is not None and order.index(boundary.cut.name) >= order.index(cut.name):
        raise UsageError(
            f"`unfreeze` {options.unfreeze} begins at or above the cut {cut.name}, so no block below the head would "
            "train; unfreeze a lower layer, more blocks, or cut higher; or say `unfreeze` head"
        )
    return boundary


def _top(
    extractor: Extractor, boundary: Boundary, options: FinetuneConfig, out_features: int
) -> tuple[nn.Module, dict[str, float]]:
    """Return a copy of the network from the boundary to the cut, and what the auxiliary classifiers in it weigh."""
    graph, start, end = extractor.graph, boundary.cut, extractor.deepest_cut
    if start == end:
        return nn.Identity(), {}
    if len(extractor.taps) > 1:
        *below_end, _ = MapRoute.of(extractor, start).trained
        section = graph.section(start, end, boundary.trainable, outputs=below_end, folded=True)
        return copy.deepcopy(section), {}
    heads: list[AuxiliaryHead] = []
    if options.auxiliary:
        backbone = extractor.backbone
        auxiliary_heads = auxiliary_heads_for(graph, backbone.auxiliary, backbone.auxiliary_places, out_features)
        heads = [head for head in auxiliary_heads if graph.is_between(start, head.cut, end)]
    top = copy.deepcopy(section_with_auxiliary(graph, start, end, heads, boundary.trainable, folded=True))
    return top, {head.name: head.loss_weight for head in heads}


def _layers_to_reinit(
    extractor: Extractor, boundary: Boundary, options: FinetuneConfig, names: Collection[str]
) -> tuple[str, ...]:
    """Return the prefixes of what is drawn anew, all of which has to train."""
    assert options.reinit is not None
    prefixes = extractor.graph.boundary(options.reinit, invert=options.invert_reinit).trainable
    below_cut = extractor.graph.parameters_between(None, extractor.deepest_cut)
    reinit_names = [name for name in below_cut if has_prefix(name, prefixes)]
    if not reinit_names:
        raise UsageError(
            f"`reinit` {options.reinit} draws nothing anew: it lies above the cut {extractor.deepest_cut.name}, where "
            "a new head stands in any case; name a lower layer"
        )
    frozen = [name for name in reinit_names if name not in names or not has_prefix(name, boundary.trainable)]
    if frozen:
        raise UsageError(
            f"`reinit` {options.reinit} draws layers anew that stay frozen, {frozen[0]} for one: what they compute "
            f"would be noise. Let them train with `unfreeze` {options.reinit}"
            f"{' `invert_unfreeze`' if options.invert_reinit else ''}, or draw less anew"
        )
    return tuple(prefix for prefix in prefixes if any(has_prefix(name, (prefix,)) for name in reinit_names))


def _fixed_statistics(top: nn.Module, options: FinetuneConfig, new: Collection[str]) -> list[str]:
    """Return the normalisation layers that keep the pretrained statistics; what is new has none that are of use."""
    if options.batchnorm == "train":
        return []
    return [
        f"top.{name}"
        for name, layer in top.named_modules()
        if isinstance(layer, NORM_LAYERS) and not has_prefix(name, new)
    ]


def _blocks(
    network_blocks: Sequence[str], model: TrainableTop, trainable: Collection[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what trains, block by block, from the head down.

    Auxiliary classifiers, whose output layers are new too, go with the head. What is in no block, a last normalisation
    or a table of positions, goes with the block before it, the first with the first.
    """
    auxiliary_names = [f"top.{name}" for name, _ in _parameters(model) if has_prefix(name, model.auxiliary)]
    yield HEAD, (*(f"head.{name}" for name, _ in model.head.named_parameters()), *auxiliary_names)
    names_by_block: dict[str, list[str]] = {}
    block = next(
        (
            candidate
            for candidate in network_blocks
            if any(has_prefix(name, (candidate,)) for name, _ in _parameters(model))
        ),
        "top",
    )
    for name, _ in _parameters(model):
        block = next((candidate for candidate in network_blocks if has_prefix(name, (candidate,))), block)
        if has_prefix(name, trainable):
            names_by_block.setdefault(block, []).append(f"top.{name}")
    for name, names in reversed(names_by_block.items()):
        yield (_HEAD_OF_NETWORK if name == HEAD else name), tuple(names)


def _parameters(model: TrainableTop) -> list[tuple[str, nn.Parameter]]:
    return list(model.top.named_parameters())


def _below(extractor: Extractor, boundary: Cut | None, maps: Sequence[Cut]) -> FrozenPart:
    """Return the frozen part of a network: normalized images -> output of the boundary, or maps, flat, side by side."""
    if boundary is None:
        return FrozenPart(None)
    taps = [(cut, Pool("none", cut)) for cut in maps or (boundary,)]
    trunk = FrozenTrunk(extractor.graph, taps, extractor.trunk.precision, extractor.device)
    return FrozenPart(trunk, flat=bool(maps))
