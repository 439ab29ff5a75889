"""The description of a data set: sizes and columns as pyarrow's own readers tell them, in values that JSON holds."""

import datetime
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from streamgd.errors import ConfigError, CorruptFileError, NoInputError
from streamgd.inspection import format_inspection, inspect
from streamgd.plain import byte_size, plain

ROWS = 500


def cycled(values: list[Any], arrow_type: pa.DataType | None = None) -> pa.Array:
    return pa.array([values[k % len(values)] for k in range(ROWS)], arrow_type)


COLUMNS = {
    "row": pa.array(np.arange(ROWS) * 7),
    "x": pa.array(np.linspace(-1.5, 2.5, ROWS)),
    "gaps": cycled([1, None, 3, 4]),
    "carrier": cycled(["AA", "UA", None]),
    "codes": cycled(["b", "a"]).dictionary_encode(),
    "when": cycled([datetime.datetime(2026, 1, 2), datetime.datetime(2025, 3, 4)]),
    "price": cycled([Decimal("1.50"), Decimal("2.25")]),
    "flag": cycled([True, False]),
    "bytes": cycled([b"ab", b"\xff"]),
    "nested": cycled([{"a": 1}, None]),
    "half": cycled([np.float16(1.5), None], pa.float16()),
    "empty": cycled([None], pa.float64()),
    "infinite": cycled([float("inf"), 1.0]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    whole = pa.table(COLUMNS)
    for month, start, stop in ((1, 0, 300), (2, 300, 500)):
        (tmp_path / f"month={month}").mkdir()
        pq.write_table(whole.slice(start, stop - start), tmp_path / f"month={month}" / "a.parquet", row_group_size=120)
    pq.write_table(whole.slice(0, 0), tmp_path / "month=2" / "none.parquet")
    return tmp_path


def columns_of(inspection: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {column["name"]: column for column in inspection["columns"]}


def test_sizes_are_those_of_the_files(folder: Path) -> None:
    found = inspect(str(folder))

    footers = [pq.read_metadata(path) for path in sorted(folder.rglob("*.parquet"))]
    groups = [footer.row_group(k) for footer in footers for k in range(footer.num_row_groups)]
    sizes = [group.total_byte_size for group in groups if group.num_rows]
    assert found["files"] == 3
    assert found["rows"] == ROWS
    assert found["row_groups"] == 5
    assert found["row_group_rows"] == {"smallest": 60, "largest": 120}
    assert found["row_group_bytes"] == {"smallest": min(sizes), "largest": max(sizes)}
    assert found["bytes_on_disk"] == sum(os.path.getsize(path) for path in folder.rglob("*.parquet"))
    assert found["bytes_uncompressed"] == sum(sizes)


def test_every_column_is_told_with_what_it_would_become(folder: Path) -> None:
    found = columns_of(inspect(str(folder)))

    assert list(found) == [*COLUMNS, "month"]
    became = {name: column["becomes"] for name, column in found.items()}
    assert became == {
        "row": "left out", "x": "number", "gaps": "number", "carrier": "categorical", "codes": "categorical",
        "when": "refused", "price": "number", "flag": "number", "bytes": "refused", "nested": "refused",
        "half": "number", "empty": "number", "infinite": "number", "month": "number",
    }  # fmt: skip
    assert "--timestamps" in found["when"]["reason"]
    assert "different value in every row" in found["row"]["reason"]
    assert found["codes"]["type"] == "string"
    assert found["price"]["type"].startswith("decimal")


def test_nulls_are_counted_from_the_footers(folder: Path) -> None:
    found = columns_of(inspect(str(folder)))

    for name, values in COLUMNS.items():
        expected = None if name == "nested" else values.null_count
        assert found[name]["nulls"] == expected, name
    assert found["month"]["nulls"] == 0


def test_bounds_are_those_of_the_values(folder: Path) -> None:
    found = {name: (column["minimum"], column["maximum"]) for name, column in columns_of(inspect(str(folder))).items()}

    for name in ("row", "x", "gaps", "carrier", "flag"):
        assert found[name] == tuple(pc.min_max(COLUMNS[name]).as_py().values()), name
    assert found["codes"] == ("a", "b")
    assert found["when"] == ("2025-03-04 00:00:00", "2026-01-02 00:00:00")
    assert found["price"] == ("1.50", "2.25")
    assert found["bytes"] == ("ab", "\\xff")
    assert found["infinite"] == (1.0, "inf")
    assert found["month"] == (1, 2)
    for name in ("nested", "empty"):
        assert found[name] == (None, None)


def test_footers_without_statistics_say_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, None]}), tmp_path / "a.parquet", write_statistics=False)

    (column,) = inspect(str(tmp_path))["columns"]

    assert (column["nulls"], column["minimum"], column["maximum"]) == (None, None, None)


def test_the_null_folder_of_a_partition_counts_its_rows(tmp_path: Path) -> None:
    for value, rows in (("7", 3), ("__HIVE_DEFAULT_PARTITION__", 5)):
        (tmp_path / f"part={value}").mkdir()
        pq.write_table(pa.table({"x": np.arange(rows)}), tmp_path / f"part={value}" / "a.parquet")

    part = columns_of(inspect(str(tmp_path)))["part"]

    assert (part["nulls"], part["minimum"], part["maximum"]) == (5, 7, 7)


def test_the_description_can_be_written_as_json(folder: Path) -> None:
    found = inspect([str(folder)])

    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_text_is_a_table_with_a_line_for_each_column(folder: Path) -> None:
    lines = format_inspection(inspect(str(folder))).splitlines()

    assert lines[0].startswith("500 rows in 3 files, ")
    assert lines[1].startswith("5 row groups of 60 to 120 rows, ")
    header, *rows = lines[3:]
    assert header.split() == ["column", "type", "becomes", "nulls", "minimum", "maximum"]
    assert [row.split()[0] for row in rows] == [*COLUMNS, "month"]
    assert rows[0].split()[:6] == ["row", "int64", "left", "out", "0", "0"]
    assert {row[header.index("becomes") :].split("  ")[0] for row in rows} == {
        "left out", "number", "categorical", "refused",
    }  # fmt: skip
    assert "? " in rows[list(COLUMNS).index("nested")]


def test_numbers_and_empty_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"year": [2011, 2017], "tail": ["", "N1"]}), tmp_path / "a.parquet")

    lines = format_inspection(inspect(str(tmp_path))).splitlines()

    assert lines[-2].split() == ["year", "int64", "number", "0", "2011", "2017"]
    assert lines[-1].split() == ["tail", "string", "categorical", "0", "''", "N1"]


def test_long_texts_are_cut_and_stay_on_their_line(tmp_path: Path) -> None:
    text = "a\nline" + "x" * 1000
    pq.write_table(pa.table({"note": [text, "b"]}), tmp_path / "a.parquet")

    lines = format_inspection(inspect(str(tmp_path))).splitlines()

    assert len(lines) == 5
    assert max(map(len, lines)) < 120


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        inspect(str(tmp_path / "nothing"))


def test_columns_in_which_files_differ_are_told_as_such(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2], "u": [1.5, 2.5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"y": [1, 2], "u": [3.5, 4.5]}), tmp_path / "b.parquet")
    x, u, y = inspect(str(tmp_path))["columns"]
    assert (x["becomes"], u["becomes"], y["becomes"]) == ("refused", "number", "refused")
    assert (u["minimum"], u["maximum"]) == (1.5, 4.5)
    for column, path, missing in ((x, "a", "b"), (y, "b", "a")):
        assert f"missing in {tmp_path / missing}.parquet" in column["reason"]
        assert f"int64 in {tmp_path / path}.parquet" in column["reason"]
        assert column["minimum"] is column["maximum"] is None


def test_one_row_is_told_as_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.5]}), tmp_path / "a.parquet")
    first, second, *_ = format_inspection(inspect(str(tmp_path))).splitlines()
    assert first.startswith("1 row in 1 file, ")
    assert second.startswith("1 row group of 1 row, ")


def test_bad_parts_are_left_out_and_listed_on_request(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 100), ("c", 200)):
        table = pa.table({"x": [float(start), start + 1.0], "y": [0, 1]})
        pq.write_table(table, tmp_path / f"{name}.parquet", write_page_checksum=True)
    spoilt = bytearray((tmp_path / "b.parquet").read_bytes())
    chunk = pq.read_metadata(tmp_path / "b.parquet").row_group(0).column(0)
    spoilt[chunk.dictionary_page_offset + chunk.total_compressed_size - 1] ^= 1
    (tmp_path / "b.parquet").write_bytes(spoilt)
    (tmp_path / "c.parquet").write_bytes(b"no footer")
    with pytest.raises(CorruptFileError, match=r"c\.parquet"):
        inspect(str(tmp_path))
    found = inspect(str(tmp_path), on_bad_data="skip")
    assert found["row_groups"] == 1
    assert found["columns"][0]["maximum"] == 1.0
    assert sorted(text.split("parquet")[0][-2:] for text in found["skipped"]) == ["b.", "c."]
    assert format_inspection(found).count("\nskipped: ") == 2
    with pytest.raises(ConfigError, match="--on-bad-data: expected error or skip, found 'drop'"):
        inspect(str(tmp_path), on_bad_data="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (10**16, "10,000.0 TB")],
)
def test_sizes_are_shown_in_powers_of_ten(size_bytes: int, text: str) -> None:
    assert byte_size(size_bytes) == text


def test_values_are_made_plain() -> None:
    values = [None, True, 3, 1.5, float("nan"), "a", b"a\xff", Decimal("1.10"), datetime.date(2026, 1, 2)]

    assert [plain(value) for value in values] == [None, True, 3, 1.5, "nan", "a", "a\\xff", "1.10", "2026-01-02"]
