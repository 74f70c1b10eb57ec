"""Features as points in a plane, for a person to look at: by principal components, or by UMAP."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import UsageError
from stages.config.feature_map import FeatureMapKind

_FEWEST = 3
"""Rows below which there is nothing to see."""


@dataclass(frozen=True)
class FeatureMap:
    """Rows as points.

    Attributes
    ----------
    kind : str
        'pca' or 'umap'.
    points : float32 [n, 2]
    shares : (float, float) or None
        Of PCA, the shares of all variance that the two directions have.
    """

    kind: FeatureMapKind
    points: NDArray[np.float32]
    shares: tuple[float, float] | None


def require_feature_map(kind: FeatureMapKind) -> None:
    """Refuse to begin without the library that a kind of map needs.

    Raises
    ------
    UsageError
        That names it.
    """
    if kind == "umap" and importlib.util.find_spec("umap") is None:
        raise UsageError("`feature_map` umap needs umap-learn: pip install 'umap-learn>=0.5'")


def map_features(features: NDArray[Any], kind: FeatureMapKind) -> FeatureMap | None:
    """Return rows as points in a plane; None of fewer than three, or of rows that are all alike.

    Parameters
    ----------
    features : array [n, d]
    kind : str
        'pca', the two directions in which the rows vary most; or 'umap', which keeps neighbors near each other, by
        cosine, and lets go of distances between what is far apart (McInnes, Healy and Melville 2018).

    Raises
    ------
    UsageError
        If the library that a kind needs is not there.
    """
    require_feature_map(kind)
    rows = np.asarray(features, dtype=np.float32)
    if len(rows) < _FEWEST or rows.shape[1] < 2 or not np.ptp(rows, axis=0).any():
        return None
    if kind == "umap":
        from umap import UMAP

        reducer = UMAP(metric="cosine", n_neighbors=min(15, len(rows) - 1), random_state=0, n_jobs=1)
        # its spectral beginning needs more rows than dimensions
        if len(rows) < 2 * _FEWEST:
            return None
        return FeatureMap(kind, np.asarray(reducer.fit_transform(rows), dtype=np.float32), None)
    from sklearn.decomposition import PCA

    found = PCA(2, svd_solver="randomized" if min(rows.shape) > 2 else "full", random_state=0).fit(rows)
    first, second = found.explained_variance_ratio_.tolist()
    return FeatureMap(kind, np.asarray(found.transform(rows), dtype=np.float32), (first, second))
