"""Records in the queues of their blocks, and as blocks, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data.blocks import HOLDOUT_BIT, RecordLayout
from streamgd.kernels import records as kernels


@given(blocks=st.lists(st.integers(-1, 6), max_size=60), length=st.integers(1, 9), shift=st.integers(0, 3))
def test_records_wait_in_the_queue_of_their_bundle_until_it_is_full(blocks: list[int], length: int, shift: int) -> None:
    places, n_bundles = 100, -(-7 >> shift)
    records = np.arange(3 * len(blocks), dtype=np.uint64).reshape(len(blocks), 3)
    slots = np.arange(len(blocks), dtype=np.int32)[::-1].copy()
    slots[::3] |= HOLDOUT_BIT
    placed, block_of_row = records.copy(), np.array(blocks, np.int64)
    placed.view(np.int32)[:, 5] = slots + block_of_row % 2**shift * places
    queues, queued = np.empty((n_bundles, length, 3), np.uint64), np.zeros(n_bundles, np.int64)
    found: list[list[list[int]]] = [[] for _ in range(n_bundles)]

    def write(bundle: int) -> None:
        found[bundle] += queues[bundle, : queued[bundle]].tolist()
        queued[bundle] = 0

    row, rows = 0, np.zeros(7, np.int64)
    while True:
        row = kernels.append_records(records, block_of_row, slots, 5, shift, places, row, queues, queued, rows)
        if row == len(blocks):
            break
        bundle = blocks[row] >> shift
        assert queued[bundle] == length
        write(bundle)
    for bundle in range(n_bundles):
        write(bundle)
        assert found[bundle] == [placed[row].tolist() for row, each in enumerate(blocks) if each >> shift == bundle]
    assert rows.tolist() == [blocks.count(block) for block in range(7)]


@given(
    slots=st.lists(st.integers(0, 19), unique=True, max_size=20), seed=st.integers(0, 100),
    n_blocks=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_slot_order_puts_training_rows_first(slots: list[int], seed: int, n_blocks: int) -> None:
    held_out = np.random.default_rng(seed).random(len(slots)) < 0.4
    records = np.full((len(slots), 3), -5, np.int32)
    records[:, 1] = np.where(held_out, np.array(slots, int) | HOLDOUT_BIT, slots)
    order, starts = np.empty(len(slots), np.int32), np.empty(2 * n_blocks + 1, np.int64)
    kernels.slot_order(records, 1, HOLDOUT_BIT, np.empty(40, np.int32), order, starts)

    expected = sorted(range(len(slots)), key=lambda row: (held_out[row], slots[row]))
    assert order.tolist() == expected
    in_block = np.array(slots, int) // (20 // n_blocks)
    rows = [np.bincount(in_block[chosen], minlength=n_blocks) for chosen in (~held_out, held_out)]
    assert starts.tolist() == np.cumsum(np.concatenate([[0], *rows])).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_numeric", [0, 1, 3, 28, 600])
@pytest.mark.parametrize("rows", [0, 211, 1100])
@pytest.mark.parametrize("sides", [False, True])
def test_records_become_the_rows_of_a_block_in_their_order(dtype: str, n_numeric: int, rows: int, sides: bool) -> None:
    rng = np.random.default_rng(n_numeric)
    layout = RecordLayout(n_numeric, 2, dtype, sides, sides, sides)
    records, order = layout.new_records(1200), rng.permutation(1200)[:rows]
    places = layout.places(records)
    values = rng.normal(size=(1200, n_numeric)).astype(dtype)
    values[rng.random(values.shape) < 0.1] = np.nan
    codes = rng.integers(-4, 5, (1200, 2)).astype(np.int32)
    target, weight, offset = rng.normal(size=(3, 1200))
    places.features[:, places.first_feature :][:, :n_numeric] = values
    places.codes[:, places.first_code :][:, :2] = codes
    places.target[:] = target
    if sides:
        places.weight[:], places.offset[:], places.row_numbers[:] = weight, offset, np.arange(1200)

    mean, scale, fill = rng.normal(size=n_numeric), rng.uniform(0.5, 2.0, n_numeric), rng.normal(size=n_numeric)
    tables = [np.array([7, 9, 8, 6, 5], np.int32), np.array([20, 21, 24, 23, 22], np.int32)]
    unknown, hashed_from = np.array([10, 11], np.int32), np.array([100, 200], np.int32)
    block = layout.views(np.zeros(layout.block_bytes(len(order)), np.uint8), len(order))
    positions = (
        layout.features_position, layout.codes_position, layout.weight_position, layout.offset_position,
        layout.row_number_position,
    )  # fmt: skip
    kernels.finish_records(
        records, order, np.array(positions, np.int64), mean, scale, fill, np.concatenate(tables),
        np.array([0, 5], np.int64), unknown, hashed_from, 0.5, 2.0, *block.arrays(),
    )  # fmt: skip

    def row_of(column: int, code: int) -> Any:
        if code >= 0:
            return tables[column][code]
        return unknown[column] if code == -1 else hashed_from[column] - 2 - code

    expected = np.where(np.isnan(values), fill, (values.astype(float) - mean) / scale)[order]
    np.testing.assert_allclose(block.features, expected, rtol=1e-6 if dtype == "float32" else 1e-14)
    assert block.codes.tolist() == [[row_of(column, codes[row, column]) for column in range(2)] for row in order]
    np.testing.assert_array_equal(block.target, (target[order] - 0.5) / 2.0)
    if sides:
        np.testing.assert_array_equal(block.weight, weight[order])
        np.testing.assert_array_equal(block.offset, offset[order] / 2.0)
        np.testing.assert_array_equal(block.row_numbers, order)
