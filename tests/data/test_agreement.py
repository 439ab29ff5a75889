"""New data must have the columns of a model, in types that mean the same; other widths of a type do."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.data.agreement import check_columns, telling_types
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


@pytest.mark.parametrize("columns", [columns for columns, _, _ in CASES])
def test_the_null_type_has_no_value_of_another_kind(tmp_path: Path, columns: dict[str, Any]) -> None:
    checked(tmp_path, pa.null(), **columns)


@pytest.mark.parametrize(("columns", "arrow_type"), [(columns, each) for columns, _, bad in CASES for each in bad])
def test_types_of_another_kind_are_refused(tmp_path: Path, columns: dict[str, Any], arrow_type: pa.DataType) -> None:
    found = str(arrow_type).partition("<")[0].replace("[", r"\[")
    with pytest.raises(SchemaError, match=rf"data\.parquet, column 'c': found {found}.*, the model was trained on "):
        checked(tmp_path, arrow_type, **columns)


TOKYO = pa.timestamp("us", "Asia/Tokyo")
# What a model was trained on, what means the same, what means something else, and what is said of the first.
TELLING = [
    (label("string"), pa.timestamp("us"), pa.timestamp("us"), pa.timestamp("ns"), "timestamp[us]"),
    (label("string"), pa.timestamp("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"), "timestamp[us]"),
    (label("string"), pa.timestamp("s"), pa.timestamp("ms"), pa.date32(), "timestamp[ms]"),
    (label("string"), pa.decimal128(5, 2), pa.decimal128(9, 2), pa.decimal128(9, 4), "decimals of scale 2"),
    (label("float"), pa.float32(), pa.int8(), pa.float64(), "float"),
    (HOUR, TOKYO, pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("us"), "timestamps in time zone Asia/Tokyo"),
    (HOUR, pa.timestamp("us"), pa.timestamp("ms"), pa.timestamp("us", "UTC"), "timestamps without a time zone"),
]


@pytest.mark.parametrize(("columns", "trained", "same", "other", "told"), TELLING)
def test_labels_and_local_times_of_another_unit_scale_width_or_zone_are_refused(
    tmp_path: Path, columns: dict[str, Any], trained: pa.DataType, same: pa.DataType, other: pa.DataType, told: str
) -> None:
    pq.write_table(pa.table({"c": pa.array([None], trained)}), tmp_path / "trained.parquet")
    schema = discover([str(tmp_path / "trained.parquet")]).schema
    types = tuple(telling_types(Columns(**({"numeric": (), "categorical": ()} | columns)), schema).items())
    (tmp_path / "new").mkdir()
    checked(tmp_path / "new", trained, **columns, types=types)
    checked(tmp_path / "new", same, **columns, types=types)
    with pytest.raises(SchemaError, match=re.escape(f"the model was trained on {told}.")):
        checked(tmp_path / "new", other, **columns, types=types)


def test_all_missing_columns_are_named(tmp_path: Path) -> None:
    columns = {"numeric": (NumericColumn("x", "x"),), "target": TargetColumn("y"), "weight": "c"}

    with pytest.raises(SchemaError, match=r"lacks columns that the model needs: 'x', 'y'\. Known: c"):
        checked(tmp_path, pa.int64(), **columns)
