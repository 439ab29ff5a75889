"""Raw predictions of rows, and loss, gradient and outer products summed over them."""

from __future__ import annotations

import math

import numpy as np
from numba import types

from streamgd.kernels.arrays import inner, sum_of
from streamgd.kernels.compile import ROWS_FUNCTION, compiled
from streamgd.kernels.entries import (
    add_gradient_of_entries,
    add_squares_of_rows,
    entries_signature,
    predict_entries,
)

#: Rows that are predicted, compared and summed together: few enough to stay in the nearest cache between the three.
#: Fixed, so that the bits of a sum depend on nothing but the block.
TILE_ROWS = 256
#: Columns whose products are summed together: with so many rows they are half of the nearest cache.
BAND_COLUMNS = 12

_f8, _i8, _i4 = types.float64, types.int64, types.int32


def _predict_signature(feature):
    return types.void(
        feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1], _f8[::1]
    )  # fmt: skip


@compiled([_predict_signature(types.float32), _predict_signature(_f8)])
def raw_prediction(features, codes, starts, coordinates, values, offset, theta, raw):
    """``raw = X @ theta + offset``, written to ``raw`` (n_rows,); ``offset`` may be empty.

    ``starts``, ``coordinates`` and ``values`` are those of ``data.blocks.Entries``; without sparse columns, empty.
    """
    n_numeric = features.shape[1]
    for i in range(features.shape[0]):
        dot = theta[theta.shape[0] - 1]
        for j in range(n_numeric):
            dot += features[i, j] * theta[j]
        raw[i] = dot
    for i in range(features.shape[0] if codes.shape[1] > 0 else 0):
        for c in range(codes.shape[1]):
            j = codes[i, c]
            if j >= 0:
                raw[i] += theta[j]
    predict_entries(starts, coordinates, values, 0, theta, raw)
    for i in range(offset.shape[0]):
        raw[i] += offset[i]


def _gradient_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1])


@compiled([_gradient_signature(types.float32), _gradient_signature(_f8)])
def add_gradient(features, codes, starts, coordinates, values, residual, gradient):
    """``gradient += X' @ residual``: residual (n_rows,), gradient (n_dof,); four rows of features at a time."""
    n_rows, n_numeric = features.shape
    by_four = n_rows - n_rows % 4
    for i in range(0, by_four, 4):
        a, b, c, d = residual[i], residual[i + 1], residual[i + 2], residual[i + 3]
        for j in range(n_numeric):
            gradient[j] += a * features[i, j] + b * features[i + 1, j] + c * features[i + 2, j] + d * features[i + 3, j]
    for i in range(by_four, n_rows):
        for j in range(n_numeric):
            gradient[j] += residual[i] * features[i, j]
    for i in range(n_rows if codes.shape[1] > 0 else 0):
        for c in range(codes.shape[1]):
            j = codes[i, c]
            if j >= 0:
                gradient[j] += residual[i]
    add_gradient_of_entries(starts, coordinates, values, 0, residual, gradient)
    gradient[gradient.shape[0] - 1] += sum_of(residual)


def _sums_signature(feature):
    return types.UniTuple(_f8, 2)(
        feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1],
        ROWS_FUNCTION, ROWS_FUNCTION, ROWS_FUNCTION, _f8[::1], _f8[::1], _f8[::1],
    )  # fmt: skip


@compiled([_sums_signature(types.float32), _sums_signature(_f8)])
def add_sums(
    features, codes, starts, coordinates, values, target, weight, offset, theta, settings, losses_of_rows,
    residuals_of_rows, curvatures_of_rows, gradient, curvature, squares,
):  # fmt: skip
    """Predict, compare, gradient: one call for all rows of a block, so that no thread waits for Python in between.

    Parameters
    ----------
    starts, coordinates, values
        Those of ``data.blocks.Entries``; without sparse columns, empty.
    weight, offset : float64, (n_rows,) or (0,)
        Empty: 1 and 0.
    settings : float64, (n_settings,)
        Of the loss.
    gradient : float64, (n_dof,) or (0,)
        The gradient of the summed loss is added to it, unless it is empty.
    curvature, squares : float64, (n_rows,) or (0,)
        Second derivative of each row's loss by its raw prediction, and square of the first, both weighted; not written
        where they are empty.

    Returns
    -------
    tuple of float
        The weighted sum of the losses, and the sum of the weights.
    """
    n_rows, weighted = features.shape[0], weight.shape[0] > 0
    loss, sum_of_weights = 0.0, 0.0
    raw_of_tile, out_of_tile = np.empty(TILE_ROWS), np.empty(TILE_ROWS)
    for start in range(0, n_rows, TILE_ROWS):
        stop = min(start + TILE_ROWS, n_rows)
        raw, out = raw_of_tile[: stop - start], out_of_tile[: stop - start]
        # Predict.
        entries_here = starts[start : stop + 1]
        raw_prediction(
            features[start:stop], codes[start:stop], entries_here, coordinates, values, offset[start:stop], theta, raw
        )
        # Compare.
        y_true, row_weight = target[start:stop], weight[start:stop]
        losses_of_rows(y_true, raw, settings, out)
        loss += inner(row_weight, out) if weighted else sum_of(out)
        sum_of_weights += sum_of(row_weight) if weighted else stop - start
        if curvature.shape[0] > 0:
            here = curvature[start:stop]
            curvatures_of_rows(y_true, raw, settings, here)
            if weighted:
                here *= row_weight
        if gradient.shape[0] == 0:
            continue
        residuals_of_rows(y_true, raw, settings, out)
        if squares.shape[0] > 0:
            here = squares[start:stop]
            for i in range(stop - start):
                here[i] = out[i] * out[i]
            if weighted:
                here *= row_weight
        if weighted:
            out *= row_weight
        # Gradient.
        add_gradient(features[start:stop], codes[start:stop], entries_here, coordinates, values, out, gradient)
    return loss, sum_of_weights


def _numeric_products_signature(feature):
    return types.void(feature[:, ::1], _f8[::1], _f8[:, ::1])


@compiled([_numeric_products_signature(types.float32), _numeric_products_signature(_f8)])
def add_numeric_products(features, weight, products):
    """Add ``weight_i * x_i x_i'`` to ``products`` (n_numeric + 1, n_numeric + 1), x with a 1 as its last entry.

    Rows are turned into columns, a tile at a time, so that each entry is a product of two vectors; eight entries are
    summed together, of a band of columns that stays in the nearest cache.
    """
    n_rows, n_numeric = features.shape
    width = -(-(n_numeric + 1) // 4) * 4
    columns, roots, total = np.zeros((width, TILE_ROWS)), np.empty(TILE_ROWS), np.zeros((width, width))
    for start in range(0, n_rows, TILE_ROWS):
        count = min(TILE_ROWS, n_rows - start)
        if count < TILE_ROWS:
            columns[:, count:] = 0.0
        for i in range(count):
            roots[i] = math.sqrt(weight[start + i])
            columns[n_numeric, i] = roots[i]
        by_eight = count - count % 8
        for first in range(0, by_eight, 8):
            for j in range(n_numeric):
                for i in range(first, first + 8):
                    columns[j, i] = roots[i] * features[start + i, j]
        for i in range(by_eight, count):
            for j in range(n_numeric):
                columns[j, i] = roots[i] * features[start + i, j]
        for band in range(0, width, BAND_COLUMNS):
            end = min(band + BAND_COLUMNS, width)
            for j in range(0, end, 2):
                for k in range(max(band, j // 4 * 4), end, 4):
                    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                    for i in range(TILE_ROWS):
                        x, y = columns[j, i], columns[j + 1, i]
                        p, q, r, s = columns[k, i], columns[k + 1, i], columns[k + 2, i], columns[k + 3, i]
                        a += x * p
                        b += x * q
                        c += x * r
                        d += x * s
                        e += y * p
                        f += y * q
                        g += y * r
                        h += y * s
                    into, below = total[j, k : k + 4], total[j + 1, k : k + 4]
                    into[0], into[1], into[2], into[3] = into[0] + a, into[1] + b, into[2] + c, into[3] + d
                    below[0], below[1], below[2], below[3] = below[0] + e, below[1] + f, below[2] + g, below[3] + h
    for j in range(n_numeric + 1):
        for k in range(n_numeric + 1):
            products[j, k] += total[min(j, k), max(j, k)]


def _products_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[:, ::1])


@compiled([_products_signature(types.float32), _products_signature(_f8)])
def add_code_products(features, codes, weight, products):
    """Add ``weight_i * x_i x_i'`` to ``products`` (n_dof, n_dof) where one factor at least is a level's 1.

    Only one of each pair of mirrored entries is summed, the one that lies best in memory: see ``mirror``.
    """
    n_numeric, last = features.shape[1], products.shape[0] - 1
    for i in range(features.shape[0]):
        w = weight[i]
        for c in range(codes.shape[1]):
            row = codes[i, c]
            if row >= 0:
                for j in range(n_numeric):
                    products[row, j] += w * features[i, j]
                products[row, last] += w
                products[row, row] += w
                for d in range(c):
                    other = codes[i, d]
                    if other >= 0:
                        products[row, other] += w


@compiled(types.void(_f8[:, ::1], _i8))
def mirror(products, n_numeric):
    """Give what ``add_code_products`` and ``add_entry_products`` left out the value of what mirrors it."""
    last = products.shape[0] - 1
    for row in range(n_numeric, last):
        for other in range(row):
            products[other, row] = products[row, other]
        products[last, row] = products[row, last]


def _norm_signature(feature):
    return _f8(feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1])


@compiled([_norm_signature(types.float32), _norm_signature(_f8)])
def largest_row_norm(features, codes, starts, coordinates, values, weight):
    """The largest squared norm of a row, with a 1 for the intercept, times its weight; 0 without rows."""
    weighted, sparse, largest = weight.shape[0] > 0, starts.shape[0] > 0, 0.0
    of_entries = np.zeros(features.shape[0] if sparse else 0)
    if sparse:
        add_squares_of_rows(starts, coordinates, values, of_entries)
    for i in range(features.shape[0]):
        square = 1.0
        for j in range(features.shape[1]):
            square += np.float64(features[i, j]) * features[i, j]
        for c in range(codes.shape[1]):
            square += 1.0 if codes[i, c] >= 0 else 0.0
        if sparse:
            square += of_entries[i]
        if weighted:
            square *= weight[i]
        largest = max(largest, square)
    return largest
