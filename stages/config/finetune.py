"""How the top blocks are fine-tuned (stage 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from cache.errors import UsageError
from stages.config.augment_grammar import TTA
from stages.config.bounds import require, require_at_least, require_choices, take_kinds
from stages.config.head_registry import default_heads, describe_first_heads, require_known
from stages.config.heads import HeadName
from stages.config.lists import JOINED, take_lists
from stages.config.registry import COMMON, OPTIMIZERS, SCHEDULES, OptionHelp

Baseline = Literal["scratch", "uncached"]


_NOT_WITH_LORA = {
    "reinit": "what is drawn anew has to train itself, and weights stay frozen under LoRA; leave one of the two out",
    "wise_ft": "between no adapter and one there are no weights to interpolate; leave one of the two out",
}
"""Options that LoRA leaves nothing to do for, and why."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How the top blocks are trained, starting from a stage-2 head (stage 3)."""

    unfreeze: str = field(default="3", metadata={**JOINED, **COMMON})
    """What trains: a layer (and all above it), a number of top blocks, all, head (alone), or just some layers
    (layer2,layer4; one as layer4,)."""

    invert_unfreeze: bool = False
    """Train what --unfreeze would leave frozen, and freeze the rest."""

    reinit: str | None = field(default=None, metadata=JOINED)
    """What is drawn anew before it trains, named as in --unfreeze: a report row shows what the pretrained weights of
    these layers were worth. Their BatchNorm is in training mode."""

    invert_reinit: bool = False
    """Draw anew what --reinit would have kept."""

    init: Literal["kaiming", "xavier"] = "kaiming"
    """How weights are drawn anew."""

    init_head: HeadName | None = field(
        default=None,
        metadata=OptionHelp(
            lambda: (
                "The stage-2 head to start from (trained first if the run has none), or new, for one that knows "
                f"nothing. Default: {describe_first_heads()}."
            )
        ),
    )

    from_cache: bool = False
    """Train from cached feature maps instead of images: of each image --views renderings are taken through the frozen
    part once, and each epoch sees one of them. Says beforehand what that takes."""

    baselines: tuple[Baseline, ...] = ()
    """Also train, with the same schedule and epochs: scratch (the whole network without pretrained weights), uncached
    (a new head through the frozen network, image by image, as tutorials do without a cache)."""

    baseline_lr: float = 1e-3
    """Highest learning rate of the baselines, which begin with nothing that a high one could spoil."""

    epochs: int = field(default=6, metadata=COMMON)
    """Passes over the training images."""

    opt: str = field(
        default="adamw",
        metadata=OptionHelp(
            lambda: (
                ", ".join(["adamw, adam, sgd (Nesterov momentum), momentum (plain)", *OPTIMIZERS.named_help_texts()])
                + ", or another that timm has."
            )
        ),
    )

    momentum: float = 0.9
    """Of the optimisers that have one."""

    lr: float = field(default=1e-4, metadata=COMMON)
    """Highest learning rate of the topmost unfrozen block. `lr-find` suggests one."""

    layer_decay: float = 1.0
    """Each block's rate is that of the block above it times this: discriminative rates. 0.1 to 0.01, or 0.65 to 0.75
    for the many blocks of a ViT."""

    head_lr: float = 1e-4
    """Highest learning rate of the head while fine-tuning."""

    unfreeze_every: int = 0
    """Gradual unfreezing: the head trains first, and every so many epochs the next block below joins; 0 trains all from
    the beginning."""

    lr_find: Literal["none", "start", "each"] = "none"
    """Find the rate by a range test: none, start (before training), each (again for each block that gradual unfreezing
    adds, of its own rate)."""

    schedule: str = field(
        default="cosine",
        metadata=OptionHelp(lambda: f"How the rate goes over the steps: {', '.join(SCHEDULES.names())}."),
    )

    warmup: float | None = None
    """Share of the steps in which the rate rises (default: 0.3 for onecycle, none for restarts and the triangular ones,
    else 0.1)."""

    cycle_epochs: float | None = None
    """Epochs of the first cycle (default: 1 for restarts, 2 for triangular, triangular2, exp_range)."""

    cycle_mul: int | None = None
    """How many times longer each cycle of restarts is than the one before (default: 2)."""

    decay_rate: float | None = None
    """What step and plateau multiply the rate by (default: 0.1), and exp_range the height of each cycle (0.5)."""

    decay_epochs: int | None = None
    """Epochs between the steps of step (default: a third of all)."""

    plateau_patience: int | None = None
    """Epochs without a lower validation loss after which plateau lowers the rate (default: 2)."""

    weight_decay: float = 1e-2
    """Weight decay, decoupled in AdamW; none on biases, normalisation, tokens and position tables."""

    l1: float = 0.0
    """Factor of the sum of absolute weights that is added to the loss."""

    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy; not for numbers."""

    finetune_dropout: float = 0.0
    """Dropout before the head."""

    drop_path: float | None = None
    """Stochastic depth of the unfrozen blocks, rising to this at the top (default: as the network has it)."""

    mixup: float = 0.0
    """alpha of mixup, which blends pairs of images and their labels or numbers; 0.2 is usual."""

    cutmix: float = 0.0
    """alpha of cutmix, which puts a rectangle of one image into another; 1 is usual."""

    model_ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which then is what is validated and kept: 0.999, say."""

    wise_ft: bool = False
    """WiSE-FT: keep what validates best of the weights it began with, those of its best epoch, and four between."""

    lora: int = 0
    """LoRA, of vision transformers: rank of the adapters that train beside the frozen matrices of the unfrozen blocks,
    and are merged into them at the end; 4 to 16 is usual, at 10 times the rates. 0 trains the weights themselves. Needs
    the extra lora."""

    clip_grad: float | None = None
    """Largest norm of the gradient."""

    batchnorm: Literal["train", "eval"] = "eval"
    """Mode of the BatchNorm layers of the unfrozen blocks; frozen ones are always in evaluation mode."""

    auxiliary: bool = True
    """Train the auxiliary classifiers of GoogLeNet and Inception v3 along, where they lie in what trains."""

    finetune_batch_size: int = 32
    """Images per batch; of samples of several, about as many, and never more computed at a time."""

    grad_accum_steps: int = 1
    """Batches whose gradients make one step."""

    amp_dtype: Literal["none", "bf16", "fp16", "auto"] | None = None
    """Arithmetic of the layers that train: none (float32), bf16, fp16 (with scaled gradients), or auto (bf16 or none,
    whichever was quicker on two batches). Default: none on a CPU; on a GPU bf16, or fp16 where it is older than that.
    The frozen part computes in --precision."""

    compile: bool = False
    """Compile what trains with torch.compile: a minute before the first step, quicker steps after it."""

    tta: TTA = "none"
    """Test-time augmentation: none, flip (the mean over an image and its mirror image), crops (over ten crops, of which
    --crop-mode squash and border make two whole images and eight corners). The tables mark it."""

    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints within an epoch; there is one after every epoch in any case."""

    num_workers: int | None = None
    """Processes that decode and augment images (default: one less than there are cores, at most 8)."""

    name: str | None = None
    """What this training is called in the run and the tables (default: made of --unfreeze)."""

    def __post_init__(self) -> None:
        take_lists(self)
        take_kinds(self)
        require_choices(self)
        minima = {"epochs": 1, "lr": 0, "head_lr": 0, "weight_decay": 0, "unfreeze_every": 0, "mixup": 0}
        minima |= {
            "cutmix": 0,
            "baseline_lr": 0,
            "finetune_batch_size": 1,
            "num_workers": 0,
            "checkpoint_minutes": 0,
            "lora": 0,
        }
        require_at_least(self, {**minima, "finetune_dropout": 0, "drop_path": 0})
        if self.init_head not in (None, "new"):
            require_known(self.init_head, "init_head")
        SCHEDULES.require_known(self.schedule)
        for name in ("finetune_dropout", "drop_path"):
            require(name, getattr(self, name), "less than 1", lambda share: share < 1)
        if self.lora:
            if self.unfreeze == "head":
                raise UsageError(f"`lora` {self.lora} with `unfreeze` head: no block is unfrozen; name some")
            for option, instead in _NOT_WITH_LORA.items():
                if getattr(self, option):
                    raise UsageError(f"`lora` {self.lora} with `{option}`: {instead}")
        if self.lr_find == "each" and not self.unfreeze_every:
            raise UsageError("`lr_find` each is for `unfreeze_every`; use `lr_find` start")
        if (self.lr_find == "each" and not self.lr * self.head_lr) or (
            self.lr_find == "start" and not self.lr + self.head_lr
        ):
            raise UsageError(
                f"`lr_find` {self.lr_find} raises rates that are above 0; leave out the `lr` or `head_lr` of 0"
            )
        if self.name is not None and not re.fullmatch(r"[\w.+-]+", self.name):
            raise UsageError(f"`name` {self.name!r} becomes the name of a folder: letters, digits and . + - _ only")

    def for_task(self, task: str) -> FinetuneConfig:
        """Return the options with the head to start from, of a task: the one that was named, or the task's first."""
        return self if self.init_head is not None else replace(self, init_head=default_heads(task)[0])

    def heads_for(self, task: str) -> tuple[HeadName, ...]:
        """Return the head of stage 2 that a fine-tuning for a task starts from; none where it is a new one."""
        name = self.for_task(task).init_head
        return () if name is None or name == "new" else (name,)
