"""From an image to its cached feature: backbone, cuts, trunk and the caches of their rows, made from the options.

How the images of a manifest get into the caches is told in ``extract``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cache import FeatureCache, Spec, key_of_bytes
from cache.errors import CutonceError, UsageError, WeightsError, listed
from cache.quantized import QUANTIZED
from stages.config.features import FeatureConfig, Pooling, PrecisionChoice
from stages.config.pixel_values import COLORS, parse_channels
from stages.data.augment.policy import MIRRORED, Augmentation, augmentation, mirror_view
from stages.data.image_stream import ImageRequest, RequestedViews
from stages.data.images.codecs import torchcodec_decoders
from stages.data.images.gpu_jpeg import why_no_gpu_decoder
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.reading import CROPPED, GPU_DECODER, SEEN_WARNED, Reading, needs_survey, reading_of
from stages.extraction.engine import Compute, ComputedBatch, get_engine
from stages.extraction.full_batches import FullBatches, Step
from stages.network.backbones.base import Backbone
from stages.network.backbones.input_channels import with_channels
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.hooked import HookedGraph, HookedTrunk, JoinedTrunk, cut_graph
from stages.network.graph.map_cuts import MAPS, blocks_with_maps, default_map_cuts, stride_of
from stages.network.graph.mirrored import MirroredTrunk
from stages.network.graph.openvino_trunk import OpenVINOTrunk, openvino_arithmetic, require_openvino
from stages.network.graph.pooling import Pool
from stages.network.graph.tap_places import find_taps, layout_of_taps
from stages.network.graph.tapped_trunk import TappedTrunk
from stages.network.graph.taps import TapLayout
from stages.network.graph.trunk import FrozenTrunk, Precision, auto_batch_size, precision_on
from stages.network.map_layout import MapLayout
from stages.runtime.allocator import tune_malloc
from stages.runtime.device import (
    compute_deterministically,
    is_lost,
    not_deterministic,
    require_computing,
    resolve_device,
    told_as_lost,
)
from stages.runtime.fresh_settings import usable_anywhere
from stages.runtime.memory import is_out_of_memory
from stages.runtime.said_once import say_once
from stages.runtime.seeding import seed_from
from stages.runtime.threads import usable_cores

MIRROR_VIEW = 1
"""The view under which mirror images are cached, where features are taken of both."""


@dataclass(frozen=True)
class CachedCut:
    """One cut whose output is cached, or the row of all taps, and where.

    Attributes
    ----------
    name : str
        Of the cut, or what the taps are.
    cut : Cut or None
        None where it is the row of taps.
    shape : tuple of int
        Of one row, after pooling.
    cache : FeatureCache
        The evaluation view, view 0, of every image.
    view_cache : FeatureCache
        The augmented views, from 1 on. A cache of its own, so that the evaluation views serve every augmentation.
    """

    name: str
    cut: Cut | None
    shape: tuple[int, ...]
    cache: FeatureCache
    view_cache: FeatureCache

    def cache_of_view(self, view: int) -> FeatureCache:
        """Return the cache that a view's rows belong to."""
        return self.view_cache if view else self.cache

    def missing(self, keys: Sequence[str], views: int) -> dict[int, list[str]]:
        """Return, for each of so many views, the keys that have no row and can have one."""
        return {view: self.cache_of_view(view).missing(keys, view) for view in range(views)}


@dataclass(frozen=True)
class Extractor:
    """What turns an image into cached features: the trunk up to the deepest cut, with pooling, and the caches.

    Attributes
    ----------
    backbone : Backbone
    graph : CutGraph
    taps : tuple of CachedCut
        In the order asked for; one where `tap_layout` says what stands in its rows.
    trunk : FrozenTrunk, HookedTrunk, TappedTrunk or JoinedTrunk
        Normalised images [b, 3, S, S] -> the pooled output of each tap, float32 [b, *shape].
    batch_size : int
        Images per forward pass.
    device : torch.device
    options : FeatureConfig
    tap_layout : TapLayout, optional
        The blocks of a row, where it is of taps and not of cuts.
    stands_in : str
        Where the caches are not those that `trunk` would fill, but complete ones that serve in their place (see
        ``stand_in``): which, and what differs, in words. '' of one's own.
    """

    backbone: Backbone
    graph: CutGraph
    taps: tuple[CachedCut, ...]
    trunk: FrozenTrunk | HookedTrunk | TappedTrunk | JoinedTrunk
    batch_size: int
    device: torch.device
    options: FeatureConfig
    tap_layout: TapLayout | None = None
    stands_in: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process, or a copy, builds it again: what is traced is not pickled, nor is what is loaded.

        A network that was handed in goes along.
        """
        backbone = self.backbone if self.backbone.handed_in else None
        return _built_again, (self.options, backbone, self.backbone.weights)

    @property
    def cut(self) -> Cut:
        """The cut, where there is one.

        Raises
        ------
        UsageError
            If there are several, or taps.
        """
        if len(self.cuts) > 1:
            raise UsageError(f"`cut` {self.options.cut}: this works on one cut only; name one of them")
        return self.cuts[0]

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The cuts.

        Raises
        ------
        UsageError
            If the rows are of taps.
        """
        cuts = tuple(tap.cut for tap in self.taps if tap.cut is not None)
        if not cuts:
            raise UsageError(
                f"`taps` {self.options.taps}: fine-tuning and whatever else works on the layers above starts from a "
                "cut, and statistics of taps lead to none: leave `taps` out, and name a layer with `cut`"
            )
        return cuts

    @property
    def deepest_cut(self) -> Cut:
        """The cut up to which the trunk runs."""
        order = [cut.name for cut in self.graph.cuts]
        return max(self.cuts, key=lambda cut: order.index(cut.name))

    @property
    def cut_names(self) -> str:
        """The cuts' full names, separated by commas, or what the taps are."""
        return ",".join(tap.name for tap in self.taps)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what a head sees of one image: the rows of all cuts, joined.

        Raises
        ------
        UsageError
            If there are several cuts and not all rows are vectors.
        """
        if len(self.taps) == 1:
            return self.taps[0].shape
        if any(len(tap.shape) > 1 for tap in self.taps):
            raise UsageError("only vectors of several cuts can be joined for a head: choose a `pool`, or name one cut")
        return (sum(tap.shape[0] for tap in self.taps),)

    @property
    def row_numbers(self) -> int:
        """How many numbers are cached of one image, of all cuts together."""
        return sum(math.prod(tap.shape) for tap in self.taps)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images that the network sees."""
        return self.backbone.preprocessing.shape

    @property
    def map_layout(self) -> MapLayout:
        """What maps stand in the rows of all cuts, joined flat, for heads that answer for each place.

        Raises
        ------
        UsageError
            If they are pooled, or a cut is no map.
        """
        if any(tap.shape != cut.shape for cut, tap in zip(self.cuts, self.taps, strict=True)):
            raise UsageError(
                f"`pool` {self.options.pool} leaves no places, and a class for each pixel needs them: take `pool` none"
            )
        try:
            return MapLayout.of_cuts(self.cuts, self.image_shape)
        except UsageError as error:
            raise UsageError(f"{error}{self._maps_there_are}") from error

    @property
    def _maps_there_are(self) -> str:
        """Which cuts are maps, with their strides, in words; '' where blocks are not known."""
        try:
            cuts = blocks_with_maps(self.graph)
        except UsageError:
            return ""
        words = [f"{cut.alias or cut.name} (stride {stride_of(self.graph, cut)})" for cut in cuts]
        return f". Maps are {listed(words, len(words))}"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the cache that a head's rows are read from, or of all such caches together."""
        mirrored = [tap.view_cache.spec for tap in self.taps] if self.options.mirror else []
        return joined_fingerprint([*(tap.cache.spec for tap in self.taps), *mirrored])

    @property
    def fingerprint_of_version_1(self) -> str | None:
        """What `fingerprint` was with version 1 of the decoder; None where it could not read so."""
        decoder = self.reading.decoder_of_version_1
        if decoder is None or self.options.mirror:
            return None
        specs = [Spec.from_json({**tap.cache.spec.to_json(), "decoder": decoder}) for tap in self.taps]
        return joined_fingerprint(specs)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints under which a head's rows may be known: of today, and of version 1 if that read so."""
        former = self.fingerprint_of_version_1
        return (self.fingerprint,) if former is None else (self.fingerprint, former)

    @cached_property
    def augmentation(self) -> Augmentation:
        """What renders the views from 1 on."""
        return _view_policy(self.options, self.backbone)

    @property
    def cached_views(self) -> int:
        """How many views are cached of an image, its mirror image among them."""
        return self.options.cached_views

    @cached_property
    def row_module(self) -> nn.Module:
        """The trunk as a head's rows need it: normalised images [b, 3, S, S] -> the rows of each tap, mirror and all.

        Where `mirror` is off it is the trunk itself.
        """
        return MirroredTrunk(self.trunk) if self.options.mirror else self.trunk

    @property
    def arithmetic(self) -> str:
        """What is really computed for the rows of the caches: the precision, and by whom if that rounds otherwise."""
        return _arithmetic(self.trunk, self.options)

    @property
    def threads(self) -> int:
        """Threads that decode, and on a CPU compute too."""
        return _threads(self.options, self.device)

    @property
    def caches(self) -> list[FeatureCache]:
        """Every cache that the options ask for."""
        return [tap.cache_of_view(view) for tap in self.taps for view in range(min(self.cached_views, 2))]

    @property
    def notes(self) -> list[str]:
        """How features are had where a network cannot be traced; what caches stand in; what was wrong in the caches."""
        graph_notes = [self.graph.note(self.cut_names)] if isinstance(self.graph, HookedGraph) else []
        return [
            *graph_notes,
            *filter(None, [self.stands_in]),
            *(note for cache in self.caches for note in cache.warnings),
        ]

    def request(self, location: str, key: str, views: Sequence[int] = (0,)) -> ImageRequest:
        """Return the request for renderings of one image: [len(views), 3, S, S] of one decoded image.

        View 0 is the evaluation view. The others depend on key and number alone, so they are the same on any machine,
        in any order, and however many there are.
        """

        def render(image: Tensor) -> Tensor:
            return stack_pixels([self._view(image, key, view) for view in views])

        requested = self._requested(views, key)
        return ImageRequest(location, render, self.reading, self._remark, requested, len(views))

    def evaluation_requests(self, locations: Iterable[str]) -> Iterable[ImageRequest]:
        """Return requests for the evaluation view, [3, S, S], of images."""
        preprocessing = self.backbone.preprocessing
        views = RequestedViews(preprocessing)
        return (ImageRequest(location, preprocessing.render, self.reading, views=views) for location in locations)

    def _requested(self, views: Sequence[int], key: str) -> RequestedViews:
        """Return what these views, ascending, are."""
        preprocessing = self.backbone.preprocessing
        if self.options.mirror:
            return RequestedViews(preprocessing, tuple(view == MIRROR_VIEW for view in views))
        seeds = tuple(_seed_of_view(key, view) for view in views if view)
        return RequestedViews(preprocessing, (False,) if 0 in views else (), self.augmentation, seeds)

    def forward_rows(self, images: Tensor) -> list[Tensor]:
        """Return the rows of each tap, [b, *shape] in the storage type, of rendered images, uint8 [b, 3, S, S].

        Always as many at a time, see :class:`~stages.extraction.full_batches.FullBatches`.

        Raises
        ------
        ValueError
            If there are more than `batch_size` images.
        """
        return self._passes(images)

    def launched(self, *steps: Step, images: int | None) -> Compute:
        """Return what makes of rendered images, uint8 [b, 3, S, S], what steps make of them one after the other.

        On an NVIDIA GPU as the rows of the caches are made: always as many images at a time, each step in one launch
        where that goes. Fewer images than a batch are not worth that, and elsewhere a batch is left as it comes.

        Parameters
        ----------
        steps : callable
            As of :class:`~stages.extraction.full_batches.FullBatches`.
        images : int or None
            How many rendered images are to come, at most; None where that is not known.
        """
        recorded = self._is_recorded and (images is None or images > self.batch_size)
        # what is compiled is compiled for one number of images
        fills = recorded or (self.device.type == "cuda" and self.options.compile_trunk)
        size = self.batch_size if fills else None
        return self._ready(FullBatches(*steps, device=self.device, size=size, recorded=recorded))

    def _ready(self, batches: FullBatches) -> FullBatches:
        """Return what computes, recorded by now where it is to be: before threads decode and render for it."""
        with self._errors_in_words():
            return batches.recorded_for(len(self.backbone.preprocessing.mean), *self.image_shape)

    @property
    def _is_recorded(self) -> bool:
        """Whether the device launches what it computes as one; what is compiled launches little."""
        return self.device.type == "cuda" and not self.options.compile_trunk

    @cached_property
    def _passes(self) -> FullBatches:
        """What makes the rows of the caches, in the storage type, of rendered images."""
        compute: Compute
        if self.options.engine == "openvino":
            compute = self._openvino_trunk
        else:  # of parts, and no method of this: what is recorded would hold this, and this that
            compute = partial(_trunk_rows, self.trunk, self.backbone.preprocessing, self.device)
        # converted here, where many numbers are at once: NumPy takes twenty times as long for it
        stored = torch.float32 if self.options.storage_dtype == "float32" else torch.float16

        def rows(images: Tensor) -> list[Tensor]:
            return [of_tap.to(stored) for of_tap in compute(images)]

        return self._ready(FullBatches(rows, device=self.device, size=self.batch_size, recorded=self._is_recorded))

    @cached_property
    def _openvino_trunk(self) -> OpenVINOTrunk:
        trunk = _rows_of(self.graph, self.options).trunk("fp32", self.device)
        return OpenVINOTrunk(trunk, self.backbone.preprocessing, self.trunk.precision, self.threads)

    def mean_rows(self, images: Tensor) -> list[Tensor]:
        """Return the rows of each tap as they are read from the caches: with `mirror` the means over mirror images.

        Raises
        ------
        ValueError
            If there are more than `batch_size` images.
        """
        rows = self.forward_rows(images)
        if not self.options.mirror:
            return rows
        mirrored = self.forward_rows(images.flip(-1))
        pairs = zip(rows, mirrored, strict=True)
        return [((row.float() + other.float()) / 2).to(row.dtype) for row, other in pairs]

    def computed(self, requests: Iterable[ImageRequest]) -> Iterator[ComputedBatch]:
        """Yield the rows of the requested images, in order, one array per tap; see :mod:`stages.extraction.engine`."""
        _ = self._passes  # made now, and not by several threads at once
        return self.run_batches(requests, self.forward_rows, self.cached_views)

    def run_batches(
        self, requests: Iterable[ImageRequest], compute: Compute, renderings: int
    ) -> Iterator[ComputedBatch]:
        """Yield what `compute` makes of the requested images, in order, by the engine that the options name.

        Raises
        ------
        UsageError
            If it is to be deterministic, and torch knows no such way for an operator of the network.
        CutonceError
            If the device is lost.
        """
        engine = get_engine(self.options.engine, self.device)
        with self._errors_in_words():
            yield from engine(requests, compute, self.device, self.batch_size, self.threads, renderings)

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        """Say in words what is wrong with the device, or with what it is asked for."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error) and self.device.type != "cpu":
                raise CutonceError(
                    f"the memory of {self.device}, or what of this machine's it copies to, is not enough "
                    f"({str(error).splitlines()[0]}): free some of it, or take a smaller `extract_batch_size`"
                ) from error
            if operator := not_deterministic(error):
                raise UsageError(
                    f"`deterministic`: torch cannot compute this network with the same bits each time, for want of "
                    f"such a kernel for {operator}: leave the option out"
                ) from error
            if not is_lost(error):
                raise
            raise CutonceError(told_as_lost(self.device, error)) from error

    def preprocess(self, images: Tensor) -> Tensor:
        """Return rendered images, uint8 [b, 3, S, S], as the network sees them: float32, on the device."""
        return self.backbone.preprocessing.normalize(images.to(self.device, non_blocking=True))

    def features(self, images: Tensor) -> Tensor:
        """Return what a head sees, float32 [b, *row_shape], of rendered images, uint8 [b, 3, S, S]."""
        return self.forward_features(self.preprocess(images))

    @torch.no_grad()
    def forward_features(self, images: Tensor, rows_of: nn.Module | None = None) -> Tensor:
        """Return what a head sees, float32 [b, *row_shape], of normalised images, float32 [b, 3, S, S].

        Another module than `row_module` may make the rows of them.
        """
        rows = list((self.row_module if rows_of is None else rows_of)(images))
        return rows[0] if len(rows) == 1 else torch.cat([part.flatten(1) for part in rows], dim=1)

    def seconds(self, keys: Sequence[str], views: int = 1) -> float:
        """Return what extracting these images cost when it was done, of so many views; several cuts take one pass.

        A mirror image is no view of its own here, but part of what is read of an image.
        """
        views = self.cached_views if self.options.mirror else views
        return max(
            sum(tap.cache_of_view(view).compute_seconds(keys, view) for view in range(views)) for tap in self.taps
        )

    def unreadable(self) -> dict[str, str]:
        """Return the keys of images that could not be read, with the reasons."""
        return {key: reason for cache in self.caches for key, reason in cache.unreadable().items()}

    @cached_property
    def reading(self) -> Reading:
        """How files are read for the trunk."""
        return _reading(self.options, self.backbone, self.device)

    @property
    def reading_in_full(self) -> Reading:
        """How files are read at their own size, whatever is decoded for the trunk."""
        return replace(self.reading, shorter_side=None)

    def _remark(self, height: int, width: int) -> str:
        return CROPPED if self.backbone.preprocessing.share_seen(height, width) < SEEN_WARNED else ""

    def mask_of_view(self, image: Tensor, mask: Tensor, key: str, view: int) -> Tensor:
        """Return a mask, uint8 [H, W] as its image, in the places that it has in an augmented view: uint8 [S, S]."""
        return self.augmentation.with_mask(image, mask, _seed_of_view(key, view))[1]

    def _view(self, image: Tensor, key: str, view: int) -> Tensor:
        if view == 0:
            return self.backbone.preprocessing.render(image)
        return self.augmentation(image, _seed_of_view(key, view))


@torch.inference_mode()
def _trunk_rows(
    trunk: FrozenTrunk | HookedTrunk | TappedTrunk | JoinedTrunk,
    preprocessing: Preprocessing,
    device: torch.device,
    images: Tensor,
) -> list[Tensor]:
    """Return the rows of rendered images, uint8 [b, 3, S, S]."""
    return list(trunk(preprocessing.normalize(images.to(device, non_blocking=True))))


def _seed_of_view(key: str, view: int) -> int:
    return seed_from("view", view, "of", key, bits=32)


def build_extractor(options: FeatureConfig, backbone: Backbone | None = None) -> Extractor:
    """Load the backbone, cut it, and name the caches its features belong to. No image is touched.

    Parameters
    ----------
    options
        Of stage 1.
    backbone
        In place of the one that `options` name, such as a module of one's own
        (:func:`~stages.network.backbones.user_module.backbone_from_module`); the options of weights and of the image
        size are those it was made with, and so is the crop mode where `options` leave it at its default.

    Raises
    ------
    UsageError
        If the backbone, a cut, the pooling, the device or the engine does not exist, or a cut is named twice.
    """
    if needs_survey(options):
        raise UsageError(
            f"`intensity_range` {options.intensity_range} and `channels` {options.channels}: auto, percentile and all "
            "have to be looked for in the images of a data set, as the commands do"
        )
    tune_malloc()
    torchcodec_decoders()  # says in time that it is not there, and once
    device = resolve_device(options.device)
    if options.deterministic and device.type != "cpu":
        compute_deterministically()
    require_computing(device)
    get_engine(options.engine, device)
    if backbone is None:
        backbone = load_backbone(
            options.backbone,
            options.weights,
            options.image_size,
            match=options.weights_match,
            rename=options.weights_rename,
            ignore=options.weights_ignore,
        )
    else:
        options = replace(options, backbone=backbone.name, image_size=backbone.preprocessing.image_size)
    backbone = backbone.with_crop_mode(options.crop_mode)
    # a network of one's own may come with another than the option's default
    options = replace(options, crop_mode=backbone.preprocessing.crop_mode)
    backbone = _for_channels(backbone, options)
    return _build(backbone, cut_graph(backbone.module, backbone.preprocessing.image_size), device, options)


@usable_anywhere
def _built_again(options: FeatureConfig, backbone: Backbone | None, weights: str) -> Extractor:
    """Return what was pickled.

    Raises
    ------
    WeightsError
        If its network has other weights by now.
    """
    extractor = build_extractor(on_this_machine(options), backbone)
    if extractor.backbone.weights != weights:
        raise WeightsError(
            f"what was pickled is of other weights of {options.backbone} than `weights` {options.weights} gives now"
        )
    return extractor


def on_this_machine(options: FeatureConfig) -> FeatureConfig:
    """Return the options of a training with what only a GPU does left out where there is none.

    Answers are then a little others, as far as was measured: see ``deviations``.
    """
    if resolve_device(options.device).type == "cuda":
        return options
    precision: PrecisionChoice | None = "fp32" if options.precision == "tf32" else options.precision
    return replace(options, precision=precision, compile_trunk=False, decode_on="cpu")


def _for_channels(backbone: Backbone, options: FeatureConfig) -> Backbone:
    """Return the backbone for images with the channels that are asked for; a widened one has a module of its own.

    Raises
    ------
    UsageError
        If it cannot be widened, or the augmentation works on colors alone.
    """
    count = len(parse_channels(options.channels))
    if count in (0, 1, COLORS):
        return backbone
    widened = with_channels(replace(backbone, module=copy.deepcopy(backbone.module)), count)
    try:
        augmentation(options.augment, widened.preprocessing)(torch.zeros(count, 8, 8, dtype=torch.uint8), 0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"`augment` {options.augment} works on red, green and blue, and there are {count} `channels`: use light, "
            "or crops, flips and rotations alone"
        ) from error
    return widened


def with_cut(extractor: Extractor, cut: Cut, pool: Pooling) -> Extractor:
    """Return what extracts features of the same network at another cut; nothing is loaded or traced again.

    Of images as they are: where maps are wanted, `mirror` has no say.
    """
    options = replace(extractor.options, cut=cut.name, pool=pool, taps="", mirror=False)
    return _build(extractor.backbone, extractor.graph, extractor.device, options)


def with_precision(extractor: Extractor, precision: Precision) -> Extractor:
    """Return what extracts the same features of the same network in a precision as any machine does: nothing is
    compiled, torch computes, and the CPU decodes. They have caches of their own.

    Raises
    ------
    UsageError
        If the device does not compute in it.
    """
    engine = "auto" if extractor.options.engine == "openvino" else extractor.options.engine
    options = replace(extractor.options, precision=precision, compile_trunk=False, decode_on="cpu", engine=engine)
    return _build(extractor.backbone, extractor.graph, extractor.device, options)


def _build(backbone: Backbone, graph: CutGraph, device: torch.device, options: FeatureConfig) -> Extractor:
    """Cut or tap a network as the options say, and name the caches of its features."""
    precision = precision_on(options.precision, device)
    rows = _rows_of(graph, options)
    if options.mirror and any(len(shape) > 1 for *_, shape in rows.cached):
        raise UsageError("`mirror` takes the mean of vectors, and maps of mirror images are mirrored: choose a `pool`")
    try:
        trunk = rows.trunk(precision, device)
    except torch.OutOfMemoryError as error:
        numbers = sum(parameter.numel() for parameter in backbone.module.parameters())
        raise CutonceError(
            f"{device} has not enough memory for the network, {4 * numbers / 1e6:.1f} MB of numbers: free some of it, "
            "or take `device` cpu"
        ) from error
    if options.compile_trunk:
        _compile(trunk, device)
    if options.engine == "openvino":
        require_openvino()

    def cached(name: str, pooling: str, cut: Cut | None, shape: tuple[int, ...]) -> CachedCut:
        spec = Spec(
            backbone=backbone.identity,
            weights=backbone.weights,
            cut=name,
            pooling=pooling,
            preprocessing=backbone.preprocessing.to_json(),
            views=None,
            precision=_arithmetic(trunk, options),
            dtype=options.storage_dtype,
            decoder=_reading(options, backbone, device).decoder,
            taps=None if rows.layout is None else rows.layout.to_json(),
        )
        of_views = spec_of_views(spec, _view_policy(options, backbone))
        return CachedCut(name, cut, shape, FeatureCache(options.cache, spec), FeatureCache(options.cache, of_views))

    return Extractor(
        backbone=backbone,
        graph=graph,
        taps=tuple(cached(*row) for row in rows.cached),
        trunk=trunk,
        batch_size=options.extract_batch_size
        or auto_batch_size(
            graph, rows.deepest, precision, device, _threads(options, device) if device.type == "cpu" else 1
        ),
        device=device,
        options=options,
        tap_layout=rows.layout,
    )


class _Rows(NamedTuple):
    """What is made of an image.

    Attributes
    ----------
    cached : list of (name, pooling, cut, shape)
        Each has a cache of its own.
    deepest : Cut
    trunk : callable
        Returns what computes them, in a precision on a device.
    layout : TapLayout or None
    """

    cached: list[tuple[str, str, Cut | None, tuple[int, ...]]]
    deepest: Cut
    trunk: Callable[[Precision, torch.device], FrozenTrunk | HookedTrunk | TappedTrunk | JoinedTrunk]
    layout: TapLayout | None = None


def _rows_of(graph: CutGraph, options: FeatureConfig) -> _Rows:
    return _tapped(graph, options) if options.taps else _cut(graph, options)


def _cut(graph: CutGraph, options: FeatureConfig) -> _Rows:
    cuts = (
        default_map_cuts(graph)
        if options.cut == MAPS
        else [graph.resolve(name.strip()) for name in options.cut.split(",")]
    )
    if len({cut.name for cut in cuts}) < len(cuts):
        raise UsageError(f"`cut` {options.cut} names {', '.join(cut.name for cut in cuts)}: one of them twice")
    taps = [(cut, Pool(options.pool, cut)) for cut in cuts]
    if options.storage_dtype == QUANTIZED:
        _require_maps(taps)
    order = [cut.name for cut in graph.cuts]

    def trunk(precision: Precision, device: torch.device) -> FrozenTrunk | HookedTrunk:
        if isinstance(graph, HookedGraph):
            return HookedTrunk(graph, taps, precision, device)
        return FrozenTrunk(graph, taps, precision, device)

    return _Rows(
        [(cut.name, pool.kind, cut, pool.shape) for cut, pool in taps],
        max(cuts, key=lambda cut: order.index(cut.name)),
        trunk,
    )


def _require_maps(taps: Sequence[tuple[Cut, Pool]]) -> None:
    """Refuse to quantize what is no map."""
    for cut, pool in taps:
        if cut.layout != "nchw" or pool.shape != cut.shape:
            raise UsageError(
                f"`storage_dtype` {QUANTIZED} keeps a range for each channel of a map, and the rows of {cut.name} are "
                f"{[*pool.shape]} ({cut.layout}): store them as float16, or take `pool` none and a `cut` that is a map"
            )


def _tapped(graph: CutGraph, options: FeatureConfig) -> _Rows:
    if options.storage_dtype == QUANTIZED:
        raise UsageError(f"`storage_dtype` {QUANTIZED} is for maps, and `taps` are vectors: store them as float16")
    pools = options.pool.split(",")
    places = find_taps(graph, options.taps, pools)
    layout = layout_of_taps(places)
    deepest = places[-1].tensor
    taps = [(place.tensor, pool) for place in places for pool in place.pools]

    def trunk(precision: Precision, device: torch.device) -> TappedTrunk | JoinedTrunk:
        if isinstance(graph, HookedGraph):
            return JoinedTrunk(HookedTrunk(graph, taps, precision, device))
        return TappedTrunk(graph, places, precision, device)

    name = f"{len(places)} taps up to {deepest.name}"
    return _Rows([(name, options.pool, None, (layout.width,))], deepest, trunk, layout)


def _reading(options: FeatureConfig, backbone: Backbone, device: torch.device) -> Reading:
    """Return how files are read, and whether the device decodes of them what it can.

    Raises
    ------
    UsageError
        If it is to decode and cannot.
    """
    reading = reading_of(options, backbone.preprocessing.decoded_side)
    return replace(reading, nvjpeg=True, shorter_side=None) if _decodes(options, reading, device) else reading


def _decodes(options: FeatureConfig, reading: Reading, device: torch.device) -> bool:
    if options.decode_on == "cpu" or (options.decode_on == "auto" and device.type != "cuda"):
        return False
    why_not = ""
    if device.type != "cuda":
        why_not = f"the `device` is {device}"
    elif not reading.suits_gpu:
        why_not = f"`channels` {options.channels} and `page` {options.page} are read on a CPU"
    else:
        why_not = why_no_gpu_decoder(device)
    if why_not and options.decode_on == "cuda":
        raise UsageError(f"`decode_on` cuda: {why_not}; use auto, or cpu")
    if why_not:
        say_once(f"JPEG is decoded on the CPU, which is slower by far than on the GPU: {why_not}")
    return not why_not


def _arithmetic(trunk: FrozenTrunk | HookedTrunk | TappedTrunk | JoinedTrunk, options: FeatureConfig) -> str:
    """Return the name of what is really computed for the rows of the caches, by whatever computes it."""
    if options.engine == "openvino":
        return openvino_arithmetic(trunk.arithmetic, trunk.precision)
    return f"{trunk.arithmetic}-compiled" if options.compile_trunk else trunk.arithmetic


def _compile(trunk: FrozenTrunk | HookedTrunk | TappedTrunk | JoinedTrunk, device: torch.device) -> None:
    """Have torch compile a trunk.

    Raises
    ------
    UsageError
        If it is for no GPU.
    """
    if device.type != "cuda":
        raise UsageError(f"`compile_trunk` is for NVIDIA's GPUs, and the `device` is {device}: leave it out")
    trunk.compile(dynamic=False)


def _view_policy(options: FeatureConfig, backbone: Backbone) -> Augmentation:
    """Return what renders the views from 1 on."""
    preprocessing = backbone.preprocessing
    return mirror_view(preprocessing) if options.mirror else augmentation(options.augment, preprocessing)


def spec_of_views(spec: Spec, policy: Augmentation) -> Spec:
    """Return the spec of augmented views, from that of the evaluation view.

    Version 2 are views that a GPU, where it decodes, renders in batches: a gray level here and there is another than
    where they are rendered one by one. Mirror images are evaluation views in any case.
    """
    in_batches = GPU_DECODER in spec.decoder and policy.name != MIRRORED
    views = {"augment": policy.name, "steps": policy.describe(), "version": 2 if in_batches else 1}
    return Spec.from_json({**spec.to_json(), "views": views})


def joined_fingerprint(specs: Sequence[Spec]) -> str:
    """Return the fingerprint of features that lie in these caches, in this order: that of the cache where it is one."""
    fingerprints = [spec.fingerprint for spec in specs]
    return fingerprints[0] if len(fingerprints) == 1 else key_of_bytes("".join(fingerprints).encode())


def _threads(options: FeatureConfig, device: torch.device) -> int:
    """Return as many threads as are asked for, or one per core; up to twelve where they only decode.

    More would wait for each other at the interpreter's lock; see ``benchmarks/interpreter.py``.
    """
    cores = usable_cores()
    return options.decode_threads or (cores if device.type == "cpu" else min(cores, 12))
