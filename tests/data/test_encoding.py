"""The final encoding: rows for base levels come and go without changing a prediction; records become blocks."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.blocks import BLOCK_BYTES, BLOCK_ROWS, RecordLayout
from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoder import Encoder, Origin
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.scaler import Scaling
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.objective.objective import raw_prediction

CARRIER, ORIGIN = CategoricalColumn("carrier", "string"), CategoricalColumn("origin", "string")
ROUTE, EMPTY = CategoricalColumn("route", "string"), CategoricalColumn("empty", "string")


def an_encoding(other: bool, shift: float = 0.0, scale: float = 1.0) -> Encoding:
    """Two numbers, columns of 3 and 2 levels, a hashed one, and one of which no row has a level."""
    columns = Columns(
        (NumericColumn("a", "a"), NumericColumn("b", "b")), (CARRIER, ROUTE, ORIGIN, EMPTY), TargetColumn("y")
    )
    scaling = Scaling(
        np.array([1.0, -2.0]), np.array([2.0, 0.5]), np.array([0.3, 0.1]), np.array([1.5, 0.7]), np.array([0.0, 0.0])
    )
    categorical, first_row = [], 2
    levels: list[tuple[list[str | None], int]] = [(["UA", "AA", None], 0), ([], 8), (["JFK", "LGA"], 0), ([], 0)]
    for column, (each, buckets) in zip(columns.categorical, levels, strict=True):
        encoded = CategoricalEncoding(column, first_row, pa.array(each, pa.string()), other and not buckets, buckets)
        categorical.append(encoded)
        first_row += encoded.n_rows
    return Encoding(columns, scaling, tuple(categorical), "impute", shift, scale)


def some_rows(n: int, seed: int) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)

    def pick(values: list[str | None]) -> pa.Array:
        return pa.array([values[i] for i in rng.integers(0, len(values), n)], pa.string())

    return pa.record_batch({
        "a": pa.array(rng.normal(size=n)), "b": pa.array(rng.normal(size=n)),
        "carrier": pick(["UA", "AA", None, "new"]), "route": pick([f"r{i}" for i in range(30)]),
        "origin": pick(["JFK", "LGA", "EWR"]), "empty": pick([None, "?"]), "y": pa.array(rng.normal(size=n)),
    })  # fmt: skip


def predicted(encoding: Encoding, theta: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
    layout = RecordLayout(2, 4, "float64", False, False, False)
    encoder = Encoder.of_encoding(encoding, layout)
    records = layout.new_records(batch.num_rows)
    encoder.encode(batch, Origin("f", 0, 0, 0), layout.places(records))
    block = Finisher(layout, encoding, encoder.vocabularies).finish(records, np.arange(batch.num_rows))
    return raw_prediction(block, theta)


def by_hand(encoding: Encoding, theta: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
    """``X @ theta`` by the names of the rows, in plain Python; route is left to the names of its buckets."""
    coefficient = dict(zip(encoding.row_names(), theta[:, 0].tolist(), strict=True))
    raw = np.full(batch.num_rows, coefficient["(intercept)"])
    for name, shift, scale in (("a", 1.0 + 2.0 * 0.3, 2.0 * 1.5), ("b", -2.0 + 0.5 * 0.1, 0.5 * 0.7)):
        raw += coefficient[name] * (batch[name].to_numpy() - shift) / scale
    for column in encoding.categorical:
        for row, level in enumerate(batch[column.column.name].to_pylist()):
            if column.hashed:
                value = 0xCBF29CE484222325
                for byte in level.encode():
                    value = (value ^ byte) * 0x100000001B3 % 2**64
                raw[row] += coefficient[f"route#{value % 8}"]
                continue
            name = f"{column.column.name}={'null' if level is None else level}"
            if level not in column.levels.to_pylist():
                name = f"{column.column.name}=(other)"
            raw[row] += coefficient.get(name, 0.0)
    return raw


@pytest.mark.parametrize("other", [True, False])
def test_predictions_are_those_of_the_named_coefficients(other: bool) -> None:
    encoding, batch = an_encoding(other), some_rows(200, 1)
    theta = np.random.default_rng(2).normal(size=(encoding.n_dof, 1))

    np.testing.assert_allclose(predicted(encoding, theta, batch), by_hand(encoding, theta, batch), rtol=1e-12)


@settings(max_examples=25)
@given(other=st.booleans(), seed=st.integers(0, 1000))
def test_taking_the_rows_of_base_levels_away_changes_no_prediction(other: bool, seed: int) -> None:
    narrow = an_encoding(other)
    wide, batch = narrow.with_base_rows(), some_rows(60, seed)
    theta = np.random.default_rng(seed).normal(size=(wide.n_dof, 1))
    again, moved = wide.without_base_rows(theta)

    assert wide.n_dof == narrow.n_dof + 2
    assert again == narrow or again.state().keys() == narrow.state().keys()
    assert again.row_names() == narrow.row_names()
    np.testing.assert_allclose(predicted(again, moved, batch), predicted(wide, theta, batch), rtol=1e-9, atol=1e-12)


def test_rows_for_base_levels_leave_predictions_alone_while_they_are_zero() -> None:
    narrow, batch = an_encoding(True), some_rows(60, 3)
    wide = narrow.with_base_rows()
    theta = np.random.default_rng(3).normal(size=(narrow.n_dof, 1))
    coefficient = dict(zip(narrow.row_names(), theta[:, 0], strict=True))
    # A column none of whose rows has a level has an intercept in "other" alone, and no base level.
    wider = np.array([[coefficient.get(name, 0.0)] for name in wide.row_names()])

    np.testing.assert_allclose(predicted(wide, wider, batch), predicted(narrow, theta, batch), rtol=1e-12)


def test_the_ranges_are_those_of_columns_whose_base_level_has_a_row() -> None:
    wide = an_encoding(True).with_base_rows()
    names = wide.row_names()
    ranges = wide.level_ranges()

    assert [names[start:stop] for start, stop in ranges] == [
        ["carrier=UA", "carrier=AA", "carrier=null", "carrier=(other)"],
        [],
        ["origin=JFK", "origin=LGA", "origin=(other)"],
        [],
    ]
    assert (an_encoding(True).level_ranges() == -1).all()
    assert len(names) == wide.n_dof


def test_an_encoding_comes_back_from_its_state() -> None:
    encoding = an_encoding(True, 3.0, 0.25).with_base_rows()
    again = Encoding.from_state(encoding.state())

    assert again.categorical == encoding.categorical
    assert again.columns == encoding.columns
    assert (again.nulls, again.target_shift, again.target_scale) == ("impute", 3.0, 0.25)
    for name in ("shift0", "scale0", "mean", "deviation", "fill"):
        np.testing.assert_array_equal(getattr(again.scaling, name), getattr(encoding.scaling, name))


def test_a_column_that_had_too_many_levels_is_hashed_from_the_start_afterwards() -> None:
    """Its description still says categorical; the frozen vocabulary must find the buckets all the same."""
    encoding = an_encoding(False)
    assert not encoding.categorical[1].column.hashed
    assert [vocabulary.hashed for vocabulary in encoding.vocabularies()] == [False, True, False, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("extras", [(False, False, False), (True, False, True), (False, True, False), (True,) * 3])
@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 2), (28, 5)])
def test_the_fields_of_a_record_do_not_overlap(
    dtype: str, extras: tuple[bool, bool, bool], shape: tuple[int, int]
) -> None:
    layout = RecordLayout(*shape, dtype, *extras)
    owner = np.zeros(layout.record_bytes, int)
    itemsize = layout.feature_type.itemsize
    fields = [(0, 8)]
    positions = (layout.weight_position, layout.offset_position, layout.row_number_position)
    fields += [(8 * position, 8) for position, has in zip(positions, extras, strict=True) if has]
    fields += [(itemsize * layout.features_position, itemsize * shape[0]), (4 * layout.codes_position, 4 * shape[1])]
    fields += [(4 * layout.slot_position, 4)]
    for start, size in fields:
        owner[start : start + size] += 1
        assert start + size <= layout.record_bytes

    assert owner.max() == 1
    assert (owner == 0).sum() < 8
    assert 1 <= layout.block_rows <= BLOCK_ROWS
    assert layout.block_rows == BLOCK_ROWS or layout.block_rows * layout.record_bytes <= BLOCK_BYTES + 8 * BLOCK_ROWS


def test_a_debugging_row_number_does_not_change_the_size_of_blocks() -> None:
    plain, logged = (RecordLayout(50, 3, "float32", True, False, has) for has in (False, True))

    assert plain.block_rows == logged.block_rows < BLOCK_ROWS


@given(rows=st.integers(0, 50), seed=st.integers(0, 99))
def test_a_block_lies_in_its_buffer_without_overlap(rows: int, seed: int) -> None:
    layout = RecordLayout(3, 2, "float32", True, True, True)
    buffer = np.zeros(layout.block_bytes(rows), np.uint8)
    block = layout.views(buffer, rows)
    rng = np.random.default_rng(seed)
    values = [rng.integers(0, 100, array.shape).astype(array.dtype) for array in block.arrays()]
    for array, value in zip(block.arrays(), values, strict=True):
        array[...] = value

    for array, value in zip(layout.views(buffer.copy(), rows).arrays(), values, strict=True):
        np.testing.assert_array_equal(array, value)
        assert array.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_records_become_blocks_in_the_order_asked_for(dtype: str) -> None:
    layout = RecordLayout(2, 4, dtype, True, True, True)
    encoding = an_encoding(True, 3.0, 0.25)
    finisher = Finisher(layout, encoding, encoding.vocabularies())
    n = 700
    rng = np.random.default_rng(0)
    records = layout.new_records(n)
    doubles, features, words = records.view(np.float64), records.view(dtype), records.view(np.int32)
    doubles[:, :3] = rng.normal(size=(n, 3))
    records[:, 3] = rng.integers(0, 2**63, n)
    at = layout.features_position
    features[:, at : at + 2] = rng.normal(size=(n, 2))
    features[::7, at] = np.nan
    codes = np.column_stack([
        rng.integers(-1, 3, n), -2 - rng.integers(0, 8, n), rng.integers(-1, 2, n), np.full(n, -1)
    ])  # fmt: skip
    words[:, layout.codes_position : layout.codes_position + 4] = codes
    order = rng.permutation(n)[:500]
    block = finisher.finish(records, order)

    scaling = encoding.scaling
    expected = (features[order, at : at + 2].astype(float) - scaling.mean) / scaling.deviation
    np.testing.assert_allclose(block.features, np.where(np.isnan(expected), 0.0, expected).astype(dtype), rtol=1e-6)
    np.testing.assert_array_equal(block.target, (doubles[order, 0] - 3.0) / 0.25)
    np.testing.assert_array_equal(block.weight, doubles[order, 1])
    np.testing.assert_array_equal(block.offset, doubles[order, 2] / 0.25)
    np.testing.assert_array_equal(block.row_numbers, records[order, 3])
    tables = [{-1: 4, 0: -1, 1: 2, 2: 3}, {-2 - k: 5 + k for k in range(8)}, {-1: 14, 0: -1, 1: 13}, {-1: 15}]
    for column, table in enumerate(tables):
        np.testing.assert_array_equal(block.codes[:, column], [table[code] for code in codes[order, column]])


@pytest.mark.parametrize("other", [False, True])
def test_rows_keep_their_names_without_base_levels(other: bool) -> None:
    narrow, wide = an_encoding(other), an_encoding(other).with_base_rows()
    for encoding in (narrow, wide):
        rows = encoding.rows_without_base()
        found = {
            narrow.row_names()[row]: name for row, name in zip(rows, encoding.row_names(), strict=True) if row >= 0
        }

        assert set(found) == set(narrow.row_names()[:-1])
        assert all(name == there for name, there in found.items())
        assert rows[-1] == -1
    assert [wide.row_names()[row] for row in np.flatnonzero(rows < 0)] == ["carrier=UA", "origin=JFK", "(intercept)"]
