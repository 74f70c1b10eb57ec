"""A trained method on disk: which network it stands on, its head, and, after fine-tuning, its top blocks.

A model directory holds ``model.json`` (the recipe in words and numbers), ``head.safetensors`` and, where blocks were
fine-tuned, ``top.safetensors``. Nothing in it is pickled. It is enough to classify new images; the backbone's own
weights are loaded from where they came from and checked by their digest. A backbone that was handed in from Python has
to be handed in again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from cache.atomic_write import atomic_path, write_atomically
from cache.errors import DataError, UsageError, WeightsError
from pipeline.experiment.models.model_card import ModelCard, read_recipe
from pipeline.run_layout import COLUMNS, HEAD, HEAD_WITHOUT_VAL, MEMBERS, MODEL_CARD, TOP, UNLIKE
from stages.columns.table_encoder import TableEncoder
from stages.config.features import FeatureConfig, PrecisionChoice
from stages.config.version_1 import from_version_1
from stages.data.images.preprocessing import Preprocessing
from stages.extraction.extractor import Extractor, build_extractor, on_this_machine
from stages.finetuning.transfer_model import TransferModel, head_on_features, rebuild_transfer_model
from stages.inspection.unlike import UnlikeDetector
from stages.network.backbones.base import Backbone
from stages.network.backbones.handed_in import as_backbone
from stages.network.heads.base import Head
from stages.network.heads.serialization import load_head, save_head, save_tensors
from stages.runtime.tensor_files import load_tensors


def save_model(
    directory: Path,
    recipe: ModelCard,
    head: Head,
    *,
    without_val: Head | None = None,
    tuned: TransferModel | None = None,
    columns: TableEncoder | None = None,
    unlike: UnlikeDetector | None = None,
) -> None:
    """Write a trained method into a folder that is being made (`made_whole`).

    A head on columns of a table has beside it what makes numbers of them; what takes images, what tells those that are
    unlike the training images.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if unlike is not None:
        unlike.save(directory / UNLIKE)
    if columns is not None:
        columns.save(directory / COLUMNS)
    save_head(directory / HEAD, head, {"task": recipe.task})
    if without_val is not None:
        save_head(directory / HEAD_WITHOUT_VAL, without_val, {"task": recipe.task})
    if tuned is not None:
        top = tuned.without_auxiliary_heads()
        save_tensors(directory / TOP, top)
    write_card(directory, recipe)


def save_card(directory: Path, recipe: ModelCard, *, unlike: UnlikeDetector | None = None) -> None:
    """Write the card of a method whose models are in the folder already."""
    if unlike is not None:
        unlike.save(directory / UNLIKE)
    write_card(directory, recipe)


def copy_model(source: Path, directory: Path, recipe: ModelCard) -> None:
    """Write a trained method that has the weights of another one."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.safetensors"):
        for file in (path, path.with_suffix(".json")):
            if file.exists():
                with atomic_path(directory / file.name) as temporary:
                    shutil.copyfile(file, temporary)
    write_card(directory, recipe)


def write_card(directory: Path, recipe: ModelCard) -> None:
    """Write ``model.json``."""
    write_atomically(directory / MODEL_CARD, json.dumps(asdict(recipe), indent=1).encode())


def open_model(
    directory: Path,
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    cache: Path | None = None,
    precision: PrecisionChoice | None = None,
) -> tuple[ModelCard, Extractor, TransferModel]:
    """Load a trained method, ready for images.

    Parameters
    ----------
    directory : Path
    device : str
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python; a module gets the preprocessing it had.
    cache : Path, optional
        Where features of images are kept (default: where those that it was trained on are).
    precision : str, optional
        In which the frozen part computes (default: as it did for the training).

    Raises
    ------
    DataError
        If the directory holds no complete model.
    UsageError
        If it was trained on a network that was handed in, and that is not handed in again; or is a mean over several
        networks, see `pipeline.experiment.models.mixture_model.open_networks`.
    WeightsError
        If the backbone's weights are no longer those it was trained on.
    """
    recipe = read_recipe(directory)
    if recipe is None:
        raise DataError(f"{directory} holds no trained model ({MODEL_CARD} is missing)")
    if (directory / MEMBERS).exists():
        raise UsageError(
            f"{directory} is a mean over several networks, and one is asked for here: `predict` and `evaluate` take "
            f"it; of the networks in {directory / MEMBERS} each is a method of its own"
        )
    stored: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in from_version_1(recipe.features).items()
    }
    options = FeatureConfig(
        **{**stored, "cache": cache or Path(recipe.features["cache"]), "device": device, "engine": "auto"}
    )
    options = on_this_machine(options if precision is None else replace(options, precision=precision))
    handed_in = _handed_in(directory, recipe, backbone)
    extractor = build_extractor(options, handed_in)
    if extractor.backbone.weights != recipe.weights_digest:
        current_weights = "are handed in" if handed_in is not None else f"`weights` {options.weights} gives"
        raise WeightsError(
            f"{directory} was trained on other weights of {options.backbone} than {current_weights} now; put the "
            "original "
            "weights back, or train again"
        )
    head = load_head(directory / HEAD, extractor.graph)[0].to(extractor.device)
    if recipe.unfreeze is None:
        return recipe, extractor, head_on_features(extractor, head)
    upper = rebuild_transfer_model(extractor, head, recipe.unfreeze, invert=recipe.invert_unfreeze)
    upper.model.top.load_state_dict(load_tensors(directory / TOP))
    upper.model.eval().requires_grad_(False)
    return recipe, extractor, upper


def _handed_in(directory: Path, recipe: ModelCard, network: nn.Module | Backbone | None) -> Backbone | None:
    """Return the backbone to open a model with, in place of the one that its options name; None for that one."""
    original, name = recipe.handed_in, recipe.features["backbone"]
    if network is None:
        if original is None:
            return None
        raise UsageError(
            f"{directory} was trained on {name}, a network that was handed in from Python and that no name loads: "
            "hand it in again there, as the argument backbone of open_model or predict_images"
        )
    if original is None:
        if not isinstance(network, Backbone):
            raise UsageError(
                f"{directory} was trained on {name}, which is loaded by that name: leave backbone out, or give what "
                "load_backbone returns"
            )
        return as_backbone(network)
    preprocessing = Preprocessing.from_json(original["preprocessing"])
    backbone = as_backbone(network, None if isinstance(network, Backbone) else preprocessing.image_size, preprocessing)
    backbone = backbone.with_crop_mode(preprocessing.crop_mode)
    if backbone.preprocessing != preprocessing:
        raise UsageError(
            f"{directory} was trained with {preprocessing}, and the backbone that is handed in has "
            f"{backbone.preprocessing}: hand in the module alone, or with that preprocessing"
        )
    if backbone.identity != original["identity"]:
        raise UsageError(
            f"{directory} was trained on the network {original['identity']!r}, and the one that is handed in is "
            f"{backbone.identity!r}: the source or a setting of a module has changed. If it still computes the same, "
            f"hand in backbone_from_module(module, preprocessing, name={original['identity']!r})"
        )
    return backbone
