"""Files that streamgd wrote itself, of frames and streams, have no place in messages: rows are told as the user's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from streamgd.data.source import Manifest
from streamgd.data.stream import origin_of
from streamgd.errors import StreamgdError

#: What a row of a file is called, by its number in the file.
RowName = Callable[[int], str]


def rows_of(name: str, first_row: int = 0) -> RowName:
    """Rows of what is called ``name``, from ``first_row`` on.

    >>> rows_of("X", 100)(5)
    'X, row 105'
    """
    return lambda row: f"{name}, row {first_row + row}"


def rows_of_files(manifest: Manifest, first_row: int = 0) -> RowName:
    """Rows of the user's own files, from the global row ``first_row`` on."""

    def name(row: int) -> str:
        row += first_row
        group = next(each for each in manifest.row_groups if row < each.first_row + each.rows)
        return origin_of(manifest, group, row - group.first_row).row(0)

    return name


@contextmanager
def told_as(path: Path, name: str, row_name: RowName) -> Iterator[None]:
    """Where an error names the file at ``path`` or a row of it, let it say ``name`` and what the row is called."""
    try:
        yield
    except StreamgdError as error:
        error.args = (_told(str(error), path, name, row_name),)
        raise


def _told(message: str, path: Path, name: str, row_name: RowName) -> str:
    pattern = rf"(?<![\w./-]){re.escape(path.name)}(?:, row group (\d+))?(?:, row (\d+))?"

    def found(match: re.Match[str]) -> str:
        group, row = match.groups()
        if row is None:
            return name
        return row_name(_first_row(path, int(group or 0)) + int(row))

    return re.sub(pattern, found, message.replace(str(path), path.name))


def _first_row(path: Path, row_group: int) -> int:
    metadata = pq.read_metadata(path)
    return sum(int(metadata.row_group(index).num_rows) for index in range(row_group))
