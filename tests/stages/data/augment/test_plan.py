"""Plans of renderings: from a size and a seed alone, of the very numbers that a rendering draws."""

import pickle

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stages.data.augment.plan import NotPlannableError, planned
from stages.data.augment.policy import Augmentation, augmentation
from stages.data.augment.thread_rng import ThreadGenerator
from stages.data.augment.transforms import Transform
from stages.data.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(48, 56)


def test_a_plan_draws_what_a_rendering_draws():
    """After either the generator of the image is in the same state, so nothing was drawn besides."""
    drawn = []

    def last(image):
        drawn.append(torch.rand(1).item())
        return image

    parts = augmentation("strong", PREPROCESSING).transforms
    policy = Augmentation("own", PREPROCESSING, (*parts, Transform("last", last)))
    image = torch.randint(256, (3, 60, 90), dtype=torch.uint8)
    for seed in range(20):
        policy(image, seed)
        policy.plan(60, 90, seed)
    assert drawn[::2] == drawn[1::2]
    assert len(set(drawn)) == 20


def test_plans_follow_from_size_and_seed_and_leave_the_global_generator_alone():
    policy = augmentation("medium", PREPROCESSING)
    before = torch.random.get_rng_state()
    assert policy.plan(60, 90, 5) == policy.plan(60, 90, 5) != policy.plan(60, 90, 6)
    assert torch.equal(before, torch.random.get_rng_state())


def test_torch_is_asked_for_little_but_what_is_drawn(monkeypatch):
    """Each call goes through Python under the interpreter's lock, of which a view has a tenth of a millisecond."""
    calls, drawing = [], ThreadGenerator.__torch_function__

    def counted(self, func, types, args=(), kwargs=None):
        calls.append(func)
        return drawing(self, func, types, args, kwargs)

    monkeypatch.setattr(ThreadGenerator, "__torch_function__", counted)
    policy, seeds = augmentation("medium", PREPROCESSING), range(50)
    for seed in seeds:
        policy.plan(375, 500, seed)
    assert len(calls) <= 45 * len(seeds)


def test_plans_go_to_other_processes_as_a_few_bytes():
    plan = augmentation("strong", PREPROCESSING).plan(3000, 4000, 1)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len(pickle.dumps(plan)) < 2000


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: image.clamp(10, 20),
        lambda image: F.rotate(image, 30.0, expand=True),
        lambda image: F.adjust_hue(image, 0.1),
        lambda image: torch.zeros(3, 4, 4),
        v2.ElasticTransform(),
        lambda image: torch.rot90(image, 1, (2, 1)),
        lambda image: torch.rot90(image, k=1, dims=[0, 1]),
        v2.Pad(4),
        lambda image: F.center_crop(image, 20),
        lambda image: F.resized_crop(image, 1, 2, 30, 40, [20, 20], antialias=False),
        lambda image: F.gaussian_blur(image, 3),
        lambda image: F.affine(image, 10.0, [1, 2], 1.1, [3.0]),
        lambda image: F.perspective(image, [[0, 0], [9, 0], [9, 9], [0, 9]], [[1, 1], [9, 0], [9, 9], [0, 9]]),
        v2.RandomErasing(1.0, value="random"),
    ],
    ids=[
        *("its own arithmetic", "a size of its own", "hue", "another image", "elastic"),
        *("turned backwards", "colors turned", "one padding", "one side", "not antialiased", "one kernel size"),
        *("one shear", "corners", "erased by noise"),
    ],
)
def test_what_cannot_be_written_down_is_refused_and_not_left_out(transform):
    with pytest.raises(NotPlannableError):
        planned([transform], 60, 90)


def test_a_transform_knows_the_size_that_those_before_it_left():
    sizes = []

    def look(image):
        sizes.append((*image.shape, image.dtype))
        return image

    turned = lambda image: torch.rot90(image, dims=(-2, -1))  # noqa: E731
    crop = lambda image: F.center_crop(image, [20, 30])  # noqa: E731
    padded = lambda image: F.pad(image, [1, 2, 3, 4])  # noqa: E731
    planned([look, crop, look, padded, look, turned, look], 60, 90)
    assert [size[1:3] for size in sizes] == [(60, 90), (20, 30), (26, 34), (34, 26)]
    assert {(size[0], size[3]) for size in sizes} == {(3, torch.uint8)}
