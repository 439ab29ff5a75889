"""Moments of columns by tiles of rows: total weight, mean, and sum of squared deviations from it.

How tiles are merged decides bits. One after another they depend on where the first one begins; as a tree over the
numbers of the tiles (:func:`merge_neighbours`) they depend on nothing else.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.arrays import copy, sum_of
from streamgd.kernels.compile import compiled

#: Most rows of a tile: a column of them stays in the processor's cache.
TILE_ROWS = 256

#: Of the bits of a float64, those of its magnitude; and infinity, above which are those of NaN.
MAGNITUDE_BITS = np.int64(0x7FFFFFFFFFFFFFFF)
INFINITY_BITS = np.int64(0x7FF0000000000000)

_f8, _i8 = types.float64, types.int64
#: float64, and may be of memory that is not to be written, as Arrow's is.
NUMBERS_TO_READ = types.Array(_f8, 1, "C", readonly=True)


@compiled(_i8(_i8[::1]))
def largest_magnitude_bits(bits):
    """The largest magnitude of float64 by their ``bits``, and as bits itself.

    As integers, magnitudes have the same order, with NaN after infinity. Numbers that may be NaN would be compared one
    at a time only.
    """
    largest = np.int64(0)
    for i in range(bits.shape[0]):
        largest = max(largest, bits[i] & MAGNITUDE_BITS)
    return largest


@compiled(types.Tuple((_f8, _f8))(_f8[::1], _f8[::1], _f8))
def _mean_and_squares(values, weight, total):
    """Weighted mean and sum of squared deviations; not finite where a value is not."""
    weighted = 0.0
    for i in range(values.shape[0]):
        weighted += weight[i] * values[i]
    mean = weighted / total if total > 0.0 else weighted
    squares = 0.0
    for i in range(values.shape[0]):
        deviation = values[i] - mean
        squares += weight[i] * deviation * deviation
    return mean, squares


@compiled(types.void(_f8[::1], _f8[::1], _f8[::1], _f8[::1]))
def _numbers_alone(values, weight, numbers, weight_of_numbers):
    """Values and weights with zeros in place of rows that have no value or no weight: these may hold anything."""
    for i in range(values.shape[0]):
        counts = weight[i] > 0.0 and values[i] == values[i]
        numbers[i] = values[i] if counts else 0.0
        weight_of_numbers[i] = weight[i] if counts else 0.0


@compiled(types.Tuple((_f8, _f8, _f8))(_f8[::1], _f8[::1], _f8, _f8[::1], _f8[::1]))
def tile_moments(values, weight, total, numbers, weight_of_numbers):
    """Total weight, mean and squares of a tile; ``total`` is the sum of ``weight``, the last two are room."""
    mean, squares = _mean_and_squares(values, weight, total)
    if not np.isfinite(squares):
        count = values.shape[0]
        _numbers_alone(values, weight, numbers[:count], weight_of_numbers[:count])
        total = sum_of(weight_of_numbers[:count])
        mean, squares = _mean_and_squares(numbers[:count], weight_of_numbers[:count], total)
    return total, mean, squares


@compiled(_f8(NUMBERS_TO_READ, _f8[::1], _i8[::1], _f8[:, :, ::1]))
def moments_of_tiles(values, weight, tile_ends, tiles):
    """Total weight, mean and squares of each tile into the last column of ``tiles``; returns the largest magnitude.

    Values are summed about the first one that counts, so that a large common part does not eat the digits. Rows of
    weight zero may hold anything.
    """
    numbers, weight_of_numbers, room = np.empty(TILE_ROWS), np.empty(TILE_ROWS), np.empty(TILE_ROWS)
    last = tiles.shape[1] - 1
    largest_bits, start = np.zeros(1, np.int64), 0
    for t in range(tile_ends.shape[0]):
        stop = tile_ends[t]
        about, tile_weight = room[: stop - start], weight[start:stop]
        for i in range(about.shape[0]):
            about[i] = values[start + i] if tile_weight[i] > 0.0 else np.nan
        bits, first = largest_magnitude_bits(about.view(np.int64)), 0
        if bits > INFINITY_BITS:
            while first < about.shape[0] and about[first] != about[first]:
                first += 1
            for i in range(about.shape[0]):
                about[i] = about[i] if about[i] == about[i] else 0.0
            bits = largest_magnitude_bits(about.view(np.int64))
        largest_bits[0] = max(largest_bits[0], bits)
        origin = values[start + first] if first < about.shape[0] else 0.0
        for i in range(about.shape[0]):
            about[i] = values[start + i] - origin
        total, mean, squares = tile_moments(about, tile_weight, sum_of(tile_weight), numbers, weight_of_numbers)
        tiles[t, last, 0], tiles[t, last, 1], tiles[t, last, 2] = total, origin + mean if total > 0.0 else 0.0, squares
        start = stop
    # As a number again, of which only an array can give a view.
    return largest_bits.view(np.float64)[0]


@compiled(types.void(_f8[:, ::1], _f8[:, ::1]))
def _merge(left, right):
    """``left`` becomes the moments (n_columns, 3) of both: Chan, Golub, LeVeque (1983), eq. 2.1."""
    for column in range(left.shape[0]):
        before, total = left[column, 0], right[column, 0]
        if before == 0.0:
            copy(right[column], left[column])
        elif total > 0.0:
            share = total / (before + total)
            difference = right[column, 1] - left[column, 1]
            left[column, 0] = before + total
            left[column, 1] += difference * share
            left[column, 2] += right[column, 2] + difference * (before * share) * difference


@compiled(types.void(_f8[:, :, ::1], _f8[:, ::1]))
def merge_in_order(tiles, moments):
    """Merge the moments of all tiles into ``moments`` (n_columns, 3), one after another."""
    for t in range(tiles.shape[0]):
        _merge(moments, tiles[t])


@compiled(_i8(_f8[:, :, ::1], _i8, _f8[:, :, ::1], _i8[:, ::1], _i8))
def merge_neighbours(tiles, number, nodes, places, depth):
    """Append tiles to a row of nodes, each of which is a pair of neighbours, or a pair of pairs, …

    Parameters
    ----------
    tiles : float64, (n_tiles, n_columns, 3)
    number : int
        Of the first tile; the others follow.
    nodes : float64, (most nodes, n_columns, 3)
    places : int64, (most nodes, 2)
        Level and index of each node: it has the tiles ``index * 2^level … (index + 1) * 2^level - 1``.
    depth : int
        How many nodes there are.

    Returns
    -------
    int
        How many there are now: no two of them are neighbours that would make a pair.
    """
    for t in range(tiles.shape[0]):
        for column in range(tiles.shape[1]):
            copy(tiles[t, column], nodes[depth, column])
        places[depth, 0], places[depth, 1] = 0, number + t
        depth += 1
        while (
            depth > 1
            and places[depth - 1, 0] == places[depth - 2, 0]
            and places[depth - 2, 1] % 2 == 0
            and places[depth - 1, 1] == places[depth - 2, 1] + 1
        ):
            depth -= 1
            _merge(nodes[depth - 1], nodes[depth])
            places[depth - 1, 0] += 1
            places[depth - 1, 1] //= 2
    return depth
