"""A graph of ONNX in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamgd.errors import ConfigError
from streamgd.version import version

#: What stands for null in a column of text.
NULL_TEXT = "<null>"
#: The domain of LabelEncoder, which has doubles from version 4 on: ONNX 1.15, onnxruntime 1.17.
LABELS = "ai.onnx.ml"
_OPSETS = (("", 17), (LABELS, 4))
_IR_VERSION = 9


def check_texts(name: str, levels: Sequence[str]) -> None:
    """Refuse a column with the level that stands for null."""
    if NULL_TEXT in levels:
        raise ConfigError(
            f"--to onnx: column '{name}' has the level {NULL_TEXT!r}, which stands for null in ONNX. Rename it in the"
            f" data, or choose --to json."
        )


class Graph:
    """A graph in the making; names of values inside are kept apart from those of columns.

    Attributes
    ----------
    inputs : dict
        Name of each column that is read, with its description.
    """

    def __init__(self, columns: Sequence[str]):
        self.inputs: dict[str, Any] = {}
        self._taken = {*columns, "probability", "prediction"}
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def input(self, column: str, element_type: int) -> str:
        """A column, as a tensor of rows."""
        self.inputs[column] = helper.make_tensor_value_info(column, element_type, ["rows"])
        return column

    def constant(self, name: str, values: np.ndarray) -> str:
        name = self._new_name(name)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(
        self, operator: str, inputs: Sequence[str], name: str | None = None, exact_name: bool = False, **attributes: Any
    ) -> str:
        """A node; gives the name of its value."""
        name = name or operator.lower()
        name = name if exact_name else self._new_name(name)
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def model(self, output: str, shape: list[Any], facts: dict[str, str]) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(output, TensorProto.DOUBLE, shape)]
        graph = helper.make_graph(self._nodes, "streamgd", list(self.inputs.values()), outputs, self._constants)
        opsets = [helper.make_opsetid(*opset) for opset in _OPSETS]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="streamgd")
        model.producer_version = version()
        helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        return model

    def _new_name(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
