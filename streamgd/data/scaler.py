"""Moments of the columns, the scaling made from them, and what follows when the scaling moves.

Moments are kept in provisional units ``z = (x - shift0) / scale0`` (a fixed sample's centre and spread), in which
neither squares nor differences lose anything, whatever the unit of the column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Total weight, mean, sum of squared deviations and largest magnitude of each column, float64 ``(n_columns,)``."""

    weight: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    largest: np.ndarray

    @classmethod
    def empty(cls, n_columns: int) -> Self:
        """Moments of no rows."""
        return cls(*(np.zeros(n_columns) for _ in range(4)))

    def merge(self, later: Moments) -> Moments:
        """Moments of both sets of rows: Chan, Golub, LeVeque (1983), eq. 2.1.

        Squares of values beyond 1e154 become inf; such units are then widened, see ``Task.widened``.
        """
        if not later.weight.any():  # those of scattered rows, which are merged by ranges, have none here
            return replace(self, largest=np.maximum(self.largest, later.largest))
        weight = self.weight + later.weight
        share = np.divide(later.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        with np.errstate(over="ignore", invalid="ignore"):
            difference = later.mean - self.mean
            squares = self.squares + later.squares + difference * (self.weight * share) * difference
            mean = self.mean + difference * share
        return Moments(weight, mean, squares, np.maximum(self.largest, later.largest))

    def deviation(self) -> np.ndarray:
        """Standard deviation of each column (of the population), 1 where the column is constant or empty."""
        variance = np.divide(self.squares, self.weight, out=np.zeros_like(self.weight), where=self.weight > 0)
        return np.where(variance > 0, np.sqrt(variance), 1.0)

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight, "mean": self.mean, "squares": self.squares, "largest": self.largest}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(state["weight"], state["mean"], state["squares"], state["largest"])


@dataclass(frozen=True)
class Scaling:
    """``feature = (x - shift) / scale``, with provisional units between: all float64 ``(n_numeric,)``.

    ``mean`` and ``deviation`` are in provisional units; ``fill`` is what a null becomes, in units of the feature.
    """

    shift0: np.ndarray
    scale0: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    fill: np.ndarray

    @classmethod
    def from_moments(cls, shift0: np.ndarray, scale0: np.ndarray, moments: Moments, standardise: bool) -> Self:
        """The scaling to mean 0 and variance 1, or none: then only the nulls' fill, the mean, is taken."""
        if standardise:
            return cls(shift0, scale0, moments.mean, moments.deviation(), np.zeros_like(shift0))
        return cls(shift0, scale0, np.zeros_like(shift0), np.ones_like(shift0), moments.mean)

    def provisional(self) -> Scaling:
        """The scaling to provisional units alone, in which nulls become the same."""
        zeros, ones = np.zeros_like(self.mean), np.ones_like(self.mean)
        return Scaling(self.shift0, self.scale0, zeros, ones, self.mean + self.deviation * self.fill)

    @property
    def shift(self) -> np.ndarray:
        """What is subtracted from the column, in its own units."""
        return np.asarray(self.shift0 + self.scale0 * self.mean)

    @property
    def scale(self) -> np.ndarray:
        """What the column is divided by, in its own units."""
        return np.asarray(self.scale0 * self.deviation)


@dataclass(frozen=True)
class Reexpression:
    """How theta and what goes with it look after the scaling moved from ``before`` to ``after``.

    With ``delta = mu - mu'`` a feature becomes ``z' = (sigma z + delta) / sigma'``. Vectors are one-dimensional,
    ``(n_dof,)``: numeric columns first, then levels, the intercept last. No prediction changes, but for the rounding.
    """

    before: Scaling
    after: Scaling

    def displacement(self, vector: np.ndarray) -> np.ndarray:
        """Of theta, its average, or a velocity: ``beta' = beta sigma' / sigma``; the intercept takes up the shift."""
        n = len(self.before.mean)
        moved = vector.copy()
        moved[:n] *= self.after.deviation / self.before.deviation
        moved[-1] += vector[:n] @ ((self.after.mean - self.before.mean) / self.before.deviation)
        return moved

    def gradient(self, vector: np.ndarray) -> np.ndarray:
        """Of a gradient: ``g'_j = (sigma g_j + delta g_b) / sigma'``."""
        n, delta = len(self.before.mean), self.before.mean - self.after.mean
        moved = vector.copy()
        moved[:n] = (self.before.deviation * vector[:n] + delta * vector[-1]) / self.after.deviation
        return moved

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Of rows as theta sees them, ``(n_rows, n_dof)``: a gradient is a sum of such rows."""
        n, delta = len(self.before.mean), self.before.mean - self.after.mean
        moved = rows.copy()
        moved[:, :n] = (self.before.deviation * rows[:, :n] + delta * rows[:, -1:]) / self.after.deviation
        return moved

    def products(self, products: np.ndarray) -> np.ndarray:
        """Of sums of ``x x'``, float64 ``(n_dof, n_dof)``: rows and columns both follow as gradients do."""
        rows = np.stack([self.gradient(column) for column in products.T])
        return np.stack([self.gradient(row) for row in rows.T])

    def cross(self, cross: np.ndarray) -> np.ndarray:
        """Of sums of ``g_j g_b``: they follow as gradients do, being linear in ``g_j``."""
        return self.gradient(cross)

    def squares(self, squares: np.ndarray, cross: np.ndarray) -> np.ndarray:
        """Of sums of ``g_j^2``: ``(sigma^2 G_j + 2 sigma delta S_j + delta^2 G_b) / sigma'^2``, S the cross sums."""
        n, delta = len(self.before.mean), self.before.mean - self.after.mean
        sigma = self.before.deviation
        moved = squares.copy()
        moved[:n] = sigma**2 * squares[:n] + 2.0 * sigma * delta * cross[:n] + delta**2 * squares[-1]
        moved[:n] = np.maximum(moved[:n], 0.0) / self.after.deviation**2
        return moved
