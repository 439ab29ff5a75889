"""Weighted sums over rows for the metrics, and the histogram from which the area under the ROC curve is read."""

from __future__ import annotations

import math

import numpy as np
from numba import types

from streamgd.kernels.compile import POINTWISE_FUNCTION, compiled

#: Bins of raw predictions: the narrowest, around 0, are 3e-5 wide.
RANK_BINS = 1 << 18

# Half of the bins lie within this distance of 0.
_HALF_WAY = 4.0
# As scikit-learn's log_loss: a probability of 0 or 1 that is wrong costs 36, not infinity.
_SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)

_f8 = types.float64
_SUMS = types.void(POINTWISE_FUNCTION, _f8[::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1])


@compiled(_SUMS)
def classifier_sums(loss_value, settings, target, raw, probability, weight, totals):
    """``totals`` (7,) receives weight, loss, log loss, squared error, weight of right and of positive rows, prediction.

    All are sums over the rows times their weight; the targets are 0 and 1.
    """
    totals[:] = 0.0
    for i in range(target.shape[0]):
        row_weight, p = weight[i], probability[i]
        clipped = min(max(p, _SMALLEST_PROBABILITY), 1.0 - _SMALLEST_PROBABILITY)
        totals[0] += row_weight
        totals[1] += row_weight * loss_value(target[i], raw[i], settings)
        totals[2] -= row_weight * (math.log(clipped) if target[i] == 1.0 else math.log1p(-clipped))
        totals[3] += row_weight * (p - target[i]) * (p - target[i])
        totals[4] += row_weight if (p > 0.5) == (target[i] == 1.0) else 0.0
        totals[5] += row_weight * target[i]
        totals[6] += row_weight * p


@compiled(_SUMS)
def regression_sums(loss_value, settings, target, raw, prediction, weight, totals):
    """``totals`` (7,) receives weight, loss, squared and absolute error, prediction; mean and squares of the target.

    The first five are sums over the rows times their weight, the last two the weighted mean and the weighted sum of
    squared deviations from it.
    """
    totals[:] = 0.0
    if target.shape[0] == 0:
        return
    # The mean is taken about the first row, so that a large common part does not eat the digits.
    origin = target[0]
    shifted = 0.0
    for i in range(target.shape[0]):
        row_weight, error = weight[i], prediction[i] - target[i]
        totals[0] += row_weight
        totals[1] += row_weight * loss_value(target[i], raw[i], settings)
        totals[2] += row_weight * error * error
        totals[3] += row_weight * abs(error)
        totals[4] += row_weight * prediction[i]
        shifted += row_weight * (target[i] - origin)
    if totals[0] > 0.0:
        totals[5] = origin + shifted / totals[0]
        for i in range(target.shape[0]):
            totals[6] += weight[i] * (target[i] - totals[5]) * (target[i] - totals[5])


@compiled(types.int64(_f8, types.int64))
def _bin_of(raw, n_bins):
    """A never falling function of the raw prediction, in floating point too: each of its steps is one."""
    half = n_bins // 2
    part = (1.0 - _HALF_WAY / (_HALF_WAY + abs(raw))) * half
    return min(half + int(part), n_bins - 1) if raw >= 0.0 else max(half - 1 - int(part), 0)


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8[:, ::1]))
def add_ranks(target, raw, weight, bins):
    """Add rows to ``bins`` (4, RANK_BINS): weight of negatives, of positives, lowest and highest raw prediction."""
    for i in range(target.shape[0]):
        if not abs(raw[i]) >= 0.0:
            continue  # NaN has no rank; the loss is NaN then, and no area is given
        k = _bin_of(raw[i], bins.shape[1])
        bins[1 if target[i] == 1.0 else 0, k] += weight[i]
        bins[2, k] = min(bins[2, k], raw[i])
        bins[3, k] = max(bins[3, k], raw[i])


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8[::1], _f8[:, ::1]))
def add_amounts(rank, exposed, target, weight, bins):
    """Add rows to ``bins`` (4, RANK_BINS): weighted exposure, weighted target, lowest and highest rank of each bin."""
    for i in range(target.shape[0]):
        if not abs(rank[i]) >= 0.0 or weight[i] == 0.0:
            continue
        k = _bin_of(rank[i], bins.shape[1])
        bins[0, k] += weight[i] * exposed[i]
        bins[1, k] += weight[i] * target[i]
        bins[2, k] = min(bins[2, k], rank[i])
        bins[3, k] = max(bins[3, k], rank[i])
