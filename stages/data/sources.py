"""Which source ``--data`` means: a folder, a CSV file, a packaged set, or one of torchvision's."""

from __future__ import annotations

from pathlib import Path

from cache.errors import UsageError, suggestion
from stages.data.folders import list_folder
from stages.data.listing import Listing, Progress
from stages.data.packaged import list_digits, list_elpv
from stages.data.tables import list_csv
from stages.data.torchvision_sets import PREFIX, list_torchvision
from stages.options import Data

_PACKAGED = {"elpv": list_elpv, "digits": list_digits}


def list_samples(options: Data, progress: Progress | None = None) -> Listing:
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
        raise UsageError(f"--data {source} is a file, but not a CSV file (path,label[,split])")
    raise UsageError(
        f"--data {source}: there is no such folder or CSV file, and no packaged data set of that name "
        f"({', '.join(_PACKAGED)}, {PREFIX}NAME).{suggestion(source, _PACKAGED)}"
    )
