"""The pinball loss, whose best constant is a quantile."""

from __future__ import annotations

import numpy as np

from streamgd.kernels.compile import POINTWISE, compiled, over_rows, pointwise
from streamgd.objective.losses.kinked import KinkedLoss, bend, height, slope


class QuantileLoss(KinkedLoss):
    """The pinball loss of quantile q, 0 < q < 1, with the identity link: the prediction is the target's quantile.

    Domain   y_true and prediction real
    Link     prediction = raw_prediction
    Formula  loss_i = q * (y_i - raw_i) where y_i >= raw_i, else (1 - q) * (raw_i - y_i)

    At the target itself the gradient is the subgradient ``-q``. There is no curvature.

    Koenker, Bassett (1978), "Regression Quantiles".

    >>> QuantileLoss(0.9).gradient(np.array([0.0, 0.0]), np.array([-0.5, 7.0])).round(3)
    array([-0.9,  0.1])
    """

    name = "quantile"
    formula = "q (y - raw) where y >= raw, else (1 - q) (raw - y)"
    setting_names = ("quantile",)
    setting_degrees = (0.0, 1.0, 1.0)

    def __init__(self, quantile: float, steepness: float = 1.0, width: float = 0.0):
        super().__init__(quantile, steepness, width)

    @property
    def quantile(self) -> float:
        return float(self.settings[0])

    @staticmethod
    @pointwise
    def pointwise_loss(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(settings[1] * height(raw - y_true, -settings[0], settings[2]))

    @staticmethod
    @compiled(POINTWISE)
    def pointwise_gradient(y_true: float, raw: float, settings: np.ndarray) -> float:
        return float(settings[1] * slope(raw - y_true, -settings[0], settings[2]))

    @staticmethod
    @over_rows
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = settings[1] * height(raw[i] - y_true[i], -settings[0], settings[2])

    @staticmethod
    @over_rows
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = settings[1] * slope(raw[i] - y_true[i], -settings[0], settings[2])

    @staticmethod
    @over_rows
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.shape[0]):
            out[i] = settings[1] * bend(raw[i] - y_true[i], settings[2])

    def kinks(self, y_true: np.ndarray) -> np.ndarray:
        return y_true

    def best_constant(self, target_mean: float) -> float | None:  # noqa: ARG002
        return None
