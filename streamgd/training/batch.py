"""Full-batch gradient descent: each pass gives the objective and its gradient over all rows.

chunk: row group ── blocks ── chunk_sums ── folded over all chunks ── optimizer ── next theta
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding
from streamgd.data.source import RowGroup
from streamgd.errors import DivergenceError, StreamgdError
from streamgd.objective.objective import ChunkSums, Objective
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.state import no_other_content
from streamgd.training.chunks import BlockSource
from streamgd.training.holdout import Holdout
from streamgd.training.progress import RunContext
from streamgd.training.reduce import tree_reduce
from streamgd.training.rundir import is_final
from streamgd.training.setup import Task
from streamgd.training.stepsize import largest_eigenvalue, second_moments
from streamgd.training.trainstate import check_types

#: Passes that the best constant under an offset may take.
BEST_CONSTANT_PASSES = 12


@dataclass
class BatchState:
    """Where a full-batch run stands: passes done, and the state of the optimizer. The checkpoint holds exactly this.

    ``closing`` has J and mean loss at the result, where the optimizer does not know them. ``base_loss``, of the best
    constant, is None until a pass has told it.
    """

    encoding: Encoding
    optimizer: dict[str, Any]
    learning_rate: float
    base_loss: float | None
    key: str
    asked_epochs: int = 0
    closing: dict[str, float] | None = None
    epoch: int = 0
    rows_seen: int = 0
    mean_loss: float | None = None
    history_bytes: int = 0
    stopped_by: str | None = None
    best: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        return self.epoch

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
            if any(np.shape(restored.optimizer[name]) != (restored.encoding.n_dof, 1) for name in ("theta", "trial")):
                raise ValueError("theta does not suit its encoding")
        return restored


class BatchTrainer:
    """Passes over all rows until the gradient is small, or the last pass."""

    def __init__(
        self, task: Task, source: BlockSource, objective: Objective, holdout: Holdout | None, context: RunContext
    ):
        self._task = task
        self._source = source
        self._objective = objective
        self._holdout = holdout
        self._context = context
        self._optimizer = FULL_BATCH_OPTIMIZERS[task.optimizer]

    def total(self, theta: np.ndarray) -> ChunkSums:
        """Sums over all training rows at ``theta``."""
        return self._sum(theta, lambda block, shared: self._objective.chunk_sums(shared, block))

    def _sum(self, common: np.ndarray, sums_of_block: Callable[[Block, np.ndarray], ChunkSums]) -> ChunkSums:
        def sums_of(shared: np.ndarray, row_group: RowGroup) -> ChunkSums:
            self._context.interrupt.check_repeated()
            total = ChunkSums.zero(len(shared))
            for block in self._source.blocks(row_group):
                with self._context.stopwatch.timed("compute"):
                    total = total + sums_of_block(block, shared)
            return total

        return tree_reduce(sums_of, common, self._task.manifest.row_groups, ChunkSums.__add__, self._task.threads)

    def smoothness(self, n_dof: int) -> float:
        """A bound on the curvature of J, from a few passes over all rows."""

        def product(vector: np.ndarray) -> np.ndarray:
            total = self._sum(vector, second_moments)
            return np.asarray(total.gradient / total.weight)

        loss, penalty = self._objective.loss, self._objective.penalty
        return largest_eigenvalue(product, n_dof) * loss.max_curvature + penalty.l2

    def best_constant(self, start: np.ndarray) -> np.ndarray:
        """The theta (n_dof, 1) of the best constant under an offset: secant steps from ``start``, one pass each."""
        theta, slope = start.copy(), 0.0
        step = None
        for _ in range(BEST_CONSTANT_PASSES):
            total = self.total(theta)
            before, slope = slope, float(total.gradient[-1, 0]) / total.weight
            if abs(slope) < 1e-12:
                break
            curvature = self._objective.loss.max_curvature if step is None else (slope - before) / step
            step = -slope / curvature if curvature > 0.0 else -slope
            theta[-1, 0] += step
        return theta

    def run(self, state: BatchState) -> None:
        """Pass after pass; ``state.stopped_by`` says what ended it.

        Raises
        ------
        DivergenceError
            J grew beyond all bounds: the fixed step is too large.
        """
        if is_final(state.stopped_by) and self._task.epochs <= state.asked_epochs:
            return
        state.stopped_by, state.asked_epochs, state.closing = None, self._task.epochs, None
        while state.epoch < self._task.epochs and state.stopped_by is None:
            try:
                total = self.total(state.optimizer["trial"])
            except StreamgdError:
                # The pass is repeated after a resume; what came before it is kept.
                with suppress(StreamgdError):  # the first error is the one to tell
                    self._context.save(state.state())
                raise
            self._step(state, total)
        if state.stopped_by is None:
            state.stopped_by = "epochs"
        if not self._optimizer.evaluates_result:
            theta = state.optimizer["theta"]
            evaluation = self._objective.evaluate(theta, self.total(theta))
            state.closing = {"value": evaluation.value, "mean_loss": evaluation.mean_loss}
        self._context.save(state.state())
        now, scale = {**state.optimizer, **(state.closing or {})}, state.encoding.target_scale
        self._context.display.message(
            f"J is {now['value'] * scale**2:.9g} after {state.epoch} passes, the best constant has"
            f" {(state.base_loss or 0.0) * scale**2:.9g}; the largest |grad J| is {now['residual'] * scale:.3g},"
            f" asked for {self._task.config.tol_gradient:.3g}"
        )

    def _step(self, state: BatchState, total: ChunkSums) -> None:
        config, unit = self._task.config, state.encoding.target_scale**2
        evaluation = self._objective.evaluate(state.optimizer["trial"], total)
        before, previous = replace(state), state.optimizer
        if not np.isfinite(evaluation.value) and previous["value"] is None:
            raise DivergenceError("the objective is not finite at the first theta. Look at the offset and at --init.")
        if state.base_loss is None:
            state.base_loss = evaluation.mean_loss
        if self._task.optimizer == "plain" and not evaluation.value < 1e12 * max(1.0, state.base_loss):
            raise DivergenceError(
                f"J grew to {evaluation.value * unit:.3g} after {state.epoch} passes: a step of"
                f" {state.learning_rate:.3g} is too large. Choose a smaller --learning-rate, or --optimizer"
                f" backtracking."
            )
        state.optimizer = self._optimizer.update(previous, evaluation, self._objective.penalty)
        accepted = state.optimizer["theta"] is not previous["theta"]
        if accepted:
            state.mean_loss = evaluation.mean_loss
        state.epoch += 1
        state.rows_seen += total.rows
        residual = state.optimizer["residual"] * state.encoding.target_scale
        holdout = None
        if self._holdout is not None and accepted:
            try:
                holdout = self._holdout.mean_loss(self._objective, state.encoding, state.optimizer["theta"])
            except StreamgdError:
                with suppress(StreamgdError):  # the first error is the one to tell
                    self._context.save(before.state())
                raise
            if state.best is None or (holdout is not None and holdout < state.best["loss"]):
                state.best = {"epoch": state.epoch, "loss": holdout, "theta": state.optimizer["theta"]}
        lap = self._context.stopwatch.lap()
        line = {
            "event": "pass", "epoch": state.epoch, "steps": state.epoch, "rows": total.rows,
            "rows_seen": state.rows_seen, "objective": evaluation.value * unit,
            "train_loss": evaluation.mean_loss * unit,
            "holdout_loss": None if holdout is None else holdout * unit, "accepted": accepted, "gradient": residual,
            "learning_rate": state.optimizer["alpha"], **lap,
        }  # fmt: skip
        self._context.append_history(state, line)
        rows = self._task.manifest.n_rows
        name = f"pass {state.epoch}" if accepted else f"pass {state.epoch} (step too long, halved)"
        self._context.display.progress(name, rows, rows, evaluation.value * unit, lap["bottleneck"])
        if residual <= config.tol_gradient:
            state.stopped_by = "tol_gradient"
        elif accepted and previous["value"] is not None:
            state.stopped_by = self._small_change(state, previous)
        elif not accepted and (state.optimizer["trial"] == state.optimizer["theta"]).all():
            state.stopped_by = "precision"
        if config.patience and state.best and state.epoch - state.best["epoch"] >= config.patience:
            state.stopped_by = "patience"
        if self._context.interrupt.time_is_over and state.stopped_by is None:
            state.stopped_by = "max_time"
        self._context.after_step(state.state)

    @staticmethod
    def _moved(state: BatchState, previous: dict[str, Any]) -> float:
        """Largest change of a coefficient, in units of the target."""
        return float(np.abs(state.optimizer["theta"] - previous["theta"]).max()) * state.encoding.target_scale

    def _small_change(self, state: BatchState, previous: dict[str, Any]) -> str | None:
        config, now = self._task.config, state.optimizer
        if config.tol_loss > 0 and previous["value"] - now["value"] < config.tol_loss * abs(previous["value"]):
            return "tol_loss"
        if config.tol_theta > 0 and self._moved(state, previous) <= config.tol_theta:
            return "tol_theta"
        return None
