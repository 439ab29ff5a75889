"""The band method on blocks in memory: its bound, its state, and that an update changes nothing that it is given."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from streamgd.data.blocks import Block, Entries
from streamgd.objective.band import Band, band_of, dense_rows, most_rows
from streamgd.objective.losses import HingeLoss, KinkedLoss, QuantileLoss
from streamgd.objective.objective import ChunkSums, Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.band import BandMethod
from streamgd.optim.base import State

MOST = 60


def a_block(seed: int, loss: KinkedLoss, rows: int = 900) -> Block:
    rng = np.random.default_rng(seed)
    features, codes = rng.normal(size=(rows, 2)), rng.integers(1, 5, (rows, 1)).astype(np.int32)
    target = features @ [0.7, -0.4] + 0.3 * codes[:, 0] + rng.standard_t(3.0, rows)
    target = (target > 0.5).astype(float) if loss.is_classifier else target
    return Block(
        features, np.where(codes > 1, codes, -1).astype(np.int32), target, rng.uniform(0.5, 2.0, rows), np.empty(0),
        np.empty(0, np.uint64),
    )  # fmt: skip


def states(loss: KinkedLoss, penalty: ElasticNet, block: Block, passes: int = 40) -> list[State]:
    """The state after each pass, until the bound is small."""
    objective, optimizer = Objective(loss, penalty), BandMethod()
    squares = np.array([[1.0], [1.0], [0.25], [0.25], [0.25], [1.0]])
    state, found = optimizer.init(np.zeros((6, 1)), 1.0, squares), []
    for _ in range(passes):
        before = copy.deepcopy(state)
        parts: list[ChunkSums] = [
            objective.sums_with_band(state["trial"], part, state["width"], state["radius"], MOST, True)
            for part in (block.chosen(np.arange(block.rows) < 500), block.chosen(np.arange(block.rows) >= 500))
        ]
        after = optimizer.update(state, objective.evaluate(state["trial"], parts[0] + parts[1]), penalty)
        assert all(np.array_equal(state[name], before[name]) for name in state if state[name] is not None)
        state = after
        found.append(state)
        if state["excess"] is not None and state["excess"] < 1e-13:
            break
    return found


@pytest.mark.parametrize("loss", [QuantileLoss(0.5), QuantileLoss(0.9), HingeLoss()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("penalty", [ElasticNet(), ElasticNet(l2=0.01), ElasticNet(l1=0.02)], ids=str)
def test_the_bound_holds_at_every_pass(loss: KinkedLoss, penalty: ElasticNet) -> None:
    block = a_block(2, loss)
    found = states(loss, penalty, block)
    least = found[-1]["value"]

    assert found[-1]["excess"] < 1e-13
    bounds = [(state["value"], state["excess"]) for state in found if state["excess"] is not None]
    assert all(value - excess <= least + 1e-13 for value, excess in bounds)


def test_the_state_is_plain_numbers_and_arrays_of_the_shape_of_theta() -> None:
    found = states(QuantileLoss(0.7), ElasticNet(l2=1e-3), a_block(3, QuantileLoss(0.7)))
    kinds: dict[str, Any] = {name: type(value) for name, value in found[-1].items()}

    assert {kinds[name] for name in ("width", "radius", "reach", "damping", "alpha", "slope", "value")} == {float}
    assert all(value.shape == (6, 1) for value in found[-1].values() if isinstance(value, np.ndarray))


def test_dense_rows_are_those_that_theta_sees() -> None:
    block = a_block(4, HingeLoss())
    theta = np.random.default_rng(1).normal(size=(6, 1))
    rows = dense_rows(block, np.arange(100), 6)
    raw = block.features[:100] @ theta[:2, 0] + theta[-1, 0]
    raw += np.where(block.codes[:100, 0] >= 0, theta[block.codes[:100, 0], 0], 0.0)

    np.testing.assert_allclose(rows @ theta[:, 0], raw, rtol=1e-12)
    assert most_rows(10) == 100_000
    assert most_rows(1_000) == 4_000


def test_dense_rows_have_the_entries_of_sparse_columns() -> None:
    """A row that names a column twice counts it twice."""
    starts, coordinates = np.array([0, 2, 2, 5], np.int64), np.array([1, 3, 2, 2, 4], np.int32)
    values = np.array([0.5, 2.0, 1.0, 3.0, -1.0])
    block = Block(
        np.array([[7.0], [8.0], [9.0]]), np.empty((3, 0), np.int32), np.zeros(3), np.empty(0), np.empty(0),
        np.empty(0, np.uint64), Entries(starts, coordinates, values),
    )  # fmt: skip
    rows = dense_rows(block, np.array([0, 2]), 6)

    np.testing.assert_array_equal(rows, [[7.0, 0.5, 0.0, 2.0, 0.0, 1.0], [9.0, 0.0, 4.0, 0.0, -1.0, 1.0]])


def test_equal_rows_of_a_band_that_has_too_many_become_one() -> None:
    """Model and slopes of blocks folded in any way are those of all rows."""
    rng, loss, n_dof = np.random.default_rng(5), QuantileLoss(0.3), 3
    rows = 400
    features, target = rng.integers(0, 3, (rows, 2)).astype(float), rng.integers(0, 4, rows).astype(float)
    features[0, 0] = -0.0
    block = Block(
        features, np.empty((rows, 0), np.int32), target, rng.uniform(0.5, 2.0, rows), np.empty(0),
        np.empty(0, np.uint64),
    )  # fmt: skip
    raw, thetas = features @ [0.2, -0.1] + 0.5, rng.normal(size=(5, n_dof))

    def model(band: Band) -> np.ndarray:
        away = band.rows @ thetas.T - band.kinks[:, None]
        return np.append(band.below @ away + band.rises @ np.maximum(away, 0.0), band.rows.T @ band.here)

    whole = band_of(loss, block, raw, n_dof, np.inf, rows, True)
    distinct = len(np.unique(np.column_stack([features + 0.0, target]), axis=0))
    chosen = np.arange(rows) < 150
    parts = [(block.chosen(each), raw[each]) for each in (chosen, ~chosen)]
    first, second = (band_of(loss, part, of_part, n_dof, np.inf, distinct, True) for part, of_part in parts)
    at_once, folded = band_of(loss, block, raw, n_dof, np.inf, distinct, True), first + second

    assert (len(whole.rows), whole.found) == (rows, rows)
    for band in (at_once, folded):
        assert (len(band.rows), band.found, band.lost) == (distinct, distinct, 0)
        np.testing.assert_allclose(model(band), model(whole), rtol=1e-12)
    short = band_of(loss, block, raw, n_dof, np.inf, distinct - 1, True)
    assert len(short.rows) == distinct - 1
    assert short.found > short.most


def test_rows_that_are_counted_are_kept_where_many_are_equal() -> None:
    rng, loss = np.random.default_rng(6), QuantileLoss(0.3)
    equal, all_distinct = rng.integers(0, 3, (400, 2)).astype(float), rng.normal(size=(400, 2))
    for features, expected in ((equal, 9), (all_distinct, 0)):
        block = Block(
            features, np.empty((400, 0), np.int32), np.zeros(400), np.empty(0), np.empty(0), np.empty(0, np.uint64)
        )
        counted = band_of(loss, block, features.sum(axis=1), 3, np.inf, 50, False)
        assert (len(counted.rows), counted.found) == (expected, expected or 400)
