"""A Parquet file that is written batch by batch, and is there whole or not at all."""

from __future__ import annotations

import fcntl
import io
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from streamgd import state as states
from streamgd.errors import storage_errors

ROW_GROUP_ROWS = 1_048_576
#: Rows wait in memory until their row group is whole; very wide ones only up to this size.
ROW_GROUP_BYTES = 64_000_000

_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp", re.DOTALL)


class ParquetOutput:
    """Context in which the rows of one file are written; the file appears when it is left without an error.

    Parameters
    ----------
    path : Path
        A file that is there is replaced.
    schema : pa.Schema

    Raises
    ------
    StorageError, AccessError
        From every method: writing failed. The temporary file is removed if that is possible, and the folder if it was
        made for this file.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self._path = path
        self._schema = schema
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        with ExitStack() as undoing:
            undoing.callback(states.remove_empty, states.make_folder(self._path.parent))
            with storage_errors(f"write {self._path}"):
                self._sink = _Sink(self._opened())
                undoing.callback(self._remove_temporary)
                self._writer = pq.ParquetWriter(self._sink, self._schema)
                undoing.callback(self._give_up_writer)
            self._undoing = undoing.pop_all()
        return self

    def _opened(self) -> BinaryIO:
        """The temporary file, locked; its folder is made again if another output, which failed, has just removed it."""
        try:
            file = states.files.open(self._temporary)
        except FileNotFoundError:
            states.make_folder(self._path.parent)
            file = states.files.open(self._temporary)
        with suppress(OSError):  # where there are no locks, one process at a time may write an output
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows to the row group."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= ROW_GROUP_BYTES:
            self.end_row_group()

    def end_row_group(self) -> None:
        """Write the rows that wait; what follows is another row group."""
        if self._waiting_rows:
            with storage_errors(f"write {self._path}"):
                table = pa.Table.from_batches(self._waiting, self._schema)
                self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._undoing:
            if kind is not None:
                return
            self.end_row_group()
            with storage_errors(f"write {self._path}"):
                self._writer.close()
                states.files.fsync(self._sink.file)
                self._sink.file.close()
                states.files.replace(self._temporary, self._path)
                states.files.fsync_folder(self._path.parent)
            self._undoing.pop_all()  # the file is whole: it stays

    def _give_up_writer(self) -> None:
        self._sink.discarding = True
        with suppress(OSError, pa.ArrowException):
            self._writer.close()

    def _remove_temporary(self) -> None:
        with suppress(OSError):
            self._sink.file.close()
        with suppress(OSError):
            states.files.remove(self._temporary)


class _Sink(io.RawIOBase):
    """What pyarrow writes to: it takes every write for a whole one, which a raw file does not promise."""

    def __init__(self, file: BinaryIO):
        self.file = file
        # A writer writes when it is closed, even if the file is given up.
        self.discarding = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.discarding:
            states.files.write(self.file, data)
        return len(data)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left of these outputs; those that are locked are written."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, outputs in names.items():
        for path in sorted(folder.glob(".*.tmp")):
            match = _TEMPORARY.fullmatch(path.name)
            if match is not None and match[1] in outputs and not _is_locked(path):
                states.remove(path)


def _is_locked(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
