"""Options become what trains: model, optimizer, schedule, batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch.optim import Optimizer

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.config.finetune import FinetuneConfig
from stages.config.version_1 import as_version_1
from stages.data.augment.mixup import MixupCutmix
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.stand_in import stand_in
from stages.finetuning.cached_batches import CachedBatches, boundary_extractor, extract_views
from stages.finetuning.image_batches import ImageBatches
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.transfer_model import TransferModel, build_transfer_model
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.base import Head
from stages.network.heads.knn import KNNHead
from stages.tasks.base import Task
from stages.tasks.loss_options import no_classes_to_weigh, require_smoothing
from stages.training.checkpoint import TrainingFingerprint
from stages.training.config import TrainConfig
from stages.training.gradual_unfreezing import UnfreezeSchedule
from stages.training.lr_schedules import LRScheduleConfig
from stages.training.optim import Group, create_optimizer, layerwise_lrs, parameter_groups
from stages.training.train_loop import TrainRun

OPTIONS_THAT_SHAPE_NOTHING = ("num_workers", "checkpoint_minutes", "tta", "name", "baselines", "baseline_lr")
"""Options that do not shape what a training comes to."""

_LATER = ("wise_ft", "lora")
"""Options that trainings of before did not have, and that are told where they are asked for: those are found again."""


def training_fingerprint(problem: FinetuneProblem) -> TrainingFingerprint:
    """Return everything that shapes a fine-tuning, by name: a checkpoint of another one is not gone on from."""
    extractor, options, manifest = problem.extractor, problem.config, problem.manifest
    left_out = {*OPTIONS_THAT_SHAPE_NOTHING, *(name for name in _LATER if not getattr(options, name))}
    shaping = as_version_1({name: value for name, value in asdict(options).items() if name not in left_out})
    digest = hashlib.sha256()
    for name, value in sorted(problem.head.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return {
        **shaping,
        "features": extractor.fingerprint,
        "augment": as_version_1({"augment": extractor.options.augment})["augment"],
        "views": extractor.options.views if options.from_cache else None,
        "weights of the head": digest.hexdigest()[:16],
        **_beside_weights(problem),
        **({} if problem.class_weights is None else {"class_weights": "balanced"}),
        "images and labels": key_of_bytes("".join(manifest.keys).encode() + _bytes_of_targets(manifest)),
        "splits": key_of_bytes(" ".join(manifest.splits).encode()),
        "seed": problem.seed,
        **({} if (task := problem.task.to_json()).get("primary") is None else {"metric": task["primary"]}),
    }


def _beside_weights(problem: FinetuneProblem) -> TrainingFingerprint:
    """Return what the head does that its weights do not tell, where two that differ in it may have the same ones.

    Fitted to maxima, a head has other weights than fitted to means; one that knows nothing has the same.
    """
    head = problem.head
    inner = head.inner if isinstance(head, AggregatedHead) else head
    told: dict[str, str | int] = {"n_neighbors": inner.k} if isinstance(inner, KNNHead) else {}
    if isinstance(head, AggregatedHead) and problem.config.init_head == "new" and head.aggregate.kind != "mean":
        told["aggregate"] = head.aggregate.kind  # trainings on means were kept without it
    return told


def _bytes_of_targets(manifest: Manifest) -> bytes:
    """Return what tells targets from others, wherever the files are that hold them."""
    return "".join(manifest.target_keys).encode() if manifest.task.reads == "image" else manifest.targets.tobytes()


@dataclass
class TrainableSetup:
    """What trains and how, whatever it is given."""

    schedule: LRScheduleConfig
    training: TrainConfig
    unfreezing: UnfreezeSchedule
    upper: TransferModel
    optimizer: Optimizer

    @classmethod
    def of(cls, extractor: Extractor, head: Head, options: FinetuneConfig, seed: int) -> TrainableSetup:
        """Check the options and join the network."""
        schedule, training = _schedule(options), _training(options, seed)
        upper = build_transfer_model(extractor, head, options, seed)
        unfreezing = UnfreezeSchedule(tuple(name for name, _ in upper.blocks), options.unfreeze_every)
        unfreezing.check(options.epochs)
        optimizer = create_optimizer(options.opt, _groups(extractor, upper, options), options.momentum)
        return cls(schedule, training, unfreezing, upper, optimizer)


@dataclass
class FinetuneSetup:
    """All that a training needs, before its first step.

    `stands_in` says what caches serve in place of the views that this machine would compute; '' where these do.
    """

    trainee: TrainableSetup
    source: ImageBatches | CachedBatches
    view_forwards: int = 0
    view_seconds: float = 0.0
    stands_in: str = ""

    @classmethod
    def to_train(cls, problem: FinetuneProblem, on_views: Callable[[Extractor, Manifest], None]) -> FinetuneSetup:
        """Make what trains, and open where its inputs come from."""
        require_loss(problem.config, problem.task, balanced=problem.balanced)
        trainee = TrainableSetup.of(problem.extractor, problem.head, problem.config, problem.seed)
        upper, train, val = trainee.upper, problem.train, problem.val
        mixing = make_mixing(problem.config, upper)
        if not len(train) or not len(val):
            raise DataError("fine-tuning needs readable images in the train and the validation split")
        if not problem.config.from_cache:
            return cls(trainee, ImageBatches(problem, upper, mixing))
        keys, val_keys = train.distinct_images.keys, val.distinct_images.keys
        maps = stand_in(boundary_extractor(problem.extractor, upper), keys, val_keys, like=problem.extractor)
        if problem.rank.is_main:
            on_views(maps, train)
        extract_views(maps, train, val, problem.rank)
        views = CachedBatches(problem, maps, mixing)
        forwards = maps.options.views * len(keys) + len(val_keys)
        seconds = maps.seconds(keys, maps.options.views) + maps.seconds(val_keys)
        return cls(trainee, views, forwards, seconds, maps.stands_in)

    def run(self, problem: FinetuneProblem) -> TrainRun:
        """Return what trains, and on what, as the loop takes it."""
        trainee, source = self.trainee, self.source
        return TrainRun(
            trainee.upper.model,
            trainee.optimizer,
            trainee.training,
            problem.task,
            source.train,
            source.val,
            problem.rank,
            problem.class_weights,
        )


def _schedule(options: FinetuneConfig) -> LRScheduleConfig:
    schedule = LRScheduleConfig(
        options.schedule,
        warmup=options.warmup,
        cycle_epochs=options.cycle_epochs,
        cycle_mul=options.cycle_mul,
        factor=options.decay_rate,
        decay_epochs=options.decay_epochs,
        patience=options.plateau_patience,
    )
    schedule.check(options.epochs)
    return schedule


def _training(options: FinetuneConfig, seed: int) -> TrainConfig:
    return TrainConfig(
        epochs=options.epochs,
        seed=seed,
        label_smoothing=options.label_smoothing,
        l1=options.l1,
        clip_grad=options.clip_grad,
        grad_accum_steps=options.grad_accum_steps,
        amp_dtype="none" if options.amp_dtype is None or options.amp_dtype == "auto" else options.amp_dtype,
        model_ema_decay=options.model_ema_decay,
        checkpoint_seconds=60 * options.checkpoint_minutes,
    )


def make_mixing(options: FinetuneConfig, upper: TransferModel) -> MixupCutmix | None:
    """Return what mixes a batch: images, or the maps that the frozen part made of them.

    Raises
    ------
    UsageError
        If there is nothing to mix: samples have several images, or cutmix would have no maps.
    """
    if not options.mixup and not options.cutmix:
        return None
    if getattr(upper.model.head, "takes_bags", False):
        option = f"`mixup` {options.mixup:g}" if options.mixup else f"`cutmix` {options.cutmix:g}"
        raise UsageError(f"{option} mixes two images, and here each sample has several: leave it out")
    layout = upper.boundary.layout if options.from_cache and upper.boundary is not None else "nchw"
    return MixupCutmix(options.mixup, options.cutmix, layout)


def require_loss(options: FinetuneConfig, task: Task, *, balanced: bool = False) -> None:
    """Refuse what the loss of the task does not know.

    Raises
    ------
    UsageError
        If targets of this task cannot be smoothed, or not be blended as is asked, or have no classes to be `balanced`.
    """
    if task.reads == "image":
        _require_masks_left_whole(options)
        return
    if balanced and task.outputs == "values":
        raise no_classes_to_weigh(task)
    require_smoothing(task, "label_smoothing", options.label_smoothing)


def _require_masks_left_whole(options: FinetuneConfig) -> None:
    for option in ("mixup", "cutmix"):
        if getattr(options, option):
            raise UsageError(
                f"`{option}` {getattr(options, option):g} blends two targets, and two masks have no blend: leave it out"
            )
    if options.tta != "none":
        raise UsageError(f"`tta` {options.tta} averages what is said of images as a whole: leave it out for masks")
    if options.from_cache:
        raise UsageError(
            "`from_cache` trains on cached views, whose masks would have to be cached too: leave it out where each "
            "pixel has a class, and images are read in each epoch"
        )


def _groups(extractor: Extractor, upper: TransferModel, options: FinetuneConfig) -> list[Group]:
    """Return the optimiser's groups: a rate for the head, one for the topmost block, and less for each one below."""
    (head, parameters), *below = upper.blocks
    rated = [(head, parameters, options.head_lr), *layerwise_lrs(below, options.lr, options.layer_decay)]
    spared: set[str] = getattr(extractor.backbone.module, "no_weight_decay", set)()
    return parameter_groups(upper.model, rated, options.weight_decay, spared)


def without_training(identity: TrainingFingerprint) -> TrainingFingerprint:
    """Leave out what the loop itself compares."""
    return {name: value for name, value in identity.items() if name not in TrainConfig.__dataclass_fields__}
