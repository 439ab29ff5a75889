"""Entries of sparse columns: keys while rows are read, rows of theta in a block.

A key is the number of the sparse column, times 2^25, plus a code. A code below 2^24 is an index, or the number of a
level in a vocabulary; from there on it is a bucket of a hashed column. A code of -1 has no key: it is passed over.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled

KEY_BITS = 25
FIRST_BUCKET = 2**24

_CODE_MASK = (1 << KEY_BITS) - 1

_f8, _f4, _i8, _i4, _u8, _u1 = types.float64, types.float32, types.int64, types.int32, types.uint64, types.uint8


@compiled(types.void(_i8[::1], types.boolean, _u8, _i4[::1]))
def hash_integers(integers, signed, n_buckets, out):
    """FNV-1a (64 bit) of the decimal text of each integer, modulo ``n_buckets``; not ``signed``, they are uint64."""
    digits = np.empty(20, np.uint8)
    for i in range(out.shape[0]):
        value = np.uint64(0xCBF29CE484222325)
        left = np.uint64(integers[i])
        if signed and integers[i] < 0:
            value = (value ^ np.uint64(45)) * np.uint64(0x100000001B3)
            left = np.uint64(0) - left
        n_digits = 0
        while n_digits == 0 or left > np.uint64(0):
            digits[n_digits] = np.uint8(left % np.uint64(10))
            left = left // np.uint64(10)
            n_digits += 1
        for j in range(n_digits - 1, -1, -1):
            value = (value ^ np.uint64(48 + digits[j])) * np.uint64(0x100000001B3)
        out[i] = np.int32(value % n_buckets)


@compiled([
    types.void(_i4[::1], _f8[::1], _i8[::1], _i8[::1], types.boolean[::1], kind[::1], kind[::1])
    for kind in (_u1, _f8)
])  # fmt: skip
def note_codes(codes, magnitudes, begins, ends, learned, largest, largest_of_buckets):
    """Note the codes of rows that are learned from.

    Parameters
    ----------
    codes : int32, (n,)
    magnitudes : float64, (n,) or (0,)
        Empty: all are 1.
    begins, ends : int64, (n_rows,)
        Row i has the codes ``begins[i] … ends[i] - 1``.
    learned : bool, (n_rows,)
    largest, largest_of_buckets : uint8 or float64
        Raised to the largest magnitude of each code below 2^24, and of each bucket.
    """
    for i in range(begins.shape[0]):
        if not learned[i]:
            continue
        for j in range(begins[i], ends[i]):
            code = codes[j]
            if code < 0:
                continue
            magnitude = magnitudes[j] if magnitudes.shape[0] > 0 else 1.0
            if code >= FIRST_BUCKET:
                at = code - FIRST_BUCKET
                if largest_of_buckets[at] < magnitude:
                    largest_of_buckets[at] = magnitude
            elif largest[code] < magnitude:
                largest[code] = magnitude


@compiled(_i8(
    _i8[:, ::1], _i8[:, ::1], _i4[::1], _f8[::1], types.boolean[::1], _i8[::1], _i4[::1], _f8[::1],
))  # fmt: skip
def join_columns(begins, ends, codes, values, rows, starts, keys, out_values):
    """The entries of several columns, row after row; returns how many there are.

    Parameters
    ----------
    begins, ends : int64, (n_columns, n_rows)
        Row i of column c has the codes ``begins[c, i] … ends[c, i] - 1``.
    codes : int32, (n,)
        Of all columns.
    values : float64, (n,) or (0,)
    rows : bool, (n_rows,)
        Others are left without entries.
    starts, keys, out_values : int64, (n_rows + 1,), int32, (n,), float64, (n,) or (0,)
        Written.
    """
    n = 0
    starts[0] = 0
    for i in range(rows.shape[0]):
        if rows[i]:
            for column in range(begins.shape[0]):
                base = np.int32(column << KEY_BITS)
                for j in range(begins[column, i], ends[column, i]):
                    if codes[j] >= 0:
                        keys[n] = base + codes[j]
                        if values.shape[0] > 0:
                            out_values[n] = values[j]
                        n += 1
        starts[i + 1] = n
    return n


@compiled(types.UniTuple(_i8, 2)(
    _i8[::1], _i4[::1], _f8[::1], _i8[::1], _i4[::1], _i8, _i8, _u8[:, :, ::1], _i8[::1],
))  # fmt: skip
def append_entries(starts, keys, values, block, slot, row, entry, queues, queued):
    """Append entries, from number ``entry`` of row ``row`` on, to the queues of their rows' blocks.

    An entry waits as ``slot | key << 32`` and, where there are values, the bits of its value.

    Parameters
    ----------
    starts, keys, values
        As ``join_columns`` writes them.
    block, slot : int64 and int32, (n_rows,)
        Place of each row; a block of -1 marks a row that was dropped.
    queues : uint64, (n_blocks, length, words)
    queued : int64, (n_blocks,)
        Entries in each queue, incremented.

    Returns
    -------
    row, entry : int
        The first one whose queue is full; all rows are done where ``row`` is their number.
    """
    length = queues.shape[1]
    bits = values.view(np.uint64)
    for i in range(row, block.shape[0]):
        b = block[i]
        if b >= 0:
            for j in range(max(entry, starts[i]), starts[i + 1]):
                at = queued[b]
                if at == length:
                    return i, j
                queues[b, at, 0] = np.uint64(slot[i]) | np.uint64(keys[j]) << np.uint64(32)
                if bits.shape[0] > 0:
                    queues[b, at, 1] = bits[j]
                queued[b] = at + 1
    return block.shape[0], np.int64(0)


@compiled(_i8(_u8))
def _bits(word):
    """How many bits are set (Warren 2012, Hacker's Delight, figure 5-2)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(types.void(_i4[::1], _u8[::1], _i4[::1]))
def index_bits(present, words, before):
    """Set the bits ``present`` (ascending) in ``words``; ``before`` has how many are set before each word."""
    for place in present:
        words[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
    n = 0
    for w in range(words.shape[0]):
        before[w] = n
        n += _bits(words[w])


@compiled(types.void(_i4[::1], _i4[::1], _u8[::1], _i4[::1], _i8[:, ::1], _i4[::1]))
def rows_of_keys(keys, tables, words, before, columns, rows):
    """Row of theta of each key, -1 if it has none. All in one loop: a call for each key would take ten times as long.

    Parameters
    ----------
    keys : int32, (n,)
    tables : int32
        Row of each code of the columns that have a vocabulary, one column after another.
    words, before : uint64 and int32
        Which indices or buckets have a row, as ``index_bits`` writes it, one column after another.
    columns : int64, (n_columns, 5)
        Of each: its part of ``tables`` (start, length), its part of ``words`` (start, length), its first row.
    rows : int32, (n,)
        Written.
    """
    for i in range(keys.shape[0]):
        column, code = np.int64(keys[i]) >> KEY_BITS, np.int64(keys[i]) & _CODE_MASK
        row = np.int64(-1)
        if code < FIRST_BUCKET and columns[column, 1] > 0:
            if code < columns[column, 1]:
                row = np.int64(tables[columns[column, 0] + code])
        else:
            place = code & (FIRST_BUCKET - 1)
            if place >> 6 < columns[column, 3]:
                at = (place >> 6) + columns[column, 2]
                word, bit = words[at], np.uint64(1) << np.uint64(place & 63)
                if word & bit != 0:
                    row = columns[column, 4] + before[at] + _bits(word & (bit - np.uint64(1)))
        rows[i] = row


@compiled([
    _i8(_i8[::1], _i4[::1], _f8[::1], _i8[::1], _f8[::1], _i8, _i8[::1], _i4[::1], kind[::1]) for kind in (_f4, _f8)
])  # fmt: skip
def entries_of_rows(starts, rows, values, order, scales, first_row, out_starts, coordinates, out_values):
    """The entries of the rows in ``order``, as those of a block; returns how many there are.

    Parameters
    ----------
    starts, values
        As ``join_columns`` writes them.
    rows : int32, (n_entries,)
        Row of theta of each; entries that have none are left out.
    order : int64, (n,)
    scales : float64, (n_rows of theta from ``first_row`` on,) or (0,)
        What values are divided by; an entry whose scale is 0 is left out.
    out_starts, coordinates, out_values
        Written: see ``data.blocks.Entries``.
    """
    n = 0
    out_starts[0] = 0
    for i in range(order.shape[0]):
        for j in range(starts[order[i]], starts[order[i] + 1]):
            row = rows[j]
            if row < 0:
                continue
            if out_values.shape[0] > 0:
                scale = scales[row - first_row]
                if scale == 0.0:
                    continue
                out_values[n] = (values[j] if values.shape[0] > 0 else 1.0) / scale
            coordinates[n] = row
            n += 1
        out_starts[i + 1] = n
    return n


@compiled(types.void(_i8[::1], _i4[::1], _f8[::1], _i8[::1], _i8, _f8[::1]))
def largest_of_rows(starts, rows, values, order, first_row, largest):
    """Raise ``largest`` to the largest magnitude of the values of each row of theta: see ``entries_of_rows``."""
    for i in range(order.shape[0]):
        for j in range(starts[order[i]], starts[order[i] + 1]):
            if rows[j] >= 0:
                magnitude = abs(values[j]) if values.shape[0] > 0 else 1.0
                if magnitude > largest[rows[j] - first_row]:
                    largest[rows[j] - first_row] = magnitude


@compiled([
    _i8(_i4[::1], _i4[::1], _f8[::1], _f8[::1], _i8, _i8[::1], _i4[::1], kind[::1]) for kind in (_f4, _f8)
])  # fmt: skip
def sort_entries(places, rows, values, scales, first_row, starts, coordinates, out_values):
    """As ``entries_of_rows``, from entries in any order: those of a row stand in the order that they have.

    Parameters
    ----------
    places : int32, (n_entries,)
        Row of the block of each.
    """
    starts[:] = 0
    for i in range(rows.shape[0]):
        if rows[i] >= 0 and out_values.shape[0] > 0 and scales[rows[i] - first_row] == 0.0:
            rows[i] = -1
        if rows[i] >= 0:
            starts[places[i] + 1] += 1
    for i in range(1, starts.shape[0]):
        starts[i] += starts[i - 1]
    n = starts[starts.shape[0] - 1]
    for i in range(rows.shape[0]):
        if rows[i] < 0:
            continue
        at = starts[places[i]]
        coordinates[at] = rows[i]
        if out_values.shape[0] > 0:
            out_values[at] = (values[i] if values.shape[0] > 0 else 1.0) / scales[rows[i] - first_row]
        starts[places[i]] = at + 1
    for i in range(starts.shape[0] - 1, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0
    return n
