"""One table: every loss by every method beside scikit-learn's and scipy's optimum of the same objective."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from mistakes import here, message
from scipy.optimize import minimize
from sklearn.linear_model import GammaRegressor, LogisticRegression, PoissonRegressor, Ridge, TweedieRegressor

from streamgd.errors import ConfigError, PausedError
from streamgd.evaluation import evaluate
from streamgd.exports.export import export
from streamgd.kinked_options import KINKED_LOSSES
from streamgd.model import Model
from streamgd.objective.losses import LOSSES, Loss, loss_of
from streamgd.prediction import predict
from streamgd.report.page import write_report
from streamgd.training.train import Result, train

L2 = 1e-3
NUMBERS = ["a", "b", "c"]
FEATURES = [*NUMBERS, "g"]
#: Target and settings of each loss.
LOSSES_UNDER_TEST: dict[str, tuple[str, dict[str, Any]]] = {
    "squared": ("real", {}),
    "logistic": ("two", {}),
    "poisson": ("count", {}),
    "gamma": ("amount", {}),
    "tweedie": ("cost", {"power": 1.7}),
    "huber": ("outliers", {"delta": 2.0}),
    "squared_hinge": ("two", {}),
    "quantile": ("outliers", {"quantile": 0.7}),
    "hinge": ("two", {}),
}
MARGINS = ("squared_hinge", "hinge")
WITH_CURVATURE = sorted(set(LOSSES_UNDER_TEST) - set(KINKED_LOSSES))


def make_rows(n: int, seed: int) -> dict[str, Any]:
    """Columns of all kinds of targets that depend on badly scaled numbers and a level."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    X[:, 1] += 0.8 * X[:, 0]
    g = rng.integers(0, 4, n)
    linear = X @ [0.4, -0.3, 0.2] + np.array([0.0, 0.4, -0.3, 0.2])[g]
    mean, events = np.exp(linear - 0.3), rng.poisson(np.exp(linear - 0.3))
    return {
        "a": 1e3 + 30.0 * X[:, 0], "b": X[:, 1], "c": 1e-3 * X[:, 2], "g": np.array(["u", "v", "w", "x"])[g],
        "copies": rng.integers(0, 4, n),
        "real": 50.0 + 7.0 * (linear + rng.normal(size=n)), "two": (linear + rng.logistic(size=n) > 0).astype(int),
        "count": events, "amount": 100.0 * rng.gamma(2.0, mean),
        "cost": rng.gamma(2.0 * np.maximum(events, 1)) * (events > 0),
        "outliers": 50.0 + 3.0 * (linear + rng.standard_t(2.0, n))
    }  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("losses") / "small.parquet"
    pq.write_table(pa.table(make_rows(5_000, 1)), path, row_group_size=1_300)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("losses") / "large.parquet"
    pq.write_table(pa.table(make_rows(100_000, 2)), path, row_group_size=20_000)
    return path


def run(data: Path, loss: str, folder: Path, **options: Any) -> Result:
    target, settings = LOSSES_UNDER_TEST[loss]
    options = {"l2": L2, "dtype": "float64", **settings, **options}
    return train(str(data), target, run=str(folder), loss=loss, features=FEATURES, **options)


def design(data: Path, model: Model) -> np.ndarray:
    """Standardised numbers, levels but the base level, and a column of ones."""
    table = pq.read_table(data)
    numbers = [table[name].to_numpy() for name in NUMBERS]
    columns = [(x - x.mean()) / x.std() for x in numbers]
    levels = [c.level for c in model.coefficients() if c.level is not None]
    columns += [(table["g"].to_numpy(zero_copy_only=False) == level).astype(float) for level in levels]
    return np.stack([*columns, np.ones(len(table))], axis=1)


def by_scipy(loss: Loss, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    penalty = np.append(np.full(X.shape[1] - 1, L2), 0.0)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        raw = X @ theta
        value = loss.loss(y, raw).mean() + 0.5 * (penalty * theta) @ theta
        return value, X.T @ loss.gradient(y, raw) / len(y) + penalty * theta

    start = np.append(np.zeros(X.shape[1] - 1), np.median(y) if not loss.is_classifier else 0.0)
    found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 500})
    return np.asarray(found.x)


def optimum(loss: str, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Theta of the objective's minimum: by scikit-learn where it has the loss with this penalty, else by scipy."""
    n, exact = len(y), {"alpha": L2, "solver": "newton-cholesky", "tol": 1e-12, "max_iter": 100}
    fitted: dict[str, Callable[[], Any]] = {
        "squared": lambda: Ridge(alpha=n * L2, solver="cholesky"),
        "logistic": lambda: LogisticRegression(C=1.0 / (n * L2), solver="newton-cholesky", tol=1e-12),
        "poisson": lambda: PoissonRegressor(**exact),
        "gamma": lambda: GammaRegressor(**exact),
        "tweedie": lambda: TweedieRegressor(power=1.7, link="log", **exact),
    }
    if loss not in fitted:
        return by_scipy(loss_of(loss, list(LOSSES_UNDER_TEST[loss][1].values())), X, y)
    oracle = fitted[loss]().fit(X[:, :-1], y)
    return np.append(np.ravel(oracle.coef_), oracle.intercept_)


def target_of(data: Path, loss: str) -> np.ndarray:
    return pq.read_table(data)[LOSSES_UNDER_TEST[loss][0]].to_numpy().astype(float)


def test_the_table_has_every_loss() -> None:
    assert set(LOSSES_UNDER_TEST) == set(LOSSES) - {"multinomial"}  # see test_multinomial.py


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs", "backtracking"])
@pytest.mark.parametrize("loss", WITH_CURVATURE)
def test_full_batch_ends_at_the_optimum(loss: str, optimizer: str, small: Path, tmp_path: Path) -> None:
    exact = {"tol_gradient": 1e-9, "epochs": 2000} if optimizer != "newton" else {}
    result = run(small, loss, tmp_path / "run", method="batch", optimizer=optimizer, **exact)
    expected = optimum(loss, design(small, result.model), target_of(small, loss))
    found = np.array([each.standardised for each in result.model.coefficients()])

    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert result.facts["certificate"]["excess"] <= 1e-12 * result.facts["base_loss"]


@pytest.mark.parametrize("loss", WITH_CURVATURE)
def test_plain_gradient_descent_never_overshoots(loss: str, small: Path, tmp_path: Path) -> None:
    """Its step is safe, also where curvature has no bound."""
    result = run(small, loss, tmp_path / "run", method="batch", optimizer="plain", epochs=25)
    values = [line["objective"] for line in result.history if line["event"] == "pass"]

    assert all(later <= earlier for earlier, later in pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "minibatch"])
@pytest.mark.parametrize("loss", LOSSES_UNDER_TEST)
def test_epochs_close_the_way_to_the_optimum(loss: str, method: str, large: Path, tmp_path: Path) -> None:
    exact = run(large, loss, tmp_path / "exact", method="batch", dtype="float32")
    base, best = exact.facts["base_loss"], exact.facts["objective"]
    for epochs, share in ((1, 0.97), (5, 0.995)):
        found = run(large, loss, tmp_path / f"{epochs}", method=method, epochs=epochs, dtype="float32")
        assert (base - found.facts["objective"]) / (base - best) >= share


@pytest.mark.parametrize("loss", LOSSES_UNDER_TEST)
def test_a_weight_counts_as_the_row_repeated(loss: str, small: Path, tmp_path: Path) -> None:
    table = pq.read_table(small)
    copies = table["copies"].to_numpy()
    repeated = tmp_path / "repeated.parquet"
    pq.write_table(table.take(np.repeat(np.arange(len(table)), copies)), repeated)
    weighted = run(small, loss, tmp_path / "weighted", method="batch", weight="copies")
    plain = run(repeated, loss, tmp_path / "plain", method="batch")
    found, expected = ({c.name: c.value for c in each.model.coefficients()} for each in (weighted, plain))

    scale = max(map(abs, expected.values()))
    assert {name: found[name] / scale for name in expected} == pytest.approx(
        {name: value / scale for name, value in expected.items()}, abs=1e-10
    )


@pytest.mark.parametrize("options", [{"method": "batch"}, {"method": "minibatch", "epochs": 4}], ids=str)
@pytest.mark.parametrize("loss", ["poisson", "huber"])
def test_a_run_in_pieces_ends_in_the_same_bits(loss: str, options: dict[str, Any], small: Path, tmp_path: Path) -> None:
    options = {**options, "delta": "auto"} if loss == "huber" else options
    whole = run(small, loss, tmp_path / "whole", **options)
    result, pieces = None, 0
    while result is None:
        try:
            result = run(small, loss, tmp_path / "pieces", pause_after=1e-6, checkpoint_every=1e-6, **options)
        except PausedError:
            pieces += 1

    assert pieces >= 2
    assert result.model.theta_sha256 == whole.model.theta_sha256
    assert result.model.loss_settings == whole.model.loss_settings


def test_delta_is_found_from_the_spread_of_the_target_and_kept_by_the_model(small: Path, tmp_path: Path) -> None:
    result = run(small, "huber", tmp_path / "run", delta="auto", epochs=1, method="minibatch")
    values = target_of(small, "huber")
    spread = 1.482602218505602 * np.median(np.abs(values - np.median(values)))

    assert Model.load(tmp_path / "run").loss_settings == pytest.approx((1.345 * spread,), rel=1e-12)
    assert result.model.loss.loss(np.zeros(1), np.full(1, 1e9))[0] == pytest.approx(1.345 * spread * 1e9, rel=1e-3)


def test_tweedie_at_its_ends_is_poisson_and_gamma(small: Path, tmp_path: Path) -> None:
    for power, loss, target in ((1.0, "poisson", "count"), (2.0, "gamma", "amount")):
        options: dict[str, Any] = {"features": FEATURES, "method": "batch"}
        ends = train(str(small), target, run=str(tmp_path / f"{power}"), loss="tweedie", power=power, **options)
        own = train(str(small), target, run=str(tmp_path / loss), loss=loss, **options)
        assert ends.model.theta_sha256 == own.model.theta_sha256
        assert ends.model.loss_name == loss


FAMILIES = {
    "poisson": sm.families.Poisson(),
    "gamma": sm.families.Gamma(sm.families.links.Log()),
    "tweedie": sm.families.Tweedie(sm.families.links.Log(), var_power=1.7),
}


@pytest.mark.parametrize("errors", ["classical", "robust"])
@pytest.mark.parametrize("loss", FAMILIES)
def test_errors_and_dispersion_are_those_of_statsmodels(loss: str, errors: str, small: Path, tmp_path: Path) -> None:
    result = run(small, loss, tmp_path / "run", method="batch", errors=errors, l2=0.0)
    found, table = result.model.inference(errors), pq.read_table(small)  # type: ignore[arg-type]
    levels = [c.level for c in result.model.coefficients() if c.level is not None]
    columns = [table[name].to_numpy() for name in NUMBERS]
    columns += [(table["g"].to_numpy(zero_copy_only=False) == level).astype(float) for level in levels]
    X = np.stack([*columns, np.ones(len(table))], axis=1)
    glm = sm.GLM(target_of(small, loss), X, family=FAMILIES[loss])
    expected = glm.fit(tol=1e-13, maxiter=100, cov_type="HC0" if errors == "robust" else "nonrobust")

    np.testing.assert_allclose(found.estimate, expected.params, rtol=1e-6)
    np.testing.assert_allclose(found.standard_error, expected.bse, rtol=1e-6)
    assert found.fit.deviance == pytest.approx(expected.deviance, rel=1e-8)
    assert found.fit.null_deviance == pytest.approx(expected.null_deviance, rel=1e-8)
    assert found.fit.pearson == pytest.approx(expected.pearson_chi2, rel=1e-6)
    assert found.fit.dispersion == pytest.approx(expected.scale, rel=1e-6)


def test_robust_errors_of_the_huber_loss_are_the_sandwich(small: Path, tmp_path: Path) -> None:
    result = run(small, "huber", tmp_path / "run", method="batch", errors="robust", l2=0.0)
    X, y = design(small, result.model), target_of(small, "huber")
    raw = X @ result.model.theta[:, 0]
    inverse = np.linalg.inv(X.T @ (X * result.model.loss.curvature(y, raw)[:, None]))
    sandwich = inverse @ (X.T @ (X * result.model.loss.gradient(y, raw)[:, None] ** 2)) @ inverse
    found = result.model.inference("robust").standard_error[:3] * [
        pq.read_table(small)[n].to_numpy().std() for n in NUMBERS
    ]

    np.testing.assert_allclose(found, np.sqrt(np.diag(sandwich))[:3], rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ("--loss poisson", 65, ("row group 2, row 7", "'y'", "found -1.0", "expected a number >= 0", "--where")),
        ("--loss tweedie", 65, ("row group 2, row 7", "found -1.0", "expected a number >= 0")),
        ("--loss gamma --where y>=0", 65, ("row group 0, row 0", "found 0.0", "expected a number > 0")),
        ("--loss poisson --where y==0", 65, ("'y' is 0 in all 8 rows", "poisson")),
        ("--loss poisson --where y>=0 --target z", 65, ("'z'", "its largest value is 1e+200", "up to 1e+100")),
        ("--loss squared_hinge", 65, ("'y'", "squared hinge loss needs two")),
        ("--loss tweedie --power 3", 78, ("--power", "less than or equal to 2", "3")),
        ("--loss tweedie --power 1.99999999999", 78, ("--power 1.99999999999", "Choose 2 itself")),
        ("--loss hinge", 65, ("'y'", "hinge loss needs two")),
        ("--loss quantile --quantile 1", 78, ("--quantile", "less than 1")),
        ("--loss squared --quantile 0.9", 78, ("--quantile is for --loss quantile", "squared")),
        ("--loss quantile --certify", 78, ("--certify", "curvature", "quantile")),
        ("--loss hinge --method batch --optimizer lbfgs", 78, ("--optimizer lbfgs", "gradient", "--optimizer band")),
        ("--loss poisson --method batch --optimizer band", 78, ("--optimizer band", "quantile, hinge")),
        ("--loss quantile --method batch --tol-gradient 1e-6", 78, ("--tol-gradient", "--tol-excess")),
        ("--loss hinge --method batch --non-negative x", 78, ("--non-negative", "curvature", "hinge")),
        ("--loss quantile --method batch --path 5 --holdout 0.1", 78, ("--path", "gradient at the best", "quantile")),
        ("--loss quantile --method batch --learning-rate 0.1", 78, ("--learning-rate", "gradient", "quantile")),
        ("--loss hinge --errors robust --method batch", 78, ("--errors robust", "no likelihood")),
        ("--loss hinge --errors robust --method minibatch", 78, ("--errors robust", "no likelihood. Leave it out.")),
        ("--loss huber --delta 0", 78, ("--delta", "positive number")),
        ("--loss poisson --delta 2", 78, ("--delta is for --loss huber", "poisson")),
        ("--loss huber --positive 1", 78, ("--positive", "huber")),
        ("--loss huber --class-weight balanced", 78, ("--class-weight", "huber")),
        ("--loss gamma --optimizer normal --method batch", 78, ("normal", "squared loss")),
        ("--loss squared_hinge --errors robust --method batch", 78, ("--errors robust", "no likelihood")),
    ],
)
def test_what_a_loss_cannot_have_ends_in_one_line(
    options: str, code: int, told: tuple[str, ...], tmp_path: Path
) -> None:
    y = np.arange(40.0) % 5
    y[27] = -1.0
    table = pa.table({"x": np.arange(40.0) % 7, "y": y, "z": np.where(y == 2.0, 1e200, 1.0)})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=10)
    where = (str(tmp_path / "data.parquet"), "--target", "y", "--run", str(tmp_path / "run"))
    message(here("train", *where, *options.split(), "--quiet", "--json"), code, *told)


@pytest.mark.parametrize("loss", LOSSES_UNDER_TEST)
def test_predictions_metrics_exports_and_reports_know_the_loss(loss: str, small: Path, tmp_path: Path) -> None:
    result = run(small, loss, tmp_path / "run", method="minibatch", epochs=1)
    table = pq.read_table(small)
    expected = Model.load(tmp_path / "run").predict_batch(table.combine_chunks().to_batches()[0])
    predict(result.model, str(small), str(tmp_path / "out"))
    written = pq.read_table(tmp_path / "out")
    number = "raw_prediction" if loss in MARGINS else "probability" if loss == "logistic" else "prediction"

    np.testing.assert_allclose(written[number].to_numpy(), expected, rtol=1e-12)
    assert evaluate(result.model, str(small)).metrics["loss"] == pytest.approx(result.facts["train_loss"], rel=1e-9)
    write_report(tmp_path / "run", data=[str(small)])
    assert loss.replace("_", " ") in (tmp_path / "run" / "report.html").read_text()

    export(result.model, "sklearn", tmp_path / "model.joblib")
    pipeline, frame = joblib.load(tmp_path / "model.joblib"), table.to_pandas()
    if loss == "logistic":
        found = pipeline.predict_proba(frame)[:, 1]
    else:
        found = pipeline.decision_function(frame) if loss in MARGINS else pipeline.predict(frame)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    export(result.model, "onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    inputs = {name: table[name].to_numpy(zero_copy_only=False) for name in FEATURES}
    np.testing.assert_allclose(session.run(None, inputs)[0], expected, rtol=1e-9)


def test_a_run_does_not_start_from_a_model_of_another_loss(small: Path, tmp_path: Path) -> None:
    run(small, "poisson", tmp_path / "run", method="minibatch", epochs=1)
    with pytest.raises(ConfigError, match="its loss is poisson, that of this run is tweedie"):
        run(small, "tweedie", tmp_path / "other", from_=str(tmp_path / "run"))


def test_counts_that_begin_with_zeros_are_streamed(tmp_path: Path) -> None:
    """The first look shows nothing to count; an exposure takes the constant from rows that may have none either."""
    rng, n = np.random.default_rng(6), 30_000
    x, part = rng.normal(size=n), rng.uniform(0.5, 1.5, n)
    y = np.where(np.arange(n) < 25_000, 0, rng.poisson(np.exp(0.3 * x) * part, n))
    pq.write_table(pa.table({"x": x, "part": part, "y": y}), tmp_path / "data.parquet", row_group_size=1_000)
    for exposure in (None, "part"):
        result = train(
            str(tmp_path / "data.parquet"), "y", run=str(tmp_path / str(exposure)), loss="poisson", features=["x"],
            shuffle="window", method="minibatch", epochs=2, exposure=exposure,
        )  # fmt: skip
        assert np.isfinite(result.model.theta).all()


def test_newton_comes_back_from_a_start_far_away(small: Path, tmp_path: Path) -> None:
    """At zero, large counts have a gradient of thousands and a curvature of one: whole steps overshoot by e^1000."""
    table = pq.read_table(small)
    large = np.round(np.exp(3.0 + 2.5 * np.random.default_rng(5).normal(size=len(table)) + table["b"].to_numpy() * 2.0))
    pq.write_table(table.append_column("large", pa.array(large)), tmp_path / "data.parquet")
    options: dict[str, Any] = {"features": FEATURES, "method": "batch", "dtype": "float64", "l2": L2}
    for loss in ("poisson", "tweedie"):
        near = train(str(tmp_path / "data.parquet"), "large", run=str(tmp_path / f"{loss}1"), loss=loss, **options)
        far = train(
            str(tmp_path / "data.parquet"), "large", run=str(tmp_path / f"{loss}2"), loss=loss, init="zeros", **options
        )
        assert far.stopped_by == near.stopped_by == "tol_excess"
        assert np.abs(far.model.theta - near.model.theta).max() <= 1e-7 * np.abs(near.model.theta).max()


def test_a_level_whose_rows_are_all_far_from_the_rest_has_its_coefficient(tmp_path: Path) -> None:
    """Where rows have no second derivative, Newton's steps take another curvature."""
    rng = np.random.default_rng(3)
    x, rare = rng.normal(size=4_000), rng.random(4_000) < 0.01
    y = 0.5 * x + 0.1 * rng.normal(size=4_000) + 10.0 * rare
    rows = pa.table({"x": x, "b": np.where(rare, "yes", "no"), "y": y})
    pq.write_table(rows, tmp_path / "data.parquet")
    found = {}
    for optimizer in ("newton", "lbfgs"):
        options = {"loss": "huber", "method": "batch", "optimizer": optimizer, "l2": 0.0}
        result = train(str(tmp_path / "data.parquet"), "y", run=str(tmp_path / optimizer), **options)
        found[optimizer] = result.facts["objective"]
        (level,) = [each for each in result.model.coefficients() if each.name == "b=yes"]
        assert level.value == pytest.approx(10.0, abs=0.2)
        assert not result.facts["warnings"]
    assert found["newton"] == pytest.approx(found["lbfgs"], rel=1e-9)
