"""One MLflow run for each run of a job.

    run_start ── goes_on: the run of the night that was interrupted    ── metrics ── run_end: FINISHED, FAILED
             └── anything else: a new one; the old one ends as KILLED                or KILLED

The run's id lies in the state directory from its start to its end, and beyond it where the night was paused or killed:
the next one goes on with that run if it goes on with the plan, else it ends it as KILLED. A tracker that does not
answer is not asked again in that night, which would wait at each event.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from streamgd import state as states
from streamgd.credentials import without_credentials
from streamgd.errors import ConfigError, InterruptedRunError, PausedError
from streamgd.jobs.config import JobConfig
from streamgd.jobs.events import metrics_in

#: A path, and what MLflow takes for one.
_FOLDER = re.compile(r"(?:file:(?://)?)?(?P<path>[^:]+)")
_SQLITE = re.compile(r"sqlite:///(?P<path>[^?]+)(?P<rest>\?.*)?")
_PAUSED = (PausedError.exit_code, InterruptedRunError.exit_code)
#: Its own defaults wait for minutes, and tell its makers of the use; what the user has set stands.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_DISABLE_TELEMETRY": "true",
}  # fmt: skip
_LONGEST_PARAMETER, _LONGEST_TAG = 500, 5000


def tracking_uri(job: JobConfig) -> str:
    """The tracking URI, with a path in it taken from the folder of the job file."""
    uri, folder = job.telemetry.mlflow or "", job.path.parent
    if database := _SQLITE.fullmatch(uri):
        return f"sqlite:///{folder / database['path']}{database['rest'] or ''}"
    if local := _FOLDER.fullmatch(uri):
        return (folder / Path(local["path"]).expanduser()).as_uri()
    return uri


def check(job: JobConfig) -> None:
    """Refuse a tracker that cannot be used.

    Raises
    ------
    ConfigError
        A package is missing, or its store lies inside the state directory.
    """
    uri = tracking_uri(job)
    needed = ["mlflow"] if re.match("file:|https?:", uri) else ["mlflow", "sqlalchemy", "alembic"]
    for package in needed:
        if find_spec(package) is None:
            raise ConfigError(
                f"{job.path}: [telemetry] mlflow needs the package {package}, which is not installed. Install it with:"
                f" pip install 'streamgd[mlflow]'"
            )
    path = re.match("(?:sqlite|file)://(?P<path>/[^?]*)", uri)
    if path and Path(path["path"]).resolve().is_relative_to(job.state_dir.resolve()):
        raise ConfigError(
            f"{job.path}: [telemetry] mlflow: it lies inside the state directory; choose a place outside of it."
        )


class MLflow:
    """Takes the events of one night to a tracker."""

    def __init__(self, job: JobConfig):
        self._job = job
        self._uri = tracking_uri(job)
        self._bare_uri = without_credentials(self._uri)
        self.name = f"MLflow {self._bare_uri}"
        self._id_path = job.state_dir / "mlflow.json"
        self._client: Any = None
        self._run_id: str | None = None
        self._is_lost = False
        self._started = datetime.now(UTC)
        self._stages = 0

    def event(self, told: dict[str, Any]) -> None:
        if self._is_lost:
            return
        try:
            self._take(told["event"], told)
        except Exception:
            self._is_lost = True
            raise

    def _take(self, name: str, told: dict[str, Any]) -> None:
        if name in ("goes_on", "plan", "run_end") and self._run_id is None:
            self._begin(goes_on=name == "goes_on")
        if name == "trained":
            self._log({f"train.{key}": told[key] for key in ("rows", "epochs", "seconds")}, self._stages)
            self._stages += 1
        elif name == "judged":
            for model in ("candidate", "current"):
                self._log({f"{model}.{name}": value for name, value in metrics_in(told[model]).items()}, 0)
        elif name == "published":
            self._tag(version=told["version"], theta_sha256=told["theta_sha256"], files=told["files"])
        elif name == "refused":
            self._tag(refused="; ".join(told["reasons"]), files=told["files"])
        elif name == "run_end":
            self._end(told)

    def _begin(self, goes_on: bool) -> None:
        """Go on with the run of the night before, or end that and begin a new one."""
        self._client = _client(self._uri)
        before = self._kept()
        found = self._found(before) if before is not None else None
        if found is not None and goes_on:
            self._run_id = before
            self._client.update_run(before, status="RUNNING")
            return
        if found == "RUNNING":
            self._client.set_terminated(before, "KILLED")
        self._new_run()

    def _found(self, run_id: str) -> str | None:
        """The status of a run that was not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(info.status) if info.lifecycle_stage == "active" else None

    def _new_run(self) -> None:
        from mlflow.entities import Param

        job, client = self._job, self._client
        name = job.telemetry.mlflow_experiment or job.name
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(name)
        started = self._started
        tags = {"streamgd.job": job.name, "streamgd.file": str(job.path)}
        run = client.create_run(
            experiment_id, round(started.timestamp() * 1000), tags, f"{job.name} {started:%Y-%m-%dT%H:%M:%S}"
        )
        run_id: str = run.info.run_id
        states.write_atomically(self._id_path, json.dumps({"uri": self._bare_uri, "run_id": run_id}).encode())
        self._run_id = run_id
        values = {"source": job.source, "mode": job.mode} | {f"train.{key}": job.train[key] for key in job.train}
        client.log_batch(run_id, params=[Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in values.items()])

    def _kept(self) -> str | None:
        """The id that the night before has left in the state directory, if it is one of this tracker."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._id_path.read_bytes())
            if without_credentials(kept["uri"]) == self._bare_uri:
                return str(kept["run_id"])
        return None

    def _log(self, values: dict[str, Any], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = round(time.time() * 1000)
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        metrics = [Metric(name, float(value), now_ms, step) for name, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _tag(self, **values: Any) -> None:
        from mlflow.entities import RunTag

        texts = {name: ", ".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}
        tags = [RunTag(f"streamgd.{name}", text[:_LONGEST_TAG]) for name, text in texts.items()]
        self._client.log_batch(self._run_id, tags=tags)

    def _end(self, told: dict[str, Any]) -> None:
        exit_code = told["exit_code"]
        self._log({name: told[name] for name in ("rows", "seconds", "exit_code")}, 0)
        self._tag(reason=told["reason"])
        status = "FINISHED" if exit_code == 0 else "KILLED" if exit_code in _PAUSED else "FAILED"
        self._client.set_terminated(self._run_id, status)
        if exit_code not in _PAUSED:
            states.remove(self._id_path, missing_ok=True)


def _client(uri: str) -> Any:
    """A client; MLflow is imported here, which takes a second and some 100 MB."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if uri.startswith("file:"):
        # Newer releases refuse a folder unless they are told that it is meant; the job's file says so.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they would write to standard error
    return MlflowClient(tracking_uri=uri)
