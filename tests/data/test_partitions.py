import pyarrow as pa
import pytest

from streamgd.data.partitions import partitions_of
from streamgd.errors import SchemaError


def paths(*relatives: str) -> dict[str, str]:
    return {relative: f"/data/{relative}" for relative in relatives}


def test_a_column_is_of_integers_where_all_its_folders_are() -> None:
    found, fields = partitions_of(paths("store=07/a", "store=40/a", "store=__HIVE_DEFAULT_PARTITION__/a"), [], [])
    assert fields == [pa.field("store", pa.int64())]
    assert list(found.values()) == [{"store": 7}, {"store": 40}, {"store": None}]


def test_one_other_text_makes_it_text() -> None:
    found, fields = partitions_of(paths("store=07/a", "store=A1/a"), [], [])
    assert fields == [pa.field("store", pa.string())]
    assert list(found.values()) == [{"store": "07"}, {"store": "A1"}]


def test_what_is_known_as_text_stays_as_it_is_written() -> None:
    found, fields = partitions_of(paths("store=07/day=1/a", "store=40/day=2/a"), [], ["store"])
    assert fields == [pa.field("store", pa.string()), pa.field("day", pa.int64())]
    assert list(found.values()) == [{"store": "07", "day": 1}, {"store": "40", "day": 2}]


def test_the_files_own_columns_win_and_names_may_be_quoted() -> None:
    found, fields = partitions_of(paths("y=1/a%20b=c%2Fd/a"), ["y"], [])
    assert fields == [pa.field("a b", pa.string())]
    assert list(found.values()) == [{"a b": "c/d"}]


def test_files_below_other_folders_are_refused_by_name() -> None:
    told = r"one of /data/a\.parquet and /data/k=1/a\.parquet lies below a folder 'k=…'"
    with pytest.raises(SchemaError, match=told):
        partitions_of(paths("a.parquet", "k=1/a.parquet"), [], [])
