"""A session: the rows of a task made ready, its state new or from a checkpoint, and the loop that trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from streamgd.data.block_encoder import BlockEncoder
from streamgd.data.encoder import RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.survey import Survey
from streamgd.inference import ClosingSums
from streamgd.training.batch_state import BatchState
from streamgd.training.holdout import Holdout, StreamedHoldout
from streamgd.training.progress import RunContext
from streamgd.training.task import Task
from streamgd.training.trainstate import TrainState
from streamgd.training.warm_start import model_to_start_from, what_is_carried


class Session(ABC):
    """One run of one task."""

    def __init__(self, task: Task, context: RunContext):
        self.task = task
        self.context = context
        self.survey: Survey
        self.state: TrainState | BatchState

    @abstractmethod
    def train(self) -> None:
        """Run the loop to its end."""

    @abstractmethod
    def carry_over(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint's state that was trained on other data, with the next epoch, and checkpoint that."""

    def begin(self, new: bool) -> None:
        """Now the rows are ready; the history of a ``new`` run begins with what that took."""
        lap = self.context.stopwatch.lap()
        if new:
            self.context.append_history(self.state, {"event": "prepare", **lap})
            if self.task.config.from_ is not None and self.state.steps == 0:
                self._tell_start(self.task.config.from_)

    def _tell_start(self, path: str) -> None:
        before = model_to_start_from(path, self.task.resolved)
        encoding, _ = self.result()
        text = f"starts from {path}: {what_is_carried(before.encoding, encoding)}"
        self.context.append_history(self.state, {"event": "start", "text": text, "theta_sha256": before.theta_sha256})
        self.context.display.message(text)

    def record(self, event: str, text: str) -> None:
        """Write something that happened to the history, and tell it."""
        self.context.event(self.state, event, text)

    @abstractmethod
    def result(self) -> tuple[Encoding, np.ndarray]:
        """Final encoding and theta ``(n_dof, n_outputs)``, in units of the standardised target."""

    @abstractmethod
    def closing(self) -> tuple[ClosingSums | None, str | None]:
        """What errors of the coefficients are made from, or None and why there is nothing."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What is worth knowing of the run, as plain values."""

    @abstractmethod
    def hint(self) -> str | None:
        """What the user should know of how far it came."""

    @abstractmethod
    def close(self, remove: bool = False) -> None:
        """Let go of the blocks; ``remove`` when no later start needs them, which deletes them unless they are kept."""


def tell_hashed(task: Task, encoding: Encoding, context: RunContext) -> None:
    for name in task.hashed_now(encoding):
        context.display.message(
            f"{name}: more than {task.config.max_levels:,} levels, hashed into {task.config.hash_buckets:,} buckets"
        )


def streamed_holdout(task: Task, encoding: Encoding, context: RunContext) -> Holdout | None:
    """Held out rows that are decoded anew each time, if there are any."""
    check, stopwatch = context.interrupt.check_repeated, context.stopwatch
    if task.validation is not None:
        encoder = BlockEncoder(encoding, task.layout, RowChoice(where=task.choice.where))
        return StreamedHoldout(task.validation, encoder, task.threads, False, check, stopwatch)
    if task.config.holdout > 0:
        encoder = BlockEncoder(encoding, task.layout, task.choice)
        return StreamedHoldout(task.manifest, encoder, task.threads, True, check, stopwatch)
    return None


def common_facts(
    task: Task, survey: Survey, epochs: int, steps: int, rows_seen: int, stopped_by: str | None
) -> dict[str, Any]:
    skipped = task.manifest.skipped + (task.validation.skipped if task.validation is not None else ())
    return {
        "key": task.key, "rows": task.manifest.n_rows, "train_rows": survey.train_rows,
        "holdout_rows": survey.holdout_rows,
        "dropped": survey.dropped,
        "skipped_files": sum(each.index is None for each in skipped),
        "skipped_row_groups": sum(each.index is not None for each in skipped),
        "skipped_rows": sum(each.rows for each in skipped),
        "nulls": survey.nulls, "columns": len(task.resolved.columns.feature_names), "loss": task.resolved.loss,
        "method": task.method, "optimizer": task.optimizer, "order": task.order, "l1": task.config.l1,
        "l2": task.config.l2, "seed": task.config.seed, "holdout": task.config.holdout, "sample": task.config.sample,
        "where": task.config.where,
        "epochs": epochs, "steps": steps, "rows_seen": rows_seen, "stopped_by": stopped_by,
    }  # fmt: skip


def scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def worse_than_constant(facts: dict[str, Any]) -> str | None:
    """A warning where the model is worse than the best constant on the rows it was trained on."""
    found, constant = facts["train_loss"], facts["base_loss"]
    if found is None or constant is None or found <= constant * (1.0 + 1e-9):
        return None
    rare = ". Where few rows are positive, a constant may be the best: try --class-weight balanced, or --loss logistic"
    return (
        f"the model is worse than the best constant: its loss on the training rows is {found:.7g}, that of the constant"
        f" {constant:.7g}{rare if facts['loss'] == 'hinge' else '. Take --method batch'}"
    )
