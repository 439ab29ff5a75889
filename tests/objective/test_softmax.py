"""The softmax loss and its sums over rows: values by hand, finite differences, extremes, and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn._loss.loss import HalfMultinomialLoss as SklearnHalfMultinomialLoss

from streamgd.data.blocks import Block
from streamgd.objective.losses import LOSSES
from streamgd.objective.objective import ChunkSums, Objective, raw_prediction
from streamgd.objective.penalties import ElasticNet

LOSS = LOSSES["multinomial"]
N_NUMERIC, N_LEVELS, N_CLASSES = 3, 2, 4
N_DOF = N_NUMERIC + N_LEVELS + 1
THETA = np.random.default_rng(3).normal(size=(N_DOF, N_CLASSES))


def a_block(rows: int, dtype: str = "float64", weighted: bool = True) -> Block:
    rng = np.random.default_rng(rows)
    features = rng.normal(size=(rows, N_NUMERIC)).astype(dtype)
    codes = rng.choice([-1, N_NUMERIC, N_NUMERIC + 1], (rows, 1)).astype(np.int32)
    target = rng.integers(0, N_CLASSES, rows).astype(float)
    weight = rng.choice([0.5, 1.0, 4.0], rows) if weighted else np.empty(0)
    return Block(features, codes, target, weight, np.empty(0), np.empty(0, np.uint64))


def design(block: Block) -> np.ndarray:
    """The rows as theta sees them."""
    levels = block.codes[:, :1] == np.arange(N_NUMERIC, N_NUMERIC + N_LEVELS)
    return np.column_stack([block.features.astype(np.float64), levels, np.ones(block.rows)])


def sums(block: Block, theta: np.ndarray = THETA) -> ChunkSums:
    return Objective(LOSS, ElasticNet()).chunk_sums(theta, block, hessian=True, meat=True)


def test_values_agree_with_those_worked_by_hand() -> None:
    raw = np.array([np.zeros(4), [np.log(3.0), 0.0, 0.0, 0.0]])
    target = np.array([2.0, 0.0])

    np.testing.assert_allclose(LOSS.loss(target, raw), [np.log(4.0), np.log(2.0)], rtol=1e-15)
    expected = [[0.25, 0.25, -0.75, 0.25], [-0.5, 1 / 6, 1 / 6, 1 / 6]]
    np.testing.assert_allclose(LOSS.gradient(target, raw), expected, rtol=1e-14)
    np.testing.assert_allclose(LOSS.curvature(target, raw)[1], [0.25, 5 / 36, 5 / 36, 5 / 36], rtol=1e-14)


def test_values_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    raw, target = rng.normal(scale=3.0, size=(50, 5)), rng.integers(0, 5, 50).astype(float)
    oracle = SklearnHalfMultinomialLoss(n_classes=5)

    loss, gradient = oracle.loss_gradient(target, raw)
    np.testing.assert_allclose(LOSS.loss(target, raw), loss, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(LOSS.gradient(target, raw), gradient, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(LOSS.inverse_link(raw), softmax(raw, axis=1), rtol=1e-13)


def test_extreme_raw_predictions_stay_finite_and_exact() -> None:
    raw = np.array([[1e3, -1e3, 0.0], [1e3, -1e3, 0.0], [700.0, 740.0, 0.0], [-1e3, -1e3, -1e3], [40.0, 0.0, 0.0]])
    target = np.array([0.0, 1.0, 0.0, 2.0, 0.0])

    loss, gradient = LOSS.loss(target, raw), LOSS.gradient(target, raw)
    expected = [0.0, 2e3, 40.0, np.log(3.0), 2 * np.exp(-40.0)]
    np.testing.assert_allclose(loss, expected, rtol=1e-13, atol=1e-300)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-15)
    np.testing.assert_allclose(LOSS.inverse_link(raw).sum(axis=1), 1.0, rtol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    assert not np.isfinite(LOSS.loss(np.zeros(1), np.array([[0.0, bad, 1.0]]))).any()


def test_the_link_gives_raw_predictions_whose_mean_is_zero() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    raw = LOSS.link(shares)
    assert raw.sum() == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(LOSS.inverse_link(raw[None, :])[0], shares, rtol=1e-14)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 300, 523])
def test_sums_are_those_of_numpy(rows: int, dtype: str, weighted: bool) -> None:
    block = a_block(rows, dtype, weighted)
    X, classes = design(block), block.target.astype(int)
    weight = block.weight if weighted else np.ones(rows)
    raw = X @ THETA
    residual = softmax(raw, axis=1) - np.eye(N_CLASSES)[classes]
    p = softmax(raw, axis=1)
    curvature = np.einsum("ik,kl->ikl", p, np.eye(N_CLASSES)) - np.einsum("ik,il->ikl", p, p)
    found = sums(block)

    losses = logsumexp(raw, axis=1) - raw[np.arange(rows), classes] if rows else np.empty(0)
    assert found.loss == pytest.approx((weight * losses).sum(), rel=1e-12)
    assert (found.weight, found.rows) == (pytest.approx(weight.sum()), rows)
    np.testing.assert_allclose(found.gradient, X.T @ (weight[:, None] * residual), rtol=1e-6, atol=1e-4)
    hessian = np.einsum("i,ia,ib,ikl->akbl", weight, X, X, curvature).reshape(THETA.size, -1)
    np.testing.assert_allclose(found.hessian, hessian, rtol=1e-11, atol=1e-10)
    meat = np.einsum("i,ia,ib,ik,il->akbl", weight, X, X, residual, residual).reshape(THETA.size, -1)
    np.testing.assert_allclose(found.meat, meat, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(raw_prediction(block, THETA), raw, rtol=1e-6, atol=1e-6)


def test_gradient_and_hessian_are_the_differences_of_the_sums() -> None:
    block, h = a_block(400), 1e-5
    here = sums(block)
    for coefficient in range(THETA.size):
        moved = np.zeros(THETA.size)
        moved[coefficient] = h
        up, down = (sums(block, THETA + sign * moved.reshape(THETA.shape)) for sign in (1.0, -1.0))
        slope = (up.loss - down.loss) / (2 * h)
        assert here.gradient.flat[coefficient] == pytest.approx(slope, rel=1e-6, abs=1e-5)
        assert here.hessian is not None
        difference = (up.gradient - down.gradient).ravel() / (2 * h)
        np.testing.assert_allclose(here.hessian[coefficient], difference, rtol=1e-6, atol=1e-5)


def test_sums_of_losses_alone_are_the_same() -> None:
    block = a_block(300)
    assert Objective(LOSS, ElasticNet()).loss_sums(THETA, block).loss == sums(block).loss


def test_centred_coefficients_predict_the_same_and_have_the_least_penalty() -> None:
    block, penalty = a_block(20), ElasticNet(l2=1.0)
    centred = penalty.centred(THETA)
    before, after = (LOSS.inverse_link(raw_prediction(block, theta)) for theta in (THETA, centred))

    np.testing.assert_allclose(after, before, rtol=1e-13)
    np.testing.assert_allclose(centred.sum(axis=1), 0.0, atol=1e-14)
    assert penalty.value(centred) < penalty.value(THETA)
    with_l1 = ElasticNet(l1=1.0).centred(THETA)
    np.testing.assert_array_equal(with_l1[:-1], THETA[:-1])
    assert with_l1[-1].sum() == pytest.approx(0.0, abs=1e-14)
    np.testing.assert_array_equal(penalty.centred(THETA[:, :1]), THETA[:, :1])
