"""``--cross`` of a number with levels: the same as columns of products that were made beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crossed import fit, written

from streamgd.data import sample, transformed
from streamgd.data.columns import Columns
from streamgd.data.sample import read_sample
from streamgd.data.source import discover
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.cross import Part
from streamgd.data.transforms.log import Log
from streamgd.errors import ConfigError, SchemaError
from streamgd.estimators import GDRegressor
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.prediction import predict
from streamgd.training.carry import carried_theta
from streamgd.training.warm_start import what_is_carried

ROWS = 2_000


def table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """A number and labels, both with nulls, and a target whose slope depends on the label."""
    random = np.random.default_rng(seed)
    city = np.array(["Rome", "Oslo", "Bern"])[random.choice(3, rows, p=[0.5, 0.3, 0.2])]
    age, x = random.uniform(5.0, 60.0, rows), random.normal(size=rows)
    y = age * np.where(city == "Oslo", 0.2, -0.1) + x + random.normal(size=rows)
    return pa.table({
        "city": pa.array(city, mask=random.random(rows) < 0.1), "age": pa.array(age, mask=random.random(rows) < 0.1),
        "x": x, "y": y,
    })  # fmt: skip


def beforehand(rows: pa.Table, levels: list[str]) -> pa.Table:
    """The same with a column of products for each level, made by pandas."""
    frame = rows.to_pandas()
    city = frame["city"].fillna("null")
    for level in levels:
        known = frame["age"].fillna(frame["age"][city == level].mean())
        frame[f"age at {level}"] = known * (city == level)
    return pa.Table.from_pandas(frame, preserve_index=False)


METHODS: dict[str, dict[str, Any]] = {
    "batch": {"method": "batch"},
    "mini-batches": {"method": "minibatch", "epochs": 2},
    "windows": {"method": "minibatch", "epochs": 1, "shuffle": "window"},
    "rows": {"method": "sgd", "epochs": 1},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_theta_is_that_of_products_made_beforehand(options: dict[str, Any], tmp_path: Path) -> None:
    here = fit(written(table(), tmp_path / "data.parquet"), "here", cross="age:city", **options).model
    made = beforehand(table(), ["Bern", "Oslo", "null"])
    before = fit(written(made, tmp_path / "before.parquet"), "before", **options).model

    expected = {each.name.replace("age at ", "age:city "): each.value for each in before.coefficients()}
    found = {each.name: each.value for each in here.coefficients()}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=1e-7, atol=1e-9)
    assert abs(found["age:city Oslo"] - 0.3) < 0.02 or options["method"] != "batch"


def test_a_number_that_is_no_feature_has_a_slope_at_every_level(tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    model = fit(data, "run", cross="city:age", features="x", method="batch", l2=1e-9).model

    columns = model.encoding.columns
    levels = ["Bern", "Oslo", "Rome", "null"]
    assert columns.feature_names == ["x", *(f"city:age {level}" for level in levels)]
    assert columns.sources == ["x", "age", "city", "y"]
    assert Columns.from_json(columns.to_json()) == columns
    frame = beforehand(table(), levels).to_pandas()
    design = np.stack([frame["x"], *(frame[f"age at {level}"] for level in levels), np.ones(ROWS)], axis=1)
    expected = np.linalg.lstsq(design, frame["y"], rcond=None)[0]
    np.testing.assert_allclose([each.value for each in model.coefficients()], expected, rtol=1e-6, atol=1e-7)


def test_transforms_come_before(tmp_path: Path) -> None:
    """Of the number those of numbers; another number may be crossed by its bins."""
    data = written(table().drop_null(), tmp_path / "data.parquet")
    model = fit(data, "run", cross="age:x", bins="x=0", clip="age=10:50", log="age", method="batch", l2=1e-9).model

    frame = pq.read_table(data).to_pandas()
    logged, below = np.log(frame["age"].clip(10.0, 50.0)), frame["x"] < 0.0
    kept = "< 0" if below.mean() < 0.5 else ">= 0"
    product = logged * (below if kept == "< 0" else ~below)
    assert f"log(age):x {kept}" in model.encoding.columns.feature_names
    cities = [frame["city"] == name for name in ("Bern", "Oslo")]
    design = np.stack([product, logged, below, *cities, np.ones(len(frame))], axis=1).astype(float)
    expected = design @ np.linalg.lstsq(design, frame["y"], rcond=None)[0]
    (batch,) = table().drop_null().combine_chunks().to_batches()
    np.testing.assert_allclose(model.predict_batch(batch), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nulls", ["impute", "drop"])
def test_predictions_are_those_of_the_exported_model(nulls: str, tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    fit(data, "run", method="batch", nulls=nulls, cross="age:city", features="x")
    model = Model.load(tmp_path / "run")
    rows = table(500, seed=1).to_pandas()
    rows.loc[:20, "city"] = "Paris"
    rows["city"] = rows["city"].astype(object).where(rows["city"].notna(), None)
    rows.loc[30:40, ["age"]] = np.nan
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    inputs = {"city": rows["city"].fillna("<null>").to_numpy(object)}
    inputs |= {name: rows[name].to_numpy(np.float64) for name in ("age", "x")}

    session = onnxruntime.InferenceSession(export(model, "onnx").SerializeToString())
    (found,) = session.run(None, inputs)
    predict(model, written(pa.Table.from_batches([batch]), tmp_path / "new.parquet"), str(tmp_path / "out"))

    expected = model.predict_batch(batch)
    has_null = rows["city"].isna() | rows["age"].isna()
    np.testing.assert_array_equal(np.isnan(expected), has_null if nulls == "drop" else np.zeros(500))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    written_down = pq.read_table(tmp_path / "out")["prediction"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(written_down, expected)
    with pytest.raises(ConfigError, match="--to sklearn: the cross 'age:city Bern' has no transformer there"):
        export(fit(data, "again", epochs=1, method="minibatch", cross="age:city").model, "sklearn")


def test_a_frame_is_learned_as_files_are(tmp_path: Path) -> None:
    frame = table().to_pandas()
    frame["city"] = frame["city"].astype("category")
    options: dict[str, Any] = {"cross": ["age:city"], "method": "batch", "dtype": "float64", "features": ["x", "city"]}
    of_frame = GDRegressor(**options).fit(frame.drop(columns="y"), frame["y"])
    of_file = GDRegressor(**options).fit(written(table(), tmp_path / "data.parquet"), target="y")

    np.testing.assert_allclose(of_frame.coef_, of_file.coef_, rtol=1e-9)
    rows = table(50, seed=2).to_pandas().drop(columns="y")
    assert np.isfinite(of_frame.predict(rows)).all()
    assert np.isfinite(of_frame.predict(rows.assign(age=None, city=None))).all()


def test_data_without_the_levels_are_refused(tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    model = fit(data, "run", method="minibatch", epochs=1, cross="age:city", features="x").model
    numbers = pd.DataFrame({"x": [1.0], "age": [1.0], "city": [1.5]})
    other = written(pa.Table.from_pandas(numbers, preserve_index=False), tmp_path / "other.parquet")
    with pytest.raises(SchemaError, match="column 'city': found double, the model was trained on text as labels"):
        predict(model, other, str(tmp_path / "out"))


REFUSED = {
    "two numbers": ("age:x", "--cross age:x: 'age' and 'x' are numbers, and one of them has to have levels. Make some"),
    "two columns of levels": ("age:city:kind", "--cross age:city:kind: 'age' is a number, which is crossed with one"),
    "too many levels": ("age:city", "--cross age:city: 'city' has 3 levels, and 'age' would be as many numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("cross", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_crossed_is_refused(
    cross: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformed, "MOST_NUMBERS", 2)
    rows = table().append_column("kind", pa.array(["a", "b"] * (ROWS // 2)))
    with pytest.raises(ConfigError) as caught:
        fit(written(rows, tmp_path / "data.parquet"), "refused", cross=cross)

    assert message in str(caught.value)


def test_levels_are_those_of_all_rows_and_not_of_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data that are sorted by them, and without a slope for those that have next to no rows."""
    monkeypatch.setattr(sample, "SAMPLE_ROWS", 300)
    monkeypatch.setattr(sample, "MOST_ROW_GROUPS", 4)
    month = np.sort(np.arange(6_000) % 12)
    month[-3:] = 12
    data = written(
        pa.table({"x": np.sin(np.arange(6_000.0)), "y": month + 0.5, "month": month}), tmp_path / "d.parquet"
    )
    assert len(read_sample(discover([data]), ["month"]).rows.column("month").unique()) < 12

    columns = fit(data, "run", cross="x:month", categorical="month", features="x", epochs=1).model.encoding.columns

    at = [each.at.text for each in columns.numeric if each.at is not None]
    assert sorted(at, key=int) == [str(month) for month in range(1, 12)]  # without the first one of as many rows


def test_the_order_of_a_dictionary_says_nothing(tmp_path: Path) -> None:
    plain = pa.array(["Rome", "Oslo"] * 500)
    coded = pa.DictionaryArray.from_arrays(pa.array([1, 0] * 500, pa.int32()), pa.array(["Oslo", "Rome"]))
    random = np.random.default_rng(0)
    numbers = {"x": random.normal(size=1_000), "y": random.normal(size=1_000)}
    found = set()
    for name, city in (("plain", plain), ("coded", coded), ("other", plain.dictionary_encode())):
        data = written(pa.table(numbers | {"city": city}), tmp_path / f"{name}.parquet")
        model = fit(data, name, cross="x:city", method="batch").model
        found.add((*model.encoding.columns.feature_names, model.theta_sha256))
    assert len(found) == 1


def test_rows_that_are_dropped_have_no_level(tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    model = fit(data, "run", method="batch", nulls="drop", cross="age:city", features="x").model
    assert model.encoding.columns.feature_names == ["x", "age:city Bern", "age:city Oslo", "age:city Rome"]
    told = {each.name: (each.column, each.level) for each in model.coefficients()}
    assert told["age:city Oslo"] == ("age:city", "Oslo")
    assert model.to_json()["format_version"] == 3
    assert model.to_json()["numeric"][1]["at"]["text"] == "Bern"


def test_a_slope_is_carried_to_the_same_level_alone(tmp_path: Path) -> None:
    """Bins of the logarithm have the same names and are others."""
    data = written(table().drop_null(), tmp_path / "data.parquet")
    options: dict[str, Any] = {"cross": "age:x", "bins": "x=0", "features": "city", "epochs": 1}
    encoding = fit(data, "before", **options).model.encoding
    of_log = [
        replace(each, at=each.at and replace(each.at, part=Part("x", "number", Bins("x", (0.0,), (Log(),)))))
        for each in encoding.columns.numeric
    ]
    moved = replace(encoding, columns=replace(encoding.columns, numeric=tuple(of_log)))

    assert what_is_carried(encoding, encoding).startswith("4 of 4 coefficients are carried over")
    assert what_is_carried(encoding, moved) == "2 of 4 coefficients are carried over; new: age:x < 0, age:x >= 0"


def mostly(city: str, kind: str, seed: int) -> pa.Table:
    """Rows without nulls, most of them of one city and one kind."""
    rows, random = table(seed=seed).drop_null(), np.random.default_rng(seed)
    rows = rows.filter((rows["city"].to_numpy() == city) | (random.random(len(rows)) < 0.2))
    other = {"new": "old", "old": "new"}[kind]
    return rows.append_column("kind", pa.array(random.choice([kind, other], len(rows), p=[0.9, 0.1])))


@pytest.mark.parametrize("crosses", [["age:city"], ["age:city", "age:kind"]], ids=" ".join)
@pytest.mark.parametrize("now", ["age,x,city,kind", "x,city,kind"])
@pytest.mark.parametrize("was", ["age,x,city,kind", "x,city,kind"])
def test_slopes_are_carried_over_to_other_references(was: str, now: str, crosses: list[str], tmp_path: Path) -> None:
    first = written(mostly("Rome", "new", 1), tmp_path / "first.parquet")
    second = written(mostly("Oslo", "old", 2), tmp_path / "second.parquet")
    before = fit(first, "before", features=was, cross=crosses, method="batch").model
    unmoved: dict[str, Any] = {"optimizer": "plain", "learning_rate": 1e-12, "epochs": 1, "average": "off", "l2": 0.0}
    options = {"features": now, "cross": crosses, "method": "minibatch", "from_": str(tmp_path / "before")}
    after = fit(second, "after", **options, **unmoved).model
    references = [
        {each.at.reference for each in model.encoding.columns.numeric if each.at} for model in (before, after)
    ]
    assert not references[0] & references[1] - {None}
    if was == now:
        assert what_is_carried(before.encoding, after.encoding).endswith("coefficients are carried over")

    found = []
    for model in (before, after):
        predict(model, second, str(tmp_path / "out"))
        found.append(pq.read_table(tmp_path / "out" / "second.parquet")["prediction"].to_numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6 * found[0].std())


def test_models_that_do_not_say_what_their_references_are_are_carried_over_as_well(tmp_path: Path) -> None:
    """Those of earlier builds."""
    models = [
        fit(written(mostly(city, "new", seed), tmp_path / f"{city}.parquet"), city, cross="age:city", epochs=1).model
        for seed, city in enumerate(("Rome", "Oslo"))
    ]
    before, after = (model.encoding for model in models)
    silent = [replace(each, at=each.at and replace(each.at, reference=None)) for each in before.columns.numeric]
    earlier = replace(before, columns=replace(before.columns, numeric=tuple(silent)))
    expected = carried_theta(before, models[0].theta, after)
    np.testing.assert_array_equal(carried_theta(earlier, models[0].theta, after), expected)


def test_bounds_of_differences_are_refused(tmp_path: Path) -> None:
    data = written(table(), tmp_path / "data.parquet")
    with pytest.raises(ConfigError, match="--non-negative: 'age' is crossed with levels"):
        fit(data, "refused", cross="age:city", non_negative="age")
    model = fit(data, "named", cross="age:city", non_negative="age:city Oslo", method="batch").model
    assert model.encoding.columns.non_negative == ("age:city Oslo",)


def test_a_cross_that_adds_nothing_is_refused(tmp_path: Path) -> None:
    rows = table().set_column(0, "city", pa.array(["Rome"] * ROWS))
    with pytest.raises(ConfigError, match=r"--cross age:city: 'city' has no level of 0\.1% of the rows beside"):
        fit(written(rows, tmp_path / "data.parquet"), "refused", cross="age:city")


def test_integers_that_doubles_do_not_tell_apart_are_not_exported_to_onnx(tmp_path: Path) -> None:
    rows = table().set_column(0, "k", pa.array(np.arange(ROWS) % 2 + 2**53))
    model = fit(written(rows, tmp_path / "data.parquet"), "run", cross="age:k", categorical="k", features="x").model
    with pytest.raises(ConfigError, match=r"--to onnx: column 'k' has levels beyond 2\^53"):
        export(model, "onnx")
