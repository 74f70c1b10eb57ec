"""Messages name an option as Python does, `image_size`; at the command line it is the flag ``--image-size``."""

from __future__ import annotations

import re
from functools import cache

from pipeline.options.toml_file import known_names

_OF_COMMANDS = (
    *("abstain_below", "budget", "config", "draws", "each_block", "feature_map", "format", "keep", "log_json"),
    *("manifest", "masks", "max_predict_ms", "members", "method", "no_auxiliary", "overwrite", "probabilities"),
    *("repair", "replay", "results", "seed", "seen", "split", "threshold", "top_k", "track", "trials", "unknown"),
    "yes",
)
"""Options that belong to single commands and stand in messages."""

_NAMED = re.compile(r"`([a-z][a-z0-9_]*)`")


def as_flags(text: str) -> str:
    """Return a message with every `option` in it written as a flag."""
    return _NAMED.sub(lambda match: _flag(match[1]) if match[1] in _names() else match[0], text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@cache
def _names() -> frozenset[str]:
    return frozenset([*known_names(), *_OF_COMMANDS])
