import numpy as np

from benchmarks.ranking import lost, main, measure, rings
from stages.config.heads import HeadConfig


def test_the_table_has_a_line_for_each_set_and_one_for_all(capsys):
    main(["--quick", "--samples", "60"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["planes", "rings", "clusters", "wide", "all"]


def test_what_is_chosen_loses_little_against_the_truly_best():
    options = HeadConfig(c_values=(1e-3, 1e-1), scalers=("standard",), n_neighbors=(1, 10))
    samples = rings(600, np.random.default_rng(0))
    scores, chosen, _ = measure(samples, 2, ("ridge", "knn", "kernel_ridge"), options, 350)
    assert scores.mean(axis=0).argmax() == 2
    assert lost(scores, chosen).mean() <= 1.5
    assert lost(scores, np.zeros(2, int)).mean() > 1.5  # not all heads do
