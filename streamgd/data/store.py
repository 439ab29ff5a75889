"""The blocks file: regions of equal size, written by position, mapped for reading, and the note that describes it.

A region first collects the records scattered to one block, then a finished block. A finished block is never written
over its own records: it goes to a free region, and the region of its records becomes free once that is noted. So a
kill at any moment leaves either the records or the block, and the note says which.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from streamgd import state as states
from streamgd.data.blocks import Block, RecordLayout, padded_bytes
from streamgd.errors import StorageError, StreamgdError, storage_errors
from streamgd.plain import byte_size
from streamgd.stopwatch import Stopwatch

PAGE_BYTES = mmap.ALLOCATIONGRANULARITY
#: Blocks of at most so many bytes stay mapped until the next epoch: to map their pages anew takes a sixth of its time.
MAPPED_BYTES = 1_000_000_000
#: Of Linux 5.14; Python has no name for it yet.
MADV_POPULATE_READ = 22
#: Where worker processes of a run keep theirs, below the folder of the blocks.
WORKERS_FOLDER = "workers"
#: What a user can do about too little space.
WAY_OUT = "Free some space, choose another place with --blocks-dir, or use --shuffle window, which needs none."
BATCH_WAY_OUT = "Free some space, choose another place with --blocks-dir, or use --blocks-max 1MB, which keeps none."


def boot_id() -> str:
    """Changes when the machine restarts: what was not yet on the disk by then cannot be trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


class BlockStore:
    """A file of ``n_regions`` regions in ``folder``.

    Parameters
    ----------
    places : int
        Records that fit a region; a block has at most so many rows.
    way_out : str
        What the user can do when the disk is full.
    """

    def __init__(self, folder: Path, layout: RecordLayout, places: int, n_regions: int, way_out: str = WAY_OUT):
        self.layout = layout
        self.places = places
        self.n_regions = n_regions
        needed = max(places * layout.record_bytes, layout.block_bytes(places))
        self.region_bytes = -(-needed // PAGE_BYTES) * PAGE_BYTES
        self.total_bytes = self.region_bytes * n_regions
        self._needed_bytes = self.total_bytes
        self._way_out = way_out
        self._folder = folder
        self._path = folder / "blocks.bin"
        self._note = folder / "prepared.safetensors"
        self._descriptor: int | None = None
        self._map: mmap.mmap | None = None

    def read_note(self, key: str) -> dict[str, Any] | None:
        """What was last noted, if it is about these blocks (``key``), whole, and the file is there in its full size."""
        try:
            if self._path.stat().st_size != self.total_bytes:
                return None
            note = states.deserialize(states.read_file(self._note), "prepare", str(self._note))
        except (OSError, StreamgdError):
            return None
        return note if note["key"] == [key, boot_id(), self.total_bytes] else None

    def write_note(self, key: str, note: dict[str, Any]) -> None:
        data = states.serialize({**note, "key": [key, boot_id(), self.total_bytes]}, "prepare")
        try:
            states.write_atomically(self._note, data)
        except StorageError as error:
            raise StorageError(f"{error} {self._hint()}") from error

    def create(self, needed_bytes: int, reserve: bool = False) -> None:
        """Make the file after a look at the free space; with ``reserve``, it takes all of its space at once.

        Raises
        ------
        StorageError
            The disk has less than ``needed_bytes`` free.
        """
        self.close()
        _remove_files(self._folder)  # but not the folder: its lock may be held
        self._needed_bytes = needed_bytes
        free = free_bytes(self._folder)
        if free < needed_bytes:
            raise StorageError(
                f"the blocks need {byte_size(needed_bytes)} in {self._folder}, {byte_size(free)} are free."
                f" {self._way_out}"
            )
        states.make_folder(self._folder)
        try:
            with storage_errors(f"create {self._path}", self._hint()):
                self._descriptor = states.files.create(self._path, self.total_bytes, reserve)
        except StreamgdError:
            with suppress(StreamgdError):  # the first error is the one to tell
                self.remove()
            raise

    def open(self) -> None:
        """Open the file that is there."""
        with storage_errors(f"open {self._path}"):
            self._descriptor = os.open(self._path, os.O_RDWR)

    def write(self, region: int, offset_bytes: int, data: np.ndarray) -> None:
        """Write an array to a region; threads may write at the same time.

        Raises
        ------
        StorageError
            The disk is full or failed; the message names the bytes needed.
        """
        assert self._descriptor is not None
        view = np.ascontiguousarray(data).view(np.uint8).reshape(-1).data
        position = region * self.region_bytes + offset_bytes
        with storage_errors(f"write the blocks to {self._path}", self._hint()):
            states.files.write_at(self._descriptor, view, position)

    def write_block(self, region: int, block: Block) -> None:
        """Write a finished block to a region, array by array: see :meth:`write`."""
        position = 0
        for array in block.arrays():
            self.write(region, position, array)
            position += padded_bytes(array.nbytes)

    def records(self, region: int, rows: int) -> np.ndarray:
        """The first records of a region, mapped: uint64, shape ``(rows, record_words)``.

        Raises
        ------
        StorageError
            See :meth:`wait_for`.
        """
        self.read_ahead(region)
        self.wait_for(region)
        buffer = np.frombuffer(self._mapped(), np.uint64, rows * self.layout.record_words, region * self.region_bytes)
        return buffer.reshape(rows, self.layout.record_words)

    def block(self, region: int, rows: int) -> Block:
        """The finished block in a region, mapped."""
        buffer = np.frombuffer(self._mapped(), np.uint8, self.region_bytes, region * self.region_bytes)
        return self.layout.views(buffer, rows)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            assert self._descriptor is not None
            with storage_errors(f"map {self._path}"):
                if os.fstat(self._descriptor).st_size < self.total_bytes:
                    raise StorageError(f"{self._path} is shorter than it was written. Run again with --restart.")
                # Compiled loops take writable arrays only. Full batch finishes its blocks through the map, once.
                self._map = mmap.mmap(self._descriptor, self.total_bytes)
        return self._map

    def in_turn(self, regions: Sequence[int], stopwatch: Stopwatch) -> Iterator[int]:
        """The regions one after another, each to be looked at through the map until the next is asked for.

        The next one is read meanwhile; the pages of the one before are let go, unless all are few.

        Raises
        ------
        StorageError
            See :meth:`wait_for`.
        """
        on_its_way = bool(regions) and self.read_ahead(regions[0])
        for region, following in zip_longest(regions, regions[1:]):
            if on_its_way:
                with stopwatch.timed("waiting"):
                    self.wait_for(region)
            on_its_way = following is not None and self.read_ahead(following)
            yield region
            self.release_if_large(region)

    def read_ahead(self, region: int) -> bool:
        """Have the system read a region that is needed soon; returns whether it had to be read."""
        assert self._descriptor is not None
        begin = region * self.region_bytes
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            # Asking for what is in memory already would take time; the last page stands for all.
            at = begin + self.region_bytes - PAGE_BYTES
            return os.preadv(self._descriptor, [bytearray(1)], at, os.RWF_NOWAIT) == 0  # a file that was cut short
        except OSError:
            with storage_errors(f"read the blocks from {self._path}"):
                os.posix_fadvise(self._descriptor, begin, self.region_bytes, os.POSIX_FADV_WILLNEED)
            return True

    def wait_for(self, region: int) -> None:
        """Wait until the pages of a region are in memory.

        Raises
        ------
        StorageError
            They cannot be read: an error here where a look through the map would kill the process.
        """
        with storage_errors(f"read the blocks from {self._path}"):
            try:
                self._mapped().madvise(MADV_POPULATE_READ, region * self.region_bytes, self.region_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a system that does not know it
                    raise

    def release_if_large(self, region: int) -> None:
        """Let the pages of a region go, unless all are few: they are not needed soon."""
        if self.total_bytes > MAPPED_BYTES:
            self.release(region)

    def release(self, region: int) -> None:
        """Tell the system that the pages of a region are not needed soon."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, region * self.region_bytes, self.region_bytes)

    def close(self) -> None:
        # The map goes with the last block that looks into it.
        self._map = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Delete file and note, and the folder if it is then empty."""
        self.close()
        remove_blocks(self._folder)

    def _hint(self) -> str:
        return f"The blocks need {byte_size(self._needed_bytes)}. {self._way_out}"


def _remove_files(folder: Path) -> None:
    for name in ("prepared.safetensors", "blocks.bin"):
        with storage_errors(f"remove {folder / name}"), suppress(FileNotFoundError):
            states.files.remove(folder / name)


def remove_blocks(folder: Path) -> None:
    """Delete the blocks in ``folder``, those of workers too, and the folder if it is then empty."""
    _remove_files(folder)
    shutil.rmtree(folder / WORKERS_FOLDER, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that holds ``folder``, or would."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with storage_errors(f"look at the free space of {folder}"):
        status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def written_bytes(folder: Path) -> int:
    """Bytes on the disk of the blocks in ``folder``."""
    try:
        return (folder / "blocks.bin").stat().st_blocks * 512
    except OSError:
        return 0
