"""Predictions: one output row for every input row, in order, whole files or none, and nothing else written over."""

import errno
import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from small_models import model, raw_predictions, table, with_nulls, write

import streamgd
from streamgd import parquet_output, prediction, state
from streamgd.data.columns import TargetColumn
from streamgd.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    NoInputError,
    PausedError,
    SchemaError,
    StorageError,
)
from streamgd.parquet_output import ParquetOutput
from streamgd.prediction import predict

module = importlib.import_module("streamgd.prediction")  # streamgd.prediction may be the function


def predicted(folder: Path, rows: pa.Table, keep: Any = (), **options: Any) -> pa.Table:
    """Predictions of one file, read back."""
    path = write(rows, folder / "data" / "new.parquet")
    predict(options.pop("by", model()), path, str(folder / "out"), keep, **options)
    return pq.read_table(folder / "out" / "new.parquet")


# What is predicted ---------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_coefficients_in_original_units(tmp_path: Path) -> None:
    rows = with_nulls(with_nulls(table(1000), "distance", 7), "carrier", 11)

    out = predicted(tmp_path, rows)

    assert out.schema.names == ["probability", "prediction"]
    expected = expit(raw_predictions(rows))
    np.testing.assert_allclose(out["probability"].to_numpy(), expected, rtol=0, atol=1e-12)
    assert out["prediction"].to_pylist() == (expected > 0.5).astype(int).tolist()
    assert 0 < sum(out["prediction"].to_pylist()) < 1000


def test_a_model_of_a_number_predicts_the_number(tmp_path: Path) -> None:
    rows = table(300)

    out = predicted(tmp_path, rows, by=model("squared"))

    assert out.schema == pa.schema([("prediction", pa.float64())])
    np.testing.assert_allclose(out["prediction"].to_numpy(), raw_predictions(rows), atol=1e-12)


def test_the_offset_is_added(tmp_path: Path) -> None:
    rows = table(300).append_column("exposure", pa.array(np.linspace(-3, 3, 300)))

    out = predicted(tmp_path, rows, by=model("squared", offset="exposure"))

    expected = raw_predictions(rows) + rows["exposure"].to_numpy()
    np.testing.assert_allclose(out["prediction"].to_numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("classes", "arrow_type"),
    [
        ((0, 1), pa.int64()),
        ((-1, 1), pa.int64()),
        ((1.0, 2.5), pa.float64()),
        (("no", "yes"), pa.string()),
        ((False, True), pa.bool_()),
        ((1, 0), pa.int64()),
    ],
)
def test_the_class_has_the_type_of_the_target(tmp_path: Path, classes: Any, arrow_type: pa.DataType) -> None:
    rows = table(200)

    out = predicted(tmp_path, rows, by=model(target=TargetColumn("late", classes)))

    assert out.schema.field("prediction").type == arrow_type
    positive = expit(raw_predictions(rows)) > 0.5
    assert out["prediction"].to_pylist() == [classes[int(each)] for each in positive]


def test_target_and_weight_need_not_be_there(tmp_path: Path) -> None:
    rows = table(50).drop_columns(["late"])

    assert predicted(tmp_path, rows, by=model(weight="importance")).num_rows == 50


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_what_cannot_be_predicted_is_null_and_counted(tmp_path: Path, policy: str) -> None:
    rows = with_nulls(with_nulls(table(350), "delay", 10), "carrier", 15)
    path = write(rows, tmp_path / "new.parquet")

    summary = predict(model(nulls=policy), path, str(tmp_path / "out"))

    out = pq.read_table(tmp_path / "out" / "new.parquet")
    unknown = [k for k in range(350) if k % 10 == 0 or k % 15 == 0]
    for name in ("probability", "prediction"):
        assert [k for k, value in enumerate(out[name].to_pylist()) if value is None] == unknown
    assert summary["rows"] == 350
    assert summary["files"] == 1
    assert summary["rows_not_predicted"] == len(unknown)
    assert summary["seconds"] > 0


# Rows and files ------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    files=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 120)), min_size=1, max_size=4),
    threads=st.integers(1, 4),
    slice_rows=st.integers(1, 150),
)
def test_every_row_of_every_file_is_there_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[int, int]], threads: int, slice_rows: int
) -> None:
    if not any(rows for rows, _ in files):
        files = [*files, (1, 1)]
    folder = tmp_path_factory.mktemp("rows")
    tables = {f"part={k}/x.parquet": table(rows, seed=k) for k, (rows, _) in enumerate(files)}
    for (name, rows), (_, row_group_rows) in zip(tables.items(), files, strict=True):
        write(rows, folder / "data" / name, row_group_rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_slice_rows", lambda *_: slice_rows)
        predict(model(), str(folder / "data"), str(folder / "out"), ["id"], threads=threads)

    written = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*") if path.is_file()}
    assert written == set(tables)
    for name, rows in tables.items():
        out = pq.read_table(folder / "out" / name, partitioning=None)
        assert out["id"].to_pylist() == rows["id"].to_pylist()
        np.testing.assert_allclose(out["probability"].to_numpy(), expit(raw_predictions(rows)), atol=1e-12)


def test_the_output_has_the_row_groups_of_the_input(tmp_path: Path) -> None:
    write(table(250), tmp_path / "data" / "new.parquet", 100)
    write(table(0), tmp_path / "data" / "none.parquet")

    predict(model(), str(tmp_path / "data"), str(tmp_path / "out"))

    metadata = pq.read_metadata(tmp_path / "out" / "new.parquet")
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [100, 100, 50]
    assert pq.read_table(tmp_path / "out" / "none.parquet").num_rows == 0
    assert pq.read_schema(tmp_path / "out" / "none.parquet").names == ["probability", "prediction"]


def test_large_row_groups_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_output, "ROW_GROUP_ROWS", 60)
    monkeypatch.setattr(module, "_slice_rows", lambda *_: 20)

    out = predicted(tmp_path, table(250), ["id"])

    metadata = pq.read_metadata(tmp_path / "out" / "new.parquet")
    assert max(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)) == 60
    assert out["id"].to_pylist() == list(range(1000, 1250))


def test_wide_kept_columns_are_read_in_short_slices(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = table(4000).append_column("note", pa.array([random.bytes(4000) for _ in range(4000)]))
    path = write(rows, tmp_path / "wide.parquet", 4000)
    manifest = module.discover([path])

    slice_rows = module._slice_rows(manifest, model().encoder(with_target=False).layout.block_rows, ["note"])

    assert 1900 < slice_rows < 2000  # 8 MB
    assert module._slice_rows(manifest, model().encoder(with_target=False).layout.block_rows, []) == 65_536


# Kept columns --------------------------------------------------------------------------------------------------------


def test_kept_columns_of_any_type_come_through_as_they_are(tmp_path: Path) -> None:
    def cycled(values: list[Any], arrow_type: pa.DataType | None = None) -> pa.Array:
        return pa.array([values[k % len(values)] for k in range(250)], arrow_type)

    columns = {
        "large": cycled(["a", None, "c"], pa.large_string()),
        "codes": cycled(["a", None, "c"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
        "nested": cycled([{"a": 1, "b": ["x", "y"]}, None, {"a": None, "b": []}]),
        "list": cycled([[1.5], [], None]),
        "bytes": cycled([b"\x00\xff", None], pa.binary()),
        "nanoseconds": cycled([1, None, 3], pa.timestamp("ns")),
        "decimal": cycled([1, None], pa.decimal128(12, 2)),
        "half": cycled([1.5, None], pa.float16()),
        "dotted.name": cycled([1, 2]),
    }
    rows = table(250)
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    # As a feature the carrier is read as codes.
    kept = [*columns, "carrier", "distance", "late"]
    stored = pq.read_table(write(rows, tmp_path / "stored.parquet"))

    out = predicted(tmp_path, rows, kept)

    assert out.schema.names == [*kept, "probability", "prediction"]
    for name in kept:
        assert out.schema.field(name).type == stored.schema.field(name).type, name
        assert out[name].combine_chunks().equals(stored[name].combine_chunks()), name
    np.testing.assert_allclose(out["probability"].to_numpy(), expit(raw_predictions(rows)), atol=1e-12)


def test_a_partition_column_can_be_kept(tmp_path: Path) -> None:
    write(table(30), tmp_path / "data" / "month=3" / "a.parquet")
    write(table(20), tmp_path / "data" / "month=4" / "a.parquet")

    predict(model(), str(tmp_path / "data"), str(tmp_path / "out"), ["month"])

    out = pq.read_table(tmp_path / "out" / "month=4" / "a.parquet", partitioning=None)
    assert out["month"].to_pylist() == [4] * 20


def test_kept_names_may_be_one_text_and_repeated_names_count_once(tmp_path: Path) -> None:
    assert predicted(tmp_path, table(5), "id, late,id").schema.names == ["id", "late", "probability", "prediction"]


def test_texts_that_a_file_has_once_are_kept_a_few_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "_SLICE_BYTES", 1_000_000)
    monkeypatch.setattr(prediction, "_FEWEST_ROWS", 64)
    rows = table(2_000)
    rows = rows.append_column("note", pa.array(["a" * 5_000, "b" * 5_000] * 1_000))
    write(rows, tmp_path / "new.parquet")
    sizes = []
    monkeypatch.setattr(ParquetOutput, "add", lambda _, batch: sizes.append(batch.num_rows))
    predict(model(), [str(tmp_path / "new.parquet")], str(tmp_path / "out"), keep=["note"])
    assert sum(sizes) == 2_000
    assert max(sizes) * 5_000 < 1_100_000


# Files are whole or absent -------------------------------------------------------------------------------------------


def test_output_of_an_earlier_run_is_replaced_and_leftovers_are_removed(tmp_path: Path) -> None:
    write(table(30), tmp_path / "out" / "new.parquet")
    (tmp_path / "out" / ".new.parquet.123.tmp").write_bytes(b"half a file")
    (tmp_path / "out" / ".other.parquet.123.tmp").write_bytes(b"of somebody else")

    assert predicted(tmp_path, table(70)).num_rows == 70
    assert sorted(os.listdir(tmp_path / "out")) == [".other.parquet.123.tmp", "new.parquet"]


def test_a_file_that_another_process_is_writing_stays(tmp_path: Path) -> None:
    write(table(50), tmp_path / "new.parquet")
    path = tmp_path / "out" / "new.parquet"
    with ParquetOutput(path, pa.schema({"x": pa.int64()})) as output:
        written = output._temporary.rename(path.with_name(".new.parquet.123.tmp"))
        predict(model(), [str(tmp_path / "new.parquet")], str(tmp_path / "out"))
        assert sorted(os.listdir(tmp_path / "out")) == [".new.parquet.123.tmp", "new.parquet"]
        written.rename(output._temporary)


class _Full(state.FileSystem):
    """A disk that is full after so many bytes."""

    def __init__(self, free_bytes: int):
        self.free_bytes = free_bytes

    def write(self, file: Any, data: Any) -> None:
        self.free_bytes -= len(data)
        if self.free_bytes < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(file, data)


def test_a_full_disk_leaves_the_earlier_output_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path(write(table(30), tmp_path / "out" / "new.parquet")).read_bytes()

    for free_bytes in (0, 3, 2_000, 5_000):
        monkeypatch.setattr(state, "files", _Full(free_bytes))
        with pytest.raises(StorageError, match=r"new\.parquet.*No space left"):
            predicted(tmp_path, table(500), ["id"])
        assert os.listdir(tmp_path / "out") == ["new.parquet"]
        assert (tmp_path / "out" / "new.parquet").read_bytes() == before


@pytest.mark.parametrize("free_bytes", [0, 3, 2_000])
def test_a_full_disk_leaves_no_folder_that_was_made(
    free_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "files", _Full(free_bytes))
    with pytest.raises(StorageError):
        predicted(tmp_path, table(500), ["id"])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_prediction_removes_when_it_fails_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Removed(state.FileSystem):
        def open(self, path: Path) -> Any:
            if path.name.endswith(".tmp"):
                monkeypatch.undo()
                path.parent.rmdir()
            return super().open(path)

    monkeypatch.setattr(state, "files", Removed())
    assert predicted(tmp_path, table(50), ["id"]).num_rows == 50


def test_an_interruption_leaves_whole_files_and_no_temporary_ones(tmp_path: Path) -> None:
    for name in "abc":
        write(table(300), tmp_path / "data" / f"{name}.parquet")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # in the second row group of the second file
            raise PausedError("stopped")

    with pytest.raises(PausedError):
        predict(model(), str(tmp_path / "data"), str(tmp_path / "out"), threads=2, check=check)

    assert os.listdir(tmp_path / "out") == ["a.parquet"]
    assert pq.read_table(tmp_path / "out" / "a.parquet").num_rows == 300


def test_an_output_is_synchronised_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = []

    class Watched(state.FileSystem):
        def fsync(self, file: Any) -> None:
            operations.append("fsync")
            super().fsync(file)

        def replace(self, source: Path, target: Path) -> None:
            operations.append(f"replace {target.name}")
            assert pq.read_table(source).num_rows == 10
            super().replace(source, target)

        def fsync_folder(self, folder: Path) -> None:
            operations.append("fsync folder")
            super().fsync_folder(folder)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(state, "files", Watched())
    predicted(tmp_path, table(10))

    assert operations == ["fsync", "replace new.parquet", "fsync folder"]


# Refusals ------------------------------------------------------------------------------------------------------------


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    path = write(table(30), tmp_path / "data" / "new.parquet")
    write(table(30), tmp_path / "data" / "sub" / "new.parquet")
    (tmp_path / "link").symlink_to(tmp_path / "data")

    for sources, out in (([path], "data"), ([path], "link"), ([str(tmp_path / "data")], "data/sub")):
        before = {each: each.read_bytes() for each in (tmp_path / "data").rglob("*.parquet")}
        with pytest.raises(ConfigError, match="would be overwritten"):
            predict(model(), sources, str(tmp_path / out))
        assert {each: each.read_bytes() for each in (tmp_path / "data").rglob("*") if each.is_file()} == before


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["idd"], "no column 'idd'. Did you mean 'id'"),
        (["prediction"], "--keep prediction"),
        (["probability"], "--keep probability"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(tmp_path: Path, keep: list[str], message: str) -> None:
    rows = table(30)
    for name in ("prediction", "probability"):
        rows = rows.append_column(name, rows["delay"])

    with pytest.raises(ConfigError, match=message):
        predicted(tmp_path, rows, keep)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = write(table(30), tmp_path / "new.parquet")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "new.parquet").mkdir(parents=True)

    for out, message in (("file", "is a file"), ("taken", "a folder stands"), ("s3://bucket/x", "local folder")):
        with pytest.raises(ConfigError, match=message):
            predict(model(), path, out if "://" in out else str(tmp_path / out))


def test_a_missing_feature_is_named_with_the_file(tmp_path: Path) -> None:
    rows = table(30).rename_columns(["id", "distanz", "delay", "carrier", "late"])

    with pytest.raises(SchemaError, match=r"new\.parquet lacks .* 'distance'. Did you mean 'distanz'"):
        predicted(tmp_path, rows)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("distance", pa.array(["1", "2"]), "'distance': found string, the model was trained on a number"),
        ("delay", pa.array([0, 1], pa.timestamp("us")), "'delay': found timestamp"),
        ("carrier", pa.array([1, 2]), "'carrier': found int64, the model was trained on text"),
        ("carrier", pa.array([{"a": 1}, {"a": 2}]), "'carrier': found struct"),
    ],
)
def test_a_feature_of_another_kind_is_refused(tmp_path: Path, name: str, values: pa.Array, message: str) -> None:
    rows = table(2)

    with pytest.raises(SchemaError, match=message):
        predicted(tmp_path, rows.set_column(rows.schema.get_field_index(name), name, values))
    assert not (tmp_path / "out").exists()


def test_a_record_batch_is_refused_as_a_file_is() -> None:
    (rows,), by = table(30).combine_chunks().to_batches(), model()
    expected = by.predict_batch(rows)
    for changed, message in (
        (rows.drop_columns(["distance"]), "the batch lacks a column that the model needs: 'distance'. Known: id, "),
        (rows.set_column(1, "distance", pa.array(["1"] * 30)), "the batch, column 'distance': found string, the model"),
        (rows.set_column(3, "carrier", pa.array([1] * 30)), "the batch, column 'carrier': found int64, the model was"),
        (rows.append_column("delay", rows["delay"]), "the batch has 2 columns 'delay'"),
    ):
        with pytest.raises(SchemaError, match=message):
            by.predict_batch(changed)
    narrow = rows.set_column(1, "distance", rows["distance"].cast(pa.float32()))
    coded = narrow.set_column(3, "carrier", rows["carrier"].dictionary_encode())
    np.testing.assert_allclose(by.predict_batch(coded), expected, atol=1e-6)
    assert by.predict_batch(rows).tobytes() == expected.tobytes()


@pytest.mark.parametrize("nulls", ["impute", "drop"])
def test_a_column_of_the_null_type_counts_as_nulls(nulls: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = pa.table(
        {
            "x": random.normal(size=600), "level": random.choice(["a", "b"], 600), "month": random.integers(1, 4, 600),
            "half": random.choice([0.5, 1.5], 600), "yes": random.choice([True, False], 600),
            "when": pa.array(random.integers(0, 10**12, 600), pa.timestamp("ms")),
            "words": pa.array([["u", "v"], ["w"]] * 300),
            "pairs": pa.array([[(1, 2.0)], []] * 300, pa.map_(pa.int8(), pa.float64())),
            "exposed": random.random(600) + 1.0, "y": random.integers(0, 4, 600),
        }
    )  # fmt: skip
    by = streamgd.train(
        write(rows, tmp_path / "rows.parquet"), "y", run=tmp_path / "run", loss="poisson", epochs=1, nulls=nulls,
        categorical="month,half,yes", timestamps="hour,epoch", exposure="exposed",
    ).model  # fmt: skip
    for place, name in enumerate(rows.column_names[:-1]):
        untyped, typed = (
            rows.set_column(place, name, pa.nulls(600, each)) for each in (None, rows.schema.field(name).type)
        )
        found = predicted(tmp_path, untyped, by=by)
        assert found.equals(predicted(tmp_path, typed, by=by))
        assert found["count"].null_count == (600 if nulls == "drop" or name == "exposed" else 0)
        (batch,) = untyped.combine_chunks().to_batches()
        np.testing.assert_array_equal(by.predict_batch(batch), found["count"].to_numpy())


def test_a_number_of_another_width_is_still_a_number(tmp_path: Path) -> None:
    rows = table(100)
    narrow = rows.set_column(1, "distance", rows["distance"].cast(pa.float32())).set_column(
        3, "carrier", rows["carrier"].combine_chunks().dictionary_encode()
    )

    out = predicted(tmp_path, narrow)

    np.testing.assert_allclose(out["probability"].to_numpy(), expit(raw_predictions(rows)), atol=1e-12)


def test_infinity_ends_with_its_place_and_without_output(tmp_path: Path) -> None:
    rows = table(250)
    values = rows["delay"].to_numpy().copy()
    values[137] = np.inf

    with pytest.raises(DataError, match=r"new\.parquet, row group 1, row 37, column 'delay': found inf"):
        predicted(tmp_path, rows.set_column(2, "delay", pa.array(values)), threads=2)
    assert not (tmp_path / "out").exists()


def test_a_damaged_row_group_is_named_and_whole_files_stay(tmp_path: Path) -> None:
    for name in "ab":
        write(table(300), tmp_path / "data" / f"{name}.parquet")
    damaged = tmp_path / "data" / "b.parquet"
    offset = pq.read_metadata(damaged).row_group(2).column(1).data_page_offset
    content = bytearray(damaged.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    damaged.write_bytes(content)

    with pytest.raises(CorruptFileError, match=r"b\.parquet, row group 2"):
        predict(model(), str(tmp_path / "data"), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == ["a.parquet"]


def test_an_input_that_is_replaced_meanwhile_gives_no_output(tmp_path: Path) -> None:
    path = write(table(300), tmp_path / "new.parquet")
    other = write(table(400), tmp_path / "other")

    def check() -> None:
        if Path(other).exists():
            shutil.move(other, path)

    with pytest.raises(DataError):
        predict(model(), path, str(tmp_path / "out"), check=check)
    assert not (tmp_path / "out").exists()


def test_no_data_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        predict(model(), str(tmp_path / "nothing.parquet"), str(tmp_path / "out"))
