"""Losses with a kink: J is taken exactly for the rows near their kink, and as a straight line for all others.

    rows near their kink (a band) ── model of J, nowhere above it ── its minimum ── next theta
                                                       └── J there: no J is lower, wherever theta is

The model is J itself as long as no row outside of the band passes its kink. So where all rows are in the band, or no
other one passes, its minimum is the optimum, and J less the minimum of the model bounds the distance to it in any case.
Portnoy, Koenker (1997), "The Gaussian hare and the Laplacian tortoise", section 5, have the idea for quantiles.

A band has so many rows at most. Of more rows Newton's method comes near first: on the smooth form of the loss, of a
width that is narrowed as long as there are more rows on its bend than a band may have.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamgd.objective.band import Band
from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import State
from streamgd.optim.interior import Kinks, minimum
from streamgd.optim.line_search import is_rounding, refused_trial
from streamgd.optim.quadratic import newton_step

#: The first width, in units of the raw prediction, and a part of it that is the next one at least.
FIRST_WIDTH, NARROWED = 2.0, 0.25
#: The same of a band, which costs a pass each time.
LEAST_NARROWED = 0.1
#: Widths are not narrowed beyond this.
NARROWEST = 1e-8
#: A width is done with where so much, of the most that it holds J below its value, is left to gain.
SETTLED = 0.05
#: … or where so many steps were taken at it: the next one may do better.
MOST_STEPS = 5.0
#: Of the rows that a band may have, so many are aimed at: their number changes as theta moves.
AIMED_AT = 0.5
#: A column of few rows on the bend has this part of the curvature that its mean square lets expect: that of the other
#: columns, or of kinks spread over one unit where that is less.
FLOOR = 0.5
#: … and such a part of the latter in any case.
LEAST_BEND = 1e-3
#: A step is so much shorter than what the model may be believed for that the model, not its box, ended it.
INSIDE = 0.99
#: Of the radius, steps that are held by their box may come to have such a multiple.
FARTHEST = 16.0
#: With l1, coefficients up to this are zero.
ZERO = 1e-12
#: A slope that any value is a fall enough for: the objective of the next pass is another one.
ANY = np.inf


class BandMethod:
    """``theta := minimum of the model at theta``, by an interior-point method; shorter where J would not fall.

    ``width`` is that of the smooth form, 0 once it is the loss itself; ``steps`` those taken at it; ``settled`` the
    optimum of the one before, of ``settled_width``; ``damping`` the curvature that a column has at least, for a mean
    square of 1. Where J is above ``start_value`` after all that, ``start`` is gone back to. ``radius`` is how near to
    their kink the rows of the band are, infinite for all rows; ``reach`` the multiple of it that theta may move by.
    ``excess`` is a bound of J - J*, None where there is none. There is no gradient at a kink, and no ``residual``.
    """

    name = "band"
    evaluates_result = True
    needs_hessian = True

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:  # noqa: ARG002
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": 1.0, "value": None, "residual": None,
            "excess": None, "slope": 0.0, "direction": np.zeros_like(theta),
            "squares": np.maximum(column_squares, 1e-12) + np.zeros_like(theta),
            "width": 0.0, "radius": np.inf, "reach": 1.0, "settled": theta.copy(), "settled_width": 0.0,
            "damping": 0.0, "steps": 0.0,
            "start": theta.copy(), "start_value": np.inf,
        }  # fmt: skip

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        if (refused := refused_trial(state, evaluation)) is not None:
            return refused
        assert evaluation.band is not None
        if state["width"] > 0.0:
            return _smooth_step(state, evaluation, evaluation.band, penalty)
        if np.isinf(state["radius"]) and evaluation.band.lost:
            return _moved(state, evaluation.value, np.zeros_like(state["trial"]), ANY) | {
                "width": FIRST_WIDTH, "radius": FIRST_WIDTH, "start": state["trial"], "start_value": evaluation.value
            }  # fmt: skip
        return _band_step(state, evaluation, evaluation.band, penalty)


def _moved(state: State, value: float, direction: np.ndarray, slope: float) -> State:
    """The trial is accepted, and the next one is in a direction from it."""
    theta = state["trial"]
    return {
        **state, "trial": theta + direction, "theta": theta, "alpha": 1.0, "value": value, "excess": None,
        "direction": direction, "slope": slope,
    }  # fmt: skip


def _smooth_step(state: State, evaluation: Evaluation, band: Band, penalty: ElasticNet) -> State:
    """A step of Newton's method, and the next width where this one is done with."""
    assert evaluation.hessian is not None
    width, bend = state["width"], float(evaluation.hessian[-1, -1])
    squares, gradient = state["squares"][:, 0], evaluation.gradient[:, 0]
    damping = state["damping"] * 0.3 if state["alpha"] == 1.0 else state["damping"] / state["alpha"]
    least = FLOOR * max(min(bend, band.steepness), LEAST_BEND * band.steepness)
    damping = min(max(damping, least), max(bend, least))
    curvature = np.diag(evaluation.hessian)
    hessian = evaluation.hessian + np.diag(np.maximum(damping * squares - curvature, 0.0))
    held = float((gradient**2 / (2.0 * least * squares))[curvature < least * squares].sum())
    step = newton_step(state["trial"], replace(evaluation, hessian=hessian), penalty)
    moved = _moved(state, evaluation.value, step.direction, step.slope) | {"damping": damping}
    # The part width * bend of all slopes' rises is on the bend of this width.
    is_settled = max(step.decrease, held) <= SETTLED * width * width * bend
    if not is_settled and state["steps"] < MOST_STEPS and width > NARROWEST:
        return moved | {"steps": state["steps"] + 1.0}
    moved |= {"steps": 0.0}
    aim = AIMED_AT * band.most / max(band.found, 1)
    there = moved["trial"]
    if aim >= AIMED_AT or width <= NARROWEST:
        return moved | {"slope": ANY, "width": 0.0, "radius": width * min(aim, 1.0 / NARROWED)}
    narrower = width * max(NARROWED, min(0.9, aim))
    # The optimum moves in a straight line with the width, as long as the same rows are on the bend.
    ahead = (there - state["settled"]) * ((narrower - width) / (width - state["settled_width"]))
    return moved | {
        "trial": there + ahead if state["settled_width"] > 0.0 else there, "slope": ANY, "width": narrower,
        "radius": narrower, "settled": there, "settled_width": width,
    }  # fmt: skip


def _band_step(state: State, evaluation: Evaluation, band: Band, penalty: ElasticNet) -> State:
    """The step to the minimum of the model, which also tells how far J may be above its own."""
    if evaluation.value > state["start_value"]:  # smooth forms led astray
        return _moved(state, evaluation.value, np.zeros_like(state["trial"]), ANY) | {
            "trial": state["start"], "start_value": np.inf
        }  # fmt: skip
    if state["radius"] <= NARROWEST and band.found > band.most:  # they have the same kink
        if state["slope"] == 0.0:
            return {**state, "trial": state["theta"]}
        return _moved(state, evaluation.value, np.zeros_like(state["trial"]), 0.0)
    theta, radius = state["trial"][:, 0], state["radius"]
    aim = AIMED_AT * band.most / max(band.found, 1)
    if band.lost and np.isfinite(radius) and state["slope"] != ANY:
        # A step by the first of the rows would only be shortened; it is taken where this was tried the pass before.
        narrower = radius * max(aim, LEAST_NARROWED)
        return _moved(state, evaluation.value, np.zeros_like(state["trial"]), ANY) | {"radius": narrower}
    # Where the box held the last step, which went well, it may be larger than what the band is known for.
    most_reach = FARTHEST if state["excess"] is None else 1.0
    reach = (
        min(2.0 * state["reach"], most_reach) if state["alpha"] == 1.0 else max(state["alpha"] * state["reach"], 1e-3)
    )
    sizes = np.sqrt(state["squares"][:, 0])
    box = reach * radius / sizes
    problem = _model(theta, evaluation, band, penalty, box)
    found = minimum(problem, theta)
    there = np.where(np.abs(found.theta) <= ZERO, 0.0, found.theta) if penalty.l1 > 0.0 else found.theta
    direction, fall = there - theta, -problem.rise(theta, there)
    # In a box near the rounding of theta, a step may seem to end inside of it.
    is_rounded = reach * radius <= NARROWEST * max(1.0, float(np.abs(theta * sizes).max()))
    inside = not is_rounded and bool((np.abs(direction) <= INSIDE * box).all())
    bound = max(fall, 0.0) + found.gap if inside else np.inf
    # No loss is below 0, so J is a bound too.
    excess = min(bound, evaluation.value) if inside or evaluation.value == 0.0 else None
    if state["excess"] is not None and is_rounding(evaluation.value, -fall) and not (excess or 0.0) < state["excess"]:
        return {**state, "trial": state["theta"]}  # nothing but rounding is left to gain
    # A band that has all rows is not narrowed: steps that shrink all the time would end before the optimum.
    radius *= max(aim, NARROWED) if band.lost else min(max(aim, 1.0), 1.0 / NARROWED)
    moved = _moved(state, evaluation.value, direction[:, None], -max(fall, 0.0))
    return moved | {"excess": excess, "radius": radius, "reach": reach}


def _model(theta: np.ndarray, evaluation: Evaluation, band: Band, penalty: ElasticNet, box: np.ndarray) -> Kinks:
    """J as far as the band tells it; what theta may move by is held by walls as steep as no slope of J is."""
    n_dof = len(theta)
    curvature = penalty.curvature(n_dof)
    straight = evaluation.gradient[:, 0] - curvature * theta + band.rows.T @ (band.below - band.here)
    rows, kinks, rises = [band.rows], [band.kinks], [band.rises]
    if penalty.l1 > 0.0:
        # l1 |b| is a straight line of slope -l1 and a kink at zero.
        rows, kinks = [*rows, np.eye(n_dof)[:-1]], [*kinks, np.zeros(n_dof - 1)]
        rises = [*rises, np.full(n_dof - 1, 2.0 * penalty.l1)]
        straight[:-1] -= penalty.l1
    if np.isfinite(box).all():
        steepest = 2.0 * (np.abs(straight) + curvature * (np.abs(theta) + box))
        steepest += 2.0 * sum(rise @ np.abs(row) for row, rise in zip(rows, rises, strict=True))
        rows, kinks = [*rows, np.eye(n_dof), -np.eye(n_dof)], [*kinks, theta + box, box - theta]
        rises = [*rises, steepest, steepest]
    return Kinks(np.concatenate(rows), np.concatenate(kinks), np.concatenate(rises), straight, curvature)
