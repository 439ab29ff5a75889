"""A task: the data, what is resolved of them, and all that follows for a run.

Method and optimizer may still be ``auto`` in it: they follow from the number of coefficients, which is known when the
rows have been seen (``Task.with_method``, ``Task.with_optimizer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamgd.config import ROBUST_LOSSES, TrainConfig, identity_fields
from streamgd.data.blocks import RecordLayout
from streamgd.data.encoder import Encoder, RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.levels import no_levels
from streamgd.data.plan import INIT, derive_key
from streamgd.data.prepare import block_plan
from streamgd.data.provisional import power_of_two
from streamgd.data.resolve import Resolved
from streamgd.data.scaler import Scaling
from streamgd.data.source import Manifest
from streamgd.data.sparse import KeysMet, SparseEncoding
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import CategoricalEncoding, Vocabulary, final_levels
from streamgd.errors import ConfigError, DataError, NoInputError, TargetError
from streamgd.objective.band import most_rows
from streamgd.objective.losses import LOSSES, KinkedLoss, Loss, loss_of
from streamgd.objective.objective import Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.training.blocks_place import blocks_bytes, blocks_dir, blocks_key, common_blocks_dir, digest
from streamgd.training.carry import carried_theta
from streamgd.training.certificate import hessian_is_affordable
from streamgd.training.memory import (
    MemoryPlan,
    check_coefficients,
    check_history,
    memory_for_hessians,
)
from streamgd.training.method import check_tolerances, why_too_many
from streamgd.training.warm_start import model_to_start_from

#: Provisional units beyond which a float32 record, or the square of a float64, comes near its end.
WIDEST_PROVISIONAL = 1e18
#: The largest power of two that is a scale: its inverse is no subnormal number.
WIDEST_SCALE = 2.0**1021

#: Largest values of the target between which the squared loss, and sums of it, can be told from zero and infinity.
SMALLEST_TARGET, LARGEST_TARGET = 1e-145, 1e145
#: The largest target that predictions, at most exp(300), come near.
LARGEST_AMOUNT = 1e100

#: delta of the Huber loss as a multiple of the target's spread: were that the spread of normal residuals, the
#: coefficients would be 95 % as exact as those of the squared loss (Huber, Ronchetti 2009).
HUBER_AUTO = 1.345

DEFAULT_EPOCHS = 5
DEFAULT_PASSES = 500


class TooWideError(Exception):
    """Values lie so far outside the provisional units, taken from a sample, that wider ones are needed."""

    def __init__(self, largest: np.ndarray):
        super().__init__("provisional units are too narrow")
        self.largest = largest


@dataclass(frozen=True)
class Task:
    """All that is known before the first row is encoded.

    ``order`` is full, window or none. ``method`` is auto where passes follow an epoch of mini-batches, and
    ``why_minibatch`` says why it is not, where it might have been. ``optimizer`` and ``schedule`` are names,
    ``averaging`` whether the averaged iterate is the result, ``epochs`` epochs or passes, ``notes`` lines worth telling
    the user.
    """

    config: TrainConfig
    manifest: Manifest
    validation: Manifest | None
    resolved: Resolved
    layout: RecordLayout
    choice: RowChoice
    order: str
    method: str
    why_minibatch: str | None
    optimizer: str
    schedule: str
    averaging: bool
    epochs: int
    lanes: int
    memory: MemoryPlan
    notes: tuple[str, ...]

    @property
    def threads(self) -> int:
        """Threads that decode and sum."""
        return self.memory.threads

    @property
    def loss(self) -> Loss:
        """The loss, in units of the target."""
        settings = {"power": self.config.power, "delta": self._delta, "quantile": self.config.quantile}
        return loss_of(self.resolved.loss, [settings[name] for name in LOSSES[self.resolved.loss].setting_names])

    def loss_of(self, encoding: Encoding) -> Loss:
        """The loss, in units of the target as it is trained on."""
        return self.loss.in_units_of(encoding.target_scale)

    @property
    def _delta(self) -> float:
        delta = self.config.delta
        return HUBER_AUTO * self.resolved.target_units[1] if delta == "auto" else float(delta)

    @property
    def key(self) -> str:
        """Digest of everything that decides the result."""
        names = [name for name in identity_fields() if name != "data"]
        return digest(self.config, names, self.manifest, self.resolved, self.layout, self.order, self.method)

    @property
    def blocks_key(self) -> str:
        """Digest of everything that decides the blocks: what trains on them does not."""
        return blocks_key(self.config, self.manifest, self.resolved, self.layout)

    @property
    def blocks_dir(self) -> Path:
        """Where the blocks of this run alone are."""
        return blocks_dir(self.config)

    @property
    def common_blocks_dir(self) -> Path | None:
        """Where blocks are kept for all runs that have the same, if ``--blocks-dir`` gives a place."""
        return common_blocks_dir(self.config, self.blocks_key)

    @property
    def blocks_bytes(self) -> int:
        """Bytes of the blocks, were all of them written."""
        return blocks_bytes(self.manifest, self.layout, self.config)

    def widened(self, largest: np.ndarray) -> Task:
        """The same task in provisional units that hold values up to ``largest`` (n_numeric,)."""
        wider = np.array([power_of_two(min(value, WIDEST_SCALE)) if value > 0 else 1.0 for value in largest])
        scale = np.where(largest / WIDEST_PROVISIONAL > self.resolved.scale, wider, self.resolved.scale)
        return replace(self, resolved=replace(self.resolved, scale=scale))

    def with_method(self, n_dof: int) -> Task:
        """The same task with what ``--method auto`` stands for: see ``training.method``.

        Raises
        ------
        ConfigError
            It is mini-batches, which know no ``--tol-excess`` and ``--tol-gradient``.
        """
        why = why_too_many(n_dof) if self.method == "auto" else None
        if why is None:
            return self
        check_tolerances(self.config, why)
        epochs = self.config.epochs or DEFAULT_EPOCHS
        return replace(self, method="minibatch", why_minibatch=why, epochs=epochs)

    def with_optimizer(self, n_dof: int) -> Task:
        """The same task with what ``auto`` stands for in full batch: see ``hessian_is_affordable``.

        Raises
        ------
        ConfigError
            It is backtracking, which knows no ``--tol-excess``.
        """
        if self.optimizer != "auto":
            return self
        if isinstance(self.loss, KinkedLoss):
            return replace(self, optimizer="band")
        if hessian_is_affordable(n_dof):
            return replace(self, optimizer="newton")
        if self.config.has_l1 and self.config.tol_excess is not None:
            raise ConfigError(
                f"--tol-excess: with --l1 and {n_dof:,} coefficients the optimizer is backtracking, which does not"
                f" estimate how far the optimum is. Choose --tol-gradient, or --optimizer newton."
            )
        return replace(self, optimizer="backtracking" if self.config.has_l1 else "lbfgs")

    def check_room_for(
        self, n_coefficients: int, categorical: Sequence[CategoricalEncoding], sparse: Sequence[SparseEncoding]
    ) -> None:
        """Refuse coefficients and levels that do not fit ``--memory``, beside what is read while they are learned.

        Raises
        ------
        ConfigError
            The message has the number that would be needed.
        """
        check_coefficients(
            self.config.memory, n_coefficients, _n_levels(categorical, sparse), self.config.on_workers,
            sum(each.n_rows for each in sparse), self.memory.streaming_bytes,
        )  # fmt: skip

    def with_room_for_hessians(self, encoding: Encoding, n_chunks: int) -> Task:
        """The same task with so few threads that there is room for Hessians, where passes over chunks make them.

        Raises
        ------
        ConfigError
            The optimizer needs Hessians, or a history, that do not fit ``--memory``.
        """
        n_dof, on_workers = encoding.n_coefficients, self.config.on_workers
        if self.optimizer == "lbfgs":
            check_history(self.config.memory, n_dof, _n_levels(encoding.categorical, encoding.sparse), on_workers)
        asked = self.optimizer in FULL_BATCH_OPTIMIZERS and FULL_BATCH_OPTIMIZERS[self.optimizer].needs_hessian
        if not (asked or hessian_is_affordable(n_dof)):
            return self
        robust, given = self.config.errors == "robust", self.config.memory
        others = {"auto": "--epochs 5", "batch": "--method minibatch"}
        way_out = f", {others[self.method]} does without it" if self.method in others else ""
        plan = self.memory
        if self.optimizer == "band":  # in folds, in the model of J, and in what its solution works with
            plan = replace(plan, kept_bytes=plan.kept_bytes + 8 * 8 * most_rows(n_dof) * n_dof)
        if encoding.n_outputs > 1:  # probabilities and residuals of the rows of a block
            rows_bytes = 8 * (2 + robust) * encoding.n_outputs * self.layout.block_rows
            plan = replace(plan, thread_bytes=plan.thread_bytes + rows_bytes)
        memory = memory_for_hessians(given, plan, n_dof, n_chunks, robust, on_workers, way_out)
        return replace(self, memory=replace(self.memory, threads=memory.threads))

    def encoder(self) -> Encoder:
        """An encoder in provisional units with growing vocabularies."""
        config, columns = self.config, self.resolved.columns
        vocabularies = [Vocabulary(c, config.max_levels, config.hash_buckets) for c in columns.categorical]
        sparse = [KeysMet(c, config.max_levels, config.hash_buckets) for c in columns.sparse]
        return Encoder(
            columns, self.layout, self.resolved.shift, self.resolved.scale, vocabularies, config.nulls, self.choice,
            sparse=sparse,
        )  # fmt: skip

    def encoding(
        self, survey: Survey, vocabularies: list[Vocabulary], with_other: bool = False, sparse: Sequence[KeysMet] = ()
    ) -> Encoding:
        """The final encoding, from a survey of the rows.

        Parameters
        ----------
        with_other : bool
            Whether levels that the survey has not seen get a coefficient in common, and indices one each (pure
            streaming).
        sparse : sequence of KeysMet
            What the survey has met of the sparse columns.

        Raises
        ------
        NoInputError
            No row is left to train on.
        TargetError
            All rows that are left are of one class.
        DataError
            Values are so large or small that float64 cannot compute with them.
        SchemaError
            Two coefficients would have one name.
        TooWideError
            See :meth:`widened`.
        """
        config, columns = self.config, self.resolved.columns
        if config.scale == "standard" and (survey.moments.largest / WIDEST_PROVISIONAL > self.resolved.scale).any():
            raise TooWideError(survey.moments.largest)
        if survey.train_rows == 0:
            reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in survey.dropped.items()) or "all held out"
            raise NoInputError(
                f"no row is left to train on ({reasons}). Look at --where, --sample, --nulls and the target."
            )
        mean = float(survey.target_moments.mean[0])
        if self.loss.has_many_outputs:
            self._check_classes(survey)
        elif self.loss.is_classifier and mean in (0.0, 1.0):
            only = columns.target.classes[int(mean)] if columns.target and columns.target.classes else mean
            raise TargetError(
                f"target '{config.target}': all {survey.train_rows:,} rows that are used are of class {only!r},"
                f" expected two classes. Look at --where and --sample, or add data."
            )
        standardise = config.scale == "standard"
        scaling = Scaling.from_moments(self.resolved.shift, self.resolved.scale, survey.moments, standardise)
        self._check_range(survey, scaling)
        first_row, categorical = len(columns.numeric), []
        for column, vocabulary, counts in zip(columns.categorical, vocabularies, survey.level_counts, strict=True):
            if vocabulary.hashed:
                encoded = CategoricalEncoding(column, first_row, no_levels(column.values), False, config.hash_buckets)
            else:
                encoded = CategoricalEncoding(column, first_row, final_levels(vocabulary, counts), with_other, 0)
            categorical.append(encoded)
            first_row += encoded.n_rows
        entries = []
        for met in sparse:
            entries.append(SparseEncoding.of(met, first_row, every=with_other))
            first_row += entries[-1].n_rows
        n_coefficients = (first_row + 1) * self.n_outputs
        self.check_room_for(n_coefficients, categorical, entries)
        if self.loss.link_name == "log" and mean <= 0.0:
            raise TargetError(
                f"target '{config.target}' is 0 in all {survey.train_rows:,} rows that are used; the"
                f" {self.loss.name} loss needs some above. Look at --where and --sample, or add data."
            )
        shift, scale = self.resolved.target_units
        if self.resolved.loss == "squared" and standardise:
            shift, scale = mean, float(survey.target_moments.deviation()[0])
        class_weights: tuple[float, ...] | None = None
        if config.class_weight == "balanced":
            # n / (K n_c) with the total weights of all rows and of a class: their sum stays what it is.
            class_weights = (0.5 / (1.0 - mean), 0.5 / mean)
            if self.loss.has_many_outputs:
                counts = survey.class_counts
                class_weights = tuple((counts.sum() / (len(counts) * counts)).tolist())
        encoding = Encoding(
            columns, scaling, tuple(categorical), config.nulls, shift, scale, class_weights, tuple(entries)
        )
        encoding.check_names()
        return encoding

    def _check_classes(self, survey: Survey) -> None:
        """Refuse classes of which no row is left: their probability would go to zero, their intercept without end."""
        target = self.resolved.columns.target
        assert target is not None
        assert target.classes is not None
        lacking = [label for label, count in zip(target.classes, survey.class_counts, strict=True) if count == 0.0]
        if lacking:
            raise TargetError(
                f"target '{target.name}': of class {lacking[0]!r} no row is left to train on (all are dropped, sampled"
                f" out or held out). Leave its rows out with --where, or add data."
            )

    @property
    def n_outputs(self) -> int:
        """Columns of theta."""
        target = self.resolved.columns.target
        return target.n_outputs if target is not None else 1

    def target_mean(self, survey: Survey, encoding: Encoding) -> float:
        """The weighted mean of the target as it is trained on."""
        if encoding.class_weights is not None:
            return 0.5
        return (float(survey.target_moments.mean[0]) - encoding.target_shift) / encoding.target_scale

    def class_shares(self, survey: Survey, encoding: Encoding) -> np.ndarray:
        """Share of the weight that each of several classes has as it is trained on, float64, ``(n_classes,)``."""
        shares = survey.class_counts / survey.class_counts.sum()
        return shares if encoding.class_weights is None else np.full(len(shares), 1.0 / len(shares))

    def mean_loss_of_constant(self, survey: Survey, encoding: Encoding, constant: float | np.ndarray) -> float | None:
        """Mean loss over the training rows where all have the raw prediction ``constant``; they have no offset.

        None where the moments of the target do not tell it.
        """
        if isinstance(constant, np.ndarray):
            losses = self.loss.loss(np.arange(len(constant)), np.broadcast_to(constant, (len(constant),) * 2))
            return float((self.class_shares(survey, encoding) * losses).sum())
        target = survey.target_moments
        variance = float(target.squares[0] / target.weight[0]) / encoding.target_scale**2
        return self.loss_of(encoding).mean_loss_of_constant(constant, self.target_mean(survey, encoding), variance)

    def _check_range(self, survey: Survey, scaling: Scaling) -> None:
        """Refuse what cannot be computed with in float64: differences of features, squares of the target."""
        beyond = np.flatnonzero(~(np.isfinite(scaling.shift) & np.isfinite(scaling.scale)))
        if len(beyond):
            raise DataError(
                f"feature '{self.resolved.columns.numeric[beyond[0]].name}': differences between its values are beyond"
                f" what a float64 holds. Divide it in the data, or leave it out with --exclude."
            )
        largest = float(survey.target_moments.largest[0])
        if self.loss.link_name == "log" and largest > LARGEST_AMOUNT:
            raise TargetError(
                f"target '{self.config.target}': its largest value is {largest:.3g}, the {self.loss.name} loss takes up"
                f" to {LARGEST_AMOUNT:g}. Divide it in the data."
            )
        if (
            self.resolved.loss in ("squared", *ROBUST_LOSSES)
            and largest
            and not SMALLEST_TARGET < largest < LARGEST_TARGET
        ):
            raise TargetError(
                f"target '{self.config.target}': its largest value is {largest:.3g}, and a float64 does not hold the"
                f" square of that. Multiply it in the data, so that it comes nearer to 1."
            )

    def hashed_now(self, encoding: Encoding) -> list[str]:
        """Columns that have more levels than ``--max-levels``, and were not asked to be hashed."""
        names = [each.column.name for each in encoding.categorical if each.hashed and not each.column.hashed]
        return names + [each.column.name for each in encoding.sparse if each.buckets and not each.column.hashed]

    def objective(self, encoding: Encoding) -> Objective:
        """The objective in units of the standardised target, stated for the original one: l1 follows the unit."""
        bounds = encoding.columns.non_negative_rows
        penalty = ElasticNet(self.config.l1 / encoding.target_scale, self.config.l2, bounds)
        return Objective(self.loss_of(encoding), penalty)

    def summary(self) -> dict[str, Any]:
        """What was resolved, as plain values, for ``config.json`` and ``--dry-run``."""
        blocks = block_plan(self.manifest.n_rows, self.layout, self.config.batch_size)
        return {
            "rows": self.manifest.n_rows, "files": len(self.manifest.files),
            "row_groups": len(self.manifest.row_groups),
            "loss": self.resolved.loss, "loss_settings": self.loss.named_settings, "columns": self.resolved.became,
            "left_out": dict(self.resolved.left_out), "method": self.method, "optimizer": self.optimizer,
            "schedule": self.schedule, "averaging": self.averaging, "epochs": self.epochs, "order": self.order,
            "blocks": blocks[0] if self.order == "full" else 0,
            "block_rows": blocks[1] if self.order == "full" else self.layout.block_rows,
            "blocks_bytes": self.blocks_bytes if self.order == "full" else 0,
            "lanes": self.lanes, "memory_bytes": self.config.memory, "threads": self.threads,
        }  # fmt: skip


def _n_levels(categorical: Sequence[CategoricalEncoding], sparse: Sequence[SparseEncoding]) -> int:
    """How many levels columns have, those of lists and maps among them."""
    return sum(len(each.levels) for each in categorical) + sum(len(each.levels) for each in sparse)


def first_theta(task: Task, encoding: Encoding, best_constant: float | np.ndarray) -> np.ndarray:
    """Theta before the first step, float64, shape ``(n_dof, n_outputs)``, by ``--init`` or ``--from``."""

    if task.config.from_ is not None:
        before = model_to_start_from(task.config.from_, task.resolved)
        return carried_theta(before.encoding, before.theta, encoding)
    theta = np.zeros((encoding.n_dof, encoding.n_outputs))
    if task.config.init == "random":
        words = [derive_key(task.config.seed, INIT, number) for number in range(theta.size)]
        theta[:] = 0.1 * (np.array(words, np.float64).reshape(theta.shape) / 2.0**63 - 1.0)
        theta = task.objective(encoding).penalty.allowed(theta)
    elif task.config.init == "best":
        theta[-1] = best_constant
    return theta
