"""The entries of shuffled blocks on disk: those that wait for their block, in pages, then those of finished blocks.

    entries-0.bin …   page | page | …     a page belongs to one block; a block fills the pages it was given in turn
    sparse.bin        block | block | …   row starts, rows of theta, values

How full the pages are is noted with the blocks; what was written after the last note is written again. The entries that
wait go when all blocks are finished.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from streamgd.data.blocks import Entries, EntriesLayout, RecordLayout, padded_bytes
from streamgd.data.mapped import MappedFile, whole_pages
from streamgd.data.striped import StripedFiles, file_names
from streamgd.stopwatch import Stopwatch

WAITING_STEM, FINISHED_NAME = "entries", "sparse.bin"
FILE_NAMES = (*file_names(WAITING_STEM), FINISHED_NAME)
#: Of a block; a multiple of what an entry takes.
PAGE_BYTES = 65_536


def entries_bytes(layout: RecordLayout, n_blocks: int, n_rows: int) -> int:
    """Bytes of all files at most, by the footers; 0 without sparse columns."""
    entries = layout.entries
    if entries is None:
        return 0
    finished = math.ceil(entries.row_bytes(layout.feature_type.itemsize) * n_rows) + n_blocks * whole_pages(1)
    return _waiting_bytes(entries, n_blocks, n_rows) + finished


def _waiting_bytes(layout: EntriesLayout, n_blocks: int, n_rows: int) -> int:
    of_page = PAGE_BYTES // (8 * layout.waiting_words)
    return (math.ceil(layout.of_row * n_rows) // of_page + n_blocks) * PAGE_BYTES


class EntriesStore:
    """Entries of ``n_blocks`` blocks in ``folder``.

    Parameters
    ----------
    n_rows : int
        Of all blocks together.
    """

    def __init__(self, folder: Path, records: RecordLayout, n_blocks: int, n_rows: int):
        layout, feature_type = records.entries, records.feature_type
        assert layout is not None
        self.needed_bytes = entries_bytes(records, n_blocks, n_rows)
        self._words = layout.waiting_words
        self._feature_type = feature_type
        self._has_values = layout.has_values
        entry_bytes = 8 * self._words
        self._entries_of_page = PAGE_BYTES // entry_bytes
        n_pages = _waiting_bytes(layout, n_blocks, n_rows) // PAGE_BYTES
        self._waiting = StripedFiles(folder, WAITING_STEM, PAGE_BYTES, n_pages)
        self._finished = MappedFile(folder / FINISHED_NAME, 0)
        self._n_blocks = n_blocks
        self._begin()
        self._lock = threading.Lock()
        self._hint = ""

    def _begin(self) -> None:
        """Nothing waits, and nothing is finished."""
        self._finished.size_bytes = 0
        #: Entries that wait for each block, and the pages that each was given.
        self._fill = np.zeros(self._n_blocks, np.int64)
        self._pages: list[list[int]] = [[] for _ in range(self._n_blocks)]
        self._n_pages = 0
        #: Of finished blocks: where each begins, int64, (n_blocks,), and how many entries it has.
        self._begins, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)

    # Files

    def create(self, hint: str, reserve: bool) -> None:
        """Make the files of those that wait; ``hint`` ends the message of a failure to write."""
        self._hint = hint
        self._begin()
        self._waiting.create(hint, reserve)

    def open(self, hint: str) -> None:
        """Open the files that :meth:`take_up` found."""
        self._hint = hint
        if self._waiting.is_whole:
            self._waiting.open()
        if self._finished.is_whole and self._finished.size_bytes:
            self._finished.open()

    def close(self) -> None:
        self._waiting.close()
        self._finished.close()

    def state(self) -> dict[str, Any]:
        """What is to be noted."""
        with self._lock:
            owners = np.empty(self._n_pages, np.int32)
            for block, pages in enumerate(self._pages):
                owners[pages] = block
            return {
                "fill": self._fill.copy(), "owners": owners, "begins": self._begins, "counts": self._counts.copy(),
                "finished_bytes": self._finished.size_bytes,
            }  # fmt: skip

    def take_up(self, state: dict[str, Any] | None) -> bool:
        """Go on from what was noted, if the files are there."""
        if state is None:
            return False
        self._finished.size_bytes = state["finished_bytes"]
        self._begins, self._counts = state["begins"], state["counts"]
        if not len(state["fill"]):
            return self._finished.is_whole
        self._fill, self._n_pages = state["fill"].copy(), len(state["owners"])
        self._pages = [[] for _ in self._fill]
        for page, block in enumerate(state["owners"].tolist()):
            self._pages[block].append(page)
        return self._waiting.is_whole and (not self._finished.size_bytes or self._finished.is_whole)

    # Those that wait

    def append(self, block: int, waiting: np.ndarray) -> None:
        """Write entries (uint64, (n, words)) behind those that wait for a block; threads may do so at the same time.

        Raises
        ------
        StorageError
            The disk is full or failed.
        """
        done, of_page = 0, self._entries_of_page
        with self._lock:
            begin = int(self._fill[block])
            self._fill[block] += len(waiting)
            while len(self._pages[block]) * of_page < self._fill[block]:
                self._pages[block].append(self._n_pages)
                self._n_pages += 1
            pages = self._pages[block][begin // of_page :]
        for page in pages:
            within = (begin + done) % of_page
            part = waiting[done : done + of_page - within]
            self._waiting.write(page * PAGE_BYTES + within * 8 * self._words, part, self._hint)
            done += len(part)
            if done == len(waiting):
                break

    def waiting(self, block: int) -> np.ndarray:
        """All entries that wait for a block, uint64, (n, words)."""
        found = np.empty((int(self._fill[block]), self._words), np.uint64)
        for number, page in enumerate(self._pages[block]):
            part = found[number * self._entries_of_page : (number + 1) * self._entries_of_page]
            self._waiting.read(page * PAGE_BYTES, part)
        return found

    # Those of finished blocks

    def begin_finished(self, rows: list[int], blocks: list[list[int]]) -> None:
        """Make room for finished blocks of at most so many ``rows``, of those that wait for ``blocks`` each.

        Nothing changes where that was done before.
        """
        if self._finished.size_bytes:
            return
        sizes = [
            whole_pages(self._finished_bytes(n_rows, int(self._fill[group].sum())))
            for n_rows, group in zip(rows, blocks, strict=True)
        ]
        self._begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._counts = np.zeros(len(rows), np.int64)
        self._finished.size_bytes = int(self._begins[-1])
        self._finished.create(self._hint, reserve=True)

    def _finished_bytes(self, n_rows: int, n_entries: int) -> int:
        sizes = (8 * (n_rows + 1), 4 * n_entries, self._has_values * self._feature_type.itemsize * n_entries)
        return sum(map(padded_bytes, sizes))

    def write(self, index: int, entries: Entries) -> None:
        """Write those of a finished block."""
        begin = int(self._begins[index])
        for array in entries.arrays():
            self._finished.write(begin, array, self._hint)
            begin += padded_bytes(array.nbytes)
        self._counts[index] = len(entries.coordinates)

    def end_waiting(self) -> None:
        """All blocks are finished: to be called before that is noted, and :meth:`remove_waiting` after it."""
        self._fill, self._pages, self._n_pages = np.empty(0, np.int64), [], 0

    def remove_waiting(self) -> None:
        """Remove the files of those that wait, if they are still there."""
        self._waiting.remove()

    def block(self, index: int, rows: int) -> Entries:
        """Those of a finished block of ``rows`` rows, mapped."""
        position, n = int(self._begins[index]), int(self._counts[index])
        found = []
        shapes = ((rows + 1, np.int64), (n, np.int32), (n * self._has_values, self._feature_type))
        for count, kind in shapes:
            found.append(self._finished.array(position, count, kind) if count else np.empty(0, kind))
            position += padded_bytes(found[-1].nbytes)
        return Entries(*found)

    def in_turn(self, turns: Iterator[int], order: Sequence[int], lets_go: bool, stopwatch: Stopwatch) -> Iterator[int]:
        """``turns``, with those of the blocks ``order`` in memory at each: see ``BlockStore.in_turn``.

        Parameters
        ----------
        lets_go : bool
            Whether the pages of the block before are let go.
        """
        file = self._finished
        if order:
            file.read_ahead(*self._part(order[0]))
        for index, following in zip_longest(order, order[1:]):
            turn = next(turns)
            with stopwatch.timed("waiting"):
                file.wait_for(*self._part(index))
            if following is not None:
                file.read_ahead(*self._part(following))
            yield turn
            if lets_go:
                file.release(*self._part(index))
        next(turns, None)

    @property
    def written_ns(self) -> int:
        """When the file of finished blocks was last written to."""
        return self._finished.written_ns

    @property
    def finished_bytes(self) -> int:
        """Of the file of finished blocks."""
        return self._finished.size_bytes

    def _part(self, index: int) -> tuple[int, int]:
        return int(self._begins[index]), int(self._begins[index + 1] - self._begins[index])
