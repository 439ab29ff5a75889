"""Schemas and values that nobody thought of: what is trained on is what pyarrow's own table holds, or one line says
why not.

Hypothesis makes files of every Arrow type that Parquet takes, nulls, NaN and infinite values anywhere, empty files and
row groups, odd names, one row, one column. The oracle is numpy on pyarrow's table.
"""

from __future__ import annotations

import datetime
import json
import math
import random
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mistakes import here, message

from streamgd.data.kinds import NUMBERS, kind_of
from streamgd.data.source import logical_type
from streamgd.model import Model

UTC = datetime.UTC
DAY = st.dates(datetime.date(1, 1, 2), datetime.date(9999, 12, 30))
MOMENT = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
SPAN = st.timedeltas(datetime.timedelta(days=-9_000), datetime.timedelta(days=9_000))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def whole(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def real(width: int) -> st.SearchStrategy[float]:
    usual = st.floats(-1e3, 1e3, width=16)
    return st.one_of(usual, usual, st.floats(width=width, allow_nan=False, allow_infinity=False))


TRAINABLE: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    *[(getattr(pa, f"int{bits}")(), whole(bits)) for bits in (8, 16, 32, 64)],
    *[(getattr(pa, f"uint{bits}")(), whole(bits, signed=False)) for bits in (8, 16, 32, 64)],
    (pa.float16(), st.floats(width=16, allow_nan=False, allow_infinity=False).map(np.float16)),
    (pa.float32(), real(32)), (pa.float64(), real(64)), (pa.float64(), st.just(7.25)), (pa.bool_(), st.booleans()),
    (pa.decimal128(9, 2), st.decimals(-9_999_999, 9_999_999, places=2)),
    (pa.decimal256(50, 3), st.integers(-(10**20), 10**20).map(lambda n: Decimal(n) / 1000)),
    (pa.string(), TEXT), (pa.large_string(), TEXT), (pa.dictionary(pa.int8(), pa.string()), TEXT),
]  # fmt: skip
OTHERS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.date32(), DAY), (pa.date64(), DAY), (pa.timestamp("s"), MOMENT), (pa.timestamp("ms", "UTC"), MOMENT),
    (pa.timestamp("us"), MOMENT), (pa.timestamp("ns"), MOMENT), (pa.time32("ms"), st.just(datetime.time(3, 4))),
    (pa.time64("us"), st.times()), (pa.duration("ms"), SPAN), (pa.binary(), st.binary(max_size=4)),
    (pa.large_binary(), st.binary(max_size=4)), (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.list_(pa.int32()), st.lists(whole(32), max_size=3)), (pa.null(), st.none()),
    (pa.struct([("a", pa.int8()), ("b", pa.string())]), st.fixed_dictionaries({"a": whole(8), "b": TEXT})),
    (pa.map_(pa.string(), pa.int8()), st.dictionaries(TEXT, whole(8), max_size=2).map(lambda d: list(d.items()))),
    (pa.list_(pa.struct([("a", pa.list_(pa.float32()))])), st.just([{"a": [1.0, None]}])),
]  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["x", "a b", "a.b", "\N{GRINNING FACE}", "x" * 200, "", " ", "y.1", "0", "select", "naïve", "x=1"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6),
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.sampled_from([1, 2, 3, 10, 40]))
    kinds = draw(st.lists(st.sampled_from(TRAINABLE), max_size=4))
    kinds += draw(st.lists(st.sampled_from(OTHERS), max_size=2))
    arrays, names = [], []
    for arrow_type, values in kinds:
        nulls = draw(st.sampled_from([0.0, 0.0, 0.2, 1.0]))
        rng = random.Random(draw(st.integers(0, 2**32)))
        some = draw(st.lists(values, min_size=1, max_size=6))
        column = [None if rng.random() < nulls else rng.choice(some) for _ in range(n)]
        if arrow_type == pa.float64() and draw(st.integers(0, 9)) == 0:
            column[rng.randrange(n)] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
        arrays.append(pa.array(column, arrow_type))
        names.append(draw(NAMES))
    rng = random.Random(draw(st.integers(0, 2**32)))
    target = [None if rng.random() < 0.05 else rng.gauss(0.0, 1.0) for _ in range(n)]
    arrays.append(pa.array(target, pa.float64()))
    return pa.Table.from_arrays(arrays, names=[*names, "y"])


def write(table: pa.Table, folder: Path, row_group_rows: int, files: int) -> None:
    """Files of some rows each, and an empty one; row groups without rows between those with rows."""
    each = -(-len(table) // files)
    pq.write_table(table.slice(0, 0), folder / "empty.parquet")
    for number in range(files):
        part = table.slice(number * each, each)
        with pq.ParquetWriter(folder / f"{number}.parquet", table.schema) as writer:
            for start in range(0, len(part), row_group_rows):
                writer.write_table(part.slice(start, row_group_rows))
                writer.write_table(part.slice(0, 0))


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """The values as float64, NaN for null."""
    return np.array([math.nan if value is None else float(value) for value in column.to_pylist()])


def assert_told_or_right(table: pa.Table, row_group_rows: int, files: int, options: list[str], folder: Path) -> int:
    run, folder = folder / "run", folder / "data"
    folder.mkdir()
    write(table, folder, row_group_rows, files)
    inspected = here("inspect", folder, "--json")
    if inspected.exit_code:
        message(inspected, inspected.exit_code)
    ending = here("train", folder, "--target", "y", "--loss", "squared", "--run", run, "--epochs", "1",
                  "--quiet", "--json", *options)  # fmt: skip
    if ending.exit_code:
        assert ending.exit_code in (65, 66, 78), ending.err
        message(ending, ending.exit_code)
        return ending.exit_code
    assert ending.err == ""
    assert inspected.exit_code == 0
    facts, model = json.loads(ending.out), Model.load(run)
    assert np.isfinite(model.theta).all()
    own = pq.read_table(folder)
    target = as_numbers(own["y"])
    used = ~np.isnan(target)
    if "drop" in options:
        for column in (*model.encoding.columns.numeric, *(each.column for each in model.encoding.categorical)):
            used &= ~np.array([v is None or v != v for v in own[getattr(column, "source", column.name)].to_pylist()])
    assert facts["train_rows"] == used.sum()
    if facts["train_loss"] is not None:  # of rows that are streamed only a part is looked at
        assert facts["base_loss"] == pytest.approx(np.var(target[used]) / 2.0, rel=1e-9, abs=1e-300)
    scaling = model.encoding.scaling
    for number, column in enumerate(model.encoding.columns.numeric):
        if column.part is not None:
            continue
        values = as_numbers(own[column.source])[used]
        values = values[~np.isnan(values)]
        if len(values):
            largest = np.abs(values).max() or 1.0
            mean, deviation = (values / largest).mean(), (values / largest).std()
            assert scaling.shift[number] / largest == pytest.approx(mean, rel=1e-9, abs=1e-9)
            if deviation > 1e-6:
                assert scaling.scale[number] / largest == pytest.approx(deviation, rel=1e-5)
    for each in model.encoding.categorical:
        levels = set(own[each.column.name].filter(pa.array(used)).to_pylist())
        assert set(each.levels.to_pylist()) == levels
    # Saved and loaded, it predicts the same bits.
    batch = own.to_batches()[0]
    again = Model.from_bytes(model.to_bytes(), "memory")
    assert again.predict_batch(batch).tobytes() == model.predict_batch(batch).tobytes()
    return 0


def try_one(table: pa.Table, row_group_rows: int, files: int, options: list[str], exclude: bool) -> int:
    if exclude:
        kinds = {field.name: kind_of(logical_type(field.type)) for field in table.schema}
        refused = [name for name, kind in kinds.items() if kind not in NUMBERS and kind != "text" and "," not in name]
        options = [*options, *(["--exclude", ",".join(refused)] if refused else [])]
    folder = Path(tempfile.mkdtemp(prefix="streamgd-schema-"))
    try:
        return assert_told_or_right(table, row_group_rows, files, options, folder)
    finally:
        shutil.rmtree(folder)


ANY_FILE = given(
    table=tables(), row_group_rows=st.sampled_from([1, 7, 100]), files=st.sampled_from([1, 2]),
    options=st.sampled_from([
        ["--shuffle", "full"], ["--shuffle", "window"], ["--shuffle", "none"], ["--method", "batch"],
        ["--method", "sgd"], ["--nulls", "drop"], ["--nulls", "error"], ["--timestamps", "epoch,hour"],
    ]),
    exclude=st.integers(0, 3).map(bool),
)  # fmt: skip
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=100, suppress_health_check=CHECKS, derandomize=True)
@ANY_FILE
def test_any_schema_is_trained_on_or_refused_in_one_line(
    table: pa.Table, row_group_rows: int, files: int, options: list[str], exclude: bool
) -> None:
    try_one(table, row_group_rows, files, options, exclude)


@pytest.mark.slow
@settings(max_examples=5_000, suppress_health_check=CHECKS)
@ANY_FILE
def test_thousands_of_schemas(
    table: pa.Table, row_group_rows: int, files: int, options: list[str], exclude: bool
) -> None:
    try_one(table, row_group_rows, files, options, exclude)


@pytest.mark.parametrize("target", ["y", "text"])
def test_text_that_is_no_utf8_is_a_level_like_any_other(target: str, tmp_path: Path) -> None:
    """Parquet's text may hold any bytes; the oracle is the same data with the wrong bytes escaped."""
    rng = np.random.default_rng(0)
    values, escaped = [b"ab", b"\xff\xfe"], ["ab", "\\xff\\xfe"]
    chosen, x = rng.integers(0, 2, 2_000), rng.normal(size=2_000)
    columns = {"x": x + chosen, "y": x + rng.normal(size=2_000)}
    found = []
    for name, text in (("bytes", pa.array([values[k] for k in chosen], pa.binary()).view(pa.string())),
                       ("escaped", pa.array([escaped[k] for k in chosen]))):  # fmt: skip
        data, run, out = tmp_path / f"{name}.parquet", tmp_path / name, tmp_path / f"{name}-out"
        pq.write_table(pa.table({**columns, "text": text}), data)
        positive = ["--positive", "ab"] if target == "text" else []
        trained = here("train", data, "--target", target, *positive, "--run", run, "--quiet", "--json")
        assert trained.exit_code == 0, trained.err
        shown = json.loads(here("show", run, "--json").out)
        assert here("predict", run, data, "--out", out, "--quiet").exit_code == 0
        levels = json.loads(here("evaluate", run, data, "--by", "text", "--json").out)["levels"]
        predicted = pq.read_table(out / data.name).to_pylist()
        found.append((shown["coefficients"], shown["base_levels"], levels, predicted))
    assert found[0] == found[1]
