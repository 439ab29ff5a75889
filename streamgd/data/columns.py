"""What each column of the data becomes: numbers, a categorical, sparse, the target, a weight, an offset, or nothing.

These are plain, frozen descriptions. ``resolve`` decides them from schema, sample and configuration;
``encoder`` acts on them; they are stored in the run's configuration and in the model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from streamgd.column_options import MOST_INDICES
from streamgd.data.transforms.at_level import AtLevel
from streamgd.data.transforms.labels import Labels
from streamgd.data.transforms.numbers import Steps, check_steps, steps_from_state, steps_state
from streamgd.data.transforms.registry import labels_from_state, labels_state

Label = str | int | float | bool

#: The part of a number that is 1 where the number is null or NaN, else 0.
IS_NULL = "is_null"
#: Why a column is left out that was an index without a name.
INDEX_REASON = "an index that pandas wrote"

#: Classes that a message names.
MOST_LISTED = 5


@dataclass(frozen=True)
class NumericColumn:
    """A column that is a number, one part of a date or time, or whether a number is null.

    ``name`` is the feature's name (``"dep_time"``, ``"when.hour"``), ``source`` the column it is read from,
    ``part`` the part of a timestamp (``epoch|hour|weekday|month|yearday``), ``IS_NULL`` or None, ``integer``
    whether the values are whole numbers in the file (they lose precision beyond 2**53). ``steps`` are applied to the
    numbers of the column or part. With ``at``, what these make of a column counts in rows of one level alone.
    """

    name: str
    source: str
    part: str | None = None
    integer: bool = False
    steps: Steps = ()
    at: AtLevel | None = None

    @property
    def reads(self) -> list[str]:
        """The columns of the data that are read."""
        return [self.source] if self.at is None else [self.source, self.at.part.source]

    @property
    def meaning(self) -> tuple[object, ...]:
        """What a coefficient of it means; what nulls count as is left out, which moves with the data."""
        return self.name, self.steps, self.at and (self.at.part, self.at.text)

    @property
    def at_reference(self) -> NumericColumn | None:
        """What it would be at the reference of its cross, which has no column."""
        if self.at is None or self.at.reference is None:
            return None
        at = replace(self.at, text=self.at.reference)
        return replace(self, name=f"{self.told_as[0]} {at.text}", at=at)

    @property
    def told_as(self) -> tuple[str, str | None]:
        """Column, or cross, and level in tables of coefficients."""
        return (self.name, None) if self.at is None else (self.name.removesuffix(f" {self.at.text}"), self.at.text)

    @property
    def read_as(self) -> str:
        """The name of the number before the steps: that of the column, or of a part of it."""
        return self.source if self.part in (None, IS_NULL) else f"{self.source}.{self.part}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; without transforms those that builds before them wrote."""
        fields: dict[str, Any] = {
            "name": self.name, "source": self.source, "part": self.part, "integer": self.integer
        }  # fmt: skip
        fields |= {"steps": steps_state(self.steps)} if self.steps else {}
        return fields if self.at is None else fields | {"at": self.at.state()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> NumericColumn:
        """The inverse of :meth:`to_json`."""
        steps, at = steps_from_state(fields.get("steps", [])), fields.get("at")
        return cls(**fields | {"steps": steps, "at": None if at is None else AtLevel.from_state(at)})


@dataclass(frozen=True)
class CategoricalColumn:
    """A column whose values are labels; ``values`` is the type they are compared as.

    It is the column ``name`` of the data, or ``made`` of others.
    """

    name: str
    values: Literal["string", "int", "float", "bool"]
    hashed: bool = False
    made: Labels | None = None

    @property
    def reads(self) -> dict[str, str]:
        """Each column of the data that is read, with the type of its labels, or ``number``."""
        return {self.name: self.values} if self.made is None else self.made.reads

    @property
    def separator(self) -> str:
        """What stands between the name and a level in the name of a coefficient."""
        return "=" if self.made is None else " "

    def to_json(self) -> dict[str, Any]:
        """Plain values; without transforms those that builds before them wrote."""
        fields: dict[str, Any] = {"name": self.name, "values": self.values, "hashed": self.hashed}
        return fields if self.made is None else fields | {"made": labels_state(self.made)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> CategoricalColumn:
        """The inverse of :meth:`to_json`."""
        made = fields.get("made")
        return cls(**fields | {"made": None if made is None else labels_from_state(made)})


#: Of one model.
MOST_SPARSE_COLUMNS = 64


@dataclass(frozen=True)
class SparseColumn:
    """A column of lists or maps: each entry of a row is one of many features, and its number, or 1, is its value.

    An entry is named by a text or, of ``keys`` ``index``, by an integer: 0 up to ``n_columns`` - 1. A ``hashed`` column
    takes any integer or text, and has ``n_columns`` buckets.
    """

    name: str
    keys: Literal["index", "string"]
    has_values: bool
    n_columns: int = MOST_INDICES
    hashed: bool = False

    def check(self) -> None:
        """Raise ValueError where a value is not what it is declared to be."""
        flags = isinstance(self.has_values, bool) and isinstance(self.hashed, bool)
        if not flags or self.keys not in ("index", "string") or not isinstance(self.name, str):
            raise ValueError("a sparse column of an unknown kind")
        if not isinstance(self.n_columns, int) or not 0 < self.n_columns <= MOST_INDICES:
            raise ValueError(f"a sparse column of {self.n_columns} columns")


@dataclass(frozen=True)
class TargetColumn:
    """The column to predict. ``classes`` are the values that count as 0, 1, …, or None; of two, 1 is positive.

    ``domain`` says which numbers the loss has: ``real``, ``not negative`` or ``positive``.
    """

    name: str
    classes: tuple[Label, ...] | None = None
    domain: Literal["real", "not negative", "positive"] = "real"

    @property
    def n_outputs(self) -> int:
        """Raw predictions of a row: one for each class where there are more than two."""
        return len(self.classes) if self.classes is not None and len(self.classes) > 2 else 1

    def listed(self) -> str:
        """The first few classes, for messages."""
        assert self.classes is not None
        shown = ", ".join(map(repr, self.classes[:MOST_LISTED]))
        return shown if len(self.classes) <= MOST_LISTED else f"{shown}, … ({len(self.classes)} classes)"

    def outside(self, numbers: np.ndarray) -> np.ndarray:
        """Which of ``numbers`` (n_rows,) are not of the domain; NaN is of each."""
        if self.domain == "real":
            return np.asarray(np.isinf(numbers))
        return np.asarray(np.isinf(numbers) | (numbers < 0.0 if self.domain == "not negative" else numbers <= 0.0))

    @property
    def expected(self) -> str:
        """What is expected of a value, for messages."""
        return {"real": "a finite number", "not negative": "a number >= 0", "positive": "a number > 0"}[self.domain]


@dataclass(frozen=True)
class Columns:
    """All columns of a run and what they became.

    ``exposure`` is one whose logarithm is added to the offset. ``non_negative`` names numeric features whose
    coefficients are held at zero or above. ``types`` names the types, at training, of columns whose values mean
    something else in another unit, scale, width or time zone: see :func:`streamgd.data.agreement.telling_types`.
    """

    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    target: TargetColumn | None = None
    weight: str | None = None
    offset: str | None = None
    exposure: str | None = None
    non_negative: tuple[str, ...] = ()
    sparse: tuple[SparseColumn, ...] = ()
    types: tuple[tuple[str, str], ...] = ()

    @property
    def non_negative_rows(self) -> tuple[int, ...]:
        """The rows of theta that are held at zero or above."""
        return tuple(row for row, column in enumerate(self.numeric) if column.name in self.non_negative)

    @cached_property
    def numbers_as_read(self) -> bool:
        """Whether every numeric feature is a column as it is read: no part of one, without steps, at all levels."""
        return all(each.part is None and each.at is None and not each.steps for each in self.numeric)

    @property
    def has_offset(self) -> bool:
        """Whether rows have something added to their raw prediction."""
        return self.offset is not None or self.exposure is not None

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, numeric ones first, in the order of theta."""
        names = [column.name for column in self.numeric] + [column.name for column in self.categorical]
        return names + [column.name for column in self.sparse]

    @property
    def has_sparse_values(self) -> bool:
        """Whether entries have values other than 1."""
        return any(column.has_values for column in self.sparse)

    @property
    def feature_sources(self) -> list[str]:
        """Columns that features are read from, each once."""
        names = [name for column in self.numeric for name in column.reads]
        names += [name for column in self.categorical for name in column.reads]
        names += [column.name for column in self.sparse]
        return list(dict.fromkeys(names))

    @property
    def label_reads(self) -> list[tuple[str, str]]:
        """Each column that labels are read from, with their type or ``number``; one may come as both."""
        reads = [(each.at.part.source, each.at.part.values) for each in self.numeric if each.at is not None]
        return reads + [item for column in self.categorical for item in column.reads.items()]

    @property
    def text_labels(self) -> list[str]:
        """Columns that are text with levels, each once."""
        return list(dict.fromkeys(name for name, values in self.label_reads if values == "string"))

    @property
    def sources(self) -> list[str]:
        """Columns to read from the files, each once."""
        names = self.feature_sources
        names += [name for name in (self.target and self.target.name, self.weight, self.offset, self.exposure) if name]
        return list(dict.fromkeys(names))

    def check(self) -> None:
        """Raise ValueError where a value is not what it is declared to be, as in a file that was tampered with."""
        optional = [self.weight, self.offset, self.exposure, *(column.part for column in self.numeric)]
        names = [*self.feature_names, *self.sources, *(name for name in optional if name is not None)]
        flags = [*(column.integer for column in self.numeric), *(column.hashed for column in self.categorical)]
        classes: tuple[Label, ...] | None = None
        if self.target is not None:
            names.append(self.target.name)
            classes = self.target.classes
            if self.target.domain not in ("real", "not negative", "positive"):
                raise ValueError("a target of an unknown domain")
        names += [text for pair in self.types for text in pair]
        if not all(isinstance(name, str) for name in names) or not all(isinstance(flag, bool) for flag in flags):
            raise ValueError("a column whose name is no text")
        if not set(self.non_negative) <= {column.name for column in self.numeric}:
            raise ValueError("a bound on what is no number")
        if any(column.values not in ("string", "int", "float", "bool") for column in self.categorical):
            raise ValueError("levels of an unknown type")
        if classes is not None and not (2 <= len(classes) == len(set(classes)) and all(map(_is_label, classes))):
            raise ValueError("classes that are not two labels or more")
        if classes is not None and len({type(label) for label in classes}) > 1:
            raise ValueError("classes of several types")
        for numeric in self.numeric:
            check_steps(numeric.steps)
            if numeric.at is not None:
                numeric.at.check()
        for categorical in self.categorical:
            if categorical.made is not None:
                categorical.made.check()
        for sparse in self.sparse:
            sparse.check()
        if len(self.sparse) > MOST_SPARSE_COLUMNS:
            raise ValueError(f"{len(self.sparse)} sparse columns")

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; :meth:`from_json` is its inverse."""
        fields = asdict(self) | {
            "numeric": [column.to_json() for column in self.numeric],
            "categorical": [column.to_json() for column in self.categorical],
        }
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        if plain["target"] is not None and plain["target"]["domain"] == "real":
            del plain["target"]["domain"]  # as it was written before there were others
        if self.exposure is None:
            del plain["exposure"]
        if not self.non_negative:
            del plain["non_negative"]
        if not self.sparse:
            del plain["sparse"]
        if not self.types:
            del plain["types"]
        return plain

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Columns:
        """The inverse of :meth:`to_json`."""
        target = fields["target"]
        if target is not None:
            classes = target["classes"]
            classes = tuple(classes) if classes is not None else None
            target = TargetColumn(target["name"], classes, target.get("domain", "real"))
        return cls(
            tuple(NumericColumn.from_json(column) for column in fields["numeric"]),
            tuple(CategoricalColumn.from_json(column) for column in fields["categorical"]),
            target,
            fields["weight"],
            fields["offset"],
            fields.get("exposure"),
            tuple(fields.get("non_negative", ())),
            tuple(SparseColumn(**column) for column in fields.get("sparse", [])),
            tuple((name, found) for name, found in fields.get("types", [])),
        )


def _is_label(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float | str)
