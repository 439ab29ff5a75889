"""A trained stream goes on with new files: the state of a run on them, made from that of the run before.

    state before ── options and columns compared ── levels of the new files looked at ── state to begin with

Units, theta, its average, the optimizer and the clock go on: the run takes up where the one before ended, as though
there were one stream. Levels that are new get a coefficient of their own, which begins at that of all unknown ones, so
that no prediction changes. What counts an epoch begins anew. Nothing depends on threads or on time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa

from streamgd.config import ROBUST_LOSSES, TrainConfig, differing_options
from streamgd.data.agreement import check_columns
from streamgd.data.blocks import RawEntries
from streamgd.data.columns import Columns
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Encoding
from streamgd.data.entries import EntriesFinisher, entries_layout, joined_entries, no_entries
from streamgd.data.resolve import Resolved
from streamgd.data.scaler import Moments
from streamgd.data.source import Manifest
from streamgd.data.sparse import KeysMet, SparseEncoding
from streamgd.data.survey import Survey
from streamgd.data.target import canonical_loss
from streamgd.data.transforms.numbers import description
from streamgd.data.vocabulary import CategoricalEncoding, Vocabulary, final_levels
from streamgd.data.window import look_at_all
from streamgd.errors import ConfigError, RunMismatchError, SchemaError
from streamgd.kernels import coordinates as kernels
from streamgd.objective.losses import KinkedLoss
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.stochastic import OPTIMIZERS, taken_penalty
from streamgd.training.progress import RunContext
from streamgd.training.rundir import is_final
from streamgd.training.stepsize import norms_of_entries, squares_of_entries, usual_curvature
from streamgd.training.task import Task
from streamgd.training.trainstate import TrainState

#: The only option among those that decide the result which may change while a stream goes on.
GROWING = "max_levels"

_ONLY_WINDOWS = (
    "a stream goes on with new files in windows alone, as it must have begun. Choose --shuffle window, and --method"
    " minibatch or sgd."
)


def check_same_stream(before: dict[str, Any], config: TrainConfig) -> None:
    """Refuse to go on from a state with options that it was not begun with.

    Raises
    ------
    ConfigError
        The run before was one of full batch.
    RunMismatchError
        An option that decides the result is another one.
    """
    asked, options = config.identity, before.get("options")
    if options is None:
        raise ConfigError(_ONLY_WINDOWS)
    differing = differing_options(asked, options, [name for name in asked if name != GROWING])
    if differing:
        raise RunMismatchError(
            f"the stream was begun with other options: {differing}. Go on with those, or begin a new stream."
        )


def resolved_before(before: dict[str, Any], config: TrainConfig, manifest: Manifest) -> Resolved:
    """What the columns are, as the run before has it: nothing is decided by the new files.

    Parameters
    ----------
    before : dict
        The state of the run before, or one made by :func:`next_state`.

    Raises
    ------
    ConfigError
        The run before was one of full batch.
    RunMismatchError
        An option that decides the result is another one.
    SchemaError
        The new files lack a column, have one more, or one of another kind.
    """
    check_same_stream(before, config)
    encoding = Encoding.from_state(before["encoding"])
    columns, left_out = encoding.columns, before["left_out"]
    check_columns(columns, manifest)
    known = {*columns.sources, *config.exclude, *left_out}
    new = [name for name in manifest.schema.names if name not in known] if config.features is None else []
    if new:
        raise SchemaError(
            f"{manifest.files[0].path} has a column that the stream was begun without: '{new[0]}'. Write the files"
            f" with the columns they had, or begin a new stream, with it or with --exclude {','.join(new)}."
        )
    became = {column.name: ", ".join(filter(None, ["number", description(column.steps)])) for column in columns.numeric}
    for each in encoding.categorical:
        levels = "hashed" if each.hashed else f"{len(each.levels):,} levels known"
        became[each.column.name] = f"categorical, {levels}"
    for sparse in encoding.sparse:
        became[sparse.column.name] = f"sparse, {sparse.n_rows:,} coefficients"
    loss: str = config.loss
    if loss == "auto":
        loss = "logistic" if columns.target is not None and columns.target.classes is not None else "squared"
        loss = "multinomial" if encoding.n_outputs > 1 else loss
    loss, scaling = canonical_loss(loss, config.power), encoding.scaling
    return Resolved(
        columns, loss, scaling.shift0, scaling.scale0, tuple(left_out.items()), became, (),
        (encoding.target_shift, encoding.target_scale) if loss in ROBUST_LOSSES else (0.0, 1.0),
    )  # fmt: skip


def next_state(before: dict[str, Any], task: Task, context: RunContext) -> dict[str, Any]:
    """The state from which a run on the new files of ``task`` begins.

    Parameters
    ----------
    before : dict
        The state of the run before, as its last checkpoint has it.

    Raises
    ------
    ConfigError
        The run before was not one of windows, has not come to its end, or its schedule counts on one; a column would
        have more than ``--max-levels`` levels.
    SchemaError
        A new word gives a coefficient the name of another.
    """
    old = TrainState.from_state(before)
    _check_can_go_on(old, task)
    encoding, coordinates = _with_new_levels(old, task, context)
    task.check_room_for(encoding.n_coefficients, encoding.categorical, encoding.sparse)
    assert old.survey is not None
    level_sums = np.zeros(encoding.n_outputs * len(encoding.categorical))
    state = TrainState(
        encoding, coordinates, level_sums, old.rotation, old.learning_rate, old.best_constant, old.mean_weight,
        task.key, steps=old.steps, rows_seen=old.rows_seen,
        options=task.config.identity, left_out=old.left_out,
        earlier=old.survey if old.earlier is None else old.earlier.merge(old.survey), rows_before=old.rows_seen,
    )  # fmt: skip
    state.sum_levels()
    return state.state()


def _check_can_go_on(old: TrainState, task: Task) -> None:
    if task.order != "window" or old.survey is None or len(old.rotation):
        raise ConfigError(_ONLY_WINDOWS)
    if task.schedule != "constant":
        raise ConfigError(
            f"--schedule {task.schedule} counts on the end of a run, and a stream that goes on has none. Choose"
            f" constant."
        )
    if not is_final(old.stopped_by):
        raise ConfigError("the run before has not come to its end. Finish it first, or go on from an earlier one.")


# Levels


def _with_new_levels(old: TrainState, task: Task, context: RunContext) -> tuple[Encoding, np.ndarray]:
    """Encoding and coordinates with the levels of the new files, those of lists and maps among them."""
    growing = [each for each in old.encoding.categorical if not each.hashed]
    of_entries = [each for each in old.encoding.sparse if each.by_level]
    if not growing and not of_entries:
        return old.encoding, old.coordinates
    look = _look_at_levels(growing, of_entries, task, context)
    new = {
        each.column.name: _new_levels(each, words, counts)
        for each, words, counts in zip(growing, look.vocabularies, look.survey.level_counts, strict=True)
    }
    scales: dict[str, np.ndarray] = {}
    for each, met in zip(of_entries, look.sparse, strict=True):
        new[each.column.name], scales[each.column.name] = each.new_levels(met)
    for name, levels in new.items():
        if len(levels):
            context.display.message(f"{name}: {len(levels):,} new levels")
    encoding, rows, is_new = extended(old.encoding, new, scales)
    encoding.check_names()
    squares = _expected_squares(encoding, look, task, _targets(old, look.survey))
    optimizer = OPTIMIZERS[task.optimizer]
    slots = np.concatenate([optimizer.init(of_output) for of_output in squares], axis=1)
    penalty, anew = task.objective(encoding).penalty, optimizer.takes_penalty_anew
    return encoding, grown_coordinates(old, rows, is_new, slots, penalty, anew)


@dataclass(frozen=True)
class _Look:
    """What was met in the new files, the known levels first, and the entries of some of their rows."""

    survey: Survey
    vocabularies: list[Vocabulary]
    sparse: list[KeysMet]
    entries: RawEntries


def _look_at_levels(
    columns: list[CategoricalEncoding], of_entries: list[SparseEncoding], task: Task, context: RunContext
) -> _Look:
    """All levels of the training rows of the new files; only what is needed for it is read."""
    config, resolved = task.config, task.resolved.columns
    vocabularies = [
        Vocabulary(each.column, config.max_levels, config.hash_buckets, each.levels, growing=True) for each in columns
    ]
    sparse = [each.growing_keys(config.max_levels) for each in of_entries]
    read = Columns(
        (), tuple(each.column for each in columns), resolved.target, resolved.weight,
        sparse=tuple(each.column for each in of_entries),
    )  # fmt: skip
    layout = replace(
        task.layout, n_numeric=0, n_categorical=len(columns), has_offset=False,
        entries=entries_layout(task.manifest, read),
    )  # fmt: skip
    encoder = Encoder(
        read, layout, np.empty(0), np.empty(0), vocabularies, config.nulls, task.choice, sparse=sparse
    )  # fmt: skip
    context.display.progress("levels", 0, 0, None)
    check, stopwatch = context.interrupt.check_repeated, context.stopwatch
    survey, fronts = look_at_all(task.manifest, encoder, check, stopwatch, task.threads)
    for words in [*vocabularies, *(met.vocabulary for met in sparse)]:
        if words.hashed:
            raise ConfigError(
                f"column '{words.column.name}': with those of the new files it has more than --max-levels"
                f" {config.max_levels:,} levels. Raise it, or begin a new stream, in which the column is hashed."
            )
    found = [front.rows.entries for front in fronts if front.rows.entries is not None]
    return _Look(survey, vocabularies, sparse, joined_entries([no_entries(0), *found]))


def _new_levels(known: CategoricalEncoding, vocabulary: Vocabulary, counts: np.ndarray) -> pa.Array:
    """The levels that are not known, most frequent first, as ``final_levels`` has it."""
    counts = counts.copy()
    counts[: len(known.levels)] = 0.0
    return final_levels(vocabulary, counts)


def extended(
    encoding: Encoding, new: dict[str, pa.Array], scales: dict[str, np.ndarray] | None = None
) -> tuple[Encoding, np.ndarray, np.ndarray]:
    """The encoding with more levels, after those that columns have.

    Parameters
    ----------
    new : dict, name of column -> Arrow array
        Levels of categorical columns, which have a coefficient for all others, and of sparse ones; none is hashed.
    scales : dict, name of column -> float64, (n_levels,) or (0,), optional
        Of the new levels of sparse columns.

    Returns
    -------
    Encoding
    rows : int64, (n_dof,)
        For each row of theta the one that it was; for that of a new level, the one of all others, or -1 in a sparse
        column, where a level that is not known counts nothing.
    is_new : bool, (n_dof,)
    """
    first_row, categorical = encoding.n_numeric, []
    rows, is_new = [np.arange(first_row)], [np.zeros(first_row, np.bool_)]
    for column in encoding.categorical:
        levels = new.get(column.column.name, column.levels[:0])
        wider = replace(column, first_row=first_row, levels=pa.concat_arrays([column.levels, levels]))
        own = np.arange(column.first_row, column.first_row + column.n_rows)
        # The coefficient of all others stays the last one.
        rows.append(np.insert(own, len(own) - 1, np.full(len(levels), own[-1])))
        is_new.append(np.zeros(wider.n_rows, np.bool_))
        is_new[-1][wider.n_rows - 1 - len(levels) : -1] = True
        categorical.append(wider)
        first_row += wider.n_rows
    sparse = []
    for entries in encoding.sparse:
        levels = new.get(entries.column.name, entries.levels[:0])
        rows += [np.arange(entries.first_row, entries.first_row + entries.n_rows), np.full(len(levels), -1)]
        is_new += [np.zeros(entries.n_rows, np.bool_), np.ones(len(levels), np.bool_)]
        sparse.append(entries.with_levels(levels, (scales or {}).get(entries.column.name, np.empty(0))))
    rows.append(np.array([encoding.n_dof - 1]))
    is_new.append(np.zeros(1, np.bool_))
    encoding = replace(encoding, sparse=tuple(sparse)).with_categorical(categorical, first_row)
    return encoding, np.concatenate(rows), np.concatenate(is_new)


def grown_coordinates(
    old: TrainState, rows: np.ndarray, is_new: np.ndarray, slots: np.ndarray, penalty: ElasticNet, anew: bool = False
) -> np.ndarray:
    """The coordinates of ``old`` with those of new levels, float64, ``(n_outputs * n_dof, 4 + n_slots)``.

    A new level begins where all levels that were unknown stand: at their theta, with the penalty that it owes paid, and
    at its average, both as ``TrainState.result`` has them. Its optimizer begins anew.

    Parameters
    ----------
    rows, is_new : see :func:`extended`
    slots : float64, (n_slots, n_outputs * n_dof)
        Of the optimizer at its beginning.
    anew : bool
        Whether it ``takes_penalty_anew``.
    """
    of_outputs = np.split(slots, len(old.tables), axis=1)
    return np.concatenate([
        _grown(old, each, rows, is_new, own, penalty, anew) for each, own in zip(old.tables, of_outputs, strict=True)
    ])  # fmt: skip


def _grown(
    old: TrainState, before: np.ndarray, rows: np.ndarray, is_new: np.ndarray, slots: np.ndarray, penalty: ElasticNet,
    anew: bool,
) -> np.ndarray:  # fmt: skip
    """The coordinates of one output, see :func:`grown_coordinates`; ``before`` are those that it had."""
    theta, average = before[:, kernels.THETA].copy(), before[:, kernels.AVERAGE].copy()
    if penalty.l1 > 0.0 and anew:
        kernels.renewed_theta(before, old.steps, penalty.l1, penalty.l2, theta)
    elif penalty.l1 > 0.0:
        kernels.pay_penalty(before, old.steps, penalty.l1, penalty.l2, theta)
    if old.steps:
        kernels.averaged_theta(before, old.steps, average)
    coordinates: np.ndarray = before[rows]
    others = rows[is_new]
    begin = np.where(others >= 0, theta[others], 0.0)
    coordinates[is_new, kernels.THETA] = begin
    coordinates[is_new, kernels.AVERAGE] = np.where(others >= 0, average[others], 0.0)
    coordinates[is_new, kernels.CLOCK], coordinates[is_new, kernels.RATE] = old.steps, 0.0
    coordinates[is_new, kernels.SLOTS :] = slots[:, is_new].T
    if anew:
        coordinates[is_new, kernels.SLOTS] = taken_penalty(begin, old.steps, penalty.l1, penalty.l2)
    return coordinates


def _targets(old: TrainState, survey: Survey) -> Moments:
    """The moments of the targets of the whole stream, the new files included."""
    surveys = [each for each in (old.earlier, old.survey) if each is not None]
    return reduce(Moments.merge, [*(each.target_moments for each in surveys), survey.target_moments])


def _expected_squares(encoding: Encoding, look: _Look, task: Task, stream: Moments) -> np.ndarray:
    """What the square of a mini-batch's gradient by a level is expected to be, as ``stepsize.expected_squares`` has it.

    The mean square of a residual is the variance of the target, or of being of a class. With a log link it is that of
    the targets of the ``stream``: new files may have none but zeros, which have no constant that fits best. Returns
    float64, ``(n_outputs, n_dof)``, 0 where it is no level of a column that is not hashed.
    """
    survey = look.survey
    batch_size = 1 if task.config.method == "sgd" else task.config.batch_size
    variance = (survey.target_moments.deviation() / encoding.target_scale) ** 2
    if encoding.n_outputs > 1:
        shares = survey.class_counts / max(survey.weight, 1e-300)
        variance = shares * (1.0 - shares)
    squares = np.zeros(encoding.n_dof)
    growing = [each for each in encoding.categorical if not each.hashed]
    for column, words, counts in zip(growing, look.vocabularies, survey.level_counts, strict=True):
        rows = column.table(words)[: len(counts)]
        known = rows >= 0
        np.add.at(squares, rows[known], counts[known] / max(survey.weight, 1e-300))
    if isinstance(task.loss, KinkedLoss):
        # The slope takes two values, which differ by the steepness.
        variance = np.full(1, 0.25 * task.loss_of(encoding).max_curvature ** 2)
    if task.loss.link_name == "log":
        # The gradient is linear in the target.
        mean = float(stream.mean[0])
        constant = np.full(2, task.loss.best_constant(mean))
        variance = (
            stream.deviation() ** 2
            * float(np.diff(task.loss.gradient(np.array([mean, 2.0 * mean]), constant))[0] / mean) ** 2
        )
    expected = variance[:, None] * squares / batch_size
    if not look.sparse:
        return np.asarray(expected)
    curvature = usual_curvature(task.loss_of(encoding), float(stream.mean[0]))
    of_entries, norms = _squares_of_entries(encoding, look)
    expected += variance[:, None] * of_entries / batch_size
    return np.asarray(np.maximum(expected, (curvature * norms / batch_size) ** 2))


def _squares_of_entries(encoding: Encoding, look: _Look) -> tuple[np.ndarray, np.ndarray]:
    """Mean square of the entries of each level of a sparse column, and the norms that steps allow for.

    By some of the new rows; both are float64, ``(n_dof,)``, and 0 of other coordinates. Numbers and levels of other
    columns count in a norm with the 1 that they are on average.
    """
    by_level = [each for each in encoding.sparse if each.by_level]
    alone, n_alone = [], 0
    for each in by_level:
        alone.append(replace(each, first_row=n_alone))
        n_alone += each.n_rows
    found = EntriesFinisher(alone, look.sparse, np.dtype(np.float64)).of_rows(look.entries)
    n_rows, n_others = len(found.starts) - 1, encoding.n_numeric + len(encoding.categorical)
    sums = squares_of_entries(found, n_alone + 1)
    of_coordinates = norms_of_entries(found, np.full(n_rows, 1.0 + n_others), n_alone + 1, 0)
    squares, norms = np.zeros(encoding.n_dof), np.zeros(encoding.n_dof)
    for each, own in zip(by_level, alone, strict=True):
        squares[each.rows] = (sums[own.rows] + 1.0) / (n_rows + 1.0)
        norms[each.rows] = of_coordinates[own.rows]
    return squares, norms
