"""Backbones and their weights, the cut, pooling, freezing, the classifier and torch heads."""
