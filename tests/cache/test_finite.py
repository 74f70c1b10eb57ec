import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cache.finite import finite_rows


@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 3)),
        elements=st.sampled_from([0.0, -1.5, 65504.0, 6e-8, np.inf, -np.inf, np.nan]),
    )
)
def test_a_row_is_finite_if_every_number_of_it_is(rows):
    expected = [bool(np.isfinite(row.astype(np.float64)).all()) for row in rows]
    assert finite_rows(rows).tolist() == expected
    assert finite_rows(np.asfortranarray(rows)).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_are_vectors_have_an_answer_each(dtype):
    assert finite_rows(np.array([[1, 2], [np.nan, 1], [1, np.inf]], dtype=dtype)).tolist() == [True, False, False]
