"""Keyed hashing and permutation of row numbers, in O(1) memory.

``mix`` is the finaliser of SplitMix64 (Steele, Lea, Flood 2014). ``permute`` is a Feistel network of four rounds
over the smallest power of two that holds ``n``, walked until it lands below ``n`` (cycle walking), which makes it
a bijection on ``0 … n-1`` for any ``n``.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled

_u64 = types.uint64


@compiled(_u64(_u64))
def mix(word):
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled(_u64(_u64, _u64, _u64, _u64[::1]))
def permute(index, n, bits, keys):
    """The place of ``index`` among ``n``; ``bits`` is the width of the network, at least 2."""
    one = np.uint64(1)
    left_bits = bits // np.uint64(2)
    right_bits = bits - left_bits
    left_mask = (one << left_bits) - one
    right_mask = (one << right_bits) - one
    value = index
    while True:
        left = value >> right_bits
        right = value & right_mask
        # Two rounds a turn, so that the halves keep their widths when they are uneven.
        for turn in range(0, keys.shape[0], 2):
            left = left ^ (mix(right + keys[turn]) & left_mask)
            right = right ^ (mix(left + keys[turn + 1]) & right_mask)
        value = (left << right_bits) | right
        if value < n:
            return value


@compiled(types.void(_u64, _u64, _u64, _u64[::1], _u64, types.int64[::1], types.int32[::1]))
def place_rows(first_row, n, bits, keys, block_places, block, slot):
    """Block and slot of ``len(block)`` consecutive rows: ``divmod(permute(row), block_places)``."""
    for i in range(block.shape[0]):
        place = permute(first_row + np.uint64(i), n, bits, keys)
        block[i] = place // block_places
        slot[i] = place % block_places


@compiled(types.void(_u64, _u64, _u64[::1], types.int64[::1]))
def permutation(n, bits, keys, out):
    for i in range(out.shape[0]):
        out[i] = permute(np.uint64(i), n, bits, keys)


@compiled(types.void(_u64, _u64, _u64, types.boolean[::1]))
def rows_below(key, first_row, threshold, out):
    """Mark the rows whose keyed hash is below ``threshold``; ``first_row`` counts inside the file."""
    for i in range(out.shape[0]):
        out[i] = mix(mix(first_row + np.uint64(i)) + key) < threshold
