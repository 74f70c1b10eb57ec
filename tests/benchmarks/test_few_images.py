from benchmarks.few_images import main
from stages.fitting import standardize


def test_heads_stand_in_a_table_with_and_without_what_their_neighbors_say(capsys):
    built_in = standardize.PRIOR_ROWS
    main(["--quick", "--prior-rows", "0", "1e6"])
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("30 ")]
    accuracies = [float(row[2]), float(row[5])]
    assert row[:2] == ["30", "ridge"]
    assert min(accuracies) > 80  # of two classes that differ in color
    assert row[4] != row[7]  # the log losses: what is measured makes a difference
    assert 0 < float(row[-1]) < standardize.ALIKE  # of noise, which has most features off
    assert built_in == standardize.PRIOR_ROWS
