"""Nested Arrow columns that have entries: lists of integers or texts, lists of pairs with a number, maps to numbers.

list<int>  list<string>  list<struct<int | string, number>>  map<int | string, number>
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.kinds import NUMBERS, kind_of
from streamgd.data.numbers import as_float64

#: What an entry is named by: the number of a column, or a text.
Keys = Literal["index", "string"]


@dataclass(frozen=True)
class NestedType:
    """What the entries of a type are named by, and whether they have numbers.

    ``key`` and ``number`` are the places of the fields of a pair.
    """

    keys: Keys
    has_values: bool
    key: int = 0
    number: int = 1


def nested_type(arrow_type: pa.DataType) -> NestedType | None:
    """What the entries of a column of ``arrow_type`` are; None where it has none.

    >>> nested_type(pa.list_(pa.int32()))
    NestedType(keys='index', has_values=False, key=0, number=1)
    >>> nested_type(pa.map_(pa.string(), pa.float32())).keys
    'string'
    >>> nested_type(pa.list_(pa.float32())) is None
    True
    """
    types = pa.types
    if types.is_map(arrow_type):
        keys = _keys_of(arrow_type.key_type)
        return NestedType(keys, True) if keys and _is_number(arrow_type.item_type) else None
    if not (types.is_list(arrow_type) or types.is_large_list(arrow_type) or _is_other_list(arrow_type)):
        return None
    element = arrow_type.value_type
    if not types.is_struct(element):
        keys = _keys_of(element)
        return NestedType(keys, False) if keys else None
    if element.num_fields != 2:
        return None
    pair = [element.field(place).type for place in range(2)]
    for key, number in ((0, 1), (1, 0)):
        keys = _keys_of(pair[key])
        if keys and _is_number(pair[number]):
            return NestedType(keys, True, key, number)
    return None


def _is_other_list(arrow_type: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_fixed_size_list(arrow_type)
        or types.is_list_view(arrow_type)
        or types.is_large_list_view(arrow_type)
    )  # fmt: skip


def _keys_of(arrow_type: pa.DataType) -> Keys | None:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if pa.types.is_integer(arrow_type):
        return "index"
    is_text = pa.types.is_large_string(arrow_type) or pa.types.is_string_view(arrow_type)
    return "string" if is_text or pa.types.is_string(arrow_type) else None


def _is_number(arrow_type: pa.DataType) -> bool:
    return kind_of(arrow_type) in NUMBERS


@dataclass(frozen=True)
class NestedRows:
    """The entries of one column of a batch.

    Attributes
    ----------
    begins, ends : int64, (n_rows,)
        Row i has the elements ``begins[i] … ends[i] - 1``; none where it is null.
    keys : Arrow array, (n_elements,)
        Integers or texts.
    numbers : float64, (n_elements,) or (0,)
        NaN for null.
    is_null : bool, (n_elements,)
        Whether key or number is null or NaN.
    row_is_null : bool, (n_rows,)
        Whether a row, or an element of it, is null.
    """

    begins: np.ndarray
    ends: np.ndarray
    keys: pa.Array
    numbers: np.ndarray
    is_null: np.ndarray
    row_is_null: np.ndarray

    @classmethod
    def of(cls, array: pa.Array) -> NestedRows:
        """Those of an array of a type that has a :func:`nested_type`, or of the null type."""
        if pa.types.is_null(array.type):
            array = array.cast(pa.list_(pa.int64()))
        found = nested_type(array.type)
        assert found is not None
        begins, ends, elements = _bounds(array)
        numbers = np.empty(0)
        if found.has_values:
            pair = elements.flatten()
            keys, given = pair[found.key], pair[found.number]
            numbers = np.asarray(as_float64(given).to_numpy(zero_copy_only=False), np.float64)
        else:
            keys = elements
        is_null = np.asarray(pc.is_null(keys).to_numpy(zero_copy_only=False))
        if found.has_values:
            is_null = is_null | np.isnan(numbers)
        row_is_null = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
        if is_null.any():
            before = np.concatenate([[0], np.cumsum(is_null)])
            row_is_null = row_is_null | (before[ends] > before[begins])
        return cls(begins, ends, keys, numbers, is_null, row_is_null)

    def elements_of(self, rows: np.ndarray) -> np.ndarray:
        """Elements that one of ``rows`` (bool, (n_rows,)) has, bool, (n_elements,); rows of a view may share them."""
        n = len(self.keys)
        begun, ended = (np.bincount(places[rows], minlength=n + 1)[:n] for places in (self.begins, self.ends))
        return np.asarray(np.cumsum(begun - ended) > 0)


def _bounds(array: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Where the elements of each row begin and end, int64, and the elements."""
    types = pa.types
    if types.is_fixed_size_list(array.type):
        size = array.type.list_size
        begins = size * np.arange(array.offset, array.offset + len(array))
        ends = begins + size
    elif types.is_list_view(array.type) or types.is_large_list_view(array.type):
        begins = array.offsets.to_numpy().astype(np.int64)
        ends = begins + array.sizes.to_numpy()
    else:
        offsets = array.offsets.to_numpy().astype(np.int64)
        begins, ends = offsets[:-1], offsets[1:]
    if array.null_count:
        ends = np.where(pc.is_null(array).to_numpy(zero_copy_only=False), begins, ends)
    has_any = ends > begins
    first, last = (begins[has_any].min(), ends[has_any].max()) if has_any.any() else (0, 0)
    begins = np.where(has_any, begins - first, 0)
    ends = np.where(has_any, ends - first, 0)
    return begins, ends, array.values.slice(first, last - first)
