"""How far to go along a direction in which J falls: the rule of Armijo, each trial a pass over all rows."""

from __future__ import annotations

#: Share of the fall that the slope promises which a step must bring.
SUFFICIENT = 1e-4
#: Rounding of J relative to its size, when all rows are summed.
ROUNDING = 1e-13


def falls_enough(value: float, trial_value: float, alpha: float, slope: float) -> bool:
    """Whether J fell from ``value`` to ``trial_value`` as the slope lets expect; rounding is not held against it."""
    return trial_value <= value + SUFFICIENT * alpha * slope + ROUNDING * abs(value)


def is_rounding(value: float, slope: float) -> bool:
    """Whether what a whole step would gain is lost in the rounding of J."""
    return -slope <= ROUNDING * abs(value)


def shorter(value: float, trial_value: float, alpha: float, slope: float) -> float:
    """The next alpha after one that was too long: the minimum of the parabola through what is known of J.

    Nocedal, Wright (2006), eq. 3.57, kept between a tenth and a half of ``alpha``.
    """
    above = trial_value - value - alpha * slope
    best = -slope * alpha * alpha / (2.0 * above) if 0.0 < above < float("inf") else 0.5 * alpha
    return min(max(best, 0.1 * alpha), 0.5 * alpha)
