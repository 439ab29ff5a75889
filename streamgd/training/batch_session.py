"""Full batch: moments and levels of all rows, the state, and what a run tells of itself."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.data.store import remove_blocks
from streamgd.data.survey import Survey
from streamgd.errors import NoInputError, RunMismatchError
from streamgd.inference import ClosingSums
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.plain import count_noun
from streamgd.training.batch import GRADIENT, BatchTrainer
from streamgd.training.batch_state import BatchState
from streamgd.training.carry import carried_theta
from streamgd.training.certificate import MOST_HESSIAN_COLUMNS, Certificate, hessian_is_affordable
from streamgd.training.chunks import BlockWork, survey_pass
from streamgd.training.holdout import reduced_holdout
from streamgd.training.kept import Keep, kept_bytes
from streamgd.training.path import NO_HOLDOUT, PathTrainer
from streamgd.training.path_points import hint_of_path
from streamgd.training.progress import RunContext
from streamgd.training.reduce import Reduction, ThreadReduction
from streamgd.training.reexpressed import ReexpressedPass
from streamgd.training.sample_start import sample_is_worth_it
from streamgd.training.session import Session, common_facts, scaled, tell_hashed
from streamgd.training.stepsize import column_squares, mean_row_norm, usual_curvature
from streamgd.training.task import Task, first_theta

#: Why a run that ``--max-time`` ended has no errors of coefficients yet.
NO_TIME_FOR_ERRORS = "--max-time was over before the pass that they come from; the same command goes on"


class BatchSession(Session):
    """Full-batch passes, by a trainer that knows the rows.

    Parameters
    ----------
    squares : float64, (n_dof, 1)
        Mean square of each column, see ``FullBatchOptimizer.init``.
    reduction : Reduction or None
        What is to be closed at the end.
    path : PathTrainer or None
        What trains in place of ``trainer``, where there is a path of penalties.
    """

    def __init__(
        self, task: Task, context: RunContext, survey: Survey, trainer: BatchTrainer, state: BatchState,
        squares: np.ndarray, reduction: Reduction | None = None, path: PathTrainer | None = None,
    ):  # fmt: skip
        super().__init__(task, context)
        self.state: BatchState = state
        self.survey = survey
        self._trainer = trainer
        self._squares = squares
        self._reduction = reduction
        self._path = path

    @classmethod
    def over_row_groups(cls, task: Task, context: RunContext, saved: dict[str, Any] | None) -> Self:
        """Over the row groups of the data, on threads or workers: moments and levels first."""
        reduction = open_reduction(task, context)
        try:
            survey, vocabularies, sparse = survey_pass(task, reduction, context)
            encoding = task.encoding(survey, vocabularies, sparse=sparse)
            provisional = encoding.scaling.provisional()
            work = BlockWork(task.manifest, encoding.with_scaling(provisional), task.layout, task.choice)
            task = task.with_optimizer(encoding.n_coefficients).with_room_for_hessians(encoding, len(work.chunks))
            blocks = ReexpressedPass(
                reduction.open(work, task.threads, keeps_blocks=True), provisional, encoding.scaling
            )
            tell_hashed(task, encoding, context)
            holdout, objective = reduced_holdout(task, encoding, reduction), task.objective(encoding)
            trainer = BatchTrainer(task, blocks, objective, holdout, context)
            squares = column_squares(survey, encoding, vocabularies)
            path = None
            if task.config.path is not None:
                assert holdout is not None
                if task.validation is None and survey.holdout_rows == 0:
                    raise NoInputError(NO_HOLDOUT)
                path = PathTrainer(task, trainer, objective, holdout, squares, context)
            if saved:
                state = state_of(saved, task.optimizer, squares)
            else:
                state = _new_state(task, context, survey, encoding, trainer, squares)
                exact = task.loss.is_quadratic or path is not None
                if state.base_loss is None and task.optimizer == "newton" and not exact:
                    _begin_on_sample(task, survey, state, trainer, len(work.chunks))
            return cls(task, context, survey, trainer, state, squares, reduction, path)
        except BaseException:
            reduction.close()
            raise

    def train(self) -> None:
        if self._path is not None:
            self._trainer = self._path.run(self.state)
        else:
            self._trainer.run(self.state)

    def carry_over(self, saved: dict[str, Any]) -> None:
        old, state = BatchState.from_state(saved), self.state
        if old.path is not None:
            raise RunMismatchError(
                "a path of penalties is that of the data it began with, and they changed. Start over with --restart."
            )
        theta = carried_theta(old.encoding, np.array(old.optimizer["theta"]), state.encoding)
        if state.base_loss is None:
            # The first pass will not be at the best constant, where the new state stands.
            state.base_loss = self._trainer.total(state.optimizer["theta"]).mean_loss
        optimizer = FULL_BATCH_OPTIMIZERS[self.task.optimizer]
        state.optimizer = optimizer.init(theta, state.learning_rate, self._squares)
        for name in ("asked_epochs", "epoch", "rows_seen", "history_bytes"):
            setattr(state, name, getattr(old, name))
        self.context.save(state.state())

    def result(self) -> tuple[Encoding, np.ndarray]:
        theta = self._trainer.penalty.centred(self.state.result(self.task.config.patience))
        return self.state.encoding, np.array(theta)

    def closing(self) -> tuple[ClosingSums | None, str | None]:
        n_dof, refused = self.state.encoding.n_coefficients, self.task.config.no_errors
        if refused is None and not hessian_is_affordable(n_dof):
            refused = f"they are told of up to {MOST_HESSIAN_COLUMNS:,} coefficients, these are {n_dof:,}"
        if refused is not None:
            return None, refused
        sums = self._trainer.closing_sums(self.state)
        if sums is None:
            return None, NO_TIME_FOR_ERRORS
        return (sums, None) if sums.is_finite else (None, "the sums over all rows are beyond float64")

    def facts(self) -> dict[str, Any]:
        state, unit = self.state, self.state.encoding.target_scale**2
        facts = common_facts(self.task, self.survey, state.epoch, state.steps, state.rows_seen, state.stopped_by)
        certificate = state.certificate or {}
        closing: dict[str, float | None] = {"mean_loss": None, "value": None}
        if self._trainer.is_evaluated(state):
            closing = {"mean_loss": state.mean_loss, "value": state.optimizer["value"]}
        closing |= state.closing or {}
        # That of the result.
        is_chosen = state.best is not None and state.is_chosen(self.task.config.patience)
        holdout_loss = state.best["loss"] if state.best and is_chosen else state.holdout_loss
        facts |= {
            "progressive_loss": None, "holdout_loss": scaled(holdout_loss, unit),
            "base_loss": scaled(state.base_loss, unit), "train_loss": scaled(closing["mean_loss"], unit),
            "objective": scaled(closing["value"], unit), "learning_rate": state.optimizer["alpha"],
            "gradient": certificate.get("gradient"), "certificate": state.certificate, "rollbacks": state.rollbacks,
            "warnings": list((state.warnings or {}).values()),
        }  # fmt: skip
        if state.path is not None:
            penalty = self._trainer.penalty
            facts |= {"l1": penalty.l1 * state.encoding.target_scale, "l2": penalty.l2}
            facts["path"] = {"chosen": state.path["chosen"], "points": state.path["points"]}
        return facts

    def hint(self) -> str | None:
        if self.state.path is not None:
            return hint_of_path(self.state.path)
        if self.state.stopped_by == "max_time" and not np.any(self.state.optimizer["theta"][:-1]):
            return "--max-time was over before the first step: the model predicts the same for all rows"
        if self.task.optimizer == "band" and self.state.certificate is None and self.state.stopped_by != "max_time":
            constant = "" if np.any(self.state.optimizer["theta"][:-1]) else "; the result is the best constant"
            by_epochs = self.state.stopped_by == "epochs"
            more = "Raise --epochs" if by_epochs else "Too many rows lie at their kink: more epochs do not help"
            passes = count_noun(self.state.passes, "pass")
            return f"not converged after {passes}: how far J is from its optimum is not known{constant}. {more}"
        if self.state.stopped_by != "epochs" or self.state.certificate is None:
            return None
        certificate = Certificate.from_json(self.state.certificate)
        if certificate.gradient is not None and certificate.gradient <= (self.task.config.tol_gradient or GRADIENT):
            return None
        base_loss = (self.state.base_loss or 0.0) * self.state.encoding.target_scale**2
        more = "Take --method batch with more --epochs" if self.task.method == "auto" else "Raise --epochs"
        return (
            f"not converged after {count_noun(self.state.passes, 'pass')}: {certificate.text(base_loss)}. {more}, or"
            f" take --method minibatch"
        )

    def close(self, remove: bool = False) -> None:  # noqa: ARG002
        # The blocks of full batch are made anew by the first pass after a start.
        if self._reduction is not None:
            self._reduction.close()


def open_reduction(task: Task, context: RunContext) -> Reduction:
    """Who works on the chunks: the workers that are asked for, else threads."""
    remove_blocks(task.blocks_dir)  # of a start that was killed
    if task.config.on_workers:
        from streamgd.training.cluster import ClusterReduction  # takes long, and the extra may not be installed

        return ClusterReduction(task, context)
    keep = Keep(task.blocks_dir, kept_bytes(task.config.blocks_max, task.blocks_dir), partly=False)
    return ThreadReduction(keep, context.interrupt.check_repeated, context.stopwatch)


def state_of(saved: dict[str, Any], optimizer: str, squares: np.ndarray) -> BatchState:
    """The state of a checkpoint.

    Raises
    ------
    RunMismatchError
        It is that of another optimizer.
    """
    state = BatchState.from_state(saved)
    if set(state.optimizer) != set(FULL_BATCH_OPTIMIZERS[optimizer].init(state.optimizer["theta"], 1.0, squares)):
        raise RunMismatchError(
            f"the checkpoint is not one of {optimizer}, which this run would go on with. Start over with --restart."
        )
    return state


def best_constant_theta(task: Task, survey: Survey, encoding: Encoding, trainer: BatchTrainer) -> np.ndarray:
    """The theta (n_dof, n_outputs) that predicts the best constant."""
    base = np.zeros((encoding.n_dof, encoding.n_outputs))
    if task.loss.has_many_outputs:
        base[-1] = task.loss.link(task.class_shares(survey, encoding))
        return base
    known = task.loss_of(encoding).best_constant(task.target_mean(survey, encoding))
    told = known is not None and not encoding.columns.has_offset
    base[-1, 0] = known if told else trainer.best_constant(known, encoding)
    return base


def _new_state(
    task: Task, context: RunContext, survey: Survey, encoding: Encoding, trainer: BatchTrainer, squares: np.ndarray
) -> BatchState:
    base = best_constant_theta(task, survey, encoding, trainer)
    rate = _learning_rate(task, context, survey, encoding, trainer)
    theta = first_theta(task, encoding, base[-1])
    # Where theta starts at the best constant, the first pass tells its loss.
    base_loss = None if (theta == base).all() else trainer.total(base).mean_loss
    optimizer = FULL_BATCH_OPTIMIZERS[task.optimizer].init(theta, rate, squares)
    return BatchState(encoding, optimizer, rate, base_loss, task.key)


def _begin_on_sample(task: Task, survey: Survey, state: BatchState, trainer: BatchTrainer, n_chunks: int) -> None:
    """The first steps of a run that begins at the best constant; its loss must be known without a pass."""
    encoding = state.encoding
    if not encoding.columns.has_offset and sample_is_worth_it(survey, encoding, n_chunks):
        intercepts = state.optimizer["theta"][-1]
        constant = intercepts if task.loss.has_many_outputs else float(intercepts[0])
        base_loss = task.mean_loss_of_constant(survey, encoding, constant)
        if base_loss is not None:
            trainer.begin_on_sample(state, base_loss)


def _learning_rate(task: Task, context: RunContext, survey: Survey, encoding: Encoding, trainer: BatchTrainer) -> float:
    """The length of the first gradient step; optimizers that make their own steps have 1."""
    rate = task.config.learning_rate
    if task.config.optimizer == "auto" and rate == "auto":
        affordable = "is" if hessian_is_affordable(encoding.n_coefficients) else "would not be"
        why = (
            f"the {task.loss.name} loss has no curvature: rows near their kink are solved exactly"
            if task.optimizer == "band"
            else f"the Hessian of {encoding.n_coefficients:,} coefficients {affordable} affordable (up to"
            f" {MOST_HESSIAN_COLUMNS:,} are)"
        )
        context.display.message(f"optimizer: {task.optimizer}, since {why}")
    if task.optimizer not in ("plain", "backtracking"):
        return 1.0
    curvature = usual_curvature(task.loss_of(encoding), task.target_mean(survey, encoding))
    if rate == "auto" and task.optimizer == "backtracking":
        # It finds its own steps; no pass is spent on the first.
        mean = mean_row_norm(survey.moments, encoding.scaling, len(encoding.categorical))
        rate = 1.0 / (mean * curvature + task.config.l2)
    elif rate == "auto":
        rate = 1.0 / trainer.smoothness(encoding.n_dof, curvature)
    context.display.message(f"learning rate: {rate:.6g} ({task.optimizer})")
    return rate
