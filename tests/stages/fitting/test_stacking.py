"""A linear model on what heads say: better than each where they err on different rows, and told of all tasks."""

import numpy as np
import pytest
import torch

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.problem import FitProblem
from stages.fitting.stacking import fit_stack, stacked_outputs
from stages.network.heads.ensemble import StackedHead
from stages.network.heads.linear import LinearHead
from stages.tasks.averaging import LEAST_PROBABILITY
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

OPTIONS = HeadConfig(c_values=(1e-2, 1e-1), scalers=("standard",), cv=4)
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, 320)
CASES = [
    (SingleLabel(["a", "b", "c"]), CLASSES, np.eye(3)[CLASSES]),
    (MultiLabel(["sky", "dog"]), (labels := (RNG.random((320, 2)) < 0.4).astype(np.float32)), labels),
    (Regression(("width",)), (numbers := RNG.normal(size=(320, 1))), numbers),
]


@pytest.mark.parametrize(("task", "targets", "signal"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_it_says_more_than_each_of_the_heads_and_is_one_module_with_them(task, targets, signal):
    noisy = [torch.from_numpy(2 * signal + RNG.normal(size=(2, *signal.shape))[0]).float() for _ in range(2)]
    said = [task.activate(outputs).numpy() for outputs in noisy]
    rows = FeatureRows(stacked_outputs(task, said), targets)
    places = np.arange(len(rows))
    problem = FitProblem(rows.at(places[:240]), rows.at(places[240:]), task, OPTIONS, 0, torch.device("cpu"))
    trained, folded = fit_stack(problem)
    assert trained.name == ("ridge" if task.name == "regression" else "logistic")

    def loss(answers):
        return np.nanmean(task.agreement_loss(task.agreement(answers, targets)))

    assert loss(folded.activated(task)[0]) < min(map(loss, said))
    # members that say what the rows hold, in one module with the stack, say what the stack says
    width = signal.shape[1]
    members = []
    for number in range(2):
        member = LinearHead((2 * width,), width)
        with torch.no_grad():
            member.output.weight.copy_(torch.eye(2 * width)[number * width : (number + 1) * width])
            member.output.bias.zero_()
        members.append(member)
    stacked = StackedHead(members, trained.module, task.activation, LEAST_PROBABILITY).eval()
    outputs, expected = stacked(torch.cat(noisy, dim=1)), trained.module(torch.from_numpy(rows.features))
    torch.testing.assert_close(outputs, expected, atol=2e-4, rtol=1e-3)


def test_a_probability_of_nothing_is_a_finite_number():
    task = SingleLabel(["a", "b"])
    assert np.isfinite(stacked_outputs(task, [np.array([[1.0, 0.0]])])).all()
    assert np.isfinite(stacked_outputs(MultiLabel(["x", "y"]), [np.array([[1.0, 0.0]])])).all()
