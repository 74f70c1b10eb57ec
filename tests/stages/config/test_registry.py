"""Registries: what registers itself is found, what help says needs no import, and two of one name are refused."""

import sys

import pytest

from cache.errors import UsageError
from stages.config.registry import OptionHelp, Registry
from tests.plug_ins import install_plug_in

SHAPE = """
from {registry} import SHAPES

def register_shape(name, *, help_text):
    def register(draw):
        SHAPES.add(name, draw, help_text, draw)
        return draw
    return register
"""

ROUND = """
import decimal_that_does_not_exist_unless_loaded as heavy
from shapes.base import register_shape

@register_shape("circle", help_text="a circle (r=1)")
def circle():
    return heavy.ROUND
"""


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A package of shapes, one of whose files imports something slow."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (tmp_path / "shape_registry.py").write_text(
        "from stages.config.registry import Registry\nSHAPES = Registry('shape', 'shapes', 'tests.shapes')\n"
    )
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text(SHAPE.format(registry="shape_registry"))
    (folder / "round.py").write_text(ROUND)
    (tmp_path / "decimal_that_does_not_exist_unless_loaded.py").write_text("ROUND = 'round'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("shape", "decimal_that", "square"))]:
        del sys.modules[name]


def registry():
    from shape_registry import SHAPES

    assert isinstance(SHAPES, Registry)
    return SHAPES


SQUARE = """
from shapes.base import register_shape

@register_shape("{name}", help_text="a square (a=1)")
def square():
    return "square"
"""


def test_a_file_of_the_package_is_found_by_itself(shapes):
    assert registry().entries()["circle"]() == "round"


def test_help_is_read_without_importing_what_registers(shapes):
    help_text = OptionHelp("Shape", registry(), "It is drawn.")["help"]
    assert help_text == "Shape: a circle (r=1). It is drawn."
    assert "decimal_that_does_not_exist_unless_loaded" not in sys.modules
    assert "shapes.round" not in sys.modules


def test_another_package_adds_one_by_an_entry_point(shapes):
    install_plug_in(shapes, "square-shapes", "tests.shapes", "square", SQUARE.format(name="square"))
    assert registry().help_texts() == ["a circle (r=1)", "square (of the package square-shapes)"]
    assert {*registry().entries()} == {"circle", "square"}
    assert registry().help_texts() == ["a circle (r=1)", "a square (a=1)"]


def test_a_plug_in_whose_name_is_taken_is_an_error_that_names_both(shapes):
    install_plug_in(shapes, "square-shapes", "tests.shapes", "circle", SQUARE.format(name="circle"))
    for _ in range(2):  # and it is no better when asked again
        with pytest.raises(UsageError, match=r"two shapes .*'circle': that of shapes.round.circle and .*square_shapes"):
            registry().entries()


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_package(shapes):
    install_plug_in(shapes, "square-shapes", "tests.shapes", "square", "import nowhere_to_be_found\n")
    with pytest.raises(UsageError, match=r"shape square, a plug-in of the package square-shapes, .*nowhere_to_be"):
        registry().entries()
