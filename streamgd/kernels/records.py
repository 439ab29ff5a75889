"""Records -> the queues of their bundles, and records -> blocks."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from streamgd.kernels.arrays import copy
from streamgd.kernels.compile import compiled
from streamgd.kernels.prefetch import prefetch_lines

#: So many features of rows, and so many bytes of their records, are worked on together: they stay in the nearest cache.
TILE_NUMBERS, TILE_BYTES = 512, 16_384
#: A record is fetched from memory so many records before it is needed.
PREFETCH_ROWS = 32

_f8, _f4, _i8, _i4 = types.float64, types.float32, types.int64, types.int32


@compiled(types.void(_i4[:, ::1], _i8, _i4, _i4[::1], _i4[::1], _i8[::1]))
def slot_order(records, slot_position, holdout_bit, at, order, starts):
    """Indices of a bundle's records in the order of their slots, training rows first.

    Parameters
    ----------
    records : int32, (n, 4-byte words of a record)
    at : int32, (2 * n_blocks * places,)
        Scratch.
    order : int32, (n,)
        Written.
    starts : int64, (2 * n_blocks + 1,)
        Written: where in ``order`` the training rows of each block begin, where those held out of each, and the end.
    """
    n_parts = starts.shape[0] - 1
    n_places, places = at.shape[0] // 2, at.shape[0] // n_parts
    at[:] = -1
    for i in range(records.shape[0]):
        slot = records[i, slot_position]
        at[(slot ^ holdout_bit) + n_places if slot & holdout_bit else slot] = i
    filled = 0
    starts[0] = 0
    for part in range(n_parts):
        for place in range(part * places, (part + 1) * places):
            if at[place] >= 0:
                order[filled] = at[place]
                filled += 1
        starts[part + 1] = filled


@intrinsic
def _copy_bytes(typing_context, to, source, count):
    """Copy ``count`` bytes between addresses. A compiled loop would copy one by one what is left of whole vectors."""

    def generate(context, builder, signature, arguments):
        to, source = (builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@compiled([types.void(feature[::1], _f8[::1], _f8[::1], _f8[::1], feature[::1]) for feature in (_f4, _f8)])
def _scale_and_fill(values, mean, inverse_scale, fill, out):
    for i in range(values.shape[0]):
        z = np.float64(values[i])
        out[i] = (z - mean[i]) * inverse_scale[i] if z == z else fill[i]


@compiled(_f8[::1](_f8[::1], _i8))
def _repeated(values, times):
    rows = np.empty((times, values.shape[0]))
    for i in range(times):
        copy(values, rows[i])
    return rows.reshape(-1)


def _finish_signature(feature):
    words = types.uint64
    return types.void(
        words[:, ::1], _i8[::1], _i8[::1], _f8[::1], _f8[::1], _f8[::1], _i4[::1], _i8[::1], _i4[::1], _i4[::1],
        _f8, _f8, feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1], _f8[::1], words[::1],
    )  # fmt: skip


@compiled([_finish_signature(_f4), _finish_signature(_f8)])
def finish_records(
    records, order, positions, mean, scale, fill, tables, table_starts, unknown, hashed_from,
    target_shift, target_scale, features, codes, target, weight, offset, row_numbers,
):  # fmt: skip
    """Records in ``order`` -> the arrays of a block.

    The places of records are random: those of the next ones are fetched meanwhile. Features are gathered and scaled
    several rows at once: those of one are seldom a multiple of what the processor takes at once.

    Parameters
    ----------
    records : uint64, (n, record_words)
    order : int64, (n_rows,)
    positions : int64, (5,)
        Of features and codes in elements of their type, of weight, offset and row number in words.
    mean, scale, fill : float64, (n_numeric,)
        ``feature = (record - mean) / scale``; NaN becomes ``fill``.
    tables, table_starts, unknown, hashed_from
        Row of theta of a provisional code: >= 0 is looked up in the column's part of ``tables``, -1 is a level that
        is not in the vocabulary, and -2 - bucket a bucket of a hashed column, whose rows begin at ``hashed_from``.
    features, codes, target, weight, offset, row_numbers
        The arrays of the block, written; empty where the block has none.
    """
    n_numeric = features.shape[1]
    record_bytes, row_bytes = 8 * records.shape[1], n_numeric * features.itemsize
    at = records.ctypes.data + positions[0] * features.itemsize
    record_codes, doubles = records.view(np.int32), records.view(np.float64)
    tile_rows = max(1, min(TILE_NUMBERS // max(1, n_numeric), TILE_BYTES // record_bytes))
    tile, flat = np.empty(tile_rows * n_numeric, features.dtype), features.reshape(-1)
    means, inverses, fills = _repeated(mean, tile_rows), _repeated(1.0 / scale, tile_rows), _repeated(fill, tile_rows)
    for start in range(0, order.shape[0], tile_rows):
        rows = order[start : start + tile_rows]
        for i in range(rows.shape[0]):
            line = records.ctypes.data + order[min(start + i + PREFETCH_ROWS, order.shape[0] - 1)] * record_bytes
            prefetch_lines(line, line + record_bytes)
            _copy_bytes(tile.ctypes.data + i * row_bytes, at + rows[i] * record_bytes, row_bytes)
        first, count = start * n_numeric, rows.shape[0] * n_numeric
        _scale_and_fill(tile[:count], means[:count], inverses[:count], fills[:count], flat[first : first + count])
        # Loops of their own for each kind of number: what is called for each row would take as long as the row.
        for i in range(rows.shape[0]):
            target[start + i] = (doubles[rows[i], 0] - target_shift) / target_scale
        for i in range(rows.shape[0] if codes.shape[1] > 0 else 0):
            for column in range(codes.shape[1]):
                code = record_codes[rows[i], positions[1] + column]
                if code >= 0:
                    codes[start + i, column] = tables[table_starts[column] + code]
                elif code == -1:
                    codes[start + i, column] = unknown[column]
                else:
                    codes[start + i, column] = hashed_from[column] - 2 - code
        for i in range(rows.shape[0] if weight.shape[0] > 0 else 0):
            weight[start + i] = doubles[rows[i], positions[2]]
        for i in range(rows.shape[0] if offset.shape[0] > 0 else 0):
            offset[start + i] = doubles[rows[i], positions[3]] / target_scale
        for i in range(rows.shape[0] if row_numbers.shape[0] > 0 else 0):
            row_numbers[start + i] = records[rows[i], positions[4]]


@compiled(_i8(
    types.uint64[:, ::1], _i8[::1], _i4[::1], _i8, _i8, _i8, _i8, types.uint64[:, :, ::1], _i8[::1], _i8[::1],
))  # fmt: skip
def append_records(records, block, slot, slot_position, shift, places, first, queues, queued, rows):
    """Append the records from ``first`` on to the queues of their bundles, of ``2**shift`` blocks each; returns the
    first one whose queue is full.

    Parameters
    ----------
    records : uint64, (n_rows, record_words)
    block : int64, (n_rows,)
        Of each record; -1 marks a dropped row.
    slot : int32, (n_rows,)
        Of each record, of ``places`` in its block. In the queue it has its slot counted over the bundle, at
        ``slot_position``, in 4-byte words.
    queues : uint64, (n_bundles, length, record_words)
    queued : int64, (n_bundles,)
        Records in each queue, incremented.
    rows : int64, (n_blocks,)
        Records of each block, incremented.
    """
    length, n_words, halves = queues.shape[1], queues.shape[2], queues.view(np.int32)
    address, row_bytes = queues.ctypes.data, 8 * n_words
    for i in range(first, block.shape[0]):
        b = block[i]
        if b < 0:
            continue
        bundle = b >> shift
        if queued[bundle] == length:
            return i
        at = queued[bundle]
        for word in range(n_words):
            queues[bundle, at, word] = records[i, word]
        halves[bundle, at, slot_position] = slot[i] + (b - (bundle << shift)) * places
        queued[bundle] = at + 1
        rows[b] += 1
        # The next one of this bundle will stand behind it.
        behind = address + (bundle * length + at + 1) * row_bytes
        prefetch_lines(behind, behind + row_bytes)
    return block.shape[0]
