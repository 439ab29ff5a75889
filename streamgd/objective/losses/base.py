"""What a loss is: functions of target and raw prediction of a row, which know nothing of features or weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np


class Loss(ABC):
    """One loss. Subclasses give compiled functions and the link.

    ``pointwise_loss`` and ``pointwise_gradient`` are ``f(y_true, raw_prediction, settings)`` of a row; the second one
    becomes a part of a loop, see ``kernels.row_by_row``.
    ``losses_of_rows``, ``residuals_of_rows`` and ``curvatures_of_rows`` are ``f(y_true, raw_prediction, settings,
    out)``: the loss, its first and its second derivative of many rows at once, the same but for the last digits.

    ``settings``, float64 ``(n_settings,)``, are the parameters of a loss that has some, called ``setting_names``; see
    ``loss_of``.

    ``max_curvature`` bounds the second derivative over all rows (infinite where there is no bound); step sizes
    are derived from it. That of a quadratic loss is the same everywhere. ``target_curvature`` is the second derivative
    by the target where that is a constant, else None. ``link_name`` is the link's usual name, ``formula`` that of a
    row's loss.
    """

    name: ClassVar[str]
    link_name: ClassVar[str] = "identity"
    formula: ClassVar[str]
    setting_names: ClassVar[tuple[str, ...]] = ()
    #: Powers of the target's unit that the settings are stated in.
    setting_degrees: ClassVar[tuple[float, ...]] = ()
    max_curvature: float
    target_curvature: ClassVar[float | None] = None
    pointwise_loss: ClassVar[Any]
    pointwise_gradient: ClassVar[Any]
    losses_of_rows: ClassVar[Any]
    residuals_of_rows: ClassVar[Any]
    curvatures_of_rows: ClassVar[Any]
    #: What Newton's steps take for the curvature, where that is not the second derivative.
    step_curvatures_of_rows: ClassVar[Any] = None
    is_classifier: ClassVar[bool] = False
    #: Of a classifier: whether its prediction is the probability of class 1, or nothing but a raw prediction.
    has_probability: ClassVar[bool] = False
    is_quadratic: ClassVar[bool] = False
    #: Whether there is one raw prediction for each class: then all raw predictions, and derivatives by them, have shape
    #: ``(n, n_classes)``.
    has_many_outputs: ClassVar[bool] = False

    def __init__(self, *settings: float):
        self.settings = np.array(settings, np.float64)

    def link(self, prediction: np.ndarray) -> np.ndarray:
        """Raw prediction of a prediction."""
        return prediction

    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        """Prediction of a raw prediction."""
        return raw_prediction

    @abstractmethod
    def best_constant(self, target_mean: float) -> float | None:
        """The raw prediction that fits rows with this mean target best; None where the mean does not tell."""

    @property
    def named_settings(self) -> dict[str, float]:
        """The settings that have a name, by it."""
        return dict(zip(self.setting_names, self.settings.tolist(), strict=False))

    def loss(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """Loss of each row, new, float64, shape ``(n,)``."""
        return self._of_rows(self.losses_of_rows, y_true, raw_prediction, np.shape(y_true))

    def gradient(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """First derivative by the raw prediction of each row, new, float64, shape of ``raw_prediction``."""
        return self._of_rows(self.residuals_of_rows, y_true, raw_prediction, np.shape(raw_prediction))

    def curvature(self, y_true: np.ndarray, raw_prediction: np.ndarray) -> np.ndarray:
        """Second derivative by the raw prediction of each row, new, float64, shape of ``raw_prediction``."""
        return self._of_rows(self.curvatures_of_rows, y_true, raw_prediction, np.shape(raw_prediction))

    def in_units_of(self, target_scale: float) -> Self:
        """The loss of targets and raw predictions in units of ``target_scale``, up to a factor of its square."""
        degrees = np.array(self.setting_degrees)
        return type(self)(*(self.settings / target_scale**degrees).tolist())

    def mean_loss_of_constant(self, raw: float, mean: float, variance: float) -> float | None:
        """Mean loss of rows that all have the raw prediction ``raw``, by the moments of their targets.

        Taylor's series about the mean target ends after the second term; None where it does not.
        """
        if self.target_curvature is None:
            return None
        return float(self.loss(np.array([mean]), np.array([raw]))[0]) + 0.5 * self.target_curvature * variance

    def _of_rows(
        self, function: Any, y_true: np.ndarray, raw_prediction: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        y_true, raw_prediction = (np.ascontiguousarray(each, np.float64) for each in (y_true, raw_prediction))
        out = np.empty(shape)
        function(y_true, raw_prediction, self.settings, out)
        return out
