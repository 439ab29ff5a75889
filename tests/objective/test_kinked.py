"""Losses with a kink: their smooth forms against the loss itself and finite differences, and their best constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.objective.losses import HingeLoss, KinkedLoss, QuantileLoss

KINKED: list[KinkedLoss] = [QuantileLoss(0.5), QuantileLoss(0.03), QuantileLoss(0.9), HingeLoss()]


def rows_of(loss: KinkedLoss, seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y_true = rng.normal(size=n)
    return (y_true > 0).astype(float) if loss.is_classifier else y_true, 3.0 * rng.normal(size=n)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: f"{loss.name} {loss.settings}")
@given(seed=st.integers(0, 100), width=st.floats(1e-6, 10.0))
def test_the_smooth_form_lies_below_the_loss_and_near_it(loss: KinkedLoss, seed: int, width: float) -> None:
    y_true, raw = rows_of(loss, seed)
    raw[:50] = loss.kinks(y_true)[:50] + width * np.linspace(-1.5, 1.5, 50)
    below = loss.loss(y_true, raw) - loss.smoothed(width).loss(y_true, raw)

    assert below.min() >= -1e-12
    assert below.max() <= 0.125 * width + 1e-12


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: f"{loss.name} {loss.settings}")
def test_the_smooth_form_has_the_derivatives_of_finite_differences(loss: KinkedLoss) -> None:
    smooth, h = loss.smoothed(1.7), 1e-6
    y_true, raw = rows_of(loss, 3)
    away = (2.0 * y_true - 1.0) * raw - 1.0 if loss.is_classifier else raw - y_true
    at_end = np.abs(np.abs(away) - 0.85) < 1e-5
    y_true, raw = y_true[~at_end], raw[~at_end]
    up, down = raw + h, raw - h

    slopes = (smooth.loss(y_true, up) - smooth.loss(y_true, down)) / (2 * h)
    np.testing.assert_allclose(smooth.gradient(y_true, raw), slopes, atol=1e-8)
    bends = (smooth.gradient(y_true, up) - smooth.gradient(y_true, down)) / (2 * h)
    np.testing.assert_allclose(smooth.curvature(y_true, raw), bends, atol=1e-8)
    assert smooth.curvature(y_true, raw).max() == pytest.approx(1.0 / 1.7)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: f"{loss.name} {loss.settings}")
def test_slopes_of_constants_are_those_of_all_rows(loss: KinkedLoss) -> None:
    y_true, offset = rows_of(loss, 4)
    weight, constants = np.random.default_rng(5).choice([0.0, 0.5, 3.0], len(y_true)), np.linspace(-9.1, 9.1, 51)
    expected = [weight @ loss.gradient(y_true, constant + offset) for constant in constants]
    found = loss.slopes_of_constants(constants, y_true, offset, weight)

    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
def test_in_other_units_the_loss_follows_the_square_of_the_unit(quantile: float) -> None:
    """Times that square, as J of all losses is told: then the loss is that of the original target."""
    loss, unit = QuantileLoss(quantile), 40.0
    y_true, raw = rows_of(loss, 6)
    in_units = loss.in_units_of(unit)

    np.testing.assert_allclose(in_units.loss(y_true / unit, raw / unit) * unit**2, loss.loss(y_true, raw), rtol=1e-12)
    np.testing.assert_allclose(in_units.gradient(y_true / unit, raw / unit) * unit, loss.gradient(y_true, raw))
    assert in_units.named_settings == loss.named_settings
