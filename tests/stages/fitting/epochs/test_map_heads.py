import numpy as np
import pytest
import torch

from cache.errors import CutonceError, UsageError
from stages.config.heads import HeadConfig
from stages.fitting.epochs.map_heads import MOST_NUMBERS, class_weights_of, map_statistics, predicted_masks
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import FitProblem, head_settings, train_foldable_head, train_head
from stages.network.map_layout import MapLayout
from stages.tasks.base import find_metric
from stages.tasks.dense import Dense
from stages.tasks.single_label import SingleLabel

LAYOUT = MapLayout(((4, 6, 8), (16, 3, 4)))
TASK = Dense(["sky", "road", "car"])
QUICK = {"fit_epochs": 6, "fit_lr": (3e-2,), "fit_batch_size": 4}
VOID = 255


class Masks:
    """Masks in memory, which counts what is asked of it at a time."""

    def __init__(self, masks):
        self.masks, self.most = masks, 0

    def full(self, places):
        self.most = max(self.most, len(places))
        return [self.masks[place] for place in places]

    def seen(self, logits, shape):
        return logits

    def thinned(self, places, size, views=None):
        height, width = size
        return np.stack(
            [
                mask[np.arange(height) * len(mask) // height][:, np.arange(width) * mask.shape[1] // width]
                for mask in (self.masks[place] for place in places)
            ]
        )

    def shapes(self, places):
        return [self.masks[place].shape for place in places]


def make_problem(count=24, seed=0, size=(48, 64), config=None, sizes=None, **changes):
    """Maps whose first channels say the class of each place, and masks of them, with a void corner."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(3, size=(count, 3, 4))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    maps = np.concatenate([np.eye(3)[fine], rng.normal(size=(count, 6, 8, 1))], axis=3).transpose(0, 3, 1, 2)
    deep = np.tile(np.eye(4)[coarse], 4).transpose(0, 3, 1, 2)
    noisy = [part + 0.1 * rng.normal(size=part.shape) for part in (maps, deep)]
    rows = np.concatenate([part.reshape(count, -1) for part in noisy], axis=1).astype(np.float16)
    sizes = sizes or [size] * count
    masks = []
    for labels, (height, width) in zip(fine, sizes, strict=True):
        mask = labels.astype(np.uint8).repeat(height // 6, axis=0).repeat(width // 8, axis=1)
        mask[:4, :4] = VOID
        masks.append(mask)
    places, split = np.arange(count), count * 2 // 3
    train, val = (FeatureRows(rows[part], places[part]) for part in (slice(split), slice(split, None)))
    settings = {"maps": LAYOUT, "targets": Masks(masks), **changes}
    options = HeadConfig(**{**QUICK, **(config or {})})
    return FitProblem(train, val, TASK, options, seed, torch.device("cpu"), **settings)


@pytest.mark.parametrize("name", ["linear", "fcn", "deeplabv3", "lraspp"])
def test_a_head_learns_the_class_of_each_pixel_and_is_scored_on_all_of_them(name):
    problem = make_problem(config={"fit_epochs": {"deeplabv3": 3, "fcn": 15}.get(name, 6)})
    result = train_head(name, problem)
    metric = find_metric(TASK)
    assert result.val_score > 0.7
    assert result.val_score == metric.score(result.val_statistics)
    known = [(problem.targets.masks[place] != VOID).sum() for place in problem.val.labels]
    assert result.val_statistics.sum(axis=(1, 2)).tolist() == known
    assert result.settings["selected by"] == "validation split"
    assert [row.val_score for row in result.history][-1] > result.history[0].val_score
    statistics = map_statistics(result.module_train_only, problem.val, problem.targets, TASK)
    assert np.array_equal(statistics, result.val_statistics)


def test_masks_of_unlike_sizes_are_scored_each_at_its_own():
    sizes = [(48, 64), (24, 32), (60, 64)] * 8
    problem = make_problem(sizes=sizes)
    result = train_head("linear", problem)
    of_val = [sizes[place] for place in problem.val.labels]
    assert result.val_statistics.sum(axis=(1, 2)).tolist() == [height * width - 16 for height, width in of_val]
    masks = predicted_masks(result.module, problem.val.features, problem.val.labels, problem.targets, TASK)
    assert [mask.shape for mask in masks] == of_val
    right = [mask == problem.targets.masks[place] for mask, place in zip(masks, problem.val.labels, strict=True)]
    assert np.concatenate([part.ravel() for part in right]).mean() > 0.8


def test_predicted_masks_are_what_was_scored():
    problem = make_problem()
    head = train_head("linear", problem).module
    statistics = map_statistics(head, problem.val, problem.targets, TASK)
    masks = predicted_masks(head, problem.val.features, problem.val.labels, problem.targets, TASK)
    for mask, place, statistic in zip(masks, problem.val.labels, statistics, strict=True):
        truth = problem.targets.masks[place]
        assert (mask == truth).sum() == np.trace(statistic)


def test_what_is_held_of_whole_masks_does_not_grow_with_their_size(monkeypatch):
    monkeypatch.setattr("stages.fitting.epochs.map_heads.MOST_NUMBERS", 48 * 64 * 3)
    problem = make_problem()
    whole = train_head("linear", problem)
    assert problem.targets.most == 1
    monkeypatch.setattr("stages.fitting.epochs.map_heads.MOST_NUMBERS", MOST_NUMBERS)
    at_once = train_head("linear", make_problem())
    assert np.array_equal(whole.val_statistics, at_once.val_statistics)


def test_a_head_is_not_folded_and_settings_are_chosen_on_validation():
    problem = make_problem(config={"fit_lr": (1e-6, 3e-2)})
    result, fold = train_foldable_head("linear", problem)
    assert fold() is None
    assert result.settings["rate"] == 3e-2
    assert [candidate["rate"] for candidate in result.selection] == [1e-6, 3e-2]


def test_two_trainings_of_one_seed_are_the_same():
    first, second = (train_head("lraspp", make_problem()).module for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("has_bf16", [False, True])
def test_wide_convolutions_train_in_bf16_where_the_processor_has_it_and_score_alike(monkeypatch, has_bf16):
    monkeypatch.setattr("stages.fitting.epochs.map_heads.supports_bf16", lambda device: has_bf16)
    result = train_head("lraspp", make_problem())
    assert result.val_score > 0.7
    assert result.settings.get("convolutions") == ("bf16" if has_bf16 else None)
    assert all(tensor.dtype != torch.bfloat16 for tensor in result.module.state_dict().values())
    assert not result.module.convolves_in_bf16
    assert "convolutions" not in train_head("linear", make_problem(config={"fit_epochs": 1})).settings


def test_the_best_epoch_is_one_of_the_last_when_the_rate_has_come_down():
    result = train_head("linear", make_problem(config={"fit_epochs": 8, "fit_patience": 1}))
    assert len(result.history) == 8
    assert result.settings["best epoch"] in (7, 8)
    assert result.selection[0]["score"] == max(row.val_score for row in result.history[6:])


def test_what_is_tested_is_trained_on_validation_too():
    result = train_head("linear", make_problem())
    assert result.settings["refitted on"].startswith("train+val")
    first, second = (head.outputs[0].weight for head in (result.module, result.module_train_only))
    assert not torch.equal(first, second)


def test_a_loss_that_is_lost_is_told():
    with pytest.raises(CutonceError, match="`fit_lr`"):
        train_head("linear", make_problem(config={"fit_lr": (float("inf"),)}))


def test_one_image_a_step_has_no_batch_of_one():
    assert train_head("deeplabv3", make_problem(6, config={"fit_batch_size": 1, "fit_epochs": 1})).history


def test_balanced_weights_raise_rare_classes_and_keep_the_mean():
    masks = Masks([np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1], [1, 2, VOID, VOID]], np.uint8)])
    weights = class_weights_of(masks, np.array([0]), (4, 4), TASK).double().numpy()
    counts = np.array([9, 4, 1])
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(3)
    absent = class_weights_of(masks, np.array([0]), (2, 2), Dense(["a", "b", "c", "d"]))
    assert torch.isfinite(absent).all()
    assert train_head("linear", make_problem(config={"class_weights": "balanced"})).val_score > 0.8


def test_balanced_sampling_is_refused_with_what_does_it():
    with pytest.raises(UsageError, match="`class_weights` balanced"):
        train_head("linear", make_problem(config={"sampling": "balanced"}))


@pytest.mark.parametrize("name", ["mlp", "logistic", "torch.nn:Linear"])
def test_heads_for_images_are_refused_with_those_for_pixels(name):
    with pytest.raises(UsageError, match="lraspp"):
        train_head(name, make_problem())


def test_a_head_trains_by_its_own_recipe_unless_the_options_say_otherwise():
    given = HeadConfig(fit_epochs=3)
    assert head_settings("fcn", given, TASK)["fit_epochs"] == 3
    assert head_settings("fcn", given, TASK)["fit_lr"] == (1e-2,)
    assert head_settings("linear", HeadConfig(), TASK)["fit_epochs"] == 20
    of_images = head_settings("linear", HeadConfig(), SingleLabel(["a", "b"]))
    wanted = {"fit_epochs": 100, "fit_lr": (1e-3,), "fit_batch_size": 64, "fit_dropout": 0.5}
    assert {name: of_images[name] for name in wanted} == wanted
