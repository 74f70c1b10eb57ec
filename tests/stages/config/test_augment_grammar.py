import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import UsageError
from stages.config.augment_grammar import OPS, AugmentOp, parse_augment
from stages.config.features import FeatureConfig


@st.composite
def steps(draw):
    def argument(name):
        takes = OPS.declared[name].magnitude
        if takes is None:
            return None
        kind = st.integers if takes.whole else st.floats
        return float(f"{draw(kind(takes.lowest, takes.highest)):g}")

    names = draw(st.lists(st.sampled_from([name for name in OPS.declared if name != "crop"]), min_size=1, max_size=6))
    crop = ["crop"] if draw(st.booleans()) else []
    return tuple(AugmentOp(name, argument(name)) for name in crop + names)


@given(steps())
def test_a_list_is_read_as_it_is_written(listed):
    assert parse_augment("+".join(map(str, listed))) == listed
    assert parse_augment(" + ".join(str(step).replace("(", " ( ") for step in listed)) == listed


def test_arguments_have_defaults():
    assert parse_augment("crop+flip+rotation") == (
        AugmentOp("crop", 0.5),
        AugmentOp("flip", None),
        AugmentOp("rotation", 10),
    )
    assert parse_augment("crop(.5)")[0] == parse_augment("crop")[0]


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("crop+flpi", "no transform 'flpi'.*Did you mean 'flip'"),
        ("medum", "Did you mean 'medium'"),
        ("colorjiter", "Did you mean 'colorjitter'"),
        ("colour(0.3)", "'colour' is called colorjitter now"),
        ("", "'' is not a name"),
        ("crop+", "'' is not a name"),
        ("crop(0.5", r"'crop\(0.5' is not a name, or a name with one number"),
        ("crop(0.5, 1)", "must be a number"),
        ("crop(0)", "smallest share of the photograph that is kept must be from 0.01 to 1"),
        ("rotation(181)", r"rotation\(181\): the largest angle, in degrees, must be from 0 to 180"),
        ("rotation(nan)", "must be from 0 to 180"),
        ("rotation(ten)", "must be a number"),
        ("randaugment(9.5)", "must be a whole number"),
        ("randomerasing(-0.1)", "as a probability, must be from 0 to 1"),
        ("flip(0.5)", "flip takes no argument"),
        ("flip+crop(0.5)", "crop must come first"),
        ("crop+crop", "crop must come first"),
        ("light+rot90", "light is a preset and stands alone"),
    ],
)
def test_what_cannot_be_right_is_refused_in_words(augment, said):
    with pytest.raises(UsageError, match=f"`augment` .*{said}"):
        FeatureConfig(augment=augment)


def test_options_are_checked_without_torch():
    script = "import sys; from stages.config.features import FeatureConfig; FeatureConfig(augment='crop+flip'); print('torch' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert completed.stdout == "False\n"
