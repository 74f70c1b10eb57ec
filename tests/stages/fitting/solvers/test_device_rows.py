"""Rows come to a device the same, whether they lie there or are sent."""

import numpy as np
import pytest
import torch

from stages.fitting.solvers import device_rows
from stages.fitting.solvers.device_rows import DeviceRows

PARTS = [np.arange(70, dtype=np.float16).reshape(10, 7), -np.arange(35, dtype=np.float16).reshape(5, 7)]
WHOLE = np.concatenate(PARTS)


@pytest.fixture(params=["resident", "sent"])
def rows(request, monkeypatch, gpu):
    if request.param == "sent":
        monkeypatch.setattr(device_rows, "free_memory", lambda _: 100)
    monkeypatch.setattr(device_rows, "_SENT_BYTES", 3 * 14)
    made = DeviceRows.of(PARTS, torch.device("cuda"))
    assert (made.resident is None) == (request.param == "sent")
    return made


def joined(rows, most):
    found = np.zeros((len(rows), rows.width), np.float16)
    for part, block in rows.blocks(most):
        assert block.device.type == "cuda"
        assert 0 < len(block) <= most
        found[part] = block.cpu().numpy()
    return found


@pytest.mark.parametrize("most", [1, 4, 100])
def test_all_rows_come_in_order(rows, most):
    assert (len(rows), rows.width, rows.dtype) == (15, 7, torch.float16)
    np.testing.assert_array_equal(joined(rows, most), WHOLE)


@pytest.mark.parametrize("selection", [slice(0, 10), slice(8, 13), slice(11, 15), np.array([3, 14, 2, 9, 10])])
def test_some_rows_are_those_of_the_array(rows, selection):
    np.testing.assert_array_equal(joined(rows.at(selection), 4), WHOLE[selection])
    assert (rows.at(selection).resident is None) == (rows.resident is None)


def test_all_passes_send_on_one_stream(rows):
    """Each stream has memory of its own, which stays with it."""
    streams = {part.stream for part in (rows, rows.at(slice(0, 10)), rows.at(np.array([3, 14])))}
    assert len(streams) == 1
    assert (None in streams) == (rows.resident is not None)


def test_a_sample_is_a_copy_on_the_device(rows):
    places = np.array([12, 0, 12])
    sample = rows.sample(places)
    sample.mul_(1)
    assert sample.device.type == "cuda"
    np.testing.assert_array_equal(sample.cpu().numpy(), WHOLE[places])


def test_rows_in_use_are_not_written_over_by_those_that_are_on_the_way(rows):
    """Blocks stay right while later ones are sent."""
    kept = [(part, block) for part, block in rows.blocks(2)]
    for part, block in kept:
        np.testing.assert_array_equal(block.cpu().numpy(), WHOLE[part])
