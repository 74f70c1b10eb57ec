"""Labels that are flipped on purpose are found, and what cannot be judged is left alone."""

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from cache.errors import DataError, UsageError
from stages.inspection.label_errors import doubt_labels, doubt_numbers, find_label_errors
from stages.inspection.out_of_fold import out_of_fold_outputs, out_of_fold_probabilities
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.stages.fitting.rows_of_digits import numbered_classes


@pytest.fixture(scope="module")
def digits():
    """Raw pixels as features, and labels of which 5 % are flipped to another class."""
    pixels, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    flipped = generator.random(len(labels)) < 0.05
    given = np.where(flipped, (labels + generator.integers(1, 10, len(labels))) % 10, labels)
    features = (pixels / 16).astype(np.float16)
    return features, labels, given, flipped, out_of_fold_probabilities(features, given, numbered_classes(10), seed=0)


def test_flipped_labels_are_found_and_put_right(digits):
    """Seen: 78 found, of which 76 are among the 95 that were flipped, and 73 are put right."""
    _, labels, given, flipped, probabilities = digits
    errors = find_label_errors(given, probabilities)
    hits = flipped[errors.indices]
    assert hits.sum() / flipped.sum() > 0.75
    assert hits.mean() > 0.9
    assert (errors.suggested[hits] == labels[errors.indices][hits]).mean() > 0.9
    assert (np.diff(errors.quality) >= 0).all()
    assert (errors.suggested != given[errors.indices]).all()


def test_labels_that_are_right_are_hardly_doubted(digits):
    features, labels, *_ = digits
    assert len(
        find_label_errors(labels, out_of_fold_probabilities(features, labels, numbered_classes(10), seed=0))
    ) < 0.005 * len(labels)


def test_probabilities_come_from_models_that_have_not_seen_the_sample(digits):
    """Labels drawn at random cannot be predicted from other samples; a model that had seen them would know many."""
    features, *_ = digits
    random = np.random.default_rng(1).integers(0, 2, 300)
    probabilities = out_of_fold_probabilities(features[:300], random, numbered_classes(2), seed=0)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == random).mean() < 0.6


def test_copies_with_the_same_wrong_label_are_found_only_if_they_stay_together(digits):
    """Each of 200 images five times: torn over the folds, its wrong label is confirmed by its copies."""
    features, labels, given, flipped, _ = digits
    images = np.repeat(np.arange(200), 5)
    apart = out_of_fold_probabilities(features[images], given[images], numbered_classes(10), seed=0)
    together = out_of_fold_probabilities(features[images], given[images], numbered_classes(10), seed=0, groups=images)
    wrong = flipped[images]
    recall = [
        np.isin(np.flatnonzero(wrong), find_label_errors(given[images], probabilities).indices).mean()
        for probabilities in (apart, together)
    ]
    assert recall[0] < 0.2
    assert recall[1] > 0.6


def test_a_class_the_models_could_not_know_is_not_judged(digits):
    features, labels, *_ = digits
    labels = np.where(labels == 9, 8, labels)
    labels[5] = 9
    probabilities = out_of_fold_probabilities(features, labels, numbered_classes(11), seed=0)
    assert probabilities[5, 9] == 0
    assert (probabilities[:, 10] == 0).all()
    assert 5 not in find_label_errors(labels, probabilities).indices


def test_what_makes_no_folds_is_refused():
    features = np.zeros((6, 3), np.float16)
    with pytest.raises(DataError, match="one class"):
        out_of_fold_probabilities(features, np.zeros(6, np.int64), numbered_classes(2), seed=0)
    with pytest.raises(DataError, match="no class has two"):
        out_of_fold_probabilities(features, np.arange(6), numbered_classes(6), seed=0)
    with pytest.raises(UsageError, match="`pool` avg"):
        out_of_fold_probabilities(np.zeros((6, 3, 2, 2), np.float16), np.arange(6) % 2, 2, seed=0)


def test_the_same_seed_gives_the_same_probabilities_and_float16_is_not_changed(digits):
    features, _, given, _, _ = digits
    before = features[:400].copy()
    first, second = (
        out_of_fold_probabilities(features[:400], given[:400], numbered_classes(10), seed=3) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert np.array_equal(before, features[:400])


def test_without_cleanlab_the_message_names_it(digits, monkeypatch):
    *_, given, _, probabilities = digits
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "cleanlab", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'cleanlab>=2\.9'"):
        find_label_errors(given, probabilities)


def test_of_labels_each_that_is_wrong_is_found_by_itself_and_what_is_not_known_is_left_alone():
    """Two labels that follow from the features, each flipped for other samples."""
    features = np.random.default_rng(0).standard_normal((900, 20)).astype(np.float32)
    truth = (features[:, :2] > 0).astype(np.float32)
    given = truth.copy()
    wrong = {(row, number) for number in (0, 1) for row in range(number, 900, 60)}
    for row, number in wrong:
        given[row, number] = 1 - given[row, number]
    given[7, 0] = np.nan
    task = MultiLabel(["cold", "large"])
    outputs = out_of_fold_outputs(features, given, task, 0, np.arange(900))
    doubts = doubt_labels(given, np.asarray(task.activate(torch.from_numpy(outputs))), task.class_names)
    numbers = [task.class_names.index(words.split(" ")[1]) for words in doubts.suggested]
    found = set(zip(doubts.indices.tolist(), numbers, strict=True))
    assert len(found & wrong) > 0.6 * len(wrong)
    assert len(found & wrong) > 0.6 * len(found)
    assert (7, 0) not in found
    for row, number, words in zip(doubts.indices, numbers, doubts.suggested, strict=True):
        assert words.startswith("without" if given[row, number] else "with ")
    assert (np.diff(doubts.scores) >= 0).all()


def test_numbers_that_are_far_off_are_found_and_no_others():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((300, 8)).astype(np.float32)
    targets = np.stack([features[:, 0], features[:, 1] - features[:, 2]], axis=1).astype(np.float64)
    targets += generator.uniform(-0.1, 0.1, targets.shape)  # of which none is far off
    targets[40, 1] += 2
    targets[50, 0] -= 1
    targets[60, 0] = np.nan
    task = Regression(("width", "height"), (0.0, 0.0), (1.0, 1.0))
    outputs = out_of_fold_outputs(features, targets, task, 0, np.arange(300))
    doubts = doubt_numbers(targets, outputs, lambda row, number: task.names[number])
    assert (doubts.indices.tolist(), doubts.suggested) == ([40, 50], ["height", "width"])
    assert doubts.scores[0] > doubts.scores[1] > 3.5


def test_outputs_of_labels_and_numbers_come_from_models_that_have_not_seen_the_sample():
    """Copies that stay together cannot tell each other's random number; torn apart they do."""
    generator = np.random.default_rng(0)
    features = np.repeat(generator.standard_normal((60, 100)), 3, axis=0).astype(np.float32)
    targets = np.repeat(generator.standard_normal((60, 1)), 3, axis=0)
    apart, together = (
        out_of_fold_outputs(features, targets, Regression(), 0, groups)[:, 0]
        for groups in (np.arange(180), np.repeat(np.arange(60), 3))
    )
    assert np.corrcoef(apart, targets[:, 0])[0, 1] > 0.9
    assert np.corrcoef(together, targets[:, 0])[0, 1] < 0.5
    assert out_of_fold_outputs(features, targets, Regression(), 0, np.zeros(180, np.int64)) is None
