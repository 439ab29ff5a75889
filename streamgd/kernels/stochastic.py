"""Stochastic gradient descent over the rows of one block: predict, compare, gradient, update.

Coordinates of theta that a mini-batch does not touch (levels that do not occur in it) cost nothing: ``clock``
holds the step at which each coordinate was last touched, and both its average and its penalty are brought up to
date when it is touched again.

The base level of a categorical column may have a row of its own, the first of the column's ``level_ranges``. The
objective depends on the differences to it alone, so this changes no optimum; but the steps that would move all other
other levels against the intercept become one. The penalty then pulls each level towards its base level.

Numeric coordinates may be rotated: with ``rotation`` R, theta holds phi and the coefficients of the features are
``R' phi``. With R = L^-1/2 V' from the eigenvalues L and eigenvectors V of the features' second moments, steps that
treat each coordinate by itself no longer crawl along correlated columns. The objective is the same: since V is
orthogonal, the l2 penalty of phi is still one of each coordinate, times the squared norm of its row of R.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import POINTWISE_FUNCTION, UPDATE_FUNCTION, compiled

#: The progressive loss is taken on every n-th row, others in each epoch: a log and an exp for each row would cost as
#: much as the step.
LOSS_EVERY_ROWS = 8

#: Rows that are predicted, compared and summed together: few enough to stay in the nearest cache. Their products are
#: summed in the type of the features, the tiles in float64.
TILE_ROWS = 256

_f8, _i8, _i4 = types.float64, types.int64, types.int32


@compiled(_f8(_f8, _f8, _f8, _f8))
def average_decay(since, now, average, theta):
    """The polynomial average (Shamir, Zhang 2013, eta = 3) of a coordinate that kept its value since step ``since``.

    Each step t does ``average += 4 / (t + 3) * (theta - average)``; the product over the steps from ``since`` to
    ``now`` telescopes.
    """
    decay = since / (now + 3.0) * ((since + 1.0) / now) * ((since + 2.0) / (now + 1.0)) * ((since + 3.0) / (now + 2.0))
    return theta + (average - theta) * decay


@compiled(_f8(_f8, _f8, _f8, _f8))
def shrink(theta, rate, l1, l2):
    """The penalty's own step: ``argmin_b (b - theta)^2 / (2 rate) + l1 |b| + l2 / 2 b^2``."""
    threshold = rate * l1
    if theta > threshold:
        return (theta - threshold) / (1.0 + rate * l2)
    if theta < -threshold:
        return (theta + threshold) / (1.0 + rate * l2)
    return 0.0


@compiled(types.void(_f8[::1], _i8[:, ::1], _f8[::1]))
def _sum_levels(theta, level_ranges, level_sum):
    """For each column whose base level has a row, the sum of its other rows."""
    for c in range(level_ranges.shape[0]):
        if level_ranges[c, 0] >= 0:
            level_sum[c] = theta[level_ranges[c, 0] + 1 : level_ranges[c, 1]].sum()


@compiled(_f8(_f8[::1], _i8, _f8, _f8, _f8, _i8, _f8, _i8))
def penalised(theta, j, rate, l1, l2, base, level_sum, n_levels):
    """``theta[j]`` after the penalty's step: towards 0, or towards its column's base level.

    ``level_sum`` is the sum of the column's ``n_levels - 1`` rows other than ``base``; that is -1 where the base level
    has no row.
    """
    if base < 0:
        return shrink(theta[j], rate, l1, l2)
    if base != j:
        return theta[base] + shrink(theta[j] - theta[base], rate, l1, l2)
    # argmin_b (b - theta)^2 / (2 rate) + l2 / 2 * sum over the other levels of (level - b)^2
    return (theta[j] + rate * l2 * level_sum) / (1.0 + rate * l2 * (n_levels - 1))


def _predict_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], _f8[::1], _i8, _i8, _f8[::1], feature[::1], _f8[::1])


@compiled([_predict_signature(types.float32), _predict_signature(_f8)])
def _predict(features, codes, offset, first, count, theta, theta_numeric, raw):
    """``raw[:count]`` = the raw predictions of the rows from ``first`` on."""
    n_numeric, n_categorical = features.shape[1], codes.shape[1]
    intercept = theta[theta.shape[0] - 1]
    for i in range(count):
        dot = theta_numeric.dtype.type(0.0)
        for j in range(n_numeric):
            dot += features[first + i, j] * theta_numeric[j]
        raw[i] = intercept + dot
    for i in range(count if n_categorical > 0 else 0):
        for c in range(n_categorical):
            j = codes[first + i, c]
            if j >= 0:
                raw[i] += theta[j]
    if offset.shape[0] > 0:
        for i in range(count):
            raw[i] += offset[first + i]


def _gradient_signature(feature):
    return types.void(feature[:, ::1], _i8, _i8, _f8[::1], feature[::1])


@compiled([_gradient_signature(types.float32), _gradient_signature(_f8)])
def _gradient_of_tile(features, first, count, residual, gradient):
    """``gradient[:]`` = residual times features, summed over the rows from ``first`` on; four rows at a time."""
    n_numeric = features.shape[1]
    gradient[:] = 0.0
    of_type = gradient.dtype.type
    by_four = count - count % 4
    for i in range(0, by_four, 4):
        a, b, c, d = of_type(residual[i]), of_type(residual[i + 1]), of_type(residual[i + 2]), of_type(residual[i + 3])
        row = first + i
        for j in range(n_numeric):
            gradient[j] += (
                a * features[row, j] + b * features[row + 1, j] + c * features[row + 2, j] + d * features[row + 3, j]
            )
    for i in range(by_four, count):
        a = of_type(residual[i])
        for j in range(n_numeric):
            gradient[j] += a * features[first + i, j]


def _minibatch_signature(feature):
    return types.void(
        feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1], _f8[::1], _i8[::1], _f8[::1], _i8, _f8, _f8, _f8,
        types.boolean, _f8[::1], _f8[::1], _f8[:, ::1], _i8[::1], _i8[:, ::1], _f8[:, ::1],
        _f8[::1], _f8[::1], _f8[::1], _f8[::1], _i8[::1], POINTWISE_FUNCTION, POINTWISE_FUNCTION, UPDATE_FUNCTION,
    )  # fmt: skip


@compiled([_minibatch_signature(types.float32), _minibatch_signature(_f8)])
def train_minibatches(
    features, codes, target, weight, offset, bounds, learning_rates, steps_before, mean_weight, l1, l2,
    averaging, theta, average, slots, clock, level_ranges, rotation, settings, rate, losses,
    gradient, touched_at, loss_value, loss_derivative, update,
):  # fmt: skip
    """One update of theta for each mini-batch ``bounds[k]:bounds[k + 1]`` of a block.

    Parameters
    ----------
    features : float32 or float64, (n_rows, n_numeric)
    codes : int32, (n_rows, n_categorical)
        Row of theta of each level, -1 for the base level.
    target, weight, offset : float64, (n_rows,)
        Weight and offset may be empty: 1 and 0.
    bounds : int64, (n_batches + 1,)
    learning_rates : float64, (n_batches,)
    steps_before : int
        Steps taken so far; the first mini-batch is step ``steps_before + 1``.
    mean_weight : float
        Mean weight of a training row, by which gradients are divided.
    theta, average : float64, (n_dof,)
        Changed in place, as are ``slots`` (n_slots, n_dof) and ``clock`` (int64, n_dof).
    level_ranges : int64, (n_categorical, 2)
        First row and end of each categorical column whose base level has a row, -1 of others; l1 must then be 0.
    rotation : float64, (n_numeric, n_numeric) or (0, 0)
        Rows are the numeric coordinates of theta in terms of the features; l1 must then be 0.
    rate : float64, (n_dof,)
        Written: the rate of each coordinate when it was last touched, by which it owes the penalty of missed steps.
    losses : float64, (3,)
        Incremented: weighted sum of the losses before each update, the weight, and the sum of the squared terms.
    gradient, touched_at : float64 and int64, (n_dof,)
        Memory to work with, that is used again for the next block: zeros, and numbers of no step to come.
    """
    n_numeric = features.shape[1]
    n_categorical = codes.shape[1]
    intercept = theta.shape[0] - 1
    largest_batch = 0
    for batch in range(bounds.shape[0] - 1):
        largest_batch = max(largest_batch, bounds[batch + 1] - bounds[batch])
    coefficients, theta_numeric = np.empty(n_numeric), np.empty(n_numeric, features.dtype)
    tile_gradient = np.empty(n_numeric, features.dtype)
    gradient_numeric = np.empty(n_numeric)
    raw, residual = np.empty(TILE_ROWS), np.empty(TILE_ROWS)
    touched = np.empty(min(theta.shape[0], n_numeric + 1 + n_categorical * largest_batch), np.int64)
    column_of = np.empty(touched.shape[0], np.int64)
    for j in range(n_numeric):
        touched[j] = j
    touched[n_numeric] = intercept
    weighted = weight.shape[0] > 0
    loss_phase = steps_before % LOSS_EVERY_ROWS
    level_sum = np.zeros(n_categorical)
    _sum_levels(theta, level_ranges, level_sum)
    rotated = rotation.shape[0] > 0
    l2_numeric = np.full(n_numeric, l2)
    if rotated:
        for k in range(n_numeric):
            l2_numeric[k] = l2 * (rotation[k] * rotation[k]).sum()

    for batch in range(bounds.shape[0] - 1):
        step = steps_before + batch + 1
        start, stop = bounds[batch], bounds[batch + 1]
        n_touched = n_numeric + 1
        coefficients[:] = theta[:n_numeric]
        if rotated:
            coefficients[:] = 0.0
        for k in range(n_numeric if rotated else 0):
            theta_k = theta[k]
            for j in range(n_numeric):
                coefficients[j] += rotation[k, j] * theta_k
        for j in range(n_numeric):
            theta_numeric[j] = coefficients[j]
            gradient_numeric[j] = 0.0
        gradient_intercept = 0.0

        for first in range(start, stop, TILE_ROWS):
            count = min(TILE_ROWS, stop - first)
            _predict(features, codes, offset, first, count, theta, theta_numeric, raw)
            # Compare.
            for i in range(count):
                row_weight = weight[first + i] if weighted else 1.0
                residual[i] = row_weight * loss_derivative(target[first + i], raw[i])
                gradient_intercept += residual[i]
            for i in range((loss_phase - first) % LOSS_EVERY_ROWS, count, LOSS_EVERY_ROWS):
                row_weight = weight[first + i] if weighted else 1.0
                row_loss = row_weight * loss_value(target[first + i], raw[i])
                losses[0] += row_loss
                losses[1] += row_weight
                losses[2] += row_loss * row_loss
            # Gradient.
            _gradient_of_tile(features, first, count, residual, tile_gradient)
            for j in range(n_numeric):
                gradient_numeric[j] += tile_gradient[j]
            for i in range(count):
                for c in range(n_categorical):
                    j = codes[first + i, c]
                    if j >= 0:
                        if touched_at[j] != step:
                            touched_at[j] = step
                            touched[n_touched] = j
                            column_of[n_touched] = c
                            n_touched += 1
                        gradient[j] += residual[i]

        divisor = 1.0 / ((stop - start) * mean_weight)
        for j in range(n_numeric):
            slope = gradient_numeric[j]
            if rotated:
                slope = np.float64(0.0)
                for i in range(n_numeric):
                    slope += rotation[j, i] * gradient_numeric[i]
            gradient[j] = slope * divisor
        for k in range(n_numeric + 1, n_touched):
            gradient[touched[k]] *= divisor
        gradient[intercept] = gradient_intercept * divisor

        # Update.
        if averaging:
            for k in range(n_touched):
                j = touched[k]
                if clock[j] < step - 1:
                    average[j] = average_decay(np.float64(clock[j]), np.float64(step - 1), average[j], theta[j])
        for k in range(n_numeric + 1, n_touched):
            if touched[k] != level_ranges[column_of[k], 0]:
                level_sum[column_of[k]] -= theta[touched[k]]
        update(theta, gradient, touched[:n_touched], slots, rate, settings, learning_rates[batch], step)
        for k in range(n_numeric + 1, n_touched):
            if touched[k] != level_ranges[column_of[k], 0]:
                level_sum[column_of[k]] += theta[touched[k]]
        for j in range(n_numeric):
            theta[j] = shrink(theta[j], rate[j] * (step - clock[j]), l1, l2_numeric[j])
        for k in range(n_numeric + 1, n_touched):
            j, c = touched[k], column_of[k]
            base, n_levels, before = level_ranges[c, 0], level_ranges[c, 1] - level_ranges[c, 0], theta[j]
            theta[j] = penalised(theta, j, rate[j] * (step - clock[j]), l1, l2, base, level_sum[c], n_levels)
            if j != base:
                level_sum[c] += theta[j] - before
        for k in range(n_touched):
            j = touched[k]
            if averaging:
                average[j] += 4.0 / (step + 3.0) * (theta[j] - average[j])
            clock[j] = step
            gradient[j] = 0.0


def _rows_signature(feature):
    return types.void(
        feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1], _i8, _f8, _f8, _f8,
        types.boolean, _f8[::1], _f8[::1], _i8[::1], _i8[:, ::1], _f8[::1], _f8[::1],
        POINTWISE_FUNCTION, POINTWISE_FUNCTION,
    )  # fmt: skip


@compiled([_rows_signature(types.float32), _rows_signature(_f8)])
def train_rows(
    features, codes, target, weight, offset, learning_rates, steps_before, mean_weight, l1, l2,
    averaging, theta, average, clock, level_ranges, rate, losses, loss_value, loss_derivative,
):  # fmt: skip
    """Plain stochastic gradient descent, one row at a time: ``theta := theta - alpha * residual * x``.

    The arguments are those of ``train_minibatches``, with one learning rate a row.
    """
    n_numeric = features.shape[1]
    n_categorical = codes.shape[1]
    intercept = theta.shape[0] - 1
    weighted = weight.shape[0] > 0
    shifted = offset.shape[0] > 0
    loss_phase = steps_before % LOSS_EVERY_ROWS
    level_sum = np.zeros(n_categorical)
    _sum_levels(theta, level_ranges, level_sum)
    for i in range(features.shape[0]):
        step = steps_before + i + 1
        alpha = learning_rates[i]
        # Predict.
        raw = theta[intercept]
        for j in range(n_numeric):
            raw += features[i, j] * theta[j]
        for c in range(n_categorical):
            j = codes[i, c]
            if j >= 0:
                raw += theta[j]
        if shifted:
            raw += offset[i]
        # Compare.
        row_weight = weight[i] if weighted else 1.0
        residual = row_weight / mean_weight * loss_derivative(target[i], raw)
        if i % LOSS_EVERY_ROWS == loss_phase:
            row_loss = row_weight * loss_value(target[i], raw)
            losses[0] += row_loss
            losses[1] += row_weight
            losses[2] += row_loss * row_loss
        # Update; the gradient of one row is residual * x.
        share = 4.0 / (step + 3.0)
        kept = 1.0 if l1 > 0.0 else 1.0 / (1.0 + alpha * l2)
        if averaging and l1 == 0.0:
            for j in range(n_numeric):
                theta[j] = (theta[j] - alpha * residual * features[i, j]) * kept
                average[j] += share * (theta[j] - average[j])
        else:
            for j in range(n_numeric):
                theta[j] = (theta[j] - alpha * residual * features[i, j]) * kept
            for j in range(n_numeric if l1 > 0.0 else 0):
                theta[j] = shrink(theta[j], alpha, l1, l2)
            for j in range(n_numeric if averaging else 0):
                average[j] += share * (theta[j] - average[j])
        for c in range(n_categorical):
            j = codes[i, c]
            if j >= 0:
                if averaging and clock[j] < step - 1:
                    average[j] = average_decay(np.float64(clock[j]), np.float64(step - 1), average[j], theta[j])
                base, n_levels, before = level_ranges[c, 0], level_ranges[c, 1] - level_ranges[c, 0], theta[j]
                theta[j] -= alpha * residual
                theta[j] = penalised(theta, j, alpha * (step - clock[j]), l1, l2, base, level_sum[c], n_levels)
                if j != base:
                    level_sum[c] += theta[j] - before
                if averaging:
                    average[j] += share * (theta[j] - average[j])
                clock[j] = step
                rate[j] = alpha
        theta[intercept] -= alpha * residual
        if averaging:
            average[intercept] += share * (theta[intercept] - average[intercept])
    last = steps_before + features.shape[0]
    for j in range(n_numeric):
        clock[j] = last
    clock[intercept] = last


@compiled(types.void(_f8[::1], _f8[::1], _i8[::1], _i8, _f8[::1]))
def averaged_theta(theta, average, clock, step, out):
    """The average brought up to ``step`` for every coordinate, written to ``out``."""
    for j in range(theta.shape[0]):
        out[j] = average[j]
        if clock[j] < step:
            out[j] = average_decay(np.float64(clock[j]), np.float64(step), average[j], theta[j])


@compiled(types.void(_f8[::1], _i8[::1], _f8[::1], _i8, _f8, _f8))
def pay_penalty(theta, clock, rate, step, l1, l2):
    """Shrink every coordinate but the intercept by the penalty of the steps since it was last touched."""
    for j in range(theta.shape[0] - 1):
        theta[j] = shrink(theta[j], rate[j] * (step - clock[j]), l1, l2)
