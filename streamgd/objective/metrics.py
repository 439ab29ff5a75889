"""How good predictions are: sums over rows that can be added up in any portions, and the metrics made from them.

One pass suffices for all of them, also for the base rate: the best constant prediction on the same rows, beside which
every metric is to be read. Sums are float64; adding the same rows in the same portions gives the same bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from streamgd.data.scaler import Moments
from streamgd.kernels import metrics as kernels
from streamgd.objective.losses import LogLinkLoss, Loss, QuantileLoss

Result = dict[str, float | None]

#: Metrics of probabilities alone.
_OF_CHANCE = ("log_loss", "base_log_loss", "brier", "base_brier", "mean_prediction")


class Metrics(ABC):
    """Sums over rows from which the metrics follow."""

    rows: int

    @abstractmethod
    def add(
        self, target: np.ndarray, prediction: np.ndarray, raw: np.ndarray, weight: np.ndarray | None,
        offset: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Add rows.

        Parameters
        ----------
        target, prediction, raw : float64, (n_rows,), C-contiguous
            ``prediction`` is ``raw`` through the inverse link; of a classifier without probabilities 1 where ``raw`` is
        above zero, else 0.
        weight : float64, (n_rows,), or None
            None: 1 for each row.
        offset : float64, (n_rows,), or None
            What is added to the raw prediction, the logarithm of the exposure with it; None: 0.
        """

    @property
    @abstractmethod
    def weight(self) -> float:
        """Total weight."""

    @abstractmethod
    def result(self) -> Result:
        """The metrics by name; ``base_…`` is that of the best constant. None where a metric is not defined."""


def metrics_of(loss: Loss) -> Metrics:
    """Empty sums for the predictions of a model with this loss."""
    if isinstance(loss, LogLinkLoss):
        return AmountMetrics(loss)
    if isinstance(loss, QuantileLoss):
        return QuantileMetrics(loss)
    return ClassifierMetrics(loss) if loss.is_classifier else RegressionMetrics(loss)


class ClassifierMetrics(Metrics):
    """Metrics of two classes: loss, AUC, accuracy, positive rate; of probabilities also log loss and Brier score.

    ``loss`` is the mean of the loss as it was trained on. ``log_loss`` is that of the probabilities, which are clipped
    as in scikit-learn. ``accuracy`` counts a row as positive where the probability is above one half.

    ``auc`` is read from a histogram over the raw prediction (which still has an order where probabilities are rounded
    to 1), ties counting one half. Only pairs of rows inside one bin can be in the wrong order, so the exact area
    differs by no more than ``auc_error_bound``: half the share of such pairs. A bin in which all raw predictions are
    the same has only true ties, and adds nothing to the bound.
    """

    def __init__(self, loss: Loss):
        self._loss = loss
        self._totals = np.zeros(7)
        self._bins = np.zeros((4, kernels.RANK_BINS))
        self._bins[2], self._bins[3] = np.inf, -np.inf
        self.rows = 0

    def add(
        self, target: np.ndarray, prediction: np.ndarray, raw: np.ndarray, weight: np.ndarray | None,
        offset: np.ndarray | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        weight = np.ones(len(target)) if weight is None else weight
        totals = np.empty(7)
        kernels.classifier_sums(self._loss.pointwise_loss, self._loss.settings, target, raw, prediction, weight, totals)
        kernels.add_ranks(target, raw, weight, self._bins)
        self._totals += totals
        self.rows += len(target)

    @property
    def weight(self) -> float:
        return float(self._totals[0])

    def result(self) -> Result:
        weight, loss, log_loss, squares, right, positive, predicted = self._totals.tolist()
        if weight == 0.0:
            return {}
        rate = positive / weight
        entropy = -sum(share * math.log(share) for share in (rate, 1.0 - rate) if share > 0.0)
        auc, bound = area_under_curve(self._bins) if math.isfinite(loss) else (None, None)
        found: Result = {
            "loss": loss / weight, "base_loss": entropy if self._loss.has_probability else self._base_loss(rate),
            "log_loss": log_loss / weight, "base_log_loss": entropy,
            "auc": auc, "base_auc": 0.5, "auc_error_bound": bound,
            "brier": squares / weight, "base_brier": rate * (1.0 - rate),
            "accuracy": right / weight, "base_accuracy": max(rate, 1.0 - rate),
            "positive_rate": rate, "mean_prediction": predicted / weight,
        }  # fmt: skip
        return found if self._loss.has_probability else {name: found[name] for name in found if name not in _OF_CHANCE}

    def _base_loss(self, rate: float) -> float | None:
        """The loss of the best constant, by the share of positive rows."""
        constant = self._loss.best_constant(rate)
        if constant is None:
            return None
        of_both = self._loss.loss(np.array([1.0, 0.0]), np.full(2, constant))
        return float(of_both @ [rate, 1.0 - rate])

    def ranks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of negative rows, of positive rows, and raw prediction of each bin that has rows, rising.

        Float64, ``(n_bins,)``. The raw prediction is the middle between the lowest and the highest of the bin.
        """
        negative, positive, lowest, highest = self._bins
        filled = np.flatnonzero(negative + positive)
        return negative[filled], positive[filled], 0.5 * (lowest[filled] + highest[filled])


def area_under_curve(bins: np.ndarray) -> tuple[float | None, float | None]:
    """Area under the ROC curve by ``kernels.metrics.add_ranks``, and how far off it may be; None: a side is empty."""
    negative, positive, lowest, highest = bins
    pairs = negative.sum() * positive.sum()
    if pairs == 0.0:
        return None, None
    together = negative * positive
    ordered = (np.cumsum(negative) - negative) * positive
    unsure = together[lowest < highest]
    return float((ordered.sum() + 0.5 * together.sum()) / pairs), float(0.5 * unsure.sum() / pairs)


class _NumberMetrics(Metrics):
    """Sums over rows whose targets are numbers: losses, errors, moments of the target."""

    def __init__(self, loss: Loss):
        self._loss = loss
        self._totals = np.zeros(5)
        self._target = Moments.empty(1)
        self.rows = 0

    def add(
        self, target: np.ndarray, prediction: np.ndarray, raw: np.ndarray, weight: np.ndarray | None,
        offset: np.ndarray | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        weight = np.ones(len(target)) if weight is None else weight
        totals = np.empty(7)
        kernels.regression_sums(self._loss.pointwise_loss, self._loss.settings, target, raw, prediction, weight, totals)
        self._totals += totals[:5]
        self._target = self._target.merge(Moments(totals[:1], totals[5:6], totals[6:], np.zeros(1)))
        self.rows += len(target)

    @property
    def weight(self) -> float:
        return float(self._totals[0])


class RegressionMetrics(_NumberMetrics):
    """Metrics of real predictions: loss, R², RMSE, MAE, mean of target and prediction.

    The base is the mean of the target, so ``base_rmse`` is its standard deviation; of a loss that is not squared there
    is no ``base_loss``, as moments do not tell it. There is no base beside ``mae``: the mean absolute error of a
    constant follows only from a second pass, when the constant is known.
    """

    def result(self) -> Result:
        weight, loss, squares, absolute, predicted = self._totals.tolist()
        if weight == 0.0:
            return {}
        spread, mean = float(self._target.squares[0]), float(self._target.mean[0])
        return {
            "loss": loss / weight,
            "base_loss": self._loss.mean_loss_of_constant(mean, mean, spread / weight),
            "r2": 1.0 - squares / spread if spread > 0.0 else None, "base_r2": 0.0,
            "rmse": math.sqrt(squares / weight), "base_rmse": math.sqrt(spread / weight),
            "mae": absolute / weight,
            "mean_target": mean, "mean_prediction": predicted / weight,
        }  # fmt: skip


class QuantileMetrics(_NumberMetrics):
    """Metrics of a predicted quantile: pinball loss, D² of it, coverage, MAE, mean of target and prediction.

    ``coverage`` is the share of rows whose target is below their prediction, which is to come near the quantile.
    ``d2`` is the part of the pinball loss of the best constant that the model has not, as in scikit-learn. That
    constant, the quantile of the targets, lies in the bin of a histogram where that share of the weight is passed: the
    loss is that of the lowest or the highest target there. Bins are in units of the spread of the first rows that are
    added, 3e-5 of it wide around their median.
    """

    def __init__(self, loss: QuantileLoss):
        super().__init__(loss)
        self._quantile = loss.quantile
        self._below = 0.0
        self._units: tuple[float, float] | None = None
        self._bins = np.zeros((4, kernels.RANK_BINS))
        self._bins[2], self._bins[3] = np.inf, -np.inf

    def add(
        self, target: np.ndarray, prediction: np.ndarray, raw: np.ndarray, weight: np.ndarray | None,
        offset: np.ndarray | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        super().add(target, prediction, raw, weight)
        weight = np.ones(len(target)) if weight is None else weight
        self._below += float(weight @ (target < prediction))
        if self._units is None and len(target):
            centre = float(np.median(target))
            self._units = centre, float(np.abs(target - centre).mean()) or 1.0
        if self._units is not None:
            away = (target - self._units[0]) / self._units[1]
            kernels.add_amounts(away, np.ones(len(target)), away, weight, self._bins)

    def result(self) -> Result:
        weight, loss, _, absolute, predicted = self._totals.tolist()
        if weight == 0.0:
            return {}
        base = self._base_loss()
        return {
            "loss": loss / weight, "base_loss": base,
            "d2": 1.0 - loss / weight / base if base else None, "base_d2": 0.0, "coverage": self._below / weight,
            "mae": absolute / weight, "mean_target": float(self._target.mean[0]), "mean_prediction": predicted / weight,
        }  # fmt: skip

    def _base_loss(self) -> float:
        """Mean loss of the best constant."""
        assert self._units is not None
        weight, target, lowest, highest = self._bins[:, self._bins[0] > 0.0]
        passed = np.cumsum(weight)
        k = int(np.searchsorted(passed, self._quantile * passed[-1]))
        # With all targets of the bins before on one side, and those of the bins after on the other.
        at_lowest = self._loss_of(float(lowest[k]), slice(k, None), weight, target)
        at_highest = self._loss_of(float(highest[k]), slice(k + 1, None), weight, target)
        return min(at_lowest, at_highest) * self._units[1]

    def _loss_of(self, constant: float, above: slice, weight: np.ndarray, target: np.ndarray) -> float:
        """Mean loss of a constant, the targets of the bins ``above`` being above it, in units of the spread."""
        missing, more = float((target - weight * constant).sum()), float((target - weight * constant)[above].sum())
        return (more - (1.0 - self._quantile) * missing) / float(weight.sum())


class AmountMetrics(_NumberMetrics):
    """Metrics of counts and amounts with the log link: loss, deviance, D², Gini, lift, RMSE, MAE, means.

    ``deviance`` is the weighted mean of the unit deviance, twice the loss, as in scikit-learn; ``d2`` the part of it
    that the best constant has and the model has not. The constant is that of rates: it is multiplied by the exposure,
    where there is one, and by ``exp`` of an offset column: exposure means that product here. It follows from sums over
    the rows, since the losses at two constants differ by a function that is linear in the target.

    ``gini`` is one less twice the area under the curve of Lorenz: the share of the target over the share of the
    exposure, of rows by rising predicted rate. It is read from a histogram, so it may be off by ``gini_error_bound``.
    ``top_decile_lift`` is the rate of the tenth of the exposure that has the highest predicted rates, divided by the
    rate of all, ``bottom_decile_lift`` that of the lowest.
    """

    def __init__(self, loss: LogLinkLoss):
        super().__init__(loss)
        self._log_link = loss
        #: Loss of the constant 0, and the two sums by which that of others differs.
        self._constant = np.zeros(3)
        self._bins = np.zeros((4, kernels.RANK_BINS))
        self._bins[2], self._bins[3] = np.inf, -np.inf

    def add(
        self, target: np.ndarray, prediction: np.ndarray, raw: np.ndarray, weight: np.ndarray | None,
        offset: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        super().add(target, prediction, raw, weight)
        weight = np.ones(len(target)) if weight is None else weight
        offset = np.zeros(len(target)) if offset is None or not len(offset) else offset
        kernels.add_amounts(raw - offset, np.exp(offset), target, weight, self._bins)
        at_zero = float((weight * self._log_link.loss(target, offset)).sum())
        self._constant += [at_zero, *self._log_link.constant_sums(target, offset, weight)]

    def result(self) -> Result:
        weight, loss, squares, absolute, predicted = self._totals.tolist()
        if weight == 0.0:
            return {}
        spread, base = float(self._target.squares[0]), self._base_loss()
        gini, bound, lowest, highest = self._by_rate()
        return {
            "loss": loss / weight, "base_loss": base,
            "deviance": 2.0 * loss / weight, "base_deviance": None if base is None else 2.0 * base,
            "d2": 1.0 - loss / weight / base if base else None, "base_d2": 0.0,
            "gini": gini, "base_gini": 0.0, "gini_error_bound": bound,
            "top_decile_lift": highest, "base_top_decile_lift": 1.0,
            "bottom_decile_lift": lowest, "base_bottom_decile_lift": 1.0,
            "rmse": math.sqrt(squares / weight), "base_rmse": math.sqrt(spread / weight), "mae": absolute / weight,
            "mean_target": float(self._target.mean[0]), "mean_prediction": predicted / weight,
        }  # fmt: skip

    def _base_loss(self) -> float | None:
        """Mean loss of the best constant rate; None where all targets are zero."""
        at_zero, of_targets, of_exposure = self._constant.tolist()
        if of_targets <= 0.0 or not math.isfinite(at_zero):
            return None
        constant, power = math.log(of_targets / of_exposure), self._log_link.power
        more = of_exposure * _integral(2.0 - power, constant) - of_targets * _integral(1.0 - power, constant)
        return max(at_zero + more, 0.0) / self.weight

    def _by_rate(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Gini, its bound, lift of the lowest and of the highest tenth; None where all targets are zero."""
        exposed, target, lowest, highest = self._bins[:, self._bins[0] > 0.0]
        if not (exposed.sum() > 0.0 and target.sum() > 0.0 and math.isfinite(self._totals[1])):
            return None, None, None, None
        exposed, target = exposed / exposed.sum(), target / target.sum()
        along, share = np.append(0.0, np.cumsum(exposed)), np.append(0.0, np.cumsum(target))
        area = float((exposed * (share[1:] + share[:-1])).sum()) / 2.0
        unsure = lowest < highest
        ends = np.interp([0.1, 0.9], along, share)
        return (
            1.0 - 2.0 * area, float((exposed * target)[unsure].sum()), float(ends[0]) * 10.0,
            (1.0 - float(ends[1])) * 10.0,
        )  # fmt: skip


def _integral(exponent: float, to: float) -> float:
    """Of ``exp(exponent * x)`` from 0 to ``to``."""
    return math.expm1(exponent * to) / exponent if exponent else to
