import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cache.errors import UsageError
from stages.data.augment.mixup import MixupCutmix

KINDS = {"mixup": MixupCutmix(0.4, 0), "cutmix": MixupCutmix(0, 1.0), "both": MixupCutmix(0.4, 1.0)}


def batch(size=6, classes=5, side=24):
    """Images of which each has a number of its own everywhere, and classes, as one-hot rows."""
    images = torch.arange(1.0, size + 1)[:, None, None, None].expand(size, 3, side, side)
    return images.contiguous(memory_format=torch.channels_last), torch.eye(classes)[torch.arange(size) % classes]


alphas = st.floats(0.05, 5)
mixings = st.one_of(
    st.builds(MixupCutmix, alphas, st.just(0.0)),
    st.builds(MixupCutmix, st.just(0.0), alphas),
    st.builds(MixupCutmix, alphas, alphas),
)


@given(mixings, st.integers(1, 9), st.integers(0, 2**40), st.integers(0, 500), st.integers(0, 100_000))
def test_targets_are_shares_of_a_row_and_the_one_before_it(mixing, size, seed, epoch, step):
    images, one_hot = batch(size)
    _, targets = mixing(images, one_hot, seed, epoch, step)
    assert targets.shape == (size, 5)
    assert targets.dtype == torch.float32
    assert (targets >= 0).all()
    assert torch.allclose(targets.sum(dim=1), torch.ones(size))
    own = one_hot.bool()
    assert (targets[~(own | own.roll(1, 0))] == 0).all()


@given(st.floats(0.05, 5), st.integers(0, 2**40), st.integers(0, 100))
def test_cutmix_counts_the_pixels_it_has_put_in(alpha, seed, step):
    images, _ = batch(5)
    mixed, targets = MixupCutmix(0, alpha)(images, torch.eye(5), seed, 1, step)
    own = (mixed == images).all(dim=1)
    other = (mixed == images.roll(1, 0)).all(dim=1)
    assert (own | other).all()
    assert torch.allclose(targets.diagonal(), own.float().mean(dim=(1, 2)), atol=1e-6)
    inside = torch.nonzero(other[0])
    if len(inside):  # what was put in is a rectangle
        height, width = (inside.amax(dim=0) - inside.amin(dim=0) + 1).tolist()
        assert len(inside) == height * width


@given(st.floats(0.05, 5), st.integers(0, 2**40))
def test_mixup_adds_pixels_and_labels_in_the_same_shares(alpha, seed):
    images, _ = batch(5)
    mixed, targets = MixupCutmix(alpha, 0)(images, torch.eye(5), seed, 1, 0)
    share = targets[0, 0]
    assert torch.allclose(mixed, share * images + (1 - share) * images.roll(1, 0), atol=1e-5)


@pytest.mark.parametrize("mixing", KINDS.values(), ids=KINDS)
def test_seed_epoch_and_step_alone_decide(mixing):
    images, labels = batch()
    original = images.clone()
    mixed = {}
    for when in itertools.product((0, 1), (1, 2), range(4)):
        torch.manual_seed(when[2])
        state = torch.get_rng_state()
        first, targets = mixing(images, labels, *when)
        assert torch.equal(state, torch.get_rng_state())
        torch.rand(7)
        repeated, repeated_targets = mixing(images, labels, *when)
        assert torch.equal(first, repeated)
        assert torch.equal(targets, repeated_targets)
        mixed[when] = targets
    assert torch.equal(images, original)
    assert len({targets.numpy().tobytes() for targets in mixed.values()}) > 12


def test_of_two_kinds_each_has_half_of_the_batches():
    images, labels = batch()
    mixed = [KINDS["both"](images, labels, 0, 1, step)[0] for step in range(200)]
    whole = sum(bool(((mixed_batch == images) | (mixed_batch == images.roll(1, 0))).all()) for mixed_batch in mixed)
    assert 75 < whole < 125


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_shape_and_memory_format_stay(dtype):
    images, labels = batch()
    for mixing in KINDS.values():
        mixed, _ = mixing(images.to(dtype), labels, 0, 1, 0)
        assert (mixed.dtype, mixed.shape) == (dtype, images.shape)
        assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_maps_with_channels_last_are_cut_by_place_and_not_by_channel():
    rows = torch.arange(1.0, 7)[:, None, None, None].expand(6, 8, 8, 20)
    mixed, targets = MixupCutmix(0, 1.0, layout="nhwc")(rows, torch.eye(6), 0, 1, 1)
    assert 0 < targets[0, 0] < 1
    assert mixed.shape == rows.shape
    assert (mixed == mixed[..., :1]).all()


@pytest.mark.parametrize("shape", [(20,), (9, 20)])
def test_mixup_mixes_vectors_and_tokens_and_cutmix_refuses_them(shape):
    rows = torch.randn(6, *shape)
    mixed, targets = MixupCutmix(0.4, 0)(rows, torch.eye(6), 0, 1, 0)
    share = targets[0, 0]
    assert torch.allclose(mixed, share * rows + (1 - share) * rows.roll(1, 0))
    for mixup in (0.0, 0.4):
        with pytest.raises(UsageError, match=r"`cutmix` 1 cuts rectangles .*use `mixup`"):
            MixupCutmix(mixup, 1.0)(rows, torch.eye(6), 0, 1, 0)
        with pytest.raises(UsageError, match=r"`cutmix` 1 cuts rectangles"):
            MixupCutmix(mixup, 1.0, layout="tokens" if len(shape) == 2 else "vector")


@pytest.mark.parametrize(
    ("mixup", "cutmix", "said"),
    [(-1, 0, "`mixup` -1 must be"), (0, float("nan"), "`cutmix` nan must be"), (0, 0, "both 0")],
)
def test_alphas_that_make_no_sense_are_refused(mixup, cutmix, said):
    with pytest.raises(UsageError, match=said):
        MixupCutmix(mixup, cutmix)


def confidence(mixing):
    """How sure a small network is of its training images after training, all of which it has right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 4
    images = torch.randn(32, 3, 12, 12, generator=generator) + 1.5 * torch.eye(4, 3)[labels][:, :, None, None]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for step in range(100):
        inputs, targets = (images, labels) if mixing is None else mixing(images, torch.eye(5)[labels], 0, 1, step)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probabilities = model(images).softmax(dim=1)
    assert (probabilities.argmax(dim=1) == labels).float().mean() > 0.9
    return probabilities.amax(dim=1).mean().item()


@pytest.fixture(scope="module")
def confidence_without():
    return confidence(None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_trained_on_mixtures_learns_and_is_less_sure_of_itself(kind, confidence_without):
    """What both papers are for: predictions are not pushed to 0 and 1."""
    assert confidence(KINDS[kind]) < 0.95 < 0.98 < confidence_without


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_blend_like_classes_and_what_is_not_known_stays_unknown(kind):
    images, _ = batch()
    numbers = torch.tensor([[10.0], [20.0], [float("nan")], [40.0], [50.0], [60.0]])
    for step in range(3):
        shares = KINDS[kind](images, torch.eye(6), 0, 1, step)[1]
        _, targets = KINDS[kind](images, numbers, 0, 1, step)
        unknown = targets.isnan().flatten().tolist()
        assert unknown == [False, False, True, True, False, False]  # the row itself, and the one that has a share of it
        assert torch.allclose(targets[:2], (shares @ numbers.nan_to_num())[:2])
