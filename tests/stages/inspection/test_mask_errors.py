"""A mask that is another image's is found among those that are right; what is unsure is not doubted."""

from dataclasses import replace

import numpy as np
import pytest

from stages.fitting.feature_rows import FeatureRows
from stages.inspection.mask_errors import LEAST, find_mask_errors
from stages.tasks.base import find_metric
from tests.stages.fitting.epochs.test_map_heads import TASK, VOID, make_problem

COUNT, WRONG = 24, 5


@pytest.fixture(scope="module")
def table():
    """Maps that say the classes, and masks of them, of which one has road and car exchanged."""
    problem = make_problem(COUNT)
    rows = FeatureRows(
        np.concatenate([problem.train.features, problem.val.features]), np.arange(COUNT), groups=np.arange(COUNT)
    )
    masks = problem.targets
    masks.masks = list(masks.masks)
    wrong = masks.masks[WRONG]
    masks.masks[WRONG] = np.array([0, 2, 1, *[VOID] * 253], np.uint8)[wrong]
    return replace(problem, train=rows, val=rows)


@pytest.fixture(scope="module")
def errors(table):
    return find_mask_errors(table, np.arange(COUNT))


def test_the_mask_that_is_wrong_is_the_first(errors, table):
    assert errors.doubted[0] == errors.disagreement.argmax() == WRONG
    assert errors.disagreement[WRONG] > 0.1
    assert errors.words[0] in ("road where the mask says car", "car where the mask says road")
    others = np.delete(errors.disagreement, WRONG)
    assert np.median(others) < 0.01
    assert errors.predicted[WRONG].shape == table.targets.masks[WRONG].shape
    assert all(errors.disagreement[place] > LEAST for place in errors.doubted)


def test_the_model_is_scored_on_masks_it_did_not_see(errors):
    assert 0.5 < errors.score < 1
    assert find_metric(TASK).name == "miou"


def test_disagreement_is_of_known_pixels_of_which_the_model_is_sure(errors, table):
    truth = table.targets.masks[WRONG]
    predicted = errors.predicted[WRONG]
    unlike = ((predicted != truth) & (truth != VOID)).sum() / (truth != VOID).sum()
    assert 0 < errors.disagreement[WRONG] <= unlike


def test_images_of_one_group_stay_together_and_one_group_alone_says_nothing(table):
    assert find_mask_errors(table, np.zeros(COUNT, np.int64)) is None
