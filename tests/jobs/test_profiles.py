"""What a file holds, compared with pandas and numpy on the same rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import model

from streamgd.errors import CorruptFileError, PausedError
from streamgd.jobs.profiles import Column, Profile, Profiles
from streamgd.model import Model


def frame(rows: int, seed: int, **changed: object) -> pd.DataFrame:
    """Columns of the model of ``small_models``: with nulls, weights that must not count, and levels that it lacks."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({
        "distance": rng.normal(500.0, 100.0, rows), "delay": rng.normal(-2.0, 0.5, rows),
        "carrier": rng.choice(["UA", "AA", "WN", "B6", "X1"], rows), "late": rng.integers(0, 2, rows).astype(float),
        "w": rng.random(rows),
    })  # fmt: skip
    table.loc[rng.random(rows) < 0.1, "distance"] = np.nan
    table.loc[rng.random(rows) < 0.2, "carrier"] = None
    table.loc[rng.random(rows) < 0.05, "late"] = np.nan
    return table.assign(**changed)


def write(folder: Path, name: str, table: pd.DataFrame, group: int = 300) -> None:
    folder.mkdir(exist_ok=True)
    schema = pa.schema([(name, pa.string() if name == "carrier" else pa.float64()) for name in table.columns])
    pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), folder / name, row_group_size=group)


def profiles(folder: Path, skip_bad: bool = False, threads: int = 2, check=lambda: None, done=lambda: None) -> Profiles:  # type: ignore[no-untyped-def]
    return Profiles(str(folder), folder / "_kept" / "profiles.json", skip_bad, threads, check, done, Listener())


def expected(table: pd.DataFrame, known: set[str | None]) -> Profile:
    """Straight from the table."""
    rows = table[table["late"].notna()]
    columns = {}
    for name in ("distance", "delay"):
        values = rows[name].dropna()
        columns[name] = Column(len(values), int(rows[name].isna().sum()), values.mean(), values.std(ddof=0))
    levels = rows["carrier"].dropna()
    columns["carrier"] = Column(
        len(levels), int(rows["carrier"].isna().sum()), new_levels=int((~levels.isin(list(known))).sum())
    )
    target = rows["late"]
    return Profile(columns, Column(len(target), int(table["late"].isna().sum()), target.mean(), target.std(ddof=0)))


def assert_close(found: Profile, wanted: Profile) -> None:
    for name, column in {**wanted.columns, "": wanted.target}.items():
        mine = found.columns[name] if name else found.target
        assert (mine.rows, mine.nulls, mine.new_levels) == (column.rows, column.nulls, column.new_levels), name
        if column.mean is None:
            assert mine.mean is None
            assert mine.deviation is None
        else:
            assert mine.mean == pytest.approx(column.mean, rel=1e-12)
            assert mine.deviation == pytest.approx(column.deviation, rel=1e-12)


@pytest.mark.parametrize("made", [model(), model(weight="w"), model(nulls="drop"), model(nulls="error")])
def test_a_profile_is_that_of_the_rows_of_the_file(tmp_path: Path, made: Model) -> None:
    tables = {f"{seed}.parquet": frame(1000, seed) for seed in (1, 2)}
    for name, table in tables.items():
        write(tmp_path / "data", name, table)

    found = profiles(tmp_path / "data").of(made, dict.fromkeys(tables, "digest"))

    for name, table in tables.items():
        assert_close(found[name], expected(table, {"UA", "AA", "WN"}))


def test_a_profile_does_not_depend_on_threads(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.parquet", frame(2000, 1), group=100)

    one, four = (profiles(tmp_path / "data", threads=n).of(model(), {"a.parquet": str(n)}) for n in (1, 4))

    assert one == four


def test_only_rows_that_where_keeps_count(tmp_path: Path) -> None:
    table = frame(1000, 1)
    write(tmp_path / "data", "a.parquet", table)
    made = replace(model(), facts={"where": "delay < -2"})

    found = profiles(tmp_path / "data").of(made, {"a.parquet": ""})["a.parquet"]

    assert_close(found, expected(table[table["delay"] < -2], {"UA", "AA", "WN"}))


@pytest.mark.parametrize("value", [7.0, 1e15, -1e-300, 0.0])
def test_a_constant_column_has_no_deviation(tmp_path: Path, value: float) -> None:
    write(tmp_path / "data", "a.parquet", frame(500, 1, distance=value, late=1.0))

    found = profiles(tmp_path / "data").of(model(), {"a.parquet": ""})["a.parquet"]

    assert found.columns["distance"].mean == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert found.columns["distance"].deviation == pytest.approx(0.0, abs=1e-12 * abs(value))
    assert found.target == Column(500, 0, 1.0, 0.0)


def test_a_column_of_nulls_has_neither_mean_nor_deviation(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.parquet", frame(500, 1, distance=np.nan, carrier=None, late=0.0))

    found = profiles(tmp_path / "data").of(model(), {"a.parquet": ""})["a.parquet"]

    assert found.columns["distance"] == Column(0, 500)
    assert found.columns["carrier"] == Column(0, 500, new_levels=0)


def test_what_is_kept_is_not_read_again_until_the_file_changes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder, "a.parquet", frame(500, 1))
    done: list[int] = []
    made = profiles(folder, done=lambda: done.append(1))
    first = made.of(model(), {"a.parquet": "one"})
    write(folder, "a.parquet", frame(400, 2))

    assert made.of(model(), {"a.parquet": "one"}) == first
    assert made.of(model(), {"a.parquet": "two"}) != first
    assert len(done) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{"])
def test_what_is_kept_and_damaged_is_made_again(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "data", "a.parquet", frame(100, 1))
    kept = tmp_path / "data" / "_kept" / "profiles.json"
    kept.parent.mkdir()
    kept.write_bytes(content)

    assert profiles(tmp_path / "data").of(model(), {"a.parquet": ""})["a.parquet"].target.rows > 0


def test_a_pause_keeps_the_files_that_are_done(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / "data", name, frame(500, 1))
    done: list[int] = []

    def check() -> None:
        if done:
            raise PausedError("stopped")

    files = {"a.parquet": "", "b.parquet": ""}
    with pytest.raises(PausedError):
        profiles(tmp_path / "data", check=check, done=lambda: done.append(1)).of(model(), files)

    again: list[int] = []
    found = profiles(tmp_path / "data", done=lambda: again.append(1)).of(model(), files)
    assert (len(done), len(again)) == (1, 1)
    assert found["a.parquet"] == found["b.parquet"]


def test_a_row_group_that_cannot_be_read_is_passed_over_where_training_does_so(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.parquet", frame(1000, 1))
    path = tmp_path / "data" / "a.parquet"
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 40] = b"\xff" * 40
    path.write_bytes(damaged)

    with pytest.raises(CorruptFileError):
        profiles(tmp_path / "data").of(model(), {"a.parquet": ""})
    found = profiles(tmp_path / "data", skip_bad=True).of(model(), {"a.parquet": ""})["a.parquet"]

    table = frame(1000, 1)
    assert_close(found, expected(pd.concat([table[:300], table[600:]]), {"UA", "AA", "WN"}))


numbers = st.floats(-1e200, 1e200)


@settings(max_examples=100)
@given(parts=st.lists(st.lists(numbers, min_size=0, max_size=20), min_size=1, max_size=5))
def test_columns_merge_to_that_of_all_their_values(parts: list[list[float]]) -> None:
    def of(values: list[float]) -> Column:
        if not values:
            return Column(0, 3)
        size = max(map(abs, values)) or 1.0
        scaled = np.array(values) / size
        return Column(len(values), 3, float(scaled.mean() * size), float(scaled.std() * size))

    merged = Column(0, 0)
    for part in parts:
        merged = merged.merge(of(part))

    whole = of([value for part in parts for value in part])
    assert (merged.rows, merged.nulls) == (whole.rows, 3 * len(parts))
    if whole.mean is not None and whole.deviation is not None:
        size = max(abs(value) for part in parts for value in part)
        assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-9 * size)
        assert merged.deviation == pytest.approx(whole.deviation, rel=1e-7, abs=1e-7 * size)
        assert math.isfinite(merged.mean)


def test_a_profile_comes_back_from_json() -> None:
    profile = Profile({"x": Column(5, 1, 0.1, 0.2), "c": Column(6, 0, new_levels=2)}, Column(6, 0, 0.5, 0.5))

    assert Profile.from_json(profile.to_json()) == profile


def test_a_column_that_is_new_begins_with_the_later_profile() -> None:
    before = Profile({"x": Column(5, 1, 0.1, 0.2)}, Column(6, 0, 0.5, 0.5))
    later = Profile({"c": Column(6, 0, new_levels=2)}, Column(6, 0, 0.5, 0.5))

    assert before.merge(later) == Profile({"c": Column(6, 0)}, Column(12, 0, 0.5, 0.5))
