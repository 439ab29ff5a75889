"""What was learned, and what has come since.

    source ── listed, footers read ── settled? ── compared with the ledger ──> Arrivals

A watermark by date would miss a partition that comes late; the ledger knows each file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from pyarrow import fs

from streamgd.config import TrainConfig
from streamgd.data.ahead import each_in_order
from streamgd.data.asking import ask
from streamgd.data.footers import Footer, read_footer
from streamgd.data.kinds import is_index_level
from streamgd.data.listing import Listed, NothingThereError, list_source, locate, unique_relatives
from streamgd.data.source import logical_type
from streamgd.data.storage_failures import filesystem_errors
from streamgd.errors import CorruptFileError, SchemaError
from streamgd.jobs.config import JobConfig

SUCCESS_MARKER = "_SUCCESS"
_FOOTER_THREADS = 16


@dataclass(frozen=True, order=True)
class Entry:
    """A file: its path below the source, its size, and the sha256 of its footer."""

    relative: str
    size_bytes: int
    footer_digest: str


@dataclass(frozen=True)
class Ledger:
    """The files that were learned, by relative path; ``columns`` are the names and types of theirs."""

    files: dict[str, Entry] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def with_files(self, entries: Iterable[Entry], columns: dict[str, str]) -> Ledger:
        """The ledger after these files, of these columns, were learned."""
        files = self.files | {each.relative: each for each in entries}
        return Ledger(dict(sorted(files.items())), columns)

    def state(self) -> dict[str, Any]:
        """Plain values; :meth:`from_state` is the inverse."""
        files = [[each.relative, each.size_bytes, each.footer_digest] for each in self.files.values()]
        return {"files": files, "columns": self.columns}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls({entry[0]: Entry(*entry) for entry in state["files"]}, dict(state["columns"]))


@dataclass(frozen=True)
class Arrived:
    """A file of the source as it is now; ``changed_s`` is the time of its last change, seconds since 1970."""

    entry: Entry
    path: str
    rows: int
    columns: dict[str, str]
    changed_s: float | None


@dataclass(frozen=True)
class Arrivals:
    """The files of the source, sorted by relative path, told apart.

    Attributes
    ----------
    fresh : settled files that were never learned
    known : files that were learned, and are the same
    changed : files that were learned, and have other content now
    unsettled : relative paths of files that are too young, or whose folder has no marker yet
    unreadable : relative path -> what is wrong with a new file that is no whole Parquet file
    without_rows : relative paths of new files that have nothing to learn; whoever writes them may yet fill them
    """

    fresh: list[Arrived]
    known: list[Arrived]
    changed: list[Arrived]
    unsettled: list[str]
    unreadable: dict[str, CorruptFileError]
    without_rows: list[str]

    @property
    def newest_s(self) -> float | None:
        """When the newest file that can be learned, or was, came; seconds since 1970."""
        return max((each.changed_s for each in (*self.fresh, *self.known) if each.changed_s is not None), default=None)


def look(job: JobConfig, ledger: Ledger, now_s: float) -> Arrivals:
    """See what is in the source now.

    Raises
    ------
    NoInputError
        The source does not exist.
    AccessError, StorageError
        It cannot be read.
    """
    store, path = locate(job.source, None)
    listed = unique_relatives(_listed(store, path))
    marked = _marked_folders(store, listed.values()) if job.success_marker else None
    settled, unsettled = {}, []
    for relative, item in sorted(listed.items()):
        # A clock that goes a little ahead makes no file settled; one that is far off makes none wait for ever.
        young = item.info.mtime_ns is not None and abs(now_s - item.info.mtime_ns / 1e9) < job.min_age
        waits = young or (marked is not None and _folder(item) not in marked)
        if waits and relative not in ledger.files:
            unsettled.append(relative)
        else:
            settled[relative] = item
    arrivals = Arrivals([], [], [], unsettled, {}, [])
    footers = each_in_order(settled.values(), lambda item: _footer(store, item), _FOOTER_THREADS)
    for (relative, item), footer in zip(settled.items(), footers, strict=True):
        _put(arrivals, ledger, relative, item, footer)
    return arrivals


def _put(arrivals: Arrivals, ledger: Ledger, relative: str, item: Listed, footer: Footer | CorruptFileError) -> None:
    before = ledger.files.get(relative)
    changed_s = None if item.info.mtime_ns is None else item.info.mtime_ns / 1e9
    if isinstance(footer, CorruptFileError):
        if before is None:
            arrivals.unreadable[relative] = footer
            return
        arrivals.changed.append(Arrived(Entry(relative, item.info.size, ""), item.info.path, 0, {}, changed_s))
        return
    columns = {each.name: str(logical_type(each.type)) for each in footer.schema}
    entry = Entry(relative, footer.size_bytes, footer.digest)
    arrived = Arrived(entry, item.info.path, footer.metadata.num_rows, columns, changed_s)
    if before is not None:
        (arrivals.known if before == entry else arrivals.changed).append(arrived)
    elif arrived.rows:
        arrivals.fresh.append(arrived)
    else:
        arrivals.without_rows.append(relative)


def check_columns_of(arrived: Iterable[Arrived], ledger: Ledger, config: TrainConfig) -> None:
    """Refuse a file whose columns are not those of the files learned before, but for columns that are not used.

    Raises
    ------
    SchemaError
        Names the file and the column.
    """
    if not ledger.columns:
        return
    left_out = set(config.exclude) - set(config.crossed)
    roles, used = _roles(ledger.columns, config), _used(ledger.columns, config)
    how = "name it in [train] exclude" if config.features is None else "take it out of [train] features"
    without = f"{how} and train afresh with: streamgd job run --restart"
    for each in arrived:
        new = [name for name in each.columns if name not in ledger.columns and name not in left_out]
        if new and config.features is None:
            raise SchemaError(
                f"{each.path} has a new column '{new[0]}' ({each.columns[new[0]]}). Write the file again without it, or"
                f" {without}"
            )
        for name in used:
            found, before = each.columns.get(name), ledger.columns[name]
            way_on = "." if name in roles else f", or {without}"
            if found is None:
                raise SchemaError(
                    f"{each.path} lacks the column '{name}' that the files before it have. Write the file again with"
                    f" it{way_on}"
                )
            if _compared(found) != _compared(before):
                raise SchemaError(
                    f"{each.path} has the column '{name}' as {found}, the files before it have it as {before}. Write"
                    f" the file again with that type{way_on}"
                )


def _roles(columns: Iterable[str], config: TrainConfig) -> set[str]:
    """The columns that are used for something else than features."""
    where = re.findall(r"`[^`]+`|\w+", config.where or "")
    conditions = {name.strip("`") for name in where} & set(columns)
    return {name for name in (config.target, config.weight, config.offset, config.exposure) if name} | conditions


def _used(columns: Iterable[str], config: TrainConfig) -> list[str]:
    """Those of the columns that training may use."""
    every = {name for name in columns if not is_index_level(name)}
    features = every - set(config.exclude) if config.features is None else set(config.features)
    used = features | set(config.crossed) | _roles(columns, config)
    return [name for name in columns if name in used]


def _compared(type_text: str) -> str:
    """A type without the names of what is in its lists, in which writers differ.

    >>> _compared("list<element: int64>")
    'list<int64>'
    """
    return re.sub(r"list<\w+: ", "list<", type_text)


def utc(time_s: float) -> str:
    """A time, in seconds since 1970, as ISO 8601.

    >>> utc(0.0)
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _footer(store: fs.FileSystem, item: Listed) -> Footer | CorruptFileError:
    try:
        return read_footer(store, item.info.path)
    except CorruptFileError as error:
        return error


def _listed(store: fs.FileSystem, path: str) -> list[Listed]:
    """The files of the source; none where it is an empty directory, or a pattern that matches nothing yet."""
    try:
        return list_source(store, path, 0)
    except NothingThereError:
        return []


def _folder(item: Listed) -> str:
    folder: str = item.info.path.rpartition("/")[0]
    return folder


def _marked_folders(store: fs.FileSystem, items: Iterable[Listed]) -> set[str]:
    folders = sorted({_folder(item) for item in items})
    with filesystem_errors(f"look for {SUCCESS_MARKER}"):
        markers = [f"{folder}/{SUCCESS_MARKER}" for folder in folders]
        infos = ask(store, f"look for {SUCCESS_MARKER}", lambda: store.get_file_info(markers))
    return {folder for folder, info in zip(folders, infos, strict=True) if info.type == fs.FileType.File}
