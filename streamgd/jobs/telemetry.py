"""What a job tells the outside: JSON lines, one for each event, never inside the state directory.

Telemetry that fails is told as a warning and changes nothing else: no night may be lost for its log.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from streamgd.failures import explain
from streamgd.jobs.config import JobConfig
from streamgd.plain import plain
from streamgd.training.display import Display

#: The last event is looked for in so many bytes at the end of the log.
_TAIL_BYTES = 1_000_000


class Telemetry:
    """Takes the events of one run of a job.

    Attributes
    ----------
    metrics : dict
        Of the candidate, as far as it was judged.
    """

    def __init__(self, job: JobConfig, display: Display):
        self._job = job
        self._display = display
        self._rows = 0
        self._version: int | None = None
        self.metrics: dict[str, float] = {}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Everything between ``run_start`` and ``run_end``, which says how the run ended."""
        started_s = time.monotonic()
        self.event("run_start", pid=os.getpid(), source=self._job.source, mode=self._job.mode)
        exit_code, reason = 0, "done"
        try:
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
                metrics=self.metrics,
            )  # fmt: skip

    def event(self, event: str, **facts: Any) -> None:
        """Tell what happened."""
        if event == "trained":
            self._rows += facts["rows"]
        if event == "published":
            self._version = facts["version"]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "job": self._job.name, "event": event, **_plain(facts)}) + "\n"
        try:
            self._job.log_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._job.log_path, "ab", buffering=0) as log:
                log.write(line.encode())
        except OSError as error:
            self._display.warn(f"the log {self._job.log_path} cannot be written: {error.strerror}.")


def last_run(job: JobConfig) -> dict[str, Any] | None:
    """The last ``run_end`` in the log of a job, if there is one."""
    try:
        with open(job.log_path, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the first may be cut, the last torn by a kill
        if event.get("event") == "run_end" and event.get("job") == job.name:
            return event
    return None


def _plain(value: Any) -> Any:
    """The value with nothing in it that JSON cannot hold."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return plain(value)
