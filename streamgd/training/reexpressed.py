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

    Theta and sums have one output, ``(n_dof, 1)``.
    """

    def __init__(self, blocks: Pass, before: Scaling, after: Scaling):
        self._blocks = blocks
        self._into_blocks = Reexpression(after, before)
        self._from_blocks = Reexpression(before, after)

    def __call__(self, common: Any, done: Callable[[int], None] | None = None, every: int = 1) -> ChunkSums:
        """The sum over all blocks of ``sums_of_block(theta, block)``, for ``common = (sums_of_block, theta)``."""
        sums_of_block, theta = common
        there = self._into_blocks.displacement(theta[:, 0])[:, None]
        total: ChunkSums = self._blocks((sums_of_block, there), done, every)
        gradient = total.gradient
        if len(gradient):  # sums of losses alone have none
            gradient = self._from_blocks.gradient(gradient[:, 0])[:, None]
        return replace(total, gradient=gradient, hessian=self._products(total.hessian), meat=self._products(total.meat))

    def _products(self, products: np.ndarray | None) -> np.ndarray | None:
        return None if products is None else self._from_blocks.products(products)
