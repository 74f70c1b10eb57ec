"""Options by the names and values they had in version 1, the only place that knows them.

Files of version 1 (the configuration of a run, the card of a model) are read through `from_version_1`. Digests of
options, by which a run knows what it has trained already and a checkpoint whose it is, are still taken over the old
names, through `as_version_1`: so what was trained before is found, and need not be trained again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OPTION_NAMES = {
    "test": "test_size",
    "val": "val_size",
    "dtype": "storage_dtype",
    "workers": "decode_threads",
    "batch_size": "extract_batch_size",
    "dropout": "fit_dropout",
    "patience": "fit_patience",
    "regularisation": "c_values",
    "folds": "cv",
    "neighbours": "n_neighbors",
    "landmarks": "nystroem_components",
    "memory": "max_memory_gb",
    "hidden": "hidden_dim",
    "head_scaler": "fit_scaler",
    "head_epochs": "fit_epochs",
    "head_rate": "fit_lr",
    "head_weight_decay": "fit_weight_decay",
    "head_batch_size": "fit_batch_size",
    "head_label_smoothing": "fit_label_smoothing",
    "start": "init_head",
    "baseline_rate": "baseline_lr",
    "optimiser": "opt",
    "rate": "lr",
    "rate_decay": "layer_decay",
    "finetune_head_rate": "head_lr",
    "find_rate": "lr_find",
    "cycle_multiplier": "cycle_mul",
    "rate_factor": "decay_rate",
    "step_epochs": "decay_epochs",
    "ema": "model_ema_decay",
    "clip": "clip_grad",
    "accumulate": "grad_accum_steps",
    "autocast": "amp_dtype",
    "loader_workers": "num_workers",
    "label": "name",
}
"""Name of an option in version 1 -> its name now. A `test` that is no number is the option of that name today."""

COMMAND_NAMES = {"find-rate": "lr-find", "probe": "probe-layers", "layers": "list-cuts"}
"""Command of version 1 -> its name now."""

AUGMENT_NAMES = {
    "quarter": "rot90",
    "colour": "colorjitter",
    "grey": "grayscale",
    "trivial": "trivialaugment",
    "rand": "randaugment",
    "auto": "autoaugment",
    "erase": "randomerasing",
}
"""Transform of ``augment`` in version 1 -> its name now."""

METHOD_NAMES = {"frozen": "uncached"}
"""Method of transfer in version 1 -> its name now."""

_OLD_NAMES = {new: old for old, new in OPTION_NAMES.items()}
_OLD_AUGMENT = {new: old for old, new in AUGMENT_NAMES.items()}
OLD_METHODS = {new: old for old, new in METHOD_NAMES.items()}
"""Name of a method now -> in version 1, which named its folder in a run."""


def from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of version 1 by the names and with the values they have now."""
    return {
        name if name == "test" and isinstance(value, str) else OPTION_NAMES.get(name, name): _value(
            name, value, AUGMENT_NAMES, METHOD_NAMES
        )
        for name, value in values.items()
    }


def as_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of today by the names and with the values they had in version 1; newer ones stay as they are."""
    return {
        _OLD_NAMES.get(name, name): _value(name, value, _OLD_AUGMENT, OLD_METHODS) for name, value in values.items()
    }


def _value(name: str, value: Any, transforms: Mapping[str, str], methods: Mapping[str, str]) -> Any:
    if name == "augment" and isinstance(value, str):
        return re.sub(r"[a-z0-9]+(?=\(|\+|$)", lambda word: transforms.get(word[0], word[0]), value)
    if name == "baselines":
        return type(value)(methods.get(method, method) for method in value)
    return value
