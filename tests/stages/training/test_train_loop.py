import copy
import math
import re

import pytest
import torch

from cache.errors import CutonceError, DataError, UsageError
from stages.training.config import TrainConfig
from stages.training.evaluation import evaluate_loss
from stages.training.history import Epoch, Validation
from stages.training.lr_schedules import LRScheduleConfig
from stages.training.train_loop import Contender, run_epochs
from tests.stages.training.blobs import BATCHES, TASK, TRAIN, VAL, batches_of, same, small_network, train_blobs


def test_training_learns_and_the_history_says_so():
    model = small_network()
    result = train_blobs(model, 8)
    assert [epoch.epoch for epoch in result.history] == list(range(9))
    assert result.history[-1].train_loss < result.history[1].train_loss
    assert result.best.val_score > 0.8 > result.history[0].val_score


def test_the_model_is_left_with_the_weights_of_the_best_epoch():
    model = small_network()
    result = train_blobs(model, 8, rate=2.0)  # so high that the last epoch is not the best
    assert result.best.epoch < 8
    loss, accuracy = evaluate_loss(model, [VAL], TASK)
    assert (loss, accuracy) == pytest.approx((result.best.val_loss, result.best.val_score))
    assert not model.training


@pytest.mark.parametrize("metric", ["log_loss", "balanced_accuracy", "qwk"])
def test_the_kept_epoch_is_the_best_by_the_metric_of_the_task_the_lowest_where_that_is_better(metric):
    task = TASK.with_primary(metric)
    result = train_blobs(small_network(), 8, rate=2.0, task=task)
    scores = [epoch.val_score for epoch in result.history]
    assert result.best.val_score == (min if metric == "log_loss" else max)(scores)
    assert {f"val_{metric}", f"train_{metric}"} <= set(result.best.to_json(metric))


def test_epoch_zero_is_kept_where_training_only_harms():
    model = small_network()
    train_blobs(model, 8)
    before = copy.deepcopy(model)
    wrong = lambda epoch, first: ((inputs, (labels + 1) % 3) for inputs, labels in batches_of(epoch, first))  # noqa: E731
    result = train_blobs(model, 3, train_batches=wrong)
    assert result.best.epoch == 0
    assert same(before, model)


def test_patience_stops_after_epochs_without_a_lower_validation_loss():
    scrambled = (VAL[0], VAL[1][torch.randperm(len(VAL[1]), generator=torch.Generator().manual_seed(0))])
    result = train_blobs(small_network(), 8, options={"patience": 2}, val=scrambled)
    losses = [epoch.val_loss for epoch in result.history]
    assert len(losses) == losses.index(min(losses)) + 3 < 9


def test_the_history_tells_the_terms_of_the_loss_and_the_rate_of_each_block():
    result = train_blobs(small_network(), 2, options={"l1": 1e-3})
    for epoch in result.history[1:]:
        assert set(epoch.terms) == {"main", "l1"}
        assert sum(epoch.terms.values()) == pytest.approx(epoch.train_loss)
        assert epoch.lrs == {"all": epoch.lr}
    assert result.history[2].terms["l1"] > 0


def test_the_schedule_hears_of_the_validation_loss():
    scrambled = (VAL[0], VAL[1][torch.randperm(len(VAL[1]), generator=torch.Generator().manual_seed(0))])
    schedule = LRScheduleConfig("plateau", 0.0, patience=0, factor=0.5)
    result = train_blobs(small_network(), 8, rate=0.1, schedule=schedule, val=scrambled)
    losses = [epoch.val_loss for epoch in result.history[1:]]
    worse = sum(loss >= min(losses[:index]) * (1 - 1e-4) for index, loss in enumerate(losses) if index)
    assert worse > 2
    assert result.history[-1].lr == pytest.approx(0.1 * 0.5**worse)


def test_accumulated_batches_are_one_step_of_a_larger_batch_also_where_the_last_has_fewer():
    def as_one(epoch, first):
        batches = list(batches_of(epoch))
        steps = [batches[start : start + 4] for start in range(0, BATCHES, 4)]  # four batches, then the two left
        for step in steps:
            yield tuple(torch.cat(parts) for parts in zip(*step, strict=True))

    accumulated, large = (small_network(dropout=0.0, normalized=False) for _ in range(2))
    schedule = LRScheduleConfig("constant", 0.0)
    ones = train_blobs(accumulated, 3, schedule=schedule, optimizer="sgd", options={"grad_accum_steps": 4})
    large_result = train_blobs(large, 3, schedule=schedule, optimizer="sgd", train_batches=as_one)
    for epoch, large_epoch in zip(ones.history, large_result.history, strict=True):
        assert epoch.val_loss == pytest.approx(large_epoch.val_loss, rel=1e-5)
        assert epoch.train_loss == pytest.approx(large_epoch.train_loss, rel=1e-5) if epoch.epoch else True
    alone = train_blobs(small_network(0.0, False), 3, schedule=schedule, optimizer="sgd")
    assert alone.history[-1].val_loss != pytest.approx(ones.history[-1].val_loss, rel=1e-3)


def test_clipping_bounds_how_far_a_step_goes():
    moved = {}
    for clip in (None, 1e-3):
        model = small_network(normalized=False)
        before = copy.deepcopy(model)
        train_blobs(
            model,
            1,
            rate=0.1,
            optimizer="momentum",
            weight_decay=0.0,
            schedule=LRScheduleConfig("constant", 0.0),
            train_batches=lambda epoch, first: list(batches_of(epoch))[:1],
            options={"clip_grad": clip},
        )
        pairs = zip(model.parameters(), before.parameters(), strict=True)
        moved[clip] = math.sqrt(sum(float((before - after).detach().square().sum()) for before, after in pairs))
    assert moved[1e-3] == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert moved[None] > 10 * moved[1e-3]


def test_l1_drives_weights_to_zero_and_leaves_biases():
    plain, sparse = small_network(), small_network()
    train_blobs(plain, 8, weight_decay=0.0)
    result = train_blobs(sparse, 8, weight_decay=0.0, options={"l1": 0.1})
    assert result.best.epoch > 3
    weights = [model[4].weight.abs().mean().item() for model in (sparse, plain)]
    assert weights[0] < 0.5 * weights[1]
    assert sparse[1].weight.mean() > 0.8  # BatchNorm's scale


def test_l1_is_of_no_effect_where_only_biases_train():
    model = small_network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    assert set(train_blobs(model, 1, options={"l1": 0.1}).history[1].terms) == {"main"}


def test_the_average_is_validated_and_kept_and_differs_from_the_last_weights():
    model = small_network()
    last = {}

    def remember(epoch):
        last["weight"] = model[0].weight.detach().clone()

    result = train_blobs(model, 4, options={"model_ema_decay": 0.99}, on_epoch=remember)
    assert evaluate_loss(model, [VAL], TASK) == pytest.approx((result.best.val_loss, result.best.val_score))
    assert result.best.epoch > 0
    assert not torch.equal(model[0].weight, last["weight"])


def test_the_average_smooths_a_training_that_is_too_restless():
    losses = []
    for ema in (None, 0.95):
        result = train_blobs(
            small_network(), 8, rate=0.5, schedule=LRScheduleConfig("constant", 0.0), options={"model_ema_decay": ema}
        )
        losses.append(sum(epoch.val_loss for epoch in result.history[3:]))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("stopped_after", [1, 4, 7])
@pytest.mark.parametrize("options", [{}, {"model_ema_decay": 0.9, "grad_accum_steps": 4, "l1": 1e-4, "clip_grad": 1.0}])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, stopped_after, options):
    undisturbed = small_network()
    whole = train_blobs(undisturbed, 8, options=options)

    class StopError(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == stopped_after:
            raise StopError

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(StopError):
        train_blobs(small_network(), 8, checkpoint=checkpoint, on_epoch=stop, options=options)
    resumed = small_network()
    torch.manual_seed(12345)  # the state a new process would have is another one
    rest = train_blobs(resumed, 8, checkpoint=checkpoint, options=options)
    assert rest.resumed_from == stopped_after
    assert rest.best.epoch == whole.best.epoch
    assert [epoch.val_loss for epoch in rest.history] == [epoch.val_loss for epoch in whole.history]
    assert same(undisturbed, resumed)


def test_a_resumed_epoch_asks_only_for_the_batches_that_are_left(tmp_path):
    asked = []

    class StopError(Exception):
        pass

    def stopping(epoch, first):
        asked.append((epoch, first))
        for number, batch in enumerate(batches_of(epoch, first), start=first):
            if (epoch, number) == (2, 4) and len(asked) == 2:
                raise StopError
            yield batch

    options = {"grad_accum_steps": 2, "checkpoint_seconds": 0.0}
    with pytest.raises(StopError):
        train_blobs(small_network(), 3, train_batches=stopping, checkpoint=tmp_path / "state.pt", options=options)
    prepared = []
    train_blobs(
        small_network(),
        3,
        train_batches=stopping,
        checkpoint=tmp_path / "state.pt",
        options=options,
        on_epoch_start=lambda epoch, first: prepared.append((epoch, first)),
    )
    assert asked == [(1, 0), (2, 0), (2, 4), (3, 0)]
    assert prepared == [(2, 4), (3, 0)]


def test_an_epoch_without_batches_is_refused():
    with pytest.raises(DataError, match="no batch to train on"):
        train_blobs(small_network(), 1, train_batches=lambda epoch, first: [])


def test_a_loss_that_is_not_a_number_ends_training_with_its_step_and_what_is_left(tmp_path):
    def bad(epoch, first):
        for number, (inputs, labels) in enumerate(batches_of(epoch, first)):
            yield (inputs * float("nan") if (epoch, number) == (2, 3) else inputs), labels

    checkpoint = tmp_path / "checkpoint.pt"
    model = small_network()
    expected_message = (
        "the training loss became nan at step 4 of epoch 2, at a rate of 0.0.*: try a tenth of it. "
        f"The best weights so far, those of epoch 1, are kept in {re.escape(str(checkpoint))}"
    )
    with pytest.raises(CutonceError, match=expected_message):
        train_blobs(model, 3, train_batches=bad, checkpoint=checkpoint, options={"checkpoint_seconds": 0.0})
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    kept = torch.load(checkpoint, weights_only=True)["state"]
    assert all(value.isfinite().all() for value in (*kept["model"].values(), *kept["best weights"].values()))


def test_a_checkpoint_never_holds_weights_that_are_not_numbers(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(CutonceError, match="weights became NaN or infinite at step 1 of epoch 1"):
        train_blobs(small_network(), 1, rate=1e39, checkpoint=checkpoint, options={"checkpoint_seconds": 0.0})
    assert not checkpoint.exists()


def test_a_validation_loss_that_is_not_a_number_is_not_a_good_epoch(tmp_path):
    with pytest.raises(CutonceError, match="validation loss became nan"):
        train_blobs(small_network(), 1, val=(VAL[0] * float("nan"), VAL[1]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grad_accum_steps": 0}, "`grad_accum_steps` 0"),
        ({"clip_grad": 0.0}, "`clip_grad` 0"),
        ({"l1": -1.0}, "`l1` -1"),
        ({"label_smoothing": 1.0}, "`label_smoothing` 1"),
        ({"patience": 0}, "`patience` 0"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        TrainConfig(3, **options)


def test_what_a_step_draws_depends_on_its_place_alone():
    first, second = small_network(), small_network()
    train_blobs(first, 2)
    torch.manual_seed(99)

    def drawing(epoch, first):
        for batch in batches_of(epoch, first):
            torch.rand(7)
            yield batch

    train_blobs(second, 2, train_batches=drawing)
    assert same(first, second)
    assert len(TRAIN[0]) == 240


class SideBySide:
    """Models whose validation losses are known from the start; weights are the epoch they are of."""

    def __init__(self, *losses):
        self.losses, self.epochs, self.ended = losses, [], 0

    def train_epoch(self, epoch):
        self.epochs.append(epoch)

    def validate(self):
        return [Validation(losses[self.epochs[-1] - 1], 0.0, -losses[self.epochs[-1] - 1]) for losses in self.losses]

    def row(self, index, validation, seconds):
        if math.isnan(validation.loss):
            return None
        return Epoch(self.epochs[-1], 0.0, 0.0, validation.loss, validation.score, 0.0, seconds)

    def snapshot(self, index):
        return {"epoch": torch.tensor(self.epochs[-1])}

    def end_epoch(self):
        self.ended += 1


def test_models_side_by_side_each_keep_their_best_epoch_and_stop_for_themselves():
    trainee = SideBySide(
        [3.0, 2.0, 2.5, 2.5, 0.0, 0.0], [3.0, math.nan, 1.0, 1.0, 1.0, 1.0], [9.0, 8.0, 7.0, 9.0, 9.0, 0.0]
    )
    contenders = [Contender() for _ in trainee.losses]
    run_epochs(trainee, contenders, range(1, 7), patience=2)
    assert trainee.epochs == [1, 2, 3, 4, 5]  # then all have stopped
    assert trainee.ended == 5
    assert [len(contender.result.history) for contender in contenders] == [4, 1, 5]
    assert [contender.lost for contender in contenders] == [False, True, False]
    assert [int(contender.best_weights["epoch"]) for contender in contenders] == [2, 1, 3]
    assert [contender.result.best.epoch for contender in contenders] == [2, 1, 3]


def test_what_is_not_validated_trains_all_epochs_without_a_history():
    trainee = SideBySide()
    run_epochs(trainee, [Contender()], range(4, 7), patience=1)
    assert trainee.epochs == [4, 5, 6]
    assert trainee.ended == 3
