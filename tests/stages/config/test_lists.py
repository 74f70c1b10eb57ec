"""Options that take several values take them in any form, and a word is never taken apart into letters."""

from dataclasses import asdict

import numpy as np
import pytest

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.config.lists import joined_options, list_options

GROUPS = (DataConfig, FeatureConfig, HeadConfig, FinetuneConfig)


@pytest.mark.parametrize(
    "given", ["logistic,mlp", "logistic mlp", "logistic, mlp", ("logistic", "mlp"), ["logistic,mlp"]]
)
def test_names_come_one_by_one_whatever_stands_between_them(given):
    assert HeadConfig(head=given).head == ("logistic", "mlp")


def test_a_space_belongs_to_a_name_that_stands_in_a_list_already():
    assert DataConfig("photos", folders=["hold out=test", "dev=val,old=none"]).folders == (
        *("hold out=test", "dev=val", "old=none"),
    )


def test_a_word_is_one_item_and_so_is_a_number():
    assert HeadConfig(head="logistic").head == ("logistic",)
    assert HeadConfig(scalers="l2").scalers == ("l2",)
    assert FinetuneConfig(baselines="scratch").baselines == ("scratch",)
    assert FeatureConfig(weights_rename="encoder=").weights_rename == ("encoder=",)
    assert DataConfig("photos", seeds=3).seeds == (3,)


def test_numbers_are_numbers():
    assert DataConfig("photos", seeds="0,1 2").seeds == (0, 1, 2)
    assert DataConfig("photos", seeds=range(3)).seeds == (0, 1, 2)
    assert HeadConfig(c_values="1e-3, 1").c_values == (0.001, 1.0)
    assert HeadConfig(c_values=np.array([0.5, 2.0])).c_values == (0.5, 2.0)
    with pytest.raises(UsageError, match="`seeds` 'one' must be a whole number"):
        DataConfig("photos", seeds="one")
    with pytest.raises(UsageError, match="`fit_lr` 'high' must be a number"):
        HeadConfig(fit_lr="high")


@pytest.mark.parametrize("given", ["layer3,layer4", "layer3 layer4", ("layer3", "layer4"), ["layer3", "layer4"]])
def test_names_of_layers_are_one_word_with_commas(given):
    assert FeatureConfig(cut=given).cut == "layer3,layer4"
    assert FinetuneConfig(unfreeze=given, reinit=given).unfreeze == "layer3,layer4"
    assert FinetuneConfig(unfreeze="layer3,").unfreeze == "layer3,"  # which is not layer3 and all above it
    assert FinetuneConfig(unfreeze=3).unfreeze == "3"


def test_numbers_of_one_word_may_be_a_list_too():
    assert FeatureConfig(channels=(2, 1, 0), intensity_range="0 4095").channels == "2,1,0"
    assert FeatureConfig(channels=(2, 1, 0), intensity_range="0 4095").intensity_range == "0,4095"


def test_what_was_given_rightly_before_is_the_same():
    """Digests are taken over the options: no number becomes another, and none another kind of number."""
    for group in GROUPS[1:]:
        assert {name: repr(value) for name, value in asdict(group()).items()} == {
            name: repr(group.__dataclass_fields__[name].default) for name in group.__dataclass_fields__
        }
    assert repr(HeadConfig(c_values=(1, 2)).c_values) == "(1, 2)"


def test_lists_are_known_by_their_types_and_words_with_commas_by_their_metadata():
    assert set().union(*map(list_options, GROUPS)) >= {
        "seeds",
        "folders",
        "weights_rename",
        "head",
        "fit_lr",
        "baselines",
    }
    assert {name for group in GROUPS for name in joined_options(group)} >= {"cut", "channels", "unfreeze", "reinit"}
