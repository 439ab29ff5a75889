"""The estimators keep scikit-learn's conventions, take frames of any kind, and learn what ``train`` learns."""

from __future__ import annotations

import pickle
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import streamgd
from streamgd.errors import ConfigError, DataError, SchemaError, TargetError
from streamgd.estimators import GDClassifier, GDRegressor

ROWS = 3_000


@parametrize_with_checks([GDClassifier(), GDClassifier(loss="hinge"), GDRegressor()])
def test_scikit_learns_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)


def table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Two numbers, one with nulls, a text column, and two targets that depend on them."""
    random = np.random.default_rng(seed)
    x, z = random.normal(3.0, 10.0, rows), random.exponential(0.01, rows)
    city = np.array(["Rome", "Oslo", "Bern", "Łódź"])[random.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])]
    amount = 5.0 + 0.3 * x + 100.0 * z + 2.0 * (city == "Oslo") + random.normal(size=rows)
    late = random.random(rows) < 1.0 / (1.0 + np.exp(6.0 - amount))
    return pa.table(
        {
            "x": pa.array(x, mask=random.random(rows) < 0.1), "z": z, "city": city, "amount": amount,
            "late": np.where(late, "yes", "no"),
        }
    )  # fmt: skip


def features() -> pa.Table:
    return table().select(["x", "z", "city"])


def pandas_frame(data: pa.Table) -> Any:
    """With an index that is no range, as rows that were split off have."""
    frame = data.to_pandas()
    frame.index = np.arange(len(frame))[::-1] * 2
    return frame


def as_categories(data: pa.Table) -> Any:
    return data.to_pandas().astype({"city": pd.CategoricalDtype(["Oslo", "Paris", "Łódź", "Bern", "Rome"])})


def polars_categories(data: pa.Table) -> Any:
    return pl.DataFrame(data).with_columns(pl.col("city").cast(pl.Categorical))


FRAMES = {
    "pandas": pandas_frame, "pandas categories": as_categories, "polars": pl.DataFrame,
    "polars categories": polars_categories, "arrow": lambda data: data, "arrow in pieces": lambda data: pa.table(
        pa.concat_tables([data.slice(start, 700) for start in range(0, len(data), 700)])
    ),
}  # fmt: skip


@pytest.mark.parametrize("few", [True, False], ids=["full batch", "mini-batches"])
def test_frames_of_all_kinds_and_the_files_give_the_same_theta(
    few: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamgd.fitting.FEW_ROWS", ROWS + 1 if few else ROWS)
    found, predicted = {}, {}
    y = table().column("late")
    for name, frame_of in FRAMES.items():
        model = GDClassifier().fit(frame_of(features()), y)
        found[name] = model.model_.theta_sha256
        predicted[name] = model.predict_proba(frame_of(features()))
        assert model.feature_names_in_.tolist() == ["x", "z", "city"]
    pq.write_table(table(), tmp_path / "one.parquet", 1_000)
    (tmp_path / "more").mkdir()
    pq.write_table(table().slice(0, 1_700), tmp_path / "more" / "a.parquet", 1_234)
    pq.write_table(table().slice(1_700), tmp_path / "more" / "b.parquet", 77)
    for source in ("one.parquet", "more"):
        model = GDClassifier(features=["x", "z", "city"]).fit(tmp_path / source, target="late")
        found[source] = model.model_.theta_sha256
        predicted[source] = model.predict_proba(tmp_path / source)
    assert len(set(found.values())) == 1, found
    for each in predicted.values():
        np.testing.assert_array_equal(each, predicted["arrow"])


@pytest.mark.parametrize("class_weight", [None, "balanced", {"a": 2.0, "c": 0.5}], ids=["none", "balanced", "dict"])
def test_more_than_two_classes_are_those_of_scikit_learn(class_weight: Any) -> None:
    data = table()
    X = np.column_stack([data["z"].to_numpy(), data["amount"].to_numpy()])
    y = np.array(["c", "a", "b"])[np.digitize(data["amount"].to_numpy() + 3.0 * np.sin(np.arange(ROWS)), [4.0, 9.0])]
    ours = GDClassifier(l2=1e-3, class_weight=class_weight).fit(X, y)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    factor = {"a": 2.0, "b": 1.0, "c": 0.5}
    total = sum(factor[label] for label in y) if isinstance(class_weight, dict) else ROWS
    if isinstance(class_weight, dict):
        weight = np.array([factor[label] for label in y])
        mean = np.average(X, axis=0, weights=weight)
        scaled = (X - mean) / np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    oracle = LogisticRegression(C=1.0 / (total * 1e-3), tol=1e-10, max_iter=10_000, class_weight=class_weight)
    oracle.fit(scaled, y)

    assert ours.classes_.tolist() == ["a", "b", "c"]
    assert (ours.coef_.shape, ours.intercept_.shape) == ((3, 2), (3,))
    np.testing.assert_allclose(ours.predict_proba(X), oracle.predict_proba(scaled), atol=1e-6)
    np.testing.assert_allclose(ours.decision_function(X), X @ ours.coef_.T + ours.intercept_, rtol=1e-9, atol=1e-9)
    assert (ours.predict(X) == ours.classes_[ours.predict_proba(X).argmax(axis=1)]).all()


def test_partial_fit_goes_on_with_more_than_two_classes(tmp_path: Path) -> None:
    data = table()
    x = data.select(["z", "amount", "city"])
    y = np.array(["c", "a", "b"])[np.digitize(data["amount"].to_numpy(), [4.0, 9.0])]
    model = GDClassifier()
    for start in range(0, ROWS, 500):
        model.partial_fit(x.slice(start, 500), y[start : start + 500], classes=["a", "b", "c"])
    assert model.score(x, y) > 0.8
    with pytest.raises(ValueError, match="no row of class 'd'"):
        GDClassifier().partial_fit(x, y, classes=["a", "b", "c", "d"])
    pq.write_table(x.append_column("y", pa.array(y)), tmp_path / "data.parquet")
    by_name = GDClassifier(loss="multinomial").fit(tmp_path / "data.parquet", target="y")
    assert by_name.classes_.tolist() == ["a", "b", "c"]
    assert by_name.score(x, y) > 0.8


def test_multinomial_of_two_classes_is_logistic() -> None:
    X, y = np.arange(12.0)[:, None], np.array(["no", "yes", "no"] * 2 + ["yes"] * 6)

    found = GDClassifier(loss="multinomial").fit(X, y)

    np.testing.assert_array_equal(found.predict_proba(X), GDClassifier().fit(X, y).predict_proba(X))
    stream = GDClassifier(loss="multinomial").partial_fit(X, y, classes=["no", "yes"])
    assert stream.predict_proba(X).shape == (12, 2)


def test_coefficients_are_those_of_scikit_learn_in_original_units() -> None:
    data = table().to_pandas()
    X, y = data[["z", "amount"]].to_numpy(), data["late"]
    ours = GDClassifier(l2=0.0).fit(X, y)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    assert ours.classes_.tolist() == ["no", "yes"]
    assert ours.coef_.shape == (1, 2)
    assert ours.intercept_.shape == (1,)
    assert len(ours.loss_curve_) == ours.n_iter_
    assert ours.loss_curve_[-1] < ours.loss_curve_[0]


def test_regression_coefficients_are_those_of_scikit_learn() -> None:
    data = table().to_pandas()
    X, y = data[["z"]].to_numpy(), data["amount"]
    ours, theirs = GDRegressor(l2=0.0).fit(X, y), Ridge(alpha=0.0).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-9)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-9)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-12)


def test_class_weights_are_sample_weights() -> None:
    data, factors = table().to_pandas(), {"no": 0.5, "yes": 3.0}
    X, y = data[["z", "amount"]], data["late"]
    weighted = GDClassifier().fit(X, y, sample_weight=y.map(factors))
    assert GDClassifier(class_weight=factors).fit(X, y).coef_ == pytest.approx(weighted.coef_)
    balanced = GDClassifier(class_weight="balanced").fit(X, y)
    weight = 1.0 / y.map(y.value_counts())
    assert np.average(balanced.predict_proba(X)[:, 1], weights=weight) == pytest.approx(0.5)


def test_estimators_work_in_pipelines_searches_and_calibration() -> None:
    data = table().to_pandas()
    X, y = data[["x", "z", "city"]], data["late"]
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    scaled = ColumnTransformer([("scale", StandardScaler(), ["x", "z"])], remainder="passthrough")
    for output in ("pandas", "polars"):
        pipeline = make_pipeline(scaled, GDClassifier()).set_output(transform=output)
        assert pipeline.fit(X_train, y_train).score(X_test, y_test) > 0.75
    search = GridSearchCV(GDClassifier(), {"l2": [1e-6, 10.0]}, cv=3, scoring="neg_log_loss").fit(X_train, y_train)
    assert search.best_params_ == {"l2": 1e-6}
    calibrated = CalibratedClassifierCV(GDClassifier(), cv=2).fit(X_train, y_train)
    assert calibrated.predict_proba(X_test).shape == (len(X_test), 2)


def test_flights_give_the_same_theta_from_frames_and_files(flights: Path) -> None:
    columns = ["month", "day", "dep_time", "distance", "air_time", "carrier", "origin", "dest"]
    files = sorted(flights.glob("*.parquet"))
    sources = {
        "files": lambda: flights, "arrow": lambda: pa.concat_tables(pq.read_table(file) for file in files),
        "polars": lambda: pl.read_parquet(files), "pandas": lambda: pd.concat(map(pd.read_parquet, files)),
    }  # fmt: skip
    found = {
        name: GDClassifier(features=columns, epochs=1).fit(data(), target="late").model_.theta_sha256
        for name, data in sources.items()
    }
    assert len(set(found.values())) == 1, found


def test_balanced_classes_are_the_same_on_files(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "data.parquet", 700)
    columns = ["x", "z", "city"]
    from_file = GDClassifier(features=columns, class_weight="balanced").fit(tmp_path / "data.parquet", target="late")
    from_frame = GDClassifier(class_weight="balanced").fit(features(), table().column("late"))
    assert from_file.model_.theta_sha256 == from_frame.model_.theta_sha256


def test_options_of_mini_batches_are_those_of_train(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "data.parquet")
    ours = GDRegressor(epochs=2, features=["x", "city"]).fit(tmp_path / "data.parquet", target="amount")
    result = streamgd.train(
        tmp_path / "data.parquet", "amount", run=tmp_path / "run", epochs=2, features=["x", "city"], dtype="float64"
    )
    assert ours.model_.theta_sha256 == result.model.theta_sha256
    assert ours.n_iter_ == len(ours.loss_curve_) == 2


def test_what_is_made_of_models_is_made_of_those_of_estimators(tmp_path: Path) -> None:
    data = table().select(["x", "z", "city", "late"])
    pq.write_table(data, tmp_path / "data.parquet")
    model = GDClassifier(null_indicators=True).fit(tmp_path / "data.parquet", target="late").model_
    assert "x.is_null" in [each.name for each in model.coefficients()]
    assert streamgd.evaluate(model, [str(tmp_path / "data.parquet")]).to_json()["rows"] == ROWS
    assert model.to_json()["classes"] == ["no", "yes"]
    for to in ("json", "sklearn", "onnx"):
        streamgd.export(model, to, str(tmp_path / f"model.{to}"))
    assert "late" in model._repr_html_()


def test_clones_and_pickles_predict_the_same() -> None:
    model = GDRegressor(l2=1e-3).fit(features(), table().column("amount"))
    again = clone(model).fit(features(), table().column("amount"))
    loaded = pickle.loads(pickle.dumps(model))
    for other in (again, loaded):
        np.testing.assert_array_equal(other.predict(features()), model.predict(features()))


def test_a_pickle_without_an_argument_of_today_has_its_default() -> None:
    model = GDRegressor(l2=1e-3).partial_fit(features(), table().column("amount"))
    before = pickle.loads(pickle.dumps(model))
    del before.log, before.bins

    loaded = pickle.loads(pickle.dumps(before))

    assert loaded.get_params() == model.get_params()
    loaded.partial_fit(features(), table().column("amount"))
    model.partial_fit(features(), table().column("amount"))
    np.testing.assert_array_equal(loaded.coef_, model.coef_)


def test_columns_are_found_by_name_where_the_data_held_their_target(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "data.parquet")
    model = GDRegressor(features=["z", "x"]).fit(tmp_path / "data.parquet", target="amount")
    expected = model.predict(table())
    for other in (table().select(["late", "x", "z"]), tmp_path / "data.parquet", iter(table().to_batches())):
        np.testing.assert_array_equal(model.predict(other), expected)
    array = np.column_stack([table().column(name) for name in model.feature_names_in_])
    np.testing.assert_array_equal(model.predict(array), expected)


def files_with_a_column_of_two_types(folder: Path) -> Path:
    """Two files that agree in all columns but ``note``, which nobody needs."""
    for name, note in (("a", pa.array([1] * 1_000)), ("b", pa.array(["text" * 100] * 1_000))):
        pq.write_table(table().slice(0, 1_000).append_column("note", note), folder / f"{name}.parquet")
    return folder


def test_files_are_read_by_the_columns_in_use(tmp_path: Path) -> None:
    data = files_with_a_column_of_two_types(tmp_path)
    model = GDRegressor(features=["x", "city"])
    model.fit(data, target="amount")
    assert len(model.predict(data)) == 2_000
    clone(model).partial_fit(data, target="amount")
    with pytest.raises(SchemaError, match="'note'"):
        GDRegressor().fit(data, target="amount")
    with pytest.raises(ConfigError, match=r"no column 'citi'\. Did you mean 'city'"):
        GDRegressor(features=["citi"]).fit(tmp_path / "a.parquet", target="amount")


def test_few_rows_that_do_not_fit_memory_are_learned_from_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(table(), tmp_path / "data.parquet", 700)
    held = GDRegressor(features=["x", "z"]).fit(tmp_path / "data.parquet", target="amount")
    monkeypatch.setattr("streamgd.data.source.Manifest.uncompressed_bytes", lambda *_: 300 * 10**6)
    monkeypatch.setattr("streamgd.fitting.tables_of_files", None)
    read = GDRegressor(features=["x", "z"]).fit(tmp_path / "data.parquet", target="amount")
    np.testing.assert_allclose(read.coef_, held.coef_, rtol=1e-9)


def test_a_column_of_files_that_pandas_calls_an_index_is_learned(tmp_path: Path) -> None:
    table().to_pandas().set_index("z").to_parquet(tmp_path / "data.parquet")
    model = GDRegressor(features=["x", "z"]).fit(tmp_path / "data.parquet", target="amount")
    frame = GDRegressor(features=["x", "z"]).fit(table(), target="amount")
    assert model.model_.theta_sha256 == frame.model_.theta_sha256
    np.testing.assert_array_equal(model.predict(tmp_path / "data.parquet"), frame.predict(table()))


def test_files_may_hold_text_as_text_and_as_a_dictionary(tmp_path: Path) -> None:
    codes = table().column("city").dictionary_encode()
    pq.write_table(table().slice(0, 1_700), tmp_path / "a.parquet")
    pq.write_table(table().set_column(2, "city", codes).slice(1_700), tmp_path / "b.parquet")
    model = GDRegressor(features=["x", "city"]).fit(tmp_path, target="amount")
    expected = GDRegressor(features=["x", "city"]).fit(table(), target="amount")
    assert model.model_.theta_sha256 == expected.model_.theta_sha256
    np.testing.assert_array_equal(model.predict(tmp_path), expected.predict(table()))


def test_new_data_must_have_the_columns_of_the_model_in_types_that_mean_the_same() -> None:
    data = table()
    model = GDRegressor().fit(data.drop_columns(["late"]), target="amount")
    text = pa.array(["1.5"] * ROWS)
    for wrong, message in (
        (data.drop_columns(["z"]), "X lacks a column that the model needs: 'z'"),
        (data.set_column(1, "z", text), "X, column 'z': found string, the model was trained on a number"),
        (data.set_column(2, "city", data.column("x")), "X, column 'city': found double, .* text as labels"),
    ):
        for new in (wrong, iter(wrong.to_batches()), wrong.to_pandas()):
            with pytest.raises(SchemaError, match=message):
                model.predict(new)
    # A row without a city: frames give such a column no type.
    missing = model.predict(pd.DataFrame({"x": [1.0], "z": [None], "city": [None]}))
    typed = {"x": [1.0], "z": pa.array([None], pa.float64()), "city": pa.array([None], pa.string())}
    np.testing.assert_array_equal(missing, model.predict(pa.table(typed)))


def test_a_mistake_in_new_data_is_told_by_its_row() -> None:
    model = GDRegressor().fit(table().drop_columns(["late"]), target="amount")
    z = table().column("z").to_numpy().copy()
    z[1_234] = np.inf
    with pytest.raises(DataError, match=r"^X, row 1234, column 'z': found inf"):
        model.predict(iter(table().set_column(1, "z", pa.array(z)).to_batches(500)))


def test_partial_fit_goes_on_as_one_stream_also_after_a_pickle() -> None:
    data, columns = table(6_000), ["x", "z", "city"]
    X, y = data.select(columns), data.column("late")
    model = GDClassifier()
    for start in range(0, 6_000, 2_000):
        model = pickle.loads(pickle.dumps(model))
        model.partial_fit(X.slice(start, 2_000), y.slice(start, 2_000), classes=["no", "yes"])
        assert model.n_iter_ == start // 2_000 + 1 == len(model.loss_curve_)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    whole = GDClassifier().fit(X, y)
    assert model.score(X, y) == pytest.approx(whole.score(X, y), abs=0.02)
    # A later call may have rows of one class, and a city that is new.
    more = X.slice(0, 50).set_column(2, "city", pa.array(["Lima"] * 50))
    model.partial_fit(more, ["yes"] * 50)
    assert "city=Lima" in model.coef_names_


def test_partial_fit_takes_the_classes_that_are_given_and_no_others() -> None:
    X, y = [[1.0], [2.0], [3.0], [4.0]], ["a", "b", "a", "b"]
    with pytest.raises(ValueError, match=r"y has the class 'b', the classes are \['a', 'c'\]"):
        GDClassifier().partial_fit(X, y, classes=["c", "a"])
    with pytest.raises(ValueError, match="the first rows must be of both classes"):
        GDClassifier().partial_fit(X, ["a"] * 4, classes=["a", "b"])
    model = GDClassifier().partial_fit(X, y, classes=["b", "a"])
    assert model.classes_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="those of the first call were"):
        model.partial_fit(X, y, classes=["a", "c"])
    with pytest.raises(ValueError, match="with target= the data have them"):
        GDClassifier().partial_fit(table(), classes=["no", "yes"], target="late")
    # A stream that begins anew may have other classes.
    anew = GDClassifier().fit(X, y)
    with pytest.warns(UserWarning, match="forgotten"):
        assert anew.partial_fit(X, [0, 1, 0, 1]).classes_.tolist() == [0, 1]


def test_the_first_targets_of_partial_fit_must_vary() -> None:
    X, amount = features(), table().column("amount")
    for data in ({"X": X, "y": [7.0] * ROWS}, {"X": X.append_column("y", pa.array([7.0] * ROWS)), "target": "y"}):
        with pytest.raises(TargetError, match=r"the target is 7\.0 in all of the first rows"):
            GDRegressor().partial_fit(**data)
    model = GDRegressor().partial_fit(X, amount)
    assert model.partial_fit(X, [7.0] * ROWS).n_iter_ == 2


class Held:
    """A frame that nobody knows but by Arrow's interface."""

    def __init__(self, data: pa.Table):
        self.data, self.shape = data, data.shape

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.data.__arrow_c_stream__(requested_schema)


def record_batch(data: pa.Table) -> pa.RecordBatch:
    return data.combine_chunks().to_batches()[0]


@pytest.mark.parametrize("frame_of", [record_batch, Held, pl.DataFrame, pandas_frame])
def test_columns_in_another_order_are_refused_whoever_holds_them(frame_of: Any) -> None:
    X = features().select(["x", "z"])
    model = GDRegressor().fit(frame_of(X), table().column("amount"))
    assert model.feature_names_in_.tolist() == ["x", "z"]
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame_of(X.select(["z", "x"])))


def test_a_frame_whose_names_are_numbers_is_taken_by_position() -> None:
    frame = pd.DataFrame(np.arange(20.0).reshape(10, 2))
    model = GDRegressor().fit(frame, np.arange(10.0))
    assert model.coef_names_.tolist() == ["x0", "x1"]
    assert not hasattr(model, "feature_names_in_")


def test_categories_that_are_numbers_are_categories() -> None:
    data = table().drop_columns(["late"]).to_pandas()
    codes = data.pop("city").map({"Rome": 1, "Oslo": 2, "Bern": 3, "Łódź": 4})
    for numbers in (codes, codes / 2):
        given = data.assign(code=numbers)
        frame = given.astype({"code": "category"})
        X, y = frame.drop(columns="amount"), frame["amount"]
        expected = GDRegressor(categorical=["code"]).fit(given.drop(columns="amount"), y)
        for model in (GDRegressor().fit(X, y), GDRegressor().fit(frame, target="amount")):
            assert model.coef_names_.tolist() == expected.coef_names_.tolist()
            np.testing.assert_array_equal(model.predict(X), expected.predict(given.drop(columns="amount")))
        stream = GDRegressor().partial_fit(X, y).partial_fit(X, y)
        assert set(expected.coef_names_) < set(stream.coef_names_)


def test_partial_fit_of_a_stream_goes_on_from_fit_of_a_stream() -> None:
    data = table().drop_columns(["late"])
    model = GDRegressor().fit(iter(data.to_batches(500)), target="amount")
    before = model.coef_
    model.partial_fit(data.to_reader(), target="amount")
    assert model.n_iter_ == 2
    assert (model.coef_ != before).any()
    with pytest.raises(SchemaError, match="'z'"):
        model.partial_fit(data.drop_columns(["z"]), target="amount")


def test_a_new_stream_after_a_whole_fit_is_warned_of() -> None:
    model = GDRegressor().fit(features(), table().column("amount"))
    with pytest.warns(UserWarning, match="forgotten"):
        model.partial_fit(features(), table().column("amount"))


def test_what_a_run_tells_is_warned_of() -> None:
    X, y = features(), table().column("late")
    with pytest.warns(ConvergenceWarning, match="Raise epochs"):
        GDClassifier(method="batch", epochs=2).fit(X, y)
    big = pa.table({"id": np.arange(ROWS) + 2**60, "y": table().column("amount")})
    for learn in (GDRegressor(features=["id"]).fit, GDRegressor(features=["id"]).partial_fit):
        with pytest.warns(UserWarning, match="'id'"):
            learn(big, target="y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GDClassifier().fit(X, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": "data.parquet"}, "name its column with target="),
        ({"X": "data.parquet", "y": [1.0]}, "give no y"),
        ({"X": "data.parquet", "target": "y", "sample_weight": [1.0]}, "give its name as sample_weight"),
        ({"X": [[1.0], [2.0]], "y": ["a", "b"], "sample_weight": [1.0, 0.0]}, "of one class"),
        ({"X": [[1.0], [2.0], [3.0]], "y": np.array(["a", None, "b"], dtype=object)}, "y has a null, or classes of"),
        ({"X": [[1.0], [2.0], [3.0]], "y": pa.array(["a", None, "b"])}, "y has a null, or classes of"),
        ({"X": [[1.0], [2.0]], "y": [["a", "b"], ["b", "c"]]}, "y should be a 1d array"),
        (
            {"X": [[1.0], [2.0], [3.0]], "y": ["a", "b", "c"], "sample_weight": [1.0, 1.0, 0.0]},
            "of 2 classes, expected 3",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GDClassifier().fit(**arguments)


def test_weights_of_classes_that_cannot_be_are_refused() -> None:
    X, y = features(), table().column("late")
    with pytest.raises(ValueError, match="balanced' needs all rows"):
        GDClassifier(class_weight="balanced").partial_fit(X, y)
    for learn in (GDClassifier(class_weight="both").fit, GDClassifier(class_weight="both").partial_fit):
        for data in ({"X": X, "y": y}, {"X": table(), "target": "late"}):
            with pytest.raises(ValueError, match="expected a dict, 'balanced' or None, found 'both'"):
                learn(**data)
    with pytest.raises(ValueError, match=r"class_weight has the class 'maybe', the classes are \['no', 'yes'\]"):
        GDClassifier(class_weight={"no": 2.0, "maybe": 3.0}).fit(X, y)
    with pytest.raises(ValueError, match="needs y"):
        GDClassifier(class_weight={"no": 2.0}).fit("data.parquet", target="late")


def test_estimators_without_scikit_learn_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn" or name == "streamgd.estimators"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamgd\[sklearn\]'"):
        import_module("streamgd.estimators")


def test_the_public_function_takes_a_reader(tmp_path: Path) -> None:
    result = streamgd.train(table().to_reader(), "amount", run=tmp_path / "run", exclude=["late"])
    assert result.facts["rows"] == ROWS
    assert streamgd.load(tmp_path / "run").theta_sha256 == result.model.theta_sha256


def test_several_classes_of_data_that_hold_their_target_have_probabilities() -> None:
    rows = pa.table({"x": np.linspace(-1.0, 1.0, 300), "y": np.repeat(["a", "b", "c"], 100)})
    found = GDClassifier(loss="multinomial").fit(rows, target="y")
    assert found.predict_proba(rows).shape == (300, 3)
    assert found.predict(rows)[[0, -1]].tolist() == ["a", "c"]


class TestLosses:
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(2)
        X = random.normal(size=(400, 2))
        return X, np.exp(X @ [0.4, -0.3] + 0.2)

    def test_counts_are_learned_as_by_scikit_learn(self) -> None:
        X, mean = self.rows()
        y = np.random.default_rng(3).poisson(mean)
        found = GDRegressor(loss="poisson", l2=1e-3, scale="none").fit(X, y)
        expected = PoissonRegressor(alpha=1e-3, solver="newton-cholesky", tol=1e-12).fit(X, y)

        np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-6)
        np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-6)

    def test_the_parameters_of_a_loss_are_those_of_the_model(self) -> None:
        X, mean = self.rows()

        assert GDRegressor(loss="tweedie", power=1.2).fit(X, mean).model_.loss_settings == (1.2,)
        assert GDRegressor(loss="huber", delta=0.5).fit(X, mean).model_.loss_settings == pytest.approx((0.5,))
        quantile = GDRegressor(loss="quantile", quantile=0.9).fit(X, mean)
        assert quantile.model_.loss_settings == (0.9,)
        assert np.mean(mean < quantile.predict(X)) == pytest.approx(0.9, abs=0.02)

    def test_a_stream_of_counts_goes_on(self) -> None:
        X, mean = self.rows()
        found = GDRegressor(loss="poisson").partial_fit(X[:200], mean[:200]).partial_fit(X[200:], mean[200:])
        assert np.abs(np.log(found.predict(X)) - np.log(mean)).max() < 0.5
        found = GDRegressor(loss="huber").partial_fit(X[:200], mean[:200]).partial_fit(X[200:], mean[200:])
        assert found.model_.loss_settings[0] > 0.0

    @pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
    def test_a_margin_has_a_decision_and_no_probability(self, loss: str) -> None:
        X, mean = self.rows()
        y = np.where(mean > 1.2, "high", "low")
        found = GDClassifier(loss=loss).fit(X, y)

        assert not hasattr(found, "predict_proba")
        assert hasattr(GDClassifier(), "predict_proba")
        assert found.score(X, y) > 0.95
        assert (found.predict(X) == found.classes_[(found.decision_function(X) > 0).astype(int)]).all()


@pytest.mark.parametrize("labels", [("no", "yes"), (1, 2), (1, 2, 3)])
def test_the_model_of_arrays_knows_classes_by_their_values(labels: tuple[Any, ...], tmp_path: Path) -> None:
    X = np.random.default_rng(6).normal(size=(400, 2))
    weight = np.linspace(0.5, 1.5, 400)
    y = np.array(labels)[np.digitize(X[:, 0], [-0.4, 0.4][: len(labels) - 1])]
    estimator = GDClassifier().fit(X, y, sample_weight=weight)
    assert estimator.model_.classes == labels
    pq.write_table(pa.table({"x0": X[:, 0], "x1": X[:, 1], "y": y}), tmp_path / "data.parquet")
    assert streamgd.evaluate(estimator, tmp_path / "data.parquet").metrics["accuracy"] == estimator.score(X, y)
    streamgd.predict(estimator, tmp_path / "data.parquet", tmp_path / "out")
    written = pq.read_table(tmp_path / "out").column("prediction").to_pylist()
    assert written == estimator.predict(X).tolist()


def test_columns_are_in_the_order_of_the_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    data = pa.table({"m": rng.uniform(0.0, 100.0, 500), "a": rng.normal(size=500)})
    y = np.floor(data["m"].to_numpy() / 25.0) + data["a"].to_numpy()
    whole = data.append_column("y", pa.array(y))
    pq.write_table(whole, tmp_path / "data.parquet")
    for X in (whole, tmp_path):
        estimator = GDRegressor(bins={"m": [25, 50, 75]}).fit(X, target="y")
        assert estimator.feature_names_in_.tolist() == ["m", "a"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arrays have no names
            of_array = estimator.predict(np.column_stack([data["m"], data["a"]]))
        np.testing.assert_array_equal(of_array, estimator.predict(data))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_labels_that_are_moments_are_those_of_the_frame_that_was_learned(unit: str) -> None:
    days = np.datetime64("2024-01-01", unit) + np.random.default_rng(8).integers(0, 3, 300).astype("timedelta64[D]")
    X = pa.table({"day": pa.array(days.astype(f"datetime64[{unit}]")), "x": np.linspace(-1.0, 1.0, 300)})
    y = days.astype("datetime64[D]").astype(int) % 3 + X["x"].to_numpy()
    estimator = GDRegressor(categorical=["day"]).fit(X, y)
    assert estimator.score(X, y) > 0.99
    other = X.set_column(0, "day", X["day"].cast(pa.timestamp("ns" if unit != "ns" else "us")))
    with pytest.raises(ValueError, match="column 'day': found timestamp"):
        estimator.predict(other)
