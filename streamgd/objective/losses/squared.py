"""The squared loss."""

from __future__ import annotations

import numpy as np

from streamgd.kernels.compile import POINTWISE, compiled, over_rows, pointwise
from streamgd.objective.losses.base import Loss


class HalfSquaredError(Loss):
    """Half the squared error, with the identity link.

    Domain   y_true and prediction real
    Link     prediction = raw_prediction
    Formula  loss_i = 1/2 * (raw_i - y_i)^2

    >>> HalfSquaredError().gradient(np.array([1.0]), np.array([3.0]))
    array([2.])
    """

    name = "squared"
    formula = "1/2 (raw - y)^2"
    max_curvature = 1.0
    target_curvature = 1.0
    is_quadratic = True

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return 0.5 * (raw - y_true) * (raw - y_true)

    @staticmethod
    @compiled(POINTWISE)
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

    def best_constant(self, target_mean: float) -> float | None:
        return target_mean
