import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import Descent, Rows, take_steps

from streamgd.data.blocks import NO_ENTRIES
from streamgd.kernels import coordinates as table
from streamgd.kernels.row_by_row import WIDENED_AHEAD, WIDEST_AHEAD, rows_loop
from streamgd.kernels.stochastic import WATCHED_EVERY_ROWS
from streamgd.objective.losses import LOSSES

NOTHING, NO_COORDINATES = np.empty(0), np.empty(0, np.int64)


def some_rows(n_rows: int, n_numeric: int, loss: str) -> Rows:
    rng = np.random.default_rng(n_rows)
    features = rng.normal(0.5, 1.0, size=(n_rows, n_numeric))
    raw = features.sum(axis=1) / n_numeric + rng.normal(size=n_rows)
    target = (raw > 0.5).astype(float) if loss == "logistic" else raw
    return Rows(features, np.empty((n_rows, 0), np.int32), target, NOTHING, NOTHING)


def train(
    rows: Rows, rates: np.ndarray, loss: str, coordinates: np.ndarray, l1: float, l2: float,
    bounded: np.ndarray = NO_COORDINATES, only_numbers: bool = True,
) -> bool:  # fmt: skip
    watched = np.empty((2, len(rows.target) // WATCHED_EVERY_ROWS + 1))
    train_rows = rows_loop(LOSSES[loss].pointwise_gradient, only_numbers)
    return train_rows(
        rows.features, rows.codes, *NO_ENTRIES[np.dtype(float)].arrays(), rows.target, rows.offset, rates, rates,
        0, l1, l2, True, coordinates, np.empty((0, 2), np.int64), NOTHING, bounded, watched,
        LOSSES[loss].settings,
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize("n_numeric", [1, 16, 17, WIDEST_AHEAD, WIDEST_AHEAD + 1])
@pytest.mark.parametrize("n_rows", [1, WIDENED_AHEAD, 2 * WIDENED_AHEAD, 2 * WIDENED_AHEAD + 1, 95])
@pytest.mark.parametrize("only_numbers", [True, False])
def test_rows_of_any_width_and_number_take_the_steps_of_the_textbook_loop(
    only_numbers: bool, n_rows: int, n_numeric: int, l1: float, loss: str
) -> None:
    rows = some_rows(n_rows, n_numeric, loss)
    theta = np.random.default_rng(5).normal(size=n_numeric + 1)
    rates = np.linspace(0.5, 0.1, n_rows) / n_numeric
    coordinates = np.zeros((n_numeric + 1, table.SLOTS))
    coordinates[:, table.THETA] = coordinates[:, table.AVERAGE] = theta
    descent = Descent.start(theta)

    assert train(rows, rates, loss, coordinates, l1, 0.3, only_numbers=only_numbers)

    take_steps(descent, rows, np.arange(n_rows + 1), rates, loss, "plain", 1.0, l1, 0.3, [])
    np.testing.assert_allclose(coordinates[:, table.THETA], descent.theta, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(coordinates[:, table.AVERAGE], descent.average, rtol=1e-10, atol=1e-12)


def test_what_a_bound_holds_at_zero_has_an_average_of_zero() -> None:
    rows = Rows(np.full((40, 1), 1e6), np.empty((40, 0), np.int32), np.zeros(40), NOTHING, NOTHING)
    coordinates = np.zeros((2, table.SLOTS))
    assert train(rows, np.full(40, 0.1), "logistic", coordinates, 0.0, 0.0, np.array([0]))
    np.testing.assert_array_equal(coordinates[0, [table.THETA, table.AVERAGE]], [0.0, 0.0])
    assert coordinates[1, table.AVERAGE] < -0.5


def test_no_rows_change_nothing() -> None:
    coordinates = np.random.default_rng(1).normal(size=(4, table.SLOTS))
    before = coordinates.copy()
    assert train(some_rows(0, 3, "squared"), NOTHING, "squared", coordinates, 0.0, 0.1)
    np.testing.assert_array_equal(coordinates[:, : table.CLOCK], before[:, : table.CLOCK])


def test_each_loss_has_one_loop() -> None:
    logistic, squared = LOSSES["logistic"].pointwise_gradient, LOSSES["squared"].pointwise_gradient
    assert rows_loop(logistic, True) is rows_loop(logistic, True)
    assert rows_loop(logistic, True) is not rows_loop(squared, True)
    assert rows_loop(logistic, True) is not rows_loop(logistic, False)


def test_another_process_reads_the_loop_of_a_loss_from_the_cache(tmp_path: Path) -> None:
    code = (
        "from streamgd.kernels.row_by_row import rows_loop\n"
        "from streamgd.objective.losses import LOSSES\n"
        "stats = rows_loop(LOSSES['squared'].pointwise_gradient, True)._compiled(0).stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def said() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    assert said() == "0 1\n"
    assert said() == "1 0\n"
