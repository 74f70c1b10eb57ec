import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import UsageError
from stages.augment import TRANSFORMS, Step, read_steps
from stages.options import Features


@st.composite
def steps(draw):
    def argument(name):
        takes = TRANSFORMS[name]
        if takes is None:
            return None
        kind = st.integers if takes.whole else st.floats
        return float(f"{draw(kind(takes.lowest, takes.highest)):g}")

    names = draw(st.lists(st.sampled_from([name for name in TRANSFORMS if name != "crop"]), min_size=1, max_size=6))
    crop = ["crop"] if draw(st.booleans()) else []
    return tuple(Step(name, argument(name)) for name in crop + names)


@given(steps())
def test_a_list_is_read_as_it_is_written(listed):
    assert read_steps("+".join(map(str, listed))) == listed
    assert read_steps(" + ".join(str(step).replace("(", " ( ") for step in listed)) == listed


def test_arguments_have_defaults():
    assert read_steps("crop+flip+rotation") == (Step("crop", 0.5), Step("flip", None), Step("rotation", 10))
    assert read_steps("crop(.5)")[0] == read_steps("crop")[0]


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("crop+flpi", "no transform 'flpi'.*Did you mean 'flip'"),
        ("medum", "Did you mean 'medium'"),
        ("color", "Did you mean 'colour'"),
        ("", "'' is not a name"),
        ("crop+", "'' is not a name"),
        ("crop(0.5", r"'crop\(0.5' is not a name, or a name with one number"),
        ("crop(0.5, 1)", "must be a number"),
        ("crop(0)", "smallest share of the photograph that is kept must be from 0.01 to 1"),
        ("rotation(181)", r"rotation\(181\): the largest angle, in degrees, must be from 0 to 180"),
        ("rotation(nan)", "must be from 0 to 180"),
        ("rotation(ten)", "must be a number"),
        ("rand(9.5)", "must be a whole number"),
        ("erase(-0.1)", "as a probability, must be from 0 to 1"),
        ("flip(0.5)", "flip takes no argument"),
        ("flip+crop(0.5)", "crop must come first"),
        ("crop+crop", "crop must come first"),
        ("light+quarter", "light is a preset and stands alone"),
    ],
)
def test_what_cannot_be_right_is_refused_in_words(augment, said):
    with pytest.raises(UsageError, match=f"--augment .*{said}"):
        Features(augment=augment)


def test_options_are_checked_without_torch():
    script = (
        "import sys; from stages.options import Features; Features(augment='crop+flip'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
