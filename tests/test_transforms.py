"""Transforms in training, prediction and exports: the same as columns that were computed beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.preprocessing import SplineTransformer

from streamgd.config import differing_options, make_config
from streamgd.errors import ConfigError, DataError
from streamgd.estimators import GDRegressor
from streamgd.evaluation import evaluate
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.prediction import predict
from streamgd.training.train import Result, train

ROWS = 2_000
TRANSFORMS: dict[str, Any] = {
    "log": "density", "clip": "malus=50:150,density=2:,years=:30", "bins": "age=18,25,40", "spline": "years=5"
}  # fmt: skip


def table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Numbers with nulls and NaN, labels, and a target that depends on all."""
    random = np.random.default_rng(seed)
    density, malus, age = random.lognormal(5.0, 2.0, rows), random.normal(90.0, 40.0, rows), random.normal(35, 15, rows)
    city = np.array(["Rome", "Oslo", "Bern"])[random.integers(0, 3, rows)]
    years = random.gamma(2.0, 5.0, rows)
    y = np.log(density) + 0.02 * malus + np.abs(age - 40.0) / 20.0 + np.sin(years / 5.0) + (city == "Oslo")
    y += random.normal(size=rows)
    return pa.table({
        "density": pa.array(density, mask=random.random(rows) < 0.1),
        "malus": np.where(random.random(rows) < 0.1, np.nan, malus),
        "age": pa.array(age.round(), mask=random.random(rows) < 0.1), "city": city,
        "years": pa.array(years, mask=random.random(rows) < 0.1), "y": y,
    })  # fmt: skip


def beforehand(rows: pa.Table) -> pa.Table:
    """The same with the columns computed by pandas."""
    frame = rows.to_pandas()
    frame["density"] = np.log(frame["density"].clip(2.0, None))
    frame["malus"] = frame["malus"].clip(50.0, 150.0)
    names = ["< 18", "[18, 25)", "[25, 40)", ">= 40"]
    ages = pd.cut(frame["age"], [-np.inf, 18.0, 25.0, 40.0, np.inf], right=False, labels=names)
    frame["age"] = ages.astype(object).where(ages.notna(), None)
    years = frame.pop("years").clip(None, 30.0)
    known = years.notna()
    knots = np.quantile(years[known], np.linspace(0.025, 0.975, 4), method="inverted_cdf")
    spline = SplineTransformer(knots=knots[:, None], extrapolation="linear", include_bias=False)
    made = np.full((len(frame), 5), np.nan)
    made[known] = spline.fit_transform(years[known].to_numpy()[:, None])
    for number in range(5):
        frame.insert(len(frame.columns) - 1, f"years {number}", made[:, number])
    return pa.Table.from_pandas(frame, preserve_index=False)


def written(rows: pa.Table, path: Path) -> str:
    pq.write_table(rows, path, row_group_size=300)
    return str(path)


def fit(data: str, run: str, **options: Any) -> Result:
    defaults: dict[str, Any] = {"dtype": "float64", "run": Path(data).parent / run}
    return train(data, "y", **{**defaults, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result]:
    data = written(table(), tmp_path_factory.mktemp("transforms") / "data.parquet")
    return data, fit(data, "run", method="batch", **TRANSFORMS)


METHODS: dict[str, dict[str, Any]] = {
    "batch": {"method": "batch"},
    "mini-batches": {"method": "minibatch", "epochs": 2},
    "windows": {"method": "minibatch", "epochs": 2, "shuffle": "window"},
    "rows": {"method": "sgd", "epochs": 1},
    "dropped nulls": {"method": "batch", "nulls": "drop"},
    "raw": {"method": "batch", "scale": "none", "nulls": "drop"},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_theta_is_that_of_columns_computed_beforehand(options: dict[str, Any], tmp_path: Path) -> None:
    here = fit(written(table(), tmp_path / "data.parquet"), "here", **options, **TRANSFORMS)
    before = fit(written(beforehand(table()), tmp_path / "before.parquet"), "before", **options)

    np.testing.assert_allclose(here.model.theta, before.model.theta, rtol=1e-9, atol=1e-12)


def test_coefficients_are_named_plainly(trained: tuple[str, Result]) -> None:
    data, result = trained

    names = {each.name for each in result.model.coefficients()}

    expected = {"log(density)", "malus", "years spline 5", "age < 18", "age [18, 25)", "age null", "(intercept)"}
    assert expected <= names
    assert result.model.base_levels()["age"] == "[25, 40)" or "age [25, 40)" in names
    became = json.loads((Path(data).parent / "run" / "config.json").read_text())["resolved"]["columns"]
    assert became["density"] == "number, clipped below 2, natural logarithm"
    assert became["malus"] == "number, clipped to [50, 150]"
    assert became["age"].startswith("categorical, 4 bins, 4 levels")


def test_a_model_from_its_file_predicts_and_evaluates_the_same(trained: tuple[str, Result], tmp_path: Path) -> None:
    data, result = trained
    loaded = Model.load(Path(data).parent / "run")

    predict(loaded, data, str(tmp_path / "out"))

    found = pq.read_table(tmp_path / "out")["prediction"].to_numpy()
    expected = np.concatenate([result.model.predict_batch(batch) for batch in table().to_batches()])
    np.testing.assert_array_equal(found, expected)
    rmse = np.sqrt(np.mean((table()["y"].to_numpy() - found) ** 2))
    assert evaluate(loaded, data).metrics["rmse"] == pytest.approx(rmse, rel=1e-9)


EVERYTHING: dict[str, Any] = {**TRANSFORMS, "cross": "age:city"}


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_a_run_that_goes_on_has_the_bits_of_one_that_did_not_stop(shuffle: str, tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    options: dict[str, Any] = {"method": "minibatch", "shuffle": shuffle, "batch_size": 64, **EVERYTHING}
    fit(data, "stopped", epochs=1, **options)

    stopped, whole = fit(data, "stopped", epochs=3, **options), fit(data, "whole", epochs=3, threads=1, **options)

    assert stopped.model.theta_sha256 == whole.model.theta_sha256
    assert stopped.model.encoding.columns == whole.model.encoding.columns


@pytest.mark.slow
def test_worker_processes_have_the_bits_of_threads(tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")

    by_workers = fit(data, "workers", method="batch", workers=2, **EVERYTHING)

    assert by_workers.model.theta_sha256 == fit(data, "threads", method="batch", **EVERYTHING).model.theta_sha256


def new_rows() -> pa.Table:
    """Rows in bounds and beyond, with nulls in every number."""
    return table(500, seed=1)


def test_onnxruntime_predicts_as_the_model(trained: tuple[str, Result]) -> None:
    model = trained[1].model
    session = onnxruntime.InferenceSession(export(model, "onnx").SerializeToString())
    rows = new_rows()
    inputs = {name: rows[name].to_pandas().to_numpy() for name in ("density", "malus", "age", "city", "years")}

    (found,) = session.run(None, inputs)

    expected = np.concatenate([model.predict_batch(batch) for batch in rows.to_batches()])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_scikit_learn_predicts_as_the_model(trained: tuple[str, Result]) -> None:
    model, rows = trained[1].model, new_rows()

    found = export(model, "sklearn").predict(rows.to_pandas())

    expected = np.concatenate([model.predict_batch(batch) for batch in rows.to_batches()])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_json_tells_the_steps(trained: tuple[str, Result]) -> None:
    told = trained[1].model.to_json()

    assert told["format_version"] == 2
    assert told["numeric"][0]["source"] == "density"
    assert told["numeric"][0]["steps"] == [{"kind": "clip", "low": 2.0, "high": None}, {"kind": "log"}]
    assert told["categorical"][0]["made"] == {"kind": "bins", "source": "age", "edges": [18.0, 25.0, 40.0], "steps": []}


def test_estimators_take_transforms_and_partial_fit_keeps_them() -> None:
    transforms: dict[str, Any] = {
        "log": ["density"], "clip": {"malus": (50, 150), "density": (2, None)}, "bins": {"age": [18, 25, 40]},
        "spline": {"years": 4},
    }  # fmt: skip
    rows = table()
    whole = GDRegressor(**transforms).fit(rows, target="y")
    stream = GDRegressor(**transforms)

    for start in (0, 1000):
        stream.partial_fit(rows.slice(start, 1000), target="y")

    assert "log(density)" in whole.coef_names_
    names = ["log(density)", "malus", *(f"years spline {number}" for number in (1, 2, 3, 4))]
    assert [column.name for column in stream.model_.encoding.columns.numeric] == names
    assert stream.model_.encoding.categorical[0].column.name == "age"
    assert whole.score(rows.drop_columns("y"), rows["y"].to_numpy()) > 0.5


def test_a_logarithm_of_zero_names_the_row(tmp_path: Path) -> None:
    rows = table().to_pandas()
    rows.loc[700, "density"] = 0.0
    rows.loc[850, "density"] = -1.0
    data = written(pa.Table.from_pandas(rows), tmp_path / "data.parquet")

    message = (
        r"data\.parquet, row group 2, row 100, column 'density': found 0, expected a number above 0.*--clip density"
    )
    for options in METHODS.values():
        with pytest.raises(DataError, match=message) as caught:
            fit(data, "run", log="density", restart=True, **options)
        assert caught.value.exit_code == 65

    assert fit(data, "bounded", log="density", clip="density=1:").model.theta.shape[0] > 3
    assert fit(data, "chosen", log="density", where="density > 0", epochs=1).facts["train_rows"] < ROWS


def test_an_infinite_value_is_in_no_bin(tmp_path: Path) -> None:
    rows = table().to_pandas()
    rows.loc[5, "age"] = np.inf

    with pytest.raises(DataError, match=r"row 5, column 'age': found inf, expected a finite number"):
        fit(written(pa.Table.from_pandas(rows), tmp_path / "data.parquet"), "run", bins="age=18")


def test_what_a_row_has_that_is_dropped_for_a_null_is_not_looked_at(tmp_path: Path) -> None:
    rows = table().to_pandas()
    rows.loc[700, ["density", "age"]] = [0.0, np.nan]
    data = written(pa.Table.from_pandas(rows), tmp_path / "data.parquet")
    options: dict[str, Any] = {"log": "density", "bins": "density=2", "features": "density,age", "nulls": "drop"}

    result = fit(data, "run", epochs=1, **options)

    assert result.facts["train_rows"] == len(rows[["density", "age"]].dropna())


@pytest.mark.parametrize("bins", [{}, {"bins": "age=18"}], ids=["number", "bins"])
def test_bounds_hold_no_infinite_value(bins: dict[str, Any], tmp_path: Path) -> None:
    rows = table().to_pandas()
    rows.loc[705, "age"] = -np.inf
    data = written(pa.Table.from_pandas(rows), tmp_path / "data.parquet")

    message = r"data\.parquet, row group 2, row 105, column 'age': found -inf, expected a finite number"
    with pytest.raises(DataError, match=message):
        fit(data, "run", clip="age=5:90", **bins)
    options: dict[str, Any] = {"clip": "age=5:90", "where": "age > 0", "epochs": 1, "method": "minibatch", **bins}
    with pytest.raises(DataError, match=message):
        predict(fit(data, "run", restart=True, **options).model, data, str(tmp_path / "out"))


REFUSED = {
    "an unknown column": ({"log": "densty"}, "--log: the data have no column 'densty'. Did you mean 'density'?"),
    "the target": ({"clip": "y=1:2"}, "--clip: 'y' is the target"),
    "the weight": ({"log": "density", "weight": "density"}, "--log: 'density' is the weight"),
    "what is left out": ({"log": "age", "exclude": "age"}, "--log: 'age' is not among the features"),
    "a spline of few values": ({"spline": "few=5"}, "more than 5 different values are needed, it has 4. Choose fewer"),
    "text": ({"bins": "city=1,2"}, "--bins: 'city' is of type string, a number is needed"),
    "a label": ({"bins": "age=1,2", "categorical": "age"}, "--bins: 'age' is categorical, a number is needed"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_transformed_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = written(table().append_column("few", pa.array(np.arange(ROWS) % 4)), tmp_path / "data.parquet")

    with pytest.raises(ConfigError) as caught:
        fit(data, "refused", **options)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "age"}, "--clip: expected COL=LOW:HIGH, found 'age'."),
        ({"clip": "age=5"}, "--clip: expected age=LOW:HIGH"),
        ({"clip": "age=:"}, "--clip: expected a lower bound, an upper one or both for 'age'"),
        ({"clip": "age=9:3"}, "--clip: expected a lower bound of 'age' below the upper one, found 9 and 3."),
        ({"clip": "age=x:3"}, "--clip: expected a number for 'age', found 'x'."),
        ({"bins": "age=3,1"}, "--bins: expected edges of 'age' in ascending order"),
        ({"bins": "age=1,nan"}, "--bins: expected a finite number for 'age', found 'nan'."),
        ({"bins": {"age": range(65_536)}}, "--bins: expected up to 65,535 edges between the bins of 'age', found"),
        ({"bins": "age=1,age=2"}, "--bins: expected COL=18,25,40 once for each column"),
        ({"bins": "age=3", "spline": "age=4"}, "--bins and --spline both name 'age'."),
        ({"spline": "age=2"}, "--spline: expected 3 to 100 columns for the spline of 'age', found '2'."),
        ({"spline": "age=2.5"}, "--spline: expected 3 to 100 columns for the spline of 'age', found '2.5'."),
        ({"bins": "3,4"}, "--bins: expected COL=18,25,40, found '3,4'."),
    ],
)
def test_options_that_make_no_sense_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(data="x", target="y", **options)

    assert str(caught.value).startswith(message)


def test_bounds_and_edges_may_be_any_sequence_of_numbers() -> None:
    options: dict[str, Any] = {"clip": {"x": np.array([-1.0, 1.0])}, "bins": {"z": pd.Series([1, 2]), "v": range(3)}}

    config = make_config(data="x", target="y", **options)

    assert (config.clip, config.bins) == ({"x": (-1.0, 1.0)}, {"z": [1.0, 2.0], "v": [0.0, 1.0, 2.0]})
    for nothing in (np.array(1.0), {1.0, 2.0}, 5):
        with pytest.raises(ConfigError, match="--bins: expected edges between the bins of 'z', found"):
            make_config(data="x", target="y", bins={"z": nothing})


def test_other_transforms_are_another_run() -> None:
    now = make_config(data="x", target="y", **TRANSFORMS).identity
    before = make_config(data="x", target="y", bins="age=18").identity

    assert differing_options(now, before, now) == (
        "--clip was not given, now malus=50:150,density=2:,years=:30; --log was not given, now density;"
        " --bins was age=18, now age=18,25,40; --spline was not given, now years=5"
    )
    stored = {name: value for name, value in make_config(data="x", target="y").identity.items() if name != "bins"}
    assert not differing_options(make_config(data="x", target="y").identity, stored, now)  # an earlier build's run
