"""Losses that are straight on both sides of one kink, and the smooth losses that come near them from below.

With the way u from the kink to the raw prediction, the slope a below it and a + 1 above it, such a loss is
``max(a u, (a + 1) u)``. Its smoothed form of width g is ``max of t u - g/2 (t - a - 1/2)^2 over t in [a, a + 1]``: a
parabola where ``|u| < g/2``, straight beyond, and nowhere more than ``g/8`` below the loss itself (Nesterov 2005,
"Smooth minimization of non-smooth functions").
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np

from streamgd.kernels.compile import compiled
from streamgd.objective.losses.base import Loss


@compiled()
def slope(away: float, below: float, width: float) -> float:
    """The slope at ``away`` from a kink below which it is ``below``; at the kink that of below."""
    if width > 0.0:
        part = away / width + 0.5
        return below + min(max(part, 0.0), 1.0) if abs(part) >= 0.0 else part
    if away > 0.0:
        return below + 1.0
    return below if away <= 0.0 else away  # NaN stays what it is


@compiled()
def height(away: float, below: float, width: float) -> float:
    """The loss at ``away`` from a kink below which the slope is ``below``."""
    steep = slope(away, below, width)
    straight = 0.0 if steep == 0.0 else steep * away
    return straight - 0.5 * width * (steep - below - 0.5) ** 2


@compiled()
def bend(away: float, width: float) -> float:
    """The second derivative at ``away`` from the kink; that of the loss itself is 0."""
    return 1.0 / width if abs(away) < 0.5 * width else 0.0


class KinkedLoss(Loss):
    """A loss with one kink, where the slope rises by ``steepness``, and no curvature anywhere else.

    ``settings`` has, behind those with names, the steepness and the width of the smoothed form: 0 for the loss itself.
    The steepness is 1 but for a target in other units, where it makes J follow the square of the unit as that of other
    losses does.

    ``max_curvature`` is what step sizes are derived from in place of a bound. Were the kinks of the rows spread evenly
    over one unit of the raw prediction, the mean slope would rise by the steepness over it: that is the mean curvature.
    """

    def __init__(self, *settings: float):
        super().__init__(*settings)
        self.max_curvature = self.steepness

    @abstractmethod
    def kinks(self, y_true: np.ndarray) -> np.ndarray:
        """The raw prediction at which the loss of each row has its kink, float64, ``(n,)``."""

    @property
    def steepness(self) -> float:
        return float(self.settings[-2])

    @property
    def width(self) -> float:
        return float(self.settings[-1])

    def smoothed(self, width: float) -> Self:
        """The smooth form of this width, in units of the raw prediction."""
        return type(self)(*self.settings[:-1].tolist(), width)

    def slopes_of_constants(
        self, constants: np.ndarray, y_true: np.ndarray, offset: np.ndarray, weight: np.ndarray
    ) -> np.ndarray:
        """Slope of the summed loss at each of the rising ``constants``, beside the offsets: float64, their shape.

        Parameters
        ----------
        y_true, offset, weight : float64, (n_rows,)
        """
        kinks = self.kinks(y_true)
        passed = np.bincount(np.searchsorted(constants, kinks - offset, "right"), weight, len(constants) + 1)
        below = float(weight @ self.gradient(y_true, kinks - 1.0))
        return np.asarray(below + self.steepness * np.cumsum(passed)[:-1])
