"""A network that was fine-tuned in a run, as a backbone: its blocks as they were tuned, the others as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors

from cache.errors import UsageError, WeightsError
from stages.config.image_size import ImageSize
from stages.config.pixel_values import parse_channels
from stages.config.version_1 import from_version_1
from stages.network.backbones.base import LoadedNetwork
from stages.network.backbones.registry import load_backbone, register_backbone
from stages.runtime.tensor_files import load_tensors

_CARD, _TOP = "model.json", "top.safetensors"

_AS_PUBLISHED = (0, 1, 3)
"""Numbers of channels that are named by `channels` for which the first convolution stays as it is."""


@register_backbone(
    "run:",
    accepts=bool,
    help_text="a tuned one (run:FOLDER)",
)
def load_tuned_network(name: str, pretrained: bool, image_size: ImageSize | None) -> LoadedNetwork:
    """Return the network that the folder of a fine-tuning has; its weights are those, wanted or not.

    The image size and the crop mode are those it was tuned with, where no others are asked for.

    Raises
    ------
    UsageError
        If the folder has none, or it cannot be had by a name.
    WeightsError
        If the backbone's own weights are no longer those it was tuned from, or the file is damaged.
    """
    folder = Path(name).absolute()
    if not (folder / _CARD).exists() or not (folder / _TOP).exists():
        raise UsageError(
            f"`backbone` run:{name}: there is no fine-tuned network; name the folder of one, such as "
            "RUN/seed-0/finetune-top-3"
        )
    card: dict[str, Any] = json.loads((folder / _CARD).read_text(encoding="utf-8"))
    features = from_version_1(card["features"])
    if card.get("handed_in") is not None:
        raise UsageError(
            f"`backbone` run:{name}: it was tuned on a network that Python handed in, and no name loads it"
        )
    channels = len(parse_channels(features.get("channels", "rgb")))
    if channels not in _AS_PUBLISHED:
        raise UsageError(
            f"`backbone` run:{name}: it was tuned on images with {channels} channels, for which it was widened"
        )
    original = load_backbone(
        features["backbone"],
        features["weights"],
        image_size or features["image_size"],
        match=features.get("weights_match", "exact"),
        rename=tuple(features.get("weights_rename", ())),
        ignore=tuple(features.get("weights_ignore", ())),
    )
    if original.weights != card["weights_digest"]:
        raise WeightsError(
            f"`backbone` run:{name}: the weights of {original.name} are no longer those it was tuned from"
        )
    try:
        tuned = load_tensors(folder / _TOP)
        unknown = set(tuned) - set(original.module.state_dict())
        if unknown:
            raise WeightsError(f"{folder / _TOP} has tensors that {original.name} has not, {min(unknown)} for one")
        original.module.load_state_dict(tuned, strict=False)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{folder / _TOP} cannot be read ({error}); tune this network again") from error
    preprocessing = original.with_crop_mode(features.get("crop_mode", "center")).preprocessing
    source = f"{original.weights_source}, fine-tuned in {name}"
    return LoadedNetwork(original.module, preprocessing, source, identity=original.identity, tuned_in=folder)
