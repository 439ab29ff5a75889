"""Sums over a block against numpy, the gradient by finite differences, the same bits every time."""

import numpy as np
import pytest
from scipy.special import expit

from streamgd.data.blocks import Block
from streamgd.kernels.sums import TILE_ROWS, largest_row_norm
from streamgd.objective.losses import LOSSES
from streamgd.objective.objective import ChunkSums, Objective, outer_products, raw_prediction
from streamgd.objective.penalties import ElasticNet

N_NUMERIC, N_LEVELS = 4, 5
N_DOF = N_NUMERIC + 2 * N_LEVELS + 1


def a_block(rows: int, loss: str, dtype: str = "float64", weighted: bool = True, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, N_LEVELS, (rows, 2))
    codes[:, 1] = np.where(codes[:, 1] >= 0, codes[:, 1] + N_LEVELS, -1)
    codes = np.where(codes >= 0, codes + N_NUMERIC, -1).astype(np.int32)
    target = rng.normal(size=rows)
    if LOSSES[loss].is_classifier:
        target = (target > 0).astype(float)
    elif LOSSES[loss].link_name == "log":
        target = np.exp(target)
    return Block(
        rng.normal(size=(rows, N_NUMERIC)).astype(dtype),
        codes,
        target,
        rng.choice([0.0, 0.5, 2.0], rows) if weighted else np.empty(0),
        rng.normal(size=rows) if weighted else np.empty(0),
        np.empty(0, np.uint64),
    )


def design(block: Block) -> np.ndarray:
    X = np.zeros((block.rows, N_DOF))
    X[:, :N_NUMERIC], X[:, -1] = block.features, 1.0
    for column in block.codes.T:
        known = np.flatnonzero(column >= 0)
        X[known, column[known]] = 1.0
    return X


def by_numpy(theta: np.ndarray, block: Block, loss: str) -> tuple[float, np.ndarray, float]:
    """Weighted loss, its gradient and the weight, straight from the formulas."""
    X, y = design(block), block.target
    w = block.weight if len(block.weight) else np.ones(block.rows)
    raw = X @ theta[:, 0] + (block.offset if len(block.offset) else 0.0)
    if loss == "squared":
        values, slopes = 0.5 * (raw - y) ** 2, raw - y
    elif loss == "logistic":
        values, slopes = np.logaddexp(0, raw) - y * raw, 1 / (1 + np.exp(-raw)) - y
    else:
        values, slopes = LOSSES[loss].loss(y, raw), LOSSES[loss].gradient(y, raw)
    return float(w @ values), X.T @ (w * slopes), float(w.sum())


THETA = np.random.default_rng(1).normal(size=(N_DOF, 1)) * 0.7


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 300, 2 * TILE_ROWS + 11])
def test_chunk_sums_are_those_of_numpy(loss: str, weighted: bool, dtype: str, rows: int) -> None:
    block = a_block(rows, loss, dtype, weighted)
    sums = Objective(LOSSES[loss], ElasticNet()).chunk_sums(THETA, block)
    value, gradient, weight = by_numpy(THETA, block, loss)

    assert sums.loss == pytest.approx(value, rel=1e-12)
    assert sums.weight == pytest.approx(weight, rel=1e-14)
    assert sums.rows == rows
    assert sums.gradient.shape == (N_DOF, 1)
    np.testing.assert_allclose(sums.gradient[:, 0], gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
def test_the_gradient_is_that_of_finite_differences(loss: str) -> None:
    objective, block, h = Objective(LOSSES[loss], ElasticNet(l2=0.3)), a_block(500, loss), 1e-5

    def value(theta: np.ndarray) -> float:
        return objective.evaluate(theta, objective.chunk_sums(theta, block)).value

    gradient = objective.evaluate(THETA, objective.chunk_sums(THETA, block)).gradient
    for j in range(N_DOF):
        step = np.zeros_like(THETA)
        step[j] = h
        slope = (value(THETA + step) - value(THETA - step)) / (2 * h)
        assert gradient[j, 0] == pytest.approx(slope, rel=1e-7, abs=1e-9)


def test_the_objective_is_a_weighted_mean_and_a_penalty() -> None:
    block = a_block(200, "squared")
    objective = Objective(LOSSES["squared"], ElasticNet(l1=0.5, l2=0.25))
    evaluation = objective.evaluate(THETA, objective.chunk_sums(THETA, block))
    value, gradient, weight = by_numpy(THETA, block, "squared")
    beta = np.vstack([THETA[:-1], [[0.0]]])

    assert evaluation.mean_loss == pytest.approx(value / weight, rel=1e-12)
    penalty = 0.5 * np.abs(beta).sum() + 0.125 * (beta**2).sum()
    assert evaluation.value == pytest.approx(value / weight + penalty, rel=1e-12)
    # The l1 part has no gradient; the proximal step takes care of it.
    np.testing.assert_allclose(evaluation.gradient[:, 0], gradient / weight + 0.25 * beta[:, 0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_block_gives_the_same_bits_wherever_it_lies(dtype: str) -> None:
    block = a_block(TILE_ROWS + 100, "logistic", dtype)
    objective = Objective(LOSSES["logistic"], ElasticNet())
    first = objective.chunk_sums(THETA, block)
    moved = Block(*(np.concatenate([array[:1], array])[1:] for array in block.arrays()))
    for other in (block, moved, moved.part(0, block.rows)):
        again = objective.chunk_sums(THETA.copy(), other)
        assert (again.loss, again.weight) == (first.loss, first.weight)
        assert again.gradient.tobytes() == first.gradient.tobytes()


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    block = a_block(1000, "logistic")
    objective = Objective(LOSSES["logistic"], ElasticNet())
    whole = objective.chunk_sums(THETA, block)
    total = ChunkSums(0.0, np.zeros((N_DOF, 1)), 0.0, 0)
    for start in range(0, 1000, 170):
        total = total + objective.chunk_sums(THETA, block.part(start, min(start + 170, 1000)))

    assert (total.rows, total.weight) == (1000, whole.weight)
    assert total.loss == pytest.approx(whole.loss, rel=1e-13)
    np.testing.assert_allclose(total.gradient, whole.gradient, rtol=1e-11, atol=1e-12)


def test_a_weight_of_two_is_the_row_twice_and_zero_its_absence() -> None:
    block = a_block(300, "logistic")
    block.weight[:] = np.random.default_rng(5).choice([0.0, 1.0, 2.0], 300)
    times = block.weight.astype(int)
    repeated = Block(*(np.repeat(array, times, axis=0) if len(array) else array for array in block.arrays()))
    repeated.weight[:] = 1.0
    objective = Objective(LOSSES["logistic"], ElasticNet())
    weighted, unweighted = objective.chunk_sums(THETA, block), objective.chunk_sums(THETA, repeated)

    assert weighted.loss == pytest.approx(unweighted.loss, rel=1e-13)
    assert weighted.weight == unweighted.weight
    np.testing.assert_allclose(weighted.gradient, unweighted.gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [True, False])
def test_raw_predictions_are_those_of_numpy(dtype: str, weighted: bool) -> None:
    block = a_block(257, "squared", dtype, weighted)
    expected = design(block) @ THETA[:, 0] + (block.offset if weighted else 0.0)

    np.testing.assert_allclose(raw_prediction(block, THETA), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_largest_row_norm_is_that_of_a_row_with_its_intercept(weighted: bool) -> None:
    block = a_block(400, "squared", "float32", weighted)
    norms = (design(block) ** 2).sum(axis=1) * (block.weight if weighted else 1.0)
    found = largest_row_norm(block.features, block.codes, *block.entries.arrays(), block.weight)

    assert found == pytest.approx(norms.max(), rel=1e-13)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 300, TILE_ROWS, 5 * TILE_ROWS + 11])
def test_the_hessian_is_that_of_numpy(loss: str, weighted: bool, dtype: str, rows: int) -> None:
    block = a_block(rows, loss, dtype, weighted)
    objective = Objective(LOSSES[loss], ElasticNet())
    sums = objective.chunk_sums(THETA, block, hessian=True)
    X = design(block)
    raw = X @ THETA[:, 0] + (block.offset if weighted else 0.0)
    curvature = expit(raw) * expit(-raw) if loss == "logistic" else LOSSES[loss].curvature(block.target, raw)
    if loss == "huber":  # of Newton's steps: the second derivative would be zero far from the target
        curvature = np.minimum(1.0, LOSSES[loss].settings[0] / np.abs(raw - block.target))
    expected = X.T @ (X * (curvature * (block.weight if weighted else 1.0))[:, None])

    assert sums.hessian is not None
    np.testing.assert_allclose(sums.hessian, expected, rtol=1e-12, atol=1e-12 * max(1, rows))
    assert (sums.hessian == sums.hessian.T).all()
    without = objective.chunk_sums(THETA, block)
    assert without.hessian is None
    assert (without.loss, without.gradient.tobytes()) == (sums.loss, sums.gradient.tobytes())


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rows", [0, 300, TILE_ROWS + 11])
def test_the_meat_is_that_of_numpy(loss: str, weighted: bool, rows: int) -> None:
    block = a_block(rows, loss, "float64", weighted)
    objective = Objective(LOSSES[loss], ElasticNet())
    sums = objective.chunk_sums(THETA, block, hessian=True, meat=True)
    X = design(block)
    raw = X @ THETA[:, 0] + (block.offset if weighted else 0.0)
    residual = expit(raw) - block.target if loss == "logistic" else LOSSES[loss].gradient(block.target, raw)
    expected = X.T @ (X * (residual**2 * (block.weight if weighted else 1.0))[:, None])

    assert sums.meat is not None
    np.testing.assert_allclose(sums.meat, expected, rtol=1e-11, atol=1e-11 * max(1, rows))
    without = objective.chunk_sums(THETA, block, hessian=True)
    assert without.meat is None
    assert without.loss == sums.loss
    # With the meat it is for errors of coefficients, and that of the second derivative.
    weight = LOSSES[loss].curvature(block.target, raw) * (block.weight if weighted else 1.0)
    np.testing.assert_allclose(sums.hessian, X.T @ (X * weight[:, None]), rtol=1e-11, atol=1e-11 * max(1, rows))
    assert loss == "huber" or without.hessian.tobytes() == sums.hessian.tobytes()


@pytest.mark.parametrize("loss", ["gamma", "logistic", "poisson", "squared", "tweedie"])  # slopes without kinks
def test_the_hessian_is_that_of_finite_differences(loss: str) -> None:
    objective, block, h = Objective(LOSSES[loss], ElasticNet()), a_block(500, loss), 1e-5

    def gradient(theta: np.ndarray) -> np.ndarray:
        return objective.evaluate(theta, objective.chunk_sums(theta, block)).gradient[:, 0]

    hessian = objective.evaluate(THETA, objective.chunk_sums(THETA, block, hessian=True)).hessian
    assert hessian is not None
    for j in range(N_DOF):
        step = np.zeros_like(THETA)
        step[j] = h
        slopes = (gradient(THETA + step) - gradient(THETA - step)) / (2 * h)
        np.testing.assert_allclose(hessian[j], slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n_numeric", "n_categorical"), [(4, 0), (0, 2), (0, 0)])
def test_outer_products_where_columns_of_one_kind_are_missing(n_numeric: int, n_categorical: int) -> None:
    block = a_block(300, "squared")
    codes = block.codes[:, :n_categorical].copy()
    codes[codes >= 0] -= N_NUMERIC - n_numeric
    part = Block(block.features[:, :n_numeric].copy(), codes, *block.arrays()[2:])
    n_dof = n_numeric + n_categorical * N_LEVELS + 1
    X = design(block)
    X = np.delete(X, [*range(n_numeric, N_NUMERIC), *range(N_NUMERIC + n_categorical * N_LEVELS, N_DOF - 1)], axis=1)
    weight = np.random.default_rng(3).random(300)

    np.testing.assert_allclose(outer_products(part, weight, n_dof), X.T @ (X * weight[:, None]), rtol=1e-12, atol=1e-12)


def test_sums_with_and_without_a_hessian_or_the_meat_do_not_add_up() -> None:
    def sums(*matrices: np.ndarray | None) -> ChunkSums:
        return ChunkSums(0.0, np.zeros((3, 1)), 0.0, 0, *matrices)

    square = np.zeros((3, 3))
    assert (sums(square) + sums(square)).hessian is not None
    with pytest.raises(ValueError, match="do not add up"):
        _ = sums() + sums(square)
    assert (sums(None, square) + sums(None, square)).meat is not None
    with pytest.raises(ValueError, match="do not add up"):
        _ = sums(square, square) + sums(square)
