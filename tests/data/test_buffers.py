"""Numbers of a batch are found as they are, and made where they are not as they are read."""

import ctypes
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamgd.data.buffers import NumberBuffers
from streamgd.data.columns import Columns, NumericColumn, TargetColumn
from streamgd.data.derived import UsedRows
from streamgd.data.transforms.numbers import Log
from streamgd.kernels import arrow as kernels

ROWS = {
    "late": pa.array([0, 1, None, 1], pa.int8()), "x": pa.array([1.0, 2.0, None, 4.0]), "note": pa.array(list("abcd")),
    "half": pa.array(np.array([1, 2, 3, 4], np.float16)), "n": pa.array([4, 3, 2, 1], pa.int32()),
}  # fmt: skip


def columns_of(*numeric: NumericColumn, target: str | None = "late") -> Columns:
    of_target = TargetColumn(target, (0, 1)) if target is not None else None
    return Columns(numeric, (), of_target)


def read_back(found: NumberBuffers) -> list[list[Any]]:
    """The columns, each checked to be where its buffers are."""
    for number, place in enumerate(found.places):
        array = found.batch.column(int(place))
        assert found.buffers[0, number] == array.buffers()[1].address
        assert kernels.KINDS[found.buffers[3, number]] == str(array.type)
    return [found.column(number).to_pylist() for number in range(len(found.places))]


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(2, 2)], ids=str)
def test_columns_are_found_in_the_order_of_the_features_and_the_target_last(rows: slice) -> None:
    batch = pa.record_batch(ROWS)[rows]
    columns = columns_of(NumericColumn("n", "n"), NumericColumn("x", "x"))
    as_read = NumberBuffers.as_read(batch, columns)
    assert as_read.batch is batch
    assert read_back(as_read) == [ROWS[name][rows].to_pylist() for name in ("n", "x", "late")]
    assert read_back(as_read.last) == [ROWS["late"][rows].to_pylist()]
    features = NumberBuffers.of_features(UsedRows(batch, np.ones(len(batch), np.bool_), str), columns, as_read)
    assert features.batch is batch
    assert read_back(features) == [ROWS[name][rows].to_pylist() for name in ("n", "x")]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (NumericColumn("half", "half"), [1.0, 2.0, 3.0, 4.0]),
        (NumericColumn("n", "n", steps=(Log(),)), np.log([4.0, 3.0, 2.0, 1.0]).tolist()),
        (NumericColumn("x is null", "x", "is_null"), [0.0, 0.0, 1.0, 0.0]),
    ],
    ids=["type", "steps", "part"],
)
def test_other_features_are_made(column: NumericColumn, expected: list[float]) -> None:
    batch, columns = pa.record_batch(ROWS), columns_of(NumericColumn("x", "x"), column)
    as_read = NumberBuffers.as_read(batch, columns)
    assert read_back(as_read.last) == [ROWS["late"].to_pylist()]
    features = NumberBuffers.of_features(UsedRows(batch, np.ones(4, np.bool_), str), columns, as_read)
    x, made = read_back(features)
    assert x == ROWS["x"].to_pylist()
    assert made == pytest.approx(expected)


def test_a_target_of_another_type_becomes_float64() -> None:
    as_read = NumberBuffers.as_read(pa.record_batch(ROWS), columns_of(target="half"))
    assert read_back(as_read.last) == [[1.0, 2.0, 3.0, 4.0]]


def test_without_target_there_are_features_alone() -> None:
    as_read = NumberBuffers.as_read(pa.record_batch(ROWS), columns_of(NumericColumn("x", "x"), target=None))
    assert read_back(as_read) == [ROWS["x"].to_pylist()]
    assert read_back(NumberBuffers.as_read(as_read.batch, columns_of(target=None))) == []


def test_who_else_reads_capsules_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.pythonapi.PyCapsule_GetPointer, "restype", ctypes.POINTER(ctypes.c_int))
    assert read_back(NumberBuffers.of(pa.record_batch(ROWS), np.array([1]))) == [ROWS["x"].to_pylist()]
