"""Take a trained method out of its run: choose it, write it, check it, describe it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from cache.errors import DataError, UsageError, alternatives
from pipeline.evaluation.method_folders import files_of_methods
from pipeline.experiment.prediction.classify_images import ModelChoice, choose_model
from pipeline.export.equality import BOUND, Equality, compare_with_run, difference_as_trained, samples_of_run
from pipeline.export.hub_card import card_path, write_card
from pipeline.library.export_model import RunFile, TrainedModel, export_model, open_trained
from pipeline.options.export_formats import model_format_names
from pipeline.run_layout import MODEL_CARD, RESULT, RESULTS, fold_dirs, part_of_run, seed_dirs
from stages.network.backbones.base import Backbone


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path, card : Path
        The file, and the model card beside it.
    choice : ModelChoice
        The method, and why it is the one.
    equality : Equality or None
        How its answers compare with the run's; None of a file that holds tensors alone.
    """

    path: Path
    card: Path
    choice: ModelChoice
    equality: Equality | None

    def describe(self) -> list[str]:
        """Return what there is to say of it, in lines."""
        lines = [f"{self.choice.directory.name} of {self.choice.directory.parent}, {self.choice.reason}"]
        if self.equality is None:
            lines.append("tensors alone, for this library to load: nothing runs in the file that could be compared")
        else:
            lines.append(
                f"checked with {self.equality.asked}: the largest difference "
                f"from what the run answers in float32 is {self.equality.difference:.1e} (refused above "
                f"{BOUND:g})"
            )
            if self.equality.as_trained is not None:
                lines.append(
                    "files compute in float32, and the run's features do not: from what `predict` answers of the same "
                    f"samples, the file's answers are up to {self.equality.as_trained:.2g} away; with `precision` fp32 "
                    "both would be alike"
                )
        return [*lines, f"model: {self.path} ({self.path.stat().st_size:,} bytes)", f"model card: {self.card}"]


def export_run(
    run: Path,
    out: Path,
    *,
    method: str | None = None,
    seed: int | None = None,
    format_name: str | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    backbone: nn.Module | Backbone | None = None,
) -> Exported:
    """Write a trained method of a run into one file, and its model card beside it.

    Parameters
    ----------
    run : Path
    out : Path
        Without an ending it gets that of the format.
    method, seed
        As of `choose_model`.
    format_name : str, optional
        One of `model_format_names`; by default as `out` ends.
    overwrite : bool
        Whether files that are there are replaced.
    device : str
        Where the run's own answers are computed.
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python.

    Raises
    ------
    UsageError
        If a file is there already, the format is not known or cannot hold the method, or there is no such method.
    DataError
        If the run is not finished, or none of its images can be read any more.
    CutonceError
        If the file does not answer as the run does.
    """
    path = _path_of(out, format_name)
    for there in (path, card_path(path)):
        if there.exists() and not overwrite:
            raise UsageError(f"{there} is there already: say `overwrite` to replace it, or give another `out`")
    if method is None:
        _require_finished(run)
    choice = choose_model(run, method, seed)
    found: list[Equality] = []

    def check(model: TrainedModel, run_file: RunFile | None) -> None:
        if run_file is not None:
            samples = samples_of_run(model)
            equality = compare_with_run(model, run_file, samples)
            as_trained = open_trained(choice.directory, device, backbone, precision=None)
            found.append(replace(equality, as_trained=difference_as_trained(model, as_trained, samples)))

    model = export_model(choice.directory, path, device, backbone, check=check)
    equality = found[0] if found else None
    card = write_card(model, path, equality)
    return Exported(path, card, choice, equality)


def _path_of(out: Path, format_name: str | None) -> Path:
    endings = model_format_names()
    if format_name is None:
        if not out.suffix:
            raise UsageError(f"`out` {out} has no ending that says what it is: say `format` {', '.join(endings)}")
        return out
    if format_name not in endings:
        raise UsageError(f"`format` {format_name}: there is no such format.{alternatives(format_name, endings)}")
    ending = endings[format_name]
    if out.suffix.lower() in endings.values() and out.suffix.lower() != ending:
        raise UsageError(f"`format` {format_name} writes files that end with {ending}, and `out` is {out}")
    return out if out.suffix.lower() == ending else out.with_name(out.name + ending)


def _require_finished(run: Path) -> None:
    """Refuse a run that was stopped, saying what it lacks: what it would say to take may be what is missing."""
    if not run.is_dir():
        raise DataError(f"{run} is no run: there is no such folder")
    if part := part_of_run(run):
        raise UsageError(f"{part}, and by `seed` and `method` which of its models")
    complete = {path.parent for path in files_of_methods(run, MODEL_CARD)}
    begun = {path for seed in seed_dirs(run) for path in seed.iterdir() if path.is_dir() and "-" in path.name}
    begun -= {path for seed in seed_dirs(run) for path in fold_dirs(seed)}
    without_model = sorted(str(path.relative_to(run)) for path in begun - complete if not (path / RESULT).exists())
    if not (run / RESULTS).exists():  # it comes last: what has no model beside it failed, and is not compared
        missing = [f"{RESULTS} (which says what to take)", *(f"the model of {path}" for path in without_model)]
        names = sorted({path.name for path in complete})
        rest = f"; or say by `method` which to take of those that are there: {', '.join(names)}" if names else ""
        # `train` and `finetune` alone compare nothing
        compared = "" if without_model else f"; if that was `train` or `finetune`, `compare` {run}"
        raise DataError(
            f"{run} is not finished: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Give the "
            f"command that made it again, which goes on{compared}{rest}"
        )
