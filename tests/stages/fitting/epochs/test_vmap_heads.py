"""Heads trained at once take the steps that each would take alone, which are those of torch's AdamW."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.fitting.epochs.vmap_heads import VmapHeads
from stages.network.heads.registry import build_head

RATES, DECAYS = [1e-3, 1e-2, 3e-2], [0.0, 0.1, 1.0]
BATCHES = [(torch.randn(16, 6, generator=torch.Generator().manual_seed(n)), torch.arange(16) % 3) for n in range(25)]


def head(name):
    torch.manual_seed(0)
    return build_head(name, (6,), 3, {"hidden": 5, "dropout": 0.0})


def stepped(stack, beta1=0.9):
    for step, (rows, labels) in enumerate(BATCHES):
        logits = stack.logits(rows)
        losses = torch.stack([functional.cross_entropy(head_logits, labels) for head_logits in logits])
        stack.step(losses, 1 / (1 + step), beta1 - 0.01 * (step % 3))
    return [stack.weights(number) for number in range(stack.size)]


def stepped_by_torch(module, rate, decay, beta1=0.9):
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    for step, (rows, labels) in enumerate(BATCHES):
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = rate / (1 + step), (beta1 - 0.01 * (step % 3), 0.999)
        optimizer.zero_grad()
        functional.cross_entropy(module(rows), labels).backward()
        optimizer.step()
    return module.state_dict()


@pytest.mark.parametrize("name", ["linear", "mlp", "cosine"])
def test_at_once_one_by_one_and_by_torch_are_the_same(name):
    cpu = torch.device("cpu")
    at_once = stepped(VmapHeads([head(name)] * 3, RATES, DECAYS, cpu))
    for number, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        alone = stepped(VmapHeads([head(name)], [rate], [decay], cpu))[0]
        by_torch = stepped_by_torch(copy.deepcopy(head(name)), rate, decay)
        for part, expected in by_torch.items():
            assert torch.allclose(at_once[number][part], expected, atol=2e-5), part
            assert torch.allclose(alone[part], expected, atol=2e-5), part
    assert not torch.allclose(at_once[0][part], at_once[2][part], atol=1e-3)


def test_heads_see_different_dropout():
    torch.manual_seed(0)
    stack = VmapHeads(
        [build_head("linear", (200,), 2, {"dropout": 0.5})] * 2, [0.1, 0.1], [0.0, 0.0], torch.device("cpu")
    )
    stack.train(True)
    first, second = stack.logits(torch.ones(4, 200))
    assert not torch.allclose(first, second)
    stack.train(False)
    first, second = stack.logits(torch.ones(4, 200))
    assert torch.equal(first, second)
    assert np.isfinite(first.detach().numpy()).all()


def test_heads_with_rows_of_their_own_take_the_steps_of_heads_alone():
    torch.manual_seed(0)
    template = build_head("mlp", (6,), 3, {"hidden": 8, "dropout": 0.0, "l2": False})
    rows, targets = torch.randn(4, 16, 6), torch.randint(3, (4, 16))
    together = VmapHeads([template] * 4, [1e-2] * 4, [1e-1] * 4, torch.device("cpu"))
    alone = [VmapHeads([template], [1e-2], [1e-1], torch.device("cpu")) for _ in range(4)]
    for _ in range(5):
        losses = functional.cross_entropy(
            together.logits(rows, own=True).flatten(0, 1), targets.flatten(), reduction="none"
        )
        together.step_alike(losses.view(4, -1).mean(dim=1), 0.5, 0.9)
        for heads_alone, own_rows, own_targets in zip(alone, rows, targets, strict=True):
            heads_alone.step(functional.cross_entropy(heads_alone.logits(own_rows)[0], own_targets)[None], 0.5, 0.9)
    for number, heads_alone in enumerate(alone):
        for name, expected in heads_alone.weights(0).items():
            torch.testing.assert_close(together.weights(number)[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "row_shape"),
    [
        *((name, (6,)) for name in ("linear", "mlp", "cosine")),
        *((name, (8, 3, 3)) for name in ("attention", "multi_query")),
        *((name, (4, 9)) for name in ("mil", "gru", "lstm", "transformer")),
    ],
)
@pytest.mark.filterwarnings("error")
def test_torch_has_every_step_of_heads_side_by_side_as_one(name, row_shape):
    pattern = build_head(name, row_shape, 3, {})
    rows = torch.ones(5, *row_shape)
    size = 2 if pattern.stackable else 1
    stack = VmapHeads([pattern] * size, [0.1] * size, [0.0] * size, torch.device("cpu"))
    for own, given in ((False, rows), (True, rows.expand(stack.size, *rows.shape))):
        stack.step(stack.logits(given, own=own).square().mean(dim=(1, 2)), 1.0, 0.9)


def test_a_head_that_normalizes_batches_takes_a_single_row():
    stack = VmapHeads([head("concat")], [0.1], [0.0], torch.device("cpu"))
    row = torch.randn(1, 6)
    for own, given in ((False, row), (True, row[None])):
        assert stack.logits(given, own=own).shape == (1, 1, 3)
