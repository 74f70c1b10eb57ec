"""What the commands' signatures are made of: the option dataclasses as flags, and the types that are returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from stages.options import Data, Features, Finetune, Head

if TYPE_CHECKING:
    from pipeline.classify import Classified as Classified
    from pipeline.comparison import Comparison as Comparison
    from pipeline.report.learning_curve import CurveReport as CurveReport
    from pipeline.results import Result as Result
    from stages.estimate import Estimate as Estimate
    from stages.extract import Extraction as Extraction
    from stages.inspection.findings import Inspection as Inspection
    from stages.network.cut import Cut as Cut
    from stages.probe import Probe as Probe
    from stages.training.range_test import RangeTest as RangeTest
else:
    # a signature is resolved whenever help is printed, which must not wait for torch and scikit-learn
    Classified = Comparison = Cut = CurveReport = Estimate = Extraction = Inspection = Probe = RangeTest = Result = Any

_FLAGS = Parameter(name="*", consume_multiple=True, negative_iterable=())

DataFlags = Annotated[Data, _FLAGS, Parameter(group=Group("Data", sort_key=1))]
FeatureFlags = Annotated[Features, _FLAGS, Parameter(group=Group("Features (stage 1)", sort_key=2))]
HeadFlags = Annotated[Head, _FLAGS, Parameter(group=Group("Heads (stage 2)", sort_key=3))]
FinetuneFlags = Annotated[Finetune, _FLAGS, Parameter(group=Group("Fine-tuning (stage 3)", sort_key=4))]
