"""Images in, arrays out: features of anything that is an image, with or without a cache that keeps them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache import DigestCache, FeatureCache
from cache.errors import DataError, UsageError
from cache.keys import KEY_MEMO
from pipeline.evaluation.comparison import Comparison, compare_results, compare_runs
from pipeline.evaluation.results import Result, run_of
from pipeline.library.argument_names import argument_names
from pipeline.library.arguments import cache_folder
from pipeline.library.backbones import AnyBackbone, config_of, remembered_extractor
from pipeline.library.images import ImageList, Images, count_images, image_chunks, unreadable_error
from pipeline.library.samples import SampleList, require_kind
from stages.config.features import CropMode, FeatureConfig, Pooling, PrecisionChoice, StorageType
from stages.data.images.reading import remarks_in_words
from stages.data.manifest import Manifest
from stages.extraction.extract import ImagesChangedError, extract
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import read_features
from stages.extraction.stand_in import stand_in
from stages.network.aggregate import AggregateKind
from stages.runtime.allocator import freed_memory_returned
from stages.runtime.fresh_settings import usable_anywhere
from stages.runtime.progress import progress as progress_bar
from stages.runtime.progress import progress_bars
from stages.tasks.single_label import SingleLabel

_LOG = logging.getLogger("cutonce")

_MANY_IMAGES = 512
"""Images from which on a call takes so long that giving back the memory of their activations is nothing beside it."""

OnUnreadable = Literal["raise", "nan"]


@usable_anywhere
def features(
    images: Images,
    backbone: AnyBackbone = "efficientnet_lite0",
    cut: str | Sequence[str] = "auto",
    *,
    weights: str | Path = "default",
    taps: str | Sequence[str] = "",
    pool: Pooling | Sequence[Pooling] = "avg",
    image_size: int | None = None,
    crop_mode: CropMode = "center",
    mirror: bool = False,
    intensity_range: str | tuple[float, float] = "full",
    channels: str | Sequence[int] = "rgb",
    page: str | int = "first",
    aggregate: AggregateKind | None = None,
    precision: PrecisionChoice | None = None,
    dtype: StorageType = "float32",
    cache: Path | str | FeatureCache | None = None,
    exact_spec: bool = False,
    batch_size: int | None = None,
    device: str = "auto",
    on_unreadable: OnUnreadable = "raise",
    progress: bool = False,
) -> NDArray[np.floating]:
    """Return what a pretrained network makes of images at a cut, or at taps of many depths.

    Parameters
    ----------
    images : sequence
        Paths, images of Pillow, uint8 arrays [h, w, 3] or [h, w] (grey) or uint8 tensors [3, h, w], of any sizes; one
        array [n, h, w, 3]; a torch ``Dataset`` of images or of (image, label); a data frame with a column ``path`` or
        ``image``. With `aggregate` a sequence of samples, each a sequence of such images, or a data frame with a column
        of paths for each view, such as ``table[["front", "back"]]``; None is a view that is missing.
    backbone : str, nn.Module or Backbone
        ``efficientnet_lite0``, ``1`` or ``2``, a name of torchvision (``resnet18``) or of timm
        (``timm:convnext_nano``); or a network of your own, images float [b, 3, S, S] -> a tensor with a row for each,
        which stays as it is. Its images get ImageNet's preprocessing; for another one, or where its source cannot be
        read and features are cached, hand in what ``backbone_from_module`` makes of it. The cache tells it by its
        tensors, and by the source and settings of its modules.
    cut : str or sequence of str
        The layer whose output is returned; ``auto`` is the input of the classifier. The vectors of several are joined.
    weights : str or Path
        ``default``, ``none`` (random, always the same ones), or a file with a state_dict.
    taps : {"", "last", "stages", "blocks", "all"} or sequence of str, optional
        In place of a cut, statistics of many depths in one row: words, or patterns of names such as ``blocks.*``.
    pool : {"avg", "max", "std", "avgmax", "cls", "clsavg", "grid2", "grid4", "none"}
        How a feature map becomes a vector; ``none`` keeps it. Of taps several, as ``("avg", "max", "std")``.
    image_size : int, optional
        Side of the square the network sees, in pixels (default: the network's own; a module has none).
    crop_mode : {"center", "squash", "border"}
        What it sees of an image that is no square: the middle, all of it squashed, or all of it with a border.
    mirror : bool
        Whether to take the mean of the features of an image and of its mirror image; of vectors.
    intensity_range : str or (float, float)
        Which values are black and white in files of more than 8 bits: ``full`` (as their headers say), ``bits:12``, or
        a range (docs/microscopes.md). Pixels in memory are uint8, and as they are.
    channels : str or sequence of int
        Numbers, from 0, of the channels of files that are taken, in this order.
    page : str or int
        Of files with several pages or frames: ``first``, ``middle``, ``max``, or a number from 0 on.
    aggregate : {"mean", "max", "concat"}, optional
        Makes one row of the images of each sample; concat puts them side by side, so each sample has them all.
    precision : {"fp32", "tf32", "bf16", "fp16", "auto"}, optional
        Arithmetic of the network (default: auto on an NVIDIA GPU, fp32 elsewhere).
    dtype : {"float32", "float16"}
        Type of the result, and of what is cached.
    cache : Path or FeatureCache, optional
        Folder where features are kept: what is in it is not computed again, whatever the images are called and in
        whatever order they come. By default nothing is left on disk.
    exact_spec : bool
        Whether what the folder lacks is always computed. Without it a complete cache of another `precision`, or of a
        GPU's decoder, serves where it has all images, and that is logged.
    batch_size : int, optional
        Images per forward pass (default: what suits device and memory).
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    on_unreadable : {"raise", "nan"}
        What becomes of an image that cannot be read: an error that names it, or a row of NaN.
    progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    array [n, *row_shape]
        In the order of the images, or samples: [n, d] where maps are pooled. An image that comes twice is computed
        once.

    Raises
    ------
    ValueError
        If an argument is not what it has to be, or an image cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline import features
    >>> noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    >>> features(noise, image_size=64).shape
    (2, 1280)
    """
    if on_unreadable not in ("raise", "nan"):
        raise UsageError(f"on_unreadable has to be 'raise' or 'nan', not {on_unreadable!r}")
    with argument_names(storage_dtype="dtype", extract_batch_size="batch_size"), progress_bars(progress):
        options = feature_options(
            cache,
            backbone=backbone,
            cut=cut,
            weights=weights,
            taps=taps,
            pool=pool,
            image_size=image_size,
            crop_mode=crop_mode,
            mirror=mirror,
            intensity_range=intensity_range,
            channels=channels,
            page=page,
            precision=precision,
            exact_spec=exact_spec or isinstance(cache, FeatureCache),
            storage_dtype=dtype,
            extract_batch_size=batch_size,
            device=device,
        )
        require_kind(aggregate)
        samples = None if aggregate is None else SampleList.of(images)
        given = images if samples is None else samples.images
        are_many = count_images(given) >= _MANY_IMAGES
        extractor = extractor_for(options, cache, backbone)
        with freed_memory_returned() if are_many else nullcontext():
            rows = extract_rows(extractor, given, keep=cache is not None, on_unreadable=on_unreadable)
        return rows if samples is None or aggregate is None else samples.rows(rows, aggregate)


def compare(
    runs: Sequence[Path | str] | Sequence[Result], *, metric: str | None = None, out: Path | str | None = None
) -> Comparison:
    """Compare what methods reached on the same test images.

    Parameters
    ----------
    runs : sequence of Path or of Result
        Run directories, or some of the results in them (``Result.load``).
    metric : str, optional
        What methods are ranked and tested by, such as ``f1_macro`` (default: what the first result was).
    out : Path, optional
        Where results.json, predictions.csv, table.csv, the page and report.md are written; by default nothing is.

    Returns
    -------
    Comparison
        Its `rows` are the methods, its `verdict` says what follows. A notebook shows it as a table; `to_frame` makes
        a data frame of it.

    Raises
    ------
    ValueError
        If results are missing or damaged, or were not tested on the same images.
    """
    if isinstance(runs, (str, PathLike)) or not hasattr(runs, "__len__") or not len(runs):
        raise UsageError("runs has to be a sequence of run directories or of results; this is one path, or nothing")
    results = [run for run in runs if isinstance(run, Result)]
    folders = [Path(run) for run in runs if isinstance(run, (str, PathLike))]
    if len(results) not in (0, len(runs)) or len(results) + len(folders) != len(runs):
        raise UsageError("runs has to hold either run directories alone or results alone")
    if any(result.directory is None for result in results):
        raise UsageError("runs holds a result that is in no run; give the runs, or results that were loaded")
    comparison = compare_results(results, metric) if results else compare_runs(folders, metric)
    if out is not None:
        from pipeline.experiment.compare_runs import write_comparison  # which draws, and that is slow to import

        write_comparison(comparison, folders or list(dict.fromkeys(map(run_of, results))), Path(out))
    return comparison


def feature_options(
    cache: Path | str | FeatureCache | None,
    *,
    backbone: AnyBackbone,
    **options: Any,
) -> FeatureConfig:
    """Return the options of stage 1, as the commands know them."""
    return config_of(backbone, cache=cache_folder(cache), **options)


def extractor_for(
    options: FeatureConfig, cache: Path | str | FeatureCache | None = None, backbone: AnyBackbone | None = None
) -> Extractor:
    """Return what extracts features of a backbone, by default the one that the options name.

    Raises
    ------
    UsageError
        If `cache` is one of other features.
    """
    extractor = remembered_extractor(
        options.backbone if backbone is None else backbone, options, cached=cache is not None
    )
    if isinstance(cache, FeatureCache):
        _require_same_spec(cache, extractor)
    return extractor


def extract_rows(
    extractor: Extractor, images: Images, *, keep: bool, on_unreadable: OnUnreadable
) -> NDArray[np.floating]:
    """Return the features of images, [n, *row_shape], from the caches where `keep` says so."""
    rows = np.empty((count_images(images), *extractor.row_shape), dtype=extractor.taps[0].cache.dtype)
    memo = DigestCache(extractor.options.cache / KEY_MEMO) if keep else None
    rows_of: dict[str, int] = {}
    start = 0
    for chunk in image_chunks(images, memo):
        if keep and len(chunk) == len(rows):  # of a part of the images nobody knows whether others serve for the rest
            extractor = stand_in(extractor, [key for key in chunk.keys if key])
            _say([extractor.stands_in] * bool(extractor.stands_in))
        if on_unreadable == "raise":
            chunk.require_readable()
        chunk_rows = rows[start : start + len(chunk)]
        failures = (
            _from_cache(extractor, chunk, chunk_rows) if keep else _computed(extractor, chunk, rows, start, rows_of)
        )
        if failures and on_unreadable == "raise":
            raise unreadable_error([(chunk.locations[index], reason) for index, reason in failures.items()])
        chunk_rows[sorted(chunk.unreadable.keys() | failures.keys())] = np.nan
        start += len(chunk)
    return rows


def _require_same_spec(cache: FeatureCache, extractor: Extractor) -> None:
    """Refuse a cache of other features than those that are asked for."""
    wanted_specs = [tap.cache.spec.to_json() for tap in extractor.taps]
    cached_spec = cache.spec.to_json()
    if cached_spec not in wanted_specs or len(wanted_specs) > 1:
        differing = [
            f"{name} {cached_spec[name]!r}, not {wanted_specs[0][name]!r}"
            for name in cached_spec
            if name != "taps" and cached_spec[name] != wanted_specs[0][name]
        ]
        raise UsageError(
            f"cache is of other features than these: {'; '.join(differing) or 'of one cut, not several'}. Give the "
            "folder it is in instead, which holds a cache for each kind of features"
        )


def _from_cache(extractor: Extractor, images: ImageList, rows: NDArray[np.floating]) -> dict[int, str]:
    """Fill in the rows of the images that can be read, and return why others cannot, by place."""
    readable_indices = [index for index, key in enumerate(images.keys) if key]
    if not readable_indices:
        return {}
    manifest = plain_manifest(images, readable_indices)
    try:
        _say(extract(extractor, manifest).remarks)
    except ImagesChangedError:
        raise
    except DataError:  # not one can be read: that is told below, as for some
        pass
    rejected = extractor.unreadable()
    failures = {index: rejected[images.keys[index]] for index in readable_indices if images.keys[index] in rejected}
    readable = [index for index in readable_indices if index not in failures]
    if readable:
        rows[readable] = read_features(extractor, plain_manifest(images, readable))
    return failures


def _computed(
    extractor: Extractor, images: ImageList, rows: NDArray[np.floating], start: int, rows_of: dict[str, int]
) -> dict[int, str]:
    """Fill in the rows of the images, from number `start` on; `rows_of` remembers where each key has its first."""
    new_indices: list[int] = []
    for index, key in enumerate(images.keys):
        if key and key not in rows_of:
            rows_of[key] = start + index
            new_indices.append(index)
    reasons: dict[str, str] = {}
    remarks: Counter[str] = Counter()
    with progress_bar(label="extract", total=len(new_indices), unit="images") as bar:
        for batch in extractor.run_batches(_requests(extractor, images, new_indices), extractor.mean_rows, 1):
            targets = [start + new_indices[request] for request in batch.indices]
            if targets:
                rows[targets] = batch.rows[0] if len(batch.rows) == 1 else np.concatenate(batch.rows, axis=1)
            reasons |= {images.keys[new_indices[request]]: reason for request, reason in batch.failures}
            remarks.update(batch.remarks)
            bar.update(len(batch.indices) + len(batch.failures))
    _say(remarks_in_words(remarks, extractor.reading))
    for index, key in enumerate(images.keys):
        if key and key not in reasons and rows_of[key] != start + index:
            rows[start + index] = rows[rows_of[key]]
    return {index: reasons[key] for index, key in enumerate(images.keys) if key in reasons}


def _say(remarks: Sequence[str]) -> None:
    """Tell what there is to say of the files, as the commands do."""
    if remarks:
        _LOG.info("\n".join(remarks))


def _requests(extractor: Extractor, images: ImageList, indices: Sequence[int]) -> Iterator[Any]:
    return (extractor.request(images.locations[index], images.keys[index]) for index in indices)


def plain_manifest(images: ImageList, indices: Sequence[int]) -> Manifest:
    """Return the manifest of some images, of which nothing but the pixels counts."""
    return Manifest(
        [images.locations[index] for index in indices],
        np.zeros(len(indices), dtype=np.int64),
        ["train"] * len(indices),
        [images.keys[index] for index in indices],
        SingleLabel([""]),
        keyed_ns=images.keyed_ns,
    )
