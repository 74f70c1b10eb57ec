import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from stages.tasks.base import mean_metric
from stages.tasks.seeds import widening
from stages.tasks.standard_error import standard_error

SHARE = mean_metric("share", "share", lambda rows: np.asarray(rows, dtype=np.float64))


def test_seeds_that_split_anew_have_the_variance_of_nadeau_and_bengio():
    random = np.random.default_rng(0)
    seeds = np.repeat(np.arange(4), 50)
    values = random.random(200) + np.repeat([0.0, 0.4, 0.1, 0.5], 50)  # by far more than single images explain
    images = np.concatenate([random.permutation(120)[:50] for _ in range(4)])
    between = np.var(values.reshape(4, 50).mean(axis=1), ddof=1)
    factor = widening(SHARE, values, images, seeds, resplit=0.25)
    margin = student.ppf(0.975, 3) * np.sqrt((1 / 4 + 0.25) * between)
    assert factor * standard_error(SHARE, values, images) * norm.ppf(0.975) == pytest.approx(margin)


def test_seeds_of_a_fixed_test_split_add_what_their_trainings_differ_by():
    random = np.random.default_rng(1)
    of_image = random.random(60)
    seeds, images = np.repeat(np.arange(3), 60), np.tile(np.arange(60), 3)
    same = np.tile(of_image, 3)
    assert widening(SHARE, same, images, seeds, resplit=None) == 1.0  # a fit in closed form
    shifted = same + np.repeat([0.0, 0.3, 0.6], 60)
    over_images = standard_error(SHARE, shifted, images)
    margin = widening(SHARE, shifted, images, seeds, resplit=None) * over_images * norm.ppf(0.975)
    assert margin >= student.ppf(0.975, 2) * np.sqrt(0.09 / 3) - 1e-9
    assert margin > 1.96 * np.sqrt(over_images**2 + 0.09 / 3)


def test_a_difference_is_widened_by_what_it_differs_by_itself():
    random = np.random.default_rng(2)
    seeds, images = np.repeat(np.arange(3), 60), np.tile(np.arange(60), 3)
    base = random.random(180) + np.repeat([0.0, 1.0, 2.0], 60)
    better = base + random.random(180)  # seeds shift both alike
    alone = widening(SHARE, better, images, seeds, resplit=None)
    assert widening(SHARE, better, images, seeds, resplit=None, against=base) < alone
