"""One way of looking at the images of a search: a network at an image size, and the rows that its one pass gives."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cache.errors import DataError
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import HeadProblems
from pipeline.experiment.setup.run_setup import extract_features, take_features
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.config.image_size import read_size, shape_of_size
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor, build_extractor
from stages.network.backbones.counts import known_counts
from stages.network.backbones.registry import find_family
from stages.runtime.progress import working

MIRROR = "mirror"
"""What the first look is called with mirror images."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class SearchedData:
    """What a search is about, whatever looks at it.

    Attributes
    ----------
    data : DataConfig
    manifest : Manifest
        Under the one seed.
    seed : int
    directory : Path
        Of the seed in the run.
    head : HeadConfig
        As it was asked for.
    overwrite : bool
    """

    data: DataConfig
    manifest: Manifest
    seed: int
    directory: Path
    head: HeadConfig
    overwrite: bool = False


class Look:
    """A network at an image size, over the images of a search; nothing is loaded or computed before it is asked for.

    Parameters
    ----------
    name : str
        What it is called behind the name of a head: ``288px``; nothing for the one that a search begins with.
    options : FeatureConfig
    about : SearchedData
    extractor : Extractor, optional
        Where it is built already.
    """

    def __init__(
        self, name: str, options: FeatureConfig, about: SearchedData, extractor: Extractor | None = None
    ) -> None:
        self.name, self.options, self.about = name, options, about
        if extractor is not None:
            self.__dict__["extractor"] = self._taken(extractor)

    @cached_property
    def extractor(self) -> Extractor:
        """What computes the rows, or reads those that serve in their place."""
        return self._taken(build_extractor(self.options))

    def _taken(self, extractor: Extractor) -> Extractor:
        return take_features(extractor, self.about.manifest, self.about.directory.parent)

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment on these rows, of the samples that could be read; extracted now where they are not there.

        Raises
        ------
        DataError
            If an image could not be read, and none may be left out (`strict`).
        """
        about = self.about
        report = extract_features(self.extractor, about.manifest, None if self.name else about.directory)
        if self.options.strict and report.skipped:
            raise DataError(f"{len(report.skipped)} images could not be read (`strict`)")
        experiment = Experiment(
            self.extractor,
            about.manifest,
            about.seed,
            about.directory,
            data=about.data,
            overwrite=about.overwrite,
            opens_images=True,
        ).readable()
        experiment.require_defined_scores()
        return experiment

    @cached_property
    def problems(self) -> HeadProblems:
        """What heads are fitted to."""
        with working("features are read"):
            return HeadProblems(self.experiment, self.about.head)

    def forget(self) -> None:
        """Let go of rows that no trial to come needs soon; they are read again if one does."""
        self.__dict__.pop("problems", None)

    @property
    def seconds_an_image(self) -> float:
        """What the pass took for one image, as the cache has it; nan where there is none yet."""
        unreadable = self.extractor.unreadable()
        keys = [key for key in self.about.manifest.distinct_images.keys if key not in unreadable]
        if not keys or self.missing:
            return math.nan
        return self.extractor.seconds(keys, self.options.views) / len(keys)

    @property
    def missing(self) -> int:
        """How many renderings of images have no row yet."""
        keys, views = self.about.manifest.distinct_images.keys, self.options.cached_views
        lacking: set[tuple[int, str]] = set()
        for tap in self.extractor.taps:
            lacking.update((view, key) for view, of_view in tap.missing(keys, views).items() for key in of_view)
        return len(lacking)

    def seconds_left(self, first: Look, *, guessed: bool = False) -> float:
        """Return what the pass will take, in seconds, by what that of another network took.

        Parameters
        ----------
        first : Look
            The other one, whose pass is done.
        guessed : bool
            Whether a network that is not loaded yet stays so: then all images count, and their mirror images if asked.
        """
        if "experiment" in self.__dict__:
            return 0.0
        known = first.seconds_an_image / first.options.cached_views
        if math.isnan(known):
            return 0.0
        if guessed and "extractor" not in self.__dict__:
            renderings = len(self.about.manifest.distinct_images.keys) * self.options.cached_views
        else:
            renderings = self.missing
        return renderings * known * self.multiply_adds / max(first.multiply_adds, 1)

    @cached_property
    def multiply_adds(self) -> float:
        """Of one image: as they are published or counted, and else those of the network, which is loaded for it."""
        name, size = self.options.backbone, self.options.image_size
        entry = next((entry for entry in find_family(name).catalog() if entry.name == name), None)
        counted = None if entry is None else entry.with_counts(known_counts())
        if counted is None or counted.multiply_adds is None or counted.image_size is None:
            deepest = self.extractor.graph.cuts[-1]
            return float(deepest.multiply_adds_below + deepest.multiply_adds_above)
        height, width = shape_of_size(counted.image_size if size is None else read_size(size))
        return counted.multiply_adds * height * width / counted.image_size**2
