"""Losses: pointwise functions of the target and the raw prediction, which know nothing of features or weights.

A loss is one class here, entered in ``LOSSES``. Its functions of a row, and of many rows at once, are compiled one by
one and handed to the training loops as arguments, so nothing else changes when a loss is added.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from streamgd.kernels.compile import UNARY, compiled, over_rows, pointwise
from streamgd.kernels.exponential import exp_of_negative, log1p_of_fraction


@compiled(UNARY)
def _softplus(raw: float) -> float:
    """``log1p(exp(raw))`` without overflow: Mächler (2012), "Accurately Computing log(1 - exp(-|a|))", eq. 10."""
    if raw <= -37.0:
        return math.exp(raw)
    if raw <= 18.0:
        return math.log1p(math.exp(raw))
    if raw <= 33.3:
        return raw + math.exp(-raw)
    return raw


@compiled(UNARY)
def _expit(raw: float) -> float:
    """``1 / (1 + exp(-raw))`` without overflow."""
    power = math.exp(-abs(raw))
    return (1.0 if raw >= 0.0 else power) / (1.0 + power)


@over_rows
def _probabilities_of_rows(_: np.ndarray, raw: np.ndarray, _settings: np.ndarray, out: np.ndarray) -> None:
    for i in range(out.shape[0]):
        out[i] = _expit(raw[i])


class Loss(ABC):
    """One loss. Subclasses give compiled functions and the link.

    ``pointwise_loss`` and ``pointwise_gradient`` are ``f(y_true, raw_prediction, settings)`` of a row.
    ``losses_of_rows``, ``residuals_of_rows`` and ``curvatures_of_rows`` are ``f(y_true, raw_prediction, settings,
    out)``: the loss, its first and its second derivative of many rows at once, the same but for the last digits.

    ``settings``, float64 ``(n_settings,)``, are the parameters of a loss that has some; see ``loss_of``.

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

    def __init__(self, *settings: float):
        self.settings = np.array(settings, np.float64)

    @abstractmethod
    def link(self, prediction: np.ndarray) -> np.ndarray:
        """Raw prediction of a prediction."""

    @abstractmethod
    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        """Prediction of a raw prediction."""

    def loss(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """Loss of each row, new, float64, shape ``(n,)``."""
        return self._of_rows(self.losses_of_rows, y_true, raw_prediction)

    def gradient(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """First derivative by the raw prediction of each row, new, float64, shape ``(n,)``."""
        return self._of_rows(self.residuals_of_rows, y_true, raw_prediction)

    def curvature(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """Second derivative by the raw prediction of each row, new, float64, shape ``(n,)``."""
        return self._of_rows(self.curvatures_of_rows, y_true, raw_prediction)

    def mean_loss_of_constant(self, raw: float, mean: float, variance: float) -> float:
        """Mean loss of rows that all have the raw prediction ``raw``, by the moments of their targets.

        Taylor's series about the mean target ends after the second term.
        """
        return float(self.loss(np.array([mean]), np.array([raw]))[0]) + 0.5 * self.target_curvature * variance

    def _of_rows(self, function: Any, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        y_true, raw_prediction = (np.ascontiguousarray(each, np.float64) for each in (y_true, raw_prediction))
        out = np.empty(len(y_true))
        function(y_true, raw_prediction, self.settings, out)
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
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return 0.5 * (raw - y_true) * (raw - y_true)

    @staticmethod
    @pointwise
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return raw - y_true

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = 0.5 * (raw[i] - y_true[i]) * (raw[i] - y_true[i])

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = raw[i] - y_true[i]

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
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
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        # softplus(raw) - y * raw, written so that nothing cancels for confident, right predictions.
        if raw > 0.0:
            return (1.0 - y_true) * raw + _softplus(-raw)
        return _softplus(raw) - y_true * raw

    @staticmethod
    @pointwise
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return _expit(raw) - y_true

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            # As above: max(raw, 0) - y * raw is (1 - y) * raw or -y * raw.
            y_or_rest = 1.0 - y_true[i] if raw[i] > 0.0 else -y_true[i]
            out[i] = y_or_rest * raw[i] + log1p_of_fraction(exp_of_negative(-abs(raw[i])))

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            power = exp_of_negative(-abs(raw[i]))
            out[i] = (1.0 if raw[i] >= 0.0 else power) / (1.0 + power) - y_true[i]

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            # p (1 - p), written so that it keeps its digits where p is nearly 0 or 1.
            power = exp_of_negative(-abs(raw[i]))
            out[i] = power / ((1.0 + power) * (1.0 + power))

    def link(self, prediction: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(prediction) - np.log1p(-prediction))

    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        return self._of_rows(_probabilities_of_rows, raw_prediction, raw_prediction)


_CLASSES: tuple[type[Loss], ...] = (HalfSquaredError, HalfBinomialLoss)

#: Every loss by its name on the command line, with its usual settings.
LOSSES: dict[str, Loss] = {each.name: each() for each in _CLASSES}


def loss_of(name: str, settings: Sequence[float] = ()) -> Loss:
    """The loss called ``name`` with ``settings``, as a run and its model have them stored; none: its usual ones.

    Raises
    ------
    KeyError
        There is no such loss.
    """
    return type(LOSSES[name])(*settings) if len(settings) else LOSSES[name]
