"""What a task says of itself so that predictions of several models can be averaged, and the average be scored.

What is averaged is what `activate` gives: probabilities, or numbers on the scale on which they are learned. Tasks whose
statistics no longer hold it, such as counts of pixels, say nothing, and nothing is averaged for them.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from stages.tasks.base import Statistics, Task

Activation = Literal["softmax", "sigmoid", "identity"]
"""What `activate` does to outputs [b, out_features]."""

LEAST_PROBABILITY = 1e-7
"""What a loss or a logarithm takes a smaller one for: of a few neighbors that agree, no other class has any."""


@runtime_checkable
class AveragingTask(Task, Protocol):
    """A task whose predictions can be averaged.

    Attributes
    ----------
    activation : Activation
        What `activate` does, so that a module can average what its members say and return outputs of the same kind.
    """

    activation: Activation

    def answers(self, statistics: Statistics) -> NDArray[Any]:
        """Return what `activate` gave for each sample, [n, out_features]."""
        ...

    def targets(self, statistics: Statistics) -> NDArray[Any]:
        """Return the target of each sample as `collate` gives it, [n, ...]."""
        ...

    def agreement(self, answers: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Return what the loss depends on, float64 [n, e]: linear in the answers, nan where nothing is known.

        So that of a weighted mean of answers is the weighted mean of theirs.
        """
        ...

    def agreement_loss(self, agreement: NDArray[Any]) -> NDArray[Any]:
        """Return the loss of each element of what `agreement` gives, of the same shape."""
        ...
