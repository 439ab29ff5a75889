"""Losses of counts and amounts with the log link: half the unit deviances of Poisson, Gamma and Tweedie.

They are whole deviances, with the terms that depend on the target alone: so they are never negative, and a fall of the
loss can be set beside the loss itself. scikit-learn's losses of the same names leave those terms out; differences,
gradients and curvatures are the same. exp is that of raw predictions between -300 and 300, so that nothing overflows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from streamgd.kernels.compile import POINTWISE, compiled, over_rows, pointwise
from streamgd.kernels.exponential import LARGEST_EXPONENT, exp_within
from streamgd.objective.losses.base import Loss


@compiled()
def _poisson(y_true: float, raw: float) -> float:
    if y_true == 0.0:
        return float(exp_within(raw))
    raw = LARGEST_EXPONENT if raw > LARGEST_EXPONENT else raw
    # y (exp(v) - 1 - v) with v = raw - log(y): nothing is left of it where the prediction is right.
    above = raw - math.log(y_true)
    loss = float(exp_within(raw) - y_true * (1.0 + above))
    return 0.0 if loss < 0.0 else loss


@compiled()
def _gamma(y_true: float, raw: float) -> float:
    above = (-LARGEST_EXPONENT if raw < -LARGEST_EXPONENT else raw) - math.log(y_true)
    loss = float(exp_within(-above) - 1.0 + above)
    return 0.0 if loss < 0.0 else loss


@compiled()
def _tweedie(y_true: float, raw: float, power: float) -> float:
    to_gamma, to_poisson = 2.0 - power, power - 1.0
    if y_true == 0.0:
        return float(exp_within(to_gamma * raw)) / to_gamma
    raw = LARGEST_EXPONENT / to_gamma if to_gamma * raw > LARGEST_EXPONENT else raw
    raw = -LARGEST_EXPONENT / to_poisson if to_poisson * raw < -LARGEST_EXPONENT else raw
    # With expm1 nothing cancels near power 1, nor near 2.
    log_target = math.log(y_true)
    above = raw - log_target
    rise, fall = math.expm1(to_gamma * above) / to_gamma, math.expm1(-to_poisson * above) / to_poisson
    loss = math.exp(to_gamma * log_target) * (rise + fall)
    return 0.0 if loss < 0.0 else loss


class LogLinkLoss(Loss):
    """What the three have in common: prediction = exp(raw_prediction), and a variance that is a power of the mean.

    ``has_dispersion``: whether the variance is that power times a number that the data tell.
    """

    has_dispersion: ClassVar[bool] = True

    link_name = "log"
    max_curvature = np.inf

    @property
    @abstractmethod
    def power(self) -> float:
        """The variance is ``dispersion * prediction ** power``."""

    def link(self, prediction: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(prediction))

    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(np.clip(raw_prediction, -LARGEST_EXPONENT, LARGEST_EXPONENT)))

    def best_constant(self, target_mean: float) -> float | None:
        return float(self.link(np.array([target_mean]))[0])

    def constant_sums(self, y_true: np.ndarray, offset: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
        """``sum w_i y_i exp((1 - p) o_i)`` and ``sum w_i exp((2 - p) o_i)``, o the offsets.

        The slope of the summed loss at ``constant + o`` is a multiple of ``exp(constant)`` times the second less the
        first: the best constant is the logarithm of the first divided by the second.
        """
        of_targets = weight * y_true * np.exp((1.0 - self.power) * offset)
        return float(of_targets.sum()), float((weight * np.exp((2.0 - self.power) * offset)).sum())


class HalfPoissonLoss(LogLinkLoss):
    """Half the Poisson deviance, with the log link: for counts.

    Domain   y_true >= 0; prediction > 0
    Link     prediction = exp(raw_prediction)
    Formula  loss_i = exp(raw_i) - y_i - y_i * (raw_i - log(y_i))

    >>> HalfPoissonLoss().gradient(np.array([3.0]), np.array([0.0]))
    array([-2.])
    """

    name = "poisson"
    has_dispersion = False
    formula = "exp(raw) - y - y (raw - log y)"

    @property
    def power(self) -> float:
        return 1.0

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return _poisson(y_true, raw)

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(exp_within(raw) - y_true)

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = _poisson(y_true[i], raw[i])

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = exp_within(raw[i]) - y_true[i]

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = exp_within(raw[i])


class HalfGammaLoss(LogLinkLoss):
    """Half the Gamma deviance, with the log link: for amounts whose standard deviation grows with the mean.

    Domain   y_true > 0; prediction > 0
    Link     prediction = exp(raw_prediction)
    Formula  loss_i = y_i / exp(raw_i) - 1 + raw_i - log(y_i)

    >>> HalfGammaLoss().gradient(np.array([3.0]), np.array([0.0]))
    array([-2.])
    """

    name = "gamma"
    formula = "y / exp(raw) - 1 + raw - log y"

    @property
    def power(self) -> float:
        return 2.0

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return _gamma(y_true, raw)

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(1.0 - y_true * exp_within(-raw))

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = _gamma(y_true[i], raw[i])

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = 1.0 - y_true[i] * exp_within(-raw[i])

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = y_true[i] * exp_within(-raw[i])


class HalfTweedieLoss(LogLinkLoss):
    """Half the Tweedie deviance of power p, 1 < p < 2, with the log link: for amounts that often are zero.

    Domain   y_true >= 0; prediction > 0
    Link     prediction = exp(raw_prediction)
    Formula  loss_i = exp((2 - p) raw_i) / (2 - p) + y_i exp((1 - p) raw_i) / (p - 1) - y_i^(2 - p) / ((p - 1) (2 - p))

    p = 1 is Poisson's, p = 2 Gamma's deviance. Beyond 2 the deviance is no convex function of the raw prediction.

    >>> HalfTweedieLoss(1.5).gradient(np.array([3.0]), np.array([0.0]))
    array([-2.])
    """

    name = "tweedie"
    formula = "exp((2-p) raw)/(2-p) + y exp((1-p) raw)/(p-1) - y^(2-p)/((p-1)(2-p))"
    setting_names = ("power",)
    setting_degrees = (0.0,)

    @property
    def power(self) -> float:
        return float(self.settings[0])

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return _tweedie(y_true, raw, settings[0])

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(exp_within((2.0 - settings[0]) * raw) - y_true * exp_within((1.0 - settings[0]) * raw))

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        power = settings[0]
        for i in range(out.shape[0]):
            out[i] = _tweedie(y_true[i], raw[i], power)

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        power = settings[0]
        for i in range(out.shape[0]):
            out[i] = exp_within((2.0 - power) * raw[i]) - y_true[i] * exp_within((1.0 - power) * raw[i])

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        power = settings[0]
        for i in range(out.shape[0]):
            grown, shrunk = exp_within((2.0 - power) * raw[i]), y_true[i] * exp_within((1.0 - power) * raw[i])
            out[i] = (2.0 - power) * grown + (power - 1.0) * shrunk
