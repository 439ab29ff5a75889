"""The spline's columns are scikit-learn's, and go on as straight lines."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import SplineTransformer

from streamgd.data.columns import Columns, NumericColumn
from streamgd.data.derived import NumberValues
from streamgd.data.transforms.log import Log
from streamgd.data.transforms.spline import Spline, chosen_knots, degrees

knots_of_any_distance = st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True).map(
    lambda found: tuple(float(knot) / 8.0 for knot in sorted(found))
)


def columns_of(knots: tuple[float, ...], values: np.ndarray) -> np.ndarray:
    return np.stack([Spline(knots, basis).apply(values) for basis in range(degrees(knots))], axis=1)


@given(knots_of_any_distance)
def test_columns_are_those_of_scikit_learn(knots: tuple[float, ...]) -> None:
    values = np.concatenate([np.linspace(-12.0, 12.0, 97), knots])
    oracle = SplineTransformer(
        degree=3, knots=np.array(knots)[:, None], extrapolation="linear", include_bias=False
    )  # fmt: skip
    expected = oracle.fit_transform(values[:, None])

    np.testing.assert_allclose(columns_of(knots, values), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@given(st.integers(3, 12), st.integers(0, 5))
def test_knots_are_the_quantiles_and_columns_are_independent_of_the_constant(columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(size=500)
    knots = chosen_knots(np.append(values, [np.nan, np.inf]), columns)

    assert knots == tuple(np.quantile(values, np.linspace(0.025, 0.975, columns - 1), method="inverted_cdf"))
    made = columns_of(knots, values)
    assert made.shape == (500, columns)
    assert np.linalg.matrix_rank(np.column_stack([made, np.ones(500)])) == columns + 1


def test_a_value_with_many_rows_counts_for_so_many_as_leave_it_one_knot() -> None:
    values = np.array([50.0] * 900 + list(range(51, 101)))

    # With 900 / 64 = 14 rows, 64 count in all: 1.6, 21.9, 42.1 and 62.4 of them are the quantiles.
    assert chosen_knots(values, 5) == (50.0, 58.0, 79.0, 99.0)
    assert chosen_knots(np.array([1.0, 2.0, 3.0, 4.0, 5.0] * 9), 5) is None
    assert chosen_knots(np.array([np.nan]), 3) is None


def test_null_stays_null_and_the_column_is_stored() -> None:
    column = NumericColumn("log(x) spline 2", "x", steps=(Log(), Spline((0.0, 1.0, 4.0), 1)))
    columns = Columns((column,), ())

    found = NumberValues(pa.record_batch({"x": [None, 1.0, float("nan"), 2.0]})).of(column)

    np.testing.assert_array_equal(np.isnan(found), [True, False, True, False])
    assert Columns.from_json(columns.to_json()) == columns


@pytest.mark.parametrize(
    ("knots", "basis"),
    [((1.0,), 0), ((2.0, 1.0), 0), ((1.0, 1.0), 0), ((0.0, float("inf")), 0), ((0.0, 1.0), 3), ((0.0, 1.0), -1)],
)
def test_numbers_that_make_no_sense_are_noticed(knots: tuple[float, ...], basis: int) -> None:
    with pytest.raises(ValueError, match="spline"):
        Spline(knots, basis).check()
