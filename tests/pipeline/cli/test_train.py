"""``train`` alone: what it refuses, it refuses before a head is trained."""

import pytest

from pipeline.cli.app import main


@pytest.fixture(scope="module")
def extracted(photographs, tmp_path_factory):
    """Options by which features of the photographs are found."""
    cache = tmp_path_factory.mktemp("train") / "cache"
    options = ["--data", str(photographs), "--image-size", "32", "--cache", str(cache)]
    assert main(["extract", *options]) == 0
    return options


def test_a_head_that_takes_other_samples_is_refused_before_those_named_before_it_are_trained(
    extracted, tmp_path, capsys
):
    assert main(["train", *extracted, "--head", "ridge", "gru", "--out", str(tmp_path / "run")]) == 2
    assert "--head gru takes samples of several images" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*/*ridge*"))
    assert main(["train", *extracted, "--head", "ridge", "--c-values", "0.1", "--out", str(tmp_path / "run")]) == 0
    assert list(tmp_path.glob("run/*/linear-ridge/result.json"))
