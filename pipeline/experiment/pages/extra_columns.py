"""What the table of the samples says besides, brought to the test images of results.

It is taken from the manifests of a run and not kept with each result: a column that is added to the table when
everything is trained is in the predictions as soon as the manifest has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Result
from pipeline.run_layout import MANIFEST
from stages.data.manifest import Manifest, has_extra_columns


def extra_columns(results: Sequence[Result]) -> list[dict[str, list[str]]]:
    """Return for each loaded result the extra columns of the samples, each [n] in the order of its predictions.

    There are none where the manifest has none, or is not there any more. A test image that is not in the manifest has
    '' in each.

    Raises
    ------
    DataError
        If a manifest with such columns cannot be read.
    """
    paths = [result.directory.parent / MANIFEST for result in results if result.directory is not None]
    test_samples = {path: _test_samples(path) for path in dict.fromkeys(paths)}
    return [
        _of_predictions(result.predictions, test_samples[path]) for result, path in zip(results, paths, strict=True)
    ]


def _test_samples(path: Path) -> Manifest | None:
    """Return the samples of a saved manifest that are tested: its test split, or, of outer folds, all of them.

    None where it has nothing to add.
    """
    if not path.exists() or not has_extra_columns(path):
        return None
    manifest = Manifest.load(path)
    tested = manifest.indices("test")
    return manifest.select(tested) if len(tested) else manifest


def _of_predictions(predictions: Predictions, samples: Manifest | None) -> dict[str, list[str]]:
    """Return the extra columns of the samples that were predicted, in the order of the predictions."""
    if samples is None:
        return {}
    rows_of: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(samples.keys):
        rows_of[key].append(index)
    rows: list[int | None] = []
    for key, location in zip(predictions.keys.tolist(), predictions.locations.tolist(), strict=True):
        # copies of an image may differ in what is said of them; files may have moved since they were predicted
        copies = rows_of[key.decode()]
        copies.sort(key=lambda copy: samples.locations[copy] != location)
        rows.append(copies.pop(0) if copies else None)
    return {name: ["" if row is None else column[row] for row in rows] for name, column in samples.extra.items()}
