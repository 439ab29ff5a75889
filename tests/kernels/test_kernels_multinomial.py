"""The mini-batch loop of several classes, held against the same steps in plain numpy on dense rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from streamgd.data.blocks import NO_ENTRIES
from streamgd.kernels import coordinates as table
from streamgd.kernels import multinomial as kernels
from streamgd.kernels.stochastic import WATCHED_EVERY_ROWS
from streamgd.objective.losses import LOSSES
from streamgd.optim.stochastic import OPTIMIZERS

N_NUMERIC, N_LEVELS, N_CLASSES, N_ROWS, N_STEPS = 3, 4, 3, 700, 9
N_DOF = N_NUMERIC + N_LEVELS + 1
BOUNDS = np.linspace(0, N_ROWS, N_STEPS + 1).round().astype(np.int64)
RATE = 0.3
NONE = NO_ENTRIES[np.dtype(float)].arrays()


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, codes with -1 for a level without a row, classes and weights."""
    rng = np.random.default_rng(0)
    codes = np.concatenate([[-1], np.arange(N_NUMERIC, N_NUMERIC + N_LEVELS)])
    return (
        rng.normal(size=(N_ROWS, N_NUMERIC)),
        rng.choice(codes, (N_ROWS, 1)).astype(np.int32),
        rng.integers(0, N_CLASSES, N_ROWS).astype(float),
        rng.choice([0.5, 1.0, 3.0], N_ROWS),
    )


def dense(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    levels = codes == np.arange(N_NUMERIC, N_NUMERIC + N_LEVELS)
    return np.column_stack([features, levels, np.ones(len(features))])


def by_numpy(
    theta: np.ndarray, X: np.ndarray, y: np.ndarray, weight: np.ndarray, adagrad: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Theta and its average after the mini-batches, and the progressive loss of every eighth row."""
    average, squares, losses = theta.copy(), np.full(theta.shape, 0.01), 0.0
    for step, (start, stop) in enumerate(pairwise(BOUNDS), 1):
        raw = X[start:stop] @ theta
        classes = y[start:stop].astype(int)
        watched = np.arange(start, stop) % WATCHED_EVERY_ROWS == 0
        of_rows = logsumexp(raw, axis=1) - raw[np.arange(len(raw)), classes]
        losses += (weight[start:stop] * of_rows)[watched].sum()
        residual = weight[start:stop, None] * (softmax(raw, axis=1) - np.eye(N_CLASSES)[classes])
        gradient = X[start:stop].T @ residual / ((stop - start) * weight.mean())
        squares += gradient**2
        theta = theta - RATE * gradient / (np.sqrt(squares) if adagrad else 1.0)
        average = average + 4.0 / (step + 3.0) * (theta - average)
    return theta, average, losses


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("optimizer", ["plain", "adagrad"])
def test_steps_are_those_of_numpy(optimizer: str, rotated: bool) -> None:
    features, codes, y, weight = rows()
    rule = OPTIMIZERS[optimizer]
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(N_NUMERIC, N_NUMERIC)))[0] * 1.5 if rotated else np.empty((0, 0))
    start = rng.normal(size=(N_CLASSES, N_DOF))
    coordinates = np.zeros((N_CLASSES, N_DOF, table.SLOTS + len(rule.slots)))
    coordinates[:, :, table.THETA] = coordinates[:, :, table.AVERAGE] = start
    if len(rule.slots):
        coordinates[:, :, table.SLOTS] = 0.01
    watched, most = np.empty((1 + N_CLASSES, N_ROWS)), table.most_touched(N_DOF, N_NUMERIC, 1, 100, 0)
    finite = kernels.train_minibatches(
        features, codes, *NONE, y, weight, BOUNDS, np.full(N_STEPS, RATE), 0, weight.mean(), 0.0, 0.0, True, False,
        coordinates, np.array([[-1, -1]]), np.zeros((N_CLASSES, 1)), np.ascontiguousarray(rotation),
        np.array(rule.settings), watched, np.zeros(N_DOF, np.int32), np.zeros(most, np.int32), rule.update,
    )  # fmt: skip
    X = dense(features @ rotation.T if rotated else features, codes)
    theta, average, loss = by_numpy(start.T.copy(), X, y, weight, optimizer == "adagrad")

    assert finite
    np.testing.assert_allclose(coordinates[:, :, table.THETA], theta.T, rtol=1e-9, atol=1e-11)
    up_to_date = np.empty((N_CLASSES, N_DOF))
    for of_class, out in zip(coordinates, up_to_date, strict=True):
        table.averaged_theta(of_class, N_STEPS, out)
    np.testing.assert_allclose(up_to_date, average.T, rtol=1e-9, atol=1e-11)
    eighths = slice(None, None, WATCHED_EVERY_ROWS)
    target, raw = watched[0, : len(y[eighths])], watched[1:, : len(y[eighths])].T
    np.testing.assert_array_equal(target, y[eighths])
    assert weight[eighths] @ LOSSES["multinomial"].loss(target, raw) == pytest.approx(loss, rel=1e-12)


def test_a_step_that_is_not_finite_is_told() -> None:
    features, codes, y, weight = rows()
    features[5, 0] = np.inf
    coordinates = np.zeros((N_CLASSES, N_DOF, table.SLOTS))
    most = table.most_touched(N_DOF, N_NUMERIC, 1, 100, 0)
    assert not kernels.train_minibatches(
        features, codes, *NONE, y, weight, BOUNDS, np.full(N_STEPS, RATE), 0, 1.0, 0.0, 0.0, False, False, coordinates,
        np.array([[-1, -1]]), np.zeros((N_CLASSES, 1)), np.empty((0, 0)), np.zeros(1),
        np.empty((1 + N_CLASSES, N_ROWS)), np.zeros(N_DOF, np.int32), np.zeros(most, np.int32),
        OPTIMIZERS["plain"].update,
    )  # fmt: skip
