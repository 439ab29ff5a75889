"""The quadratic model of J around one theta: its minimum is a Newton step, and the fall to it estimates J - J*.

    J(theta + d) ~ J + gradient' d + 1/2 d' H d,    H = Hessian of the mean loss + l2 D,  D without the intercept

H is scaled to a unit diagonal first, so that a rare level or a column in other units is not taken for a singular one.

Theta ``(n_dof, n_outputs)`` is taken row by row. The softmax of several outputs does not change where a number is added
to one row of theta: J is flat in these directions, where no penalty bends it, and the gradient has no part in them. H
is given a curvature there, so that it is regular; the step stays at right angles to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamgd.kernels.quadratic import minimise_by_coordinates
from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet

#: Of a matrix with unit diagonal: what is left of a column's square, or an eigenvalue, below which it counts as zero.
#: A float32 copy of a column leaves 4e-15.
SINGULAR = 1e-11
#: A sweep over the coordinates that moves no raw prediction by more than this, in the root mean square, is the last.
SWEEP_TOLERANCE = 1e-11
#: Within bounds, so many sweeps go before each solve.
SWEEPS_BETWEEN_SOLVES = 20
#: Multiplications that the sweeps of one step may take.
SWEEP_WORK = 2_000_000_000


@dataclass(frozen=True)
class Step:
    """The way to the minimum of the model.

    Attributes
    ----------
    direction : float64, (n_dof, n_outputs)
    slope : float
        Change of J along it to first order, l1 included; not above zero.
    decrease : float
        Fall of the model on the whole way: for l1 = 0 half the squared Newton decrement, ``1/2 gradient' H^-1
        gradient`` (Boyd, Vandenberghe, "Convex Optimization", section 9.5.1). It estimates J - J*.
    """

    direction: np.ndarray
    slope: float
    decrease: float


def newton_step(theta: np.ndarray, evaluation: Evaluation, penalty: ElasticNet) -> Step:
    """The step from ``theta`` to the minimum of the model; ``evaluation`` must have a Hessian.

    With l1 the minimum is found by coordinate descent, as in the proximal Newton method of Lee, Sun, Saunders (2014);
    within bounds by that and solves in turn.
    """
    matrix = penalised_hessian(evaluation, penalty)
    gradient, here, n_outputs = evaluation.gradient.ravel(), theta.ravel(), theta.shape[1]
    sweeps = max(100, SWEEP_WORK // len(here) ** 2)
    bounded = penalty.bounded(len(theta), n_outputs)
    if penalty.is_smooth:
        direction = -solve(matrix, gradient)
    elif penalty.non_negative:
        direction = minimum_within_bounds(matrix, gradient, here, penalty.l1, n_outputs, bounded, sweeps) - here
    else:
        there = here.copy()
        minimise_by_coordinates(matrix, gradient.copy(), penalty.l1, n_outputs, bounded, SWEEP_TOLERANCE, sweeps, there)
        direction = there - here
    penalised = slice(0, len(here) - n_outputs)
    grown = np.abs(here[penalised] + direction[penalised]).sum() - np.abs(here[penalised]).sum()
    slope = float(gradient @ direction + penalty.l1 * grown)
    decrease = -slope - 0.5 * float(direction @ (matrix @ direction))
    return Step(direction.reshape(theta.shape), min(slope, 0.0), max(decrease, 0.0))


def minimum_within_bounds(
    matrix: np.ndarray,
    gradient: np.ndarray,
    here: np.ndarray,
    l1: float,
    n_intercepts: int,
    bounded: np.ndarray,
    max_sweeps: int,
) -> np.ndarray:
    """Where ``gradient' d + d' matrix d / 2 + l1 |here + d|_1`` is least, the coordinates ``bounded`` not below zero.

    Sweeps over the coordinates find which of them are zero, and a solve where the others lead to, up to the first that
    changes its sign; where nothing is left to change, the sweeps end at once. Each step lowers the model.
    """
    there, penalised, most = here.copy(), np.arange(len(here)) < len(here) - n_intercepts, SWEEPS_BETWEEN_SOLVES
    for _ in range(max_sweeps // most):
        slope = gradient + matrix @ (there - here)
        if minimise_by_coordinates(matrix, slope, l1, n_intercepts, bounded, SWEEP_TOLERANCE, most, there) < most:
            break
        signed = bounded | (penalised & (l1 > 0.0))
        free = ~signed | (there != 0.0)
        slope = gradient + matrix @ (there - here) + l1 * np.where(penalised, np.sign(there), 0.0)
        way = np.zeros_like(there)
        way[free] = -solve(matrix[np.ix_(free, free)], slope[free])
        crossing = signed & free & (there * (there + way) < 0.0)
        share = float((-there[crossing] / way[crossing]).min()) if crossing.any() else 1.0
        ends = crossing & (-there / np.where(crossing, way, 1.0) <= share)
        there = np.where(ends, 0.0, there + share * way)
    return np.where(bounded, np.maximum(there, 0.0), there)


def penalised_hessian(evaluation: Evaluation, penalty: ElasticNet) -> np.ndarray:
    """H, float64, ``(theta.size, theta.size)``."""
    assert evaluation.hessian is not None
    n_dof, n_outputs = evaluation.gradient.shape
    matrix = evaluation.hessian + np.diag(penalty.curvature(n_dof, n_outputs))
    if n_outputs > 1:
        flat = slice(0 if penalty.l1 == penalty.l2 == 0.0 else n_dof - 1, n_dof)
        blocks = matrix.reshape(n_dof, n_outputs, n_dof, n_outputs)
        for row in range(n_dof)[flat]:
            block = blocks[row, :, row, :]
            block += np.trace(block) / n_outputs**2
    return matrix


def solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``matrix^-1 vector`` of a symmetric, positive semidefinite matrix, ``(n,)``.

    Where the matrix, scaled to a unit diagonal, is singular to working precision, the shortest solution in these
    units: equal columns get equal shares, and columns of zeros none.
    """
    scale, scaled = _unit_diagonal(matrix)
    if _is_regular(scaled):
        return np.asarray(scale * np.linalg.solve(scaled, scale * vector))
    eigenvalues, vectors = np.linalg.eigh(scaled)
    kept = eigenvalues > SINGULAR
    return np.asarray(scale * (vectors[:, kept] @ ((vectors[:, kept].T @ (scale * vector)) / eigenvalues[kept])))


def dependent_columns(matrix: np.ndarray) -> dict[int, list[int]]:
    """Columns that are combinations of others before them, and of which; the last one, the intercept, comes first.

    Parameters
    ----------
    matrix : float64, (n, n)
        Weighted sums of ``x x'``.

    Returns
    -------
    dict
        Column -> the columns it is made of; none for a column of zeros.
    """
    scale, scaled = _unit_diagonal(matrix)
    if _is_regular(scaled) and (scale > 0.0).all():
        return {}
    n = len(scaled)
    found: dict[int, list[int]] = {}
    kept: list[int] = []
    # The Cholesky factor of the kept columns, row by row: what is left of a column's square is its pivot.
    factor = np.zeros((n, n))
    for column in [n - 1, *range(n - 1)]:
        row = np.zeros(n)
        for k, other in enumerate(kept):
            row[k] = (scaled[column, other] - row[:k] @ factor[k, :k]) / factor[k, k]
        left = 1.0 - float(row @ row)
        if scale[column] > 0.0 and left > SINGULAR:
            row[len(kept)] = np.sqrt(left)
            factor[len(kept)] = row
            kept.append(column)
        elif scale[column] > 0.0:
            shares = np.linalg.solve(factor[: len(kept), : len(kept)].T, row[: len(kept)])
            found[column] = [kept[k] for k in np.flatnonzero(np.abs(shares) > 1e-4)]
        else:
            found[column] = []
    return found


def _unit_diagonal(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales ``(n,)``, zero for columns of zeros, and the matrix in these units, with a unit diagonal."""
    diagonal = np.diag(matrix)
    scale = np.zeros(len(matrix))
    np.divide(1.0, np.sqrt(np.maximum(diagonal, 0.0)), out=scale, where=diagonal > 0.0)
    scaled = scale[:, None] * matrix * scale
    np.fill_diagonal(scaled, 1.0)
    return scale, scaled


def _is_regular(scaled: np.ndarray) -> bool:
    try:
        pivots = np.diag(np.linalg.cholesky(scaled))
    except np.linalg.LinAlgError:
        return False
    return bool((pivots**2).min() > SINGULAR)
