"""Decodes row groups front to back, in slices, with every error named by file and row group.

Inputs are never memory-mapped (a mapped file that is cut short kills the process) and read through a small buffer
(unbuffered reads hold whole column chunks); page checksums are verified where a file carries them.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Generator, Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streamgd.data.asking import is_local
from streamgd.data.source import Manifest, RowGroup, check_identity
from streamgd.data.stores import open_file
from streamgd.errors import CorruptFileError, DataChangedError, StreamgdError, from_os_error

READ_BUFFER_BYTES = 65_536


def open_parquet(manifest: Manifest, file_index: int, dictionary_columns: list[str]) -> pq.ParquetFile:
    """The file, opened with the footer that was read at discovery.

    Parameters
    ----------
    dictionary_columns : list of str
        Text columns that stay dictionary codes instead of becoming strings.
    """
    file = manifest.files[file_index]
    return pq.ParquetFile(
        open_file(manifest.filesystem, file.path),
        metadata=file.metadata,
        read_dictionary=[name for name in dictionary_columns if name not in file.partition],
        memory_map=False,
        buffer_size=READ_BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def read_batches(
    manifest: Manifest, row_group: RowGroup, columns: list[str], dictionary_columns: list[str], batch_rows: int
) -> Generator[pa.RecordBatch, None, None]:
    """The rows of one row group in order, in record batches of exactly ``batch_rows`` rows but for the last.

    The columns come in the order asked for; partition columns are filled in from the folder names.

    Raises
    ------
    CorruptFileError
        The row group cannot be decoded, or holds fewer rows than its footer says.
    DataChangedError
        The file vanished since discovery.
    SchemaError
        Files differ in one of the columns.
    """
    file = manifest.files[row_group.file_index]
    where = f"{file.relative}, row group {row_group.index}"
    manifest.check_same(columns)
    in_file = [name for name in columns if name not in file.partition]
    rows_read = 0
    try:
        with open_parquet(manifest, row_group.file_index, dictionary_columns) as parquet:
            decoded = parquet.iter_batches(batch_rows, [row_group.index], in_file, use_threads=False)
            coded = [field.name for field in parquet.schema_arrow if pa.types.is_dictionary(field.type)]
            coded = [name for name in coded if name in in_file]
            for batch in _regular(decoded, batch_rows) if in_file else _empty(row_group.rows, batch_rows):
                _check_codes(batch, coded)
                rows_read += batch.num_rows
                yield _with_partitions(batch, manifest.schema, file.partition, columns)
    except (StreamgdError, MemoryError):  # Arrow's own, where memory ran out, is one of its exceptions too
        raise
    except FileNotFoundError as error:
        raise DataChangedError(f"{where}: the file vanished since the run began. Put it back, or --restart.") from error
    except PermissionError as error:
        raise from_os_error(error, f"read {where}") from error
    except OSError as error:
        if error.errno is not None:
            raise from_os_error(error, f"read {where}") from error
        check_identity(manifest, row_group.file_index)  # a file that was replaced is told as such
        raise _corrupt(where, error) from error
    except (pa.ArrowException, ValueError) as error:
        check_identity(manifest, row_group.file_index)
        raise _corrupt(where, error) from error
    check_identity(manifest, row_group.file_index)
    if rows_read != row_group.rows:
        raise CorruptFileError(
            f"{where}: the footer says {row_group.rows:,} rows, {rows_read:,} were decoded. Write the file anew."
        )


def let_go(manifest: Manifest, row_group: RowGroup, columns: list[str]) -> None:
    """Tell the system that what was read of a row group is not needed soon; nothing where files are not local."""
    if not (is_local(manifest.filesystem) and hasattr(os, "posix_fadvise")):
        return
    chunks = manifest.chunks(row_group, columns)
    begins = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    sizes = [chunk.total_compressed_size for chunk in chunks]
    with suppress(OSError, ValueError):  # a file that is gone by now, or whose columns are its folder's names
        descriptor = os.open(manifest.files[row_group.file_index].path, os.O_RDONLY)
        try:
            begin, end = min(begins), max(map(operator.add, begins, sizes))
            os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _check_codes(batch: pa.RecordBatch, coded: list[str]) -> None:
    """Refuse codes outside their dictionary, which pyarrow hands on as they stand in a damaged page."""
    for name in coded:
        column = batch.column(name)
        ends = pc.min_max(column.indices).as_py()
        if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < len(column.dictionary):
            raise ValueError(f"column '{name}' has codes outside its dictionary")


def _corrupt(where: str, error: Exception) -> CorruptFileError:
    reason = " ".join(str(error).split()).rstrip(".")
    return CorruptFileError(
        f"{where}: cannot be decoded ({reason}).",
        "Write the file anew, or leave it out; training passes it over with --on-bad-data skip.",
    )


def _regular(batches: Iterator[pa.RecordBatch], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly ``batch_rows``: pyarrow's batch size is only an upper bound."""
    waiting: list[pa.RecordBatch] = []
    waiting_rows = 0
    for batch in batches:
        if batch.num_rows == batch_rows and not waiting:  # to cut it would take as long as to decode some of it
            yield batch
            continue
        while batch.num_rows:
            taken = batch.slice(0, batch_rows - waiting_rows)
            batch = batch.slice(taken.num_rows)
            waiting.append(taken)
            waiting_rows += taken.num_rows
            if waiting_rows == batch_rows:
                yield _joined(waiting)
                waiting, waiting_rows = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    return table.to_batches()[0]


def _empty(rows: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches without columns, for a row group of which only partition columns are wanted."""
    for start in range(0, rows, batch_rows):
        count = min(batch_rows, rows - start)
        yield pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))


def _with_partitions(
    batch: pa.RecordBatch, schema: pa.Schema, partition: dict[str, str | int | None], columns: list[str]
) -> pa.RecordBatch:
    if not partition and batch.schema.names == columns:
        return batch
    arrays = [
        pa.repeat(pa.scalar(partition[name], schema.field(name).type), batch.num_rows)
        if name in partition
        else batch.column(name)
        for name in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=columns)
