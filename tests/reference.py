"""The mini-batch loop as a textbook has it: dense, float64, one plain step after another. The oracle of the kernels.

Only what defines the algorithm is shared with them: a coordinate that no row of a mini-batch touches (a level that
does not occur in it) is not updated, and its penalty waits until it is touched again. Averages are taken of every
coordinate at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit


def loss_value(loss: str, y: np.ndarray, raw: np.ndarray) -> np.ndarray:
    return 0.5 * (raw - y) ** 2 if loss == "squared" else np.logaddexp(0.0, raw) - y * raw


def loss_derivative(loss: str, y: np.ndarray, raw: np.ndarray) -> np.ndarray:
    return raw - y if loss == "squared" else expit(raw) - y


def design_matrix(features: np.ndarray, codes: np.ndarray, n_dof: int) -> np.ndarray:
    """Features, one column of zeros and ones for each level, and the ones of the intercept; code -1 has no column."""
    X = np.zeros((len(features), n_dof))
    X[:, : features.shape[1]] = features
    X[:, -1] = 1.0
    for row, levels in enumerate(codes):
        for level in levels:
            if level >= 0:
                X[row, level] = 1.0
    return X


@dataclass
class Rows:
    """Encoded rows; ``weight`` and ``offset`` may be empty."""

    features: np.ndarray
    codes: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    def weights(self) -> np.ndarray:
        return self.weight if len(self.weight) else np.ones(len(self.target))

    def offsets(self) -> np.ndarray:
        return self.offset if len(self.offset) else np.zeros(len(self.target))


@dataclass
class Descent:
    """Where the descent stands after some steps."""

    theta: np.ndarray
    average: np.ndarray
    last_touched: np.ndarray
    slots: dict[str, np.ndarray] = field(default_factory=dict)
    step: int = 0
    progressive_loss: float = 0.0
    progressive_weight: float = 0.0
    progressive_squares: float = 0.0

    @classmethod
    def start(cls, theta: np.ndarray) -> Descent:
        names = ("velocity", "squares", "mean", "z", "inverse_rate")
        slots = {name: np.zeros(len(theta)) for name in names}
        return cls(theta.copy(), theta.copy(), np.zeros(len(theta), int), slots)


def take_steps(
    descent: Descent, rows: Rows, bounds: np.ndarray, rates: np.ndarray, loss: str, optimizer: str,
    mean_weight: float, l1: float, l2: float, level_ranges: list[tuple[int, int]], bounded: Sequence[int] = (),
) -> None:  # fmt: skip
    """One step for each mini-batch ``bounds[k]:bounds[k + 1]``; the coordinates ``bounded`` stay at zero or above."""
    n_numeric, n_dof = rows.features.shape[1], len(descent.theta)
    watched_phase = descent.step % 8
    X = design_matrix(rows.features, rows.codes, n_dof)
    for start, stop, alpha in zip(bounds[:-1], bounds[1:], rates, strict=True):
        descent.step += 1
        batch = slice(start, stop)
        levels = [int(level) for level in rows.codes[batch].ravel() if level >= 0]
        touched = [*range(n_numeric), n_dof - 1, *dict.fromkeys(levels)]
        if optimizer == "ftrl":
            for j in touched:
                leads = leader(descent, j, l1, l2, descent.step - 1)
                descent.theta[j] = max(leads, 0.0) if j in bounded else leads
        weight = rows.weights()[batch]

        raw = X[batch] @ descent.theta + rows.offsets()[batch]
        watched = np.arange(start, stop) % 8 == watched_phase
        losses = (weight * loss_value(loss, rows.target[batch], raw))[watched]
        descent.progressive_loss += float(losses.sum())
        descent.progressive_squares += float((losses**2).sum())
        descent.progressive_weight += float(weight[watched].sum())

        residual = weight * loss_derivative(loss, rows.target[batch], raw)
        gradient = X[batch].T @ residual / ((stop - start) * mean_weight)

        rate = np.zeros(n_dof)
        for j in touched:
            rate[j] = update(descent, j, gradient[j], alpha, optimizer)
        # Base levels come last: the others are pulled towards where they stood.
        for j in sorted(touched, key=lambda j: j in dict(level_ranges)):
            if optimizer == "ftrl":
                descent.theta[j] = leader(descent, j, l1, l2, descent.step)
            elif j != n_dof - 1:
                missed = descent.step - descent.last_touched[j]
                descent.theta[j] = penalty_step(descent.theta, j, rate[j] * missed, l1, l2, level_ranges)
            descent.last_touched[j] = descent.step
        for j in bounded:
            descent.theta[j] = max(descent.theta[j], 0.0)

        descent.average += 4.0 / (descent.step + 3.0) * (descent.theta - descent.average)


def update(descent: Descent, j: int, gradient: float, alpha: float, optimizer: str) -> float:
    """Moves one coordinate; returns the rate by which the penalty shrinks it."""
    theta, velocity = descent.theta, descent.slots["velocity"]
    squares, mean, t = descent.slots["squares"], descent.slots["mean"], descent.step
    if optimizer == "plain":
        theta[j] -= alpha * gradient
        return alpha
    if optimizer == "momentum":
        velocity[j] = 0.9 * velocity[j] - 0.1 * alpha * gradient
        theta[j] += velocity[j]
        return alpha
    if optimizer == "adagrad":
        squares[j] += gradient**2
        rate = alpha / (np.sqrt(squares[j]) + 1e-12)
        theta[j] -= rate * gradient
        return rate
    if optimizer == "ftrl":
        # McMahan et al. (2013), algorithm 1, where sigma is the change of 1 / eta, as for any learning rate.
        squares[j] += gradient**2
        before = descent.slots["inverse_rate"][j]
        descent.slots["inverse_rate"][j] = (np.sqrt(squares[j]) + 1e-12) / alpha
        descent.slots["z"][j] += gradient - (descent.slots["inverse_rate"][j] - before) * theta[j]
        return 0.0
    if optimizer == "rmsprop":
        squares[j] = 0.99 * squares[j] + 0.01 * gradient**2
        rate = alpha / (np.sqrt(squares[j] / (1 - 0.99**t)) + 1e-12)
        theta[j] -= rate * gradient
        return rate
    assert optimizer == "adam"
    mean[j] = 0.9 * mean[j] + 0.1 * gradient
    squares[j] = 0.999 * squares[j] + 0.001 * gradient**2
    rate = alpha / (np.sqrt(squares[j] / (1 - 0.999**t)) + 1e-12)
    theta[j] -= rate * mean[j] / (1 - 0.9**t)
    return rate


def leader(descent: Descent, j: int, l1: float, l2: float, steps: int) -> float:
    """``argmin_b z_j b + b^2 / (2 eta_j) + steps * (l1 |b| + l2/2 b^2)``; the intercept has no penalty."""
    z, inverse_rate = descent.slots["z"][j], descent.slots["inverse_rate"][j]
    if inverse_rate == 0.0:
        return float(descent.theta[j])
    if j == len(descent.theta) - 1:
        return float(-z / inverse_rate)
    return float(-np.sign(z) * max(abs(z) - steps * l1, 0.0) / (inverse_rate + steps * l2))


def penalty_step(
    theta: np.ndarray, j: int, rate: float, l1: float, l2: float, level_ranges: list[tuple[int, int]]
) -> float:
    """``argmin_b (b - theta_j)^2 / (2 rate)`` plus the penalty as a function of theta_j alone.

    A level is held to its base level, where that has a row (the first of its range); then l1 is 0.
    """
    for base, stop in level_ranges:
        if j == base:
            others = theta[base + 1 : stop]
            return (theta[j] + rate * l2 * others.sum()) / (1 + rate * l2 * len(others))
        if base < j < stop:
            return (theta[j] + rate * l2 * theta[base]) / (1 + rate * l2)
    soft = np.sign(theta[j]) * max(abs(theta[j]) - rate * l1, 0.0)
    return soft / (1 + rate * l2)
