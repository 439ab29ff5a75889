"""Small objectives with all derivatives, in plain numpy, and the loop that a full-batch optimizer is called by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import FullBatchOptimizer, State


@dataclass(frozen=True)
class Problem:
    """Rows with a column of ones last, a target, and one of the two losses."""

    X: np.ndarray
    y: np.ndarray
    logistic: bool

    @classmethod
    def drawn(cls, seed: int, rows: int = 300, columns: int = 6, logistic: bool = True, spread: float = 0.0) -> Problem:
        """Columns whose scales differ by up to ``10^spread``, weakly correlated."""
        rng = np.random.default_rng(seed)
        mixed = rng.normal(size=(rows, columns)) @ (np.eye(columns) + 0.3 * rng.normal(size=(columns, columns)))
        X = np.column_stack([mixed * 10.0 ** np.linspace(0.0, spread, columns), np.ones(rows)])
        raw = X @ (rng.normal(size=columns + 1) / np.sqrt((X**2).mean(axis=0)))
        y = (rng.random(rows) < expit(raw)).astype(float) if logistic else raw + rng.normal(size=rows)
        return cls(X, y, logistic)

    @property
    def start(self) -> np.ndarray:
        return np.zeros((self.X.shape[1], 1))

    @property
    def squares(self) -> np.ndarray:
        return np.asarray((self.X**2).mean(axis=0)[:, None])

    def evaluate(self, theta: np.ndarray, penalty: ElasticNet) -> Evaluation:
        rows, raw = len(self.y), self.X @ theta[:, 0]
        if self.logistic:
            loss, slope, curvature = np.logaddexp(0, raw) - self.y * raw, expit(raw) - self.y, expit(raw) * expit(-raw)
        else:
            loss, slope, curvature = 0.5 * (raw - self.y) ** 2, raw - self.y, np.ones(rows)
        gradient = (self.X.T @ slope / rows)[:, None] + penalty.smooth_gradient(theta)
        hessian = self.X.T @ (self.X * curvature[:, None]) / rows
        return Evaluation(loss.mean() + penalty.value(theta), loss.mean(), gradient, hessian)


def passes(
    optimizer: FullBatchOptimizer,
    problem: Problem,
    penalty: ElasticNet,
    number: int,
    done: Callable[[State], bool] = lambda _: False,
) -> list[State]:
    """The state after each pass, up to the one that is ``done``."""
    state, states = optimizer.init(problem.start, 1.0, problem.squares), []
    for _ in range(number):
        state = optimizer.update(state, problem.evaluate(state["trial"], penalty), penalty)
        states.append(state)
        if done(state):
            break
    return states
