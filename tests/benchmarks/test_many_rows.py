import numpy as np

from benchmarks.many_rows import main, make_rows


def test_classes_of_made_rows_lie_in_their_hidden_numbers():
    features, labels = make_rows(2500, 60, 4)  # in two parts
    assert features.dtype == np.float16
    assert np.bincount(labels).min() > 500
    centers = np.stack([features[labels == number].astype(np.float64).mean(axis=0) for number in range(4)])
    assert 2 * np.sqrt(1 / 625) < centers.std(axis=0).mean() < 1  # more than chance would leave of noise


def test_every_head_stands_in_the_table_with_its_memory(in_ready_processes, capsys):
    main(["--quick", "--heads", "ridge", "sgd"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("ridge", "sgd"))]
    assert [line[0] for line in lines] == ["ridge", "sgd"]
    for line in lines:
        assert 0.1 < float(line[3]) < 8  # a process with torch, in GB
        assert float(line[-1].rstrip("%")) > 40  # of five classes


def test_rows_of_a_cache_are_as_good(in_ready_processes, capsys):
    main(["--quick", "--heads", "ridge", "logistic", "--max-memory-gb", "0.01"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("ridge", "logistic"))]
    assert [line[0] for line in lines] == ["ridge", "logistic"]
    assert all(float(line[-1].rstrip("%")) > 40 for line in lines)
