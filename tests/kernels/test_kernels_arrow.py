"""Values are where pyarrow itself says, whatever types stand beside them and however rows are cut."""

import ctypes
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamgd.kernels import arrow as kernels

OTHERS = {
    "half": pa.array(np.arange(9, dtype=np.float16)),
    "decimal": pa.array([decimal.Decimal(i) for i in range(9)]),
    "date": pa.array(range(9), pa.date32()),
    "uint64": pa.array(range(9), pa.uint64()),
    "text": pa.array(list("abcdefghi")),
    "view": pa.array(list("abcdefghi"), pa.string_view()),
    "codes": pa.array(list("abcabcabc")).dictionary_encode(),
    "codes of numbers": pa.array([1.0, 2.0, 3.0] * 3).dictionary_encode(),
    "list": pa.array([[1.0]] * 9),
    "struct": pa.array([{"a": 1.0}] * 9),
    "null": pa.nulls(9),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([4, 9], pa.int32()), pa.array([1.0, 2.0])),
}


def found_in(batch: pa.RecordBatch, places: list[int]) -> np.ndarray:
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    content = get_pointer(("PyCapsule_GetPointer", ctypes.pythonapi))
    schema, array = batch.__arrow_c_array__()
    found = np.full((4, len(places)), 77)
    kernels.column_buffers(
        content(array, b"arrow_array"), content(schema, b"arrow_schema"), np.array(places, np.int64), found
    )
    return found


@pytest.mark.parametrize("name", kernels.KINDS)
@pytest.mark.parametrize("rows", [slice(None), slice(3, 8), slice(4, 4)])
@pytest.mark.parametrize("has_nulls", [False, True])
def test_numbers_are_where_pyarrow_says(name: str, rows: slice, has_nulls: bool) -> None:
    values: list[Any] = [i % 2 == 0 if name == "bool" else i for i in range(9)]
    values[5] = None if has_nulls else values[5]
    array = pa.array(values, pa.type_for_alias(name))
    batch = pa.record_batch({"text": OTHERS["text"], "a": OTHERS["codes"], "x": array})[rows]

    ((address,), (validity,), (offset,), (kind,)) = found_in(batch, [2])
    bitmap, buffer = batch.column(2).buffers()
    assert (address, offset, kernels.KINDS[kind]) == (buffer.address, batch.column(2).offset, name)
    if batch.column(2).null_count:
        assert validity == bitmap.address
    elif not has_nulls:
        assert validity == 0


def test_other_types_are_none_of_the_kinds() -> None:
    batch = pa.record_batch({**OTHERS, "x": pa.array(np.arange(9.0))})
    found = found_in(batch, [*range(len(batch.schema)), len(OTHERS)])
    assert found[3, :-2].tolist() == [-1] * len(OTHERS)
    assert (found[:3, : len(OTHERS)] == 0).all()
    np.testing.assert_array_equal(found[:, -1], found[:, -2])
    assert found[3, -1] == kernels.KINDS.index("double")


def test_an_extension_type_is_what_it_is_stored_as() -> None:
    stored = pa.array([1, 0, None], pa.int8())
    (_, _, _, (kind,)) = found_in(pa.record_batch({"x": stored.cast(pa.bool8())}), [0])
    assert kernels.KINDS[kind] == "int8"


def test_nothing_is_looked_up_for_no_columns() -> None:
    assert found_in(pa.record_batch({"x": pa.array([1.0])}), []).shape == (4, 0)
    assert found_in(pa.record_batch({}), []).shape == (4, 0)
