"""The promises of a job, by real processes: each file once, killed or not; a worse model is never published."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from displays import RESOLVED, Listener
from oracles import FLIGHT_FEATURES
from processes import Process, command

import streamgd
from streamgd.errors import ConfigError, GateError, PausedError, StreamgdError
from streamgd.jobs.config import JobConfig, load_job
from streamgd.jobs.drift import Drift
from streamgd.jobs.job import run_job
from streamgd.jobs.operations import check, quarantine, release, rollback, status
from streamgd.jobs.telemetry import Telemetry
from streamgd.jobs.versions import Version, Versions
from streamgd.training.display import Silent

ROOT = Path(__file__).resolve().parents[1]
YEARS = (2011, 2013, 2014, 2015, 2017)
#: Log loss of the optimum over all flights, without penalty.
FLIGHTS_OPTIMUM = 0.4560156


class Job:
    """A job in a folder of its own, run as a process."""

    def __init__(self, folder: Path, text: str = "", train: str = 'target = "y"', gate: str = ""):
        self.folder = folder
        self.incoming = folder / "incoming"
        self.incoming.mkdir(parents=True)
        self.file = folder / "job.toml"
        self.write(text, train, gate)

    def write(self, text: str = "", train: str = 'target = "y"', gate: str = "") -> None:
        self.file.write_text(
            f'source = "incoming"\nstate = "state"\n{text}\n'
            f'[train]\n{train}\n[gate]\n{gate}\n[telemetry]\nlog = "log"\n'
        )

    @property
    def config(self) -> JobConfig:
        return load_job(self.file)

    def start(self, *options: str) -> Process:
        return command("job", "run", self.file, "--json", *options)

    def run_process(self, *options: str, exit_code: int = 0) -> dict[str, Any]:
        process = self.start(*options)
        out, err = process.communicate(timeout=300)
        assert process.returncode == exit_code, err
        assert "Traceback" not in err
        facts: dict[str, Any] = json.loads(out)
        return facts

    def run(self, restart: bool = False) -> dict[str, Any]:
        """As a process does, in this one: its start would take most of the time."""
        return run_job(self.config, Silent(), restart)

    def refused(self, exit_code: int) -> str:
        """The message of a run that ends with this code."""
        with pytest.raises(StreamgdError) as caught:
            self.run()
        assert caught.value.exit_code == exit_code
        return str(caught.value)

    @property
    def current(self) -> Version:
        current = Versions(self.config.published_dir).current()
        assert current is not None
        return current

    def learned(self) -> list[str]:
        return list(self.current.ledger.files)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def digest(self) -> str:
        """Of everything in the state directory but the lock."""
        parts, state = [], self.folder / "state"
        for path in sorted(state.rglob("*")):
            if path.is_symlink():
                parts.append((str(path.relative_to(state)), os.readlink(path)))
            elif path.is_file() and path.name != "lock":
                parts.append((str(path.relative_to(state)), hashlib.sha256(path.read_bytes()).hexdigest()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def write_day(path: Path, day: int, rows: int = 4000, flipped: bool = False, levels: str = "abc") -> None:
    """A partition drawn from one truth; ``flipped`` has the other class in each row."""
    rng = np.random.default_rng(day)
    x, level = rng.normal(size=(rows, 2)), rng.integers(0, len(levels), rows)
    raw = 1.5 * x[:, 0] - 0.8 * x[:, 1] + 0.7 * (level == 0) - 0.5
    y = (rng.random(rows) < 1.0 / (1.0 + np.exp(-raw))).astype(int)
    columns = {
        "a": x[:, 0],
        "b": 100.0 + 9.0 * x[:, 1],
        "c": np.array(list(levels))[level],
        "y": 1 - y if flipped else y,
    }
    temporary = path.with_name(f"_{path.name}")
    pq.write_table(pa.table(columns), temporary, row_group_size=1000)
    temporary.rename(path)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job with one day to learn, and a gate."""
    made = Job(tmp_path / "job", gate='max_worse = "5%"')
    write_day(made.incoming / "day-1.parquet", 1)
    return made


# The years of the flights


def flights_job(folder: Path, mode: str) -> Job:
    return Job(folder, f'mode = "{mode}"', f'target = "late"\nfeatures = "{FLIGHT_FEATURES}"', 'max_worse = "5%"')


@pytest.mark.parametrize(("mode", "within"), [("continue", 0.02), ("retrain", 0.001)])
def test_year_after_year_each_file_is_learned_once(tmp_path: Path, flights: Path, mode: str, within: float) -> None:
    job = flights_job(tmp_path / "job", mode)
    for number, year in enumerate(YEARS, 1):
        shutil.copy(flights / f"{year}.parquet", job.incoming)
        facts = job.run()
        assert (facts["version"], facts["files"]) == (number, [f"{year}.parquet"])
        assert job.learned() == [f"{each}.parquet" for each in YEARS[:number]]
    loss = streamgd.evaluate(job.current.model(), str(flights)).metrics["log_loss"]
    assert loss is not None
    assert FLIGHTS_OPTIMUM <= loss < FLIGHTS_OPTIMUM * (1.0 + within)
    before = job.digest()
    assert job.run() == {"outcome": "nothing new", "version": 5}
    assert job.digest() == before


# Killed


def days_of(job: Job, n: int) -> Iterator[Path]:
    for day in range(1, n + 1):
        write_day(job.incoming / f"day-{day}.parquet", day, rows=20_000)
        yield job.incoming


def kill_and_finish(job: Job, kills: int, random_moment: random.Random, longest_s: float) -> int:
    """Kill the job at random moments of its work, then let it end; returns how often it was hit."""
    hit, log = 0, job.folder / "log"
    for _ in range(kills):
        told_bytes = log.stat().st_size if log.exists() else 0
        process = job.start()
        while process.poll() is None and (not log.exists() or log.stat().st_size == told_bytes):
            time.sleep(0.001)
        time.sleep(random_moment.uniform(0.0, longest_s))
        process.kill()
        hit += process.wait() == -signal.SIGKILL
    job.run()
    return hit


@pytest.mark.parametrize("mode", [pytest.param("continue", marks=pytest.mark.slow), "retrain"])
def test_killed_nights_are_made_up_for(tmp_path: Path, mode: str) -> None:
    undisturbed, killed = (Job(tmp_path / name, f'mode = "{mode}"', gate='max_worse = "50%"') for name in "uk")
    for _ in days_of(undisturbed, 3):
        undisturbed.run()
    rng, hit = random.Random(6), 0
    for _ in days_of(killed, 3):
        hit += kill_and_finish(killed, 3, rng, 0.3)
    assert hit > 3
    assert killed.current.model().theta_sha256 == undisturbed.current.model().theta_sha256
    assert killed.current.ledger == undisturbed.current.ledger
    events = [event["event"] for event in killed.events()]
    assert 0 < events.count("broken_off") <= hit


@pytest.mark.parametrize("mode", ["continue", "retrain"])
@pytest.mark.parametrize("damaged", [("checkpoints/*",), ("checkpoints/*", "model.*"), ("config.json",)])
def test_a_night_whose_training_is_damaged_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, damaged: tuple[str, ...]
) -> None:
    undisturbed, job = (Job(tmp_path / name, f'mode = "{mode}"') for name in "uj")
    for each in (undisturbed, job):
        write_day(each.incoming / "day-1.parquet", 1)
    undisturbed.run()

    def fell(*arguments: Any) -> None:
        raise PausedError("stopped once it was trained.")

    with monkeypatch.context() as patched:
        patched.setattr("streamgd.jobs.gate.Gate.scores", fell)
        job.refused(75)
    spoilt = [path for pattern in damaged for path in (job.folder / "state" / "work").glob(f"*/{pattern}")]
    assert len(spoilt) >= len(damaged)
    for path in spoilt:
        os.truncate(path, path.stat().st_size // 2)

    assert job.run()["outcome"] == "published"
    assert job.current.model().theta_sha256 == undisturbed.current.model().theta_sha256
    anew = [event for event in job.events() if event["event"] == "begun_anew"]
    # A model that is whole is enough where nothing goes on from its run.
    assert len(anew) == (0 if mode == "retrain" and damaged == ("checkpoints/*",) else 1)
    write_day(job.incoming / "day-2.parquet", 2)
    assert job.run()["files"] == ["day-2.parquet"]


@pytest.mark.parametrize("mode", ["continue", "retrain"])
def test_a_night_in_blocks_of_another_version_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    train = 'target = "y"\ncheckpoint_every = "1ms"'
    undisturbed, job = (Job(tmp_path / name, f'mode = "{mode}"', train) for name in "uj")
    for each in (undisturbed, job):
        write_day(each.incoming / "day-1.parquet", 1)
    undisturbed.run()

    def fell(*arguments: Any) -> None:
        raise PausedError("stopped while it was trained.")

    with monkeypatch.context() as patched:
        patched.setattr("streamgd.training.stochastic.StochasticTrainer._judge_epoch", fell)
        patched.setattr("streamgd.data.blocks.BLOCK_ROWS", 300)
        job.refused(75)

    assert job.run()["outcome"] == "published"
    assert job.current.model().theta_sha256 == undisturbed.current.model().theta_sha256
    (anew,) = [event for event in job.events() if event["event"] == "begun_anew"]
    assert "blocks" in anew["reason"]


@pytest.mark.slow
def test_thirty_kills_of_the_flights_change_nothing(tmp_path: Path, flights: Path) -> None:
    undisturbed, hit, rng = flights_job(tmp_path / "u", "continue"), 0, random.Random(7)
    for year in YEARS:
        shutil.copy(flights / f"{year}.parquet", undisturbed.incoming)
        undisturbed.run()
    while hit < 30:
        killed = flights_job(tmp_path / f"after {hit}", "continue")
        for year in YEARS:
            shutil.copy(flights / f"{year}.parquet", killed.incoming)
            hit += kill_and_finish(killed, 8, rng, 1.5)
        assert killed.current.model().theta_sha256 == undisturbed.current.model().theta_sha256
        assert killed.current.ledger == undisturbed.current.ledger


READER = """
import sys, time, streamgd
seen = set()
while True:
    seen.add(streamgd.load(sys.argv[1]).theta_sha256)
    print(len(seen), flush=True)
"""


def test_a_reader_always_loads_a_whole_model(tmp_path: Path, job: Job) -> None:
    job.run()
    version, versions = job.current, Versions(tmp_path / "published")
    model, ledger = version.model(), version.ledger
    versions.publish(1, model, ledger, None, {})
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "published" / "current")], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert reader.stdout is not None
    reader.stdout.readline()  # it reads now
    for number in range(2, 202):
        changed = type(model)(model.loss_name, model.theta + number, model.encoding, model.facts, model.closing)
        versions.publish(number, changed, ledger, version.training, {})
        versions.prune(5)
    assert reader.poll() is None, reader.communicate()[1]
    reader.kill()
    out, err = reader.communicate()
    assert err == ""
    assert int(out.splitlines()[-1]) > 10


# The gate


def test_a_poisoned_day_is_held_and_the_next_good_one_is_learned(job: Job) -> None:
    job.run()
    before = job.current.model().theta_sha256
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    facts = job.run_process(exit_code=3)
    assert facts["error"]["type"] == "GateError"
    assert "above the published model's" in facts["error"]["message"]
    assert "version 1 stays published" in facts["error"]["message"]
    assert job.current.model().theta_sha256 == before
    (refused,) = [event for event in job.events() if event["event"] == "refused"]
    assert refused["files"] == ["day-2.parquet"]
    (folder,) = (job.folder / "state" / "candidates").iterdir()
    assert json.loads((folder / "reasons.json").read_text())["broken"][0]["rule"] == "max_worse"
    assert streamgd.load(folder / "model.safetensors").theta_sha256 != before
    assert list(status(job.config)["held"]) == ["day-2.parquet"]

    write_day(job.incoming / "day-3.parquet", 3)
    facts = job.run()
    assert facts["files"] == ["day-3.parquet"]
    assert job.learned() == ["day-1.parquet", "day-3.parquet"]
    assert list(status(job.config)["held"]) == ["day-2.parquet"]

    # Whoever writes it again has it learned.
    write_day(job.incoming / "day-2.parquet", 2)
    assert job.run()["files"] == ["day-2.parquet"]
    assert status(job.config)["held"] == {}


def test_a_held_day_is_tried_again_with_what_has_come_since(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    job.refused(3)
    job.write(gate="")  # the rules are relaxed
    write_day(job.incoming / "day-3.parquet", 3)
    assert job.run()["files"] == ["day-2.parquet", "day-3.parquet"]


def test_what_holds_up_others_is_put_in_quarantine_by_hand(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    write_day(job.incoming / "day-3.parquet", 3)
    job.refused(3)
    held = status(job.config)["held"]
    assert held["day-3.parquet"].endswith("judged together with day-2.parquet)")
    assert check(job.config)["held"] == held
    job.refused(3)  # together again
    assert status(job.config)["held"] == held

    with pytest.raises(StreamgdError, match=r"'day-1\.parquet' is not held, and not new"):
        quarantine(job.config, ["day-1.parquet"])
    quarantine(job.config, ["day-2.parquet"])
    assert status(job.config)["quarantined"] == {"day-2.parquet": held["day-2.parquet"]}
    assert job.run()["files"] == ["day-3.parquet"]
    release(job.config, ["all"])
    assert check(job.config)["would_learn"] == ["day-2.parquet"]


def test_each_held_day_keeps_its_own_reason(job: Job) -> None:
    job.run()
    reasons = {}
    for day in (2, 3):
        write_day(job.incoming / f"day-{day}.parquet", day, flipped=True)
        message = job.refused(3)
        assert message.endswith(
            f"Held, and tried again next time: day-{day}.parquet. {message[message.index('Look') :]}"
        )
        reasons[f"day-{day}.parquet"] = status(job.config)["held"][f"day-{day}.parquet"]
        assert status(job.config)["held"] == reasons
        assert "together" not in reasons[f"day-{day}.parquet"]
    assert "day-2.parquet, day-3.parquet" in job.refused(3)
    assert status(job.config)["held"] == reasons


def test_a_new_day_is_put_in_quarantine_before_it_is_learned(job: Job) -> None:
    job.write('pause_after = "1ms"')
    job.refused(75)  # it is planned by now
    quarantine(job.config, ["day-1.parquet"])
    assert "by hand" in status(job.config)["quarantined"]["day-1.parquet"]
    job.write()
    assert job.run()["outcome"] == "nothing new"


def test_a_poisoned_day_in_quarantine_is_passed_over_until_released(job: Job) -> None:
    job.write(gate='max_worse = "5%"\non_fail = "quarantine"')
    job.run()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    assert "release" in job.refused(3)
    assert list(status(job.config)["quarantined"]) == ["day-2.parquet"]
    before = job.digest()
    assert job.run()["outcome"] == "nothing new"
    assert job.digest() == before
    write_day(job.incoming / "day-3.parquet", 3)
    assert job.run()["files"] == ["day-3.parquet"]
    release(job.config, ["day-2.parquet"])
    assert status(job.config)["waiting"] == ["day-2.parquet"]
    assert "day-2.parquet" in job.refused(3)


@pytest.mark.parametrize("mode", ["continue", "retrain"])
def test_the_newest_day_is_judged_before_it_is_learned(tmp_path: Path, mode: str) -> None:
    job = Job(tmp_path / "job", f'mode = "{mode}"', gate='on = "newest"\nmax_log_loss = 0.7')
    write_day(job.incoming / "day-1.parquet", 1)
    job.run()
    write_day(job.incoming / "day-2.parquet", 2)
    facts = job.run()
    # Judged on all rows of the day, by the model that had not learned it.
    first = Versions(job.config.published_dir).get(1).model()
    expected = streamgd.evaluate(first, str(job.incoming / "day-2.parquet")).metrics["log_loss"]
    assert facts["metrics"]["log_loss"] == pytest.approx(expected, rel=1e-12)
    assert facts["measured_on"] == "all rows of day-2.parquet, before it was learned"
    write_day(job.incoming / "day-3.parquet", 3, flipped=True)
    assert "log loss" in job.refused(3)
    assert job.learned() == ["day-1.parquet", "day-2.parquet"]


def test_rollback_takes_theta_and_ledger_back(job: Job) -> None:
    job.run()
    first = job.current.model().theta_sha256
    for day in (2, 3):
        write_day(job.incoming / f"day-{day}.parquet", day)
        job.run()
    third = job.current.model().theta_sha256
    facts = rollback(job.config, 1)
    assert (facts["from"], facts["to"], facts["files_since"]) == (3, 1, ["day-2.parquet", "day-3.parquet"])
    assert job.current.model().theta_sha256 == first
    assert job.learned() == ["day-1.parquet"]
    # The next night goes on from there, with both at once.
    assert job.run()["version"] == 4
    assert job.learned() == ["day-1.parquet", "day-2.parquet", "day-3.parquet"]
    assert job.current.model().theta_sha256 not in (first, third)
    # What was published before is the first, not the third that was taken back.
    rollback(job.config, None, quarantine=True)
    assert job.current.number == 1
    assert job.run()["outcome"] == "nothing new"


def test_a_restart_that_is_refused_is_tried_whole_again(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    job.refused(3)
    for _ in range(2):
        with pytest.raises(GateError, match=r"next time: day-2\.parquet\."):
            job.run(restart=True)
    assert job.learned() == ["day-1.parquet"]


def test_no_file_left_to_compare_on_is_a_refusal(job: Job) -> None:
    job.run()
    (job.incoming / "day-1.parquet").unlink()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    assert "to compare on" in job.refused(3)


def test_a_day_that_is_learned_is_judged_after_it_too(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", gate='on = "newest"\nmax_worse = "5%"')
    write_day(job.incoming / "day-1.parquet", 1)
    job.run()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    assert "above the published model's" in job.refused(3)


def test_another_mode_has_nothing_to_go_on_from(job: Job) -> None:
    job.write('mode = "retrain"')
    job.run()
    job.write('mode = "continue"')
    write_day(job.incoming / "day-2.parquet", 2)
    assert "--restart" in job.refused(78)
    assert job.run(restart=True)["files"] == ["day-1.parquet", "day-2.parquet"]


def test_a_refused_change_does_not_hold_up_what_is_new(job: Job) -> None:
    job.write('on_changed = "retrain"', gate="max_log_loss = 0.62")
    write_day(job.incoming / "day-0.parquet", 7)
    job.run()
    # Of another day: flipped alone, size and footer would be the same.
    write_day(job.incoming / "day-1.parquet", 8, flipped=True)
    assert "log loss" in job.refused(3)
    assert list(status(job.config)["held"]) == ["day-1.parquet"]
    write_day(job.incoming / "day-2.parquet", 2)
    assert job.run()["files"] == ["day-2.parquet"]


# What arrives


def test_a_changed_file(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-1.parquet", 8)
    before = job.digest()
    message = job.refused(65)
    assert "day-1.parquet" in message
    assert "on_changed" in message
    assert job.digest() == before
    job.write('on_changed = "ignore"')
    assert job.run()["outcome"] == "nothing new"
    job.write('on_changed = "retrain"')
    assert job.run()["files"] == ["day-1.parquet"]
    assert job.run()["outcome"] == "nothing new"


def test_a_truncated_file(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-2.parquet", 2)
    whole = (job.incoming / "day-2.parquet").read_bytes()
    (job.incoming / "day-2.parquet").write_bytes(whole[: len(whole) // 2])
    before = job.digest()
    assert "day-2.parquet" in job.refused(65)
    assert job.digest() == before
    (job.incoming / "day-2.parquet").write_bytes(whole)
    assert job.run()["files"] == ["day-2.parquet"]
    os.truncate(job.incoming / "day-1.parquet", 1000)  # one that was learned
    assert "day-1.parquet" in job.refused(65)


def test_a_row_group_that_cannot_be_read_is_passed_over_night_after_night(job: Job) -> None:
    job.write(train='target = "y"\non_bad_data = "skip"', gate='max_worse = "5%"')
    job.run()
    path = job.incoming / "day-2.parquet"
    write_day(path, 2)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 40] = b"\xff" * 40
    path.write_bytes(damaged)
    facts = job.run()
    assert facts["files"] == ["day-2.parquet"]
    assert 2500 < facts["rows"] < 3000  # of three row groups, but for those held out
    write_day(job.incoming / "day-3.parquet", 3)
    assert job.run()["files"] == ["day-3.parquet"]


def test_a_late_file_is_found_and_a_deleted_one_is_no_error(job: Job) -> None:
    write_day(job.incoming / "day-3.parquet", 3)
    job.run()
    (job.incoming / "day-3.parquet").unlink()
    write_day(job.incoming / "day-2.parquet", 2)
    assert job.run()["files"] == ["day-2.parquet"]
    assert job.learned() == ["day-1.parquet", "day-2.parquet", "day-3.parquet"]


def test_an_unsettled_file_waits(job: Job) -> None:
    job.write('min_age = "1h"')
    assert job.run()["outcome"] == "nothing new"
    assert status(job.config)["unsettled"] == ["day-1.parquet"]
    past_s = time.time() - 3601
    os.utime(job.incoming / "day-1.parquet", (past_s, past_s))
    assert job.run()["files"] == ["day-1.parquet"]


def test_a_file_without_rows_is_listed_until_it_has_some(job: Job) -> None:
    write_day(job.incoming / "day-2.parquet", 2, rows=0)
    assert job.run()["files"] == ["day-1.parquet"]
    assert status(job.config)["without_rows"] == ["day-2.parquet"]
    assert check(job.config)["without_rows"] == ["day-2.parquet"]
    write_day(job.incoming / "day-2.parquet", 2)
    assert job.run()["files"] == ["day-2.parquet"]


def test_new_levels_extend_theta(job: Job) -> None:
    job.run()
    names = {each.name for each in job.current.model().coefficients()}
    write_day(job.incoming / "day-2.parquet", 2, levels="abcd")
    job.run()
    assert {each.name for each in job.current.model().coefficients()} - names == {"c=d"}


def test_a_new_and_a_missing_column_are_named(job: Job) -> None:
    job.run()
    table = pq.read_table(job.incoming / "day-1.parquet")
    pq.write_table(table.append_column("new", pc.negate(table["a"])), job.incoming / "day-2.parquet")
    assert "day-2.parquet has a new column 'new'" in job.refused(65)
    pq.write_table(table.drop_columns(["b"]), job.incoming / "day-2.parquet")
    assert "day-2.parquet lacks the column 'b'" in job.refused(65)


def test_a_target_that_is_not_there_is_told_with_the_line_of_the_job_file(job: Job) -> None:
    job.write(train='target = "yy"')
    expected = f"{job.file}, line 5: [train] target: the data have no column 'yy'. Did you mean 'y'?"
    assert job.refused(78) == expected
    with pytest.raises(ConfigError) as caught:
        check(job.config)
    assert str(caught.value) == expected
    job.write()
    assert job.run()["outcome"] == "published"


def test_nothing_new_for_too_long(job: Job) -> None:
    job.write('expect_new_within = "36h"')
    job.run()
    assert job.run()["outcome"] == "nothing new"
    job.write('expect_new_within = "1ms"')
    before = job.digest()
    assert "nothing new since" in job.refused(66)
    assert job.digest() == before


def test_restart_learns_everything_anew(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-2.parquet", 2)
    job.run()
    facts = job.run(restart=True)
    assert (facts["version"], facts["files"]) == (3, ["day-1.parquet", "day-2.parquet"])


def test_mode_window_learns_the_latest_files(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 'mode = "window"\nwindow_files = 2')
    for day in (1, 2, 3):
        write_day(job.incoming / f"day-{day}.parquet", day)
    job.run()
    assert job.learned() == ["day-1.parquet", "day-2.parquet", "day-3.parquet"]
    alone = Job(tmp_path / "alone", 'mode = "window"\nwindow_files = 2')
    for day in (2, 3):
        write_day(alone.incoming / f"day-{day}.parquet", day)
    alone.run()
    assert alone.current.model().theta_sha256 == job.current.model().theta_sha256


# Signals and locks


def wait_for(job: Job, met: Callable[[], bool], process: Process) -> None:
    deadline_s = time.monotonic() + 60
    while not met():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def send_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_a_pause(tmp_path: Path) -> None:
    """Of a process that has just begun to train on what takes a while."""
    job = Job(tmp_path / "job")
    write_day(job.incoming / "day-1.parquet", 1, rows=300_000)
    process = job.start()
    wait_for(job, lambda: any((job.folder / "state" / "work").glob("*/config.json")), process)
    process.send_signal(signal.SIGTERM)
    sent_s = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent_s < 5.0
    assert process.returncode == 75, err
    assert json.loads(out)["error"]["exit_code"] == 75
    ends = [event for event in job.events() if event["event"] == "run_end"]
    assert [event["exit_code"] for event in ends] == [75]
    assert job.run()["files"] == ["day-1.parquet"]


@pytest.mark.parametrize("mode", ["continue", pytest.param("retrain", marks=pytest.mark.slow)])
@pytest.mark.parametrize("phase", ["looked", "plan", "training", "trained", "profile", "evaluate", "judged", "publish"])
def test_a_signal_in_each_phase_is_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, mode: str
) -> None:
    """Sent by the job to itself, at an event, when a phase begins, or while it publishes."""
    undisturbed, job = (Job(tmp_path / name, f'mode = "{mode}"', gate='max_worse = "50%"') for name in "uj")
    for each in (undisturbed, job):
        with open(each.file, "a") as file:
            file.write("[drift]\nwarn_nulls = 0.5\n")
        for day in (1, 2):
            write_day(each.incoming / f"day-{day}.parquet", day, rows=2000)
            if day == 1 or each is undisturbed:
                each.run()
    tell, learned = Telemetry.event, Drift.learned

    def told(telemetry: Telemetry, event: str, **facts: Any) -> None:
        tell(telemetry, event, **facts)
        if event == phase:
            send_sigterm()

    def publishing(*arguments: Any) -> Any:
        if phase == "publish":
            send_sigterm()
        return learned(*arguments)

    named = {"training": RESOLVED, "profile": "profile", "evaluate": "evaluate"}.get(phase, "no phase")
    with monkeypatch.context() as patched:
        patched.setattr(Telemetry, "event", told)
        patched.setattr(Drift, "learned", publishing)
        try:
            run_job(job.config, Listener(named, send_sigterm))
        except PausedError:
            assert job.current.number == 1
            assert job.events()[-1]["exit_code"] == 75
        else:
            assert phase == "publish"  # what was about to be published is
    assert job.run()["outcome"] == ("nothing new" if phase == "publish" else "published")
    assert job.current.model().theta_sha256 == undisturbed.current.model().theta_sha256
    assert job.current.ledger == undisturbed.current.ledger


def is_stopped(process: Process) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_two_jobs_at_once(tmp_path: Path) -> None:
    """The first one is stopped while it works, so that it is there whatever the second takes."""
    job = Job(tmp_path / "job")
    write_day(job.incoming / "day-1.parquet", 1, rows=300_000)
    first = job.start()
    wait_for(job, (job.folder / "state" / "work" / "plan.json").exists, first)
    first.send_signal(signal.SIGSTOP)
    try:
        wait_for(job, lambda: is_stopped(first), first)
        before = job.digest()
        assert status(job.config)["running"] == first.pid
        facts = job.run_process(exit_code=4)
        assert facts["error"]["type"] == "RunLockedError"
        assert first.poll() is None
        assert job.digest() == before
        assert [event["event"] for event in job.events()].count("run_start") == 1
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert job.learned() == ["day-1.parquet"]
    assert status(job.config)["running"] is None


def test_the_lock_is_tried_before_what_takes_long_to_import() -> None:
    code = "import sys, streamgd.jobs.job; print('numba' in sys.modules, 'streamgd.jobs.night' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "False False\n"


def test_pause_after_is_the_time_budget(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 'pause_after = "1ms"')
    write_day(job.incoming / "day-1.parquet", 1)
    assert "pause-after" in job.refused(75)
    job.write()
    assert job.run()["outcome"] == "published"


# Telemetry


def test_every_run_ends_with_an_event(job: Job) -> None:
    job.run()
    write_day(job.incoming / "day-2.parquet", 2, flipped=True)
    job.refused(3)
    ends = [event for event in job.events() if event["event"] == "run_end"]
    assert [(event["exit_code"], event["version"]) for event in ends] == [(0, 1), (3, None)]
    assert ends[0]["rows"] > 0
    assert 0.0 < ends[0]["metrics"]["log_loss"] < 0.7
    assert ends[0]["seconds"] > 0.0
    assert "above the published model's" in ends[1]["reason"]
