"""Stage 3: the top blocks and the head train, from images or from cached views; the best validation epoch is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.config.finetune import FinetuneConfig
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.finetuning.autotune import CHECKPOINT, AutotuneState, rescale_lrs
from stages.finetuning.baselines import baseline
from stages.finetuning.batch_sampler import require_even_batches
from stages.finetuning.cached_batches import boundary_extractor
from stages.finetuning.lora import merge_lora
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.setup import (
    FinetuneSetup,
    TrainableSetup,
    make_mixing,
    require_loss,
    training_fingerprint,
    without_training,
)
from stages.finetuning.transfer_model import HEAD, TransferModel
from stages.finetuning.wise_ft import Interpolation, choose_interpolation
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.base import Head
from stages.network.heads.linear import LinearHead
from stages.network.heads.registry import build_head
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.training.amp import MixedPrecision
from stages.training.autocast_benchmark import benchmark_autocast
from stages.training.ema import TrainableState
from stages.training.history import Epoch, TrainResult
from stages.training.lr_finder import LRFinderResult, lr_find
from stages.training.lr_schedules import make_schedule
from stages.training.train_loop import TrainHooks, train


@dataclass
class FinetuneResult:
    """A fine-tuned network with its history and what it took.

    Attributes
    ----------
    upper : TransferModel
        With the weights of the best validation epoch, or between those and the first, as `interpolation` says.
    fit : TrainResult
    backbone_forwards : int
        Images that went through the frozen part, or the whole network, in this training's own work: training and
        validation together. Those that filled the cache of views are `view_forwards`.
    trainable_parameters : int
    rates : float64 [steps, blocks]
        Rate of each block in every step that was taken; nan where it was frozen.
    steps_per_epoch : int
    range_tests : list of LRFinderResult
    autocast : str
        Arithmetic of what trained.
    view_forwards : int
        Renderings whose maps the training is from; 0 from images.
    view_seconds : float
        What filling the cache with those took, when it was done.
    interpolation : Interpolation, optional
        Of ``wise_ft``: which weights between start and best epoch it was left with.
    stands_in : str
        What caches of views served in place of those that this machine would have computed, in words; '' where none.
    """

    upper: TransferModel
    fit: TrainResult
    backbone_forwards: int
    trainable_parameters: int
    rates: NDArray[np.float64]
    steps_per_epoch: int
    range_tests: list[LRFinderResult] = field(default_factory=list)
    autocast: str = "none"
    view_forwards: int = 0
    view_seconds: float = 0.0
    interpolation: Interpolation | None = None
    stands_in: str = ""

    @property
    def val_score(self) -> float:
        """The task's primary metric on the validation split, of the weights that it was left with."""
        if self.interpolation is not None:
            return self.interpolation.val_score
        assert self.fit.best is not None, "there is epoch 0"
        return self.fit.best.val_score

    @property
    def head(self) -> Head:
        """The fine-tuned head."""
        head = self.upper.model.head
        assert isinstance(head, Head)
        return head

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks that trained, in the order of the columns of `rates`."""
        return [name for name, _ in self.upper.blocks]


def finetune(
    problem: FinetuneProblem,
    folder: Path | None = None,
    *,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_views: Callable[[Extractor, Manifest], None] = lambda *_: None,
) -> FinetuneResult:
    """Fine-tune the top blocks and the head; keep the best validation epoch.

    Parameters
    ----------
    problem : FinetuneProblem
    folder : Path, optional
        For the checkpoint, which is written after every epoch and every few minutes, and what was found before the
        first step. A killed call, repeated, goes on from there and ends where it would have ended.
    on_epoch : callable
        Told each row of the history.
    on_views : callable
        Called with the extractor of the cached views, and the training images, before the cache is filled.

    Raises
    ------
    UsageError
        If the options cannot train this network: nothing trains, or a number makes no sense.
    DataError
        If there are no images to train or to validate on.
    """
    options, rank = problem.config, problem.rank
    setup = FinetuneSetup.to_train(problem, on_views)
    trainee, source = setup.trainee, setup.source
    upper, optimizer, unfreezing, run = trainee.upper, trainee.optimizer, trainee.unfreezing, setup.run(problem)
    autotune = rank.broadcast_from_first(lambda: AutotuneState.load(folder))
    if options.amp_dtype == "auto":
        if autotune.autocast is None:
            autotune.autocast = rank.broadcast_from_first(lambda: benchmark_autocast(run))
        run = replace(run, config=replace(run.config, amp_dtype=autotune.autocast or "none"))
    if options.lr_find != "none":
        upper.train_only(unfreezing.trainable_blocks(1))
        if not autotune.range_tests:
            block = HEAD if options.lr_find == "each" else None
            autotune.add(rank.broadcast_from_first(lambda: lr_find(run, block=block)))
        rescale_lrs(optimizer.param_groups, autotune.range_tests[0])
    if rank.is_main:
        autotune.save(folder)
    if options.compile:
        upper.model.compile()
    steps_per_epoch = -(-source.batches // options.grad_accum_steps)
    scheduler = make_schedule(optimizer, trainee.schedule, steps_per_epoch, options.epochs)

    def prepare(epoch: int, first: int) -> None:
        upper.train_only(unfreezing.trainable_blocks(epoch))
        block = unfreezing.newly_unfrozen(epoch)
        if block is not None and options.lr_find == "each" and first == 0:
            test = rank.broadcast_from_first(lambda: lr_find(run, block=block))
            if test.suggestion is not None:
                current_lr = max(float(group["lr"]) for group in optimizer.param_groups if group["block"] == block)
                scheduler.rescale(block, test.suggestion / current_lr)
            autotune.add(test)
            if rank.is_main:
                autotune.save(folder)

    hooks = TrainHooks(
        checkpoint=None if folder is None else folder / CHECKPOINT,
        identity={
            **without_training(training_fingerprint(problem)),
            **({"views read from": setup.stands_in} if setup.stands_in else {}),
        },
        on_epoch_start=prepare,
        on_epoch=on_epoch,
    )
    trainable = TrainableState(upper.model, optimizer)
    start = trainable.snapshot(upper.model) if options.wise_ft else {}
    result = train(run, scheduler, hooks)
    interpolation = choose_interpolation(run, trainable, start, result) if options.wise_ft else None
    trained_parameters = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    if options.lora:
        merge_lora(upper.model.top)
    return FinetuneResult(
        upper,
        result,
        source.forwards,
        trained_parameters,
        np.array(result.rates, dtype=np.float64).reshape(-1, len(upper.blocks)),
        steps_per_epoch,
        autotune.range_tests,
        run.config.amp_dtype,
        setup.view_forwards,
        setup.view_seconds,
        interpolation,
        setup.stands_in,
    )


def require_trainable(
    extractor: Extractor,
    options: FinetuneConfig,
    manifest: Manifest,
    rank: Rank = SINGLE_PROCESS,
    *,
    balanced: bool = False,
) -> None:
    """Refuse options that cannot train this network on these samples, or a baseline, before anything is paid for.

    Parameters
    ----------
    rank : Rank
        One of the processes that are to train together.
    balanced : bool
        Whether classes are to count alike in the loss.

    Raises
    ------
    UsageError
        As for :func:`finetune`.
    """
    require_loss(options, manifest.task, balanced=balanced)
    if options.amp_dtype is not None and options.amp_dtype != "auto":
        MixedPrecision(options.amp_dtype, extractor.device)
    if rank.world_size > 1 and not manifest.images:  # of several images a sample, batches are made even
        require_even_batches(len(manifest.indices("train")), options.finetune_batch_size, rank)
    head = _any_head(extractor, manifest)
    for config in (options, *(baseline(options, name) for name in options.baselines)):
        upper = TrainableSetup.of(extractor, head, config, seed=0).upper
        make_mixing(config, upper)
        if config.from_cache:
            boundary_extractor(extractor, upper)


def _any_head(extractor: Extractor, manifest: Manifest) -> Head:
    """Return a head that stands for any: nothing is computed."""
    if manifest.task.reads == "image":
        layout = extractor.map_layout
        return build_head("linear", (layout.width,), manifest.task.out_features, {"maps": layout.to_json()})
    head = LinearHead((1,), manifest.task.out_features)
    return AggregatedHead(Aggregate("mean", 1, 1), head) if manifest.images else head


def find_lrs(
    problem: FinetuneProblem,
    *,
    each_block: bool = False,
    on_views: Callable[[Extractor, Manifest], None] = lambda *_: None,
) -> list[LRFinderResult]:
    """Return range tests of a fine-tuning with these options, of which nothing is kept.

    Parameters
    ----------
    problem, on_views
        As for :func:`finetune`.
    each_block
        Whether the head and every block is tested by itself, the others at the rates they are given; else all rise
        together.
    """
    setup = FinetuneSetup.to_train(problem, on_views)
    run = setup.run(problem)
    blocks = [name for name, _ in setup.trainee.upper.blocks] if each_block else [None]
    return [lr_find(run, block=block) for block in blocks]
