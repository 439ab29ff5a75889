"""Sums over rows with sparse columns are those over the same rows with a feature for each coordinate."""

import numpy as np
import pytest
from sparse_rows import N_DOF, Twins, twins

from streamgd.objective.losses import LOSSES
from streamgd.objective.objective import Objective, column_sums, raw_prediction
from streamgd.objective.penalties import ElasticNet
from streamgd.training.stepsize import UNSAFE_STEPS, expected_squares, largest_row_norm, second_moments

N_CLASSES = 3


def some_theta(outputs: int = 1) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N_DOF, outputs)) * 0.7


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(expected).max(initial=0.0)))


def of_many(loss: str) -> int:
    return N_CLASSES if loss == "multinomial" else 2


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
@pytest.mark.parametrize("valued", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 530])
def test_sums_are_those_of_dense_rows(loss: str, valued: bool, weighted: bool, rows: int) -> None:
    both = twins(rows, "float64", valued, weighted, of_many(loss))
    theta = some_theta(N_CLASSES if loss == "multinomial" else 1)
    objective = Objective(LOSSES[loss], ElasticNet())
    of_dense = both.of_dense
    found = objective.chunk_sums(theta, both.sparse, hessian=True, meat=True)
    expected = objective.chunk_sums(theta[of_dense], both.dense, hessian=True, meat=True)
    places = (of_dense[:, None] * theta.shape[1] + np.arange(theta.shape[1])).ravel()

    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    close(found.gradient[of_dense], expected.gradient)
    for matrix, dense in ((found.hessian, expected.hessian), (found.meat, expected.meat)):
        assert matrix is not None
        assert dense is not None
        close(matrix[np.ix_(places, places)], dense)
        assert (matrix == matrix.T).all()
    close(raw_prediction(both.sparse, theta), raw_prediction(both.dense, theta[of_dense]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parts_and_chosen_rows_have_their_own_entries(dtype: str) -> None:
    """The entries of a part begin in the middle of those of the block."""
    both, theta = twins(400, dtype), some_theta()
    expected = raw_prediction(both.sparse, theta)
    chosen = np.random.default_rng(2).random(400) < 0.3

    np.testing.assert_array_equal(raw_prediction(both.sparse.part(70, 390), theta), expected[70:390])
    np.testing.assert_array_equal(raw_prediction(both.sparse.chosen(chosen), theta), expected[chosen])


@pytest.mark.parametrize("valued", [True, False])
def test_what_step_sizes_follow_from_is_that_of_dense_rows(valued: bool) -> None:
    both, theta = twins(300, "float64", valued), some_theta()
    of_dense, weight = both.of_dense, np.random.default_rng(3).random(300)

    assert largest_row_norm(both.sparse) == pytest.approx(largest_row_norm(both.dense), rel=1e-12)
    close(column_sums(both.sparse, weight, N_DOF)[of_dense], column_sums(both.dense, weight, N_DOF))
    products = second_moments(theta, both.sparse).gradient[of_dense]
    close(products, second_moments(theta[of_dense], both.dense).gradient)


def test_a_row_of_many_ones_has_the_square_of_their_number_as_its_norm() -> None:
    both = twins(3, valued=False, weighted=False)
    entries = both.sparse.entries
    entries.coordinates[:] = entries.coordinates[0]
    counts = np.diff(entries.starts)
    squares = (both.sparse.features**2).sum(axis=1) + (both.sparse.codes[:, 0] >= 0) + 1.0 + counts**2

    assert largest_row_norm(both.sparse) == pytest.approx(squares.max(), rel=1e-12)


def test_expected_squares_count_the_entries_of_each_coordinate() -> None:
    both, loss = twins(200), LOSSES["squared"]
    found = expected_squares(both.sparse, N_DOF, loss, 0.4, 1.3, 32, 0.0, 5)
    squares = _squares(both)
    residual = (0.4 + both.sparse.offset - both.sparse.target) * both.sparse.weight / 1.3

    close(found[5:-1], (residual**2).mean() * (squares + 1.0) / 201.0 / 32)


def test_expected_squares_are_large_where_rows_are_long() -> None:
    """Even one step on such a row alone is then not far too long."""
    both, loss = twins(200, weighted=False), LOSSES["squared"]
    starts, coordinates, _ = both.sparse.entries.arrays()
    norms = (both.dense.features**2).sum(axis=1) + (both.dense.codes[:, 0] >= 0) + 1.0
    of_coordinate = [norms[np.repeat(np.arange(200), np.diff(starts))[coordinates == 5 + j]].mean() for j in range(7)]
    expected = np.maximum(
        expected_squares(both.sparse, N_DOF, loss, 0.4, 1.0, 4, 0.0, 5)[5:-1],
        (2.0 * np.array(of_coordinate) / 4 / UNSAFE_STEPS) ** 2,
    )

    found = expected_squares(both.sparse, N_DOF, loss, 0.4, 1.0, 4, 2.0, 5)
    close(found[5:-1], expected)
    close(found[[0, 1, -1]], expected_squares(both.sparse, N_DOF, loss, 0.4, 1.0, 4, 0.0, 5)[[0, 1, -1]])


def _squares(both: Twins) -> np.ndarray:
    entries, found = both.sparse.entries, np.zeros(7)
    np.add.at(found, entries.coordinates - 5, entries.values**2)
    return found
