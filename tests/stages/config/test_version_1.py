"""Names and values of version 1: read as those of today, and digests taken over them stay what they were."""

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from stages.config.augment_grammar import OPS
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.config.version_1 import AUGMENT_NAMES, OPTION_NAMES, as_version_1, from_version_1

NOW = {field.name for group in (DataConfig, FeatureConfig, HeadConfig, FinetuneConfig) for field in fields(group)}


def test_every_old_name_has_a_new_one_that_is_an_option_and_is_none_itself():
    assert set(OPTION_NAMES.values()) <= NOW
    assert set(OPTION_NAMES) & NOW == {"test"}  # a share then, and a word now
    assert set(AUGMENT_NAMES.values()) <= set(OPS.declared)
    assert not set(AUGMENT_NAMES) & set(OPS.declared)


@given(st.dictionaries(st.sampled_from(sorted(NOW - {"augment", "baselines", "test"})), st.integers()))
def test_there_and_back(values):
    assert from_version_1(as_version_1(values)) == values


def test_values_change_with_the_names():
    old = {"augment": "crop(0.5)+colour(0.4)+grey", "baselines": ("scratch", "frozen"), "folds": 3}
    now = {"augment": "crop(0.5)+colorjitter(0.4)+grayscale", "baselines": ("scratch", "uncached"), "cv": 3}
    assert from_version_1(old) == now
    assert as_version_1(now) == old
    assert from_version_1({"augment": "medium"}) == {"augment": "medium"}
    assert [from_version_1({"test": value}) for value in (0.2, "cv")] == [{"test_size": 0.2}, {"test": "cv"}]
