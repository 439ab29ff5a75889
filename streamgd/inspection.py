"""What a data set holds and what its columns would become, from the footers and a sample of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from streamgd.data.columns import Label
from streamgd.data.kinds import kind_of
from streamgd.data.nested import nested_type
from streamgd.data.resolve import ColumnDescription, describe_columns
from streamgd.data.skipping import without_bad_row_groups
from streamgd.data.source import Manifest, discover
from streamgd.errors import ConfigError
from streamgd.option_values import parse_sources
from streamgd.plain import byte_size, count_noun, plain


def inspect(
    data: Sequence[str] | str, on_bad_data: Literal["error", "skip"] = "error", filesystem: Any = None
) -> dict[str, Any]:
    """Describe Parquet data without reading more than footers and a sample.

    Parameters
    ----------
    data : str or sequence of str
        Files, directories, globs or URIs.
    on_bad_data : "error" or "skip"
        With ``skip``, describe what training with that option would use: all row groups are decoded, and those that
        cannot be, and files without a readable footer, are left out and listed.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        Where ``data`` are.

    Returns
    -------
    dict
        ``files``, ``rows``, ``row_groups``, ``bytes_on_disk``, ``bytes_uncompressed``; ``row_group_rows`` and
        ``row_group_bytes`` (uncompressed) as ``{"smallest", "largest"}``; and ``columns``: for each ``name``, ``type``
        (Arrow's; text is ``string`` and a dictionary the type of its values), ``becomes`` (``number``,
        ``categorical``, ``sparse``, ``left out`` or ``refused``) and ``reason``, and ``nulls``, ``minimum`` and
        ``maximum``, which are None where the footers do not say; and
        ``skipped``, a line for each part that is left out. All of it can be written as JSON.

    Raises
    ------
    NoInputError, CorruptFileError, SchemaError
        From finding the data and reading their footers and the sample.
    """
    if on_bad_data not in ("error", "skip"):
        raise ConfigError(f"--on-bad-data: expected error or skip, found {on_bad_data!r}.")
    manifest = discover(parse_sources(data), filesystem, skip_bad=on_bad_data == "skip")
    if on_bad_data == "skip":
        alike = [column.name for column in manifest.schema if column.name not in manifest.differing]
        readable = [name for name in alike if _is_readable(manifest.schema.field(name).type)]
        manifest = without_bad_row_groups(manifest, readable, lambda: None)
    footers = [
        manifest.files[group.file_index].metadata.row_group(group.index).total_byte_size
        for group in manifest.row_groups
    ]
    rows = [group.rows for group in manifest.row_groups]
    return {
        "files": len(manifest.files),
        "rows": manifest.n_rows,
        "row_groups": len(manifest.row_groups),
        "bytes_on_disk": manifest.size_bytes,
        "bytes_uncompressed": sum(footers),
        "row_group_rows": {"smallest": min(rows), "largest": max(rows)},
        "row_group_bytes": {"smallest": min(footers), "largest": max(footers)},
        "columns": [_column(manifest, description) for description in describe_columns(manifest)],
        "skipped": [each.problem for each in manifest.skipped],
    }


def _is_readable(arrow_type: pa.DataType) -> bool:
    return kind_of(arrow_type) != "other" or nested_type(arrow_type) is not None


def _column(manifest: Manifest, description: ColumnDescription) -> dict[str, Any]:
    minimum, maximum = _minimum_maximum(manifest, description.name) or (None, None)
    return {
        "name": description.name,
        "type": description.type,
        "becomes": description.becomes,
        "reason": description.reason,
        "nulls": _null_count(manifest, description.name),
        "minimum": plain(minimum),
        "maximum": plain(maximum),
    }


def _minimum_maximum(manifest: Manifest, name: str) -> tuple[Any, Any] | None:
    if name in manifest.differing:
        return None
    values = [file.partition[name] for file in manifest.files if name in file.partition]
    known: list[Any] = [value for value in values if value is not None]
    return (min(known), max(known)) if known else manifest.minimum_maximum(name)


def _null_count(manifest: Manifest, name: str) -> int | None:
    """Null values of a column over all files; None where a footer does not say, as for nested columns."""
    nulls = 0
    for row_group in manifest.row_groups:
        file = manifest.files[row_group.file_index]
        if name in file.partition:
            nulls += row_group.rows if file.partition[name] is None else 0
            continue
        leaves = file.leaves.get(name, [])
        if len(leaves) != 1 or file.metadata.schema.column(leaves[0]).path != name:
            return None
        statistics = file.metadata.row_group(row_group.index).column(leaves[0]).statistics
        if statistics is None or not statistics.has_null_count:
            return None
        nulls += statistics.null_count
    return nulls


def format_inspection(inspection: dict[str, Any]) -> str:
    """The result of :func:`inspect` as lines of plain text, a table of the columns last."""
    rows, sizes = inspection["row_group_rows"], inspection["row_group_bytes"]
    head = [
        f"{count_noun(inspection['rows'], 'row')} in {count_noun(inspection['files'], 'file')},"
        f" {byte_size(inspection['bytes_on_disk'])} on disk,"
        f" {byte_size(inspection['bytes_uncompressed'])} uncompressed",
        f"{count_noun(inspection['row_groups'], 'row group')} of {_range(rows, '{:,}'.format)}"
        f" row{'' if rows['largest'] == 1 else 's'}, {_range(sizes, byte_size)}",
        "",
    ]
    table = [("column", "type", "becomes", "nulls", "minimum", "maximum", "")]
    for column in inspection["columns"]:
        nulls = "?" if column["nulls"] is None else f"{column['nulls']:,}"
        bounds = _cell(column["minimum"]), _cell(column["maximum"])
        table.append((_cell(column["name"]), column["type"], column["becomes"], nulls, *bounds, column["reason"]))
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = [_line(cells, widths) for cells in table]
    return "\n".join([*head, *lines, *(f"skipped: {problem}" for problem in inspection["skipped"])])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (3,)
    padded = [
        cell.rjust(width) if position in numbers else cell.ljust(width)
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _cell(value: Label | None) -> str:
    """A value on one line, of bounded length; '?' for what is not known."""
    if value is None:
        return "?"
    if value == "":
        return "''"
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 30 else text[:29] + "…"


def _range(bounds: dict[str, int], show: Any) -> str:
    smallest, largest = show(bounds["smallest"]), show(bounds["largest"])
    return smallest if smallest == largest else f"{smallest} to {largest}"
