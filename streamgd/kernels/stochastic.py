"""Stochastic gradient descent over the rows of one block: predict, compare, gradient, update.

What each coordinate needs stands in the table of ``kernels.coordinates``.

The base level of a categorical column may have a row of its own, the first of the column's ``level_ranges``. The
objective depends on the differences to it alone, so this changes no optimum; but the steps that would move all other
levels against the intercept become one. The penalty then pulls each level towards its base level.

Numeric coordinates may be rotated: with ``rotation`` R, theta holds phi and the coefficients of the features are
``R' phi``. With R = L^-1/2 V' from the eigenvalues L and eigenvectors V of the features' second moments, steps that
treat each coordinate by itself no longer crawl along correlated columns. The objective is the same: since V is
orthogonal, the l2 penalty of phi is still one of each coordinate, times the squared norm of its row of R.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.arrays import copy, inner, sum_of
from streamgd.kernels.compile import ROWS_FUNCTION, UPDATE_FUNCTION, compiled
from streamgd.kernels.coordinates import (
    AVERAGE,
    CLOCK,
    RATE,
    SLOTS,
    THETA,
    bring_average_up,
    gather,
    meet_levels,
    note_penalty,
    penalise,
    penalise_levels,
    put_back,
    raise_to_bound,
    renew,
    shrink,
    take_bound,
)
from streamgd.kernels.entries import (
    add_gradient_of_entries,
    entries_signature,
    meet_entries,
    most_entries,
    predict_entries,
)
from streamgd.kernels.prefetch import prefetch_lines

#: Every n-th row is watched, others in each epoch: a log and an exp for the loss of each would cost as much as a step.
WATCHED_EVERY_ROWS = 8

#: Rows that are predicted, compared and summed together: few enough to stay in the nearest cache. Their products are
#: summed in the type of the features, the tiles in float64.
TILE_ROWS = 256

_f8, _i8, _i4 = types.float64, types.int64, types.int32


# Predict


def _dot_signature(feature):
    return types.void(feature[:, ::1], _i8, _i8, feature[::1], _f8, _f8[::1])


@compiled([_dot_signature(types.float32), _dot_signature(_f8)])
def predict_tile(features, first, count, theta_numeric, intercept, raw):
    """``raw[:count]`` = intercept and numeric part of the rows from ``first`` on; four rows at a time.

    These rows are in the cache already: meanwhile the first half of the next tile is fetched, and the rest by
    :func:`gradient_of_tile`.
    """
    zero, half_row_bytes = theta_numeric.dtype.type(0.0), features.shape[1] * features.itemsize // 2
    next_half = features.ctypes.data + 2 * (first + count) * half_row_bytes
    by_four = count - count % 4
    for i in range(0, by_four, 4):
        row = first + i
        prefetch_lines(next_half + i * half_row_bytes, next_half + (i + 4) * half_row_bytes)
        a, b, c, d = zero, zero, zero, zero
        for j in range(features.shape[1]):
            a += features[row, j] * theta_numeric[j]
            b += features[row + 1, j] * theta_numeric[j]
            c += features[row + 2, j] * theta_numeric[j]
            d += features[row + 3, j] * theta_numeric[j]
        raw[i], raw[i + 1], raw[i + 2], raw[i + 3] = intercept + a, intercept + b, intercept + c, intercept + d
    for i in range(by_four, count):
        a = zero
        for j in range(features.shape[1]):
            a += features[first + i, j] * theta_numeric[j]
        raw[i] = intercept + a


@compiled(types.void(_i4[:, ::1], _i8, _f8[::1], _f8[::1]))
def predict_levels(levels, first, theta, raw):
    for c in range(levels.shape[0]):
        for i in range(raw.shape[0]):
            raw[i] += theta[levels[c, first + i]]


# Gradient


def _gradient_signature(feature):
    return types.void(feature[:, ::1], _i8, _i8, _f8[::1], feature[::1])


@compiled([_gradient_signature(types.float32), _gradient_signature(_f8)])
def gradient_of_tile(features, first, count, residual, gradient):
    """``gradient[:]`` = residual times features, summed over the rows from ``first`` on; four rows at a time.

    Meanwhile the second half of the next tile is fetched.
    """
    n_numeric = features.shape[1]
    half_row_bytes = n_numeric * features.itemsize // 2
    next_half = features.ctypes.data + (2 * first + 3 * count) * half_row_bytes
    gradient[:] = 0.0
    of_type = gradient.dtype.type
    by_four = count - count % 4
    for i in range(0, by_four, 4):
        a, b, c, d = of_type(residual[i]), of_type(residual[i + 1]), of_type(residual[i + 2]), of_type(residual[i + 3])
        row = first + i
        prefetch_lines(next_half + i * half_row_bytes, next_half + (i + 4) * half_row_bytes)
        for j in range(n_numeric):
            gradient[j] += (
                a * features[row, j] + b * features[row + 1, j] + c * features[row + 2, j] + d * features[row + 3, j]
            )
    for i in range(by_four, count):
        a = of_type(residual[i])
        for j in range(n_numeric):
            gradient[j] += a * features[first + i, j]


@compiled(types.void(_i4[:, ::1], _i8, _f8[::1], _f8[::1]))
def add_gradient_of_levels(levels, first, residual, gradient):
    for c in range(levels.shape[0]):
        for i in range(residual.shape[0]):
            gradient[levels[c, first + i]] += residual[i]


def _minibatch_signature(feature):
    return types.boolean(
        feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1], _f8[::1], _i8[::1], _f8[::1],
        _i8, _f8, _f8, _f8, types.boolean, types.boolean, _f8[:, ::1], _i8[:, ::1], _f8[::1], _i8[::1], _f8[:, ::1],
        _f8[::1], _f8[:, ::1], _i4[::1], _i4[::1], _f8[::1], ROWS_FUNCTION, UPDATE_FUNCTION,
    )  # fmt: skip


@compiled([_minibatch_signature(types.float32), _minibatch_signature(_f8)])
def train_minibatches(
    features, codes, starts, entries, values, target, weight, offset, bounds, learning_rates, steps_before,
    mean_weight, l1, l2, averaging, anew, coordinates, level_ranges, level_sums, bounded, rotation, settings, watched,
    place, touched, loss_settings, residuals_of_rows, update,
):  # fmt: skip
    """One update of theta for each mini-batch ``bounds[k]:bounds[k + 1]`` of a block.

    Parameters
    ----------
    features : float32 or float64, (n_rows, n_numeric)
    codes : int32, (n_rows, n_categorical)
        Row of theta of each level, -1 for the base level.
    starts, entries, values
        Those of ``data.blocks.Entries``; without sparse columns, empty.
    target, weight, offset : float64, (n_rows,)
        Weight and offset may be empty: 1 and 0.
    bounds : int64, (n_batches + 1,)
    learning_rates : float64, (n_batches,)
    steps_before : int
        Steps taken so far; the first mini-batch is step ``steps_before + 1``.
    mean_weight : float
        Mean weight of a training row, by which gradients are divided.
    anew : bool
        Whether each step takes the penalty of all steps anew, see ``StochasticOptimizer.takes_penalty_anew``; no base
        level has a row then.
    coordinates : float64, (n_dof, SLOTS + n_slots)
        Theta, its average and so on, see ``THETA``; changed in place. RATE is the rate of a coordinate when it was last
        touched, by which it owes the penalty of missed steps.
    level_ranges : int64, (n_categorical, 2)
        First row and end of each categorical column whose base level has a row, -1 of others; l1 must then be 0.
    level_sums : float64, (n_categorical,)
        See ``sum_levels``; changed in place.
    bounded : int64, any length
        Numeric coordinates that are held at zero or above; with some, nothing may be rotated.
    rotation : float64, (n_numeric, n_numeric) or (0, 0)
        Rows are the numeric coordinates of theta in terms of the features; l1 must then be 0.
    watched : float64, (2, n_watched)
        Written: target and raw prediction before the update of every n-th row, n = ``WATCHED_EVERY_ROWS``, from row
        ``steps_before % n`` on.
    settings, loss_settings : float64, (n_settings,)
        Of the optimizer and of the loss.
    place, touched : int32, (n_dof,) and (most_touched(n_dof, n_numeric, …, of a mini-batch),)
        Memory to work with, zeros at first, that is used again for the next block.

    Returns
    -------
    bool
        Whether every theta that was put back is finite.
    """
    n_numeric, n_categorical, n_dof = features.shape[1], codes.shape[1], coordinates.shape[0]
    intercept, largest_batch = n_dof - 1, 0
    for batch in range(bounds.shape[0] - 1):
        largest_batch = max(largest_batch, bounds[batch + 1] - bounds[batch])
    most_here = touched.shape[0] - 1
    # One more for the code -1: its theta is 0, its gradient is not used.
    here, gradient = np.zeros((coordinates.shape[1], most_here + 1)), np.zeros(most_here + 1)
    free = np.empty(most_here + 1 if anew else 0)
    theta, average, clock, rate, slots = here[THETA], here[AVERAGE], here[CLOCK], here[RATE], here[SLOTS:]
    column_starts, sums_before = np.empty(n_categorical + 1, np.int64), np.zeros(n_categorical)
    levels = np.empty((n_categorical, largest_batch), np.int32)
    met = np.empty(most_entries(starts, bounds), np.int32)
    for j in range(n_numeric):
        touched[j] = j
    # Every mini-batch touches the numeric coordinates: they stay here.
    gather(coordinates, touched, 0, n_numeric, here)

    coefficients, theta_numeric = np.empty(n_numeric), np.empty(n_numeric, features.dtype)
    tile_gradient, gradient_numeric = np.empty(n_numeric, features.dtype), np.empty(n_numeric)
    raw_of_tile, residual_of_tile = np.empty(TILE_ROWS), np.empty(TILE_ROWS)
    weighted, rotated, sparse, finite = weight.shape[0] > 0, rotation.shape[0] > 0, starts.shape[0] > 0, True
    phase = steps_before % WATCHED_EVERY_ROWS
    l2_numeric = np.full(n_numeric, l2)
    if rotated:
        for k in range(n_numeric):
            l2_numeric[k] = l2 * inner(rotation[k], rotation[k])

    for batch in range(bounds.shape[0] - 1):
        step, start, stop = steps_before + batch + 1, bounds[batch], bounds[batch + 1]
        end_of_levels = meet_levels(
            codes, start, stop, n_numeric, coordinates, touched, place, most_here, levels, column_starts
        )
        end_of_entries, first_entry = end_of_levels, starts[start] if sparse else 0
        if sparse:
            end_of_entries = meet_entries(starts, entries, start, stop, end_of_levels, coordinates, touched, place, met)
        touched[end_of_entries] = intercept
        n_here = end_of_entries + 1
        gather(coordinates, touched, n_numeric, n_here, here)
        gradient[n_numeric:n_here] = 0.0
        if averaging and step > 1:
            levels_here = slice(n_numeric, n_here)
            bring_average_up(theta[levels_here], average[levels_here], clock[levels_here], step - 1.0)
        if anew:
            taken, l2_here = slots[0], np.full(end_of_entries, l2)
            copy(l2_numeric, l2_here)
            renew(theta[:end_of_entries], rate[:end_of_entries], taken[:end_of_entries], step - 1.0, l1, l2_here)
            take_bound(theta, rate, taken, bounded)

        copy(theta[:n_numeric], coefficients)
        if rotated:
            coefficients[:] = 0.0
        for k in range(n_numeric if rotated else 0):
            theta_k = theta[k]
            for j in range(n_numeric):
                coefficients[j] += rotation[k, j] * theta_k
        for j in range(n_numeric):
            theta_numeric[j] = coefficients[j]
            gradient_numeric[j] = 0.0

        for first in range(start, stop, TILE_ROWS):
            count = min(TILE_ROWS, stop - first)
            raw, residual = raw_of_tile[:count], residual_of_tile[:count]
            # Predict.
            predict_tile(features, first, count, theta_numeric, theta[end_of_entries], raw)
            predict_levels(levels, first - start, theta, raw)
            if sparse:
                predict_entries(starts[first : first + count + 1], met, values, first_entry, theta, raw)
            for i in range(count if offset.shape[0] > 0 else 0):
                raw[i] += offset[first + i]
            # Compare.
            residuals_of_rows(target[first : first + count], raw, loss_settings, residual)
            for i in range(count if weighted else 0):
                residual[i] *= weight[first + i]
            for i in range(first + (phase - first) % WATCHED_EVERY_ROWS, first + count, WATCHED_EVERY_ROWS):
                watched[0, i // WATCHED_EVERY_ROWS], watched[1, i // WATCHED_EVERY_ROWS] = target[i], raw[i - first]
            # Gradient.
            gradient_of_tile(features, first, count, residual, tile_gradient)
            for j in range(n_numeric):
                gradient_numeric[j] += tile_gradient[j]
            add_gradient_of_levels(levels, first - start, residual, gradient)
            if sparse:
                entries_here = starts[first : first + count + 1]
                add_gradient_of_entries(entries_here, met, values, first_entry, residual, gradient)
            gradient[end_of_entries] += sum_of(residual)

        divisor = 1.0 / ((stop - start) * mean_weight)
        for j in range(n_numeric):
            gradient[j] = inner(rotation[j], gradient_numeric) if rotated else gradient_numeric[j]
        for k in range(n_here):
            gradient[k] *= divisor

        # Update.
        for c in range(n_categorical):
            sums_before[c] = sum_of(theta[column_starts[c] : column_starts[c + 1]])
        update(theta[:n_here], gradient[:n_here], slots, rate[:n_here], settings, learning_rates[batch], step)
        if anew:
            clock[:n_here] = 0.0
            copy(theta[:n_here], free)
        for j in range(n_numeric):
            theta[j] = shrink(theta[j], rate[j] * (step - clock[j]), l1, l2_numeric[j])
        penalise_levels(
            coordinates, here, touched, place, column_starts, sums_before, level_ranges, level_sums, step, l1, l2
        )
        if sparse:
            in_entries = slice(end_of_levels, end_of_entries)
            penalise(theta[in_entries], clock[in_entries], rate[in_entries], step, l1, l2)
        raise_to_bound(theta, bounded)
        if anew:
            note_penalty(free[:end_of_entries], theta[:end_of_entries], rate[:end_of_entries], slots[0])
        if averaging:
            share = 4.0 / (step + 3.0)
            for k in range(n_here):
                average[k] += share * (theta[k] - average[k])
        clock[:n_here] = step
        finite &= put_back(coordinates, touched, n_numeric, n_here, here)
    return finite & put_back(coordinates, touched, 0, n_numeric, here)
