"""Anonymous memory stays below --memory, measured from outside; what cannot fit is refused with the number needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.errors import ConfigError
from streamgd.training.memory import (
    LEVEL_BYTES,
    WORKER_BYTES,
    MemoryPlan,
    check_coefficients,
    check_history,
    memory_for_hessians,
)
from streamgd.training.reduce import FOLDED
from streamgd.training.train import train

ROOT = Path(__file__).parents[1]
#: Nothing that speaks of mini-batches: passes follow.
AUTO: list[str] = []
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def write_numbers(path: Path, rows: int, columns: int, row_group_rows: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(columns)] + ["y"]
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, rows, row_group_rows):
            count = min(row_group_rows, rows - start)
            writer.write_table(pa.table([rng.normal(size=count) for _ in names], schema=schema))


def write_levels(path: Path, rows: int, columns: int, levels: int, row_group_rows: int = 100_000) -> None:
    rng = np.random.default_rng(0)
    text = pa.array([f"level-{level:06d}" for level in range(levels)])
    made: dict[str, Any] = {f"c{i}": text.take(pa.array(rng.integers(0, levels, rows))) for i in range(columns)}
    pq.write_table(pa.table(made | {"y": rng.normal(size=rows)}), path, row_group_size=row_group_rows)


def peak_anonymous_bytes(*arguments: str) -> int:
    """Of ``streamgd train``, looked at every few milliseconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "streamgd", "train", *arguments, "--quiet"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        peak = max(peak, int(found.group(1)) * 1024 if found else 0)
        time.sleep(0.004)
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    return peak


@pytest.mark.parametrize(
    ("rows", "columns", "row_group_rows", "memory_mb", "options"),
    [
        pytest.param(200_000, 10, 1_000, 320, [], marks=pytest.mark.slow),
        pytest.param(5_000, 1_000, 1_000, 600, [], marks=pytest.mark.slow),
        pytest.param(5_000_000, 10, 1_000_000, 320, [], marks=pytest.mark.slow),
        pytest.param(5_000_000, 10, 1_000_000, 512, ["--shuffle", "window"], marks=pytest.mark.slow),
        (200_000, 100, 10_000, 400, AUTO),
        pytest.param(1_000_000, 120, 100_000, 512, AUTO, marks=pytest.mark.slow),
        pytest.param(30_000, 1_000, 1_000, 650, ["--method", "batch", "--epochs", "2"], marks=pytest.mark.slow),
        pytest.param(1_000_000, 10, 1_000, 320, ["--method", "batch", "--epochs", "3"], marks=pytest.mark.slow),
        pytest.param(100_000, 1_000, 50_000, 650, [], marks=pytest.mark.slow),
    ],
)
def test_anonymous_memory_stays_below_the_budget(
    rows: int, columns: int, row_group_rows: int, memory_mb: int, options: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "data.parquet"
    write_numbers(data, rows, columns, row_group_rows)
    epochs = [] if options is AUTO else ["--epochs", "1"]
    arguments = [str(data), "--target", "y", "--run", str(tmp_path / "run"), *epochs, *options]
    assert peak_anonymous_bytes(*arguments, "--memory", f"{memory_mb}MB") < memory_mb * 1e6


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (3, []),
        (40, []),
        pytest.param(40, ["--shuffle", "window"], marks=pytest.mark.slow),
        pytest.param(40, ["--method", "batch"], marks=pytest.mark.slow),
    ],
)
def test_the_least_memory_that_a_refusal_names_is_enough(columns: int, options: list[str], tmp_path: Path) -> None:
    data, run = tmp_path / "data.parquet", tmp_path / "run"
    write_numbers(data, 300_000, columns, 100_000)
    given = {"target": "y", "run": str(run), "epochs": 1}
    given |= {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
    least_mb = megabytes_needed(lambda: train(str(data), memory="100MB", **given)) + 1
    arguments = [str(data), "--target", "y", "--run", str(run), "--epochs", "1", *options]
    assert peak_anonymous_bytes(*arguments, "--memory", f"{least_mb:.0f}MB") < least_mb * 1e6


def write_lists(path: Path, rows: int, of_row: int, columns: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    keys: Any = pa.array(rng.integers(0, columns, rows * of_row).astype(np.int32))
    if kind == "counts":
        keys = pa.array([f"word-{key:06d}" for key in range(columns)]).take(keys)
    if kind != "indices":
        keys = pa.StructArray.from_arrays([keys, pa.array(rng.normal(size=len(keys)))], ["key", "value"])
    lists = pa.ListArray.from_arrays(np.arange(0, rows * of_row + 1, of_row, dtype=np.int32), keys)
    pq.write_table(pa.table({"s": lists, "y": rng.normal(size=rows)}), path, row_group_size=50_000)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shuffle": "window"}, {"method": "batch"}], ids=str)
@pytest.mark.parametrize("kind", ["indices", "pairs", "counts"])
def test_the_least_memory_that_a_refusal_names_is_enough_for_lists(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    data, run = tmp_path / "data.parquet", tmp_path / "run"
    write_lists(data, 100_000, 40, 100_000, kind)
    declared = {} if kind == "counts" else {"index_columns": "s=100000"}
    given: dict[str, Any] = {"target": "y", "run": str(run), "epochs": 1, **options, **declared}
    least = 100
    for _ in range(4):
        try:
            train(str(data), **given, memory=f"{least}MB")
        except ConfigError as error:
            found = re.search(r"at least --memory (\d+)MB", str(error))
            assert found
            least = int(found[1])
    shutil.rmtree(run)
    arguments = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), str(value))]
    assert peak_anonymous_bytes(str(data), *arguments, "--memory", f"{least}MB") < least * 1e6


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minibatch", "batch"])
@pytest.mark.parametrize("loss", ["poisson", "multinomial"])
def test_anonymous_memory_stays_below_the_budget_with_counts_and_classes(
    loss: str, method: str, tmp_path: Path
) -> None:
    """Written as most writers do, with a dictionary page of every column."""
    data = tmp_path / "data.parquet"
    write_numbers(data, 1_000_000, 20, 100_000)
    table = pq.read_table(data)
    counts = np.digitize(table["y"].to_numpy(), [-0.8, -0.2, 0.2, 0.8])
    pq.write_table(table.set_column(20, "y", pa.array(counts)), data, row_group_size=100_000)
    options = ["--loss", loss, "--method", method, "--epochs", "2"]
    arguments = [str(data), "--target", "y", "--run", str(tmp_path / "run"), *options, "--memory", "400MB"]
    assert peak_anonymous_bytes(*arguments) < 400e6


@pytest.mark.slow
def test_anonymous_memory_stays_below_the_budget_with_many_levels(tmp_path: Path) -> None:
    data = tmp_path / "data.parquet"
    write_levels(data, 400_000, 10, 60_000)
    arguments = [str(data), "--target", "y", "--run", str(tmp_path / "run"), "--epochs", "1", "--memory", "650MB"]
    assert peak_anonymous_bytes(*arguments) < 650e6


@pytest.mark.parametrize("options", [{"method": "minibatch"}, {"method": "batch", "optimizer": "backtracking"}])
def test_more_coefficients_than_fit_are_refused_with_the_number_needed(options: dict[str, Any], tmp_path: Path) -> None:
    data, run = tmp_path / "data.parquet", tmp_path / "run"
    write_levels(data, 200_000, 8, 60_000, row_group_rows=20_000)
    told = r"--memory 332MB is too small.*: 335 MB are needed \(\d\d\d,\d\d\d coefficients.*at least --memory 336MB"
    with pytest.raises(ConfigError, match=told):
        train(str(data), "y", run=str(run), memory="332MB", threads=1, epochs=1, **options)
    assert not run.exists()


def megabytes_needed(refused: Callable[[], object]) -> float:
    with pytest.raises(ConfigError) as error:
        refused()
    found = re.search(r"([0-9]+) MB are needed", str(error.value))
    assert found, error.value
    return float(found.group(1))


def test_every_check_counts_what_a_worker_process_has_more() -> None:
    plan, n_dof = MemoryPlan(2, 0, 10_000_000), 1_000
    more = WORKER_BYTES / 1e6
    for check, expected in (
        (lambda on: check_coefficients(1, n_dof, 0, on), more),
        (lambda on: check_history(1, n_dof, 0, on), more),
        # A fold of the cluster has as many sums in memory.
        (lambda on: memory_for_hessians(1, plan, n_dof, 32, False, on), more + FOLDED * 8 * n_dof**2 / 1e6),
    ):
        here, on_workers = (megabytes_needed(partial(check, on)) for on in (False, True))
        assert on_workers - here == pytest.approx(expected, abs=1.0)


def test_levels_count_beside_the_history_too() -> None:
    few, many = (megabytes_needed(partial(check_history, 1, 1_000, levels)) for levels in (0, 1_000_000))
    assert many - few == pytest.approx(LEVEL_BYTES, abs=1.0)


def test_what_a_stream_reads_counts_beside_its_coefficients(tmp_path: Path) -> None:
    data = tmp_path / "data.parquet"
    write_levels(data, 200_000, 8, 60_000)
    refused = [
        partial(train, str(data), "y", run=str(tmp_path / order), memory="336MB", threads=1, epochs=1, shuffle=order)
        for order in ("full", "window", "none")
    ]
    refused[0]()
    assert min(map(megabytes_needed, refused[1:])) > 340
