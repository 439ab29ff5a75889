"""Columns of lists and maps: which of them have entries, and the elements of each row."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.columns import SparseColumn
from streamgd.data.derived import UsedRows
from streamgd.data.entries import encode_entries
from streamgd.data.nested import NestedRows, nested_type
from streamgd.data.sparse import KeysMet

PAIR = pa.struct([("i", pa.int32()), ("v", pa.float64())])
LISTS = {
    "list": pa.list_(pa.int32()),
    "large_list": pa.large_list(pa.int64()),
    "list_view": pa.list_view(pa.int16()),
    "large_list_view": pa.large_list_view(pa.uint8()),
    "words": pa.list_(pa.string()),
    "large_words": pa.large_list(pa.large_string()),
    "pairs": pa.list_(PAIR),
    "swapped pairs": pa.list_(pa.struct([("v", pa.float32()), ("i", pa.string())])),
    "map": pa.map_(pa.string(), pa.float32()),
    "map of integers": pa.map_(pa.int64(), pa.int8()),
}
OTHERS = [
    pa.list_(pa.float64()), pa.list_(pa.bool_()), pa.list_(pa.list_(pa.int8())), pa.struct([("a", pa.int8())]),
    pa.list_(pa.struct([("a", pa.int8())])), pa.list_(pa.struct([("a", pa.float32()), ("b", pa.float32())])),
    pa.map_(pa.string(), pa.string()), pa.map_(pa.float64(), pa.float64()), pa.binary(), pa.int8(), pa.string(),
]  # fmt: skip

ROWS = st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4), max_size=12)


def element(arrow_type: pa.DataType, number: int | None) -> Any:
    """An element of a list or map for a number; None is a null, of a pair and of a map a null number."""
    value = None if number is None else number / 2
    key = f"w{number}" if nested_type(arrow_type).keys == "string" else number  # type: ignore[union-attr]
    if pa.types.is_map(arrow_type):
        return ("w0" if arrow_type.key_type == pa.string() else 0, None) if number is None else (key, int(value or 0))
    if pa.types.is_struct(arrow_type.value_type):
        return None if number is None else {"i": key, "v": value}
    return None if number is None else key


@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=25)
@given(rows=ROWS, cut=st.integers(0, 5))
def test_elements_are_those_of_the_rows(name: str, rows: list[list[int | None] | None], cut: int) -> None:
    arrow_type = LISTS[name]
    made = [None if row is None else [element(arrow_type, number) for number in row] for row in rows]
    array = pa.array(made, arrow_type).slice(cut)
    found = NestedRows.of(array)
    keys = found.keys.to_pylist()
    for i, row in enumerate(array.to_pylist()):
        elements = range(int(found.begins[i]), int(found.ends[i]))
        assert len(elements) == len(row or [])
        numbers = (rows[cut:][i] or []) if row is not None else []
        assert found.is_null[elements].tolist() == [number is None for number in numbers]
        assert bool(found.row_is_null[i]) == (row is None or None in numbers)
        for at, number in zip(elements, numbers, strict=True):
            if number is not None:
                wanted = f"w{number}" if nested_type(arrow_type).keys == "string" else number  # type: ignore[union-attr]
                assert keys[at] == wanted
                if len(found.numbers):
                    assert found.numbers[at] == (int(number / 2) if pa.types.is_map(arrow_type) else number / 2)
    chosen = np.arange(len(array)) % 2 == 0
    of_chosen = [range(found.begins[i], found.ends[i]) for i in np.flatnonzero(chosen)]
    assert np.flatnonzero(found.elements_of(chosen)).tolist() == sorted({at for each in of_chosen for at in each})


def test_rows_of_a_view_that_share_elements_have_them_whichever_of_them_is_dropped() -> None:
    words = pa.ListViewArray.from_arrays([0, 1, 1, 0], [2, 3, 1, 0], pa.array(["a", "b", "c", "d", "e"]))
    column, batch = SparseColumn("c", "string", has_values=False), pa.record_batch({"c": words})
    for dropped in range(4):
        kept = np.arange(4) != dropped
        a, b, c, _ = kept.astype(int).tolist()
        met = KeysMet(column, 100, 16)
        entries = encode_entries(UsedRows(batch, kept, str), [column], [NestedRows.of(words)], [met], kept).entries
        levels = met.vocabulary.levels.to_pylist()
        found = [[levels[key] for key in entries.keys[begin:end]] for begin, end in pairwise(entries.starts)]
        assert found == [a * ["a", "b"], b * ["b", "c", "d"], c * ["b"], []]


def test_lists_of_a_fixed_size_have_their_elements_too() -> None:
    array = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int32(), 2))
    found = NestedRows.of(array.slice(1))
    assert (found.ends - found.begins).tolist() == [0, 2]
    assert found.keys[int(found.begins[1])].as_py() == 3
    assert NestedRows.of(array).row_is_null.tolist() == [False, True, True]


def test_elements_that_a_null_row_hides_are_no_elements() -> None:
    hidden = pa.ListArray.from_arrays([0, 2, 3], [1, 2, 3], mask=pa.array([True, False]))
    found = NestedRows.of(hidden)
    assert (found.ends - found.begins).tolist() == [0, 1]
    assert np.array(found.keys)[found.begins[1]] == 3


@pytest.mark.parametrize("arrow_type", OTHERS, ids=str)
def test_other_types_have_no_entries(arrow_type: pa.DataType) -> None:
    assert nested_type(arrow_type) is None
