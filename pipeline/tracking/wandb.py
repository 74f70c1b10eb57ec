"""Weights & Biases: offline in the run, unless ``WANDB_MODE`` says otherwise; ``wandb sync`` brings it to a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.run_layout import TRACKING
from pipeline.tracking.track import TrackedMethod, register_tracker


@register_tracker("wandb", needs="wandb", install="wandb")
def track_in_wandb(run: Path, methods: Sequence[TrackedMethod]) -> str:
    """Weights & Biases: offline in the run's folder, or as WANDB_MODE says."""
    import wandb

    folder = run / TRACKING
    folder.mkdir(parents=True, exist_ok=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")  # it refuses a word that is none of its own
    for method in methods:
        tracked = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cutonce"),
            group=run.resolve().name,
            name=method.name,
            dir=str(folder),
            config=method.options,
            reinit=True,
            settings=wandb.Settings(mode=mode, silent=True, console="off"),
        )
        with tracked:  # it is finished whatever comes
            for epoch, values in method.curves:
                tracked.log(values, step=epoch)
            tracked.summary.update(method.metrics)
            if method.page is not None:
                artifact = wandb.Artifact("page", type="report")
                artifact.add_file(str(method.page))
                tracked.log_artifact(artifact)
    return f"{folder / 'wandb'}"
