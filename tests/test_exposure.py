"""--exposure: rates of claims on freMTPL2 beside scikit-learn and statsmodels, and what an exposure cannot be."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from mistakes import here, message
from sklearn.linear_model import PoissonRegressor

from streamgd.errors import ConfigError
from streamgd.evaluation import evaluate
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.prediction import predict
from streamgd.relativities import NAMES, relativities
from streamgd.training.reexpressed import ReexpressedPass
from streamgd.training.train import Result, train

NUMBERS, LABELS = ["VehAge", "DrivAge", "BonusMalus"], ["VehGas", "Area"]
CLAIMS = 36_102


@pytest.fixture(scope="module")
def claims(shared_data: Path) -> Path:
    path = shared_data / "freMTPL2" / "freq.parquet"
    if not path.exists():
        pytest.skip("freMTPL2 is not beside the checkout")
    return path


@pytest.fixture(scope="module")
def trained(claims: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(
        str(claims), "ClaimNb", run=str(tmp_path_factory.mktemp("claims") / "run"), loss="poisson",
        exposure="Exposure", features=[*NUMBERS, *LABELS], method="batch", dtype="float64", l2=0.0, errors="robust",
    )  # fmt: skip


def design(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Numbers as they are, levels but the base level, a column of ones; named and ordered as the coefficients."""
    columns: dict[str, Any] = {}
    for each in model.coefficients():
        if each.level is not None:
            columns[each.name] = (table[each.column] == each.level).astype(float)
        else:
            columns[each.name] = table[each.column] if each.column in NUMBERS else np.ones(len(table))
    return pd.DataFrame(columns)


def test_rates_of_claims_are_those_of_scikit_learn(trained: Result, claims: Path) -> None:
    table = pq.read_table(claims).to_pandas()
    X = design(table, trained.model).iloc[:, :-1]
    mean, deviation = X.mean(), X.std()
    oracle = PoissonRegressor(alpha=0.0, solver="newton-cholesky", tol=1e-12, max_iter=50)
    oracle.fit((X - mean) / deviation, table["ClaimNb"] / table["Exposure"], sample_weight=table["Exposure"])
    expected = oracle.coef_ / deviation.to_numpy()
    found = np.array([each.value for each in trained.model.coefficients()])

    assert np.abs(found[:-1] - expected).max() <= 1e-6 * np.abs(expected).max()
    assert found[-1] == pytest.approx(oracle.intercept_ - (expected * mean).sum(), rel=1e-6)


@pytest.mark.slow
def test_rates_of_claims_are_those_of_statsmodels(trained: Result, claims: Path) -> None:
    table = pq.read_table(claims).to_pandas()
    glm = sm.GLM(
        table["ClaimNb"], design(table, trained.model), sm.families.Poisson(), offset=np.log(table["Exposure"])
    )
    for errors in ("classical", "robust"):
        expected = glm.fit(tol=1e-12, cov_type="HC0" if errors == "robust" else "nonrobust")
        found = trained.model.inference(errors)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.estimate, expected.params, rtol=1e-6)
        np.testing.assert_allclose(found.standard_error, expected.bse, rtol=1e-6)
        assert found.fit.deviance == pytest.approx(expected.deviance, rel=1e-9)
        assert found.fit.null_deviance == pytest.approx(expected.null_deviance, rel=1e-9)
        assert found.fit.pearson == pytest.approx(expected.pearson_chi2, rel=1e-6)
        factors = {row["name"]: row for row in relativities(trained.model, errors)}  # type: ignore[arg-type]
        names = [each.name for each in trained.model.coefficients()[:-1]]
        np.testing.assert_allclose(
            [factors[name]["relativity"] for name in names], np.exp(expected.params)[:-1], rtol=1e-6
        )
        bounds = np.exp(np.asarray(expected.conf_int()))[:-1]
        np.testing.assert_allclose([[factors[n]["lower"], factors[n]["upper"]] for n in names], bounds, rtol=1e-6)


def test_relativities_have_exposure_and_claims_of_each_level_beside(trained: Result, claims: Path) -> None:
    table = pq.read_table(claims, columns=["Area", "VehGas", "Exposure", "ClaimNb"]).to_pandas()
    rows = relativities(trained.model)
    base = trained.model.base_levels()
    for column in LABELS:
        by_level = table.groupby(column)[["Exposure", "ClaimNb"]].sum()
        told = {row["level"]: row for row in rows if row["column"] == column}
        assert set(told) == set(by_level.index)
        assert [level for level, row in told.items() if row["is_base"]] == [base[column]]
        assert told[base[column]]["relativity"] == 1.0  # type: ignore[index]
        for level, row in told.items():
            assert row["exposure"] == pytest.approx(by_level.loc[level, "Exposure"], rel=1e-9)
            assert row["actual"] == pytest.approx(by_level.loc[level, "ClaimNb"], rel=1e-9)


def test_show_tells_relativities_also_as_csv(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    table = pq.read_table(data)
    table = table.append_column("g", pa.array(np.array(["u", "v", "w"])[rng.integers(0, 3, len(table))]))
    pq.write_table(table, tmp_path / "data.parquet")
    result = run(tmp_path / "data.parquet", tmp_path / "run", exposure="part", features=["x", "g"])
    expected = relativities(result.model)
    text, as_csv = here("show", tmp_path / "run"), here("show", tmp_path / "run", "--csv", "--relativities")
    told = list(csv.DictReader(io.StringIO(as_csv.out)))

    assert "relativities: factors of the prediction" in text.out
    assert [row["name"] for row in told] == [row["name"] for row in expected]
    assert [row["level"] for row in told] == ["", *(str(row["level"]) for row in expected[1:])]
    assert float(told[2]["relativity"]) == expected[2]["relativity"]
    assert json.loads(here("show", tmp_path / "run", "--json").out)["relativities"] == expected
    assert here("show", tmp_path / "run", "--relativities").exit_code == 2


def test_relativities_beside_an_offset_have_no_exposure(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    table = pq.read_table(data)
    table = table.append_column("g", pa.array(np.array(["u", "v", "w"])[rng.integers(0, 3, len(table))]))
    pq.write_table(table, tmp_path / "data.parquet")
    result = run(tmp_path / "data.parquet", tmp_path / "run", exposure="part", offset="known", features=["g"])
    rows = relativities(result.model)
    claims = table.to_pandas().groupby("g")["y"].sum()

    assert [row["exposure"] for row in rows] == [None] * 3
    assert {row["level"]: row["actual"] for row in rows} == pytest.approx(claims.to_dict(), rel=1e-9)
    assert "relativities: factors of the prediction" in here("show", tmp_path / "run").out


def test_relativities_without_a_closing_pass_are_factors_alone(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", exposure="part", method="minibatch", epochs=1)
    (row,) = relativities(result.model)

    assert row["relativity"] == pytest.approx(np.exp(result.model.coefficients()[0].value), rel=1e-12)
    assert (row["lower"], row["exposure"]) == (None, None)
    other = run(data, tmp_path / "other", loss="squared", method="minibatch", epochs=1)
    with pytest.raises(ConfigError, match="poisson, gamma and tweedie"):
        relativities(other.model)


def test_relativities_are_of_what_has_a_unit(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"features": "x,known,part", "method": "minibatch", "epochs": 1}
    made: dict[str, Any] = {"spline": "x=3", "log": "part", "bins": "known=0"}

    rows = relativities(run(data, tmp_path / "run", **options, **made).model)

    assert [(row["name"], row["column"]) for row in rows[:1]] == [("log(part)", "part")]
    assert [row["column"] for row in rows[1:]] == ["known", "known"]
    run(data, tmp_path / "curve", **options | {"features": "x"}, spline="x=3")
    assert here("show", tmp_path / "curve", "--csv", "--relativities").out == ",".join(NAMES) + "\n"


def test_the_predicted_claims_add_up_to_those_of_the_data(trained: Result, claims: Path, tmp_path: Path) -> None:
    predict(trained.model, str(claims), str(tmp_path / "out"), keep=["Exposure"])
    written = pq.read_table(tmp_path / "out")
    count, exposure = written["count"].to_numpy(), written["Exposure"].to_numpy()

    assert written.column_names == ["Exposure", "rate", "count"]
    assert count.sum() == pytest.approx(CLAIMS, rel=1e-9)
    np.testing.assert_allclose(written["rate"].to_numpy() * exposure, count, rtol=1e-14)


# Small data


def make_rows(n: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x, exposure = rng.normal(size=n), rng.uniform(0.1, 2.0, n)
    return {
        "x": x, "part": exposure, "known": 0.1 * rng.normal(size=n), "y": rng.poisson(exposure * np.exp(0.5 * x - 0.7)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exposure") / "data.parquet"
    pq.write_table(pa.table(make_rows(4_000)), path, row_group_size=1_000)
    return path


def run(data: Path, folder: Path, **options: Any) -> Result:
    options = {"loss": "poisson", "features": ["x"], "dtype": "float64", "method": "batch", **options}
    return train(str(data), "y", run=str(folder), **options)


@pytest.mark.parametrize("loss", ["poisson", "tweedie"])
def test_an_exposure_is_an_offset_of_its_logarithm_and_adds_to_one(loss: str, data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data)
    by_hand = np.log(table["part"].to_numpy()) + table["known"].to_numpy()
    pq.write_table(table.append_column("both", pa.array(by_hand)), tmp_path / "data.parquet")
    expected = run(tmp_path / "data.parquet", tmp_path / "by_hand", loss=loss, offset="both")
    found = run(data, tmp_path / "run", loss=loss, exposure="part", offset="known")

    np.testing.assert_allclose(found.model.theta, expected.model.theta, rtol=1e-12)
    assert found.facts["base_loss"] == pytest.approx(expected.facts["base_loss"], rel=1e-12)


@pytest.mark.parametrize("method", ["batch", "auto"])
def test_the_unit_of_the_exposure_changes_nothing_but_the_intercept(method: str, data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data)
    pq.write_table(table.append_column("far", pa.array(table["part"].to_numpy() * 1e25)), tmp_path / "data.parquet")
    expected, found = (
        run(tmp_path / "data.parquet", tmp_path / name, loss="tweedie", exposure=name, method=method)
        for name in ("part", "far")
    )
    assert found.facts["base_loss"] == pytest.approx(expected.facts["base_loss"], rel=1e-9)
    assert found.model.coefficients()[0].value == pytest.approx(expected.model.coefficients()[0].value, rel=1e-6)


@pytest.mark.parametrize("options", [{"method": "auto"}, {"method": "minibatch"}, {"method": "sgd"}], ids=str)
def test_every_method_takes_the_exposure(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    best = run(data, tmp_path / "best", exposure="part")
    found = run(data, tmp_path / "run", exposure="part", holdout=0.1, **options)
    without = run(data, tmp_path / "without")
    way = best.facts["base_loss"] - best.facts["objective"]

    assert found.facts["objective"] == pytest.approx(best.facts["objective"], abs=0.3 * way)
    assert found.facts["holdout_loss"] < without.facts["train_loss"]


def test_exports_take_the_exposure_as_a_column(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", exposure="part")
    table = pq.read_table(data)
    expected = result.model.predict_batch(table.combine_chunks().to_batches()[0])

    joblib = pytest.importorskip("joblib")
    export(result.model, "sklearn", str(tmp_path / "model.joblib"))
    np.testing.assert_allclose(joblib.load(tmp_path / "model.joblib").predict(table.to_pandas()), expected, rtol=1e-12)
    onnxruntime = pytest.importorskip("onnxruntime")
    export(result.model, "onnx", str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run(None, {name: table[name].to_numpy() for name in ("x", "part")})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert result.model.to_json()["exposure"] == "part"


@pytest.mark.parametrize("loss", ["poisson", "tweedie"])
def test_one_pass_closes_the_run_and_none_once_max_time_is_over(
    loss: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[bool] = []
    call = ReexpressedPass.__call__

    def counted(blocks: ReexpressedPass, *arguments: Any, **options: Any) -> Any:
        passes.append(True)
        return call(blocks, *arguments, **options)

    monkeypatch.setattr(ReexpressedPass, "__call__", counted)
    cut = run(data, tmp_path / "run", loss=loss, exposure="part", max_time=1e-9)
    assert cut.stopped_by == "max_time"
    assert len(passes) == 1 + cut.facts["epochs"]  # the best constant is one
    assert "--max-time was over" in str(cut.model.no_errors)
    passes.clear()
    whole = run(data, tmp_path / "whole", loss=loss, exposure="part")
    assert len(passes) == 1 + whole.facts["epochs"] + 1
    closing = whole.model.closing
    assert closing is not None
    assert (closing.expected is None) == (loss == "poisson")


def test_a_null_exposure_has_no_prediction(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", exposure="part")
    batch = pa.record_batch({"x": [0.0, 0.0], "part": [None, 1.0]})

    assert np.isnan(result.model.predict_batch(batch)).tolist() == [True, False]


def test_evaluation_is_of_counts(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", exposure="part", l2=0.0)
    found, table = evaluate(result.model, str(data)), pq.read_table(data)

    assert found.metrics["loss"] == pytest.approx(result.facts["train_loss"], rel=1e-12)
    assert found.metrics["mean_prediction"] == pytest.approx(table["y"].to_numpy().mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("value", "options", "code", "told"),
    [
        (0.0, "--loss poisson", 65, ("row group 2, row 7", "'part'", "found 0.0", "expected a finite number > 0")),
        (-1.0, "--loss gamma", 65, ("row group 2, row 7", "found -1.0")),
        (None, "--loss poisson", 65, ("row group 2, row 7", "found None")),
        (1.0, "--loss squared", 78, ("--exposure", "squared", "--loss poisson|gamma|tweedie")),
        (1.0, "", 78, ("--exposure", "auto", "--loss poisson|gamma|tweedie")),
    ],
)
def test_what_an_exposure_cannot_be(
    value: float | None, options: str, code: int, told: tuple[str, ...], tmp_path: Path
) -> None:
    part = [1.0] * 40
    part[27] = value  # type: ignore[call-overload]
    table = pa.table({"x": np.arange(40.0) % 7, "y": 1.0 + np.arange(40.0) % 5, "part": pa.array(part, pa.float64())})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=10)
    where = (str(tmp_path / "data.parquet"), "--target", "y", "--run", str(tmp_path / "run"), "--exposure", "part")

    message(here("train", *where, *options.split(), "--quiet", "--json"), code, *told)
