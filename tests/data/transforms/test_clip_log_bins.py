"""Clip, log and bins, held against numpy and pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn
from streamgd.data.derived import NumberValues, level_codes
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.log import Log

finite = st.floats(-1e300, 1e300)


@given(st.lists(finite | st.none(), max_size=20), st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1]))
def test_clip_and_log_are_numpys_and_keep_nulls(values: list[float | None], bounds: tuple[float, float]) -> None:
    column = NumericColumn("log(x)", "x", steps=(Clip(*bounds), Log()))
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)

    found = NumberValues(pa.record_batch({"x": pa.array(values, pa.float64())})).of(column)

    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.log(np.clip(numbers, *bounds))
    np.testing.assert_array_equal(found, np.where(np.isfinite(expected), expected, np.nan))


@given(
    st.lists(st.integers(-5, 30).map(float) | st.floats(-5, 30) | st.none(), min_size=1, max_size=30),
    st.lists(st.integers(-4, 25).map(float), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_bins_are_those_of_pandas_cut(values: list[float | None], edges: list[float]) -> None:
    column = CategoricalColumn("x", "string", made=Bins("x", tuple(edges)))
    batch = pa.record_batch({"x": pa.array(values, pa.float64())})

    found = level_codes(batch, column)

    bounds = [-np.inf, *edges, np.inf]
    cut = pd.cut(np.array(values, np.float64), bounds, right=False, labels=Bins("x", tuple(edges)).names)
    assert found.to_pylist() == [None if pd.isna(level) else level for level in cut]


def test_names_of_bins_tell_edges_apart() -> None:
    assert Bins("x", (0.1, 0.1 + 1e-17 + 2e-17, 1e6)).names[-1] == ">= 1e+06"
    edges = (1.0000001, 1.0000002)
    assert Bins("x", edges).names == ["< 1.0000001", "[1.0000001, 1.0000002)", ">= 1.0000002"]


def test_columns_come_back_as_they_were_stored() -> None:
    binned = CategoricalColumn("k", "string", made=Bins("k", (1.0, 2.5), (Clip(0.0, None),)))
    columns = Columns(
        (NumericColumn("log(x)", "x", steps=(Clip(None, 3.0), Log())), NumericColumn("z", "z")),
        (binned, CategoricalColumn("c", "int")),
    )

    stored = columns.to_json()

    assert Columns.from_json(stored) == columns
    assert "steps" not in stored["numeric"][1]  # as builds without transforms wrote it
    assert "made" not in stored["categorical"][1]
    assert columns.sources == ["x", "z", "k", "c"]


@pytest.mark.parametrize(
    "made",
    [
        NumericColumn("x", "x", steps=(Clip(None, None),)),
        NumericColumn("x", "x", steps=(Clip(2.0, 1.0),)),
        NumericColumn("x", "x", steps=(Clip(float("nan"), 1.0),)),
        CategoricalColumn("x", "string", made=Bins("x", ())),
        CategoricalColumn("x", "string", made=Bins("x", tuple(map(float, range(65_536))))),
        CategoricalColumn("x", "string", made=Bins("x", (2.0, 1.0))),
        CategoricalColumn("x", "string", made=Bins("x", (float("inf"),))),
    ],
)
def test_numbers_that_make_no_sense_are_noticed(made: NumericColumn | CategoricalColumn) -> None:
    columns = Columns((made,), ()) if isinstance(made, NumericColumn) else Columns((), (made,))

    with pytest.raises(ValueError, match=r"bound|edge"):
        columns.check()


@pytest.mark.parametrize("stored", [{"kind": "sine"}, {"kind": "bins", "source": "x", "edges": [1.0], "steps": []}])
def test_a_transform_of_a_later_build_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a transform of kind"):
        NumericColumn.from_json({"name": "x", "source": "x", "part": None, "integer": False, "steps": [stored]})
