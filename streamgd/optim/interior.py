"""The minimum of a straight line, a parabola and kinks: the interior-point method of Mehrotra.

    minimise    linear' theta + 1/2 sum_j curvature_j theta_j^2 + sum_i rises_i max(rows_i' theta - kinks_i, 0)

Each kink has a multiplier z in [0, 1], the part of its rise that is taken: 0 before it, 1 behind it. With s - v the way
behind the kink, s and v not negative, the optimum has z v = 0, (1 - z) s = 0 and no slope. The steps follow z v = (1 -
z) s = mu as mu falls: Mehrotra (1992); for quantiles Portnoy, Koenker (1997), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamgd.optim.quadratic import solve

MOST_STEPS = 100
#: Of the way to where a variable would be zero, so much is gone.
SHARE_OF_WAY = 0.995
#: What may be left of the gap, as a part of the kinks' sum at the start.
ENOUGH = 1e-16


@dataclass(frozen=True)
class Kinks:
    """The problem: ``rows`` (m, n), ``kinks`` and ``rises`` (m,), ``linear`` and ``curvature`` (n,), all float64."""

    rows: np.ndarray
    kinks: np.ndarray
    rises: np.ndarray
    linear: np.ndarray
    curvature: np.ndarray

    def rise(self, start: np.ndarray, end: np.ndarray) -> float:
        """The value at ``end`` less that at ``start``."""
        behind = [np.maximum(self.rows @ theta - self.kinks, 0.0) for theta in (start, end)]
        straight = self.linear + 0.5 * self.curvature * (start + end)
        return float(straight @ (end - start) + self.rises @ (behind[1] - behind[0]))


@dataclass(frozen=True)
class Minimum:
    """Where it is, ``theta`` (n,), and how far above the minimum the value there may be."""

    theta: np.ndarray
    gap: float


def minimum(problem: Kinks, start: np.ndarray) -> Minimum:
    """The minimum, from ``start`` (n,) on, which may be anywhere."""
    theta, away = start, problem.rows @ start - problem.kinks
    room = float(np.abs(away).mean()) or 1.0
    behind = np.maximum(away, 0.0) + room
    before, taken, untaken = behind - away, np.full(len(away), 0.5), np.full(len(away), 0.5)
    enough = ENOUGH * float(problem.rises @ np.abs(away))
    best = Minimum(start, np.inf)
    for _ in range(MOST_STEPS):
        slope = problem.linear + problem.curvature * theta + problem.rows.T @ (problem.rises * taken)
        gap = float(problem.rises @ (taken * before + untaken * behind))
        # What is left of the slope counts along the way that is gone.
        left = gap + float(np.abs(slope) @ (np.abs(theta - start) + room))
        if left < best.gap:
            best = Minimum(theta, left)
        if not gap > enough:
            break
        step, length = _step(problem, theta, slope, (taken, untaken, before, behind), gap)
        if length < 1e-8:
            break
        variables = (theta, taken, untaken, before, behind)
        theta, taken, untaken, before, behind = (
            old + length * moved for old, moved in zip(variables, step, strict=True)
        )
    return best


def _step(
    problem: Kinks, theta: np.ndarray, slope: np.ndarray, variables: tuple[np.ndarray, ...], gap: float
) -> tuple[tuple[np.ndarray, ...], float]:
    """The directions of theta and the variables, ``taken``, the rest to 1, ``before`` and ``behind``; how far to go."""
    taken, untaken, before, behind = variables
    away = problem.rows @ theta - problem.kinks
    stiffness = behind / untaken + before / taken
    matrix = (problem.rows.T * (problem.rises / stiffness)) @ problem.rows + np.diag(problem.curvature)

    def towards(before_product: np.ndarray | float, behind_product: np.ndarray | float) -> tuple[np.ndarray, ...]:
        missing = away - behind_product / untaken + before_product / taken
        of_theta = solve(matrix, -slope - problem.rows.T @ (problem.rises * missing / stiffness))
        of_taken = (problem.rows @ of_theta + missing) / stiffness
        of_before = (before_product - taken * before - before * of_taken) / taken
        of_behind = (behind_product - untaken * behind + behind * of_taken) / untaken
        return of_theta, of_taken, -of_taken, of_before, of_behind

    def length(step: tuple[np.ndarray, ...]) -> float:
        pairs = zip(variables, step[1:], strict=True)
        return min(1.0, *(float((-value[to < 0.0] / to[to < 0.0]).min(initial=np.inf)) for value, to in pairs))

    straight = towards(0.0, 0.0)
    far = length(straight)
    _, of_taken, _, of_before, of_behind = straight
    after = problem.rises @ (
        (taken + far * of_taken) * (before + far * of_before) + (untaken - far * of_taken) * (behind + far * of_behind)
    )
    aim = 0.5 * gap / float(problem.rises.sum()) * max(float(after) / gap, 0.0) ** 3
    step = towards(aim - of_taken * of_before, aim + of_taken * of_behind)
    return step, min(1.0, SHARE_OF_WAY * length(step))
