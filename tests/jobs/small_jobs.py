"""A job file in a folder of its own, and telemetry of nights that are told and not worked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from displays import Listener

from streamgd.jobs.config import JobConfig, load_job
from streamgd.jobs.telemetry import Telemetry

HEAD = 'source = "incoming"\nstate = "state"\nmode = "retrain"\n'
TRAIN = '[train]\ntarget = "late"\n'
JUDGED = {
    "measured_on": "held-out rows of a.parquet",
    "candidate": {"all": {"rows": 10, "weight": 10.0, "dropped": {}, "auc": 0.75, "log_loss": 0.25}, "known": None},
    "current": None,
    "broken": [],
}
TRAINED = {
    "files": ["a.parquet"],
    "rows": 100,
    "epochs": 5,
    "seconds": 0.5,
    "stopped_by": "epochs",
    "theta_sha256": "00",
}
PUBLISHED = {"version": 1, "files": ["a.parquet"], "rows": 100, "theta_sha256": "00"}
GOOD_NIGHT = (
    ("plan", {"version": 1, "files": ["a.parquet"], "mode": "retrain"}),
    ("trained", TRAINED), ("judged", JUDGED), ("published", PUBLISHED),
)  # fmt: skip


def job(folder: Path, text: str = "", head: str = HEAD + TRAIN) -> JobConfig:
    """The job of ``late.toml`` in a folder, which has a source and a state directory."""
    (folder / "incoming").mkdir(exist_ok=True, parents=True)
    (folder / "state").mkdir(exist_ok=True)
    (folder / "late.toml").write_text(head + text)
    return load_job(folder / "late.toml")


def tell(job: JobConfig, *events: tuple[str, dict[str, Any]], ends: BaseException | None = None) -> list[str]:
    """One night of a job, of these events; returns the warnings."""
    display = Listener()
    telemetry = Telemetry(job, display)
    try:
        with telemetry.run():
            for event, facts in events:
                telemetry.event(event, **facts)
            if ends is not None:
                raise ends
    except BaseException as error:
        if ends is None or (error is not ends and error.__cause__ is not ends):
            raise
    return display.warnings


def log_of(job: JobConfig) -> list[dict[str, Any]]:
    """The events of the log; each line must be JSON, strictly."""

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refused) for line in job.log_path.read_text().splitlines()]
