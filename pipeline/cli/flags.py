"""What the commands' signatures are made of: the option dataclasses as flags, and the types that are returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from pipeline.cli.help import StageHelp, second_level
from pipeline.options.trackers import TRACKERS
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig

if TYPE_CHECKING:
    from pipeline.evaluation.comparison import Comparison as Comparison
    from pipeline.evaluation.new_data import Evaluation as Evaluation
    from pipeline.evaluation.results import Result as Result
    from pipeline.experiment.prediction.prediction import Prediction as Prediction
    from pipeline.export.export_run import Exported as Exported
    from pipeline.report.learning_curve import CurveReport as CurveReport
    from stages.extraction.estimate import Estimate as Estimate
    from stages.extraction.extract import Extraction as Extraction
    from stages.inspection.backbone_ranking import Suggestion
    from stages.inspection.inspect import Inspection as Inspection
    from stages.inspection.layer_probe import LayerProbe as LayerProbe
    from stages.network.backbones.catalog import CatalogEntry
    from stages.network.graph.cuts import Cut as Cut
    from stages.training.lr_finder import LRFinderResult as LRFinderResult

    Networks = list[CatalogEntry] | Suggestion
else:
    # a signature is resolved whenever help is printed, which must not wait for torch and scikit-learn
    Prediction = Comparison = Cut = CurveReport = Estimate = Evaluation = Exported = Extraction = Inspection = (
        LayerProbe
    ) = LRFinderResult = Result = Networks = Any

OverwriteFlag = Annotated[bool, Parameter(negative="", help="Train anew what the run has with other options.")]

_ELSEWHERE = Group("Elsewhere", sort_key=5, help_formatter=second_level)

TrackFlag = Annotated[
    str | None,
    Parameter(
        help=f"Write results into a tracker too: {', '.join(TRACKERS.names())} (default: none).", group=_ELSEWHERE
    ),
]

OpenFlag = Annotated[
    bool, Parameter(name="--open", negative="", help="Open the page in a browser at the end.", group=_ELSEWHERE)
]

_FLAGS = Parameter(name="*", consume_multiple=True, negative_iterable=())


def _group(title: str, number: int, options: type) -> Parameter:
    return Parameter(group=Group(title, sort_key=number, help_formatter=StageHelp(options)))


DataFlags = Annotated[DataConfig, _FLAGS, _group("Data", 1, DataConfig)]
FeatureFlags = Annotated[FeatureConfig, _FLAGS, _group("Features (stage 1)", 2, FeatureConfig)]
HeadFlags = Annotated[HeadConfig, _FLAGS, _group("Heads (stage 2)", 3, HeadConfig)]
FinetuneFlags = Annotated[FinetuneConfig, _FLAGS, _group("Fine-tuning (stage 3)", 4, FinetuneConfig)]
