"""The rows whose raw prediction is near the kink of their loss, of which J is to be known exactly around a theta.

All other rows stay on their side of the kink where theta moves little, and their loss is a straight line there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streamgd.data.blocks import Block
from streamgd.objective.losses import KinkedLoss

#: Values that the rows of a band have at most, and rows that it may have in any case, for each coefficient.
BAND_VALUES, ROWS_PER_COEFFICIENT = 1_000_000, 4
#: Rows of a block that tell whether many are equal.
TRIED = 4096
#: … where more than so many are expected to be.
FEWEST_EQUAL = 4.0


@dataclass(frozen=True)
class Band:
    """Rows near their kink, in the order of the data; weights are part of slopes.

    Where they are more than ``most``, those that are equal become one, with the sum of their slopes.

    Attributes
    ----------
    rows : float64, (n_rows, n_dof)
        As theta sees them, with a 1 for the intercept.
    kinks : float64, (n_rows,)
        Where ``rows @ theta`` passes the kink.
    below, rises, here : float64, (n_rows,)
        The slope before the kink, by how much it rises there, and the slope at the theta of the pass.
    steepness : float
        By how much the slope of a row of weight 1 rises.
    most : int
        Rows that are kept.
    found : int
        Rows that are near, kept or not; not more than ``most`` where all are kept.
    """

    rows: np.ndarray
    kinks: np.ndarray
    below: np.ndarray
    rises: np.ndarray
    here: np.ndarray
    steepness: float
    most: int
    found: int

    def __add__(self, other: Band) -> Band:
        arrays = [np.concatenate([one, more]) for one, more in zip(self.arrays(), other.arrays(), strict=True)]
        lost = self.lost + other.lost
        # What has lost rows once stays without them, so that merging is of no use.
        if len(arrays[0]) > self.most and lost == 0:
            arrays = _merged(*arrays)
        lost += max(len(arrays[0]) - self.most, 0)
        rows, kinks, below, rises, here = (each[: self.most] for each in arrays)
        found = len(rows) + lost
        return replace(self, rows=rows, kinks=kinks, below=below, rises=rises, here=here, found=found)

    @property
    def lost(self) -> int:
        """Rows that are near and had no room."""
        return self.found - len(self.rows)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.rows, self.kinks, self.below, self.rises, self.here

    def divided(self, weight: float) -> Band:
        """With the slopes of the mean loss, where ``weight`` is the total."""
        return replace(self, below=self.below / weight, rises=self.rises / weight, here=self.here / weight)


def most_rows(n_dof: int) -> int:
    """Rows that a band may have."""
    return max(BAND_VALUES // n_dof, ROWS_PER_COEFFICIENT * n_dof)


def band_of(loss: KinkedLoss, block: Block, raw: np.ndarray, n_dof: int, radius: float, most: int, keeps: bool) -> Band:
    """Rows of ``block`` whose ``raw`` prediction (n_rows,) is within ``radius`` of the kink.

    Without ``keeps`` they are to be counted: rows are kept where so many are equal that a band may have room for all.
    """
    near = np.abs(raw - loss.kinks(block.target)) <= radius
    if len(block.weight):
        near &= block.weight > 0.0
    places = np.flatnonzero(near)
    if not keeps and not _has_equal_rows(_band_of_rows(loss, block, raw, n_dof, places[:TRIED], most)):
        return replace(_band_of_rows(loss, block, raw, n_dof, places[:0], most), found=len(places))
    band = _band_of_rows(loss, block, raw, n_dof, places[:most], most)
    for start in range(most, len(places), most):
        if band.lost:
            return replace(band, found=band.found + len(places) - start)
        band += _band_of_rows(loss, block, raw, n_dof, places[start : start + most], most)
    return band


def _band_of_rows(loss: KinkedLoss, block: Block, raw: np.ndarray, n_dof: int, chosen: np.ndarray, most: int) -> Band:
    target, weight = block.target[chosen], block.weight[chosen] if len(block.weight) else np.ones(len(chosen))
    kinks = loss.kinks(target)
    offset = block.offset[chosen] if len(block.offset) else 0.0
    below, here = loss.gradient(target, kinks - 1.0), loss.gradient(target, raw[chosen])
    return Band(
        dense_rows(block, chosen, n_dof), kinks - offset, weight * below, weight * loss.steepness, weight * here,
        loss.steepness, most, len(chosen),
    )  # fmt: skip


def _has_equal_rows(tried: Band) -> bool:
    """Whether of these rows half as many are equal as of rows that fill a band, each as often as the others.

    Of rows so few that they do not tell, as of the last block, it is taken to be so.
    """
    n_rows, n_distinct = len(tried.rows), len(_merged(*tried.arrays())[0])
    expected = n_rows + tried.most * np.expm1(-n_rows / tried.most)
    return bool(expected < FEWEST_EQUAL or n_rows - n_distinct >= 0.5 * expected)


def _merged(
    rows: np.ndarray, kinks: np.ndarray, below: np.ndarray, rises: np.ndarray, here: np.ndarray
) -> list[np.ndarray]:
    """The same with one row for all that are equal and have the same kink, where the first of them stood.

    Rows are compared by a hash, and those that are not equal to the first one of their hash stay by themselves.
    """
    columns = [*rows.T, kinks]
    _, first, group = np.unique(_hashes(columns), return_index=True, return_inverse=True)
    of_row = first[group]
    for column in columns:
        of_row = np.where(column == column[of_row], of_row, np.arange(len(rows)))
    kept, place = np.unique(of_row, return_inverse=True)
    sums = (np.bincount(place, slopes, len(kept)) for slopes in (below, rises, here))
    return [rows[kept], kinks[kept], *sums]


def _hashes(columns: list[np.ndarray]) -> np.ndarray:
    """A number for each row, uint64, the same for equal rows: the finaliser of MurmurHash3 after each column."""
    hashed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashed ^= (column + 0.0).view(np.uint64)  # -0 becomes 0
        hashed = (hashed ^ (hashed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        hashed = (hashed ^ (hashed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashed


def dense_rows(block: Block, chosen: np.ndarray, n_dof: int) -> np.ndarray:
    """Rows of a block as theta sees them, float64, ``(len(chosen), n_dof)``, a 1 for the intercept last."""
    rows, places = np.zeros((len(chosen), n_dof)), np.arange(len(chosen))
    rows[:, : block.features.shape[1]] = block.features[chosen]
    for codes in block.codes[chosen].T:
        known = codes >= 0
        rows[places[known], codes[known]] = 1.0
    if len(block.entries.starts):
        first = block.entries.starts[chosen]
        counts = block.entries.starts[chosen + 1] - first
        index = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        values = block.entries.values[index] if len(block.entries.values) else 1.0
        np.add.at(rows, (np.repeat(places, counts), block.entries.coordinates[index]), values)
    rows[:, -1] = 1.0
    return rows
