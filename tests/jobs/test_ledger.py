"""What has come since: told apart by path, size and footer, not by date."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.data.source import discover
from streamgd.errors import NoInputError, SchemaError
from streamgd.jobs.config import JobConfig, load_job
from streamgd.jobs.ledger import Arrivals, Arrived, Entry, Ledger, check_columns_of, look


def write(path: Path, rows: int = 3, start: int = 0, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"x": list(map(float, range(start, start + rows))), "y": [k % 2 for k in range(rows)], **more}
    pq.write_table(pa.table(columns), path)


def job_of(folder: Path, extra: str = "", train: str = "", source: str = "in") -> JobConfig:
    text = f'source = "{source}"\nstate = "state"\n{extra}\n[train]\ntarget = "y"\n{train}\n'
    (folder / "job.toml").write_text(text)
    return load_job(folder / "job.toml")


def names(arrived: list[Arrived]) -> list[str]:
    return [each.entry.relative for each in arrived]


def learned(arrivals: Arrivals) -> Ledger:
    every = [*arrivals.fresh, *arrivals.known]
    return Ledger().with_files([each.entry for each in every], every[0].columns)


def test_files_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b", "d"):
        write(tmp_path / "in" / f"{name}.parquet")
    job = job_of(tmp_path)
    first = look(job, Ledger(), time.time())
    assert names(first.fresh) == ["a.parquet", "b.parquet", "d.parquet"]
    ledger = learned(first)
    write(tmp_path / "in" / "b.parquet", start=7)  # other content
    write(tmp_path / "in" / "c.parquet")  # late: it sorts before one that was learned
    (tmp_path / "in" / "d.parquet").unlink()
    (tmp_path / "in" / "e.parquet").write_bytes(b"PAR1 cut")
    (tmp_path / "in" / "_f.parquet").write_bytes(b"being written")
    write(tmp_path / "in" / "g.parquet", rows=0)
    then = look(job, ledger, time.time())
    assert names(then.fresh) == ["c.parquet"]
    assert names(then.known) == ["a.parquet"]
    assert names(then.changed) == ["b.parquet"]
    assert list(then.unreadable) == ["e.parquet"]
    assert then.without_rows == ["g.parquet"]


def test_another_time_of_change_is_the_same_file(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet")
    job = job_of(tmp_path)
    ledger = learned(look(job, Ledger(), time.time()))
    os.utime(tmp_path / "in" / "a.parquet", (1, 1))
    assert names(look(job, ledger, time.time()).known) == ["a.parquet"]


def test_young_files_wait(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet")
    write(tmp_path / "in" / "b.parquet")
    now_s = time.time()
    os.utime(tmp_path / "in" / "a.parquet", (now_s - 301, now_s - 301))
    os.utime(tmp_path / "in" / "b.parquet", (now_s - 299, now_s - 299))
    found = look(job_of(tmp_path, 'min_age = "5m"'), Ledger(), now_s)
    assert (names(found.fresh), found.unsettled) == (["a.parquet"], ["b.parquet"])


@pytest.mark.parametrize(("min_age", "ahead_s", "waits"), [("0s", 1, False), ("5m", 1, True), ("5m", 86400, False)])
def test_a_file_of_the_future_does_not_wait_for_it(tmp_path: Path, min_age: str, ahead_s: int, waits: bool) -> None:
    write(tmp_path / "in" / "a.parquet")
    now_s = time.time()
    os.utime(tmp_path / "in" / "a.parquet", (now_s + ahead_s, now_s + ahead_s))
    found = look(job_of(tmp_path, f'min_age = "{min_age}"'), Ledger(), now_s)
    assert (names(found.fresh), found.unsettled) == (([], ["a.parquet"]) if waits else (["a.parquet"], []))


def test_a_marker_settles_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "in" / "day=1" / "a.parquet")
    write(tmp_path / "in" / "day=2" / "a.parquet")
    (tmp_path / "in" / "day=1" / "_SUCCESS").touch()
    found = look(job_of(tmp_path, "success_marker = true"), Ledger(), time.time())
    assert (names(found.fresh), found.unsettled) == (["day=1/a.parquet"], ["day=2/a.parquet"])


def test_a_young_file_that_was_learned_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet")
    ledger = learned(look(job_of(tmp_path), Ledger(), time.time()))
    write(tmp_path / "in" / "a.parquet", start=1)
    assert names(look(job_of(tmp_path, 'min_age = "5m"'), ledger, time.time()).changed) == ["a.parquet"]


@pytest.mark.parametrize("source", ["in", "in/*.parquet"])
def test_an_empty_source_has_nothing_new(tmp_path: Path, source: str) -> None:
    (tmp_path / "in").mkdir()
    found = look(job_of(tmp_path, source=source), Ledger(), time.time())
    assert (found.fresh, found.newest_s) == ([], None)


def test_a_text_file_among_a_pattern_is_told(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "b.csv").write_text("x,y\n")
    with pytest.raises(NoInputError, match="is not Parquet"):
        look(job_of(tmp_path, source="in/*"), Ledger(), time.time())


def test_no_source_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such file or directory"):
        look(job_of(tmp_path), Ledger(), time.time())


def test_the_ledger_survives_being_stored() -> None:
    ledger = Ledger().with_files([Entry("b", 2, "x"), Entry("a", 1, "y")], {"x": "double"})
    assert list(ledger.files) == ["a", "b"]
    assert Ledger.from_state(ledger.state()) == ledger


class TestColumns:
    """Columns of new files against those of the files before."""

    def check(self, folder: Path, train: str = "", **columns: Any) -> None:
        write(folder / "in" / "a.parquet", z=[0.0] * 3)
        job = job_of(folder, train=train)
        ledger = learned(look(job, Ledger(), time.time()))
        write(folder / "in" / "b.parquet", **columns)
        check_columns_of(look(job, ledger, time.time()).fresh, ledger, job.train_config(folder))

    def test_the_same_ones_pass(self, tmp_path: Path) -> None:
        self.check(tmp_path, z=[1.0] * 3)

    def test_a_new_one_names_file_and_column(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaError, match=r"b\.parquet has a new column 'v' \(int64\)"):
            self.check(tmp_path, z=[1.0] * 3, v=[1] * 3)

    def test_a_missing_one_names_file_and_column(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaError, match=r"b\.parquet lacks the column 'z'"):
            self.check(tmp_path)

    @pytest.mark.parametrize("train", ['exclude = "v,z"', 'features = "x"'])
    def test_columns_that_are_not_used_may_come_and_go(self, tmp_path: Path, train: str) -> None:
        if "exclude" in train:
            self.check(tmp_path, train, v=[1] * 3, z=[1.0] * 3)
        else:
            self.check(tmp_path, train, v=[1] * 3)

    @pytest.mark.parametrize(
        ("values", "found"),
        [(pa.array([1, 2, 3]), "int64"), (pa.array(["a", "b", "c"]), "string"), (pa.nulls(3), "null"),
         (pa.array([1, 2, 3], pa.float32()), "float")],
    )  # fmt: skip
    def test_another_type_names_file_column_and_types(self, tmp_path: Path, values: pa.Array, found: str) -> None:
        with pytest.raises(SchemaError) as caught:
            self.check(tmp_path, z=values)
        told = f"b.parquet has the column 'z' as {found}, the files before it have it as double. Write the file again"
        assert told in str(caught.value)
        assert "[train] exclude and train afresh with: streamgd job run --restart" in str(caught.value)

    @pytest.mark.parametrize("train", ['exclude = "z"', 'features = "x"'])
    def test_the_type_of_a_column_that_is_not_used_does_not_count(self, tmp_path: Path, train: str) -> None:
        self.check(tmp_path, train, z=["a", "b", "c"])

    def test_a_column_of_the_condition_is_used(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaError, match=r"'z' as string, .* Write the file again with that type\.$"):
            self.check(tmp_path, 'features = "x"\nwhere = "z > 0"', z=["a", "b", "c"])

    @pytest.mark.parametrize("role", ["weight", "offset"])
    def test_a_column_with_a_role_is_not_to_be_excluded(self, tmp_path: Path, role: str) -> None:
        with pytest.raises(SchemaError, match=r"lacks the column 'z' .* Write the file again with it\.$"):
            self.check(tmp_path, f'{role} = "z"')

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            (pa.array(["a", "b", "c"]), pa.array(["a", "b", "c"]).dictionary_encode()),
            (pa.array(["a", "b", "c"]), pa.array(["a", "b", "c"], pa.large_string())),
            *(
                (pa.array([[1]] * 3, pa.list_(pa.field("element", pa.int64()))),
                 pa.array([[1]] * 3, pa.list_(pa.field(name, pa.int64()))))
                for name in ("element", "item")
            ),
        ],
    )  # fmt: skip
    def test_what_a_run_takes_for_the_same_type_is_the_same(
        self, tmp_path: Path, first: pa.Array, then: pa.Array
    ) -> None:
        for name, values in (("a", first), ("b", then)):
            write(tmp_path / "in" / f"{name}.parquet", z=values)
        assert not discover([str(tmp_path / "in")]).differing
        job = job_of(tmp_path)
        found = look(job, Ledger(), time.time()).fresh
        ledger = Ledger().with_files([found[0].entry], found[0].columns)
        check_columns_of(found[1:], ledger, job.train_config(tmp_path))
