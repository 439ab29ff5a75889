"""Every event goes to every sink; one that fails warns and changes nothing else."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import JUDGED, PUBLISHED, TRAINED, job, log_of, tell

from streamgd.errors import ConfigError, GateError, PausedError
from streamgd.jobs.log import last_runs
from streamgd.jobs.operations import status

PROMETHEUS = '[telemetry]\nprometheus = "late.prom"\n'


def test_a_night_is_told_from_start_to_end(tmp_path: Path) -> None:
    late = job(tmp_path)

    looked = {"new": 1, "unsettled": 0, "newest_data_s": 5.0}
    tell(late, ("looked", looked), ("trained", TRAINED), ("judged", JUDGED), ("published", PUBLISHED))

    told = log_of(late)
    assert [each["event"] for each in told] == ["run_start", "looked", "trained", "judged", "published", "run_end"]
    assert {each["job"] for each in told} == {"late"}
    assert told[0]["pid"] == os.getpid()
    end = told[-1]
    assert end.pop("seconds") >= 0.0
    assert end.pop("time") >= told[0]["time"]
    assert end == {
        "job": "late", "event": "run_end", "exit_code": 0, "reason": "done", "version": 1, "rows": 100,
        "newest_data_s": 5.0, "metrics": {"rows": 10, "auc": 0.75, "log_loss": 0.25},
        "measured_on": "held-out rows of a.parquet",
    }  # fmt: skip


def test_a_refused_candidate_is_told_with_its_metrics(tmp_path: Path) -> None:
    late = job(tmp_path)

    tell(late, ("judged", JUDGED), ends=GateError("auc 0.75 is below 0.8"))

    end, _ = last_runs(late)
    assert end is not None
    assert (end["exit_code"], end["reason"]) == (3, "auc 0.75 is below 0.8")
    assert end["metrics"] == {"rows": 10, "auc": 0.75, "log_loss": 0.25}


def test_what_is_only_compared_leaves_the_metrics_of_what_was_measured(tmp_path: Path) -> None:
    late = job(tmp_path, PROMETHEUS)
    compared = {**JUDGED, "measured_on": None, "candidate": {"all": None, "known": JUDGED["candidate"]["all"]}}

    tell(late, ("judged", JUDGED), ("judged", compared))

    end, _ = last_runs(late)
    assert end is not None
    assert (end["metrics"]["auc"], end["measured_on"]) == (0.75, JUDGED["measured_on"])
    assert 'candidate_metric{job="late",metric="auc"} 0.75' in (tmp_path / "late.prom").read_text()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(PausedError("stopped"), 75), (KeyboardInterrupt(), 130), (ZeroDivisionError("a defect"), 70)],
)
def test_any_way_to_end_is_told(tmp_path: Path, error: BaseException, exit_code: int) -> None:
    late = job(tmp_path)

    tell(late, ends=error)

    end, _ = last_runs(late)
    assert end is not None
    assert end["exit_code"] == exit_code


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), np.float64("-inf"), "line\nbreak\x00\u2028", b"\xff", {1: (2,)}]
)
def test_whatever_is_told_each_line_is_json(tmp_path: Path, value: Any) -> None:
    late = job(tmp_path)

    assert tell(late, ("drift", {"value": value, "in": [{"it": value}]})) == []

    assert [each["event"] for each in log_of(late)] == ["run_start", "drift", "run_end"]


def test_a_line_that_a_kill_has_torn_spoils_no_other(tmp_path: Path) -> None:
    late = job(tmp_path)
    tell(late)
    with open(late.log_path, "a") as log:
        log.write('{"event": "run_')

    tell(late)

    lines = late.log_path.read_text().splitlines()
    assert len(lines) == 5
    assert lines[2] == '{"event": "run_'
    end, begun = last_runs(late)
    assert end is not None
    assert begun is None


def test_a_run_that_was_broken_off_is_told_by_the_next(tmp_path: Path) -> None:
    late = job(tmp_path)
    tell(late)
    assert status(late)["last_run"]["exit_code"] == 0
    whole = late.log_path.read_bytes()
    late.log_path.write_bytes(whole + whole.splitlines(keepends=True)[0])  # killed once it had begun
    began = log_of(late)[0]["time"]

    last = status(late)["last_run"]
    assert (last["exit_code"], last["began"]) == (None, began)
    assert "broken off" in last["reason"]
    (warning,) = tell(late)

    assert "was broken off" in warning
    assert log_of(late)[-2] == log_of(late)[-2] | {"event": "broken_off", "began": began, "pid": os.getpid()}
    assert tell(late) == []
    assert status(late)["last_run"]["exit_code"] == 0


def test_a_sink_that_fails_warns_and_the_others_are_told(tmp_path: Path) -> None:
    late = job(tmp_path, PROMETHEUS)
    (tmp_path / "late.prom").mkdir()

    warnings = tell(late, ("judged", JUDGED))

    assert [each["event"] for each in log_of(late)] == ["run_start", "judged", "run_end"]
    assert warnings
    assert all("late.prom" in warning for warning in warnings)


def test_a_log_that_cannot_be_written_warns(tmp_path: Path) -> None:
    late = job(tmp_path, PROMETHEUS)
    late.log_path.mkdir()

    warnings = tell(late)

    assert "Is a directory" in warnings[0]
    assert (tmp_path / "late.prom").is_file()


def test_a_signal_while_a_sink_works_is_no_failure_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = job(tmp_path, PROMETHEUS)

    def stopped(*arguments: Any) -> None:
        raise PausedError("stopped by a signal.")

    monkeypatch.setattr("streamgd.jobs.prometheus.Prometheus._judged", stopped)

    with pytest.raises(PausedError):
        tell(late, ("judged", JUDGED))

    end, _ = last_runs(late)
    assert end is not None
    assert end["exit_code"] == 75


def test_a_missing_package_ends_the_night_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("streamgd.jobs.mlflow.find_spec", lambda name: None if name == "mlflow" else find_spec(name))
    late = job(tmp_path, '[telemetry]\nmlflow = "sqlite:///mlflow.db"\nprometheus = "late.prom"\n')

    with pytest.raises(ConfigError, match=r"pip install 'streamgd\[mlflow\]'"):
        tell(late)

    end, _ = last_runs(late)
    assert end is not None
    assert end["exit_code"] == 78
    assert 'last_run_exit_code{job="late"} 78' in (tmp_path / "late.prom").read_text()


def test_nothing_of_telemetry_lies_in_the_state_directory(tmp_path: Path) -> None:
    late = job(tmp_path, PROMETHEUS)

    tell(late, ("trained", TRAINED), ("judged", JUDGED), ("published", PUBLISHED))

    assert list((tmp_path / "state").iterdir()) == []
