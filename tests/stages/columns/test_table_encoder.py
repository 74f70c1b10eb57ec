"""Several columns together: saved as JSON, and missed by name."""

import numpy as np
import pytest

from cache.errors import DataError
from stages.columns.fit import ColumnChoice, fit_columns
from stages.columns.table_encoder import TableEncoder

COLUMNS = {"area": ["1", "2", "", "4"], "zone": ["01", "01", "2", "3"], "note": ["à b cd", "cd ef", "ef", "gh"]}
ROWS = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
ENCODER = fit_columns(ColumnChoice(("area",), ("zone",), ("note",)), COLUMNS, ROWS)


def test_what_was_saved_makes_the_same_numbers(tmp_path):
    ENCODER.save(tmp_path / "columns.json")
    loaded = TableEncoder.load(tmp_path / "columns.json")
    assert loaded == ENCODER
    ours, theirs = (encoder.encode(COLUMNS, ROWS) for encoder in (ENCODER, loaded))
    assert np.array_equal(ours.values, theirs.values)
    assert theirs.missing == {"area": 1}


def test_what_train_never_had_is_counted():
    encoded = ENCODER.encode({"area": ["1"], "zone": ["1"], "note": ["zz"]}, ["new.jpg"])
    assert encoded.unseen == {"zone": 1, "note": 1}


def test_a_missing_column_is_named_with_the_nearest_one():
    with pytest.raises(DataError, match=r"no column area, .* area, zone, note.*Did you mean 'Area'"):
        ENCODER.encode({"Area": ["1"], "zone": ["1"], "note": [""]}, ["1.jpg"])


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "columns.json").write_text('{"format": "cutonce-columns", "version": 1, "columns": [{"kind": "x"}]}')
    with pytest.raises(DataError, match=r"columns\.json does not say how columns become numbers"):
        TableEncoder.load(tmp_path / "columns.json")
