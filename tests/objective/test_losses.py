"""Every registered loss by one table: derivatives, edges, extremes, values by hand, and scikit-learn's values."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn._loss import loss as sklearn_losses

from streamgd.objective.losses import LOSSES, HalfTweedieLoss, KinkedLoss


class SklearnSquaredHinge:
    """scikit-learn has it inside of its solvers alone: by numpy."""

    def loss(self, y_true: np.ndarray, raw: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1.0 - np.where(y_true == 1.0, raw, -raw)) ** 2

    def gradient(self, y_true: np.ndarray, raw: np.ndarray) -> np.ndarray:
        side = np.where(y_true == 1.0, 1.0, -1.0)
        return -2.0 * side * np.maximum(0.0, 1.0 - side * raw)

    def gradient_hessian(self, y_true: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        side = np.where(y_true == 1.0, 1.0, -1.0)
        return self.gradient(y_true, raw), np.where(side * raw <= 1.0, 2.0, 0.0)


class SklearnPinball(sklearn_losses.PinballLoss):
    """scikit-learn gives it a curvature of one, for its trees."""

    def gradient_hessian(self, y_true: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.gradient(y_true, raw), np.zeros_like(raw)


class SklearnHinge:
    """scikit-learn has it inside of its solvers alone: by numpy."""

    def loss(self, y_true: np.ndarray, raw: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1.0 - np.where(y_true == 1.0, raw, -raw))

    def gradient(self, y_true: np.ndarray, raw: np.ndarray) -> np.ndarray:
        side = np.where(y_true == 1.0, 1.0, -1.0)
        return np.where(side * raw <= 1.0, -side, 0.0)

    def gradient_hessian(self, y_true: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.gradient(y_true, raw), np.zeros_like(raw)


COUNTS = np.array([0.0, 1.0, 2.5, 7.0, 1e3])
AMOUNTS = np.array([1e-3, 0.5, 1.0, 7.0, 1e3])
E = np.e

# name -> (targets of the domain, scikit-learn's loss, [(y_true, raw, loss, gradient, curvature) by hand])
TABLE = {
    "squared": (
        np.array([-1e3, -2.5, 0.0, 1.0, 7.0, 1e3]),
        sklearn_losses.HalfSquaredError(),
        [(1.0, 3.0, 2.0, 2.0, 1.0), (0.0, 0.0, 0.0, 0.0, 1.0), (-2.0, 1.0, 4.5, 3.0, 1.0)],
    ),
    "logistic": (
        np.array([0.0, 0.25, 0.5, 1.0]),
        sklearn_losses.HalfBinomialLoss(),
        [
            (1.0, 0.0, np.log(2.0), -0.5, 0.25),
            (0.0, np.log(3.0), np.log(4.0), 0.75, 0.1875),
            (1.0, np.log(3.0), np.log(4.0 / 3.0), -0.25, 0.1875),
        ],
    ),
    "poisson": (
        COUNTS,
        sklearn_losses.HalfPoissonLoss(),
        [(0.0, 1.0, E, E, E), (1.0, 1.0, E - 2.0, E - 1.0, E), (3.0, np.log(3.0), 0.0, 0.0, 3.0)],
    ),
    "gamma": (
        AMOUNTS,
        sklearn_losses.HalfGammaLoss(),
        [(1.0, -1.0, E - 2.0, 1.0 - E, E), (E, 1.0, 0.0, 0.0, 1.0), (2.0, 0.0, 1.0 - np.log(2.0), -1.0, 2.0)],
    ),
    "tweedie": (
        COUNTS,
        sklearn_losses.HalfTweedieLoss(power=1.5),
        [(0.0, 2.0, 2.0 * E, E, 0.5 * E), (4.0, 0.0, 2.0, -3.0, 2.5), (1.0, 0.0, 0.0, 0.0, 1.0)],
    ),
    "huber": (
        np.array([-1e3, -2.5, 0.0, 1.0, 7.0, 1e3]),
        sklearn_losses.HuberLoss(delta=1.345),
        [
            (1.0, 2.0, 0.5, 1.0, 1.0),
            (0.0, 3.0, 1.345 * (3.0 - 0.6725), 1.345, 0.0),
            (5.0, 1.0, 1.345 * (4.0 - 0.6725), -1.345, 0.0),
        ],
    ),
    "quantile": (
        np.array([-1e3, -2.5, 0.0, 1.0, 7.0, 1e3]),
        SklearnPinball(quantile=0.5),
        [(1.0, 3.0, 1.0, 0.5, 0.0), (5.0, 2.0, 1.5, -0.5, 0.0), (4.0, 4.0, 0.0, -0.5, 0.0)],
    ),
    "hinge": (
        np.array([0.0, 1.0]),
        SklearnHinge(),
        [(1.0, 0.0, 1.0, -1.0, 0.0), (0.0, 0.5, 1.5, 1.0, 0.0), (1.0, 3.0, 0.0, 0.0, 0.0), (0.0, -1.0, 0.0, 1.0, 0.0)],
    ),
    "squared_hinge": (
        np.array([0.0, 1.0]),
        SklearnSquaredHinge(),
        [(1.0, 0.0, 1.0, -2.0, 2.0), (0.0, 0.5, 2.25, 3.0, 2.0), (1.0, 3.0, 0.0, 0.0, 0.0)],
    ),
}
EXTREMES = np.array([-1e3, -745.2, -709.8, -37.1, -36.9, -1e-8, 0.0, 1e-8, 17.9, 18.1, 33.2, 33.4, 709.8, 1e3])
LOSS_NAMES = sorted(TABLE)


def pairs(name: str, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every target of the domain with every raw prediction."""
    targets = TABLE[name][0]
    return np.repeat(targets, len(raw)), np.tile(raw, len(targets))


def test_the_table_has_every_loss() -> None:
    assert set(TABLE) == set(LOSSES) - {"multinomial"}  # see test_softmax.py


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_values_agree_with_those_worked_by_hand(name: str) -> None:
    loss = LOSSES[name]
    y_true, raw, values, gradients, curvatures = np.array(TABLE[name][2]).T

    np.testing.assert_allclose(loss.loss(y_true, raw), values, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(loss.gradient(y_true, raw), gradients, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(loss.curvature(y_true, raw), curvatures, rtol=1e-14)


@pytest.mark.parametrize("raw", [-3.0, 0.0, 0.7, 40.0])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_the_mean_loss_of_a_constant_follows_from_the_moments_of_the_targets(name: str, raw: float) -> None:
    loss, y_true = LOSSES[name], TABLE[name][0]
    if loss.target_curvature is None:
        assert loss.mean_loss_of_constant(raw, 1.0, 1.0) is None
        return
    found = loss.mean_loss_of_constant(raw, float(y_true.mean()), float(y_true.var()))
    assert found == pytest.approx(loss.loss(y_true, np.full(len(y_true), raw)).mean(), rel=1e-14)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_gradient_and_curvature_are_those_of_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    # Off by a hair, so that no kink of a piecewise loss lies between the two.
    y_true, raw = pairs(name, np.linspace(-8.0, 8.0, 41) + 1e-3)
    h = 1e-5
    up, down = loss.loss(y_true, raw + h), loss.loss(y_true, raw - h)
    # The difference of two losses loses as many digits as they are large.
    noise = 4e-16 * np.abs(up).max() / h
    np.testing.assert_allclose((up - down) / (2 * h), loss.gradient(y_true, raw), rtol=1e-7, atol=1e-9 + noise)

    slope_up, slope_down = loss.gradient(y_true, raw + h), loss.gradient(y_true, raw - h)
    noise = 4e-16 * np.abs(slope_up).max() / h
    curvature = loss.curvature(y_true, raw)
    np.testing.assert_allclose((slope_up - slope_down) / (2 * h), curvature, rtol=1e-7, atol=1e-9 + noise)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_values_agree_with_scikit_learn(name: str) -> None:
    loss, oracle = LOSSES[name], TABLE[name][1]
    within = EXTREMES[np.abs(EXTREMES) < 300.0] if loss.link_name == "log" else EXTREMES
    y_true, raw = pairs(name, np.concatenate([np.linspace(-40.0, 40.0, 161), within]))

    expected = oracle.loss(y_true, raw)
    if loss.link_name == "log":
        expected = expected + oracle.constant_to_optimal_zero(y_true)
    # scikit-learn's terms cancel where the prediction is right.
    noise = 1e-15 * np.abs(y_true).max() * 10.0 if loss.link_name == "log" else 0.0
    np.testing.assert_allclose(loss.loss(y_true, raw), expected, rtol=2e-13, atol=1e-14 + noise)
    np.testing.assert_allclose(loss.gradient(y_true, raw), oracle.gradient(y_true, raw), rtol=2e-13, atol=1e-15)
    _, curvature = oracle.gradient_hessian(y_true, raw)
    expected = np.zeros_like(raw) + curvature
    np.testing.assert_allclose(loss.curvature(y_true, raw), expected, rtol=2e-13, atol=1e-15)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_extreme_raw_predictions_give_finite_values(name: str) -> None:
    loss = LOSSES[name]
    y_true, raw = pairs(name, EXTREMES)

    for values in (loss.loss(y_true, raw), loss.gradient(y_true, raw), loss.curvature(y_true, raw)):
        assert np.isfinite(values).all()
    assert (loss.loss(y_true, raw) >= -1e-16 * y_true.max()).all()
    assert (loss.curvature(y_true, raw) >= 0.0).all()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_nan_is_not_hidden(name: str) -> None:
    loss = LOSSES[name]
    for y_true, raw in ((1.0, np.nan), (np.nan, 1.0)):
        assert np.isnan(loss.loss(np.array([y_true]), np.array([raw])))[0]
        assert np.isnan(loss.gradient(np.array([y_true]), np.array([raw])))[0]


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_no_curvature_exceeds_its_bound_and_one_reaches_it(name: str) -> None:
    loss = LOSSES[name]
    y_true, raw = pairs(name, np.linspace(-5.0, 5.0, 101))
    curvature = loss.curvature(y_true, raw)

    assert curvature.max() <= loss.max_curvature * (1 + 1e-15)
    if np.isinf(loss.max_curvature) or isinstance(loss, KinkedLoss):
        return
    assert curvature.max() == pytest.approx(loss.max_curvature, rel=1e-12)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_the_links_are_inverse_to_each_other(name: str) -> None:
    loss = LOSSES[name]
    raw = np.linspace(-9.0, 9.0, 37)

    np.testing.assert_allclose(loss.link(loss.inverse_link(raw)), raw, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_the_mean_target_tells_the_best_constant(name: str) -> None:
    loss = LOSSES[name]
    y_true = TABLE[name][0]
    best = loss.best_constant(y_true.mean())
    if best is None:
        assert name in ("huber", "quantile")
        return

    assert abs(loss.gradient(y_true, np.repeat(best, len(y_true))).sum()) < 1e-12 * max(1.0, np.abs(y_true).max())


def test_a_right_and_confident_probability_keeps_its_small_loss() -> None:
    """At the edge of the domain nothing cancels: the loss of a sure, right prediction is exp(-|raw|)."""
    loss = LOSSES["logistic"].loss(np.array([1.0, 0.0]), np.array([100.0, -100.0]))

    np.testing.assert_allclose(loss, np.exp(-100.0), rtol=1e-12)


def test_a_wrong_and_confident_probability_costs_its_raw_prediction() -> None:
    loss = LOSSES["logistic"].loss(np.array([0.0, 1.0]), np.array([1e3, -1e3]))

    np.testing.assert_array_equal(loss, [1e3, 1e3])


@given(raw=st.floats(-700.0, 700.0))
def test_the_logistic_prediction_is_the_expit_of_scipy(raw: float) -> None:
    loss = LOSSES["logistic"]

    np.testing.assert_allclose(loss.inverse_link(np.array([raw])), expit(raw), rtol=1e-14)
    if abs(raw) < 30.0:
        probability = expit(np.array([raw]))
        np.testing.assert_allclose(loss.link(probability), logit(probability), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_many_rows_at_once_agree_with_the_pointwise_functions(name: str) -> None:
    loss = LOSSES[name]
    y_true, raw = pairs(name, np.concatenate([EXTREMES, np.linspace(-40.0, 40.0, 81)]))

    one_by_one = np.array([loss.pointwise_loss(y, r, loss.settings) for y, r in zip(y_true, raw, strict=True)])
    np.testing.assert_allclose(loss.loss(y_true, raw), one_by_one, rtol=1e-13, atol=1e-15)
    one_by_one = np.array([loss.pointwise_gradient(y, r, loss.settings) for y, r in zip(y_true, raw, strict=True)])
    np.testing.assert_allclose(loss.gradient(y_true, raw), one_by_one, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_with_many_rows_at_once(name: str, bad: float) -> None:
    loss, raw, y_true = LOSSES[name], np.array([0.5, bad, 1.0]), np.ones(3)
    loss.losses_of_rows(y_true, raw, loss.settings, out := np.empty(3))
    expected = [loss.pointwise_loss(y, r, loss.settings) for y, r in zip(y_true, raw, strict=True)]

    np.testing.assert_allclose(out, expected, rtol=1e-14)


@pytest.mark.parametrize("power", [1.0 + 2e-9, 1.0 + 1e-6, 1.3, 1.7, 2.0 - 1e-6, 2.0 - 2e-9])
def test_tweedies_loss_keeps_its_digits_at_any_power(power: float) -> None:
    """By the formula with 60 digits, also where the prediction is nearly right."""
    loss, raw = HalfTweedieLoss(power), np.array([-30.0, -2.0, 0.3, 5.0, 20.0])
    y_true = np.concatenate([np.full(5, 1e-3), np.full(5, 7.0), np.exp(raw) * 1.001])
    raw = np.tile(raw, 3)
    with localcontext() as context:
        context.prec = 60
        p, expected = Decimal(power), []
        for y, at in zip(map(Decimal, y_true), map(Decimal, raw), strict=True):
            rest = y ** (2 - p) / ((p - 1) * (2 - p))
            expected.append(float(((2 - p) * at).exp() / (2 - p) + y * ((1 - p) * at).exp() / (p - 1) - rest))
    np.testing.assert_allclose(loss.loss(y_true, raw), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["poisson", "gamma", "tweedie"])
def test_no_deviance_of_a_right_prediction_is_negative(name: str) -> None:
    y_true = np.exp(np.random.default_rng(0).uniform(-20.0, 20.0, 10_000))
    losses = LOSSES[name].loss(y_true, np.log(y_true))
    assert (losses >= 0.0).all()
    assert (losses <= 1e-15 * np.maximum(y_true, 1.0)).all()
