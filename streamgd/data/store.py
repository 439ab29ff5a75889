"""The blocks on disk: regions of equal size, written by position, mapped for reading, and notes that describe them.

A region has room for a block. Those of a bundle, which follow each other, first collect the records scattered to
its blocks, and then finished blocks. These are never written over their own records: they go to free regions, and those
of a bundle become free once it is noted that all of its blocks are finished. So a kill at any moment leaves either
the records or the block, and the note says which.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from streamgd import state as states
from streamgd.data.blocks import Block, RecordLayout, padded_bytes
from streamgd.data.entries_store import FILE_NAMES as ENTRIES_FILE_NAMES
from streamgd.data.entries_store import EntriesStore
from streamgd.data.mapped import whole_pages
from streamgd.data.striped import StripedFiles, file_names, remove_files
from streamgd.errors import StorageError, StreamgdError, storage_errors
from streamgd.plain import byte_size
from streamgd.stopwatch import Stopwatch

#: Blocks of at most so many bytes stay mapped until the next epoch: to map their pages anew takes a sixth of its time.
MAPPED_BYTES = 1_000_000_000
#: What is noted: of scatter, and of finalise, which changes little of what may be long.
NOTE_NAMES = ("prepared.safetensors", "finished.safetensors")
#: The files of the blocks.
FILE_NAMES = (*file_names("blocks"), *ENTRIES_FILE_NAMES)
#: Where worker processes of a run keep theirs, below the folder of the blocks.
WORKERS_FOLDER = "workers"
#: What a user can do about too little space.
WAY_OUT = "Free some space, choose another place with --blocks-dir, or train with --shuffle window, which needs none."
BATCH_WAY_OUT = "Free some space, choose another place with --blocks-dir, or train without blocks: --blocks-max 1MB."


#: Where no start of the machine has a name, nothing outlives the process.
_PROCESS_ID = uuid4().hex


def boot_id() -> str:
    """Changes when the machine restarts: what was not yet on the disk by then cannot be trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _PROCESS_ID


def _checksum(content: bytes) -> str:
    """That of a whole state file: see ``state.checksum_of``."""
    return content[-states.CHECKSUM_BYTES :].hex()


class BlockStore:
    """``n_regions`` regions in files in ``folder``.

    Parameters
    ----------
    places : int
        Records that fit a region; a block has at most so many rows.
    way_out : str
        What the user can do when the disk is full.
    entries : EntriesStore, optional
        Where those of sparse columns are, in the same folder.
    bundle_blocks : int
        Blocks of a bundle; ``n_regions`` is a multiple of it.
    """

    def __init__(
        self, folder: Path, layout: RecordLayout, places: int, n_regions: int, way_out: str = WAY_OUT,
        entries: EntriesStore | None = None, bundle_blocks: int = 1,
    ):  # fmt: skip
        assert entries is None or bundle_blocks == 1  # they wait by blocks
        self.layout = layout
        self.places = places
        self.n_regions = n_regions
        needed = max(places * layout.record_bytes, layout.block_bytes(places))
        self.region_bytes = whole_pages(needed)
        self.total_bytes = self.region_bytes * n_regions
        self._way_out = way_out
        self._hint = self._hint_of(self.total_bytes)
        self._folder = folder
        self._prepared, self._finished = (folder / name for name in NOTE_NAMES)
        #: The checksum of the first of them: the second goes with it alone.
        self._noted = ""
        self.bundle_blocks = bundle_blocks
        self._bundle_bytes = bundle_blocks * self.region_bytes
        self._files = StripedFiles(folder, "blocks", self._bundle_bytes, n_regions // bundle_blocks)
        self.entries = entries
        #: Of the files together.
        self.needed_bytes = self.total_bytes + (entries.needed_bytes if entries is not None else 0)

    def read_note(self, key: str) -> dict[str, Any] | None:
        """What was last noted, if it is about these blocks (``key``), whole, and the files are there in full size.

        Finished blocks that somebody else has written to since are none.
        """
        if not self._files.is_whole:
            return None
        try:
            content = states.read_file(self._prepared)
            note = states.deserialize(content, "prepare", str(self._prepared))
            self._noted = _checksum(content)
            if note.pop("goes_on"):
                finished = states.deserialize(states.read_file(self._finished), "prepare", str(self._finished))
                if finished.pop("after") != self._noted:
                    return None
                note |= finished
            if "written_ns" in note and note.pop("written_ns") != self._written_ns():
                return None
        except (OSError, StreamgdError, KeyError):  # not whole, or noted by another version
            return None
        is_there = self.entries is None or self.entries.take_up(note.get("entries"))
        return note if is_there and note["key"] == self._full_key(key) else None

    def write_note(self, key: str, note: dict[str, Any], finished: dict[str, Any] | None = None) -> None:
        """Note how far the blocks are, and what is finished of them, if that goes on from here.

        Nobody waits for the device: blocks are not gone on from after another start of the machine.
        """
        goes_on = finished is not None
        data = states.serialize({**note, "key": self._full_key(key), "goes_on": goes_on}, "prepare")
        self._noted = _checksum(data)
        if finished is not None:
            # First: until the other is there too, the one before it counts, and this one does not.
            self.write_finished(finished)
        self._write(self._prepared, data)

    def write_finished(self, finished: dict[str, Any]) -> None:
        """Note what is finished, beside what was noted last, which may be long: levels, and keys."""
        if finished.get("phase") == "done":
            finished = finished | {"written_ns": self._written_ns()}
        self._write(self._finished, states.serialize({**finished, "after": self._noted}, "prepare"))

    def _write(self, path: Path, data: bytes) -> None:
        try:
            states.write_atomically(path, data, outlives_power=False)
        except StorageError as error:
            raise StorageError(f"{error} {self._hint}") from error

    def _written_ns(self) -> list[int]:
        return self._files.written_ns + ([self.entries.written_ns] if self.entries is not None else [])

    def _full_key(self, key: str) -> list[Any]:
        return [key, boot_id(), self.total_bytes, self.bundle_blocks]

    def create(self, needed_bytes: int, reserve: bool = False) -> None:
        """Make the files after a look at the free space; with ``reserve``, they take all of their space at once.

        Raises
        ------
        StorageError
            The disk has less than ``needed_bytes`` free.
        """
        self.close()
        _remove_files(self._folder)  # but not the folder: its lock may be held
        self._hint = self._hint_of(needed_bytes)
        free = free_bytes(self._folder)
        if free < needed_bytes:
            raise StorageError(
                f"the blocks need {byte_size(needed_bytes)} in {self._folder}, {byte_size(free)} are free."
                f" {self._way_out}"
            )
        states.make_folder(self._folder)
        try:
            self._files.create(self._hint, reserve)
            if self.entries is not None:
                self.entries.create(self._hint, reserve)
        except StreamgdError:
            with suppress(StreamgdError):  # the first error is the one to tell
                self.remove()
            raise

    def open(self) -> None:
        """Open the files that are there."""
        self._files.open()
        if self.entries is not None:
            self.entries.open(self._hint)

    def write(self, region: int, offset_bytes: int, data: np.ndarray) -> None:
        """Write an array to a region; threads may write at the same time.

        Raises
        ------
        StorageError
            The disk is full or failed; the message names the bytes needed.
        """
        self._files.write(region * self.region_bytes + offset_bytes, data, self._hint)

    def write_block(self, region: int, block: Block) -> None:
        """Write a finished block to a region, array by array: see :meth:`write`."""
        position = 0
        for array in block.arrays():
            self.write(region, position, array)
            position += padded_bytes(array.nbytes)

    def write_records(self, bundle: int, first: int, records: np.ndarray) -> None:
        """Write records of a bundle behind ``first`` others: see :meth:`write`."""
        begin = bundle * self._bundle_bytes + first * self.layout.record_bytes
        self._files.write(begin, records, self._hint)

    def records(self, bundle: int, rows: int) -> np.ndarray:
        """The first records of a bundle, mapped: uint64, shape ``(rows, record_words)``.

        Raises
        ------
        StorageError
            See :meth:`wait_for`.
        """
        begin, size_bytes = bundle * self._bundle_bytes, whole_pages(rows * self.layout.record_bytes)
        self._files.read_ahead(begin, size_bytes)
        self._files.wait_for(begin, size_bytes)
        buffer = self._files.array(begin, rows * self.layout.record_words, np.uint64)
        return buffer.reshape(rows, self.layout.record_words)

    def release_records(self, bundle: int) -> None:
        """Let the pages of a bundle go, unless all are few: its records are not needed any more."""
        if self.is_large:
            self._files.release(bundle * self._bundle_bytes, self._bundle_bytes)

    def block(self, region: int, rows: int) -> Block:
        """The finished block in a region, mapped."""
        buffer = self._files.array(region * self.region_bytes, self.region_bytes, np.uint8)
        return self.layout.views(buffer, rows)

    def in_turn(self, regions: Sequence[int], stopwatch: Stopwatch, alone: bool = False) -> Iterator[int]:
        """The regions one after another, each to be looked at through the map until the next is asked for.

        The next one is read meanwhile; the pages of the one before are let go, unless all are few.

        Parameters
        ----------
        alone : bool
            Whether nobody else computes: then a thread maps the next one, where it has been let go.

        Raises
        ------
        StorageError
            See :meth:`wait_for`.
        """
        maps_ahead = alone and self.is_large
        with ThreadPoolExecutor(1) as pool:

            def begin(region: int) -> Callable[[], object] | None:
                """Begin to bring a region into memory; returns what waits for that, where there is something to."""
                on_its_way = self.read_ahead(region)
                if maps_ahead:
                    return pool.submit(self.wait_for, region).result
                return partial(self.wait_for, region) if on_its_way else None

            waits = map(begin, regions)  # each begins when it is asked for
            wait = next(waits, None)
            for region in regions:
                if wait is not None:
                    with stopwatch.timed("waiting"):
                        wait()
                wait = next(waits, None)
                yield region
                self.release_if_large(region)

    def read_ahead(self, region: int) -> bool:
        """Have the system read a region that is needed soon; returns whether it had to be read."""
        return self._files.read_ahead(region * self.region_bytes, self.region_bytes)

    def wait_for(self, region: int) -> None:
        """Wait until the pages of a region are in memory.

        Raises
        ------
        StorageError
            They cannot be read: an error here where a look through the map would kill the process.
        """
        self._files.wait_for(region * self.region_bytes, self.region_bytes)

    @property
    def is_large(self) -> bool:
        """Whether the pages of blocks are let go when another one is looked at."""
        finished_bytes = self.entries.finished_bytes if self.entries is not None else 0
        return self.total_bytes + finished_bytes > MAPPED_BYTES

    def release_if_large(self, region: int) -> None:
        """Let the pages of a region go, unless all are few: they are not needed soon."""
        if self.is_large:
            self.release(region)

    def release(self, region: int) -> None:
        """Tell the system that the pages of a region are not needed soon."""
        self._files.release(region * self.region_bytes, self.region_bytes)

    def close(self) -> None:
        self._files.close()
        if self.entries is not None:
            self.entries.close()

    def remove(self) -> None:
        """Delete files and notes, and the folder if it is then empty."""
        self.close()
        remove_blocks(self._folder)

    def _hint_of(self, needed_bytes: int) -> str:
        return f"The blocks need {byte_size(needed_bytes)}. {self._way_out}"


def _remove_files(folder: Path) -> None:
    for name in NOTE_NAMES:
        states.remove(folder / name, missing_ok=True)
    remove_files(folder / name for name in FILE_NAMES)
    for name in NOTE_NAMES:
        states.remove_leftovers(folder, name)


def remove_blocks(folder: Path) -> None:
    """Delete the blocks in ``folder``, those of workers too, and the folder if it is then empty."""
    _remove_files(folder)
    shutil.rmtree(folder / WORKERS_FOLDER, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that holds ``folder``, or would."""
    with storage_errors(f"look at the free space of {folder}"):
        status = os.statvfs(next(each for each in (folder, *folder.parents) if each.exists()))
    return status.f_bavail * status.f_frsize


def written_bytes(folder: Path) -> int:
    """Bytes on the disk of the blocks in ``folder``."""
    total = 0
    for name in FILE_NAMES:
        with suppress(OSError):
            total += (folder / name).stat().st_blocks * 512
    return total
