"""Which source ``--data`` means: a folder, a CSV file, a packaged set, or one of torchvision's."""

from __future__ import annotations

from pathlib import Path

from cache.errors import UsageError, suggestion
from stages.config.data import DataConfig
from stages.data.sources.csv_file import list_csv
from stages.data.sources.digits import list_digits
from stages.data.sources.elpv import list_elpv
from stages.data.sources.folder import list_folder
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.torchvision_datasets import PREFIX, list_torchvision

_PACKAGED = {"elpv": list_elpv, "digits": list_digits}


def list_samples(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return what the source that `options` name says of its samples.

    Raises
    ------
    UsageError
        If there is no such source.
    DataError
        If the source cannot be used as it is.
    """
    source = options.data
    if source.startswith(PREFIX):
        return list_torchvision(source, options.data_root, progress)
    if source in _PACKAGED:
        return _PACKAGED[source]()
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        return list_folder(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return list_csv(path)
    if path.exists():
        raise UsageError(f"`data` {source} is a file, but not a CSV file (path,label[,split])")
    raise UsageError(
        f"`data` {source}: there is no such folder or CSV file, and no packaged data set of that name "
        f"({', '.join(_PACKAGED)}, {PREFIX}NAME).{suggestion(source, _PACKAGED)}"
    )
