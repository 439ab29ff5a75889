"""Smoothness constants against numpy's eigenvalues, the best constant against scipy's minimum."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from streamgd.data.blocks import Block
from streamgd.objective.losses import LOSSES, KinkedLoss
from streamgd.training.stepsize import (
    best_constant,
    curvatures,
    decorrelating_rotation,
    expected_squares,
    largest_row_norm,
    smoothness,
)

N_DOF = 8


def a_block(seed: int, rows: int = 400, weighted: bool = True, offset: bool = False, loss: str = "logistic") -> Block:
    """Three numbers, one of them correlated, and a column of four levels."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3))
    features[:, 2] = features[:, 0] + 0.3 * features[:, 2]
    codes = rng.integers(3, 7, (rows, 1)).astype(np.int32)
    target = features @ [1.0, -1.0, 0.5] + rng.normal(size=rows)
    return Block(
        features, codes, _target(target, loss),
        rng.choice([0.5, 1.0, 3.0], rows) if weighted else np.empty(0),
        rng.normal(1.0, 2.0, rows) if offset else np.empty(0), np.empty(0, np.uint64),
    )  # fmt: skip


def _target(numbers: np.ndarray, loss: str) -> np.ndarray:
    """Numbers made into a target of the loss's domain."""
    if LOSSES[loss].is_classifier:
        return (numbers > 0.8).astype(float)
    return np.exp(0.3 * numbers) if LOSSES[loss].link_name == "log" else numbers + 5.0


def design(block: Block) -> np.ndarray:
    X = np.zeros((block.rows, N_DOF))
    X[:, :3], X[:, -1] = block.features, 1.0
    X[np.arange(block.rows), block.codes[:, 0]] = 1.0
    return X


def weights(block: Block) -> np.ndarray:
    return block.weight if len(block.weight) else np.ones(block.rows)


BOUNDED = sorted(name for name, loss in LOSSES.items() if np.isfinite(loss.max_curvature) and name != "multinomial")


@pytest.mark.parametrize("loss", BOUNDED)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_smoothness_bounds_the_curvature_closely(loss: str, weighted: bool, seed: int) -> None:
    block, l2 = a_block(seed, weighted=weighted), 0.01
    X, w = design(block), weights(block)
    largest_norm = largest_row_norm(block)
    bounds = curvatures(LOSSES[loss], block, 0.0, 1.0)
    found = smoothness(block, N_DOF, bounds, largest_norm, float(w.mean()), l2)
    eigenvalue = float(np.linalg.eigvalsh(X.T @ (w[:, None] * X) / w.sum()).max())
    curvature = LOSSES[loss].max_curvature

    assert largest_norm == pytest.approx((w * (X**2).sum(axis=1)).max(), rel=1e-12)
    # Never below the constant by more than what power iteration can miss, never far above it.
    assert 0.99 * eigenvalue * curvature + l2 <= found.mean <= 1.1 * eigenvalue * curvature + l2 + 1e-12
    assert found.row == pytest.approx(largest_norm / w.mean() * curvature + l2, rel=1e-12)
    assert found.row >= found.mean


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {*BOUNDED, "multinomial"}))
def test_curvatures_without_a_bound_are_those_at_the_best_constant_with_a_margin(loss: str, offset: bool) -> None:
    block, largest = a_block(3, offset=offset, loss=loss), 50.0
    raw = 0.3 + (block.offset if offset else np.zeros(block.rows))
    found = LOSSES[loss].curvature(block.target, raw)
    mean, row = curvatures(LOSSES[loss], block, 0.3, largest)

    assert mean == pytest.approx(2.0 * np.average(found, weights=block.weight), rel=1e-12)
    of_largest = LOSSES[loss].curvature(np.array([largest]), np.array([0.3]))[0]
    assert row == pytest.approx(2.0 * max(found.max(), of_largest), rel=1e-12)


def test_smoothness_of_rows_that_are_all_alike_is_finite() -> None:
    block = Block(
        np.zeros((5, 3)), np.full((5, 1), -1, np.int32), np.zeros(5), np.empty(0), np.empty(0), np.empty(0, np.uint64)
    )
    found = smoothness(block, N_DOF, (1.0, 1.0), 1.0, 1.0, 0.0)

    assert 1.0 <= found.mean <= found.row <= 1.1 + 1e-9


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("offset", [True, False])
def test_the_best_constant_is_the_minimum_over_constants(loss: str, weighted: bool, offset: bool) -> None:
    block = a_block(5, weighted=weighted, offset=offset, loss=loss)
    w = weights(block)
    shift = block.offset if offset else 0.0
    found = best_constant(LOSSES[loss], float(np.average(block.target, weights=w)), block)

    def total(constant: float) -> float:
        raw = constant + shift
        if loss == "squared":
            return float(w @ (0.5 * (raw - block.target) ** 2))
        if loss == "logistic":
            return float(w @ (np.logaddexp(0.0, raw) - block.target * raw))
        return float(w @ LOSSES[loss].loss(block.target, raw + np.zeros(block.rows)))

    best = minimize_scalar(total, bounds=(-30.0, 30.0), method="bounded", options={"xatol": 1e-10})
    if not isinstance(LOSSES[loss], KinkedLoss):  # there it may be flat
        assert found == pytest.approx(best.x, abs=1e-5)
    assert total(found) <= best.fun * (1 + 1e-12)


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie", "squared", "logistic"])
@pytest.mark.parametrize("away", [1e25, 1e-25])
def test_offsets_in_an_extreme_unit_move_the_best_constant_by_that(loss: str, away: float) -> None:
    near, far = (a_block(5, offset=True, loss=loss) for _ in range(2))
    far.offset[:] += np.log(away)
    mean = float(np.average(near.target, weights=near.weight))
    expected = best_constant(LOSSES[loss], mean, near)
    assert best_constant(LOSSES[loss], mean, far) == pytest.approx(expected - np.log(away), rel=1e-12)


def test_expected_squares_are_those_of_mini_batches_at_the_best_constant() -> None:
    """Against gradients of many random mini-batches, for features that say nothing of the target."""
    rng = np.random.default_rng(0)
    block = a_block(6, rows=4000, weighted=False)
    block.target[:] = rng.random(4000) < 0.3
    constant = best_constant(LOSSES["logistic"], float(block.target.mean()), block)
    expected = expected_squares(block, N_DOF, LOSSES["logistic"], constant, 1.0, 50, 0.25, N_DOF)
    X, residual = design(block), 1 / (1 + np.exp(-constant)) - block.target
    squares = np.zeros(N_DOF)
    for _ in range(2000):
        rows = rng.integers(0, 4000, 50)
        squares += (X[rows].T @ residual[rows] / 50) ** 2 / 2000

    np.testing.assert_allclose(squares, expected, rtol=0.2)


def test_the_rotation_makes_correlated_features_uncorrelated() -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(size=(4_000, 1))
    features = (common + 0.3 * rng.normal(size=(4_000, 4))).astype(np.float32)
    codes = np.empty((4_000, 0), np.int32)
    block = Block(features, codes, np.zeros(4_000), np.empty(0), np.empty(0), np.empty(0, np.uint64))
    rotation = decorrelating_rotation(block)
    rotated = features.astype(np.float64) @ rotation.T
    np.testing.assert_allclose(rotated.T @ rotated / 4_000, np.eye(4), atol=1e-9)
    # The penalty stays one of each coordinate.
    gram = rotation @ rotation.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())


def test_there_is_no_rotation_where_there_is_nothing_to_gain() -> None:
    rng = np.random.default_rng(4)

    def rotation(features: np.ndarray) -> np.ndarray:
        rows = len(features)
        return decorrelating_rotation(
            Block(
                features,
                np.empty((rows, 0), np.int32),
                np.zeros(rows),
                np.empty(0),
                np.empty(0),
                np.empty(0, np.uint64),
            )
        )

    assert rotation(rng.normal(size=(5_000, 3))).size == 0
    assert rotation(np.repeat(rng.normal(size=(5_000, 1)), 2, axis=1)).shape == (2, 2)
    assert rotation(np.repeat(rng.normal(size=(30, 1)), 2, axis=1)).size == 0
    assert rotation(rng.normal(size=(5_000, 1))).size == 0
