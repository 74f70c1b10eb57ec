"""The section of masks that disagree with a model."""

import numpy as np
import pytest

from pipeline.report.inspected_masks import mask_section
from stages.config.data import DataConfig
from stages.data.manifest import load_manifest
from stages.inspection.mask_errors import MaskErrors


@pytest.fixture(scope="module")
def manifest(dense_folder):
    return load_manifest(DataConfig(str(dense_folder)), 0)


def errors_of(manifest, doubted):
    disagreement = np.linspace(0.1, 0.4, len(manifest))
    predicted = {place: np.ones((48, 64), np.uint8) for place in doubted[:1]}
    return MaskErrors(
        disagreement, np.array(doubted, np.int64), ["1 where the mask says 0"] * len(doubted), predicted, 0.5
    )


def test_image_mask_and_prediction_stand_side_by_side(manifest):
    doubted = [len(manifest) - 1, 0]
    section = mask_section(errors_of(manifest, doubted), manifest, {}, "issues.csv")
    assert section.count("<img") == 3
    assert section.count("<li>") == 1
    assert "40.0 % of the pixels" in section
    assert "1 where the mask says 0" in section
    assert "The first 1 are shown; issues.csv has all" in section
    assert manifest.locations[-1].split("/")[-1] in section


def test_without_doubts_it_says_so_and_without_a_look_there_is_none(manifest):
    assert "No mask disagrees" in mask_section(errors_of(manifest, []), manifest, {}, "issues.csv")
    assert mask_section(None, manifest, {}, "issues.csv") is None
