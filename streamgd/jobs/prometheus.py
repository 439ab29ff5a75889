"""The state of a job as a text file for Prometheus, as its node exporter collects from a folder.

The file is replaced in one rename. What outlives a run, such as the time of the last success, is read back from it: a
run that fails keeps what the runs before it have told.

Source of the format: "Exposition formats", text-based format 0.0.4, of the documentation of Prometheus.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from streamgd import state as states
from streamgd.jobs.events import metrics_in

PREFIX = "streamgd_job_"
_CANDIDATE = "candidate_metric"
#: Name without the prefix -> help. All are gauges. What never was is 0, so that an alert on its age fires.
_GAUGES = {
    "last_run_timestamp_seconds": "End of the last run.",
    "last_success_timestamp_seconds": "End of the last run that ended with exit code 0; 0 if there was none.",
    "last_publication_timestamp_seconds": "When a version was published last; 0 if none was.",
    "newest_data_timestamp_seconds": "Last change of the newest file that was learned or can be.",
    "last_run_rows": "Rows learned by the last run.",
    "last_run_duration_seconds": "Duration of the last run.",
    "last_run_exit_code": "Exit code of the last run.",
    "published_version": "Number of the version published last; 0 if none was.",
    _CANDIDATE: "Metrics of the candidate that was judged last.",
}
_SAMPLE = re.compile(r'(\w+)\{job="((?:[^"\\]|\\.)*)"(?:,metric="((?:[^"\\]|\\.)*)")?\} (\S+)')


class Prometheus:
    """Keeps the text file of one job.

    Parameters
    ----------
    path : Path
        Ends in ``.prom``, else the node exporter passes it over.
    """

    def __init__(self, path: Path, job: str):
        self.name = f"the Prometheus file {path}"
        self._path = path
        self._job = _escaped(job)
        # (name, metric or "") -> value
        self._values: dict[tuple[str, str], float] = {}

    def event(self, told: dict[str, Any]) -> None:
        name = told["event"]
        if name == "run_start":
            self._read()
        elif name == "judged":
            self._judged(metrics_in(told["candidate"]))
        elif name == "published":
            self._set("last_publication_timestamp_seconds", _seconds(told))
            self._set("published_version", told["version"])
            self._write()
        elif name == "run_end":
            self._ended(told)
            self._write()

    def _judged(self, metrics: dict[str, float]) -> None:
        if not metrics:
            return
        self._values = {key: value for key, value in self._values.items() if key[0] != _CANDIDATE}
        for name, value in metrics.items():
            self._set(_CANDIDATE, value, name)

    def _ended(self, told: dict[str, Any]) -> None:
        self._set("last_run_timestamp_seconds", _seconds(told))
        if told["exit_code"] == 0:
            self._set("last_success_timestamp_seconds", _seconds(told))
        if told["newest_data_s"] is not None:
            self._set("newest_data_timestamp_seconds", told["newest_data_s"])
        self._set("last_run_rows", told["rows"])
        self._set("last_run_duration_seconds", told["seconds"])
        self._set("last_run_exit_code", told["exit_code"])

    def _set(self, name: str, value: float, metric: str = "") -> None:
        self._values[name, _escaped(metric)] = float(value)

    def _read(self) -> None:
        """Take over what the runs before have told; lines of anybody else are none of ours."""
        kept = ("last_success_timestamp_seconds", "last_publication_timestamp_seconds", "published_version")
        self._values = {(name, ""): 0.0 for name in kept}
        if not self._path.exists():
            return
        for line in self._path.read_bytes().decode(errors="replace").split("\n"):
            found = _SAMPLE.fullmatch(line)
            if found and found[1].removeprefix(PREFIX) in _GAUGES and found[2] == self._job:
                value = _number(found[4])
                if value is not None:
                    self._values[found[1].removeprefix(PREFIX), found[3] or ""] = value

    def _write(self) -> None:
        text = "".join(self._family(name, about) for name, about in _GAUGES.items())
        states.make_folder(self._path.parent)
        states.write_atomically(self._path, text.encode())

    def _family(self, name: str, about: str) -> str:
        samples = sorted((metric, value) for (of, metric), value in self._values.items() if of == name)
        if not samples:
            return ""
        lines = [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} gauge"]
        for metric, value in samples:
            label = f',metric="{metric}"' if metric else ""
            lines.append(f'{PREFIX}{name}{{job="{self._job}"{label}}} {value!r}')
        return "\n".join(lines) + "\n"


def _seconds(told: dict[str, Any]) -> float:
    return datetime.fromisoformat(told["time"]).timestamp()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _escaped(text: str) -> str:
    """The value of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
