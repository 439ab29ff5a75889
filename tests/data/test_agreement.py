"""New data must have the columns of a model, in types that mean the same; other widths of a type do."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.data.agreement import check_columns
from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, SparseColumn, TargetColumn
from streamgd.data.source import discover
from streamgd.errors import SchemaError


def checked(folder: Path, arrow_type: pa.DataType, **columns: Any) -> None:
    """Check data whose one column ``c`` has this type."""
    pq.write_table(pa.table({"c": pa.array([None], arrow_type)}), folder / "data.parquet")
    check_columns(Columns(**({"numeric": (), "categorical": ()} | columns)), discover([str(folder)]))


def label(values: Any) -> dict[str, Any]:
    return {"categorical": (CategoricalColumn("c", values),)}


NUMBER = {"numeric": (NumericColumn("c", "c"),)}
HOUR = {"numeric": (NumericColumn("c.hour", "c", "hour"),)}
CASES = [
    (NUMBER, [pa.int8(), pa.float16(), pa.float64(), pa.bool_(), pa.decimal128(9, 2)], [pa.string(), pa.date32()]),
    (HOUR, [pa.timestamp("s"), pa.timestamp("ns", "UTC")], [pa.date32(), pa.int64(), pa.string()]),
    (label("string"), [pa.string(), pa.large_string(), pa.date32()], [pa.int64(), pa.float64(), pa.bool_()]),
    (label("int"), [pa.int8(), pa.uint64()], [pa.string(), pa.float64(), pa.bool_()]),
    (label("float"), [pa.float32(), pa.int32()], [pa.string(), pa.bool_()]),
    (label("bool"), [pa.bool_()], [pa.int8(), pa.string()]),
    (
        {"sparse": (SparseColumn("c", "index", has_values=False),)},
        [pa.list_(pa.int8()), pa.large_list(pa.uint64()), pa.list_(pa.int32(), 2)],
        [pa.list_(pa.string()), pa.map_(pa.int8(), pa.int8()), pa.int64(), pa.list_(pa.float64())],
    ),
    (
        {"sparse": (SparseColumn("c", "string", has_values=True),)},
        [pa.map_(pa.string(), pa.int8()), pa.list_(pa.struct([("a", pa.string()), ("b", pa.float32())]))],
        [pa.list_(pa.string()), pa.string(), pa.map_(pa.int64(), pa.int8())],
    ),
    ({"target": TargetColumn("c")}, [pa.int8(), pa.float32(), pa.bool_()], [pa.string(), pa.list_(pa.int8())]),
    ({"target": TargetColumn("c", (0, 1))}, [pa.int8(), pa.float64(), pa.bool_()], [pa.string()]),
    ({"target": TargetColumn("c", ("a", "b"))}, [pa.string(), pa.large_string()], [pa.int8(), pa.bool_()]),
    ({"weight": "c"}, [pa.int8(), pa.float64()], [pa.string(), pa.date32()]),
    ({"offset": "c"}, [pa.int8(), pa.float64()], [pa.string(), pa.struct([("a", pa.int8())])]),
]


@pytest.mark.parametrize(("columns", "arrow_type"), [(columns, each) for columns, good, _ in CASES for each in good])
def test_types_that_mean_the_same_are_taken(tmp_path: Path, columns: dict[str, Any], arrow_type: pa.DataType) -> None:
    checked(tmp_path, arrow_type, **columns)


@pytest.mark.parametrize(("columns", "arrow_type"), [(columns, each) for columns, _, bad in CASES for each in bad])
def test_types_of_another_kind_are_refused(tmp_path: Path, columns: dict[str, Any], arrow_type: pa.DataType) -> None:
    found = str(arrow_type).partition("<")[0].replace("[", r"\[")
    with pytest.raises(SchemaError, match=rf"data\.parquet, column 'c': found {found}.*, the model was trained on "):
        checked(tmp_path, arrow_type, **columns)


def test_all_missing_columns_are_named(tmp_path: Path) -> None:
    columns = {"numeric": (NumericColumn("x", "x"),), "target": TargetColumn("y"), "weight": "c"}

    with pytest.raises(SchemaError, match=r"lacks columns that the model needs: 'x', 'y'\. Known: c"):
        checked(tmp_path, pa.int64(), **columns)
