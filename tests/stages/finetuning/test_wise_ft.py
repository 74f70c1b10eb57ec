"""Weights between start and end of a fine-tuning, chosen on the validation split, are what it is left with."""

from dataclasses import replace

import pytest
import torch

from stages.config.finetune import FinetuneConfig
from stages.finetuning import wise_ft
from stages.finetuning.finetune import finetune
from stages.finetuning.predict_images import predict_proba
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.setup import training_fingerprint
from stages.finetuning.wise_ft import interpolated
from stages.training.history import TrainResult

QUICK = FinetuneConfig(unfreeze="1", epochs=1, lr=1e-3, head_lr=1e-3, batchnorm="train", num_workers=0, wise_ft=True)


@pytest.fixture(scope="module")
def ends(probe):
    """What a training begins with, comes to, and is left with; the rates are high enough to change the answers."""
    seen = {}
    choose = wise_ft.choose_interpolation

    def kept(run, weights, start, result):
        seen.update(start=start, end=weights.snapshot(run.model), history=list(result.history))
        found = choose(run, weights, start, result)
        seen["left"] = weights.snapshot(run.model)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stages.finetuning.finetune.choose_interpolation", kept)
        problem = FinetuneProblem(probe.extractor, probe.manifest, probe.ignorant(), QUICK, 0)
        return problem, finetune(problem), seen


def test_the_share_that_validates_best_is_kept_and_is_what_the_network_answers_with(ends, probe):
    problem, tuned, seen = ends
    found = tuned.interpolation
    assert sorted(found.tried) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert found.tried[0.0] == seen["history"][0].val_score
    assert found.tried[1.0] == tuned.fit.best.val_score
    assert tuned.val_score == found.val_score == max(found.tried.values())
    for name, value in interpolated(seen["start"], seen["end"], found.alpha).items():
        torch.testing.assert_close(seen["left"][name], value)
    val = probe.manifest.select(probe.manifest.indices("val"))
    right = (predict_proba(probe.extractor, tuned.upper, val).argmax(axis=1) == val.targets).mean()
    assert right == pytest.approx(found.val_score)


def test_statistics_of_batchnorm_are_between_too_and_counts_are_those_of_the_end(ends):
    _, _, seen = ends
    start, end = seen["start"], seen["end"]
    between = interpolated(start, end, 0.25)
    (variance, *_) = [name for name in end if name.endswith("running_var")]
    assert not torch.equal(start[variance], end[variance])
    torch.testing.assert_close(between[variance], 0.75 * start[variance] + 0.25 * end[variance], rtol=1e-5, atol=0)
    (count, *_) = [name for name in end if name.endswith("num_batches_tracked")]
    assert torch.equal(between[count], end[count])


def test_a_training_that_gained_nothing_is_left_as_it_began(ends):
    problem, tuned, seen = ends
    began = TrainResult()
    began.add(seen["history"][0], seen["history"][0].val_score)
    run = wise_ft.TrainRun(
        tuned.upper.model, torch.optim.SGD(tuned.upper.model.parameters()), None, problem.task, *2 * [None]
    )
    weights = wise_ft.TrainableState(tuned.upper.model, run.optimizer)
    assert wise_ft.choose_interpolation(run, weights, weights.snapshot(tuned.upper.model), began).tried == {
        0.0: began.best.val_score,
        1.0: began.best.val_score,
    }


def test_trainings_of_before_the_option_are_found_again(ends):
    problem, _, _ = ends
    assert training_fingerprint(problem)["wise_ft"] is True
    assert "wise_ft" not in training_fingerprint(replace(problem, config=replace(QUICK, wise_ft=False)))


def test_what_training_left_as_it_was_is_no_number_between():
    start = {"mask": torch.tensor([0.0, -torch.inf]), "weight": torch.zeros(2)}
    end = {"mask": torch.tensor([0.0, -torch.inf]), "weight": torch.ones(2)}
    between = interpolated(start, end, 0.25)
    assert torch.equal(between["mask"], start["mask"])
    assert torch.equal(between["weight"], torch.full((2,), 0.25))
