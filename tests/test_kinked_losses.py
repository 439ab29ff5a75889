"""Losses with a kink in full batch: the optimum beside linear programs, its bound, and what they do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from scipy.optimize import linprog, lsq_linear
from sklearn.linear_model import QuantileRegressor

from streamgd.errors import PausedError
from streamgd.objective import band
from streamgd.training.train import Result, train

ROWS = 1_500
CASES: dict[str, dict[str, Any]] = {
    "median": {"target": "y", "loss": "quantile"},
    "high quantile": {"target": "y", "loss": "quantile", "quantile": 0.93},
    "highest quantile": {"target": "y", "loss": "quantile", "quantile": 0.99},
    "hinge": {"target": "late", "loss": "hinge"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(4)
    X, level = rng.normal(size=(ROWS, 3)), rng.integers(0, 3, ROWS)
    linear = X @ [0.4, -0.3, 0.2] + 0.4 * level
    rows = {
        "a": 1e3 + 30.0 * X[:, 0], "b": X[:, 1] + X[:, 0], "c": 1e-3 * X[:, 2], "g": np.array(["u", "v", "w"])[level],
        # Of rows that all weigh the same, groups with as many on both sides of their kinks have no unique coefficient.
        "w": rng.uniform(0.5, 2.0, ROWS),
        "y": 50.0 + 3.0 * (linear + rng.standard_t(2.0, ROWS)), "late": (linear + rng.logistic(size=ROWS) > 0.3) + 0,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("kinks") / "data.parquet"
    pq.write_table(pa.table(rows), path, row_group_size=400)
    return path


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of 50 rows a coefficient, so that these data have too many for one."""
    monkeypatch.setattr(band, "BAND_VALUES", 0)
    monkeypatch.setattr(band, "ROWS_PER_COEFFICIENT", 50)


def run(data: Path, folder: Path, case: str, **options: Any) -> Result:
    options = {"l2": 0.0, "dtype": "float64", "method": "batch", "weight": "w", **CASES[case], **options}
    return train(str(data), run=str(folder), features=["a", "b", "c", "g"], **options)


def design(data: Path, result: Result) -> np.ndarray:
    """Standardised numbers, levels but the base level, and a column of ones."""
    table = pq.read_table(data)
    numbers, w = [table[name].to_numpy() for name in "abc"], table["w"].to_numpy()
    centred = [x - np.average(x, weights=w) for x in numbers]
    columns = [x / np.sqrt(np.average(x**2, weights=w)) for x in centred]
    levels = [each.level for each in result.model.coefficients() if each.level is not None]
    columns += [(table["g"].to_numpy(zero_copy_only=False) == level).astype(float) for level in levels]
    return np.stack([*columns, np.ones(ROWS)], axis=1)


def standardised(result: Result) -> np.ndarray:
    return np.array([each.standardised for each in result.model.coefficients()])


def target_and_weight(data: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(data)
    return table[CASES[case]["target"]].to_numpy().astype(float), table["w"].to_numpy()


def by_program(data: Path, case: str, X: np.ndarray) -> np.ndarray:
    """Theta of the unpenalised optimum, by scikit-learn for quantiles and by a linear program of scipy."""
    y, w = target_and_weight(data, case)
    if case != "hinge":
        quantile = CASES[case].get("quantile", 0.5)
        fitted = QuantileRegressor(quantile=quantile, alpha=0.0, solver="highs").fit(X[:, :-1], y, w)
        return np.append(fitted.coef_, fitted.intercept_)
    side, n_dof = 2.0 * y - 1.0, X.shape[1]
    costs = np.append(np.zeros(n_dof), w)
    bounds = [(None, None)] * n_dof + [(0.0, None)] * ROWS
    limits = np.hstack([-side[:, None] * X, -np.eye(ROWS)])
    return np.asarray(linprog(costs, limits, -np.ones(ROWS), bounds=bounds, method="highs").x[:n_dof])


@pytest.mark.parametrize("case", CASES)
def test_full_batch_ends_at_the_optimum_of_the_linear_program(case: str, data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", case)
    expected = by_program(data, case, design(data, result))

    assert np.abs(standardised(result) - expected).max() <= 1e-9 * np.abs(expected).max()
    assert result.facts["certificate"]["excess"] <= 1e-12 * result.facts["base_loss"]
    assert result.facts["certificate"]["estimated_by"] == "band"
    assert result.stopped_by == "tol_excess"
    assert not result.facts["warnings"]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("case", CASES)
def test_of_more_rows_than_a_band_may_have_the_optimum_is_the_same(case: str, data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", case)
    expected = by_program(data, case, design(data, result))

    assert np.abs(standardised(result) - expected).max() <= 1e-9 * np.abs(expected).max()
    assert result.facts["certificate"]["excess"] <= 1e-12 * result.facts["base_loss"]
    assert 4 <= result.facts["steps"] <= 40


@pytest.mark.parametrize("case", CASES)
def test_with_l2_zero_is_a_subgradient_at_the_result(case: str, data: Path, tmp_path: Path) -> None:
    l2 = 1e-2
    result = run(data, tmp_path / "run", case, l2=l2)
    X, theta, loss = design(data, result), standardised(result), result.model.loss
    y, w = target_and_weight(data, case)
    weighted = X * (w / w.sum())[:, None]
    raw, kinks = X @ theta, loss.kinks(y)  # type: ignore[attr-defined]
    at = np.abs(raw - kinks) < 1e-8
    below, behind = loss.gradient(y, kinks - 1.0), loss.gradient(y, kinks + 1.0)
    slope = weighted[~at].T @ loss.gradient(y, raw)[~at] + l2 * np.append(theta[:-1], 0.0)
    slopes = lsq_linear(weighted[at].T, -slope, (below[at], behind[at]), tol=1e-14)

    assert np.abs(slopes.fun).max() <= 1e-10


def test_l1_is_that_of_scikit_learn_with_the_same_zeros(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", "median", l1=0.1)
    X, (y, w) = design(data, result), target_and_weight(data, "median")
    fitted = QuantileRegressor(quantile=0.5, alpha=0.1, solver="highs").fit(X[:, :-1], y, w)
    expected = np.append(fitted.coef_, fitted.intercept_)

    assert (expected == 0.0).any()
    assert ((standardised(result) == 0.0) == (expected == 0.0)).all()
    assert np.abs(standardised(result) - expected).max() <= 1e-9 * np.abs(expected).max()
    assert result.facts["certificate"]["excess"] <= 1e-12 * result.facts["base_loss"]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("case", ["high quantile", "hinge"])
def test_a_run_in_pieces_on_other_threads_ends_in_the_same_bits(case: str, data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", case, l2=1e-3)
    result, pieces = None, 0
    while result is None:
        try:
            options = {"pause_after": 1e-6, "checkpoint_every": 1e-6, "threads": 1 + pieces % 2}
            result = run(data, tmp_path / "pieces", case, l2=1e-3, **options)
        except PausedError:
            pieces += 1

    assert pieces >= 4
    assert result.model.theta_sha256 == whole.model.theta_sha256
    assert result.facts["certificate"] == whole.facts["certificate"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["median", "hinge"])
def test_workers_give_the_bits_of_threads(case: str, data: Path, tmp_path: Path) -> None:
    threads, workers = run(data, tmp_path / "threads", case), run(data, tmp_path / "workers", case, workers=2)

    assert workers.model.theta_sha256 == threads.model.theta_sha256


@pytest.mark.usefixtures("narrow")
def test_what_ends_before_there_is_a_bound_claims_none(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", "median", epochs=3)

    assert result.stopped_by == "epochs"
    assert result.facts["certificate"] is None
    X, (y, w) = design(data, result), target_and_weight(data, "median")
    mean_loss = np.average(result.model.loss.loss(y, X @ standardised(result)), weights=w)
    assert result.facts["train_loss"] == pytest.approx(mean_loss, rel=1e-9)


def test_offsets_move_the_kinks(data: Path, tmp_path: Path) -> None:
    """A target with the offset added has the coefficients of the target alone."""
    table = pq.read_table(data)
    offset = np.random.default_rng(1).normal(size=ROWS)
    moved = table.append_column("o", pa.array(offset)).append_column("z", pa.array(table["y"].to_numpy() + offset))
    pq.write_table(moved, tmp_path / "data.parquet")
    alone = run(data, tmp_path / "alone", "median")
    beside = run(tmp_path / "data.parquet", tmp_path / "beside", "median", target="z", offset="o")

    np.testing.assert_allclose(standardised(beside), standardised(alone), rtol=1e-8)


def test_columns_that_repeat_each_other_are_named_and_share(data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data)
    pq.write_table(table.append_column("d", table["c"]), tmp_path / "data.parquet")
    options: dict[str, Any] = {"loss": "quantile", "method": "batch", "l2": 0.0, "dtype": "float64"}
    result = train(str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "run"), features=["a", "c", "d"], **options)
    found = {each.name: each.value for each in result.model.coefficients()}

    assert "d repeats c" in result.facts["warnings"][0]
    assert found["c"] == pytest.approx(found["d"], rel=1e-6)


def test_a_target_that_is_fitted_exactly_has_no_loss(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=300)
    pq.write_table(pa.table({"x": x, "y": 3.0 * x + 1.0}), tmp_path / "data.parquet")
    result = train(
        str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "run"), loss="quantile", method="batch", l2=0.0
    )

    assert result.facts["train_loss"] <= 1e-6 * result.facts["base_loss"]
    assert {each.name: each.value for each in result.model.coefficients()}["x"] == pytest.approx(3.0, rel=1e-6)


def test_rows_that_a_hyperplane_parts_have_no_loss_and_end_the_run(tmp_path: Path) -> None:
    X = np.random.default_rng(2).normal(size=(4, 2))
    pq.write_table(pa.table({"a": X[:, 0], "b": X[:, 1], "late": (X[:, 0] > 0.0) + 0}), tmp_path / "data.parquet")
    result = train(
        str(tmp_path / "data.parquet"), "late", run=str(tmp_path / "run"), loss="hinge", method="batch", l2=0.0,
        dtype="float64",
    )  # fmt: skip

    assert result.facts["objective"] <= 1e-12
    assert result.facts["certificate"]["excess"] <= result.facts["objective"]
    assert result.facts["steps"] <= 4


@pytest.mark.usefixtures("narrow")
@pytest.mark.filterwarnings("ignore:not converged")
def test_where_all_rows_of_a_class_stand_at_their_kink_nothing_is_worse_than_the_start(tmp_path: Path) -> None:
    """Of few late rows that nothing foretells the best hinge is the constant -1: more rows at a kink than in a band."""
    rng = np.random.default_rng(3)
    rows = {"a": rng.normal(size=ROWS), "b": rng.normal(size=ROWS), "late": (rng.random(ROWS) < 0.1).astype(int)}
    pq.write_table(pa.table(rows), tmp_path / "data.parquet")
    result = train(
        str(tmp_path / "data.parquet"), "late", run=str(tmp_path / "run"), loss="hinge", method="batch", l2=1e-6,
        dtype="float64",
    )  # fmt: skip

    assert result.facts["objective"] <= result.facts["base_loss"] * (1.0 + 1e-12)
    assert result.facts["certificate"] is None or result.facts["certificate"]["excess"] <= 1e-9
    assert result.facts["steps"] < 300


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_in_any_unit_of_the_target_steps_come_as_near(unit: float, data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data)
    pq.write_table(table.append_column("z", pa.array(table["y"].to_numpy() * unit)), tmp_path / "data.parquet")
    options: dict[str, Any] = {"target": "z", "quantile": 0.7, "loss": "quantile", "weight": None, "dtype": "float32"}
    near = run(tmp_path / "data.parquet", tmp_path / "near", "median", method="minibatch", epochs=5, **options)
    best = run(tmp_path / "data.parquet", tmp_path / "best", "median", **options)

    gained, most = (each.facts["base_loss"] - each.facts["objective"] for each in (near, best))
    assert 0.9 * most <= gained <= most * (1.0 + 1e-9)
    assert best.facts["certificate"]["excess"] <= 1e-12 * best.facts["base_loss"]


@pytest.mark.parametrize(("unit", "l2", "told"), [(1.0, 1e-6, False), (1e6, 1e-6, True), (1e6, 1e-12, False)])
def test_a_target_of_large_numbers_makes_the_default_of_l2_worth_a_line(
    unit: float, l2: float, told: bool, data: Path, tmp_path: Path
) -> None:
    table = pq.read_table(data)
    pq.write_table(table.append_column("z", pa.array(table["y"].to_numpy() * unit)), tmp_path / "data.parquet")
    display = Listener()
    options: dict[str, Any] = {"target": "z", "l2": l2, "weight": None, "epochs": 1}
    run(tmp_path / "data.parquet", tmp_path / "run", "median", display=display, **options)

    assert any("--l2 1e-06, the default, is not small" in line for line in display.warnings) == told
