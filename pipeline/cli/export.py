"""``export``: a trained method of a run as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli.flags import Exported
from pipeline.options.export_formats import model_format_names


def export(
    run: Path,
    /,
    *,
    out: Path,
    format: Annotated[
        str | None, Parameter(help=f"{', '.join(model_format_names())} (default: as `--out` ends).")
    ] = None,
    method: str | None = None,
    seed: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace files that are there.")] = False,
) -> Exported:
    """Write a trained method of a run into one file that answers without this library, with a model card beside it.

    The file takes decoded images, 8 bits a channel, of any size: resizing and all else is in it. Before it gets its
    name it is asked about images of the run, and refused where it does not answer as the run does.

    Try:

    ```sh
    cutonce export runs/photos --out photos.onnx
    cutonce export runs/photos --method finetune-top-3 --format torch-export --out photos.pt2
    ```

    Parameters
    ----------
    run
        Run directory.
    out
        The file. The model card gets its name and .md.
    method
        A trained method by a name that the page has for it: linear-svm, svm or SVM (default: what the page of the run
        says to take).
    seed
        The seed whose model is taken (default: the first of the run).
    """
    from pipeline.cli.output import echo
    from pipeline.export.export_run import export_run

    exported = export_run(run, out, method=method, seed=seed, format_name=format, overwrite=overwrite)
    echo(*exported.describe())
    return exported
