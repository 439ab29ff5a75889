"""Find the Parquet files, read every footer once, see whether the schemas agree: the manifest.

    source ── list ──> files ── footers (threads) ──> schemas compared ──> Manifest, with its fingerprint

A source is a file, a directory, a glob or a URI. Nothing of the columns' data is read here. The manifest numbers all
rows in file order, so every later stage speaks of the same rows; its fingerprint is the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from streamgd.data.ahead import each_in_order
from streamgd.data.footers import Footer, read_footer, row_counts
from streamgd.data.kinds import kind_of
from streamgd.data.listing import Listed, list_source, locate, unique_relatives
from streamgd.data.partitions import PartitionValue, partitions_of
from streamgd.data.stores import as_filesystem, file_state, identity_of
from streamgd.data.timestamps import microseconds_around
from streamgd.errors import (
    ConfigError,
    CorruptFileError,
    DataChangedError,
    NoInputError,
    SchemaError,
)
from streamgd.plain import count_noun

_FOOTER_THREADS = 16

#: A page of a column has at most about so many bytes, as most writers make it; a larger one costs more.
COLUMN_PAGE_BYTES = 2**20
#: What the decoder of a column holds at most: its buffer, a compressed and a decoded page.
COLUMN_READER_BYTES = 350_000
#: A dictionary page is there decompressed and as the decoder's table: measured 1.8 to 2.3 times its size.
DICTIONARY_COPIES = 2
#: Texts, which are read as codes, have an index as well, of 90 bytes each; this counts it for those of ten letters or
#: fewer. Measured: 300,000 of 26 columns, whose pages have 2.7 MB, took 40 MB with what Arrow's allocator keeps.
TEXT_DICTIONARY_COPIES = 16


@dataclass(frozen=True)
class DataFile:
    """One file of the data set, with its footer.

    ``path`` is inside the manifest's file system, ``relative`` below the root that was named ('/' separated, the same
    on every machine). ``identity`` is the store's etag, else the time of last change in nanoseconds, or '' where there
    is neither; ``footer_digest`` the sha256 of the raw footer. ``first_row`` is the global number of the first row.
    """

    path: str
    relative: str
    size_bytes: int
    identity: str
    footer_digest: str
    metadata: pq.FileMetaData
    partition: dict[str, PartitionValue]
    first_row: int

    @cached_property
    def leaves(self) -> dict[str, list[int]]:
        """Column name -> its leaf columns in the file; exactly one unless the column is nested."""
        by_name: dict[str, list[int]] = {}
        known: set[str] | None = None
        for leaf in range(self.metadata.num_columns):
            column = self.metadata.schema.column(leaf)
            name = column.path
            if name != column.name:
                # Only a nested leaf's path differs from its name; the name of its column may contain dots too.
                known = set(self.metadata.schema.to_arrow_schema().names) if known is None else known
                while name not in known and "." in name:
                    name = name.rpartition(".")[0]
            by_name.setdefault(name, []).append(leaf)
        return by_name


@dataclass(frozen=True)
class RowGroup:
    """A row group that has rows: ``index`` inside its file, ``first_row`` global."""

    file_index: int
    index: int
    rows: int
    first_row: int


@dataclass(frozen=True)
class Skipped:
    """A row group that is passed over since it cannot be decoded; ``problem`` says where and why.

    Where ``index`` is None it is a whole file, whose footer cannot be read; nobody knows its ``rows`` (0).
    """

    relative: str
    index: int | None
    rows: int
    problem: str


@dataclass(frozen=True)
class Bounds:
    """No value of a column in a row group lies outside; both are None where all are null. NaN is not counted."""

    minimum: Any
    maximum: Any
    null_count: int


@dataclass(frozen=True)
class Changes:
    """Relative paths of files that came, went, or are not the same, each sorted.

    ``only_skipped`` where the files are the same, and other row groups of them are skipped.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]
    only_skipped: bool = False

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class Manifest:
    """All files of a data set, sorted by relative path, and what their footers say together.

    ``schema`` has the columns of the first file, then the partition columns; text is ``string`` however it is stored,
    and every column may be null. ``row_groups`` leaves out those without rows, and those ``skipped``, whose rows count
    in ``n_rows``; files that are skipped as a whole are not among ``files``.

    ``differing`` has the columns in which a file differs from the first one, each with what was found; they are in the
    schema, and whoever wants to read them is refused.
    """

    filesystem: fs.FileSystem
    files: tuple[DataFile, ...]
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    n_rows: int
    fingerprint: str
    skipped: tuple[Skipped, ...] = ()
    differing: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def check_same(self, columns: Iterable[str]) -> None:
        """Refuse to use a column in which the files differ.

        Raises
        ------
        SchemaError
        """
        for name in columns:
            if name in self.differing:
                raise SchemaError(
                    f"schemas differ in column '{name}': {self.differing[name]}. Write the files with one schema, or"
                    f" use those that agree; a column that nobody needs is left out of training by --exclude."
                )

    def uncompressed_bytes(self, row_group: RowGroup, columns: list[str]) -> int:
        """Bytes of these columns of one row group after decompression, as the footer says; partition columns take 0."""
        return sum(chunk.total_uncompressed_size for chunk in self.chunks(row_group, columns))

    def first_pages_bytes(self, row_group: RowGroup, columns: list[str]) -> int:
        """About what decoding the first rows of a row group takes: a page of each of these columns."""
        return sum(min(COLUMN_PAGE_BYTES, self.uncompressed_bytes(row_group, [name])) for name in columns)

    def chunks(self, row_group: RowGroup, columns: list[str]) -> list[pq.ColumnChunkMetaData]:
        """What the footer says of these columns in one row group; partition columns have no chunk."""
        file = self.files[row_group.file_index]
        group = file.metadata.row_group(row_group.index)
        return [group.column(leaf) for name in columns for leaf in file.leaves.get(name, [])]

    def reader_bytes(self, row_group: RowGroup, columns: list[str]) -> int:
        """What decoding these columns of a row group holds beside its output: buffers, pages, dictionaries."""
        file = self.files[row_group.file_index]
        group = file.metadata.row_group(row_group.index)
        total = 0
        for name in columns:
            chunks = [group.column(leaf) for leaf in file.leaves.get(name, [])]
            total += min(3 * sum(chunk.total_uncompressed_size for chunk in chunks), COLUMN_READER_BYTES)
            copies = TEXT_DICTIONARY_COPIES if name in self.texts else DICTIONARY_COPIES
            total += copies * sum(map(_dictionary_bytes, chunks))
        return total

    def largest_reader_bytes(self, row_groups: Iterable[RowGroup], columns: list[str]) -> int:
        """As :meth:`reader_bytes`, for the one of some row groups that needs most."""
        return max((self.reader_bytes(row_group, columns) for row_group in row_groups), default=0)

    @cached_property
    def texts(self) -> set[str]:
        """Names of the columns that are text."""
        return {column.name for column in self.schema if kind_of(column.type) == "text"}

    def n_elements(self, column: str) -> int:
        """How many elements the lists of a column have in all, as the footers say; an empty list counts as one."""
        total = 0
        for row_group in self.row_groups:
            file = self.files[row_group.file_index]
            leaves = file.leaves.get(column, [])
            if leaves:
                total += int(file.metadata.row_group(row_group.index).column(leaves[0]).num_values)
        return total

    def bounds(self, file_index: int, row_group_index: int, column: str) -> Bounds | None:
        """What the footer (or the partition folder) says of a column in one row group; None where it says nothing."""
        file = self.files[file_index]
        group = file.metadata.row_group(row_group_index)
        if column in file.partition:
            value = file.partition[column]
            return Bounds(value, value, group.num_rows if value is None else 0)
        leaves = file.leaves.get(column, [])
        stored = file.metadata.schema.column(leaves[0]) if len(leaves) == 1 else None
        if stored is None or stored.path != column:
            return None
        statistics = group.column(leaves[0]).statistics
        if statistics is None or not statistics.has_null_count:
            return None
        if statistics.null_count == group.num_rows:
            return Bounds(None, None, statistics.null_count)
        kind = self.schema.field(column).type
        if not statistics.has_min_max or pa.types.is_float16(kind) or pa.types.is_duration(kind):
            return None  # pyarrow gives the last two as raw bytes and bare counts
        try:
            if '"nanoseconds"' in stored.logical_type.to_json():
                minimum, maximum = microseconds_around(kind, statistics.min_raw, statistics.max_raw)
            else:
                minimum, maximum = statistics.min, statistics.max
        except (ValueError, OverflowError):  # moments that Python's datetime cannot hold; text that is no UTF-8
            return None
        known = minimum == minimum and maximum == maximum  # some writers let NaN in
        return Bounds(minimum, maximum, statistics.null_count) if known else None

    def minimum_maximum(self, column: str) -> tuple[Any, Any] | None:
        """Bounds of a column's values over all files, as the footers' statistics say.

        Row groups that hold only nulls do not count. None where any other row group has no statistics, and for nested
        and partition columns.
        """
        if any(column in file.partition for file in self.files):
            return None
        bounds = [self.bounds(group.file_index, group.index, column) for group in self.row_groups]
        if any(bound is None for bound in bounds):
            return None
        known = [bound for bound in bounds if bound is not None and bound.minimum is not None]
        if not known:
            return None
        return min(bound.minimum for bound in known), max(bound.maximum for bound in known)

    def to_json(self) -> dict[str, Any]:
        """What a later run needs to tell whether the data are the same; see :func:`compare`."""
        skipped = [[each.relative, each.index] for each in self.skipped]
        return {
            "fingerprint": self.fingerprint,
            "files": [_describe(file) for file in self.files],
            "skipped": skipped,
        }


def discover(
    sources: list[str],
    filesystem: Any = None,
    skip_bad: bool = False,
    only: Collection[str] | None = None,
    texts: Collection[str] = (),
) -> Manifest:
    """The manifest of all Parquet files that the sources name.

    Parameters
    ----------
    sources : list of str
        Files, directories (searched recursively for ``.parquet``, ``.pq`` and ``.parq``; names that begin with ``_``
        or ``.`` are passed over), globs (``*``, ``?``, ``[..]``, ``**``), or URIs.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        Where the sources are; then they are paths inside it, or URIs that an fsspec one takes.
    skip_bad : bool
        Pass over files that are not Parquet or have no readable footer, unless all are such.
    only : collection of str, optional
        Relative paths of the files to take. The others are not opened, but relative paths and the types of partition
        columns are as with them.
    texts : collection of str, optional
        Columns that are text if they are partition columns, also where all folders here have integers: as a model
        knows them from others.

    Raises
    ------
    NoInputError
        Nothing there, no Parquet among it, or no rows; a file of ``only`` that is not there.
    CorruptFileError, SchemaError
        A file that is not Parquet or has no readable footer; a column name that occurs twice.
    AccessError, StorageError, UnavailableError, ConfigError
        No permission; storage that fails, or does not answer; a URI that pyarrow does not know.
    """
    if filesystem is not None:
        filesystem = as_filesystem(filesystem)
    listed: dict[str, Listed] = {}  # by path: a file that two sources name counts once
    first_store: fs.FileSystem | None = None
    for number, source in enumerate(sources):
        if source == "-":
            raise ConfigError("DATA -: a stream on standard input is for train alone. Give files.")
        store, path = locate(os.fspath(source), filesystem)
        if first_store is not None and not store.equals(first_store):
            raise ConfigError(f"'{source}' and '{sources[0]}' are in different stores. Give data of one store.")
        first_store = store
        for item in list_source(store, path, number):
            listed.setdefault(item.info.path, item)
    if first_store is None:
        raise NoInputError("no data were named. Give a Parquet file, a directory, a glob or a URI.")
    by_relative = unique_relatives(list(listed.values()))
    footer_of, skipped = _footers(first_store, _chosen(by_relative, only, sources), skip_bad)
    relatives, footers = list(footer_of), list(footer_of.values())
    items = [by_relative[relative] for relative in relatives]
    columns, differing = _common_schema([item.info.path for item in items], [footer.schema for footer in footers])
    beside = by_relative if only is not None else footer_of
    partition_of, partition_fields = partitions_of(
        {name: by_relative[name].info.path for name in beside}, columns.names, texts
    )

    files, row_groups, n_rows = [], [], 0
    for file_index, (relative, item, footer) in enumerate(zip(relatives, items, footers, strict=True)):
        files.append(
            DataFile(
                path=item.info.path,
                relative=relative,
                size_bytes=footer.size_bytes,
                identity=footer.identity or identity_of(item.info),
                footer_digest=footer.digest,
                metadata=footer.metadata,
                partition=partition_of[relative],
                first_row=n_rows,
            )
        )
        for index, rows in enumerate(row_counts(footer.metadata)):
            if rows:
                row_groups.append(RowGroup(file_index, index, rows, n_rows))
                n_rows += rows
    if not n_rows:
        raise NoInputError(
            f"no rows in {', '.join(map(str, sources))} ({count_noun(len(files), 'file')}). Give data that have rows."
        )
    return Manifest(
        filesystem=first_store,
        files=tuple(files),
        schema=pa.schema([*columns, *partition_fields]),
        row_groups=tuple(row_groups),
        n_rows=n_rows,
        fingerprint=_fingerprint(files),
        skipped=skipped,
        differing=differing,
    )


def _dictionary_bytes(column: pq.ColumnChunkMetaData) -> int:
    """Bytes of the dictionary page of a column of one row group after decompression, by the footer's offsets.

    The footer tells the compressed size of a page; it is taken to shrink as the whole column does.
    """
    if not column.has_dictionary_page or not column.dictionary_page_offset:
        return 0
    stored = column.data_page_offset - column.dictionary_page_offset
    return int(stored * column.total_uncompressed_size / max(1, column.total_compressed_size))


def _chosen(by_relative: dict[str, Listed], only: Collection[str] | None, sources: list[str]) -> dict[str, Listed]:
    """The files whose relative path is in ``only``; all of them if it is None."""
    if only is None:
        return by_relative
    wanted = set(only)
    absent = sorted(wanted - by_relative.keys())
    if absent or not wanted:
        missing = f"no file '{absent[0]}'" if absent else "no file was chosen"
        raise NoInputError(f"{missing} in {', '.join(map(str, sources))}. Give relative paths of files that are there.")
    return {relative: item for relative, item in by_relative.items() if relative in wanted}


def _footers(
    store: fs.FileSystem, by_relative: dict[str, Listed], skip_bad: bool
) -> tuple[dict[str, Footer], tuple[Skipped, ...]]:
    """The footer of each file, sorted by relative path, and the files that are passed over."""

    def footer_of(relative: str) -> Footer | CorruptFileError:
        try:
            return read_footer(store, by_relative[relative].info.path)
        except CorruptFileError as error:
            if not skip_bad:
                raise
            return error

    relatives = sorted(by_relative)
    read = each_in_order(relatives, footer_of, min(_FOOTER_THREADS, len(relatives)))
    found = dict(zip(relatives, read, strict=True))
    errors = {relative: each for relative, each in found.items() if isinstance(each, CorruptFileError)}
    if len(errors) == len(found):
        raise next(iter(errors.values()))
    footers = {relative: each for relative, each in found.items() if not isinstance(each, CorruptFileError)}
    return footers, tuple(Skipped(relative, None, 0, error.problem) for relative, error in errors.items())


def compare(old: dict[str, Any], manifest: Manifest) -> Changes:
    """What is different in ``manifest`` from the one that ``old`` (:meth:`Manifest.to_json`) was made of."""
    before = {file["relative"]: file for file in old["files"]}
    now = {file.relative: _describe(file) for file in manifest.files}
    skipped_before = {(relative, index) for relative, index in old.get("skipped", [])}
    otherwise_skipped = skipped_before ^ {(each.relative, each.index) for each in manifest.skipped}
    changed = {relative for relative in now if relative in before and now[relative] != before[relative]}
    only_skipped = bool(otherwise_skipped) and not changed and now.keys() == before.keys()
    changed |= {relative for relative, _ in otherwise_skipped if relative in before}
    return Changes(
        added=sorted(now.keys() - before.keys()),
        removed=sorted(before.keys() - now.keys() - changed),
        changed=sorted(changed),
        only_skipped=only_skipped,
    )


def check_identity(manifest: Manifest, file_index: int) -> None:
    """Raise DataChangedError if a file is no longer the one in the manifest.

    A new etag or time of change alone makes it look again at the footer, and so does a store that has neither; the
    same footer is the same file.
    """
    file = manifest.files[file_index]
    now = file_state(manifest.filesystem, file.path)
    advice = "Put the file back, or train afresh with --restart."
    if now is None:
        raise DataChangedError(f"{file.path} is gone since the run began. {advice}")
    if now.size_bytes == file.size_bytes and now.identity == file.identity != "":
        return
    if now.size_bytes != file.size_bytes:
        raise DataChangedError(
            f"{file.path} changed since the run began: it had {file.size_bytes:,} bytes and has {now.size_bytes:,}."
            f" {advice}"
        )
    try:
        digest = read_footer(manifest.filesystem, file.path).digest
    except (CorruptFileError, SchemaError, NoInputError):
        digest = ""
    if digest != file.footer_digest:
        raise DataChangedError(f"{file.path} changed since the run began: its footer is another one. {advice}")


def logical_type(arrow_type: pa.DataType) -> pa.DataType:
    """The type of the values, whatever their storage: text is ``string``, a dictionary is the type of its values.

    >>> str(logical_type(pa.dictionary(pa.int32(), pa.large_string())))
    'string'
    """
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    is_text = (
        pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or pa.types.is_string_view(arrow_type)
    )
    return pa.string() if is_text else arrow_type


def _common_schema(paths: list[str], schemas: list[pa.Schema]) -> tuple[pa.Schema, dict[str, str]]:
    """The columns of the first file, then those that others have, and in which of them a file differs from the first.

    What differs is told by name: the types, and the first file that has another one.
    """
    first = {column.name: logical_type(column.type) for column in schemas[0]}
    types, differing = dict(first), dict[str, str]()
    for path, schema in zip(paths[1:], schemas[1:], strict=True):
        other = {column.name: logical_type(column.type) for column in schema}
        for name in [*first, *other]:
            types.setdefault(name, other.get(name))
            here, there = first.get(name), other.get(name)
            if here != there and name not in differing:
                differing[name] = f"{here or 'missing'} in {paths[0]}, {there or 'missing'} in {path}"
    return pa.schema(list(types.items())), differing


def _describe(file: DataFile) -> dict[str, Any]:
    return {
        "relative": file.relative,
        "size_bytes": file.size_bytes,
        "rows": file.metadata.num_rows,
        "footer_digest": file.footer_digest,
    }


def _fingerprint(files: Iterable[DataFile]) -> str:
    parts = [{**_describe(file), "row_groups": row_counts(file.metadata)} for file in files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
