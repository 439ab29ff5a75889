"""Columns become rows, and nothing else is written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.kernels.turn import SIDE, turn


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(
    n_columns=st.integers(1, 5 * SIDE), count=st.integers(0, 5 * SIDE), room=st.integers(0, 3), row=st.integers(0, 3),
    first=st.integers(0, 3), after=st.integers(0, 3),
)  # fmt: skip
def test_columns_become_rows(
    kind: type, n_columns: int, count: int, room: int, row: int, first: int, after: int
) -> None:
    columns = np.random.default_rng(n_columns).normal(size=(n_columns, count + room)).astype(kind)
    rows = np.full((row + count + after, first + n_columns + after), 77.0, kind)
    expected = rows.copy()
    expected[row : row + count, first : first + n_columns] = columns[:, :count].T
    turn(columns, count, rows, row, first)
    np.testing.assert_array_equal(rows, expected)


def test_nan_and_zeros_keep_their_bits() -> None:
    columns = np.tile(np.array([np.nan, -0.0, np.inf, 5e-324]), (SIDE, SIDE))
    columns.view(np.uint64)[2, 0] = 0x7FF8_0000_DEAD_BEEF
    rows = np.empty((4 * SIDE, SIDE))
    turn(columns, 4 * SIDE, rows, 0, 0)
    assert rows.tobytes() == columns.T.tobytes()
