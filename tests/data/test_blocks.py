"""Blocks and the entries of their sparse columns."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.blocks import Block, Entries

N_COLUMNS = 7


def as_matrix(entries: Entries) -> np.ndarray:
    """The entries as a dense matrix, repeated ones added up."""
    first, end = entries.starts[0], entries.starts[-1]
    values = entries.values[first:end] if len(entries.values) else np.ones(end - first)
    shape = (len(entries.starts) - 1, N_COLUMNS)
    return scipy.sparse.csr_array((values, entries.coordinates[first:end], entries.starts - first), shape).toarray()


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_rows, n_entries = len(counts), sum(counts)
    values = generator.normal(size=n_entries if draw(st.booleans()) else 0).astype(np.float32)
    coordinates = generator.integers(0, N_COLUMNS, n_entries, dtype=np.int32)
    entries = Entries(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), coordinates, values)
    numbers = generator.normal(size=(n_rows, 2)).astype(np.float32)
    none = np.empty(0)
    return Block(numbers, np.empty((n_rows, 0), np.int32), np.arange(n_rows) + 0.0, none, none, none, entries)


@settings(max_examples=60)
@given(blocks(), st.data())
def test_parts_and_chosen_rows_keep_their_entries(block: Block, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, block.rows))
    stop = data.draw(st.integers(start, block.rows))
    part = block.part(start, stop)
    np.testing.assert_array_equal(as_matrix(part.entries), as_matrix(block.entries)[start:stop])
    rows = np.array(data.draw(st.lists(st.booleans(), min_size=part.rows, max_size=part.rows)), np.bool_)
    chosen = part.chosen(rows)
    np.testing.assert_array_equal(as_matrix(chosen.entries), as_matrix(part.entries)[rows])
    np.testing.assert_array_equal(chosen.features, part.features[rows])


def test_a_block_without_sparse_columns_has_no_entries() -> None:
    block = Block(np.zeros((3, 1), np.float32), np.empty((3, 0), np.int32), *(np.zeros(3),) * 3, np.empty(0))
    assert [len(array) for array in block.part(1, 2).entries.arrays()] == [0, 0, 0]
    assert block.entries.values.dtype == np.float32
