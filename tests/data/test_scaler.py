"""Moments against exact fractions, and re-expression: no prediction changes when the scaling moves."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import moments_of

from streamgd.data.scaler import Moments, Reexpression, Scaling

# Moments


def exact(values: list[float], weights: list[float]) -> tuple[Fraction, Fraction, Fraction]:
    """Weight, mean and sum of squared deviations without any rounding."""
    x, w = [Fraction(value) for value in values], [Fraction(weight) for weight in weights]
    total = sum(w)
    if total == 0:
        return Fraction(0), Fraction(0), Fraction(0)
    mean = sum(a * b for a, b in zip(x, w, strict=True)) / total
    return total, mean, sum(b * (a - mean) ** 2 for a, b in zip(x, w, strict=True))


def merged(values: list[float], weights: list[float], cuts: list[int]) -> Moments:
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    x, w = np.array(values)[:, None], np.array(weights)
    moments = Moments.empty(1)
    for start, stop in pairwise(bounds):
        moments = moments.merge(moments_of(x[start:stop], w[start:stop]))
    return moments


def check(moments: Moments, values: list[float], weights: list[float]) -> None:
    """The mean to 1e-12 of the largest value.

    The squares to 1e-12 of themselves, plus what a mean that is off by so much in each part can add: twice the
    weight times the error times the standard deviation, and the weight times the square of the error; and a few times
    the weight of the smallest number, to which the tiniest squares are rounded.
    """
    total, mean, squares = exact(values, weights)
    used = [abs(value) for value, weight in zip(values, weights, strict=True) if weight > 0]
    largest = max(used, default=0.0)
    error = 1e-14 * largest
    deviation = float(squares / total) ** 0.5 if total else 0.0

    assert moments.weight[0] == pytest.approx(float(total), rel=1e-14)
    assert abs(Fraction(float(moments.mean[0])) - mean) <= Fraction(1e-12) * Fraction(largest)
    allowed = 1e-12 * float(squares) + float(total) * (2 * error * deviation + error * error)
    tiniest = 4 * (total + 1) * Fraction(np.finfo(np.float64).smallest_subnormal)
    assert abs(Fraction(float(moments.squares[0])) - squares) <= Fraction(allowed) + tiniest
    assert moments.squares[0] >= 0.0
    assert moments.largest[0] == largest


magnitudes = st.sampled_from([1e-150, 1e-12, 1.0, 1e9, 1e140])
rows = st.lists(
    st.tuples(st.floats(-1.0, 1.0), st.sampled_from([0.0, 0.25, 1.0, 3.5, 1e6])), min_size=1, max_size=30
)  # fmt: skip
cuts = st.lists(st.integers(0, 30), max_size=6)


@settings(max_examples=200)
@given(rows=rows, cuts=cuts, magnitude=magnitudes, common=st.sampled_from([0.0, 1.0, 1e3]))
def test_any_split_gives_the_moments_of_exact_fractions(
    rows: list[tuple[float, float]], cuts: list[int], magnitude: float, common: float
) -> None:
    values = [(value + common) * magnitude for value, _ in rows]
    values = [0.0 if abs(value) < 1e-155 else value for value in values]
    weights = [weight for _, weight in rows]

    check(merged(values, weights, cuts), values, weights)


@given(signs=st.lists(st.integers(-4, 4), min_size=1, max_size=40), cuts=cuts)
def test_small_differences_of_huge_numbers_are_kept(signs: list[int], cuts: list[int]) -> None:
    """1e15 ± 1 has its own standard deviation, of the size of one: numpy's formula is wrong there."""
    values = [1e15 + sign for sign in signs]
    weights = [1.0] * len(values)
    moments = merged(values, weights, cuts)
    _, mean, squares = exact(values, weights)

    # The mean is a double near 1e15: 0.125 lies between two of them. The parts' means are off by half of that.
    assert abs(Fraction(float(moments.mean[0])) - mean) <= Fraction(1, 4)
    assert abs(float(moments.squares[0]) - float(squares)) <= 0.5 * len(values) * (1 + float(squares / len(values)))
    if not cuts:
        assert float(moments.squares[0]) == pytest.approx(float(squares), rel=0.02, abs=0.02 * len(values))


def test_a_constant_column_has_no_deviation_however_it_is_cut() -> None:
    for value in (0.1, 1e15 + 1, -3e-9):
        moments = merged([value] * 30, [0.3] * 30, [3, 10, 11])
        assert (moments.mean[0], moments.squares[0], moments.deviation()[0]) == (value, 0.0, 1.0)


@settings(max_examples=100)
@given(parts=st.lists(st.lists(st.floats(-1e6, 1e6), max_size=8), min_size=3, max_size=3))
def test_merging_is_associative_to_rounding(parts: list[list[float]]) -> None:
    a, b, c = (moments_of(np.array(part).reshape(-1, 1), np.ones(len(part))) for part in parts)
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    largest = max((abs(value) for part in parts for value in part), default=0.0)

    np.testing.assert_array_equal(left.weight, right.weight)
    np.testing.assert_array_equal(left.largest, right.largest)
    np.testing.assert_allclose(left.mean, right.mean, rtol=0, atol=2e-12 * largest)
    np.testing.assert_allclose(left.squares, right.squares, rtol=1e-12, atol=1e-13 * largest**2)


def test_merging_with_nothing_changes_nothing() -> None:
    some = moments_of(np.array([[1.0, 5.0], [2.0, -7.0]]), np.array([1.0, 3.0]))
    for other in (some.merge(Moments.empty(2)), Moments.empty(2).merge(some)):
        for name in ("weight", "mean", "squares", "largest"):
            np.testing.assert_array_equal(getattr(other, name), getattr(some, name))


def test_a_constant_beyond_the_root_of_the_largest_number_is_still_constant() -> None:
    moments = merged([1e200] * 9, [1.0] * 9, [4])

    assert (moments.mean[0], moments.squares[0]) == (1e200, 0.0)


def test_moments_come_back_from_their_state() -> None:
    moments = moments_of(np.random.default_rng(0).normal(size=(9, 3)), np.ones(9))
    again = Moments.from_state(moments.state())

    for name in ("weight", "mean", "squares", "largest"):
        np.testing.assert_array_equal(getattr(again, name), getattr(moments, name))


# Scaling


def test_the_scaling_is_to_mean_zero_and_variance_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)) * [1e-6, 1e8] + [3.0, -1e10]
    shift0, scale0 = x[0], np.array([2e-6, 5e7])
    moments = moments_of((x - shift0) / scale0, np.ones(500))
    scaling = Scaling.from_moments(shift0, scale0, moments, True)
    features = (x - scaling.shift) / scaling.scale

    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(features.std(axis=0), 1.0, rtol=1e-9)
    np.testing.assert_array_equal(scaling.fill, [0.0, 0.0])


def test_without_standardising_a_null_becomes_the_mean_and_units_stay() -> None:
    shift0, scale0 = np.zeros(1), np.ones(1)
    moments = moments_of(np.array([[2.0], [6.0]]), np.array([1.0, 3.0]))
    scaling = Scaling.from_moments(shift0, scale0, moments, False)

    assert (scaling.shift[0], scaling.scale[0], scaling.fill[0]) == (0.0, 1.0, 5.0)


# Re-expression

N_NUMERIC, N_DOF = 3, 6


def scaling_of(mean: list[float], deviation: list[float]) -> Scaling:
    return Scaling(np.zeros(N_NUMERIC), np.ones(N_NUMERIC), np.array(mean), np.array(deviation), np.zeros(N_NUMERIC))


triple = st.lists(st.floats(-100.0, 100.0), min_size=N_NUMERIC, max_size=N_NUMERIC)
spreads = st.lists(st.floats(1e-3, 1e3), min_size=N_NUMERIC, max_size=N_NUMERIC)
moves = st.builds(
    lambda mu, sigma, shift, factor: Reexpression(
        scaling_of(mu, sigma),
        # The mean moves by up to a standard deviation, the deviation up to tenfold.
        scaling_of([m + s * d / 100 for m, s, d in zip(mu, sigma, shift, strict=True)],
                   [s * f for s, f in zip(sigma, factor, strict=True)]),
    ),
    triple, spreads, triple, st.lists(st.floats(0.1, 10.0), min_size=N_NUMERIC, max_size=N_NUMERIC),
)  # fmt: skip


def design(raw: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Features of raw numbers under a scaling, two levels, the intercept."""
    levels = np.eye(3)[np.arange(len(raw)) % 3][:, :2]
    return np.column_stack([(raw - scaling.mean) / scaling.deviation, levels, np.ones(len(raw))])


def raw_rows(move: Reexpression, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return move.before.mean + move.before.deviation * rng.normal(size=(40, N_NUMERIC))


@given(move=moves, seed=st.integers(0, 1000))
def test_no_prediction_changes_by_more_than_1e_9_relative(move: Reexpression, seed: int) -> None:
    theta = np.random.default_rng(seed).normal(size=N_DOF)
    raw = raw_rows(move, seed)
    before, after = design(raw, move.before), design(raw, move.after)
    moved = move.displacement(theta)
    size = np.abs(before) @ np.abs(theta) + np.abs(after) @ np.abs(moved)

    assert (np.abs(after @ moved - before @ theta) <= 1e-9 * np.maximum(1e-300, size)).all()
    np.testing.assert_array_equal(moved[N_NUMERIC:-1], theta[N_NUMERIC:-1])


@given(move=moves, seed=st.integers(0, 1000))
def test_gradients_and_their_squares_are_those_computed_from_scratch(move: Reexpression, seed: int) -> None:
    """Gradients are X' r: the sums of g_j^2 and g_j g_b of many steps, taken anew in the features of the new scale."""
    rng = np.random.default_rng(seed)
    raw = raw_rows(move, seed)
    gradients = {}
    residuals = rng.normal(size=(12, len(raw)))
    for name in ("before", "after"):
        gradients[name] = residuals @ design(raw, getattr(move, name))
    decay = 0.9 ** np.arange(12)
    sums = {
        name: (decay @ g, decay @ g**2, decay @ (g * g[:, -1:])) for name, g in gradients.items()
    }  # fmt: skip
    (mean, squares, cross), (new_mean, new_squares, new_cross) = sums["before"], sums["after"]
    # What the new sums are made of, without signs: rounding is relative to that.
    factor = np.ones(N_DOF)
    delta = np.zeros(N_DOF)
    factor[:N_NUMERIC] = move.before.deviation / move.after.deviation
    delta[:N_NUMERIC] = np.abs(move.before.mean - move.after.mean) / move.after.deviation
    parts = np.abs(gradients["before"]) * factor + delta * np.abs(gradients["before"][:, -1:])

    np.testing.assert_array_less(np.abs(move.gradient(mean) - new_mean), 1e-10 * (decay @ parts) + 1e-300)
    error = np.abs(move.cross(cross) - new_cross)
    np.testing.assert_array_less(error, 1e-10 * (decay @ (parts * np.abs(gradients["before"][:, -1:]))) + 1e-300)
    error = np.abs(move.squares(squares, cross) - new_squares)
    np.testing.assert_array_less(error, 1e-10 * (decay @ parts**2) + 1e-300)
    assert (move.squares(squares, cross) >= 0.0).all()


@given(move=moves, seed=st.integers(0, 1000))
def test_products_are_those_computed_from_scratch(move: Reexpression, seed: int) -> None:
    raw = raw_rows(move, seed)
    before, after = design(raw, move.before), design(raw, move.after)
    # What a column of the new features is made of, without signs: rounding is relative to that.
    factor, delta = np.ones(N_DOF), np.zeros(N_DOF)
    factor[:N_NUMERIC] = move.before.deviation / move.after.deviation
    delta[:N_NUMERIC] = np.abs(move.before.mean - move.after.mean) / move.after.deviation
    parts = np.abs(before) * factor + delta

    error = np.abs(move.products(before.T @ before) - after.T @ after)
    np.testing.assert_array_less(error, 1e-10 * (parts.T @ parts) + 1e-300)


def test_scaling_the_diagonal_alone_would_be_far_off() -> None:
    """The cross products matter: without them the squares of this move are several times too small."""
    move = Reexpression(scaling_of([0.0] * 3, [1.0] * 3), scaling_of([-2.0] * 3, [1.0] * 3))
    g = np.tile([1.0, 1.0, 1.0, 0.0, 0.0, 1.0], (5, 1))
    squares, cross = (g**2).sum(axis=0), (g * g[:, -1:]).sum(axis=0)

    np.testing.assert_allclose(move.squares(squares, cross)[:N_NUMERIC], 5 * 3.0**2, rtol=1e-15)


@given(move=moves, seed=st.integers(0, 1000))
def test_a_move_there_and_back_changes_nothing(move: Reexpression, seed: int) -> None:
    back = Reexpression(move.after, move.before)
    vector = np.random.default_rng(seed).normal(size=N_DOF)
    size = 1.0 + np.abs(move.before.mean / move.before.deviation).sum() + np.abs(move.displacement(vector)).sum()

    np.testing.assert_allclose(back.displacement(move.displacement(vector)), vector, atol=1e-12 * size)


def test_nothing_moves_where_the_scaling_stands_still() -> None:
    still = scaling_of([1.0, -2.0, 3.0], [0.5, 2.0, 7.0])
    move, vector = Reexpression(still, still), np.arange(1.0, N_DOF + 1)

    for moved in (move.displacement(vector), move.gradient(vector), move.cross(vector)):
        np.testing.assert_allclose(moved, vector, rtol=1e-15)
    np.testing.assert_allclose(move.squares(vector, vector), vector, rtol=1e-15)
