"""How good the predictions of several classes are: metrics of all, and of each class against the rest.

As those of two classes (``objective.metrics``) they come from sums over rows that can be added up in any portions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamgd.kernels import metrics as kernels
from streamgd.kernels.softmax import log_odds
from streamgd.objective.losses import Loss
from streamgd.objective.metrics import Metrics, Result, area_under_curve, metrics_of

#: Bins of the log-odds of one class: the narrowest, around 0, are 5e-4 wide. A hundred classes take 52 MB.
RANK_BINS = 1 << 14
# As scikit-learn's log_loss.
_SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ClassMetrics:
    """One class against the rest: total weight of rows that are of it, and that are predicted as it.

    ``recall`` is the share of its rows that are predicted as it, ``precision`` that of the rows predicted as it which
    are, ``f1`` their harmonic mean, ``auc`` the area under the ROC curve of its probability, off by no more than
    ``auc_error_bound``. ``recall`` and ``auc`` are None without rows; ``precision`` and ``f1`` are then 0, as in
    scikit-learn.
    """

    actual: float
    predicted: float
    recall: float | None
    precision: float
    f1: float
    auc: float | None
    auc_error_bound: float | None


def metrics_for(loss: Loss, n_outputs: int) -> Metrics:
    """Empty sums for the predictions of a model with this loss and so many raw predictions a row."""
    return MulticlassMetrics(loss, n_outputs) if loss.has_many_outputs else metrics_of(loss)


class MulticlassMetrics(Metrics):
    """Metrics of probabilities of several classes; predictions have shape ``(n_rows, n_classes)``.

    ``loss`` and ``log_loss`` as for two classes, ``accuracy`` where the most probable class is taken. ``macro_recall``
    (balanced accuracy), ``macro_f1`` and ``macro_auc`` are means over the classes that have rows, each against the
    rest, all classes counting alike.

    ``confusion``, float64 ``(n_classes, n_classes)``: total weight of rows of class k that are predicted as class l.
    """

    def __init__(self, loss: Loss, n_classes: int):
        self._loss = loss
        self._totals = np.zeros(3)
        self._bins = np.zeros((n_classes, 4, RANK_BINS))
        self._bins[:, 2], self._bins[:, 3] = np.inf, -np.inf
        self.confusion = np.zeros((n_classes, n_classes))
        self.rows = 0

    def add(
        self, target: np.ndarray, prediction: np.ndarray, raw: np.ndarray, weight: np.ndarray | None,
        offset: np.ndarray | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        if not len(target):
            return
        weight = np.ones(len(target)) if weight is None else weight
        n, classes = len(self.confusion), target.astype(np.int64)
        own = np.clip(prediction[np.arange(len(classes)), classes], _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
        # Without BLAS, whose threads would be in the way of ours.
        losses = (weight * self._loss.loss(target, raw)).sum()
        self._totals += [weight.sum(), losses, -(weight * np.log(own)).sum()]
        pairs = np.bincount(classes * n + prediction.argmax(axis=1), weight, n * n)
        self.confusion += pairs.reshape(n, n)
        odds = np.empty((n, len(classes)))
        log_odds(np.ascontiguousarray(raw.T), odds)
        for number in range(n):
            kernels.add_ranks((classes == number).astype(np.float64), odds[number], weight, self._bins[number])
        self.rows += len(target)

    @property
    def weight(self) -> float:
        return float(self._totals[0])

    def of_classes(self) -> list[ClassMetrics]:
        """Each class against the rest."""
        return [self._of_class(number) for number in range(len(self.confusion))]

    def _of_class(self, number: int) -> ClassMetrics:
        actual, predicted = float(self.confusion[number].sum()), float(self.confusion[:, number].sum())
        right = float(self.confusion[number, number])
        f1 = 2.0 * right / (actual + predicted) if right > 0.0 else 0.0
        auc, bound = area_under_curve(self._bins[number]) if math.isfinite(self._totals[1]) else (None, None)
        return ClassMetrics(
            actual, predicted, right / actual if actual > 0.0 else None, right / predicted if predicted > 0.0 else 0.0,
            f1, auc, bound,
        )  # fmt: skip

    def result(self) -> Result:
        weight, loss, log_loss = self._totals.tolist()
        if weight == 0.0:
            return {}
        shares = self.confusion.sum(axis=1) / weight
        entropy = -sum(share * math.log(share) for share in shares.tolist() if share > 0.0)
        occurring = [each for each in self.of_classes() if each.actual > 0.0]
        aucs = [each.auc for each in occurring if each.auc is not None]
        most = float(shares.max())
        return {
            "loss": loss / weight, "base_loss": entropy,
            "log_loss": log_loss / weight, "base_log_loss": entropy,
            "accuracy": float(np.trace(self.confusion)) / weight, "base_accuracy": most,
            "macro_recall": sum(each.recall or 0.0 for each in occurring) / len(occurring),
            "base_macro_recall": 1.0 / len(occurring),
            "macro_f1": sum(each.f1 for each in occurring) / len(occurring),
            "base_macro_f1": 2.0 * most / (1.0 + most) / len(occurring),
            "macro_auc": sum(aucs) / len(aucs) if aucs else None, "base_macro_auc": 0.5,
        }  # fmt: skip
