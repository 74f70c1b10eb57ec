"""Fine-tuning of the top blocks: minutes, so that it is tried last, and only where a learning curve says it could win.

The evidence is the learning curve of the head of the first rung on its best depths, on images of train alone, judged on
validation (`stages.inspection.learning_curve`). Where twice as many images would still bring that head `WORTH` or more,
it is short of images and not of features: a network that trains fits millions of numbers to the same few, and is not
expected to win. Where the curve is flat, and the best method still errs by more than chance, what is missing has to
come from the features: then the top blocks are trained. Where the curve says nothing, nothing is fine-tuned. The rule
is a rule of thumb, and what it went by is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cache.errors import CutonceError
from pipeline.evaluation.results import Result
from pipeline.experiment.best.look import Look
from pipeline.experiment.best.trial import Trial
from pipeline.experiment.methods.finetune_methods import name_of, run_finetune, transfer_method
from pipeline.text import format_difference
from stages.config.finetune import FinetuneConfig
from stages.config.head_registry import head_label
from stages.fitting.feature_rows import FeatureRows
from stages.inspection.extrapolation import WORTH, extrapolate
from stages.inspection.learning_curve import measure_curve
from stages.inspection.sample_scores import require_rising

if TYPE_CHECKING:
    from pipeline.experiment.best.search import Search

_DRAWS = 3
"""Times that each number of images is drawn for the curve."""

_PASSES_AN_EPOCH = 2.0
"""What an epoch takes, in passes of the frozen network over its images: lower blocks once, those that train thrice."""


@dataclass(frozen=True)
class Evidence:
    """Whether fine-tuning could win, and by what that is told.

    Attributes
    ----------
    could_win : bool
    words : str
    """

    could_win: bool
    words: str


def fine_tunings(search: Search) -> Iterator[Trial]:
    """Yield the fine-tuning of the top blocks, where the evidence is for it."""
    if not search.results or not search.may_fine_tune:
        return
    trial = FinetuneTrial(
        search.look("cut", replace(search.main.options, taps="", cut="auto", pool="avg", mirror=False))
    )
    # where there is no time for it nothing is weighed: the search ends at this trial
    if search.evidence is None and search.would_run(trial):
        search.evidence = weigh_evidence(search)
    if search.evidence is None or search.evidence.could_win:
        yield trial


def weigh_evidence(search: Search) -> Evidence:
    """Return whether fine-tuning could win by the learning curve of the first rung's head on its best depths."""
    metric, best, label = search.metric, search.best_score, head_label(search.chooser)
    data = search.main.problems.of(search.chooser).problem
    if not isinstance(data.train, FeatureRows):
        return Evidence(False, "the learning curve that would tell is not measured of features that are streamed")
    # the smallest numbers of images have no room for as many folds as may be asked for
    options = replace(search.about.head, head=(search.chooser,), scalers=("standard",), cv=None)
    if search.first_rung:
        setting = search.first_rung[0]
        options = replace(options, depths=(setting.depths,), block_weight=(setting.block_weight,))
    try:
        require_rising(data.task)
        curve = measure_curve(search.chooser, replace(data, config=options), _DRAWS)
        found = extrapolate(curve, search.about.seed)
    except CutonceError as reason:
        return Evidence(False, f"no learning curve says that it could win ({reason})")
    if found is None or not found.holds:
        return Evidence(False, f"the learning curve of {label} does not say whether it could win")
    gain = found.gains[2]
    said = (
        f"twice as many images would bring {label} {format_difference(gain.value, as_percent=metric.as_percent)}"
        f"{' points' if metric.as_percent else ''}"
    )
    if gain.value >= WORTH:
        return Evidence(False, f"{said}: it is images that are missing, not features")
    error = search.best_error
    if best is None or 1 - best <= 2 * (0.0 if math.isnan(error) else error):
        return Evidence(False, "what the best method still errs is within chance")
    return Evidence(True, f"{said}, so that what is missing has to come from the features")


@dataclass(frozen=True)
class FinetuneTrial:
    """The top blocks of the network, trained on augmented images from a head on its last layer.

    Attributes
    ----------
    look : Look
        Features of the cut, for the head that it starts from.
    """

    look: Look

    @property
    def config(self) -> FinetuneConfig:
        """As `finetune` does it by default."""
        return FinetuneConfig()

    @property
    def name(self) -> str:
        """What its method is called."""
        return name_of(self.config)

    @property
    def what(self) -> str:
        """What it is, in words."""
        return f"fine-tuning of the top {self.config.unfreeze} blocks"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{transfer_method(self.config)}-{self.name}"

    def seconds(self, search: Search) -> float:
        """Return a pass for the head that it starts from, and the epochs, by what a pass took."""
        a_pass = search.main.seconds_an_image
        epochs = self.config.epochs * search.learned_from * _PASSES_AN_EPOCH * (0.0 if math.isnan(a_pass) else a_pass)
        return self.look.seconds_left(search.main, guessed=search.looks_ahead) + epochs

    def find(self, search: Search) -> Result | None:
        """Return its result where it was finished: by the very same training, or it is refused."""
        return self.run(search) if search.was_finished(self.name) else None

    def run(self, search: Search) -> Result:
        """Train it, from where a command that was stopped had come to."""
        return run_finetune(self.look.experiment, self.config, replace(search.about.head, head=()))

    def details(self, search: Search) -> dict[str, Any]:
        """Return why it was tried."""
        return {} if search.evidence is None else {"evidence": search.evidence.words}
