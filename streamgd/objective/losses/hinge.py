"""The hinge loss of support vector machines, and its square."""

from __future__ import annotations

import numpy as np

from streamgd.kernels.compile import POINTWISE, compiled, over_rows, pointwise
from streamgd.objective.losses.base import Loss
from streamgd.objective.losses.kinked import KinkedLoss, bend, height, slope


@compiled()
def _shortfall(y_true: float, raw: float) -> float:
    """How far the raw prediction is from the margin of its class, 0 beyond it."""
    missing = 1.0 - (2.0 * y_true - 1.0) * raw
    return 0.0 if missing < 0.0 else missing


class SquaredHingeLoss(Loss):
    """The loss of support vector machines, squared: for two classes, without probabilities.

    Domain   y_true in {0, 1}; prediction real
    Link     prediction = raw_prediction; above zero it is for class 1
    Formula  loss_i = max(0, 1 - s_i * raw_i)^2 with s_i = 2 y_i - 1

    >>> SquaredHingeLoss().gradient(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    array([-2.,  4.])
    """

    name = "squared_hinge"
    formula = "max(0, 1 - s raw)^2, s = 2 y - 1"
    max_curvature = 2.0
    is_classifier = True

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        missing = _shortfall(y_true, raw)
        return missing * missing

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return -2.0 * (2.0 * y_true - 1.0) * _shortfall(y_true, raw)

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            missing = _shortfall(y_true[i], raw[i])
            out[i] = missing * missing

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = -2.0 * (2.0 * y_true[i] - 1.0) * _shortfall(y_true[i], raw[i])

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = 0.0 if (2.0 * y_true[i] - 1.0) * raw[i] > 1.0 else 2.0

    def best_constant(self, target_mean: float) -> float | None:
        # Of p (1 - r)^2 + (1 - p) (1 + r)^2.
        return 2.0 * target_mean - 1.0


class HingeLoss(KinkedLoss):
    """The loss of linear support vector machines: for two classes, without probabilities.

    Domain   y_true in {0, 1}; prediction real
    Link     prediction = raw_prediction; above zero it is for class 1
    Formula  loss_i = max(0, 1 - s_i * raw_i) with s_i = 2 y_i - 1

    At the margin, where ``s_i * raw_i = 1``, the gradient is the subgradient ``-s_i``. There is no curvature.

    >>> HingeLoss().gradient(np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0]))
    array([-1.,  1.,  0.])
    """

    name = "hinge"
    formula = "max(0, 1 - s raw), s = 2 y - 1"
    setting_degrees = (1.0, 1.0)
    is_classifier = True

    def __init__(self, steepness: float = 1.0, width: float = 0.0):
        super().__init__(steepness, width)

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(settings[0] * height((2.0 * y_true - 1.0) * raw - 1.0, -1.0, settings[1]))

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        side = 2.0 * y_true - 1.0
        return float(settings[0] * side * slope(side * raw - 1.0, -1.0, settings[1]))

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = settings[0] * height((2.0 * y_true[i] - 1.0) * raw[i] - 1.0, -1.0, settings[1])

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            side = 2.0 * y_true[i] - 1.0
            out[i] = settings[0] * side * slope(side * raw[i] - 1.0, -1.0, settings[1])

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = settings[0] * bend((2.0 * y_true[i] - 1.0) * raw[i] - 1.0, settings[1])

    def kinks(self, y_true: np.ndarray) -> np.ndarray:
        return np.asarray(2.0 * y_true - 1.0)

    def best_constant(self, target_mean: float) -> float | None:
        # The margin of the larger class; of two that are equal all between both are as good.
        return float(np.sign(target_mean - 0.5))
