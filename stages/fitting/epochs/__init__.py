"""Heads that train in epochs: several side by side, in folds, on vectors and on maps."""
