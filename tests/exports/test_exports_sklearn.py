"""scikit-learn: the Pipeline gives the model's predictions, from data frames as they come."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported_models import model, predictions, rows
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from streamgd.errors import ConfigError
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.training.train import train


def by_sklearn(by_model: Model, frame: pd.DataFrame) -> np.ndarray:
    pipeline = export(by_model, "sklearn")
    check_is_fitted(pipeline)
    if by_model.classes is None:
        return np.asarray(pipeline.predict(frame))
    return np.asarray(pipeline.predict_proba(frame)[:, 1])


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Integers and truth values with nulls as pandas' own types for them."""
    kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=kinds.get)


def plain_frame_of(table: pa.Table) -> pd.DataFrame:
    """Truth values with nulls as True, False and None; integers with nulls as doubles."""
    return table.to_pandas()


FRAMES = pytest.mark.parametrize("as_frame", [frame_of, plain_frame_of])
AsFrame = Callable[[pa.Table], pd.DataFrame]


@FRAMES
@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("null_level", [True, False])
def test_the_pipeline_predicts_as_the_model(loss: str, other: bool, null_level: bool, as_frame: AsFrame) -> None:
    by_model = model(loss, other=other, null_level=null_level)

    found = by_sklearn(by_model, as_frame(rows()))

    np.testing.assert_allclose(found, predictions(by_model, rows()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"clip": "x=0:2e6"}, {"null_indicators": True}], ids=str)
def test_float32_far_from_zero_is_no_less_exact(options: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    far = pa.array((x + 1e6).astype(np.float32), mask=rng.random(500) < 0.1)
    table = pa.table({"x": far, "y": x + rng.normal(size=500)})
    pq.write_table(table, tmp_path / "data.parquet")
    trained = train(str(tmp_path / "data.parquet"), "y", run=tmp_path / "run", method="batch", **options).model

    found = by_sklearn(trained, table.to_pandas())

    np.testing.assert_allclose(found, predictions(trained, table), rtol=0, atol=1e-9)


def test_labels_without_nulls_are_known_in_plain_types() -> None:
    table = rows().drop_null()

    found = by_sklearn(model(), plain_frame_of(table))

    assert table.to_pandas().dtypes[["int", "bool"]].tolist() == [np.int64, np.bool_]
    np.testing.assert_allclose(found, predictions(model(), table), atol=1e-6)


@pytest.mark.parametrize("missing", [None, np.nan])
def test_null_texts_are_known_in_each_spelling(missing: object) -> None:
    frame = frame_of(rows())
    frame["string"] = pd.Series([missing if pd.isna(text) else text for text in frame["string"]], dtype=object)

    found = by_sklearn(model(), frame)

    np.testing.assert_allclose(found, predictions(model(), rows()), atol=1e-6)


def test_a_null_is_filled_where_columns_are_not_scaled() -> None:
    by_model = model("squared", scaled=False)

    np.testing.assert_allclose(by_sklearn(by_model, frame_of(rows())), predictions(by_model, rows()), atol=1e-6)


@FRAMES
def test_whether_a_number_is_null_is_seen_from_its_column(as_frame: AsFrame) -> None:
    by_model = model(indicator=True)

    np.testing.assert_allclose(by_sklearn(by_model, as_frame(rows())), predictions(by_model, rows()), atol=1e-6)


@FRAMES
@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, None, False] * 20),
        pa.array([True, False, False] * 20),
        pa.array([3, None, -2] * 20),
        pa.array([3, 1, -2] * 20),
        pa.array([Decimal("1.5"), None, Decimal("-2.0")] * 20),
        pa.array([None] * 60, pa.bool_()),
    ],
    ids=["bool with nulls", "bool", "integer with nulls", "integer", "decimal with nulls", "nothing but nulls"],
)
def test_whether_a_column_of_any_type_is_null_is_seen(values: pa.Array, as_frame: AsFrame) -> None:
    by_model, table = model("squared", indicator=True), rows(60).set_column(0, "x", values)

    found = by_sklearn(by_model, as_frame(table))

    np.testing.assert_allclose(found, predictions(by_model, table), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        [date(2026, 1, 5), None, date(1999, 12, 31)],
        [Decimal("1.50"), None, Decimal("-2.25")],
        [datetime(2026, 1, 5, 6, 7, 8), None, datetime(1999, 12, 31)],
    ],
    ids=["date", "decimal", "timestamp"],
)
def test_dates_and_decimals_that_are_labels_are_known_by_their_text(values: list[object]) -> None:
    by_model, column = model(), pa.array([*values, values[0]] * 15)
    categorical = list(by_model.encoding.categorical)
    categorical[0] = replace(categorical[0], levels=pa.array(values).cast(pa.string()))
    categorical[1:] = [replace(column, first_row=column.first_row - 1) for column in categorical[1:]]
    encoding = replace(by_model.encoding, categorical=tuple(categorical))
    by_model = replace(by_model, theta=np.delete(by_model.theta, 3, axis=0), encoding=encoding)
    by_model.encoding.check()
    table = rows(60).set_column(2, "string", column)
    as_text = table.set_column(2, "string", column.cast(pa.string()))

    found = by_sklearn(by_model, as_text.to_pandas())

    np.testing.assert_allclose(found, predictions(by_model, table), atol=1e-6)


def test_the_offset_is_a_column() -> None:
    by_model = model("squared", offset="o")

    np.testing.assert_allclose(by_sklearn(by_model, frame_of(rows())), predictions(by_model, rows()), atol=1e-6)


def test_a_column_whose_levels_are_all_unknown_adds_what_they_share() -> None:
    by_model, none = model(), pa.array([], pa.string())
    first, *others = by_model.encoding.categorical
    removed = first.n_rows - 1
    categorical = (replace(first, levels=none), *(replace(c, first_row=c.first_row - removed) for c in others))
    by_model = replace(
        by_model, encoding=replace(by_model.encoding, categorical=categorical), theta=by_model.theta[removed:]
    )
    by_model.encoding.check()

    np.testing.assert_allclose(by_sklearn(by_model, frame_of(rows())), predictions(by_model, rows()), atol=1e-6)


@pytest.mark.parametrize("classes", [("no", "yes"), ("yes", "no"), (False, True), (2, 1)])
def test_the_class_is_that_of_the_larger_probability(classes: tuple[object, object]) -> None:
    by_model = model(classes=classes)

    found = export(by_model, "sklearn").predict(frame_of(rows()))

    expected = [classes[int(probability > 0.5)] for probability in predictions(by_model, rows())]
    assert found.tolist() == expected


def test_the_pipeline_is_made_of_parts_that_can_be_cloned() -> None:
    clone(export(model(), "sklearn"))


def test_a_file_is_read_without_streamgd(tmp_path: Path) -> None:
    path, data, out = tmp_path / "model.joblib", tmp_path / "rows.pkl", tmp_path / "out.npy"
    export(model(), "sklearn", path)
    frame_of(rows()).to_pickle(data)
    script = (
        "import sys; sys.modules['streamgd'] = None\n"
        "import joblib, numpy, pandas\n"
        f"found = joblib.load({str(path)!r}).predict_proba(pandas.read_pickle({str(data)!r}))[:, 1]\n"
        f"numpy.save({str(out)!r}, found)"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)

    np.testing.assert_allclose(np.load(out), predictions(model(), rows()), atol=1e-6)
    assert (joblib.load(path).predict(frame_of(rows())) == (np.load(out) > 0.5)).all()


def test_what_scikit_learn_has_no_words_for_is_refused() -> None:
    by_model = model()
    hashed = replace(by_model.encoding.categorical[0], buckets=4, levels=pa.array([], pa.string()))
    columns = (hashed, *by_model.encoding.categorical[1:])
    with pytest.raises(ConfigError, match="column 'string' is hashed"):
        export(replace(by_model, encoding=replace(by_model.encoding, categorical=columns)), "sklearn")
    with pytest.raises(ConfigError, match="--nulls drop"):
        export(model(nulls="drop"), "sklearn")
    wide = replace(by_model.encoding.categorical[1], levels=pa.array([1, -(2**53) - 1, 3, 4]))
    columns = (by_model.encoding.categorical[0], wide, *by_model.encoding.categorical[2:])
    with pytest.raises(ConfigError, match=r"--to sklearn: column 'int' has the level -9007199254740993, .* 2\*\*53"):
        export(replace(by_model, encoding=replace(by_model.encoding, categorical=columns)), "sklearn")


def test_all_flights_are_predicted_as_by_the_model(flights_model: Model, all_flights: pa.Table) -> None:
    expected = predictions(flights_model, all_flights)

    np.testing.assert_allclose(by_sklearn(flights_model, all_flights.to_pandas()), expected, rtol=0, atol=1e-12)
