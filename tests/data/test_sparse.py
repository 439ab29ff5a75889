"""What is met of sparse columns does not depend on who met it when; encodings survive their state, and no tampering."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.columns import Columns, SparseColumn
from streamgd.data.sparse import KeysMet, SparseEncoding

COLUMNS = {
    "index": SparseColumn("c", "index", has_values=False, n_columns=50),
    "pairs": SparseColumn("c", "index", has_values=True, n_columns=50),
    "words": SparseColumn("c", "string", has_values=False),
    "map": SparseColumn("c", "string", has_values=True),
    "hashed": SparseColumn("c", "index", has_values=True, n_columns=16, hashed=True),
}

ENTRIES = st.lists(st.lists(st.tuples(st.integers(0, 20), st.floats(0.5, 2.0)), max_size=8), min_size=1, max_size=4)


def met(column: SparseColumn, max_levels: int = 100) -> KeysMet:
    return KeysMet(column, max_levels, 16)


def learn(keys: KeysMet, entries: list[tuple[int, float]]) -> None:
    given = pa.array([key if keys.column.keys == "index" else f"w{key}" for key, _ in entries])
    codes = keys.codes(given.cast(pa.int64() if keys.column.keys == "index" else pa.string()))
    magnitudes = np.array([value for _, value in entries] if keys.column.has_values else [])
    keys.learn(codes, magnitudes, np.array([0]), np.array([len(entries)]), np.ones(1, np.bool_))


def told(keys: KeysMet) -> tuple[Any, ...]:
    encoding = SparseEncoding.of(keys, 0, every=False)
    return encoding.row_names(), encoding.scales.tolist(), encoding.buckets


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("max_levels", [3, 100])
@settings(max_examples=25)
@given(batches=ENTRIES)
def test_what_was_met_in_parts_is_what_was_met_at_once(
    kind: str, max_levels: int, batches: list[list[tuple[int, float]]]
) -> None:
    once, again = met(COLUMNS[kind], max_levels), met(COLUMNS[kind], max_levels)
    parts = []
    for entries in batches:
        learn(once, entries)
        parts.append(met(COLUMNS[kind], max_levels))
        learn(parts[-1], entries)
    for entries in reversed(batches):
        learn(again, entries)
    merged = parts[0]
    for part in parts[1:]:
        merged = pickle.loads(pickle.dumps(merged)).merged(part)
    assert told(merged) == told(once) == told(again)
    restored = met(COLUMNS[kind], max_levels)
    restored.restore(once.state())
    assert told(restored) == told(once)


def test_rows_that_are_not_learned_from_leave_no_trace() -> None:
    keys = met(COLUMNS["words"])
    codes = keys.codes(pa.array(["a", "b", "a", "c"]))
    keys.learn(codes, np.empty(0), np.array([0, 1]), np.array([1, 4]), np.array([False, True]))
    assert SparseEncoding.of(keys, 0, every=False).row_names() == ["c=a", "c=b", "c=c"]
    keys = met(COLUMNS["index"])
    keys.learn(keys.codes(pa.array([1, 2])), np.empty(0), np.array([0, 1]), np.array([1, 2]), np.array([False, True]))
    assert SparseEncoding.of(keys, 0, every=False).row_names() == ["c[2]"]
    assert SparseEncoding.of(keys, 0, every=True).n_rows == 50


def test_codes_outside_a_dictionary_are_refused() -> None:
    damaged = pa.DictionaryArray.from_arrays(pa.array([0, 5]), ["a"], safe=False)
    with pytest.raises(pa.ArrowInvalid, match="outside its dictionary"):
        met(COLUMNS["words"]).codes(damaged)


def encoding_of(kind: str) -> SparseEncoding:
    keys = met(COLUMNS[kind])
    learn(keys, [(3, 1.0), (1, 2.0), (7, 0.5)])
    return SparseEncoding.of(keys, 4, every=False)


@pytest.mark.parametrize("kind", COLUMNS)
def test_an_encoding_is_what_its_state_says(kind: str) -> None:
    encoding = encoding_of(kind)
    again = SparseEncoding.from_state(encoding.state())
    again.check()
    assert again.row_names() == encoding.row_names()
    assert again.state().keys() == encoding.state().keys()
    np.testing.assert_array_equal(again.scales, encoding.scales)
    columns = Columns((), (), sparse=(COLUMNS[kind],))
    assert Columns.from_json(columns.to_json()) == columns
    assert "sparse" not in Columns((), ()).to_json()


TAMPERED = {
    "indices beyond": ("pairs", {"indices": np.array([1, 2, 90], np.int32)}),
    "indices that fall": ("pairs", {"indices": np.array([3, 2, 1], np.int32)}),
    "negative indices": ("pairs", {"indices": np.array([-3, 2, 4], np.int32)}),
    "indices of another type": ("pairs", {"indices": np.array([1, 2, 3])}),
    "too few scales": ("pairs", {"scales": np.ones(2)}),
    "scales that are no numbers": ("pairs", {"scales": np.array([1.0, np.nan, 1.0])}),
    "scales without values": ("index", {"scales": np.ones(3)}),
    "levels and indices": ("words", {"indices": np.array([1], np.int32)}),
    "a null level": ("words", {"levels": pa.array(["a", None, "b"])}),
    "too many columns": ("pairs", {"column": replace(COLUMNS["pairs"], n_columns=2**40)}),
    "keys of another kind": ("pairs", {"column": replace(COLUMNS["pairs"], keys="float")}),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", TAMPERED)
def test_an_encoding_that_was_tampered_with_is_refused(name: str) -> None:
    kind, changes = TAMPERED[name]
    tampered = replace(encoding_of(kind), **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"column"):
        tampered.check()
