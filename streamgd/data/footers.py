"""Footers: read with one open of the file, hashed, and parsed from memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from streamgd.data.chunk_check import check_chunks
from streamgd.data.storage_failures import filesystem_errors, one_line
from streamgd.data.stores import StoreFile, open_file
from streamgd.errors import CorruptFileError, SchemaError

_TAIL_BYTES = 65536  # most footers come with the first read


@dataclass(frozen=True)
class Footer:
    """``identity`` is that of the file where a store says it with opening, else ''."""

    size_bytes: int
    digest: str
    metadata: pq.FileMetaData
    schema: pa.Schema
    identity: str = ""


def read_footer(filesystem: fs.FileSystem, path: str) -> Footer:
    """Read and parse a footer with one open of the file.

    The bytes are read first and parsed from memory, so that a failure of storage is told from a broken file.
    """
    with filesystem_errors(f"read {path}"), open_file(filesystem, path) as file:
        size = file.size()
        tail = file.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
        length = _footer_length(path, size, tail)
        if length + 8 > len(tail):
            tail = file.read_at(length + 8, size - length - 8)
        identity = file.state.identity if isinstance(file, StoreFile) else ""
    footer = tail[-length - 8 : -8]
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail[-length - 8 :]))
        schema = metadata.schema.to_arrow_schema()
        counts = row_counts(metadata)
        check_chunks(footer, metadata)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _corrupt(path, size, f"the footer cannot be read ({one_line(error)})") from error
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise _corrupt(path, size, f"the footer says {metadata.num_rows} rows, its row groups have {sum(counts)}")
    repeated = [name for name, times in Counter(schema.names).items() if times > 1]
    if repeated:
        raise SchemaError(f"{path} has more than one column '{repeated[0]}'. Rewrite it with a name for each column.")
    return Footer(size, hashlib.sha256(footer).hexdigest(), metadata, schema, identity)


def _footer_length(path: str, size: int, tail: bytes) -> int:
    """Bytes of the footer, from the length and magic that end the file."""
    magic = tail[-4:]
    if magic == b"PARE":
        raise CorruptFileError(
            f"{path} has an encrypted footer, which cannot be read here. Write it without encryption."
        )
    if magic != b"PAR1" or size < 12:
        raise _corrupt(path, size, "no Parquet magic at the end: the file is cut short or not Parquet")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > size - 12:
        raise _corrupt(path, size, f"its end announces a footer of {length:,} bytes: the file is cut short or damaged")
    return length


def _corrupt(path: str, size: int, found: str) -> CorruptFileError:
    return CorruptFileError(
        f"{path} ({size:,} bytes): {found}.",
        "Copy or write the file again, or leave it out; training passes it over with --on-bad-data skip.",
    )


def row_counts(metadata: pq.FileMetaData) -> list[int]:
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
