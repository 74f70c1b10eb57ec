"""Answers of heads on columns, of samples as a table lists them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cache.errors import DataError
from pipeline.experiment.prediction.predict_with_columns import predict_samples_with_columns, predict_with_columns
from stages.columns.encoders import CategoryEncoder, NumberEncoder
from stages.columns.table_encoder import TableEncoder
from stages.network.aggregate import Aggregate
from stages.network.heads.blocks import AggregatedBlocksHead
from stages.network.heads.linear import LinearHead
from stages.tasks.single_label import SingleLabel

COLUMNS = TableEncoder((NumberEncoder("area", 5.0, 5.0, 2.0), CategoryEncoder("zone", ("a", "b"))))
TASK = SingleLabel(("no", "yes"))
LISTING = [("1.jpg", {"area": "7", "zone": "a"}), ("2.jpg", {"area": "", "zone": "never"})]


def answers(listing, width, images=None):
    head = LinearHead((width,), 2).eval()
    with torch.no_grad():
        head.output.weight.copy_(torch.arange(2 * width).view(2, width) / 10)
    batches = SimpleNamespace(
        evaluation_requests=lambda locations: locations,
        run_batches=lambda requests, compute, count: iter(images),
        launched=lambda *steps, images: None,
    )
    upper = SimpleNamespace(model=SimpleNamespace(head=head))
    return list(predict_with_columns(batches, upper, TASK, listing, COLUMNS)), head


def test_an_image_that_cannot_be_read_takes_no_other_sample_with_it():
    row = np.ones((1, 4), np.float16)
    images = [
        SimpleNamespace(indices=[], rows=[], failures=[(0, "broken")], finished=1),
        SimpleNamespace(indices=[1], rows=[row], failures=[], finished=1),
    ]
    (failed, batch), head = answers(LISTING, 7, images)
    assert failed.failures == [(0, "broken")]
    assert failed.activated.shape == (0, 2)
    expected = nn.functional.softmax(head(torch.tensor([[1.0, 1, 1, 1, 0, 0, 0]])), dim=1)
    assert np.allclose(batch.activated, expected.detach())


def test_an_image_without_the_columns_is_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"\(area, zone\), and 3.jpg comes without: give a table .* or say by `method`"):
        answers([*LISTING, ("3.jpg", {"area": "1"})], 3)


def test_samples_of_several_images_are_answered_with_their_columns():
    """Of the first sample one view is missing, of the second one image cannot be read; nothing is left of the third."""
    torch.manual_seed(0)
    aggregate = Aggregate("mean", places=2, features=2)
    head = AggregatedBlocksHead(aggregate, LinearHead((5,), 2), 3).eval()
    features = {0: [1.0, 2.0], 1: [3.0, 4.0]}
    batch = SimpleNamespace(
        indices=[0, 1],
        rows=[np.array([*features.values()], np.float32)],
        failures=[(2, "broken"), (3, "gone")],
        finished=4,
    )
    extractor = SimpleNamespace(
        evaluation_requests=lambda locations: locations,
        run_batches=lambda *_: iter([batch]),
        launched=lambda *steps, images: None,
        batch_size=8,
    )
    upper = SimpleNamespace(model=SimpleNamespace(head=head), rows=None)
    samples = [
        ("a", [None, "1.jpg"], {"area": "7", "zone": "a"}),
        ("b", ["2.jpg", "3.jpg"], {"area": "", "zone": "b"}),
        ("c", ["4.jpg", None], {"area": "5", "zone": "b"}),
    ]
    (answered,) = predict_samples_with_columns(extractor, upper, TASK, samples, COLUMNS)
    assert answered.indices == [0, 1]
    assert answered.failures == [(2, "broken"), (3, "gone")]
    expected = head.inner(torch.tensor([[1.0, 2, 1, 1, 0], [3, 4, 0, 0, 1]])).softmax(dim=1)
    assert np.allclose(answered.activated, expected.detach(), atol=1e-6)
