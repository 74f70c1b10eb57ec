"""A search over some rows, the last of which are held out."""

import numpy as np

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.solvers.grid import Grid
from stages.fitting.solvers.host_search import search
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.tasks.base import ranked_by
from tests.stages.fitting.rows_of_digits import fit_problem

VALUES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def searched(rows, labels, balanced=False, train=None):
    """Return what came of it, the settings, and the problem."""
    train = train or round(len(rows) * 0.75)
    config = HeadConfig(c_values=VALUES, cv=0, class_weights="balanced" if balanced else "none")
    classes = int(labels.max()) + 1
    parts = (FeatureRows(rows[part], labels[part]) for part in (slice(train), slice(train, None)))
    problem = fit_problem(*parts, classes=classes, options=config)
    make = LinearModelFactory("logistic", problem.task, np.zeros(rows.shape[1], np.float32), balanced)
    task = ranked_by(problem.task, None, balanced=balanced)
    grid = Grid(make, VALUES, config.scalers, task)
    return search(grid, rows, labels, problem.cv, seed=0), grid, problem
