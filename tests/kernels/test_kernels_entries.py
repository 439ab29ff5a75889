"""The stochastic loops over entries of sparse columns take the steps of the same rows with dense columns."""

import numpy as np
import pytest
from sparse_rows import FIRST, N_DOF, N_LEVELS, N_NUMERIC, N_SPARSE, twins

from streamgd.data.blocks import Block, Entries
from streamgd.kernels import coordinates as table
from streamgd.kernels import entries, multinomial, stochastic
from streamgd.kernels.row_by_row import rows_loop
from streamgd.objective.losses import LOSSES
from streamgd.objective.objective import raw_prediction
from streamgd.optim.stochastic import OPTIMIZERS
from streamgd.training.stepsize import expected_squares, largest_row_norm, smoothness

ROWS, RATE = 300, 0.1
NO_BOUNDS = np.empty(0, np.int64)


def start(optimizer: str, tables: int = 1) -> np.ndarray:
    rule = OPTIMIZERS[optimizer]
    coordinates = np.zeros((tables, N_DOF, table.SLOTS + len(rule.slots)))
    theta = np.random.default_rng(5).normal(size=(tables, N_DOF)) * 0.5
    coordinates[:, :, table.THETA] = coordinates[:, :, table.AVERAGE] = theta
    if "squares" in rule.slots:
        coordinates[:, :, table.SLOTS + rule.slots.index("squares")] = 0.01
    return coordinates


def minibatches(
    block: Block,
    coordinates: np.ndarray,
    optimizer: str,
    bounds: np.ndarray,
    before: int = 0,
    penalty: float = 0.0,
    averaging: bool = True,
) -> bool:
    """Train ``coordinates`` (n_tables, n_dof, …) on the rows, of several classes if there are several tables."""
    rule, n_dof = OPTIMIZERS[optimizer], coordinates.shape[1]
    of_batch = entries.most_entries(block.entries.starts, bounds)
    most = table.most_touched(n_dof, block.features.shape[1], 1, int(np.diff(bounds).max()), of_batch)
    ranges, rates = np.array([[-1, -1]]), np.full(len(bounds) - 1, RATE)
    settings, lists = np.array(rule.settings), (np.zeros(n_dof, np.int32), np.zeros(most, np.int32))
    anew = rule.takes_penalty_anew
    rows = (block.features, block.codes, *block.entries.arrays(), block.target, block.weight)
    if len(coordinates) > 1:
        sums = np.zeros((len(coordinates), 1))
        return multinomial.train_minibatches(
            *rows, bounds, rates, before, 1.3, penalty, penalty, averaging, anew, coordinates, ranges, sums,
            np.empty((0, 0)), settings, np.empty((1 + len(coordinates), block.rows)), *lists, rule.update,
        )  # fmt: skip
    loss = LOSSES["logistic"]
    return stochastic.train_minibatches(
        *rows, block.offset, bounds, rates, before, 1.3, penalty, penalty, averaging, anew, coordinates[0], ranges,
        np.zeros(1), NO_BOUNDS, np.empty((0, 0)), settings, np.empty((2, block.rows)), *lists, loss.settings,
        loss.residuals_of_rows, rule.update,
    )  # fmt: skip


def one_by_one(block: Block, coordinates: np.ndarray, before: int, penalty: float = 0.0) -> bool:
    loss, rates = LOSSES["logistic"], np.full(block.rows, 0.03)
    return rows_loop(loss.pointwise_gradient, False)(
        block.features, block.codes, *block.entries.arrays(), block.target, block.offset, rates,
        rates * block.weight / 1.3, before, penalty, penalty, True, coordinates[0], np.array([[-1, -1]]), np.zeros(1),
        NO_BOUNDS, np.empty((2, block.rows)), loss.settings,
    )  # fmt: skip


def agree(found: np.ndarray, expected: np.ndarray, steps: int, rtol: float = 1e-9) -> None:
    """Theta, its average up to ``steps``, and the optimizer's slots."""
    for one, other in zip(found, expected, strict=True):
        averages = np.empty((2, N_DOF))
        for each, out in zip((one, other), averages, strict=True):
            table.averaged_theta(np.ascontiguousarray(each), steps, out)
        np.testing.assert_allclose(one[:, table.THETA], other[:, table.THETA], rtol=rtol, atol=rtol)
        np.testing.assert_allclose(averages[0], averages[1], rtol=rtol, atol=rtol)
        np.testing.assert_allclose(one[:, table.SLOTS :], other[:, table.SLOTS :], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("optimizer", ["plain", "adagrad"])
@pytest.mark.parametrize("valued", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_minibatches_take_the_steps_of_dense_rows(optimizer: str, valued: bool, classes: int) -> None:
    """Rows come twice, the second time as parts of a block, whose entries begin in the middle."""
    both = twins(ROWS, valued=valued, n_classes=classes)
    found = start(optimizer, classes if classes > 2 else 1)
    expected = np.ascontiguousarray(found[:, both.of_dense])
    bounds = np.array([0, 2, 3, 40, 41, 90, 300])
    assert minibatches(both.sparse, found, optimizer, bounds)
    assert minibatches(both.dense, expected, optimizer, bounds)
    cuts = (np.arange(0, 101, 5), np.array([0, 90, 200]))
    steps = 6
    for first, stop, bounds in ((0, 100, cuts[0]), (100, 300, cuts[1])):
        assert minibatches(both.sparse.part(first, stop), found, optimizer, bounds, steps)
        assert minibatches(both.dense.part(first, stop), expected, optimizer, bounds, steps)
        steps += len(bounds) - 1

    agree(found[:, both.of_dense], expected, steps)


@pytest.mark.parametrize("valued", [True, False])
def test_single_rows_take_the_steps_of_dense_rows(valued: bool) -> None:
    both = twins(ROWS, valued=valued)
    found = start("plain")
    expected = np.ascontiguousarray(found[:, both.of_dense])
    for before in (0, ROWS):
        assert one_by_one(both.sparse, found, before)
        assert one_by_one(both.dense, expected, before)

    agree(found[:, both.of_dense], expected, 2 * ROWS)


@pytest.mark.parametrize("classes", [2, 3])
def test_ftrl_is_that_of_dense_rows_with_penalties_too(classes: int) -> None:
    """However rarely a coordinate is touched: theta follows from its sums and the number of steps alone."""
    both = twins(ROWS, n_classes=classes)
    found = start("ftrl", classes if classes > 2 else 1)
    found[:, :-1, table.THETA] = 0.0  # a coordinate that begins elsewhere stays there until it is touched
    expected = np.ascontiguousarray(found[:, both.of_dense])
    bounds = np.arange(0, ROWS + 1, 3)
    assert minibatches(both.sparse, found, "ftrl", bounds, 0, 0.02, averaging=False)
    # Levels of the dense rows are as lazy as entries: both are brought up to date.
    assert minibatches(both.dense, expected, "ftrl", bounds, 0, 0.02, averaging=False)
    thetas = np.empty((2, len(found), N_DOF))
    for table_of_class, other, one, dense in zip(found, expected, *thetas, strict=True):
        table.renewed_theta(table_of_class, 100, 0.02, 0.02, one)
        table.renewed_theta(other, 100, 0.02, 0.02, dense)

    np.testing.assert_allclose(thetas[0][:, both.of_dense], thetas[1], rtol=1e-9, atol=1e-12)
    assert (thetas[0] == 0.0).any()
    np.testing.assert_array_equal(thetas[0][:, both.of_dense] == 0.0, thetas[1] == 0.0)


@pytest.mark.parametrize("kind", ["minibatches", "rows"])
def test_penalties_are_those_of_levels_that_occur_in_the_same_rows(kind: str) -> None:
    """Indicators of one entry a row, at most, are a categorical column: lazily penalised, to the same bits."""
    both = twins(ROWS, valued=False)
    rng = np.random.default_rng(4)
    levels = rng.choice(N_SPARSE, ROWS, p=[0.5, 0.3, 0.1, 0.05, 0.03, 0.015, 0.005]) + FIRST
    levels[rng.random(ROWS) < 0.2] = -1
    sparse, codes = both.sparse, np.column_stack([both.sparse.codes, levels]).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(levels >= 0)]).astype(np.int64)
    one = type(sparse.entries)(starts, levels[levels >= 0].astype(np.int32), np.empty(0))
    by_entries = Block(sparse.features, sparse.codes, *sparse.arrays()[2:], one)
    by_levels = Block(sparse.features, codes, *sparse.arrays()[2:])
    found, expected = start("plain"), start("plain")
    if kind == "rows":
        assert one_by_one(by_entries, found, 0, 0.01)
        loss, ranges, rates = LOSSES["logistic"], np.full((2, 2), -1), np.full(ROWS, 0.03)
        assert rows_loop(loss.pointwise_gradient, False)(
            by_levels.features, codes, *by_levels.entries.arrays(), sparse.target, sparse.offset, rates,
            rates * sparse.weight / 1.3, 0, 0.01, 0.01, True, expected[0], ranges, np.zeros(2), NO_BOUNDS,
            np.empty((2, ROWS)), loss.settings,
        )  # fmt: skip
    else:
        bounds, loss, rule = np.arange(0, ROWS + 1, 3), LOSSES["logistic"], OPTIMIZERS["plain"]
        assert minibatches(by_entries, found, "plain", bounds, 0, 0.01)
        assert stochastic.train_minibatches(
            by_levels.features, codes, *by_levels.entries.arrays(), sparse.target, sparse.weight, sparse.offset,
            bounds, np.full(100, RATE), 0, 1.3, 0.01, 0.01, True, False, expected[0], np.full((2, 2), -1),
            np.zeros(2), NO_BOUNDS, np.empty((0, 0)), np.array(rule.settings), np.empty((2, ROWS)),
            np.zeros(N_DOF, np.int32), np.zeros(N_DOF + 1, np.int32), loss.settings, loss.residuals_of_rows,
            rule.update,
        )  # fmt: skip

    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert (found[0, FIRST:-1, table.THETA] == 0.0).any() == (expected[0, FIRST:-1, table.THETA] == 0.0).any()


def test_an_entry_that_comes_twice_in_a_row_pays_its_penalty_once() -> None:
    both = twins(ROWS, valued=False)
    entries_of = both.sparse.entries
    halves = type(entries_of)(
        2 * entries_of.starts, np.repeat(entries_of.coordinates, 2), np.full(2 * len(entries_of.coordinates), 0.5)
    )
    doubled = Block(*both.sparse.arrays(), halves)
    found, expected = start("plain"), start("plain")
    assert one_by_one(doubled, found, 0, 0.02)
    assert one_by_one(both.sparse, expected, 0, 0.02)

    agree(found, expected, ROWS, 1e-12)


@pytest.mark.parametrize("optimizer", ["plain", "adagrad", "ftrl"])
def test_rows_of_ten_thousand_ones_throw_no_prediction_far(optimizer: str) -> None:
    """Such rows among short ones, of columns that are rare: default rates must be safe for them."""
    rng, n_columns, rows, batch_size = np.random.default_rng(6), 20_000, 1_500, 30
    counts = np.where(np.arange(rows) % 100 == 7, 10_000, 5)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    of_entries = Entries(starts, rng.integers(0, n_columns, starts[-1]).astype(np.int32), np.empty(0))
    target = rng.integers(0, 2, rows).astype(float)
    nothing = np.empty(0)
    block = Block(
        np.empty((rows, 0)), np.empty((rows, 0), np.int32), target, nothing, nothing, np.empty(0, np.uint64), of_entries
    )
    rule, loss, n_dof = OPTIMIZERS[optimizer], LOSSES["logistic"], n_columns + 1
    bounds = smoothness(block, n_dof, (0.25, 0.25), largest_row_norm(block), 1.0, 0.0)
    squares = expected_squares(block, n_dof, loss, 0.0, 1.0, batch_size, 0.25, 0)
    coordinates = np.zeros((n_dof, table.SLOTS + len(rule.slots)))
    coordinates[:, table.SLOTS :] = rule.init(squares).T
    rate, cuts = rule.default_learning_rate(lambda: bounds, batch_size), np.arange(0, rows + 1, batch_size)
    for cut in range(50):
        part, most = block.part(cuts[cut], cuts[cut + 1]), np.zeros(n_dof + 1, np.int32)
        assert stochastic.train_minibatches(
            part.features, part.codes, *part.entries.arrays(), part.target, nothing, nothing,
            np.array([0, batch_size]), np.array([rate]), cut, 1.0, 0.0, 0.0, False, rule.takes_penalty_anew,
            coordinates, np.empty((0, 2), np.int64), nothing, NO_BOUNDS, np.empty((0, 0)), np.array(rule.settings),
            np.empty((2, batch_size)), np.zeros(n_dof, np.int32), most, loss.settings, loss.residuals_of_rows,
            rule.update,
        )  # fmt: skip
        raw = raw_prediction(block, np.ascontiguousarray(coordinates[:, :1]))

        assert np.abs(raw).max() < 30.0
        assert np.abs(raw[counts == 5]).max() < 2.0


@pytest.mark.parametrize("kind", ["minibatches", "rows"])
def test_an_entry_whose_theta_is_not_finite_is_told(kind: str) -> None:
    both, coordinates = twins(ROWS), start("plain")
    coordinates[0, FIRST, table.THETA] = np.inf
    if kind == "rows":
        assert not one_by_one(both.sparse, coordinates, 0)
    else:
        assert not minibatches(both.sparse, coordinates, "plain", np.arange(0, 301, 10))


def test_places_stay_within_their_lists() -> None:
    """Mini-batches whose entries name every coordinate, and some without any."""
    both, coordinates = twins(ROWS, valued=False), start("adagrad")
    assert N_LEVELS + N_NUMERIC + N_SPARSE + 1 == N_DOF
    bounds = np.array([0, 1, 299, 300])
    before = coordinates.copy()
    assert minibatches(both.sparse, coordinates, "adagrad", bounds)

    assert (coordinates[0, :, table.THETA] != before[0, :, table.THETA]).all()
