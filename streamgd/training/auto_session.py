"""``--method auto``: an epoch of mini-batches comes near the optimum, passes over the same blocks reach it.

    blocks ── one epoch: averaged theta ── best constant: its loss ── passes until the certificate holds

The checkpoint holds the state of the part that is under way; its kind says which one that is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.errors import RunMismatchError, StreamgdError
from streamgd.inference import ClosingSums
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.training.batch import BatchTrainer
from streamgd.training.batch_session import NO_TIME_FOR_ERRORS, BatchSession, best_constant_theta, state_of
from streamgd.training.batch_state import BatchState, is_of_passes
from streamgd.training.carry import carried_theta
from streamgd.training.progress import RunContext
from streamgd.training.session import Session
from streamgd.training.stochastic_session import StochasticSession
from streamgd.training.task import DEFAULT_PASSES, Task


class AutoSession(Session):
    """An epoch of mini-batches, then full batch; mini-batches alone where there turn out to be many coefficients."""

    def __init__(self, task: Task, context: RunContext, saved: dict[str, Any] | None):
        in_passes = is_of_passes(saved)
        self._rows = StochasticSession(task, context, None if in_passes else saved, trains=not in_passes)
        super().__init__(self._rows.task, context)
        self._passes: BatchSession | None = None
        if saved is None or not in_passes:
            self.state = self._rows.state
            return
        try:
            self._check_method()
            self._open_passes(state_of(saved, "newton", self._rows.squares))
        except BaseException:
            with suppress(StreamgdError):  # the first error is the one to tell
                self.close(remove=True)
            raise

    def _check_method(self) -> None:
        if self.task.method != "auto":
            raise RunMismatchError(
                f"the run has made full-batch passes, and now {self.task.why_minibatch}. Start over with --restart."
            )

    def _open_passes(self, state: BatchState) -> None:
        """Full batch from ``state`` on; a new one is told of the best constant first."""
        rows, encoding = self._rows, state.encoding
        task = rows.with_room_for_passes(encoding)
        task = replace(task, optimizer="newton", averaging=False, epochs=self.task.epochs + DEFAULT_PASSES)
        blocks = rows.passes(task.threads)
        trainer = BatchTrainer(task, blocks, task.objective(encoding), rows.holdout(), self.context)
        if state.base_loss is None:
            base = best_constant_theta(task, rows.survey, encoding, trainer)
            # The mean square of a level's column is its share of the weight.
            trainer.look_at_constant(state, base, rows.squares)
            # The first trial is at the theta of the mini-batches: few steps may leave one that is worse.
            state.optimizer = {**state.optimizer, "theta": base}
        self._passes = BatchSession(task, self.context, rows.survey, trainer, state, rows.squares)
        self.state = state

    def _from(self, encoding: Encoding, theta: np.ndarray, **counts: Any) -> BatchState:
        """The state before the first pass, at ``theta`` (n_dof, n_outputs)."""
        optimizer = FULL_BATCH_OPTIMIZERS["newton"].init(theta, 1.0, self._rows.squares)
        return BatchState(encoding, optimizer, 1.0, None, self.task.key, **counts)

    def train(self) -> None:
        if self.task.method != "auto":
            self._rows.train()
            return
        if self._passes is None:
            if self._train_epoch():
                return
            self._begin_passes()
        assert self._passes is not None
        self._passes.train()

    def _train_epoch(self) -> bool:
        """The epoch of mini-batches, or what is left of it; whether ``--max-time`` ends the run with it."""
        self._rows.train_epochs()
        state = self._rows.state
        # A start that did nothing so far makes a pass: else a short time would never get past this.
        interrupt = self.context.interrupt
        ends = state.stopped_by == "max_time" or (interrupt.time_is_over and interrupt.progressed)
        state.stopped_by = "max_time" if ends else None
        self.context.begin_save(state.state())
        return ends

    def _begin_passes(self) -> None:
        before, (encoding, theta) = self._rows.state, self._rows.result()
        state = self._from(
            encoding, theta, asked_epochs=before.asked_epochs, epoch=before.epoch, epochs_before=before.epoch,
            steps_before=before.steps, rows_seen=before.rows_seen, rollbacks=before.rollbacks,
            history_bytes=before.history_bytes,
        )  # fmt: skip
        self._open_passes(state)
        self.context.begin_save(state.state())

    def carry_over(self, saved: dict[str, Any]) -> None:
        if not is_of_passes(saved):
            self._rows.carry_over(saved)
            return
        self._check_method()
        old, encoding = BatchState.from_state(saved), self._rows.result()[0]
        theta = carried_theta(old.encoding, np.array(old.optimizer["theta"]), encoding)
        names = ("asked_epochs", "epoch", "epochs_before", "steps_before", "rollbacks", "rows_seen", "history_bytes")
        state = self._from(encoding, theta, **{name: getattr(old, name) for name in names})
        self._open_passes(state)
        self.context.save(state.state())

    def result(self) -> tuple[Encoding, np.ndarray]:
        return self._part.result()

    def closing(self) -> tuple[ClosingSums | None, str | None]:
        if self.task.method == "auto" and self._passes is None:
            return None, NO_TIME_FOR_ERRORS
        return self._part.closing()

    def facts(self) -> dict[str, Any]:
        return self._part.facts()

    def hint(self) -> str | None:
        if self.state.stopped_by == "max_time" and self._passes is None and self._rows.state.epoch:
            return "--max-time was over before the passes to the optimum: the model has seen one epoch"
        return self._part.hint()

    def close(self, remove: bool = False) -> None:
        self._rows.close(remove)

    @property
    def _part(self) -> Session:
        """The one that is under way, or came to its end."""
        return self._passes or self._rows
