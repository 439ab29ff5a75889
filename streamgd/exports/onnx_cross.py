"""Crosses of columns as operators of ONNX: the place of each part's level, and a table of coefficients by these."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from streamgd.data.transforms.at_level import AtLevel
from streamgd.data.transforms.cross import Cross, Part, taken_apart
from streamgd.errors import ConfigError
from streamgd.exports.onnx_graph import LABELS, NULL_TEXT, Graph, check_texts
from streamgd.exports.onnx_transforms import looked_up, stepped

MOST_COMBINATIONS = 10_000_000


def of_cross(
    graph: Graph, cross: Cross, name: str, levels: dict[str, float], unseen: float, of_null: float | None
) -> str:
    """What a cross adds, ``(n_rows,)``.

    Parameters
    ----------
    levels : dict
        The coefficient of each combination.
    unseen : float
        That of all others.
    of_null : float or None
        That of every combination with a null; None: its own.

    Raises
    ------
    ConfigError
        A level cannot be told from another one or from null, or there would be too many combinations.
    """
    taken = [taken_apart(text) for text in levels]
    taken += [taken_apart(text) for text in (":".join(cross.references),) if cross.references]
    # The last place of a part is that of all levels that are not listed, the one before that of null.
    known = [list(dict.fromkeys(level for level in part if level is not None)) for part in zip(*taken, strict=True)]
    shape = [len(part) + 2 for part in known]
    if prod(shape) > MOST_COMBINATIONS:
        raise ConfigError(
            f"--to onnx: the cross '{name}' would be a table of {prod(shape):,} combinations, more than"
            f" {MOST_COMBINATIONS:,}. Choose --to json."
        )
    table = np.full(shape, unseen)
    place_of: list[dict[str | None, int]] = [
        {level: place for place, level in enumerate([*listed, None])} for listed in known
    ]
    for combination, coefficient in zip(taken, levels.values(), strict=False):
        table[tuple(places[level] for places, level in zip(place_of, combination, strict=True))] = coefficient
    if cross.references:
        of_references = tuple(places[level] for places, level in zip(place_of, taken[-1], strict=True))
        for axis, place in enumerate(of_references):
            np.moveaxis(table, axis, 0)[place] = table[of_references]
    for axis, listed in enumerate(known) if of_null is not None else ():
        np.moveaxis(table, axis, 0)[len(listed)] = of_null
    total = graph.constant("start", np.array([0.0]))
    for part, listed in zip(cross.parts, known, strict=True):
        size = graph.constant("size", np.array([len(listed) + 2.0]))
        total = graph.add("Add", [graph.add("Mul", [total, size]), _place(graph, part, listed)])
    places = graph.add("Cast", [total], to=TensorProto.INT64)
    return graph.add("Gather", [graph.constant("of_combinations", table.ravel()), places], f"of_{name}")


def at_level(graph: Graph, number: str, at: AtLevel, nulls_count: bool) -> str:
    """A number that counts in rows of one level, ``(n_rows,)``.

    Parameters
    ----------
    nulls_count : bool
        Else a null in number or level gives NaN.
    """
    (level,) = taken_apart(at.text)
    listed = [] if level is None else [level]
    if at.part.values == "int" and level is not None and abs(int(level)) >= 2**53:
        raise ConfigError(
            f"--to onnx: column '{at.part.source}' has levels beyond 2^53, where doubles do not tell all apart. Choose"
            f" --to json."
        )
    place = _place(graph, at.part, listed)
    here = graph.add("Equal", [place, graph.constant("here", np.array([0.0]))])
    zero = graph.constant("elsewhere", np.array([0.0]))
    if nulls_count:
        is_null = graph.add("IsNaN", [number])
        number = graph.add("Where", [is_null, graph.constant("of_null", np.array([at.null])), number])
        return graph.add("Where", [here, number, zero])
    counted = graph.add("Where", [here, number, graph.add("Mul", [number, zero])])
    is_null = graph.add("Equal", [place, graph.constant("null", np.array([float(len(listed))]))])
    return graph.add("Where", [is_null, graph.constant("of_null", np.array([np.nan])), counted])


def _place(graph: Graph, part: Part, listed: list[str]) -> str:
    """The place of each row's level among those listed, doubles ``(n_rows,)``."""
    of_null, others = float(len(listed)), float(len(listed) + 1)
    if part.bins is not None:
        of_bins = [float(listed.index(name)) if name in listed else others for name in part.bins.names]
        numbers = stepped(graph, graph.input(part.source, TensorProto.DOUBLE), part.bins.steps)
        return looked_up(graph, numbers, part.bins, np.array(of_bins), of_null)
    keys: Any
    if part.values == "string":
        check_texts(part.source, listed)
        texts = [*listed, NULL_TEXT]
        source = graph.input(part.source, TensorProto.STRING)
        keys = helper.make_tensor("keys", TensorProto.STRING, [len(texts)], texts)
    else:
        labels = [_number(text) for text in listed]
        if len(set(labels)) < len(labels):
            raise ConfigError(
                f"--to onnx: column '{part.source}' has levels that are the same as doubles. Choose --to json."
            )
        source = graph.input(part.source, TensorProto.DOUBLE)
        keys = numpy_helper.from_array(np.array([*labels, np.nan]), "keys")
    values = np.append(np.arange(float(len(listed))), of_null)
    return graph.add(
        "LabelEncoder", [source], "place", domain=LABELS, keys_tensor=keys,
        values_tensor=numpy_helper.from_array(values, "values"),
        default_tensor=numpy_helper.from_array(np.array([others]), "default"),
    )  # fmt: skip


def _number(text: str) -> float:
    return float({"true": 1, "false": 0}.get(text, text))
