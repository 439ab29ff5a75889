"""The logistic loss."""

from __future__ import annotations

import math

import numpy as np

from streamgd.kernels.compile import POINTWISE, UNARY, compiled, over_rows, pointwise
from streamgd.kernels.exponential import exp_of_negative, expit, expit_soon, log1p_of_fraction
from streamgd.objective.losses.base import Loss


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


@over_rows
def _probabilities_of_rows(_: np.ndarray, raw: np.ndarray, _settings: np.ndarray, out: np.ndarray) -> None:
    """expit by the C library's exp, which has all digits also where the probability is next to nothing."""
    for i in range(out.shape[0]):
        power = math.exp(-abs(raw[i]))
        out[i] = (1.0 if raw[i] >= 0.0 else power) / (1.0 + power)


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
    formula = "log(1 + exp(raw)) - y raw"
    max_curvature = 0.25
    target_curvature = 0.0
    is_classifier = True
    has_probability = True

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        # softplus(raw) - y * raw, written so that nothing cancels for confident, right predictions.
        if raw > 0.0:
            return (1.0 - y_true) * raw + _softplus(-raw)
        return _softplus(raw) - y_true * raw

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(expit_soon(raw) - y_true)

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
            out[i] = expit(raw[i]) - y_true[i]

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
        return self._of_rows(_probabilities_of_rows, raw_prediction, raw_prediction, np.shape(raw_prediction))

    def best_constant(self, target_mean: float) -> float | None:
        return float(self.link(np.array([target_mean]))[0])
