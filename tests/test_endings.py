"""How a run ends, and what a kill between its last steps leaves: the next start tells the truth and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.errors import DataError, StorageError
from streamgd.model import Model
from streamgd.show import show
from streamgd.training.train import Result, train


class Killed(BaseException):
    """Stands for SIGKILL at a place that a timer would seldom hit."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(2, 4_000))
    y = (rng.random(4_000) < 1.0 / (1.0 + np.exp(-x - 0.5 * z))).astype(np.int8)
    level = rng.choice(["a", "b", "c"], 4_000)
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"x": x, "z": z, "level": level, "y": y}), path, row_group_size=1_000)
    return path


def fit(data: Path, run: Path, **options: Any) -> Result:
    return train(data, "y", run=run, **options)


def killed_before_the_model(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Run until the last checkpoint is written and the model is not."""

    def die(self: Model, path: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Model, "save", die)
        with pytest.raises(Killed):
            fit(data, run, **options)


METHODS = [
    {"epochs": 3}, {"method": "sgd", "epochs": 3}, {"shuffle": "window", "epochs": 3}, {"epochs": 30, "tol_loss": 0.01},
    {"method": "batch", "epochs": 60}, {"method": "batch", "learning_rate": 0.5, "epochs": 60, "tol_loss": 1e-4}, {},
]  # fmt: skip


@pytest.mark.parametrize("options", METHODS)
def test_a_kill_between_the_last_checkpoint_and_the_model_costs_nothing(
    options: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = fit(data, tmp_path / "straight", **options)
    killed_before_the_model(data, tmp_path / "run", monkeypatch, **options)
    assert show(tmp_path / "run")["state"] == "unfinished"
    again = fit(data, tmp_path / "run", **options)
    assert again.model.theta_sha256 == straight.model.theta_sha256
    assert again.facts["epochs"] == straight.facts["epochs"]
    assert again.facts["stopped_by"] == straight.facts["stopped_by"]
    assert show(tmp_path / "run")["state"] == "finished"


def test_the_model_of_fewer_epochs_is_not_taken_for_that_of_more(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = fit(data, tmp_path / "straight", epochs=4)
    fit(data, tmp_path / "run", epochs=2)
    killed_before_the_model(data, tmp_path / "run", monkeypatch, epochs=4)
    assert show(tmp_path / "run")["state"] == "unfinished"
    assert fit(data, tmp_path / "run", epochs=4).model.theta_sha256 == straight.model.theta_sha256


def test_more_epochs_that_never_began_are_still_wanted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = fit(data, tmp_path / "straight", epochs=4)
    fit(data, tmp_path / "run", epochs=2)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("streamgd.training.train._open_session", die)
        with pytest.raises(Killed):
            fit(data, tmp_path / "run", epochs=4)
    assert fit(data, tmp_path / "run", epochs=4).model.theta_sha256 == straight.model.theta_sha256


def test_stopping_rules_do_not_see_where_a_run_was_extended(data: Path, tmp_path: Path) -> None:
    options = {"method": "batch", "learning_rate": 0.5, "tol_loss": 1e-4}
    straight = fit(data, tmp_path / "straight", epochs=60, **options)
    fit(data, tmp_path / "run", epochs=5, **options)
    extended = fit(data, tmp_path / "run", epochs=60, **options)
    assert (extended.facts["epochs"], extended.model.theta_sha256) == (
        straight.facts["epochs"], straight.model.theta_sha256,
    )  # fmt: skip


def test_a_restart_that_meets_bad_data_leaves_the_old_run_whole(data: Path, tmp_path: Path) -> None:
    fit(data, tmp_path / "run", epochs=2)
    before = show(tmp_path / "run")
    table = pq.read_table(data)
    pq.write_table(table.set_column(0, "x", pa.array([np.inf] * 4_000)), data)
    with pytest.raises(DataError):
        fit(data, tmp_path / "run", epochs=3, restart=True)
    assert show(tmp_path / "run") == before


@pytest.mark.parametrize("options", [{"epochs": 2}, {"method": "batch", "epochs": 3}, {}])
def test_a_disk_that_fails_before_the_training_leaves_no_blocks_behind(
    options: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(data, tmp_path / "run", **options)
    there_before = []

    def fail(*_: object, **__: object) -> None:
        there_before.append((tmp_path / "run" / "blocks" / "blocks-0.bin").exists())
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("streamgd.training.train._begin", fail)
        with pytest.raises(StorageError, match="the disk is full"):
            fit(data, tmp_path / "run", **options, restart=True)
    assert there_before == [True]
    assert not (tmp_path / "run" / "blocks").exists()


def test_a_restart_does_not_take_the_old_model_for_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(data, tmp_path / "run", epochs=2)
    straight = fit(data, tmp_path / "straight", epochs=2, seed=1)
    killed_before_the_model(data, tmp_path / "run", monkeypatch, epochs=2, seed=1, restart=True)
    assert fit(data, tmp_path / "run", epochs=2, seed=1).model.theta_sha256 == straight.model.theta_sha256


def test_validation_data_that_changed_are_noticed(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "validation.parquet"
    table = pq.read_table(data)
    pq.write_table(table.slice(0, 500), other)
    fit(data, tmp_path / "run", epochs=1, validation=other)
    pq.write_table(table.slice(500, 600), other)
    with pytest.raises(DataError, match=r"changed: validation\.parquet"):
        fit(data, tmp_path / "run", epochs=2, validation=other)


def test_the_l1_penalty_leaves_the_zeros_of_the_optimum(tmp_path: Path) -> None:
    """Rare levels owe the penalty of the steps in which they did not occur."""
    rng = np.random.default_rng(2)
    n = 20_000
    level = np.where(rng.random(n) < 0.02, rng.choice([f"rare{k}" for k in range(20)], n), "common")
    x = rng.normal(size=n)
    pq.write_table(pa.table({"x": x, "level": level, "y": x + rng.normal(size=n)}), tmp_path / "data.parquet")
    for options in ({}, {"method": "sgd"}, {"method": "batch", "epochs": 300}):
        run = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        model = train(tmp_path / "data.parquet", "y", run=run, l1=0.005, **options).model
        rare = [each.value for each in model.coefficients() if each.level is not None]
        assert rare == [0.0] * len(rare), options


@pytest.mark.slow
def test_the_number_of_blas_threads_changes_no_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(size=(20_000, 1))
    features = common + rng.normal(size=(20_000, 40))
    columns = {f"x{k}": features[:, k] for k in range(40)} | {"y": features @ rng.normal(size=40)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    digests = set()
    for threads in ("1", "2"):
        command = [sys.executable, "-m", "streamgd", "train", str(tmp_path / "data.parquet"), "--target", "y", "--json"]
        command += ["--run", str(tmp_path / f"run-{threads}"), "--epochs", "1", "--quiet"]
        done = subprocess.run(
            command, env={**os.environ, "OPENBLAS_NUM_THREADS": threads}, capture_output=True, check=True, text=True
        )
        digests.add(json.loads(done.stdout)["theta_sha256"])
    assert len(digests) == 1


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM by now, as the kernel tells."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_before_the_training_begins_is_a_pause_too(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamgd", "train", str(data), "--target", "y", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # The command line takes the signal on at once; the imports of training take a second more.
    deadline_s = time.monotonic() + 30
    while not catches_sigterm(process.pid) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "Traceback" not in told


def test_a_loss_that_is_worse_than_a_constant_is_told_to_fall_without_a_share(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pq.write_table(pa.table({"x": random.normal(size=400), "y": random.normal(size=400)}), tmp_path / "data.parquet")
    hints = [train(tmp_path / "data.parquet", "y", run=tmp_path / f"{n}", epochs=n).facts["hint"] for n in (2, 3)]
    assert any(hints)
    for hint in filter(None, hints):
        assert "still fell in the last epoch" in hint


def test_few_rows_for_each_coefficient_are_told_in_place_of_more_epochs(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    columns = {f"x{j}": random.normal(size=2_000) for j in range(300)}
    pq.write_table(pa.table(columns | {"y": random.normal(size=2_000) + columns["x0"]}), tmp_path / "data.parquet")

    def hint(**options: Any) -> str:
        told = train(tmp_path / "data.parquet", "y", run=tmp_path / str(options), epochs=3, **options).facts["hint"]
        return str(told)

    told = "301 coefficients from 2,000 rows: that the loss still fell on these says little of new rows. --holdout 0.1"
    assert hint().startswith(told)
    assert "coefficients from" not in hint(features="x0,x1")
    assert "coefficients from" not in hint(holdout=0.3)
    best = train(tmp_path / "data.parquet", "y", run=tmp_path / "best", epochs=9, holdout=0.1, patience=1)
    losses = [each["holdout_loss"] for each in best.history if each["event"] == "epoch"]
    assert best.facts["holdout_loss"] == min(losses)


def test_buckets_that_no_row_has_are_no_coefficients_of_the_hint(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    columns = {"x": random.normal(size=2_000), "city": ["a", "b"] * 1_000}
    pq.write_table(pa.table(columns | {"y": random.normal(size=2_000) + columns["x"]}), tmp_path / "data.parquet")
    result = train(tmp_path / "data.parquet", "y", run=tmp_path / "run", epochs=2, encode="hash", learning_rate=1e-3)
    assert "more --epochs than 2" in str(result.facts["hint"])
