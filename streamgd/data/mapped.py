"""A file that is written by position and read through a map, part by part, with every failure of storage told."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import numpy as np

from streamgd import state as states
from streamgd.errors import StorageError, from_os_error, storage_errors

PAGE_BYTES = mmap.ALLOCATIONGRANULARITY
#: Of Linux 5.14; Python has no name for it yet.
MADV_POPULATE_READ = 22

_madvise = ctypes.CDLL(None, use_errno=True).madvise


def whole_pages(size_bytes: int) -> int:
    """``size_bytes``, rounded up to pages of memory."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


class MappedFile:
    """A file of ``size_bytes``, a multiple of ``PAGE_BYTES``."""

    def __init__(self, path: Path, size_bytes: int):
        self.path = path
        self.size_bytes = size_bytes
        self._descriptor: int | None = None
        self._map: mmap.mmap | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the file is there in its full size."""
        try:
            return self.path.stat().st_size == self.size_bytes
        except OSError:
            return False

    @property
    def written_ns(self) -> int:
        """When the file was last written to."""
        with storage_errors(f"look at {self.path}"):
            return self.path.stat().st_mtime_ns

    def create(self, hint: str, reserve: bool = False) -> None:
        """Make the file, with all of its space at once if ``reserve``; ``hint`` ends the message of a failure."""
        with storage_errors(f"create {self.path}", hint):
            self._descriptor = states.files.create(self.path, self.size_bytes, reserve)

    def open(self) -> None:
        """Open the file that is there."""
        with storage_errors(f"open {self.path}"):
            self._descriptor = os.open(self.path, os.O_RDWR)

    def write(self, begin: int, data: np.ndarray, hint: str) -> None:
        """Write an array from byte ``begin`` on; threads may write at the same time."""
        assert self._descriptor is not None
        if not data.size:
            return
        # Of many small writes, what a context manager and a message take would be most of the time.
        try:
            states.files.write_at(self._descriptor, np.ascontiguousarray(data).data.cast("B"), begin)
        except OSError as error:
            raise from_os_error(error, f"write the blocks to {self.path}", hint) from error

    def read(self, begin: int, out: np.ndarray) -> None:
        """Fill a contiguous array with what is there from byte ``begin`` on."""
        assert self._descriptor is not None
        left = out.view(np.uint8).reshape(-1).data
        with storage_errors(f"read the blocks from {self.path}"):
            while left:
                count = os.preadv(self._descriptor, [left], begin)
                if not count:
                    raise self._too_short()
                left, begin = left[count:], begin + count

    def array(self, begin: int, count: int, kind: np.dtype | type) -> np.ndarray:
        """``count`` numbers from byte ``begin`` on, mapped."""
        return np.frombuffer(self._mapped(), kind, count, begin)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            assert self._descriptor is not None
            with storage_errors(f"map {self.path}"):
                if os.fstat(self._descriptor).st_size < self.size_bytes:
                    raise self._too_short()
                # Compiled loops take writable arrays only. Full batch finishes its blocks through the map, once.
                self._map = mmap.mmap(self._descriptor, self.size_bytes)
        return self._map

    def _too_short(self) -> StorageError:
        return StorageError(f"{self.path} is shorter than it was written. Run again with --restart.")

    def read_ahead(self, begin: int, size_bytes: int) -> bool:
        """Have the system read whole pages that are needed soon; returns whether they had to be read."""
        assert self._descriptor is not None
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            # Asking for what is in memory already would take time; the last page stands for all.
            at = begin + size_bytes - PAGE_BYTES
            return os.preadv(self._descriptor, [bytearray(1)], at, os.RWF_NOWAIT) == 0  # a file that was cut short
        except OSError:
            with storage_errors(f"read the blocks from {self.path}"):
                os.posix_fadvise(self._descriptor, begin, size_bytes, os.POSIX_FADV_WILLNEED)
            return True

    def wait_for(self, begin: int, size_bytes: int) -> None:
        """Wait until whole pages are in memory.

        Raises
        ------
        StorageError
            They cannot be read: an error here where a look through the map would kill the process.
        """
        with storage_errors(f"read the blocks from {self.path}"):
            try:
                _advise(self._mapped(), MADV_POPULATE_READ, begin, size_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a system that does not know it
                    raise

    def release(self, begin: int, size_bytes: int) -> None:
        """Tell the system that whole pages are not needed soon."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            _advise(self._map, mmap.MADV_DONTNEED, begin, size_bytes)

    def close(self) -> None:
        # The map goes with the last block that looks into it.
        self._map = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _advise(mapped: mmap.mmap, advice: int, begin: int, size_bytes: int) -> None:
    """Tell the system about whole pages of a map. Python's own ``madvise`` stops all threads until that is done."""
    pages = (ctypes.c_char * size_bytes).from_buffer(mapped, begin)
    if _madvise(pages, ctypes.c_size_t(size_bytes), advice):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
