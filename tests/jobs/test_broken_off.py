"""Nights that end, or are overtaken, at an awkward moment: the next one makes up for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import Killed
from small_jobs import job

from streamgd.errors import DataChangedError, PausedError
from streamgd.jobs.config import JobConfig
from streamgd.jobs.job import run_job
from streamgd.jobs.night import Night
from streamgd.jobs.statedir import StateDirectory
from streamgd.jobs.versions import Version, Versions
from streamgd.training.display import Silent
from streamgd.training.interrupt import Interrupt

CONTINUE = 'source = "incoming"\nstate = "state"\nmode = "continue"\n[train]\ntarget = "late"\n'


def write_day(folder: Path, day: int, rows: int = 500, name: str = "") -> None:
    rng = np.random.default_rng(day)
    x = rng.normal(size=rows)
    late = (x + rng.normal(size=rows) > 0).astype(np.int64)
    pq.write_table(pa.table({"x": x, "late": late}), folder / "incoming" / (name or f"{day}.parquet"))


def run(config: JobConfig) -> dict[str, Any]:
    return run_job(config, Silent(), False)


def published(config: JobConfig) -> Version:
    current = Versions(config.published_dir).current()
    assert current is not None
    return current


def begin(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night that is broken off when training is done."""

    def paused(*_: object, **__: object) -> None:
        raise PausedError("here")

    with monkeypatch.context() as patched:
        patched.setattr(Night, "_judge", paused)
        with pytest.raises(PausedError):
            run(config)


def test_a_plan_and_its_runs_are_forgotten_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(tmp_path)
    (state.work / "000001-1-0").mkdir(parents=True)
    (state.work / "plan.json").write_text("{}")

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            state.clear_work()
    assert not state.work.exists()
    assert list(tmp_path.iterdir())
    state.clear_work()
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_plan_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(tmp_path, head=CONTINUE)
    write_day(tmp_path, 1)
    begin(config, monkeypatch)
    (config.state_dir / "work" / "plan.json").unlink()
    (tmp_path / "incoming" / "1.parquet").unlink()
    write_day(tmp_path, 2)
    assert run(config)["files"] == ["2.parquet"]
    assert list(published(config).ledger.files) == ["2.parquet"]
    assert [path.name for path in config.state_dir.glob("*work*")] == []


def test_a_budget_that_look_and_gate_use_up_still_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(tmp_path, head='pause_after = "1s"\n' + CONTINUE)
    write_day(tmp_path, 1)
    begin(config, monkeypatch)
    # The budget of the next start is over before it has looked.
    monkeypatch.setattr(Interrupt, "elapsed_s", 2.0)
    assert run(config)["outcome"] == "published"


@pytest.mark.parametrize("mode", ["continue", "retrain"])
def test_a_file_replaced_between_look_and_training_is_not_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    config = job(tmp_path, head=CONTINUE.replace("continue", mode))
    write_day(tmp_path, 1)
    run(config)
    write_day(tmp_path, 2)
    train = Night._learn

    def replaced(*arguments: Any) -> Any:
        write_day(tmp_path, 3, rows=400, name="2.parquet")
        return train(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Night, "_learn", replaced)
        with pytest.raises(DataChangedError, match=r"replaced between .* training: 2\.parquet\. .* looks .* anew"):
            run(config)
    assert published(config).number == 1
    assert run(config)["files"] == ["2.parquet"]
    assert published(config).ledger.files["2.parquet"].size_bytes == (tmp_path / "incoming/2.parquet").stat().st_size
    assert run(config)["outcome"] == "nothing new"
