"""Which features of the images, and where they are cached (stage 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cache.errors import UsageError
from cache.formats import describe_formats, require_writable
from stages.config.augment_grammar import OPS, require_augment
from stages.config.bounds import require_at_least, require_choices, take_kinds
from stages.config.image_size import read_size
from stages.config.lists import JOINED, take_lists
from stages.config.pixel_values import parse_channels, parse_intensity_range, parse_page
from stages.config.registry import BACKBONES, COMMON, ENGINES, POOLINGS, OptionHelp, listed_help

Pooling = str
"""Of a pooling that is registered; of several, where they are taken, with commas between."""


CropMode = Literal["center", "squash", "border"]
"""timm's words for what becomes of an image that is no square."""


PrecisionChoice = Literal["fp32", "tf32", "bf16", "fp16", "auto"]


StorageType = Literal["float16", "float32", "uint8"]


OF_THE_MACHINE = (
    *("cache", "compression", "extract_batch_size", "decode_threads", "device", "deterministic", "strict", "force"),
    "exact_spec",
)
"""Options of `FeatureConfig` that say where and how features are had, and nothing of what they are."""


@dataclass(frozen=True)
class FeatureConfig:
    """Which features of the images, and where they are cached (stage 1)."""

    backbone: str = field(
        default="efficientnet_lite0",
        metadata=OptionHelp(lambda: f"Pretrained network: {listed_help(BACKBONES)}.", COMMON),
    )
    """Pretrained network; help names the families that are registered."""

    weights: str = "default"
    """default, none (random, from the seed 0), or a state_dict file (.pth read with weights_only, .safetensors)."""

    weights_match: Literal["exact", "partial"] = "exact"
    """How the file must fit: exact (every tensor), or partial (it is loaded from the image upwards until the first
    layer whose name or shape differs; the rest stays random). `list-cuts` with the same options shows what is
    loaded."""

    weights_rename: tuple[str, ...] = ()
    """Prefixes of the names in the file that are exchanged, each OLD=NEW: backbone= takes one off, =backbone puts one
    before every name."""

    weights_ignore: tuple[str, ...] = ()
    """Prefixes of names (after renaming) that are not loaded, and that neither file nor network needs to have."""

    cut: str = field(default="auto", metadata={**JOINED, **COMMON})
    """The layer whose output is cached, as the features of an image: what lies below it, the trunk, is frozen and
    runs once for each. auto is the input of the classifier, or, with masks, maps: the last block at the strides 8, 16
    and 32. `list-cuts BACKBONE` lists all. Several (layer3 layer4) take one pass; heads see them joined."""

    taps: str = field(default="", metadata=JOINED)
    """In place of a cut, statistics of tensors of many depths, computed in the same one pass; heads see them as one
    row. last (the input of the classifier, and what it is pooled of), stages (and the outputs of the network's stages),
    blocks (and of every block in them), all (and the expanded activations inside blocks), or patterns of names matched
    part by part (blocks.*, layer4.*.conv2): each module stands for the last tensor in it. The class token is taken too
    where there is one. Nothing is fine-tuned from them. `list-cuts` with `taps` shows what is taken."""

    pool: Pooling = field(
        default="avg",
        metadata=OptionHelp(
            lambda: (
                f"How a feature map becomes a vector: {', '.join(POOLINGS.named_help_texts())}. Of `taps` several may "
                "be taken, as avg,max,std; std of what lies inside blocks is left out."
            ),
            JOINED,
        ),
    )

    image_size: int | str | None = field(default=None, metadata=COMMON)
    """Side of the square the network sees, in pixels, or HEIGHTxWIDTH (default: the backbone's own; with masks the
    images' own, up to 640)."""

    crop_mode: CropMode = "center"
    """What the network sees of an image: center (the shorter side is resized and the middle cut out, so that what lies
    at the border is not seen), squash (all of it, its sides brought to one length), or border (all of it in its own
    proportions, the mean color beside it). Part of the fingerprint."""

    tile: int | None = None
    """Side, in pixels, of square tiles that images are cut into, as a sliding window, where each pixel gets a class:
    for images too large to be seen at once, whose details a smaller rendering would lose. Tiles are what is cached,
    trained on and predicted; masks come back at the images' size (default: images are seen as a whole)."""

    overlap: int | None = None
    """Pixels that neighboring tiles share at least; there, logits are averaged (default: an eighth of `tile`)."""

    cache: Path = Path("cutonce-cache")
    """Folder of the feature cache; shared by any number of runs."""

    views: int = 1
    """Views, which are renderings of an image, that are cached of each: the evaluation view, whole and clean, and so
    many less one augmented ones, always the same for the same image. They take as many times the extraction and the
    space."""

    mirror: bool = False
    """Take the mean of the features of an image and of its mirror image, where rows are vectors: it costs a second pass
    (of which there is only the mirror image, where the features of the images are cached), and as much of each
    prediction."""

    augment: str = field(
        default="light",
        metadata=OptionHelp(
            lambda: (
                "Augmentation of the views (renderings of an image) and of fine-tuning: none, light (flip, small shift "
                "and scale), medium (rotation, random resized crop, colour jitter), strong (TrivialAugment, random "
                f"erasing), or in order, as 'crop(0.5)+flip+rotation(15)', single ones of {', '.join(OPS.names())}. "
                "`contact-sheet` shows what comes of it."
            ),
            COMMON,
        ),
    )

    decoding: Literal["full", "reduced"] = "full"
    """full, or reduced: JPEG photographs far larger than needed are decoded at 1/2, 1/4 or 1/8 of their size, which is
    quicker and changes the pixels a little; part of the fingerprint."""

    intensity_range: str = field(default="full", metadata=JOINED)
    """Which values are black and white in images of more than 8 bits (microscopes, X-rays, satellites): full (as each
    file's header says), bits:N (0 to 2^N - 1), LOW,HIGH, percentile:P,Q (of the values of up to 500 images), or auto
    (the range that up to 500 images use). What is found is kept with the run, and new images are read with it. Images
    of 8 bits are never touched."""

    channels: str = field(default="rgb", metadata=JOINED)
    """Of images with other channels than red, green and blue: the numbers, from 0, of those to take, as 2,1,0, or
    all. A single one is shown as gray; for other numbers than three the first convolution is widened."""

    page: str = "first"
    """Of files with several pages or frames (z-stacks, time lapses, animations): first, middle, max (the brightest
    value of all pages, pixel by pixel), or a number from 0 on."""

    decode_on: Literal["auto", "cpu", "cuda"] = "auto"
    """Who decodes JPEG: cpu, cuda (NVIDIA's decoder, through a TorchCodec for CUDA; several times as fast, with
    slightly other colors, so part of the fingerprint; always in full, whatever `decoding` says), or auto (cuda where
    the network runs on one and TorchCodec can). Files that are damaged, or no usual JPEG, are the CPU's in any case."""

    precision: PrecisionChoice | None = None
    """Arithmetic of the trunk, the frozen part: fp32, tf32 (NVIDIA's, for factors of 10 bits), bf16 (up to twice as
    fast where the processor has it; features differ by some percent, and heads on them were as accurate), fp16, or auto
    (the quickest this machine has). Part of the fingerprint: never mixed in one cache (default: auto on an NVIDIA GPU,
    fp32 elsewhere)."""

    compile_trunk: bool = False
    """Have torch compile the trunk for the GPU (torch.compile): it begins some 15 seconds later and rounds otherwise,
    so it is part of the fingerprint, and pays from about a million images on."""

    exact_spec: bool = False
    """Read features that this command would compute, and no others. Without it a complete cache that differs in
    `precision` alone, or in the library that decoded its images, as one from a server with a GPU, serves where these
    are not there; that is said, and kept with the results. (`extract` never reads such.)"""

    storage_dtype: StorageType = "float16"
    """Type of the numbers in the cache: float16, float32, or, of unpooled maps, uint8: 256 steps between the least and
    the greatest number of each channel of each image, which take little more than half the bytes of float16 and are off
    by at most a 510th of a channel's range."""

    compression: str = field(
        default="none",
        metadata=OptionHelp(lambda: f"How rows are stored: {describe_formats()}. Not part of the fingerprint."),
    )

    extract_batch_size: int | None = None
    """Images per forward pass of the extraction; changes speed and memory, not the features' identity (default: what
    suits device and free memory, at most 16 on a CPU and 256 on a GPU; halved where a GPU has no room for it)."""

    decode_threads: int | None = None
    """Threads that decode images, and on a CPU run the network too, each on a batch of its own (default: one per core;
    at most 12 where a GPU computes)."""

    device: str = "auto"
    """auto (the first there is of cuda, mps and cpu), cpu, cuda, cuda:1, or mps (Apple's GPU)."""

    deterministic: bool = False
    """On a GPU, the same bits in each run on the same machine: torch takes slower kernels for it, and refuses what it
    has none for. Without it features differ by rounding from run to run. On a CPU they never do."""

    engine: str = field(
        default="auto",
        metadata=OptionHelp(
            lambda: (
                "How images come through the network: auto (what suits the device), "
                f"{', '.join(ENGINES.named_help_texts())}. Not part of the fingerprint, but for openvino in bf16."
            )
        ),
    )

    strict: bool = False
    """Exit with status 1 if any image could not be read."""

    force: bool = False
    """Begin an extraction that the cache's disk has no room for; without it, that is refused before the first image."""

    def __post_init__(self) -> None:
        take_lists(self)
        take_kinds(self)
        require_choices(self)
        require_at_least(self, {"views": 1, "extract_batch_size": 1, "decode_threads": 1, "tile": 1, "overlap": 0})
        if self.image_size is not None:
            object.__setattr__(self, "image_size", read_size(self.image_size))
        self._take_tiles()
        pools = self.pool.split(",")
        for pool in pools:
            POOLINGS.require_known(pool)
        if len(pools) > 1 and not self.taps:
            raise UsageError(
                f"`pool` {self.pool}: the output of a `cut` is pooled in one way (avgmax is average beside maximum); "
                "several are taken of `taps`"
            )
        if len({*pools}) < len(pools):
            raise UsageError(f"`pool` {self.pool} names a pooling twice")
        if self.taps and self.cut != "auto":
            raise UsageError(f"`taps` {self.taps} are taken in place of a cut: leave out `cut` {self.cut}, or `taps`")
        require_writable(self.compression)
        if self.engine != "auto":
            ENGINES.require_known(self.engine, ", and auto")
        require_augment(self.augment)
        if self.views > 1 and self.augment == "none":
            raise UsageError("`views` needs an augmentation: with `augment` none all views would be the same")
        if self.mirror and self.views > 1:
            raise UsageError(f"`mirror` has a view of its own of each image: leave out it, or `views` {self.views}")
        if self.mirror and self.storage_dtype == "uint8":
            raise UsageError("`mirror` is for vectors, and `storage_dtype` uint8 for maps: leave out one of them")
        parse_intensity_range(self.intensity_range)
        parse_channels(self.channels)
        parse_page(self.page)
        if not all(name.strip() for name in self.cut.split(",")):
            raise UsageError(f"`cut` {self.cut!r} names no layer between two commas")
        if self.taps and not all(name.strip() for name in self.taps.split(",")):
            raise UsageError(f"`taps` {self.taps!r} names nothing between two commas")

    @property
    def cached_views(self) -> int:
        """How many views are cached of an image: with `mirror` view 1 is the mirror image, and part of what is read."""
        return 2 if self.mirror else self.views

    def _take_tiles(self) -> None:
        """Have tiles seen as they are: whole, and at their own size where no other is asked for."""
        if self.tile is None:
            if self.overlap is not None:
                raise UsageError(f"`overlap` {self.overlap} is of tiles: give `tile`, the side of one, too")
            return
        if self.overlap is not None and self.overlap >= self.tile:
            raise UsageError(f"`overlap` {self.overlap} must be less than `tile` {self.tile}, or tiles get nowhere")
        if self.image_size is None:
            object.__setattr__(self, "image_size", self.tile)
        if self.crop_mode == "center":
            object.__setattr__(self, "crop_mode", "squash")
