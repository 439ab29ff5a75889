"""The compiled loops against the textbook loop of ``reference``, and the penalty's step against scipy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Descent, Rows, take_steps
from scipy.optimize import minimize_scalar

from streamgd.data.blocks import NO_ENTRIES, Block
from streamgd.kernels import coordinates as table
from streamgd.kernels import stochastic as kernels
from streamgd.kernels.row_by_row import rows_loop
from streamgd.objective.losses import LOSSES
from streamgd.optim.stochastic import OPTIMIZERS
from streamgd.training.monitor import Watched

# Three numbers, a column of 5 and one of 9 levels, the intercept.
N_NUMERIC, LEVELS = 3, (5, 9)
N_DOF = N_NUMERIC + sum(LEVELS) + 1
FIRST = (N_NUMERIC, N_NUMERIC + LEVELS[0])
NO_BASE_ROWS = [(-1, -1), (-1, -1)]
BASE_ROWS = [(FIRST[0], FIRST[0] + LEVELS[0]), (FIRST[1], FIRST[1] + LEVELS[1])]


def some_rows(seed: int, n: int, loss: str, weighted: bool = True, base_level: bool = False) -> Rows:
    """Rows whose later levels are rare, so that coordinates stay untouched for long."""
    rng = np.random.default_rng(seed)
    codes = np.empty((n, 2), np.int32)
    for c, (first, levels) in enumerate(zip(FIRST, LEVELS, strict=True)):
        share = 0.4 ** np.arange(levels)
        codes[:, c] = first + rng.choice(levels, n, p=share / share.sum())
        if base_level:
            codes[codes[:, c] == first, c] = -1
    features = rng.normal(size=(n, N_NUMERIC))
    raw = features @ [1.0, -0.5, 0.2] + rng.normal(size=n)
    target = (raw > 0).astype(float) if loss == "logistic" else raw
    weight = rng.choice([0.5, 1.0, 3.0], n) if weighted else np.empty(0)
    offset = rng.normal(size=n) * 0.3 if weighted else np.empty(0)
    return Rows(features, codes, target, weight, offset)


def no_entries(dtype: type) -> tuple[np.ndarray, ...]:
    return NO_ENTRIES[np.dtype(dtype)].arrays()


def watched_rows(rows: Rows, steps_before: int) -> Watched:
    block = Block(rows.features, rows.codes, rows.target, rows.weight, rows.offset, np.empty(0, np.uint64))
    return Watched(block, steps_before, 1)


class Compiled:
    """The state that the kernels change, started at the same theta as the reference."""

    def __init__(self, theta: np.ndarray, optimizer: str):
        self.optimizer = OPTIMIZERS[optimizer]
        slots = self.optimizer.init(np.zeros(len(theta)))
        self.coordinates = np.zeros((len(theta), table.SLOTS + len(slots)))
        self.theta, self.average = self.coordinates[:, table.THETA], self.coordinates[:, table.AVERAGE]
        self.clock, self.slots = self.coordinates[:, table.CLOCK], self.coordinates[:, table.SLOTS :].T
        self.theta[:], self.average[:], self.slots[:] = theta, theta, slots
        self.losses, self.step, self.rotation = np.zeros(3), 0, np.empty((0, 0))
        self.level_sums, self.finite, self.bounded = np.zeros(len(LEVELS)), True, np.empty(0, np.int64)
        self.place, self.touched = np.zeros(len(theta), np.int32), np.zeros(len(theta) + 1, np.int32)

    def _level_ranges(self, pairs: list[tuple[int, int]]) -> np.ndarray:
        level_ranges = np.array(pairs, np.int64).reshape(-1, 2)
        if self.step == 0:
            table.sum_levels(self.coordinates, level_ranges, self.level_sums)
        return level_ranges

    def minibatches(
        self, rows: Rows, bounds: np.ndarray, rates: np.ndarray, loss: str, mean_weight: float, l1: float, l2: float,
        level_ranges: list[tuple[int, int]], averaging: bool = True, dtype: type = np.float64,
    ) -> None:  # fmt: skip
        watched = watched_rows(rows, self.step)
        self.finite = kernels.train_minibatches(
            np.ascontiguousarray(rows.features, dtype), rows.codes, *no_entries(dtype), rows.target, rows.weight,
            rows.offset, bounds, rates, self.step, mean_weight, l1, l2, averaging,
            self.optimizer.takes_penalty_anew, self.coordinates, self._level_ranges(level_ranges), self.level_sums,
            self.bounded, self.rotation, np.array(self.optimizer.settings),
            watched.numbers, self.place, self.touched, LOSSES[loss].settings, LOSSES[loss].residuals_of_rows,
            self.optimizer.update,
        )  # fmt: skip
        self.losses += watched.losses(LOSSES[loss])
        self.step += len(rates)

    def rows(
        self, rows: Rows, rates: np.ndarray, loss: str, mean_weight: float, l1: float, l2: float,
        level_ranges: list[tuple[int, int]], averaging: bool = True, dtype: type = np.float64,
    ) -> None:  # fmt: skip
        watched = watched_rows(rows, self.step)
        step_sizes = rates * (rows.weight if len(rows.weight) else 1.0) / mean_weight
        self.finite = rows_loop(LOSSES[loss].pointwise_gradient, rows.codes.shape[1] == 0)(
            np.ascontiguousarray(rows.features, dtype), rows.codes, *no_entries(dtype), rows.target, rows.offset,
            rates, step_sizes, self.step, l1, l2, averaging, self.coordinates,
            self._level_ranges(level_ranges), self.level_sums, self.bounded, watched.numbers, LOSSES[loss].settings,
        )  # fmt: skip
        self.losses += watched.losses(LOSSES[loss])
        self.step += len(rates)

    def averaged(self) -> np.ndarray:
        out = np.empty(len(self.theta))
        table.averaged_theta(self.coordinates, self.step, out)
        return out


def agree(compiled: Compiled, descent: Descent, rtol: float = 1e-10) -> None:
    atol = rtol * np.abs(descent.theta).max()
    np.testing.assert_allclose(compiled.theta, descent.theta, rtol=rtol, atol=atol)
    np.testing.assert_allclose(compiled.averaged(), descent.average, rtol=rtol, atol=atol)
    np.testing.assert_array_equal(compiled.clock, descent.last_touched)
    assert compiled.finite
    expected = [descent.progressive_loss, descent.progressive_weight, descent.progressive_squares]
    np.testing.assert_allclose(compiled.losses, expected, rtol=rtol)


def may_have(optimizer: str, base_rows: bool) -> bool:
    """Whether base levels may have rows: not where each step takes the penalty anew."""
    return not (base_rows and OPTIMIZERS[optimizer].takes_penalty_anew)


# (l1, l2, whether base levels have rows); l1 goes without them.
PENALTIES = [(0.0, 0.0, True), (0.0, 0.2, True), (0.0, 0.2, False), (0.02, 0.1, False)]


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize(
    ("optimizer", "l1", "l2", "base_rows"),
    [(name, *penalty) for name in sorted(OPTIMIZERS) for penalty in PENALTIES if may_have(name, penalty[2])],
)
def test_minibatches_take_the_steps_of_the_textbook_loop(
    optimizer: str, loss: str, l1: float, l2: float, base_rows: bool
) -> None:
    rows = some_rows(7, 150, loss, weighted=True, base_level=not base_rows)
    level_ranges = BASE_ROWS if base_rows else NO_BASE_ROWS
    theta = np.random.default_rng(8).normal(size=N_DOF) * 0.5
    compiled, descent = Compiled(theta, optimizer), Descent.start(theta)
    # Uneven mini-batches; the rows come twice, as two blocks do.
    for bounds in (np.array([0, 2, 5, 6, 40, 41, 90, 150]), np.arange(0, 151, 5)):
        rates = np.linspace(0.2, 0.05, len(bounds) - 1)
        compiled.minibatches(rows, bounds, rates, loss, 1.3, l1, l2, level_ranges)
        take_steps(descent, rows, bounds, rates, loss, optimizer, 1.3, l1, l2, level_ranges)

        agree(compiled, descent)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize(("l1", "l2", "base_rows"), PENALTIES)
@pytest.mark.parametrize("weighted", [True, False])
def test_single_rows_take_the_steps_of_the_textbook_loop(
    loss: str, l1: float, l2: float, base_rows: bool, weighted: bool
) -> None:
    rows = some_rows(9, 120, loss, weighted, base_level=not base_rows)
    level_ranges = BASE_ROWS if base_rows else NO_BASE_ROWS
    theta = np.random.default_rng(10).normal(size=N_DOF) * 0.5
    compiled, descent = Compiled(theta, "plain"), Descent.start(theta)
    mean_weight = 1.3 if weighted else 1.0
    for _ in range(2):
        rates = np.linspace(0.1, 0.02, 120)
        compiled.rows(rows, rates, loss, mean_weight, l1, l2, level_ranges)
        take_steps(descent, rows, np.arange(121), rates, loss, "plain", mean_weight, l1, l2, level_ranges)

        agree(compiled, descent)


@pytest.mark.parametrize("l1", [0.0, 0.02])
@pytest.mark.parametrize("optimizer", [*sorted(OPTIMIZERS), "rows"])
def test_bounded_coordinates_are_raised_to_zero_after_each_step(optimizer: str, l1: float) -> None:
    rows, bounded = some_rows(14, 60, "logistic", base_level=True), [0, 1, 2]
    rows.target = (rows.features[:, 1] < 0.0).astype(float)
    theta = np.full(N_DOF, 0.05)
    rule, size = ("plain", 1) if optimizer == "rows" else (optimizer, 5)
    bounds, rates = np.arange(0, 61, size), np.full(60 // size, 0.2)
    compiled, descent = Compiled(theta, rule), Descent.start(theta)
    compiled.bounded = np.array(bounded)
    if optimizer == "rows":
        compiled.rows(rows, rates, "logistic", 1.0, l1, 0.1, NO_BASE_ROWS)
    else:
        compiled.minibatches(rows, bounds, rates, "logistic", 1.0, l1, 0.1, NO_BASE_ROWS)
    take_steps(descent, rows, bounds, rates, "logistic", rule, 1.0, l1, 0.1, NO_BASE_ROWS, bounded)

    agree(compiled, descent)
    assert (descent.theta[bounded] == 0.0).any()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    cuts=st.lists(st.integers(1, 79), max_size=20, unique=True),
    base_rows=st.booleans(),
)
def test_any_cut_into_minibatches_agrees_with_the_textbook_loop(
    seed: int, optimizer: str, cuts: list[int], base_rows: bool
) -> None:
    base_rows = base_rows and may_have(optimizer, True)
    rows = some_rows(seed, 80, "logistic", base_level=not base_rows)
    level_ranges = BASE_ROWS if base_rows else NO_BASE_ROWS
    bounds = np.array([0, *sorted(cuts), 80])
    rates = np.full(len(bounds) - 1, 0.1)
    theta = np.zeros(N_DOF)
    compiled, descent = Compiled(theta, optimizer), Descent.start(theta)
    compiled.minibatches(rows, bounds, rates, "logistic", 1.0, 0.0, 0.05, level_ranges)
    take_steps(descent, rows, bounds, rates, "logistic", optimizer, 1.0, 0.0, 0.05, level_ranges)

    agree(compiled, descent, 1e-9)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_two_blocks_give_the_bits_of_one(optimizer: str) -> None:
    """The kernels keep nothing between blocks that the state does not hold."""
    rows, ranges = some_rows(11, 96, "logistic"), BASE_ROWS if may_have(optimizer, True) else NO_BASE_ROWS
    halves = [Rows(*(a[s] for a in vars(rows).values())) for s in (slice(0, 48), slice(48, 96))]
    rates, bounds = np.full(12, 0.1), np.arange(0, 97, 8)
    whole, parts = Compiled(np.zeros(N_DOF), optimizer), Compiled(np.zeros(N_DOF), optimizer)
    whole.minibatches(rows, bounds, rates, "logistic", 1.0, 0.0, 0.1, ranges)
    for half in halves:
        parts.minibatches(half, bounds[:7], rates[:6], "logistic", 1.0, 0.0, 0.1, ranges)

    np.testing.assert_array_equal(parts.coordinates, whole.coordinates)
    np.testing.assert_array_equal(parts.level_sums, whole.level_sums)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_float32_features_give_the_same_to_their_precision(optimizer: str) -> None:
    rows = some_rows(12, 150, "logistic")
    rows.features = rows.features.astype(np.float32).astype(np.float64)
    bounds, rates, theta = np.arange(0, 151, 10), np.full(15, 0.05), np.zeros(N_DOF)
    compiled, descent = Compiled(theta, optimizer), Descent.start(theta)
    ranges = BASE_ROWS if may_have(optimizer, True) else NO_BASE_ROWS
    compiled.minibatches(rows, bounds, rates, "logistic", 1.3, 0.0, 0.1, ranges, dtype=np.float32)
    take_steps(descent, rows, bounds, rates, "logistic", optimizer, 1.3, 0.0, 0.1, ranges)

    agree(compiled, descent, 2e-5)


def test_float32_rows_one_by_one_give_the_same_to_their_precision() -> None:
    rows = some_rows(13, 150, "squared")
    rows.features = rows.features.astype(np.float32).astype(np.float64)
    compiled, descent = Compiled(np.zeros(N_DOF), "plain"), Descent.start(np.zeros(N_DOF))
    compiled.rows(rows, np.full(150, 0.02), "squared", 1.3, 0.0, 0.1, BASE_ROWS, dtype=np.float32)
    take_steps(descent, rows, np.arange(151), np.full(150, 0.02), "squared", "plain", 1.3, 0.0, 0.1, BASE_ROWS)

    agree(compiled, descent, 1e-6)


@pytest.mark.parametrize("kind", ["minibatches", "rows"])
def test_without_averaging_the_average_is_left_alone(kind: str) -> None:
    rows, theta = some_rows(14, 40, "squared"), np.full(N_DOF, 0.25)
    compiled = Compiled(theta, "plain")
    if kind == "rows":
        compiled.rows(rows, np.full(40, 0.05), "squared", 1.0, 0.0, 0.0, NO_BASE_ROWS, averaging=False)
    else:
        compiled.minibatches(
            rows, np.arange(0, 41, 4), np.full(10, 0.05), "squared", 1.0, 0.0, 0.0, NO_BASE_ROWS, averaging=False
        )

    np.testing.assert_array_equal(compiled.average, theta)
    assert (compiled.theta != theta).sum() > N_NUMERIC


def test_a_weight_of_zero_leaves_theta_where_it_was() -> None:
    rows, theta = some_rows(15, 40, "squared"), np.full(N_DOF, 0.25)
    rows.weight = np.zeros(40)
    compiled = Compiled(theta, "adagrad")
    compiled.minibatches(rows, np.arange(0, 41, 4), np.full(10, 0.5), "squared", 1.0, 0.0, 0.0, NO_BASE_ROWS)

    np.testing.assert_array_equal(compiled.theta, theta)


@given(
    since=st.integers(0, 10**6),
    missed=st.integers(1, 300),
    average=st.floats(-100, 100),
    theta=st.floats(-100, 100),
)
def test_the_decay_of_an_untouched_average_is_the_product_of_its_steps(
    since: int, missed: int, average: float, theta: float
) -> None:
    stepwise = average
    for t in range(since + 1, since + missed + 1):
        stepwise += 4.0 / (t + 3.0) * (theta - stepwise)
    found = table.average_decay(float(since), float(since + missed), average, theta)

    assert found == pytest.approx(stepwise, rel=1e-11, abs=1e-11 * max(abs(average), abs(theta)) + 1e-300)


@given(
    theta=st.floats(-10, 10), rate=st.floats(1e-3, 5.0), l1=st.floats(0.0, 3.0), l2=st.floats(0.0, 3.0)
)  # fmt: skip
def test_shrink_is_the_argmin_that_it_claims(theta: float, rate: float, l1: float, l2: float) -> None:
    found = table.shrink(theta, rate, l1, l2)

    def claimed(b: float) -> float:
        return (b - theta) ** 2 / (2 * rate) + l1 * abs(b) + l2 / 2 * b * b

    best = minimize_scalar(claimed, bounds=(-11.0, 11.0), method="bounded", options={"xatol": 1e-10})
    assert claimed(found) <= best.fun + 1e-12
    assert abs(found - best.x) <= 1e-4


@given(levels=st.lists(st.floats(-5, 5), min_size=2, max_size=6), rate=st.floats(1e-3, 5.0), l2=st.floats(0.0, 3.0))
def test_the_penalty_of_base_rows_is_the_argmin_over_the_differences(
    levels: list[float], rate: float, l2: float
) -> None:
    """``l2 / 2`` times the squared differences to the base level, the first, as a function of that."""
    found = table.base_penalised(levels[0], rate, l2, sum(levels[1:]), len(levels) - 1)

    def claimed(b: float) -> float:
        return (b - levels[0]) ** 2 / (2 * rate) + l2 / 2 * ((np.array(levels[1:]) - b) ** 2).sum()

    best = minimize_scalar(claimed, bounds=(-6.0, 6.0), method="bounded", options={"xatol": 1e-10})
    assert claimed(found) <= best.fun + 1e-11
    assert abs(found - best.x) <= 1e-4


@pytest.mark.parametrize("kind", ["minibatches", "rows"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, N_NUMERIC, N_DOF - 1])
def test_a_theta_that_is_not_finite_is_told(kind: str, bad: float, where: int) -> None:
    rows, theta = some_rows(16, 40, "logistic"), np.zeros(N_DOF)
    theta[where] = bad
    compiled = Compiled(theta, "plain")
    if kind == "rows":
        compiled.rows(rows, np.full(40, 0.05), "logistic", 1.0, 0.0, 0.0, BASE_ROWS)
    else:
        compiled.minibatches(rows, np.arange(0, 41, 4), np.full(10, 0.05), "logistic", 1.0, 0.0, 0.0, BASE_ROWS)

    assert not compiled.finite


def test_large_minibatches_and_levels_met_before_agree_with_the_textbook_loop() -> None:
    """Several tiles a mini-batch, and places of levels that are left over from mini-batches of another size."""
    rows = some_rows(17, 1200, "logistic")
    compiled, descent = Compiled(np.zeros(N_DOF), "adagrad"), Descent.start(np.zeros(N_DOF))
    for bounds in (np.array([0, 600, 1200]), np.array([0, 1, 2, 900, 1200]), np.arange(0, 1201, 3)):
        rates = np.full(len(bounds) - 1, 0.1)
        compiled.minibatches(rows, bounds, rates, "logistic", 1.3, 0.0, 0.05, BASE_ROWS)
        take_steps(descent, rows, bounds, rates, "logistic", "adagrad", 1.3, 0.0, 0.05, BASE_ROWS)

    agree(compiled, descent)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_rotated_coordinates_are_the_textbook_loop_on_rotated_features(optimizer: str) -> None:
    rows = some_rows(11, 150, "logistic", weighted=True, base_level=False)
    rotation = np.random.default_rng(12).normal(size=(N_NUMERIC, N_NUMERIC))
    theta = np.random.default_rng(13).normal(size=N_DOF) * 0.3
    compiled, descent = Compiled(theta, optimizer), Descent.start(theta)
    compiled.rotation = rotation
    bounds, rates = np.arange(0, 151, 10), np.full(15, 0.1)
    compiled.minibatches(rows, bounds, rates, "logistic", 1.3, 0.0, 0.0, BASE_ROWS)
    rotated = replace(rows, features=rows.features @ rotation.T)
    take_steps(descent, rotated, bounds, rates, "logistic", optimizer, 1.3, 0.0, 0.0, BASE_ROWS)
    agree(compiled, descent)


def test_the_penalty_of_rotated_coordinates_is_that_of_the_coefficients() -> None:
    """Without a gradient the penalty alone moves phi: by the implicit step of l2/2 |R' phi|^2, diagonal in phi."""
    rng = np.random.default_rng(14)
    vectors = np.linalg.qr(rng.normal(size=(N_NUMERIC, N_NUMERIC)))[0]
    rotation = np.ascontiguousarray(vectors.T / np.array([0.1, 1.0, 2.0])[:N_NUMERIC, None])
    theta = rng.normal(size=N_NUMERIC + 1)
    rows = Rows(np.zeros((4, N_NUMERIC)), np.empty((4, 0), np.int32), np.full(4, theta[-1]), np.empty(0), np.empty(0))
    compiled = Compiled(theta, "plain")
    compiled.rotation = rotation
    compiled.minibatches(rows, np.array([0, 4]), np.array([0.3]), "squared", 1.0, 0.0, 0.7, [])
    hessian = 0.7 * rotation @ rotation.T
    expected = np.linalg.solve(np.eye(N_NUMERIC) + 0.3 * hessian, theta[:-1])
    np.testing.assert_allclose(compiled.theta[:-1], expected, rtol=1e-12)
