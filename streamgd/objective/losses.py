"""Losses: pointwise functions of the target and the raw prediction, which know nothing of features or weights.

A loss is one class here, entered in ``LOSSES``. Its functions of a row, and of many rows at once, are compiled one by
one and handed to the training loops as arguments, so nothing else changes when a loss is added.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from streamgd.kernels import sums
from streamgd.kernels.compile import POINTWISE, compiled, over_rows, pointwise
from streamgd.kernels.exponential import exp_of_negative, log1p_of_fraction


@compiled(POINTWISE)
def _softplus(_: float, raw: float) -> float:
    """``log1p(exp(raw))`` without overflow: Mächler (2012), "Accurately Computing log(1 - exp(-|a|))", eq. 10."""
    if raw <= -37.0:
        return math.exp(raw)
    if raw <= 18.0:
        return math.log1p(math.exp(raw))
    if raw <= 33.3:
        return raw + math.exp(-raw)
    return raw


@compiled(POINTWISE)
def _expit(_: float, raw: float) -> float:
    """``1 / (1 + exp(-raw))`` without overflow."""
    power = math.exp(-abs(raw))
    return (1.0 if raw >= 0.0 else power) / (1.0 + power)


class Loss(ABC):
    """One loss. Subclasses give compiled functions and the link.

    ``pointwise_loss`` and ``pointwise_gradient`` are ``f(y_true, raw_prediction)`` of a row. ``losses_of_rows``,
    ``residuals_of_rows`` and ``curvatures_of_rows`` are ``f(y_true, raw_prediction, out)``: the loss, its first and its
    second derivative of many rows at once, the same but for the last digits.

    ``max_curvature`` bounds the second derivative over all rows (infinite where there is no bound); step sizes
    are derived from it. That of a quadratic loss is the same everywhere. ``target_curvature`` is the second derivative
    by the target, for all losses a constant. ``link_name`` is the link's usual name.
    """

    name: ClassVar[str]
    link_name: ClassVar[str]
    max_curvature: ClassVar[float]
    target_curvature: ClassVar[float]
    pointwise_loss: ClassVar[Any]
    pointwise_gradient: ClassVar[Any]
    losses_of_rows: ClassVar[Any]
    residuals_of_rows: ClassVar[Any]
    curvatures_of_rows: ClassVar[Any]
    is_classifier: ClassVar[bool] = False
    is_quadratic: ClassVar[bool] = False

    @abstractmethod
    def link(self, prediction: np.ndarray) -> np.ndarray:
        """Raw prediction of a prediction."""

    @abstractmethod
    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        """Prediction of a raw prediction."""

    def loss(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """Loss of each row, new, float64, shape ``(n,)``."""
        return _of_rows(self.losses_of_rows, y_true, raw_prediction)

    def gradient(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """First derivative by the raw prediction of each row, new, float64, shape ``(n,)``."""
        return _of_rows(self.residuals_of_rows, y_true, raw_prediction)

    def curvature(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """Second derivative by the raw prediction of each row, new, float64, shape ``(n,)``."""
        return _of_rows(self.curvatures_of_rows, y_true, raw_prediction)

    def mean_loss_of_constant(self, raw: float, mean: float, variance: float) -> float:
        """Mean loss of rows that all have the raw prediction ``raw``, by the moments of their targets.

        Taylor's series about the mean target ends after the second term.
        """
        return float(self.loss(np.array([mean]), np.array([raw]))[0]) + 0.5 * self.target_curvature * variance


def _of_rows(function: Any, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
    out = np.empty(len(y_true))
    function(np.ascontiguousarray(y_true, np.float64), np.ascontiguousarray(raw_prediction, np.float64), out)
    return out


def _mapped(function: Any, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
    out = np.empty(len(y_true), np.float64)
    sums.map_pointwise(
        function, np.ascontiguousarray(y_true, np.float64), np.ascontiguousarray(raw_prediction, np.float64), out
    )
    return out


class HalfSquaredError(Loss):
    """Half the squared error, with the identity link.

    Domain   y_true and prediction real
    Link     prediction = raw_prediction
    Formula  loss_i = 1/2 * (raw_i - y_i)^2

    >>> HalfSquaredError().gradient(np.array([1.0]), np.array([3.0]))
    array([2.])
    """

    name = "squared"
    link_name = "identity"
    max_curvature = 1.0
    target_curvature = 1.0
    is_quadratic = True

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float) -> float:
        return 0.5 * (raw - y_true) * (raw - y_true)

    @staticmethod
    @pointwise
    def pointwise_gradient(y_true: float, raw: float) -> float:
        return raw - y_true

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = 0.5 * (raw[i] - y_true[i]) * (raw[i] - y_true[i])

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = raw[i] - y_true[i]

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, out: np.ndarray) -> None:
        out[:] = 1.0

    def link(self, prediction: np.ndarray) -> np.ndarray:
        return prediction

    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        return raw_prediction


class HalfBinomialLoss(Loss):
    """Logistic loss: half the binomial deviance, with the logit link.

    Domain   y_true in {0, 1} or [0, 1]; prediction in (0, 1)
    Link     prediction = expit(raw_prediction)
    Formula  loss_i = log1p(exp(raw_i)) - y_i * raw_i

    Values are per row; the objective weights and sums them.

    >>> HalfBinomialLoss().gradient(np.array([1.0]), np.array([0.0]))
    array([-0.5])
    """

    name = "logistic"
    link_name = "logit"
    max_curvature = 0.25
    target_curvature = 0.0
    is_classifier = True

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float) -> float:
        # softplus(raw) - y * raw, written so that nothing cancels for confident, right predictions.
        if raw > 0.0:
            return (1.0 - y_true) * raw + _softplus(0.0, -raw)
        return _softplus(0.0, raw) - y_true * raw

    @staticmethod
    @pointwise
    def pointwise_gradient(y_true: float, raw: float) -> float:
        return _expit(0.0, raw) - y_true

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            # As above: max(raw, 0) - y * raw is (1 - y) * raw or -y * raw.
            y_or_rest = 1.0 - y_true[i] if raw[i] > 0.0 else -y_true[i]
            out[i] = y_or_rest * raw[i] + log1p_of_fraction(exp_of_negative(-abs(raw[i])))

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            power = exp_of_negative(-abs(raw[i]))
            out[i] = (1.0 if raw[i] >= 0.0 else power) / (1.0 + power) - y_true[i]

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            # p (1 - p), written so that it keeps its digits where p is nearly 0 or 1.
            power = exp_of_negative(-abs(raw[i]))
            out[i] = power / ((1.0 + power) * (1.0 + power))

    def link(self, prediction: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(prediction) - np.log1p(-prediction))

    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        return _mapped(_expit, np.zeros(len(raw_prediction)), raw_prediction)


#: Every loss by its name on the command line.
LOSSES: dict[str, Loss] = {loss.name: loss for loss in (HalfSquaredError(), HalfBinomialLoss())}
