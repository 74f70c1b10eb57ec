"""Rows as coordinates in the span of some: the same products, the same heads, and heads on rows as they are."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from cache.errors import DataError
from stages.fitting import span
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.heads.logistic import fit_logistic
from stages.fitting.span import BlockRows, DepthChoice
from stages.network.heads.depths import ProjectedHead
from stages.network.heads.knn import KNNHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.mlp import MLPHead
from stages.network.heads.rbf import RBFHead
from stages.network.heads.serialization import load_head, save_head
from tests.stages.fitting.depth_rows import Layout, problem_of, rows_of
from tests.stages.fitting.moderated_scaler import ModeratedScaler

TRAIN, VAL, OTHERS = rows_of(50, 1), rows_of(30, 2), rows_of(40, 3)
WIDTHS = {block.name: block.width for block in Layout().blocks}
ALL = DepthChoice("all", tuple(WIDTHS), "sqrt")
OUTER = DepthChoice("outer", ("inner:avg", "last:avg"), "equal")
CHOICES = (ALL, OUTER, DepthChoice("blocks", ("middle:avg", "last:avg"), "dim"))


def block_rows(landmarks=2000, train=TRAIN, val=VAL):
    return BlockRows(train, val, WIDTHS, landmarks, seed=0)


def by_hand(choice, rows=None, scaler=ModeratedScaler):
    """Standardized on train and validation, a block of d numbers times d^-p, rows of mean squared length 1,000."""
    known = np.concatenate([TRAIN.features, VAL.features]).astype(np.float64)
    rows = known if rows is None else rows.astype(np.float64)
    scaled, parts, start = scaler().fit(known).transform(rows), [], 0
    power = {"dim": 0, "sqrt": 0.25, "equal": 0.5}[choice.weighting]
    for name, width in WIDTHS.items():
        parts += [scaled[:, start : start + width] * width**-power] if name in choice.names else []
        start += width
    picked = np.concatenate(parts, axis=1)
    squares = sum(WIDTHS[name] ** (1 - 2 * power) for name in choice.names)
    return picked * np.sqrt(1000 / squares)


@pytest.mark.parametrize("number", range(len(CHOICES)))
def test_coordinates_have_the_products_of_the_weighted_numbers(number):
    """Summed block by block for all choices at once."""
    values = list(block_rows().coordinates(CHOICES))[number].values
    expected = by_hand(CHOICES[number])
    assert np.allclose(values @ values.T, expected @ expected.T, atol=0.05)
    assert np.isclose((by_hand(CHOICES[number], scaler=StandardScaler) ** 2).sum(axis=1).mean(), 1000)
    assert values.shape == (80, 80)


def test_what_a_layer_rounds_by_is_no_number_of_a_row():
    """The deviation within a map that is the same everywhere is such; another library's rounding decided for knn."""
    rng, widths = np.random.default_rng(0), {"first:avg": 4, "first:std": 4, "last": 4}
    features = rng.normal(size=(40, 12)).astype(np.float32)
    features[:, 1] = 0.16 + rng.normal(size=40) * 1e-3  # varies by much more than it is rounded by
    features[:, 0], features[:, 4] = 0.16, 1e-6 + rng.normal(size=40) * 1e-8
    features[:, 8] = 1e-6 + rng.normal(size=40) * 1e-8  # the only number of its place: nothing larger beside it
    train, val = (FeatureRows(features[part], np.arange(20) % 2) for part in (slice(20), slice(20, 40)))
    rows = BlockRows(train, val, widths, 2000, seed=0)
    constant = np.zeros(12, bool)
    constant[[0, 4]] = True
    assert np.array_equal(rows.scale.numpy() == 1, constant)
    assert np.allclose(rows.scale.numpy()[~constant], features.std(axis=0)[~constant], rtol=1e-3)
    (numbers,) = rows.coordinates([DepthChoice("all", tuple(widths), "sqrt")])
    rounded = features[:8].copy()
    rounded[:, 4] += 1e-6
    assert np.abs(numbers.of(rounded) - numbers.of(features[:8])).max() < 1e-4


def test_numbers_that_are_fewer_than_rows_stay_what_they_are():
    last = DepthChoice("last", ("last:avg",), "sqrt")
    (coordinates,) = block_rows().coordinates([last])
    assert coordinates.triangle is None
    assert np.allclose(coordinates.values, by_hand(last), atol=1e-3)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.depths)
def test_a_linear_head_on_coordinates_is_that_head_on_rows(choice):
    (coordinates,) = block_rows().coordinates([choice])
    on_numbers = block_rows().numbers(choice)

    def logits(found):
        rows = [
            FeatureRows(found.values[part], labels)
            for part, labels in ((slice(0, 50), TRAIN.labels), (slice(50, None), VAL.labels))
        ]
        problem = problem_of(*rows, c_values=(1e-3,), scalers=("none",))
        head = found.on_rows(fit_logistic(problem).head)
        return head(torch.from_numpy(OTHERS.features).float())

    assert torch.allclose(logits(coordinates), logits(on_numbers), atol=2e-3)


def kernel_machine(values):
    """A head around some of the coordinates."""
    rng = np.random.default_rng(0)
    places = np.sort(rng.permutation(len(values))[:20])
    machine = RBFHead.from_support(
        values[places] - 1, rng.normal(size=(20, 3)), np.zeros(3), 3e-4, np.ones(values.shape[1])
    )
    machine.places = places
    return places, machine


def test_a_kernel_machine_counts_the_part_of_a_row_outside_of_the_span():
    (coordinates,) = block_rows().coordinates([OUTER])
    places, machine = kernel_machine(coordinates.values)
    others = torch.from_numpy(OTHERS.features).float()
    kernel = np.exp(-3e-4 * ((by_hand(OUTER, OTHERS.features)[:, None] - by_hand(OUTER)[places]) ** 2).sum(axis=2))
    expected = kernel @ machine.coefficients.detach().numpy()
    assert np.allclose(coordinates.on_rows(machine)(others).detach().numpy(), expected, atol=1e-2)
    assert np.abs(expected).max() > 0.1


def test_neighbors_are_those_of_the_numbers():
    (coordinates,) = block_rows().coordinates([ALL])
    head = coordinates.on_rows(KNNHead.from_rows(coordinates.values[:50], TRAIN.labels, 3, 5))
    expected = KNNHead.from_rows(by_hand(ALL)[:50].astype(np.float32), TRAIN.labels, 3, 5)
    found = head(torch.from_numpy(OTHERS.features).float())
    assert torch.allclose(found, expected(torch.from_numpy(by_hand(ALL, OTHERS.features)).float()), atol=1e-2)


def test_many_rows_are_seen_in_the_span_of_landmarks_by_fit_and_by_head_alike(monkeypatch, tmp_path):
    monkeypatch.setattr(span, "EXACT_UP_TO", 60)
    (coordinates,) = block_rows(landmarks=30).coordinates([OUTER])
    assert coordinates.values.shape == (80, 30)
    _, machine = kernel_machine(coordinates.values)
    head = coordinates.on_rows(machine)
    rows = torch.from_numpy(np.concatenate([TRAIN.features, VAL.features])).float()
    assert torch.allclose(head(rows), machine(torch.from_numpy(coordinates.values)), atol=1e-2)
    linear = LinearHead.from_coefficients(np.random.default_rng(0).normal(size=(3, 30)), np.ones(3))
    assert torch.allclose(coordinates.on_rows(linear)(rows), linear(torch.from_numpy(coordinates.values)), atol=1e-1)
    assert any(isinstance(part, ProjectedHead) for part in head.modules())
    save_head(tmp_path / "head", head, {})
    assert torch.equal(load_head(tmp_path / "head")[0](rows), head(rows))


def test_landmarks_that_are_all_rows_give_the_products_exactly(monkeypatch):
    monkeypatch.setattr(span, "EXACT_UP_TO", 60)
    (coordinates,) = block_rows(landmarks=80).coordinates([ALL])
    expected = by_hand(ALL)
    assert np.allclose(coordinates.values @ coordinates.values.T, expected @ expected.T, atol=0.1)


@pytest.mark.parametrize("landmarks", [80, 40])
def test_along_axes_at_random_rows_have_the_same_products_and_all_numbers_as_large_a_part(monkeypatch, landmarks):
    monkeypatch.setattr(span, "EXACT_UP_TO", 60)
    (coordinates,) = block_rows(landmarks=landmarks).coordinates([ALL])
    spread = coordinates.spread(seed=3)
    products, expected = (found.values @ found.values.T for found in (spread, coordinates))
    assert np.allclose(products * (expected.trace() / products.trace()), expected, atol=0.5)
    assert np.isclose(np.square(spread.values).mean(), 1)
    parts, of_triangle = (np.square(found.values).mean(axis=0) for found in (spread, coordinates))
    assert parts.max() / parts.min() < 10
    assert landmarks < 80 or of_triangle.max() / of_triangle.min() > 10
    assert np.array_equal(spread.values, coordinates.spread(seed=3).values)
    assert not np.allclose(spread.values, coordinates.spread(seed=4).values, atol=0.1)


@pytest.mark.parametrize("head", [MLPHead((80,), 3, hidden=16), LinearHead((80,), 3, dropout=0.2)])
def test_a_head_that_begins_linear_takes_up_the_way_to_its_coordinates(monkeypatch, head, tmp_path):
    monkeypatch.setattr(span, "EXACT_UP_TO", 60)
    (coordinates,) = block_rows(landmarks=80).coordinates([OUTER])
    spread = coordinates.spread(seed=3)
    on_rows = spread.on_rows(head)
    rows = torch.from_numpy(np.concatenate([TRAIN.features, VAL.features])).float()
    expected = head.eval()(torch.from_numpy(spread.values))
    assert torch.allclose(on_rows(rows), expected, atol=0.05)
    assert expected.std() > 0.1
    assert not any(isinstance(part, ProjectedHead) for part in on_rows.modules())
    save_head(tmp_path / "head", on_rows, {})
    assert torch.equal(load_head(tmp_path / "head")[0](rows), on_rows(rows))


def test_a_head_leaves_the_numbers_of_other_blocks_alone():
    (coordinates,) = block_rows().coordinates([OUTER])
    head = coordinates.on_rows(LinearHead.from_coefficients(np.ones((3, 80)), np.zeros(3)))
    rows = torch.from_numpy(OTHERS.features).float()
    changed = rows.clone()
    changed[:, 150:240] = torch.nan
    assert torch.equal(head(rows), head(changed))
    assert head.config["ranges"] == [[0, 150], [240, 300]]


def test_products_have_the_same_bits_whichever_depths_are_asked_for_together():
    """So that a search that goes on with some depths equals one that began with others."""
    numbers = np.random.default_rng(0)
    widths = {f"block {number}": 33 for number in range(6)}
    names = tuple(widths)
    rows = [
        FeatureRows(numbers.normal(size=(count, 6 * 33)).astype(np.float16), np.zeros(count, np.int64))
        for count in (70, 30)
    ]
    sets = (names[:4], names)
    choices = [DepthChoice(str(len(blocks)), blocks, weight) for blocks in sets for weight in ("sqrt", "equal")]

    def values(asked, sets=sets):
        found = BlockRows(*rows, widths, 100, 0, sets).coordinates(asked)
        return {choice: coordinates.values.tobytes() for choice, coordinates in zip(asked, found, strict=True)}

    together = values(choices)
    for choice in choices:
        assert values([choice])[choice] == together[choice]
    assert any(values([choice], sets=())[choice] != together[choice] for choice in choices)


def test_equal_rows_that_float32_does_not_find_equal_are_told_apart_as_far_as_they_can_be(monkeypatch):
    """Hundreds of black images: the least jitter leaves products that belong to no rows."""
    products = np.diag([1000.0] * 40)
    products[:30, :30] = 1000.0
    products[np.triu_indices(40, 1)] += 0.02 * np.random.default_rng(0).standard_normal(780)
    products = np.triu(products) + np.triu(products, 1).T
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(products + 1e-5 * 1000 * np.eye(40))
    triangle = span._triangle(products)
    assert np.allclose(triangle @ triangle.T, products, atol=1.5)  # of a thousand
    monkeypatch.setattr(span, "_JITTERS", (1e-5,))
    with pytest.raises(DataError, match="cannot be told apart in 32 bits"):
        span._triangle(products)
