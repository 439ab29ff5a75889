"""Moments by ranges of the row number are the same bits in whatever batches and order the rows come."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import LAYOUT, SCALE0, SHIFT0, growing_encoder, table

from streamgd.data.encoder import Origin
from streamgd.data.ranges import RangedMoments, RowGroupMoments

ROWS, RANGE = 700, 16
DATA = table(ROWS).combine_chunks().to_batches()[0]


def row_group(start: int, stop: int, batch_rows: int) -> RowGroupMoments:
    """What is found in a row group of these rows, decoded in such batches."""
    encoder = growing_encoder(range_rows=RANGE)
    found = RowGroupMoments(RANGE, 2, stop - start, encoder.moments_of)
    for first in range(start, stop, batch_rows):
        batch = DATA.slice(first, min(batch_rows, stop - first))
        places = LAYOUT.places(LAYOUT.new_records(batch.num_rows))
        rows = encoder.encode(batch, Origin("file", 0, first, first), places)
        assert rows.ranges is not None
        found.add(*rows.ranges)
    return found


def total(bounds: list[int], batch_rows: int, seed: int) -> np.ndarray:
    """Moments of all row groups between the bounds, taken in in any order, and written down half-way."""
    moments_of = growing_encoder(range_rows=RANGE).moments_of
    found = [row_group(start, stop, batch_rows) for start, stop in pairwise(bounds)]
    random.Random(seed).shuffle(found)
    whole = RangedMoments(RANGE)
    for part in found:
        whole = RangedMoments.from_state(whole.state())
        whole.add(part, moments_of)
    return whole.total(moments_of, 2)


EXPECTED = total([0, ROWS], ROWS, 0)


@given(st.lists(st.integers(1, ROWS - 1), max_size=12), st.integers(1, ROWS), st.integers(0, 10**6))
@settings(max_examples=40)
def test_moments_are_the_same_bits_in_any_row_groups_batches_and_order(
    cuts: list[int], batch_rows: int, seed: int
) -> None:
    found = total([0, *sorted(set(cuts)), ROWS], max(batch_rows, 9), seed)
    np.testing.assert_array_equal(found, EXPECTED)


def test_moments_are_those_of_numpy() -> None:
    y, weight = (DATA[name].to_numpy(zero_copy_only=False) for name in ("y", "w"))
    used = ~np.isnan(y)
    for j, name in enumerate(("x", "k", "y")):
        values = DATA[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        z = (values - SHIFT0[j]) / SCALE0[j] if j < 2 else values
        counted = used & ~np.isnan(z)
        mean = np.average(z[counted], weights=weight[counted])
        squares = (weight * (z - mean) ** 2)[counted].sum()
        np.testing.assert_allclose(EXPECTED[j], [weight[counted].sum(), mean, squares], rtol=1e-12, atol=1e-13)


def test_rows_that_never_come_count_as_rows_of_weight_zero() -> None:
    moments_of = growing_encoder(range_rows=RANGE).moments_of
    some = RangedMoments(RANGE)
    some.add(row_group(100, 300, 50), moments_of)
    other = RangedMoments(RANGE)
    for bounds in ((100, 130), (130, 300)):
        other.add(row_group(*bounds, 50), moments_of)
    np.testing.assert_array_equal(some.total(moments_of, 2), other.total(moments_of, 2))
    np.testing.assert_array_equal(RangedMoments(RANGE).total(moments_of, 2), np.zeros((3, 3)))


@given(st.lists(st.integers(1, ROWS - 1), min_size=2, max_size=12), st.integers(0, 10**6))
@settings(max_examples=30)
def test_rows_that_are_left_out_keep_none_waiting_and_change_no_bit(cuts: list[int], seed: int) -> None:
    moments_of = growing_encoder(range_rows=RANGE).moments_of
    bounds = list(pairwise([0, *sorted(set(cuts)), ROWS]))
    random.Random(seed).shuffle(bounds)
    waiting, told = RangedMoments(RANGE), RangedMoments(RANGE)
    for start, stop in bounds:
        if start % 2:
            told.leave_out(start, stop - start, 2, moments_of)
        else:
            for ranges in (waiting, told):
                ranges.add(row_group(start, stop, 50), moments_of)
    assert set(told.pieces) <= {ROWS // RANGE}
    np.testing.assert_array_equal(told.total(moments_of, 2), waiting.total(moments_of, 2))
