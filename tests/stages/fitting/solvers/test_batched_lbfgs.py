"""L-BFGS of many problems at once comes to where scipy's comes to with each alone."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize

from stages.fitting.solvers import batched_lbfgs
from stages.fitting.solvers.batched_lbfgs import minimize

WIDTH = 30
CONDITIONS = (1.0, 3.0, 10.0, 30.0, 100.0)


class Problems:
    """Sums of a quadratic and of log(1 + exp(b x)), of one condition each."""

    def __init__(self, device, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        stretch = torch.stack([torch.logspace(0, np.log10(condition), WIDTH) for condition in CONDITIONS]).double()
        mixing = torch.linalg.qr(torch.randn(len(CONDITIONS), WIDTH, WIDTH, generator=generator).double()).Q
        self.matrices = (mixing @ torch.diag_embed(stretch / stretch[:, -1:]) @ mixing.transpose(1, 2)).to(device)
        self.factors = torch.randn(len(CONDITIONS), WIDTH, generator=generator).double().to(device)
        self.dtype, self.sizes = dtype, []

    def __call__(self, points):
        self.sizes.append(len(points))
        exact = points.double()
        products = (self.matrices @ exact[:, :, None]).squeeze(2)
        values = (exact * products).sum(dim=1) / 2 + torch.nn.functional.softplus(self.factors * exact).sum(dim=1)
        gradients = products + self.factors * (self.factors * exact).sigmoid()
        return values, gradients.to(self.dtype)

    def narrow(self, kept):
        self.matrices, self.factors = self.matrices[kept], self.factors[kept]


def by_scipy(number):
    problems = Problems("cpu")
    problems.narrow(torch.tensor([number]))

    def objective(point):
        values, gradients = problems(torch.from_numpy(point)[None])
        return float(values[0]), gradients[0].numpy()

    return scipy_minimize(objective, np.zeros(WIDTH), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0})


def test_each_problem_ends_where_scipy_ends_in_about_as_many_steps():
    problems = Problems("cpu")
    found = minimize(problems, torch.zeros(len(CONDITIONS), WIDTH).double(), gtol=1e-9, ftol=0, most=1000)
    alone = [by_scipy(number) for number in range(len(CONDITIONS))]
    for point, reference in zip(found, alone, strict=True):
        assert np.abs(point.numpy() - reference.x).max() < 1e-6
    assert len(problems.sizes) < 2 * max(reference.nfev for reference in alone) + 8


class Small(Problems):
    """The same, of values of a hundredth."""

    def __call__(self, points):
        values, gradients = super().__call__(points)
        return values / 100, gradients / 100


def test_gradients_are_held_against_small_values_where_a_fit_begins_and_where_it_ends():
    gtol, zero = 1e-3, torch.zeros(len(CONDITIONS), WIDTH).double()
    values, gradients = Small("cpu")(minimize(Small("cpu"), zero, gtol=gtol, ftol=0, most=1000))
    assert (values > 0.1).all()
    assert (values < 0.25).all()
    assert (gradients.abs().amax(dim=1) <= gtol * values).all()
    begin = minimize(Small("cpu"), zero, gtol=3 * gtol, ftol=0, most=1000)
    largest = Small("cpu")(begin)[1].abs().amax(dim=1)
    stays = (largest <= gtol) & (largest > gtol * values)  # what a bound of its own, and not of the value, would leave
    assert stays.any()
    moved = minimize(Small("cpu"), begin, gtol=gtol, ftol=0, most=1000)
    assert (moved != begin).any(dim=1)[stays].all()


def test_who_is_done_is_left_out_and_keeps_its_point():
    problems = Problems("cpu")
    found = minimize(problems, torch.zeros(len(CONDITIONS), WIDTH).double(), gtol=1e-6, ftol=0, most=1000)
    assert problems.sizes[0] == len(CONDITIONS)
    assert problems.sizes[-1] < len(CONDITIONS)
    assert sorted(problems.sizes, reverse=True) == problems.sizes
    assert (Problems("cpu")(found)[1].abs().amax(dim=1) <= 1e-6).all()


@pytest.mark.parametrize("length", [1e-3, 1e3])
def test_a_first_step_that_is_far_too_short_or_too_long_ends_at_the_same_place(length):
    """A step as long as the gradient is a thousandth, or a thousand times, of what is right."""
    problems = Problems("cpu")
    scale = length**0.5

    class Scaled:
        def __call__(self, points):
            values, gradients = problems(points * scale)
            return values, gradients * scale

        narrow = problems.narrow

    found = minimize(Scaled(), torch.zeros(len(CONDITIONS), WIDTH).double(), gtol=1e-8, ftol=0, most=1000) * scale
    for number, point in enumerate(found):
        assert np.abs(point.numpy() - by_scipy(number).x).max() < 1e-5


def test_float32_ends_by_itself_where_numbers_round():
    problems = Problems("cpu", torch.float32)
    found = minimize(problems, torch.zeros(len(CONDITIONS), WIDTH), gtol=0, ftol=0, most=1000)
    assert len(problems.sizes) < 1000
    for number, point in enumerate(found):
        assert np.abs(point.numpy() - by_scipy(number).x).max() < 1e-3


def test_no_more_than_the_most_are_evaluated():
    problems = Problems("cpu")
    minimize(problems, torch.zeros(len(CONDITIONS), WIDTH).double(), gtol=0, ftol=0, most=7)
    assert len(problems.sizes) == 7


def test_the_host_asks_the_device_seldom(pretended_cuda):
    problems = Problems("cuda")
    start = torch.zeros(len(CONDITIONS), WIDTH, device="cuda").double()
    before = pretended_cuda.synchronizations
    found = minimize(problems, start, gtol=1e-9, ftol=0, most=1000)
    waits = pretended_cuda.synchronizations - before
    assert waits <= len(problems.sizes) / batched_lbfgs._CHECKED + 3 * len(CONDITIONS)
    assert np.abs(found[0].cpu().numpy() - by_scipy(0).x).max() < 1e-6
