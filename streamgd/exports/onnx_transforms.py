"""Transforms of columns as operators of ONNX, in double precision; NaN, which stands for null, stays NaN."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.cycle import Cycle
from streamgd.data.transforms.log import Log
from streamgd.data.transforms.numbers import Steps
from streamgd.data.transforms.spline import Spline
from streamgd.errors import ConfigError
from streamgd.exports.onnx_graph import Graph


def stepped(graph: Graph, values: str, steps: Steps) -> str:
    """The values after the steps, ``(n_rows,)``."""
    for step in steps:
        if isinstance(step, Clip):
            values = _clipped(graph, values, step)
        elif isinstance(step, Log):
            values = graph.add("Log", [values])
        elif isinstance(step, Cycle):
            values = _on_circle(graph, values, step)
        elif isinstance(step, Spline):
            values = _of_spline(graph, values, step)
        else:
            raise ConfigError(f"--to onnx: there is no operator for the transform '{step.kind}'. Choose --to json.")
    return values


def _clipped(graph: Graph, values: str, clip: Clip) -> str:
    # Not the operator Clip: what it makes of NaN is not said.
    for operator, bound in (("Less", clip.low), ("Greater", clip.high)):
        if bound is not None:
            limit = graph.constant("bound", np.array([bound]))
            values = graph.add("Where", [graph.add(operator, [values, limit]), limit, values])
    return values


def _on_circle(graph: Graph, values: str, cycle: Cycle) -> str:
    # The cosine is the sine a quarter of a circle later; onnxruntime has no other one in double precision.
    angle = graph.add("Mul", [values, graph.constant("factor", np.array([cycle.factor]))])
    start = graph.constant("start", np.array([np.pi / 2.0 if cycle.cosine else 0.0]))
    return graph.add("Sin", [graph.add("Add", [angle, start])])


def _of_spline(graph: Graph, values: str, spline: Spline) -> str:
    """As the kernel ``piecewise_cubic`` does it: the piece of each value, and the polynomial there."""
    last = graph.constant("last_axis", np.array([1]))
    column = graph.add("Unsqueeze", [values, last])
    reached = graph.add("GreaterOrEqual", [column, graph.constant("knots", np.array([spline.knots]))])
    counted = graph.add("Cast", [reached], to=TensorProto.INT64)
    piece = graph.add("ReduceSum", [counted, last], keepdims=0)
    origin, width, *coefficients = (
        graph.add("Gather", [graph.constant("pieces", numbers), piece]) for numbers in spline.pieces.T
    )
    t = graph.add("Div", [graph.add("Sub", [values, origin]), width])
    found = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        found = graph.add("Add", [graph.add("Mul", [found, t]), coefficient])
    return found


def looked_up(graph: Graph, values: str, bins: Bins, of_bins: np.ndarray, of_null: float) -> str:
    """The coefficient of the bin of each value, ``(n_rows,)``."""
    found = graph.constant("of_bin", of_bins[:1])
    for edge, coefficient in zip(bins.edges, of_bins[1:], strict=True):
        begins = graph.add("GreaterOrEqual", [values, graph.constant("edge", np.array([edge]))])
        found = graph.add("Where", [begins, graph.constant("of_bin", np.array([coefficient])), found])
    is_null = graph.add("IsNaN", [values])
    return graph.add("Where", [is_null, graph.constant("of_null", np.array([of_null])), found])
