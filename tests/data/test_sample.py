"""The sample comes from everywhere, is the same every time, and stays small."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data import sample as module
from streamgd.data.filters import parse_where
from streamgd.data.sample import (
    FEWEST_ROWS,
    MOST_BATCHES,
    MOST_ROW_GROUPS,
    SAMPLE_ROWS,
    first_rows,
    read_sample,
    scan_column,
    spread,
)
from streamgd.data.source import COLUMN_PAGE_BYTES, Manifest, discover


def written(folder: Path, table: pa.Table, row_group_rows: int, files: int = 1) -> Manifest:
    rows = -(-len(table) // files)
    for number in range(files):
        pq.write_table(table.slice(number * rows, rows), folder / f"{number}.parquet", row_group_size=row_group_rows)
    return discover([str(folder)])


def numbered(rows: int) -> pa.Table:
    return pa.table({"row": pa.array(np.arange(rows)), "text": pa.array([f"t{row % 7}" for row in range(rows)])})


def test_a_small_data_set_is_taken_whole(tmp_path: Path) -> None:
    sample = read_sample(written(tmp_path, numbered(1000), 100, files=2), ["text", "row"])

    assert sample.complete
    assert sample.n_rows == 1000
    assert sample.rows.schema.names == ["text", "row"]
    assert sample.rows.column("row").to_pylist() == list(range(1000))
    assert sample.rows.column("text").to_pylist() == [f"t{row % 7}" for row in range(1000)]


def test_rows_come_from_the_front_of_row_groups_all_over_the_data(tmp_path: Path) -> None:
    manifest = written(tmp_path, numbered(200 * 2000), 2000, files=4)
    sample = read_sample(manifest, ["row"])
    groups, places = np.divmod(sample.rows.column("row").to_numpy(), 2000)

    assert not sample.complete
    assert len(sample.rows) == SAMPLE_ROWS
    assert sample.n_rows == 400_000
    chosen = np.unique(groups)
    assert len(chosen) == MOST_ROW_GROUPS
    assert (chosen[0], chosen[-1]) == (0, 199)
    assert set(np.diff(chosen)) == {3, 4}
    assert places.max() == SAMPLE_ROWS // MOST_ROW_GROUPS - 1
    assert sample.rows.equals(read_sample(manifest, ["row"]).rows)


def test_wide_rows_make_the_sample_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = written(tmp_path, numbered(50_000), 1000)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 8 * 2 * 10_000)

    assert 1000 < len(read_sample(manifest, ["row", "text"]).rows) <= 10_000


@pytest.mark.parametrize(("row_group_rows", "n_columns", "within_bytes", "expected"), [
    (100, 1, 10**6, 64), (100, 2, 32 * 2 * 800, 32), (100, 2, 1, 16), (2000, 1, 1, 5), (10_000, 1, 1, 1),
    (100, 0, 10**6, 64), (100, 1, 20 * 800, 20),
])  # fmt: skip
def test_as_many_row_groups_are_looked_at_as_their_first_pages_allow(
    tmp_path: Path, row_group_rows: int, n_columns: int, within_bytes: int, expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "SPREAD_BYTES", within_bytes)
    row_groups = written(tmp_path, numbered(10_000), row_group_rows).row_groups
    places = [row_groups.index(row_group) for row_group in spread(row_groups, n_columns)]

    assert len(places) == expected
    assert places[0] == 0
    if expected > 1:
        assert places[-1] == len(row_groups) - 1
        assert np.ptp(np.diff(places)) <= 1


def test_a_sample_is_of_the_same_row_groups_however_values_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPREAD_BYTES", 20 * 2 * 8_000)
    samples = []
    for dictionary in (True, False):
        folder = tmp_path / str(dictionary)
        folder.mkdir()
        pq.write_table(numbered(100_000), folder / "x.parquet", row_group_size=1_000, use_dictionary=dictionary)
        samples.append(read_sample(discover([str(folder)]), ["row", "text"]).rows)

    assert len({row // 1_000 for row in samples[0].column("row").to_pylist()}) == 20
    assert samples[0].column("row").equals(samples[1].column("row"))


def test_long_row_groups_count_by_their_first_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMN_PAGE_BYTES", 800)
    monkeypatch.setattr(module, "SPREAD_BYTES", 30 * 800)
    assert len(spread(written(tmp_path, numbered(10_000), 200).row_groups, 1)) == 30


def test_the_first_page_of_a_long_column_counts_alone(tmp_path: Path) -> None:
    manifest = written(tmp_path, numbered(400_000), 400_000)

    assert manifest.first_pages_bytes(manifest.row_groups[0], ["row"]) == COLUMN_PAGE_BYTES
    assert manifest.uncompressed_bytes(manifest.row_groups[0], ["row"]) > 2 * COLUMN_PAGE_BYTES


def test_a_filter_keeps_its_rows_and_estimates_how_many_there_are(tmp_path: Path) -> None:
    manifest = written(tmp_path, numbered(300_000), 10_000)
    where = parse_where("text == 't3'", manifest.schema)
    sample = read_sample(manifest, ["text"], where)

    assert set(sample.rows.column("text").to_pylist()) == {"t3"}
    assert sample.n_rows == pytest.approx(300_000 / 7, rel=0.01)


@pytest.mark.parametrize("condition", ["row >= 199_000", "row % 100 == 50", "row < 0", "row % 1000 == -1"])
def test_a_filter_that_leaves_little_is_searched_for_in_whole_row_groups(tmp_path: Path, condition: str) -> None:
    manifest = written(tmp_path, numbered(200_000), 100_000)
    sample = read_sample(manifest, ["row"], parse_where(condition, manifest.schema))
    rows = np.arange(200_000)
    expected = rows[eval(condition, {"row": rows})]
    assert len(expected) < FEWEST_ROWS

    assert sample.complete
    assert sample.n_rows == len(expected)
    assert sorted(sample.rows.column("row").to_pylist()) == expected.tolist()


@pytest.mark.parametrize(("rows_each", "step"), [(30_000, 1), (70_000, 2)])
def test_of_many_rows_that_are_found_by_searching_some_are_kept(tmp_path: Path, rows_each: int, step: int) -> None:
    """… all over the row group that was read: files are often sorted, and a filter takes all of the rest of one."""
    row = np.arange(300_000)
    table = pa.table({"row": row, "text": [f"t{number % 70}" for number in row], "within": row % 100_000})
    manifest = written(tmp_path, table, 100_000)
    sample = read_sample(manifest, ["row", "text"], parse_where(f"within >= {100_000 - rows_each}", manifest.schema))
    found = sample.rows.column("row").to_numpy()

    assert sample.n_rows == 3 * rows_each
    assert not sample.complete
    assert (found % 100_000).tolist() == list(range(100_000 - rows_each, 100_000, step))
    assert sample.rows.column("text").to_pylist() == [f"t{number % 70}" for number in found]


def test_batches_without_a_row_that_passes_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 640)
    joined, together = module._joined, []

    def joining(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        together.append(len(batches))
        return joined(batches)

    monkeypatch.setattr(module, "_joined", joining)
    manifest = written(tmp_path, numbered(100_000), 50_000)
    sample = read_sample(manifest, ["row", "text"], parse_where("row % 50_000 == 49_999", manifest.schema))

    assert sample.rows.column("row").to_pylist() == [49_999, 99_999]
    assert max(together) == MOST_BATCHES


@settings(max_examples=20)
@given(rows=st.integers(1, 300), row_group_rows=st.integers(1, 300))
def test_the_sample_of_any_layout_is_a_set_of_rows_without_repetition(
    tmp_path_factory: pytest.TempPathFactory, rows: int, row_group_rows: int
) -> None:
    manifest = written(tmp_path_factory.mktemp("layout"), numbered(rows), row_group_rows)
    sampled = read_sample(manifest, ["row"]).rows.column("row").to_pylist()

    assert len(set(sampled)) == len(sampled)
    assert sampled[0] == 0
    if len(manifest.row_groups) <= MOST_ROW_GROUPS:
        assert sampled == list(range(rows))


def test_text_of_any_storage_and_partition_columns_come_as_codes(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / f"part={part}").mkdir()
        table = pa.table({"text": pa.array([part + "1", None], pa.large_string() if part == "a" else pa.string())})
        pq.write_table(table, tmp_path / f"part={part}" / "x.parquet")
    rows = read_sample(discover([str(tmp_path)]), ["part", "text"]).rows

    assert {str(field.type) for field in rows.schema} == {str(pa.dictionary(pa.int32(), pa.string()))}
    assert rows.to_pydict() == {"part": ["a", "a", "b", "b"], "text": ["a1", None, "b1", None]}


def test_scanning_a_column_gives_every_value_in_order_that_passes_the_filter(tmp_path: Path) -> None:
    manifest = written(tmp_path, numbered(1000), 300, files=2)
    where = parse_where("text != 't0'", manifest.schema)
    scanned = [value for array in scan_column(manifest, "row", where) for value in array.to_pylist()]

    assert scanned == [row for row in range(1000) if row % 7]


@pytest.mark.parametrize("condition", [None, "row % 3 == 1", "row >= 40_000", "row < 0"])
@pytest.mark.parametrize("row_group_rows", [100, 900, 50_000])
def test_the_first_rows_are_the_same_whatever_row_groups_they_are_in(
    tmp_path: Path, condition: str | None, row_group_rows: int
) -> None:
    manifest = written(tmp_path, numbered(50_000), row_group_rows, files=2)
    where = parse_where(condition, manifest.schema) if condition else None
    first = first_rows(manifest, ["row"], where, read_sample(manifest, ["text", "row"], where))
    rows = np.arange(50_000)
    passing = rows[eval(condition, {"row": rows})] if condition else rows

    assert first.column("row").to_pylist() == passing[:1_024].tolist()


def test_the_first_rows_are_looked_for_in_part_of_the_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_ROWS_AMONG", 3_000)
    manifest = written(tmp_path, numbered(10_000), 1_000)
    where = parse_where("row % 1_000 == 7", manifest.schema)
    first = first_rows(manifest, ["row"], where, read_sample(manifest, ["row"], where))

    assert first.column("row").to_pylist() == [7, 1_007, 2_007]


def test_of_a_long_dictionary_the_sample_has_what_occurs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 40)
    texts = pa.array([None if row % 10 == 3 else f"t{row % 90}" for row in range(400)])
    sample = read_sample(written(tmp_path, pa.table({"text": texts}), 100), ["text"])

    fronts = [texts[begin + row].as_py() for begin in range(0, 400, 100) for row in range(10)]
    assert sample.rows.column("text").to_pylist() == fronts
    assert set(sample.rows.column("text").dictionary.to_pylist()) == set(fronts) - {None}
