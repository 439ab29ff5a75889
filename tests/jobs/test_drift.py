"""The rules of [drift], and what a night does where one is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import job, log_of

from streamgd.errors import GateError
from streamgd.jobs.config import DriftConfig, JobConfig
from streamgd.jobs.drift import Moved, moved
from streamgd.jobs.job import run_job
from streamgd.jobs.profiles import Column, Profile
from streamgd.jobs.statedir import StateDirectory
from streamgd.jobs.versions import Versions

TARGET = Column(1000, 0, 0.2, 0.4)
LEARNED = Profile({"x": Column(900, 100, 10.0, 2.0), "k": Column(1000, 0, 7.0, 0.0), "c": Column(1000, 0)}, TARGET)
SAME = replace(LEARNED, columns={**LEARNED.columns, "c": Column(1000, 0, new_levels=0)})


def broken(now: Profile = SAME, learned: Profile = LEARNED, **rules: Any) -> list[Moved]:
    return moved(DriftConfig(**rules), "a.parquet", learned, now, "y")


def with_column(name: str, column: Column) -> Profile:
    return replace(SAME, columns={**SAME.columns, name: column})


ALL = {
    "warn_mean": 0.0, "warn_deviation": 1.001, "warn_nulls": 0.0, "warn_new_levels": 0.0, "warn_target": 0.0,
}  # fmt: skip


def test_what_did_not_move_breaks_no_rule() -> None:
    assert broken(**ALL) == []


@pytest.mark.parametrize(
    ("column", "now", "rule", "allowed", "found"),
    [
        ("x", Column(900, 100, 13.0, 2.0), "mean", 1.4, 1.5),
        ("x", Column(900, 100, 7.0, 2.0), "mean", 1.4, 1.5),
        ("x", Column(900, 100, 10.0, 5.0), "deviation", 2.4, 2.5),
        ("x", Column(900, 100, 10.0, 0.8), "deviation", 2.4, 2.5),
        ("x", Column(700, 300, 10.0, 2.0), "nulls", 0.19, 0.2),
        ("x", Column(1000, 0, 10.0, 2.0), "nulls", 0.09, 0.1),
        ("c", Column(1000, 0, new_levels=70), "new_levels", 0.06, 0.07),
        ("c", Column(400, 600, new_levels=70), "new_levels", 0.06, 0.07),
    ],
)
def test_a_rule_breaks_beyond_what_it_allows(column: str, now: Column, rule: str, allowed: float, found: float) -> None:
    profile = with_column(column, now)

    (each,) = broken(profile, **{f"warn_{rule}": allowed})

    assert (each.rule, each.file, each.column, each.allowed) == (f"warn_{rule}", "a.parquet", column, allowed)
    assert each.found == pytest.approx(found)
    assert not each.fails
    assert "a.parquet" in each.text
    assert f"'{column}'" in each.text
    json.dumps(each.to_json(), allow_nan=False)
    assert broken(profile, **{f"warn_{rule}": found + 1e-9}) == []
    (failed,) = broken(profile, **{f"warn_{rule}": allowed, f"fail_{rule}": allowed})
    assert failed.fails


def test_the_target_has_a_rule_of_its_own() -> None:
    flipped = replace(SAME, target=Column(1000, 0, 0.8, 0.4))

    assert broken(flipped, warn_mean=0.0) == []
    (each,) = broken(flipped, fail_target=1.0)
    assert (each.rule, each.column, each.found) == ("fail_target", "y", pytest.approx(1.5))


def test_a_target_that_is_null_breaks_the_rule_of_nulls() -> None:
    (each,) = broken(replace(SAME, target=Column(0, 1000)), warn_nulls=0.5)

    assert (each.column, each.found) == ("y", 1.0)


def test_columns_that_are_left_out_break_no_rule() -> None:
    profile = with_column("x", Column(900, 100, 1e9, 1e9))

    assert broken(profile, **ALL, exclude="x,other") == []


def test_a_constant_that_moved_is_measured_by_both_together() -> None:
    (same_size,) = broken(with_column("k", Column(1000, 0, 8.0, 0.0)), warn_mean=1.0)
    (small,) = broken(with_column("k", Column(1, 0, 8.0, 0.0)), warn_mean=1.0)

    assert same_size.found == pytest.approx(2.0)
    assert small.found == pytest.approx(np.sqrt(1001 * 1001 / 1000), rel=1e-9)


def test_a_constant_that_varies_now_has_no_factor() -> None:
    (each,) = broken(with_column("k", Column(1000, 0, 7.0, 1.0)), warn_deviation=2.0)

    assert each.found is None
    json.dumps(each.to_json(), allow_nan=False)


@settings(max_examples=200)
@given(
    before=st.tuples(st.floats(-1e300, 1e300), st.floats(0, 1e300)),
    now=st.tuples(st.floats(-1e300, 1e300), st.floats(0, 1e300)),
    rows=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_any_numbers_can_be_compared(
    before: tuple[float, float], now: tuple[float, float], rows: tuple[int, int]
) -> None:
    def column(rows: int, values: tuple[float, float]) -> Column:
        return Column(rows, 1, *values) if rows else Column(0, 1)

    found = broken(
        Profile({"x": column(rows[1], now)}, TARGET), Profile({"x": column(rows[0], before)}, TARGET), **ALL
    )  # fmt: skip

    for each in found:
        json.dumps(each.to_json(), allow_nan=False)


# --- nights of a job --------------------------------------------------------------------------------------------------


def write_day(late: JobConfig, day: int, rows: int = 2000, target: int | None = None, **changed: Any) -> None:
    """A partition of the source drawn from one truth, but for the columns that are given."""
    rng = np.random.default_rng(day)
    x = rng.normal(10.0, 2.0, rows)
    columns = {
        "x": x, "year": np.full(rows, 2011 + day), "c": rng.choice(["a", "b"], rows),
        "late": (rng.random(rows) < 1.0 / (1.0 + np.exp(10.0 - x))).astype(int) if target is None else [target] * rows,
    }  # fmt: skip
    pq.write_table(pa.table(columns | changed), Path(late.source) / f"{day}.parquet", row_group_size=500)


def with_rules(folder: Path, rules: str, mode: str = "continue", text: str = "") -> JobConfig:
    head = f'source = "incoming"\nstate = "state"\nmode = "{mode}"\n{text}[train]\ntarget = "late"\n'
    return job(folder, f'[drift]\nexclude = "year"\n{rules}', head)


def night(late: JobConfig) -> dict[str, Any]:
    return run_job(late, Listener())


def learned(late: JobConfig) -> Profile:
    current = Versions(late.published_dir).current()
    assert current is not None
    return Profile.from_json(current.facts["learned"])


def drift_events(late: JobConfig) -> list[dict[str, Any]]:
    return [each for each in log_of(late) if each["event"] == "drift"]


@pytest.mark.parametrize("mode", ["continue", "retrain"])
def test_a_version_knows_what_all_its_files_hold(tmp_path: Path, mode: str) -> None:
    late = with_rules(tmp_path, "warn_mean = 5\n", mode)
    for day in (1, 2):
        write_day(late, day)
    night(late)
    write_day(late, 3, rows=1000)
    night(late)

    rows = pa.concat_tables([pq.read_table(Path(late.source) / f"{day}.parquet") for day in (1, 2, 3)])
    found = learned(late)
    assert found.columns["x"].rows == found.target.rows == 5000
    assert found.columns["x"].mean == pytest.approx(np.mean(rows["x"].to_numpy()), rel=1e-12)
    assert found.columns["x"].deviation == pytest.approx(np.std(rows["x"].to_numpy()), rel=1e-12)
    assert found.target.mean == pytest.approx(np.mean(rows["late"].to_numpy()), rel=1e-12)


def test_of_a_window_only_its_files_are_what_was_learned(tmp_path: Path) -> None:
    late = with_rules(tmp_path, "warn_mean = 5\n", "window", "window_files = 2\n")
    for day in (1, 2, 3):
        write_day(late, day)
        night(late)

    assert learned(late).columns["year"].mean == pytest.approx(2013.5)
    assert learned(late).target.rows == 4000


def test_what_moves_is_told_and_learned_where_rules_warn(tmp_path: Path) -> None:
    late = with_rules(tmp_path, 'warn_mean = 0.5\nwarn_new_levels = "5%"\n')
    write_day(late, 1)
    night(late)
    write_day(late, 2)
    write_day(late, 3, x=np.random.default_rng(3).normal(14.0, 2.0, 2000), c=["a"] * 1000 + ["new"] * 1000)
    display = Listener()

    assert run_job(late, display)["outcome"] == "published"

    same, other = drift_events(late)
    assert (same["file"], same["broken"]) == ("2.parquet", [])
    assert other["columns"]["x"]["mean"] == pytest.approx(14.0, abs=0.2)
    assert other["learned"]["columns"]["x"]["mean"] == pytest.approx(10.0, abs=0.2)
    assert [(each["column"], each["rule"], each["allowed"]) for each in other["broken"]] == [
        ("x", "warn_mean", 0.5), ("c", "warn_new_levels", 0.05),
    ]  # fmt: skip
    assert [each["text"] for each in other["broken"]] == [text for text in display.warnings if "3.parquet" in text]
    assert learned(late).target.rows == 6000


@pytest.mark.parametrize("on_fail", ["hold", "quarantine"])
def test_a_file_that_fails_is_refused_before_anything_is_learned(tmp_path: Path, on_fail: str) -> None:
    late = with_rules(tmp_path, f'fail_target = 0.5\n[gate]\non_fail = "{on_fail}"\n')
    write_day(late, 1)
    night(late)
    write_day(late, 2, target=1)
    write_day(late, 3)

    with pytest.raises(GateError, match=r"new files were refused: 2.parquet: the mean of 'late' is 1"):
        night(late)

    events = log_of(late)
    assert [each["event"] for each in events].count("trained") == 1
    assert next(each for each in events if each["event"] == "refused")["files"] == ["2.parquet"]
    assert events[-1]["exit_code"] == 3
    reasons = json.loads(next(late.state_dir.glob("candidates/*/reasons.json")).read_bytes())
    assert [each["rule"] for each in reasons["broken"]] == ["fail_target"]
    waiting = StateDirectory(late.state_dir).waiting()
    assert {each.relative: each.status for each in waiting.values()} == {
        "2.parquet": "held" if on_fail == "hold" else "quarantined"
    }
    assert Versions(late.published_dir).all()[-1].number == 1

    assert night(late)["files"] == ["3.parquet"]  # the good one, in the next night, under both
    assert list(StateDirectory(late.state_dir).waiting()) == ["2.parquet"]


def test_without_a_rule_nothing_is_looked_at(tmp_path: Path) -> None:
    late = with_rules(tmp_path, "")
    for day in (1, 2):
        write_day(late, day)
        night(late)

    assert drift_events(late) == []
    current = Versions(late.published_dir).current()
    assert current is not None
    assert current.facts["learned"] is None


def test_rules_that_are_given_later_hold_from_the_version_after(tmp_path: Path) -> None:
    without = with_rules(tmp_path, "")
    write_day(without, 1)
    night(without)
    late = with_rules(tmp_path, "fail_target = 0.5\n")
    write_day(late, 2)
    night(late)
    assert drift_events(late) == []
    assert learned(late).target.rows == 2000

    write_day(late, 3, target=1)
    with pytest.raises(GateError):
        night(late)


def test_a_night_that_publishes_leaves_no_profiles_behind(tmp_path: Path) -> None:
    late = with_rules(tmp_path, "warn_mean = 0.5\n")
    for day in (1, 2):
        write_day(late, day)
        night(late)

    assert not (late.state_dir / "work").exists()
