"""The command: its options, and Ctrl-C in a process of its own."""

import json
import re
import signal
import subprocess
import sys

from pipeline.cli.app import main
from tests.interrupts import heed_interrupts

OPTIONS = (
    *("--image-size", "32", "--head", "knn", "mlp", "--depths", "last", "--block-weight", "equal"),
    *("--c-values", "1e-3", "1e-1", "--cv", "3", "--fit-epochs", "60"),
)
"""Trials are logistic-last and knn, both on mirror images, larger ones and other networks, and mlp: how many come before
it hangs on whether larger images are better."""


def test_options_that_contradict_are_refused(tmp_path, capsys):
    said = [
        (("--budget", "3m", "--trials", "2"), "--budget and --trials: give one of them"),
        (("--trials", "0"), "--trials 0 must be at least 1"),
        (("--max-predict-ms", "0"), "--max-predict-ms 0 must be more than 0, and finite"),
        (("--max-predict-ms", "inf"), "--max-predict-ms inf must be more than 0, and finite"),
        (("--budget", ""), "--budget '' is a time with its unit"),
        (("--budget", "soon"), "--budget 'soon' is a time with its unit: 90s, 3m, 1h30m"),
    ]
    for options, words in said:
        assert main(["best", "--data", "photos", "--out", str(tmp_path / "run"), *options]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_interrupted_search_ends_with_its_answer_and_the_same_command_goes_on(photographs, tmp_path, capsys):
    command = ["best", "--data", str(photographs), *OPTIONS, "--cache", str(tmp_path / "cache")]
    command += ["--out", str(tmp_path / "run"), "--trials", "30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    before = None
    for line in process.stdout:
        if of_mlp := re.match(r"trial (\d+): MLP", line):
            before = int(of_mlp[1]) - 1
            process.send_signal(signal.SIGINT)
            break
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, (output, errors)
    assert re.search(
        r"stopped\. \d+ rows of features, \d+ results are kept; the same command goes on from there", errors
    )
    assert f"{before} trials in" in output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(result.get("chosen", False) for result in results["results"]) == 1
    assert main([*command[:-1], str(before)]) == 0  # that of mlp is run again in test_search.py
    output = capsys.readouterr().out
    assert f"{before} trials are finished already, and are taken as they are." in output
    assert "More minutes would try MLP on the best depths" in output
    assert "trial 1" not in output
