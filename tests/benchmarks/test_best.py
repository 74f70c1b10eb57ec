import json
import re

import pytest

from benchmarks.best import main


def test_each_search_is_a_row_with_what_was_taken_out_of_folds_and_what_it_tests(tmp_path, capsys):
    main(["--quick", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    row, means = (re.split(r"\s{2,}", line.strip()) for line in lines[-2:])
    results = json.loads((tmp_path / "seed-0" / "results.json").read_text())["results"]
    chosen = next(result for result in results if result.get("chosen"))
    base = next(result for result in results if result["name"] == "logistic-last")
    expected = [100 * value for part in (chosen, base) for value in (part["cv"]["mean"], part["test"]["accuracy"])]
    assert (row[0], row[1], row[3]) == ("0", "2", chosen["name"])
    assert [float(value) for value in row[4:]] == pytest.approx(expected, abs=0.051)
    assert means[0] == "mean"
    main(["--quick", "--out", str(tmp_path)])  # what was searched is read
    assert capsys.readouterr().out.splitlines()[-2:] == lines[-2:]
