"""Keyed hashing and permutation of row numbers, in O(1) memory.

``mix`` is the finaliser of SplitMix64 (Steele, Lea, Flood 2014). ``permute_rows`` is a Feistel network of four rounds
over the smallest power of two that holds ``n``, walked until it lands below ``n`` (cycle walking), which makes it
a bijection on ``0 … n-1`` for any ``n``.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled

#: Rows that walk through the network together.
TILE_ROWS = 1024

_u64 = types.uint64


@compiled(_u64(_u64))
def mix(word):
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled(types.void(_u64[::1], _u64, _u64, _u64, _u64, _u64, _u64))
def _rounds(values, left_bits, right_bits, key_0, key_1, key_2, key_3):
    """One walk of every value through the network, several values at a time.

    Two rounds a turn, so that the halves keep their widths when they are uneven.
    """
    one = np.uint64(1)
    left_mask = (one << left_bits) - one
    right_mask = (one << right_bits) - one
    for i in range(values.shape[0]):
        left = values[i] >> right_bits
        right = values[i] & right_mask
        left = left ^ (mix(right + key_0) & left_mask)
        right = right ^ (mix(left + key_1) & right_mask)
        left = left ^ (mix(right + key_2) & left_mask)
        right = right ^ (mix(left + key_3) & right_mask)
        values[i] = (left << right_bits) | right


@compiled(types.void(_u64, _u64, _u64, _u64[::1], types.int64[::1]))
def permute_rows(first, n, bits, keys, out):
    """The places of ``len(out)`` consecutive indices among ``n``; ``bits`` is the width of the network, at least 2."""
    left_bits = bits // np.uint64(2)
    right_bits = bits - left_bits
    walking = np.empty(min(TILE_ROWS, out.shape[0]), np.uint64)
    index = np.empty(walking.shape[0], np.int64)
    for start in range(0, out.shape[0], TILE_ROWS):
        count = min(TILE_ROWS, out.shape[0] - start)
        for i in range(count):
            walking[i] = first + np.uint64(start + i)
            index[i] = start + i
        left = count
        while left > 0:
            _rounds(walking[:left], left_bits, right_bits, keys[0], keys[1], keys[2], keys[3])
            still = 0
            for i in range(left):
                out[index[i]] = walking[i]
                walking[still] = walking[i]
                index[still] = index[i]
                still += 1 if walking[i] >= n else 0
            left = still


@compiled(types.void(_u64, _u64, _u64, _u64[::1], types.int64, types.int64[::1], types.int32[::1]))
def place_rows(first_row, n, bits, keys, block_places, block, slot):
    """Block and slot of ``len(block)`` consecutive rows: ``divmod`` of their places by ``block_places``."""
    permute_rows(first_row, n, bits, keys, block)
    for i in range(block.shape[0]):
        # Exact below 2^52, but for a reciprocal that is rounded.
        place = block[i]
        quotient = np.int64(np.float64(place) / np.float64(block_places))
        rest = place - quotient * block_places
        quotient += (1 if rest >= block_places else 0) - (1 if rest < 0 else 0)
        block[i] = quotient
        slot[i] = np.int32(place - quotient * block_places)


@compiled(types.void(_u64, _u64, _u64, types.boolean[::1]))
def rows_below(key, first_row, threshold, out):
    """Mark the rows whose keyed hash is below ``threshold``; ``first_row`` counts inside the file."""
    for i in range(out.shape[0]):
        out[i] = mix(mix(first_row + np.uint64(i)) + key) < threshold
