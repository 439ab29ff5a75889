"""Mini-batches or single rows: blocks or windows made ready, the state, and what a run tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from streamgd.data.blocks import Block
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.entries import EntriesFinisher, joined_entries, no_entries
from streamgd.data.folder import BlocksFolder, claim_folder
from streamgd.data.prepare import Preparation, block_plan, is_prepared, new_store
from streamgd.data.prepared import PreparedBlocks
from streamgd.data.sparse import KeysMet
from streamgd.data.store import BlockStore, remove_blocks
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import Vocabulary
from streamgd.data.window import WindowStream, first_look
from streamgd.errors import InterruptedRunError, PausedError, StreamgdError
from streamgd.inference import ClosingSums
from streamgd.optim.stochastic import OPTIMIZERS, Smoothness
from streamgd.option_checks import NO_CLOSING_PASS
from streamgd.plain import count_noun
from streamgd.training.carry import carry_over, in_coordinates
from streamgd.training.certificate import Certificate, hessian_is_affordable
from streamgd.training.chunks import BlockWork
from streamgd.training.holdout import BlocksHoldout, Holdout, folded, of_all_blocks
from streamgd.training.passes import PreparedPass, chunks_of
from streamgd.training.portions import PortionSource, ShuffledBlocks, StreamedWindows
from streamgd.training.progress import RowCounter, RunContext
from streamgd.training.reduce import Pass, ThreadReduction
from streamgd.training.session import Session, common_facts, scaled, streamed_holdout, tell_hashed
from streamgd.training.stepsize import (
    best_constant,
    column_squares,
    curvatures,
    decorrelating_rotation,
    expected_squares,
    largest_row_norm,
    smoothness,
)
from streamgd.training.stochastic import StochasticTrainer
from streamgd.training.task import Task, first_theta
from streamgd.training.trainstate import TrainState

Found = TypeVar("Found")

#: Part of the whole gain that the last epoch may bring before more epochs are advised; the rest is noise.
STILL_FALLING = 0.02
#: With fewer for each coefficient, what is lost on the rows themselves says little of others (Harrell 2015, "Regression
#: Modeling Strategies", section 4.4: ten to twenty).
FEWEST_ROWS_EACH = 10
#: Fewer steps of an only pass may end far from the optimum: on normal features 20 closed 98 to 99.9 % of the way, 40
#: from 99 % on.
FEWEST_STEPS = 40


class StochasticSession(Session):
    """Mini-batches or single rows, from shuffled blocks or from a stream.

    Without ``trains`` the rows are made ready, and no state: something else will train on them.
    """

    def __init__(self, task: Task, context: RunContext, saved: dict[str, Any] | None, trains: bool = True):
        super().__init__(task, context)
        self.state: TrainState
        #: Mean square of each column, (n_dof, 1), where passes follow.
        self.squares: np.ndarray
        self._blocks: ShuffledBlocks | None = None
        self._folder: BlocksFolder
        self._source: PortionSource
        look: Block | None = None
        if task.order == "full":
            look = self._open_blocks()
        else:
            remove_blocks(task.blocks_dir)  # of an earlier start in another order
            if saved is not None and saved["earlier"] is not None:
                self._go_on_with_windows(saved)
            else:
                look = self._open_windows()
        try:
            if saved is not None and trains:
                self.state = TrainState.from_state(saved)
            elif trains:
                assert look is not None
                self.state = self._new_state(look)
        except BaseException:
            with suppress(StreamgdError):  # the first error is the one to tell
                self.close(remove=True)
            raise
        self._objective = task.objective(self._encoding)
        tell_hashed(task, self._encoding, context)

    def _open_blocks(self) -> Block:
        """Prepare the shuffled blocks; returns the rows of one of them."""
        task, context = self.task, self.context
        counter = RowCounter(context.display, task.manifest.n_rows, context.stopwatch)

        def store_in(path: Path) -> BlockStore:
            return new_store(path, task.layout, task.manifest.n_rows, task.config.batch_size)

        key = task.blocks_key
        self._folder = claim_folder(
            task.blocks_dir, task.common_blocks_dir, task.config.keep_blocks,
            lambda path: is_prepared(store_in(path), key),
        )  # fmt: skip
        if self._folder.path != task.blocks_dir:
            remove_blocks(task.blocks_dir)  # of a start before there were common ones
        if self._folder.ready:
            context.display.message(f"blocks: those kept in {self._folder.path} are used, nothing is decoded")
        store = store_in(self._folder.path)
        try:
            encoder = task.encoder()
            make_encoding = partial(self._make_encoding, sparse=encoder.sparse)
            prepared = Preparation(
                task.manifest, encoder, make_encoding, store, key, task.config.seed, task.threads,
                task.memory.stage_bytes, context.interrupt.check, context.interrupt.check_repeated, counter.add,
                context.stopwatch,
            ).run()  # fmt: skip
        except (PausedError, InterruptedRunError):
            store.close()
            self._folder.close()
            raise
        except BaseException:
            if not self._folder.ready:
                with suppress(StreamgdError):  # the first error is the one to tell
                    store.remove()
            self._folder.close()
            raise
        self._folder.share()
        self.survey, self._encoding = prepared.survey, prepared.encoding
        self._source = self._blocks = ShuffledBlocks(prepared, task.config.seed, context.stopwatch)
        return prepared.train_block(0)

    def _open_windows(self) -> Block:
        """Look at slices of row groups from all over the data; returns their rows."""
        task = self.task
        encoder = task.encoder()
        check, stopwatch = self.context.interrupt.check_repeated, self.context.stopwatch
        self.survey, pieces = first_look(task.manifest, encoder, self._is_enough, check, stopwatch, task.threads)
        self._encoding = self._make_encoding(self.survey, encoder.vocabularies, True, encoder.sparse)
        self._source = self._windows(goes_on=False)
        finisher = Finisher(task.layout, self._encoding, encoder.vocabularies)
        records = np.concatenate([piece.records for piece in pieces])
        chosen = np.concatenate([piece.rows.kept & ~piece.rows.holdout for piece in pieces])
        sample = finisher.finish(records, np.flatnonzero(chosen))
        if encoder.sparse:
            entries = joined_entries([piece.rows.entries or no_entries(0) for piece in pieces])
            of_entries = EntriesFinisher(self._encoding.sparse, encoder.sparse, task.layout.feature_type)
            sample = replace(sample, sparse=of_entries.of_rows(entries, np.flatnonzero(chosen)))
        return sample

    def _go_on_with_windows(self, saved: dict[str, Any]) -> None:
        """The windows of a stream that went on from an earlier run: ``saved`` tells what is to be known of its rows."""
        self.survey, self._encoding = Survey.from_state(saved["earlier"]), Encoding.from_state(saved["encoding"])
        self._source = self._windows(goes_on=True)
        if self.task.config.certify:
            theta = np.zeros((self._encoding.n_dof, self._encoding.n_outputs))
            self.with_room_for_passes(self._encoding.without_base_rows(theta)[0])

    def _windows(self, goes_on: bool) -> StreamedWindows:
        task, stopwatch = self.task, self.context.stopwatch
        frozen = Encoder.of_encoding(self._encoding, task.layout, task.choice)
        stream = WindowStream(task.manifest, frozen, task.config.seed, task.lanes, task.threads, stopwatch)
        standardise = task.config.scale == "standard"
        return StreamedWindows(
            stream, frozen.vocabularies, self.survey.moments, standardise, stopwatch, goes_on
        )  # fmt: skip

    def _make_encoding(
        self, survey: Survey, vocabularies: list[Vocabulary], with_other: bool = False, sparse: Sequence[KeysMet] = ()
    ) -> Encoding:
        """The encoding of the loops: base levels have rows of their own, but under l1, which wants exact zeros, and
        where each step takes the penalty anew, which could not be that of differences.
        """
        encoding = self.task.encoding(survey, vocabularies, with_other, sparse)
        self._resolve_method(encoding)
        if self.task.method == "auto":
            self.squares = column_squares(survey, encoding, vocabularies)
        if self.task.config.certify or self.task.method == "auto":
            # Whether there is room is told before training, not after it.
            self.with_room_for_passes(encoding)
        return encoding if self.task.config.l1 > 0 or self._penalty_anew else encoding.with_base_rows()

    @property
    def _penalty_anew(self) -> bool:
        optimizer = OPTIMIZERS.get(self.task.optimizer)
        return optimizer is not None and optimizer.takes_penalty_anew

    def _resolve_method(self, encoding: Encoding) -> None:
        before, self.task = self.task.method, self.task.with_method(encoding.n_coefficients)
        if self.task.method != before:
            self.context.display.message(
                f"method: {self.task.method}, since {self.task.why_minibatch}; at most {self.task.epochs} epochs"
            )

    def with_room_for_passes(self, encoding: Encoding) -> Task:
        """The task with so few threads that full-batch passes with a Hessian have room."""
        task = self.task
        if task.order == "full":
            n_blocks, _ = block_plan(task.manifest.n_rows, task.layout, task.config.batch_size)
            return task.with_room_for_hessians(encoding, len(chunks_of(n_blocks)))
        return task.with_room_for_hessians(encoding, len(self._streamed(encoding).chunks))

    def _streamed(self, encoding: Encoding) -> BlockWork:
        return BlockWork(self.task.manifest, encoding, self.task.layout, self.task.choice)

    def _is_enough(self, survey: Survey) -> bool:
        """Whether a look shows what streaming must know before it begins: some rows, and all classes, or a count."""
        loss, mean = self.task.loss, float(survey.target_moments.mean[0])
        if loss.has_many_outputs:
            nothing = bool((survey.class_counts == 0.0).any())
        else:
            nothing = (loss.is_classifier and mean in (0.0, 1.0)) or (loss.link_name == "log" and mean <= 0.0)
        return survey.train_rows > 0 and not nothing

    def _new_state(self, sample: Block) -> TrainState:
        task, encoding, survey = self.task, self._encoding, self.survey
        optimizer, mean_weight = OPTIMIZERS[task.optimizer], survey.weight / survey.train_rows
        loss = task.loss_of(encoding)
        constant: float | np.ndarray
        if loss.has_many_outputs:
            constant = loss.link(task.class_shares(survey, encoding))
            curvature = loss.max_curvature, loss.max_curvature
        else:
            constant = best_constant(loss, task.target_mean(survey, encoding), sample)
            curvature = curvatures(loss, sample, constant, float(survey.target_moments.largest[0]))

        def found_smoothness() -> Smoothness:
            norm = self._largest_row_norm(sample)
            found = smoothness(sample, encoding.n_dof, curvature, norm, mean_weight, task.config.l2)
            self.context.display.message(f"smoothness: {found.mean:.3g}, of one row {found.row:.3g}")
            return found

        batch_size = 1 if task.method == "sgd" else task.config.batch_size
        rate = task.config.learning_rate
        if rate == "auto":
            rate = optimizer.default_learning_rate(found_smoothness, batch_size)
        self.context.display.message(f"learning rate: {rate:.6g} ({task.schedule})")
        rotation = decorrelating_rotation(sample) if self._may_rotate() else np.empty((0, 0))
        if len(rotation):
            self.context.display.message("coordinates: correlated numeric columns are decorrelated for the steps")
        first_sparse_row = encoding.sparse[0].first_row if encoding.sparse else encoding.n_dof - 1
        squares = expected_squares(
            sample, encoding.n_dof, loss, constant, mean_weight, batch_size, curvature[1], first_sparse_row
        )
        slots = np.concatenate([optimizer.init(of_output) for of_output in np.atleast_2d(squares)], axis=1)
        theta = first_theta(task, encoding, constant)
        if task.config.from_ is not None:
            theta = in_coordinates(theta, rotation)
        return TrainState.start(
            encoding, theta, slots,
            rotation=rotation, learning_rate=rate,
            best_constant=constant, mean_weight=mean_weight, key=task.key,
            options=task.config.identity, left_out=dict(task.resolved.left_out),
        )  # fmt: skip

    def _largest_row_norm(self, sample: Block) -> float:
        """Largest squared norm of a row times its weight: of all training rows of blocks, or of those looked at."""
        if self._blocks is None:
            return largest_row_norm(sample)
        norm_of = self.context.stopwatch.timed("compute")(largest_row_norm)
        return max(self._over_blocks(norm_of, self._blocks.prepared))

    def _may_rotate(self) -> bool:
        """Whether the steps may be taken in decorrelated coordinates.

        Rules that rescale each coordinate gain by it; plain and momentum stay those of the textbook. Penalty l1 and
        bounds are those of the coefficients themselves, and a scaler that still learns would have to move full
        matrices.
        """
        task = self.task
        rescales = "squares" in OPTIMIZERS[task.optimizer].slots
        if task.config.l1 > 0.0 or task.config.non_negative:
            return False
        return rescales and task.order == "full" and task.method != "sgd"

    def train(self) -> None:
        if self.train_epochs():
            # Whoever saves the model waits for it.
            self.context.begin_save(self.state.state())

    def train_epochs(self) -> bool:
        """Run the loop to its end; whether there was something to do, and a last checkpoint is to be written."""
        task, holdout = self.task, self.holdout()
        train_rows = self.survey.train_rows if self._blocks else task.manifest.n_rows
        trainer = StochasticTrainer(
            task, self._source, self._objective, holdout, train_rows, self.survey.moments, self.context
        )
        return trainer.run(self.state)

    def holdout(self) -> Holdout | None:
        """Held out rows, if there are any."""
        task, check, stopwatch = self.task, self.context.interrupt.check_repeated, self.context.stopwatch
        if self._blocks is not None and task.config.holdout > 0:
            return BlocksHoldout(self._blocks.prepared, task.threads, check, stopwatch)
        return streamed_holdout(task, self._encoding, self.context)

    def passes(self, threads: int) -> PreparedPass:
        """Full-batch passes over the blocks."""
        assert self._blocks is not None
        check, stopwatch = self.context.interrupt.check_repeated, self.context.stopwatch
        return PreparedPass(self._blocks.prepared, threads, check, stopwatch)

    def carry_over(self, saved: dict[str, Any]) -> None:
        old = TrainState.from_state(saved)
        penalty = self._objective.penalty
        carry_over(self.state, old, old.result(self.task.averaging, penalty, self._penalty_anew))
        if self._penalty_anew:
            self.state.take_penalty(penalty)
        self.context.save(self.state.state())

    @property
    def _best(self) -> dict[str, Any] | None:
        """The best epoch by holdout loss, where its model is the result."""
        best = self.state.best if self.task.config.patience else None
        return best if best is not None and best["loss"] is not None else None

    def _theta(self) -> np.ndarray:
        """The theta to predict with, in the encoding of the loops."""
        best = self._best
        if best is not None:
            return np.array(best["theta"])
        return self.state.result(self.task.averaging, self._objective.penalty, self._penalty_anew)

    def result(self) -> tuple[Encoding, np.ndarray]:
        encoding, theta = self.state.encoding.without_base_rows(self._theta())
        return encoding, self._objective.penalty.centred(theta)

    def closing(self) -> tuple[ClosingSums | None, str | None]:
        return None, NO_CLOSING_PASS

    def facts(self) -> dict[str, Any]:
        state, unit = self.state, self.state.encoding.target_scale**2
        losses = state.epoch_losses[-1] if state.epoch_losses else dict.fromkeys(("progressive", "holdout", "constant"))
        best = self._best
        holdout_loss = losses["holdout"] if best is None else best["loss"]
        survey = state.survey or self.survey
        facts = common_facts(self.task, survey, state.epoch, state.steps, state.rows_seen, state.stopped_by)
        facts |= {
            "progressive_loss": scaled(losses["progressive"], unit), "holdout_loss": scaled(holdout_loss, unit),
            "base_loss": scaled(losses["constant"], unit), "train_loss": None, "objective": None,
            "learning_rate": state.learning_rate, "rollbacks": state.rollbacks, "certificate": None,
        }  # fmt: skip
        if self._blocks is not None:
            prepared = self._blocks.prepared
            total = folded(iter(self._over_blocks(partial(self._objective.loss_sums, self._theta()), prepared)))
            assert total is not None
            penalty = self._objective.penalty.value(self.result()[1])
            facts |= {
                "base_loss": self._base_loss(prepared) * unit, "train_loss": total.mean_loss * unit,
                "objective": (total.mean_loss + penalty) * unit,
            }  # fmt: skip
        if self.task.config.certify and state.stopped_by != "max_time":
            facts["certificate"] = self._certificate(facts["base_loss"] or 0.0)
        return facts

    def _over_blocks(self, found_in: Callable[[Block], Found], prepared: PreparedBlocks) -> list[Found]:
        """What ``found_in`` gives for the training rows of each block."""

        def found_unless_stopped(block: Block) -> Found:
            self.context.interrupt.check_repeated()
            return found_in(block)

        stopwatch = self.context.stopwatch
        return of_all_blocks(
            prepared.train_blocks, prepared.n_blocks, found_unless_stopped, self.task.threads, stopwatch
        )

    def _base_loss(self, prepared: PreparedBlocks) -> float:
        """Mean loss of the best constant over the training rows."""
        loss, constant, encoding = self._objective.loss, self.state.best_constant, self._encoding
        if not self.task.layout.has_offset:
            told = self.task.mean_loss_of_constant(self.survey, encoding, constant)
            if told is not None:
                return told

        def summed(block: Block) -> float:
            raw = constant + block.offset if len(block.offset) else np.full(block.rows, constant)
            losses = loss.loss(block.target, raw)
            return float(losses @ block.weight if len(block.weight) else losses.sum())

        return sum(self._over_blocks(summed, prepared)) / self.survey.weight

    def _certificate(self, base_loss: float) -> dict[str, Any]:
        """How far the result is from the optimum, by a pass over the blocks, or over the files."""
        encoding, theta = self.result()
        affordable = hessian_is_affordable(encoding.n_coefficients)
        threads, check = self.with_room_for_passes(encoding).threads, self.context.interrupt.check_repeated
        run: Pass
        if self._blocks is not None:
            run = self.passes(threads)
        else:
            run = ThreadReduction(None, check, self.context.stopwatch).open(self._streamed(encoding), threads)
        total = run((partial(self._objective.chunk_sums, hessian=affordable), theta))
        evaluation = self._objective.evaluate(theta, total)
        certificate = Certificate.of(theta, evaluation, self._objective.penalty, encoding.target_scale)
        self.context.display.message(f"certificate: {certificate.text(base_loss)}")
        return certificate.to_json()

    def _few_steps(self) -> str | None:
        steps = self.state.steps
        if steps >= FEWEST_STEPS:
            return None
        return (
            f"only {count_noun(steps, 'step')} from {count_noun(self.state.rows_seen, 'row')}: below {FEWEST_STEPS}"
            f" steps the model may be far from the optimum. Give more rows, or a file or a frame and more epochs"
        )

    def hint(self) -> str | None:
        if self.state.stopped_by == "max_time" and self.state.epoch == 0:
            seen = f"{count_noun(self.state.rows_seen, 'row')}, none more than once"
            return f"--max-time was over before the first epoch ended: the model has seen {seen}"
        if self.state.stopped_by != "epochs":
            return None
        if len(self.state.epoch_losses) < 2:
            return self._few_steps()
        before, last = self.state.epoch_losses[-2:]
        # Of few rows that are watched on the way, losses go up and down by chance.
        told = "progressive" if None in (before["holdout"], last["holdout"]) else "holdout"
        if None in (before[told], last[told], last["constant"]):
            return None
        gained, whole = before[told] - last[told], last["constant"] - last[told]
        if gained <= STILL_FALLING * whole:
            return None
        # Of a hashed column, and of a list in a stream, most have no row.
        n_coefficients, n_rows = int(np.count_nonzero(self.state.theta)), last["rows"]
        if told == "progressive" and n_coefficients * FEWEST_ROWS_EACH > n_rows:
            return (
                f"{n_coefficients:,} coefficients from {n_rows:,} rows: that the loss still fell on these says little"
                f" of new rows. --holdout 0.1 --patience 1 ends when others are predicted worse, and keeps the best"
            )
        # Of few rows, the progressive loss may have been above that of the best constant.
        share = f" by {gained / whole:.1%} of all that was gained" if gained <= whole else ""
        return f"the loss still fell{share} in the last epoch: more --epochs than {self.state.epoch} will do better"

    def close(self, remove: bool = False) -> None:
        if self._blocks is not None:
            store = self._blocks.prepared.store
            if remove and self._folder.passing:
                store.remove()
            else:
                store.close()
            self._folder.close()
