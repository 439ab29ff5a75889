"""Arrow columns -> row-major records, or rows of a block.

A record is one encoded row as scatter moves it: all its numbers side by side. Numeric columns are read straight
from Arrow's buffers, by address, one tile of rows at a time so that a tile of the records stays in the cache.
"""

from __future__ import annotations

import numpy as np
from numba import carray, types

from streamgd.kernels.arrays import sum_of
from streamgd.kernels.arrow import pointer
from streamgd.kernels.compile import compiled
from streamgd.kernels.moments import (
    INFINITY_BITS,
    MAGNITUDE_BITS,
    NUMBERS_TO_READ,
    TILE_ROWS,
    largest_magnitude_bits,
    moments_of_tiles,
    tile_moments,
)
from streamgd.kernels.prefetch import prefetch_lines
from streamgd.kernels.turn import turn

#: A tile of a column is fetched from memory so many columns before it is needed.
PREFETCH_COLUMNS = 2
#: Columns of a tile that are turned into parts of rows together: they stay in the nearest cache.
BAND_COLUMNS = 32

#: Whole bytes of a value.
_VALUE_BYTES = np.array([8, 4, 8, 4, 2, 1, 4, 2, 1, 0])

_f8, _f4, _i8, _i4 = types.float64, types.float32, types.int64, types.int32
_row_and_bool = types.Tuple((_i8, types.boolean))

_READ_TYPES = (
    types.float64, types.float32, types.int64, types.int32, types.int16, types.int8,
    types.uint32, types.uint16, types.uint8,
)  # fmt: skip


@compiled([types.void(value[::1], _f8[::1]) for value in _READ_TYPES])
def _copy(values, tile):
    for i in range(tile.shape[0]):
        tile[i] = values[i]


@compiled(types.void(_i8, _i8, _i8, _i8, _f8[::1]))
def _copy_values(address, kind, first, count, tile):
    """``tile[:count]`` = the values ``first … first + count - 1`` of an Arrow buffer, as float64."""
    at = pointer(address)
    n = first + count
    if kind == 0:
        _copy(carray(at, n, np.float64)[first:], tile)
    elif kind == 1:
        _copy(carray(at, n, np.float32)[first:], tile)
    elif kind == 2:
        _copy(carray(at, n, np.int64)[first:], tile)
    elif kind == 3:
        _copy(carray(at, n, np.int32)[first:], tile)
    elif kind == 4:
        _copy(carray(at, n, np.int16)[first:], tile)
    elif kind == 5:
        _copy(carray(at, n, np.int8)[first:], tile)
    elif kind == 6:
        _copy(carray(at, n, np.uint32)[first:], tile)
    elif kind == 7:
        _copy(carray(at, n, np.uint16)[first:], tile)
    elif kind == 8:
        _copy(carray(at, n, np.uint8)[first:], tile)
    else:
        bits = carray(at, (n + 7) // 8, np.uint8)
        for i in range(count):
            tile[i] = (bits[(first + i) >> 3] >> ((first + i) & 7)) & 1


@compiled(types.void(_i8, _i8, _i8, _i8))
def _fetch_values(address, kind, first, count):
    """Begin to fetch the values ``first … first + count - 1`` of an Arrow buffer from memory."""
    width = _VALUE_BYTES[kind]
    prefetch_lines(address + first * width, address + (first + count) * width)


@compiled(types.void(_i8, _i8, _i8, _f8[::1]))
def _mark_nulls(validity, first, count, tile):
    """NaN where the validity bitmap says null; address 0 means no nulls."""
    if validity == 0:
        return
    bits = carray(pointer(validity), (first + count + 7) // 8, np.uint8)
    for i in range(count):
        if (bits[(first + i) >> 3] >> ((first + i) & 7)) & 1 == 0:
            tile[i] = np.nan


@compiled(types.UniTuple(_i8, 2)(_i8[::1], types.boolean[::1], types.boolean))
def _largest_and_nulls(bits, kept, every):
    """The largest magnitude, by its bits, and the number of NaN in the rows that are kept; ``every`` says that all are.

    Most tiles have neither infinities nor NaN, which their largest magnitude tells.
    """
    largest, nulls = largest_magnitude_bits(bits), np.int64(0)
    if not every or largest >= INFINITY_BITS:
        largest = np.int64(0)
        for i in range(bits.shape[0]):
            magnitude = bits[i] & MAGNITUDE_BITS if kept[i] else np.int64(0)
            nulls += np.int64(1) if magnitude > INFINITY_BITS else np.int64(0)
            largest = max(largest, magnitude if magnitude <= INFINITY_BITS else np.int64(0))
    return largest, nulls


@compiled(types.void(_f8[::1], _f8, _f8, _f8, _f8))
def _standardise(values, shift, scale, mean, deviation):
    """``((values - shift) / scale - mean) / deviation``.

    It multiplies by the inverse of the scale; that of the smallest numbers is beyond float64. Mean and shift are not
    added up before: of large values that differ little the sum would lose what tells them apart.
    """
    grown = 1.0 if 1.0 / scale < np.inf else 2.0**200
    inverse = 1.0 / (scale * grown)
    for i in range(values.shape[0]):
        values[i] = (values[i] - shift) * grown
    inverse_deviation = 1.0 / deviation
    for i in range(values.shape[0]):
        values[i] = (values[i] * inverse - mean) * inverse_deviation


@compiled(types.void(_f8[::1], types.boolean[::1]))
def _mark_nan(values, is_nan):
    for i in range(values.shape[0]):
        is_nan[i] |= values[i] != values[i]


def _encode_signature(feature):
    return _f8(
        _i8[::1], _i8[::1], _i8[::1], _i8[::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1], NUMBERS_TO_READ,
        feature[:, ::1], _i8, _f8[:], _i8[::1], _f8[:, :, ::1], _f8[:, :, ::1], _f8[:, ::1],
        types.boolean[::1], types.boolean[::1], types.boolean,
    )  # fmt: skip


@compiled([_encode_signature(_f4), _encode_signature(_f8)])
def encode_numeric(
    addresses,
    validity,
    offsets,
    kinds,
    weight,
    shift,
    scale,
    mean,
    deviation,
    target,
    out,
    first,
    target_out,
    tile_ends,
    tiles,
    edges,
    found,
    kept,
    has_null,
    learn,
):
    """Write ``((x - shift) / scale - mean) / deviation`` of every column, NaN for null, and take moments of it.

    The target is written with them: a record that is in the cache is not fetched again for one number.

    Parameters
    ----------
    addresses, validity, offsets, kinds : int64, (n_columns,)
        Arrow's value and validity buffers, the array's offset in them, and the index of the type in
        ``arrow.KINDS``.
    weight : float64, (n_rows,)
        Weight of each row in the moments; zero where a row is dropped or held out.
    shift, scale, mean, deviation : float64, (n_columns,)
        Provisional units, and the exact moments in these; 0 and 1 where they are not known yet.
    target : float64, (n_rows,)
    out : float32 or float64, (n_rows, record length)
        Records, written from position ``first``.
    target_out : float64, (n_rows,)
        Written: where the target stands in the records.
    tile_ends : int64, (n_tiles,)
        Where tiles of at most ``TILE_ROWS`` rows end.
    tiles : float64, (n_tiles, n_columns + 1, 3)
        Written if ``learn``: total weight, mean, sum of squared deviations of each tile; those of the target last.
    edges : float64, (2, n_columns, tile_rows) or (0, 0, 0)
        If it has room, written what ``tiles`` of the first and last tile would be of, where they have fewer rows than
        ``tile_rows``.
    found : float64, (n_columns, 2)
        Written: the largest magnitude of the values as they were read, and the number of nulls, over the rows that are
        kept.
    kept : bool, (n_rows,)
    has_null : bool, (n_rows,)
        Set where any column is null or NaN.
    learn : bool
        Whether the moments are wanted.

    Returns
    -------
    float
        The largest magnitude of the target; 0 unless ``learn``.
    """
    n_columns = addresses.shape[0]
    numbers, weight_of_numbers = np.empty(TILE_ROWS), np.empty(TILE_ROWS)
    scaled = np.empty((min(n_columns, BAND_COLUMNS), TILE_ROWS), out.dtype)
    buffer = np.empty(TILE_ROWS)
    found[:] = 0.0
    found_bits = found.view(np.int64)
    start = 0
    for t in range(tile_ends.shape[0]):
        stop = tile_ends[t]
        count = stop - start
        # Views of the tile for all columns: one for each would take a tenth of the time.
        tile, tile_weight = buffer[:count], weight[start:stop]
        bits, kept_here, null_here = tile.view(np.int64), kept[start:stop], has_null[start:stop]
        total_weight = sum_of(tile_weight) if learn else 0.0
        every = True
        for i in range(count):
            every &= kept_here[i]
        for column in range(n_columns):
            later = (column + PREFETCH_COLUMNS) % n_columns
            tiles_later = (column + PREFETCH_COLUMNS) // n_columns
            _fetch_values(addresses[later], kinds[later], offsets[later] + start + tiles_later * count, count)
            _copy_values(addresses[column], kinds[column], offsets[column] + start, count, tile)
            _mark_nulls(validity[column], offsets[column] + start, count, tile)
            largest, nulls = _largest_and_nulls(bits, kept_here, every)
            _standardise(tile, shift[column], scale[column], mean[column], deviation[column])
            found_bits[column, 0] = max(found_bits[column, 0], largest)
            found[column, 1] += nulls
            for i in range(count):
                scaled[column % BAND_COLUMNS, i] = tile[i]
            if (column + 1) % BAND_COLUMNS == 0 or column + 1 == n_columns:
                band = column - column % BAND_COLUMNS
                turn(scaled[: column + 1 - band], count, out, start, first + band)
            if nulls > 0 or not every:
                _mark_nan(tile, null_here)
            if not learn:
                continue
            if count < edges.shape[2]:
                for i in range(count):
                    edges[0 if t == 0 else 1, column, i] = tile[i]
                continue
            tiles[t, column, 0], tiles[t, column, 1], tiles[t, column, 2] = tile_moments(
                tile, tile_weight, total_weight, numbers, weight_of_numbers
            )
        for i in range(start, stop):
            target_out[i] = target[i]
        start = stop
    return moments_of_tiles(target, weight, tile_ends, tiles) if learn else 0.0


@compiled(_row_and_bool(_i8[::1], _i8[::1], _i8[::1], _i8[::1], _f8[::1], types.boolean[::1], _f8[::1]))
def class_numbers(addresses, validity, offsets, kinds, classes, kept, out):
    """The place of each value of an Arrow array among the classes; NaN stays, and inf is what is no class.

    Parameters
    ----------
    addresses, validity, offsets, kinds : int64, (1,)
        Of the array: see :func:`encode_numeric`.
    classes : float64, (n_classes,)
        Each once.
    kept : bool, (n_rows,)
    out : float64, (n_rows,)
        Written.

    Returns
    -------
    int, bool
        The first row that is kept and of no class, or -1; and whether there is a NaN.
    """
    buffer = np.empty(TILE_ROWS)
    unknown, has_nan = -1, False
    for start in range(0, out.shape[0], TILE_ROWS):
        here = out[start : start + TILE_ROWS]
        values = buffer[: here.shape[0]]
        _copy_values(addresses[0], kinds[0], offsets[0] + start, values.shape[0], values)
        _mark_nulls(validity[0], offsets[0] + start, values.shape[0], values)
        for i in range(values.shape[0]):
            here[i] = np.inf if values[i] == values[i] else np.nan
        for k in range(classes.shape[0]):
            for i in range(values.shape[0]):
                here[i] = k if values[i] == classes[k] else here[i]
        every = True
        for i in range(values.shape[0]):
            every &= here[i] < np.inf
        if not every:
            for i in range(values.shape[0]):
                has_nan |= here[i] != here[i]
                if here[i] == np.inf and kept[start + i] and unknown < 0:
                    unknown = start + i
    return unknown, has_nan


@compiled([types.void(feature[:, ::1], _f8[::1]) for feature in (_f4, _f8)])
def fill_nulls(features, fill):
    """Put ``fill`` (n_columns,) in the place of NaN."""
    for i in range(features.shape[0]):
        for column in range(features.shape[1]):
            if features[i, column] != features[i, column]:
                features[i, column] = fill[column]


@compiled(types.void(_i8[::1], _i4[::1], _i8[::1], _f8[::1], _f8[::1], _i4[:, ::1], _i8))
def encode_codes(addresses, tables, table_starts, weight, counts, out, first):
    """Write the code of each row's level in every categorical column into the records.

    Parameters
    ----------
    addresses : int64, (n_columns,)
        Of the places of the rows' levels in the column's dictionary, int32.
    tables, table_starts
        The code of each place; the dictionary of a column begins at its start.
    weight : float64, (n_rows,) or empty
        Weight of each row in ``counts``; empty: nothing is counted.
    counts : float64, as long as ``tables``
        Incremented: the total weight of each place of the dictionaries.
    out : int32, (n_rows, record length)
        Records, written from position ``first``.
    """
    n_rows, n_columns = out.shape[0], addresses.shape[0]
    # Not together: a column's weights stay in the cache, those of all columns would not.
    for column in range(n_columns if weight.shape[0] > 0 else 0):
        places, table_start = carray(pointer(addresses[column]), n_rows, np.int32), table_starts[column]
        for i in range(n_rows):
            counts[table_start + places[i]] += weight[i]
    for start in range(0, n_rows, TILE_ROWS):
        stop = min(start + TILE_ROWS, n_rows)
        for column in range(n_columns):
            places, table_start = carray(pointer(addresses[column]), n_rows, np.int32), table_starts[column]
            for i in range(start, stop):
                out[i, first + column] = tables[table_start + places[i]]


@compiled(_f8[::1](_i4[::1], _f8[::1]))
def weight_by_code(table, counts):
    """The total weight of each code, float64 ``(largest code that has some + 1,)``; negative codes are left out.

    Parameters
    ----------
    table, counts : (n_places,)
        The code of each place of a dictionary, and its total weight.
    """
    largest = -1
    for place in range(table.shape[0]):
        if counts[place] > 0.0:
            largest = max(largest, table[place])
    found = np.zeros(largest + 1)
    for place in range(table.shape[0]):
        if counts[place] > 0.0 and table[place] >= 0:
            found[table[place]] += counts[place]
    return found
