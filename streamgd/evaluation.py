"""How good a model is on data, in one streamed pass: metrics, the base rate beside them, and a table by level.

    row groups ── threads: decode, encode, predict ── in order ──> sums, row group after row group

The sums are taken in the order of the rows, so the result does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.agreement import check_columns
from streamgd.data.blocks import Block
from streamgd.data.columns import Label
from streamgd.data.encoder import EncodedRows, RowChoice
from streamgd.data.filters import parse_where
from streamgd.data.kinds import kind_of, python_values, type_name
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, RowGroup, discover
from streamgd.data.stream import can_hold_rows, one_pass, origin_of
from streamgd.data.vocabulary import level_name
from streamgd.errors import ConfigError, CorruptFileError, NoInputError, did_you_mean
from streamgd.markup import table
from streamgd.model import Model, model_of
from streamgd.notebook import notebook_display
from streamgd.objective.metrics import Result
from streamgd.objective.multiclass import ClassMetrics, MulticlassMetrics, metrics_for
from streamgd.option_values import parse_sources
from streamgd.plain import plain
from streamgd.training.display import Display, Silent

#: A column with more levels than this is not one to compare by.
MOST_LEVELS = 10_000

#: Rows of the data by what the run did with them.
Part = Literal["all", "train", "holdout"]


@dataclass(frozen=True)
class LevelRow:
    """One level of the column compared by: mean target and mean prediction of its rows, weighted, and their ratio.

    ``level`` is None for null and NaN; ``ratio`` is None where the mean prediction is 0.
    """

    level: Label | None
    rows: int
    weight: float
    actual: float
    predicted: float
    ratio: float | None


@dataclass(frozen=True)
class ClassRow:
    """One of more than two classes against the rest."""

    label: Label
    metrics: ClassMetrics

    def to_json(self) -> dict[str, Any]:
        return {"class": plain(self.label), **asdict(self.metrics)}


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes
    ----------
    rows, weight : int, float
        Rows that were compared, and their total weight.
    dropped : dict, reason -> rows
        Rows passed over: ``where``, ``null target``, ``zero weight``, ``null feature``.
    metrics : dict
        By name, as in :mod:`streamgd.objective.metrics`; ``base_…`` is that of the best constant prediction.
    by : str or None
        The column that ``levels`` are of.
    levels : tuple of LevelRow
        In the order of their values, null last.
    classes : tuple of ClassRow
        Where there are more than two: each against the rest.
    confusion : tuple of tuple of float
        Then also the total weight of rows of one class (outer) that are predicted as another (inner).
    """

    rows: int
    weight: float
    dropped: dict[str, int]
    metrics: Result
    by: str | None = None
    levels: tuple[LevelRow, ...] = field(default=())
    classes: tuple[ClassRow, ...] = field(default=())
    confusion: tuple[tuple[float, ...], ...] = field(default=())

    def _repr_html_(self) -> str:
        """The metrics with the base rate beside each, and the table by level, for notebooks."""
        metrics = [name for name in self.metrics if not name.startswith("base_")]
        rows = [[name.replace("_", " "), self.metrics[name], self.metrics.get(f"base_{name}")] for name in metrics]
        shown = table([f"{self.rows:,} rows", "model", "base rate"], rows)
        if self.by is None:
            return shown
        names = ("rows", "weight", "actual", "predicted", "ratio")
        levels = [[level_name(row.level), *(getattr(row, name) for name in names)] for row in self.levels]
        return shown + table([self.by, *names], levels)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the metrics stand beside ``rows``, and what is not finite is None."""
        fields: dict[str, Any] = {"rows": self.rows, "weight": self.weight, "dropped": self.dropped}
        fields |= {name: _finite(value) for name, value in self.metrics.items()}
        if self.by is not None:
            levels = [{name: _finite(value) for name, value in asdict(row).items()} for row in self.levels]
            fields |= {"by": self.by, "levels": levels}
        if self.classes:
            classes = [{name: _finite(value) for name, value in row.to_json().items()} for row in self.classes]
            fields |= {"classes": classes, "confusion": [list(row) for row in self.confusion]}
        return fields


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def evaluate(
    model: Model | str | Path,
    data: Sequence[str] | str,
    by: str | None = None,
    where: str | None = None,
    part: Part = "all",
    threads: int | None = None,
    check: Callable[[], None] = lambda: None,
    display: Display | None = None,
    *,
    only: Collection[str] | None = None,
    filesystem: Any = None,
) -> Evaluation:
    """Compare the model's predictions with the target of ``data``, weighted as in training.

    Parameters
    ----------
    model : Model, what ``train`` gave, a fitted estimator, or the path of a run or of a model file
    data : str or sequence of str
        Files, directories, globs or URIs.
    by : str, optional
        A column of at most 10,000 levels; also target and prediction are then compared for each of them. A number
        is taken value by value, not in ranges.
    where : str, optional
        Only the rows that meet this condition.
    part : {"all", "train", "holdout"}
        Only the rows that the run trained on, or held out by ``--holdout``: the data must be named as in training,
        since rows are chosen by their relative path and number.
    threads : int, optional
        One for each core if not given; the result does not depend on it.
    check : callable
        Called between slices; what it raises ends the work.
    display : Display, optional
    only : collection of str, optional
        Relative paths of the files of ``data`` to compare on.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        Where ``data`` are.

    Raises
    ------
    NoInputError, CorruptFileError, DataChangedError
        From finding and reading the data; or no row is left to compare.
    SchemaError
        The data lack a column of the model (target, weight and offset too), or have it in another kind of type.
    DataError, TargetError
        A value that cannot be: an infinite feature, a negative weight, a third class.
    ConfigError
        ``by`` is no column, has too many levels or a type without levels; ``where`` cannot be read.
    """
    model = model_of(model)
    tally, table = Tally(model), _LevelTable(by) if by is not None else None
    rows = compared_pieces(model, data, by, where, part, threads, check, display, only=only, filesystem=filesystem)
    with closing(rows) as pieces:
        for piece in pieces:
            tally.add(piece)
            if table is not None:
                table.add(piece)
    return tally.evaluation(by, table.rows() if table is not None else ())


@dataclass(frozen=True)
class Piece:
    """Rows of a slice: arrays ``(n_rows,)`` of those that are compared, and what was passed over.

    Of more than two classes ``prediction`` and ``raw`` have a column for each. They are of ``file``, a relative path;
    ``offset`` is empty where there is none. ``level`` has the index of each row's level in ``levels``; ``observed`` is
    what the observer made of the rows.
    """

    file: str
    rows_read: int
    dropped: dict[str, int]
    target: np.ndarray
    prediction: np.ndarray
    raw: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    levels: list[Label | None]
    level: np.ndarray
    observed: Any = None


class Tally:
    """Sums of the pieces that are added, in the order of the rows."""

    def __init__(self, model: Model):
        self._classes = model.classes or ()
        self._metrics = metrics_for(model.loss, model.n_outputs)
        self._dropped: dict[str, int] = {}

    def add(self, piece: Piece) -> None:
        self._metrics.add(piece.target, piece.prediction, piece.raw, piece.weight, piece.offset)
        add_counts(self._dropped, piece.dropped)

    def evaluation(self, by: str | None = None, levels: tuple[LevelRow, ...] = ()) -> Evaluation:
        """What was found.

        Raises
        ------
        NoRowsError
            No row was left to compare.
        """
        metrics, dropped = self._metrics, self._dropped
        check_any_left(metrics.weight, dropped)
        found = Evaluation(metrics.rows, metrics.weight, dropped, metrics.result(), by, levels)
        if not isinstance(metrics, MulticlassMetrics):
            return found
        classes = tuple(starmap(ClassRow, zip(self._classes, metrics.of_classes(), strict=True)))
        return replace(found, classes=classes, confusion=tuple(map(tuple, metrics.confusion.tolist())))


class Observer(Protocol):
    """Makes something small of the rows of a slice; called on several threads at once."""

    def __call__(
        self,
        batch: pa.RecordBatch,
        found: EncodedRows,
        kept: np.ndarray,
        block: Block,
        prediction: np.ndarray,
        weight: np.ndarray,
    ) -> Any:
        """What is handed on as ``Piece.observed``.

        Parameters
        ----------
        batch : RecordBatch
            The rows of the slice as they were read.
        found : EncodedRows
            What encoding it found.
        kept : bool, (batch.num_rows,)
            The rows that are compared; the others are of these.
        block : Block
        prediction, weight : float64, (n_rows,)
        """


def compared_pieces(
    model: Model,
    data: Sequence[str] | str,
    by: str | None = None,
    where: str | None = None,
    part: str = "all",
    threads: int | None = None,
    check: Callable[[], None] = lambda: None,
    display: Display | None = None,
    observe: Observer | None = None,
    only: Collection[str] | None = None,
    filesystem: Any = None,
    skip_bad: bool = False,
) -> Generator[Piece, None, None]:
    """The rows of ``data`` with their predictions, slice by slice in order; to be closed where it may be left early.

    Parameters and errors as for :func:`evaluate`; ``observe`` sees the encoded rows of each slice. With ``skip_bad``
    what cannot be read of a row group is passed over.
    """
    texts = model.encoding.columns.text_labels
    manifest = discover(parse_sources(data), filesystem, skip_bad=skip_bad, only=only, texts=texts)
    compared = _Compared(model, manifest, by, where, part, observe, skip_bad)
    yield from shown_pass("evaluate", manifest, compared.pieces, threads, check, display)


class ReadRows(Protocol):
    """Something made of rows that were read."""

    @property
    def rows_read(self) -> int: ...


OfRows = TypeVar("OfRows", bound=ReadRows)


def shown_pass(
    phase: str,
    manifest: Manifest,
    pieces_of: Callable[[RowGroup], Iterator[OfRows]],
    threads: int | None,
    check: Callable[[], None],
    display: Display | None,
) -> Generator[OfRows, None, None]:
    """What ``pieces_of`` makes of each row group, in order, while the display tells how many rows were read."""
    display = display or notebook_display() or Silent()
    rows_read = 0
    with closing(one_pass(manifest, manifest.row_groups, pieces_of, threads, check)) as pieces:
        for _, piece in pieces:
            yield piece
            rows_read += piece.rows_read
            display.progress(phase, rows_read, manifest.n_rows, None)
    display.close()


class NoRowsError(NoInputError):
    """There are data, and no row of them is left to compare."""


def add_counts(counts: dict[str, int], more: dict[str, int]) -> None:
    """Add ``more`` to ``counts``, name by name."""
    for name, rows in more.items():
        counts[name] = counts.get(name, 0) + rows


def check_any_left(weight: float, dropped: dict[str, int], to: str = "evaluate") -> None:
    """Raise NoRowsError where no row was left to evaluate or ``compare`` on."""
    if weight == 0.0:
        reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in dropped.items())
        raise NoRowsError(f"no row is left to {to} on; passed over: {reasons}. Look at the target and at --where.")


class _Compared:
    """Makes pieces from the row groups of a data set."""

    def __init__(
        self, model: Model, manifest: Manifest, by: str | None, where: str | None, part: str,
        observe: Observer | None, skip_bad: bool,
    ):  # fmt: skip
        self._model = model
        self._passed_over = (CorruptFileError,) if skip_bad else ()
        self._observe = observe
        self._manifest = manifest
        self._by = by
        self._part = part
        choice = part_choice(model, manifest, where, part)
        self._encoder = model.encoder(with_target=True, choice=choice)
        check_columns(self._encoder.columns, manifest)
        if by is not None:
            if model.n_outputs > 1:
                raise ConfigError(
                    f"--by {by} sets mean target and mean prediction side by side, and {model.n_outputs} classes have"
                    f" no mean. Leave it out, or choose rows with --where."
                )
            _check_by(manifest, by)
            manifest.check_same([by])
        manifest.check_same(choice.where.columns if choice.where is not None else ())
        columns = [*self._encoder.read_columns, *([by] if by is not None else [])]
        self._columns = list(dict.fromkeys(columns))

    def pieces(self, row_group: RowGroup) -> Iterator[Piece]:
        """The rows of one row group, slice by slice."""
        with suppress(*self._passed_over):
            yield from self._pieces(row_group)

    def _pieces(self, row_group: RowGroup) -> Iterator[Piece]:
        manifest, encoder, model = self._manifest, self._encoder, self._model
        file = manifest.files[row_group.file_index].relative
        if not can_hold_rows(manifest, row_group, encoder.encoder):
            none = np.empty(0)
            counted = {"where": row_group.rows}
            yield Piece(file, row_group.rows, counted, none, none, none, none, none, [], np.empty(0, np.int64))
            return
        start = 0
        for batch in read_batches(
            manifest, row_group, self._columns, encoder.dictionary_columns, model.slice_rows(encoder)
        ):
            block, found = encoder.encode(batch, origin_of(manifest, row_group, start))
            kept = found.kept & in_part(found, self._part)
            block = block.chosen(kept)
            raw = model.raw_prediction(block)
            weight = block.weight if encoder.layout.has_weight else np.ones(block.rows)
            levels: list[Label | None] = []
            level = np.empty(0, np.int64)
            if self._by is not None:
                levels, level = _levels_of(batch.column(self._by), self._by)
                level = level[kept]
            prediction = model.compared_prediction(raw)
            observed = self._observe(batch, found, kept, block, prediction, weight) if self._observe else None
            yield Piece(
                file, batch.num_rows, found.survey.dropped, block.target, prediction, raw, weight, block.offset,
                levels, level,                observed,
            )  # fmt: skip
            start += batch.num_rows


def in_part(found: EncodedRows, part: str) -> Any:
    """Which rows belong to a part, shape (n_rows,); or True."""
    return {"all": True, "train": ~found.holdout, "holdout": found.holdout}[part]


def check_part(part: str) -> None:
    """Raise ConfigError where there is no such part."""
    if part not in ("all", "train", "holdout"):
        raise ConfigError(f"--part: expected all, train or holdout, found {part!r}.")


def part_choice(model: Model, manifest: Manifest, where: str | None, part: str) -> RowChoice:
    """The rows to look at; those held out are told apart as the run did."""
    check_part(part)
    if part != "all" and model.facts.get("where"):
        where = f"({where}) and ({model.facts['where']})" if where else model.facts["where"]
    condition = parse_where(where, manifest.schema) if where is not None else None
    if part == "all":
        return RowChoice(where=condition)
    if part == "holdout" and not model.facts.get("holdout"):
        raise ConfigError(f"--part {part}: the run held out no rows. Train with --holdout 10%, or leave out --part.")
    facts = model.facts
    return RowChoice(facts["seed"], condition, facts["sample"], facts.get("holdout") or 0.0)


class _LevelTable:
    """Sums of rows, weight, target and prediction for each level of a column."""

    def __init__(self, column: str):
        self._column = column
        self._sums: dict[Label | None, np.ndarray] = {}

    def add(self, piece: Piece) -> None:
        n = len(piece.levels)
        weighted = (piece.weight, piece.weight * piece.target, piece.weight * piece.prediction)
        rows = np.bincount(piece.level, minlength=n)
        sums = np.stack([rows, *(np.bincount(piece.level, each, n) for each in weighted)], axis=1)
        for k in np.flatnonzero(rows):
            level = piece.levels[k]
            self._sums[level] = self._sums.get(level, 0.0) + sums[k]
        if len(self._sums) > MOST_LEVELS:
            raise _too_many_levels(self._column)

    def rows(self) -> tuple[LevelRow, ...]:
        ordered = sorted(self._sums, key=lambda level: (level is None, level))
        return tuple(self._row(level, *self._sums[level].tolist()) for level in ordered)

    @staticmethod
    def _row(level: Label | None, rows: float, weight: float, target: float, prediction: float) -> LevelRow:
        ratio = target / prediction if prediction != 0.0 else None
        return LevelRow(plain(level), int(rows), weight, target / weight, prediction / weight, ratio)


def _check_by(manifest: Manifest, by: str) -> None:
    if by not in manifest.schema.names:
        raise ConfigError(f"--by: the data have no column '{by}'. {did_you_mean(by, manifest.schema.names)}")
    arrow_type = manifest.schema.field(by).type
    if kind_of(arrow_type) == "other":
        raise ConfigError(f"--by {by}: a column of type {type_name(arrow_type)} has no levels. Choose another one.")


def _levels_of(array: pa.Array, by: str) -> tuple[list[Label | None], np.ndarray]:
    """The levels that may occur in a column, null last, and the index of each row's level."""
    if not pa.types.is_dictionary(array.type):
        if pa.types.is_float16(array.type):
            array = array.cast(pa.float32())
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        array = pc.dictionary_encode(array)
        if len(array.dictionary) > MOST_LEVELS:
            raise _too_many_levels(by)
    values = array.dictionary
    if kind_of(values.type) == "moment":
        # As text they have the same order, and nanoseconds are no trouble; durations are counts.
        values = values.cast(pa.int64() if pa.types.is_duration(values.type) else pa.string())
    levels = python_values(values)
    index = pc.fill_null(array.indices.cast(pa.int64()), len(levels))
    return [*levels, None], index.to_numpy(zero_copy_only=False)


def _too_many_levels(by: str) -> ConfigError:
    return ConfigError(f"--by {by}: it has more than {MOST_LEVELS:,} levels. Choose a column with fewer.")
