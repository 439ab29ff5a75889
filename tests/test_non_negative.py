"""Coefficients that stay at zero or above: the optimum of scipy and scikit-learn within bounds, and who is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import ElasticNet, LinearRegression

from streamgd.errors import ConfigError
from streamgd.estimators import GDClassifier
from streamgd.model import Model
from streamgd.show import format_show, show
from streamgd.training import certificate
from streamgd.training.train import Result, train

ROWS = 4_000
NAMES = ["a", "b", "c", "d", "f"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Correlated numbers of different scales; the slopes of b and d are negative, level and target as they come."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, 5)) @ (np.eye(5) + 0.1 * rng.normal(size=(5, 5))) * 10.0 ** np.arange(5) + 3.0
    raw = (x - x.mean(axis=0)) / x.std(axis=0) @ [1.0, -0.8, 0.5, -0.4, 0.02]
    columns: dict[str, Any] = dict(zip(NAMES, x.T, strict=True))
    columns["level"] = np.array(["p", "q", "r"])[rng.integers(0, 3, ROWS)]
    columns["words"] = [["x", "y"][: n % 3] for n in range(ROWS)]
    columns["real"] = raw + rng.normal(size=ROWS)
    columns["class"] = (raw + rng.logistic(size=ROWS) > 0.0).astype(int)
    columns["count"] = rng.poisson(np.exp(0.5 * raw))
    columns["three"] = np.array(["u", "v", "w"])[np.clip(raw + 1.0, 0, 2).astype(int)]
    path = tmp_path_factory.mktemp("data") / "data.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1_500)
    return path


def fit(data: Path, run: Path, target: str, **options: Any) -> Result:
    defaults: dict[str, Any] = {"features": ",".join(NAMES), "method": "batch", "dtype": "float64", "l2": 0.0}
    return train(str(data), target, run=str(run), **{**defaults, **options})


def standardised(data: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    table = pq.read_table(data)
    x = np.stack([table[name].to_numpy() for name in NAMES], axis=1)
    return (x - x.mean(axis=0)) / x.std(axis=0), {name: table[name].to_numpy() for name in ("real", "class", "count")}


def theta_of(model: Model) -> np.ndarray:
    return np.array([each.standardised for each in model.coefficients()])


def optimum(
    X: np.ndarray, y: np.ndarray, loss: str, bounded: list[int], l1: float = 0.0, l2: float = 0.0
) -> np.ndarray:
    """By scipy's L-BFGS-B; every coefficient with l1 must be among the bounded ones, where it is a slope."""
    X = np.column_stack([X, np.ones(len(X))])
    slope = np.array([l1 * (j in bounded) for j in range(X.shape[1])])
    ridge = np.array([l2] * (X.shape[1] - 1) + [0.0])

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        raw = X @ theta
        if loss == "logistic":
            losses, residual = np.logaddexp(0.0, raw) - y * raw, expit(raw) - y
        elif loss == "poisson":
            losses, residual = np.exp(raw) - y * raw, np.exp(raw) - y
        else:
            losses, residual = 0.5 * (raw - y) ** 2, raw - y
        penalty = float(slope @ theta + 0.5 * ridge @ theta**2)
        return losses.mean() + penalty, X.T @ residual / len(y) + slope + ridge * theta

    bounds = [(0.0, None) if j in bounded else (None, None) for j in range(X.shape[1])]
    tight = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 10_000}
    return np.asarray(
        minimize(value, np.zeros(X.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B", options=tight).x
    )


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs", "backtracking", "plain"])
@pytest.mark.parametrize(("target", "loss"), [("real", "squared"), ("class", "logistic"), ("count", "poisson")])
def test_the_optimum_within_bounds_is_that_of_scipy(
    target: str, loss: str, optimizer: str, data: Path, tmp_path: Path
) -> None:
    X, targets = standardised(data)
    expected = optimum(X, targets[target], loss, [1, 2, 3], l2=0.01)
    tight: dict[str, Any] = {} if optimizer == "newton" else {"tol_gradient": 1e-9, "epochs": 3_000}
    result = fit(data, tmp_path / "run", target, loss=loss, optimizer=optimizer, non_negative="b,c,d", l2=0.01, **tight)
    found = theta_of(result.model)

    assert np.abs(found - expected).max() < 1e-6
    assert (found[[1, 3]] == 0.0).all()
    assert found[2] > 0.0
    assert result.facts["certificate"]["gradient"] < 1e-7
    assert result.facts["certificate"]["excess"] < 1e-12


def test_all_numbers_bounded_are_the_regression_of_scikit_learn(data: Path, tmp_path: Path) -> None:
    X, targets = standardised(data)
    oracle = LinearRegression(positive=True).fit(X, targets["real"])
    with_l1 = ElasticNet(alpha=0.05, l1_ratio=0.8, positive=True, tol=1e-14, max_iter=100_000).fit(X, targets["real"])
    found = fit(data, tmp_path / "run", "real", non_negative=NAMES)
    penalised = fit(data, tmp_path / "l1", "real", non_negative=NAMES, l1=0.04, l2=0.01)

    np.testing.assert_allclose(theta_of(found.model), [*oracle.coef_, oracle.intercept_], atol=1e-6)
    np.testing.assert_allclose(theta_of(penalised.model), [*with_l1.coef_, with_l1.intercept_], atol=1e-6)


def test_with_l1_unbounded_coefficients_may_be_below_zero(data: Path, tmp_path: Path) -> None:
    X, targets = standardised(data)
    # What is not bounded is the difference of two that are.
    parts = optimum(np.column_stack([X, -X[:, :3]]), targets["class"], "logistic", list(range(8)), l1=0.01)
    expected = [*(parts[:3] - parts[5:8]), *parts[3:5], parts[8]]
    result = fit(data, tmp_path / "run", "class", non_negative="d,f", l1=0.01)
    found = theta_of(result.model)

    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[1] < 0.0
    assert found[3] == 0.0


def test_where_no_bound_is_reached_the_result_is_that_without(data: Path, tmp_path: Path) -> None:
    free = fit(data, tmp_path / "free", "class")
    held = fit(data, tmp_path / "held", "class", non_negative="a,c")

    np.testing.assert_allclose(held.model.theta, free.model.theta, atol=1e-9)
    np.testing.assert_allclose(held.model.inference().standard_error, free.model.inference().standard_error, rtol=1e-6)


def test_errors_are_those_without_the_columns_at_their_bound(data: Path, tmp_path: Path) -> None:
    held = fit(data, tmp_path / "held", "count", loss="poisson", non_negative="b,c,d", errors="robust")
    left_out = fit(data, tmp_path / "out", "count", loss="poisson", features="a,c,f", errors="robust")
    for errors in ("classical", "robust"):
        rows = {each["name"]: each for each in held.model.coefficient_rows(errors)}  # type: ignore[arg-type]
        for each in left_out.model.coefficient_rows(errors):  # type: ignore[arg-type]
            assert rows[each["name"]]["standard_error"] == pytest.approx(each["standard_error"], rel=1e-6)
        assert rows["b"]["standard_error"] is None
        assert rows["b"]["reason"] == "at its bound, 0 (--non-negative)"
    told = format_show(show(tmp_path / "held"))
    assert "held at 0 or above: b, c, d; at the bound: b, d" in told
    assert "b, d: at its bound, 0 (--non-negative)" in told
    assert held.model.inference().fit.rank == 4
    assert show(tmp_path / "held")["at_bound"] == ["b", "d"]


@pytest.mark.parametrize("options", [{"init": "random"}, {"epochs": 1}, {"max_time": 1e-9, "init": "random"}], ids=str)
def test_the_bounds_hold_from_the_first_theta_on(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    result = fit(data, tmp_path / "run", "class", non_negative=NAMES, seed=3, **options)
    assert (theta_of(result.model)[:-1] >= 0.0).all()


def test_a_start_from_another_model_keeps_the_bounds(data: Path, tmp_path: Path) -> None:
    fit(data, tmp_path / "free", "class")
    at_once = fit(data, tmp_path / "from", "class", non_negative="b,d", from_=tmp_path / "free", max_time=1e-9)
    to_the_end = fit(data, tmp_path / "to the end", "class", non_negative="b,d", from_=tmp_path / "free")
    afresh = fit(data, tmp_path / "afresh", "class", non_negative="b,d")

    assert (theta_of(at_once.model)[[1, 3]] >= 0.0).all()
    np.testing.assert_allclose(to_the_end.model.theta, afresh.model.theta, atol=1e-9)


def test_a_column_bounds_all_numbers_made_of_it_and_its_null_indicator_by_its_own_name(
    data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"spline": "b=4", "clip": "d=-1000:1000", "features": "a,b,d"}
    model = fit(data, tmp_path / "run", "real", non_negative="b,d", **options).model
    by_feature = fit(data, tmp_path / "feature", "real", non_negative=model.encoding.columns.numeric[1].name, **options)

    assert len(model.encoding.columns.non_negative) == 5
    assert (theta_of(model)[1:6] >= 0.0).all()
    assert model.encoding.columns.non_negative_rows == (1, 2, 3, 4, 5)
    assert by_feature.model.encoding.columns.non_negative_rows == (1,)
    assert Model.load(tmp_path / "run").encoding.columns == model.encoding.columns


def test_beyond_the_columns_of_a_hessian_lbfgs_keeps_the_bounds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 3)
    result = fit(data, tmp_path / "run", "class", non_negative="b,d", tol_gradient=1e-8)

    assert result.facts["optimizer"] == "lbfgs"
    assert (theta_of(result.model)[[1, 3]] == 0.0).all()
    assert result.facts["certificate"]["gradient"] <= 1e-8


#: With the way from the best constant to the optimum that is closed at least: less without averages.
STOCHASTIC: list[tuple[dict[str, Any], float]] = [
    ({"method": "sgd"}, 0.97),
    ({"method": "sgd", "average": "off", "shuffle": "window"}, 0.8),
    ({"method": "minibatch"}, 0.99),
    ({"method": "minibatch", "optimizer": "adam", "shuffle": "window"}, 0.99),
    ({"method": "minibatch", "l1": 1e-3}, 0.97),
    ({"method": "minibatch", "l1": 1e-3, "optimizer": "ftrl"}, 0.97),
    ({"method": "minibatch", "optimizer": "momentum", "init": "random"}, 0.99),
]


@pytest.mark.parametrize(("options", "way"), STOCHASTIC, ids=str)
def test_mini_batches_and_single_rows_come_near_the_optimum_within_bounds(
    options: dict[str, Any], way: float, data: Path, tmp_path: Path
) -> None:
    best = fit(data, tmp_path / "best", "real", non_negative="b,c,d").facts
    result = fit(
        data, tmp_path / "run", "real", non_negative="b,c,d", epochs=10, batch_size=32, certify=True, **options
    )
    theta = theta_of(result.model)
    X, targets = standardised(data)
    train_loss = 0.5 * ((X @ theta[:-1] + theta[-1] - targets["real"]) ** 2).mean()

    assert (theta[[1, 2, 3]] >= 0.0).all()
    assert (best["base_loss"] - train_loss) / (best["base_loss"] - best["objective"]) > way
    assert result.facts["certificate"]["excess"] is not None


def test_auto_ends_at_the_bounded_optimum(data: Path, tmp_path: Path) -> None:
    exact = fit(data, tmp_path / "batch", "class", non_negative="b,d")
    result = fit(data, tmp_path / "auto", "class", non_negative="b,d", method="auto")

    assert result.facts["method"] == "auto"
    np.testing.assert_allclose(result.model.theta, exact.model.theta, atol=1e-7)
    assert (theta_of(result.model)[[1, 3]] == 0.0).all()


def test_a_stream_and_partial_fit_keep_the_bounds(data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data, columns=[*NAMES, "class"])
    batches = iter(table.to_batches(max_chunksize=500))
    stream = train(batches, "class", run=str(tmp_path / "run"), non_negative="b,d", batch_size=32)
    assert (theta_of(stream.model)[[1, 3]] >= 0.0).all()

    estimator = GDClassifier(non_negative=["b", "d"], batch_size=32)
    for start in (0, 2_000):
        estimator.partial_fit(table.slice(start, 2_000), target="class")
        found = dict(zip(estimator.coef_names_, estimator.coef_[0], strict=True))
        assert min(found["b"], found["d"]) >= 0.0
    whole = GDClassifier(non_negative=["b", "d"]).fit(table, target="class")
    assert (found["a"] > 0.0) == (dict(zip(whole.coef_names_, whole.coef_[0], strict=True))["a"] > 0.0)
    with pytest.raises(ConfigError, match=r"^non_negative: 'x' is no numeric feature"):
        GDClassifier(non_negative=["x"]).fit(table, target="class")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"non_negative": "level", "features": "a,level"}, "'level' has levels"),
        ({"non_negative": "b", "features": "a,b", "bins": "b=0,10"}, "'b' has levels"),
        ({"non_negative": "words", "features": "a,words"}, "'words' names other columns in each row"),
        ({"non_negative": "aa"}, "'aa' is no numeric feature. Did you mean 'a'?"),
        ({"non_negative": "class"}, "'class' is no numeric feature"),
        ({"non_negative": "a", "target": "three"}, "of several classes only differences"),
        ({"non_negative": "a", "optimizer": "normal", "loss": "squared"}, "normal knows no --non-negative"),
    ],
    ids=str,
)
def test_what_cannot_be_bounded_is_refused_in_one_line(
    options: dict[str, Any], told: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        fit(data, tmp_path / "run", **{"target": "class", **options})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
