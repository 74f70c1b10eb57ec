import time

import pytest

from benchmarks.finetune import _table, side


def test_the_baseline_trains_what_stage_3_trains(photographs):
    """Times are comparable only where the work is: same images, order, augmentation, rates, so same losses."""
    same = {"images": str(photographs), "backbone": "resnet18", "weights": "none", "image_size": 64}
    same |= {"unfreeze": "layer4", "epochs": 3, "views": 1, "num_workers": 0}
    started = time.perf_counter()
    theirs, ours = (side(**same, baseline=baseline) for baseline in (True, False))
    took = time.perf_counter() - started
    assert theirs["losses"] == pytest.approx(ours["losses"], rel=1e-3)
    assert ours["losses"][-1] < ours["losses"][0]
    assert 0.01 < theirs["seconds"] < took / 2  # of an epoch, two of which are timed
    assert 0.01 < ours["seconds"] < took / 2


def test_sides_are_compared_with_the_first_repetition_by_repetition():
    def run(seconds):
        return {"seconds": seconds, "losses": [1.0, 0.5], "views": 0.0, "accuracy": 0.75, "autocast": "none"}

    slow, quick = [run(2.0), run(8.0), run(4.0)], [run(1.0), run(2.0), run(2.0)]
    _, _, *rows = _table({"slow": slow, "quick": quick}, images=8).splitlines()
    assert [row.split()[:4] for row in rows] == [["slow", "4.0", "500.0", "1.00"], ["quick", "2.0", "250.0", "2.00"]]
    assert "(2.00-4.00)" in rows[1]
