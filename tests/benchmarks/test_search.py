import numpy as np
import pytest

from benchmarks.search import layout_of, main, make_rows


@pytest.mark.parametrize("width", [2000, 25_000])
def test_blocks_of_all_kinds_fill_the_width(width):
    blocks = layout_of(width).blocks
    assert sum(block.width for block in blocks) == width
    assert min(block.width for block in blocks) > 0
    assert {block.kind for block in blocks} == {"last", "stage", "block", "inner"}


def test_made_rows_are_skewed_and_mostly_of_a_few_directions():
    features, labels = make_rows(300, 2000, 2)
    assert features.dtype == np.float16
    assert 100 < labels.sum() < 200
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    shares = np.linalg.svd(centered / centered.std(axis=0), compute_uv=False) ** 2
    assert 0.3 < shares[:17].sum() / shares.sum() < 0.7
    assert np.mean(centered**3) > 0


def test_heads_learn_something_but_not_all(in_ready_processes, capsys):
    main(["--quick", "--heads", "ridge", "rbf"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {line[0]: float(line[-1].rstrip("%")) for line in lines if line and line[0] in ("ridge", "rbf")}
    assert len(found) == 2
    assert all(60 < score < 97 for score in found.values())
    assert any(line and line[0] == "all" for line in lines)
