"""The entries of sparse columns (``data.blocks.Entries``) in the loops over rows; without any, nothing is done.

An entry that a row has twice counts twice, so its value there is the sum of both.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled
from streamgd.kernels.coordinates import list_each_once

#: Marks of coordinates by which those are found that a row may have twice.
MARK_BITS = 14

_f8, _i8, _i4 = types.float64, types.int64, types.int32
#: 2^64 over the golden ratio: the high bits of a product with it are spread evenly (Knuth, vol. 3, section 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def entries_signature(feature):
    """The types of ``starts``, ``coordinates`` and ``values``, with features of type ``feature``."""
    return _i8[::1], _i4[::1], feature[::1]


def _predict_signature(feature):
    return types.void(*entries_signature(feature), _i8, _f8[::1], _f8[::1])


@compiled([_predict_signature(types.float32), _predict_signature(_f8)])
def predict_entries(starts, coordinates, values, first, theta, raw):
    """Add ``value * theta[coordinate]`` of each row's entries to ``raw`` (n_rows,); entry e has its coordinate at
    ``coordinates[e - first]``.
    """
    for i in range(raw.shape[0] if starts.shape[0] > 0 else 0):
        total = 0.0
        if values.shape[0] > 0:
            for e in range(starts[i], starts[i + 1]):
                total += values[e] * theta[coordinates[e - first]]
        else:
            for e in range(starts[i], starts[i + 1]):
                total += theta[coordinates[e - first]]
        raw[i] += total


@compiled([_predict_signature(types.float32), _predict_signature(_f8)])
def add_gradient_of_entries(starts, coordinates, values, first, residual, gradient):
    """Add ``residual * value`` of each row's entries to the gradient of their coordinates, given as above."""
    for i in range(residual.shape[0] if starts.shape[0] > 0 else 0):
        slope = residual[i]
        if values.shape[0] > 0:
            for e in range(starts[i], starts[i + 1]):
                gradient[coordinates[e - first]] += slope * values[e]
        else:
            for e in range(starts[i], starts[i + 1]):
                gradient[coordinates[e - first]] += slope


def _products_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], *entries_signature(feature), _f8[::1], _f8[:, ::1])


@compiled([_products_signature(types.float32), _products_signature(_f8)])
def add_entry_products(features, codes, starts, coordinates, values, weight, products):
    """Add ``weight_i * x_i x_i'`` to ``products`` (n_dof, n_dof) where one factor at least is an entry.

    Only one of each pair of mirrored entries of the matrix is summed: see ``sums.mirror``.
    """
    n_numeric, last = features.shape[1], products.shape[0] - 1
    for i in range(features.shape[0]):
        for e in range(starts[i], starts[i + 1]):
            value = weight[i] * (values[e] if values.shape[0] > 0 else 1.0)
            row = products[coordinates[e]]
            for j in range(n_numeric):
                row[j] += value * features[i, j]
            for c in range(codes.shape[1]):
                if codes[i, c] >= 0:
                    row[codes[i, c]] += value
            row[last] += value
            for d in range(starts[i], starts[i + 1]):
                # Both orders of two entries come by: of two coordinates one is kept, of the same both.
                if coordinates[d] <= coordinates[e]:
                    row[coordinates[d]] += value * (values[d] if values.shape[0] > 0 else 1.0)


def _square_signature(feature):
    return _f8(_i8, _i8, _i4[::1], feature[::1])


@compiled([_square_signature(types.float32), _square_signature(_f8)])
def square_of_row(start, stop, coordinates, values):
    """The squared norm of the entries ``start … stop - 1``, the values of each coordinate added up in a hash table."""
    bits, square = 3, 0.0
    while 1 << bits < 2 * (stop - start):
        bits += 1
    coordinate_of, total = np.full(1 << bits, -1, np.int32), np.zeros(1 << bits)
    for e in range(start, stop):
        value, j = np.float64(values[e]) if values.shape[0] > 0 else 1.0, coordinates[e]
        at = np.int64((np.uint64(j) * _SPREAD) >> np.uint64(64 - bits))
        while coordinate_of[at] != -1 and coordinate_of[at] != j:
            at = (at + 1) & ((1 << bits) - 1)
        square += value * (value + 2.0 * total[at])
        coordinate_of[at] = j
        total[at] += value
    return square


def _squares_signature(feature):
    return types.void(*entries_signature(feature), _f8[::1])


@compiled([_squares_signature(types.float32), _squares_signature(_f8)])
def add_squares_of_rows(starts, coordinates, values, squares):
    """Add the sum of the squares of what each row has in its sparse columns to ``squares`` (n_rows,).

    Only in rows where two coordinates have the same mark, as those do that are the same, are values added up.
    """
    marked = np.zeros(1 << MARK_BITS, np.int64)
    for i in range(squares.shape[0]):
        square, repeated = 0.0, False
        for e in range(starts[i], starts[i + 1]):
            value = np.float64(values[e]) if values.shape[0] > 0 else 1.0
            mark = np.int64((np.uint64(coordinates[e]) * _SPREAD) >> np.uint64(64 - MARK_BITS))
            square += value * value
            repeated |= marked[mark] == i + 1
            marked[mark] = i + 1
        squares[i] += square_of_row(starts[i], starts[i + 1], coordinates, values) if repeated else square


# The entries of a mini-batch


@compiled(_i8(_i8[::1], _i8[::1]))
def most_entries(starts, bounds):
    """The largest number of entries of a mini-batch ``bounds[k]:bounds[k + 1]``."""
    most = 0
    for batch in range(bounds.shape[0] - 1 if starts.shape[0] > 0 else 0):
        most = max(most, starts[bounds[batch + 1]] - starts[bounds[batch]])
    return most


@compiled(_i8(_i8[::1], _i4[::1], _i8, _i8, _i8, _f8[:, ::1], _i4[::1], _i4[::1], _i4[::1]))
def meet_entries(starts, coordinates, start, stop, n_here, table, touched, place, met):
    """List the coordinates that occur in the entries of the rows ``start … stop - 1``, each once.

    As ``coordinates.meet_levels`` does for levels, after which it goes on at ``n_here``: written are ``touched``,
    ``place``, and ``met``, the place in ``touched`` of each entry's coordinate. Returns the end of the list.
    """
    if starts.shape[0] == 0:
        return n_here
    first, end = starts[start], starts[stop]
    for e in range(first, end):
        met[e - first] = coordinates[e]
    return list_each_once(met[: end - first], n_here, table, touched, place, -1)
