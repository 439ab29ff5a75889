"""The levels of one categorical column: Arrow arrays outside, bytes inside.

No Python object is made for a level: text is its UTF-8, a number its eight bytes, a truth value one byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.errors import DataError
from streamgd.kernels import levels as kernels

ARROW_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}

_NUMBER_TYPES = {"int": np.int64, "float": np.float64, "bool": np.uint8}
_FEWEST_ENTRIES = 64
_MOST_BYTES = 2**31 - 1


def no_levels(values: str) -> pa.Array:
    """An empty array of levels of the type ``values``."""
    return pa.array([], ARROW_TYPES[values])


def as_dictionary(array: pa.Array, values: str) -> pa.DictionaryArray:
    """The array as dictionary codes over values of the column's type; NaN is null."""
    target = ARROW_TYPES[values]
    if values == "float":
        array = pc.if_else(pc.is_nan(array), None, array)
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array if array.type == target else pc.cast(array, target))
    if array.dictionary.type != target:
        array = pa.DictionaryArray.from_arrays(array.indices, pc.cast(array.dictionary, target))
    return array


def null_mask(array: pa.Array) -> np.ndarray:
    """Which values are null, bool; empty where none is."""
    if not array.null_count:
        return np.empty(0, np.bool_)
    return np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))


def level_bytes(levels: pa.Array, values: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (int32, (n + 1,)) and bytes (uint8) of the levels; those of nulls mean nothing."""
    if values == "string":
        _, offsets, data = levels.buffers()
        if offsets is None or not len(levels):
            return np.zeros(1, np.int32), np.empty(0, np.uint8)
        starts = np.frombuffer(offsets, np.int32)[levels.offset : levels.offset + len(levels) + 1]
        return starts, np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    filled = pc.fill_null(levels, pa.scalar(0).cast(levels.type)) if levels.null_count else levels
    numbers = np.ascontiguousarray(filled.to_numpy(zero_copy_only=False), _NUMBER_TYPES[values])
    if values == "float":
        numbers = numbers + 0.0  # -0.0 is 0.0
    size = numbers.itemsize
    return np.arange(0, size * len(numbers) + 1, size, dtype=np.int32), numbers.view(np.uint8)


def _levels_of(values: str, lengths: np.ndarray, data: np.ndarray, null: int) -> pa.Array:
    """The inverse of :func:`level_bytes`; ``null`` is the place of the level that is null, -1 if none is."""
    n = len(lengths)
    is_null = np.arange(n) == null
    if values == "string":
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        validity = pa.py_buffer(np.packbits(~is_null, bitorder="little")) if null >= 0 else None
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
        return pa.Array.from_buffers(pa.string(), n, buffers)
    numbers = np.zeros(n, _NUMBER_TYPES[values])
    numbers[~is_null] = np.ascontiguousarray(data).view(numbers.dtype)
    return pa.array(numbers if values != "bool" else numbers.astype(np.bool_), ARROW_TYPES[values], mask=is_null)


def levels_state(levels: pa.Array, values: str) -> dict[str, Any]:
    """Levels as plain arrays, to be written down; :func:`levels_from_state` is the inverse."""
    is_null = null_mask(levels)
    valid = levels.drop_null() if len(is_null) else levels
    offsets, data = level_bytes(valid, values)
    lengths = np.zeros(len(levels), np.uint32)
    lengths[~is_null if len(is_null) else slice(None)] = np.diff(offsets)
    return {
        "values": values, "lengths": lengths, "bytes": data[offsets[0] : offsets[-1]],
        "null": int(is_null.argmax()) if len(is_null) else -1,
    }  # fmt: skip


def levels_from_state(state: dict[str, Any]) -> pa.Array:
    """The levels that :func:`levels_state` took apart.

    Raises
    ------
    ValueError
        They were not: their lengths would lead out of the bytes.
    """
    lengths, data = state["lengths"], state["bytes"]
    if lengths.dtype != np.uint32 or data.dtype != np.uint8 or int(lengths.sum(dtype=np.uint64)) != len(data):
        raise ValueError("levels whose lengths do not add up to their bytes")
    return _levels_of(state["values"], lengths, data, state["null"])


class LevelIndex:
    """Distinct levels in the order they were met, and the code of each: its place in that order."""

    def __init__(self, values: str, levels: pa.Array | None = None):
        self._values = values
        self._n_levels = 0
        self._null_code = np.array([-1])
        self._index = np.zeros(_FEWEST_ENTRIES, np.uint64)
        self._offsets = np.zeros(_FEWEST_ENTRIES // 2 + 1, np.int32)
        self._data = np.empty(8 * _FEWEST_ENTRIES, np.uint8)
        if levels is not None:
            self.codes(levels, growing=True)

    def __len__(self) -> int:
        return self._n_levels

    @property
    def levels(self) -> pa.Array:
        """The levels in the order of their codes."""
        offsets = self._offsets[: self._n_levels + 1]
        return _levels_of(self._values, np.diff(offsets), self._data[: offsets[-1]].copy(), int(self._null_code[0]))

    def codes(self, levels: pa.Array, growing: bool) -> np.ndarray:
        """The code of each level, int32; a new one gets the next code if ``growing``, else -1.

        Raises
        ------
        DataError
            The levels take more than 2 GB.
        """
        offsets, data = level_bytes(levels, self._values)
        is_null = null_mask(levels)
        hashes = np.empty(len(levels), np.uint64)
        kernels.hash_texts(offsets, data, hashes)
        codes, done = np.empty(len(levels), np.int32), 0
        while True:
            done, self._n_levels = kernels.find_levels(
                offsets, data, is_null, hashes, growing, self._index, self._offsets, self._data, self._n_levels,
                self._null_code, done, codes,
            )  # fmt: skip
            if done == len(levels):
                return codes
            self._make_room(int(offsets[done + 1] - offsets[done]))

    def _make_room(self, level_bytes: int) -> None:
        """Room for another level of so many bytes, and for as much again as there is."""
        n, used = self._n_levels, int(self._offsets[self._n_levels])
        if used + level_bytes > _MOST_BYTES:
            raise DataError("the levels of a column take more than 2 GB. Leave it out, or lower --max-levels.")
        if used + level_bytes > len(self._data):
            data = np.empty(min(_MOST_BYTES, 2 * (used + level_bytes)), np.uint8)
            data[:used] = self._data[:used]
            self._data = data
        if 2 * (n + 1) > len(self._index):
            hashes = np.empty(n, np.uint64)
            kernels.hash_texts(self._offsets, self._data, hashes)
            self._index = np.zeros(2 * len(self._index), np.uint64)
            kernels.index_levels(hashes, int(self._null_code[0]), self._index)
            offsets = np.zeros(len(self._index) // 2 + 1, np.int32)
            offsets[: n + 1] = self._offsets[: n + 1]
            self._offsets = offsets
