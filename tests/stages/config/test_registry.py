"""What options say of the things that are registered for them."""

from dataclasses import dataclass, field, fields

from cache.registry import Registration, Registry
from stages.config.registry import OptionHelp, listed_help


def test_help_of_an_option_is_made_when_it_is_asked_for():
    texts = ["early"]

    @dataclass
    class Options:
        shape: str = field(default="", metadata=OptionHelp(lambda: ", ".join(texts)))

    texts.append("late")
    (shape,) = fields(Options)
    assert shape.metadata["help"] == "early, late"
    assert dict(shape.metadata) == {"help": "early, late"}


def test_things_are_listed_as_a_sentence_has_them():
    shapes = Registry("shape", Registration, [], option="shape")
    for name, help_text in (("circle", "a circle"), ("square", "a square"), ("line", "a line")):
        shapes.register(Registration(name, help_text=help_text), test_things_are_listed_as_a_sentence_has_them)
    assert listed_help(shapes) == "a circle, a square, or a line"
