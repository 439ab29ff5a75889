"""Promises 1, 2 and 8: killed anywhere, a run ends in the same bits; machine and moment decide nothing.

Rows are compared by the list that the training loop writes from the ids in its blocks, in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated
from displays import Listener
from histories import untimed
from oracles import FLIGHT_FEATURES
from processes import Process, command

from streamgd.data import blocks, prepare
from streamgd.errors import PausedError
from streamgd.training import memory, monitor
from streamgd.training.train import Result, train

ROOT = Path(__file__).resolve().parents[1]

METHODS = {
    "sgd": ["--method", "sgd", "--epochs", "3"],
    "minibatch-adam-full": ["--optimizer", "adam", "--shuffle", "full", "--epochs", "3"],
    "minibatch-adam-window": ["--optimizer", "adam", "--shuffle", "window", "--epochs", "3"],
    "batch": ["--method", "batch", "--epochs", "12"],
    "batch-lbfgs": ["--method", "batch", "--optimizer", "lbfgs", "--epochs", "25"],
    "batch-normal": ["--method", "batch", "--optimizer", "normal", "--loss", "squared"],
    "auto": [],
}


#: Both orders of both stochastic methods, and full batch.
ALL_METHODS = {
    **METHODS,
    "batch-path": ["--method", "batch", "--path", "8", "--holdout", "10%"],
    "sgd-window": ["--method", "sgd", "--shuffle", "window", "--epochs", "3"],
    "minibatch-classes": [
        "--target", "carrier", "--features", "month,day,dep_time,distance,origin", "--where", "late >= 0",
        "--epochs", "3",
    ],
    "minibatch-counts": [
        "--target", "late", "--features", "month,day,dep_time,carrier,origin", "--where", "late >= 0",
        "--loss", "poisson", "--exposure", "distance", "--epochs", "3",
    ],
}  # fmt: skip

#: Of all five years, and of the first.
FLIGHTS_WITH_A_TARGET = {"flights": 1_272_648 - 24_703, "2011.parquet": 227_496 - 3_622}


# Killed by SIGKILL


class FlightsRun:
    """The same command again and again; ``rows`` is the list of rows that it used."""

    def __init__(self, folder: Path, flights: Path, options: list[str]):
        self.run = folder / "run"
        self.rows = folder / "rows"
        folder.mkdir()
        if "--target" not in options:
            options = ["--target", "late", "--features", FLIGHT_FEATURES, *options]
        self.command = [
            "train", str(flights), "--run", str(self.run), "--row-log", str(self.rows), "--json", *options
        ]  # fmt: skip

    def start(self) -> Process:
        return command(*self.command)

    def finish(self) -> dict[str, Any]:
        process = self.start()
        out, err = process.communicate(timeout=1200)
        assert process.returncode == 0, err
        facts: dict[str, Any] = json.loads(out)
        return facts

    def kill_after(self, delay_s: float) -> bool:
        """Whether it was still at work."""
        process = self.start()
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0

    def stop_in_training(self, number: int, delay_s: float) -> int:
        """Send a signal some time after the first checkpoint that is written; returns the exit code."""
        before, process = self._checkpoints(), self.start()
        while process.poll() is None and not self._checkpoints() - before:
            time.sleep(0.005)
        time.sleep(delay_s)
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.wait()

    def _checkpoints(self) -> set[str]:
        return {path.name for path in (self.run / "checkpoints").glob("*.safetensors")}


def assert_survives_kills(method: str, kills: int, flights: Path, folder: Path) -> None:
    undisturbed = FlightsRun(folder / "undisturbed", flights, ALL_METHODS[method])
    Process(bool).wait()  # it does nothing, but wait for the imports of all that follow
    started_s = time.monotonic()
    expected = undisturbed.finish()
    duration_s = time.monotonic() - started_s

    moments, killed, runs = random.Random(method), 0, 0
    while killed < kills:
        options = [*ALL_METHODS[method], "--checkpoint-every", "0.05s"]
        disturbed = FlightsRun(folder / f"disturbed-{runs}", flights, options)
        # Start-up and prepare, early and late training: each third of the run is hit.
        while killed < kills and disturbed.kill_after(duration_s * (killed % 3 + moments.random()) / 3):
            killed += 1
        found = disturbed.finish()
        assert found["theta_sha256"] == expected["theta_sha256"]
        assert (found["steps"], found["rows_seen"]) == (expected["steps"], expected["rows_seen"])
        told = [untimed(line) for line in expected["history"]]
        assert [untimed(line) for line in found["history"]] == told
        if not method.startswith("batch"):  # auto logs the rows of its epoch
            assert disturbed.rows.read_bytes() == undisturbed.rows.read_bytes()
        runs += 1
        # The undisturbed run may have been slow because it was the first.
        duration_s *= 0.9
    if not method.startswith("batch"):
        epochs = 1 if method == "auto" else 3
        passes = expected["epochs"] if method == "auto" else 3
        assert expected["rows_seen"] == passes * FLIGHTS_WITH_A_TARGET[flights.name]
        assert_each_row_once_an_epoch(np.fromfile(undisturbed.rows, "<u8"), epochs)


def assert_each_row_once_an_epoch(rows: np.ndarray, epochs: int) -> None:
    of_epochs = rows.reshape(epochs, -1)
    each_row = np.unique(of_epochs[0])
    assert len(each_row) == of_epochs.shape[1]
    for order in of_epochs[1:]:
        assert (np.sort(order) == each_row).all()
        assert (order != of_epochs[0]).any()


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m in ("minibatch-adam-full", "batch", "auto") else pytest.mark.slow) for m in METHODS],
)
def test_resume_after_three_sigkills_gives_the_same_theta_and_rows(method: str, flights: Path, tmp_path: Path) -> None:
    assert_survives_kills(method, 3, flights / "2011.parquet", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ALL_METHODS)
def test_resume_after_a_hundred_sigkills_gives_the_same_theta_and_rows(
    method: str, flights: Path, tmp_path: Path
) -> None:
    assert_survives_kills(method, 100, flights, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in ALL_METHODS if not name.startswith(("batch-", "auto"))])
def test_one_run_with_ten_sigkills_and_three_sigterms_ends_as_if_undisturbed(
    method: str, flights: Path, tmp_path: Path
) -> None:
    longer = ["--epochs", "100"]
    if method == "batch":
        longer += ["--optimizer", "plain", "--tol-gradient", "0"]
    undisturbed = FlightsRun(tmp_path / "undisturbed", flights, [*ALL_METHODS[method], *longer])
    expected = undisturbed.finish()
    options = [*ALL_METHODS[method], *longer, "--checkpoint-every", "0.05s"]
    disturbed = FlightsRun(tmp_path / "disturbed", flights, options)
    moments = random.Random(method)
    for turn in range(13):
        number = signal.SIGTERM if turn in (4, 8, 12) else signal.SIGKILL
        stopped = disturbed.stop_in_training(number, 0.2 * moments.random())
        assert stopped == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    found = disturbed.finish()
    print(method, "13 interruptions, theta_sha256", found["theta_sha256"])
    assert found["theta_sha256"] == expected["theta_sha256"]
    assert [untimed(line) for line in found["history"]] == [untimed(line) for line in expected["history"]]
    if not method.startswith("batch"):
        assert disturbed.rows.read_bytes() == undisturbed.rows.read_bytes()


# Every checkpoint, on many small blocks

#: Without what speaks of mini-batches.
AUTO: dict[str, Any] = {"epochs": None, "batch_size": 256}
COUNTS: dict[str, Any] = {"loss": "poisson", "exposure": "part"}
VARIANTS: dict[str, dict[str, Any]] = {
    "adagrad-full": {"shuffle": "full"},
    "adam-full": {"optimizer": "adam", "shuffle": "full"},
    "momentum-window": {"optimizer": "momentum", "shuffle": "window"},
    "adam-window": {"optimizer": "adam", "shuffle": "window"},
    "adagrad-unshuffled": {"shuffle": "none"},
    "sgd-full": {"method": "sgd", "shuffle": "full"},
    "cosine-holdout-patience": {"schedule": "cosine", "holdout": 0.2, "patience": 2},
    "l1": {"l1": 1e-3},
    "rollbacks": {"optimizer": "plain", "learning_rate": 30},
    "rollbacks-window": {"optimizer": "plain", "learning_rate": 30, "shuffle": "window"},
    "batch-backtracking": {"method": "batch", "optimizer": "backtracking", "epochs": 6},
    "batch-patience": {"method": "batch", "optimizer": "backtracking", "epochs": 6, "holdout": 0.2, "patience": 4},
    "batch-lbfgs": {"method": "batch", "optimizer": "lbfgs", "epochs": 20},
    "batch-normal": {"method": "batch", "optimizer": "normal"},
    "batch-newton": {"method": "batch", "epochs": 20},
    "batch-newton-l1": {"method": "batch", "epochs": 20, "l1": 1e-3},
    "bounds-sgd-full": {"method": "sgd", "non_negative": "x0,x1,x2", "init": "random"},
    "bounds-adam-window": {"optimizer": "adam", "shuffle": "window", "non_negative": "x0,x1,x2", "init": "random"},
    "batch-newton-bounds": {"method": "batch", "epochs": 20, "non_negative": "x0,x1,x2", "init": "random"},
    "batch-newton-path": {"method": "batch", "epochs": 20, "path": 12, "l1_ratio": 0.5, "holdout": 0.2},
    "batch-newton-patience": {"method": "batch", "epochs": 20, "holdout": 0.2, "patience": 2},
    "auto": AUTO,
    "auto-holdout-robust": {**AUTO, "holdout": 0.2, "errors": "robust"},
    "classes-adam-full": {"optimizer": "adam", "shuffle": "full", "holdout": 0.2, "patience": 2},
    "classes-adagrad-window": {"shuffle": "window"},
    "classes-batch-lbfgs": {"method": "batch", "optimizer": "lbfgs", "epochs": 12},
    "classes-auto-robust": {**AUTO, "errors": "robust"},
    "counts-adam-full": {**COUNTS, "optimizer": "adam", "shuffle": "full"},
    "counts-adagrad-window": {**COUNTS, "shuffle": "window"},
    "counts-sgd": {**COUNTS, "method": "sgd"},
    "counts-batch-newton": {**COUNTS, "method": "batch", "epochs": 20},
    "counts-auto-robust": {**AUTO, **COUNTS, "errors": "robust"},
    "lists-ftrl-full": {"optimizer": "ftrl", "l1": 1e-3, "shuffle": "full", "holdout": 0.2},
    "lists-adagrad-window": {"shuffle": "window", "index_columns": "tags=500"},
    "lists-sgd": {"method": "sgd"},
    "lists-batch-lbfgs": {"method": "batch", "optimizer": "lbfgs", "epochs": 12},
}
#: Others have what they have.
SELDOM = {
    "momentum-window", "rollbacks", "batch-backtracking", "batch-patience", "adagrad-unshuffled",
    "classes-adagrad-window", "counts-adam-full", "counts-sgd", "lists-sgd", "bounds-adam-window",
    "lists-batch-lbfgs", "counts-auto-robust", "classes-adam-full",
}  # fmt: skip


@pytest.fixture
def small(generated: Generated, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """4,000 rows in blocks of 400, a snapshot every three; of two classes for Newton, which is done soon else.

    For variants of classes the target is text of four values, for those of counts a whole number.
    """
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    monkeypatch.setattr(monitor, "SNAPSHOT_BLOCKS", 3)
    callspec = getattr(request.node, "callspec", None)
    variant = callspec.params.get("variant", "") if callspec else ""
    real = variant.startswith(("classes", "counts")) or not ("newton" in variant or "auto" in variant)
    loss = "squared" if real else "logistic"
    data = generated(rows=4_000, features=5, categorical=2, files=2, row_group_rows=900, loss=loss, nulls=0.01, seed=7)
    if variant.startswith("classes"):
        return str(with_target(data, tmp_path / "classes", np.array(["low", "fair", "good", "high"])))
    if variant.startswith("lists"):
        return str(with_lists(data, tmp_path / "lists"))
    return str(with_target(data, tmp_path / "counts", np.arange(4)) if variant.startswith("counts") else data)


def with_lists(data: Path, folder: Path) -> Path:
    """The same files with a list of indices and a bag of words with numbers, the more indices the larger the target."""
    folder.mkdir()
    rng = np.random.default_rng(8)
    for path in sorted(data.glob("*.parquet")):
        table = pq.read_table(path)
        lengths = np.clip(table["y"].to_numpy() + 3.0, 0.0, 9.0).astype(int)
        tags = [rng.integers(0, 400, n).tolist() for n in lengths]
        words = [{f"w{key}": float(key % 7 + 1) for key in set(rng.integers(0, 60, n).tolist())} for n in lengths]
        table = table.append_column("tags", pa.array(tags, pa.list_(pa.int32())))
        table = table.append_column(
            "words", pa.array([list(w.items()) for w in words], pa.map_(pa.string(), pa.float32()))
        )
        pq.write_table(table, folder / path.name, 900)
    return folder


def with_target(data: Path, folder: Path, values: np.ndarray) -> Path:
    """The same files with one of four values for each quarter of the target in its place, and an exposure."""
    folder.mkdir()
    for path in sorted(data.glob("*.parquet")):
        table = pq.read_table(path)
        y = table["y"].to_numpy()
        quarters = pa.array(values[np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75]))])
        table = table.set_column(table.column_names.index("y"), "y", quarters)
        if values.dtype.kind == "i":
            table = table.append_column("part", pa.array(1.0 - np.arange(len(y)) % 7 / 10.0))
        pq.write_table(table, folder / path.name, 900)
    return folder


def fit(data: str, run: Path, **options: Any) -> Result:
    return train(data, "y", run=str(run), **{"epochs": 3, "batch_size": 64, "row_log": f"{run}.rows", **options})


def outcome(result: Result) -> dict[str, Any]:
    """All that must not depend on when or where a run was stopped."""
    log, closing = Path(f"{result.run_dir}.rows"), result.model.closing
    sums = closing.state() if closing else {}
    return {
        "theta": result.model.theta_sha256,
        "closing": {name: None if part is None else np.asarray(part).tobytes() for name, part in sums.items()},
        "facts": {name: value for name, value in result.facts.items() if name != "seconds"},
        "history": [untimed(line) for line in result.history],
        "rows": hashlib.sha256(log.read_bytes()).hexdigest() if log.exists() else None,
    }


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in VARIANTS]
)
@pytest.mark.parametrize("tried", [6, pytest.param(1_000, marks=pytest.mark.slow)])
def test_going_on_from_any_checkpoint_gives_the_same_rest(tried: int, variant: str, small: str, tmp_path: Path) -> None:
    """``tried`` of them, the first and the last among them."""
    options = VARIANTS[variant]
    run = tmp_path / "run"
    whole = fit(small, run, **options, checkpoint_every=1e-9, keep_checkpoints=1_000)
    expected = outcome(whole)
    assert expected == outcome(fit(small, tmp_path / "straight", **options))
    if "rollbacks" in variant:
        assert whole.facts["rollbacks"] > 1

    checkpoints = sorted((run / "checkpoints").glob("*.safetensors"))
    assert len(checkpoints) >= (6 if variant != "batch-normal" else 2)
    for number in np.unique(np.linspace(0, len(checkpoints) - 1, min(tried, len(checkpoints))).astype(int)):
        newest = checkpoints[number]
        again = tmp_path / f"again-{number}"
        shutil.copytree(run, again, ignore=shutil.ignore_patterns("checkpoints", "model.safetensors"))
        (again / "checkpoints").mkdir()
        shutil.copy(newest, again / "checkpoints")
        if Path(f"{run}.rows").exists():
            shutil.copy(f"{run}.rows", f"{again}.rows")
        assert outcome(fit(small, again, **options)) == expected, newest.name
        shutil.rmtree(again)


@pytest.mark.parametrize(
    "variant",
    [
        "adam-full",
        pytest.param("adam-window", marks=pytest.mark.slow),
        pytest.param("adagrad-unshuffled", marks=pytest.mark.slow),
        "sgd-full",
        pytest.param("batch-backtracking", marks=pytest.mark.slow),
        "batch-newton",
        pytest.param("batch-lbfgs", marks=pytest.mark.slow),
        pytest.param("batch-newton-path", marks=pytest.mark.slow),
        pytest.param("auto-holdout-robust", marks=pytest.mark.slow),
        pytest.param("classes-adam-full", marks=pytest.mark.slow),
        "classes-auto-robust",
        pytest.param("counts-adam-full", marks=pytest.mark.slow),
        "lists-ftrl-full",
        pytest.param("lists-batch-lbfgs", marks=pytest.mark.slow),
        pytest.param("counts-batch-newton", marks=pytest.mark.slow),
        pytest.param("counts-auto-robust", marks=pytest.mark.slow),
    ],
)
def test_neither_threads_nor_memory_nor_checkpoints_nor_pauses_change_a_bit(
    variant: str, small: str, tmp_path: Path
) -> None:
    options = VARIANTS[variant]
    expected = outcome(fit(small, tmp_path / "run", **options))
    least = "310MB" if variant.startswith("lists-batch") else "300MB"
    machines: list[dict[str, Any]] = [
        {"threads": 1}, {"threads": 2}, {"threads": 4}, {"memory": least}, {"memory": "512MB"},
        {"memory": "4GB"}, {"memory": least, "threads": 4}, {"memory": "4GB", "threads": 1},
        {"checkpoint_every": "0.01s"}, {"checkpoint_every": "1h"}, {"keep_blocks": True},
        {"blocks_dir": str(tmp_path / "elsewhere")},
    ]  # fmt: skip
    for number, machine in enumerate(machines):
        assert outcome(fit(small, tmp_path / f"machine-{number}", **options, **machine)) == expected, machine

    pauses, longer_s = 0, 0.005
    while True:
        try:
            result = fit(small, tmp_path / "paused", **options, pause_after=longer_s)
            break
        except PausedError:
            pauses, longer_s = pauses + 1, longer_s * 1.2
    assert pauses >= 2
    assert outcome(result) == expected


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("variant", ["adam-full", "batch-newton", "auto"])
def test_how_far_threads_read_and_stage_ahead_changes_no_bit(
    variant: str, threads: int, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = VARIANTS[variant]
    expected = outcome(fit(small, tmp_path / "run", **options))
    for stage_bytes, wave_s, spare_regions, bundles in (
        (1, 0.0, 1, 1),
        (200_000, 1e-3, 3, 2),
        (10**8, 100.0, 16, 9),
    ):
        monkeypatch.setattr(prepare, "MOST_BUNDLES", bundles)
        monkeypatch.setattr(memory, "STAGE_BYTES", stage_bytes)
        monkeypatch.setattr(prepare, "WAVE_S", wave_s)
        monkeypatch.setattr(prepare, "SPARE_REGIONS", spare_regions)
        found = outcome(fit(small, tmp_path / f"{stage_bytes}", **options, threads=threads))
        assert found == expected, stage_bytes


@pytest.mark.parametrize("variant", ["adam-full", "sgd-full", "cosine-holdout-patience", "auto"])
def test_blocks_that_are_gone_are_made_again_to_the_same_bits(variant: str, small: str, tmp_path: Path) -> None:
    options = VARIANTS[variant]
    expected = outcome(fit(small, tmp_path / "run", **options))

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "stopped"
    with pytest.raises(PausedError):
        fit(small, run, **options, display=Listener("pass 2" if variant == "auto" else "epoch 2/3", stop))
    assert list((run / "blocks").iterdir())
    shutil.rmtree(run / "blocks")
    assert outcome(fit(small, run, **options)) == expected
