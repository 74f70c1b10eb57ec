"""The options of the three stages: one dataclass per stage, and nothing else defines an option.

Command-line flags, the TOML file, the Python API and the reference in ``docs/options.md`` are made from
these classes. They hold plain values only and import neither torch nor h5py, so that ``--help`` is quick.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.errors import UsageError, suggestion
from stages.augment import TestTime, require_augment

Pooling = Literal["avg", "max", "avgmax", "cls", "none"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]
StorageType = Literal["float16", "float32"]
HeadName = str
"""One of `HEADS`, or the import path of a module of the user's own, ``package.module:Class``."""

HEADS = (
    *("logistic", "svm", "ridge", "rbf", "ncm", "knn", "sgd"),
    *("linear", "mlp", "concat", "cosine", "attention", "top"),
)
Baseline = Literal["scratch", "frozen"]
Schedule = Literal[
    "constant", "step", "plateau", "cosine", "onecycle", "triangular", "triangular2", "exp_range", "restarts"
]


def _require(options: object, bounds: dict[str, float]) -> None:
    """Refuse a number, or one of several, below its bound; None, which stands for a default, has none."""
    for name, least in bounds.items():
        value = getattr(options, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(number is not None and not number >= least for number in numbers):
            raise UsageError(f"--{name.replace('_', '-')} {value} must be at least {least:g}")


@dataclass(frozen=True)
class Data:
    """Which images, with which labels and splits."""

    data: str
    """A folder (root/class/* or root/split/class/*), a CSV file (path,label[,split][,group]), a packaged set
    (elpv, digits), or torchvision:NAME (torchvision:Flowers102). Samples of one group stay in one split."""

    data_root: Path | None = None
    """Where torchvision data sets are kept and downloaded to (default: ~/.cache/cutpoint/datasets)."""

    test: float = 0.25
    """Share of the samples put into the test split, per class, where the source has none."""

    val: float = 0.2
    """Share of the training samples taken for validation, per class, where the source has no such split."""

    seeds: tuple[int, ...] = (0,)
    """Each seed is one repetition: it draws the splits that are made here, and the training."""

    allow_leakage: bool = False
    """Go on although the same image stands in two of the given splits."""


@dataclass(frozen=True)
class Features:
    """Which features of the images, and where they are cached (stage 1)."""

    backbone: str = "efficientnet_lite0"
    """Pretrained network: efficientnet_lite0/1/2 (embedded), a torchvision name (resnet18), or a timm name
    (timm:convnext_nano)."""

    weights: str = "default"
    """default, none (random, from the seed 0), or a state_dict file (.pth read with weights_only, .safetensors)."""

    weights_match: Literal["exact", "partial"] = "exact"
    """How the file must fit: exact (every tensor), or partial (it is loaded from the image upwards until the first
    layer whose name or shape differs; the rest stays random). `layers` with the same options shows what is loaded."""

    weights_rename: tuple[str, ...] = ()
    """Prefixes of the names in the file that are exchanged, each OLD=NEW: backbone= takes one off, =backbone puts one
    before every name."""

    weights_ignore: tuple[str, ...] = ()
    """Prefixes of names (after renaming) that are not loaded, and that neither file nor network needs to have."""

    cut: str = "auto"
    """The layer whose output is cached; auto is the input of the classifier. `layers BACKBONE` lists them. Several,
    separated by commas (layer3,layer4), are computed in one pass and cached each for itself; heads see them joined."""

    pool: Pooling = "avg"
    """How a feature map becomes a vector: avg, max, avgmax (both, concatenated), cls (class token), none (keep it)."""

    image_size: int | None = None
    """Side of the square the network sees, in pixels (default: the backbone's own)."""

    cache: Path = Path("cutpoint-cache")
    """Folder of the feature cache; shared by any number of runs."""

    views: int = 1
    """Renderings cached per image: the evaluation view, and so many less one augmented ones, always the same for the
    same image. They take as many times the extraction and the space."""

    augment: str = "light"
    """Augmentation of the views and of fine-tuning: none, light (flip, small shift and scale), medium (rotation, random
    resized crop, colour jitter), strong (TrivialAugment, random erasing), or single transforms in order, as
    'crop(0.5)+flip+rotation(15)'. There are crop, shift, zoom, flip, vflip, quarter, rotation, perspective, colour,
    grey, blur, trivial, rand, auto and erase. `contact-sheet` shows what comes of it."""

    decoding: Literal["full", "reduced"] = "full"
    """full, or reduced: JPEG photographs far larger than needed are decoded at 1/2, 1/4 or 1/8 of their size, which is
    quicker and changes the pixels a little; part of the fingerprint."""

    precision: Precision = "fp32"
    """Arithmetic of the trunk: fp32, bf16 (up to twice as fast where the processor has it; features differ by some
    percent, and heads on them were as accurate), fp16, or auto (the quickest this machine has). Part of the
    fingerprint: never mixed in one cache."""

    dtype: StorageType = "float16"
    """Type of the numbers in the cache."""

    compression: Literal["none", "gzip"] = "none"
    """How rows are stored: none, or gzip, which packs feature maps full of zeros (after a ReLU) about nine times and
    pooled features twice, and reads more slowly. Not part of the fingerprint."""

    batch_size: int | None = None
    """Images per forward pass; changes speed and memory, not the features' identity (default: what suits device and
    free memory, at most 16 on a CPU and 256 on a GPU)."""

    workers: int | None = None
    """Threads that decode images, and on a CPU run the network too, each on a batch of its own (default: one per core;
    at most 8 where a GPU computes)."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    strict: bool = False
    """Exit with status 1 if any image could not be read."""

    def __post_init__(self) -> None:
        _require(self, {"views": 1, "batch_size": 1, "workers": 1})
        require_augment(self.augment)
        if self.views > 1 and self.augment == "none":
            raise UsageError("--views needs an augmentation: with --augment none all views would be the same")
        if not all(name.strip() for name in self.cut.split(",")):
            raise UsageError(f"--cut {self.cut!r} names no layer between two commas")


@dataclass(frozen=True)
class Head:
    """What is trained on the cached features, and how it is selected (stage 2)."""

    head: tuple[HeadName, ...] = ("logistic", "svm", "rbf", "mlp")
    """Heads to train, one result each. Fitted models: logistic, svm, ridge (linear), rbf (support vector machine with a
    radial kernel), ncm (nearest class mean), knn (nearest neighbours by cosine), sgd (logistic, for features larger
    than memory). Torch: linear, mlp, cosine (cosine classifier), concat (concatenated pooling), attention (attention
    pooling over a map), top (the network's own blocks above the cut, from maps), or a module of your own as
    package.module:Class, called with (row_shape, num_classes)."""

    regularisation: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    """Values of C tried for logistic, svm, ridge (penalty 1 / 2C, and values between) and sgd, from the strongest
    regularisation; rbf tries 1,000 times these. Weaker ones are left out once they score clearly worse."""

    scalers: tuple[Literal["none", "standard", "l2"], ...] = ("none", "standard")
    """Feature scalings tried for fitted models: none, standard (mean 0, variance 1), l2 (vectors of length 1)."""

    folds: int | None = None
    """Folds of the cross-validation on train+validation that selects the settings of fitted models, groups kept
    together; 0 selects on the validation split (default: 5 up to 10,000 samples, else 0)."""

    neighbours: tuple[int, ...] = (1, 3, 5, 10, 20, 50)
    """Numbers of neighbours tried for knn."""

    landmarks: int = 2000
    """Rows that rbf compares all others with (Nystroem's method), where there are more than 10,000 of them."""

    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes weigh as much as frequent ones, and settings are chosen by the mean of the classes'
    recalls."""

    sampling: Literal["natural", "balanced"] = "natural"
    """How torch heads are shown rows: each once an epoch, or drawn so that all classes come as often."""

    memory: float | None = None
    """Gigabytes that cached features may take. Larger ones are streamed from the cache, by heads that can: sgd, ridge,
    ncm and the torch heads (default: half of the free memory)."""

    hidden: int = 512
    """Units of the hidden layer of mlp and concat."""

    dropout: float = 0.5
    """Dropout before the output of the torch heads (half of it before the hidden layer of concat)."""

    head_scaler: Literal["none", "standard", "l2"] = "standard"
    """Feature scaling before linear and mlp; of the others, concat knows l2."""

    head_epochs: int = 100
    """Most epochs of a torch head."""

    patience: int = 15
    """Epochs without a better validation loss after which a torch head stops."""

    head_rate: tuple[float, ...] = (1e-3,)
    """Highest learning rates of a torch head (AdamW, one-cycle). Of several, trained at once, the best on validation is
    kept; with few validation images that flatters the head when methods are ranked."""

    head_weight_decay: tuple[float, ...] = (1e-2,)
    """Decoupled weight decays of a torch head that are tried; none on biases and normalisation."""

    head_batch_size: int = 64
    """Rows per step of a torch head."""

    head_label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy of a torch head."""

    def __post_init__(self) -> None:
        least = {"regularisation": 1e-12, "folds": 0, "hidden": 1, "dropout": 0, "head_epochs": 1, "patience": 1}
        least |= {"head_rate": 0, "head_weight_decay": 0, "head_batch_size": 1, "head_label_smoothing": 0}
        _require(self, {**least, "neighbours": 1, "landmarks": 1, "memory": 0})
        for needed in ("head", "regularisation", "scalers", "neighbours", "head_rate", "head_weight_decay"):
            if not getattr(self, needed):
                raise UsageError(f"--{needed.replace('_', '-')} needs at least one value")
        for name in self.head:
            require_head(name)
        for name in ("dropout", "head_label_smoothing"):
            if getattr(self, name) >= 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must be less than 1")


def require_head(name: str) -> None:
    """Refuse a head that there is not.

    Raises
    ------
    UsageError
        With the nearest right name.
    """
    if name not in HEADS and ":" not in name:
        raise UsageError(
            f"--head {name}: there is no such head; there are {', '.join(HEADS)}, and modules of your own, as "
            f"package.module:Class.{suggestion(name, HEADS)}"
        )


@dataclass(frozen=True)
class Finetune:
    """How the top blocks are trained, starting from a stage-2 head (stage 3)."""

    unfreeze: str = "3"
    """What trains: a layer (it and all above it), a number of top blocks, all, head (the head alone), or several layers
    (just these: layer2,layer4; one alone with a comma behind it)."""

    invert_unfreeze: bool = False
    """Train what --unfreeze would leave frozen, and freeze the rest."""

    reinit: str | None = None
    """What is drawn anew before it trains, named as in --unfreeze: a report row shows what the pretrained weights of
    these layers were worth. Their BatchNorm is in training mode."""

    invert_reinit: bool = False
    """Draw anew what --reinit would have kept."""

    init: Literal["kaiming", "xavier"] = "kaiming"
    """How weights are drawn anew."""

    start: HeadName = "logistic"
    """The stage-2 head to start from (trained first if the run has none), or new, for one that knows nothing."""

    from_cache: bool = False
    """Train from cached feature maps instead of images: of each image --views renderings are taken through the frozen
    part once, and each epoch sees one of them. Says beforehand what that takes."""

    baselines: tuple[Baseline, ...] = ()
    """Also train, with the same schedule and epochs: scratch (the whole network without pretrained weights), frozen (a
    new head through the frozen network, image by image, as tutorials do without a cache)."""

    baseline_rate: float = 1e-3
    """Highest learning rate of the baselines, which begin with nothing that a high one could spoil."""

    epochs: int = 6
    """Passes over the training images."""

    optimiser: str = "adamw"
    """adamw, adam, sgd (Nesterov momentum), momentum (plain), or another that timm has."""

    momentum: float = 0.9
    """Of the optimisers that have one."""

    rate: float = 1e-4
    """Highest learning rate of the topmost unfrozen block. `find-rate` suggests one."""

    rate_decay: float = 1.0
    """Each block's rate is that of the block above it times this: discriminative rates. 0.1 to 0.01, or 0.65 to 0.75
    for the many blocks of a ViT."""

    finetune_head_rate: float = 1e-4
    """Highest learning rate of the head while fine-tuning."""

    unfreeze_every: int = 0
    """Gradual unfreezing: the head trains first, and every so many epochs the next block below joins; 0 trains all from
    the beginning."""

    find_rate: Literal["none", "start", "each"] = "none"
    """Find the rate by a range test: none, start (before training), each (again for each block that gradual unfreezing
    adds, of its own rate)."""

    schedule: Schedule = "cosine"
    """How the rate goes over the steps: constant, step, plateau, cosine, onecycle, triangular, triangular2, exp_range,
    restarts."""

    warmup: float | None = None
    """Share of the steps in which the rate rises (default: 0.3 for onecycle, none for restarts and the triangular ones,
    else 0.1)."""

    cycle_epochs: float | None = None
    """Epochs of the first cycle (default: 1 for restarts, 2 for triangular, triangular2, exp_range)."""

    cycle_multiplier: int | None = None
    """How many times longer each cycle of restarts is than the one before (default: 2)."""

    rate_factor: float | None = None
    """What step and plateau multiply the rate by (default: 0.1), and exp_range the height of each cycle (0.5)."""

    step_epochs: int | None = None
    """Epochs between the steps of step (default: a third of all)."""

    plateau_patience: int | None = None
    """Epochs without a lower validation loss after which plateau lowers the rate (default: 2)."""

    weight_decay: float = 1e-2
    """Weight decay, decoupled in AdamW; none on biases, normalisation, tokens and position tables."""

    l1: float = 0.0
    """Factor of the sum of absolute weights that is added to the loss."""

    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy."""

    finetune_dropout: float = 0.0
    """Dropout before the head."""

    drop_path: float | None = None
    """Stochastic depth of the unfrozen blocks, rising to this at the top (default: as the network has it)."""

    mixup: float = 0.0
    """alpha of mixup, which blends pairs of images and their labels; 0.2 is usual."""

    cutmix: float = 0.0
    """alpha of cutmix, which puts a rectangle of one image into another; 1 is usual."""

    ema: float | None = None
    """Decay of an exponential moving average of the weights, which then is what is validated and kept: 0.999, say."""

    clip: float | None = None
    """Largest norm of the gradient."""

    batchnorm: Literal["train", "eval"] = "eval"
    """Mode of the BatchNorm layers of the unfrozen blocks; frozen ones are always in evaluation mode."""

    auxiliary: bool = True
    """Train the auxiliary classifiers of GoogLeNet and Inception v3 along, where they lie in what trains."""

    finetune_batch_size: int = 32
    """Images per batch."""

    accumulate: int = 1
    """Batches whose gradients make one step."""

    autocast: Literal["none", "bf16", "fp16", "auto"] = "none"
    """Arithmetic of the layers that train: none (float32), bf16, fp16 (with scaled gradients), or auto (bf16 or none,
    whichever was quicker on two batches). The frozen part computes in --precision."""

    compile: bool = False
    """Compile what trains with torch.compile: a minute before the first step, quicker steps after it."""

    tta: TestTime = "none"
    """Test-time augmentation: none, flip (the mean over an image and its mirror image), crops (over ten crops). The
    tables mark it."""

    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints within an epoch; there is one after every epoch in any case."""

    loader_workers: int | None = None
    """Processes that decode and augment images (default: one less than there are cores, at most 8)."""

    label: str | None = None
    """What this training is called in the run and the tables (default: made of --unfreeze)."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "rate": 0, "finetune_head_rate": 0, "weight_decay": 0, "unfreeze_every": 0, "mixup": 0}
        least |= {
            "cutmix": 0,
            "baseline_rate": 0,
            "finetune_batch_size": 1,
            "loader_workers": 0,
            "checkpoint_minutes": 0,
        }
        _require(self, {**least, "finetune_dropout": 0, "drop_path": 0})
        if self.start != "new":
            require_head(self.start)
        for name in ("finetune_dropout", "drop_path"):
            if (getattr(self, name) or 0) >= 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must be less than 1")
        if self.find_rate == "each" and not self.unfreeze_every:
            raise UsageError("--find-rate each is for --unfreeze-every; use --find-rate start")
        if self.label is not None and not re.fullmatch(r"[\w.+-]+", self.label):
            raise UsageError(f"--label {self.label!r} becomes the name of a folder: letters, digits and . + - _ only")
