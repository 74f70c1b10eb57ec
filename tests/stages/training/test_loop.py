import copy

import pytest
import torch
from torch import nn

from cache.errors import CutpointError
from stages.training.loop import evaluate_loss, fit, predict_probabilities
from stages.training.schedules import make_schedule, parameter_groups


def blobs(n=240, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return centres[labels] + torch.randn(n, 4, generator=generator), labels


TRAIN, VAL = blobs(), blobs(seed=1)


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def batches_of(epoch):
    order = torch.randperm(len(TRAIN[0]), generator=torch.Generator().manual_seed(epoch))
    for part in order.split(40):
        yield TRAIN[0][part], TRAIN[1][part]


def train(model, epochs, rate=0.02, train_batches=batches_of, val=VAL, **options):
    optimiser = torch.optim.AdamW(parameter_groups([(model, rate)], 0.01))
    schedule = make_schedule(optimiser, "cosine", 6 * 8 + 1, 0.1)
    return fit(
        model,
        optimiser,
        schedule,
        epochs=epochs,
        train_batches=train_batches,
        val_batches=lambda: [val],
        seed=3,
        **options,
    )


def test_training_learns_and_the_history_says_so():
    model = small_network()
    done = train(model, 8)
    assert [epoch.epoch for epoch in done.history] == list(range(9))
    assert done.history[-1].train_loss < done.history[1].train_loss
    assert done.best.val_accuracy > 0.8 > done.history[0].val_accuracy


def test_the_model_is_left_with_the_weights_of_the_best_epoch():
    model = small_network()
    done = train(model, 8, rate=2.0)  # so high that the last epoch is not the best
    loss, accuracy = evaluate_loss(model, [VAL])
    assert (loss, accuracy) == pytest.approx((done.best.val_loss, done.best.val_accuracy))
    assert not model.training


def test_epoch_zero_is_kept_where_training_only_harms():
    model = small_network()
    train(model, 8)
    before = copy.deepcopy(model.state_dict())
    wrong = lambda epoch: ((inputs, (labels + 1) % 3) for inputs, labels in batches_of(epoch))  # noqa: E731
    done = train(model, 3, train_batches=wrong)
    assert done.best.epoch == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_patience_stops_after_epochs_without_a_lower_validation_loss():
    scrambled = (VAL[0], VAL[1][torch.randperm(len(VAL[1]), generator=torch.Generator().manual_seed(0))])
    done = train(small_network(), 8, patience=2, val=scrambled)
    losses = [epoch.val_loss for epoch in done.history]
    assert len(losses) == losses.index(min(losses)) + 3 < 9


@pytest.mark.parametrize("stopped_after", [1, 4, 7])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, stopped_after):
    undisturbed = small_network()
    whole = train(undisturbed, 8)

    class StopError(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == stopped_after:
            raise StopError

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(StopError):
        train(small_network(), 8, checkpoint=checkpoint, identity="a", on_epoch=stop)
    resumed = small_network()
    torch.manual_seed(12345)  # the state a new process would have is another one
    rest = train(resumed, 8, checkpoint=checkpoint, identity="a")
    assert rest.resumed_from == stopped_after
    assert [epoch.val_loss for epoch in rest.history] == [epoch.val_loss for epoch in whole.history]
    assert all(
        torch.equal(a, b) for a, b in zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    train(small_network(), 2, checkpoint=checkpoint, identity="a")
    done = train(small_network(), 2, checkpoint=checkpoint, identity="b")
    assert done.resumed_from is None


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_damaged_checkpoint_is_named(tmp_path, keep):
    checkpoint = tmp_path / "checkpoint.pt"
    train(small_network(), 1, checkpoint=checkpoint, identity="a")
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(CutpointError, match=r"checkpoint\.pt is damaged"):
        train(small_network(), 1, checkpoint=checkpoint, identity="a")


def test_a_loss_that_is_not_a_number_ends_training_with_its_step():
    def bad(epoch):
        return ((inputs * float("nan") if epoch == 2 else inputs, labels) for inputs, labels in batches_of(epoch))

    with pytest.raises(CutpointError, match="step 1 of epoch 2"):
        train(small_network(), 3, train_batches=bad)


def test_probabilities_are_rows_that_sum_to_one_in_evaluation_mode():
    model = small_network().train()
    probabilities = predict_probabilities(model, VAL[0].split(50))
    assert probabilities.shape == (240, 3)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(240))
    assert torch.equal(probabilities, predict_probabilities(model, VAL[0].split(50)))
