"""Methods of a run by any of the names that people read: that of the folder, of the option `head`, of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.comparison import method_words
from pipeline.evaluation.results import Result
from pipeline.run_layout import RESULT


def folders_called(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the folders of the methods that somebody may mean by a name; none where there is no such method.

    That of a folder, ``linear-svm``, comes first, then what tables say, ``SVM``, then what the option `head` says,
    ``svm``, which may be that of several; last any of these with other capitals.

    Parameters
    ----------
    folders : sequence of Path
        Of trained methods.
    name : str
        As it was typed.
    """
    exact = [folder for folder in folders if folder.name == name]
    if exact:
        return exact
    results = {folder: Result.load(folder) for folder in folders if (folder / RESULT).exists()}
    labels = {folder: method_words(result) for folder, result in results.items()}
    names = {folder: result.name for folder, result in results.items()}
    for called in (labels, names):
        if found := [folder for folder in called if called[folder] == name]:
            return found
    wanted = name.casefold()
    return [folder for folder in names if wanted in (names[folder].casefold(), labels[folder].casefold())]
