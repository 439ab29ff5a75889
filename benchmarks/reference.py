"""What a model is measured by: the way it closed from the best constant prediction to a reference.

    way closed = (base - loss) / (base - optimum)

Losses are mean log losses, without penalty, over all rows of the reference. The optimum is found here by Newton's
method in plain numpy, with nothing of any of the systems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from benchmarks.systems.base import DataFiles, Float64Array, matrix

BATCH_ROWS = 32_768
NEWTON_STEPS = 25


@dataclass(frozen=True)
class Reference:
    """Losses over `files` of the best constant and of what is best; `kind` says what that is."""

    kind: str
    base_loss: float
    optimum_loss: float
    files: DataFiles

    def way_closed(self, raw_prediction: Callable[[pa.RecordBatch], Float64Array]) -> float:
        """1 at the optimum, 0 at the best constant, negative beyond."""
        total, rows = 0.0, 0
        for batch in self.files.batches(BATCH_ROWS):
            y = batch.column(self.files.target).to_numpy().astype(np.float64)
            total += mean_loss(raw_prediction(batch), y) * len(y)
            rows += len(y)
        if rows != self.files.rows:
            raise FileNotFoundError(f"{self.files.folder} has {rows:,} rows, expected {self.files.rows:,}; delete it")
        return (self.base_loss - total / self.files.rows) / (self.base_loss - self.optimum_loss)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "base_loss": self.base_loss, "optimum_loss": self.optimum_loss,
            "files": self.files.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "files": DataFiles.from_json(values["files"])})


def mean_loss(raw: Float64Array, y: Float64Array) -> float:
    """Mean log loss of logits.

    >>> round(mean_loss(np.zeros(2), np.array([0.0, 1.0])), 6)
    0.693147
    """
    return float(np.mean(np.logaddexp(0.0, raw) - y * raw))


def optimum(files: DataFiles) -> Reference:
    """Newton's method over all rows, from zero; each iteration decodes them anew, in constant memory."""
    n_dof = len(files.numeric) + 1
    theta, base = np.zeros(n_dof), 0.0
    for step in range(NEWTON_STEPS):
        loss, positive, gradient, hessian = 0.0, 0.0, np.zeros(n_dof), np.zeros((n_dof, n_dof))
        for batch in files.batches(BATCH_ROWS):
            y = batch.column(files.target).to_numpy().astype(np.float64)
            X = np.column_stack([matrix(batch, files.numeric), np.ones(len(y))])
            raw = X @ theta
            probability = 1.0 / (1.0 + np.exp(-raw))
            loss += mean_loss(raw, y) * len(y)
            positive += y.sum()
            gradient += X.T @ (probability - y)
            hessian += X.T @ (X * (probability * (1.0 - probability))[:, None])
        direction = np.linalg.solve(hessian, gradient)
        if step == 0:
            p = positive / files.rows
            base = float(-p * np.log(p) - (1.0 - p) * np.log(1.0 - p))
        # Half the decrement is what the step will still gain.
        if gradient @ direction / files.rows < 1e-13:
            return Reference("the optimum over the same rows", base, loss / files.rows, files)
        theta -= direction
    raise ArithmeticError(f"{files.folder}: Newton's method did not converge in {NEWTON_STEPS} steps")
