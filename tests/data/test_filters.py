"""Conditions on rows: every row against plain Python, row groups, dates, and messages."""

import datetime
import math
import operator
import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.filters import parse_where
from streamgd.data.source import Manifest, discover
from streamgd.errors import ConfigError, DataError

SCHEMA = pa.schema(
    [
        ("i", pa.int8()),
        ("air time", pa.float64()),
        ("s", pa.string()),
        ("b", pa.bool_()),
        ("d", pa.date32()),
        ("l", pa.list_(pa.int8())),
    ]
)
DAY = datetime.date(2015, 1, 31)
ROWS = [
    {"i": i, "air time": x, "s": s, "b": b, "d": d, "l": None}
    for k, (i, x) in enumerate([(i, x) for i in (-3, 0, 2, 5, None) for x in (-1.5, 0.0, 2.0, math.nan, None)])
    for s, b, d in [(("a", "b", "it's", "", None)[k % 5], (True, False, None)[k % 3], (DAY, None)[k % 2])]
]
BATCH = pa.RecordBatch.from_pylist(ROWS, SCHEMA)


def mask(text: str, batch: pa.RecordBatch = BATCH) -> list[bool]:
    return parse_where(text, batch.schema).mask(batch).tolist()


def one_column(values: pa.Array) -> pa.RecordBatch:
    return pa.record_batch([values], names=["x"])


# The oracle: a text together with what it means for a row, in plain Python with None for null.

Meaning = Callable[[dict], object]
Part = tuple[str, Meaning]
COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def null_aware(function: Callable, *parts: Part) -> Meaning:
    def meaning(row: dict) -> object:
        values = [part[1](row) for part in parts]
        return None if any(value is None for value in values) else function(*values)

    return meaning


def column(name: str) -> Part:
    return (f"`{name}`" if " " in name else name), lambda row: row[name]


def constant(value: object) -> Part:
    return repr(value), lambda _: value


def arithmetic(left: Part, symbol: str, right: Part) -> Part:
    operate = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod}[
        symbol
    ]

    def or_null(a: float, b: float) -> float | None:
        return None if symbol in "/%" and b == 0 else operate(a, b)

    return f"({left[0]} {symbol} {right[0]})", null_aware(or_null, left, right)


def all_of(meanings: list[Meaning]) -> Meaning:
    def meaning(row: dict) -> bool | None:
        values = [each(row) for each in meanings]
        return False if False in values else None if None in values else True

    return meaning


def negated(part: Part) -> Part:
    return f"(not {part[0]})", null_aware(operator.not_, part)


def either(parts: list[Part]) -> Part:
    none_of = all_of([negated(part)[1] for part in parts])
    return "(" + " or ".join(part[0] for part in parts) + ")", negated(("", none_of))[1]


def both(parts: list[Part]) -> Part:
    return "(" + " and ".join(part[0] for part in parts) + ")", all_of([part[1] for part in parts])


def chain(first: Part, rest: list[tuple[str, Part]]) -> Part:
    text, meanings, left = first[0], [], first
    for symbol, right in rest:
        text += f" {symbol} {right[0]}"
        meanings.append(null_aware(COMPARE[symbol], left, right))
        left = right
    return f"({text})", all_of(meanings)


def member(part: Part, values: list, wanted: bool) -> Part:
    text = f"({part[0]} {'in' if wanted else 'not in'} {values!r})"
    return text, null_aware(lambda value: (value in values) == wanted, part)


def null_check(part: Part, wanted: bool) -> Part:
    return f"({part[0]} {'is' if wanted else 'is not'} None)", lambda row: (part[1](row) is None) == wanted


whole = st.integers(-6, 6)
halves = st.integers(-12, 12).map(lambda n: n / 2)  # exact in binary, so that the order of operations does not matter
numbers = st.recursive(
    st.sampled_from([column("i"), column("air time")]) | st.builds(constant, whole | halves),
    lambda parts: (
        st.builds(arithmetic, parts, st.sampled_from("+-*%"), parts)
        | parts.map(lambda part: (f"(-{part[0]})", null_aware(operator.neg, part)))
    ),
    max_leaves=4,
)
quotients = numbers | st.builds(arithmetic, numbers, st.just("/"), numbers)
texts = st.just(column("s")) | st.builds(constant, st.sampled_from(["a", "b", "", "it's", 'say "x"', "`"]))
symbols = st.sampled_from(list(COMPARE))
links = st.lists(st.tuples(symbols, quotients), min_size=1, max_size=3)
comparisons = (
    st.builds(chain, quotients, links)
    | st.builds(lambda left, symbol, right: chain(left, [(symbol, right)]), texts, symbols, texts)
    | symbols.map(lambda symbol: chain(column("d"), [(symbol, ("'2015-01-31'", lambda _: DAY))]))
    | st.builds(member, numbers, st.lists(whole | halves, max_size=4), st.booleans())
    | st.builds(member, st.just(column("s")), st.lists(st.sampled_from(["a", "", "z"]), max_size=3), st.booleans())
    | st.builds(null_check, st.sampled_from([column(name) for name in SCHEMA.names]), st.booleans())
    | st.just(column("b"))
)
conditions = st.recursive(
    comparisons,
    lambda parts: (
        st.lists(parts, min_size=2, max_size=3).map(both)
        | st.lists(parts, min_size=2, max_size=3).map(either)
        | parts.map(negated)
    ),
    max_leaves=5,
)
# Constants alone are refused; this changes no row and leaves no row group.
NAMES_A_COLUMN = " and (i is None or i is not None)"


@settings(max_examples=300)
@given(condition=conditions)
def test_a_mask_is_what_plain_python_says_of_each_row(condition):
    text, meaning = condition
    assert mask(text + NAMES_A_COLUMN) == [meaning(row) is True for row in ROWS]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("rows")
    table = pa.Table.from_pylist(
        [row | {"n": n} for n, row in enumerate(ROWS)], SCHEMA.append(pa.field("n", pa.int64()))
    )
    for file, start in enumerate([0, 10]):
        (folder / f"i=9{file}").mkdir()  # a folder that a column of the file overrules
        pq.write_table(table.slice(start, 10 + 5 * file), folder / f"i=9{file}" / "a.parquet", row_group_size=2)
    return discover([str(folder)])


@settings(max_examples=200)
@given(condition=conditions)
def test_every_row_to_use_lies_in_a_surviving_row_group(manifest, condition):
    text, meaning = condition
    where = parse_where(text + NAMES_A_COLUMN, manifest.schema)
    surviving = [where.surviving_row_groups(manifest, index) for index in range(2)]
    for group in manifest.row_groups:
        rows = ROWS[group.first_row : group.first_row + group.rows]
        if any(meaning(row) is True for row in rows):
            assert group.index in surviving[group.file_index]


# Row groups


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("x > 11", {3}),
        ("x >= 11", {2, 3}),
        ("12 <= x", {3}),
        ("x == 4", {1}),
        ("x < 3 or x > 12", {0, 3}),
        ("2 < x < 5", {0, 1}),
        ("x in [0, 5]", {0, 1}),
        ("x > 1e9", set()),
        ("x > 1.5 and s == 'c'", {2}),
        ("s < 'b'", {0}),
        ("k == 1", {0, 1, 2, 3}),
        ("k == 2", set()),
        ("k == 2 and x > 0", set()),
        ("z is None", {3}),
        ("z is not None", {0, 1, 2}),
        ("z == 1", {0, 1, 2}),
        ("t >= '2015-01-01T00:00:08'", {2, 3}),
        # Nothing follows from the bounds here:
        ("x != 4", {0, 1, 2, 3}),
        ("not x > 11", {0, 1, 2, 3}),
        ("x + 1 > 12", {0, 1, 2, 3}),
        ("x > z", {0, 1, 2, 3}),
    ],
)
def test_row_groups_that_cannot_match_are_left_out(tmp_path, text, groups):
    (tmp_path / "k=1").mkdir()
    table = pa.table(
        {
            "x": np.arange(16.0),
            "s": np.array(list("abcd")).repeat(4),
            "z": [1] * 12 + [None] * 4,
            "t": pa.array(np.arange(16) + np.datetime64("2015-01-01", "s").astype(int), pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "k=1" / "a.parquet", row_group_size=4)
    manifest = discover([str(tmp_path)])
    assert parse_where(text, manifest.schema).surviving_row_groups(manifest, 0) == groups


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("t < '12:00:00.123456500'", [0, 1]),
        ("t <= '12:00:00.1234565'", [0, 1, 2]),
        ("t == '12:00:00.123456500'", [2]),
        ("t in ['12:00:00.123456501']", [3]),
        ("t > '12:00:00.123456500'", [3, 4]),
        ("t >= '12:00'", [0, 1, 2, 3, 4]),
        ("t != '12:00:01'", [0, 1, 2, 3]),
    ],
)
def test_times_of_day_are_compared_to_the_nanosecond(tmp_path, text, kept):
    start = (12 * 3_600 * 10**9) + 123_456_000
    times = pa.array([start, start + 499, start + 500, start + 501, 12 * 3_600 * 10**9 + 10**9], pa.time64("ns"))
    pq.write_table(pa.table({"t": times}), tmp_path / "a.parquet", row_group_size=1)
    manifest = discover([str(tmp_path)])
    where = parse_where(text, manifest.schema)
    assert np.flatnonzero(where.mask(pa.record_batch({"t": times}))).tolist() == kept
    assert set(kept) <= where.surviving_row_groups(manifest, 0)


@pytest.mark.parametrize(
    ("unit", "text"), [("ns", "12:00:00.1234567891"), ("us", "12:00:00.1234567"), ("s", "12:00:00.5"), ("s", "25:00")]
)
def test_times_that_a_column_cannot_have_are_refused(unit, text):
    kind = pa.time32("s") if unit == "s" else pa.time64(unit)
    with pytest.raises(ConfigError, match="cannot be read as time"):
        parse_where(f"t < '{text}'", pa.schema({"t": kind}))


def test_without_statistics_every_row_group_survives(tmp_path):
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "a.parquet", row_group_size=1, write_statistics=False)
    manifest = discover([str(tmp_path)])
    assert parse_where("x > 9", manifest.schema).surviving_row_groups(manifest, 0) == {0, 1, 2}


def test_a_nan_outside_the_bounds_is_not_lost(tmp_path):
    pq.write_table(pa.table({"x": [1.0, math.nan, 1.0]}), tmp_path / "a.parquet")
    manifest = discover([str(tmp_path)])
    for text in ["x != 1", "not x == 1", "not (x >= 0)"]:
        where = parse_where(text, manifest.schema)
        assert where.mask(one_column(pa.array([1.0, math.nan, 1.0]))).tolist() == [False, True, False]
        assert where.surviving_row_groups(manifest, 0) == {0}


def test_partition_columns_are_columns_like_others(tmp_path):
    for folder in ["k=1", "k=2", "k=__HIVE_DEFAULT_PARTITION__"]:
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / folder / "a.parquet")
    manifest = discover([str(tmp_path)])
    files = {file.partition["k"]: index for index, file in enumerate(manifest.files)}

    def survivors(text: str) -> set:
        where = parse_where(text, manifest.schema)
        return {k for k, index in files.items() if where.surviving_row_groups(manifest, index)}

    assert survivors("k == 2") == {2}
    assert survivors("k > 0") == {1, 2}
    assert survivors("k is None") == {None}
    assert survivors("k is not None and x > 0") == {1, 2}
    assert mask("k == 2", pa.record_batch({"k": pa.array([1, 2, None], pa.int64())})) == [False, True, False]


# Types


@pytest.mark.parametrize(
    "stored",
    [
        pa.array(["a", None, "b", "a"]),
        pa.array(["a", None, "b", "a"], pa.large_string()),
        pa.array(["a", None, "b", "a"], pa.string_view()),
        pa.array(["a", None, "b", "a"]).dictionary_encode(),
        pa.array(["x", "a", None, "b", "a"]).dictionary_encode().slice(1),
    ],
)
def test_text_is_text_however_it_is_stored(stored):
    where = parse_where("x == 'a' or x in ['c']", pa.schema([("x", pa.string())]))
    assert where.mask(one_column(stored)).tolist() == [True, False, False, True]
    assert mask("x < 'b'", one_column(stored)) == [True, False, False, True]


@pytest.mark.parametrize(
    ("arrow_type", "text", "expected"),
    [
        (pa.date32(), "x >= '2015-02-01'", [False, True]),
        (pa.date64(), "'2015-02-01' > x", [True, False]),
        (pa.timestamp("s"), "x == '2015-01-31'", [True, False]),
        (pa.timestamp("us"), "x > '2015-01-31 00:00:00.5'", [False, True]),
        (pa.timestamp("ns"), "x in ['2015-02-01T12:00']", [False, True]),
        (pa.timestamp("us", "UTC"), "x == '2015-01-31'", [True, False]),
        (pa.timestamp("us", "UTC"), "x == '2015-01-31T01:00:00+01:00'", [True, False]),
        (pa.timestamp("us", "America/New_York"), "x == '2015-01-30T19:00'", [True, False]),
    ],
)
def test_dates_and_times_are_compared_with_iso_texts(arrow_type, text, expected):
    moments = [datetime.datetime(2015, 1, 31), datetime.datetime(2015, 2, 1, 12)]
    assert mask(text, one_column(pa.array(moments, arrow_type))) == expected


def test_a_time_of_day_is_compared_with_an_iso_text():
    times = pa.array([datetime.time(9, 59), datetime.time(10)])
    assert mask("x < '10:00'", one_column(times)) == [True, False]


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (pa.array([0.1, 0.2], pa.float32()), "x == 0.1", [True, False]),  # the constant in the column's type
        (pa.array([0.1, 0.2], pa.float32()), "x < 1e300", [True, True]),
        (pa.array([1.5, 2.5], pa.float16()), "x > 2", [False, True]),
        (pa.array([Decimal("0.10"), Decimal("7.25")]), "x == 0.1", [True, False]),
        (pa.array([Decimal("0.10"), Decimal("7.25")]), "x > 0.105", [False, True]),
        (pa.array([Decimal("0.10"), Decimal("7.25")]), "x * 2 > 14", [False, True]),
        (pa.array([100, -100], pa.int8()), "x < 1000", [True, True]),
        (pa.array([100, -100], pa.int8()), "x + 100 == 200", [True, False]),  # beyond int8 on the way
        (pa.array([3, 4], pa.int32()), "x == 3.0", [True, False]),
        (pa.array([3, 4], pa.int32()), "x > 3.5", [False, True]),
        (pa.array([3, 4], pa.int32()), "x in [3.5, 4]", [False, True]),
        (pa.array([2**64 - 1, 0], pa.uint64()), "x == 18446744073709551615", [True, False]),
        (pa.array([2**64 - 1, 0], pa.uint64()), "x > -1", [True, True]),
        (pa.array([2**64 - 1, 0], pa.uint64()), "x / 2 > 1", [True, False]),
        (pa.array([2**62 + 1, 2**62]), "x == 4611686018427387905", [True, False]),  # not through floats
        (pa.array([2**62 + 1, 2**62]), "x % 10 == 5", [True, False]),
        (pa.array([2**62 + 1, 2**62]), "x > 4.7e18", [False, False]),
        (pa.array([True, False]), "x == 1", [True, False]),
        (pa.array([True, False]), "x != True", [False, True]),
        (pa.array([1, 0], pa.int8()), "x == True", [True, False]),
        (pa.array([None, None], pa.null()), "x is None", [True, True]),
        (pa.array([[1], None]), "x is not None", [True, False]),
    ],
)
def test_constants_take_the_type_of_the_column_if_it_can_hold_them(values, text, expected):
    assert mask(text, one_column(values)) == expected


def test_both_zeros_are_zero():
    zeros = one_column(pa.array([0.0, -0.0, 1.0]))
    for text in ["x in [0]", "x in [-0.0]", "-x in [0.0]", "x == -0.0", "x not in [1]"]:
        assert mask(text, zeros) == [True, True, False]


def test_whole_numbers_that_overflow_are_an_error_not_a_wrong_row():
    with pytest.raises(DataError, match=r"--where: 'x \* x > 0': overflow"):
        mask("x * x > 0", one_column(pa.array([2**40])))
    assert mask("x * 1.0 * x > 0", one_column(pa.array([2**40]))) == [True]


# The language


@pytest.mark.parametrize(
    "text",
    [
        "i>0",
        "  i > 0  ",
        "\n i\n > 0",
        "(i > 0)",
        "i > 0 # late ones",
        "0 < i",
        "`i` > 0",
        "not not i > 0",
        "i > 0 and True",
    ],
)
def test_the_layout_does_not_matter(text):
    assert mask(text) == [row["i"] is not None and row["i"] > 0 for row in ROWS]


@pytest.mark.parametrize(
    "name", ["air time", "a.b", "dep-time", "class", "größe", "2nd", "ꙮ0", 'say "x"', "it's", "x" * 99]
)
def test_any_column_can_be_named_in_backticks(name):
    batch = pa.record_batch({name: [1, 2], "other name": [1, 1]})
    where = parse_where(f"`{name}` > 1 and `other name` != 2", batch.schema)
    assert where.columns == [name, "other name"]
    assert where.mask(batch).tolist() == [False, True]


def test_backticks_inside_a_text_are_text():
    batch = pa.record_batch({"s": ["`i`", "i"]})
    assert mask("s == '`i`'", batch) == [True, False]


def test_the_expression_serves_arrows_own_scanners():
    table = pa.Table.from_batches([BATCH])
    where = parse_where("i in [2, 5] and `air time` % 2 == 0", SCHEMA)
    assert table.filter(where.expression).num_rows == sum(where.mask(BATCH)) > 0


def test_a_condition_can_be_sent_to_another_process():
    where = pickle.loads(pickle.dumps(parse_where("i > 0", SCHEMA)))
    assert where.mask(BATCH).tolist() == mask("i > 0")


def test_an_empty_batch_and_a_slice_have_masks_of_their_length():
    where = parse_where("i > 0", SCHEMA)
    assert where.mask(BATCH.slice(0, 0)).shape == (0,)
    assert where.mask(BATCH.slice(7, 11)).tolist() == mask("i > 0")[7:18]


# Messages


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I > 0", "'I' at position 1 is not a column"),
        ("`air_time` > 0", "'`air_time`' at position 1 is not a column. Did you mean 'air time'?"),
        ("i > 0 and größe > 1 and nix < 2", "'größe' at position 11 is not a column"),
        ("`air time` > 0 and nix < 2", "'nix' at position 20 is not a column"),
        ("  nix < 2", "'nix' at position 3"),
        ("i = 3", "cannot be read at position 3, '= 3': invalid syntax. Write == for equality"),
        ("i > 0 AND b", "Write and, or, not, in, is None in lower case"),
        ("air time > 3", "Put names that are no identifiers in `backticks`"),
        ("i >", "'i >' cannot be read"),
        ("", "'' cannot be read"),
        ("i > 0) or (b", "cannot be read"),
        ("i > 'a'", "'i' at position 1 is a number, but \"'a'\" is a text"),
        ("s > 3", "'s' at position 1 is a text, but '3' is a number"),
        ("s + 1 > 3", "'s' at position 1 is a text, not a number"),
        ("i in [1, 'a']", "'i' at position 1 is a number, but \"'a'\" is a text"),
        ("i in [1, d]", "'d' at position 10 is not a constant"),
        ("i in b", "'b' at position 6 cannot follow 'in'"),
        ("i == None", "'None' at position 6 can only follow 'is'"),
        ("i is 3", "'3' at position 6 cannot follow 'is'"),
        ("i", "'i' at position 1 is a number, not a condition"),
        ("i and b", "'i' at position 1 is a number, not a condition"),
        ("b + 1 > 0", "'b' at position 1 is true or false, not a number"),
        ("d > '2015-13-01'", "\"'2015-13-01'\" at position 5 cannot be read as date32[day]"),
        ("l == 1", "'l' at position 1 is of type list<item: int8>, which can only be tested with 'is None'"),
        ("1 < 2", "names no column"),
        ("i > " + "9" * 400, "is too large a number"),
        ("i > 1j", "'1j' at position 5 is neither a number nor a text"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_position_and_an_example(text, says):
    with pytest.raises(ConfigError) as caught:
        parse_where(text, SCHEMA)
    message = str(caught.value)
    assert says in message
    assert message.startswith("--where: ")
    assert "Example: month <= 6 and carrier in" in message
    assert "\n" not in message
    assert len(message) < 500
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch pwned')",
        "s.upper() == 'A'",
        "s[0] == 'a'",
        "[i for i in s]",
        "(lambda: b)()",
        "(x := 3) > i",
        "f'{i}' == 'a'",
        "i if b else b",
        "i ** 9 > 1",
        "i // 2 > 1",
        "~b",
        "b & b",
        "b, b",
        "{i: b}",
        "*b",
        "i > \0",
        "i > 0; b",
        "not " * 3000 + "b",
        "(" * 500 + "b" + ")" * 500,
        "1+" * 5000 + "1 < i",
    ],
)
def test_nothing_but_conditions_is_accepted_and_nothing_is_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        parse_where(text, SCHEMA)
    assert "is not allowed" in str(caught.value) or "cannot be read" in str(caught.value)
    assert not list(Path().iterdir())
