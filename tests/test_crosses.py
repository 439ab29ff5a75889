"""``--cross`` in training, prediction and exports: the same as a column of combinations that was made beforehand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crossed import fit, written

from streamgd.config import make_config
from streamgd.data.skipping import columns_in_use
from streamgd.data.source import discover
from streamgd.errors import ConfigError
from streamgd.estimators import GDRegressor
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.prediction import predict
from streamgd.training.train import Result

ROWS = 2_000
CROSS: dict[str, Any] = {"cross": "city:kind,kind:age", "bins": "age=18,40", "categorical": "kind"}


def table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Labels and a binned number, all with nulls, and a target that depends on combinations."""
    random = np.random.default_rng(seed)
    city = np.array(["Rome", "Oslo", "Bern"])[random.choice(3, rows, p=[0.5, 0.3, 0.2])]
    kind, age = random.integers(1, 4, rows), random.uniform(5.0, 60.0, rows)
    y = (city == "Oslo") * kind + (kind == 2) * (age > 18.0) + random.normal(size=rows)
    return pa.table({
        "city": pa.array(city, mask=random.random(rows) < 0.1), "kind": pa.array(kind, mask=random.random(rows) < 0.1),
        "age": pa.array(age, mask=random.random(rows) < 0.1), "x": random.normal(size=rows), "y": y,
    })  # fmt: skip


def beforehand(rows: pa.Table) -> pa.Table:
    """The same with columns of combinations, made by Python: those with the most frequent level of a part are one."""
    found = []
    most = {"city": "Rome", "kind": Counter(rows["kind"].to_pylist()).most_common(1)[0][0], "age": "[18, 40)"}
    for row in rows.to_pylist():
        age = row["age"]
        row["age"] = None if age is None else "< 18" if age < 18.0 else "[18, 40)" if age < 40.0 else ">= 40"
        text = {name: "null" if row[name] is None else str(row[name]) for name in ("city", "kind", "age")}
        target = row.pop("y")
        crosses = {}
        for parts in (("city", "kind"), ("kind", "age")):
            alone = any(row[part] == most[part] for part in parts)
            crosses[":".join(parts)] = ":".join(str(most[part]) if alone else text[part] for part in parts)
        found.append(row | crosses | {"y": target})
    return pa.Table.from_pylist(found)


METHODS: dict[str, dict[str, Any]] = {
    "batch": {"method": "batch"},
    "mini-batches": {"method": "minibatch", "epochs": 2},
    "windows": {"method": "minibatch", "epochs": 2, "shuffle": "window"},
    "rows": {"method": "sgd", "epochs": 1},
    "hashed": {"method": "minibatch", "epochs": 1, "encode": "hash", "hash_buckets": 64},
    "too many levels": {"method": "batch", "max_levels": 10, "hash_buckets": 64},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_theta_is_that_of_combinations_made_beforehand(options: dict[str, Any], tmp_path: Path) -> None:
    here = fit(written(table(), tmp_path / "data.parquet"), "here", **options, **CROSS)
    before = fit(written(beforehand(table()), tmp_path / "before.parquet"), "before", **options, categorical="kind")

    np.testing.assert_allclose(here.model.theta, before.model.theta, rtol=1e-7, atol=1e-9)


def test_without_the_column_of_a_part_every_combination_counts(tmp_path: Path) -> None:
    result = fit(written(table(), tmp_path / "data.parquet"), "run", cross="city:age", bins="age=18,40", exclude="city")

    assert len(result.model.encoding.categorical[-1].levels) == 4 * 4


def test_columns_that_are_no_features_are_read_for_a_cross(tmp_path: Path) -> None:
    fuel = pa.array(np.array(["gas", "oil"])[np.arange(ROWS) % 2])
    data = written(table().append_column("fuel", fuel), tmp_path / "data.parquet")
    options: dict[str, Any] = {"features": ["x"], "cross": ["city:fuel"]}

    model = GDRegressor(**options).fit(data, target="y").model_

    columns = model.encoding.columns
    assert columns.feature_names == ["x", "city:fuel"]
    assert columns.sources == ["x", "city", "fuel", "y"]
    config = make_config(data=data, target="y", exclude="city", cross="city:fuel")
    assert "city" in columns_in_use(discover([data]), config)


@pytest.mark.parametrize("made", [{"categorical": "kind"}, {"bins": "kind=2,3", "clip": "kind=1:"}], ids=str)
def test_a_number_is_crossed_that_is_no_feature(made: dict[str, Any], tmp_path: Path) -> None:
    data = written(table().drop_null(), tmp_path / "data.parquet")
    options: dict[str, Any] = {"cross": "city:kind", "epochs": 1, "method": "minibatch"}

    named = fit(data, "named", features="x,city", **options, **made).model
    excluded = fit(data, "excluded", exclude="kind,age", **options, **made).model

    assert named.encoding.columns.feature_names == ["x", "city", "city:kind"]
    assert len(named.encoding.categorical[-1].levels) == 3 * 3
    assert sorted(excluded.encoding.columns.feature_names) == ["city", "city:kind", "x"]


def test_a_cross_is_not_collinear_with_its_parts_and_has_errors(tmp_path: Path) -> None:
    """The estimates and errors are those of least squares on the products of indicators."""
    data = written(table().drop_null(), tmp_path / "data.parquet")
    options: dict[str, Any] = {"cross": "city:kind", "categorical": "kind", "features": "city,kind"}

    result = fit(data, "run", method="batch", l2=1e-9, **options)

    assert not result.facts["warnings"]
    found = {each["name"]: each for each in result.model.coefficient_rows()}
    assert all(each["reason"] is None for each in found.values())
    frame = pq.read_table(data).to_pandas().astype({"kind": int})
    base = result.model.base_levels()
    columns: dict[str, Any] = {"(intercept)": np.ones(len(frame))}
    for name in found:
        if name.startswith("city:kind "):
            city, kind = name.removeprefix("city:kind ").split(":")
            columns[name] = (frame["city"] == city) & (frame["kind"] == int(kind))
        elif "=" in name:
            columns[name] = frame[name.split("=")[0]].astype(str) == name.split("=")[1]
    assert base["city"] == "Rome"
    assert len(columns) == 3 * 3
    design = np.stack([np.asarray(columns[name], np.float64) for name in found], axis=1)
    expected, squares, rank, _ = np.linalg.lstsq(design, frame["y"].to_numpy(), rcond=None)
    assert rank == 9
    np.testing.assert_allclose([each["estimate"] for each in found.values()], expected, rtol=1e-6, atol=1e-8)
    variance = squares[0] / (len(frame) - 9)
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)
    np.testing.assert_allclose([each["standard_error"] for each in found.values()], errors, rtol=1e-6)


def test_rows_with_a_null_in_a_part_are_dropped(tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    options = {"cross": "city:kind", "categorical": "kind", "nulls": "drop", "method": "batch", "features": "x,kind"}

    result = fit(data, "run", **options)

    known = table().select(["city", "kind"]).drop_null()
    assert result.facts["train_rows"] == len(known)
    found = np.concatenate([result.model.predict_batch(batch) for batch in table().to_batches()])
    assert int(np.isnan(found).sum()) == ROWS - len(known)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result]:
    data = written(table(), tmp_path_factory.mktemp("crosses") / "data.parquet")
    return data, fit(data, "run", method="batch", **CROSS)


def test_coefficients_are_named_plainly(trained: tuple[str, Result], tmp_path: Path) -> None:
    data, result = trained
    names = {each.name for each in result.model.coefficients()} | {
        f"{name} {level}" for name, level in result.model.base_levels().items()
    }

    assert {"city:kind Oslo:1", "city:kind null:null", "kind:age null:>= 40", "city:kind Bern:null"} <= names

    predict(Model.load(Path(data).parent / "run"), data, str(tmp_path / "out"))
    expected = np.concatenate([result.model.predict_batch(batch) for batch in table().to_batches()])
    np.testing.assert_array_equal(pq.read_table(tmp_path / "out")["prediction"].to_numpy(), expected)


@pytest.mark.parametrize("nulls", ["impute", "drop"])
def test_onnxruntime_predicts_as_the_model(nulls: str, tmp_path: Path) -> None:
    model = fit(written(table(), tmp_path / "data.parquet"), "run", method="batch", nulls=nulls, **CROSS).model
    session = onnxruntime.InferenceSession(export(model, "onnx").SerializeToString())
    rows = table(500, seed=1).to_pandas()
    rows.loc[:20, "city"] = "Paris"
    rows.loc[10:30, "kind"] = 9
    rows["city"] = rows["city"].astype(object).where(rows["city"].notna(), None)
    inputs = {"city": rows["city"].fillna("<null>").to_numpy(object)}
    inputs |= {name: rows[name].to_numpy(np.float64) for name in ("kind", "age", "x")}

    (found,) = session.run(None, inputs)

    batch = pa.RecordBatch.from_pandas(rows.astype({"kind": "Int64"}), preserve_index=False)
    np.testing.assert_allclose(found, model.predict_batch(batch), rtol=1e-10, atol=1e-10)


def test_scikit_learn_has_no_word_for_it(trained: tuple[str, Result]) -> None:
    with pytest.raises(ConfigError, match="--to sklearn: the cross 'city:kind' has no transformer there"):
        export(trained[1].model, "sklearn")


REFUSED = {
    "an unknown column": (
        {"cross": "city:knd"},
        "--cross city:knd: the data have no column 'knd'. Did you mean 'kind'?",
    ),
    "the target": ({"cross": "city:y"}, "--cross city:y: 'y' is the target"),
    "one column": ({"cross": "city"}, "--cross: expected different columns joined by ':'"),
    "itself": ({"cross": "city:city"}, "--cross: expected different columns joined by ':'"),
    "twice": (
        {"cross": "city:kind,kind:city", "categorical": "kind"},
        "'kind:city' crosses the same columns as one before it",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_crossed_is_refused(options: dict[str, Any], message: str, trained: tuple[str, Result]) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(trained[0], "refused", **options)

    assert message in str(caught.value)
