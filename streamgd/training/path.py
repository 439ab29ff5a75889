"""A path of penalties in full batch: the optimum under each, from the largest down, each from the one before.

    best constant ── its gradient tells the first penalty ── passes to the optimum ── point of the path ── next penalty
                                                                                          │
                                             least holdout loss ── result ◄── holdout loss of some points at once

A penalty of strength ``s``, lambda in glmnet and alpha in scikit-learn, is ``l1 = s * ratio`` and ``l2 = s * (1 -
ratio)``, to which ``--l2`` is added. The first is the smallest that leaves nothing but the intercept: the largest
component of the gradient at the best constant, divided by the ratio (Friedman, Hastie, Tibshirani (2010),
"Regularization Paths for Generalized Linear Models via Coordinate Descent", section 2.5).
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from streamgd.errors import ConfigError, NoInputError, StreamgdError
from streamgd.objective.objective import Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.training.batch import BatchTrainer
from streamgd.training.batch_state import BatchState
from streamgd.training.certificate import hessian_is_affordable
from streamgd.training.holdout import ReducedHoldout
from streamgd.training.path_points import new_path
from streamgd.training.progress import RunContext
from streamgd.training.task import Task

#: With less l1 than this the first penalty is the one of this ratio: no ridge penalty leaves the intercept alone.
SMALLEST_RATIO = 1e-3
#: Held out rows are decoded for so many points at once; for one where a Hessian is not made, since thetas are large.
POINTS_AT_ONCE = 10
NO_HOLDOUT = "--path: no row is held out to choose by. Look at --holdout, --validation and --where."


class PathTrainer:
    """Follows a path.

    Parameters
    ----------
    trainer : BatchTrainer
        Knows the rows.
    objective : Objective
        In the units of the encoding.
    squares : float64, (n_dof, 1)
        See ``FullBatchOptimizer.init``.
    """

    def __init__(
        self, task: Task, trainer: BatchTrainer, objective: Objective, holdout: ReducedHoldout, squares: np.ndarray,
        context: RunContext,
    ):  # fmt: skip
        self._task = task
        self._trainer = trainer
        self._objective = objective
        self._holdout = holdout
        self._squares = squares
        self._context = context

    def run(self, state: BatchState) -> BatchTrainer:
        """Solve what is left of the path; ``state.stopped_by`` says what ended it.

        Returns
        -------
        BatchTrainer
            That of the penalty whose theta is the result.
        """
        if self._trainer.is_done(state):
            return self._under(state, self._result_point(state))
        if state.path is None:
            self._begin(state)
        assert state.path is not None
        state.path["reason"] = None if state.path["reason"] == "max_time" else state.path["reason"]
        while True:
            if self._holdout_is_due(state):
                self._look_at_holdout(state)
            if len(state.path["points"]) == len(state.path["strengths"]) or state.stopped_by is not None:
                break
            self._solve(state)
            if self._time_is_over(state):
                state.stopped_by = "max_time"
        return self._end(state)

    def _under(self, state: BatchState, point: int) -> BatchTrainer:
        assert state.path is not None
        strength, before, ratio = (
            float(state.path["strengths"][point]),
            self._trainer.penalty,
            self._task.config.l1_ratio,
        )
        l1, l2 = strength * ratio / state.encoding.target_scale, strength * (1.0 - ratio) + self._task.config.l2
        self._trainer = self._trainer.under(ElasticNet(l1, l2, before.non_negative))
        return self._trainer

    def _begin(self, state: BatchState) -> None:
        """The pass at the best constant, where ``state`` stands, and the penalties that follow from it."""
        config, before, theta = self._task.config, self._trainer.penalty, state.optimizer["theta"]
        trainer = self._trainer.under(ElasticNet(0.0, config.l2, before.non_negative))
        evaluation = trainer.begin_at(state, theta, self._squares)
        trainer.look_at_columns(state, theta, evaluation)
        steepest = np.abs(trainer.penalty.subgradient(theta, evaluation.gradient)[:-1]).max(initial=0.0)
        largest = float(steepest) * state.encoding.target_scale / max(config.l1_ratio, SMALLEST_RATIO)
        if not largest > 0.0:
            raise ConfigError("--path: at the best constant J changes with no coefficient: there is no path to follow.")
        assert config.path is not None
        state.path = new_path(largest * np.geomspace(1.0, config.path_to, config.path), theta.shape)
        state.base_loss = evaluation.mean_loss
        state.epoch, state.rows_seen = state.epoch + 1, state.rows_seen + trainer.rows_of_last_pass
        self._trainer = trainer

    def _solve(self, state: BatchState) -> None:
        """Passes to the optimum under the next penalty, which becomes a point of the path."""
        path, optimizer = state.path, state.optimizer
        assert path is not None
        number = len(path["points"])
        trainer = self._under(state, number)
        if not path["begun"]:
            path["epoch_before"] = state.epoch - (number == 0)  # the pass at the best constant is one of the first
            trainer.begin_at(state, optimizer["theta"], self._squares)
            path["begun"] = True
        while path["reason"] is None and state.epoch - path["epoch_before"] < self._task.epochs:
            trainer.step(state)
        if path["reason"] == "max_time":
            path["reason"], state.stopped_by = None, "max_time"
            return
        self._record(state, trainer)
        self._context.after_step(state.state)

    def _record(self, state: BatchState, trainer: BatchTrainer) -> None:
        path, now, scale, ratio = state.path, state.optimizer, state.encoding.target_scale, self._task.config.l1_ratio
        assert path is not None
        number, theta = len(path["points"]), now["theta"]
        assert state.mean_loss is not None
        strength = float(path["strengths"][number])
        point = {
            "lambda": strength, "l1": strength * ratio, "l2": trainer.penalty.l2,
            "objective": now["value"] * scale**2, "train_loss": state.mean_loss * scale**2, "holdout_loss": None,
            "nonzero": int((theta[:-1] != 0.0).sum()), "passes": state.epoch - path["epoch_before"],
            "gradient": now["residual"] * scale, "stopped_by": path["reason"] or "epochs",
        }  # fmt: skip
        self._context.append_history(state, {"event": "penalty", "epoch": state.epoch, "steps": state.steps, **point})
        self._context.display.message(
            f"penalty {number + 1}/{len(path['strengths'])}: lambda {strength:.6g}, J {point['objective']:.9g},"
            f" {point['nonzero']:,} of {theta[:-1].size:,} coefficients, passes: {point['passes']}"
        )
        path |= {
            "points": [*path["points"], point], "pending": np.concatenate([path["pending"], theta[None]]),
            "begun": False, "reason": None,
        }  # fmt: skip

    def _time_is_over(self, state: BatchState) -> bool:
        """Whether ``--max-time`` ends the run with something left to do; a start solves one penalty at least."""
        assert state.path is not None
        left = len(state.path["points"]) < len(state.path["strengths"]) or len(state.path["pending"]) > 0
        interrupt = self._context.interrupt
        return left and interrupt.time_is_over and interrupt.progressed

    def _holdout_is_due(self, state: BatchState) -> bool:
        assert state.path is not None
        pending, complete = len(state.path["pending"]), len(state.path["points"]) == len(state.path["strengths"])
        at_once = POINTS_AT_ONCE if hessian_is_affordable(state.encoding.n_coefficients) else 1
        return state.stopped_by is None and (pending >= at_once or (complete and pending > 0))

    def _look_at_holdout(self, state: BatchState) -> None:
        """The holdout losses of the points that lack them."""
        path, unit = state.path, state.encoding.target_scale**2
        assert path is not None
        points, pending = [dict(point) for point in path["points"]], path["pending"]
        try:
            losses = self._holdout.mean_losses(self._objective, pending)
        except StreamgdError:
            with suppress(StreamgdError):  # the first error is the one to tell
                self._context.save(state.state())
            raise
        if losses is None:
            raise NoInputError(NO_HOLDOUT)
        for number, loss, theta in zip(range(len(points) - len(pending), len(points)), losses, pending, strict=True):
            points[number]["holdout_loss"] = loss * unit
            if state.best is None or loss < state.best["loss"]:
                state.best = {"epoch": state.epoch, "loss": loss, "theta": theta.copy()}
                path["chosen"] = number
        state.holdout_loss = losses[-1]
        path |= {"points": points, "pending": pending[:0]}

    @staticmethod
    def _result_point(state: BatchState) -> int:
        """The point whose theta is the result; without a holdout loss so far the one under way, or the last."""
        assert state.path is not None
        chosen: int | None = state.path["chosen"]
        under_way = len(state.path["points"]) - (not state.path["begun"])
        return under_way if chosen is None else chosen

    def _end(self, state: BatchState) -> BatchTrainer:
        """Stand at the result, with its certificate: that is one more pass, where the result is not the last point."""
        path = state.path
        assert path is not None
        trainer = self._under(state, self._result_point(state))
        if state.stopped_by is None:
            assert state.best is not None
            state.stopped_by = "path"
            if not (state.optimizer["theta"] == state.best["theta"]).all():
                trainer.begin_at(state, state.best["theta"], self._squares)
            path["reason"] = None
        elif path["chosen"] is not None:
            point, unit = path["points"][path["chosen"]], state.encoding.target_scale**2
            state.closing = {"value": point["objective"] / unit, "mean_loss": point["train_loss"] / unit}
        # A point that was chosen before --max-time ended the next one has no time for a certificate.
        trainer.finish(state, certifies=state.stopped_by != "max_time" or path["chosen"] is None)
        return trainer
