"""What to do after a comparison, as commands to copy."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.one_line import chosen_method
from pipeline.evaluation.trials import replay_command
from pipeline.run_layout import BEST, CONFIGURATION, PREDICTIONS_TABLE, TRAINED_IN, run_of


def next_commands(comparison: Comparison, out: Path, configuration: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what may come next, each a pair of why and a command; run directories are as they were given.

    Parameters
    ----------
    comparison : Comparison
    out : Path
        The folder of the page.
    configuration : mapping
        Options of the run, by their names; of several runs, by theirs.
    """
    chosen = chosen_method(comparison)
    folder, trained_in = chosen.results[0].directory, chosen.results[0].settings.get(TRAINED_IN)
    assert folder is not None  # loaded results have one
    # an evaluation keeps no models: what predicts is in the run that was evaluated
    run = chosen.run if trained_in is None else run_of(Path(trained_in))
    of_one_run = trained_in is None and len(comparison.runs) == 1
    commands = [
        (
            f"Predict new {chosen.unit}s with {chosen.label}",
            ["predict", str(run), "new/", "--method", folder.name, "--out", PREDICTIONS_TABLE],
        ),
        (
            f"See how it does on other labeled {chosen.unit}s",
            ["evaluate", str(run), "--data", "other/", "--method", folder.name],
        ),
    ]
    # a graph has no loop over tiles
    if not chosen.results[0].options.get("tile"):
        words = ["export", str(run), "--method", folder.name, "--out", f"{folder.name}.onnx"]
        commands.append(("Take it away as one file that answers without this library", words))
    if (run / BEST).exists() and (run / CONFIGURATION).exists():
        commands.append(("Make the same trials again, to the same bits", replay_command(run, Path(f"{run}-again"))[1:]))
    data = configuration.get("data")
    if of_one_run and isinstance(data, str) and (out / CONFIGURATION).exists():
        options = ["--config", str(out / CONFIGURATION), "--data", data]
        commands.append(("Look for wrong labels, copies and outliers", ["inspect", *options, "--out", str(out)]))
        # a curve is of heads on vectors, and of a score that rises
        if chosen.results[0].task.reads != "image" and chosen.metric.higher_is_better:
            commands.append(("Ask whether more labels would help", ["learning-curve", *options, "--out", str(out)]))
    return [(why, shlex.join(["cutonce", *map(os.fspath, words)])) for why, words in commands]
