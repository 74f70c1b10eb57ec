"""TensorBoard: event files in the run, ``tensorboard --logdir RUN/tracking/tensorboard``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.run_layout import TRACKING
from pipeline.tracking.track import TrackedMethod, register_tracker


@register_tracker("tensorboard", needs="tensorboard", install="tensorboard")
def track_in_tensorboard(run: Path, methods: Sequence[TrackedMethod]) -> str:
    """TensorBoard: event files in the run's folder."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run / TRACKING / "tensorboard"
    for method in methods:
        shutil.rmtree(folder / method.name, ignore_errors=True)  # of a result that was replaced
        with SummaryWriter(str(folder / method.name)) as writer:
            for name, value in method.metrics.items():
                writer.add_scalar(name, value, 0)
            for epoch, values in method.curves:
                for name, value in values.items():
                    writer.add_scalar(name, value, epoch)
            table = "\n".join(f"| {name} | {value} |" for name, value in method.options.items())
            writer.add_text("options", f"| option | value |\n|---|---|\n{table}")
            if method.page is not None:
                writer.add_text("page", str(method.page.resolve()))
    return str(folder)
