"""Where data are: the file system of a URI, or one that was handed over, and the files in it, open and identified.

Local files are read as they are. Those of a store are read through :class:`StoreFile`, which asks again where the
store does not answer.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import pyarrow as pa
from pyarrow import fs

from streamgd.credentials import without_credentials
from streamgd.data.asking import ask, is_local
from streamgd.data.storage_failures import filesystem_errors, one_line
from streamgd.errors import ConfigError, DataChangedError, StreamgdError

T = TypeVar("T")

#: pyarrow's S3 client gives up a request after 3 s without data, by default; a store under load takes longer.
_S3_SECONDS = {"connect_timeout": 10.0, "request_timeout": 30.0}
#: Google's client goes on for 15 minutes by default, and nobody can stop it.
_GCS_SECONDS = {"retry_time_limit": 30.0}


def open_store(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path in it.

    Credentials are those of the URI, else those that the store's library finds: environment, profile, machine. So is
    the endpoint: ``?endpoint_override=HOST:PORT&scheme=http``, else AWS_ENDPOINT_URL.

    Raises
    ------
    ConfigError
        A URI that pyarrow does not know.
    """
    shown = without_credentials(uri)
    try:
        with filesystem_errors(f"open {shown}"):
            store, path = fs.FileSystem.from_uri(uri)
    except StreamgdError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise ConfigError(
            f"cannot open '{shown}': {without_credentials(one_line(error))}. Give a local path, or a URI such as"
            f" s3://bucket/folder."
        ) from None  # the error may hold the URI as it was
    return _with_patience(store), path


def _with_patience(store: fs.FileSystem) -> fs.FileSystem:
    """The same file system with time-outs that fit data, which a URI cannot name."""
    seconds = {"s3": _S3_SECONDS, "gcs": _GCS_SECONDS}.get(store.type_name)
    if seconds is None:
        return store
    make, (options,) = store.__reduce__()
    if seconds is _GCS_SECONDS:
        from datetime import timedelta

        return make({**options, "retry_time_limit": timedelta(seconds=seconds["retry_time_limit"])})
    return make({**options, **seconds})


def as_filesystem(given: Any) -> fs.FileSystem:
    """A file system that was handed over, of pyarrow or fsspec, as pyarrow's.

    Raises
    ------
    ConfigError
        It is neither.
    """
    if isinstance(given, fs.FileSystem):
        return given
    if callable(getattr(given, "_strip_protocol", None)) and callable(getattr(given, "info", None)):
        return fs.PyFileSystem(fs.FSSpecHandler(given))
    raise ConfigError(f"filesystem: expected one of pyarrow.fs or fsspec, found {type(given).__name__}.")


def path_in(store: fs.FileSystem, source: str) -> str:
    """The path of a source in a file system that was handed over; an fsspec one takes its own URIs too.

    Raises
    ------
    ConfigError
        A URI for a file system of pyarrow.
    """
    library = _fsspec(store)
    if library is not None:
        path = library._strip_protocol(without_credentials(source))
        return str(path).rstrip("/")
    if "://" in source:
        raise ConfigError(f"'{without_credentials(source)}': with filesystem=, give the path inside it, not a URI.")
    return source.rstrip("/")


def _fsspec(store: fs.FileSystem) -> Any:
    """The fsspec file system inside pyarrow's, if there is one."""
    handler = store.handler if isinstance(store, fs.PyFileSystem) else None
    return handler.fs if isinstance(handler, fs.FSSpecHandler) else None


@dataclass(frozen=True)
class FileState:
    """``identity`` is the etag, or where the store has none the time of last change in nanoseconds, or ''."""

    size_bytes: int
    identity: str


def file_state(store: fs.FileSystem, path: str) -> FileState | None:
    """What tells a file from one that took its place; None where there is no file."""
    library = _fsspec(store)
    if library is not None:
        library.invalidate_cache(library._parent(path))  # what it listed before says nothing of now
    with filesystem_errors(f"look at {path}"):
        if is_local(store):
            info = store.get_file_info(path)
            return FileState(info.size, identity_of(info)) if info.type == fs.FileType.File else None
        try:
            return StoreFile(store, path).state
        except FileNotFoundError:
            return None


def identity_of(info: fs.FileInfo) -> str:
    """The time of last change in nanoseconds, or '' where the store has none."""
    return "" if info.mtime_ns is None else str(info.mtime_ns)


def open_file(store: fs.FileSystem, path: str) -> Any:
    """A file to read, with ``read_at(size, start)`` and ``size()``.

    Raises
    ------
    OSError, UnavailableError
        It cannot be opened.
    """
    return store.open_input_file(path) if is_local(store) else StoreFile(store, path)


class StoreFile(io.RawIOBase):
    """A file of a store, for reading. A request that the store does not answer is asked again, on a new connection.

    Raises
    ------
    OSError, UnavailableError
        From the constructor. From reading, streamgd's errors only: whoever decodes what is read can tell a failure of
        the store from bytes that are damaged.
    """

    def __init__(self, store: fs.FileSystem, path: str):
        self._store, self._path = store, path
        self._at = 0
        self._file = self._ask(lambda: store.open_input_file(path))
        self._size = int(self._file.size())

    @property
    def state(self) -> FileState:
        """Size and identity as the store has them."""
        return FileState(
            self._size, self._etag() or identity_of(self._ask(lambda: self._store.get_file_info(self._path)))
        )

    def _etag(self) -> str:
        library = _fsspec(self._store)
        if library is not None:
            known = self._ask(lambda: library.info(self._path))
            return str(known.get("ETag") or known.get("etag") or "")
        known = {name.lower(): value for name, value in (self._file.metadata() or {}).items()}
        etag: bytes = known.get("etag", b"")
        return etag.decode(errors="replace")

    def _ask(self, call: Callable[[], T]) -> T:
        return ask(self._store, f"read {self._path}", call)

    def size(self) -> int:
        return self._size

    def read_at(self, size: int, start: int) -> bytes:
        """``size`` bytes from ``start`` on, less at the end of the file."""
        wanted = max(0, min(size, self._size - start))
        if not wanted:
            return b""

        again = False

        def read() -> bytes:
            nonlocal again
            if again:
                self._open_again()
            again = True
            found: bytes = self._file.read_at(wanted, start)
            if len(found) != wanted:
                raise OSError(f"the answer had {len(found):,} of {wanted:,} bytes")
            return found

        with filesystem_errors(f"read {self._path}"):
            return self._ask(read)

    def _open_again(self) -> None:
        self._file = self._store.open_input_file(self._path)
        if self._file.size() != self._size:
            raise DataChangedError(f"{self._path} changed while it was read. Put the file back, or use --restart.")

    def read(self, size: int | None = -1) -> bytes:
        found = self.read_at(self._size if size is None or size < 0 else size, self._at)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def __enter__(self) -> Self:
        return self
