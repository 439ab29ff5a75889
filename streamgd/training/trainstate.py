"""The state of a stochastic run: exactly what a checkpoint holds, and all that is needed to go on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Reexpression
from streamgd.data.survey import Survey
from streamgd.kernels import coordinates as kernels
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.stochastic import StochasticOptimizer, taken_penalty
from streamgd.state import no_other_content


@dataclass
class TrainState:
    """Where a run stands.

    Attributes
    ----------
    key, asked_epochs : str, int
        What the run is (``Task.key``), and the epochs it was last asked for.
    epoch, position : int
        The consumer's cursor: epochs done, and blocks or windows of this one that were trained on.
    steps, rows_seen : int
        Updates and rows since the start.
    coordinates : float64, (n_outputs * n_dof, 4 + n_slots)
        A row for each coordinate of theta, output after output, see ``kernels.coordinates``; ``theta`` and so on are
        views of its columns.
    level_sums : float64, (n_outputs * n_categorical,)
        See ``kernels.coordinates.sum_levels``; kept, since summing anew would not give the same bits.
    rotation : float64, (n_numeric, n_numeric) or (0, 0)
        Coordinates of the loop, see ``kernels.stochastic``; empty: the coefficients themselves.
    learning_rate : float
        Alpha; halved by each rollback.
    survey : Survey or None
        Of the rows of the first epoch so far, where the scaler learns as it goes.
    sums : float64, (4,)
        Of this epoch: weighted progressive loss, its weight, the sum of its squared terms, and the same loss of the
        best constant.
    epoch_losses : list of dict
        One entry for each epoch done.
    snapshot, epoch_snapshot : dict or None
        The last good state, and the one at the start of the epoch, to go back to.
    best : dict or None
        Epoch, holdout loss and theta of the best epoch so far.
    previous_coefficients : float64, or None
        Of the result after the last epoch, in units of the target.
    options, left_out : dict
        The options that decide the result, and the columns that were left out, each with its reason.
    earlier : Survey or None
        Where a stream goes on with new files (``training.increment``): of the rows of the runs before.
    rows_before : int
        Rows that the runs before have used.
    """

    encoding: Encoding
    coordinates: np.ndarray
    level_sums: np.ndarray
    rotation: np.ndarray
    learning_rate: float
    best_constant: float | np.ndarray
    mean_weight: float
    key: str
    asked_epochs: int = 0
    epoch: int = 0
    position: int = 0
    steps: int = 0
    rows_seen: int = 0
    rollbacks: int = 0
    survey: Survey | None = None
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))
    epoch_losses: list[dict[str, Any]] = field(default_factory=list)
    snapshot: dict[str, Any] | None = None
    epoch_snapshot: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    previous_coefficients: np.ndarray | None = None
    history_bytes: int = 0
    stopped_by: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)
    earlier: Survey | None = None
    rows_before: int = 0

    @classmethod
    def start(cls, encoding: Encoding, theta: np.ndarray, slots: np.ndarray, **values: Any) -> Self:
        """The state before the first step, at ``theta`` (n_dof, n_outputs).

        ``slots`` (n_slots, n_outputs * n_dof) are those of the optimizer, output after output.
        """
        coordinates = np.zeros((theta.size, kernels.SLOTS + len(slots)))
        coordinates[:, kernels.THETA] = coordinates[:, kernels.AVERAGE] = theta.T.ravel()
        coordinates[:, kernels.SLOTS :] = slots.T
        state = cls(encoding, coordinates, np.zeros(theta.shape[1] * len(encoding.categorical)), **values)
        state.sum_levels()
        return state

    @property
    def theta(self) -> np.ndarray:
        """In the coordinates of the loop, float64, ``(n_dof, n_outputs)``.

        See ``rotation`` and ``Encoding.with_base_rows``.
        """
        return self.tables[:, :, kernels.THETA].T

    @property
    def average(self) -> np.ndarray:
        """Of theta, as it was when each coordinate was last touched; ``(n_dof, n_outputs)``."""
        return self.tables[:, :, kernels.AVERAGE].T

    @property
    def clock(self) -> np.ndarray:
        """Step at which each coordinate was last touched, ``(n_outputs * n_dof,)``."""
        return self.coordinates[:, kernels.CLOCK]

    @property
    def slots(self) -> np.ndarray:
        """Of the optimizer, ``(n_slots, n_outputs * n_dof)``."""
        return self.coordinates[:, kernels.SLOTS :].T

    @property
    def tables(self) -> np.ndarray:
        """The coordinates of each output, ``(n_outputs, n_dof, 4 + n_slots)``; a view."""
        return self.coordinates.reshape(self.encoding.n_outputs, -1, self.coordinates.shape[1])

    @property
    def sums_of_levels(self) -> np.ndarray:
        """``level_sums`` of each output, ``(n_outputs, n_categorical)``; a view."""
        return self.level_sums.reshape(self.encoding.n_outputs, -1)

    @property
    def rows_of_epoch(self) -> int:
        """Rows of this epoch that were used so far."""
        return self.rows_seen - self.rows_before - sum(int(entry["rows"]) for entry in self.epoch_losses)

    def theta_before_epoch(self) -> np.ndarray:
        """Theta as this epoch began, by which rows are predicted; ``(n_dof, n_outputs)``."""
        assert self.epoch_snapshot is not None
        tables: np.ndarray = self.epoch_snapshot["coordinates"].reshape(self.tables.shape)
        return self._of_features(tables[:, :, kernels.THETA].T.copy())

    def _of_features(self, theta: np.ndarray) -> np.ndarray:
        """Theta in the coordinates of the loop, changed in place to the coefficients of the features."""
        n = len(self.rotation)
        theta[:n] = self.rotation.T @ theta[:n]
        return theta

    def sum_levels(self) -> None:
        """Bring ``level_sums`` up to date with theta."""
        ranges = self.encoding.level_ranges()
        for table, level_sums in zip(self.tables, self.sums_of_levels, strict=True):
            kernels.sum_levels(table, ranges, level_sums)

    def result(self, averaging: bool, penalty: ElasticNet, anew: bool = False) -> np.ndarray:
        """The coefficients to predict with, of the averaged iterate up to now or of theta itself.

        Float64, ``(n_dof, n_outputs)``. ``anew`` says whether the optimizer ``takes_penalty_anew``.
        """
        outputs = np.ascontiguousarray(self.theta.T)
        for table, out in zip(self.tables, outputs, strict=True):
            if penalty.l1 > 0.0 and anew:
                kernels.renewed_theta(table, self.steps, penalty.l1, penalty.l2, out)
            elif penalty.l1 > 0.0:
                # Levels that were not touched of late owe the penalty of these steps; only then are zeros exact.
                kernels.pay_penalty(table, self.steps, penalty.l1, penalty.l2, out)
            if averaging and self.steps:
                kernels.averaged_theta(table, self.steps, out)
        return penalty.allowed(self._of_features(np.ascontiguousarray(outputs.T)))

    def take_penalty(self, penalty: ElasticNet) -> None:
        """Let theta, set from elsewhere, count as one with the penalty of all steps so far, if that is taken anew."""
        for table in self.tables:
            theta = table[:-1, kernels.THETA]
            l2, n = np.full(len(theta), penalty.l2), len(self.rotation)
            l2[:n] *= np.square(self.rotation).sum(axis=1)
            table[:-1, kernels.SLOTS] = taken_penalty(theta, self.steps, penalty.l1, l2)

    def reexpress(self, encoding: Encoding, optimizer: StochasticOptimizer) -> list[int]:
        """Carry theta, its average and the optimizer's slots over to a moved scaling.

        Returns
        -------
        list of int
            Columns that had been nearly constant, whose coefficients restart at zero.
        """
        old, new = self.encoding.scaling, encoding.scaling
        if (old.mean == new.mean).all() and (old.deviation == new.deviation).all():
            self.encoding = encoding  # no bit changes: to come here twice is as good as once
            return []
        move = Reexpression(old, new)
        grown = np.flatnonzero(move.after.deviation > 10.0 * move.before.deviation).tolist()
        for table in self.tables:
            theta, average, slots = table[:, kernels.THETA], table[:, kernels.AVERAGE], table[:, kernels.SLOTS :].T
            for column in grown:
                theta[column] = average[column] = 0.0
                slots[:, column] = 0.0
            theta[:] = move.displacement(theta)
            average[:] = move.displacement(average)
            kinds = optimizer.slots
            if "squares" in kinds:
                squares, cross = kinds.index("squares"), kinds.index("cross")
                slots[squares] = move.squares(slots[squares], slots[cross])
                slots[cross] = move.cross(slots[cross])
            for slot, kind in enumerate(kinds):
                if kind == "displacement":
                    slots[slot] = move.displacement(slots[slot])
                elif kind in ("gradient", "penalty"):
                    slots[slot] = move.gradient(slots[slot])
        self.encoding = encoding
        return grown

    def take_snapshot(self) -> None:
        """Remember this state as good, in the memory of the snapshot before if nothing else needs that."""
        before = self.snapshot if self.snapshot is not self.epoch_snapshot or self.position == 0 else None
        snapshot = {name: _copied(getattr(self, name), (before or {}).get(name)) for name in _SNAPSHOT}
        snapshot["survey"] = self.survey.state() if self.survey else None
        scaling = self.encoding.scaling
        snapshot["scaling"] = [scaling.mean.copy(), scaling.deviation.copy(), scaling.fill.copy()]
        self.snapshot = snapshot
        if self.position == 0:
            self.epoch_snapshot = snapshot

    def go_back(self, whole_epoch: bool) -> None:
        """Return to the last good state, or to the start of the epoch, with half the learning rate."""
        if whole_epoch:
            self.snapshot = self.epoch_snapshot
        assert self.snapshot is not None
        for name in _SNAPSHOT:
            setattr(self, name, _copied(self.snapshot[name]))
        survey = self.snapshot["survey"]
        self.survey = Survey.from_state(survey) if survey else None
        self.encoding = _with_scaling(self.encoding, *self.snapshot["scaling"])
        self.learning_rate *= 0.5
        self.rollbacks += 1

    def state(self) -> dict[str, Any]:
        """Plain values and arrays; :meth:`from_state` is the inverse.

        A snapshot that was taken here and now is left out: it would hold the same again. One that is that of the epoch
        is an empty dict.
        """
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("snapshot", "epoch_snapshot"):
            if state[name] is not None and (state[name]["epoch"], state[name]["position"]) == (
                self.epoch,
                self.position,
            ):
                state[name] = None
        if state["snapshot"] is not None and self.snapshot is self.epoch_snapshot:
            state["snapshot"] = {}
        state["encoding"] = self.encoding.state()
        for name in ("survey", "earlier"):
            survey = getattr(self, name)
            state[name] = survey.state() if survey else None
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The state again.

        Raises
        ------
        CorruptStateError
            It is not one that :meth:`state` gave: compiled code trusts the shapes.
        """
        with no_other_content("the checkpoint", "state to go on from"):
            if state["snapshot"] == {}:
                state = {**state, "snapshot": state["epoch_snapshot"]}
            parts: dict[str, Any] = {"encoding": Encoding.from_state(state["encoding"])}
            for name in ("survey", "earlier"):
                parts[name] = Survey.from_state(state[name]) if state.get(name) else None
            restored = cls(**{**state, **parts})
            check_types(restored)
            restored.encoding.check()
            restored._check_shapes()
        if restored.snapshot is None:
            restored.take_snapshot()
        return restored

    def _check_shapes(self) -> None:
        """Raise ValueError or KeyError where an array, here or in a snapshot, does not suit the encoding."""
        n_dof, n = self.encoding.n_dof, self.encoding.n_numeric if len(self.rotation) else 0
        n_columns, n_outputs = max(kernels.SLOTS, self.coordinates.shape[-1]), self.encoding.n_outputs
        n_sums = n_outputs * len(self.encoding.categorical)
        shapes = {"coordinates": (n_outputs * n_dof, n_columns), "level_sums": (n_sums,), "sums": (4,)}
        if np.shape(self.best_constant) != (() if n_outputs == 1 else (n_outputs,)):
            raise ValueError(f"best_constant has shape {np.shape(self.best_constant)}")
        shapes |= {"rotation": (n, n)}
        snapshots = [each for each in (self.snapshot, self.epoch_snapshot) if each is not None]
        for name, shape in shapes.items():
            for found in [getattr(self, name), *(each[name] for each in snapshots if name in _SNAPSHOT)]:
                if np.shape(found) != shape or found.dtype != np.float64:
                    raise ValueError(f"{name} has shape {np.shape(found)}, expected {shape}")
        for each in snapshots:
            check_entries(each, epoch=int, position=int, steps=int, rows_seen=int)
        for each in self.epoch_losses:
            loss = float | None
            check_entries(each, epoch=int, rows=int, progressive=loss, constant=loss, holdout=loss)
        if self.best is not None and np.shape(self.best["theta"]) != (n_dof, n_outputs):
            raise ValueError(f"the best theta has shape {np.shape(self.best['theta'])}, expected {(n_dof, n_outputs)}")
        before = self.previous_coefficients
        if before is not None and before.shape != self.encoding.without_base_rows(self.theta)[1].shape:
            raise ValueError(f"previous_coefficients has shape {before.shape}")


_TYPES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "str | None": str | None, "float | None": float | None,
    "float | np.ndarray": float | np.ndarray,
    "np.ndarray": np.ndarray, "np.ndarray | None": np.ndarray | None, "dict[str, Any]": dict,
    "dict[str, Any] | None": dict | None, "dict[str, float] | None": dict | None, "list[dict[str, Any]]": list,
}  # fmt: skip


def check_types(state: Any) -> None:
    """Raise ValueError where a field of a state is not of the type that it is declared to be."""
    for each in fields(state):
        expected, found = _TYPES.get(str(each.type)), getattr(state, each.name)
        entries = found if isinstance(found, list) else []
        if expected is not None and not (isinstance(found, expected) and all(isinstance(x, dict) for x in entries)):
            raise ValueError(f"{each.name} is of type {type(found).__name__}, expected {each.type}")
    if state.best is not None:
        check_entries(state.best, epoch=int, loss=float | None, theta=np.ndarray)


def check_entries(values: dict[str, Any], **types: Any) -> None:
    """Raise ValueError or KeyError where a value is missing, or not of its type."""
    for name, expected in types.items():
        if not isinstance(values[name], expected):
            raise ValueError(f"{name} is of type {type(values[name]).__name__}")


_SNAPSHOT = ("coordinates", "level_sums", "epoch", "position", "steps", "rows_seen", "sums")


def _copied(value: Any, memory: Any = None) -> Any:
    """A copy of an array, in ``memory`` if that has its shape: new memory costs more than the copy."""
    if not isinstance(value, np.ndarray):
        return value
    if not isinstance(memory, np.ndarray) or memory.shape != value.shape:
        return value.copy()
    memory[:] = value
    return memory


def _with_scaling(encoding: Encoding, mean: np.ndarray, deviation: np.ndarray, fill: np.ndarray) -> Encoding:
    scaling = replace(encoding.scaling, mean=mean.copy(), deviation=deviation.copy(), fill=fill.copy())
    return encoding.with_scaling(scaling)
