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


@dataclass(frozen=True)
class Band:
    """Rows near their kink, in the order of the data; weights are part of slopes.

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
        Rows that are near, kept or not.
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
        rows, kinks, below, rises, here = (
            np.concatenate([one, more])[: self.most] for one, more in zip(self.arrays(), other.arrays(), strict=True)
        )
        return replace(
            self, rows=rows, kinks=kinks, below=below, rises=rises, here=here, found=self.found + other.found
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.rows, self.kinks, self.below, self.rises, self.here

    def divided(self, weight: float) -> Band:
        """With the slopes of the mean loss, where ``weight`` is the total."""
        return replace(self, below=self.below / weight, rises=self.rises / weight, here=self.here / weight)


def most_rows(n_dof: int) -> int:
    """Rows that a band may have."""
    return max(BAND_VALUES // n_dof, ROWS_PER_COEFFICIENT * n_dof)


def band_of(loss: KinkedLoss, block: Block, raw: np.ndarray, n_dof: int, radius: float, most: int, keeps: bool) -> Band:
    """The first ``most`` of the rows of ``block`` whose ``raw`` prediction (n_rows,) is within ``radius`` of the kink.

    Without ``keeps`` they are counted alone.
    """
    kinks = loss.kinks(block.target)
    near = np.abs(raw - kinks) <= radius
    weight = block.weight if len(block.weight) else np.ones(block.rows)
    near &= weight > 0.0
    kept = np.flatnonzero(near)[: most if keeps else 0]
    target, weight, kinks = block.target[kept], weight[kept], kinks[kept]
    offset = block.offset[kept] if len(block.offset) else 0.0
    return Band(
        dense_rows(block, kept, n_dof), kinks - offset,
        weight * loss.gradient(target, kinks - 1.0), weight * loss.steepness, weight * loss.gradient(target, raw[kept]),
        loss.steepness, most, int(near.sum()),
    )  # fmt: skip


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
