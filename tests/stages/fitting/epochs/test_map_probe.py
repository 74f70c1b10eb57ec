import numpy as np
import pytest
import torch

from cache.errors import CutonceError
from stages.fitting.epochs.map_probe import probe_maps, quick_map_head
from tests.stages.fitting.epochs.test_map_heads import TASK, VOID, make_problem


def test_a_probe_is_scored_on_validation_masks_thinned_to_the_size_that_is_asked_for():
    problem = make_problem()
    statistics = probe_maps(problem, (12, 16))
    assert statistics.shape == (len(problem.val), 3, 3)
    known = [(mask != VOID).sum() for mask in problem.targets.thinned(problem.val.labels, (12, 16))]
    assert statistics.sum(axis=(1, 2)).tolist() == known
    assert TASK.metrics["miou"].score(statistics) > 0.7


def test_a_quick_head_is_trained_on_train_alone_and_draws_from_no_other_state():
    state = torch.random.get_rng_state()
    head, again = (quick_map_head(make_problem()) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    other = make_problem()
    other.val.features[:] = 0
    from_train = quick_map_head(other)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, from_train.state_dict()[name])


def test_a_training_that_is_lost_is_told():
    problem = make_problem(config={"fit_lr": (float("inf"),)})
    with pytest.raises(CutonceError, match="probe other cuts"):
        probe_maps(problem, (6, 8))
    assert np.isfinite(problem.train.features).all()
