"""Full batch to the optimum itself: the coefficients of scikit-learn and numpy, and a certificate that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated
from displays import Listener
from oracles import FLIGHT_FEATURES, Rows
from scipy.special import expit
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import LogisticRegression

from streamgd.errors import ConfigError, RunMismatchError
from streamgd.model import Model
from streamgd.show import format_show, show
from streamgd.training import certificate, memory
from streamgd.training.train import train

FEATURES = ["x0", "x1", "x2", "x3", "c0", "c1"]


def design(rows: Rows) -> tuple[list[str], np.ndarray]:
    """Standardised numbers and one-hot levels but the most frequent, with their names; no column of ones."""
    names, columns = [], []
    for name, values in rows.numbers.items():
        names.append(name)
        columns.append((values - values.mean()) / values.std())
    for name, codes in rows.codes.items():
        for code, level in list(enumerate(rows.levels[name]))[1:]:
            names.append(f"{name}={level}")
            columns.append((codes == code).astype(float))
    return names, np.stack(columns, axis=1)


def standardised(model: Model, names: list[str]) -> np.ndarray:
    """The standardised coefficients in the order of ``names``, the intercept last."""
    by_name = {each.name: each.standardised for each in model.coefficients()}
    # Streaming has a row for levels that are not met; nothing is learnt for it.
    assert all(name.endswith("=(other)") for name in set(by_name) - {*names, "(intercept)"})
    return np.array([by_name[name] for name in [*names, "(intercept)"]])


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def data(generated: Generated) -> dict[str, Path]:
    options: dict[str, Any] = {"rows": 30_000, "features": 4, "categorical": 2, "levels": 9, "row_group_rows": 7_000}
    return {loss: generated(**options, loss=loss, badly_scaled=True, seed=11) for loss in ("squared", "logistic")}


def test_late_flights_to_the_optimum_within_eight_passes(flights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(str(flights), "late", run=str(run), features=FLIGHT_FEATURES, method="batch")
    passes = [line for line in result.history if line["event"] == "pass"]

    assert result.facts["optimizer"] == "newton"
    assert min(line["epoch"] for line in passes if line["excess"] < 1e-10) <= 8
    assert result.stopped_by == "tol_excess"
    assert result.facts["certificate"]["excess"] < 1e-15
    assert result.facts["objective"] == pytest.approx(0.4561202189, abs=1e-10)
    # That base levels are left out is no collinearity; two destinations have no late flight, or late ones only.
    assert len(result.facts["warnings"]) == 1
    assert "one class only: dest=BIL, dest=AGS." in result.facts["warnings"][0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_coefficients_of_scikit_learn(dtype: str, data: dict[str, Path], tmp_path: Path) -> None:
    rows = Rows.read(data["logistic"], "y", FEATURES)
    names, X = design(rows)
    oracle = LogisticRegression(C=1.0 / (len(X) * 1e-6), solver="newton-cholesky", tol=1e-13, max_iter=100)
    oracle.fit(X, rows.target)
    result = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), method="batch", dtype=dtype)

    assert_close(standardised(result.model, names), np.append(oracle.coef_[0], oracle.intercept_), 1e-6)
    assert result.facts["warnings"] == []
    assert result.facts["certificate"]["estimated_by"] == "newton"


@pytest.mark.parametrize("optimizer", ["newton", "backtracking"])
def test_with_l1_the_coefficients_of_scikit_learn_zeros_included(
    optimizer: str, data: dict[str, Path], tmp_path: Path
) -> None:
    rows = Rows.read(data["squared"], "y", FEATURES)
    names, X = design(rows)
    l1 = 0.02 * rows.target.std()
    oracle = SklearnElasticNet(alpha=l1, l1_ratio=1.0, tol=1e-14, max_iter=10_000).fit(X, rows.target)
    result = train(
        str(data["squared"]), "y", run=str(tmp_path / "run"), method="batch", dtype="float64", l1=l1, l2=0,
        optimizer=optimizer, tol_gradient=1e-9 if optimizer == "backtracking" else None, epochs=3_000,
    )  # fmt: skip
    found = standardised(result.model, names)

    assert_close(found, np.append(oracle.coef_, oracle.intercept_), 1e-6)
    assert ((found[:-1] == 0.0) == (oracle.coef_ == 0.0)).all()
    assert (found[:-1] == 0.0).any()
    assert result.facts["certificate"]["excess"] < 1e-12
    assert result.facts["certificate"]["gradient"] < 1e-6


def test_the_normal_equations_are_the_least_squares_of_numpy_in_one_pass(data: dict[str, Path], tmp_path: Path) -> None:
    rows = Rows.read(data["squared"], "y", FEATURES)
    names, X = design(rows)
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), rows.target, rcond=None)[0]
    options = {"method": "batch", "dtype": "float64", "l2": 0}
    result = train(str(data["squared"]), "y", run=str(tmp_path / "run"), optimizer="normal", **options)

    assert result.facts["rows_seen"] == len(X)
    assert result.stopped_by == "exact"
    assert_close(standardised(result.model, names), expected, 1e-9)
    residual = rows.target - np.column_stack([X, np.ones(len(X))]) @ expected
    assert result.facts["train_loss"] == pytest.approx(0.5 * (residual**2).mean(), rel=1e-10)
    assert result.facts["certificate"]["excess"] < 1e-15 * result.facts["base_loss"]
    again = train(str(data["squared"]), "y", run=str(tmp_path / "again"), **options)
    assert_close(again.model.theta, result.model.theta, 1e-10)


def test_more_coefficients_than_a_hessian_is_made_for_are_left_to_lbfgs(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = train(str(data["logistic"]), "y", run=str(tmp_path / "newton"), method="batch")
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 10)
    result = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), method="batch", tol_gradient=1e-8)
    with_l1 = train(str(data["logistic"]), "y", run=str(tmp_path / "l1"), method="batch", l1=1e-3, epochs=5)

    assert result.facts["optimizer"] == "lbfgs"
    assert with_l1.facts["optimizer"] == "backtracking"
    assert_close(result.model.theta, exact.model.theta, 1e-4)
    told = result.facts["certificate"]
    assert told["estimated_by"] == "lbfgs"
    assert told["gradient"] <= 1e-8
    assert result.facts["objective"] - exact.facts["objective"] <= told["bound"]
    assert with_l1.facts["certificate"]["estimated_by"] == "none"
    # What the last pass told of the result is enough, so that there is time for it.
    cut = train(str(data["logistic"]), "y", run=str(tmp_path / "cut"), method="batch", max_time=1e-9)
    assert cut.stopped_by == "max_time"
    assert cut.facts["certificate"]["bound"] > 0.0


def test_a_checkpoint_of_another_optimizer_is_refused(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(str(data["logistic"]), "y", run=str(run), method="batch", epochs=2)
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 10)
    with pytest.raises(RunMismatchError, match="not one of lbfgs"):
        train(str(data["logistic"]), "y", run=str(run), method="batch", epochs=4)


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_tol_excess_ends_the_run_at_the_distance_asked_for(
    optimizer: str, data: dict[str, Path], tmp_path: Path
) -> None:
    least = train(str(data["logistic"]), "y", run=str(tmp_path / "newton"), method="batch").facts["objective"]
    result = train(
        str(data["logistic"]), "y", run=str(tmp_path / "run"), method="batch", optimizer=optimizer, tol_excess=1e-4
    )

    assert result.stopped_by == "tol_excess"
    assert 1e-12 < result.facts["objective"] - least < 2e-4
    assert result.facts["certificate"]["excess"] == pytest.approx(result.facts["objective"] - least, rel=0.1)


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_with_patience_no_distance_is_told_of_another_theta(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 30))
    columns: dict[str, Any] = {f"x{i}": x[:, i] for i in range(30)}
    columns["y"] = (x[:, 0] + 2.0 * rng.normal(size=300) > 0).astype(int)
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    result = train(
        str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "run"), method="batch", optimizer=optimizer,
        holdout=0.5, patience=3, epochs=50,
    )  # fmt: skip
    assert result.stopped_by == "patience"
    told = result.facts["certificate"]
    assert (told["excess"], told["estimated_by"]) == (None, "none")
    assert told["bound"] > 0.0


@pytest.mark.parametrize("optimizer", ["plain", "backtracking", "lbfgs"])
def test_the_certificate_of_a_run_that_was_cut_short_tells_how_far_it_is(
    optimizer: str, data: dict[str, Path], tmp_path: Path
) -> None:
    best = train(str(data["squared"]), "y", run=str(tmp_path / "newton"), method="batch")
    listener = Listener()
    result = train(
        str(data["squared"]), "y", run=str(tmp_path / "run"), method="batch", optimizer=optimizer, epochs=4,
        display=listener,
    )  # fmt: skip
    away = result.facts["objective"] - best.facts["objective"]

    assert away > 1e-6 * best.facts["base_loss"]
    # The squared loss is a quadratic: the estimate is exact.
    assert result.facts["certificate"]["excess"] == pytest.approx(away, rel=1e-6)
    assert result.facts["hint"].startswith("not converged after 4 passes: ")
    assert "above the optimum" in result.facts["hint"]
    assert listener.warnings == result.facts["warnings"] == [result.facts["hint"]]
    assert best.facts["hint"] is None


def test_a_run_whose_passes_end_at_the_optimum_is_not_called_unconverged(data: dict[str, Path], tmp_path: Path) -> None:
    result = train(str(data["squared"]), "y", run=str(tmp_path / "run"), method="batch", epochs=2, tol_excess=0)
    assert result.stopped_by == "epochs"
    assert (result.facts["hint"], result.facts["warnings"]) == (None, [])


@pytest.mark.parametrize("shuffle", ["full", "window"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_certify_tells_how_far_a_mini_batch_run_is(
    loss: str, shuffle: str, data: dict[str, Path], tmp_path: Path
) -> None:
    best = train(str(data[loss]), "y", run=str(tmp_path / "newton"), method="batch", dtype="float64")
    result = train(
        str(data[loss]), "y", run=str(tmp_path / "run"), shuffle=shuffle, epochs=1, certify=True, dtype="float64"
    )
    rows = Rows.read(data[loss], "y", FEATURES)
    names, X = design(rows)
    theta = standardised(result.model, names)
    raw = X @ theta[:-1] + theta[-1]
    away = rows.mean_loss(raw) + 0.5e-6 * (theta[:-1] ** 2).sum() - best.facts["objective"]
    told = result.facts["certificate"]

    assert told["estimated_by"] == "newton"
    # The squared loss is a quadratic; streaming may choose other base levels, to which the penalty is not indifferent.
    tolerance = 1e-6 if (loss, shuffle) == ("squared", "full") else 0.05
    assert told["excess"] == pytest.approx(away, rel=tolerance)
    slopes = (raw - rows.target if loss == "squared" else expit(raw) - rows.target) / len(raw)
    if shuffle == "full":
        gradient = np.append(X.T @ slopes + 1e-6 * theta[:-1], slopes.sum())
        assert told["gradient"] == pytest.approx(np.abs(gradient).max(), rel=1e-6)
    shown = format_show(show(tmp_path / "run"))
    assert "certificate: " in shown
    assert f"{told['gradient']:.3g}" in shown


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_a_finished_run_can_be_certified(shuffle: str, data: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "epochs": 1}
    at_once = train(str(data["logistic"]), "y", run=str(tmp_path / "at once"), certify=True, **options)
    first = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), **options)
    later = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), certify=True, **options)

    assert first.facts["certificate"] is None
    assert later.facts["certificate"] == at_once.facts["certificate"]
    assert later.model.theta_sha256 == first.model.theta_sha256
    assert later.history == first.history
    for asked in ({"certify": True}, {}):
        again = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), **options, **asked)
        assert again.facts["already_finished"]
        assert again.facts["certificate"] == at_once.facts["certificate"]


def test_collinear_columns_and_separated_levels_are_named_and_stay_finite(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 12_000
    a, b = rng.normal(size=(2, n))
    level = rng.integers(0, 4, n)
    rare = np.where(rng.random(n) < 0.002, "rare", np.array(["p", "q", "r"])[rng.integers(0, 3, n)])
    y = (a - b + 0.3 * level + rng.normal(size=n) > 0).astype(int)
    y[rare == "rare"] = 1
    table = {
        "a": a, "b": b, "again": 3.0 * a + 7.0, "sum": a + b, "level": np.array(["w", "x", "y", "z"])[level],
        "dummy": (level == 0).astype(float), "rare": rare, "y": y,
    }  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "data.parquet", row_group_size=5_000)
    without = train(
        str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "without"), method="batch",
        exclude="again,sum,dummy", l2=0,
    )  # fmt: skip

    for number, options in enumerate(({}, {"l2": 0.0}, {"l2": 0.0, "dtype": "float64"}, {"l1": 1e-4})):
        result = train(
            str(tmp_path / "data.parquet"), "y", run=str(tmp_path / f"run-{number}"), method="batch", **options
        )
        collinear, separated = result.facts["warnings"]
        assert "again repeats a; sum is a combination of a, b;" in collinear
        assert "dummy" in collinear
        assert "rare=rare" in separated
        assert [line["event"] for line in result.history[1:3]] == ["collinear", "separated"]
        assert np.isfinite(result.model.theta).all()
        if options.get("l2") == 0.0:
            assert result.facts["objective"] == pytest.approx(without.facts["objective"], rel=1e-9)
    assert len(without.facts["warnings"]) == 1


def test_a_hessian_that_does_not_fit_the_memory_is_refused_with_the_number(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SOLVING_HESSIANS", 10**6)
    for options in ({"method": "batch"}, {"method": "batch", "optimizer": "lbfgs"}, {"certify": True}):
        with pytest.raises(
            ConfigError,
            match=r"Hessian of 21 coefficients; --max-levels, --hash-buckets or --exclude.*--memory 3\d\d\dMB",
        ):
            train(str(data["logistic"]), "y", run=str(tmp_path / "run"), **options)
        assert not (tmp_path / "run").exists()  # nothing was trained


def test_tol_excess_is_refused_where_auto_stands_for_backtracking(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 10)
    with pytest.raises(ConfigError, match="--tol-excess: with --l1 and 21 coefficients the optimizer is backtracking"):
        train(str(data["logistic"]), "y", run=str(tmp_path / "run"), method="batch", l1=1e-3, tol_excess=1e-9)


def test_a_history_that_does_not_fit_the_memory_is_refused_with_the_number(
    data: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"method": "batch", "max_levels": 2, "hash_buckets": 2**18, "memory": "400MB"}
    with pytest.raises(ConfigError, match=r"524,293 coefficients with lbfgs; --optimizer backtracking.*684MB"):
        train(str(data["logistic"]), "y", run=str(tmp_path / "run"), **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"optimizer": "normal", "loss": "logistic"}, "normal solves the squared loss alone"),
        ({"optimizer": "normal"}, "normal solves the squared loss alone, this is logistic"),
        ({"optimizer": "normal", "l1": 0.1, "loss": "squared"}, "normal knows no --l1"),
        ({"optimizer": "lbfgs", "l1": 0.1}, "lbfgs knows no --l1"),
        ({"optimizer": "newton", "learning_rate": 0.1}, "--learning-rate has no meaning for newton"),
        ({"optimizer": "newton", "method": "minibatch"}, "for --method batch only"),
        ({"optimizer": "adam"}, "not for --method batch"),
        ({"optimizer": "plain", "tol_excess": 1e-9}, "--tol-excess .* with newton or lbfgs: plain does not estimate"),
        ({"learning_rate": 0.1, "tol_excess": 1e-9}, "--tol-excess .* with newton or lbfgs: plain does not estimate"),
        ({"optimizer": "backtracking", "tol_excess": 0, "tol_gradient": 1e-3}, "backtracking does not estimate"),
        ({"method": "minibatch", "tol_excess": 1e-9}, "--tol-excess is for --method batch with newton or lbfgs"),
        ({"method": "sgd", "tol_gradient": 1e-9}, "--tol-gradient is for --method batch only"),
    ],
    ids=str,
)
def test_what_an_optimizer_is_not_for_is_refused(
    options: dict[str, Any], told: str, data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        train(str(data["logistic"]), "y", run=str(tmp_path / "run"), **{"method": "batch", **options})
    assert not (tmp_path / "run").exists()
