"""Stochastic optimizers: how one mini-batch's gradient moves theta.

An optimizer is one class here, entered in ``OPTIMIZERS``: the slots it keeps, its settings, and a compiled
``update`` for the touched coordinates. It owns no arrays; the slots travel in the training state.

``update`` also writes the rate of each coordinate, with which the penalty shrinks theta afterwards:
``theta_j := shrink(theta_j - rate_j * gradient_j)``, so that penalised and plain runs take the same steps.

Each slot says how it follows when the scaler moves (see ``data.scaler.Reexpression``): a *displacement* as theta
does, a *gradient* as a gradient does, as does the *penalty* that was taken, a sum of its subgradients; *squares* with
the help of the *cross* products ``g_j * g_intercept``.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from streamgd.kernels.compile import update_rule

SlotKind = Literal["displacement", "gradient", "penalty", "squares", "cross"]


@dataclass(frozen=True)
class Smoothness:
    """What a step size can be derived from: of rows with a 1 for the intercept, in the loss's units.

    ``row`` is the largest squared norm of a row times its relative weight times the loss's curvature, ``mean`` the
    mean of these: bounds of the Lipschitz constants of one row's gradient, and of the whole gradient.
    """

    row: float
    mean: float

    def of_batch(self, batch_size: int) -> float:
        """A bound for the gradient of a mini-batch."""
        return self.mean + (self.row - self.mean) / batch_size


class StochasticOptimizer(ABC):
    """One update rule; ``update(theta, gradient, slots, rate, settings, learning_rate, step)``.

    One that is ``takes_penalty_anew`` gives back the penalty of all steps so far, which its first slot holds, and the
    loops take that of all steps at once: see ``kernels.coordinates.renew``.
    """

    name: ClassVar[str]
    slots: ClassVar[tuple[SlotKind, ...]] = ()
    settings: ClassVar[tuple[float, ...]] = (0.0,)
    takes_penalty_anew: ClassVar[bool] = False
    update: ClassVar[Any]

    def init(self, expected_squares: np.ndarray) -> np.ndarray:
        """The slots before the first step, float64, shape ``(n_slots, n_dof)``.

        ``expected_squares`` (n_dof,): expected square of a mini-batch's gradient at the best constant.
        """
        return np.zeros((len(self.slots), len(expected_squares)))

    def default_learning_rate(self, smoothness: Callable[[], Smoothness], batch_size: int) -> float:
        """The step size of ``--learning-rate auto``; only where it depends on ``smoothness``, that is worked out."""
        raise NotImplementedError


class Plain(StochasticOptimizer):
    """``theta := theta - alpha * gradient``.

    The step is half of what the roughest mini-batch allows; averaging lets it stay that large.
    """

    name = "plain"

    @staticmethod
    @update_rule
    def update(theta, gradient, slots, rate, settings, learning_rate, step):
        for j in range(theta.shape[0]):
            rate[j] = learning_rate
            theta[j] -= learning_rate * gradient[j]

    def default_learning_rate(self, smoothness: Callable[[], Smoothness], batch_size: int) -> float:
        return 0.5 / smoothness().of_batch(batch_size)


class Momentum(StochasticOptimizer):
    """``velocity := 0.9 * velocity - 0.1 * alpha * gradient; theta := theta + velocity`` (Polyak 1964).

    The factor 0.1 makes alpha the size of a whole step, as for the plain update.
    """

    name = "momentum"
    slots = ("displacement",)
    settings = (0.9,)

    @staticmethod
    @update_rule
    def update(theta, gradient, slots, rate, settings, learning_rate, step):
        keep = settings[0]
        for j in range(theta.shape[0]):
            rate[j] = learning_rate
            slots[0, j] = keep * slots[0, j] - (1.0 - keep) * learning_rate * gradient[j]
            theta[j] += slots[0, j]

    def default_learning_rate(self, smoothness: Callable[[], Smoothness], batch_size: int) -> float:
        return 0.5 / smoothness().of_batch(batch_size)


class AdaGrad(StochasticOptimizer):
    """``G_j := G_j + gradient_j^2; theta_j := theta_j - alpha / sqrt(G_j) * gradient_j``.

    Duchi, Hazan, Singer (2011), diagonal version. Its steps do not depend on the scale of the gradient, so one
    alpha serves losses and data of all kinds. G starts as if 100 mini-batches had been seen at the best constant:
    from zero, the first steps would have length alpha whatever the gradient.
    """

    name = "adagrad"
    slots: ClassVar[tuple[SlotKind, ...]] = ("squares", "cross")

    def init(self, expected_squares: np.ndarray) -> np.ndarray:
        slots = np.zeros((len(self.slots), len(expected_squares)))
        slots[self.slots.index("squares")] = 100.0 * expected_squares
        # Features are centred: only the intercept has a cross product with itself.
        slots[self.slots.index("cross"), -1] = 100.0 * expected_squares[-1]
        return slots

    @staticmethod
    @update_rule
    def update(theta, gradient, slots, rate, settings, learning_rate, step):
        gradient_intercept = gradient[theta.shape[0] - 1]
        for j in range(theta.shape[0]):
            slots[0, j] += gradient[j] * gradient[j]
            slots[1, j] += gradient[j] * gradient_intercept
            rate[j] = learning_rate / (math.sqrt(slots[0, j]) + 1e-12)
            theta[j] -= rate[j] * gradient[j]

    def default_learning_rate(self, smoothness: Callable[[], Smoothness], batch_size: int) -> float:  # noqa: ARG002
        return 0.5


class FTRLProximal(AdaGrad):
    """Follow the regularised leader, per coordinate: exact zeros under l1, however rarely a coordinate is touched.

    McMahan et al. (2013), "Ad Click Prediction: a View from the Trenches", algorithm 1. After step t theta is the
    minimum of ``sum_s (g_s' b + sigma_s / 2 * (b - theta_s)^2) + t * (l1 |b| + l2 / 2 b^2)``: since J has the penalty
    once beside the mean loss, t mean gradients come with t penalties. The ``sigma_s`` sum up to ``1 / eta_j``,
    ``eta_j = alpha / sqrt(G_j)``, so that, with their ``z_j``,

        ``theta_j = 0`` where ``|z_j| <= t * l1``, else ``-(z_j - sign(z_j) * t * l1) / (1 / eta_j + t * l2)``.

    The same is written here as a step: with ``d_j``, the part of the penalty's subgradients that is in theta_j,

        ``theta_j := theta_j + eta_j * (d_j - gradient_j)``, then the penalty of all t steps, at the rate ``eta_j``,

    which without a penalty is AdaGrad (McMahan 2011, theorem 4). G starts as it does there, in the place of their beta.
    """

    name = "ftrl"
    slots = ("penalty", "squares", "cross")
    takes_penalty_anew = True

    @staticmethod
    @update_rule
    def update(theta, gradient, slots, rate, settings, learning_rate, step):
        gradient_intercept = gradient[theta.shape[0] - 1]
        for j in range(theta.shape[0]):
            slots[1, j] += gradient[j] * gradient[j]
            slots[2, j] += gradient[j] * gradient_intercept
            rate[j] = learning_rate / (math.sqrt(slots[1, j]) + 1e-12)
            theta[j] += rate[j] * (slots[0, j] - gradient[j])


class RMSProp(StochasticOptimizer):
    """``v_j := 0.99 * v_j + 0.01 * gradient_j^2; theta_j := theta_j - alpha / sqrt(v_j) * gradient_j``.

    Tieleman, Hinton (2012); v is divided by ``1 - 0.99^t``, as Adam does, so that the first steps are not long.
    """

    name = "rmsprop"
    slots = ("squares", "cross")
    settings = (0.99,)

    @staticmethod
    @update_rule
    def update(theta, gradient, slots, rate, settings, learning_rate, step):
        keep = settings[0]
        unbias = 1.0 - keep**step
        gradient_intercept = gradient[theta.shape[0] - 1]
        for j in range(theta.shape[0]):
            slots[0, j] = keep * slots[0, j] + (1.0 - keep) * gradient[j] * gradient[j]
            slots[1, j] = keep * slots[1, j] + (1.0 - keep) * gradient[j] * gradient_intercept
            rate[j] = learning_rate / (math.sqrt(slots[0, j] / unbias) + 1e-12)
            theta[j] -= rate[j] * gradient[j]

    def default_learning_rate(self, smoothness: Callable[[], Smoothness], batch_size: int) -> float:  # noqa: ARG002
        return 0.01


class Adam(StochasticOptimizer):
    """``m_j`` and ``v_j``: decaying means of gradient and its square; ``theta_j -= alpha * m_j / sqrt(v_j)``.

    Kingma, Ba (2015), algorithm 1, with both means divided by ``1 - beta^t``.
    """

    name = "adam"
    slots = ("gradient", "squares", "cross")
    settings = (0.9, 0.999)

    @staticmethod
    @update_rule
    def update(theta, gradient, slots, rate, settings, learning_rate, step):
        keep_mean, keep_square = settings[0], settings[1]
        unbias_mean = 1.0 - keep_mean**step
        unbias_square = 1.0 - keep_square**step
        gradient_intercept = gradient[theta.shape[0] - 1]
        for j in range(theta.shape[0]):
            slots[0, j] = keep_mean * slots[0, j] + (1.0 - keep_mean) * gradient[j]
            slots[1, j] = keep_square * slots[1, j] + (1.0 - keep_square) * gradient[j] * gradient[j]
            slots[2, j] = keep_square * slots[2, j] + (1.0 - keep_square) * gradient[j] * gradient_intercept
            rate[j] = learning_rate / (math.sqrt(slots[1, j] / unbias_square) + 1e-12)
            theta[j] -= rate[j] * slots[0, j] / unbias_mean

    def default_learning_rate(self, smoothness: Callable[[], Smoothness], batch_size: int) -> float:  # noqa: ARG002
        return 0.01


def taken_penalty(theta: np.ndarray, steps: int, l1: float, l2: float | np.ndarray) -> np.ndarray:
    """What an optimizer that takes the penalty anew has in its first slot where it gave ``theta`` after ``steps``."""
    return np.asarray(steps * (l1 * np.sign(theta) + l2 * theta))


#: Every stochastic optimizer by its name on the command line.
OPTIMIZERS: dict[str, StochasticOptimizer] = {
    optimizer.name: optimizer for optimizer in (Plain(), Momentum(), AdaGrad(), FTRLProximal(), RMSProp(), Adam())
}
