"""One run of a real MLflow for each run of a job, in a database and in a folder, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_jobs import JUDGED, PUBLISHED, TRAINED, job, log_of, tell

from streamgd.errors import ConfigError, GateError, InterruptedRunError, PausedError
from streamgd.jobs import mlflow as sink
from streamgd.jobs.config import JobConfig

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")

PLAN = {"version": 1, "files": ["a.parquet"], "mode": "retrain"}
GOES_ON = {"version": 1, "files": ["a.parquet"]}
GOOD = (("trained", TRAINED), ("judged", JUDGED), ("published", PUBLISHED))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it at its first use, which takes Alembic two seconds."""
    folder = tmp_path_factory.mktemp("database")
    assert runs(job(folder, '[telemetry]\nmlflow = "sqlite:///mlflow.db"\n')) == []
    return folder / "mlflow.db"


@pytest.fixture(params=["sqlite:///mlflow.db", "mlruns"])
def late(request: pytest.FixtureRequest, database: Path, tmp_path: Path) -> JobConfig:
    if request.param.startswith("sqlite"):
        shutil.copy(database, tmp_path)
    return job(tmp_path, f'seed = 3\n[telemetry]\nmlflow = "{request.param}"\n')


def runs(late: JobConfig) -> list[Any]:
    """All runs of the experiment of a job, oldest first."""
    client = sink._client(sink.tracking_uri(late))
    experiment = client.get_experiment_by_name(late.telemetry.mlflow_experiment or late.name)
    found = client.search_runs([experiment.experiment_id]) if experiment is not None else []
    return sorted(found, key=lambda run: run.info.start_time)


def states_of(late: JobConfig) -> list[str]:
    return [run.info.status for run in runs(late)]


def test_a_night_is_a_run_with_its_parameters_metrics_and_version(late: JobConfig) -> None:
    assert tell(late, ("plan", PLAN), *GOOD) == []

    (run,) = runs(late)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"source": late.source, "mode": "retrain", "train.target": "late", "train.seed": "3"}
    metrics = run.data.metrics
    assert metrics.pop("seconds") >= 0.0
    assert metrics == {
        "candidate.auc": 0.75, "candidate.log_loss": 0.25, "candidate.rows": 10,
        "train.rows": 100, "train.epochs": 5, "train.seconds": 0.5, "rows": 100, "exit_code": 0,
    }  # fmt: skip
    assert run.data.tags["streamgd.version"] == "1"
    assert run.data.tags["streamgd.reason"] == "done"
    assert list(late.state_dir.iterdir()) == []


def test_each_night_is_a_run_of_its_own(late: JobConfig) -> None:
    tell(late, ("plan", PLAN), *GOOD)
    tell(late)
    tell(late, ("plan", PLAN), ("judged", JUDGED), ends=GateError("auc 0.75 is below 0.8"))

    assert states_of(late) == ["FINISHED", "FINISHED", "FAILED"]
    assert runs(late)[-1].data.tags["streamgd.reason"] == "auc 0.75 is below 0.8"


@pytest.mark.parametrize("error", [PausedError("stopped by a signal."), InterruptedRunError("interrupted.")])
def test_a_night_that_was_paused_is_killed_and_the_next_goes_on_with_its_run(
    late: JobConfig, error: BaseException
) -> None:
    tell(late, ("plan", PLAN), ends=error)
    assert states_of(late) == ["KILLED"]

    tell(late, ("goes_on", GOES_ON), *GOOD)

    assert states_of(late) == ["FINISHED"]
    assert runs(late)[0].data.metrics["candidate.auc"] == 0.75


def killed(late: JobConfig, tmp_path: Path) -> None:
    """A night in a process of its own that SIGKILL ends in its middle."""
    code = f"""
import os, signal
from displays import Listener
from streamgd.jobs.config import load_job
from streamgd.jobs.telemetry import Telemetry
telemetry = Telemetry(load_job({str(late.path)!r}), Listener())
with telemetry.run():
    telemetry.event("plan", **{PLAN!r})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    paths = [str(Path(__file__).parents[1]), *sys.path]
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    assert ended.returncode == -signal.SIGKILL


def test_a_night_that_was_killed_goes_on_with_its_run(late: JobConfig, tmp_path: Path) -> None:
    killed(late, tmp_path)
    assert states_of(late) == ["RUNNING"]

    tell(late, ("goes_on", GOES_ON), *GOOD)

    assert states_of(late) == ["FINISHED"]


def test_the_run_of_a_killed_night_that_is_begun_anew_ends_as_killed(late: JobConfig, tmp_path: Path) -> None:
    killed(late, tmp_path)

    tell(late, ("plan", PLAN), *GOOD)

    assert states_of(late) == ["KILLED", "FINISHED"]


def test_a_run_that_was_deleted_is_begun_anew(late: JobConfig) -> None:
    tell(late, ("plan", PLAN), ends=PausedError("stopped."))
    sink._client(sink.tracking_uri(late)).delete_run(runs(late)[0].info.run_id)

    assert tell(late, ("goes_on", GOES_ON), *GOOD) == []

    assert states_of(late) == ["FINISHED"]


@pytest.mark.parametrize(
    "kept", [b"", b"{", b"[]", b'{"uri": 1}', b'{"uri": "URI", "run_id": "ffffffffffffffffffffffffffffffff"}']
)
def test_an_id_that_is_none_does_not_stop_the_night(late: JobConfig, kept: bytes) -> None:
    (late.state_dir / "mlflow.json").write_bytes(kept.replace(b"URI", sink.tracking_uri(late).encode()))

    assert tell(late, ("goes_on", GOES_ON), *GOOD) == []

    assert states_of(late) == ["FINISHED"]


def test_an_experiment_can_be_named(tmp_path: Path) -> None:
    late = job(tmp_path, '[telemetry]\nmlflow = "sqlite:///mlflow.db"\nmlflow_experiment = "nights"\n')

    tell(late, ("plan", PLAN))

    assert states_of(late) == ["FINISHED"]


def test_a_tracker_that_is_not_there_warns_once_and_the_night_ends_well(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    late = job(tmp_path, f'[telemetry]\nmlflow = "http://127.0.0.1:{port}"\n')

    warnings = tell(late, ("plan", PLAN), *GOOD)

    assert len(warnings) == 1
    assert f"telemetry to MLflow http://127.0.0.1:{port} failed" in warnings[0]
    assert log_of(late)[-1]["exit_code"] == 0


def test_a_password_of_the_tracker_is_neither_shown_nor_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = job(tmp_path, '[telemetry]\nmlflow = "http://user:SECRET@tracker:5000/x"\n')
    asked = []

    def client(uri: str) -> Any:
        asked.append(uri)
        return open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")

    open_client = sink._client
    monkeypatch.setattr(sink, "_client", client)
    tell(late, ("plan", PLAN), ends=PausedError("stopped."))
    kept = (late.state_dir / "mlflow.json").read_text()
    tell(late, ("goes_on", GOES_ON), ends=PausedError("stopped."))
    kept_then = (late.state_dir / "mlflow.json").read_text()

    def refuse(uri: str) -> Any:
        raise OSError(f"{'no answer ':x<278} from {uri}")  # told in 300 characters

    monkeypatch.setattr(sink, "_client", refuse)
    (warning,) = tell(late, ("plan", PLAN))

    assert asked == ["http://user:SECRET@tracker:5000/x"] * 2
    assert json.loads(kept)["uri"] == "http://tracker:5000/x"
    assert kept_then == kept  # it goes on with the same run
    assert warning.startswith("telemetry to MLflow http://tracker:5000/x failed: no answer")
    assert "SEC" not in warning + late.log_path.read_text()


def test_a_tracker_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        late = job(tmp_path, f'[telemetry]\nmlflow = "http://127.0.0.1:{silent.getsockname()[1]}"\n')

        warnings = tell(late, ("plan", PLAN), *GOOD)

        silent.settimeout(0.1)
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()
    assert len(warnings) == 1


@pytest.mark.slow  # beside tests/jobs/test_quiet.py
def test_nothing_is_printed(tmp_path: Path) -> None:
    late = job(tmp_path, '[telemetry]\nmlflow = "sqlite:///mlflow.db"\n')
    code = f"""
from small_jobs import GOOD_NIGHT, tell
from streamgd.jobs.config import load_job
tell(load_job({str(late.path)!r}), *GOOD_NIGHT)
"""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{folder}/mlflow.db"),
        ("sqlite:////var/mlflow.db?timeout=5", "sqlite:////var/mlflow.db?timeout=5"),
        ("mlruns", "file://{folder}/mlruns"),
        ("file:mlruns", "file://{folder}/mlruns"),
        ("file:///var/mlruns", "file:///var/mlruns"),
        ("http://tracker:5000", "http://tracker:5000"),
        ("postgresql+psycopg2://u:p@db/mlflow", "postgresql+psycopg2://u:p@db/mlflow"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_a_path_is_taken_from_the_folder_of_the_job_file(tmp_path: Path, given: str, expected: str) -> None:
    assert sink.tracking_uri(job(tmp_path, f'[telemetry]\nmlflow = "{given}"\n')) == expected.format(folder=tmp_path)


@pytest.mark.parametrize("uri", ["sqlite:///state/mlflow.db", "state/mlruns", "file:state"])
def test_a_store_in_the_state_directory_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="inside the state directory"):
        sink.check(job(tmp_path, f'[telemetry]\nmlflow = "{uri}"\n'))


def test_the_id_is_kept_while_the_night_goes_on(late: JobConfig) -> None:
    tell(late, ("plan", PLAN), ends=PausedError("stopped."))

    kept = json.loads((late.state_dir / "mlflow.json").read_bytes())
    assert re.fullmatch(r"[0-9a-f]{32}", kept["run_id"])
    assert kept["run_id"] == runs(late)[0].info.run_id
