"""Where a full-batch run stands, as its checkpoint has it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.state import no_other_content
from streamgd.training.certificate import Certificate
from streamgd.training.path_points import check_path
from streamgd.training.trainstate import check_entries, check_types


@dataclass
class BatchState:
    """Where a full-batch run stands: passes done, and the state of the optimizer. The checkpoint holds exactly this.

    ``epoch`` counts passes and, after mini-batches, the ``epochs_before`` with ``steps_before`` updates and
    ``rollbacks``.
    ``closing`` has J and mean loss at the result, where the optimizer does not know them; ``certificate`` how far it
    is from the optimum, None until the run has come to its end. ``base_loss``, of the best constant, is None until a
    pass has told it; ``warnings``, by kind, until a Hessian has shown the columns. ``path`` is where a path of
    penalties stands: see ``training.path``.
    """

    encoding: Encoding
    optimizer: dict[str, Any]
    learning_rate: float
    base_loss: float | None
    key: str
    asked_epochs: int = 0
    closing: dict[str, float] | None = None
    certificate: dict[str, Any] | None = None
    warnings: dict[str, Any] | None = None
    epoch: int = 0
    epochs_before: int = 0
    steps_before: int = 0
    rollbacks: int = 0
    rows_seen: int = 0
    mean_loss: float | None = None
    history_bytes: int = 0
    stopped_by: str | None = None
    holdout_loss: float | None = None
    best: dict[str, Any] | None = None
    path: dict[str, Any] | None = None

    @property
    def passes(self) -> int:
        return self.epoch - self.epochs_before

    @property
    def steps(self) -> int:
        return self.steps_before + self.passes

    def result(self, patience: int) -> np.ndarray:
        """The theta to predict with: with patience, or of a path, that of the least holdout loss."""
        theta: np.ndarray = self.best["theta"] if self.is_chosen(patience) and self.best else self.optimizer["theta"]
        return theta

    def is_chosen(self, patience: int) -> bool:
        """Whether the holdout loss chooses the result."""
        return patience > 0 or self.path is not None

    def state(self) -> dict[str, Any]:
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        state["encoding"] = self.encoding.state()
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        with no_other_content("the checkpoint", "state to go on from"):
            restored = cls(**{**state, "encoding": Encoding.from_state(state["encoding"])})
            check_types(restored)
            restored.encoding.check()
            number = float | None
            check_entries(
                restored.optimizer, theta=np.ndarray, trial=np.ndarray, alpha=float, value=number, residual=number
            )
            if restored.closing is not None:
                check_entries(restored.closing, value=float, mean_loss=float)
            if restored.certificate is not None:
                Certificate.from_json(restored.certificate)
            if restored.path is not None:
                check_path(restored.path, (restored.encoding.n_dof, restored.encoding.n_outputs))
            _check_parts(restored.optimizer, restored.encoding.n_dof, restored.encoding.n_outputs)
        return restored


def is_of_passes(saved: dict[str, Any] | None) -> bool:
    """Whether a checkpoint's state is that of full batch, rather than one of mini-batches or single rows."""
    return saved is not None and "optimizer" in saved


def _check_parts(optimizer: dict[str, Any], n_dof: int, n_outputs: int) -> None:
    """Raise ValueError where a part of an optimizer's state is no number, and no array of the shape of theta."""
    for name, found in optimizer.items():
        if not isinstance(found, np.ndarray):
            if not isinstance(found, float | None):
                raise ValueError(f"{name} is of type {type(found).__name__}")
            continue
        right = found.ndim == 2 and (
            found.shape[1] == n_dof * n_outputs if name in ("steps", "changes") else found.shape == (n_dof, n_outputs)
        )
        if not right or found.dtype != np.float64:
            raise ValueError(f"{name} has shape {found.shape}, for {n_dof} coefficients")
