"""Finding files, reading footers, comparing schemas, noticing changes."""

import datetime
import hashlib
import os
import pickle
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from streamgd.data.reader import read_batches
from streamgd.data.source import (
    COLUMN_READER_BYTES,
    DICTIONARY_COPIES,
    TEXT_DICTIONARY_COPIES,
    Manifest,
    check_identity,
    compare,
    discover,
)
from streamgd.errors import (
    AccessError,
    ConfigError,
    CorruptFileError,
    DataChangedError,
    NoInputError,
    SchemaError,
)

BAD_PARQUET = Path(__file__).parents[2].parent / "shared" / "data" / "bad_parquet"


def write(path: Path, columns: dict | pa.Table | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns or {"x": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    pq.write_table(table, path, **options)
    return path


def relatives(manifest: Manifest) -> list[str]:
    return [file.relative for file in manifest.files]


# What is found


def test_a_file_a_directory_a_glob_and_a_uri_name_the_same_data(tmp_path):
    write(tmp_path / "d" / "a.parquet")
    write(tmp_path / "d" / "b.parquet")
    folder = str(tmp_path / "d")
    manifests = [
        discover([folder]),
        discover([folder + "/"]),
        discover([f"{folder}/*.parquet"]),
        discover([f"{folder}/?.parquet"]),
        discover([f"{folder}/[ab].*"]),
        discover([f"{folder}/a.parquet", f"{folder}/b.parquet"]),
        discover([f"file://{folder}"]),
        discover([f"file://{folder}/*.parquet"]),
        discover(["d"], filesystem=fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())),
    ]
    assert [relatives(manifest) for manifest in manifests] == [["a.parquet", "b.parquet"]] * len(manifests)
    assert len({manifest.fingerprint for manifest in manifests}) == 1


def test_the_path_may_be_relative_to_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "d" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    assert relatives(discover(["d"])) == ["a.parquet"]
    assert relatives(discover(["d/../d/*.parquet"])) == ["a.parquet"]
    assert Path(discover(["d"]).files[0].path).is_absolute()


def test_a_directory_is_searched_at_every_level_and_only_for_parquet(tmp_path):
    for name in ["b.parquet", "a/x.pq", "a/b/y.PARQ", "z.Parquet"]:
        write(tmp_path / name)
    for name in [
        "_a.parquet",
        ".b.parquet",
        "_temporary/0/c.parquet",
        "a/.hidden/d.parquet",
        "a/_metadata",
        "a/notes.txt",
    ]:
        write(tmp_path / name)
    assert relatives(discover([str(tmp_path)])) == ["a/b/y.PARQ", "a/x.pq", "b.parquet", "z.Parquet"]


def test_names_are_passed_over_below_the_named_directory_only(tmp_path):
    write(tmp_path / "_staging" / ".today" / "a.parquet")
    assert relatives(discover([str(tmp_path / "_staging" / ".today")])) == ["a.parquet"]
    assert relatives(discover([str(tmp_path / "_staging" / ".today" / "a.parquet")])) == ["a.parquet"]


def test_a_file_named_by_itself_or_by_a_glob_may_have_any_ending(tmp_path):
    write(tmp_path / "part-0.data")
    assert relatives(discover([str(tmp_path / "part-0.data")])) == ["part-0.data"]
    assert relatives(discover([str(tmp_path / "part-*")])) == ["part-0.data"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.parquet", "m/b.parquet", "m/n/c.parquet"]),  # a folder that matches is searched
        ("*.parquet", ["a.parquet"]),
        ("*/*.parquet", ["m/b.parquet"]),
        ("**/*.parquet", ["a.parquet", "m/b.parquet", "m/n/c.parquet"]),
        ("**/n/*.parquet", ["m/n/c.parquet"]),
        ("**", ["a.parquet", "m/b.parquet", "m/n/c.parquet"]),
        ("m/**/*.parquet", ["m/b.parquet", "m/n/c.parquet"]),
        ("_*", ["_d.parquet"]),
        ("[!a]*/*.parquet", ["m/b.parquet"]),
    ],
)
def test_globs(tmp_path, pattern, found):
    for name in ["a.parquet", "m/b.parquet", "m/n/c.parquet", "_d.parquet", "m/.e/f.parquet"]:
        write(tmp_path / name)
    fixed = "m/" if pattern.startswith("m/") else ""  # relative paths begin where the wildcards begin
    assert [fixed + name for name in relatives(discover([str(tmp_path / pattern)]))] == found


def test_a_path_that_exists_is_no_glob_whatever_its_name(tmp_path):
    write(tmp_path / "d[1]" / "a*.parquet")
    assert relatives(discover([str(tmp_path / "d[1]")])) == ["a*.parquet"]
    assert relatives(discover([str(tmp_path / "d[1]" / "a*.parquet")])) == ["a*.parquet"]


def test_sources_whose_relative_paths_collide_get_their_folders_name(tmp_path):
    for name in ["p/data/a.parquet", "q/data/a.parquet", "r/other/b.parquet"]:
        write(tmp_path / name)
    sources = [str(tmp_path / "p" / "data"), str(tmp_path / "q" / "data"), str(tmp_path / "r" / "other")]
    assert relatives(discover(sources)) == ["b.parquet", "p/data/a.parquet", "q/data/a.parquet"]
    files = [str(tmp_path / "p" / "data" / "a.parquet"), str(tmp_path / "r" / "other")]
    assert relatives(discover(files)) == ["a.parquet", "b.parquet"]


def test_a_file_that_two_sources_name_counts_once(tmp_path):
    path = write(tmp_path / "a.parquet")
    assert discover([str(path), str(tmp_path), str(tmp_path / "*.parquet")]).n_rows == 3


# What the manifest says


def test_rows_are_numbered_in_file_order_and_empty_row_groups_left_out(tmp_path):
    write(tmp_path / "a.parquet", {"x": np.arange(5.0)}, row_group_size=2)
    write(tmp_path / "b.parquet", {"x": np.arange(0.0)})
    with pq.ParquetWriter(tmp_path / "c.parquet", pa.schema([("x", pa.float64())])) as writer:
        for rows in [0, 3, 0, 1]:
            writer.write_table(pa.table({"x": np.zeros(rows)}))
    manifest = discover([str(tmp_path)])
    assert manifest.n_rows == 9
    assert [file.first_row for file in manifest.files] == [0, 5, 5]
    groups = [(group.file_index, group.rows, group.first_row) for group in manifest.row_groups]
    assert groups == [(0, 2, 0), (0, 2, 2), (0, 1, 4), (2, 3, 5), (2, 1, 8)]
    for group in manifest.row_groups:
        assert manifest.files[group.file_index].metadata.row_group(group.index).num_rows == group.rows


def test_the_footer_digest_is_the_sha256_of_the_footer_however_long(tmp_path):
    write(tmp_path / "short.parquet", {f"column {i}": [1] for i in range(3)})
    write(tmp_path / "long.parquet", {f"column {i}": [1] for i in range(3)}, row_group_size=1)
    wide = write(tmp_path / "w" / "wide.parquet", {f"column {i}": [1] for i in range(1000)})
    for folder in [tmp_path / "w", tmp_path / "short.parquet", tmp_path / "long.parquet"]:
        file = discover([str(folder)]).files[0]
        raw = Path(file.path).read_bytes()
        length = int.from_bytes(raw[-8:-4], "little")
        assert file.footer_digest == hashlib.sha256(raw[-8 - length : -8]).hexdigest()
        assert file.size_bytes == len(raw)
        with fs.LocalFileSystem().open_input_file(file.path) as opened:  # the footer serves the reader as it is
            assert pq.ParquetFile(opened, metadata=file.metadata).read().num_rows == file.metadata.num_rows
    assert int.from_bytes(wide.read_bytes()[-8:-4], "little") > 65536


def test_the_schema_has_logical_types_and_every_column_may_be_null(tmp_path):
    schema = pa.schema(
        [
            pa.field("n", pa.int32(), nullable=False, metadata={"unit": "s"}),
            ("s", pa.large_string()),
            ("v", pa.string_view()),
            ("d", pa.dictionary(pa.int8(), pa.string())),
        ],
        metadata={"a": "b"},
    )
    write(tmp_path / "a.parquet", pa.table({"n": [1], "s": ["a"], "v": ["a"], "d": ["a"]}, schema=schema))
    found = discover([str(tmp_path)]).schema
    assert found.equals(
        pa.schema([("n", pa.int32()), ("s", pa.string()), ("v", pa.string()), ("d", pa.string())]), check_metadata=True
    )


def test_uncompressed_bytes_are_those_of_the_footer(tmp_path):
    columns = {"a": np.arange(1000.0), "a.b": np.arange(1000), "s": [{"p": 1, "q": [1.0, 2.0]}] * 1000}
    write(tmp_path / "part=1" / "a.parquet", columns, row_group_size=600)
    manifest = discover([str(tmp_path)])
    group = manifest.row_groups[1]
    footer = manifest.files[0].metadata.row_group(1)
    sizes = {footer.column(i).path_in_schema: footer.column(i).total_uncompressed_size for i in range(4)}
    assert manifest.uncompressed_bytes(group, ["a"]) == sizes["a"]
    assert manifest.uncompressed_bytes(group, ["a.b"]) == sizes["a.b"]
    assert manifest.uncompressed_bytes(group, ["s"]) == sizes["s.p"] + sizes["s.q.list.element"]
    assert manifest.uncompressed_bytes(group, ["s", "a", "part"]) == sum(sizes.values()) - sizes["a.b"]


def test_minimum_and_maximum_come_from_all_files(tmp_path):
    noon = datetime.datetime(2015, 1, 31, 12)
    first = {"i": [3, None, 5], "s": ["b", "c", None], "t": [noon] * 3, "d": [Decimal("1.5")] * 3, "b": [True] * 3}
    second = {"i": [None, -7, 1], "s": ["a", "b", "b"], "t": [noon] * 3, "d": [Decimal("0.5")] * 3, "b": [False] * 3}
    types = pa.schema(
        [("i", "i4"), ("s", "string"), ("t", pa.timestamp("us")), ("d", pa.decimal128(5, 2)), ("b", "bool")]
    )
    write(tmp_path / "year=1" / "a.parquet", pa.table(first, schema=types), row_group_size=2)
    write(tmp_path / "year=2" / "b.parquet", pa.table(second, schema=types), row_group_size=1)
    manifest = discover([str(tmp_path)])
    assert manifest.minimum_maximum("i") == (-7, 5)
    assert manifest.minimum_maximum("s") == ("a", "c")
    assert manifest.minimum_maximum("t") == (noon, noon)
    assert manifest.minimum_maximum("d") == (Decimal("0.5"), Decimal("1.5"))
    assert manifest.minimum_maximum("b") == (False, True)
    assert manifest.minimum_maximum("year") is None


def test_minimum_and_maximum_are_none_where_they_are_not_known(tmp_path):
    columns = {
        "with": [1, 2],
        "without": [1, 2],
        "null": pa.array([None, None], pa.int32()),
        "nested": [[1], [2]],
        "half": pa.array([1.0, 2.0], pa.float16()),
        "span": pa.array([1, 2], pa.duration("us")),
        "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
        "nan": [float("nan")] * 2,
    }
    write(tmp_path / "a.parquet", columns, write_statistics=[name for name in columns if name != "without"])
    manifest = discover([str(tmp_path)])
    assert {name for name in columns if manifest.minimum_maximum(name) is not None} == {"with", "nanoseconds"}
    assert manifest.minimum_maximum("with") == (1, 2)


@pytest.mark.parametrize("version", ["2.4", "2.6"])
def test_bounds_of_nanoseconds_are_microseconds_around_them(tmp_path, version):
    moments = pa.array([1_700_000_000_123_456_789, -1_500, None], pa.timestamp("ns", "Europe/Paris"))
    written = {"moment": moments, "time": pa.array([1, 2_500, 7], pa.time64("ns"))}
    in_us = {"moment": pa.timestamp("us", "Europe/Paris"), "time": pa.time64("us")}
    if version == "2.4":  # which has no moments of nanoseconds
        written = {name: array.cast(in_us[name], safe=False).cast(array.type) for name, array in written.items()}
    pq.write_table(pa.table(written), tmp_path / "a.parquet", version=version)
    manifest = discover([str(tmp_path)])
    for name, array in written.items():
        found = manifest.minimum_maximum(name)
        bounds = [1_000 * pa.scalar(bound, in_us[name]).cast(pa.int64()).as_py() for bound in found]
        values = array.cast(pa.int64()).drop_null().to_pylist()
        assert min(values) - 1_000 < bounds[0] <= min(values)
        assert max(values) <= bounds[1] < max(values) + 1_000


def test_a_manifest_can_be_sent_to_another_process(tmp_path):
    write(tmp_path / "a=1" / "a.parquet")
    manifest = discover([str(tmp_path)])
    copy = pickle.loads(pickle.dumps(manifest))
    assert copy.to_json() == manifest.to_json()
    assert copy.row_groups == manifest.row_groups
    assert copy.minimum_maximum("y") == (0, 1)
    check_identity(copy, 0)


# Hive partitions


def test_partition_folders_give_columns(tmp_path):
    write(tmp_path / "year=2013" / "city=S%C3%A3o%20Paulo" / "a.parquet")
    write(tmp_path / "year=-02" / "city=7" / "b.parquet")
    write(tmp_path / "year=2013" / "city=__HIVE_DEFAULT_PARTITION__" / "c.parquet")
    manifest = discover([str(tmp_path)])
    assert {file.relative.rpartition("/")[2]: file.partition for file in manifest.files} == {
        "a.parquet": {"year": 2013, "city": "São Paulo"},
        "b.parquet": {"year": -2, "city": "7"},
        "c.parquet": {"year": 2013, "city": None},
    }
    assert manifest.schema.names == ["x", "y", "year", "city"]
    assert [manifest.schema.field(name).type for name in ["year", "city"]] == [pa.int64(), pa.string()]


def test_a_whole_number_beyond_int64_makes_the_partition_text(tmp_path):
    write(tmp_path / "id=12345678901234567890" / "a.parquet")
    write(tmp_path / "id=1" / "a.parquet")
    assert [file.partition["id"] for file in discover([str(tmp_path)]).files] == ["1", "12345678901234567890"]


def test_a_null_partition_of_whole_numbers_stays_null(tmp_path):
    write(tmp_path / "k=1" / "a.parquet")
    write(tmp_path / "k=__HIVE_DEFAULT_PARTITION__" / "a.parquet")
    manifest = discover([str(tmp_path)])
    assert [file.partition["k"] for file in manifest.files] == [1, None]
    assert manifest.schema.field("k").type == pa.int64()


def test_the_files_own_column_wins_over_the_folder(tmp_path):
    write(tmp_path / "y=9" / "a.parquet")
    manifest = discover([str(tmp_path)])
    assert manifest.schema.names == ["x", "y"]
    assert manifest.files[0].partition == {}


def test_partitions_count_from_the_named_root_or_the_first_wildcard(tmp_path):
    write(tmp_path / "a=1" / "b=2" / "f.parquet")
    assert discover([str(tmp_path / "a=1")]).files[0].partition == {"b": 2}
    assert discover([str(tmp_path / "a=*" / "b=*" / "*.parquet")]).files[0].partition == {"a": 1, "b": 2}


def test_chosen_files_are_described_as_among_the_others_which_are_not_opened(tmp_path):
    write(tmp_path / "d" / "k=1" / "a.parquet")
    write(tmp_path / "d" / "k=x" / "a.parquet", {"other": [1.0]})
    (tmp_path / "d" / "k=2").mkdir()
    (tmp_path / "d" / "k=2" / "a.parquet").write_bytes(b"no Parquet at all")
    write(tmp_path / "e" / "k=1" / "a.parquet")
    sources = [str(tmp_path / "d"), str(tmp_path / "e")]
    manifest = discover(sources, only=["e/k=1/a.parquet", "d/k=1/a.parquet"])
    assert relatives(manifest) == ["d/k=1/a.parquet", "e/k=1/a.parquet"]
    # Among the others there is one that is no number.
    assert [file.partition for file in manifest.files] == [{"k": "1"}, {"k": "1"}]
    assert manifest.schema.field("k").type == pa.string()
    with pytest.raises(CorruptFileError):
        discover(sources)


@pytest.mark.parametrize(("only", "told"), [(["a.parquet", "c.parquet"], "no file 'c.parquet'"), ([], "no file was")])
def test_a_chosen_file_that_is_not_there_is_named(tmp_path, only, told):
    write(tmp_path / "a.parquet")
    with pytest.raises(NoInputError, match=told):
        discover([str(tmp_path)], only=only)


def test_all_files_chosen_are_the_same_data(tmp_path):
    for name in ("k=1/a", "k=2/b", "k=2/c"):
        write(tmp_path / f"{name}.parquet")
    whole = discover([str(tmp_path)])
    chosen = discover([str(tmp_path)], only=relatives(whole))
    assert (chosen.fingerprint, chosen.schema) == (whole.fingerprint, whole.schema)


def test_files_at_different_partition_levels_are_refused(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "k=1" / "b.parquet")
    with pytest.raises(SchemaError, match=r"a\.parquet and .*k=1/b\.parquet lies below a folder 'k=…'"):
        discover([str(tmp_path)])


# Schemas


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"x": [1], "y": ["a"]}, {"y": ["b"], "x": [2]}),
        ({"y": pa.array(["a"])}, {"y": pa.array(["a"], pa.large_string())}),
        ({"y": pa.array(["a"]).dictionary_encode()}, {"y": pa.array(["a"], pa.string_view())}),
    ],
)
def test_the_same_columns_in_another_order_or_storage_agree(tmp_path, first, second):
    write(tmp_path / "a.parquet", first)
    write(tmp_path / "b.parquet", second)
    assert discover([str(tmp_path)]).schema.names == list(first)


def test_nullability_and_metadata_do_not_matter(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"x": [1]}, schema=pa.schema([pa.field("x", pa.int64(), nullable=False)])))
    write(tmp_path / "b.parquet", pa.table({"x": [1]}, schema=pa.schema([("x", pa.int64())], metadata={"by": "me"})))
    assert discover([str(tmp_path)]).n_rows == 2


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"x": [1]}, r"'y': string in .*a\.parquet, missing in .*b\.parquet"),
        ({"x": [1], "y": ["a"], "z": [1.0]}, r"'z': missing in .*a\.parquet, double in .*b\.parquet"),
        ({"x": pa.array([1], pa.int32()), "y": ["a"]}, r"'x': int64 in .*a\.parquet, int32 in .*b\.parquet"),
        ({"x": [1], "y": pa.array([None], pa.null())}, r"'y': string in .*a\.parquet, null in .*b\.parquet"),
        ({"x": [1], "y": pa.array([b"a"])}, r"'y': string in .*a\.parquet, binary in .*b\.parquet"),
    ],
)
def test_schemas_that_differ_name_both_files_the_column_and_both_types(tmp_path, second, says):
    write(tmp_path / "a.parquet", {"x": [1], "y": ["a"]})
    write(tmp_path / "b.parquet", second)
    manifest = discover([str(tmp_path)])
    with pytest.raises(SchemaError, match=says):
        manifest.check_same(["x", "y", "z"])
    with pytest.raises(SchemaError, match=says):
        list(read_batches(manifest, manifest.row_groups[0], ["x", "y", "z"], [], 10))


def test_a_column_in_which_files_do_not_differ_can_be_used(tmp_path):
    write(tmp_path / "a.parquet", {"x": [1], "y": ["a"]})
    write(tmp_path / "b.parquet", {"w": [1.0], "y": ["b"], "x": pa.array([1], pa.int32())})
    manifest = discover([str(tmp_path)])
    assert manifest.schema.names == ["x", "y", "w"]
    assert manifest.differing.keys() == {"x", "w"}
    read = [next(read_batches(manifest, group, ["y"], [], 10)).to_pydict() for group in manifest.row_groups]
    assert read == [{"y": ["a"]}, {"y": ["b"]}]


def test_a_column_name_that_occurs_twice_is_refused(tmp_path):
    write(tmp_path / "a.parquet", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]))
    with pytest.raises(SchemaError, match=r"a\.parquet has more than one column 'x'"):
        discover([str(tmp_path)])


# No input


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "no such file or directory: .*/nowhere"),
        ("nowhere/*.parquet", r"no file matches .*/nowhere/\*\.parquet"),
        ("data/*.orc", "no file matches"),
        ("empty", "no Parquet file .* in .*/empty, which holds 0 other files"),
        ("data", "no Parquet file .* in .*/data, which holds 2 other files"),
        ("hidden", r"which holds 0 other files, and 1 passed over for names that begin with \. or _\."),
    ],
)
def test_where_nothing_is_found_the_path_is_named(tmp_path, source, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden" / "_temporary").mkdir(parents=True)
    (tmp_path / "hidden" / "_temporary" / "part.parquet").write_text("x")
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("x")
    (tmp_path / "data" / "deep" / "b.orc").write_text("x")
    with pytest.raises(NoInputError, match=says) as caught:
        discover([str(tmp_path / source)])
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (66, False)


def test_no_source_at_all_is_refused():
    with pytest.raises(NoInputError, match="no data were named"):
        discover([])


def test_data_without_rows_are_refused(tmp_path):
    write(tmp_path / "a.parquet", {"x": np.zeros(0)})
    write(tmp_path / "b.parquet", {"x": np.zeros(0)})
    with pytest.raises(NoInputError, match=r"no rows in .* \(2 files\)"):
        discover([str(tmp_path)])


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "x.csv.gz", "x.tsv", "x.json", "x.jsonl", "x.ndjson"])
def test_a_text_file_gets_the_command_that_converts_it(tmp_path, name):
    path = tmp_path / name
    path.write_text("a,b\n1,2\n")
    stem = tmp_path / name.split(".")[0]
    for source in [path, tmp_path / (name[0] + "*")]:
        with pytest.raises(NoInputError) as caught:
            discover([str(source)])
        assert f"""duckdb -c "COPY (FROM '{path}') TO '{stem}.parquet'\"""" in str(caught.value)


def test_a_directory_of_text_files_gets_the_command_that_converts_it(tmp_path):
    for name in ["flat/a.csv", "flat/b.csv", "deep/k=1/a.csv"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(NoInputError) as caught:
        discover([str(tmp_path / "flat")])
    assert "2 other files" in str(caught.value)
    assert f"COPY (FROM '{tmp_path}/flat/*.csv') TO '{tmp_path}/flat.parquet'" in str(caught.value)
    with pytest.raises(NoInputError) as caught:
        discover([str(tmp_path / "deep")])
    assert f"COPY (FROM '{tmp_path}/deep/**/*.csv') TO" in str(caught.value)


def test_text_files_beside_parquet_are_not_minded(tmp_path):
    write(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("x,y\n")
    assert relatives(discover([str(tmp_path)])) == ["a.parquet"]


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(NoInputError, match="not a regular file"):
        discover([str(tmp_path / "pipe.parquet")])


@pytest.mark.parametrize("uri", ["foo://bucket/x", "https://host/x.parquet", "file:///a b/x"])
def test_a_uri_that_pyarrow_does_not_know_is_refused(uri):
    with pytest.raises(ConfigError, match=r"cannot open '.*'.* Give a local path, or a URI") as caught:
        discover([uri])
    assert uri in str(caught.value)


def test_data_in_two_stores_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="different stores"):
        discover([str(path), "s3://bucket/b.parquet?region=eu-west-1"])


# Broken files


def broken(whole: bytes) -> dict[str, tuple[bytes, str]]:
    length = int.from_bytes(whole[-8:-4], "little")
    footer = whole[-8 - length : -8]
    return {
        "empty": (b"", r"\(0 bytes\): no Parquet magic at the end"),
        "short": (b"PAR1", r"\(4 bytes\): no Parquet magic"),
        "cut": (whole[:-1], "cut short or not Parquet"),
        "half": (whole[: len(whole) // 2], "cut short or not Parquet"),
        "text": (b"a,b\n" * 100, "not Parquet"),
        "length": (whole[:-8] + (2**31).to_bytes(4, "little") + b"PAR1", "announces a footer of 2,147,483,648 bytes"),
        "thrift": (whole[: -8 - length] + b"\xff" * length + whole[-8:], "footer cannot be read"),
        "zeros": (whole[: -8 - length] + bytes(length) + whole[-8:], "footer"),
        "beginning lost": (footer + whole[-8:], "announces a footer"),
        "encrypted": (whole[:-4] + b"PARE", "encrypted footer"),
    }


@pytest.mark.parametrize("kind", list(broken(bytes(100))))
def test_a_broken_file_is_named_with_what_was_found(tmp_path, kind):
    content, says = broken(write(tmp_path / "whole.parquet").read_bytes())[kind]
    (tmp_path / "broken.parquet").write_bytes(content)
    with pytest.raises(CorruptFileError, match=says) as caught:
        discover([str(tmp_path)])
    assert str(tmp_path / "broken.parquet") in str(caught.value)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (65, False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), flipped=st.integers(1, 255))
def test_a_flipped_byte_in_the_footer_never_gives_another_exception(tmp_path, position, flipped):
    content = bytearray(write(tmp_path / "a.parquet", {"x": [1.0], "s": ["a"]}).read_bytes())
    footer_and_end = int.from_bytes(content[-8:-4], "little") + 8
    content[-1 - position % footer_and_end] ^= flipped
    (tmp_path / "a.parquet").write_bytes(content)
    try:
        manifest = discover([str(tmp_path / "a.parquet")])
    except (CorruptFileError, SchemaError, NoInputError):
        return
    assert manifest.n_rows == sum(group.rows for group in manifest.row_groups) > 0


@pytest.mark.skipif(not BAD_PARQUET.is_dir(), reason="the shared data stand beside the checkout")
def test_corrupt_files_from_the_wild_are_found_or_refused():
    outcomes = {}
    for path in sorted(BAD_PARQUET.glob("*.parquet")):
        try:
            outcomes[path.name] = discover([str(path)]).n_rows
        except CorruptFileError as error:
            outcomes[path.name] = str(error)
    assert len(outcomes) == 11
    assert (outcomes["ARROW-GH-43605.parquet"], outcomes["nation.dict-malformed.parquet"]) == (21186, 25)
    assert "footer cannot be read" in outcomes["PARQUET-1481.parquet"]


# Permission


@pytest.fixture
def unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("source", ["", "a.parquet", "*.parquet"])
def test_no_permission_is_an_access_error(tmp_path, request, source):
    write(tmp_path / "locked" / "a.parquet")
    (tmp_path / "locked" / "a.parquet").chmod(0)
    (tmp_path / "locked").chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(AccessError, match=r"locked.*Permission denied") as caught:
        discover([str(tmp_path / "locked" / source)])
    assert caught.value.exit_code == 77


# Changes


def fingerprint(path: Path) -> str:
    return discover([str(path)]).fingerprint


def test_the_fingerprint_does_not_depend_on_place_or_time(tmp_path):
    write(tmp_path / "one" / "k=1" / "a.parquet")
    write(tmp_path / "one" / "k=2" / "b.parquet")
    before = fingerprint(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    assert fingerprint(tmp_path / "elsewhere" / "two") == before
    os.utime(tmp_path / "one" / "k=1" / "a.parquet", (1, 1))
    assert fingerprint(tmp_path / "one") == before


@pytest.mark.parametrize("change", ["values", "row groups", "name", "added", "removed", "size"])
def test_the_fingerprint_changes_with_the_data(tmp_path, change):
    x = np.arange(100.0)
    a = write(tmp_path / "a.parquet", {"x": x})
    b = write(tmp_path / "b.parquet", {"x": x})
    before = fingerprint(tmp_path)
    match change:
        case "values":
            write(b, {"x": x + 1})
        case "row groups":
            write(b, {"x": x}, row_group_size=50)
        case "name":
            b.rename(tmp_path / "c.parquet")
        case "added":
            write(tmp_path / "c.parquet", {"x": x})
        case "removed":
            a.unlink()
        case "size":
            content = b.read_bytes()
            b.write_bytes(content[:4] + bytes(10) + content[4:])
    assert fingerprint(tmp_path) != before


def test_compare_names_what_came_went_and_changed(tmp_path):
    for name in "abcd":
        write(tmp_path / f"{name}.parquet", {"x": [1.0]})
    old = discover([str(tmp_path)])
    assert not compare(old.to_json(), old)
    (tmp_path / "a.parquet").unlink()
    write(tmp_path / "b.parquet", {"x": [2.0]})
    os.utime(tmp_path / "c.parquet", (1, 1))
    write(tmp_path / "e.parquet", {"x": [1.0]})
    changes = compare(old.to_json(), discover([str(tmp_path)]))
    assert changes
    assert (changes.added, changes.removed, changes.changed) == (["e.parquet"], ["a.parquet"], ["b.parquet"])


def test_a_file_is_the_same_if_only_its_time_is_new(tmp_path):
    path = write(tmp_path / "a.parquet")
    manifest = discover([str(tmp_path)])
    check_identity(manifest, 0)
    os.utime(path, (1, 1))
    check_identity(manifest, 0)
    path.write_bytes(path.read_bytes())
    check_identity(manifest, 0)


@pytest.mark.parametrize("change", ["values", "size", "gone", "a folder", "broken", "cut"])
def test_a_file_that_is_no_longer_the_same_is_named(tmp_path, change):
    path = write(tmp_path / "a.parquet", {"x": [1.0, 2.0]})
    write(tmp_path / "b.parquet", {"x": [1.0, 2.0]})
    manifest = discover([str(tmp_path)])
    content = path.read_bytes()
    match change:
        case "values":
            write(path, {"x": [1.0, 3.0]})
            assert path.stat().st_size == len(content)  # so that the footer has to tell
        case "size":
            write(path, {"x": np.arange(1000.0)})
        case "gone":
            path.unlink()
        case "a folder":
            path.unlink()
            path.mkdir()
        case "broken":
            path.write_bytes(content[:-1] + b"?")
        case "cut":
            path.write_bytes(content[:-9])
    if path.exists():
        os.utime(path, (1, 1))
    with pytest.raises(DataChangedError, match=r"a\.parquet (changed since|is gone since) the run began"):
        check_identity(manifest, 0)
    check_identity(manifest, 1)


def test_dictionary_pages_count_to_what_a_reader_holds(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    table = pa.table({"a": values, "b": values, "few": np.arange(20_000) % 2.0})
    pq.write_table(table, tmp_path / "data.parquet", use_dictionary=["a", "few"], compression="zstd")
    manifest = discover([str(tmp_path)])
    (group,) = manifest.row_groups
    in_pages = COLUMN_READER_BYTES  # at most
    in_dictionary = manifest.reader_bytes(group, ["a"]) - in_pages
    assert in_dictionary == pytest.approx(DICTIONARY_COPIES * 160_000, rel=0.1)
    assert manifest.reader_bytes(group, ["b"]) == in_pages
    assert manifest.reader_bytes(group, ["few"]) < 3 * manifest.uncompressed_bytes(group, ["few"]) + 1_000
    assert manifest.reader_bytes(group, ["a", "b"]) == sum(manifest.reader_bytes(group, [name]) for name in "ab")


def test_the_elements_of_lists_are_counted_by_the_footers_whatever_the_name(tmp_path: Path) -> None:
    lists = pa.array([[1, 2], [3], None, []], pa.list_(pa.int32()))
    pq.write_table(pa.table({"a": [1, 2, 3, 4], "a.b": lists, "a.c": [1.0, 2.0, 3.0, 4.0]}), tmp_path / "x.parquet")
    manifest = discover([str(tmp_path)])
    assert manifest.n_elements("a.b") == 5
    assert manifest.files[0].leaves == {"a": [0], "a.b": [1], "a.c": [2]}


def test_texts_of_a_dictionary_count_more_than_numbers(tmp_path: Path) -> None:
    """A reader has an index of them."""
    texts = [f"{row:08}" for row in range(20_000)]
    table = pa.table({"text": texts, "raw": pa.array(texts).cast(pa.binary())})
    pq.write_table(table, tmp_path / "data.parquet", compression="none")
    manifest = discover([str(tmp_path)])
    (group,) = manifest.row_groups
    for name, copies in {"text": TEXT_DICTIONARY_COPIES, "raw": DICTIONARY_COPIES}.items():
        in_dictionary = manifest.reader_bytes(group, [name]) - COLUMN_READER_BYTES
        assert in_dictionary == pytest.approx(copies * 240_000, rel=0.1)
