"""What follows for heads from a backbone that was fine-tuned: which images may still say what a head is worth.

It has seen the labels of its training images, so what a head on it says of these, out of folds too, is too good. Such
heads are chosen by the validation split alone, and have no score out of folds to be ranked by.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from cache.errors import UsageError
from pipeline.experiment.experiment import Experiment
from pipeline.run_layout import MANIFEST
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest

_LOG = logging.getLogger("cutonce")


def by_validation_alone(experiment: Experiment, options: HeadConfig) -> HeadConfig:
    """Return the options of heads as they are for the backbone of an experiment: without folds on a tuned one.

    Raises
    ------
    UsageError
        If folds are asked for, or the network was trained on images that test or validate here.
    """
    tuned_in = experiment.extractor.backbone.tuned_in
    if tuned_in is None:
        return options
    name = f"`backbone` {experiment.extractor.backbone.name}"
    if options.cv:
        raise UsageError(
            f"{name} has seen the labels of its training images, so folds of them say nothing of new ones: leave `cv` "
            "out"
        )
    path = tuned_in.parent / MANIFEST
    if not path.exists():
        raise UsageError(f"{name}: {path} is missing, so nothing says which images it was trained on")
    seen = Manifest.load(path)
    for split, trained_on in (("test", ("train", "val")), ("val", ("train",))):
        known = {key for part in trained_on for key in seen.select(seen.indices(part)).distinct_images.keys}
        asked = experiment.split(split).distinct_images.keys
        if overlap := sum(key in known for key in asked):
            raise UsageError(
                f"{name} was trained on {overlap:,} of the {len(asked):,} {split} images of seed {experiment.seed}: "
                f"give the data, the options of splits and the seed that it was tuned with ({tuned_in.parent})"
            )
    _LOG.info(
        f"note: {name} was tuned on the training images: heads on it are chosen and ranked by the validation split, by "
        "which its epoch was chosen, too; none is predicted out of folds"
    )
    return replace(options, cv=0)
