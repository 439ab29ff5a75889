"""exp and log1p of the kernels against those of numpy."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from streamgd.kernels.exponential import exp_of_negative, expit, expit_soon, log1p_of_fraction


def test_exp_is_that_of_numpy_to_the_last_digits() -> None:
    x = -np.concatenate([[0.0], np.logspace(-18, np.log10(40.0), 5000), np.linspace(0.0, 40.0, 5000)])
    found = np.array([exp_of_negative(value) for value in x])

    np.testing.assert_allclose(found, np.exp(x), rtol=2e-15)
    assert exp_of_negative(0.0) == 1.0


def test_exp_of_the_smallest_is_next_to_nothing() -> None:
    x = -np.linspace(40.0, 707.0, 1000)
    np.testing.assert_allclose([exp_of_negative(value) for value in x], np.exp(x), rtol=5e-14)
    for value in (-709.0, -1e300, -np.inf):
        assert 0.0 <= exp_of_negative(value) < 1e-307


def test_log1p_is_that_of_numpy_to_the_last_digits() -> None:
    p = np.concatenate([[0.0], np.logspace(-300, 0, 3000), np.linspace(0.0, 1.0, 3000)])
    found = np.array([log1p_of_fraction(value) for value in p])

    np.testing.assert_allclose(found, np.log1p(p), rtol=1e-15)


@pytest.mark.parametrize("function", [expit, expit_soon])
def test_expit_is_that_of_scipy_to_the_last_digits(function: Callable[[float], float]) -> None:
    """At and beside the numbers at which its series is known, between them, and where the table ends."""
    at = np.arange(-1_160, 1_161) / 32.0
    x = np.concatenate([at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf), np.linspace(-40.0, 40.0, 20_001)])
    found = np.array([function(value) for value in x])

    np.testing.assert_allclose(found, special.expit(x), rtol=3e-15)
    np.testing.assert_allclose(found, special.expit(x), rtol=0.0, atol=5e-16)


@pytest.mark.parametrize("function", [expit, expit_soon])
def test_expit_of_numbers_without_end_is_0_or_1(function: Callable[[float], float]) -> None:
    np.testing.assert_array_equal([function(value) for value in (np.inf, 1e300, -0.0)], [1.0, 1.0, 0.5])
    assert 0.0 <= function(-np.inf) < 1e-300
    assert 0.0 <= function(-1e300) < 1e-300


def test_no_number_in_is_no_number_out() -> None:
    assert np.isnan(exp_of_negative(np.nan))
    assert np.isnan(log1p_of_fraction(np.nan))
    assert np.isnan(expit_soon(np.nan))
    assert log1p_of_fraction(1.0) == pytest.approx(np.log(2.0), rel=1e-15)
