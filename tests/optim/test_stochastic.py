"""One table of stochastic optimizers feeds every test: what they promise, step by step and on the way."""

import numpy as np
import pytest

from streamgd.optim.stochastic import OPTIMIZERS, Smoothness

NAMES = sorted(OPTIMIZERS)
# Theta after three steps with these gradients at alpha = 0.1, starting from zero, worked by hand.
GRADIENTS = (2.0, -1.0, 2.0)
BY_HAND = {
    "plain": [-0.2, -0.1, -0.3],
    # velocity: -0.02; -0.018 + 0.01; -0.0072 - 0.02
    "momentum": [-0.02, -0.028, -0.0552],
    # G: 4, 5, 9
    "adagrad": [-0.1, -0.1 + 0.1 / np.sqrt(5), -0.1 + 0.1 / np.sqrt(5) - 0.2 / 3],
    # without a penalty the same
    "ftrl": [-0.1, -0.1 + 0.1 / np.sqrt(5), -0.1 + 0.1 / np.sqrt(5) - 0.2 / 3],
    "rmsprop": list(
        np.cumsum([
            -0.1,
            0.1 / np.sqrt((0.99 * 0.04 + 0.01) / (1 - 0.99**2)),
            -0.2 / np.sqrt((0.99 * (0.99 * 0.04 + 0.01) + 0.04) / (1 - 0.99**3)),
        ])
    ),
    "adam": list(
        np.cumsum([
            -0.1,
            -0.1 * (0.9 * 0.2 - 0.1) / (1 - 0.9**2) / np.sqrt((0.999 * 0.004 + 0.001) / (1 - 0.999**2)),
            -0.1
            * (0.9 * (0.9 * 0.2 - 0.1) + 0.2)
            / (1 - 0.9**3)
            / np.sqrt((0.999 * (0.999 * 0.004 + 0.001) + 0.004) / (1 - 0.999**3)),
        ])
    ),
}  # fmt: skip


class Walk:
    """Theta and what the optimizer keeps."""

    def __init__(self, name: str, theta: np.ndarray):
        self.optimizer, self.theta = OPTIMIZERS[name], theta.copy()
        self.slots, self.rate = self.optimizer.init(np.zeros(len(theta))), np.zeros(len(theta))
        self.step = 0

    def take(self, gradient: np.ndarray, alpha: float) -> None:
        self.step += 1
        settings = np.array(self.optimizer.settings)
        self.optimizer.update(self.theta, gradient.copy(), self.slots, self.rate, settings, alpha, self.step)


def test_the_table_has_every_optimizer() -> None:
    assert set(BY_HAND) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_worked_by_hand(name: str) -> None:
    walk = Walk(name, np.zeros(1))
    path = []
    for gradient in GRADIENTS:
        walk.take(np.array([gradient]), 0.1)
        path.append(walk.theta[0])

    np.testing.assert_allclose(path, BY_HAND[name], rtol=1e-10)


def test_plain_descent_on_theta_squared_from_four_at_a_tenth() -> None:
    walk, path = Walk("plain", np.array([4.0])), []
    for _ in range(3):
        walk.take(2.0 * walk.theta, 0.1)
        path.append(walk.theta[0])

    np.testing.assert_allclose(path, [3.2, 2.56, 2.048], rtol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_slots_have_one_row_each_and_begin_at_zero_where_nothing_is_expected(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    slots = optimizer.init(np.zeros(7))

    assert slots.shape == (len(optimizer.slots), 7)
    assert slots.dtype == np.float64
    assert not slots.any()
    # Squares can be re-expressed only with the cross products beside them.
    assert ("squares" in optimizer.slots) == ("cross" in optimizer.slots)


@pytest.mark.parametrize("name", NAMES)
def test_slots_may_be_longer_than_theta(name: str) -> None:
    """The mini-batch loop keeps room for more coordinates than are touched."""
    walk, roomy = (Walk(name, np.array([1.0, 2.0, 3.0])) for _ in range(2))
    roomy.slots = np.ascontiguousarray(np.pad(walk.slots, ((0, 0), (0, 2))))
    for each in (walk, roomy):
        each.take(np.array([0.5, -0.5, 0.25]), 0.1)

    np.testing.assert_array_equal(roomy.theta, walk.theta)
    np.testing.assert_array_equal(roomy.slots[:, :3], walk.slots)
    assert not roomy.slots[:, 3:].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_written_is_the_step_for_a_gradient_of_one_that_never_changes(name: str) -> None:
    """Where gradients are all alike, theta moves by rate times gradient: by that rate the penalty shrinks it."""
    walk = Walk(name, np.zeros(2))
    for _ in range(400):
        before = walk.theta.copy()
        walk.take(np.array([1.0, 1.0]), 0.1)

    np.testing.assert_allclose(before - walk.theta, walk.rate, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_zero_moves_nothing_at_first(name: str) -> None:
    walk = Walk(name, np.array([1.0, -1.0]))
    walk.take(np.zeros(2), 0.5)

    np.testing.assert_array_equal(walk.theta, [1.0, -1.0])
    assert np.isfinite(walk.slots).all()


@pytest.mark.parametrize("name", [name for name in NAMES if "squares" in OPTIMIZERS[name].slots])
def test_the_first_step_of_adaptive_optimizers_does_not_depend_on_the_unit(name: str) -> None:
    walks = [Walk(name, np.zeros(1)) for _ in range(2)]
    for walk, unit in zip(walks, (1e-6, 1e6), strict=True):
        walk.take(np.array([3.0 * unit]), 0.1)

    np.testing.assert_allclose([walk.theta[0] for walk in walks], -0.1, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if "cross" in OPTIMIZERS[name].slots])
def test_the_cross_products_are_with_the_last_coordinate(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    walk = Walk(name, np.zeros(3))
    for _ in range(5):
        walk.take(np.array([1.0, -2.0, 3.0]), 0.1)
    squares, cross = walk.slots[optimizer.slots.index("squares")], walk.slots[optimizer.slots.index("cross")]

    np.testing.assert_allclose(squares / squares[2], [1 / 9, 4 / 9, 1.0], rtol=1e-13)
    np.testing.assert_allclose(cross / squares[2], [1 / 3, -2 / 3, 1.0], rtol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_finds_the_minimum_of_a_quadratic(name: str) -> None:
    rng = np.random.default_rng(2)
    root = rng.normal(size=(3, 3))
    matrix, minimum = root @ root.T + np.eye(3), np.array([1.0, -2.0, 0.5])
    largest = float(np.linalg.eigvalsh(matrix).max())
    walk = Walk(name, np.zeros(3))
    alpha = walk.optimizer.default_learning_rate(lambda: Smoothness(largest, largest), 256)
    for step in range(4000):
        # Adaptive steps are as long at the minimum as elsewhere: they must become shorter.
        walk.take(matrix @ (walk.theta - minimum), alpha / np.sqrt(1.0 + step / 400))

    def height(theta: np.ndarray) -> float:
        return 0.5 * float((theta - minimum) @ matrix @ (theta - minimum))

    assert height(walk.theta) < 1e-3 * height(np.zeros(3))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_rate_is_above_zero_and_does_not_fall_with_larger_batches(name: str) -> None:
    smoothness = Smoothness(row=500.0, mean=2.0)
    rates = [OPTIMIZERS[name].default_learning_rate(lambda: smoothness, size) for size in (1, 16, 256, 65_536)]

    assert rates[0] > 0.0
    assert (np.diff(rates) >= 0.0).all()
    assert np.isfinite(rates).all()


def test_the_smoothness_of_a_batch_lies_between_that_of_a_row_and_of_all() -> None:
    smoothness = Smoothness(row=10.0, mean=2.0)

    assert smoothness.of_batch(1) == 10.0
    assert smoothness.of_batch(4) == 4.0
    assert 2.0 < smoothness.of_batch(10**6) < 2.001
