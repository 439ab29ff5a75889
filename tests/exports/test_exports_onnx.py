"""ONNX: onnxruntime gives the model's predictions, from columns as they stand in the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from exported_models import model, predictions, rows

from streamgd.data.columns import NumericColumn
from streamgd.errors import ConfigError
from streamgd.exports.export import export
from streamgd.model import Model


def session_of(by_model: Model) -> onnxruntime.InferenceSession:
    content = export(by_model, "onnx").SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def as_input(column: pa.ChunkedArray) -> np.ndarray:
    """As the documentation says: null is NaN among numbers, ``<null>`` among texts."""
    if pa.types.is_string(column.type):
        return np.array(["<null>" if value is None else value for value in column.to_pylist()], object)
    return np.array([np.nan if value is None else value for value in column.to_pylist()], np.float64)


def by_onnx(by_model: Model, table: pa.Table) -> np.ndarray:
    session = session_of(by_model)
    (output,) = session.get_outputs()
    assert output.name == ("probability" if by_model.classes else "prediction")
    (found,) = session.run(None, {each.name: as_input(table[each.name]) for each in session.get_inputs()})
    assert found.dtype == np.float64
    return np.asarray(found)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("null_level", [True, False])
@pytest.mark.parametrize("nulls", ["impute", "drop"])
def test_onnxruntime_predicts_as_the_model(loss: str, other: bool, null_level: bool, nulls: str) -> None:
    by_model, table = model(loss, nulls, other, null_level), rows()

    expected = predictions(by_model, table)

    assert np.isnan(expected).any() == (nulls == "drop")
    np.testing.assert_allclose(by_onnx(by_model, table), expected, rtol=1e-12, atol=1e-12)


def test_a_null_is_filled_where_columns_are_not_scaled() -> None:
    by_model = model("squared", scaled=False)

    np.testing.assert_allclose(by_onnx(by_model, rows()), predictions(by_model, rows()), rtol=1e-12)


def test_whether_a_number_is_null_is_seen_from_its_column() -> None:
    by_model = model(indicator=True)

    np.testing.assert_allclose(by_onnx(by_model, rows()), predictions(by_model, rows()), rtol=1e-12)
    assert [each.name for each in session_of(by_model).get_inputs()] == ["x", "string", "int", "float", "bool"]


def test_the_offset_is_a_column_and_none_gives_no_prediction() -> None:
    by_model, table = model(offset="o"), rows()
    values = [None, *table["o"].to_pylist()[1:]]
    table = table.set_column(table.schema.get_field_index("o"), "o", pa.array(values))

    found = by_onnx(by_model, table)

    np.testing.assert_allclose(found, predictions(by_model, table), rtol=1e-12)
    assert np.isnan(found).tolist() == [True] + [False] * (len(table) - 1)


def test_a_part_of_a_date_is_an_input_of_its_own() -> None:
    by_model = model()
    numeric = (NumericColumn("when.hour", "when", "hour"), by_model.encoding.columns.numeric[1])
    columns = replace(by_model.encoding.columns, numeric=numeric)
    by_model = replace(by_model, encoding=replace(by_model.encoding, columns=columns))

    names = [each.name for each in session_of(by_model).get_inputs()]

    assert names == ["when.hour", "k", "string", "int", "float", "bool"]


def test_a_model_of_labels_alone_and_one_of_numbers_alone() -> None:
    encoding, theta = model().encoding, model().theta
    without_numbers = replace(
        encoding,
        columns=replace(encoding.columns, numeric=()),
        scaling=replace(encoding.scaling, **{name: np.empty(0) for name in vars(encoding.scaling)}),
        categorical=tuple(replace(each, first_row=each.first_row - 2) for each in encoding.categorical),
    )
    without_labels = replace(encoding, columns=replace(encoding.columns, categorical=()), categorical=())
    for by_model in (
        Model("squared", theta[2:], without_numbers),
        Model("squared", theta[[0, 1, -1]], without_labels),
    ):
        by_model.encoding.check()
        columns = replace(by_model.encoding.columns, target=None)
        by_model = replace(by_model, encoding=replace(by_model.encoding, columns=columns))
        np.testing.assert_allclose(by_onnx(by_model, rows()), predictions(by_model, rows()), rtol=1e-12)


def test_columns_may_have_the_names_of_what_is_inside() -> None:
    by_model = model("squared")
    names = ("theta", "raw_prediction")
    numeric = tuple(
        replace(column, name=name, source=name)
        for column, name in zip(by_model.encoding.columns.numeric, names, strict=True)
    )
    named = replace(by_model.encoding, columns=replace(by_model.encoding.columns, numeric=numeric))
    table = rows().rename_columns([{"x": "theta", "k": "raw_prediction"}.get(n, n) for n in rows().schema.names])

    found = by_onnx(replace(by_model, encoding=named), table)

    np.testing.assert_allclose(found, predictions(by_model, rows()), rtol=1e-12)


def test_the_graph_tells_its_classes_and_its_model() -> None:
    by_model = model(classes=("no", "yes"))

    facts = session_of(by_model).get_modelmeta().custom_metadata_map

    assert facts["positive_class"] == "yes"
    assert facts["negative_class"] == "no"
    assert facts["theta_sha256"] == by_model.theta_sha256


def with_column(by_model: Model, place: int, **changes: Any) -> Model:
    columns = list(by_model.encoding.categorical)
    columns[place] = replace(columns[place], **changes)
    return replace(by_model, encoding=replace(by_model.encoding, categorical=tuple(columns)))


@pytest.mark.parametrize(
    ("by_model", "message"),
    [
        (with_column(model(), 0, buckets=4, levels=pa.array([], pa.string())), "column 'string' is hashed"),
        (with_column(model(), 0, levels=pa.array(["UA", "<null>", "a", "b"])), "has the level '<null>'"),
        (with_column(model(), 1, levels=pa.array([1, 2**53 + 1, 3, 4])), "beyond 2\\*\\*53"),
    ],
)
def test_what_onnx_has_no_words_for_is_refused(by_model: Model, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(by_model, "onnx")


def test_a_column_named_as_the_output_is_refused() -> None:
    by_model = model(offset="probability")

    with pytest.raises(ConfigError, match="output is named 'probability'"):
        export(by_model, "onnx")


def test_all_flights_are_predicted_as_by_the_model(flights_model: Model, all_flights: pa.Table) -> None:
    expected = predictions(flights_model, all_flights)

    assert not np.isnan(expected).any()
    np.testing.assert_allclose(by_onnx(flights_model, all_flights), expected, rtol=0, atol=1e-12)
