import pytest
import torch
from torch.nn import functional

from stages.training.evaluation import predict
from stages.training.losses import TaskLoss, statistics_of
from stages.training.lr_schedules import LRScheduleConfig
from tests.stages.training.blobs import CLASSES, TASK, VAL, batches_of, small_network, train_blobs

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_labels_and_the_same_ones_as_shares_cost_the_same(smoothing):
    shares = functional.one_hot(LABELS, 3).float()
    loss = TaskLoss(TASK, smoothing)
    hard, soft = loss.terms(LOGITS, LABELS)["main"], loss.terms(LOGITS, shares)["main"]
    assert hard.item() == pytest.approx(soft.item(), rel=1e-6)
    assert (
        TASK.metrics["accuracy"].score(statistics_of(TASK, LOGITS, shares))
        == (LOGITS.argmax(1) == LABELS).numpy().mean()
    )


def test_a_mixed_sample_costs_the_mixture_of_what_its_parts_cost():
    first, second = LABELS, LABELS.roll(1)
    mixed = 0.3 * functional.one_hot(first, 3) + 0.7 * functional.one_hot(second, 3)
    loss = TaskLoss(TASK)
    parts = [loss.terms(LOGITS, labels)["main"].item() for labels in (first, second)]
    assert loss.terms(LOGITS, mixed)["main"].item() == pytest.approx(0.3 * parts[0] + 0.7 * parts[1], rel=1e-5)


def test_auxiliary_classifiers_are_terms_of_their_own_times_their_weight():
    alone = TaskLoss(TASK).terms(LOGITS, LABELS)["main"]
    terms = TaskLoss(TASK).terms((LOGITS, [(0.3, LOGITS), (0.4, 2 * LOGITS)]), LABELS)
    assert list(terms) == ["main", "auxiliary 1", "auxiliary 2"]
    assert terms["main"] == alone
    assert terms["auxiliary 1"].item() == pytest.approx(0.3 * alone.item())
    assert terms["auxiliary 2"].item() == pytest.approx(
        0.4 * functional.cross_entropy(2 * LOGITS, LABELS, reduction="sum").item()
    )


def test_label_smoothing_keeps_probabilities_from_the_extremes():
    sure, smooth = small_network(), small_network()
    train_blobs(sure, 8, options={"label_smoothing": 0.0})
    train_blobs(smooth, 8, options={"label_smoothing": 0.3})
    confidence = [predict(model, [VAL[0]], TASK).amax(1).mean() for model in (sure, smooth)]
    assert confidence[1] < confidence[0] - 0.1


class WithAuxiliary(torch.nn.Module):
    """A network whose first layer has a classifier of its own, in training alone, as Inception's have."""

    def __init__(self):
        super().__init__()
        self.network = small_network()
        self.auxiliary = torch.nn.Linear(16, CLASSES)

    def forward(self, inputs):
        below = self.network[:3](inputs)
        logits = self.network[3:](below)
        return (logits, [(0.4, self.auxiliary(below))]) if self.training else logits


def test_training_moves_auxiliary_classifiers_and_the_log_tells_their_terms():
    model = WithAuxiliary()
    before = model.auxiliary.weight.detach().clone()
    result = train_blobs(model, 3)
    assert set(result.history[1].terms) == {"main", "auxiliary 1"}
    assert result.history[3].terms["auxiliary 1"] < result.history[1].terms["auxiliary 1"]
    assert sum(result.history[3].terms.values()) == pytest.approx(result.history[3].train_loss)
    assert not torch.equal(before, model.auxiliary.weight)


def test_mixed_samples_are_trained_on_by_all_their_shares():
    def mixed(epoch, first=0):
        for inputs, labels in batches_of(epoch, first):
            shares = functional.one_hot(labels, CLASSES).float()
            yield 0.6 * inputs + 0.4 * inputs.flip(0), 0.6 * shares + 0.4 * shares.flip(0)

    model = small_network(dropout=0.0, normalized=False)
    batches = list(mixed(1))
    with torch.no_grad():
        logarithms = [(model(inputs).log_softmax(dim=1), shares) for inputs, shares in batches]
    shares_loss = torch.cat([-(shares * logarithm).sum(dim=1) for logarithm, shares in logarithms]).mean().item()
    largest_loss = torch.cat([-logarithm[shares.amax(1, True) == shares] for logarithm, shares in logarithms]).mean()
    result = train_blobs(model, 1, train_batches=mixed, rate=1e-9, schedule=LRScheduleConfig("constant", 0.0))
    assert result.history[1].train_loss == pytest.approx(shares_loss, rel=1e-4)
    assert (
        abs(shares_loss - largest_loss.item()) > 1e-3 * shares_loss
    )  # the most likely label alone costs something else
    trained = train_blobs(small_network(), 8, train_batches=mixed)
    assert trained.best.val_score > 0.8
