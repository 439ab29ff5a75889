"""The step size of ``--learning-rate auto``: smoothness constants from the data, and the best constant prediction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamgd.data.blocks import Block
from streamgd.data.encoder import Survey
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Moments, Scaling
from streamgd.data.vocabulary import Vocabulary
from streamgd.kernels import sums
from streamgd.objective.losses import LOSSES, Loss
from streamgd.objective.objective import ChunkSums, Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.stochastic import Smoothness

POWER_ITERATIONS = 12


def block_row_norms(block: Block) -> np.ndarray:
    """Largest squared norm of a row times its weight, and the sum of these; float64, ``(2,)``."""
    norms = np.zeros(2)
    sums.row_norms(block.features, block.codes, block.weight, norms)
    return norms


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

    That of a level is its share of the weight; buckets of a hashed column count as equally full.
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
    return squares[:, None]


def second_moments(vector: np.ndarray, block: Block) -> ChunkSums:
    """``X' W X @ vector`` of the rows of a block, as the gradient of the squared loss with target 0."""
    rows = Block(block.features, block.codes, np.zeros(block.rows), block.weight, np.empty(0), np.empty(0, np.uint64))
    return Objective(LOSSES["squared"], ElasticNet()).chunk_sums(vector, rows)


def smoothness(
    block: Block, n_dof: int, loss: Loss, largest_row_norm: float, mean_weight: float, l2: float
) -> Smoothness:
    """Smoothness constants of a data set.

    Parameters
    ----------
    block : Block
        Rows that stand for all.
    largest_row_norm : float
        Largest squared row norm times weight over all rows.
    """

    def product(vector: np.ndarray) -> np.ndarray:
        total = second_moments(vector, block)
        return np.asarray(total.gradient / total.weight)

    mean = largest_eigenvalue(product, n_dof) * loss.max_curvature + l2
    row = largest_row_norm / mean_weight * loss.max_curvature + l2
    return Smoothness(row=max(row, mean), mean=mean)


def best_constant(loss: Loss, target_mean: float, block: Block) -> float:
    """The raw prediction that fits best without features.

    Without an offset it is the link of the mean target; with one, a few Newton steps on the rows of ``block``.
    """
    if not len(block.offset):
        return float(loss.link(np.array([target_mean]))[0])
    constant = float(loss.link(np.array([target_mean]))[0]) - float(block.offset.mean())
    weight = block.weight if len(block.weight) else np.ones(block.rows)
    for _ in range(30):
        raw = block.offset + constant
        slope = float(weight @ loss.gradient(block.target, raw))
        curvature = float(weight @ loss.curvature(block.target, raw))
        step = slope / max(curvature, 1e-12 * weight.sum())
        constant -= float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-12:
            break
    return constant


def expected_squares(
    block: Block, n_dof: int, loss: Loss, constant: float, mean_weight: float, batch_size: int
) -> np.ndarray:
    """What the square of a mini-batch's gradient is expected to be at the best constant, float64, ``(n_dof,)``.

    ``mean(r^2) mean(x_j^2) / batch_size`` over the rows of ``block``, r the weighted residual. A level is taken to
    occur once more than it does, so that one that is not in the block has an expectation too.
    """
    raw = constant + block.offset if len(block.offset) else np.full(block.rows, constant)
    residual = loss.gradient(block.target, raw) * (block.weight / mean_weight if len(block.weight) else 1.0)
    n_numeric = block.features.shape[1]
    squares = np.ones(n_dof)
    squares[:n_numeric] = (block.features.astype(np.float64) ** 2).mean(axis=0)
    counts = np.bincount(block.codes[block.codes >= 0], minlength=n_dof)[n_numeric:-1]
    squares[n_numeric:-1] = (counts + 1.0) / (block.rows + 1.0)
    return np.asarray(float((residual**2).mean()) * squares / batch_size)


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
