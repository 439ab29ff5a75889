"""Sums over bins of a number, in an amount of memory that does not grow with the rows.

The bins are narrow around 0 and wide far out, so that they hold any standardised number. Few bins of about equal
weight are made of them at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BINS = 512
#: Bins that are shown.
SHOWN_BINS = 20

_HALF = BINS // 2


def bin_of(values: np.ndarray) -> np.ndarray:
    """Bin of each number, int64: a rising function of ``z / (1 + |z|)``; NaN is not allowed.

    >>> bin_of(np.array([-np.inf, 0.0, 1.0, np.inf])).tolist()
    [0, 256, 384, 511]
    """
    size = np.minimum(np.abs(values), 1e300)
    share: np.ndarray = size / (1.0 + size)
    places = (_HALF * share).astype(np.int64)
    return np.where(values < 0.0, np.maximum(_HALF - 1 - places, 0), np.minimum(_HALF + places, BINS - 1))


@dataclass
class Sums:
    """Sums of rows by bin, float64 ``(n_bins,)``: weight, and weight times value, target, prediction, squared residual.

    >>> sums = Sums.of(np.array([0, 0, 2]), 3, np.zeros(3), np.array([1.0, 0.0, 4.0]), np.full(3, 0.5), np.ones(3))
    >>> sums.weight.tolist(), sums.target.tolist()
    ([2.0, 0.0, 1.0], [1.0, 0.0, 4.0])
    """

    table: np.ndarray = field(repr=False)

    @classmethod
    def empty(cls, bins: int = BINS) -> Sums:
        return cls(np.zeros((5, bins)))

    @classmethod
    def of(
        cls,
        places: np.ndarray,
        bins: int,
        value: np.ndarray,
        target: np.ndarray,
        prediction: np.ndarray,
        weight: np.ndarray,
    ) -> Sums:
        """The sums of rows with these bins; all arrays ``(n_rows,)``."""
        parts = (weight, weight * value, weight * target, weight * prediction, weight * (target - prediction) ** 2)
        return cls(np.stack([np.bincount(places, part, bins) for part in parts]))

    def add(self, other: Sums) -> None:
        self.table += other.table

    @property
    def weight(self) -> np.ndarray:
        return np.asarray(self.table[0])

    @property
    def target(self) -> np.ndarray:
        return np.asarray(self.table[2])

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean value, target, prediction and squared residual of each bin; NaN where it is empty."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value, target, prediction, squares = self.table[1:] / self.table[0]
        return value, target, prediction, squares

    def merged(self, bins: int = SHOWN_BINS) -> Sums:
        """Neighbouring bins put together into at most ``bins`` of about equal weight, empty ones left out."""
        return Sums(merge_equal(self.table, self.weight, bins))


def merge_equal(table: np.ndarray, weight: np.ndarray, bins: int) -> np.ndarray:
    """Neighbouring columns of ``table`` (n_sums, n) summed into at most ``bins`` groups of about equal ``weight`` (n,).

    >>> merge_equal(np.array([[1.0, 1.0, 5.0, 0.0, 2.0, 0.0]]), np.array([1.0, 1.0, 5.0, 0.0, 2.0, 0.0]), 3).tolist()
    [[2.0, 5.0, 2.0]]
    """
    filled = np.flatnonzero(weight > 0.0)
    if not len(filled):
        return table[:, :0]
    table, weight = table[:, filled], weight[filled]
    # The group of the middle of the column's weight.
    middle = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    groups = np.minimum((middle * bins).astype(np.int64), bins - 1)
    starts = np.flatnonzero(np.r_[True, np.diff(groups) > 0])
    return np.asarray(np.add.reduceat(table, starts, axis=1))
