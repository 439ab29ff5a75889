"""Losses with a kink of which many rows are equal: the optimum, and no bound that is not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack

from streamgd.objective import band
from streamgd.training.train import Result, train

ROWS, COLUMNS = 2_000, ["x0", "x1", "x2", "x3"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of 50 rows a coefficient, so that these data have too many for one."""
    monkeypatch.setattr(band, "BAND_VALUES", 0)
    monkeypatch.setattr(band, "ROWS_PER_COEFFICIENT", 50)


def dummies(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Columns of 0 and 1, and a linear function of the numbers that they were made from."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, 4))
    return (X > 0.0).astype(float), X @ [0.5, -0.3, 0.2, 0.0], rng


def run(folder: Path, X: np.ndarray, y: np.ndarray, **options: Any) -> Result:
    rows = {**dict(zip(COLUMNS, X.T, strict=True)), "y": y, "w": np.linspace(0.5, 2.0, len(y))}
    pq.write_table(pa.table(rows), folder / "data.parquet", row_group_size=300)
    data, run = str(folder / "data.parquet"), str(folder / "run")
    options = {"method": "batch", "dtype": "float64", "l2": 0.0, "restart": True, **options}
    return train(data, "y", run=run, features=COLUMNS, **options)


def least_pinball(X: np.ndarray, y: np.ndarray, quantile: float) -> float:
    X, ones = csr_array(np.column_stack([X, np.ones(ROWS)])), np.full(ROWS, 1.0 / ROWS)
    costs = np.concatenate([np.zeros(2 * X.shape[1]), quantile * ones, (1.0 - quantile) * ones])
    equal = hstack([X, -X, eye_array(ROWS), -eye_array(ROWS)])
    return float(linprog(costs, A_eq=equal, b_eq=y, method="highs").fun)


def least_hinge(X: np.ndarray, y: np.ndarray) -> float:
    sides = csr_array(np.column_stack([X, np.ones(ROWS)]) * (2.0 * y - 1.0)[:, None])
    costs = np.concatenate([np.zeros(2 * sides.shape[1]), np.full(ROWS, 1.0 / ROWS)])
    limits = hstack([-sides, sides, -eye_array(ROWS)])
    return float(linprog(costs, limits, -np.ones(ROWS), method="highs").fun)


def test_the_quantile_of_columns_of_0_and_1_is_that_of_the_linear_program(tmp_path: Path) -> None:
    X, linear, rng = dummies(1)
    y = np.round(linear + rng.standard_t(2, size=ROWS))
    facts = run(tmp_path, X, y, loss="quantile", quantile=0.7).facts
    excess, base_loss = facts["certificate"]["excess"], facts["base_loss"]

    assert facts["objective"] == pytest.approx(least_pinball(X, y, 0.7), abs=excess + 1e-12 * base_loss)
    assert excess <= 1e-12 * base_loss
    assert facts["steps"] <= 4


@pytest.mark.parametrize("seed", range(4))
def test_the_hinge_of_columns_of_0_and_1_is_that_of_the_linear_program(seed: int, tmp_path: Path) -> None:
    X, linear, rng = dummies(seed)
    y = (linear + rng.logistic(size=ROWS) > 0.3).astype(int)
    facts = run(tmp_path, X, y, loss="hinge").facts
    excess, base_loss = facts["certificate"]["excess"], facts["base_loss"]

    assert facts["objective"] == pytest.approx(least_hinge(X, y), abs=excess + 1e-12 * base_loss)
    assert excess <= 1e-12 * base_loss
    assert facts["steps"] <= 4


def test_on_any_number_of_threads_equal_rows_give_the_same_bits(tmp_path: Path) -> None:
    X, linear, rng = dummies(1)
    X[:, 0] = np.round(3.0 * linear)
    y = np.round(3.0 * (linear + rng.standard_t(2, size=ROWS)))
    runs = [run(tmp_path, X, y, loss="quantile", weight="w", threads=threads) for threads in (1, 2)]

    assert runs[0].model.theta_sha256 == runs[1].model.theta_sha256
    assert runs[0].facts["certificate"] == runs[1].facts["certificate"]
    assert runs[0].facts["certificate"]["excess"] <= 1e-12 * runs[0].facts["base_loss"]


@pytest.mark.filterwarnings("ignore:not converged")
@pytest.mark.parametrize("seed", range(2))
def test_where_equal_rows_count_one_by_one_no_bound_is_claimed_that_is_none(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of rows that have the same distance from their kink and are not equal."""
    monkeypatch.setattr(band, "_merged", lambda *arrays: list(arrays))
    X, linear, rng = dummies(1 - seed)
    y = np.round(linear + rng.standard_t(2, size=ROWS))
    facts = run(tmp_path, X, y, loss="quantile", quantile=0.7).facts
    least, certificate = least_pinball(X, y, 0.7), facts["certificate"]

    assert facts["objective"] <= least + 1e-3 * facts["base_loss"]
    assert certificate is None or facts["objective"] - certificate["excess"] <= least + 1e-12
