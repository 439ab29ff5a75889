"""Moments of numbered rows that are the same bits however the rows are cut into files, row groups and batches.

    rows 0 … 255 | 256 … 511 | 512 … 767 | …      ranges of the global row number
         └──── pair ────┘          └── …          neighbours merged, then pairs of neighbours, …

A range that lies in one batch is summed where the batch is encoded. Of those at its edges the rows are kept until the
range is whole, and then summed by the same kernel. Merging follows a binary tree over the numbers of the ranges, so
that it does not matter in which order they come. Rows that are not used count as rows of weight zero; they change no
bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from streamgd.data.scaler import Moments
from streamgd.kernels import moments as kernels

FEWEST_ROWS = 16
#: A block has so many ranges or more, unless it is small: only rows at the edges of batches are kept.
RANGES_OF_A_BLOCK = 8

#: Moments ``(n_numeric + 1, 3)``, those of the target last, of the rows of one range.
MomentsOf = Callable[["Piece"], np.ndarray]


def range_rows(block_rows: int) -> int:
    """Rows of a range, a power of two: of wide rows fewer.

    >>> range_rows(65_536), range_rows(1_000)
    (256, 64)
    """
    fitting = max(1, block_rows // RANGES_OF_A_BLOCK)
    return max(FEWEST_ROWS, min(kernels.TILE_ROWS, 1 << (fitting.bit_length() - 1)))


@dataclass(frozen=True)
class Piece:
    """Rows of a range from its row ``first`` on: columns ``(n_numeric, n_rows)`` in provisional units, weight, target.

    Null is NaN.
    """

    first: int
    columns: np.ndarray
    weight: np.ndarray
    target: np.ndarray

    def state(self) -> dict[str, Any]:
        return {"first": self.first, "columns": self.columns, "weight": self.weight, "target": self.target}


@dataclass(frozen=True)
class BatchMoments:
    """Moments of the rows of a batch, by tiles: ranges, or with ``rows`` 0 as they come.

    Attributes
    ----------
    first_row : int
        Global number of the first row.
    ends : int64, (n_tiles,)
    tiles : float64, (n_tiles, n_numeric + 1, 3)
        Total weight, mean and squares; those of the target are last. Of ranges that are not whole they are not filled.
    edges : float64, (2, n_numeric, rows)
        The numbers of the first and the last range, where these are not whole.
    """

    first_row: int
    rows: int
    ends: np.ndarray
    tiles: np.ndarray
    edges: np.ndarray

    @classmethod
    def room(cls, first_row: int, n_rows: int, n_numeric: int, rows: int) -> Self:
        """Room for ``n_rows`` rows."""
        size = rows or kernels.TILE_ROWS
        first = size - first_row % size if rows else size
        ends = np.array([*range(first, n_rows, size), *([n_rows] if n_rows else [])], np.int64)
        edges = np.empty((2, n_numeric, rows) if rows else (0, 0, 0))
        return cls(first_row, rows, ends, np.zeros((len(ends), n_numeric + 1, 3)), edges)

    def merged(self) -> tuple[Moments, Moments]:
        """Moments of the columns of all rows, and of the target, merged one tile after another; of their ``largest``
        nothing is known.
        """
        moments = np.zeros(self.tiles.shape[1:])
        kernels.merge_in_order(self.tiles, moments)
        weight, mean, squares = np.ascontiguousarray(moments.T)
        largest = np.zeros(len(weight))
        of_columns, of_target = (
            Moments(weight[part], mean[part], squares[part], largest[part]) for part in (slice(-1), slice(-1, None))
        )
        return of_columns, of_target


class RowGroupMoments:
    """Moments of rows that follow one another, added batch by batch: whole ranges merged, and pieces of others.

    Parameters
    ----------
    rows : int
        Of a range.
    n_rows : int
        That will be added, at most.
    """

    def __init__(self, rows: int, n_numeric: int, n_rows: int, moments_of: MomentsOf):
        self._rows = rows
        self._moments_of = moments_of
        # Of consecutive ranges at most two nodes of a level are without a neighbour.
        most = 2 * (n_rows // rows + 2).bit_length() + 2
        self._nodes = np.empty((most, n_numeric + 1, 3))
        self._places = np.empty((most, 2), np.int64)
        self._depth = 0
        self.pieces: dict[int, list[Piece]] = {}

    def add(self, batch: BatchMoments, weight: np.ndarray, target: np.ndarray) -> None:
        """Take in the rows that follow, their weight in the moments and their target, (n_rows,)."""
        starts = np.append(0, batch.ends)[:-1]
        done = 0
        for edge in np.flatnonzero(batch.ends - starts < self._rows).tolist():
            self._push(batch.tiles[done:edge], (batch.first_row + int(starts[done])) // self._rows)
            rows = slice(int(starts[edge]), int(batch.ends[edge]))
            number, first = divmod(batch.first_row + rows.start, self._rows)
            columns = batch.edges[min(edge, 1), :, : rows.stop - rows.start].copy()
            piece = Piece(first, columns, weight[rows].copy(), target[rows].copy())
            whole = _joined(self.pieces, number, [piece], self._rows)
            if whole is not None:
                self._push(self._moments_of(whole)[None], number)
            done = edge + 1
        if done < len(batch.ends):
            self._push(batch.tiles[done:], (batch.first_row + int(starts[done])) // self._rows)

    def _push(self, tiles: np.ndarray, number: int) -> None:
        self._depth = kernels.merge_neighbours(tiles, number, self._nodes, self._places, self._depth)

    @property
    def nodes(self) -> dict[tuple[int, int], np.ndarray]:
        """Moments (n_numeric + 1, 3) by level and index in the tree."""
        places = self._places[: self._depth].tolist()
        return {(level, index): self._nodes[at].copy() for at, (level, index) in enumerate(places)}


@dataclass
class RangedMoments:
    """Moments by ranges of ``rows`` rows that come in any order.

    ``nodes`` has those of whole ranges, by ``(level, index)`` in the tree; ``pieces``, by the number of the range,
    those of which rows are still to come.
    """

    rows: int
    nodes: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    pieces: dict[int, list[Piece]] = field(default_factory=dict)

    def add(self, found: RowGroupMoments, moments_of: MomentsOf) -> None:
        """Take in what was found in other rows."""
        self.nodes |= found.nodes
        for node in found.nodes:
            self._climb(node)
        for number, pieces in found.pieces.items():
            whole = _joined(self.pieces, number, pieces, self.rows)
            if whole is not None:
                self._add_range(number, whole, moments_of)

    def leave_out(self, first_row: int, n_rows: int, n_numeric: int, moments_of: MomentsOf) -> None:
        """Take rows that will not come as rows of weight zero: no row of a range at their edges waits for them."""
        end = first_row + n_rows
        for number in sorted({first_row // self.rows, max(first_row, end - 1) // self.rows}):
            start = max(first_row, number * self.rows)
            rows = min(end, (number + 1) * self.rows) - start
            if 0 < rows < self.rows:
                none = Piece(start - number * self.rows, np.zeros((n_numeric, rows)), np.zeros(rows), np.zeros(rows))
                whole = _joined(self.pieces, number, [none], self.rows)
                if whole is not None:
                    self._add_range(number, whole, moments_of)

    def total(self, moments_of: MomentsOf, n_numeric: int) -> np.ndarray:
        """Moments of all rows, (n_numeric + 1, 3); of those that never came as if they had no weight."""
        for number in sorted(self.pieces):
            self._add_range(number, _padded(self.pieces.pop(number), self.rows), moments_of)
        nodes = self.nodes
        while len(nodes) > 1:
            level = min(level for level, _ in nodes)
            above: dict[tuple[int, int], np.ndarray] = {}
            for (at, index), found in sorted(nodes.items()):
                place = (level + 1, index // 2) if at == level else (at, index)
                above[place] = _merged(above[place], found) if place in above else found
            nodes = above
        return next(iter(nodes.values()), np.zeros((n_numeric + 1, 3)))

    def _add_range(self, number: int, whole: Piece, moments_of: MomentsOf) -> None:
        self.nodes[0, number] = moments_of(whole)
        self._climb((0, number))

    def _climb(self, node: tuple[int, int]) -> None:
        """Merge a node with its neighbour, if that is there, and so on upwards."""
        while node in self.nodes and (node[0], node[1] ^ 1) in self.nodes:
            level, index = node
            left, right = self.nodes.pop((level, index & ~1)), self.nodes.pop((level, index | 1))
            node = (level + 1, index // 2)
            self.nodes[node] = _merged(left, right)

    def state(self) -> dict[str, Any]:
        nodes = [
            {"level": level, "index": index, "moments": found} for (level, index), found in sorted(self.nodes.items())
        ]
        pieces = [
            {"number": number, **piece.state()} for number in sorted(self.pieces) for piece in self.pieces[number]
        ]
        return {"rows": self.rows, "nodes": nodes, "pieces": pieces}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        restored = cls(state["rows"])
        for node in state["nodes"]:
            restored.nodes[node["level"], node["index"]] = node["moments"]
        for piece in state["pieces"]:
            rows = Piece(piece["first"], piece["columns"], piece["weight"], piece["target"])
            restored.pieces.setdefault(piece["number"], []).append(rows)
        return restored


def _joined(waiting: dict[int, list[Piece]], number: int, pieces: list[Piece], rows: int) -> Piece | None:
    """Put pieces to those of their range that wait; the whole range, if these are all of it."""
    mine = waiting.setdefault(number, [])
    mine += pieces
    if sum(len(piece.weight) for piece in mine) < rows:
        return None
    return _padded(waiting.pop(number), rows)


def _padded(pieces: list[Piece], rows: int) -> Piece:
    """A whole range; rows that are in no piece have weight zero."""
    columns = np.zeros((len(pieces[0].columns), rows))
    weight, target = np.zeros(rows), np.zeros(rows)
    for piece in pieces:
        own = slice(piece.first, piece.first + len(piece.weight))
        columns[:, own], weight[own], target[own] = piece.columns, piece.weight, piece.target
    return Piece(0, columns, weight, target)


def _merged(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Moments (n_columns, 3) of both, by the kernel that merges neighbours."""
    nodes, places = np.empty((2, *left.shape)), np.zeros((2, 2), np.int64)
    depth = kernels.merge_neighbours(np.stack([left, right]), 0, nodes, places, 0)
    assert depth == 1
    return np.asarray(nodes[0])
