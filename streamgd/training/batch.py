"""Full batch: each pass gives the objective, its gradient and, for some optimizers, its Hessian over all rows.

chunk: row group ── blocks ── chunk_sums ── folded over all chunks ── optimizer ── next theta
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.errors import DivergenceError, StreamgdError
from streamgd.inference import ClosingSums, expected_sums
from streamgd.objective.band import most_rows
from streamgd.objective.losses import LOSSES, KinkedLoss, LogLinkLoss
from streamgd.objective.objective import ChunkSums, Evaluation, Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.plain import count_noun
from streamgd.training.batch_state import BatchState
from streamgd.training.certificate import Certificate, hessian_is_affordable
from streamgd.training.chunks import SumsOfBlock
from streamgd.training.holdout import Holdout
from streamgd.training.kink_constant import constant_by_kinks
from streamgd.training.progress import RunContext
from streamgd.training.reduce import Pass
from streamgd.training.rundir import is_final
from streamgd.training.sample_start import EVERY, optimum_of_sample
from streamgd.training.stepsize import constant_by_sums, largest_eigenvalue, second_moments
from streamgd.training.task import Task
from streamgd.training.unidentified import (
    collinear_columns,
    levels_lacking_a_class,
    one_class_levels,
    shares_by_class,
    shares_of_classes,
)

UNSCALED = "--scale none leaves columns as large as they are: leave it out. "
#: Where no tolerance is given: the largest component of the gradient …
GRADIENT = 1e-6
#: … and, with a Hessian, the distance to the optimum as a part of the loss of the best constant.
EXCESS_OF_BASE = 1e-15
#: The same where it is bounded by the rows of a band.
EXCESS_OF_BASE_BY_BAND = 1e-12


class BatchTrainer:
    """Passes over all rows until the gradient is small, or the last pass."""

    def __init__(self, task: Task, blocks: Pass, objective: Objective, holdout: Holdout | None, context: RunContext):
        self._task = task
        self._blocks = blocks
        self._objective = objective
        self._holdout = holdout
        self._context = context
        self._optimizer = FULL_BATCH_OPTIMIZERS[task.optimizer]
        #: Theta and sums of the last pass.
        self._latest: tuple[np.ndarray, ChunkSums] | None = None

    @property
    def penalty(self) -> ElasticNet:
        return self._objective.penalty

    def under(self, penalty: ElasticNet) -> BatchTrainer:
        """A trainer under another penalty that looks at no held out rows; it knows the last pass of this one."""
        objective = replace(self._objective, penalty=penalty)
        trainer = BatchTrainer(self._task, self._blocks, objective, None, self._context)
        trainer._latest = self._latest
        return trainer

    def total(self, theta: np.ndarray, hessian: bool = False, meat: bool = False) -> ChunkSums:
        """Sums over all training rows at ``theta``."""
        self._latest = None
        total: ChunkSums = self._blocks((partial(self._objective.chunk_sums, hessian=hessian, meat=meat), theta))
        self._latest = theta, total
        return total

    def begin_at(self, state: BatchState, theta: np.ndarray, squares: np.ndarray) -> Evaluation:
        """Let ``state`` begin anew at ``theta`` (n_dof, n_outputs), which counts as evaluated.

        Where that was the last pass, it is not repeated. ``squares`` is what ``FullBatchOptimizer.init`` takes.
        """
        at, total = self._latest or (theta, None)
        if total is None or not (at == theta).all():
            total = self._total_or_saved(state, lambda: self.total(theta, self._optimizer.needs_hessian))
        evaluation = self._objective.evaluate(theta, total)
        beginning = self._optimizer.init(theta, state.optimizer["alpha"], squares)
        state.optimizer = self._optimizer.update(beginning, evaluation, self._objective.penalty)
        state.mean_loss = evaluation.mean_loss
        self._check_divergence(state, evaluation)
        if state.path is not None:
            reason = self._stopped_by(state, beginning, accepted=True)
            state.path["reason"] = None if reason == "max_time" else reason
        return evaluation

    @property
    def rows_of_last_pass(self) -> int:
        return 0 if self._latest is None else self._latest[1].rows

    def begin_on_sample(self, state: BatchState, base_loss: float) -> None:
        """Have ``state``, of Newton's method at the best constant, begin with a trial at the optimum of a sample."""

        def evaluate(theta: np.ndarray) -> Evaluation:
            sums = partial(self._objective.chunk_sums, hessian=True)
            return self._objective.evaluate(theta, self._blocks((sums, theta), every=EVERY))

        there = optimum_of_sample(evaluate, state.optimizer["theta"], base_loss, self._objective.penalty)
        state.optimizer = {**state.optimizer, "trial": there}
        state.base_loss = base_loss

    def smoothness(self, n_dof: int, curvature: float) -> float:
        """A bound on the curvature of J, from a few passes over all rows, by that of the loss."""

        def product(vector: np.ndarray) -> np.ndarray:
            total = self._blocks((second_moments, vector))
            return np.asarray(total.gradient / total.weight)

        return largest_eigenvalue(product, n_dof) * curvature + self._objective.penalty.l2

    def best_constant(self, known: float | None, encoding: Encoding) -> float:
        """The best constant where the mean target does not tell it; ``known`` is that without offsets."""

        def total(sums: SumsOfBlock, constant: float) -> ChunkSums:
            theta = np.zeros((encoding.n_dof, 1))
            theta[-1, 0] = constant
            return self._blocks((sums, theta))  # type: ignore[no-any-return]

        loss = self._objective.loss
        if isinstance(loss, KinkedLoss):
            return constant_by_kinks(loss, lambda sums: total(sums, 0.0))
        return constant_by_sums(loss, known, encoding.columns.has_offset, total)

    def run(self, state: BatchState) -> None:
        """Pass after pass; ``state.stopped_by`` says what ended it.

        Raises
        ------
        DivergenceError
            J grew beyond all bounds: the fixed step is too large.
        """
        if self.is_done(state):
            return
        if self._task.optimizer == "band" and state.warnings is None:
            self._look_at_moments(state)
        while state.epoch < self._task.epochs and state.stopped_by is None:
            self.step(state)
        if state.stopped_by is None:
            state.stopped_by = "epochs"
        self.finish(state)

    def is_done(self, state: BatchState) -> bool:
        """Whether there is nothing to do; else what ended the run before is forgotten."""
        if not is_final(state.stopped_by) or self._task.epochs > state.asked_epochs:
            state.stopped_by, state.asked_epochs = None, self._task.epochs
            state.closing, state.certificate = None, None
        return state.certificate is not None

    def step(self, state: BatchState) -> None:
        """A pass at the optimizer's trial, and the step that follows from it."""
        self._step(state, self._next_total(state))

    def finish(self, state: BatchState, certifies: bool = True) -> None:
        """Make the certificate of a state that has come to its end, save it, and tell."""
        certificate = self._certify(state) if certifies else None
        state.certificate = None if certificate is None else certificate.to_json()
        self._context.save(state.state())
        unit = state.encoding.target_scale**2
        # With --max-time there may be no other theta than the best constant, whose loss is J.
        value = {**state.optimizer, **(state.closing or {})}["value"] or state.base_loss or 0.0
        base_loss = (state.base_loss or 0.0) * unit
        self._context.display.message(
            f"J is {value * unit:.9g} after {count_noun(state.passes, 'pass')}, the best constant has {base_loss:.9g}"
        )
        if certificate is not None:
            self._context.display.message(f"certificate: {certificate.text(base_loss)}")

    def closing_sums(self, state: BatchState) -> ClosingSums | None:
        """What errors of the coefficients are made from, at the result of a run that has come to its end.

        The last pass tells it, or one more, where it was at another theta or robust errors are asked for; a log link
        needs one in any case. None where there is no time for that.
        """
        theta, robust = state.result(self._task.config.patience), self._task.config.errors == "robust"
        at, total = self._latest or (theta, None)
        loss = self._objective.loss
        told = total is not None and total.hessian is not None and not robust and bool((at == theta).all())
        if state.stopped_by == "max_time" and (not told or isinstance(loss, LogLinkLoss)):
            return None
        if total is None or not told:
            total = self.total(theta, hessian=True, meat=robust)
        assert total.hessian is not None
        assert state.base_loss is not None
        base_loss = state.base_loss * total.weight
        sums = ClosingSums(total.hessian, total.meat, total.gradient, float(total.weight), total.loss, base_loss)
        if not isinstance(loss, LogLinkLoss):
            return sums
        more: ChunkSums = self._blocks((partial(expected_sums, loss), theta))
        exposure, actual = more.gradient[:, :1], more.gradient[:, 1:]
        return replace(sums, pearson=float(more.loss), expected=more.hessian, exposure=exposure, actual=actual)

    def _next_total(self, state: BatchState) -> ChunkSums:
        """The pass at the next trial, with what the optimizer needs of it."""
        optimizer, objective = state.optimizer, self._objective
        trial, hessian = optimizer["trial"], self._optimizer.needs_hessian
        if self._task.optimizer != "band":
            return self._total_or_saved(state, lambda: self.total(trial, hessian))
        width, radius, most = optimizer["width"], optimizer["radius"], most_rows(len(trial))
        keeps = width == 0.0 and (bool(np.isfinite(radius)) or self._task.manifest.n_rows <= most)
        sums = partial(objective.sums_with_band, width=width, radius=radius, most=most, keeps=keeps)
        return self._total_or_saved(state, lambda: self._blocks((sums, trial)))

    def _total_or_saved(self, state: BatchState, run: Callable[[], ChunkSums]) -> ChunkSums:
        """A pass; the state is saved where it fails, so that only the pass is repeated."""
        try:
            return run()
        except StreamgdError:
            with suppress(StreamgdError):  # the first error is the one to tell
                self._context.save(state.state())
            raise

    def is_evaluated(self, state: BatchState) -> bool:
        """Whether the optimizer knows J at the result: with patience it may be the theta of an earlier pass."""
        at_result = state.result(self._task.config.patience) == state.optimizer["theta"]
        known = self._optimizer.evaluates_result and state.optimizer["value"] is not None
        known = known and not state.optimizer.get("width")  # of a smooth form, it is not J
        return known and bool(at_result.all())

    def _certify(self, state: BatchState) -> Certificate | None:
        """How far the result is from the optimum: by what the last pass told, or by one more, if there is time."""
        theta, optimizer = state.result(self._task.config.patience), state.optimizer
        scale, penalty = state.encoding.target_scale, self._objective.penalty
        told, affordable = self.is_evaluated(state), hessian_is_affordable(theta.size)
        if told and self._task.optimizer == "band":
            excess = optimizer["excess"]
            return None if excess is None else Certificate(None, excess * scale**2, "band", None)
        if told and self._optimizer.needs_hessian:
            return Certificate(optimizer["residual"] * scale, optimizer["excess"] * scale**2, "newton", None)
        if told and not affordable:
            assert state.mean_loss is not None
            evaluation = Evaluation(optimizer["value"], state.mean_loss, optimizer["gradient"])
            return Certificate.of(theta, evaluation, penalty, scale, optimizer["excess"])
        if state.stopped_by == "max_time":
            return None
        if self._task.optimizer == "band":
            affordable = False
        total = self._total_or_saved(state, lambda: self.total(theta, affordable))
        evaluation = self._objective.evaluate(theta, total)
        state.closing = {"value": evaluation.value, "mean_loss": evaluation.mean_loss}
        if self._task.optimizer == "band":
            return None
        self.look_at_columns(state, theta, evaluation)
        return Certificate.of(theta, evaluation, penalty, scale, optimizer["excess"] if told else None)

    def look_at_constant(self, state: BatchState, base: np.ndarray, shares: np.ndarray) -> None:
        """Give ``state`` the loss of the best constant, where its first pass will be at another theta; tell of levels.

        Parameters
        ----------
        base, shares : float64, (n_dof, n_outputs) and (n_dof, 1)
            Theta of the best constant, and the share of the weight that each level has; not known of hashed ones.
        """
        evaluation = self._objective.evaluate(base, self.total(base))
        state.base_loss = evaluation.mean_loss
        weight, loss, class_weights = shares[:, 0].copy(), self._objective.loss, state.encoding.class_weights
        if class_weights is not None and loss.has_many_outputs:
            weight = shares_of_classes(weight, evaluation.gradient, loss.inverse_link(base[-1:])[0], class_weights)
        elif class_weights is not None:
            prediction = float(loss.inverse_link(base[-1])[0])
            weight = shares_by_class(weight, evaluation.gradient[:, 0], prediction, class_weights)
        for column in (each for each in state.encoding.categorical if each.hashed):
            weight[column.first_row : column.first_row + column.n_rows] = 0.0
        for sparse in state.encoding.sparse:
            weight[sparse.rows] = 0.0
        self._look_at_levels(state, base, evaluation, weight)

    def look_at_columns(self, state: BatchState, theta: np.ndarray, evaluation: Evaluation) -> None:
        """Tell, by the first Hessian, of coefficients that the data do not decide."""
        if evaluation.hessian is None or (state.warnings is not None and state.passes > 0):
            return
        n_dof, n_outputs = theta.shape
        # Of several outputs, each has the same columns: their matrices are added up.
        of_columns = np.einsum("jkik->ji", evaluation.hessian.reshape(n_dof, n_outputs, n_dof, n_outputs))
        self._warn(state, "collinear", collinear_columns(state.encoding, np.ascontiguousarray(of_columns)))
        if state.passes == 0 and not theta[:-1].any() and self._objective.loss.has_probability:
            # The curvature is the same for all rows, so the diagonal tells the weight of each level.
            raw = theta[-1:] if n_outputs > 1 else theta[-1]
            curvature = float(self._objective.loss.curvature(np.zeros(1), raw).sum())
            self._look_at_levels(state, theta, evaluation, np.diag(of_columns) / curvature)

    def _look_at_moments(self, state: BatchState) -> None:
        """Tell of coefficients that the data do not decide, by a pass over the second moments of all columns."""
        squared = Objective(LOSSES["squared"], self._objective.penalty)
        total = self._total_or_saved(
            state, lambda: self._blocks((partial(squared.chunk_sums, hessian=True), state.optimizer["theta"]))
        )
        assert total.hessian is not None
        self._warn(state, "collinear", collinear_columns(state.encoding, np.asarray(total.hessian / total.weight)))

    def _look_at_levels(
        self, state: BatchState, constant: np.ndarray, evaluation: Evaluation, weight: np.ndarray
    ) -> None:
        """Tell of levels of one class only, from a pass at a constant; under an offset it does not show them."""
        loss, encoding = self._objective.loss, state.encoding
        if loss.has_many_outputs:
            lacking = levels_lacking_a_class(encoding, loss.inverse_link(constant[-1:])[0], evaluation.gradient, weight)
            self._warn(state, "separated", lacking)
        elif loss.has_probability and not encoding.columns.has_offset:
            found = one_class_levels(encoding, loss, float(constant[-1, 0]), evaluation.gradient[:, 0], weight)
            self._warn(state, "separated", found)

    def _warn(self, state: BatchState, kind: str, text: str) -> None:
        state.warnings = {**(state.warnings or {}), **({kind: text} if text else {})}
        if text:
            self._context.event(state, kind, text)

    def _step(self, state: BatchState, total: ChunkSums) -> None:
        unit = _unit(state)
        evaluation = self._objective.evaluate(state.optimizer["trial"], total)
        before, previous = replace(state), state.optimizer
        if self._task.optimizer != "band":
            self.look_at_columns(state, previous["trial"], evaluation)
        if state.base_loss is None:
            state.base_loss = evaluation.mean_loss
        if self._begins_worse(state, evaluation):
            state.optimizer = {**previous, "trial": previous["theta"].copy()}
        else:
            state.optimizer = self._optimizer.update(previous, evaluation, self._objective.penalty)
            self._check_divergence(state, evaluation)
        accepted = state.optimizer["theta"] is not previous["theta"]
        if accepted:
            state.mean_loss = state.optimizer.get("mean_loss", evaluation.mean_loss)
        state.epoch += 1
        state.rows_seen += total.rows
        holdout = self._holdout_loss(state, before) if self._holdout is not None and accepted else None
        lap = self._context.stopwatch.lap()
        gradient, excess = state.optimizer["residual"], state.optimizer["excess"]
        line = {
            "event": "pass", "epoch": state.epoch, "steps": state.steps, "rows": total.rows,
            "rows_seen": state.rows_seen, "objective": evaluation.value * unit,
            "train_loss": evaluation.mean_loss * unit,
            "holdout_loss": None if holdout is None else holdout * unit, "accepted": accepted,
            "gradient": None if gradient is None else gradient * state.encoding.target_scale,
            "excess": None if excess is None else excess * unit, "learning_rate": state.optimizer["alpha"], **lap,
        }  # fmt: skip
        self._context.append_history(state, line)
        rows = self._task.manifest.n_rows
        name = f"pass {state.passes}" if accepted else f"pass {state.passes} (step too long, halved)"
        self._context.display.progress(name, rows, rows, evaluation.value * unit, lap["bottleneck"])
        reason = self._stopped_by(state, previous, accepted)
        if state.path is None:
            state.stopped_by = reason
        else:
            state.path["reason"] = reason
        self._context.after_step(state.state)

    @staticmethod
    def _begins_worse(state: BatchState, evaluation: Evaluation) -> bool:
        """Whether the first pass was at a theta found otherwise, where J over all rows is above the best constant's."""
        first = state.optimizer["value"] is None and bool((state.optimizer["trial"] != state.optimizer["theta"]).any())
        return first and not evaluation.value <= (state.base_loss or 0.0)

    def _check_divergence(self, state: BatchState, evaluation: Evaluation) -> None:
        if state.optimizer["value"] is None or not np.isfinite(state.optimizer["value"]):
            unscaled = self._task.config.scale == "none"
            raise DivergenceError(
                f"the objective is not finite at the first theta. {UNSCALED if unscaled else ''}Look at the offset and"
                f" at --init."
            )
        if self._task.optimizer == "plain" and not evaluation.value < 1e12 * max(1.0, state.base_loss or 0.0):
            raise DivergenceError(
                f"J grew to {evaluation.value * _unit(state):.3g} after {count_noun(state.passes, 'pass')}: a step of"
                f" {state.learning_rate:.3g} is too large. Choose a smaller --learning-rate, or --optimizer"
                f" backtracking."
            )

    def _holdout_loss(self, state: BatchState, before: BatchState) -> float | None:
        """Holdout loss of the theta just accepted; ``before`` is saved where it cannot be had."""
        assert self._holdout is not None
        try:
            loss = self._holdout.mean_loss(self._objective, state.encoding, state.optimizer["theta"])
        except StreamgdError:
            with suppress(StreamgdError):  # the first error is the one to tell
                self._context.save(before.state())
            raise
        state.holdout_loss = loss
        if state.best is None or (loss is not None and loss < state.best["loss"]):
            state.best = {"epoch": state.epoch, "loss": loss, "theta": state.optimizer["theta"]}
        return loss

    def _stopped_by(self, state: BatchState, previous: dict[str, Any], accepted: bool) -> str | None:
        """What ends the run after this pass, if anything does."""
        config, now = self._task.config, state.optimizer
        tol_gradient, tol_excess = self._tolerances(state)
        reason = None
        if now["value"] is None:  # the first trial was no better than a constant
            pass
        elif "mean_loss" in now:
            reason = "exact"
        elif now["residual"] is not None and now["residual"] * state.encoding.target_scale <= tol_gradient:
            reason = "tol_gradient"
        elif now["excess"] is not None and now["excess"] * _unit(state) <= tol_excess:
            reason = "tol_excess"
        elif accepted and previous["value"] is not None:
            reason = self._small_change(state, previous)
        elif not accepted and (now["trial"] == now["theta"]).all():
            reason = "precision"
        if config.patience and state.best and state.epoch - state.best["epoch"] >= config.patience:
            return "patience"
        return "max_time" if self._context.interrupt.time_is_over and reason is None else reason

    def _tolerances(self, state: BatchState) -> tuple[float, float]:
        """What the gradient and the distance to the optimum must come down to, in units of the original target.

        What is given alone counts. Else Newton's method goes on until nothing but rounding is left, since that takes a
        pass or two more; others until the gradient is small.
        """
        gradient, excess = self._task.config.tol_gradient, self._task.config.tol_excess
        if gradient is None and excess is None:
            if self._task.optimizer == "band":
                return 0.0, EXCESS_OF_BASE_BY_BAND * (state.base_loss or 0.0) * _unit(state)
            if self._optimizer.needs_hessian:
                return 0.0, EXCESS_OF_BASE * (state.base_loss or 0.0) * _unit(state)
            return GRADIENT, 0.0
        return gradient or 0.0, excess or 0.0

    @staticmethod
    def _moved(state: BatchState, previous: dict[str, Any]) -> float:
        """Largest change of a coefficient, in units of the target."""
        return float(np.abs(state.optimizer["theta"] - previous["theta"]).max()) * state.encoding.target_scale

    def _small_change(self, state: BatchState, previous: dict[str, Any]) -> str | None:
        config, now = self._task.config, state.optimizer
        if now.get("width") or previous.get("width"):
            return None  # the objectives are not the same
        if config.tol_loss > 0 and previous["value"] - now["value"] < config.tol_loss * abs(previous["value"]):
            return "tol_loss"
        if config.tol_theta > 0 and self._moved(state, previous) <= config.tol_theta:
            return "tol_theta"
        return None


def _unit(state: BatchState) -> float:
    """What J of the standardised target is to be multiplied with for the original one."""
    return state.encoding.target_scale**2
