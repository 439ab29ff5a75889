"""The objective: the weighted mean of the loss over all rows, plus the penalty.

``J(theta) = (1 / sum w) * sum w_i * loss(y_i, raw_i) + l2/2 * |beta|^2 + l1 * |beta|_1``

theta has shape ``(n_dof, n_outputs)``, the intercept last. ``chunk_sums`` gives sums over the rows of a block;
``ChunkSums.mean_loss`` and ``evaluate`` divide by the total weight, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from streamgd.data.blocks import Block
from streamgd.kernels import entries, sums
from streamgd.objective import multinomial
from streamgd.objective.band import Band, band_of
from streamgd.objective.losses import KinkedLoss, Loss
from streamgd.objective.penalties import ElasticNet

Summed = TypeVar("Summed", np.ndarray, Band)


@dataclass(frozen=True)
class ChunkSums:
    """Sums over the rows of a chunk: weighted loss, its gradient ``(n_dof, n_outputs)``, weight and rows.

    Of several outputs the matrices are those of ``objective.multinomial``; of one,
    ``hessian``, float64 ``(n_dof, n_dof)``, is the sum of ``w_i * curvature_i * x_i x_i'``, x with a 1 for the
    intercept as its last entry; ``meat``, of the same shape, that of ``w_i * gradient_i^2 * x_i x_i'``, the middle of
    the sandwich of robust errors; ``slopes``, float64 ``(n,)``, those of the loss at some constants. None where they
    were not asked for; sums with and without one do not add up.
    """

    loss: float
    gradient: np.ndarray
    weight: float
    rows: int
    hessian: np.ndarray | None = None
    meat: np.ndarray | None = None
    slopes: np.ndarray | None = None
    band: Band | None = None

    @property
    def mean_loss(self) -> float:
        """The weighted mean of the loss."""
        return self.loss / self.weight

    def __add__(self, other: ChunkSums) -> ChunkSums:
        return ChunkSums(
            self.loss + other.loss, self.gradient + other.gradient, self.weight + other.weight,
            self.rows + other.rows, _added(self.hessian, other.hessian), _added(self.meat, other.meat),
            _added(self.slopes, other.slopes), _added(self.band, other.band),
        )  # fmt: skip


def _added(one: Summed | None, other: Summed | None) -> Summed | None:
    if one is not None and other is not None:
        return one + other  # type: ignore[no-any-return]
    if one is not other:
        raise ValueError("sums with and without a Hessian, or another part, do not add up")
    return None


@dataclass(frozen=True)
class Evaluation:
    """The objective at one theta: its value, the mean loss in it, and the gradient of all but the l1 part.

    ``hessian``, float64 ``(theta.size, theta.size)``, is that of the mean loss alone, without the penalty; None where
    the sums had none. ``band`` has the rows near their kink, with the slopes of the mean loss.
    """

    value: float
    mean_loss: float
    gradient: np.ndarray
    hessian: np.ndarray | None = None
    band: Band | None = None


@dataclass(frozen=True)
class Objective:
    """A loss and a penalty. Pure: the same theta and rows give the same bits."""

    loss: Loss
    penalty: ElasticNet

    def chunk_sums(self, theta: np.ndarray, block: Block, hessian: bool = False, meat: bool = False) -> ChunkSums:
        """Sums of loss, gradient and, where asked for, Hessian and meat over the rows of ``block`` at ``theta``.

        A Hessian without the meat is for Newton's steps: some losses have a curvature of their own for them.
        """
        if self.loss.has_many_outputs:
            return self._sums_of_classes(theta, block, hessian, meat)
        gradient = np.zeros(len(theta))
        curvature, squares = np.empty(block.rows if hessian else 0), np.empty(block.rows if meat else 0)
        loss, weight = self._add_sums(theta, block, gradient, curvature, squares)
        return ChunkSums(
            loss, gradient[:, None], weight, block.rows,
            outer_products(block, curvature, len(theta)) if hessian else None,
            outer_products(block, squares, len(theta)) if meat else None,
        )  # fmt: skip

    def loss_sums(self, theta: np.ndarray, block: Block) -> ChunkSums:
        """As :meth:`chunk_sums`, without the gradient: it is empty, ``(0, 1)``."""
        if self.loss.has_many_outputs:
            none = np.empty((0, 0))
            loss, weight = multinomial.add_sums(theta, block, none, none, none)
            return ChunkSums(loss, np.empty((0, 1)), weight, block.rows)
        nothing = np.empty(0)
        loss, weight = self._add_sums(theta, block, nothing, nothing, nothing)
        return ChunkSums(loss, np.empty((0, 1)), weight, block.rows)

    def sums_with_band(
        self, theta: np.ndarray, block: Block, width: float, radius: float, most: int, keeps: bool
    ) -> ChunkSums:
        """As :meth:`chunk_sums`, of a loss that has a kink, with the rows near it; see ``band_of``.

        Parameters
        ----------
        width : float
            0: the loss itself. Else its smooth form of that width, with the Hessian.
        radius : float
            How near, in units of the raw prediction.
        """
        assert isinstance(self.loss, KinkedLoss)
        smooth = Objective(self.loss.smoothed(width), self.penalty)
        found, raw = smooth.chunk_sums(theta, block, hessian=width > 0.0), raw_prediction(block, theta)
        return replace(found, band=band_of(self.loss, block, raw, len(theta), radius, most, keeps))

    def _sums_of_classes(self, theta: np.ndarray, block: Block, hessian: bool, meat: bool) -> ChunkSums:
        n_dof, n_classes = theta.shape
        gradient = np.zeros((n_classes, n_dof))
        probabilities, residuals = (np.empty((n_classes if asked else 0, block.rows)) for asked in (hessian, meat))
        loss, weight = multinomial.add_sums(theta, block, gradient, probabilities, residuals)

        def products(row_weight: np.ndarray) -> np.ndarray:
            return outer_products(block, row_weight, n_dof)

        return ChunkSums(
            loss, np.ascontiguousarray(gradient.T), weight, block.rows,
            multinomial.hessian(probabilities, block.weight, products) if hessian else None,
            multinomial.meat(residuals, block.weight, products) if meat else None,
        )  # fmt: skip

    def _add_sums(
        self, theta: np.ndarray, block: Block, gradient: np.ndarray, curvature: np.ndarray, squares: np.ndarray
    ) -> tuple[float, float]:
        curvatures_of_rows = self.loss.curvatures_of_rows
        if self.loss.step_curvatures_of_rows is not None and not len(squares):
            curvatures_of_rows = self.loss.step_curvatures_of_rows
        loss, weight = sums.add_sums(
            block.features, block.codes, *block.entries.arrays(), block.target, block.weight, block.offset,
            np.ascontiguousarray(theta[:, 0]), self.loss.settings, self.loss.losses_of_rows,
            self.loss.residuals_of_rows, curvatures_of_rows, gradient, curvature, squares,
        )  # fmt: skip
        return float(loss), float(weight)

    def evaluate(self, theta: np.ndarray, total: ChunkSums) -> Evaluation:
        """The objective from the sums over all rows."""
        gradient = total.gradient / total.weight + self.penalty.smooth_gradient(theta)
        hessian = None if total.hessian is None else total.hessian / total.weight
        band = None if total.band is None else total.band.divided(total.weight)
        return Evaluation(total.mean_loss + self.penalty.value(theta), total.mean_loss, gradient, hessian, band)


def raw_prediction(block: Block, theta: np.ndarray) -> np.ndarray:
    """``X @ theta + offset`` of the rows of a block, float64, ``(n_rows,)``; ``(n_rows, n_outputs)`` of several."""
    if theta.shape[1] > 1:
        return multinomial.raw_prediction(block, theta)
    raw = np.empty(block.rows, np.float64)
    sums.raw_prediction(
        block.features, block.codes, *block.entries.arrays(), block.offset, np.ascontiguousarray(theta[:, 0]), raw
    )
    return raw


def column_sums(block: Block, row_weight: np.ndarray, n_dof: int) -> np.ndarray:
    """``sum_i row_weight_i * x_i`` over the rows of a block, float64, shape ``(n_dof, 1)``.

    Parameters
    ----------
    row_weight : float64, (n_rows,), C-contiguous
        The only weight of a row: that of the block is not applied.
    """
    found = np.zeros(n_dof)
    sums.add_gradient(block.features, block.codes, *block.entries.arrays(), row_weight, found)
    return found[:, None]


def outer_products(block: Block, row_weight: np.ndarray, n_dof: int) -> np.ndarray:
    """``sum_i row_weight_i * x_i x_i'`` over the rows of a block, float64, shape ``(n_dof, n_dof)``, symmetric.

    x is a row as theta sees it, with a 1 for the intercept as its last entry; levels and entries are counted where they
    stand, so that no one-hot matrix exists. With ``w_i * curvature_i`` it is the Hessian of the loss, with
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
    sums.add_numeric_products(block.features, row_weight, numeric)
    if block.codes.shape[1]:
        sums.add_code_products(block.features, block.codes, row_weight, products)
    if len(block.entries.starts):
        entries.add_entry_products(block.features, block.codes, *block.entries.arrays(), row_weight, products)
    places = [*range(n_numeric), n_dof - 1]
    products[np.ix_(places, places)] = numeric
    sums.mirror(products, n_numeric)
    return products
