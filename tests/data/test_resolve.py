"""What every column becomes: the type table, ids, names and roles, scales and warnings."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.config import make_config
from streamgd.data.columns import CategoricalColumn, NumericColumn
from streamgd.data.filters import parse_where
from streamgd.data.resolve import Resolved, describe_columns, resolve
from streamgd.data.source import Manifest, discover
from streamgd.errors import ConfigError, NoInputError, SchemaError

ROWS = 400
MOMENT = datetime(2026, 1, 5, 6, 7, 8)


def written(folder: Path, columns: dict[str, Any], rows: int = ROWS, row_group_rows: int = 100) -> Manifest:
    columns = {"y": np.arange(rows) % 2, "x": np.random.default_rng(1).normal(size=rows)} | columns
    pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=row_group_rows)
    return discover([str(folder)])


def resolved(folder: Path, columns: dict[str, Any] | None = None, rows: int = ROWS, **options: Any) -> Resolved:
    manifest = written(folder, columns or {}, rows, 100_000)
    config = make_config(**({"data": str(folder), "target": "y"} | options))
    return resolve(manifest, config, parse_where(config.where, manifest.schema) if config.where else None)


def cycled(values: list[Any], arrow_type: pa.DataType | None = None, rows: int = ROWS) -> pa.Array:
    return pa.array([values[row % len(values)] for row in range(rows)], arrow_type)


# The type table ------------------------------------------------------------------------------------------------------

NUMBERS = {
    **{str(t): cycled([1, 2, None], t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): cycled([1, 2, None], t) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "half": cycled([np.float16(1), np.float16(2), None], pa.float16()),
    "float": cycled([1.0, 2.0, None], pa.float32()),
    "double": cycled([1.0, 2.0, None], pa.float64()),
    "bool": cycled([True, False, None]),
    "decimal32": cycled([Decimal(1), Decimal("2.5"), None], pa.decimal32(5, 2)),
    "decimal64": cycled([Decimal(1), Decimal("2.5"), None], pa.decimal64(15, 2)),
    "decimal128": cycled([Decimal(1), Decimal("2.5"), None], pa.decimal128(30, 2)),
    "decimal256": cycled([Decimal(1), Decimal("2.5"), None], pa.decimal256(60, 2)),
    "dictionary of int": cycled([1, 2, 3]).dictionary_encode(),
    "only null": cycled([None], pa.float64()),
    "constant": cycled([5]),
}
TEXTS = {
    "string": cycled(["a", "b", None]),
    "large_string": cycled(["a", "b", None], pa.large_string()),
    "string_view": cycled(["a", "b", None], pa.string_view()),
    "dictionary": cycled(["a", "b", None]).dictionary_encode(),
    "dictionary of large_string": cycled(["a", "b"], pa.large_string()).dictionary_encode(),
    "only null": cycled([None], pa.string()),
}
MOMENTS = {
    "date32": (cycled([MOMENT.date(), None], pa.date32()), "epoch,weekday,month,yearday"),
    "date64": (cycled([MOMENT.date(), None], pa.date64()), "epoch,weekday,month,yearday"),
    **{
        f"timestamp {unit}": (cycled([MOMENT, None], pa.timestamp(unit)), "epoch,hour,weekday,month,yearday")
        for unit in ("s", "ms", "us", "ns")
    },
    "timestamp tz": (cycled([MOMENT], pa.timestamp("us", "Europe/Vienna")), "epoch,hour,weekday,month,yearday"),
    "time32": (cycled([time(6, 7, 8), None], pa.time32("s")), "epoch"),
    "time64": (cycled([time(6, 7, 8), None], pa.time64("us")), "epoch"),
    "duration": (cycled([timedelta(days=1), None], pa.duration("us")), "epoch"),
}
NEVER = {
    "list": cycled([[1.0], [2.0, 3.0]]),
    "large_list": cycled([[[1]], [[2]]], pa.large_list(pa.list_(pa.int64()))),
    "fixed_size_list": cycled([[1.0, 2.0]], pa.list_(pa.float64(), 2)),
    "struct": cycled([{"a": 1}]),
    "map": cycled([[("a", "b")]], pa.map_(pa.string(), pa.string())),
    "pairs": cycled([[{"a": 1.5, "b": 2.5}]]),
    "binary": cycled([b"a", b"b"]),
    "large_binary": cycled([b"a"], pa.large_binary()),
    "fixed_size_binary": cycled([b"ab"], pa.binary(2)),
    "null": pa.nulls(ROWS),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_become_numbers(tmp_path: Path, name: str) -> None:
    result = resolved(tmp_path, {"c": NUMBERS[name]})
    integer = "int" in name or name == "constant"

    assert result.columns.numeric == (NumericColumn("x", "x"), NumericColumn("c", "c", integer=integer))
    assert result.columns.categorical == ()
    assert np.all(np.isfinite(result.shift) & np.isfinite(result.scale) & (result.scale > 0))
    assert result.became["c"] == ("number, in float64" if "decimal" in name else "number")
    assert (result.left_out, result.warnings) == ((), ())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encode", ["onehot", "hash"])
def test_text_becomes_categorical(tmp_path: Path, name: str, encode: str) -> None:
    result = resolved(tmp_path, {"c": TEXTS[name]}, encode=encode)

    assert result.columns.categorical == (CategoricalColumn("c", "string", hashed=encode == "hash"),)
    assert result.columns.numeric == (NumericColumn("x", "x"),)
    assert result.became["c"].startswith("categorical, hashed" if encode == "hash" else "categorical, ")
    assert result.left_out == ()


@pytest.mark.parametrize("name", MOMENTS)
def test_dates_and_times_are_refused_with_the_mapping_to_ask_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(SchemaError, match=r"column 'c'.*--timestamps epoch,hour,weekday.*--exclude c") as caught:
        resolved(tmp_path, {"c": MOMENTS[name][0]})
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MOMENTS)
def test_dates_and_times_become_the_parts_they_have(tmp_path: Path, name: str) -> None:
    array, parts = MOMENTS[name]
    result = resolved(tmp_path, {"c": array}, timestamps="epoch,hour,weekday,month,yearday")

    assert result.columns.numeric[1:] == tuple(NumericColumn(f"c.{part}", "c", part) for part in parts.split(","))
    assert len(result.shift) == len(result.scale) == 1 + len(parts.split(","))
    assert "c.epoch" in result.became["c"]


def test_a_date_without_any_of_the_parts_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"column 'c'.*--timestamps epoch,weekday,month,yearday"):
        resolved(tmp_path, {"c": MOMENTS["date32"][0]}, timestamps="hour")


@pytest.mark.parametrize("name", NEVER)
def test_nested_and_binary_columns_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SchemaError, match=r"column 'c': \w+.* has no mapping.*--exclude c") as caught:
        resolved(tmp_path, {"c": NEVER[name]})
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def test_all_refused_columns_are_named_at_once(tmp_path: Path) -> None:
    columns = {"a": NEVER["struct"], "b": NEVER["binary"], "when": MOMENTS["date32"][0]}
    with pytest.raises(SchemaError, match=r"'a'.*'b'.*'when'.*--exclude a,b,when"):
        resolved(tmp_path, columns)
    with pytest.raises(SchemaError, match=r"Take a,b out of --features"):
        resolved(tmp_path, columns, features="x,a,b")
    assert resolved(tmp_path, columns, exclude="a,b,when").columns.feature_names == ["x"]
    assert resolved(tmp_path, columns, features="x").columns.feature_names == ["x"]


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (NUMBERS["int8"], "int"),
        (NUMBERS["uint64"], "int"),
        (NUMBERS["half"], "float"),
        (NUMBERS["double"], "float"),
        (NUMBERS["bool"], "bool"),
        (NUMBERS["decimal128"], "string"),
        (NUMBERS["dictionary of int"], "int"),
        (TEXTS["string"], "string"),
        (MOMENTS["date32"][0], "string"),
        (MOMENTS["timestamp tz"][0], "string"),
        (MOMENTS["time64"][0], "string"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_column_named_as_categorical_becomes_one(tmp_path: Path, array: pa.Array, values: Any) -> None:
    result = resolved(tmp_path, {"c": array}, categorical="c")

    assert result.columns.categorical == (CategoricalColumn("c", values),)


def test_partition_columns_are_features_like_others(tmp_path: Path) -> None:
    for year, place in ((2025, "north"), (2026, "south")):
        (tmp_path / f"year={year}" / f"place={place}").mkdir(parents=True)
        written(tmp_path / f"year={year}" / f"place={place}", {})
    result = resolve(discover([str(tmp_path)]), make_config(data=str(tmp_path), target="y"))

    assert result.columns.feature_names == ["x", "year", "place"]
    assert result.columns.categorical == (CategoricalColumn("place", "string"),)


# Ids -----------------------------------------------------------------------------------------------------------------


def identifiers(rows: int) -> dict[str, Any]:
    shuffled = np.random.default_rng(3).permutation(rows)
    return {
        "number": shuffled,
        "text": [f"id-{row}" for row in shuffled],
        "large": shuffled.astype(np.uint64) + 2**60,
        "real": shuffled.astype(np.float64),
        "decimal": pa.array([Decimal(int(row)) for row in shuffled], pa.decimal128(12, 0)),
    }


@pytest.mark.parametrize("rows", [20, 400, 150_000], ids=["few", "whole", "sampled"])
def test_ids_are_left_out_and_the_reason_is_said(tmp_path: Path, rows: int) -> None:
    result = resolved(tmp_path, identifiers(rows), rows=rows)

    assert [name for name, _ in result.left_out] == ["number", "text", "large"]
    assert result.columns.feature_names == ["x", "real", "decimal"]
    assert all("--features" in reason and "\n" not in reason for _, reason in result.left_out)
    assert not {"number", "text", "large"} & set(result.became)


def test_ids_that_are_named_as_features_are_kept(tmp_path: Path) -> None:
    result = resolved(tmp_path, identifiers(ROWS), features="text,number")

    assert result.columns.feature_names == ["number", "text"]
    assert result.left_out == ()


def test_few_rows_that_all_differ_are_no_ids(tmp_path: Path) -> None:
    assert resolved(tmp_path, identifiers(19), rows=19).left_out == ()


def test_an_integer_that_repeats_once_or_is_null_once_is_no_id(tmp_path: Path) -> None:
    columns = {"repeats": [0, *range(ROWS - 1)], "null": [None, *range(1, ROWS)]}
    assert resolved(tmp_path, columns).columns.feature_names == ["x", "repeats", "null"]


def test_an_integer_with_a_smaller_range_than_there_are_rows_is_no_id(tmp_path: Path) -> None:
    rows = 150_000  # all values of the sample, the first 65,536 rows, differ
    assert resolved(tmp_path, {"c": np.arange(rows) % 100_000}, rows=rows).columns.feature_names == ["x", "c"]


@pytest.mark.parametrize(("levels", "left_out"), [(40, False), (1000, False), (20_000, False), (140_000, True)])
def test_text_is_an_id_by_its_estimated_number_of_levels(tmp_path: Path, levels: int, left_out: bool) -> None:
    rows = 150_000
    text = pa.array([f"level {level}" for level in np.random.default_rng(4).integers(0, levels, rows)])

    assert bool(resolved(tmp_path, {"c": text}, rows=rows).left_out) == left_out


@pytest.mark.parametrize(("repeated", "left_out"), [(20, True), (60, False)])
def test_text_read_whole_is_an_id_if_more_than_nine_tenths_differ(
    tmp_path: Path, repeated: int, left_out: bool
) -> None:
    text = [f"{max(row, repeated)}" for row in range(ROWS)]
    assert bool(resolved(tmp_path, {"c": text}).left_out) == left_out


def test_text_that_is_mostly_null_is_judged_by_the_values_it_has(tmp_path: Path) -> None:
    rows = 150_000
    some = np.random.default_rng(5).integers(0, 100, rows)
    many = np.random.default_rng(6).integers(0, 12_000, rows)
    columns = {
        "levels": pa.array([f"{value}" if row % 100 == 0 else None for row, value in enumerate(some)]),
        # 15,000 values of about 8,600 levels.
        "ids": pa.array([f"{value}" if row % 10 == 0 else None for row, value in enumerate(many)]),
    }
    assert [name for name, _ in resolved(tmp_path, columns, rows=rows).left_out] == ["ids"]


# Names and roles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["target", "features", "exclude", "categorical", "weight", "offset"])
def test_an_option_that_names_an_unknown_column_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{option}: .*'weigth'.*Did you mean 'weight'") as caught:
        resolved(tmp_path, {"weight": cycled([1.0, 2.0])}, **{option: "weigth"})
    assert caught.value.exit_code == 78


def test_features_keep_the_order_given_numbers_first(tmp_path: Path) -> None:
    columns = {"a": cycled([1.0, 2.0]), "b": cycled(["p", "q"]), "c": cycled([1.0, 3.0])}

    assert resolved(tmp_path, columns, features="c,b,a").columns.feature_names == ["c", "a", "b"]
    assert resolved(tmp_path, columns).columns.feature_names == ["x", "a", "c", "b"]


def test_roles_and_exclusions_are_no_features(tmp_path: Path) -> None:
    columns = {name: cycled([1.0, 2.0]) for name in "wok"} | {"e": cycled([1.0])}
    result = resolved(tmp_path, columns, weight="w", offset="o", exclude="e,x")

    assert result.columns.feature_names == ["k"]
    assert (result.columns.weight, result.columns.offset) == ("w", "o")
    assert (result.became["w"], result.became["o"]) == ("weight", "offset")


def test_a_weight_may_be_a_feature_too_if_it_is_named(tmp_path: Path) -> None:
    result = resolved(tmp_path, {"w": cycled([1.0, 2.0])}, weight="w", features="x,w")

    assert result.columns.feature_names == ["x", "w"]
    assert result.became["w"] == "number, and weight"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "x,y"}, "'y' is the target.*--features"),
        ({"weight": "y"}, "'y' is the target.*--weight"),
        ({"offset": "y"}, "'y' is the target.*--offset"),
        ({"features": "x,x"}, "names 'x' twice"),
        ({"features": "x", "categorical": "month"}, "--categorical: 'month' is not among the features"),
        ({"exclude": "month", "categorical": "month"}, "--categorical: 'month'"),
        ({"categorical": "y"}, "--categorical: 'y'"),
        ({"exclude": "x,month"}, "no feature is left"),
        ({"features": ""}, "no feature is left"),
    ],
)
def test_columns_in_contradicting_roles_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(tmp_path, {"month": cycled([1, 2, 3])}, **options)


def test_when_only_ids_are_left_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no feature is left.*left out: key\."):
        resolved(tmp_path, {"key": np.arange(ROWS)}, exclude="x")


@pytest.mark.parametrize("role", ["weight", "offset"])
def test_weight_and_offset_must_be_numbers(tmp_path: Path, role: str) -> None:
    with pytest.raises(SchemaError, match=f"--{role}: column 'c' is of type string"):
        resolved(tmp_path, {"c": TEXTS["string"]}, **{role: "c"})
    assert getattr(resolved(tmp_path, {"c": NUMBERS["decimal128"]}, **{role: "c"}).columns, role) == "c"


def test_features_of_the_same_name_are_refused(tmp_path: Path) -> None:
    columns = {"when": MOMENTS["date32"][0], "when.month": cycled([1, 2])}
    with pytest.raises(ConfigError, match=r"'when\.month'"):
        resolved(tmp_path, columns, timestamps="month")


def test_a_filter_that_no_row_passes_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no row passes --where"):
        resolved(tmp_path, where="x > 1000")


# Scales and warnings -------------------------------------------------------------------------------------------------


def test_shift_and_scale_are_those_of_the_column(tmp_path: Path) -> None:
    spread = np.random.default_rng(6).normal(1e9, 5.0, ROWS)
    result = resolved(tmp_path, {"a": spread, "huge": 1e291 * spread, "constant": cycled([7.0])})

    assert result.columns.feature_names == ["x", "a", "huge", "constant"]
    assert result.shift[1] in spread
    assert result.scale[1] == 8.0  # the power of two above a deviation of 5
    assert 0 < result.scale[2] < 1e299
    assert (result.shift[3], result.scale[3]) == (7.0, 1.0)


def test_without_scaling_shift_and_scale_change_nothing(tmp_path: Path) -> None:
    result = resolved(tmp_path, {"a": cycled([1e9, 2e9])}, scale="none")

    assert (result.shift.tolist(), result.scale.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_infinite_features_are_left_to_the_encoder(tmp_path: Path) -> None:
    result = resolved(tmp_path, {"a": cycled([1.0, 3.0, float("inf")])})
    assert np.isfinite(result.scale).all()


@pytest.mark.parametrize(("value", "warned"), [(2**53, False), (2**53 + 1, True), (-(2**53) - 1, True)])
def test_integers_that_doubles_cannot_hold_are_warned_of(tmp_path: Path, value: int, warned: bool) -> None:
    result = resolved(tmp_path, {"c": cycled([value, 0, 1])})
    assert [("'c'" in warning and "2^53" in warning) for warning in result.warnings] == [True] * warned


@pytest.mark.parametrize("kind", ["number", "reversed", "text"])
def test_a_feature_that_alone_predicts_the_target_is_warned_of(tmp_path: Path, kind: str) -> None:
    target = np.arange(ROWS) % 2
    noise = np.random.default_rng(7).random(ROWS)
    leak: Any = {"number": target + 0.5 * noise, "reversed": -target - 0.5 * noise}.get(kind)
    if leak is None:
        leak = [f"{'ab'[value]}{int(4 * part)}" for value, part in zip(target, noise, strict=True)]
    result = resolved(tmp_path, {"leak": leak, "honest": target + 1.5 * noise})

    assert len(result.warnings) == 1
    assert "'leak' alone predicts the target 'y'" in result.warnings[0]
    assert "\n" not in result.warnings[0]


# Inspecting ----------------------------------------------------------------------------------------------------------


def test_describing_columns_gives_reasons_instead_of_errors(tmp_path: Path) -> None:
    manifest = written(
        tmp_path,
        {"key": np.arange(ROWS), "c": TEXTS["dictionary"], "when": [date(2026, 1, 1)] * ROWS, "s": NEVER["struct"]},
    )
    described = {column.name: column for column in describe_columns(manifest)}

    assert {name: column.becomes for name, column in described.items()} == {
        "y": "number",
        "x": "number",
        "key": "left out",
        "c": "categorical",
        "when": "refused",
        "s": "refused",
    }
    assert "different value in every row" in described["key"].reason
    assert "--timestamps epoch,weekday" in described["when"].reason
    assert "struct has no mapping" in described["s"].reason
    assert described["c"].type == "string"


def test_resolving_twice_gives_the_same(tmp_path: Path) -> None:
    columns = identifiers(5000) | {"c": [f"{row % 70}" for row in range(5000)]}
    first, second = (resolved(tmp_path, columns, rows=5000) for _ in range(2))

    assert first.columns == second.columns
    assert first.became == second.became
    assert first.shift.tobytes() + first.scale.tobytes() == second.shift.tobytes() + second.scale.tobytes()
