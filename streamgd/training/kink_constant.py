"""The best constant prediction of a loss with a kink: where the summed slope, a staircase, passes zero.

It rises where a row has its kink, so its value is summed at many constants at once, and each pass over the rows leaves
one of the steps between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from streamgd.data.blocks import Block
from streamgd.objective.losses import KinkedLoss
from streamgd.objective.objective import ChunkSums
from streamgd.training.chunks import SumsOfBlock

#: Steps between two constants, of which a pass leaves one, and passes after the first, which tells the magnitude.
STEPS, MORE_PASSES = 8192, 3
#: Powers of two, positive and negative, that are the first constants.
MAGNITUDES = np.exp2(np.arange(-30.0, 1000.0))


def slope_sums(loss: KinkedLoss, constants: np.ndarray, theta: np.ndarray, block: Block) -> ChunkSums:
    """Sums over the rows of ``block`` where ``slopes`` are those of the summed loss at ``constants``; theta is not
    looked at, and there is no gradient.
    """
    weight = block.weight if len(block.weight) else np.ones(block.rows)
    offset = block.offset if len(block.offset) else np.zeros(block.rows)
    slopes = loss.slopes_of_constants(constants, block.target, offset, weight)
    nothing = np.empty((0, theta.shape[1]))
    return ChunkSums(0.0, nothing, float(weight.sum()), block.rows, slopes=slopes)


def constant_by_kinks(loss: KinkedLoss, total: Callable[[SumsOfBlock], ChunkSums]) -> float:
    """The constant at which the mean loss is least, to eleven digits.

    Parameters
    ----------
    total : callable
        Sums over all rows, at any theta.
    """
    constants = np.concatenate([-MAGNITUDES[::-1], MAGNITUDES])
    for _ in range(1 + MORE_PASSES):
        slopes = total(partial(slope_sums, loss, constants)).slopes
        assert slopes is not None
        # Slopes never fall, but for what is rounding of a sum that is zero.
        above = min(max(int(np.searchsorted(np.maximum.accumulate(slopes), 0.0)), 1), len(constants) - 1)
        constants = np.linspace(constants[above - 1], constants[above], STEPS + 1)
    return float(0.5 * (constants[0] + constants[-1]))
