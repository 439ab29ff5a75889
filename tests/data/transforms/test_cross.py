"""Crosses: one level for each combination, told apart whatever the levels are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data.columns import CategoricalColumn, Columns
from streamgd.data.derived import level_codes, numbers_of
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.cross import Cross, Part, most_frequent, taken_apart

hostile = st.none() | st.sampled_from(["null", ":", "\\", "\\null", "a:b", "b:", "a", "", "\\:", "ü\n"]) | st.text()


def crossed(columns: dict[str, pa.Array], *parts: Part) -> pa.DictionaryArray:
    column = CategoricalColumn("cross", "string", made=Cross(parts))
    return level_codes(pa.record_batch(columns), column)


@given(st.lists(st.tuples(hostile, hostile, hostile), min_size=1, max_size=40))
def test_combinations_are_told_apart_and_taken_apart(rows: list[tuple[str | None, ...]]) -> None:
    columns = {name: pa.array(values, pa.string()) for name, values in zip("abc", zip(*rows, strict=True), strict=True)}

    found = crossed(columns, *(Part(name, "string") for name in "abc")).to_pylist()

    assert [tuple(taken_apart(text)) for text in found] == rows
    assert len(set(found)) == len(set(rows))


@pytest.mark.parametrize("n_levels", [3, 3_000])
def test_only_combinations_that_occur_are_levels(n_levels: int) -> None:
    """Few levels go by a table, many by sorting."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, n_levels, 500), random.integers(0, n_levels, 500) * 0.5
    columns = {"a": pa.array(first), "b": pa.array(second, mask=random.random(500) < 0.1)}

    found = crossed(columns, Part("a", "int"), Part("b", "float"))

    pairs = list(zip(columns["a"].to_pylist(), columns["b"].to_pylist(), strict=True))
    assert len(found.dictionary) == len(set(pairs))
    text = {None: "null", **{value: f"{value:g}" for _, value in pairs if value is not None}}
    assert found.to_pylist() == [f"{a}:{text[b]}" for a, b in pairs]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["x", "y", "z"])), min_size=1))
def test_rows_with_a_reference_are_one_level(rows: list[tuple[str | None, str]]) -> None:
    columns = {name: pa.array(values, pa.string()) for name, values in zip("ab", zip(*rows, strict=True), strict=True)}
    made = Cross((Part("a", "string"), Part("b", "string")), ("b", "y"))

    found = level_codes(pa.record_batch(columns), CategoricalColumn("a:b", "string", made=made))

    expected = ["b:y" if a == "b" or b == "y" else f"{a or 'null'}:{b}" for a, b in rows]
    assert found.to_pylist() == expected
    assert len(found.dictionary) == len(set(expected))


def test_bins_truth_values_and_zeros_with_a_sign_are_crossed() -> None:
    columns = {"x": pa.array([5.0, 25.0, None]), "b": pa.array([True, False, True]), "z": pa.array([0.0, -0.0, 1.5])}

    found = crossed(columns, Part("x", "number", Bins("x", (18.0,))), Part("b", "bool"), Part("z", "float"))

    assert found.to_pylist() == ["< 18:true:0", ">= 18:false:0", "null:true:1.5"]


def test_zeros_with_a_sign_are_one_level_in_any_company() -> None:
    """The most frequent level is that of both zeros, and a row has the same level whatever rows are beside it."""
    zeros = [1.5, 1.5, 1.5, -0.0, 0.0, -0.0, 0.0, None]
    batch = pa.record_batch({"z": pa.array(zeros), "a": pa.array(list("xxyxxxyy"))})
    parts = (Part("z", "float"), Part("a", "string"))
    references = tuple(most_frequent(part, batch, numbers_of(batch)) for part in parts)
    column = CategoricalColumn("z:a", "string", made=Cross(parts, references))

    together = level_codes(batch, column).to_pylist()

    assert references == ("0", "x")
    assert together == ["0:x", "0:x", "1.5:y", "0:x", "0:x", "0:x", "0:x", "null:y"]
    assert together == [level_codes(batch.slice(row, 1), column).to_pylist()[0] for row in range(len(zeros))]
    whole = crossed({"z": batch["z"], "a": batch["a"]}, *parts)
    assert len(whole.dictionary) == len(set(whole.dictionary.to_pylist())) == 5


def test_a_cross_comes_back_as_it_was_stored() -> None:
    made = Cross((Part("a", "string"), Part("x", "number", Bins("x", (1.0,), (Clip(0.0, None),)))), ("null", "< 1"))
    columns = Columns((), (CategoricalColumn("a:x", "string", made=made), CategoricalColumn("a", "string")))

    columns.check()
    assert Columns.from_json(columns.to_json()) == columns
    assert columns.sources == ["a", "x"]


@pytest.mark.parametrize(
    "parts", [(Part("a", "int"),), (Part("a", "int"), Part("a", "int")), (Part("a", "int"), Part("b", "number"))]
)
def test_a_cross_that_makes_no_sense_is_noticed(parts: Any) -> None:
    with pytest.raises(ValueError, match="cross"):
        Columns((), (CategoricalColumn("cross", "string", made=Cross(parts)),)).check()
