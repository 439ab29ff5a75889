"""Record batches become records: every type and storage, which rows are used, and what is refused, by name."""

import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import moments_of

from streamgd.data.blocks import Block, RecordLayout
from streamgd.data.columns import CategoricalColumn, Columns, Label, NumericColumn, TargetColumn
from streamgd.data.encoder import EncodedRows, Encoder, Origin, RowChoice
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.filters import parse_where
from streamgd.data.plan import HOLDOUT, SAMPLE, chosen_rows
from streamgd.data.scaler import Scaling
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import CategoricalEncoding, Vocabulary
from streamgd.errors import DataError, TargetError

ORIGIN = Origin("part/a.parquet", 3, 5000, 700, 40)


def encode(
    batch: pa.RecordBatch, numeric: list[str] | None = None, categorical: dict[str, str] | None = None,
    target: TargetColumn | None = None, weight: str | None = None, offset: str | None = None, dtype: str = "float64",
    shift: float = 0.0, scale: float = 1.0, parts: dict[str, str] | None = None, **options: Any,
) -> tuple[EncodedRows, Block, Encoder]:  # fmt: skip
    """Encode a batch, then finish every row in order, in provisional units and codes."""
    named = [NumericColumn(name, name, (parts or {}).get(name)) for name in numeric or ()]
    labels = tuple(CategoricalColumn(name, values) for name, values in (categorical or {}).items())
    columns = Columns(tuple(named), labels, target, weight, offset)
    layout = RecordLayout(len(named), len(labels), dtype, weight is not None, offset is not None, False)
    shift0, scale0 = np.full(len(named), shift), np.full(len(named), scale)
    vocabularies = [Vocabulary(column, 1000, 32) for column in labels]
    encoder = Encoder(columns, layout, shift0, scale0, vocabularies, **options)
    records = layout.new_records(batch.num_rows)
    rows = encoder.encode(batch, ORIGIN, layout.places(records))
    # Rows of theta that are the provisional codes themselves.
    n = len(named)
    unscaled = Scaling(shift0, scale0, np.zeros(n), np.ones(n), np.full(n, np.nan))
    first_row, encodings = 0, []
    for vocabulary in vocabularies:
        encodings.append(CategoricalEncoding(vocabulary.column, 1, vocabulary.levels, False, 0))
        first_row += len(vocabulary.levels)
    encoding = Encoding(columns, unscaled, tuple(encodings), "impute")
    return rows, Finisher(layout, encoding, vocabularies).finish(records, np.arange(batch.num_rows)), encoder


def levels_of(block: Block, encoder: Encoder, column: int = 0) -> list[Label | None]:
    """The level of each row; the encoding of ``encode`` gives code k the row k, the base level -1."""
    levels = encoder.vocabularies[column].levels.to_pylist()
    return [levels[max(code, 0)] for code in block.codes[:, column].tolist()]


# Moments


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 700])
def test_moments_of_a_batch_are_those_of_its_rows_with_weight(rows: int) -> None:
    rng = np.random.default_rng(rows)
    x, y, w = 1e6 + rng.normal(size=rows), -1e6 + rng.normal(size=rows), rng.choice([0.0, 0.5, 3.0], rows)
    w[256:512] = 0.0  # a whole tile
    y[w == 0.0] = np.nan  # dropped with their weight
    batch = pa.record_batch({"x": x, "y": pa.array(y, from_pandas=True), "w": w})
    survey = encode(batch, ["x"], target=TargetColumn("y", None), weight="w")[0].survey
    expected = moments_of(np.column_stack([x, y]), w)

    for found, column in ((survey.moments, slice(1)), (survey.target_moments, slice(1, 2))):
        np.testing.assert_allclose(found.weight, expected.weight[column], rtol=1e-13)
        np.testing.assert_allclose(found.mean, expected.mean[column], rtol=1e-14)
        np.testing.assert_allclose(found.squares, expected.squares[column], rtol=1e-9)
        np.testing.assert_array_equal(found.largest, expected.largest[column])


# Numbers


def halves() -> pa.Array:
    return pa.array([np.float16(0.5), None, np.float16(-2.0), np.float16(1024)], pa.float16())


DAY = datetime.date(2026, 1, 5)  # a Monday
MOMENT = datetime.datetime(2026, 1, 5, 13, 30)

NUMBERS = {
    "int8": (pa.array([1, None, -2, 127], pa.int8()), None, [1, None, -2, 127]),
    "uint8": (pa.array([1, None, 2, 255], pa.uint8()), None, [1, None, 2, 255]),
    "int16": (pa.array([1, None, -2, 3], pa.int16()), None, [1, None, -2, 3]),
    "uint16": (pa.array([1, None, 2, 65535], pa.uint16()), None, [1, None, 2, 65535]),
    "int32": (pa.array([1, None, -2, 3], pa.int32()), None, [1, None, -2, 3]),
    "uint32": (pa.array([1, None, 2, 2**32 - 1], pa.uint32()), None, [1, None, 2, 2**32 - 1]),
    "int64": (pa.array([1, None, -(2**52), 3], pa.int64()), None, [1, None, -(2**52), 3]),
    "uint64": (pa.array([1, None, 2**63, 3], pa.uint64()), None, [1, None, 2.0**63, 3]),
    "half": (halves(), None, [0.5, None, -2.0, 1024.0]),
    "float": (pa.array([0.5, None, -2.25, np.nan], pa.float32()), None, [0.5, None, -2.25, None]),
    "double": (pa.array([0.1, None, 1e300, np.nan], pa.float64()), None, [0.1, None, 1e300, None]),
    "bool": (pa.array([True, None, False, True]), None, [1, None, 0, 1]),
    "decimal128": (
        pa.array([Decimal("1.10"), None, Decimal("-2.25"), Decimal("99999.99")], pa.decimal128(12, 2)),
        None, [1.1, None, -2.25, 99999.99],
    ),
    "decimal256": (pa.array([Decimal("1.5"), None, Decimal(0), Decimal(7)], pa.decimal256(50, 1)), None,
                   [1.5, None, 0.0, 7.0]),
    "date, weekday": (pa.array([DAY, None, DAY, DAY]), "weekday", [0, None, 0, 0]),
    "date, month": (pa.array([DAY, None, DAY, DAY]), "month", [1, None, 1, 1]),
    "timestamp, hour": (pa.array([MOMENT, None, MOMENT, MOMENT], pa.timestamp("us")), "hour", [13, None, 13, 13]),
    "timestamp, epoch": (
        pa.array([MOMENT, None, MOMENT, MOMENT], pa.timestamp("ns")), "epoch",
        [1767619800, None, 1767619800, 1767619800],
    ),
    "duration, epoch": (pa.array([90_000, None, 0, 1], pa.duration("ms")), "epoch", [90, None, 0, 0.001]),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(NUMBERS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sliced", [False, True])
def test_every_numeric_type_becomes_its_number(kind: str, dtype: str, sliced: bool) -> None:
    array, part, expected = NUMBERS[kind]
    if sliced:
        padded = pa.concat_arrays([array.slice(2), array.slice(1, 2), array, array.slice(0, 3)])
        array = padded.slice(4, 4)
    rows, block, _ = encode(pa.record_batch({"x": array}), ["x"], dtype=dtype, parts={"x": part} if part else None)
    values = np.array([np.nan if value is None else value for value in expected], float)

    with np.errstate(over="ignore"):
        np.testing.assert_allclose(block.features[:, 0], values.astype(dtype), rtol=1e-15)
    assert rows.has_null.tolist() == np.isnan(values).tolist()
    used = values[~np.isnan(values)]
    moments = rows.survey.moments
    assert (moments.weight[0], moments.largest[0]) == (len(used), np.abs(used).max())
    assert moments.mean[0] == pytest.approx(used.mean(), rel=1e-14)


def test_numbers_are_shifted_and_scaled_in_float64_before_they_are_rounded() -> None:
    x = 1e9 + np.arange(100) / 128
    _, block, _ = encode(pa.record_batch({"x": x}), ["x"], dtype="float32", shift=1e9, scale=0.25)

    np.testing.assert_array_equal(block.features[:, 0], (np.arange(100) / 32).astype(np.float32))


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("type_", [pa.float64(), pa.float32(), pa.float16()])
def test_an_infinite_number_is_named_with_file_row_group_row_and_column(bad: float, type_: pa.DataType) -> None:
    x = pa.array(np.array([1.0, 2.0, bad, 3.0], type_.to_pandas_dtype()), type_)
    with pytest.raises(DataError) as error:
        encode(pa.record_batch({"fine": [1.0] * 4, "x": x}), ["fine", "x"])
    message = str(error.value)

    assert message.startswith("part/a.parquet, row group 3, row 42, column 'x'")
    assert str(bad) in message
    assert "\n" not in message


def test_an_infinite_number_is_refused_in_a_row_that_is_held_out_or_weighs_nothing() -> None:
    held_out = chosen_rows(0, HOLDOUT, ORIGIN.file, ORIGIN.first_row_in_file, 50, 0.5)
    x = np.where(held_out, np.inf, 1.0)
    row = 40 + int(np.flatnonzero(held_out)[0])
    with pytest.raises(DataError, match=f"row {row}, column 'x'"):
        encode(pa.record_batch({"x": x}), ["x"], choice=RowChoice(holdout=0.5))
    with pytest.raises(DataError, match="row 41, column 'x'"):
        encode(pa.record_batch({"x": [0.0, np.inf], "w": [1.0, 0.0]}), ["x"], weight="w", every_row=True)


def test_an_infinite_number_in_a_row_that_is_left_out_harms_nothing() -> None:
    batch = pa.record_batch({"x": [1.0, np.inf, 3.0, -np.inf], "keep": [1, 0, 1, 0]})
    choice = RowChoice(where=parse_where("keep == 1", batch.schema))
    rows, _, _ = encode(batch, ["x"], choice=choice)
    moments = rows.survey.moments

    assert rows.kept.tolist() == [True, False, True, False]
    assert (moments.weight[0], moments.mean[0], moments.squares[0], moments.largest[0]) == (2.0, 2.0, 2.0, 3.0)


# Categories

CATEGORIES = {
    "string": (pa.array(["b", "a", None, "b"]), "string", ["b", "a", None, "b"]),
    "large_string": (pa.array(["b", "a", None, "b"], pa.large_string()), "string", ["b", "a", None, "b"]),
    "string_view": (pa.array(["b", "a", None, "b"], pa.string_view()), "string", ["b", "a", None, "b"]),
    "dictionary": (pa.array(["b", "a", None, "b"]).dictionary_encode(), "string", ["b", "a", None, "b"]),
    "dictionary of int16": (
        pa.DictionaryArray.from_arrays(pa.array([1, 2, None, 1], pa.int16()), pa.array(["unused", "b", "a"])),
        "string", ["b", "a", None, "b"],
    ),
    "dictionary of uint32": (
        pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1], pa.uint32()), pa.array(["a", "b"], pa.large_string())),
        "string", ["b", "a", None, "b"],
    ),
    "int": (pa.array([7, -1, None, 7], pa.int16()), "int", [7, -1, None, 7]),
    "bool": (pa.array([True, False, None, True]), "bool", [True, False, None, True]),
    "float": (pa.array([0.5, -1.0, None, 0.5], pa.float32()), "float", [0.5, -1.0, None, 0.5]),
    "all null": (pa.nulls(4, pa.string()), "string", [None] * 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(CATEGORIES))
@pytest.mark.parametrize("sliced", [False, True])
def test_every_categorical_storage_becomes_its_levels(kind: str, sliced: bool) -> None:
    array, values, expected = CATEGORIES[kind]
    if sliced:
        array = pa.concat_arrays([array.slice(1), array, array.slice(0, 2)]).slice(3, 4)
    rows, block, encoder = encode(pa.record_batch({"c": array}), categorical={"c": values})

    assert levels_of(block, encoder) == expected
    assert rows.has_null.tolist() == [value is None for value in expected]
    counts = dict(zip(encoder.vocabularies[0].levels.to_pylist(), rows.survey.level_counts[0].tolist(), strict=False))
    for level in set(expected):
        assert counts[level] == expected.count(level)


def test_the_kinds_of_columns_stand_side_by_side() -> None:
    batch = pa.record_batch({
        "y": [1.5, 2.5, -1.0], "x": pa.array([1, 2, None], pa.int32()), "c": ["u", None, "v"], "z": [0.5, 0.25, -3.0],
        "d": pa.array([3, 3, 4]), "w": [1.0, 2.0, 0.5], "o": [0.0, -1.0, 10.0],
    })  # fmt: skip
    _, block, encoder = encode(
        batch, ["x", "z"], {"c": "string", "d": "int"}, TargetColumn("y"), "w", "o", dtype="float32"
    )

    np.testing.assert_array_equal(block.features, np.array([[1, 0.5], [2, 0.25], [np.nan, -3]], np.float32))
    np.testing.assert_array_equal(block.target, [1.5, 2.5, -1.0])
    np.testing.assert_array_equal(block.weight, [1.0, 2.0, 0.5])
    np.testing.assert_array_equal(block.offset, [0.0, -1.0, 10.0])
    assert levels_of(block, encoder, 0) == ["u", None, "v"]
    assert levels_of(block, encoder, 1) == [3, 3, 4]


# Nulls

WITH_NULLS = pa.record_batch({
    "x": [1.0, None, 3.0, np.nan, 5.0], "c": ["a", "b", None, "a", "b"], "y": [1.0, 2.0, 3.0, 4.0, 5.0],
})  # fmt: skip


def test_impute_keeps_every_row() -> None:
    rows, block, _ = encode(WITH_NULLS, ["x"], {"c": "string"}, TargetColumn("y"))

    assert rows.kept.all()
    assert rows.has_null.tolist() == [False, True, True, True, False]
    assert np.isnan(block.features[:, 0]).tolist() == [False, True, False, True, False]
    assert rows.survey.dropped == {}


def test_drop_leaves_out_rows_with_a_null_and_counts_them() -> None:
    rows, _, _ = encode(WITH_NULLS, ["x"], {"c": "string"}, TargetColumn("y"), nulls="drop")

    assert rows.kept.tolist() == [True, False, False, False, True]
    assert rows.survey.dropped == {"null feature": 3}
    assert rows.survey.train_rows == 2
    assert (rows.survey.moments.weight[0], rows.survey.moments.mean[0]) == (2.0, 3.0)


@pytest.mark.parametrize(("left_out", "row", "column"), [([], 41, "x"), ([1, 3], 42, "c")])
def test_error_names_the_first_null(left_out: list[int], row: int, column: str) -> None:
    batch = WITH_NULLS.take(pa.array([i for i in range(5) if i not in left_out]))
    row = row - sum(i < row - 40 for i in left_out)
    with pytest.raises(DataError, match=rf"^part/a\.parquet, row group 3, row {row}, column '{column}': null"):
        encode(batch, ["x"], {"c": "string"}, TargetColumn("y"), nulls="error")


def test_error_passes_over_rows_that_are_not_used() -> None:
    where = RowChoice(where=parse_where("y == 1 or y == 5", WITH_NULLS.schema))
    rows, _, _ = encode(WITH_NULLS, ["x"], {"c": "string"}, TargetColumn("y"), nulls="error", choice=where)

    assert rows.survey.dropped == {"where": 3}


@pytest.mark.parametrize("nulls", ["impute", "drop", "error"])
def test_prediction_keeps_every_row(nulls: str) -> None:
    rows, _, _ = encode(WITH_NULLS, ["x"], {"c": "string"}, nulls=nulls, every_row=True)

    assert rows.kept.all()
    assert rows.has_null.tolist() == [False, True, True, True, False]


# Target


@pytest.mark.parametrize(
    ("array", "classes"),
    [
        (pa.array(["no", "yes", None, "yes"]), ("no", "yes")),
        (pa.array(["no", "yes", None, "yes"], pa.large_string()).dictionary_encode(), ("no", "yes")),
        (pa.array([2, 7, None, 7], pa.int8()), (2, 7)),
        (pa.array([False, True, None, True]), (False, True)),
        (pa.array([0.5, -1.0, np.nan, -1.0]), (0.5, -1.0)),
        (pa.array([Decimal("0.1"), Decimal("0.2"), None, Decimal("0.2")]), (0.1, 0.2)),
        (pa.array(["x", "no", "yes", None, "yes", "x"]).slice(1, 4), ("no", "yes")),
    ],
)
def test_classes_become_zero_and_one_and_a_null_target_drops_the_row(
    array: pa.Array, classes: tuple[Label, Label]
) -> None:
    rows, block, _ = encode(pa.record_batch({"y": array}), target=TargetColumn("y", classes))

    np.testing.assert_array_equal(block.target, [0.0, 1.0, np.nan, 1.0])
    assert rows.kept.tolist() == [True, True, False, True]
    assert rows.survey.dropped == {"null target": 1}
    assert rows.survey.target_moments.mean[0] == pytest.approx(2 / 3, rel=1e-15)


@pytest.mark.parametrize(
    ("array", "classes", "found"),
    [
        (pa.array(["no", "yes", "maybe"]), ("no", "yes"), "'maybe'"),
        (pa.array(["no", "yes", ""]).dictionary_encode(), ("no", "yes"), "''"),
        (pa.array([0, 1, 2]), (0, 1), "2"),
        (pa.array([0.0, 1.0, np.inf]), (0.0, 1.0), "inf"),
    ],
)
def test_a_third_class_is_named_with_its_place(array: pa.Array, classes: tuple[Label, Label], found: str) -> None:
    with pytest.raises(TargetError) as error:
        encode(pa.record_batch({"y": array}), target=TargetColumn("y", classes))
    message = str(error.value)

    assert message.startswith("part/a.parquet, row group 3, row 42, target 'y'")
    assert f"found {found}" in message
    assert repr(classes[0]) in message
    assert repr(classes[1]) in message


def test_a_third_class_in_a_row_that_is_left_out_is_no_matter() -> None:
    batch = pa.record_batch({"y": ["no", "yes", "maybe"]})
    choice = RowChoice(where=parse_where("y != 'maybe'", batch.schema))
    rows, _, _ = encode(batch, target=TargetColumn("y", ("no", "yes")), choice=choice)

    assert rows.kept.tolist() == [True, True, False]


def test_an_infinite_target_is_refused_and_nan_counts_as_null() -> None:
    rows, _, _ = encode(pa.record_batch({"y": [1.0, np.nan, None]}), target=TargetColumn("y"))
    assert rows.survey.dropped == {"null target": 2}
    with pytest.raises(TargetError, match=r"row group 3, row 41, target 'y': found -inf"):
        encode(pa.record_batch({"y": [1.0, -np.inf]}), target=TargetColumn("y"))


# Weight and offset


@pytest.mark.parametrize(("bad", "shown"), [(None, "None"), (-0.5, "-0.5"), (np.nan, "nan"), (np.inf, "inf")])
def test_a_weight_that_is_no_weight_is_refused(bad: float | None, shown: str) -> None:
    batch = pa.record_batch({"y": [1.0, 2.0], "w": pa.array([1.0, bad])})
    with pytest.raises(DataError, match=rf"^part/a\.parquet, row group 3, row 41, column 'w': found {shown}, .*>= 0"):
        encode(batch, target=TargetColumn("y"), weight="w")


@pytest.mark.parametrize("bad", [None, np.nan, -np.inf])
def test_an_offset_that_is_no_number_is_refused(bad: float | None) -> None:
    batch = pa.record_batch({"y": [1.0, 2.0], "o": pa.array([-1.0, bad])})
    with pytest.raises(DataError, match=r"row 41, column 'o'"):
        encode(batch, target=TargetColumn("y"), offset="o")


def test_a_bad_weight_in_a_row_that_is_left_out_is_no_matter() -> None:
    batch = pa.record_batch({"y": [1.0, 2.0, 3.0], "w": pa.array([1.0, None, -1.0])})
    choice = RowChoice(where=parse_where("y < 2", batch.schema))
    rows, block, _ = encode(batch, target=TargetColumn("y"), weight="w", choice=choice)

    assert rows.survey.dropped == {"where": 2}
    assert block.weight[0] == 1.0


def test_rows_of_weight_zero_are_left_out_and_counted() -> None:
    batch = pa.record_batch({"x": [1.0, 9.0, 3.0], "y": [1.0, 2.0, 3.0], "w": pa.array([2, 0, 1], pa.int8())})
    rows, _, _ = encode(batch, ["x"], target=TargetColumn("y"), weight="w")

    assert rows.kept.tolist() == [True, False, True]
    assert rows.survey.dropped == {"zero weight": 1}
    assert rows.survey.weight == 3.0
    assert rows.survey.moments.mean[0] == pytest.approx(5 / 3, rel=1e-15)


def test_moments_and_level_counts_are_weighted() -> None:
    batch = pa.record_batch({"x": [1.0, 5.0], "c": ["a", "b"], "y": [0.0, 4.0], "w": [3.0, 1.0]})
    rows, _, _ = encode(batch, ["x"], {"c": "string"}, TargetColumn("y"), "w")
    survey = rows.survey

    assert (survey.moments.mean[0], survey.moments.squares[0]) == (2.0, 12.0)
    assert (survey.target_moments.mean[0], survey.weight) == (1.0, 4.0)
    assert survey.level_counts[0].tolist() == [3.0, 1.0]


# Which rows


def test_sample_and_holdout_are_choices_by_hash_of_the_row_in_its_file() -> None:
    n = 2000
    batch = pa.record_batch({"x": np.arange(n) * 1.0, "y": np.ones(n)})
    rows, _, _ = encode(batch, ["x"], target=TargetColumn("y"), choice=RowChoice(7, None, 0.5, 0.25))
    sampled = chosen_rows(7, SAMPLE, ORIGIN.file, ORIGIN.first_row_in_file, n, 0.5)
    held_out = chosen_rows(7, HOLDOUT, ORIGIN.file, ORIGIN.first_row_in_file, n, 0.25)

    np.testing.assert_array_equal(rows.kept, sampled)
    np.testing.assert_array_equal(rows.holdout, held_out)
    survey = rows.survey
    assert survey.dropped == {"sample": int((~sampled).sum())}
    assert survey.train_rows == int((sampled & ~held_out).sum()) == survey.moments.weight[0] == survey.weight
    assert survey.holdout_rows == int((sampled & held_out).sum())
    assert survey.moments.mean[0] == pytest.approx(np.arange(n)[sampled & ~held_out].mean(), rel=1e-13)


def test_every_dropped_row_is_counted_once_for_the_first_reason() -> None:
    batch = pa.record_batch({
        "x": [1.0, None, None, None, 5.0], "y": [1.0, 2.0, None, 4.0, 5.0], "w": [1.0, 1.0, 1.0, 0.0, 1.0],
        "k": [1, 0, 1, 1, 1],
    })  # fmt: skip
    choice = RowChoice(where=parse_where("k == 1", batch.schema))
    rows, _, _ = encode(batch, ["x"], target=TargetColumn("y"), weight="w", nulls="drop", choice=choice)

    assert rows.survey.dropped == {"where": 1, "zero weight": 1, "null target": 1}
    assert rows.survey.train_rows == 2


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 1000))
def test_batches_of_any_size_give_the_same_rows_and_survey(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = pa.record_batch({
        "x": pa.array(rng.normal(size=60), mask=rng.random(60) < 0.2),
        "b": pa.array(rng.random(60) < 0.5, mask=rng.random(60) < 0.2),
        "c": pa.array([None if v == 4 else f"l{v}" for v in rng.integers(0, 5, 60)], pa.string()),
        "y": pa.array(rng.normal(size=60), mask=rng.random(60) < 0.1),
    })  # fmt: skip
    shape = {"numeric": ["x", "b"], "categorical": {"c": "string"}, "target": TargetColumn("y"), "nulls": "drop"}
    whole, block, encoder = encode(batch, **shape)
    bounds = [0, *sorted(cuts), 60]
    survey, features, target, kept = Survey.empty(2, 1), [], [], []
    records = encoder.layout.new_records(60)
    columns = encoder.columns
    again = Encoder(
        columns, encoder.layout, encoder.shift0, encoder.scale0, [Vocabulary(columns.categorical[0], 1000, 32)], "drop"
    )  # fmt: skip
    for start, stop in pairwise(bounds):
        origin = Origin(ORIGIN.file, 3, 5000 + start, 700 + start, 40 + start)
        rows = again.encode(batch.slice(start, stop - start), origin, again.layout.places(records[start:stop]))
        survey = survey.merge(rows.survey)
        kept += rows.kept.tolist()
    doubles, at = records.view(np.float64), encoder.layout.features_position
    features, target = doubles[:, at : at + 2], doubles[:, 0]

    assert kept == whole.kept.tolist()
    np.testing.assert_array_equal(features, block.features)
    np.testing.assert_array_equal(target, block.target)
    assert (survey.train_rows, survey.dropped) == (whole.survey.train_rows, whole.survey.dropped)
    np.testing.assert_allclose(survey.moments.mean, whole.survey.moments.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(survey.moments.squares, whole.survey.moments.squares, rtol=1e-12)
    counts = [
        {level: count for level, count in zip(v.levels.to_pylist(), s.level_counts[0].tolist(), strict=False) if count}
        for v, s in ((again.vocabularies[0], survey), (encoder.vocabularies[0], whole.survey))
    ]
    assert counts[0] == counts[1]


def test_a_survey_comes_back_from_its_state() -> None:
    rows, _, _ = encode(WITH_NULLS, ["x"], {"c": "string"}, TargetColumn("y"), nulls="drop")
    again = Survey.from_state(rows.survey.state())

    assert (again.train_rows, again.dropped) == (2, {"null feature": 3})
    np.testing.assert_array_equal(again.moments.mean, rows.survey.moments.mean)
    np.testing.assert_array_equal(again.level_counts[0], rows.survey.level_counts[0])


def test_an_empty_batch_has_nothing_to_say() -> None:
    rows, block, _ = encode(WITH_NULLS.slice(0, 0), ["x"], {"c": "string"}, TargetColumn("y"))

    assert (block.rows, rows.survey.train_rows, rows.survey.weight) == (0, 0, 0.0)
