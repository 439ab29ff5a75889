"""The stochastic loops: mini-batches or single rows, portion after portion, epoch after epoch.

    portion ── scaler learns it, theta follows ── predict, compare, gradient, update ── watched ── checkpoint

The state moves only between portions; whatever stops the run, it stops there.
"""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Moments
from streamgd.data.survey import Survey
from streamgd.errors import DataError, DivergenceError, StreamgdError
from streamgd.kernels import entries, multinomial
from streamgd.kernels import stochastic as kernels
from streamgd.kernels.coordinates import most_touched
from streamgd.kernels.row_by_row import rows_loop
from streamgd.objective.objective import Objective, raw_prediction
from streamgd.optim.schedules import learning_rates
from streamgd.optim.stochastic import OPTIMIZERS
from streamgd.training import monitor
from streamgd.training.holdout import Holdout
from streamgd.training.memory import give_back_freed_memory
from streamgd.training.portions import Portion, PortionSource, StreamedWindows
from streamgd.training.progress import RunContext
from streamgd.training.rundir import is_final
from streamgd.training.task import WIDEST_PROVISIONAL, Task
from streamgd.training.trainstate import TrainState

_CONSTANT = "the best constant has"


class StochasticTrainer:
    """Trains a state through epochs of portions.

    Parameters
    ----------
    train_rows : int
        Training rows of an epoch (an upper bound where it is not known), for progress and schedules.
    moments : Moments
        Of the numeric columns as far as they are known before the start, to say what is extreme.
    """

    def __init__(
        self,
        task: Task,
        source: PortionSource,
        objective: Objective,
        holdout: Holdout | None,
        train_rows: int,
        moments: Moments,
        context: RunContext,
    ):
        self._task = task
        self._source = source
        self._objective = objective
        self._holdout = holdout
        self._train_rows = train_rows
        self._moments = moments
        self._context = context
        self._optimizer = OPTIMIZERS[task.optimizer]
        self._settings = np.array(self._optimizer.settings)
        self._batch_size = 1 if task.method == "sgd" else task.config.batch_size
        self._unit = 1.0
        #: The theta that this epoch began with, where that may be worse than the best constant.
        self._begun: np.ndarray | None = None

    def run(self, state: TrainState) -> bool:
        """Train until the last epoch or until something stops it; ``state.stopped_by`` says what.

        Returns
        -------
        bool
            Whether there was something to do. Then the last checkpoint is still to be written.
        """
        self._unit = state.encoding.target_scale**2
        self._level_ranges = state.encoding.level_ranges()
        self._bounded = np.array(self._objective.penalty.non_negative, np.int64)
        self._place, self._touched = np.zeros(state.encoding.n_dof, np.int32), np.zeros(0, np.int32)
        if is_final(state.stopped_by) and self._task.epochs <= state.asked_epochs:
            return False
        give_back_freed_memory()
        state.stopped_by, state.asked_epochs = None, self._task.epochs
        if state.snapshot is None:
            state.take_snapshot()
        while state.epoch < self._task.epochs and state.stopped_by is None:
            trouble = self._epoch(state)
            if trouble:
                self._go_back(state, trouble, whole_epoch=False)
                continue
            trouble = "" if state.stopped_by else self._judge_epoch(state)
            if trouble:
                self._go_back(state, trouble, whole_epoch=True)
            elif state.stopped_by is None:
                self._end_epoch(state)
        if state.stopped_by is None:
            state.stopped_by = "epochs"
        return True

    def _epoch(self, state: TrainState) -> str:
        """Train on the rest of an epoch; returns what went wrong, or an empty text."""
        self._begun = state.theta_before_epoch() if self._may_begin_badly(state) else None
        self._tell(state)
        for portion in self._source.portions(state.epoch, state.position):
            trouble = self._portion(state, portion)
            if trouble:
                return trouble
            judged = self._task.order == "full" or state.rows_of_epoch >= monitor.FEWEST_ROWS
            if judged and self._is_small(state) and state.position % monitor.SNAPSHOT_BLOCKS == 0:
                state.take_snapshot()
            self._context.after_step(state.state)
            self._tell(state)
            if self._context.interrupt.time_is_over:
                state.stopped_by = "max_time"
                return ""
        return ""

    @staticmethod
    def _is_small(state: TrainState) -> bool:
        return state.coordinates.nbytes <= monitor.LARGEST_SNAPSHOT_BYTES

    def _judge_epoch(self, state: TrainState) -> str:
        """What is wrong with the epoch as a whole, or an empty text."""
        if state.rollbacks >= monitor.MAX_ROLLBACKS:
            return ""
        if self._task.order != "full":
            # Windows are judged when they come, but for those of an epoch that is too short.
            rows = state.rows_of_epoch
            return self._bad_rows(state, state.sums, rows, _CONSTANT) if 0 < rows < monitor.FEWEST_ROWS else ""
        before = state.epoch_losses[-1]["progressive"] if state.epoch_losses else None
        constant = math.inf if self._begun is not None else state.sums[3]
        return monitor.bad_epoch(np.array([*state.sums[:3], constant]), before, self._unit)

    def _judge_block(
        self, state: TrainState, block: Block, watched: monitor.Watched, finite: bool, sums: np.ndarray
    ) -> str:
        """What is wrong after a block, or an empty text; ``sums`` are its own."""
        if not finite or not np.isfinite(sums[0]):
            return "the loss is not finite"
        if self._begun is not None:
            begun = watched.loss_by(self._objective.loss, raw_prediction(block, self._begun))
            if begun > sums[3]:
                return self._bad_rows(state, np.array([*sums[:3], begun]), block.rows, "the model it began with has")
        if self._task.order != "full" and block.rows < monitor.FEWEST_ROWS:
            # So few rows say nothing by themselves: the epoch up to now does, once it has enough.
            rows = state.rows_of_epoch + block.rows
            return self._bad_rows(state, state.sums + sums, rows, _CONSTANT) if rows >= monitor.FEWEST_ROWS else ""
        return self._bad_rows(state, sums, block.rows, _CONSTANT)

    def _bad_rows(self, state: TrainState, sums: np.ndarray, rows: int, other: str) -> str:
        is_strict = self._task.order == "full" and state.rollbacks < monitor.MAX_ROLLBACKS
        factor = monitor.BAD_BLOCK_FACTOR if is_strict else monitor.BAD_WINDOW_FACTOR
        return monitor.bad_rows(sums, -(-rows // self._batch_size), factor, other, self._unit)

    def _may_begin_badly(self, state: TrainState) -> bool:
        """Whether this epoch begins with what other rows have taught, and may be worse than the best constant."""
        losses = state.epoch_losses
        is_of_others = self._task.config.from_ is not None or any(each["progressive"] is None for each in losses)
        if self._task.order != "full" or not is_of_others:
            return False
        if not losses or losses[-1]["progressive"] is None:
            return True
        return bool(losses[-1]["progressive"] > losses[-1]["constant"])

    def _tell(self, state: TrainState) -> None:
        self._context.display.progress(
            f"epoch {state.epoch + 1}/{self._task.epochs}", state.rows_of_epoch, self._train_rows,
            self._progressive_loss(state), self._context.stopwatch.bottleneck,
        )  # fmt: skip

    def _progressive_loss(self, state: TrainState) -> float | None:
        return float(state.sums[0] / state.sums[1]) * self._unit if state.sums[1] > 0 else None

    def _portion(self, state: TrainState, portion: Portion) -> str:
        """Learn the scaling, then train on the rows; returns what went wrong, or an empty text."""
        if portion.survey is not None and state.epoch == 0:
            self._learn_scaling(state, portion.survey)
        state.encoding = portion.with_scales(state.encoding)
        block = portion.block(state.encoding)
        state.position += 1
        if block.rows == 0:
            return ""
        steps_before, loss = state.steps, self._objective.loss
        watched = monitor.Watched(block, steps_before, state.encoding.n_outputs)
        with self._context.stopwatch.timed("compute"), np.errstate(all="ignore"):
            finite = self._train_block(state, block, watched.numbers)
            losses, constant = watched.losses(loss), watched.constant_loss(loss, state.best_constant)
        sums = np.array([*losses, constant])
        trouble = self._judge_block(state, block, watched, finite, sums)
        if not trouble:
            self._context.log_rows(block.row_numbers, state.rows_seen)
            state.rows_seen += block.rows
            state.sums += sums
        return trouble

    def _learn_scaling(self, state: TrainState, survey: Survey) -> None:
        self._check_range(state.encoding, survey)
        state.survey = survey if state.survey is None else state.survey.merge(survey)
        grown = state.reexpress(self._source.learned(state.encoding, state.survey.moments), self._optimizer)
        for column in grown:
            name = state.encoding.columns.numeric[column].name
            self._context.event(
                state, "restart", f"feature '{name}' had been nearly constant: its coefficient restarts at 0"
            )

    def _check_range(self, encoding: Encoding, survey: Survey) -> None:
        """Refuse values that the units taken from the first look cannot hold."""
        wide = np.flatnonzero(survey.moments.largest / WIDEST_PROVISIONAL > encoding.scaling.scale0)
        if len(wide) and self._task.config.scale == "standard":
            name, largest = encoding.columns.numeric[wide[0]].name, survey.moments.largest[wide[0]]
            usual = encoding.scaling.scale[wide[0]]
            raise DataError(
                f"feature '{name}' reaches {largest:.3g}, rows before it about {usual:.3g}: too wide for a stream."
                f" Leave such rows out with --where, or take --shuffle full --restart."
            )

    def _train_block(self, state: TrainState, block: Block, watched: np.ndarray) -> bool:
        """Predict, compare, gradient, update: see ``kernels.stochastic`` and ``kernels.row_by_row``.

        Returns whether theta is finite.
        """
        task, loss, penalty = self._task, self._objective.loss, self._objective.penalty
        n_steps = -(-block.rows // self._batch_size)
        total_steps = task.epochs * -(-self._train_rows // self._batch_size)
        rates = learning_rates(task.schedule, state.learning_rate, state.steps + 1, n_steps, total_steps)
        if loss.has_many_outputs:
            finite = self._train_classes(state, block, watched, rates)
        elif self._batch_size == 1 and task.optimizer == "plain":
            only_numbers = not state.encoding.categorical and not state.encoding.sparse
            step_sizes = rates * (block.weight / state.mean_weight) if len(block.weight) else rates
            finite = rows_loop(loss.pointwise_gradient, only_numbers)(
                block.features, block.codes, *block.entries.arrays(), block.target, block.offset, rates, step_sizes,
                state.steps, penalty.l1, penalty.l2, task.averaging, state.coordinates,
                self._level_ranges, state.level_sums, self._bounded, watched, loss.settings,
            )  # fmt: skip
        else:
            bounds = _minibatches(block.rows, n_steps)
            place, touched = self._lists(state.encoding, block, bounds)
            anew = self._optimizer.takes_penalty_anew
            finite = kernels.train_minibatches(
                block.features, block.codes, *block.entries.arrays(), block.target, block.weight, block.offset,
                bounds, rates, state.steps, state.mean_weight, penalty.l1, penalty.l2, task.averaging, anew,
                state.coordinates, self._level_ranges, state.level_sums, self._bounded, state.rotation,
                self._settings, watched, place, touched, loss.settings, loss.residuals_of_rows,
                self._optimizer.update,
            )  # fmt: skip
        state.steps += n_steps
        return bool(finite)

    def _lists(self, encoding: Encoding, block: Block, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Memory for the coordinates that a mini-batch touches, ``place`` and ``touched``: that of the block before,
        unless one of this block's has more.
        """
        rows, in_entries = int(np.diff(bounds).max()), int(entries.most_entries(block.entries.starts, bounds))
        most = most_touched(encoding.n_dof, encoding.n_numeric, len(encoding.categorical), rows, in_entries)
        if len(self._touched) < most:
            self._touched = np.zeros(most, np.int32)
        return self._place, self._touched

    def _train_classes(self, state: TrainState, block: Block, watched: np.ndarray, rates: np.ndarray) -> bool:
        """As :meth:`_train_block`, where each class has a raw prediction."""
        penalty, bounds = self._objective.penalty, _minibatches(block.rows, len(rates))
        place, touched = self._lists(state.encoding, block, bounds)
        anew = self._optimizer.takes_penalty_anew
        return bool(
            multinomial.train_minibatches(
                block.features, block.codes, *block.entries.arrays(), block.target, block.weight, bounds, rates,
                state.steps, state.mean_weight, penalty.l1, penalty.l2, self._task.averaging, anew, state.tables,
                self._level_ranges, state.sums_of_levels, state.rotation, self._settings, watched, place, touched,
                self._optimizer.update,
            )
        )  # fmt: skip

    def _go_back(self, state: TrainState, trouble: str, whole_epoch: bool) -> None:
        """Return to a good snapshot with half the step, and say why."""
        moments = state.survey.moments if state.survey else self._moments
        cause = monitor.likely_cause(
            state.encoding, moments, state.learning_rate, self._task.config.scale == "standard"
        )
        if state.rollbacks >= monitor.MAX_ROLLBACKS:
            raise DivergenceError(
                f"{trouble}, after the step was halved {state.rollbacks} times: {cause}. Leave such values out with"
                f" --where, leave out the column with --exclude, or --restart with a smaller --learning-rate."
            )
        where = f"epoch {state.epoch + 1}, step {state.steps:,}"
        state.go_back(whole_epoch)
        self._context.event(
            state, "rollback",
            f"{where}: {trouble}: {cause}. Back to step {state.steps:,}, the learning rate is now"
            f" {state.learning_rate:.3g}",
        )  # fmt: skip
        self._context.begin_save(state.state())

    def _end_epoch(self, state: TrainState) -> None:
        if isinstance(self._source, StreamedWindows) and state.epoch == 0 and state.survey is not None:
            state.reexpress(self._source.exact(state.encoding, state.survey.moments), self._optimizer)
        anew = self._optimizer.takes_penalty_anew
        theta = state.result(self._task.averaging, self._objective.penalty, anew)
        holdout = None
        if self._holdout is not None:
            self._context.display.progress("evaluate", 0, 0, None)
            try:
                holdout = self._holdout.mean_loss(self._objective, state.encoding, theta)
            except StreamgdError:
                # The evaluation is repeated after a resume; the epoch before it is kept.
                with suppress(StreamgdError):  # the first error is the one to tell
                    self._context.save(state.state())
                raise
        progressive = float(state.sums[0] / state.sums[1]) if state.sums[1] > 0 else None
        coefficients = state.encoding.without_base_rows(theta)[1] * state.encoding.target_scale
        before = state.previous_coefficients
        moved = float(np.abs(coefficients - before).max()) if before is not None else None
        state.previous_coefficients = coefficients
        entry = {
            "epoch": state.epoch + 1, "rows": state.rows_of_epoch, "progressive": progressive,
            "constant": float(state.sums[3] / state.sums[1]) if state.sums[1] > 0 else None,
            "holdout": holdout,
        }  # fmt: skip
        state.epoch_losses.append(entry)
        state.epoch, state.position, state.sums = state.epoch + 1, 0, np.zeros(4)
        best = state.best
        if best is None or (holdout is not None and (best["loss"] is None or holdout < best["loss"])):
            best = {"epoch": state.epoch, "loss": holdout, "theta": theta}
        state.best = best
        state.take_snapshot()
        if not self._is_small(state):
            give_back_freed_memory()
        unit = self._unit
        line = {
            "event": "epoch", "epoch": state.epoch, "steps": state.steps, "rows": entry["rows"],
            "rows_seen": state.rows_seen, "progressive_loss": None if progressive is None else progressive * unit,
            "holdout_loss": None if holdout is None else holdout * unit, "learning_rate": state.learning_rate,
            **self._context.stopwatch.lap(),
        }  # fmt: skip
        self._context.append_history(state, line)
        if holdout is not None:
            self._context.display.message(f"holdout loss after epoch {state.epoch}: {holdout * unit:.6g}")
        state.stopped_by = self._stop_reason(state, moved)
        if state.epoch < self._task.epochs and state.stopped_by is None:
            self._context.after_epoch(state.state())

    def _stop_reason(self, state: TrainState, moved: float | None) -> str | None:
        """Which rule ends the run after this epoch, if any."""
        config, losses = self._task.config, state.epoch_losses
        if config.tol_theta > 0 and moved is not None and moved <= config.tol_theta:
            return "tol_theta"
        if config.tol_loss > 0 and len(losses) > 1:
            name = "holdout" if losses[-1]["holdout"] is not None else "progressive"
            before, now = losses[-2][name], losses[-1][name]
            # Neither is known of an epoch in whose midst the data changed.
            if None not in (before, now) and before - now < config.tol_loss * abs(before):
                return "tol_loss"
        best = state.best
        if config.patience and best and best["loss"] is not None and state.epoch - best["epoch"] >= config.patience:
            return "patience"
        return None


def _minibatches(n_rows: int, n_batches: int) -> np.ndarray:
    """Where mini-batches of nearly equal size begin and the last one ends, int64, ``(n_batches + 1,)``."""
    return np.linspace(0, n_rows, n_batches + 1).round().astype(np.int64)
