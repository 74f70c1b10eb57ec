"""What a page asks for is there in what runs have, and in what other tests draw in its place."""

import pytest

from pipeline.experiment.pages.page_evidence import RunEvidence
from pipeline.report.evidence import Evidence
from tests.pipeline.report.pages import DrawnEvidence


@pytest.mark.parametrize("kind", [RunEvidence, DrawnEvidence])
def test_all_that_a_page_asks_for_is_there(kind):
    asked = {name for name in vars(Evidence) if not name.startswith("_")}
    assert asked >= {"features", "near_of", "features_note", "heat_of", "nearest", "heat_maps", "feature_map"}
    assert asked <= set(dir(kind))
