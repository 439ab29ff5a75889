"""Watches the loss while training, and says in words why a run had to go back.

The progressive loss is that of each mini-batch before its update, taken on every n-th row; what it is held against
is the loss of the best constant prediction on the very same rows, so that a few rows with a huge target alarm nobody.
"""

from __future__ import annotations

import math

import numpy as np

from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Moments
from streamgd.kernels.stochastic import WATCHED_EVERY_ROWS
from streamgd.objective.losses import Loss
from streamgd.training.stepsize import constants

#: A block is bad when its progressive loss exceeds so many times that of the best constant, and by more than chance:
#: of shuffled rows, since even the last iterate should do better; of rows as they come, which may differ from those …
BAD_BLOCK_FACTOR = 1.1
BAD_WINDOW_FACTOR = 4.0
#: … by so many standard errors of the loss.
BAD_BLOCK_ERRORS = 5.0
#: The first few steps of a run may go astray: then only this factor counts.
FIRST_STEPS = 16
FIRST_STEPS_FACTOR = 20.0
#: A window of fewer rows says nothing by itself: the epoch up to now is judged, once it has as many.
FEWEST_ROWS = 32 * WATCHED_EVERY_ROWS
#: An epoch is bad when its progressive loss exceeds that of the best constant, or of the epoch before, by this factor
#: and by more than chance.
BAD_EPOCH_FACTOR = 1.05
#: A snapshot is taken every so many good blocks.
SNAPSHOT_BLOCKS = 16
#: … within an epoch only where the coordinates take no more than this: of a million, each snapshot is 50 MB.
LARGEST_SNAPSHOT_BYTES = 32_000_000
MAX_ROLLBACKS = 24

EXTREME_DEVIATIONS = 50.0
#: A column that is not scaled is blamed where its values (their root mean square) are above this.
LARGE_UNSCALED = 10.0


class Watched:
    """Every n-th row of a block as the loop meets it, and the losses of these rows.

    Attributes
    ----------
    numbers : float64, (1 + n_outputs, n_watched)
        Written by the loop: see ``kernels.stochastic.train_minibatches``.
    """

    def __init__(self, block: Block, steps_before: int, n_outputs: int):
        rows = self._rows = slice(steps_before % WATCHED_EVERY_ROWS, None, WATCHED_EVERY_ROWS)
        self._weight, self._offset = block.weight[rows], block.offset[rows]
        self.numbers = np.empty((1 + n_outputs, len(range(block.rows)[rows])))

    def losses(self, loss: Loss) -> np.ndarray:
        """Weighted sum of the losses before the updates, the weight, and the sum of the squared terms; float64 (3,)."""
        raw = self.numbers[1:].T if loss.has_many_outputs else self.numbers[1]
        terms = self._weighted(loss.loss(self.numbers[0], raw))
        weight = self._weight.sum() if len(self._weight) else len(terms)
        return np.array([terms.sum(), weight, (terms * terms).sum()])

    def constant_loss(self, loss: Loss, constant: float | np.ndarray) -> float:
        """Weighted sum of the losses of the best constant."""
        target = self.numbers[0]
        return float(self._weighted(loss.loss(target, constants(loss, constant, len(target), self._offset))).sum())

    def loss_by(self, loss: Loss, raw: np.ndarray) -> float:
        """Weighted sum of the losses of other raw predictions of the block, one or ``n_outputs`` a row."""
        return float(self._weighted(loss.loss(self.numbers[0], raw[self._rows])).sum())

    def _weighted(self, losses: np.ndarray) -> np.ndarray:
        return losses * self._weight if len(self._weight) else losses


def bad_rows(sums: np.ndarray, steps: int, factor: float, other: str, unit: float) -> str:
    """What is wrong after some rows, or an empty text.

    Parameters
    ----------
    sums : float64, (4,)
        Of the rows: weighted progressive loss, its weight, the sum of its squared terms, and another loss to compare
        with, that of the best constant as a rule.
    steps : int
        In which the rows were learned.
    factor : float
        How many times the other loss that of the rows may be.
    other : str
        What has the other loss, and the verb.
    unit : float
        What a loss of 1 is in units of the data.
    """
    loss, weight, squares, known = sums.tolist()
    factor = factor if steps >= FIRST_STEPS else FIRST_STEPS_FACTOR
    if loss > factor * known + BAD_BLOCK_ERRORS * math.sqrt(min(squares, known * known)):
        unit /= weight
        return f"the loss rose to {loss * unit:.6g}, {other} {known * unit:.6g}"
    return ""


def bad_epoch(sums: np.ndarray, before: float | None, unit: float) -> str:
    """What is wrong with a whole epoch of shuffled rows, or an empty text.

    Parameters
    ----------
    sums : float64, (4,)
        Weighted progressive loss, its weight, the sum of its squared terms, and the loss of the best constant.
    before : float or None
        Mean progressive loss of the epoch before, None where it is not known.
    unit : float
        What a loss of 1 is in units of the data.
    """
    loss, weight, squares, constant = sums.tolist()
    if weight == 0.0:
        return ""
    chance = BAD_BLOCK_ERRORS * math.sqrt(min(squares, constant * constant))
    for other, name in ((constant, "the best constant has"), ((before or math.inf) * weight, "the epoch before had")):
        if loss > BAD_EPOCH_FACTOR * other + chance:
            unit /= weight
            return f"the loss of the epoch was {loss * unit:.6g}, {name} {other * unit:.6g}"
    return ""


def likely_cause(encoding: Encoding, moments: Moments, learning_rate: float, scaled: bool) -> str:
    """Why a run may have diverged: an unscaled or extreme feature by name, or the step size."""
    scaling, numeric = encoding.scaling, encoding.columns.numeric
    if len(numeric):
        centre, spread = scaling.shift0 + scaling.scale0 * moments.mean, moments.deviation() * scaling.scale0
        size = np.nan_to_num(np.hypot(centre, spread), nan=np.inf)
        if not scaled and size.max() > LARGE_UNSCALED:
            worst = int(size.argmax())
            return (
                f"feature '{numeric[worst].name}' is not scaled (its values reach {moments.largest[worst]:.3g}):"
                f" leave out --scale none"
            )
        out = np.nan_to_num((moments.largest - np.abs(centre)) / np.maximum(spread, 1e-300))
        if out.max() > EXTREME_DEVIATIONS:
            worst = int(out.argmax())
            return (
                f"feature '{numeric[worst].name}' has values {out[worst]:.3g} standard deviations out, so a step of"
                f" {learning_rate:.3g} is too large for its rows"
            )
    return f"a step of {learning_rate:.3g} is too large"
