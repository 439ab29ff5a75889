"""Keys of entries: hashes of integers, rows of theta, and entries put in order, against plain Python."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.vocabulary import hash_buckets
from streamgd.kernels import keys as kernels


@settings(max_examples=50)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.booleans(), st.integers(1, 2**24))
def test_integers_are_hashed_as_their_digits(integers: list[int], signed: bool, n_buckets: int) -> None:
    found = np.empty(len(integers), np.int32)
    kernels.hash_integers(np.array(integers, np.int64), signed, np.uint64(n_buckets), found)
    integers = integers if signed else [number % 2**64 for number in integers]
    texts = pa.array([str(number) for number in integers], pa.string())
    assert found.tolist() == hash_buckets(texts, n_buckets).tolist()


@settings(max_examples=50)
@given(st.sets(st.integers(0, 300)), st.lists(st.integers(0, 500), max_size=30), st.booleans())
def test_rows_are_numbered_by_what_is_present(present: set[int], asked: list[int], hashed: bool) -> None:
    places = np.array(sorted(present), np.int32)
    words = np.zeros(-(-(max(present, default=-1) + 1) // 64), np.uint64)
    before = np.zeros(len(words), np.int32)
    kernels.index_bits(places, words, before)
    # Column 0 has a vocabulary of two levels, of which the second has no row; column 1 is asked for.
    columns = np.array([[0, 2, 0, 0, 5], [2, 0, 0, len(words), 7]], np.int64)
    codes = np.array(asked, np.int32) + hashed * kernels.FIRST_BUCKET
    keys = np.concatenate([[0, 1, 2], codes + (1 << kernels.KEY_BITS)]).astype(np.int32)
    rows = np.empty(len(keys), np.int32)
    kernels.rows_of_keys(keys, np.array([6, -1], np.int32), words, before, columns, rows)
    assert rows[:3].tolist() == [6, -1, -1]
    ordered = sorted(present)
    assert rows[3:].tolist() == [7 + ordered.index(code) if code in present else -1 for code in asked]


@pytest.mark.parametrize("has_values", [False, True])
@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 3)), max_size=30))
def test_entries_are_sorted_by_place_and_keep_their_order(has_values: bool, entries: list[tuple[int, int]]) -> None:
    places, rows = (np.array([entry[k] for entry in entries], np.int32) for k in (0, 1))
    values = np.arange(1.0, len(entries) + 1) if has_values else np.empty(0)
    scales = np.array([1.0, 2.0, 4.0, 0.0])
    starts, coordinates = np.empty(6, np.int64), np.empty(len(entries), np.int32)
    out = np.empty(len(values))
    n = kernels.sort_entries(places, rows.copy(), values, scales, 0, starts, coordinates, out)
    kept = [
        (place, row, number / max(scales[row], 1.0))
        for number, (place, row) in enumerate(entries, 1)
        if row >= 0 and not (has_values and scales[row] == 0.0)
    ]
    kept.sort(key=lambda entry: entry[0])
    assert n == len(kept)
    assert coordinates[:n].tolist() == [entry[1] for entry in kept]
    assert np.diff(starts).tolist() == [sum(entry[0] == place for entry in kept) for place in range(5)]
    if has_values:
        assert out[:n].tolist() == [entry[2] for entry in kept]
