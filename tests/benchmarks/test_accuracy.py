import re

import numpy as np
import pytest

from benchmarks.accuracy import BASELINE, DEPTHS, Scored, Split, difference, lost, main


def test_each_head_on_each_depths_and_the_ensemble_are_scored_and_one_is_chosen(tmp_path, capsys):
    main(["--quick", "--cache", str(tmp_path / "cache"), "--groups", "logistic", "logistic+ridge"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("drawn")]
    scores = {method: cv_and_test for _, method, *cv_and_test in (re.split(r"\s{2,}", line)[:4] for line in lines)}
    methods = list(scores)
    # the ensemble of all heads is what it is in a folder of its own
    assert scores["greedy of logistic+ridge"] == scores["greedy"]
    assert "greedy of logistic" in scores
    expected = {f"{head} {depths}" for head in ("logistic", "ridge") for depths in DEPTHS}
    assert expected | {"greedy", "what is chosen"} <= set(methods)


def _splits(*pairs):
    return [
        Split({BASELINE: Scored(80, base, 1, 0.5), "ridge all": Scored(81, other, 1, 0.4)}, chosen, 0.25)
        for base, other, chosen in pairs
    ]


def test_a_difference_is_widened_because_splits_share_images():
    splits = _splits((80, 81, "ridge all"), (80, 82, "ridge all"), (80, 83, "ridge all"))
    mean, low, high = difference(splits, "ridge all")
    assert mean == pytest.approx(2)
    naive = 4.303 * np.sqrt(1 / 3)  # t of two degrees of freedom
    assert (high - low) / 2 == pytest.approx(naive * np.sqrt(1 + 3 * 0.25), rel=1e-3)


def test_what_is_lost_is_counted_against_the_method_that_tests_best():
    splits = _splits((80, 83, BASELINE), (80, 81, "ridge all"))
    assert lost(splits) == pytest.approx(1.5)
    assert difference(splits, None)[0] == pytest.approx(0.5)
