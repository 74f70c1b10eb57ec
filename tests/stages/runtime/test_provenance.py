"""Where a result comes from is told: the command, the time, the versions, the commit and the data."""

import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata

import pytest

from stages.runtime import provenance as module
from stages.runtime.provenance import command_named, commit_of_code, provenance


def test_it_names_the_command_the_versions_and_the_time_and_a_call_from_python_has_no_command():
    with command_named(["run", "--data", "my photos"]):
        told = provenance("abc")
    assert told["command"] == "cutonce run --data 'my photos'"
    assert told["data_digest"] == "abc"
    assert told["versions"]["torch"] == metadata.version("torch")
    age = datetime.now(timezone.utc) - datetime.fromisoformat(told["date"])
    assert 0 <= age.total_seconds() < 60
    assert provenance("abc")["command"] is None


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1\n")
    git("add", "code.py")
    git("commit", "-m", "first")
    return tmp_path


def test_the_commit_is_that_of_the_code_and_changed_files_are_said(checkout):
    commit_of_code.cache_clear()
    commit = commit_of_code(checkout)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (checkout / "code.py").write_text("2\n")
    assert commit_of_code(checkout) == commit  # of the process that has loaded it
    commit_of_code.cache_clear()
    assert commit_of_code(checkout) == f"{commit}-dirty"
    commit_of_code.cache_clear()


def test_without_a_checkout_it_is_what_pip_has_noted(tmp_path, monkeypatch):
    class Installed:
        def read_text(self, name):
            return '{"url": "https://a.b/c", "vcs_info": {"vcs": "git", "commit_id": "f00d"}}'

    commit_of_code.cache_clear()
    monkeypatch.setattr(module.metadata, "distribution", lambda name: Installed())
    assert commit_of_code(tmp_path) == "f00d"
    monkeypatch.setattr(Installed, "read_text", lambda *_: None)
    commit_of_code.cache_clear()
    assert commit_of_code(tmp_path) is None
    commit_of_code.cache_clear()
