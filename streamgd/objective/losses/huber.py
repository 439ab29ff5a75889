"""The Huber loss: squared near the target, absolute far from it."""

from __future__ import annotations

import numpy as np

from streamgd.kernels.compile import POINTWISE, compiled, over_rows, pointwise
from streamgd.objective.losses.base import Loss


@compiled()
def _huber(error: float, delta: float) -> float:
    if abs(error) <= delta:
        return 0.5 * error * error
    return delta * (abs(error) - 0.5 * delta)


@compiled()
def _clipped(error: float, delta: float) -> float:
    if error > delta:
        return delta
    return -delta if error < -delta else error


class HuberLoss(Loss):
    """Huber's loss, with the identity link: outliers count by their distance, not by its square.

    Domain   y_true and prediction real
    Link     prediction = raw_prediction
    Formula  loss_i = 1/2 * d_i^2 where |d_i| <= delta, else delta * (|d_i| - delta / 2), with d_i = raw_i - y_i

    Newton's steps take ``min(1, delta / |d_i|)`` for the curvature, as iteratively reweighted least squares do: by the
    second derivative, rows far from their target would have none, and a column of such rows alone would stay at zero.

    Huber (1964), "Robust Estimation of a Location Parameter"; the weights: Holland, Welsch (1977).

    >>> HuberLoss(1.0).gradient(np.array([0.0, 0.0]), np.array([0.5, 7.0]))
    array([0.5, 1. ])
    """

    name = "huber"
    formula = "1/2 d^2 where |d| <= delta, else delta (|d| - delta/2), d = raw - y"
    setting_names = ("delta",)
    setting_degrees = (1.0,)
    max_curvature = 1.0

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return _huber(raw - y_true, settings[0])

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return _clipped(raw - y_true, settings[0])

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        delta = settings[0]
        for i in range(out.shape[0]):
            out[i] = _huber(raw[i] - y_true[i], delta)

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        delta = settings[0]
        for i in range(out.shape[0]):
            out[i] = _clipped(raw[i] - y_true[i], delta)

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        delta = settings[0]
        for i in range(out.shape[0]):
            out[i] = 1.0 if abs(raw[i] - y_true[i]) <= delta else 0.0

    @staticmethod
    @over_rows
    def step_curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        # The parabola through the loss with its minimum at the target lies above it everywhere.
        delta = settings[0]
        for i in range(out.shape[0]):
            away = abs(raw[i] - y_true[i])
            out[i] = 1.0 if away <= delta else delta / away

    def best_constant(self, target_mean: float) -> float | None:  # noqa: ARG002
        return None
