"""Two gloo processes that train together, against one that trains on the same batches."""

import pytest
import torch

from tests.ready_processes import torchrun
from tests.stages.training.ranks import main


@pytest.mark.filterwarnings("ignore:not enough memory")
def test_two_processes_come_to_what_one_comes_to_with_the_same_batches(tmp_path):
    ended = torchrun(2, "-m", "tests.stages.training.ranks", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "not enough memory" in ended.stderr  # one of the two splits its share, and the other waits for it
    main(tmp_path)
    alone, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    for expected, actual in zip(alone[0], first[0], strict=True):
        for quantity in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "rate"):
            assert expected[quantity] == pytest.approx(actual[quantity], abs=1e-5), (expected["epoch"], quantity)
        assert expected["terms"] == pytest.approx(actual["terms"], abs=1e-5)
    assert first[0][-1]["val_loss"] < first[0][0]["val_loss"]
    for part in (1, 2):  # weights, BatchNorm statistics too
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    assert all(torch.allclose(alone[1][name], first[1][name], atol=1e-4) for name in alone[1])
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("as-*.pt"))
    assert [name for name in written if "of-2" in name] == ["eval-of-2/as-0.pt", "train-of-2/as-0.pt"]
