"""What a job tells the outside, never inside the state directory: each event goes to every sink.

    event ──┬── log          JSON lines
            ├── prometheus   a text file
            └── mlflow       one run of a tracker for each run of the job

A sink that fails is told of as a warning and changes nothing else: no night may be lost for its telemetry.

event       facts
run_start   pid, source, mode
broken_off  began, pid: of the run before, which told nothing of its end
looked      new, unsettled: numbers of files; newest_data_s
goes_on     version, files: of a night that was interrupted
plan        version, files, mode
drift       file, columns, broken: see ``drift``
begun_anew  files, reason: a training run that cannot be gone on with
trained     files, rows, epochs, seconds, stopped_by, theta_sha256
judged      measured_on, candidate, current, broken
published   version, files, rows, theta_sha256
refused     files, reasons
run_end     exit_code, reason, version, rows, seconds, newest_data_s, metrics, measured_on
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from streamgd.console import one_line
from streamgd.credentials import without_credentials
from streamgd.errors import PausedError
from streamgd.failures import explain
from streamgd.jobs import mlflow
from streamgd.jobs.config import JobConfig
from streamgd.jobs.events import metrics_in
from streamgd.jobs.log import Log, last_runs
from streamgd.jobs.prometheus import Prometheus
from streamgd.plain import plain
from streamgd.training.display import Display


class Sink(Protocol):
    """Takes every event of a run of a job; what it raises becomes a warning that has its ``name``."""

    name: str

    def event(self, told: dict[str, Any]) -> None:
        """One event, as plain values: ``time`` (ISO 8601, UTC), ``job``, ``event`` and its facts."""


class Telemetry:
    """Takes the events of one run of a job.

    Attributes
    ----------
    metrics : dict
        Of the candidate that was judged last, those that are finite.
    measured_on : str or None
        The rows that they are of.
    """

    def __init__(self, job: JobConfig, display: Display):
        self._job = job
        self._display = display
        self._rows = 0
        self._version: int | None = None
        self._newest_data_s: float | None = None
        self.metrics: dict[str, float] = {}
        self.measured_on: str | None = None
        self._sinks: list[Sink] = [Log(job.log_path)]
        if job.telemetry.prometheus is not None:
            self._sinks.append(Prometheus(Path(job.telemetry.prometheus), job.name))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Everything between ``run_start`` and ``run_end``, which says how the run ended.

        Raises
        ------
        ConfigError
            A package is missing that the configured telemetry needs.
        """
        started_s = time.monotonic()
        _, broken_off = last_runs(self._job)
        self.event("run_start", pid=os.getpid(), source=self._job.source, mode=self._job.mode)
        if broken_off is not None:
            self.event("broken_off", began=broken_off["time"], pid=broken_off["pid"])
            self._display.warn(
                f"the run that began at {broken_off['time']} was broken off, and told nothing of its end."
            )
        exit_code, reason = 0, "done"
        try:
            check(self._job)
            if self._job.telemetry.mlflow is not None:
                self._sinks.append(mlflow.MLflow(self._job))
            yield
        except BaseException as error:
            explained = explain(error, self._job.state_dir.parent)
            exit_code, reason = explained.exit_code, str(explained)
            if explained is error:
                raise
            raise explained from error
        finally:
            seconds = round(time.monotonic() - started_s, 3)
            self.event(
                "run_end", exit_code=exit_code, reason=reason, version=self._version, rows=self._rows, seconds=seconds,
                newest_data_s=self._newest_data_s, metrics=self.metrics, measured_on=self.measured_on,
            )  # fmt: skip

    def event(self, event: str, **facts: Any) -> None:
        """Tell every sink what happened."""
        facts = _plain(facts)
        self._note(event, facts)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        told = {"time": now, "job": self._job.name, "event": event, **facts}
        for sink in self._sinks:
            try:
                sink.event(told)
            except PausedError:
                raise  # by a signal that came just now
            except Exception as error:
                reason = getattr(error, "strerror", None) or one_line(without_credentials(str(error)))[:300]
                self._display.warn(f"telemetry to {sink.name} failed: {reason.rstrip('.')}.")

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        """Keep what ``run_end`` will tell."""
        if event == "trained":
            self._rows += facts["rows"]
        elif event == "looked":
            self._newest_data_s = facts["newest_data_s"]
        elif event == "published":
            self._version = facts["version"]
        elif event == "judged" and (metrics := metrics_in(facts["candidate"])):
            self.metrics, self.measured_on = metrics, facts["measured_on"]


def check(job: JobConfig) -> None:
    """Refuse telemetry that cannot work here.

    Raises
    ------
    ConfigError
        A package is missing.
    """
    if job.telemetry.mlflow is not None:
        mlflow.check(job)


def _plain(value: Any) -> Any:
    """The value with nothing in it that JSON cannot hold."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return plain(value)
