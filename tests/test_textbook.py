"""Full batch is the gradient descent of the textbooks: to 1e-12 with a fixed alpha, never uphill with backtracking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated
from displays import Listener

from streamgd.errors import DivergenceError
from streamgd.training.train import train


def write(folder: Path, logistic: bool) -> tuple[str, np.ndarray, np.ndarray]:
    """A small file of several row groups; its path, the matrix with a column of ones last, and the target."""
    rng = np.random.default_rng(11)
    x = rng.normal([0.5, -1.0, 2.0], [1.0, 0.3, 2.0], (500, 3))
    raw = x @ [0.8, -1.5, 0.4] - 2.0
    y = (rng.random(500) < 1 / (1 + np.exp(-raw))).astype(float) if logistic else raw + rng.normal(size=500)
    path = folder / "data.parquet"
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y}), path, row_group_size=120)
    return str(path), np.column_stack([x, np.ones(500)]), y


def textbook(X: np.ndarray, y: np.ndarray, logistic: bool, alpha: float, iterations: int) -> np.ndarray:
    """The ten lines."""
    m, n = X.shape
    theta = np.zeros(n)
    for _ in range(iterations):
        h = X @ theta
        if logistic:
            h = 1 / (1 + np.exp(-h))
        theta -= alpha / m * X.T @ (h - y)
    return theta


@pytest.mark.parametrize("passes", [1, 2, 50])
@pytest.mark.parametrize(("loss", "alpha"), [("squared", 0.05), ("logistic", 0.3)])
def test_a_fixed_alpha_gives_the_theta_of_the_textbook_loop(
    loss: str, alpha: float, passes: int, tmp_path: Path
) -> None:
    data, X, y = write(tmp_path, loss == "logistic")
    result = train(
        data, "y", run=str(tmp_path / "run"), loss=loss, method="batch", learning_rate=alpha, scale="none",
        dtype="float64", init="zeros", l2=0, tol_gradient=0, epochs=passes,
    )  # fmt: skip
    expected = textbook(X, y, loss == "logistic", alpha, passes)
    assert result.facts["optimizer"] == "plain"
    np.testing.assert_allclose(result.model.theta[:, 0], expected, rtol=0, atol=1e-12)
    assert np.abs(expected).max() > 0.01
    # Nothing was scaled, so these are the coefficients too.
    np.testing.assert_allclose([each.value for each in result.model.coefficients()], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_backtracking_never_increases_the_objective_and_says_how_far_it_came(
    loss: str, generated: Generated, tmp_path: Path
) -> None:
    data = generated(rows=20_000, features=8, categorical=2, loss=loss, badly_scaled=True, row_group_rows=6_000, seed=2)
    listener = Listener()
    result = train(
        str(data),
        "y",
        run=str(tmp_path / "run"),
        method="batch",
        optimizer="backtracking",
        epochs=60,
        tol_gradient=0,
        display=listener,
    )
    passes = [line for line in result.history if line["event"] == "pass"]
    accepted = [line["objective"] for line in passes if line["accepted"]]
    assert len(passes) == 60
    assert len(accepted) > 20
    assert (np.diff(accepted) <= 0).all()
    assert result.facts["objective"] == accepted[-1] == min(accepted)
    marks = ["" if line["accepted"] else " (step too long, halved)" for line in passes]
    assert [phase for phase in listener.phases if phase.startswith("pass")] == [
        f"pass {number}{mark}" for number, mark in enumerate(marks, 1)
    ]
    assert len(set(marks)) == 2
    assert result.facts["gradient"] > 0
    assert result.stopped_by == "epochs"


def test_a_small_gradient_ends_the_passes(tmp_path: Path) -> None:
    data, X, y = write(tmp_path, logistic=False)
    result = train(data, "y", run=str(tmp_path / "run"), method="batch", dtype="float64", l2=0, tol_gradient=1e-9)
    assert result.stopped_by == "tol_gradient"
    assert result.facts["gradient"] <= 1e-9
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose([each.value for each in result.model.coefficients()], best, rtol=1e-6)


def test_a_fixed_alpha_that_is_too_large_ends_with_one_clear_line(tmp_path: Path) -> None:
    data, _, _ = write(tmp_path, logistic=False)
    with pytest.raises(DivergenceError, match=r"step of 50 is too large.*backtracking") as caught:
        train(data, "y", run=str(tmp_path / "run"), method="batch", learning_rate=50)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()
