"""The training loop: epochs over batches, validation after each, the best epoch kept, a checkpoint to go on from.

It knows neither images nor caches: a batch is whatever the model takes, with integer labels.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cache.errors import CutpointError

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Epoch:
    """One row of a history. Epoch 0 is the model as it came, before any step, with nothing to say of training."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    rate: float
    seconds: float

    def better_than(self, other: Epoch) -> bool:
        """Whether this epoch validates better: by accuracy, then by loss."""
        return (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


@dataclass
class Fit:
    """What a training left: the history and the epoch whose weights the model now has."""

    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    resumed_from: int | None = None


def fit(
    model: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
    *,
    epochs: int,
    train_batches: Callable[[int], Batches],
    val_batches: Callable[[], Batches],
    seed: int,
    label_smoothing: float = 0.0,
    patience: int | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Train `model` and leave it with the weights of its best validation epoch.

    Parameters
    ----------
    model, optimiser, schedule
        The schedule is stepped after every optimiser step.
    epochs : int
        Passes over the training batches.
    train_batches : callable
        ``epoch -> iterable of (inputs, labels)``; epochs count from 1. The same epoch must give the same batches.
    val_batches : callable
        ``() -> iterable of (inputs, labels)``.
    seed : int
        Every epoch starts from a random state made of `seed` and its number, so that a resumed training draws what
        an undisturbed one would.
    patience : int, optional
        Stop after this many epochs without a lower validation loss.
    checkpoint : Path, optional
        File written (atomically) after every epoch; where it exists and was made with the same `identity`, the
        training goes on from it.
    identity : str
        Digest of everything that shapes this training.

    Raises
    ------
    CutpointError
        If the loss becomes NaN or infinite; says at which step.
    """
    done = Fit()
    best_weights: dict[str, Tensor] = {}
    saved = _load_checkpoint(checkpoint, identity)
    if saved is None:
        first = Epoch(0, None, None, *evaluate_loss(model, val_batches()), rate=0.0, seconds=0.0)
        done.history.append(first)
        done.best, best_weights = first, _weights(model)
        on_epoch(first)
    else:
        model.load_state_dict(saved["model"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        done.history = [Epoch(**row) for row in saved["history"]]
        done.best, best_weights = Epoch(**saved["best"]), saved["best_weights"]
        done.resumed_from = done.history[-1].epoch

    for number in range(done.history[-1].epoch + 1, epochs + 1):
        if patience is not None and _epochs_without_progress(done.history) >= patience:
            break
        started = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + number)
        model.train()
        trained = _train_epoch(model, optimiser, schedule, train_batches(number), label_smoothing, number)
        validated = evaluate_loss(model, val_batches())
        rate = max(float(group["lr"]) for group in optimiser.param_groups)
        epoch = Epoch(number, *trained, *validated, rate=rate, seconds=time.perf_counter() - started)
        done.history.append(epoch)
        if done.best is None or epoch.better_than(done.best):
            done.best, best_weights = epoch, _weights(model)
        if checkpoint is not None:
            _save_checkpoint(checkpoint, identity, model, optimiser, schedule, done, best_weights)
        on_epoch(epoch)

    model.load_state_dict(best_weights, strict=False)
    model.eval()
    return done


@torch.no_grad()
def predict_probabilities(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Return softmax probabilities [n, classes], float32 on the CPU, of `model` in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(inputs.to(device)).float().softmax(dim=1).cpu() for inputs in batches])


@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy of `model`, in evaluation mode, over all samples."""
    model.eval()
    device = next(model.parameters()).device
    loss, correct, count = 0.0, 0, 0
    for inputs, labels in batches:
        labels = labels.to(device)
        logits = model(inputs.to(device)).float()
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=1) == labels).sum())
        count += len(labels)
    return loss / count, correct / count


def _train_epoch(
    model: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
    batches: Batches,
    label_smoothing: float,
    epoch: int,
) -> tuple[float, float]:
    device = next(model.parameters()).device
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.long, device=device)
    count = 0
    for step, (inputs, labels) in enumerate(batches, start=1):
        inputs, labels = inputs.to(device), labels.to(device)
        logits = model(inputs)
        loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if not torch.isfinite(loss):
            raise CutpointError(
                f"the training loss became {loss.item()} at step {step} of epoch {epoch}; "
                "the learning rate is too high for this network: try a tenth of it"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        loss_sum += loss.detach() * len(labels)
        correct += (logits.detach().argmax(dim=1) == labels).sum()
        count += len(labels)
    return float(loss_sum) / count, int(correct) / count


def _epochs_without_progress(history: list[Epoch]) -> int:
    losses = [epoch.val_loss for epoch in history]
    return len(losses) - 1 - losses.index(min(losses))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of what training can change: trained parameters and all buffers."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value.clone() for name, value in model.state_dict().items() if name not in frozen}


def _save_checkpoint(
    path: Path,
    identity: str,
    model: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
    done: Fit,
    best_weights: dict[str, Tensor],
) -> None:
    assert done.best is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    state = {
        "identity": identity,
        "model": _weights(model),
        "optimiser": optimiser.state_dict(),
        "schedule": copy.deepcopy(schedule.state_dict()),
        "history": [asdict(epoch) for epoch in done.history],
        "best": asdict(done.best),
        "best_weights": best_weights,
    }
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load_checkpoint(path: Path | None, identity: str) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return saved if saved["identity"] == identity else None
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise CutpointError(f"the checkpoint {path} is damaged; delete it to start this training again") from error
