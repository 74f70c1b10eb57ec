"""Stage 3: head + top blocks + images -> fine-tuned network.

Linear probing, then fine-tuning (Kumar et al. 2022): the network starts as trunk + top + the stage-2 head, so before
the first step it answers what stage 2 answered. The frozen trunk runs without autograd, in evaluation mode, always;
only what is above the boundary is a model that trains, from images or from cached views (``stages/finetuning``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.data import Manifest, Mixing
from stages.distributed import ALONE, Rank
from stages.extractor import Extractor
from stages.finetuning.images import Images
from stages.finetuning.upper import HEAD, Upper, join
from stages.finetuning.views import CachedViews, extract_views, extractor_of_views
from stages.network.heads import Head, LinearHead
from stages.options import Baseline, Finetune
from stages.training.checkpoints import Identity
from stages.training.history import Epoch, Fit
from stages.training.loop import fit
from stages.training.optimisers import Group, make_optimiser, parameter_groups
from stages.training.options import Training
from stages.training.precision import Autocast
from stages.training.quickest import quicker_autocast
from stages.training.range_test import RangeTest, range_test
from stages.training.schedules import Schedule, make_schedule, rates_of
from stages.training.unfreezing import Unfreezing

CHECKPOINT = "checkpoint.pt"
FOUND = "found.json"
"""What a training found out by trying before it began; a killed one that goes on does not try again."""

_SHAPELESS = ("loader_workers", "checkpoint_minutes", "tta", "label", "baselines", "baseline_rate")
"""Options that do not shape what a training comes to."""


@dataclass
class FineTuned:
    """A fine-tuned network with its history and what it took.

    Attributes
    ----------
    upper : Upper
        With the weights of the best validation epoch.
    fit : Fit
    backbone_forwards : int
        Images that went through the frozen part, or the whole network, in this training's own work: training and
        validation together. Those that filled the cache of views are `view_forwards`.
    trainable_parameters : int
    rates : float64 [steps, blocks]
        Rate of each block in every step, as scheduled.
    steps_per_epoch : int
    range_tests : list of RangeTest
    autocast : str
        Arithmetic of what trained.
    view_forwards : int
        Renderings whose maps the training is from; 0 from images.
    view_seconds : float
        What filling the cache with those took, when it was done.
    """

    upper: Upper
    fit: Fit
    backbone_forwards: int
    trainable_parameters: int
    rates: NDArray[np.float64]
    steps_per_epoch: int
    range_tests: list[RangeTest] = field(default_factory=list)
    autocast: str = "none"
    view_forwards: int = 0
    view_seconds: float = 0.0

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
    extractor: Extractor,
    head: Head,
    options: Finetune,
    manifest: Manifest,
    seed: int,
    folder: Path | None = None,
    *,
    rank: Rank = ALONE,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_views: Callable[[Extractor, Manifest], None] = lambda *_: None,
) -> FineTuned:
    """Fine-tune the top blocks and the head; keep the best validation epoch.

    Parameters
    ----------
    extractor : Extractor
        The backbone and the cut the head was trained at.
    head : Head
        Where training starts; one that was not fitted on the validation split.
    options : Finetune
    manifest : Manifest
        Readable samples; the test split is not touched.
    folder : Path, optional
        For the checkpoint, which is written after every epoch and every few minutes, and what was found before the
        first step. A killed call, repeated, goes on from there and ends where it would have ended.
    rank : Rank
        One of several processes that train together, each with a share of every batch.
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
    ready = _Ready.to_train(extractor, head, options, manifest, seed, rank, on_views)
    trainee, source = ready.trainee, ready.source
    upper, optimiser, training, unfreezing = trainee.upper, trainee.optimiser, trainee.training, trainee.unfreezing
    found = rank.share(lambda: Found.load(folder))
    if options.autocast == "auto":
        if found.autocast is None:
            found.autocast = rank.share(lambda: quicker_autocast(upper.model, optimiser, training, source.train))
        training = replace(training, autocast=found.autocast or "none")
    if options.find_rate != "none":
        upper.train_only(unfreezing.trained(1))
        if not found.range_tests:
            block = HEAD if options.find_rate == "each" else None
            found.add(rank.share(lambda: range_test(upper.model, optimiser, training, source.train, block=block)))
        _rescale(optimiser.param_groups, found.range_tests[0])
    if rank.first:
        found.save(folder)
    if options.compile:
        upper.model.compile()
    steps_per_epoch = -(-source.batches // options.accumulate)
    highest = {str(group["block"]): float(group["lr"]) for group in optimiser.param_groups}
    scheduler = make_schedule(optimiser, trainee.schedule, steps_per_epoch, options.epochs)

    def prepare(epoch: int, first: int) -> None:
        upper.train_only(unfreezing.trained(epoch))
        new = unfreezing.begins(epoch)
        if new is not None and options.find_rate == "each" and first == 0:
            test = rank.share(lambda: range_test(upper.model, optimiser, training, source.train, block=new))
            if test.suggestion is not None:
                now = max(float(group["lr"]) for group in optimiser.param_groups if group["block"] == new)
                scheduler.rescale(new, test.suggestion / now)
            found.add(test)
            if rank.first:
                found.save(folder)

    done = fit(
        upper.model,
        optimiser,
        scheduler,
        training,
        train_batches=source.train,
        val_batches=source.val,
        checkpoint=None if folder is None else folder / CHECKPOINT,
        identity=_without_training(training_identity(extractor, head, options, manifest, seed)),
        prepare=prepare,
        on_epoch=on_epoch,
        rank=rank,
    )
    return FineTuned(
        upper,
        done,
        source.forwards,
        sum(parameter.numel() for group in optimiser.param_groups for parameter in group["params"]),
        rates_of(trainee.schedule, list(highest.values()), steps_per_epoch, options.epochs),
        steps_per_epoch,
        found.range_tests,
        training.autocast,
        ready.view_forwards,
        ready.view_seconds,
    )


def require_trainable(extractor: Extractor, options: Finetune, num_classes: int) -> None:
    """Refuse options that cannot train this network, or a baseline they ask for, before anything is paid for.

    Raises
    ------
    UsageError
        As for :func:`finetune`.
    """
    head = LinearHead((1,), num_classes)  # stands for any: nothing is computed
    for one in (options, *(baseline(options, which) for which in options.baselines)):
        upper = _Trainee.of(extractor, head, one, seed=0).upper
        _mixing(one, upper, num_classes)
        if one.from_cache:
            extractor_of_views(extractor, upper)


def find_rates(
    extractor: Extractor,
    head: Head,
    options: Finetune,
    manifest: Manifest,
    seed: int,
    *,
    each_block: bool = False,
    on_views: Callable[[Extractor, Manifest], None] = lambda *_: None,
) -> list[RangeTest]:
    """Return range tests of a fine-tuning with these options, of which nothing is kept.

    Parameters
    ----------
    extractor, head, options, manifest, seed, on_views
        As for :func:`finetune`.
    each_block
        Whether the head and every block is tested by itself, the others at the rates they are given; else all rise
        together.
    """
    ready = _Ready.to_train(extractor, head, options, manifest, seed, ALONE, on_views)
    trainee = ready.trainee
    blocks = [name for name, _ in trainee.upper.blocks] if each_block else [None]
    return [
        range_test(trainee.upper.model, trainee.optimiser, trainee.training, ready.source.train, block=one)
        for one in blocks
    ]


def new_head(extractor: Extractor, num_classes: int, seed: int) -> Head:
    """Return a linear head that knows nothing: all classes are about equally likely."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = LinearHead(extractor.row_shape, num_classes, dropout=0.0)
        nn.init.normal_(head.output.weight, std=0.01)
        nn.init.zeros_(head.output.bias)
    return head


def baseline(options: Finetune, which: Baseline) -> Finetune:
    """Return the options of a baseline with the schedule, optimiser and epochs of `options`.

    ``scratch`` is the whole network without pretrained weights, and ``frozen`` a new head on the frozen network, which
    every image goes through in every epoch. What begins with nothing has a rate of its own: at one that is right for
    pretrained blocks it would not have learned when the epochs are over, and look worse than it is.
    """
    plain = replace(
        options,
        unfreeze="all" if which == "scratch" else HEAD,
        invert_unfreeze=False,
        reinit="all" if which == "scratch" else None,
        invert_reinit=False,
        start="new",
        from_cache=False,
        baselines=(),
        rate=options.baseline_rate,
        finetune_head_rate=options.baseline_rate,
        rate_decay=1.0,
        unfreeze_every=0,
        find_rate="none" if options.find_rate == "none" else "start",
        label=None,
    )
    return replace(plain, drop_path=None) if which == "frozen" else plain  # no block of it trains


def training_identity(extractor: Extractor, head: Head, options: Finetune, manifest: Manifest, seed: int) -> Identity:
    """Return everything that shapes a fine-tuning, by name: a checkpoint of another one is not gone on from."""
    shaping = {name: value for name, value in asdict(options).items() if name not in _SHAPELESS}
    digest = hashlib.sha256()
    for name, value in sorted(head.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return {
        **shaping,
        "features": extractor.fingerprint,
        "augment": extractor.options.augment,
        "views": extractor.options.views if options.from_cache else None,
        "weights of the head": digest.hexdigest()[:16],
        "images and labels": key_of_bytes("".join(manifest.keys).encode() + manifest.labels.tobytes()),
        "splits": key_of_bytes(" ".join(manifest.splits).encode()),
        "seed": seed,
    }


@dataclass
class Found:
    """What was found out by trying, before a training or as it went."""

    autocast: Autocast | None = None
    range_tests: list[RangeTest] = field(default_factory=list)

    def add(self, test: RangeTest) -> None:
        """Keep a range test; of a block that was tested before a training was killed, the newer one."""
        self.range_tests = [one for one in self.range_tests if one.block != test.block] + [test]

    def save(self, folder: Path | None) -> None:
        """Leave it in the folder of the training, if there is anything."""
        if folder is None or (self.autocast is None and not self.range_tests):
            return
        folder.mkdir(parents=True, exist_ok=True)
        tests = [
            {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(test).items()}
            for test in self.range_tests
        ]
        temporary = folder / f"{FOUND}.tmp"
        temporary.write_text(json.dumps({"autocast": self.autocast, "range tests": tests}), encoding="utf-8")
        temporary.replace(folder / FOUND)

    @classmethod
    def load(cls, folder: Path | None) -> Found:
        """Return what a killed training left; nothing where none began."""
        if folder is None or not (folder / CHECKPOINT).exists() or not (folder / FOUND).exists():
            return cls()
        saved: dict[str, Any] = json.loads((folder / FOUND).read_text(encoding="utf-8"))
        tests = [
            RangeTest(
                np.array(test["rates"]),
                np.array(test["losses"]),
                np.array(test["smoothed"]),
                test["suggestion"],
                test["block"],
            )
            for test in saved["range tests"]
        ]
        return cls(saved["autocast"], tests)


@dataclass
class _Trainee:
    """What trains and how, whatever it is given."""

    schedule: Schedule
    training: Training
    unfreezing: Unfreezing
    upper: Upper
    optimiser: Optimizer

    @classmethod
    def of(cls, extractor: Extractor, head: Head, options: Finetune, seed: int) -> _Trainee:
        """Check the options and join the network."""
        schedule, training = _schedule(options), _training(options, seed)
        upper = join(extractor, head, options, seed)
        unfreezing = Unfreezing(tuple(name for name, _ in upper.blocks), options.unfreeze_every)
        unfreezing.check(options.epochs)
        optimiser = make_optimiser(options.optimiser, _groups(extractor, upper, options), options.momentum)
        return cls(schedule, training, unfreezing, upper, optimiser)


@dataclass
class _Ready:
    """All that a training needs, before its first step."""

    trainee: _Trainee
    source: Images | CachedViews
    view_forwards: int = 0
    view_seconds: float = 0.0

    @classmethod
    def to_train(
        cls,
        extractor: Extractor,
        head: Head,
        options: Finetune,
        manifest: Manifest,
        seed: int,
        rank: Rank,
        on_views: Callable[[Extractor, Manifest], None],
    ) -> _Ready:
        """Make what trains, and open where its inputs come from."""
        trainee = _Trainee.of(extractor, head, options, seed)
        upper, mixing = trainee.upper, _mixing(options, trainee.upper, len(manifest.class_names))
        train, val = (manifest.select(manifest.indices(split)) for split in ("train", "val"))
        if not len(train) or not len(val):
            raise DataError("fine-tuning needs readable images in the train and the validation split")
        if not options.from_cache:
            return cls(trainee, Images(extractor, upper, options, train, val, seed, mixing, rank))
        maps = extractor_of_views(extractor, upper)
        if rank.first:
            on_views(maps, train)
        extract_views(maps, train, val, rank)
        views = CachedViews(maps, options, train, val, seed, mixing, rank)
        forwards = maps.options.views * len(set(train.keys)) + len(set(val.keys))
        seconds = maps.seconds(train.keys, maps.options.views) + maps.seconds(val.keys)
        return cls(trainee, views, forwards, seconds)


def _schedule(options: Finetune) -> Schedule:
    schedule = Schedule(
        options.schedule,
        warmup=options.warmup,
        cycle_epochs=options.cycle_epochs,
        cycle_multiplier=options.cycle_multiplier,
        factor=options.rate_factor,
        step_epochs=options.step_epochs,
        patience=options.plateau_patience,
    )
    schedule.check(options.epochs)
    return schedule


def _training(options: Finetune, seed: int) -> Training:
    return Training(
        epochs=options.epochs,
        seed=seed,
        label_smoothing=options.label_smoothing,
        l1=options.l1,
        clip=options.clip,
        accumulate=options.accumulate,
        autocast="none" if options.autocast == "auto" else options.autocast,
        ema=options.ema,
        checkpoint_seconds=60 * options.checkpoint_minutes,
    )


def _mixing(options: Finetune, upper: Upper, num_classes: int) -> Mixing | None:
    """Return what mixes a batch: images, or the maps that the frozen part made of them."""
    if not options.mixup and not options.cutmix:
        return None
    layout = upper.boundary.layout if options.from_cache and upper.boundary is not None else "nchw"
    return Mixing(options.mixup, options.cutmix, num_classes, layout)


def _groups(extractor: Extractor, upper: Upper, options: Finetune) -> list[Group]:
    """Return the optimiser's groups: a rate for the head, one for the topmost block, and less for each one below."""
    if not 0 < options.rate_decay <= 1:
        raise UsageError(f"--rate-decay {options.rate_decay:g} must be more than 0 and at most 1")
    rated = []
    for depth, (name, parameters) in enumerate(upper.blocks):
        rate = options.finetune_head_rate if name == HEAD else options.rate * options.rate_decay ** (depth - 1)
        rated.append((name, parameters, rate))
    spared: set[str] = getattr(extractor.backbone.module, "no_weight_decay", set)()
    return parameter_groups(upper.model, rated, options.weight_decay, spared)


def _rescale(groups: list[Group], test: RangeTest) -> None:
    """Give the groups that a range test was about the rate that it suggests, in their proportions."""
    if test.suggestion is None:
        return
    about = [group for group in groups if test.block in (None, group["block"])]
    factor = test.suggestion / max(float(group["lr"]) for group in about)
    for group in about:
        group["lr"] *= factor


def _without_training(identity: Identity) -> Identity:
    """Leave out what the loop itself compares."""
    return {name: value for name, value in identity.items() if name not in Training.__dataclass_fields__}
