"""Levels as bytes, and an index from the bytes of a level to its code.

The index is a hash table with open addressing and linear probing. An entry is 64 bits: the upper half of the level's
hash beside its code plus one; 0 is a free entry. Where these halves agree the bytes are compared, so that two levels
never share a code.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled
from streamgd.kernels.permute import mix
from streamgd.kernels.prefetch import prefetch

_i8, _i4, _u8, _u1 = types.int64, types.int32, types.uint64, types.uint8

# Arrow's buffers may be read only.
_OFFSETS = types.Array(_i4, 1, "C", readonly=True)
_BYTES = types.Array(_u1, 1, "C", readonly=True)

#: The index is larger than caches: the entry of a level is fetched while so many before it are looked up.
_LEVELS_AHEAD = 16

_CODE_BITS = np.uint64(32)
_CODE_MASK = np.uint64(0xFFFFFFFF)


@compiled(types.void(_OFFSETS, _BYTES, _u8[::1]))
def hash_texts(offsets, data, out):
    """FNV-1a (64 bit) of each UTF-8 text of an Arrow string array."""
    for i in range(out.shape[0]):
        value = np.uint64(0xCBF29CE484222325)
        for j in range(offsets[i], offsets[i + 1]):
            value = (value ^ np.uint64(data[j])) * np.uint64(0x100000001B3)
        out[i] = value


@compiled(types.boolean(_BYTES, _i8, _BYTES, _i8, _i8))
def _same(data, start, other, other_start, length):
    j = 0
    while j < length and data[start + j] == other[other_start + j]:
        j += 1
    return j == length


@compiled(types.UniTuple(_i8, 2)(
    _OFFSETS, _BYTES, types.boolean[::1], _u8[::1], types.boolean, _u8[::1], _i4[::1], _u1[::1], _i8, _i8[::1],
    _i8, _i4[::1],
))  # fmt: skip
def find_levels(
    offsets, data, is_null, hashes, growing, index, known_offsets, known_data, n_known, null_code, first, codes
):
    """The code of each level from number ``first`` on; levels that are new get the next free codes.

    The search is written out here: a function that took all arrays counted their references at each level, which was
    more work than all the rest.

    Parameters
    ----------
    offsets, data : int32, (n + 1,) and uint8
        The bytes of the levels, as in an Arrow string array.
    is_null : bool, (n,) or empty
        Which levels are null, whatever their bytes.
    hashes : uint64, (n,)
    growing : bool
        Otherwise new levels get the code -1.
    index : uint64, (a power of two,)
        The entries, changed where there are new levels.
    known_offsets, known_data : int32 and uint8
        The bytes of the levels that have codes already, with room for more.
    n_known : int
    null_code : int64, (1,)
        The code of null, -1 as long as it has none.
    codes : int32, (n,)
        Written.

    Returns
    -------
    done, n_known : int
        How many levels have their code now, fewer than n where there is no more room; and the known ones.
    """
    mask, address = np.uint64(index.shape[0] - 1), index.ctypes.data
    for i in range(first, codes.shape[0]):
        if i + _LEVELS_AHEAD < codes.shape[0]:
            prefetch(address + 8 * np.int64(mix(hashes[i + _LEVELS_AHEAD]) & mask))
        null = is_null.shape[0] > 0 and is_null[i]
        start = np.int64(offsets[i])
        length = np.int64(0) if null else offsets[i + 1] - start
        word, code = mix(hashes[i]), null_code[0]
        place = word & mask
        if not null:
            # To its entry, or to the free one where it belongs.
            entry = index[place]
            while entry != 0:
                if entry >> _CODE_BITS == word >> _CODE_BITS:
                    candidate = np.int64(entry & _CODE_MASK) - 1
                    begin = np.int64(known_offsets[candidate])
                    if known_offsets[candidate + 1] - begin == length and _same(data, start, known_data, begin, length):
                        break
                place = (place + np.uint64(1)) & mask
                entry = index[place]
            code = np.int64(entry & _CODE_MASK) - 1
        if code < 0 and growing:
            known = np.int64(known_offsets[n_known])
            if 2 * (n_known + 1) > index.shape[0] or known + length > known_data.shape[0]:
                return i, n_known
            code = n_known
            for j in range(length):
                known_data[known + j] = data[start + j]
            known_offsets[n_known + 1] = known + length
            if null:
                null_code[0] = code
            else:
                index[place] = (word >> _CODE_BITS << _CODE_BITS) | np.uint64(code + 1)
            n_known += 1
        codes[i] = code
    return codes.shape[0], n_known


@compiled(types.void(_u8[::1], _i8, _u8[::1]))
def index_levels(hashes, null_code, index):
    """Enter the codes 0, 1, … of levels that differ into an empty index."""
    mask = np.uint64(index.shape[0] - 1)
    for code in range(hashes.shape[0]):
        if code != null_code:
            word = mix(hashes[code])
            place = word & mask
            while index[place] != 0:
                place = (place + np.uint64(1)) & mask
            index[place] = (word >> _CODE_BITS << _CODE_BITS) | np.uint64(code + 1)
