"""What is logged below is what commands print; who calls the library is not printed at."""

import logging

import pytest

from pipeline.cli.output import echo, messages_printed

LOG = logging.getLogger("cutonce")


def test_messages_are_printed_as_they_are_while_a_command_runs(capsys):
    LOG.info("before")
    with messages_printed():
        LOG.info("a line\nand another, 50 % of `image_size`")
        LOG.debug("not this")
        echo("printed")
    LOG.info("after")
    assert capsys.readouterr() == ("a line\nand another, 50 % of --image-size\nprinted\n", "")
    assert LOG.handlers == []


def test_a_reader_that_is_gone_ends_the_command(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            pass

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(BrokenPipeError), messages_printed():
        LOG.info("a line")
    assert LOG.handlers == []
