"""Learning rates are functions of the step alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.optim.schedules import learning_rates

SCHEDULES = ("constant", "inverse", "cosine")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_first_rate_is_alpha(schedule: str) -> None:
    assert learning_rates(schedule, 0.3, 1, 1, 1000)[0] == pytest.approx(0.3, rel=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(total=st.integers(1, 300), cut=st.integers(0, 300))
def test_rates_taken_in_two_parts_are_the_same_bits(schedule: str, total: int, cut: int) -> None:
    cut = min(cut, total)
    whole = learning_rates(schedule, 0.7, 1, total, total)
    parts = [learning_rates(schedule, 0.7, 1, cut, total), learning_rates(schedule, 0.7, cut + 1, total - cut, total)]

    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_are_finite_and_do_not_rise(schedule: str) -> None:
    rates = learning_rates(schedule, 0.5, 1, 500, 400)

    assert rates.dtype == np.float64
    assert np.isfinite(rates).all()
    assert (np.diff(rates) <= 0.0).all()
    assert rates[-1] >= 0.0


def test_values_worked_by_hand() -> None:
    np.testing.assert_array_equal(learning_rates("constant", 0.2, 17, 3, 100), [0.2, 0.2, 0.2])
    # t0 = 100 / 10: after 30 steps 1 / sqrt(1 + 3).
    assert learning_rates("inverse", 1.0, 31, 1, 100)[0] == pytest.approx(0.5, rel=1e-15)
    np.testing.assert_allclose(
        learning_rates("cosine", 1.0, 1, 5, 4), [1.0, 0.5 + np.sqrt(2) / 4, 0.5, 0.5 - np.sqrt(2) / 4, 0.0], atol=1e-15
    )
