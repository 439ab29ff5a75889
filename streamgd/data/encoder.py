"""Record batches -> encoded rows: numbers shifted and scaled, levels as codes, and the facts of the rows passed over.

    batch ── rows chosen (where, sample, holdout, nulls) ── columns written side by side ── moments and level counts

Nothing here depends on other batches but the vocabulary's codes, which are put in order at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.blocks import Places, RawEntries, RecordLayout
from streamgd.data.buffers import NumberBuffers
from streamgd.data.columns import Columns, TargetColumn
from streamgd.data.derived import UsedRows, doubles, level_codes
from streamgd.data.encoding import Encoding
from streamgd.data.entries import encode_entries
from streamgd.data.filters import Where
from streamgd.data.kinds import python_values
from streamgd.data.levels import as_dictionary, null_mask
from streamgd.data.nested import NestedRows
from streamgd.data.plan import HOLDOUT, SAMPLE, chosen_rows
from streamgd.data.ranges import BatchMoments, Piece
from streamgd.data.scaler import Moments
from streamgd.data.sparse import KeysMet
from streamgd.data.survey import Survey
from streamgd.data.transforms.cross import Cross
from streamgd.data.vocabulary import Vocabulary
from streamgd.errors import DataError, TargetError
from streamgd.kernels import encode as kernels

#: Gives the row of theta of each provisional code of a categorical column.
ThetaRows = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Origin:
    """Where the rows of a batch come from: for messages, and for choices by row number.

    ``row_group`` is None where the rows are in memory.
    """

    file: str
    row_group: int | None
    first_row: int
    first_row_in_file: int
    first_row_in_group: int = 0

    def __str__(self) -> str:
        return self.file if self.row_group is None else f"{self.file}, row group {self.row_group}"

    def row(self, index: int) -> str:
        return f"{self}, row {self.first_row_in_group + index}"


@dataclass(frozen=True)
class RowChoice:
    """Which rows are used: those where ``where`` holds, a sample by hash, some of them held out by hash."""

    seed: int = 0
    where: Where | None = None
    sample: float = 1.0
    holdout: float = 0.0

    @property
    def leaves_out(self) -> bool:
        """Whether rows are left out on request."""
        return self.where is not None or self.sample < 1.0


@dataclass
class EncodedRows:
    """What ``Encoder.encode`` found: bool arrays ``(n_rows,)``, and the survey of these rows.

    Where moments are taken by ranges, they are in ``ranges``, with the weight in them and the target of each row; of
    the survey's, ``largest`` alone is then told. ``entries`` are those of the sparse columns, None where the run has
    none.
    """

    kept: np.ndarray
    holdout: np.ndarray
    has_null: np.ndarray
    survey: Survey
    ranges: tuple[BatchMoments, np.ndarray, np.ndarray] | None = None
    entries: RawEntries | None = None


@dataclass(frozen=True)
class _LevelsMet:
    """A categorical column of a batch: the place of each row's level in a dictionary (int32, null included), the code
    of each place, and which rows are null (bool, empty where none is)."""

    places: np.ndarray
    table: np.ndarray
    is_null: np.ndarray


@dataclass
class Encoder:
    """Writes record batches into records.

    Parameters
    ----------
    columns, layout : what the columns became, and where their numbers stand in a record
    shift0, scale0 : float64, (n_numeric,)
        Provisional units of the numeric columns.
    mean, deviation : float64, (n_numeric,), optional
        Exact moments in provisional units, where they are known and to be applied.
    nulls : {"impute", "drop", "error"}
    choice : which rows are used
    every_row : bool
        Keep every row, as prediction does; ``nulls`` is then left to the caller.
    range_rows : int
        Take moments by ranges of so many rows (``data.ranges``); 0: of each batch.
    sparse : list of KeysMet
        What was met of each sparse column.
    """

    columns: Columns
    layout: RecordLayout
    shift0: np.ndarray
    scale0: np.ndarray
    vocabularies: list[Vocabulary]
    nulls: str = "impute"
    choice: RowChoice = field(default_factory=RowChoice)
    every_row: bool = False
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None
    range_rows: int = 0
    sparse: list[KeysMet] = field(default_factory=list)

    @classmethod
    def of_encoding(cls, encoding: Encoding, layout: RecordLayout, choice: RowChoice | None = None) -> Self:
        """An encoder whose provisional units and vocabularies are those of an encoding."""
        return cls(
            encoding.columns, layout, encoding.scaling.shift0, encoding.scaling.scale0, encoding.vocabularies(),
            encoding.nulls, choice or RowChoice(), sparse=encoding.keys_met(),
        )  # fmt: skip

    @property
    def read_columns(self) -> list[str]:
        """Columns to read, each once."""
        names = list(self.columns.sources)
        return list(dict.fromkeys([*names, *(self.choice.where.columns if self.choice.where else ())]))

    @property
    def dictionary_columns(self) -> list[str]:
        """Text columns that are best read as dictionary codes."""
        return self.columns.text_labels

    @property
    def _crossed(self) -> list[str]:
        """Columns of crosses, which have levels and numbers for their nulls."""
        names = [name for each in self.columns.categorical if isinstance(each.made, Cross) for name in each.made.reads]
        names += [name for each in self.columns.numeric if each.at is not None for name in each.reads]
        return list(dict.fromkeys(names))

    def encode(
        self, batch: pa.RecordBatch, origin: Origin, places: Places, theta_rows: ThetaRows | None = None
    ) -> EncodedRows:
        """Encode ``batch`` into ``places``; dropped rows are written too.

        Parameters
        ----------
        theta_rows : function of (categorical column, provisional codes), optional
            Gives the row of theta of each code where the encoding is final; then nothing is learned from the rows.

        Raises
        ------
        DataError
            An infinite value, a null where ``nulls`` is ``error``, a weight or offset that is no number, or a value
            that Arrow cannot convert.
        TargetError
            A third class, or an infinite target.
        """
        try:
            return self._encode(batch, origin, places, theta_rows)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(
                f"{origin}: a value cannot be read ({reason}). Mend it, or leave the column out."
            ) from error

    def _encode(
        self, batch: pa.RecordBatch, origin: Origin, places: Places, theta_rows: ThetaRows | None
    ) -> EncodedRows:
        as_read = NumberBuffers.as_read(batch, self.columns)
        dropped: dict[str, int] = {}
        kept = np.ones(batch.num_rows, np.bool_)

        def drop(reason: str, rows: np.ndarray) -> None:
            hit = int(np.count_nonzero(kept & rows))
            if hit:
                dropped[reason] = hit
                kept[rows] = False

        choice = self.choice
        if choice.where is not None:
            drop("where", ~choice.where.mask(batch))
        if choice.sample < 1.0:
            drop("sample", ~self._chosen(SAMPLE, origin, batch.num_rows, choice.sample))
        holdout = np.zeros(batch.num_rows, np.bool_)
        if choice.holdout > 0.0:
            holdout = self._chosen(HOLDOUT, origin, batch.num_rows, choice.holdout)

        weight = np.ones(batch.num_rows)
        if self.columns.weight is not None:
            weight = self._side_column(batch, self.columns.weight, kept, origin, minimum=0.0)
            if not self.every_row:
                drop("zero weight", weight == 0.0)
        if self.layout.has_weight:
            places.weight[:] = weight
        if self.columns.target is not None:
            target, has_nulls = self._target(as_read, self.columns.target, kept, origin)
            if has_nulls:
                drop("null target", np.isnan(target))
        else:
            target = np.full(batch.num_rows, np.nan)
        if self.columns.has_offset:
            places.offset[:] = self._offset(batch, kept, origin)
        if len(places.row_numbers):
            places.row_numbers[:] = origin.first_row + np.arange(batch.num_rows, dtype=np.uint64)

        has_null = np.zeros(batch.num_rows, np.bool_)
        nested = {column.name: NestedRows.of(batch.column(column.name)) for column in self.columns.sparse}
        if self.nulls != "impute":
            for name in self._crossed if self.every_row else self.columns.feature_sources:
                has_null |= nested[name].row_is_null if name in nested else _is_null(batch.column(name))
        if self.nulls != "impute" and not self.every_row:
            if self.nulls == "error" and (has_null & kept).any():
                raise self._null_error(batch, nested, has_null & kept, origin)
            drop("null feature", has_null)
        used = UsedRows(batch, kept, origin.row)
        found = [self._levels_met(used, c, theta_rows) for c in range(len(self.columns.categorical))]
        for levels in found:
            if len(levels.is_null):
                has_null |= levels.is_null
        learn = theta_rows is None
        trained = kept & ~holdout if choice.holdout > 0.0 else kept
        n_kept, n_trained = int(np.count_nonzero(kept)), int(np.count_nonzero(trained))
        learned = np.where(trained, weight, 0.0) if learn and n_trained < batch.num_rows else weight
        level_counts = _write_codes(found, learned if learn else np.empty(0), places)
        nulls = {
            column.name: int((levels.is_null & kept).sum())
            for column, levels in zip(self.columns.categorical, found, strict=True)
            if len(levels.is_null)
        }
        entries = None
        if self.columns.sparse:
            sparse = encode_entries(used, self.columns.sparse, list(nested.values()), self.sparse, learned > 0.0)
            entries, has_null, nulls = sparse.entries, has_null | sparse.has_null, nulls | sparse.nulls
        numbers = NumberBuffers.of_features(used, self.columns, as_read)
        n_numeric = len(self.columns.numeric)
        ranges = BatchMoments.room(origin.first_row, batch.num_rows, n_numeric, self.range_rows)
        facts, largest = self._write_numbers(numbers.buffers, places, learned, target, kept, has_null, ranges, learn)
        for j in np.flatnonzero(np.isinf(facts[:, 0])):
            used.check_finite(doubles(numbers.column(j)), self.columns.numeric[j].source)
        nulls |= {self.columns.numeric[j].name: int(facts[j, 1]) for j in np.flatnonzero(facts[:, 1])}
        moments, target_moments = Moments.empty(n_numeric), Moments.empty(1)
        if learn and not self.range_rows:
            moments, target_moments = ranges.merged()
        moments.largest[:], target_moments.largest[0] = facts[:, 0], largest
        survey = Survey(
            n_trained, n_kept - n_trained, dropped, moments, target_moments, level_counts, nulls,
            self._class_counts(target, learned) if learn else np.zeros(0),
        )  # fmt: skip
        in_ranges = (ranges, learned, target) if self.range_rows else None
        return EncodedRows(kept, holdout, has_null, survey, in_ranges, entries)

    def _chosen(self, purpose: int, origin: Origin, rows: int, fraction: float) -> np.ndarray:
        return chosen_rows(self.choice.seed, purpose, origin.file, origin.first_row_in_file, rows, fraction)

    def _write_numbers(
        self, buffers: np.ndarray, places: Places, weight: np.ndarray, target: np.ndarray, kept: np.ndarray,
        has_null: np.ndarray, moments: BatchMoments, learn: bool,
    ) -> tuple[np.ndarray, float]:  # fmt: skip
        """Write the numbers with the target, and the moments of all.

        Returns the largest magnitudes and the nulls of the numbers, float64 ``(n_columns, 2)``, and the largest
        magnitude of the target, 0 unless ``learn``.
        """
        (addresses, validity, offsets, kinds), n_numeric = buffers, buffers.shape[1]
        mean = self.mean if self.mean is not None else np.zeros(n_numeric)
        deviation = self.deviation if self.deviation is not None else np.ones(n_numeric)
        found = np.empty((n_numeric, 2))
        largest = kernels.encode_numeric(
            addresses, validity, offsets, kinds, weight, self.shift0, self.scale0, mean, deviation, target,
            places.features, places.first_feature, places.target, moments.ends, moments.tiles, moments.edges, found,
            kept, has_null, learn,
        )  # fmt: skip
        return found, largest

    def moments_of(self, rows: Piece) -> np.ndarray:
        """Moments ``(n_numeric + 1, 3)`` of the rows of a range, by the kernels that encode it as part of a batch."""
        n_columns, n_rows = rows.columns.shape
        zeros, ones = np.zeros(n_columns), np.ones(n_columns)
        room = BatchMoments.room(0, n_rows, n_columns, n_rows)
        numbers = NumberBuffers.of_arrays([pa.array(column) for column in rows.columns])
        addresses, validity, offsets, kinds = numbers.buffers
        kernels.encode_numeric(
            addresses, validity, offsets, kinds, rows.weight, zeros, ones, zeros, ones, rows.target,
            np.empty((n_rows, n_columns), self.layout.feature_type), 0, np.empty(n_rows), room.ends, room.tiles,
            room.edges, np.empty((n_columns, 2)), np.ones(n_rows, np.bool_), np.empty(n_rows, np.bool_), True,
        )  # fmt: skip
        return np.asarray(room.tiles[0])

    def _levels_met(self, used: UsedRows, column: int, theta_rows: ThetaRows | None) -> _LevelsMet:
        vocabulary, described = self.vocabularies[column], self.columns.categorical[column]
        array = level_codes(used.batch, described, used.finite)
        if theta_rows is None and self.choice.leaves_out and not used.kept.all():
            table = _codes_of_kept(vocabulary, array, used.kept)
        else:
            table = vocabulary.codes(array.dictionary)
        indices = array.indices
        if array.null_count:
            # Null is one more place of the dictionary.
            indices = pc.fill_null(indices.cast(pa.int32()), len(table))
            table = np.concatenate([table, vocabulary.code_of_null()])
        if theta_rows is not None:
            table = theta_rows(column, table)
        places = np.ascontiguousarray(indices.to_numpy(zero_copy_only=False), np.int32)
        return _LevelsMet(places, table, null_mask(array.indices))

    def _target(
        self, as_read: NumberBuffers, column: TargetColumn, kept: np.ndarray, origin: Origin
    ) -> tuple[np.ndarray, bool]:
        """The target as float64, NaN where null; 0, 1, … if it has classes. And whether any is null."""
        if column.classes is None:
            numbers = doubles(as_read.column(-1))
            outside = column.outside(numbers) & kept
            if outside.any():
                row = int(np.flatnonzero(outside)[0])
                raise TargetError(
                    f"{origin.row(row)}, target '{column.name}': found {numbers[row]}, expected {column.expected}. Mend"
                    f" the data, leave such rows out with --where, or choose another --loss."
                )
            return numbers, bool(np.isnan(numbers).any())
        classes = column.classes
        target: np.ndarray
        if isinstance(classes[0], str):
            array = as_dictionary(as_read.column(-1), "string")
            values = python_values(array.dictionary)
            known = {label: float(number) for number, label in enumerate(classes)}
            table = np.array([known.get(value, np.inf) for value in values] + [np.nan])
            target = table[pc.fill_null(array.indices.cast(pa.int64()), len(values)).to_numpy(zero_copy_only=False)]
            unknown = np.flatnonzero(np.isinf(target) & kept)
            row, has_nulls = int(unknown[0]) if len(unknown) else -1, bool(array.null_count)
        else:
            target, of_target = np.empty(len(kept)), as_read.last
            addresses, validity, offsets, kinds = of_target.buffers
            row, has_nulls = kernels.class_numbers(
                addresses, validity, offsets, kinds, np.array(classes, np.float64), kept, target
            )
        if row >= 0:
            (found,) = python_values(as_read.column(-1)[row : row + 1])
            if column.n_outputs > 1:
                raise TargetError(
                    f"{origin.row(row)}, target '{column.name}': found {found!r}, expected one of {column.listed()}."
                    f" Leave such rows out with --where, or train a model that knows the class."
                )
            raise TargetError(
                f"{origin.row(row)}, target '{column.name}': found {found!r}, expected {classes[0]!r} or"
                f" {classes[1]!r}. Keep two classes with --where, or choose --loss multinomial"
                f"{'' if isinstance(found, str) else ' or squared'}."
            )
        return target, has_nulls

    def _class_counts(self, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Total weight of each class among rows that are learned from; empty where there are no more than two."""
        n_classes = self.columns.target.n_outputs if self.columns.target is not None else 1
        used = weight > 0.0
        return np.bincount(target[used].astype(np.int64), weight[used], n_classes) if n_classes > 1 else np.zeros(0)

    def _offset(self, batch: pa.RecordBatch, kept: np.ndarray, origin: Origin) -> np.ndarray:
        """The offset, with the logarithm of the exposure; for prediction a null one makes the prediction null."""
        offset = np.zeros(batch.num_rows)
        for name in (self.columns.offset, self.columns.exposure):
            if name is None:
                continue
            is_null = _is_null(batch.column(name)) if self.every_row else np.zeros(batch.num_rows, np.bool_)
            if name == self.columns.exposure:
                values = self._side_column(batch, name, kept & ~is_null, origin, above_zero=True)
                values = np.log(np.where(values > 0.0, values, 1.0))
            else:
                values = self._side_column(batch, name, kept & ~is_null, origin)
            values[is_null] = np.nan
            offset += values
        return offset

    def _side_column(
        self, batch: pa.RecordBatch, name: str, kept: np.ndarray, origin: Origin, minimum: float = -np.inf,
        above_zero: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """A weight, offset or exposure, which must be a finite number in every row that is used."""
        values = doubles(batch.column(name))
        bad = kept & ~(np.isfinite(values) & (values > 0.0 if above_zero else values >= minimum))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            found = batch.column(name)[row].as_py()
            expected = "a finite number" + (" > 0" if above_zero else " >= 0" if minimum == 0.0 else "")
            raise DataError(
                f"{origin.row(row)}, column '{name}': found {found}, expected {expected}. Mend the data, or leave such"
                f" rows out with --where."
            )
        return np.where(np.isfinite(values), values, 0.0)

    def _null_error(
        self, batch: pa.RecordBatch, nested: dict[str, NestedRows], rows: np.ndarray, origin: Origin
    ) -> DataError:
        row = int(np.flatnonzero(rows)[0])
        nulls = {name: found.row_is_null for name, found in nested.items()}
        sources = self.columns.feature_sources
        name = next(n for n in sources if (nulls[n] if n in nulls else _is_null(batch.column(n)))[row])
        return DataError(f"{origin.row(row)}, column '{name}': null. Choose --nulls impute or drop, or mend the data.")


def _codes_of_kept(vocabulary: Vocabulary, array: pa.DictionaryArray, kept: np.ndarray) -> np.ndarray:
    """Codes of the dictionary; a level of dropped rows alone is not met, and has any code."""
    places = pc.fill_null(array.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)[kept]
    is_met = np.zeros(len(array.dictionary), np.bool_)
    is_met[places[places >= 0]] = True
    codes = np.zeros(len(is_met), np.int32)
    codes[is_met] = vocabulary.codes(array.dictionary.filter(pa.array(is_met)))
    return codes


def _is_null(array: pa.Array) -> np.ndarray:
    """Null or NaN, as a numpy mask."""
    return np.asarray(pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False))


def _write_codes(columns: list[_LevelsMet], weight: np.ndarray, places: Places) -> list[np.ndarray]:
    """Write the codes of all columns; returns the total weight of each provisional code, nothing without ``weight``."""
    if not columns:
        return []
    tables = np.concatenate([column.table for column in columns])
    starts = np.cumsum([0, *(len(column.table) for column in columns)])
    addresses = np.array([column.places.ctypes.data for column in columns], np.int64)
    counts = np.zeros(len(tables) if len(weight) else 0)
    kernels.encode_codes(addresses, tables, starts[:-1], weight, counts, places.codes, places.first_code)
    if not len(weight):
        return [np.empty(0)] * len(columns)
    return list(map(kernels.weight_by_code, np.split(tables, starts[1:-1]), np.split(counts, starts[1:-1])))
