"""How features are drawn as points in a plane; no library is imported here."""

from typing import Literal

FeatureMapKind = Literal["pca", "umap"]
