"""The objective: the weighted mean of the loss over all rows, plus the penalty.

``J(theta) = (1 / sum w) * sum w_i * loss(y_i, raw_i) + l2/2 * |beta|^2 + l1 * |beta|_1``

theta has shape ``(n_dof, n_outputs)``, the intercept last. ``chunk_sums`` gives sums over the rows of a block;
``ChunkSums.mean_loss`` and ``evaluate`` divide by the total weight, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamgd.data.blocks import Block
from streamgd.kernels import sums
from streamgd.objective.losses import Loss
from streamgd.objective.penalties import ElasticNet

#: Rows that are predicted, compared and summed together: few enough to stay in the cache between the three. Fixed, so
#: that the bits of a sum depend on nothing but the block.
TILE_ROWS = 8192


@dataclass(frozen=True)
class ChunkSums:
    """Sums over the rows of a chunk: weighted loss, its gradient ``(n_dof, n_outputs)``, weight and rows."""

    loss: float
    gradient: np.ndarray
    weight: float
    rows: int

    @property
    def mean_loss(self) -> float:
        """The weighted mean of the loss."""
        return self.loss / self.weight

    def __add__(self, other: ChunkSums) -> ChunkSums:
        return ChunkSums(
            self.loss + other.loss, self.gradient + other.gradient, self.weight + other.weight, self.rows + other.rows
        )


@dataclass(frozen=True)
class Evaluation:
    """The objective at one theta: its value, the mean loss in it, and the gradient of all but the l1 part."""

    value: float
    mean_loss: float
    gradient: np.ndarray


@dataclass(frozen=True)
class Objective:
    """A loss and a penalty. Pure: the same theta and rows give the same bits."""

    loss: Loss
    penalty: ElasticNet

    def chunk_sums(self, theta: np.ndarray, block: Block) -> ChunkSums:
        """Sums of loss and gradient over the rows of ``block`` at ``theta``."""
        return self._sums(theta, block, np.zeros(len(theta)))

    def loss_sums(self, theta: np.ndarray, block: Block) -> ChunkSums:
        """As :meth:`chunk_sums`, without the gradient: it is empty, ``(0, 1)``."""
        return self._sums(theta, block, np.empty(0))

    def _sums(self, theta: np.ndarray, block: Block, gradient: np.ndarray) -> ChunkSums:
        """Predict, compare, gradient, a tile of rows at a time; an empty ``gradient`` is not summed."""
        loss, weight = 0.0, 0.0
        for start in range(0, block.rows, TILE_ROWS):
            tile = block.part(start, start + TILE_ROWS)
            losses, residual = self.loss.loss_and_gradient(tile.target, raw_prediction(tile, theta))
            if len(tile.weight):
                losses *= tile.weight
                residual *= tile.weight
            loss += float(losses.sum())
            weight += float(tile.weight.sum()) if len(tile.weight) else tile.rows
            if len(gradient):
                sums.add_gradient(tile.features, tile.codes, residual, gradient)
        return ChunkSums(loss, gradient[:, None], weight, block.rows)

    def evaluate(self, theta: np.ndarray, total: ChunkSums) -> Evaluation:
        """The objective from the sums over all rows."""
        gradient = total.gradient / total.weight + self.penalty.smooth_gradient(theta)
        return Evaluation(total.mean_loss + self.penalty.value(theta), total.mean_loss, gradient)


def raw_prediction(block: Block, theta: np.ndarray) -> np.ndarray:
    """``X @ theta + offset`` of the rows of a block, float64, shape ``(n_rows,)``."""
    raw = np.empty(block.rows, np.float64)
    sums.raw_prediction(block.features, block.codes, block.offset, np.ascontiguousarray(theta[:, 0]), raw)
    return raw
