"""Encoders fitted to the columns of train, by scikit-learn; what it found is then kept as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cache.errors import DataError
from stages.columns.cells import as_numbers
from stages.columns.encoders import CategoryEncoder, ColumnEncoder, NumberEncoder, TextEncoder
from stages.columns.table_encoder import TableEncoder

MAX_WORDS = 1000
"""Words that a text is described by, the most frequent ones of train."""

_WORD_TEXTS = 2
"""Texts of train that a word must be in."""


@dataclass(frozen=True)
class ColumnChoice:
    """Which columns are used, and how.

    Attributes
    ----------
    numbers, categories, texts : tuple of str
    log : tuple of str
        Those of the numbers whose logarithm is taken.
    impute : "median" or "mean"
        What stands in for a number that is missing.
    min_frequency : int
        Samples of train that a category needs to be told apart.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    impute: Literal["median", "mean"] = "median"
    min_frequency: int = 2

    @property
    def names(self) -> tuple[str, ...]:
        """All of the columns."""
        return (*self.numbers, *self.categories, *self.texts)


def fit_columns(choice: ColumnChoice, columns: Mapping[str, Sequence[str]], rows: Sequence[str]) -> TableEncoder:
    """Return what makes numbers of columns, fitted to the samples of train.

    Parameters
    ----------
    choice : ColumnChoice
    columns : mapping of str to sequence of str [n]
        Of train alone, by their names.
    rows : sequence of str [n]
        What each sample is called in messages.

    Raises
    ------
    DataError
        If a column is constant, says nothing at all, or has words where numbers are wanted.
    """
    encoders: list[ColumnEncoder] = []
    encoders += [
        fit_numbers(name, columns[name], rows, choice.impute, log=name in choice.log) for name in choice.numbers
    ]
    encoders += [fit_categories(name, columns[name], choice.min_frequency) for name in choice.categories]
    encoders += [fit_texts(name, columns[name]) for name in choice.texts]
    return TableEncoder(tuple(encoders))


def fit_numbers(
    name: str, cells: Sequence[str], rows: Sequence[str], impute: Literal["median", "mean"], *, log: bool = False
) -> NumberEncoder:
    """Return the encoder of a column of numbers."""
    numbers = as_numbers(name, cells, rows, log=log)[:, None]
    known = np.unique(numbers[~np.isnan(numbers)])
    missing = bool(np.isnan(numbers).any())
    if not len(known):
        raise DataError(f"`columns` {name} is empty in all {len(cells):,} rows of train: leave it out")
    if len(known) == 1 and not missing:
        raise DataError(f"`columns` {name} is constant: {cells[0].strip()} in all {len(cells):,} rows of train")
    imputer = SimpleImputer(strategy=impute, add_indicator=True).fit(numbers)
    scaler = StandardScaler().fit(imputer.transform(numbers))
    means, scales = scaler.mean_.tolist(), scaler.scale_.tolist()
    indicator = (means[1], scales[1]) if missing else None
    return NumberEncoder(name, float(imputer.statistics_[0]), means[0], scales[0], indicator, log)


def fit_categories(name: str, cells: Sequence[str], min_frequency: int) -> CategoryEncoder:
    """Return the encoder of a column of categories."""
    words = np.array([cell.strip() for cell in cells], dtype=object)[:, None]
    encoder = OneHotEncoder(min_frequency=min_frequency, handle_unknown="infrequent_if_exist").fit(words)
    rare = encoder.infrequent_categories_[0]
    rare = () if rare is None else tuple(rare)
    frequent = tuple(category for category in encoder.categories_[0] if category not in set(rare))
    if len(frequent) + len(rare) == 1:
        raise DataError(
            f"`categories` {name} is constant: {(*frequent, *rare)[0]!r} in all {len(cells):,} rows of train"
        )
    if not frequent:
        raise DataError(
            f"`categories` {name} has {len(rare):,} categories in {len(cells):,} rows of train, each in fewer than "
            f"`category_min_count` {min_frequency}: it names the samples, and says nothing of new ones"
        )
    return CategoryEncoder(name, frequent, rare)


def fit_texts(name: str, cells: Sequence[str]) -> TextEncoder:
    """Return the encoder of a column of texts."""
    vectorizer = TfidfVectorizer(
        strip_accents="unicode", sublinear_tf=True, min_df=_WORD_TEXTS, max_features=MAX_WORDS, dtype=np.float64
    )
    try:
        vectorizer.fit(cells)
    except ValueError as error:  # it says so of an empty vocabulary, and of nothing else here
        raise DataError(
            f"`texts` {name} has no word that is in two of the {len(cells):,} texts of train: leave it out"
        ) from error
    return TextEncoder(name, tuple(vectorizer.get_feature_names_out().tolist()), tuple(vectorizer.idf_.tolist()))
