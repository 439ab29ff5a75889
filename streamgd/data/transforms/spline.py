"""``--spline``: a number becomes several, the columns of a cubic spline in it.

The space is that of all cubic splines with the inner knots, which go on as straight lines beyond the outer ones. Its
basis is that of scikit-learn's ``SplineTransformer(degree=3, extrapolation="linear", include_bias=False)``: B-splines
(de Boor 1978, "A Practical Guide to Splines", ch. IX) on knots that go on beyond the outer ones at their distance. All
of them add up to one, as the intercept does, so the last one is left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from streamgd.data.transforms.base import NumberTransform
from streamgd.kernels.spline import piecewise_cubic

DEGREE = 3
#: Share of the rows beyond each outer knot (Harrell 2015, "Regression Modeling Strategies", section 2.4.6: 2.5 % for
#: seven knots). With outer knots at the extremes, the columns between the last two would be told by a few rows, and
#: learned slowly.
OUTER = 0.025


@dataclass(frozen=True)
class Spline(NumberTransform):
    """Column ``basis`` (from 0) of the spline on ``knots``, of which there are two or more.

    >>> Spline((0.0, 1.0), 0).apply(np.array([0.0, 1.0, np.nan])).round(12)
    array([0.16666667, 0.        ,        nan])
    """

    knots: tuple[float, ...]
    basis: int

    kind: ClassVar[str] = "spline"
    expected: ClassVar[str] = "a finite number"
    way_out: ClassVar[str] = "Mend the data, or leave it out with --exclude or --where"

    def apply(self, values: np.ndarray) -> np.ndarray:
        found = np.empty(len(values))
        piecewise_cubic(np.ascontiguousarray(values), np.array(self.knots), self.pieces, found)
        return found

    def outside(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.isinf(values))

    def label(self, name: str) -> str:
        return f"{name} spline {self.basis + 1}"

    @property
    def description(self) -> str:
        knots = ", ".join(f"{knot:.6g}" for knot in self.knots)
        return f"cubic spline of {degrees(self.knots)} columns, knots {knots}"

    @property
    def pieces(self) -> np.ndarray:
        """Origin, width and coefficients of each piece, float64, ``(n_knots + 1, 6)``."""
        return np.asarray(_pieces(self.knots)[self.basis])

    def check(self) -> None:
        knots = self.knots
        if len(knots) < 2 or not all(isinstance(knot, float) and np.isfinite(knot) for knot in knots):
            raise ValueError("knots of a spline that are no numbers")
        if list(knots) != sorted(set(knots)):
            raise ValueError("knots of a spline that are not ascending")
        if type(self.basis) is not int or not 0 <= self.basis < degrees(knots):
            raise ValueError("a column of a spline that it does not have")

    def state(self) -> dict[str, Any]:
        return asdict(self)


def degrees(knots: tuple[float, ...]) -> int:
    """How many columns a spline on these knots has."""
    return len(knots) + DEGREE - 2


def chosen_knots(values: np.ndarray, columns: int) -> tuple[float, ...] | None:
    """The knots of a spline of so many columns: values at equally spaced quantiles, from ``OUTER`` to ``1 - OUTER``.

    Where some of these coincide, since one value has many rows, values count for at most so many rows as keep them
    apart. None where there are too few values.

    Parameters
    ----------
    values : float64, (n_rows,)
        NaN and infinite ones are passed over.
    """
    distinct, rows = np.unique(values[np.isfinite(values)], return_counts=True)
    shares = np.linspace(OUTER, 1.0 - OUTER, columns - DEGREE + 2)
    if len(distinct) <= columns:
        return None
    most = int(rows.max())
    while most:
        counted = np.cumsum(np.minimum(rows, most))
        knots = distinct[np.searchsorted(counted, shares * counted[-1])]
        if (np.diff(knots) > 0.0).all():
            return tuple(knots.tolist())
        most //= 2
    return None


@lru_cache(maxsize=64)
def _pieces(knots: tuple[float, ...]) -> np.ndarray:
    """See :attr:`Spline.pieces`, of every column, ``(n_columns, n_knots + 1, 6)``; read only."""
    at, n_pieces = np.array(knots), len(knots) - 1
    widths = np.diff(at)
    steps = np.arange(1, DEGREE + 1)
    extended = np.concatenate([at[0] - widths[0] * steps[::-1], at, at[-1] + widths[-1] * steps])
    pieces = np.zeros((n_pieces + DEGREE, n_pieces + 2, 6))
    pieces[:, :, 0] = at[[0, *range(n_pieces + 1)]]
    pieces[:, :, 1] = widths[[0, *range(n_pieces), n_pieces - 1]]
    # Each piece is found from its values at four places.
    t = np.linspace(0.0, 1.0, DEGREE + 1)
    of_values = np.linalg.inv(np.vander(t, increasing=True))
    for k in range(n_pieces):
        values = _b_splines(extended, k + DEGREE, at[k] + widths[k] * t)
        pieces[k : k + DEGREE + 1, k + 1, 2:] = (of_values @ values).T
    first, last = pieces[:, 1, 2:], pieces[:, n_pieces, 2:]
    pieces[:, 0, 2:4] = first[:, :2]
    pieces[:, -1, 2], pieces[:, -1, 3] = last.sum(axis=1), last @ np.arange(DEGREE + 1)
    pieces = np.ascontiguousarray(pieces[:-1])
    pieces.flags.writeable = False
    return pieces


def _b_splines(knots: np.ndarray, span: int, x: np.ndarray) -> np.ndarray:
    """The four B-splines that are not zero between knots ``span`` and ``span + 1``, ``(len(x), 4)``.

    By the recurrence of de Boor (1978), ch. X.
    """
    values = np.zeros((len(x), DEGREE + 1))
    values[:, 0] = 1.0
    for degree in range(1, DEGREE + 1):
        rest = np.zeros(len(x))
        for r in range(degree):
            right, left = knots[span + r + 1] - x, x - knots[span + 1 - degree + r]
            share = values[:, r] / (right + left)
            values[:, r] = rest + right * share
            rest = left * share
        values[:, degree] = rest
    return values
