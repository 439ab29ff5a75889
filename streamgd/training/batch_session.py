"""Full batch: moments and levels of all rows, the state, and what a run tells of itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.data.store import remove_blocks
from streamgd.errors import RunMismatchError
from streamgd.inference import ClosingSums
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.plain import count_noun
from streamgd.training.batch import GRADIENT, BatchState, BatchTrainer
from streamgd.training.carry import carried_theta
from streamgd.training.certificate import MOST_HESSIAN_COLUMNS, Certificate, hessian_is_affordable
from streamgd.training.chunks import BlockWork, kept_bytes, survey_pass
from streamgd.training.holdout import reduced_holdout
from streamgd.training.progress import RunContext
from streamgd.training.reduce import Keep, Reduction, ThreadReduction
from streamgd.training.session import Session, common_facts, scaled, tell_hashed
from streamgd.training.setup import Task, first_theta
from streamgd.training.stepsize import column_squares, mean_row_norm


class BatchSession(Session):
    """Full-batch passes over the row groups."""

    def __init__(self, task: Task, context: RunContext, saved: dict[str, Any] | None):
        super().__init__(task, context)
        self._state: BatchState
        self._reduction = open_reduction(task, context)
        try:
            survey, vocabularies = survey_pass(task, self._reduction, context)
            encoding = task.encoding(survey, vocabularies)
            work = BlockWork(task.manifest, encoding, task.layout, task.choice)
            self.task = task = task.with_optimizer(encoding.n_dof).with_room_for_hessians(encoding, len(work.chunks))
            self._survey, self._vocabularies = survey, vocabularies
            self._blocks = self._reduction.open(work, task.threads, keeps_blocks=True)
            objective = task.objective(encoding)
            tell_hashed(task, encoding, context)
            holdout = reduced_holdout(task, encoding, self._reduction)
            self._trainer = BatchTrainer(task, self._blocks, objective, holdout, context)
            self._state = self._old_state(saved) if saved else self._new_state(encoding)
        except BaseException:
            self.close()
            raise

    def _old_state(self, saved: dict[str, Any]) -> BatchState:
        state = BatchState.from_state(saved)
        theta = np.array(state.optimizer["theta"])
        if set(state.optimizer) != set(self._first_optimizer_state(state.encoding, theta, 1.0)):
            raise RunMismatchError(
                f"the checkpoint is not one of {self.task.optimizer}, which this run would go on with. Start over with"
                f" --restart."
            )
        return state

    def _new_state(self, encoding: Encoding) -> BatchState:
        task, survey = self.task, self._survey
        mean = (float(survey.target_moments.mean[0]) - encoding.target_shift) / encoding.target_scale
        base = np.zeros((encoding.n_dof, 1))
        base[-1, 0] = float(task.loss.link(np.array([mean]))[0])
        if encoding.columns.offset is not None:
            base = self._trainer.best_constant(base)
        rate = self._learning_rate(encoding)
        theta = first_theta(task, encoding, float(base[-1, 0]))
        # Where theta starts at the best constant, the first pass tells its loss.
        base_loss = None if (theta == base).all() else self._trainer.total(base).mean_loss
        return BatchState(encoding, self._first_optimizer_state(encoding, theta, rate), rate, base_loss, task.key)

    def _learning_rate(self, encoding: Encoding) -> float:
        """The length of the first gradient step; optimizers that make their own steps have 1."""
        task, rate = self.task, self.task.config.learning_rate
        if task.config.optimizer == "auto" and rate == "auto":
            affordable = "is" if hessian_is_affordable(encoding.n_dof) else "would not be"
            self.context.display.message(
                f"optimizer: {task.optimizer}, since the Hessian of {encoding.n_dof:,} coefficients {affordable}"
                f" affordable (up to {MOST_HESSIAN_COLUMNS:,} are)"
            )
        if task.optimizer not in ("plain", "backtracking"):
            return 1.0
        if rate == "auto" and task.optimizer == "backtracking":
            # It finds its own steps; no pass is spent on the first.
            mean = mean_row_norm(self._survey.moments, encoding.scaling, len(encoding.categorical))
            rate = 1.0 / (mean * task.loss.max_curvature + task.config.l2)
        elif rate == "auto":
            rate = 1.0 / self._trainer.smoothness(encoding.n_dof)
        self.context.display.message(f"learning rate: {rate:.6g} ({task.optimizer})")
        return rate

    def _first_optimizer_state(self, encoding: Encoding, theta: np.ndarray, rate: float) -> dict[str, Any]:
        squares = column_squares(self._survey, encoding, self._vocabularies)
        return FULL_BATCH_OPTIMIZERS[self.task.optimizer].init(theta, rate, squares)

    def train(self) -> None:
        self._trainer.run(self._state)

    def carry_over(self, saved: dict[str, Any]) -> None:
        old, state = BatchState.from_state(saved), self._state
        theta = carried_theta(old.encoding, np.array(old.optimizer["theta"]), state.encoding)
        if state.base_loss is None:
            # The first pass will not be at the best constant, where the new state stands.
            state.base_loss = self._trainer.total(state.optimizer["theta"]).mean_loss
        state.optimizer = self._first_optimizer_state(state.encoding, theta, state.learning_rate)
        for name in ("asked_epochs", "epoch", "rows_seen", "history_bytes"):
            setattr(state, name, getattr(old, name))
        self.context.save(state.state())

    def result(self) -> tuple[Encoding, np.ndarray]:
        return self._state.encoding, np.array(self._state.result(self.task.config.patience))

    def closing(self) -> tuple[ClosingSums | None, str | None]:
        n_dof, refused = self._state.encoding.n_dof, self.task.config.no_errors
        if refused is None and not hessian_is_affordable(n_dof):
            refused = f"they are told of up to {MOST_HESSIAN_COLUMNS:,} coefficients, these are {n_dof:,}"
        if refused is not None:
            return None, refused
        sums = self._trainer.closing_sums(self._state)
        if sums is None:
            return None, "--max-time was over before the pass that they come from; the same command goes on"
        return (sums, None) if sums.is_finite else (None, "the sums over all rows are beyond float64")

    def facts(self) -> dict[str, Any]:
        state, unit = self._state, self._state.encoding.target_scale**2
        facts = common_facts(self.task, self._survey, state.epoch, state.epoch, state.rows_seen, state.stopped_by)
        certificate = state.certificate or {}
        closing: dict[str, float | None] = {"mean_loss": None, "value": None}
        if self._trainer.is_evaluated(state):
            closing = {"mean_loss": state.mean_loss, "value": state.optimizer["value"]}
        closing |= state.closing or {}
        facts |= {
            "progressive_loss": None, "holdout_loss": scaled(state.best["loss"] if state.best else None, unit),
            "base_loss": scaled(state.base_loss, unit), "train_loss": scaled(closing["mean_loss"], unit),
            "objective": scaled(closing["value"], unit), "learning_rate": state.optimizer["alpha"],
            "gradient": certificate.get("gradient"), "certificate": state.certificate, "rollbacks": 0,
            "warnings": list((state.warnings or {}).values()),
        }  # fmt: skip
        return facts

    def hint(self) -> str | None:
        if self._state.stopped_by == "max_time" and not np.any(self._state.optimizer["theta"][:-1]):
            return "--max-time was over before the first step: the model predicts the same for all rows"
        if self._state.stopped_by != "epochs" or self._state.certificate is None:
            return None
        certificate = Certificate.from_json(self._state.certificate)
        if certificate.gradient <= (self.task.config.tol_gradient or GRADIENT):
            return None
        base_loss = (self._state.base_loss or 0.0) * self._state.encoding.target_scale**2
        return (
            f"not converged after {count_noun(self._state.epoch, 'pass')}: {certificate.text(base_loss)}."
            f" Raise --epochs, or take --method minibatch"
        )

    def close(self, remove: bool = False) -> None:  # noqa: ARG002
        # The blocks of full batch are made anew by the first pass after a start.
        self._reduction.close()


def open_reduction(task: Task, context: RunContext) -> Reduction:
    """Who works on the chunks: the workers that are asked for, else threads."""
    remove_blocks(task.blocks_dir)  # of a start that was killed
    if task.config.on_workers:
        from streamgd.training.cluster import ClusterReduction  # takes long, and the extra may not be installed

        return ClusterReduction(task, context)
    keep = Keep(task.blocks_dir, kept_bytes(task.config.blocks_max, task.blocks_dir), partly=False)
    return ThreadReduction(keep, context.interrupt.check_repeated, context.stopwatch)
