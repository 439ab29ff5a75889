"""The model as an ONNX graph: one input for each column, as it stands in the data, and one output.

    number ── concat ── (x - shift) / scale, nulls filled ── · theta ─┐
    label  ── LabelEncoder: level -> its coefficient ─────────────────┼── sum ── inverse link ── probability, prediction
    offset ───────────────────────────────────────────────────────────┘

Every input is a tensor of one dimension, the rows: of strings for text, of doubles for everything else (integers,
decimals, truth values as 0 and 1). ONNX knows no null: it is NaN among numbers and ``NULL_TEXT`` among texts. A part of
a date is an input of its own, named as the feature (``when.hour``). All is computed in double precision.

Labels that are dates, times or decimals in the data are texts, those that Arrow makes of them (``2026-01-05``,
``1.50``): ``column.cast(pyarrow.string())``.

Of more than two classes there are such sums for each of them, in the order of ``classes`` among the facts that go with
the graph, and the output has a column for each.

Transforms are part of the graph. A value that a transform cannot take, which ``predict`` refuses, has no meaning here.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from streamgd.data.columns import IS_NULL, NumericColumn
from streamgd.data.kinds import python_values
from streamgd.data.levels import LevelIndex
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.cross import Cross
from streamgd.data.vocabulary import UNKNOWN, CategoricalEncoding
from streamgd.errors import ConfigError
from streamgd.exports.labels import check_told_apart
from streamgd.exports.onnx_cross import at_level, of_cross
from streamgd.exports.onnx_graph import LABELS, NULL_TEXT, Graph, check_texts
from streamgd.exports.onnx_transforms import looked_up, stepped
from streamgd.model import Model

_INVERSE_LINKS = {"identity": "Identity", "logit": "Sigmoid", "log": "Exp", "softmax": "Softmax"}


def exported(model: Model) -> onnx.ModelProto:
    """The graph.

    Raises
    ------
    ConfigError
        A column is hashed, which no operator of ONNX does; or a level cannot be told from another one or from null.
    """
    encoding = model.encoding
    names = [*encoding.columns.feature_names, *encoding.columns.sources]
    names += [column.read_as for column in encoding.columns.numeric]
    if "" in names:
        raise ConfigError("--to onnx: a column has no name, and inputs need one. Name it in the data.")
    graph = Graph(names)
    raws = [_raw_prediction(graph, output) for output in model.outputs()]
    if len(raws) > 1:
        last = graph.constant("last_axis", np.array([1]))
        raws = [graph.add("Concat", [graph.add("Unsqueeze", [raw, last]) for raw in raws], axis=1)]
    output = "probability" if model.loss.has_probability else "prediction"
    if output in graph.inputs:
        raise ConfigError(f"--to onnx: the output is named '{output}', and so is a column. Rename that in the data.")
    graph.add(_INVERSE_LINKS[model.loss.link_name], raws, output, exact_name=True)
    shape = ["rows"] if model.n_outputs == 1 else ["rows", model.n_outputs]
    return graph.model(output, shape, _facts(model))


def to_bytes(exported: onnx.ModelProto) -> bytes:
    """The file."""
    return bytes(exported.SerializeToString())


def _raw_prediction(graph: Graph, model: Model) -> str:
    """The raw prediction of a model with one, ``(n_rows,)``."""
    encoding = model.encoding
    terms = [graph.constant("intercept", model.theta[-1:, 0])]
    if encoding.n_numeric:
        terms.append(_numeric_term(graph, model))
    terms += [_categorical_term(graph, model, column) for column in encoding.categorical]
    if encoding.columns.offset is not None:
        terms.append(graph.input(encoding.columns.offset, TensorProto.DOUBLE))
    if encoding.columns.exposure is not None:
        terms.append(graph.add("Log", [graph.input(encoding.columns.exposure, TensorProto.DOUBLE)]))
    return graph.add("Sum", terms, "raw_prediction")


def _numeric_term(graph: Graph, model: Model) -> str:
    """What the numbers add to the raw prediction, ``(n_rows,)``, in the model's own two steps of scaling."""
    encoding, scaling, n = model.encoding, model.encoding.scaling, model.encoding.n_numeric
    last = graph.constant("last_axis", np.array([1]))
    numbers = [_number(graph, column, encoding.nulls == "impute") for column in encoding.columns.numeric]
    columns = [graph.add("Unsqueeze", [number, last]) for number in numbers]
    features = graph.add("Concat", columns, "numbers", axis=1)
    for operator, values in (
        ("Sub", scaling.shift0), ("Div", scaling.scale0), ("Sub", scaling.mean), ("Div", scaling.deviation),
    ):  # fmt: skip
        features = graph.add(operator, [features, graph.constant("scaling", values)])
    if encoding.nulls == "impute":
        is_null = graph.add("IsNaN", [features])
        features = graph.add("Where", [is_null, graph.constant("fill", scaling.fill), features])
    # Not MatMul: of one column, onnxruntime fuses the scaling into it, in single precision.
    terms = graph.add("Mul", [features, graph.constant("theta", model.theta[:n, 0])])
    return graph.add("ReduceSum", [terms, last], "of_numbers", keepdims=0)


def _number(graph: Graph, column: NumericColumn, imputes: bool) -> str:
    """The values of a feature, doubles ``(n_rows,)``."""
    if column.at is not None:
        number = stepped(graph, graph.input(column.source, TensorProto.DOUBLE), column.steps)
        return at_level(graph, number, column.at, imputes)
    if column.part != IS_NULL:
        return stepped(graph, graph.input(column.read_as, TensorProto.DOUBLE), column.steps)
    is_null = graph.add("IsNaN", [graph.input(column.source, TensorProto.DOUBLE)])
    return graph.add("Cast", [is_null], to=TensorProto.DOUBLE)


def _categorical_term(graph: Graph, model: Model, column: CategoricalEncoding) -> str:
    """What a column of labels adds, ``(n_rows,)``: its coefficients, looked up."""
    name, is_text, made = column.column.name, column.column.values == "string", column.column.made
    if column.hashed:
        raise ConfigError(
            f"--to onnx: column '{name}' is hashed, and ONNX has no operator that does this. Choose --to json, or train"
            f" with more --max-levels."
        )
    coefficients, unseen = column.coefficients(model.theta)
    if isinstance(made, Bins):
        numbers = stepped(graph, graph.input(made.source, TensorProto.DOUBLE), made.steps)
        of_level = dict(zip(python_values(column.levels), coefficients.tolist(), strict=True))
        of_bins = np.array([of_level.get(level, unseen) for level in made.names])
        return looked_up(graph, numbers, made, of_bins, _of_null(model, column, coefficients, unseen))
    if isinstance(made, Cross):
        levels_met = dict(zip(python_values(column.levels), coefficients.tolist(), strict=True))
        of_null = None if model.encoding.nulls == "impute" else np.nan
        return of_cross(graph, made, name, levels_met, unseen, of_null)
    source = graph.input(name, TensorProto.STRING if is_text else TensorProto.DOUBLE)
    known = column.levels.is_valid().to_numpy(zero_copy_only=False)
    levels = python_values(column.levels.drop_null())
    if is_text:
        check_texts(name, levels)
        texts: Any = [*levels, NULL_TEXT]
        keys = helper.make_tensor("keys", TensorProto.STRING, [len(texts)], texts)
    else:
        check_told_apart("onnx", column)
        keys = numpy_helper.from_array(np.array([*levels, np.nan], np.float64), "keys")
    values = np.append(coefficients[known], _of_null(model, column, coefficients, unseen))
    return graph.add(
        "LabelEncoder", [source], f"of_{name}", domain=LABELS, keys_tensor=keys,
        values_tensor=numpy_helper.from_array(values, "values"),
        default_tensor=numpy_helper.from_array(np.array([unseen]), "default"),
    )  # fmt: skip


def _of_null(model: Model, column: CategoricalEncoding, coefficients: np.ndarray, unseen: float) -> float:
    """What null adds; NaN where rows with nulls have no prediction."""
    if model.encoding.nulls != "impute":
        return np.nan
    null = pa.nulls(1, column.levels.type)
    place = int(LevelIndex(column.column.values, column.levels).codes(null, growing=False)[0])
    return unseen if place == UNKNOWN else float(coefficients[place])


def _facts(model: Model) -> dict[str, str]:
    """What is told with the graph."""
    facts = {"loss": model.loss_name, "theta_sha256": model.theta_sha256, "null_text": NULL_TEXT}
    if model.n_outputs > 1:
        facts["classes"] = json.dumps(model.classes)
    elif model.classes is not None:
        facts |= {"negative_class": str(model.classes[0]), "positive_class": str(model.classes[1])}
    return facts
