import pytest

from benchmarks.finetune import side


def test_the_baseline_trains_what_stage_3_trains(photographs):
    """Times are comparable only where the work is: same images, order, augmentation, rates, so same losses."""
    same = {"images": str(photographs), "backbone": "resnet18", "weights": "none", "image_size": 64}
    same |= {"unfreeze": "layer4", "epochs": 3, "views": 1, "num_workers": 0}
    theirs, ours = (side(**same, baseline=baseline) for baseline in (True, False))
    assert theirs["losses"] == pytest.approx(ours["losses"], rel=1e-3)
    assert ours["losses"][-1] < ours["losses"][0]
    assert theirs["seconds"] > 0
    assert ours["seconds"] > 0
