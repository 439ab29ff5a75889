"""The objective: the weighted mean of the loss over all rows, plus the penalty.

``J(theta) = (1 / sum w) * sum w_i * loss(y_i, raw_i) + l2/2 * |beta|^2 + l1 * |beta|_1``

theta has shape ``(n_dof, n_outputs)``, the intercept last. ``chunk_sums`` gives sums over the rows of a block;
``ChunkSums.mean_loss`` and ``evaluate`` divide by the total weight, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streamgd.data.blocks import Block
from streamgd.kernels import sums
from streamgd.objective.losses import Loss
from streamgd.objective.penalties import ElasticNet

#: Rows that are predicted, compared and summed together: few enough to stay in the cache between the three. Fixed, so
#: that the bits of a sum depend on nothing but the block.
TILE_ROWS = 8192
#: Rows whose outer products are summed by one product of matrices. Fixed for the same reason.
PRODUCT_ROWS = 1024


@dataclass(frozen=True)
class ChunkSums:
    """Sums over the rows of a chunk: weighted loss, its gradient ``(n_dof, n_outputs)``, weight and rows.

    ``hessian``, float64 ``(n_dof, n_dof)``, is the sum of ``w_i * curvature_i * x_i x_i'``, x with a 1 for the
    intercept as its last entry; ``meat``, of the same shape, that of ``w_i * gradient_i^2 * x_i x_i'``, the middle of
    the sandwich of robust errors. None where they were not asked for; sums with and without one do not add up.
    """

    loss: float
    gradient: np.ndarray
    weight: float
    rows: int
    hessian: np.ndarray | None = None
    meat: np.ndarray | None = None

    @property
    def mean_loss(self) -> float:
        """The weighted mean of the loss."""
        return self.loss / self.weight

    def __add__(self, other: ChunkSums) -> ChunkSums:
        return ChunkSums(
            self.loss + other.loss, self.gradient + other.gradient, self.weight + other.weight,
            self.rows + other.rows, _added(self.hessian, other.hessian), _added(self.meat, other.meat),
        )  # fmt: skip


def _added(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    if one is not None and other is not None:
        return np.asarray(one + other)
    if one is not other:
        raise ValueError("sums with and without a Hessian, or the meat, do not add up")
    return None


@dataclass(frozen=True)
class Evaluation:
    """The objective at one theta: its value, the mean loss in it, and the gradient of all but the l1 part.

    ``hessian``, float64 ``(n_dof, n_dof)``, is that of the mean loss alone, without the penalty; None where the sums
    had none.
    """

    value: float
    mean_loss: float
    gradient: np.ndarray
    hessian: np.ndarray | None = None


@dataclass(frozen=True)
class Objective:
    """A loss and a penalty. Pure: the same theta and rows give the same bits."""

    loss: Loss
    penalty: ElasticNet

    def chunk_sums(self, theta: np.ndarray, block: Block, hessian: bool = False, meat: bool = False) -> ChunkSums:
        """Sums of loss, gradient and, where asked for, Hessian and meat over the rows of ``block`` at ``theta``."""
        curvature, squares = np.empty(block.rows if hessian else 0), np.empty(block.rows if meat else 0)
        total = self._sums(theta, block, np.zeros(len(theta)), curvature, squares)
        if hessian:
            total = replace(total, hessian=outer_products(block, curvature, len(theta)))
        return replace(total, meat=outer_products(block, squares, len(theta))) if meat else total

    def loss_sums(self, theta: np.ndarray, block: Block) -> ChunkSums:
        """As :meth:`chunk_sums`, without the gradient: it is empty, ``(0, 1)``."""
        loss = 0.0
        for start in range(0, block.rows, TILE_ROWS):
            tile = block.part(start, start + TILE_ROWS)
            losses = self.loss.loss(tile.target, raw_prediction(tile, theta))
            if len(tile.weight):
                losses *= tile.weight
            loss += float(losses.sum())
        weight = float(block.weight.sum()) if len(block.weight) else block.rows
        return ChunkSums(loss, np.empty((0, 1)), weight, block.rows)

    def _sums(
        self, theta: np.ndarray, block: Block, gradient: np.ndarray, curvature: np.ndarray, squares: np.ndarray
    ) -> ChunkSums:
        """Predict, compare, gradient, a tile of rows at a time.

        ``curvature`` and ``squares`` of the gradient by the raw prediction, both
        (n_rows,) and weighted, are written unless they are empty.
        """
        loss, weight = 0.0, 0.0
        for start in range(0, block.rows, TILE_ROWS):
            tile = block.part(start, start + TILE_ROWS)
            raw = raw_prediction(tile, theta)
            losses, residual = self.loss.loss_and_gradient(tile.target, raw)
            if len(curvature):
                here = curvature[start : start + TILE_ROWS]
                here[:] = self.loss.curvature(tile.target, raw)
                here *= tile.weight if len(tile.weight) else 1.0
            if len(squares):
                here = squares[start : start + TILE_ROWS]
                np.multiply(residual, residual, out=here)
                here *= tile.weight if len(tile.weight) else 1.0
            if len(tile.weight):
                losses *= tile.weight
                residual *= tile.weight
            loss += float(losses.sum())
            weight += float(tile.weight.sum()) if len(tile.weight) else tile.rows
            sums.add_gradient(tile.features, tile.codes, residual, gradient)
        return ChunkSums(loss, gradient[:, None], weight, block.rows)

    def evaluate(self, theta: np.ndarray, total: ChunkSums) -> Evaluation:
        """The objective from the sums over all rows."""
        gradient = total.gradient / total.weight + self.penalty.smooth_gradient(theta)
        hessian = None if total.hessian is None else total.hessian / total.weight
        return Evaluation(total.mean_loss + self.penalty.value(theta), total.mean_loss, gradient, hessian)


def raw_prediction(block: Block, theta: np.ndarray) -> np.ndarray:
    """``X @ theta + offset`` of the rows of a block, float64, shape ``(n_rows,)``."""
    raw = np.empty(block.rows, np.float64)
    sums.raw_prediction(block.features, block.codes, block.offset, np.ascontiguousarray(theta[:, 0]), raw)
    return raw


def outer_products(block: Block, row_weight: np.ndarray, n_dof: int) -> np.ndarray:
    """``sum_i row_weight_i * x_i x_i'`` over the rows of a block, float64, shape ``(n_dof, n_dof)``, symmetric.

    x is a row as theta sees it, with a 1 for the intercept as its last entry; levels are counted where they stand, so
    that no one-hot matrix exists. With ``w_i * curvature_i`` it is the Hessian of the loss, with
    ``w_i * gradient_i^2`` the meat of the sandwich.

    Products of numeric columns are float64 whatever the type of the features: in float32 rounding would hide the
    smallest eigenvalues, by which collinear columns are told, and on which standard errors depend.

    Parameters
    ----------
    row_weight : float64, (n_rows,), C-contiguous, not negative
        The only weight of a row: that of the block is not applied.
    n_dof : int
        Rows of theta.
    """
    n_numeric = block.features.shape[1]
    products, numeric = np.zeros((n_dof, n_dof)), np.zeros((n_numeric + 1, n_numeric + 1))
    memory = np.empty((min(PRODUCT_ROWS, block.rows), n_numeric + 1))
    for start in range(0, block.rows, PRODUCT_ROWS):
        features, weight = block.features[start : start + PRODUCT_ROWS], row_weight[start : start + PRODUCT_ROWS]
        rows = memory[: len(features)]
        sums.weighted_rows(features, weight, rows)
        numeric += rows.T @ rows
        if block.codes.shape[1]:
            sums.add_code_products(features, block.codes[start : start + PRODUCT_ROWS], weight, products)
    places = [*range(n_numeric), n_dof - 1]
    products[np.ix_(places, places)] = numeric
    sums.mirror_codes(products, n_numeric)
    return products
