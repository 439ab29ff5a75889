"""The final encoding: how a row of the data becomes numbers, fixed once all rows have been seen.

It is stored in the checkpoint and in the model; ``finish`` turns records into the block that is trained on.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from streamgd.data.blocks import Block, RecordLayout, aligned_memory
from streamgd.data.columns import Columns
from streamgd.data.scaler import Scaling
from streamgd.data.sparse import KeysMet, SparseEncoding
from streamgd.data.vocabulary import CategoricalEncoding, Vocabulary
from streamgd.errors import SchemaError
from streamgd.kernels import records as kernels

#: As many as ``--hash-buckets`` allows.
MOST_BUCKETS = 2**24


@dataclass(frozen=True)
class Encoding:
    """Columns, scaling, levels and target of a model.

    theta has one row for each numeric column, then those of the categorical columns, of the sparse ones, then the
    intercept, and a column for each output. The target is trained on as ``(y - target_shift) / target_scale``; offsets
    are divided by ``target_scale``. ``class_weights`` multiply the weights of rows whose target is 0, 1, …; the layout
    of blocks then has weights.
    """

    columns: Columns
    scaling: Scaling
    categorical: tuple[CategoricalEncoding, ...]
    nulls: str
    target_shift: float = 0.0
    target_scale: float = 1.0
    class_weights: tuple[float, ...] | None = None
    sparse: tuple[SparseEncoding, ...] = ()

    @property
    def n_numeric(self) -> int:
        return len(self.columns.numeric)

    @property
    def n_dof(self) -> int:
        """Rows of theta."""
        n_levels, n_sparse = (sum(each.n_rows for each in of_kind) for of_kind in (self.categorical, self.sparse))
        return self.n_numeric + n_levels + n_sparse + 1

    @property
    def n_outputs(self) -> int:
        """Columns of theta."""
        return self.columns.target.n_outputs if self.columns.target is not None else 1

    @property
    def n_coefficients(self) -> int:
        """Numbers that theta has."""
        return self.n_dof * self.n_outputs

    def row_names(self) -> list[str]:
        """A name for each row of theta."""
        names = [column.name for column in self.columns.numeric]
        for column in self.categorical:
            names += column.row_names()
        for sparse in self.sparse:
            names += sparse.row_names()
        return [*names, "(intercept)"]

    def check_names(self) -> None:
        """Refuse two rows of theta of one name, as a list ``a`` with the index 1 and a number called ``a[1]`` give.

        Raises
        ------
        SchemaError
            There are two; the message has their columns.
        """
        others: list[tuple[str, CategoricalEncoding | SparseEncoding | None]]
        others = [(column.name, None) for column in self.columns.numeric]
        others += [(each.column.name, each) for each in self.categorical]
        others += [(each.column.name, each) for each in self.sparse]
        for sparse in self.sparse:
            for name, other in others:
                if other is sparse or not _may_meet(sparse.column.name, name):
                    continue
                # Rows that are called by numbers can meet those of texts alone, which look for them in turn.
                is_numbered = isinstance(other, SparseEncoding) and not other.by_level
                names = [name] if other is None else [] if is_numbered else other.row_names()
                for repeated in sparse.rows_called(names)[:1]:
                    raise SchemaError(
                        f"columns '{sparse.column.name}' and '{name}' would both have a coefficient called"
                        f" '{repeated}'. Leave one out with --exclude, or write it under another name."
                    )

    def at_bound(self, theta: np.ndarray) -> np.ndarray:
        """The rows of ``theta`` (n_dof, n_outputs) that are held at zero by a bound, int64."""
        rows = np.array(self.columns.non_negative_rows, np.int64)
        return np.asarray(rows[(theta[rows] == 0.0).all(axis=1)])

    def in_original_units(self, theta: np.ndarray) -> np.ndarray:
        """Coefficients of the columns as they are, from columns of ``theta`` (n_dof, any): a linear map.

        A number's becomes the change of the raw prediction by one unit of the column, the intercept what it is where
        all numbers are zero; those of levels stay. That of an entry becomes the change by one unit of its value.
        """
        values, n, scaling = theta.copy(), self.n_numeric, self.scaling
        # A column of 1e-310 has a coefficient that no float64 holds.
        with np.errstate(over="ignore", invalid="ignore"):
            values[:n] /= scaling.scale[:, None]
            values[-1] -= scaling.shift @ values[:n]
            for column in self.sparse:
                if column.column.has_values:
                    values[column.rows] /= column.divisors[:, None]
        return values

    def vocabularies(self) -> list[Vocabulary]:
        """Frozen vocabularies, whose codes are the levels in their final order."""
        # A column may have turned out to have too many levels: then it is hashed from the start.
        return [
            Vocabulary(replace(column.column, hashed=column.hashed), 0, column.buckets, column.levels, growing=False)
            for column in self.categorical
        ]

    def with_sparse_scales(self, largest: np.ndarray) -> Encoding:
        """The same with a scale for each value that has none yet, from ``largest`` magnitudes of the sparse rows."""
        sparse, first = [], 0
        for column in self.sparse:
            part = largest[first : first + column.n_rows]
            first += column.n_rows
            if column.column.has_values and ((column.scales == 0.0) & (part > 0.0)).any():
                column = replace(column, scales=np.where(column.scales == 0.0, part, column.scales))
            sparse.append(column)
        changed = any(column is not before for column, before in zip(sparse, self.sparse, strict=True))
        return replace(self, sparse=tuple(sparse)) if changed else self

    def keys_met(self) -> list[KeysMet]:
        """What entries of the sparse columns are looked up with."""
        return [column.keys_met() for column in self.sparse]

    def with_categorical(self, categorical: list[CategoricalEncoding], first_row: int) -> Encoding:
        """The same with these columns; the sparse ones have their rows from ``first_row`` on."""
        sparse = []
        for column in self.sparse:
            sparse.append(replace(column, first_row=first_row))
            first_row += column.n_rows
        return replace(self, categorical=tuple(categorical), sparse=tuple(sparse))

    def with_base_rows(self) -> Encoding:
        """The same encoding with a row of theta for every base level too, as the stochastic loops use it."""
        first_row, categorical = self.n_numeric, []
        for column in self.categorical:
            wider = replace(column, first_row=first_row, base_row=len(column.levels) > 0)
            categorical.append(wider)
            first_row += wider.n_rows
        return self.with_categorical(categorical, first_row)

    def without_base_rows(self, theta: np.ndarray) -> tuple[Encoding, np.ndarray]:
        """The inverse: encoding and theta (n_dof, n_outputs) without rows for base levels; it predicts the same.

        Each level's coefficient becomes the difference to its base level's, which the intercept takes up.
        """
        first_row, categorical, parts, intercept = self.n_numeric, [], [theta[: self.n_numeric]], theta[-1:].copy()
        for column in self.categorical:
            narrow, rows = replace(column, first_row=first_row, base_row=False), column.first_row + column.n_rows
            part = theta[column.first_row : rows]
            if column.base_row:
                intercept += part[:1]
                part = part[1:] - part[0]
            categorical.append(narrow)
            parts.append(part)
            first_row += narrow.n_rows
        parts += [theta[column.rows] for column in self.sparse]
        return self.with_categorical(categorical, first_row), np.concatenate([*parts, intercept])

    def theta_with_base_rows(self, theta: np.ndarray) -> np.ndarray:
        """A theta (n_dof, n_outputs) under :meth:`without_base_rows` with rows of zeros for base levels again."""
        rows = self.rows_without_base()
        wide = np.zeros((self.n_dof, theta.shape[1]))
        wide[rows >= 0] = theta[rows[rows >= 0]]
        wide[-1] = theta[-1]
        return wide

    def rows_without_base(self) -> np.ndarray:
        """For each row of theta that of the same column or level under :meth:`without_base_rows`, int32, ``(n_dof,)``.

        Base levels have -1, and so has the last entry, the intercept's: as an index, a code of -1 stays what it is.
        """
        rows = np.full(self.n_dof, -1, np.int32)
        rows[: self.n_numeric] = np.arange(self.n_numeric)
        narrow_row = self.n_numeric
        for column in self.categorical:
            first, kept = column.first_row + int(column.base_row), column.n_rows - int(column.base_row)
            rows[first : first + kept] = np.arange(narrow_row, narrow_row + kept)
            narrow_row += kept
        for sparse in self.sparse:
            rows[sparse.rows] = np.arange(narrow_row, narrow_row + sparse.n_rows)
            narrow_row += sparse.n_rows
        return rows

    def level_ranges(self) -> np.ndarray:
        """First row and end of each categorical column whose base level has a row, -1 of others; int64, (n, 2)."""
        ranges = [(c.first_row, c.first_row + c.n_rows) if c.base_row else (-1, -1) for c in self.categorical]
        return np.array(ranges, np.int64).reshape(-1, 2)

    def weigh_classes(self, block: Block) -> None:
        """Multiply the weights of a block's rows by those of their classes, in place."""
        if self.class_weights is not None:
            with np.errstate(invalid="ignore"):  # rows without a target are dropped later
                classes = block.target.astype(np.int64)
            block.weight[:] *= np.take(self.class_weights, classes, mode="clip")

    def with_scaling(self, scaling: Scaling) -> Encoding:
        return replace(self, scaling=scaling)

    def check(self) -> None:
        """Raise ValueError where the parts do not fit each other, as those of a file that was tampered with."""
        self.columns.check()
        scaling, next_row = self.scaling, self.n_numeric
        if not (np.isfinite(self.target_shift) and 0.0 < self.target_scale < np.inf):
            raise ValueError(f"a target in units of {self.target_scale} from {self.target_shift} on")
        if self.nulls not in ("impute", "drop", "error"):
            raise ValueError(f"nulls are to be treated by {self.nulls}")
        if self.class_weights is not None:
            right = all(0.0 < weight < np.inf for weight in self.class_weights)
            if not right or len(self.class_weights) != max(2, self.n_outputs):
                raise ValueError(f"weights of classes of {self.class_weights}")
        for array in (scaling.shift0, scaling.scale0, scaling.mean, scaling.deviation, scaling.fill):
            if array.shape != (self.n_numeric,) or array.dtype != np.float64:
                raise ValueError(f"a scaling of {array.dtype} {array.shape} for {self.n_numeric} columns")
        described = [replace(each.column, hashed=False) for each in self.categorical]
        if described != [replace(column, hashed=False) for column in self.columns.categorical]:
            raise ValueError("levels of other columns than those that are categorical")
        for column in self.categorical:
            if not all(isinstance(flag, bool) for flag in (column.column.hashed, column.other, column.base_row)):
                raise ValueError(f"column '{column.column.name}' with something else than yes or no")
            if column.first_row != next_row or not 0 <= column.buckets <= MOST_BUCKETS:
                raise ValueError(f"rows of column '{column.column.name}' in another place")
            next_row += column.n_rows
        if [each.column for each in self.sparse] != list(self.columns.sparse):
            raise ValueError("entries of other columns than those that are sparse")
        for sparse in self.sparse:
            sparse.check()
            if sparse.first_row != next_row or not 0 <= sparse.buckets <= MOST_BUCKETS:
                raise ValueError(f"rows of column '{sparse.column.name}' in another place")
            next_row += sparse.n_rows

    def state(self) -> dict[str, Any]:
        sparse = {"sparse": [column.state() for column in self.sparse]} if self.sparse else {}
        return sparse | {
            "columns": self.columns.to_json(),
            "shift0": self.scaling.shift0, "scale0": self.scaling.scale0, "mean": self.scaling.mean,
            "deviation": self.scaling.deviation, "fill": self.scaling.fill,
            "categorical": [column.state() for column in self.categorical],
            "nulls": self.nulls, "target_shift": self.target_shift, "target_scale": self.target_scale,
            "class_weights": list(self.class_weights) if self.class_weights else None,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        scaling = Scaling(state["shift0"], state["scale0"], state["mean"], state["deviation"], state["fill"])
        categorical = tuple(CategoricalEncoding.from_state(column) for column in state["categorical"])
        class_weights = state.get("class_weights")  # files of earlier builds do not have them
        return cls(
            Columns.from_json(state["columns"]), scaling, categorical, state["nulls"],
            state["target_shift"], state["target_scale"],
            tuple(class_weights) if class_weights else None,
            tuple(SparseEncoding.from_state(column) for column in state.get("sparse", [])),
        )  # fmt: skip


def _may_meet(name: str, other: str) -> bool:
    """Whether one name goes on where the other ends, as ``a[1]`` after ``a``, and not as ``ab``."""
    short, long = sorted((name, other), key=len)
    following = long[len(short) : len(short) + 1]
    return long.startswith(short) and not (following.isalnum() or following == "_")


class Finisher:
    """Turns records with provisional codes and units into blocks under an encoding."""

    def __init__(self, layout: RecordLayout, encoding: Encoding, vocabularies: list[Vocabulary]):
        self.layout = layout
        self._encoding = encoding
        tables = [column.table(words) for column, words in zip(encoding.categorical, vocabularies, strict=True)]
        self._tables = np.concatenate([*tables, np.empty(0, np.int32)]).astype(np.int32)
        self._table_starts = np.cumsum([0, *map(len, tables)])[:-1].astype(np.int64)
        self._unknown = np.array([column.unknown_row for column in encoding.categorical], np.int32)
        self._hashed_from = np.array([column.first_row for column in encoding.categorical], np.int32)

    def under(self, encoding: Encoding) -> Finisher | None:
        """The same under an encoding whose scaling has moved; None where it has other levels too."""
        if encoding.categorical is not self._encoding.categorical:
            return None
        moved = copy(self)
        moved._encoding = encoding
        return moved

    def finish(self, records: np.ndarray, order: np.ndarray, out: np.ndarray | None = None) -> Block:
        """The records in ``order`` as a block.

        Parameters
        ----------
        records : uint64, (n, record_words)
        order : int64, (n_rows,)
        out : uint8, at least ``layout.block_bytes(n_rows)``, optional
            Memory to write the block to.
        """
        layout, encoding, scaling = self.layout, self._encoding, self._encoding.scaling
        if out is None:
            out = aligned_memory(layout.block_bytes(len(order)))
        block = layout.views(out, len(order))
        positions = (
            layout.features_position, layout.codes_position, layout.weight_position, layout.offset_position,
            layout.row_number_position,
        )  # fmt: skip
        kernels.finish_records(
            records, order, np.array(positions, np.int64), scaling.mean, scaling.deviation, scaling.fill,
            self._tables, self._table_starts, self._unknown, self._hashed_from,
            encoding.target_shift, encoding.target_scale, *block.arrays(),
        )  # fmt: skip
        encoding.weigh_classes(block)
        return block
