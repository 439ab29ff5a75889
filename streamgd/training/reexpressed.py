"""Full-batch passes over blocks in provisional units, for a theta of standardised features.

    theta ── in provisional units ── sums over all blocks ── gradient, Hessian of the standardised features

So blocks can be written by the very pass that learns the moments. What is re-expressed is exact algebra in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from streamgd.data.scaler import Reexpression, Scaling
from streamgd.objective.objective import ChunkSums
from streamgd.training.reduce import Pass


class ReexpressedPass(Pass):
    """Sums for features under the scaling ``after`` from blocks under the scaling ``before``.

    Each output of theta, and each pair of outputs in sums of products, follows by itself.
    """

    def __init__(self, blocks: Pass, before: Scaling, after: Scaling):
        self._blocks = blocks
        self._into_blocks = Reexpression(after, before)
        self._from_blocks = Reexpression(before, after)

    def __call__(self, common: Any, done: Callable[[int], None] | None = None, every: int = 1) -> ChunkSums:
        """The sum over all blocks of ``sums_of_block(theta, block)``, for ``common = (sums_of_block, theta)``."""
        sums_of_block, theta = common
        there = np.stack([self._into_blocks.displacement(output) for output in theta.T], axis=1)
        total: ChunkSums = self._blocks((sums_of_block, there), done, every)
        gradient = total.gradient
        if len(gradient):  # sums of losses alone have none
            gradient = np.stack([self._from_blocks.gradient(output) for output in gradient.T], axis=1)
        hessian, meat = (self._products(each, theta.shape[1]) for each in (total.hessian, total.meat))
        band = total.band and replace(total.band, rows=self._from_blocks.rows(total.band.rows))
        return replace(total, gradient=gradient, hessian=hessian, meat=meat, band=band)

    def _products(self, products: np.ndarray | None, n_outputs: int) -> np.ndarray | None:
        if products is None:
            return None
        moved = products.reshape(len(products) // n_outputs, n_outputs, -1, n_outputs).copy()
        for one in range(n_outputs):
            for other in range(n_outputs):
                moved[:, one, :, other] = self._from_blocks.products(moved[:, one, :, other])
        return moved.reshape(products.shape)
