"""A path of penalties: the optimum of scikit-learn under each, the least holdout loss, and the same bits however."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import ElasticNet, Ridge

from streamgd.cli import main
from streamgd.errors import ConfigError, NoInputError, PausedError, RunMismatchError
from streamgd.show import format_show, show
from streamgd.training import certificate, path
from streamgd.training.train import Result, train

ROWS = 1_500
NAMES = ["a", "b", "c", "d", "f", "g"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to train on and one to choose by; some columns tell nothing."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(5)
    mix = np.eye(6) + 0.2 * rng.normal(size=(6, 6))
    for name in ("train", "holdout"):
        x = rng.normal(size=(ROWS, 6)) @ mix * 10.0 ** np.arange(6)
        raw = x / 10.0 ** np.arange(6) @ [0.6, -0.3, 0.1, 0.0, 0.0, 0.0]
        columns: dict[str, Any] = dict(zip(NAMES, x.T, strict=True))
        columns["real"] = 7.0 * (raw + rng.normal(size=ROWS)) + 100.0
        columns["class"] = (raw + rng.logistic(size=ROWS) > 0.3).astype(int)
        columns["three"] = np.array(["u", "v", "w"])[np.clip(raw + rng.normal(size=ROWS) + 1.0, 0, 2).astype(int)]
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=400)
    return folder


def fit(data: Path, run: Path, target: str, **options: Any) -> Result:
    defaults: dict[str, Any] = {
        "features": ",".join(NAMES), "method": "batch", "dtype": "float64", "l2": 0.0, "path": 8,
        "validation": str(data / "holdout.parquet"),
    }  # fmt: skip
    return train(str(data / "train.parquet"), target, run=str(run), **{**defaults, **options})


def rows_of(data: Path, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardised features and targets of both files, by the moments of the first."""
    tables = [pq.read_table(data / f"{name}.parquet") for name in ("train", "holdout")]
    x, other = (np.stack([table[name].to_numpy() for name in NAMES], axis=1) for table in tables)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    return (x - mean) / scale, tables[0][target].to_numpy(), (other - mean) / scale, tables[1][target].to_numpy()


def logistic_optimum(X: np.ndarray, y: np.ndarray, l1: float, l2: float) -> np.ndarray:
    """By scipy's L-BFGS-B: each slope is the difference of two that are not negative."""
    n = X.shape[1]
    both = np.column_stack([X, -X, np.ones(len(X))])

    def value(parts: np.ndarray) -> tuple[float, np.ndarray]:
        raw, beta = both @ parts, parts[:n] - parts[n : 2 * n]
        slopes = l1 + l2 * np.concatenate([beta, -beta])
        penalty = l1 * parts[:-1].sum() + 0.5 * l2 * beta @ beta
        gradient = both.T @ (expit(raw) - y) / len(y) + np.append(slopes, 0.0)
        return float((np.logaddexp(0.0, raw) - y * raw).mean() + penalty), gradient

    bounds = [(0.0, None)] * (2 * n) + [(None, None)]
    tight = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 10_000}
    found = minimize(value, np.zeros(2 * n + 1), jac=True, bounds=bounds, method="L-BFGS-B", options=tight).x
    return np.append(found[:n] - found[n : 2 * n], found[-1])


def mean_loss(X: np.ndarray, y: np.ndarray, theta: np.ndarray, loss: str) -> float:
    raw = X @ theta[:-1] + theta[-1]
    return float((np.logaddexp(0.0, raw) - y * raw if loss == "logistic" else 0.5 * (raw - y) ** 2).mean())


@pytest.mark.parametrize("optimizer", ["newton", "backtracking"])
@pytest.mark.parametrize(("target", "loss"), [("real", "squared"), ("class", "logistic")])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_each_point_is_the_optimum_of_its_penalty(
    ratio: float, target: str, loss: str, optimizer: str, data: Path, tmp_path: Path
) -> None:
    X, y, X_holdout, y_holdout = rows_of(data, target)
    tight: dict[str, Any] = {"tol_gradient": 1e-10, "epochs": 2_000} if optimizer == "backtracking" else {}
    result = fit(data, tmp_path / "run", target, l1_ratio=ratio, path=5, path_to=0.02, optimizer=optimizer, **tight)
    points, chosen = result.facts["path"]["points"], result.facts["path"]["chosen"]

    largest = np.abs(X.T @ (y - y.mean())).max() / len(y) / ratio
    np.testing.assert_allclose([each["lambda"] for each in points], largest * np.geomspace(1.0, 0.02, 5), rtol=1e-9)
    assert points[0]["nonzero"] == 0
    losses = []
    for number, point in enumerate(points):
        l1, l2 = point["lambda"] * ratio, point["lambda"] * (1.0 - ratio)
        assert (point["l1"], point["l2"]) == pytest.approx((l1, l2))
        if loss == "squared":
            oracle = ElasticNet(alpha=point["lambda"], l1_ratio=ratio, tol=1e-14, max_iter=100_000).fit(X, y)
            theta = np.append(oracle.coef_, oracle.intercept_)
        else:
            theta = logistic_optimum(X, y, l1, l2)
        train_loss = mean_loss(X, y, theta, loss)
        losses.append(mean_loss(X_holdout, y_holdout, theta, loss))
        penalty = l1 * np.abs(theta[:-1]).sum() + 0.5 * l2 * (theta[:-1] ** 2).sum()
        assert point["train_loss"] == pytest.approx(train_loss, rel=1e-6)
        assert point["objective"] == pytest.approx(train_loss + penalty, rel=1e-9)
        assert point["holdout_loss"] == pytest.approx(losses[-1], rel=1e-6)
        if number == chosen:
            found = np.array([each.standardised for each in result.model.coefficients()])
            np.testing.assert_allclose(found, theta, atol=1e-6 * np.abs(theta).max())
            assert ((found[:-1] == 0.0) == (np.abs(theta[:-1]) < 1e-7)).all()
            assert (result.facts["l1"], result.facts["l2"]) == pytest.approx((l1, l2))
    assert chosen == int(np.argmin(losses))
    assert result.stopped_by == "path"
    assert result.facts["holdout_loss"] == points[chosen]["holdout_loss"]
    assert result.facts["objective"] == pytest.approx(points[chosen]["objective"], rel=1e-12)


def test_a_path_of_ridge_is_that_of_scikit_learn(data: Path, tmp_path: Path) -> None:
    X, y, _, _ = rows_of(data, "real")
    result = fit(data, tmp_path / "run", "real", l1_ratio=0.0, l2=0.02)
    points = result.facts["path"]["points"]

    for point in points:
        assert point["l2"] == pytest.approx(point["lambda"] + 0.02)
        oracle = Ridge(alpha=point["l2"] * len(y), solver="cholesky").fit(X, y)
        expected = 0.5 * ((oracle.predict(X) - y) ** 2).mean() + 0.5 * point["l2"] * (oracle.coef_**2).sum()
        assert point["objective"] == pytest.approx(expected, rel=1e-9)
        assert point["nonzero"] == 6
    # A quadratic takes a pass a penalty, and the first one is that at the best constant.
    assert [each["passes"] for each in points] == [2, *[1] * 7]


def test_a_point_is_the_run_with_its_penalty(data: Path, tmp_path: Path) -> None:
    along = fit(data, tmp_path / "path", "three", path_to=0.02, non_negative=[])
    point = along.facts["path"]["points"][along.facts["path"]["chosen"]]
    alone = fit(data, tmp_path / "alone", "three", path=None, l1=point["l1"], l2=point["l2"])

    np.testing.assert_allclose(along.model.theta, alone.model.theta, atol=1e-7)
    assert along.facts["certificate"]["gradient"] < 1e-7


def test_bounds_hold_on_the_whole_path(data: Path, tmp_path: Path) -> None:
    result = fit(data, tmp_path / "run", "real", non_negative="a,b,c")
    X, y, _, _ = rows_of(data, "real")
    slopes = X.T @ (y - y.mean()) / len(y)

    # What only wants to go below zero does not count for the first penalty.
    assert result.facts["path"]["points"][0]["lambda"] == pytest.approx(max(slopes[:3].max(), np.abs(slopes[3:]).max()))
    by_name = {each.name: each.standardised for each in result.model.coefficients()}
    assert by_name["b"] == 0.0
    assert by_name["a"] > 0.0


def test_beyond_the_columns_of_a_hessian_the_points_are_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = fit(data, tmp_path / "newton", "class", path=4, path_to=0.05)
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 3)
    result = fit(data, tmp_path / "run", "class", path=4, path_to=0.05, tol_gradient=1e-9, epochs=1_000)

    assert result.facts["optimizer"] == "backtracking"
    for point, expected in zip(result.facts["path"]["points"], exact.facts["path"]["points"], strict=True):
        assert point["objective"] == pytest.approx(expected["objective"], rel=1e-9)
        assert point["nonzero"] == expected["nonzero"]
    assert result.facts["certificate"]["gradient"] <= 1e-9


@pytest.mark.parametrize("at_once", [1, 3])
def test_how_many_points_are_held_against_the_holdout_at_once_changes_nothing(
    at_once: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(data, tmp_path / "all", "class", threads=1)
    monkeypatch.setattr(path, "POINTS_AT_ONCE", at_once)
    result = fit(data, tmp_path / "run", "class", threads=3)

    assert result.model.theta_sha256 == expected.model.theta_sha256
    assert result.facts["path"] == expected.facts["path"]


@pytest.mark.parametrize("target", ["class", "real"])
def test_pauses_and_time_limits_end_at_the_same_bits(
    target: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "POINTS_AT_ONCE", 3)
    expected = fit(data, tmp_path / "straight", target, path=4)
    limited, starts = fit(data, tmp_path / "limited", target, path=4, max_time=1e-9), 1
    assert limited.stopped_by == "max_time"
    assert limited.facts["hint"] == "1 of 4 penalties of the path are solved; the same command goes on"
    assert limited.facts["l1"] == limited.facts["path"]["points"][0]["l1"]
    while limited.stopped_by == "max_time":
        limited, starts = fit(data, tmp_path / "limited", target, path=4, max_time=1e-9), starts + 1
    assert starts > 4
    for _ in range(100):
        try:
            paused = fit(data, tmp_path / "paused", target, path=4, pause_after=1e-9)
            break
        except PausedError:
            pass
    for result in (limited, paused):
        assert result.model.theta_sha256 == expected.model.theta_sha256
        assert result.facts["path"] == expected.facts["path"]
        assert result.facts["rows_seen"] == expected.facts["rows_seen"]


def test_a_finished_path_changes_nothing_and_does_not_go_on_with_other_data(data: Path, tmp_path: Path) -> None:
    copy, run = tmp_path / "copy.parquet", tmp_path / "run"
    table = pq.read_table(data / "train.parquet")
    pq.write_table(table, copy)
    options: dict[str, Any] = {
        "features": "a,b", "method": "batch", "path": 3, "validation": str(data / "holdout.parquet"), "run": str(run)
    }  # fmt: skip
    first = train(str(copy), "class", **options)
    assert train(str(copy), "class", **options).facts["already_finished"]
    more = train(str(copy), "class", **options, epochs=900)
    assert (more.model.theta_sha256, more.facts["path"]) == (first.model.theta_sha256, first.facts["path"])
    with pytest.raises(RunMismatchError, match="path was 3, now 4"):
        train(str(copy), "class", **options | {"path": 4})
    pq.write_table(table.slice(0, 1_000), copy)
    with pytest.raises(RunMismatchError, match="Start over with --restart"):
        train(str(copy), "class", **options, accept_data_change=True, epochs=2_000)


def test_the_table_is_told_by_show_json_and_csv(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = fit(data, run, "class")
    points = result.facts["path"]["points"]

    told = format_show(show(run))
    assert "path of penalties; * has the least holdout loss" in told
    assert f"{points[3]['holdout_loss']:.7g}" in told
    assert "errors mislead" in told
    table = CliRunner().invoke(main, ["show", str(run), "--csv", "--path"], catch_exceptions=False).output
    read = list(csv.DictReader(io.StringIO(table)))
    assert [float(each["lambda"]) for each in read] == [each["lambda"] for each in points]
    as_json = CliRunner().invoke(main, ["show", str(run), "--json"], catch_exceptions=False).output
    assert json.loads(as_json)["model"]["path"] == result.facts["path"]
    assert [each["lambda"] for each in result.history if each["event"] == "penalty"] == [
        each["lambda"] for each in points
    ]


def test_a_path_that_ends_too_early_says_so(data: Path, tmp_path: Path) -> None:
    hint = fit(data, tmp_path / "high", "class", path=2, path_to=0.9).facts["hint"]
    assert "a lower --path-to may do better" in hint
    hint = fit(data, tmp_path / "short", "class", epochs=1).facts["hint"]
    assert "not converged under" in hint


def test_nothing_that_is_held_out_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no row is held out to choose by"):
        fit(data, tmp_path / "run", "class", validation=[], holdout=1e-9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "minibatch"}, "--path is for --method batch: .* --method minibatch does not"),
        ({"method": "sgd"}, "--path is for --method batch"),
        ({"method": "auto"}, "--path is for --method batch"),
        ({"loss": "hinge"}, "hinge loss has none"),
        ({"validation": []}, "chooses by a holdout loss. Add --holdout"),
        ({"l1": 0.1}, "--l1 has no meaning with --path"),
        ({"patience": 3}, "--patience has no meaning with --path"),
        ({"init": "random"}, "--init has no meaning with --path"),
        ({"from_": "somewhere"}, "--from has no meaning with --path"),
        ({"learning_rate": 0.1}, "--learning-rate has no meaning with --path"),
        ({"optimizer": "plain"}, "--optimizer plain is not for --path"),
        ({"optimizer": "lbfgs"}, r"lbfgs knows no l1 \(--l1-ratio 1\)"),
        ({"errors": "robust"}, "there would be none: with --path .* choose a run without --path"),
        ({"path": 1}, "--path: .* greater than or equal to 2, found 1"),
        ({"path": None, "l1_ratio": 0.5}, "--l1-ratio is for --path N"),
        ({"path": None, "path_to": 0.5}, "--path-to is for --path N"),
    ],
    ids=str,
)
def test_what_contradicts_a_path_is_refused_in_one_line(
    options: dict[str, Any], told: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        fit(data, tmp_path / "run", "class", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
