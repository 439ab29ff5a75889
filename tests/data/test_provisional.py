"""Provisional shift and scale stay usable at every magnitude."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data.provisional import shift_and_scale

MAGNITUDES = st.sampled_from([1e-300, 1e-30, 1.0, 1e15, 1e150, 1e300])
EXTREME = st.floats(-1e300, 1e300) | st.tuples(st.floats(-1, 1), MAGNITUDES).map(lambda pair: pair[0] * pair[1])


@given(st.lists(EXTREME | st.sampled_from([np.nan, np.inf, -np.inf]), max_size=50))
def test_every_finite_value_stays_finite_when_shifted_and_scaled(values: list[float]) -> None:
    sample = np.array(values, dtype=np.float64)
    shift, scale = shift_and_scale(sample)

    assert np.isfinite(shift)
    assert np.isfinite(scale)
    assert scale > 0
    assert np.isfinite(1 / scale)
    with np.errstate(over="raise", invalid="raise"):
        scaled = (sample[np.isfinite(sample)] - shift) / scale
    assert np.all(np.isfinite(scaled))
    # No value lies further out than the square root of the number of values.
    assert np.all(np.abs(scaled) <= np.sqrt(len(values)) * (1 + 1e-9))


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=30))
def test_scale_is_a_power_of_two_next_above_the_root_mean_square_about_a_value_of_the_sample(
    values: list[int],
) -> None:
    shift, scale = shift_and_scale(np.array(values, dtype=np.float64))

    assert shift in values
    mean_square = sum(Fraction(value - int(shift)) ** 2 for value in values) / len(values)
    assert np.frexp(scale)[0] == 0.5
    root = float(mean_square) ** 0.5 if mean_square else 1.0
    assert root * (1 - 1e-12) <= scale < 2 * root * (1 + 1e-12)


def test_a_column_that_hardly_varies_keeps_its_differences() -> None:
    shift, scale = shift_and_scale(1e15 + np.array([-1.0, 0.0, 1.0]))

    assert shift == 1e15
    assert scale == 1.0  # (2 / 3) ** 0.5, and up to a power of two


@pytest.mark.parametrize("values", [[], [np.nan, np.inf], [7.0, 7.0, np.nan]], ids=["empty", "none finite", "constant"])
def test_scale_is_one_where_nothing_varies(values: list[float]) -> None:
    assert shift_and_scale(np.array(values, dtype=np.float64))[1] == 1.0


def test_the_largest_doubles_have_a_finite_scale() -> None:
    shift, scale = shift_and_scale(np.array([-1.7e308, 0.0, 1.7e308]))

    assert (shift, np.isfinite(scale), np.isfinite(1 / scale), 1 / scale > 0) == (0.0, True, True, True)
