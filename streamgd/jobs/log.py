"""The log of a job: JSON lines, one for each event."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from streamgd.jobs.config import JobConfig

#: The last event is looked for in so many bytes at the end of the log.
_TAIL_BYTES = 1_000_000


class Log:
    """Appends each event to the log in one write, so that those of two processes do not mix."""

    def __init__(self, path: Path):
        self._path = path
        self.name = f"the log {path}"

    def event(self, told: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab", buffering=0) as log:
            log.write(_line(log, told))


def _line(log: Any, told: dict[str, Any]) -> bytes:
    """The event as a line of its own, also where a kill or a full disk has torn the line before it."""
    line = json.dumps(told, allow_nan=False).encode() + b"\n"
    return line if log.tell() == 0 or _ends_with_newline(log.name) else b"\n" + line


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb") as log:
        log.seek(-1, os.SEEK_END)
        return log.read(1) == b"\n"


def last_runs(job: JobConfig) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The last ``run_end`` in the log of a job, and the ``run_start`` after it, each if there is one.

    The second one works now, or was broken off: killed, or ended by a second Ctrl-C.
    """
    try:
        with open(job.log_path, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().splitlines()
    except OSError:
        return None, None
    begun = None
    for line in reversed(lines):
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the first may be cut, the last torn by a kill
        if event.get("job") != job.name:
            continue
        if event.get("event") == "run_end":
            return event, begun
        if event.get("event") == "run_start" and begun is None:
            begun = event
    return None, begun
