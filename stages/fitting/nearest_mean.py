"""The nearest class mean: nothing is fitted but means, and nothing chosen but the scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.fitting.calibration import fit_temperature
from stages.fitting.fitted import Fitted
from stages.fitting.linear import ABSENT
from stages.fitting.rows import AnyRows
from stages.fitting.scaling import Scaling
from stages.fitting.scoring import logits, score_of
from stages.fitting.sums import Sums, centre_of
from stages.network.heads import LinearHead


def fit_nearest_mean(
    train: AnyRows, val: AnyRows, scalings: Sequence[Scaling], num_classes: int, *, balanced: bool
) -> Fitted:
    """Return the head of nearest class means: the scores z.m - |m|^2 / 2 order classes by the distance to their mean m.

    The scaling is chosen on the validation split: there is nothing else to choose.
    """
    centre = centre_of(train)
    tried, fitted = [], []
    for scaling in scalings:
        of_train, of_val = (
            Sums.of(rows, num_classes, np.ones(len(rows), np.float32), centre, l2=scaling == "l2")
            for rows in (train, val)
        )
        margins = logits(_head(of_train, scaling, 1.0), val)
        tried.append({"scaler": scaling, "score": score_of(margins, val.labels, balanced)})
        fitted.append((of_train, of_val, margins))
    top = max(range(len(tried)), key=lambda number: tried[number]["score"])
    of_train, of_val, margins = fitted[top]
    temperature = fit_temperature(margins, val.labels)
    head, without_val = (_head(sums, scalings[top], temperature) for sums in (of_train + of_val, of_train))
    settings = {**tried[top], "selected by": "validation split", "temperature": temperature}
    return Fitted(head, without_val, settings, tried)


def _head(sums: Sums, scaling: Scaling, temperature: float) -> LinearHead:
    mean, scale = sums.standardisation() if scaling == "standard" else (np.zeros_like(sums.total), None)
    counts = sums.class_weight[:, None]
    means = np.divide(sums.by_class, counts, out=np.zeros_like(sums.by_class), where=counts > 0) - mean
    means = means if scale is None else means / scale
    bias = np.where(sums.class_weight > 0, -(means**2).sum(axis=1) / 2 / temperature, ABSENT)
    origin = mean if sums.l2 else mean + sums.centre
    return LinearHead.from_coefficients(means / temperature, bias, origin, scale, l2=sums.l2)
