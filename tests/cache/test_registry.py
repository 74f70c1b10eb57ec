"""Registries: what registers itself is found, what help says needs no import, and two of one name are refused."""

import sys

import pytest

from cache.errors import UsageError
from cache.registry import Registry
from tests.plug_ins import install_plug_in

SHAPE = """
from cache.registry import Registration
from {registry} import SHAPES

def register_shape(name, *, help_text):
    def register(draw):
        SHAPES.register(Registration(name, help_text=help_text), draw)
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
        "from cache.registry import Registration, Registry\n"
        "SHAPES = Registry('shape', Registration, ['shapes'], option='shape')\n"
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
    assert registry().things()["circle"]() == "round"


def test_help_is_read_without_importing_what_registers(shapes):
    assert registry().help_texts() == ["a circle (r=1)"]
    assert registry().named_help_texts() == ["circle (a circle (r=1))"]
    assert "decimal_that_does_not_exist_unless_loaded" not in sys.modules
    assert "shapes.round" not in sys.modules


def test_another_package_adds_one_by_an_entry_point(shapes):
    install_plug_in(shapes, "square-shapes", "cutonce.shapes", "square", SQUARE.format(name="square"))
    assert registry().help_texts() == ["a circle (r=1)", "square (of the package square-shapes)"]
    assert {*registry().things()} == {"circle", "square"}
    assert registry().help_texts() == ["a circle (r=1)", "a square (a=1)"]


def test_a_plug_in_whose_name_is_taken_is_an_error_that_names_both(shapes):
    install_plug_in(shapes, "square-shapes", "cutonce.shapes", "circle", SQUARE.format(name="circle"))
    with pytest.raises(UsageError, match=r"two shapes .*'circle': that of shapes.round and .*square_shapes"):
        registry().get("circle")
    for _ in range(2):  # and it is no better when asked again
        with pytest.raises(UsageError, match=r"two shapes .*'circle': that of shapes.round.circle and .*square_shapes"):
            registry().things()


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_package(shapes):
    install_plug_in(shapes, "square-shapes", "cutonce.shapes", "square", "import nowhere_to_be_found\n")
    with pytest.raises(UsageError, match=r"shape square, a plug-in of the package square-shapes, .*nowhere_to_be"):
        registry().things()


def test_one_thing_is_asked_for_without_importing_the_others(shapes):
    (shapes / "shapes" / "straight.py").write_text(SQUARE.format(name="square"))
    assert registry().get("square")() == "square"
    assert "shapes.round" not in sys.modules
    assert registry().names() == ("circle", "square")


def test_a_plug_in_that_is_asked_for_by_its_name_is_imported_alone(shapes):
    install_plug_in(shapes, "square-shapes", "cutonce.shapes", "square", SQUARE.format(name="square"))
    assert registry().get("square")() == "square"
    assert registry().find("square").help_text == "a square (a=1)"
    assert "shapes.round" not in sys.modules


def test_an_entry_point_that_promises_a_name_has_to_register_it(shapes):
    install_plug_in(shapes, "square-shapes", "cutonce.shapes", "oblong", SQUARE.format(name="square"))
    with pytest.raises(UsageError, match=r"square_shapes .* registers no shape oblong, which its entry point promises"):
        registry().get("oblong")


def test_an_unknown_name_is_refused_with_all_there_are_and_the_nearest(shapes):
    install_plug_in(shapes, "square-shapes", "cutonce.shapes", "square", SQUARE.format(name="square"))
    with pytest.raises(
        UsageError, match=r"`shape` circel: .*no such shape\. Did you mean 'circle'\? There are circle, square\."
    ):
        registry().get("circel")


def test_two_files_with_one_name_are_refused_before_either_is_imported(shapes):
    (shapes / "shapes" / "straight.py").write_text(SQUARE.format(name="circle"))
    with pytest.raises(UsageError, match=r"two shapes .*'circle': that of shapes.round and that of shapes.straight"):
        registry().names()


def test_a_name_in_our_files_that_only_an_import_would_tell_is_a_fault_of_that_file(shapes):
    (shapes / "shapes" / "straight.py").write_text(SQUARE.format(name="square").replace('"square"', "NAME", 1))
    with pytest.raises(ValueError, match=r"shapes.straight: @register_shape\(NAME.*literals only"):
        registry().names()


def test_what_help_does_not_get_from_the_decorator_it_gets_from_the_docstring(shapes):
    (shapes / "shapes" / "straight.py").write_text(
        "from shapes.base import register_shape\n\n"
        '@register_shape("line", )\n'
        "@(lambda line: line)\n"
        "def line(\n    width: int = 1,\n) -> str:\n"
        '    """Nothing but a line: short.\n\n    And more.\n    """\n'
    )
    assert registry().named_help_texts() == ["circle (a circle (r=1))", "line (nothing but a line)"]
