"""Plain stochastic gradient descent, one row at a time: predict, compare, gradient, update.

What each coordinate needs stands in the table of ``kernels.coordinates``.

Each step waits for the one before it: what takes time is not how much there is to compute, but how long it is from
one residual to the next. So the numeric part of the next row is predicted by theta as it is before the step, and what
the step changes of it is added when the residual is known: ``x_next' (theta - m x) = x_next' theta - m x_next' x``.
And the derivative of the loss is a part of the loop, not a function that it calls.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from streamgd.kernels.arrays import inner, zeros_in_lines
from streamgd.kernels.compile import compiled
from streamgd.kernels.coordinates import (
    AVERAGE,
    CLOCK,
    RATE,
    THETA,
    average_decay,
    base_penalised,
    raise_to_bound,
    shrink,
)
from streamgd.kernels.entries import entries_signature
from streamgd.kernels.prefetch import prefetch, prefetch_lines
from streamgd.kernels.stochastic import WATCHED_EVERY_ROWS

#: So many rows ahead a row is fetched, and so many ahead it is made float64: into a ring of twice as many.
FETCHED_AHEAD = 32
WIDENED_AHEAD = 4

#: Rows are filled up with zeros to a multiple of so many numbers.
ROW_STRIDE = 16

#: Wider rows are not predicted ahead: there the sums of products are what takes time, and that needs one more.
WIDEST_AHEAD = 128

_f8, _i8, _i4 = types.float64, types.int64, types.int32


def _predict_row_signature(feature):
    return _f8(*entries_signature(feature), _i8, _f8[:, ::1])


@compiled([_predict_row_signature(types.float32), _predict_row_signature(_f8)])
def predict_row(starts, entries, values, i, coordinates):
    """What the entries of row i add to its raw prediction; meanwhile the coordinates of the next row are fetched."""
    row_bytes, address = 8 * coordinates.shape[1], coordinates.ctypes.data
    for e in range(starts[i + 1], starts[min(i + 2, starts.shape[0] - 1)]):
        prefetch(address + np.int64(entries[e]) * row_bytes)
        prefetch(address + np.int64(entries[e]) * row_bytes + row_bytes - 8)
    raw = 0.0
    for e in range(starts[i], starts[i + 1]):
        raw += coordinates[entries[e], THETA] * (values[e] if values.shape[0] > 0 else 1.0)
    return raw


def _step_signature(feature):
    return types.boolean(
        *entries_signature(feature), _i8, _f8, _f8, _i8, _f8, _f8, types.boolean, _f8[:, ::1]
    )  # fmt: skip


@compiled([_step_signature(types.float32), _step_signature(_f8)])
def step_of_entries(starts, entries, values, i, move, alpha, step, l1, l2, averaging, coordinates):
    """The step of row i for the coordinates of its entries; returns whether each theta is finite.

    A coordinate that comes twice moves twice and then pays its penalty once. Between the two its clock c stands at
    ``-1 - c``.
    """
    share, finite = 4.0 / (step + 3.0), True
    for e in range(starts[i], starts[i + 1]):
        here = coordinates[entries[e]]
        if here[CLOCK] >= 0.0:
            if averaging and here[CLOCK] < step - 1:
                here[AVERAGE] = average_decay(here[CLOCK], step - 1.0, here[AVERAGE], here[THETA])
            here[CLOCK] = -1.0 - here[CLOCK]
        here[THETA] -= move * (values[e] if values.shape[0] > 0 else 1.0)
    for e in range(starts[i], starts[i + 1]):
        here = coordinates[entries[e]]
        if here[CLOCK] < 0.0:
            here[THETA] = shrink(here[THETA], alpha * (step + 1.0 + here[CLOCK]), l1, l2)
            if averaging:
                here[AVERAGE] += share * (here[THETA] - here[AVERAGE])
            here[CLOCK], here[RATE] = step, alpha
            finite &= np.isfinite(here[THETA])
    return finite


@compiled(types.boolean(_i4[:, ::1], _i8, _f8, _f8, _i8, _f8, _f8, types.boolean, _i8[:, ::1], _f8[::1], _f8[:, ::1]))
def step_of_levels(codes, i, move, alpha, step, l1, l2, averaging, level_ranges, level_sums, coordinates):
    """The step of row i for the coordinates of its levels; returns whether each theta is finite."""
    share, finite = 4.0 / (step + 3.0), True
    for c in range(codes.shape[1]):
        if codes[i, c] >= 0:
            level, base = coordinates[codes[i, c]], level_ranges[c, 0]
            before, owed = level[THETA], alpha * (step - level[CLOCK])
            if averaging and level[CLOCK] < step - 1:
                level[AVERAGE] = average_decay(level[CLOCK], step - 1.0, level[AVERAGE], before)
            moved = before - move
            if base < 0:
                level[THETA] = shrink(moved, owed, l1, l2)
            elif codes[i, c] == base:
                n_others = level_ranges[c, 1] - base - 1
                level[THETA] = base_penalised(moved, owed, l2, level_sums[c], n_others)
            else:
                centre = coordinates[base, THETA]
                level[THETA] = centre + shrink(moved - centre, owed, l1, l2)
                level_sums[c] += level[THETA] - before
            if averaging:
                level[AVERAGE] += share * (level[THETA] - level[AVERAGE])
            level[CLOCK], level[RATE] = step, alpha
            finite &= np.isfinite(level[THETA])
    return finite


def _widen_signature(feature):
    return types.void(feature[:, ::1], _i8, _f8[:, ::1])


@compiled([_widen_signature(types.float32), _widen_signature(_f8)])
def widen(features, i, ring):
    """Write row i, if there is one, to its place in ``ring`` (a power of two, >= n_numeric)."""
    if i < features.shape[0]:
        row = ring[i & (ring.shape[0] - 1)]
        for j in range(features.shape[1]):
            row[j] = features[i, j]


def _rows_signature(feature):
    return types.boolean(
        feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1], _f8[::1], _f8[::1], _i8, _f8,
        _f8, types.boolean, _f8[:, ::1], _i8[:, ::1], _f8[::1], _i8[::1], _f8[:, ::1], _f8[::1],
    )  # fmt: skip


@cache
def rows_loop(loss_derivative: Any, only_numbers: bool) -> Any:
    """The loop ``train_rows`` for a loss of ``objective.losses``, given its ``pointwise_gradient``.

    With ``only_numbers`` it has no part for levels and entries: beside them, the rest takes longer too.
    Numba's cache knows it by the name of the loss, and by the sources of that folder and this one.
    """

    def train_rows(
        features, codes, starts, entries, values, target, offset, learning_rates, step_sizes, steps_before, l1, l2,
        averaging, coordinates, level_ranges, level_sums, bounded, watched, loss_settings,
    ):  # fmt: skip
        """Plain stochastic gradient descent, one row at a time: ``theta := theta - alpha * residual * x``.

        The arguments are those of ``train_minibatches``, with one learning rate a row; in place of the weights there
        are ``step_sizes`` (n_rows,), the learning rate of each row times its weight over the mean weight.
        """
        n_rows, n_numeric, n_categorical = features.shape[0], features.shape[1], 0 if only_numbers else codes.shape[1]
        shifted, sparse, finite = offset.shape[0] > 0, not only_numbers and starts.shape[0] > 0, True
        phase, row_bytes = steps_before % WATCHED_EVERY_ROWS, n_numeric * features.itemsize
        kinked = l1 > 0.0 or bounded.shape[0] > 0
        ahead = not kinked and n_numeric <= WIDEST_AHEAD
        # Whole vectors of numbers, filled up with zeros: what is left over would take as long as the rest.
        width = -(-n_numeric // ROW_STRIDE) * ROW_STRIDE
        # Of wide rows, few fit the nearest cache.
        widened_ahead = WIDENED_AHEAD if n_numeric <= WIDEST_AHEAD else 1
        lines = zeros_in_lines(2 + 2 * widened_ahead, width)
        theta, average, ring = lines[0], lines[1], lines[2:]
        place_in_ring = ring.shape[0] - 1
        for j in range(n_numeric):
            theta[j], average[j] = coordinates[j, THETA], coordinates[j, AVERAGE]
        last = coordinates[coordinates.shape[0] - 1]
        intercept, average_intercept = last[THETA], last[AVERAGE]
        for i in range(widened_ahead):
            widen(features, i, ring)
        of_numbers = intercept + inner(ring[0], theta)
        for i in range(n_rows):
            step, alpha = steps_before + i + 1, learning_rates[i]
            fetched = features.ctypes.data + (i + FETCHED_AHEAD) * row_bytes
            prefetch_lines(fetched, fetched + row_bytes)
            widen(features, i + widened_ahead, ring)
            x, x_next = ring[i & place_in_ring], ring[(i + 1) & place_in_ring]
            # What the penalty leaves: below, a step would wait for it.
            kept = 1.0 if l1 > 0.0 else 1.0 / (1.0 + alpha * l2)
            # Predict.
            raw = of_numbers
            if sparse:
                raw += predict_row(starts, entries, values, i, coordinates)
            for c in range(n_categorical):
                if codes[i, c] >= 0:
                    raw += coordinates[codes[i, c], THETA]
            if shifted:
                raw += offset[i]
            of_next, overlap = 0.0, 0.0
            for j in range(width if ahead else 0):
                of_next += x_next[j] * theta[j]
                overlap += x_next[j] * x[j]
            of_next, overlap = intercept + kept * of_next, 1.0 + kept * overlap
            # Compare.
            residual = loss_derivative(target[i], raw, loss_settings)
            if i % WATCHED_EVERY_ROWS == phase:
                watched[0, i // WATCHED_EVERY_ROWS], watched[1, i // WATCHED_EVERY_ROWS] = target[i], raw
            # Update; the gradient of one row is residual * x.
            move = step_sizes[i] * residual
            of_numbers = of_next - move * overlap
            share = 4.0 / (step + 3.0) if averaging else 0.0
            # One loop, also where the average has to wait for the kinks: of two to choose from, both would be slower.
            share_at_once = 0.0 if kinked else share
            for j in range(width):
                theta[j] = (theta[j] - move * x[j]) * kept
                average[j] += share_at_once * (theta[j] - average[j])
            intercept -= move
            average_intercept += share * (intercept - average_intercept)
            if kinked:
                for j in range(n_numeric if l1 > 0.0 else 0):
                    theta[j] = shrink(theta[j], alpha, l1, l2)
                raise_to_bound(theta, bounded)
                for j in range(width if averaging else 0):
                    average[j] += share * (theta[j] - average[j])
            if not ahead:
                of_numbers = intercept
                for j in range(width):
                    of_numbers += x_next[j] * theta[j]
            if n_categorical > 0:
                finite &= step_of_levels(
                    codes, i, move, alpha, step, l1, l2, averaging, level_ranges, level_sums, coordinates
                )
            if sparse:
                finite &= step_of_entries(starts, entries, values, i, move, alpha, step, l1, l2, averaging, coordinates)
        clock = steps_before + n_rows
        for j in range(n_numeric):
            coordinates[j, THETA], coordinates[j, AVERAGE], coordinates[j, CLOCK] = theta[j], average[j], clock
            finite &= np.isfinite(theta[j])
        last[THETA], last[AVERAGE], last[CLOCK] = intercept, average_intercept, clock
        return finite & np.isfinite(intercept)

    # Each has a file of its own in the cache, which processes that compile others do not write.
    train_rows.__qualname__ += f"_{loss_derivative.__qualname__}" + ("_of_numbers" if only_numbers else "")
    return compiled([_rows_signature(types.float32), _rows_signature(_f8)])(train_rows)
