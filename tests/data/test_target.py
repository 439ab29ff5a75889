"""The loss and the classes, from the target's values."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.config import make_config
from streamgd.data import target as module
from streamgd.data.columns import TargetColumn
from streamgd.data.filters import parse_where
from streamgd.data.resolve import resolve
from streamgd.data.source import discover
from streamgd.errors import ConfigError, TargetError

ROWS = 200


def target_of(folder: Path, values: Any, row_group_rows: int = 100, statistics: bool = True, **options: Any):  # type: ignore[no-untyped-def]
    """(loss, target) of a data set with this target and one feature."""
    values = values if isinstance(values, pa.Array) else pa.array(values)
    table = pa.table({"x": np.random.default_rng(0).normal(size=len(values)), "y": values})
    pq.write_table(table, folder / "data.parquet", row_group_size=row_group_rows, write_statistics=statistics)
    manifest = discover([str(folder)])
    config = make_config(data=str(folder), target="y", **options)
    resolved = resolve(manifest, config, parse_where(config.where, manifest.schema) if config.where else None)
    return resolved.loss, resolved.columns.target


def repeated(values: list[Any], arrow_type: pa.DataType | None = None) -> pa.Array:
    return pa.array([values[row % len(values)] for row in range(ROWS)], arrow_type)


DECIMAL = pa.decimal128(5, 1)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (repeated([0, 1], pa.int8()), (0, 1)),
        (repeated([7, -2, None], pa.int64()), (-2, 7)),
        (repeated([0.0, 1.0, None, float("nan")]), (0.0, 1.0)),
        (repeated([1.5, 2.5]), (1.5, 2.5)),
        (repeated([np.float16(0), np.float16(1)], pa.float16()), (0.0, 1.0)),
        (repeated([Decimal("0.5"), Decimal("2.0")], DECIMAL), (0.5, 2.0)),
        (repeated([True, False, None]), (False, True)),
        (repeated(["yes", "no", None]), ("no", "yes")),
        (repeated(["b", "a"]).dictionary_encode(), ("a", "b")),
    ],
    ids=["int", "int with null", "float with nan", "fractions", "half", "decimal", "bool", "text", "dictionary"],
)
def test_two_values_of_any_type_are_two_classes_and_the_larger_is_positive(
    tmp_path: Path, values: pa.Array, classes: tuple[Any, Any]
) -> None:
    loss, target = target_of(tmp_path, values)

    assert (loss, target) == ("logistic", TargetColumn("y", classes))
    assert [type(label) for label in target.classes] == [type(label) for label in classes]


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(size=ROWS),
        pa.array(range(ROWS)),
        repeated([1.0, 2.0, 2.5]),
        repeated([Decimal(1), Decimal(2), Decimal("2.5")], DECIMAL),
    ],
    ids=["real", "many integers", "few fractions", "decimal"],
)
def test_what_is_clearly_real_has_the_squared_loss(tmp_path: Path, values: Any) -> None:
    assert target_of(tmp_path, values) == ("squared", TargetColumn("y"))


@pytest.mark.parametrize("values", [[0, 1, 2], [1.0, 2.0, 3.0], list(range(100))], ids=["counts", "floats", "hundred"])
def test_a_few_whole_numbers_do_not_tell_the_loss(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(TargetError, match=r"target 'y'.*--loss squared\|poisson\|"):
        target_of(tmp_path, repeated(values))
    assert target_of(tmp_path, repeated(values), loss="squared") == ("squared", TargetColumn("y"))
    with pytest.raises(TargetError, match="--where"):
        target_of(tmp_path, repeated(values), loss="logistic")


@pytest.mark.parametrize(
    ("values", "options"),
    [([3, -1, 2, None], {"loss": "multinomial"}), ([3.0, -1.0, 2.0, None], {"loss": "multinomial"}), ([*"cab"], {})],
    ids=["integers", "reals", "text"],
)
def test_more_than_two_values_are_classes_in_the_order_of_their_values(
    tmp_path: Path, values: list[Any], options: dict[str, Any]
) -> None:
    expected = tuple(sorted(value for value in values if value is not None))
    assert target_of(tmp_path, repeated(values), **options) == ("multinomial", TargetColumn("y", expected))


def test_a_class_that_the_sample_does_not_show_is_found_in_the_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = pa.array([*"ab"] * 99 + [*"cd"])
    monkeypatch.setattr("streamgd.data.sample.SAMPLE_ROWS", 20)
    target = target_of(tmp_path, values, row_group_rows=10, loss="multinomial")[1]
    assert target == TargetColumn("y", ("a", "b", "c", "d"))


def test_positive_contradicts_the_multinomial_loss(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--positive"):
        target_of(tmp_path, repeated([*"abc"]), positive="a", loss="multinomial")


def test_a_filter_makes_three_values_two(tmp_path: Path) -> None:
    assert target_of(tmp_path, repeated([0, 1, 2]), where="y != 1") == ("logistic", TargetColumn("y", (0, 2)))


@pytest.mark.parametrize(
    ("values", "positive", "classes"),
    [
        ([0, 1], "0", (1, 0)),
        ([0, 1], "1.0", (0, 1)),
        ([2**60, 2**60 + 2**10], str(2**60), (2**60 + 2**10, 2**60)),
        ([0.25, 1.0], "0.25", (1.0, 0.25)),
        ([True, False], "false", (True, False)),
        (["yes", "no"], "no", ("yes", "no")),
    ],
)
def test_positive_names_the_class_that_counts_as_one(
    tmp_path: Path, values: list[Any], positive: str, classes: tuple[Any, Any]
) -> None:
    assert target_of(tmp_path, repeated(values), positive=positive)[1] == TargetColumn("y", classes)


@pytest.mark.parametrize("values", [[0, 1], ["yes", "no"], [True, False]], ids=["int", "text", "bool"])
def test_a_positive_value_that_does_not_occur_is_refused_with_both_that_do(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(
        ConfigError, match=rf"--positive maybe.*({values[1]!r}.*{values[0]!r}|{values[0]!r}.*{values[1]!r})"
    ):
        target_of(tmp_path, repeated(values), positive="maybe")


def test_positive_with_more_than_two_values_asks_for_a_filter(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="--where"):
        target_of(tmp_path, repeated([0, 1, 2]), positive="2")


def test_positive_contradicts_the_squared_loss(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--positive"):
        target_of(tmp_path, repeated([0, 1]), positive="1", loss="squared")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (repeated(["a", "b", "c"]), {"loss": "logistic"}, r"at least 3 different values \('a', 'b', 'c'\).*needs two"),
        (repeated(["a", "b"]), {"loss": "multinomial"}, "three or more.*--loss logistic"),
        (repeated([0.5, 1.0, 2.0]), {"loss": "multinomial"}, r"value 0\.5.*whole numbers"),
        (repeated([1, 2, 2**53 + 1]), {"loss": "multinomial"}, r"2\*\*53"),
        (repeated([*"abcd"]), {"max_classes": 3}, r"at least 4 classes.*--max-classes is 3"),
        (repeated(["a", "b"]), {"loss": "squared"}, "is text.*--loss logistic"),
        (repeated([1]), {}, "only one value, 1"),
        (repeated(["a", None]), {"loss": "logistic"}, "only one value, 'a'"),
        (repeated(["a", None]), {"loss": "multinomial"}, "only one value, 'a', in all rows that are used; three are"),
        (repeated([3.5, float("nan")]), {}, "only one value, 3.5"),
        (repeated([None], pa.float64()), {}, "only nulls"),
        (
            repeated([0.5, float("inf"), 2.5]),
            {},
            r"holds infinite values, first in data\.parquet, row group 0, row 1\.",
        ),
        (repeated([2**53, 2**53 + 1]), {}, "9007199254740992 and 9007199254740993.*Convert the column to text"),
        (repeated([0, 2**64 - 1], pa.uint64()), {}, "18446744073709551615.*beyond 64-bit integers"),
        (repeated([1.0, 2.0, float("-inf")]), {"loss": "squared"}, "infinite"),
        (repeated([date(2026, 1, 1), date(2026, 1, 2)]), {}, "type date32"),
        (repeated([[1], [2]]), {}, "type list;"),
        (repeated([b"a", b"b"]), {}, "type binary;"),
        (repeated([None]), {}, "type null;"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_targets_that_no_loss_can_have_are_refused(
    tmp_path: Path, values: pa.Array, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TargetError, match=f"target 'y'.*{message}") as caught:
        target_of(tmp_path, values, **options)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def rare_at_the_end(ordinary: Any, rare: Any, rows: int = 70_000) -> pa.Array:
    """0.2 % of rare values, all of them last, in rows that no sample sees."""
    return pa.array([ordinary] * (rows - rows // 500) + [rare] * (rows // 500))


@pytest.mark.parametrize("statistics", [True, False], ids=["with statistics", "without"])
@pytest.mark.parametrize(("ordinary", "rare"), [(0, 1), (0, 9), (0.0, 1.0), (False, True), ("no", "yes")])
def test_rare_positives_at_the_end_of_sorted_data_are_found(
    tmp_path: Path, ordinary: Any, rare: Any, statistics: bool
) -> None:
    values = rare_at_the_end(ordinary, rare)
    assert target_of(tmp_path, values, 70_000, statistics) == ("logistic", TargetColumn("y", (ordinary, rare)))


def test_neighbouring_bounds_make_a_scan_unnecessary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "scan_column", None)
    assert target_of(tmp_path, rare_at_the_end(0, 1), 70_000)[1].classes == (0, 1)


def test_rare_positives_are_found_behind_a_filter(tmp_path: Path) -> None:
    values = rare_at_the_end(0, 1)
    assert target_of(tmp_path, values, 70_000, where="y >= 0")[1].classes == (0, 1)
    with pytest.raises(TargetError, match="only one value, 0"):
        target_of(tmp_path, values, 70_000, where="y < 1")


def test_zeros_before_amounts_are_no_classes(tmp_path: Path) -> None:
    amounts = np.concatenate([np.zeros(69_000), np.random.default_rng(2).gamma(2.0, 500.0, 1000)])
    assert target_of(tmp_path, amounts, 70_000) == ("squared", TargetColumn("y"))


def test_a_third_value_that_only_the_footers_show_counts(tmp_path: Path) -> None:
    values = pa.array([0, 1] * 34_900 + [16] * 200)
    with pytest.raises(TargetError, match="at least 3 different whole numbers"):
        target_of(tmp_path, values, 70_000)


def test_an_infinite_value_that_only_the_footers_show_counts(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="infinite"):
        target_of(tmp_path, np.append(np.linspace(0, 1, 69_999), np.inf), 70_000)
