"""Help in two levels, and what the first one has to explain."""

import re
from contextlib import suppress
from dataclasses import fields

import pytest

from pipeline.cli.app import main
from pipeline.options.toml_file import OPTION_GROUPS


@pytest.fixture
def help_of(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def help_of(*arguments):
        with suppress(SystemExit):
            main(list(arguments))
        return capsys.readouterr().out

    return help_of


@pytest.mark.parametrize("command", ["run", "finetune"])
def test_the_first_level_is_a_page_and_the_second_has_every_option(help_of, command):
    first, second = help_of(command, "--help"), help_of(command, "--help-all")
    assert len(first.splitlines()) < 85
    options = [option for group in OPTION_GROUPS for option in fields(group)]
    for option in options:
        described = re.compile(rf"(?m)^│[ *]+--{option.name.replace('_', '-')} ")
        assert described.search(second)
        assert bool(described.search(first)) == bool(option.metadata.get("common"))
    assert sum(bool(option.metadata.get("common")) for option in options) in range(8, 13)
    assert "--help-all all of them" in first
    assert help_of(command, "--help") == first  # the second was that command's alone


def test_words_are_explained_where_they_first_stand(help_of):
    overview = " ".join(help_of("--help").split())
    for words in ("is cut at a layer", "the part below, the trunk, is frozen", "Heads, small models from features to"):
        assert words in overview
    extract = " ".join(help_of("extract", "--help").replace("│", " ").split())
    assert "what lies below it, the trunk, is frozen" in extract
    assert "the views (renderings of an image)" in extract
