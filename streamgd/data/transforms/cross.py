"""``--cross``: levels of several columns together, such as carrier and origin of a flight."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.levels import as_dictionary
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.labels import Labels, NumbersOf

BETWEEN, NULL = ":", "null"
#: Up to so many pairs a row they are told apart by a table, which is faster than by sorting.
_TABLE_SHARE = 4


@dataclass(frozen=True)
class Part:
    """A column that is crossed: its labels, of the type ``values``, or the bins of its numbers."""

    source: str
    values: str
    bins: Bins | None = None

    def check(self) -> None:
        """Raise ValueError where its values make no sense, as those of a file that was tampered with."""
        if not isinstance(self.source, str) or (
            self.values not in (("number",) if self.bins else ("string", "int", "float", "bool"))
        ):
            raise ValueError("a cross of labels of an unknown type")
        if self.bins is not None:
            self.bins.check()

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return {"source": self.source, "values": self.values, "bins": self.bins and self.bins.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Part:
        """The inverse of :meth:`state`."""
        bins = state["bins"]
        return cls(state["source"], state["values"], None if bins is None else Bins.from_state(bins))


class Met(NamedTuple):
    """Places of the rows' levels among texts: int64 ``(n_rows,)``, and the texts, each once."""

    places: np.ndarray
    texts: pa.StringArray


@dataclass(frozen=True)
class Cross(Labels):
    """The levels of the parts, joined by ``:``, such as ``AA:JFK``.

    A null is the text ``null``. A level of a part that has ``:`` or ``\\`` in it has ``\\`` before them, and so has a
    level ``null``: no two combinations have the same text.

    With ``references``, the text of one level of each part, a row that has one of them counts as the combination of
    all references. So the cross adds to the effects of its parts only what these do not tell.
    """

    parts: tuple[Part, ...]
    references: tuple[str, ...] = ()

    kind: ClassVar[str] = "cross"

    @property
    def reads(self) -> dict[str, str]:
        return {part.source: part.values for part in self.parts}

    def labels(self, rows: pa.RecordBatch, numbers: NumbersOf) -> pa.DictionaryArray:
        parts = [met_levels(part, rows, numbers) for part in self.parts]
        if self.references:
            parts = _referred(parts, self.references)
        met = reduce(_joined, parts)
        return pa.DictionaryArray.from_arrays(pa.array(met.places.astype(np.int32)), met.texts)

    @property
    def description(self) -> str:
        return " crossed with ".join(part.source for part in self.parts)

    def check(self) -> None:
        if len(self.parts) < 2 or len({part.source for part in self.parts}) != len(self.parts):
            raise ValueError("a cross of something else than two columns or more")
        if self.references and len(self.references) != len(self.parts):
            raise ValueError("a cross with references of other parts")
        if not all(isinstance(text, str) for text in self.references):
            raise ValueError("a cross with references that are no text")
        for part in self.parts:
            part.check()

    def state(self) -> dict[str, Any]:
        return {"parts": [part.state() for part in self.parts], "references": list(self.references)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Cross:
        return cls(tuple(Part.from_state(part) for part in state["parts"]), tuple(state["references"]))


def most_frequent(part: Part, rows: pa.RecordBatch, numbers: NumbersOf) -> str:
    """The text of the most frequent level; of several the first one."""
    met = met_levels(part, rows, numbers)
    counts = np.bincount(met.places, minlength=len(met.texts))
    return min(str(text) for text, count in zip(met.texts.to_pylist(), counts, strict=True) if count == counts.max())


def _referred(parts: list[Met], references: tuple[str, ...]) -> list[Met]:
    """The parts, where every row that has a reference has all of them."""
    texts, places = [], []
    for part, reference in zip(parts, references, strict=True):
        found = pc.index(part.texts, reference).as_py()
        places.append(len(part.texts) if found < 0 else found)
        texts.append(pa.concat_arrays([part.texts, pa.array([reference])]) if found < 0 else part.texts)
    of_parts = [part.places == place for part, place in zip(parts, places, strict=True)]
    has_one = np.logical_or.reduce(of_parts)
    return [
        Met(np.where(has_one, place, part.places), text) for part, place, text in zip(parts, places, texts, strict=True)
    ]


def met_levels(part: Part, rows: pa.RecordBatch, numbers: NumbersOf) -> Met:
    """The levels of one part, as texts."""
    if part.bins is not None:
        array = part.bins.labels(rows, numbers)
    else:
        array = as_dictionary(rows.column(part.source), part.values)
    levels = array.dictionary
    if part.values == "float":
        levels = pc.add(levels, 0.0)  # -0.0 is 0.0
    texts = pa.concat_arrays([escaped(levels.cast(pa.string())), pa.array([NULL])])
    places = pc.fill_null(array.indices.cast(pa.int64()), len(levels))
    # A dictionary may have null among its values.
    places = np.where(_is_null(levels)[places.to_numpy(zero_copy_only=False)], len(levels), places)
    once = texts.dictionary_encode()  # -0.0 and 0.0 are two values with one text
    table = once.indices.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return Met(table[places], once.dictionary)


def _is_null(levels: pa.Array) -> np.ndarray:
    return np.append(np.asarray(levels.is_null().to_numpy(zero_copy_only=False)), True)


def escaped(levels: pa.StringArray) -> pa.StringArray:
    """The text that each level has in a cross.

    >>> escaped(pa.array(["AA", "a:b", "null"])).to_pylist()
    ['AA', 'a\\\\:b', '\\\\null']
    """
    texts = pc.replace_substring(pc.replace_substring(levels, "\\", "\\\\"), BETWEEN, "\\" + BETWEEN)
    return pc.if_else(pc.equal(texts, NULL), "\\" + NULL, texts)


def taken_apart(text: str) -> list[str | None]:
    """The level of each part of a text, as text; None is null. The inverse of :func:`escaped` and joining.

    >>> taken_apart("AA:null"), taken_apart("a\\\\:b:\\\\null")
    (['AA', None], ['a:b', 'null'])
    """
    parts = [part[:-1] for part in re.findall(r"(?:[^:\\]|\\.)*:", text + BETWEEN, re.DOTALL)]
    return [None if part == NULL else re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts]


def _joined(first: Met, second: Met) -> Met:
    """The combinations that occur."""
    n_second = len(second.texts)
    pairs, size = first.places * n_second + second.places, len(first.texts) * n_second
    if size <= _TABLE_SHARE * max(len(pairs), 1_024):
        occurs = np.zeros(size, np.bool_)
        occurs[pairs] = True
        found = np.flatnonzero(occurs)
        table = np.empty(size, np.int64)
        table[found] = np.arange(len(found))
        places = table[pairs]
    else:
        found, places = np.unique(pairs, return_inverse=True)
    texts = [first.texts.take(pa.array(found // n_second)), second.texts.take(pa.array(found % n_second))]
    return Met(places, pc.binary_join_element_wise(*texts, BETWEEN))
