"""What a run has learnt, carried over to data that changed: coefficients follow their columns and levels by name.

The encoding is that of the new data, so theta is put into its units. New columns and levels begin at zero, as does a
column that is hashed on one side only, whose levels are of another type, or that is made otherwise: of bins with other
edges, or a cross of labels with other references. The optimizer begins anew: its state belongs to the gradients of
other rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamgd.data.columns import CategoricalColumn, Label, NumericColumn
from streamgd.data.encoding import Encoding
from streamgd.data.levels import LevelIndex
from streamgd.data.sparse import SparseEncoding
from streamgd.data.transforms.cross import Part
from streamgd.data.transforms.numbers import Steps
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import RunMismatchError
from streamgd.training.trainstate import TrainState

_Number = tuple[str, str | None, Steps]


def carried_theta(before: Encoding, theta: np.ndarray, after: Encoding) -> np.ndarray:
    """The theta (n_dof, n_outputs) of ``after`` that predicts what ``theta`` predicts under ``before``.

    That holds for rows of the columns and levels which both know, but for the rounding and for coefficients that
    ``after`` holds at zero.

    Raises
    ------
    RunMismatchError
        The target has other classes, whose coefficients mean something else.
    """
    were, are = (each.columns.target.classes if each.columns.target else None for each in (before, after))
    if were != are:
        raise RunMismatchError(
            f"the classes of the target were {_listed(were)}, those of the data are {_listed(are)}: the coefficients"
            f" would mean something else. Leave new ones out with --where, or start over with --restart."
        )
    before, theta = before.without_base_rows(theta)
    theta = theta * before.target_scale
    carried = np.zeros((after.n_dof, theta.shape[1]))
    intercept = theta[-1] + before.target_shift
    slopes = _Slopes(before, theta, after.columns.numeric)
    for row, column in enumerate(after.columns.numeric):
        slope = slopes.of(column)
        if column.name in after.columns.non_negative:
            slope = np.maximum(slope, 0.0)
        carried[row] = slope * after.scaling.scale[row]
        intercept += slope * (after.scaling.shift[row] - slopes.shift(column))
    intercept += slopes.moved()
    categorical = {each.column.name: each for each in before.categorical}
    for each in after.categorical:
        part, base = _level_rows(categorical.get(each.column.name), theta, each)
        carried[each.first_row : each.first_row + each.n_rows] = part
        intercept += base
    sparse = {each.column.name: each for each in before.sparse}
    for entries in after.sparse:
        if (known := sparse.get(entries.column.name)) is not None:
            carried[entries.rows] = _entry_rows(known, theta, entries)
    carried[-1] = intercept - after.target_shift
    return carried / after.target_scale


def _listed(classes: tuple[Label, ...] | None) -> str:
    return ", ".join(map(repr, classes)) if classes else "none"


class _Slopes:
    """What a unit of each number added to the prediction, at each level that it is crossed with.

    Where a number is a feature itself, its coefficient is the slope at the reference of each of its crosses, and the
    others are differences to it. The reference is the most frequent level, which may be another one now.
    """

    def __init__(self, before: Encoding, theta: np.ndarray, after: Sequence[NumericColumn]):
        numeric = before.columns.numeric
        self._rows = {(_number(column), _level(column)): row for row, column in enumerate(numeric)}
        self._slopes: np.ndarray = theta[: before.n_numeric] / before.scaling.scale[:, None]
        self._shift: np.ndarray = before.scaling.shift
        #: By how much the slopes of those that were used are larger now: none, but of numbers that are crossed.
        self._gained = np.zeros_like(self._slopes)
        self._used: set[int] = set()
        #: Part and reference of the crosses of each number, among which its slopes are divided now.
        self._crosses: dict[_Number, dict[Part, str | None]] = {}
        for column in after:
            if column.at is not None:
                self._crosses.setdefault(_number(column), {})[column.at.part] = column.at.reference

    def of(self, column: NumericColumn) -> np.ndarray:
        """The slope that the coefficient of a column stands for, ``(n_outputs,)``; zero of what is not known."""
        key = number, level = _number(column), _level(column)
        crosses = self._crosses.get(number, {})
        slope = self._before(number, level).copy()
        if column.at is None:
            for cross in crosses.items():
                slope += self._before(number, cross)
        elif column.at.reference is not None:  # a level that had no slope of its own had that of the number
            slope -= self._before(number, (column.at.part, column.at.reference))
        elif column.at.part == next(iter(crosses)):  # one of its crosses has the slope of what is no feature now
            slope += self._before(number, None)
        if key in self._rows:
            self._gained[self._rows[key]] += slope
        return slope

    def shift(self, column: NumericColumn) -> float:
        """Where the column's unit began, 0 of one that is not known."""
        row = self._rows.get((_number(column), _level(column)))
        return 0.0 if row is None else float(self._shift[row])

    def moved(self) -> np.ndarray:
        """What the intercept gains where slopes went from one column to others, after all were asked for."""
        moved: np.ndarray = self._shift @ self._gained
        return moved

    def _before(self, number: _Number, level: tuple[Part, str | None] | None) -> np.ndarray:
        row = self._rows.get((number, level))
        if row is None:
            return np.zeros(self._slopes.shape[1])
        slope: np.ndarray = self._slopes[row]
        if row not in self._used:
            self._used.add(row)
            self._gained[row] -= slope
        return slope


def _number(column: NumericColumn) -> _Number:
    """The number that a column is, or that counts in it at a level."""
    return column.source, column.part, column.steps


def _level(column: NumericColumn) -> tuple[Part, str | None] | None:
    return None if column.at is None else (column.at.part, column.at.text)


def _level_rows(
    before: CategoricalEncoding | None, theta: np.ndarray, after: CategoricalEncoding
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one column ``(n_rows, n_outputs)``, and what its base level adds to the intercept."""
    nothing = np.zeros(theta.shape[1])
    rows = np.zeros((after.n_rows, len(nothing)))
    if before is None or before.buckets != after.buckets or not _same_levels(before.column, after.column):
        return rows, nothing
    old = theta[before.first_row : before.first_row + before.n_rows]
    if after.hashed:
        return old, nothing
    unknown = old[-1] if before.other else nothing
    places = LevelIndex(before.column.values, before.levels).codes(after.levels, growing=False)
    # The base level comes first and has no row; levels that are not known come last.
    values = np.concatenate([[nothing], old[: len(before.levels) - 1], [unknown]])[places]
    base = values[0] if len(values) and not after.base_row else nothing
    kept = values[0 if after.base_row else 1 :] - base
    rows[: len(kept)] = kept
    if after.other:
        rows[-1] = unknown - base
    return rows, base


def _entry_rows(before: SparseEncoding, theta: np.ndarray, after: SparseEncoding) -> np.ndarray:
    """The rows of a sparse column ``(n_rows, n_outputs)``: those of the same level, index or bucket."""
    rows = np.zeros((after.n_rows, theta.shape[1]))
    same = before.column.keys == after.column.keys and before.buckets == after.buckets
    if not same or not before.n_rows:
        return rows
    if after.by_level:
        places = LevelIndex("string", before.levels).codes(after.levels, growing=False)
        known = places >= 0
    else:
        places = np.minimum(np.searchsorted(before.indices, after.indices), before.n_rows - 1)
        known = before.indices[places] == after.indices
    rows[known] = theta[before.rows][places[known]]
    for column, moved in ((before, places[known]), (after, np.flatnonzero(known))):
        if column.column.has_values:  # a slope by one unit of the value
            scales = column.divisors[moved][:, None]
            rows[known] = rows[known] * scales if column is after else rows[known] / scales
    return rows


def _same_levels(before: CategoricalColumn, after: CategoricalColumn) -> bool:
    """Whether a level of one is the same thing in the other."""
    return before.values == after.values and before.made == after.made


def in_coordinates(theta: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Theta (n_dof, n_outputs) in the coordinates of the loop: see ``TrainState.rotation``."""
    moved, n = theta.copy(), len(rotation)
    # The coefficients are R' phi, and R is not orthonormal.
    moved[:n] = np.linalg.solve(rotation.T, theta[:n])
    return moved


def carry_over(state: TrainState, old: TrainState, theta: np.ndarray) -> None:
    """Let a new state go on where ``old`` stood, from the epoch after it if it was in the middle of one.

    Parameters
    ----------
    theta : float64, (n_dof, n_outputs)
        The coefficients that ``old`` would predict with, in its encoding.
    """
    carried = in_coordinates(carried_theta(old.encoding, theta, state.encoding), state.rotation)
    state.theta[:], state.average[:], state.clock[:] = carried, carried, old.steps
    state.sum_levels()
    state.learning_rate = min(state.learning_rate, old.learning_rate)
    for name in ("asked_epochs", "epoch", "steps", "rows_seen", "rollbacks", "history_bytes"):
        setattr(state, name, getattr(old, name))
    epochs = [(entry["epoch"], entry["rows"]) for entry in old.epoch_losses]
    if old.position:
        epochs.append((old.epoch + 1, old.rows_of_epoch))
        state.epoch += 1
    # Losses on other rows say nothing of those to come.
    unknown = dict.fromkeys(("progressive", "constant", "holdout"))
    state.epoch_losses = [{"epoch": epoch, "rows": rows, **unknown} for epoch, rows in epochs]
