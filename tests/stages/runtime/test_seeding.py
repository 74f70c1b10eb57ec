"""The numbers are held: they decide what is in caches of views, and what a training that was stopped goes on with."""

import multiprocessing
import random
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stages.data.augment import mixup
from stages.data.augment.mixup import MixupCutmix
from stages.extraction.extractor import Extractor
from stages.finetuning import image_batches
from stages.finetuning.baselines import random_head
from stages.finetuning.batch_sampler import EpochBatchSampler
from stages.finetuning.image_batches import AugmentedImages
from stages.network.reinit import _generator
from stages.runtime.seeding import DrawnApart, epoch_seed, fixed_seed, preserve_rng_state, seed_from

KEY = "0123456789abcdef0123456789abcdef"


def test_a_cached_view_is_rendered_from_the_seed_it_has_always_had():
    renders = SimpleNamespace(augmentation=lambda image, seed: seed)
    assert Extractor._view(renders, None, KEY, 3) == 3578330643


def test_a_batch_is_mixed_from_the_seed_it_has_always_had(monkeypatch):
    seeds = []
    drawing = mixup.ThreadGenerator
    monkeypatch.setattr(mixup, "ThreadGenerator", lambda drawn: seeds.append(drawn.initial_seed()) or drawing(drawn))
    MixupCutmix(1.0, 0.0)(torch.zeros(3, 1, 2, 4), torch.eye(3), 0, 1, 2)
    assert seeds == [985515962]


def test_an_image_of_an_epoch_is_rendered_from_the_seed_it_has_always_had(monkeypatch):
    monkeypatch.setattr(image_batches, "read_image", lambda location, reading: None)
    manifest = SimpleNamespace(locations=["a.png"], keys=[KEY], targets=[1])
    assert AugmentedImages(manifest, lambda image, seed: seed, 1)[2, 0] == (63194142645485683, 1)


def test_a_layer_is_drawn_anew_from_the_seed_it_has_always_had():
    assert _generator(5, "layer4.0.conv1.weight").initial_seed() == 149367392121513895


def test_the_batches_of_an_epoch_are_those_they_have_always_been():
    assert epoch_seed(5, 2) == 5_000_017
    assert list(EpochBatchSampler(7, 3, 5).batches(2)) == [[1, 6, 3], [4, 5, 2]]


def test_a_new_head_is_the_one_it_has_always_been():
    head = random_head(SimpleNamespace(row_shape=(3,)), 2, 11)
    expected = [
        [-0.005132622085511684, -0.0026961956173181534, 0.002461846685037017],
        [0.004839253146201372, 0.004504178185015917, -0.009568334557116032],
    ]
    assert head.output.weight.tolist() == expected


@pytest.mark.parametrize("bits", [4, 32, 60])
def test_a_seed_has_the_bits_it_was_asked_for_and_follows_from_every_part(bits):
    seeds = [seed_from("a", number, bits=bits) for number in range(200)]
    assert max(seeds).bit_length() == bits
    assert seeds == [seed_from(f"a {number}", bits=bits) for number in range(200)]
    assert len(set(seeds)) == (16 if bits == 4 else 200)


def test_a_fixed_seed_draws_the_same_numbers_and_leaves_the_generator_as_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with fixed_seed(3):
            draws.append(torch.rand(4))
    torch.manual_seed(3)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], torch.rand(4))
    torch.set_rng_state(before)
    with pytest.raises(ZeroDivisionError), fixed_seed(3):
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


def test_random_states_of_python_numpy_and_torch_are_put_back_also_after_an_error():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    with pytest.raises(ZeroDivisionError), preserve_rng_state():
        draw()
        1 / 0  # noqa: B018
    assert draw() == expected


def test_modules_that_are_to_be_given_their_numbers_draw_apart_but_where_the_program_s_are_asked_for():
    def make():
        bounded = nn.init.trunc_normal_(torch.empty(1000), mean=5.0, std=0.1, a=4.9, b=5.1)  # drawn until it is there
        assert bounded.min() >= 4.9
        return nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 2, 1), nn.MultiheadAttention(4, 2), nn.GRU(2, 2))

    before = torch.get_rng_state()
    with DrawnApart():
        made = make()
        assert torch.randn(1000).std() > 0.5
        assert len(torch.randperm(5)) == 5
    assert torch.equal(torch.get_rng_state(), before)
    made.load_state_dict(drawn := make().state_dict())
    assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in drawn.items())
    torch.manual_seed(1)
    expected = torch.randn(3), nn.Linear(3, 4).weight
    torch.manual_seed(1)
    with DrawnApart():
        with DrawnApart.but_here():
            found = torch.randn(3), nn.Linear(3, 4).weight
        state = torch.get_rng_state()
        torch.rand(2, generator=torch.Generator().manual_seed(1))
        torch.rand(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, found, expected))


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("spelled", ["1_000_003", "fork_rng", "getrandbits", "get_rng_state"])
def test_seeds_are_made_and_random_states_kept_in_one_module_alone(spelled):
    modules = [path for room in ("stages", "pipeline") for path in (ROOT / room).rglob("*.py")]
    spelling = {str(path.relative_to(ROOT)) for path in modules if spelled in path.read_text(encoding="utf-8")}
    assert spelling <= {"stages/runtime/seeding.py"}


def test_threads_that_draw_take_turns_and_a_forked_process_waits_for_none_of_them():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with preserve_rng_state():
            entered.set()
            leave.wait(60)
            torch.manual_seed(1)

    state = torch.get_rng_state()
    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(60)
    child = multiprocessing.get_context("fork").Process(target=_draw_within)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    waiting = threading.Thread(target=_draw_within)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    leave.set()
    waiting.join(60)
    thread.join(60)
    assert torch.equal(torch.get_rng_state(), state)


def _draw_within():
    with fixed_seed(0):
        torch.rand(1)
