"""The softmax of several raw predictions a row: sums over rows, and stochastic gradient descent.

Everything is laid out class after class: raw predictions ``(n_classes, n_rows)``, theta ``(n_classes, n_dof)``, and one
table of coordinates for each class. So each class is predicted, summed and moved by the loops for one output, and only
the comparison sees all of them.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels import sums
from streamgd.kernels.arrays import copy, inner, sum_of
from streamgd.kernels.compile import UPDATE_FUNCTION, compiled
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
    renew,
    shrink,
)
from streamgd.kernels.entries import (
    add_gradient_of_entries,
    entries_signature,
    meet_entries,
    most_entries,
    predict_entries,
)
from streamgd.kernels.softmax import softmax, softmax_losses, softmax_residuals
from streamgd.kernels.stochastic import (
    TILE_ROWS,
    WATCHED_EVERY_ROWS,
    add_gradient_of_levels,
    gradient_of_tile,
    predict_levels,
    predict_tile,
)

_f8, _i8, _i4 = types.float64, types.int64, types.int32


# Sums over rows


def _sums_signature(feature):
    return types.UniTuple(_f8, 2)(
        feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1], _f8[:, ::1], _f8[:, ::1],
        _f8[:, ::1], _f8[:, ::1],
    )  # fmt: skip


@compiled([_sums_signature(types.float32), _sums_signature(_f8)])
def add_sums(
    features, codes, starts, coordinates, values, target, weight, theta, gradient, probabilities, residuals
):  # fmt: skip
    """Predict, compare, gradient, as ``sums.add_sums`` does for one output.

    Parameters
    ----------
    target, weight : float64, (n_rows,)
        Numbers of classes; weight may be empty: 1.
    theta, gradient : float64, (n_classes, n_dof)
        The gradient of the summed loss is added to ``gradient``, unless it has no rows.
    probabilities, residuals : float64, (n_classes, n_rows)
        Softmax of each row, and first derivatives of its loss; not written where they have no rows.

    Returns
    -------
    tuple of float
        The weighted sum of the losses, and the sum of the weights.
    """
    n_rows, n_classes, weighted = features.shape[0], theta.shape[0], weight.shape[0] > 0
    loss, sum_of_weights, no_offset = 0.0, 0.0, np.empty(0)
    raw, residual, out = np.empty((n_classes, sums.TILE_ROWS)), np.empty((n_classes, sums.TILE_ROWS)), np.empty(n_rows)
    for start in range(0, n_rows, sums.TILE_ROWS):
        stop = min(start + sums.TILE_ROWS, n_rows)
        count, entries_here = stop - start, starts[start : stop + 1]
        y_true, row_weight, losses = target[start:stop], weight[start:stop], out[:count]
        # Predict.
        for k in range(n_classes):
            sums.raw_prediction(
                features[start:stop], codes[start:stop], entries_here, coordinates, values, no_offset, theta[k],
                raw[k, :count],
            )  # fmt: skip
        # Compare.
        softmax_losses(y_true, raw, count, losses)
        loss += inner(row_weight, losses) if weighted else sum_of(losses)
        sum_of_weights += sum_of(row_weight) if weighted else count
        if gradient.shape[0] == 0:
            continue
        softmax(raw, count, residual)
        for k in range(probabilities.shape[0]):
            copy(residual[k, :count], probabilities[k, start:stop])
        for i in range(count):
            residual[np.int64(y_true[i]), i] -= 1.0
        for k in range(residuals.shape[0]):
            copy(residual[k, :count], residuals[k, start:stop])
        # Gradient.
        for k in range(n_classes):
            of_class = residual[k, :count]
            if weighted:
                of_class *= row_weight
            sums.add_gradient(
                features[start:stop], codes[start:stop], entries_here, coordinates, values, of_class, gradient[k]
            )
    return loss, sum_of_weights


# Stochastic gradient descent


def _minibatch_signature(feature):
    return types.boolean(
        feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1], _i8[::1], _f8[::1], _i8, _f8,
        _f8, _f8, types.boolean, types.boolean, _f8[:, :, ::1], _i8[:, ::1], _f8[:, ::1], _f8[:, ::1], _f8[::1],
        _f8[:, ::1], _i4[::1], _i4[::1], UPDATE_FUNCTION,
    )  # fmt: skip


@compiled([_minibatch_signature(types.float32), _minibatch_signature(_f8)])
def train_minibatches(
    features, codes, starts, entries, values, target, weight, bounds, learning_rates, steps_before, mean_weight, l1, l2,
    averaging, anew, coordinates, level_ranges, level_sums, rotation, settings, watched, place, touched, update,
):  # fmt: skip
    """``stochastic.train_minibatches`` for the softmax: the update of each class by its own table of coordinates.

    Parameters
    ----------
    target : float64, (n_rows,)
        Numbers of classes.
    coordinates : float64, (n_classes, n_dof, SLOTS + n_slots)
    level_sums : float64, (n_classes, n_categorical)
    watched : float64, (1 + n_classes, n_watched)
    others
        As there.

    Returns
    -------
    bool
        Whether every theta that was put back is finite.
    """
    n_classes, n_dof, n_columns = coordinates.shape
    n_numeric, n_categorical = features.shape[1], codes.shape[1]
    intercept, largest_batch = n_dof - 1, 0
    for batch in range(bounds.shape[0] - 1):
        largest_batch = max(largest_batch, bounds[batch + 1] - bounds[batch])
    most_here = touched.shape[0] - 1
    here, gradient = np.zeros((n_classes, n_columns, most_here + 1)), np.zeros((n_classes, most_here + 1))
    free = np.empty(most_here + 1 if anew else 0)
    column_starts, sums_before = np.empty(n_categorical + 1, np.int64), np.zeros(n_categorical)
    levels = np.empty((n_categorical, largest_batch), np.int32)
    met = np.empty(most_entries(starts, bounds), np.int32)
    for j in range(n_numeric):
        touched[j] = j
    for k in range(n_classes):
        gather(coordinates[k], touched, 0, n_numeric, here[k])

    coefficients, theta_numeric = np.empty(n_numeric), np.empty((n_classes, n_numeric), features.dtype)
    tile_gradient, gradient_numeric = np.empty(n_numeric, features.dtype), np.empty((n_classes, n_numeric))
    raw, residual = np.empty((n_classes, TILE_ROWS)), np.empty((n_classes, TILE_ROWS))
    weighted, rotated, finite = weight.shape[0] > 0, rotation.shape[0] > 0, True
    phase = steps_before % WATCHED_EVERY_ROWS
    l2_numeric = np.full(n_numeric, l2)
    if rotated:
        for j in range(n_numeric):
            l2_numeric[j] = l2 * inner(rotation[j], rotation[j])

    for batch in range(bounds.shape[0] - 1):
        step, start, stop = steps_before + batch + 1, bounds[batch], bounds[batch + 1]
        end_of_levels = meet_levels(
            codes, start, stop, n_numeric, coordinates[0], touched, place, most_here, levels, column_starts
        )
        end_of_entries = meet_entries(starts, entries, start, stop, end_of_levels, coordinates[0], touched, place, met)
        first_entry = starts[start] if starts.shape[0] > 0 else 0
        touched[end_of_entries] = intercept
        n_here = end_of_entries + 1
        for k in range(n_classes):
            gather(coordinates[k], touched, n_numeric, n_here, here[k])
            gradient[k, n_numeric:n_here] = 0.0
            gradient_numeric[k] = 0.0
            theta, clock, rate = here[k, THETA], here[k, CLOCK], here[k, RATE]
            if averaging and step > 1:
                levels_here = slice(n_numeric, n_here)
                bring_average_up(theta[levels_here], here[k, AVERAGE][levels_here], clock[levels_here], step - 1.0)
            if anew:
                taken, l2_here = here[k, SLOTS], np.full(end_of_entries, l2)
                copy(l2_numeric, l2_here)
                renew(theta[:end_of_entries], rate[:end_of_entries], taken[:end_of_entries], step - 1.0, l1, l2_here)
            copy(theta[:n_numeric], coefficients)
            if rotated:
                coefficients[:] = 0.0
            for m in range(n_numeric if rotated else 0):
                for j in range(n_numeric):
                    coefficients[j] += rotation[m, j] * theta[m]
            for j in range(n_numeric):
                theta_numeric[k, j] = coefficients[j]

        for first in range(start, stop, TILE_ROWS):
            count = min(TILE_ROWS, stop - first)
            entries_here = starts[first : first + count + 1]
            # Predict.
            for k in range(n_classes):
                theta = here[k, THETA]
                predict_tile(features, first, count, theta_numeric[k], theta[end_of_entries], raw[k, :count])
                predict_levels(levels, first - start, theta, raw[k, :count])
                predict_entries(entries_here, met, values, first_entry, theta, raw[k, :count])
            # Compare.
            softmax_residuals(target[first : first + count], raw, count, residual)
            for i in range(first + (phase - first) % WATCHED_EVERY_ROWS, first + count, WATCHED_EVERY_ROWS):
                watched[0, i // WATCHED_EVERY_ROWS] = target[i]
                for k in range(n_classes):
                    watched[1 + k, i // WATCHED_EVERY_ROWS] = raw[k, i - first]
            # Gradient.
            for k in range(n_classes):
                of_class = residual[k, :count]
                for i in range(count if weighted else 0):
                    of_class[i] *= weight[first + i]
                gradient_of_tile(features, first, count, of_class, tile_gradient)
                for j in range(n_numeric):
                    gradient_numeric[k, j] += tile_gradient[j]
                add_gradient_of_levels(levels, first - start, of_class, gradient[k])
                add_gradient_of_entries(entries_here, met, values, first_entry, of_class, gradient[k])
                gradient[k, end_of_entries] += sum_of(of_class)

        divisor = 1.0 / ((stop - start) * mean_weight)
        for k in range(n_classes):
            table, slope = here[k], gradient[k]
            theta, average, clock, rate, slots = table[THETA], table[AVERAGE], table[CLOCK], table[RATE], table[SLOTS:]
            for j in range(n_numeric):
                slope[j] = gradient_numeric[k, j]
                if rotated:
                    slope[j] = inner(rotation[j], gradient_numeric[k])
            for j in range(n_here):
                slope[j] *= divisor
            # Update.
            for c in range(n_categorical):
                sums_before[c] = sum_of(theta[column_starts[c] : column_starts[c + 1]])
            update(theta[:n_here], slope[:n_here], slots, rate[:n_here], settings, learning_rates[batch], step)
            if anew:
                clock[:n_here] = 0.0
                copy(theta[:n_here], free)
            for j in range(n_numeric):
                theta[j] = shrink(theta[j], rate[j] * (step - clock[j]), l1, l2_numeric[j])
            penalise_levels(
                coordinates[k], table, touched, place, column_starts, sums_before, level_ranges, level_sums[k], step,
                l1, l2,
            )  # fmt: skip
            in_entries = slice(end_of_levels, end_of_entries)
            penalise(theta[in_entries], clock[in_entries], rate[in_entries], step, l1, l2)
            if anew:
                note_penalty(free[:end_of_entries], theta[:end_of_entries], rate[:end_of_entries], slots[0])
            if averaging:
                share = 4.0 / (step + 3.0)
                for j in range(n_here):
                    average[j] += share * (theta[j] - average[j])
            clock[:n_here] = step
            finite &= put_back(coordinates[k], touched, n_numeric, n_here, table)
    for k in range(n_classes):
        finite &= put_back(coordinates[k], touched, 0, n_numeric, here[k])
    return finite
