"""``streamgd job run --quiet`` as cron runs it: what is printed is mailed."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import Process, command
from small_jobs import job, log_of

from streamgd.jobs.config import JobConfig
from streamgd.jobs.job import run_job
from streamgd.training.display import Silent

ROOT = Path(__file__).resolve().parents[2]


def write_day(folder: Path, day: int, flipped: bool = False, rows: int = 2000) -> None:
    rng = np.random.default_rng(day)
    x = rng.normal(size=rows)
    y = (rng.random(rows) < 1.0 / (1.0 + np.exp(-2.0 * x))).astype(int)
    pq.write_table(pa.table({"x": x, "late": 1 - y if flipped else y}), folder / f"{day}.parquet")


def start(late: JobConfig) -> Process:
    return command("job", "run", late.path, "--quiet", cwd="/")


def ended(process: Process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.wait(), out, err


@pytest.fixture
def late(tmp_path: Path) -> JobConfig:
    return job(tmp_path, '[gate]\nmax_worse = "5%"\n[drift]\nwarn_mean = 0.01\n[telemetry]\nprometheus = "late.prom"\n')


def test_success_is_silent_and_trouble_is_one_line(late: JobConfig) -> None:
    write_day(Path(late.source), 1)
    run_job(late, Silent())
    write_day(Path(late.source), 2)
    assert ended(start(late)) == (0, "", "")
    assert ended(start(late)) == (0, "", "")  # nothing new

    write_day(Path(late.source), 3, flipped=True, rows=20_000)
    exit_code, out, err = ended(start(late))

    assert (exit_code, out) == (3, "")
    assert err.startswith("streamgd: the candidate was refused: ")
    assert err.count("\n") == 1
    assert [each["exit_code"] for each in log_of(late) if each["event"] == "run_end"] == [0, 0, 0, 3]


def test_with_mlflow_it_is_silent_too(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    late = job(tmp_path, '[telemetry]\nmlflow = "sqlite:///mlflow.db"\n')
    write_day(Path(late.source), 1)

    assert ended(start(late)) == (0, "", "")
    assert (tmp_path / "mlflow.db").is_file()


def test_a_signal_that_comes_while_the_tracker_is_silent_ends_the_night(tmp_path: Path) -> None:
    """After the 3 seconds that a tracker is waited for, and it is not asked again."""
    pytest.importorskip("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        late = job(tmp_path, f'[telemetry]\nmlflow = "http://127.0.0.1:{silent.getsockname()[1]}"\n')
        write_day(Path(late.source), 1)
        process = start(late)
        silent.settimeout(60.0)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            exit_code, _, err = ended(process)
        silent.settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent.accept()

    assert (exit_code, err.count("\n")) == (75, 1)
    assert log_of(late)[-1]["exit_code"] == 75
    assert [each["event"] for each in log_of(late)].count("trained") == 0
