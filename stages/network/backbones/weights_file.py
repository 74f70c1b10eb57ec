"""Weights in files: read without pickle, digested, fitted to a network."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from cache.errors import WeightsError
from stages.network.backbones.base import count_classes
from stages.network.backbones.key_mapping import suggest_mapping
from stages.network.classifier import output_layers, replace_classifier
from stages.network.module_paths import has_prefix
from stages.runtime.tensor_files import load_tensors

# UnpicklingError is what torch's reader raises at code in a file, instead of running it.
DAMAGED_FILE_ERRORS: tuple[type[BaseException], ...] = (UnpicklingError, RuntimeError, EOFError, SafetensorError)


def digest_of_weights(module: nn.Module) -> str:
    """Return 32 hex digits for the tensors of a network: their names, types, shapes and bytes, in order of the names.

    The file they were read from plays no part; nor do BatchNorm's counts of batches, which change no output.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the state_dict in a file.

    One wrapped as ``state_dict`` or ``model`` in a checkpoint is unwrapped, and the ``module.`` that DataParallel puts
    before every name is taken off.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_tensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"`weights`: there is no file {path} (and it is neither default nor none).") from error
    except UnpicklingError as error:
        raise WeightsError(
            f"`weights` {path} holds more than tensors, or is damaged, and is not loaded. "
            "Save model.state_dict() with torch.save or as .safetensors."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise WeightsError(f"`weights` {path} cannot be read: {reason_of(error)}.") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"`weights` {path} is not a state_dict: it must map names to tensors.")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}


def load_weights(
    module: nn.Module, weights: Mapping[str, torch.Tensor], origin: str, ignored: Collection[str] = ()
) -> None:
    """Load a whole state_dict; a classifier of another size makes the network's own that size.

    Names below the prefixes `ignored` are not loaded, and neither side needs to have them.

    Raises
    ------
    WeightsError
        If tensors are missing, unexpected, or of another shape; `origin` names the file in the message.
    """
    weights = {name: tensor for name, tensor in weights.items() if not has_prefix(name, ignored)}
    outputs = {f"{layer}.weight" for layer in output_layers(module)}
    sizes = {len(weights[name]) for name in outputs if name in weights and weights[name].ndim > 0}
    if len(sizes) == 1 and (num_classes := sizes.pop()) != count_classes(module):
        replace_classifier(module, num_classes)
    state = module.state_dict()
    expected = [name for name in state if not name.endswith("num_batches_tracked") and not has_prefix(name, ignored)]
    problems = {
        "missing": sorted({*expected} - {*weights}),
        "unexpected": sorted({*weights} - {*state}),
        "of another shape": [
            f"{name} {[*weights[name].shape]} instead of {[*state[name].shape]}"
            for name in state
            if name in weights and weights[name].shape != state[name].shape
        ],
    }
    if any(problems.values()):
        counts = (
            f"{len(names)} tensors {problem} ({_first_few(names)})" for problem, names in problems.items() if names
        )
        rule = suggest_mapping(problems["unexpected"], expected)
        raise WeightsError(
            f"`weights` {origin} does not fit this network: {'; '.join(counts)}. "
            + (f"Try `weights_rename` {rule}" if rule else "Give the backbone these weights were saved from")
            + ", or load what fits with `weights_match` partial."
        )
    module.load_state_dict(weights, strict=False)


def _first_few(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def reason_of(error: BaseException) -> str:
    """Return the first sentence of a library's message; torch's go on to recommend loading without care."""
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
