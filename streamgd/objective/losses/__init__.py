"""Losses: pointwise functions of the target and the raw prediction, which know nothing of features or weights.

A loss is one class in one file here, entered in ``LOSSES``. Loops take its functions as arguments, or as a part of
themselves (:mod:`streamgd.kernels.row_by_row`), so nothing else changes when a loss is added.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamgd.objective.losses.base import Loss
from streamgd.objective.losses.binomial import HalfBinomialLoss
from streamgd.objective.losses.hinge import HingeLoss, SquaredHingeLoss
from streamgd.objective.losses.huber import HuberLoss
from streamgd.objective.losses.kinked import KinkedLoss
from streamgd.objective.losses.multinomial import HalfMultinomialLoss
from streamgd.objective.losses.quantile import QuantileLoss
from streamgd.objective.losses.squared import HalfSquaredError
from streamgd.objective.losses.tweedie import HalfGammaLoss, HalfPoissonLoss, HalfTweedieLoss, LogLinkLoss

__all__ = [
    "LOSSES", "HalfBinomialLoss", "HalfGammaLoss", "HalfMultinomialLoss",
    "HalfPoissonLoss", "HalfSquaredError", "HalfTweedieLoss",
    "HingeLoss", "HuberLoss", "KinkedLoss", "LogLinkLoss", "Loss", "QuantileLoss",
    "SquaredHingeLoss", "loss_of",
]  # fmt: skip

_ALL: tuple[Loss, ...] = (
    HalfSquaredError(), HalfBinomialLoss(), HalfPoissonLoss(), HalfGammaLoss(), HalfTweedieLoss(1.5), HuberLoss(1.345),
    QuantileLoss(0.5), SquaredHingeLoss(), HingeLoss(), HalfMultinomialLoss(),
)  # fmt: skip

#: Every loss by its name on the command line, with its usual settings.
LOSSES: dict[str, Loss] = {each.name: each for each in _ALL}


def loss_of(name: str, settings: Sequence[float] = ()) -> Loss:
    """The loss called ``name`` with ``settings``, as a run and its model have them stored; none: its usual ones.

    Raises
    ------
    KeyError
        There is no such loss.
    """
    return type(LOSSES[name])(*settings) if len(settings) else LOSSES[name]
