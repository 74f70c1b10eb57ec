"""``predict``: a trained method on new images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.commands.signature import Classified


def predict(
    run: Path,
    /,
    *images: Path,
    out: Path | None = None,
    method: str | None = None,
    seed: int | None = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> list[Classified]:
    """Classify new images with any trained method of a run: the class and the probability of every class.

    Try:

    ```sh
    cutpoint predict runs/photos new/ one.jpg --out predictions.csv
    cutpoint predict runs/photos new/ --method finetune-top-3
    ```

    Parameters
    ----------
    run
        Run directory.
    images
        Image files, and folders that are searched for images.
    out
        CSV file for the predictions (default: printed).
    method
        The folder name of a trained method, such as linear-logistic (default: the best on the validation split).
    seed
        The seed whose model is used (default: the first of the run).
    """
    from pipeline.classify import choose_model, classify, write_csv
    from pipeline.console import say

    model = choose_model(run, method, seed)
    classified, unreadable = classify(model, list(images), device)
    say(f"{model.name} of {model.parent}: {len(classified)} images")
    if out is not None:
        write_csv(out, classified)
        say(f"predictions: {out}")
    else:
        say(*(f"{one.location}  {one.label}  {max(one.probabilities.values()):.3f}" for one in classified))
    say(*(f"skipped {location!r}: {reason}" for location, reason in unreadable))
    return classified
