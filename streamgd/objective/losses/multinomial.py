"""More than two classes: the softmax loss."""

from __future__ import annotations

import numpy as np

from streamgd.kernels import softmax as kernels
from streamgd.objective.losses.base import Loss


class HalfMultinomialLoss(Loss):
    """Softmax loss of several classes: half the multinomial deviance, with the symmetric multinomial logit link.

    Domain   y_true in {0, 1, ..., n_classes - 1}; prediction in (0, 1), of a row they sum to 1
    Link     prediction_k = exp(raw_k) / sum_j exp(raw_j)
    Formula  loss_i = log(sum_j exp(raw_ij)) - raw_i,y_i

    Adding a number to all raw predictions of a row changes nothing; the link gives those whose mean is 0.
    The functions of many rows take ``raw (n, n_classes)``; the curvature is that by each raw prediction alone, whose
    bound is the largest eigenvalue of ``diag(p) - p p'`` (Böhning 1992, "Multinomial logistic regression algorithm").

    >>> HalfMultinomialLoss().gradient(np.array([2.0]), np.zeros((1, 4)))
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """

    name = "multinomial"
    link_name = "softmax"
    formula = "log(sum_k exp(raw_k)) - raw_y"
    max_curvature = 0.5
    is_classifier = True
    has_probability = True
    has_many_outputs = True

    @staticmethod
    def losses_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        kernels.softmax_losses(y_true, np.ascontiguousarray(raw.T), len(raw), out)

    @staticmethod
    def residuals_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        of_classes = np.empty(raw.shape[::-1])
        kernels.softmax_residuals(y_true, np.ascontiguousarray(raw.T), len(raw), of_classes)
        out[...] = of_classes.T

    @staticmethod
    def curvatures_of_rows(y_true: np.ndarray, raw: np.ndarray, settings: np.ndarray, out: np.ndarray) -> None:
        probability = _softmax(raw)
        out[...] = probability * (1.0 - probability)

    def link(self, prediction: np.ndarray) -> np.ndarray:
        logarithm = np.log(prediction)
        return np.asarray(logarithm - logarithm.mean(axis=-1, keepdims=True))

    def inverse_link(self, raw_prediction: np.ndarray) -> np.ndarray:
        return _softmax(raw_prediction)

    def best_constant(self, target_mean: float) -> float | None:  # noqa: ARG002
        """None: the mean of the numbers of classes tells nothing; it is the link of their shares."""
        return None


def _softmax(raw: np.ndarray) -> np.ndarray:
    """Probabilities ``(n, n_classes)`` of raw predictions, C-contiguous."""
    of_classes = np.empty(raw.shape[::-1])
    kernels.softmax(np.ascontiguousarray(raw.T), len(raw), of_classes)
    return np.ascontiguousarray(of_classes.T)
