"""The step size of ``--learning-rate auto``: smoothness constants from the data, and the best constant prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from streamgd.data.blocks import Block, Entries
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Moments, Scaling
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import Vocabulary
from streamgd.kernels import entries, sums
from streamgd.objective.losses import LOSSES, KinkedLoss, LogLinkLoss, Loss
from streamgd.objective.objective import ChunkSums, Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.stochastic import Smoothness
from streamgd.training.chunks import SumsOfBlock
from streamgd.training.kink_constant import constant_by_kinks

POWER_ITERATIONS = 12
#: By how much the root of an expected square may be below what makes a step on a row alone safe. More lets rare entries
#: overfit, fewer keeps them back: with a million rows of 40 of 2^20 columns the holdout loss after an epoch was 0.479
#: instead of 0.511, with 200,000 rows of 30 of 2^14 columns 93.0 instead of 94.5 % of the way was closed.
UNSAFE_STEPS = 32.0
#: Residuals of several outputs that are made at once.
RESIDUALS_AT_ONCE = 1_000_000
#: By how much curvatures may exceed those at the best constant, of a loss where they have no bound.
CURVATURE_MARGIN = 2.0
#: Slopes that are looked at for the best constant, at most, and the step that is the last.
BEST_CONSTANT_STEPS, BEST_CONSTANT_TOLERANCE = 40, 1e-10
#: A step to it is at most so long: four times the target's unit, or a factor of fifty.
LONGEST_CONSTANT_STEP = 4.0


def largest_row_norm(block: Block) -> float:
    """Largest squared norm of a row, with a 1 for the intercept, times its weight."""
    return float(sums.largest_row_norm(block.features, block.codes, *block.entries.arrays(), block.weight))


def largest_eigenvalue(product: Callable[[np.ndarray], np.ndarray], n_dof: int) -> float:
    """Largest eigenvalue of a symmetric matrix known by its products with vectors ``(n_dof, 1)``: power iteration.

    It comes from below; a tenth is added for what it misses.
    """
    vector = np.full((n_dof, 1), 1.0 / np.sqrt(n_dof))
    largest = 1.0
    for _ in range(POWER_ITERATIONS):
        image = product(vector)
        norm = float(np.sqrt((image**2).sum()))
        if not 0.0 < norm < np.inf:
            break
        largest, vector = norm, image / norm
    return 1.1 * largest


def mean_row_norm(moments: Moments, scaling: Scaling, n_categorical: int) -> float:
    """Mean squared norm of a row with a 1 for the intercept, from the moments of all rows: a bound on the mean's
    largest eigenvalue, since it is the sum of them all. Each categorical column adds 1 at most.
    """
    weight = np.maximum(moments.weight, 1e-300)
    squares = (moments.squares / weight + (moments.mean - scaling.mean) ** 2) / scaling.deviation**2
    return 1.0 + float(squares.sum()) + n_categorical


def column_squares(survey: Survey, encoding: Encoding, vocabularies: list[Vocabulary]) -> np.ndarray:
    """Mean square of each column of all rows, with a 1 for the intercept, float64, ``(n_dof, 1)``.

    That of a level is its share of the weight; buckets of a hashed column count as equally full, and so do the rows of
    a sparse one.
    """
    moments, scaling = survey.moments, encoding.scaling
    squares = np.zeros(encoding.n_dof)
    squares[-1] = 1.0
    spread = moments.squares / np.maximum(moments.weight, 1e-300) + (moments.mean - scaling.mean) ** 2
    squares[: encoding.n_numeric] = spread / scaling.deviation**2
    for column, vocabulary, counts in zip(encoding.categorical, vocabularies, survey.level_counts, strict=True):
        if column.hashed:
            squares[column.first_row : column.first_row + column.n_rows] = 1.0 / column.buckets
        else:
            rows = column.table(vocabulary)[: len(counts)]
            np.add.at(squares, rows[rows >= 0], counts[: len(rows)][rows >= 0] / survey.weight)
    for sparse in encoding.sparse:
        squares[sparse.rows] = 1.0 / max(1, sparse.n_rows)
    return squares[:, None]


def second_moments(vector: np.ndarray, block: Block) -> ChunkSums:
    """``X' W X @ vector`` of the rows of a block, as the gradient of the squared loss with target 0."""
    rows = replace(block, target=np.zeros(block.rows), offset=np.empty(0))
    return Objective(LOSSES["squared"], ElasticNet()).chunk_sums(vector, rows)


def usual_curvature(loss: Loss, target_mean: float) -> float:
    """A bound on the loss's mean curvature, or what stands for it where there is a kink; with a margin that near the
    best constant, where there is no bound.
    """
    if math.isfinite(loss.max_curvature):
        return loss.max_curvature
    constant = np.array([loss.best_constant(target_mean)])
    return CURVATURE_MARGIN * float(loss.curvature(np.array([target_mean]), constant)[0])


def curvatures(loss: Loss, block: Block, constant: float, largest_target: float) -> tuple[float, float]:
    """What the mean curvature of the rows of ``block``, and that of one row, may come to.

    Both are the loss's bound where it has one; else they are taken at the best constant, with a margin, that of one row
    also for the ``largest_target`` of all data.
    """
    if math.isfinite(loss.max_curvature):
        return loss.max_curvature, loss.max_curvature
    raw = constant + block.offset if len(block.offset) else np.full(block.rows, constant)
    found = loss.curvature(block.target, raw)
    mean = float(np.average(found, weights=block.weight if len(block.weight) else None))
    of_largest = loss.curvature(np.array([largest_target]), np.array([constant]))
    row = max(float(found.max()), float(of_largest[0]))
    return CURVATURE_MARGIN * mean, CURVATURE_MARGIN * row


def smoothness(
    block: Block, n_dof: int, curvature: tuple[float, float], largest_norm: float, mean_weight: float, l2: float
) -> Smoothness:
    """Smoothness constants of a data set.

    Parameters
    ----------
    block : Block
        Rows that stand for all.
    curvature : tuple of float
        Of the mean, and of one row: see ``curvatures``.
    largest_norm : float
        Largest squared row norm times weight over all rows.
    """

    def product(vector: np.ndarray) -> np.ndarray:
        total = second_moments(vector, block)
        return np.asarray(total.gradient / total.weight)

    mean = largest_eigenvalue(product, n_dof) * curvature[0] + l2
    row = largest_norm / mean_weight * curvature[1] + l2
    return Smoothness(row=max(row, mean), mean=mean)


def best_constant(loss: Loss, target_mean: float, block: Block) -> float:
    """The raw prediction that fits best without features.

    It follows from the mean target; for losses where it does not, and with an offset, it is the best one of the rows
    of ``block``.
    """
    known = loss.best_constant(target_mean)
    if known is not None and not len(block.offset):
        return known
    if isinstance(loss, KinkedLoss):
        return constant_by_kinks(loss, lambda sums: sums(np.zeros((1, 1)), block))
    return constant_by_sums(
        loss, known, bool(len(block.offset)), lambda sums, constant: sums(np.array([[constant]]), block)
    )


def constant_by_sums(
    loss: Loss, known: float | None, has_offset: bool, total: Callable[[SumsOfBlock, float], ChunkSums]
) -> float:
    """The best constant where the mean target does not tell it.

    With offsets, one pass suffices for a log link and the squared loss. Else Newton's steps follow, one pass each.

    Parameters
    ----------
    known : float or None
        That without offsets, if the mean target tells it.
    total : callable
        Sums over all rows, at a theta that has this intercept and no other coefficient.
    """
    start = known or 0.0
    if has_offset:
        found = total(partial(offset_sums, loss), 0.0)
        of_targets, of_offsets = found.loss, float(found.gradient[-1, 0])
        if not isinstance(loss, LogLinkLoss):
            start -= of_offsets / found.weight
        elif of_targets > 0.0:
            return math.log(of_targets / of_offsets)
        else:  # of these rows it would be that there is nothing
            return start - math.log(of_offsets / found.weight)
    if loss.is_quadratic:
        return start
    return minimum_by_slope(lambda constant: slopes_of(total(partial(constant_sums, loss), constant)), start)


def offset_sums(loss: Loss, theta: np.ndarray, block: Block) -> ChunkSums:
    """Sums from which the best constant beside offsets follows: ``LogLinkLoss.constant_sums``, as the loss and as the
    last entry of the gradient, (n_dof, 1); of other losses, that entry is the sum of the weighted offsets.
    """
    weight, gradient = block.weight if len(block.weight) else np.ones(block.rows), np.zeros_like(theta)
    of_targets, of_offsets = 0.0, float((weight * block.offset).sum())
    if isinstance(loss, LogLinkLoss):
        of_targets, of_offsets = loss.constant_sums(block.target, block.offset, weight)
    gradient[-1, 0] = of_offsets
    return ChunkSums(of_targets, gradient, float(weight.sum()), block.rows)


def constant_sums(loss: Loss, theta: np.ndarray, block: Block) -> ChunkSums:
    """Sums for rows that all have the intercept of ``theta`` (n_dof, 1) as raw prediction, beside the offset.

    The last entry of the gradient, (n_dof, 1), is the first derivative of the summed loss by that constant, the others
    are zero; in the place of the loss is the second derivative.
    """
    constant, gradient = float(theta[-1, 0]), np.zeros_like(theta)
    raw = constant + block.offset if len(block.offset) else np.full(block.rows, constant)
    weight = block.weight if len(block.weight) else np.ones(block.rows)
    gradient[-1, 0] = weight @ loss.gradient(block.target, raw)
    return ChunkSums(float(weight @ loss.curvature(block.target, raw)), gradient, float(weight.sum()), block.rows)


def slopes_of(total: ChunkSums) -> tuple[float, float]:
    """First and second derivative of the mean loss, from :func:`constant_sums`."""
    return float(total.gradient[-1, 0]) / total.weight, total.mean_loss


def minimum_by_slope(slope: Callable[[float], tuple[float, float]], start: float) -> float:
    """Where the slope of a convex function is zero: Newton's steps, kept between what is known to be too far.

    Parameters
    ----------
    slope : callable
        Gives first and second derivative at a place.
    """
    place, lowest, highest = start, -math.inf, math.inf
    for _ in range(BEST_CONSTANT_STEPS):
        first, second = slope(place)
        if first > 0.0:
            highest = place
        else:
            lowest = place
        step = -first / second if second > 0.0 else math.copysign(LONGEST_CONSTANT_STEP, -first)
        reached = place + min(max(step, -LONGEST_CONSTANT_STEP), LONGEST_CONSTANT_STEP)
        if not lowest <= reached <= highest:
            reached = 0.5 * (lowest + highest)
        moved, place = abs(reached - place), reached
        if first == 0.0 or moved <= BEST_CONSTANT_TOLERANCE:
            break
    return place


def expected_squares(
    block: Block, n_dof: int, loss: Loss, constant: float | np.ndarray, mean_weight: float, batch_size: int,
    curvature: float, first_sparse_row: int,
) -> np.ndarray:  # fmt: skip
    """What the square of a mini-batch's gradient is expected to be at the best constant, float64, ``(n_dof,)``.

    Of several outputs, ``(n_outputs, n_dof)``.

    ``mean(r^2) mean(x_j^2) / batch_size`` over the rows of ``block``, r the weighted residual. A level, or an entry of
    a sparse column, is taken to occur once more than it does, so that one that is not in the block has an expectation
    too. A coordinate of a sparse column is expected to have at least the square of
    ``curvature * norm / (batch_size * UNSAFE_STEPS)``, with the mean squared norm of the rows that name it: a rule that
    divides by the root would else take rows of many rare entries far beyond their targets.
    """
    n_numeric = block.features.shape[1]
    squares = np.ones(n_dof)
    squares[:n_numeric] = (block.features.astype(np.float64) ** 2).mean(axis=0)
    counts = np.bincount(block.codes[block.codes >= 0], minlength=n_dof) + squares_of_entries(block.entries, n_dof)
    squares[n_numeric:-1] = (counts[n_numeric:-1] + 1.0) / (block.rows + 1.0)
    expected = np.multiply.outer(_mean_squares(block, loss, constant, mean_weight), squares) / batch_size
    norms = norms_of_entries(block.entries, _norms_without_entries(block), n_dof, first_sparse_row)
    return np.asarray(np.maximum(expected, (curvature * norms / batch_size) ** 2))


def squares_of_entries(given: Entries, n_dof: int) -> np.ndarray:
    """The sum of the squared values of the entries of each coordinate, float64, ``(n_dof,)``."""
    starts, coordinates, values = given.arrays()
    if not len(starts):
        return np.zeros(n_dof)
    here = slice(int(starts[0]), int(starts[-1]))
    squares = values[here].astype(np.float64) ** 2 if len(values) else None
    return np.bincount(coordinates[here], squares, minlength=n_dof)


def norms_of_entries(given: Entries, of_rows: np.ndarray, n_dof: int, first_row: int) -> np.ndarray:
    """The mean squared norm of the rows with an entry of each coordinate over UNSAFE_STEPS, float64, ``(n_dof,)``.

    For coordinates that are not among the entries it is the mean over all; 0 for those before ``first_row``.

    Parameters
    ----------
    of_rows : float64, (n_rows,)
        Squared norms of the other numbers of the rows; those of the entries are added in place.
    """
    starts, coordinates, _ = given.arrays()
    norms = np.zeros(n_dof)
    if not len(starts) or starts[0] == starts[-1]:
        return norms
    here = coordinates[starts[0] : starts[-1]]
    entries.add_squares_of_rows(*given.arrays(), of_rows)
    of_entries = np.repeat(of_rows, np.diff(starts))
    norms[first_row:-1] = of_entries.mean()
    counts = np.bincount(here, minlength=n_dof)
    sums_of_norms = np.bincount(here, of_entries, minlength=n_dof)
    np.divide(sums_of_norms, counts, out=norms, where=counts > 0)
    return norms / UNSAFE_STEPS


def _norms_without_entries(block: Block) -> np.ndarray:
    """Squared norm of each row with a 1 for the intercept, without its entries, float64, ``(n_rows,)``."""
    return np.asarray(
        1.0 + np.square(block.features, dtype=np.float64).sum(axis=1) + (block.codes >= 0).sum(axis=1)
    )  # fmt: skip


def _mean_squares(block: Block, loss: Loss, constant: float | np.ndarray, mean_weight: float) -> np.ndarray:
    """Mean square of the weighted residual at the best constant, of each output if there are several."""
    step = max(1, RESIDUALS_AT_ONCE // np.size(constant)) if loss.has_many_outputs else max(1, block.rows)
    total: Any = 0.0
    for start in range(0, block.rows, step):
        rows = slice(start, start + step)
        target = block.target[rows]
        raw = constants(loss, constant, len(target), block.offset[rows])
        residual = loss.gradient(target, raw).T * (block.weight[rows] / mean_weight if len(block.weight) else 1.0)
        total = total + (residual**2).mean(axis=-1) * (len(target) / block.rows)
    return np.asarray(total)


def constants(loss: Loss, constant: float | np.ndarray, rows: int, offset: np.ndarray) -> np.ndarray:
    """The raw predictions of so many rows by the best constant, beside their offset if there is one."""
    if loss.has_many_outputs:
        return np.full((rows, np.size(constant)), constant)
    return constant + offset if len(offset) else np.full(rows, constant)


#: Beyond so many columns the rotation of each mini-batch's gradient would cost more than the gradient.
MOST_ROTATED = 512
#: Rows a column that the moments are estimated from, at least.
ROWS_PER_COLUMN = 20
#: Eigenvalues below this are taken for it: what is left of such a direction is rounding.
SMALLEST_EIGENVALUE = 1e-4
#: Columns whose smallest eigenvalue is above this are left as they are.
NEARLY_UNCORRELATED = 0.5


def decorrelating_rotation(block: Block) -> np.ndarray:
    """``L^-1/2 V'`` of the numeric features' second moments ``V L V'`` on the rows of ``block``.

    Returns
    -------
    float64, (n_numeric, n_numeric) or (0, 0)
        Empty where there is nothing to gain: columns that are hardly correlated, too many, or too few rows.
    """
    n_columns = block.features.shape[1]
    if not 2 <= n_columns <= min(MOST_ROTATED, block.rows // ROWS_PER_COLUMN):
        return np.empty((0, 0))
    features = block.features.astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(features.T @ features / block.rows)
    if eigenvalues[0] > NEARLY_UNCORRELATED:
        return np.empty((0, 0))
    return np.ascontiguousarray(vectors.T / np.sqrt(np.maximum(eigenvalues, SMALLEST_EIGENVALUE))[:, None])
