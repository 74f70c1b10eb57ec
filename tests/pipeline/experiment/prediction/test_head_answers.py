"""What a head says of rows that are there, and of columns alone."""

import numpy as np
import pytest
import torch

from cache.errors import DataError
from pipeline.experiment.prediction.head_answers import encoded_columns, head_probabilities
from stages.columns.encoders import CategoryEncoder, NumberEncoder
from stages.columns.table_encoder import TableEncoder
from stages.network.heads.linear import LinearHead
from stages.tasks.single_label import SingleLabel

COLUMNS = TableEncoder((NumberEncoder("area", 5.0, 5.0, 2.0), CategoryEncoder("zone", ("a", "b"))))
CELLS = [{"area": "7", "zone": "a"}, {"area": "", "zone": "never"}]


def test_columns_become_the_rows_of_a_head_and_what_is_missing_or_new_is_told(caplog):
    head = LinearHead((3,), 2)
    torch.nn.init.normal_(head.output.weight)
    with caplog.at_level("INFO", "cutonce"):
        rows = encoded_columns(COLUMNS, ["one", "two"], CELLS)
    assert rows.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert "no value" in caplog.text
    assert "what train never had" in caplog.text
    expected = head(torch.from_numpy(rows)).softmax(dim=1).detach()
    assert np.allclose(head_probabilities(head, rows, SingleLabel(("no", "yes"))), expected)


def test_a_sample_without_the_columns_is_named():
    with pytest.raises(DataError, match=r"\(area, zone\), and two comes without"):
        encoded_columns(COLUMNS, ["one", "two"], [CELLS[0], {"area": "1"}])
