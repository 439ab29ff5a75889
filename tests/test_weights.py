"""Weights and offsets mean what they say: a weight of 2 is the row twice, an offset is a part of the prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oracles import Oracle, Rows
from scipy.special import expit
from sklearn.linear_model import LinearRegression

from streamgd.training.train import Result, train

EXACT = {"method": "batch", "dtype": "float64"}


def draw(rows: int, logistic: bool, seed: int = 5) -> dict[str, Any]:
    """Columns a, b, level, y, exposure (an offset) and weight (0, 1 or 2, or any number as ``importance``)."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(3.0, 2.0, rows), rng.exponential(100.0, rows)
    level = rng.choice(["x", "y", "z"], rows, p=[0.6, 0.3, 0.1])
    exposure = rng.normal(0.5, 1.0, rows)
    raw = 0.7 * a - 0.01 * b + 0.5 * (level == "y") - 0.6 * (level == "z") - 1.0 + exposure
    y = (rng.random(rows) < expit(raw)).astype(float) if logistic else raw + rng.normal(0, 0.5, rows)
    weight = rng.choice([0, 1, 2], rows)
    return {
        "a": a, "b": b, "level": level, "y": y, "exposure": exposure, "weight": weight,
        "importance": rng.gamma(1.0, 3.0, rows),
    }  # fmt: skip


def write(columns: dict[str, Any], path: Path, row_group_rows: int = 700) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_rows)
    return str(path)


def coefficients(result: Result) -> dict[str, float]:
    return {each.name: each.value for each in result.model.coefficients()}


def assert_same_coefficients(one: Result, other: Result, tolerance: float) -> None:
    found, expected = coefficients(one), coefficients(other)
    assert found.keys() == expected.keys()
    largest = max(map(abs, expected.values()))
    assert largest > 0.1
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=tolerance * largest), name


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("optimizer", ["plain", "backtracking"])
def test_a_weight_of_two_is_the_row_twice_and_of_zero_its_absence(loss: str, optimizer: str, tmp_path: Path) -> None:
    columns = draw(3_000, loss == "logistic")
    weighted = write(columns, tmp_path / "weighted.parquet")
    repeated = {name: np.repeat(values, columns["weight"]) for name, values in columns.items()}
    plain = write(repeated, tmp_path / "repeated.parquet")
    options = {**EXACT, "loss": loss, "optimizer": optimizer, "features": "a,b,level", "epochs": 40, "tol_gradient": 0}
    one = train(weighted, "y", run=str(tmp_path / "one"), weight="weight", **options)
    other = train(plain, "y", run=str(tmp_path / "other"), **options)
    assert_same_coefficients(one, other, 1e-10)
    for fact in ("train_loss", "base_loss", "objective"):
        assert one.facts[fact] == pytest.approx(other.facts[fact], rel=1e-10), fact


@pytest.mark.parametrize("method", ["minibatch", "sgd", "batch"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_every_method_finds_the_optimum_of_weighted_rows_with_an_offset(loss: str, method: str, tmp_path: Path) -> None:
    data = write(draw(100_000, loss == "logistic"), tmp_path / "data.parquet", 30_000)
    features = ["a", "b", "level"]
    oracle = Oracle.of(Rows.read(data, "y", features, weight="importance", offset="exposure"))
    result = train(
        data, "y", run=str(tmp_path / "run"), features=",".join(features), weight="importance", offset="exposure",
        method=method,
    )  # fmt: skip
    assert oracle.base - oracle.optimum > 0.1
    assert oracle.way_closed(result.model) > 0.99
    assert result.facts["train_loss"] == pytest.approx(oracle.loss(result.model), rel=1e-6)
    assert result.facts["base_loss"] == pytest.approx(oracle.base, rel=1e-3)


def test_an_offset_is_taken_off_the_target_of_the_squared_loss(tmp_path: Path) -> None:
    columns = draw(3_000, logistic=False)
    data = write(columns, tmp_path / "data.parquet")
    without = write({**columns, "y": columns["y"] - columns["exposure"]}, tmp_path / "without.parquet")
    options = {**EXACT, "features": "a,b,level", "l2": 0, "tol_gradient": 1e-12, "epochs": 5_000}
    one = train(data, "y", run=str(tmp_path / "one"), offset="exposure", **options)
    other = train(without, "y", run=str(tmp_path / "other"), **options)
    assert one.facts["train_loss"] == pytest.approx(other.facts["train_loss"], rel=1e-12)
    assert_same_coefficients(one, other, 1e-7)

    least_squares = LinearRegression().fit(
        np.column_stack([columns["a"], columns["b"], columns["level"] == "y", columns["level"] == "z"]),
        columns["y"] - columns["exposure"],
    )
    expected = dict(zip(["a", "b", "level=y", "level=z"], least_squares.coef_, strict=True))
    expected["(intercept)"] = least_squares.intercept_
    assert coefficients(one) == pytest.approx(expected, rel=1e-6)


def test_an_offset_of_the_logistic_loss_gives_the_coefficients_of_newton(tmp_path: Path) -> None:
    columns = draw(3_000, logistic=True)
    data = write(columns, tmp_path / "data.parquet")
    result = train(
        data, "y", run=str(tmp_path / "run"), features="a,b", offset="exposure", weight="importance", l2=0,
        tol_gradient=1e-11, epochs=5_000, **EXACT,
    )  # fmt: skip
    X = np.column_stack([columns["a"], columns["b"] / 100.0, np.ones(3_000)])
    theta, w = np.zeros(3), columns["importance"]
    for _ in range(30):
        h = expit(X @ theta + columns["exposure"])
        theta -= np.linalg.solve((X.T * (w * h * (1 - h))) @ X, X.T @ (w * (h - columns["y"])))
    found = [each.value for each in result.model.coefficients()]
    np.testing.assert_allclose(found, theta / [1.0, 100.0, 1.0], rtol=1e-6)
