"""The order of rows: a pure function of (seed, epoch, manifest), written down here so that it can be relied on.

Every random choice is made by a key, ``derive_key(seed, purpose, …)``, and the two functions of
``kernels.permute``: a hash of a row number, or a permutation of ``0 … n-1``. Nothing depends on the version of a
random generator, on time, threads or memory. A golden file in the tests pins the order.

``full``    row r of the manifest goes to place ``pi(r)``; block ``pi(r) // B``, slot ``pi(r) % B``. An epoch reads the
            blocks in the order of a permutation of its own.
``window``  the row groups, permuted, are dealt to lanes; a window is the next slice of each lane, its rows permuted.
``none``    the slices in the order of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamgd.data.source import Manifest, RowGroup
from streamgd.kernels import permute as kernels

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
FEISTEL_ROUNDS = 4

# What a key is for; the numbers are part of the order.
PLACES, BLOCK_ORDER, LANES, WINDOW_ROWS, SAMPLE, HOLDOUT, INIT = range(1, 8)


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def derive_key(*words: int) -> int:
    """A 64-bit key from words such as ``(seed, purpose, epoch)``; every word changes it, and so does their order.

    ``key = mix(key * golden + mix(word + golden))`` from ``key = 0``, modulo 2**64.
    """
    key = 0
    for word in words:
        key = _mix((key * _GOLDEN + _mix((word + _GOLDEN) & _WORD)) & _WORD)
    return key


@dataclass(frozen=True)
class Permutation:
    """A keyed bijection on ``0 … n-1``.

    >>> sorted(Permutation.of(5, 7, PLACES).as_array().tolist())
    [0, 1, 2, 3, 4]
    """

    n: int
    bits: int
    keys: np.ndarray

    @classmethod
    def of(cls, n: int, *words: int) -> Permutation:
        """The permutation of ``0 … n-1`` under ``derive_key(*words)``."""
        keys = np.array([derive_key(*words, turn) for turn in range(FEISTEL_ROUNDS)], np.uint64)
        return cls(n, max(2, (n - 1).bit_length()), keys)

    def as_array(self) -> np.ndarray:
        """Where each index goes, int64, shape ``(n,)``."""
        out = np.empty(self.n, np.int64)
        kernels.permute_rows(0, self.n, self.bits, self.keys, out)
        return out

    def place_rows(self, first_row: int, rows: int, block_places: int) -> tuple[np.ndarray, np.ndarray]:
        """Block (int64) and slot (int32) of the rows ``first_row … first_row + rows - 1``."""
        block, slot = np.empty(rows, np.int64), np.empty(rows, np.int32)
        kernels.place_rows(first_row, self.n, self.bits, self.keys, block_places, block, slot)
        return block, slot


def block_order(seed: int, epoch: int, n_blocks: int) -> np.ndarray:
    """The blocks of an epoch in the order they are read, int64, shape ``(n_blocks,)``."""
    return Permutation.of(n_blocks, seed, BLOCK_ORDER, epoch).as_array()


def chosen_rows(seed: int, purpose: int, relative_path: str, first_row: int, rows: int, fraction: float) -> np.ndarray:
    """Which rows of a file a hash of seed, path and row number chooses; bool, shape ``(rows,)``.

    The choice of a row does not change when files are added, renamed elsewhere, or read in another order.
    """
    path_word = int.from_bytes(hashlib.sha256(relative_path.encode()).digest()[:8], "little")
    out = np.empty(rows, np.bool_)
    threshold = min(_WORD, int(fraction * 2.0**64))
    kernels.rows_below(derive_key(seed, purpose, path_word), first_row, threshold, out)
    return out


@dataclass(frozen=True)
class Slice:
    """A run of rows of one row group, decoded together; ``start`` and ``stop`` count inside the row group."""

    row_group: RowGroup
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def slices_of(row_group: RowGroup, slice_rows: int) -> Iterator[Slice]:
    """The slices of a row group, front to back."""
    for start in range(0, row_group.rows, slice_rows):
        yield Slice(row_group, start, min(start + slice_rows, row_group.rows))


def file_order(manifest: Manifest, slice_rows: int) -> list[Slice]:
    """All slices in the order of the files: the chunks of full batch, and ``--shuffle none``."""
    return [piece for row_group in manifest.row_groups for piece in slices_of(row_group, slice_rows)]


def window_order(manifest: Manifest, seed: int, epoch: int, lanes: int, slice_rows: int) -> Iterator[list[Slice]]:
    """The windows of an epoch: each is the next slice of every open lane.

    Row groups are dealt to the lanes in permuted order; a lane that has come to the end of its row group opens
    the next one for the window that follows. So every row group is decoded once, front to back.
    """
    order = Permutation.of(len(manifest.row_groups), seed, LANES, epoch).as_array()
    waiting = (slices_of(manifest.row_groups[index], slice_rows) for index in order)
    open_lanes = [lane for lane in (next(waiting, None) for _ in range(lanes)) if lane is not None]
    while open_lanes:
        window: list[Slice] = []
        still_open = []
        for lane in open_lanes:
            piece = next(lane, None)
            while piece is None:
                following = next(waiting, None)
                if following is None:
                    break
                lane, piece = following, next(following, None)
            if piece is not None:
                window.append(piece)
                still_open.append(lane)
        open_lanes = still_open
        if window:
            yield window


def window_rows_order(seed: int, epoch: int, window: int, rows: int) -> np.ndarray:
    """The order of the rows inside a window, int64, shape ``(rows,)``."""
    return Permutation.of(rows, seed, WINDOW_ROWS, epoch, window).as_array()
