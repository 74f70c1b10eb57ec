"""The nearest class mean against scikit-learn's, and out of folds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from stages.config.heads import HeadConfig
from stages.fitting.heads.ncm import fit_ncm
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import digits, fit_problem

pytestmark = pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # pixels at the border are the same in all


def classes_of(head, rows):
    return head.eval()(torch.from_numpy(rows)).argmax(dim=1).numpy()


def test_classes_are_those_of_the_nearest_centroid():
    train, val, _ = digits(5, np.float32)
    found = fit_ncm(fit_problem(train, val, classes=5, options=HeadConfig(scalers=("none",))))
    nearest = NearestCentroid().fit(train.features, train.labels)
    assert np.array_equal(classes_of(found.head_train_only, val.features), nearest.predict(val.features))


def test_standardized_rows_are_nearest_to_standardized_means():
    train, val, _ = digits(5, np.float32)
    found = fit_ncm(fit_problem(train, val, classes=5, options=HeadConfig(scalers=("standard",))))
    scaler = ModeratedScaler().fit(train.features)
    nearest = NearestCentroid().fit(scaler.transform(train.features), train.labels)
    ours = classes_of(found.head_train_only, val.features)
    assert np.mean(ours == nearest.predict(scaler.transform(val.features))) > 0.99


def test_out_of_folds_each_row_is_answered_by_means_of_the_others():
    train, val, _ = digits(3, np.float32)
    problem = replace(fit_problem(train, val, classes=3, options=HeadConfig(scalers=("none",))), compared=True)
    answers = fit_ncm(problem).fold().outputs[0].argmax(axis=1)
    features = np.concatenate([train.features, val.features])
    for fitted, scored in problem.divisions[0].splits:
        nearest = NearestCentroid().fit(features[fitted], problem.labels[fitted])
        assert np.array_equal(answers[scored], nearest.predict(features[scored]))


def test_a_class_without_rows_is_never_the_answer():
    train, val, _ = digits(4, np.float32)
    known = train.labels != 2
    lacking = replace(train, features=train.features[known], labels=train.labels[known])
    found = fit_ncm(fit_problem(lacking, val, classes=4, options=HeadConfig(scalers=("none",))))
    assert 2 not in classes_of(found.head_train_only, val.features)
