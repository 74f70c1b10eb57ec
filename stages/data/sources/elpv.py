"""The ELPV data set: photographs of solar cells, from the package ``elpv-dataset``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.registry import register_source


@register_source("elpv", help_text="elpv (packaged)")
def list_elpv(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return ELPV: 2,624 electroluminescence images of solar cells, functional or defective.

    A cell is defective if the annotators gave that a probability of at least 0.5. Splits are to take the same share
    of mono- and polycrystalline cells. That probability (0, 1/3, 2/3 or 1) and the cell type are columns, of which
    `target` may name the first. Deitsch et al., Solar Energy 185 (2019).

    Raises
    ------
    UsageError
        If the package is not installed.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise UsageError("`data` elpv needs the package elpv-dataset: pip install elpv-dataset")
    folder = Path(package.submodule_search_locations[0]) / "data"
    try:
        lines = (folder / "labels.csv").read_text().splitlines()
    except OSError as error:
        raise DataError(f"the package elpv-dataset is broken: {folder / 'labels.csv'}: {error.strerror}") from error
    rows = [line.split() for line in lines if line.strip()]
    class_names = ("functional", "defective")
    return SourceRecords(
        locations=[str(folder / path) for path, _, _ in rows],
        targets=[class_names[float(probability) >= 0.5] for _, probability, _ in rows],
        class_names=class_names,
        splits=[""] * len(rows),
        strata=[cell_type for _, _, cell_type in rows],
        extra={
            "probability": [probability for _, probability, _ in rows],
            "cell_type": [cell_type for _, _, cell_type in rows],
        },
    )
