"""Data that are no Parquet files: frames in memory, and streams of record batches that can be read once.

Anything with ``__arrow_c_stream__`` is taken, so that neither pandas nor polars is imported. Frames are written to one
Parquet file with row groups of a fixed size: the same rows give the same file, whoever held them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamgd.data.kinds import kind_of, type_name
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, logical_type
from streamgd.errors import DataError, NoInputError, SchemaError, storage_errors

#: Rows of a row group of a file that is made of a frame.
FRAME_GROUP_ROWS = 65_536
#: Rows and values of a row group of a part of a stream: so few, that a window mixes rows from all over the part.
PART_GROUP_ROWS, FEWEST_GROUP_ROWS, PART_GROUP_VALUES = 8_192, 256, 250_000
PART_GROUPS = 32


def is_path(data: Any) -> bool:
    """Whether ``data`` names files: text or a path, or a list of such."""
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(each, str | os.PathLike) for each in data)
    return isinstance(data, str | os.PathLike)


def is_frame(data: Any) -> bool:
    """Whether ``data`` is a table in memory: Arrow's stream interface, and a shape of rows and columns."""
    return hasattr(data, "__arrow_c_stream__") and len(getattr(data, "shape", ())) == 2


def is_stream(data: Any) -> bool:
    """Whether ``data`` can be read once: a reader of record batches, or an iterator over batches or frames."""
    if is_path(data) or is_frame(data) or hasattr(data, "dtype"):
        return False
    return hasattr(data, "__arrow_c_stream__") or (isinstance(data, Iterable) and iter(data) is data)


def table_of(frame: Any) -> pa.Table:
    """A frame as an Arrow table, of pandas without its index; text is held so that Parquet takes it.

    What Arrow holds has no index: a column that once was one, as in files that pandas wrote, is a column.

    Raises
    ------
    DataError
        Arrow cannot convert a column.
    """
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(_why_no_table(frame, error)) from error
    if not isinstance(frame, pa.Table | pa.RecordBatch):
        about = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        table = table.drop_columns([name for name in about.get("index_columns", []) if isinstance(name, str)])
    table = table.replace_schema_metadata(None)
    for each in table.schema:
        if pa.types.is_dictionary(each.type) and kind_of(logical_type(each.type)) == "other":
            found = getattr(each.type.value_type, "extension_name", type_name(each.type.value_type))
            raise DataError(f"column '{each.name}': categories are {found}. Make them text, or leave the column out.")
    return table.cast(pa.schema([pa.field(each.name, _storable(each.type)) for each in table.schema]))


def _why_no_table(frame: Any, error: Exception) -> str:
    kind = type(frame).__name__
    if kind == "LazyFrame":
        return "a LazyFrame has no rows yet. Call .collect() first."
    columns = getattr(frame, "columns", None)
    if hasattr(frame, "scanner"):
        return f"a {kind} is to be read first. Give its files, or .scanner().to_reader()."
    if columns is None:
        return f"expected a frame (pandas, polars, Arrow), whose columns have names, found {kind}."
    repeated = [name for name, times in Counter(columns).items() if times > 1]
    if repeated:
        return f"the frame has more than one column '{repeated[0]}'. Give each column a name of its own."
    reason = " ".join(str(error).split()).rstrip(".")
    return f"the frame cannot be converted to Arrow ({reason}). Give each column one type."


def _storable(arrow_type: pa.DataType) -> pa.DataType:
    """The type of a column as Parquet files take it: text and its dictionaries as large strings."""
    if kind_of(logical_type(arrow_type)) != "text":
        return arrow_type
    if pa.types.is_dictionary(arrow_type):
        return pa.dictionary(pa.int32(), pa.large_string())
    return pa.large_string()


def type_in_parquet(arrow_type: pa.DataType) -> pa.DataType:
    """The logical type of a column of a frame when it was written to Parquet, which has no seconds.

    >>> str(type_in_parquet(pa.timestamp("s", "UTC")))
    'timestamp[ms, tz=UTC]'
    """
    logical = logical_type(arrow_type)
    if pa.types.is_timestamp(logical) and logical.unit == "s":
        return pa.timestamp("ms", logical.tz)
    if pa.types.is_date64(logical):
        return pa.date32()
    return pa.time32("ms") if pa.types.is_time32(logical) else logical


def without_categories(table: pa.Table) -> pa.Table:
    """The table as it would come back from Parquet, without dictionaries but those of text."""
    types = [
        each.type if kind_of(logical_type(each.type)) == "text" else type_in_parquet(each.type) for each in table.schema
    ]
    return table.cast(pa.schema(zip(table.column_names, types, strict=True)))


def write_frame(table: pa.Table, path: Path) -> None:
    """Write a table to a Parquet file in row groups of 65,536 rows.

    Raises
    ------
    NoInputError
        It has no rows.
    """
    if not table.num_rows:
        raise NoInputError("the data have no rows. Give data that have rows.")
    with storage_errors(f"write {path}"):
        pq.write_table(table, path, FRAME_GROUP_ROWS, compression="none", use_dictionary=_text_columns(table.schema))


def tables_of_files(manifest: Manifest, names: list[str]) -> Iterator[pa.Table]:
    """All rows of a manifest, in order, with these columns, in the types of the first file."""
    return _of_one_schema(
        table_of(batch)
        for row_group in manifest.row_groups
        for batch in read_batches(manifest, row_group, names, [], FRAME_GROUP_ROWS)
    )


def _of_one_schema(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables in the types of the first one: text may come as text, and as a dictionary.

    Raises
    ------
    SchemaError
        A later table has other columns, or types that do not mean the same.
    """
    first: pa.Schema | None = None
    for table in tables:
        first = table.schema if first is None else first
        if _logical(table.schema) != _logical(first):
            raise SchemaError(
                f"the stream changed its columns: found {_described(table.schema)}, it began with"
                f" {_described(first)}. Give batches of one schema."
            )
        yield table.cast(first)


def _logical(schema: pa.Schema) -> pa.Schema:
    return pa.schema((field.name, logical_type(field.type)) for field in schema)


def parts_of(stream: Any, folder: Path) -> Iterator[Path]:
    """Write a stream part by part to Parquet files in ``folder``; each is removed when the next is asked for.

    A part is 32 row groups, of 8,192 rows each (fewer of many columns), however the stream is cut into batches.

    Raises
    ------
    SchemaError
        A later batch has other columns than the first.
    DataError
        The stream failed, or gave something that Arrow cannot convert.
    """
    groups = _row_groups(stream)
    for part, first in enumerate(groups):
        path = folder / f"part-{part:06d}.parquet"
        text = _text_columns(first.schema)
        with (
            storage_errors(f"write {path}"),
            pq.ParquetWriter(path, first.schema, compression="none", use_dictionary=text) as writer,
        ):
            for group in chain([first], islice(groups, PART_GROUPS - 1)):
                writer.write_table(group, group.num_rows)
        yield path
        path.unlink()


def _row_groups(stream: Any) -> Iterator[pa.Table]:
    """The rows of a stream in tables of equal size but for the last, all with the columns of the first."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in _of_one_schema(tables_of(stream)):
        columns = max(1, table.num_columns)
        group_rows = max(FEWEST_GROUP_ROWS, min(PART_GROUP_ROWS, PART_GROUP_VALUES // columns))
        waiting.append(table)
        rows += table.num_rows
        if rows >= group_rows:
            joined = pa.concat_tables(waiting)
            for start in range(0, rows - group_rows + 1, group_rows):
                yield joined.slice(start, group_rows)
            rows %= group_rows
            waiting = [joined.slice(joined.num_rows - rows)]
    if rows:
        yield pa.concat_tables(waiting)


def tables_of(stream: Any) -> Iterator[pa.Table]:
    """The batches of a stream as tables; categories that are numbers become numbers, as they do in a file.

    Raises
    ------
    DataError
        The stream failed, or gave something that Arrow cannot convert.
    """
    try:
        if hasattr(stream, "__arrow_c_stream__"):
            reader = pa.RecordBatchReader.from_stream(stream)
            for batch in reader:
                yield without_categories(table_of(batch))
        else:
            for item in stream:
                yield without_categories(table_of(item))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"the stream broke off ({reason}). Give it once more from its beginning.") from error


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _text_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if kind_of(logical_type(field.type)) == "text"]
