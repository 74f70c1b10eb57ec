"""``predict``: a trained method on new images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli.flags import Prediction
from stages.config.features import PrecisionChoice


def predict(
    run: Path,
    /,
    *images: Path,
    out: Path | None = None,
    method: str | None = None,
    seed: int | None = None,
    threshold_for: str | None = None,
    coverage: float | None = None,
    calibrate: bool | None = None,
    top_k: int | None = None,
    abstain_below: float | None = None,
    cache: Path | None = None,
    use_cache: bool = True,
    masks: Path | None = None,
    overlays: bool = True,
    probabilities: bool = False,
    precision: PrecisionChoice | None = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> list[Prediction]:
    """Predict new images with a trained method of a run: classes or labels with their probabilities, numbers, or masks.

    Images that are unlike those it was trained on are marked.

    Try:

    ```sh
    cutonce predict runs/photos new/ one.jpg --out predictions.csv
    cutonce predict runs/photos new/ --method finetune-top-3
    cutonce predict runs/streets new/ --masks predicted --out shares.csv
    find new -name '*.jpg' | cutonce predict runs/photos - --top-k 3 --abstain-below 0.6 --out predictions.csv
    ```

    Parameters
    ----------
    run
        Run directory.
    images
        Image files, folders that are searched for images, tables (CSV, TSV) that list some in the column path, whose
        other columns go to the predictions, and lists (.txt) that name a file or folder in each line; - reads such a
        list from standard input. For a model of samples of several images, tables as it was trained
        on, folders of which each is a sample, and videos.
    out
        CSV file for the predictions (default: printed).
    method
        A trained method by a name that the page has for it: linear-svm, svm or SVM (default: what the page of the
        run says to take).
    seed
        The seed whose model is used (default: the first of the run).
    threshold_for
        Of two classes: predict one from the probability on that reaches this goal on held-out images, as recall=0.95 or
        cost=5:1 of the second class, or defective:recall=0.95 (default: as the run was made with, else the most
        probable class).
    coverage
        Name all classes that are possible, so that the true one is among them in this share of the cases, as 0.9
        (default: as the run was made with, else none).
    calibrate
        Divide logits by the one temperature that fits held-out images best, so that how sure it is says how often it is
        right (default: as the run was made with, else not).
    top_k
        Name so many classes of each image, the most probable first, with their probabilities; in the CSV file in
        columns top_1, top_1_probability, ....
    abstain_below
        Predict no class of an image whose class is less probable than this; its cell in the CSV file is empty.
    cache
        Folder of caches (default: that of the features it was trained on). Images whose features are there are neither
        decoded nor sent through the network.
    use_cache
        Whether features in a cache are taken.
    masks
        Of a method that gives a class for each pixel: the folder for masks/, PNGs of the numbers of the classes at the
        size of their images, and classes.csv, the names and colors (default: beside `out`, under its name; without
        `out` none are written).
    overlays
        Write each image with the colors of its mask on it, too, in overlays/.
    probabilities
        Write the probabilities of all classes of each pixel, too, in probabilities/: NumPy archives of float16
        [classes, height, width].
    precision
        Arithmetic of the frozen part (default: that of the training). How far answers move in another one was measured
        on training images, and is said.
    """
    from pipeline.cli.output import echo
    from pipeline.experiment.models.model_card import task_of_model
    from pipeline.experiment.prediction.classify_images import (
        choose_model,
        decision_of,
        format_deviations,
        format_predictions,
        mask_output,
        predict_images,
        require_other_file,
        write_csv,
    )
    from pipeline.experiment.prediction.top_classes import require_top_classes, with_top_classes

    require_other_file(out, images)
    model, reason = choose_model(run, method, seed)
    decision = decision_of(model, threshold_for, coverage, calibrate=calibrate)
    require_top_classes(task_of_model(model), top_k, abstain_below)
    output = mask_output(model, masks, out, overlays=overlays, probabilities=probabilities)
    classified, unreadable = predict_images(
        model,
        list(images),
        device,
        decision=decision,
        masks=output,
        cache=cache,
        use_cache=use_cache,
        precision=precision,
    )
    classified = with_top_classes(classified, task_of_model(model), top_k, abstain_below)
    heading, lines, warnings = format_predictions(model, reason, classified, printed=out is None)
    echo(heading, *(f"note: {said}" for said in format_deviations(model, precision)), *lines)
    if out is not None:
        write_csv(out, classified)
        echo(f"predictions: {out}")
    if output is not None:
        echo(f"masks: {output.folder}")
    echo(*warnings, *(f"skipped {location!r}: {reason}" for location, reason in unreadable))
    return classified
