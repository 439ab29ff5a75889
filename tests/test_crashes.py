"""A fault at operation 1, 2, 3 … until the run completes, as SQLite tests itself: only the old or the new is found.

The fast suite passes over most operations.

The operations are those of ``state.FileSystem``: every write to checkpoints, blocks, history, model and predictions.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import FAULTS, FaultyFiles, Killed, UnsynchronisedFiles, on
from histories import without_times
from mistakes import Ending, contents, here, message
from processes import Process

from streamgd import state as state_module
from streamgd.data import blocks, prepare
from streamgd.model import Model
from streamgd.training.checkpoint import CheckpointStore

ROWS = 300
#: A checkpoint after every block, so that most operations fall between two of them.
COMMON = [
    "--target", "y", "--checkpoint-every", "0.001ms", "--threads", "1", "--quiet", "--json",
]  # fmt: skip
EPOCHS = ["--epochs", "2", "--batch-size", "20"]
WAYS = {
    "blocks": ["--holdout", "0.2", *EPOCHS],
    "window": ["--shuffle", "window", "--optimizer", "adam", *EPOCHS],
    "sgd": ["--method", "sgd", *EPOCHS],
    "batch": ["--method", "batch", *EPOCHS],
    "auto": ["--holdout", "0.2"],
    "lists": ["--holdout", "0.2", *EPOCHS],
}


#: Every fourth operation of the way that knows all kinds of them; every one of all ways is for the slow suite.
EACH_WAY = [("blocks", 4), *(pytest.param(way, 1, marks=pytest.mark.slow) for way in WAYS)]


KINDS = {"open", "write", "fsync", "replace", "remove", "fsync_folder", "append", "create", "write_at"}
EXIT_CODES = {"disk full": 74, "device error": 74, "no permission": 77}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five blocks of 60 rows in three bundles, finished two at a time."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 60)
    monkeypatch.setattr(prepare, "MOST_BUNDLES", 3)
    monkeypatch.setattr(prepare, "SPARE_REGIONS", 2)
    monkeypatch.setattr(state_module, "files", UnsynchronisedFiles())
    return make_data(tmp_path)


def make_data(folder: Path) -> Path:
    rng = np.random.default_rng(4)
    x, level = rng.normal(size=ROWS), rng.choice(["a", "b", "c"], ROWS)
    y = (rng.random(ROWS) < 1.0 / (1.0 + np.exp(-x - (level == "a")))).astype(np.int8)
    table = pa.table({"x": x, "level": level, "y": y})
    pq.write_table(table, folder / "data.parquet", row_group_size=100)
    tags = pa.array([rng.integers(0, 50, n).tolist() for n in rng.integers(0, 9, ROWS)])
    pq.write_table(table.append_column("tags", tags), folder / "lists.parquet", row_group_size=100)
    return folder / "data.parquet"


def arguments_of(data: Path, run: Path, way: str) -> list[str]:
    file = data.with_name("lists.parquet") if way == "lists" else data
    return ["train", str(file), "--run", str(run), *COMMON, *WAYS[way]]


def train(data: Path, run: Path, way: str) -> Ending:
    return here(*arguments_of(data, run, way))


def outcome(ending: Ending) -> dict[str, Any]:
    """All that must not depend on what happened on the way."""
    assert ending.exit_code == 0, ending.err
    facts = json.loads(ending.out)
    history = without_times(facts["history"])
    names = ("theta_sha256", "steps", "rows_seen", "epochs", "stopped_by", "train_loss", "holdout_loss")
    return {name: facts[name] for name in names} | {"history": history}


def sequences(run: Path) -> list[int]:
    """The numbers of the checkpoints that are there; every one must be whole."""
    found = CheckpointStore(run / "checkpoints").list()
    assert all(info.valid for info in found), [info.problem for info in found]
    return [info.sequence for info in found]


def assert_old_or_new(run: Path, files: FaultyFiles, theta_sha256: str) -> None:
    """Every checkpoint that got its name is whole, the newest or the two newest are there, and so is the model."""
    named = [path for path in files.named if path.parent.name == "checkpoints"]
    numbers = sequences(run)
    assert max(numbers, default=0) == len(named)
    assert len(numbers) >= min(2, len(named))
    if (run / "model.safetensors").exists():
        assert Model.load(run).theta_sha256 == theta_sha256


def failing_files(errors: list[BaseException], every: int) -> Iterator[FaultyFiles]:
    """Files that fail at operation 1, 1 + every, …; if these are not all, at the first operation of each kind too."""
    taking_turns = cycle(errors)
    for kind in sorted(KINDS) if every > 1 else ():
        yield FaultyFiles(1, next(taking_turns), kind)
    for n in range(1, 1_000, every):
        yield FaultyFiles(n, next(taking_turns))
    pytest.fail("never ran to its end")


@pytest.mark.parametrize(("way", "every"), EACH_WAY)
def test_a_run_killed_at_any_operation_goes_on_to_the_same_end(
    way: str, every: int, data: Path, tmp_path: Path
) -> None:
    expected = outcome(train(data, tmp_path / "undisturbed", way))
    kinds: Counter[str] = Counter()
    for number, files in enumerate(failing_files([Killed()], every)):
        run = tmp_path / str(number)
        with on(files):
            try:
                train(data, run, way)
                completed = True
            except Killed:
                completed = False
        assert completed == (files.failed is None)
        assert_old_or_new(run, files, expected["theta_sha256"])
        assert outcome(train(data, run, way)) == expected
        assert not list(run.rglob("*.tmp"))
        if files.failed is None:
            break
        kinds[files.failed] += 1
    assert kinds.total() > 30
    assert set(kinds) == KINDS - ({"create", "write_at"} if way == "window" else set())


@pytest.mark.parametrize(("way", "every"), EACH_WAY)
def test_a_fault_at_any_operation_is_one_line_and_the_run_goes_on_to_the_same_end(
    way: str, every: int, data: Path, tmp_path: Path
) -> None:
    expected = outcome(train(data, tmp_path / "undisturbed", way))
    code_of = {FAULTS[name][0]: code for name, code in EXIT_CODES.items()}
    endings: Counter[int] = Counter()
    for number, files in enumerate(failing_files(list(code_of), every)):
        run = tmp_path / str(number)
        with on(files):
            ending = train(data, run, way)
        endings[ending.exit_code] += 1
        if files.failed is None:
            assert outcome(ending) == expected
            break
        message(ending, code_of[files.error], str(run))
        assert_old_or_new(run, files, expected["theta_sha256"])
        assert outcome(train(data, run, way)) == expected
        assert not list(run.rglob("*.tmp"))
    assert endings[0] == 1
    assert min(endings[74], endings[77]) > 10


@pytest.mark.parametrize("killed", [True, False])
def test_predictions_are_the_old_or_the_new_at_any_operation(killed: bool, data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "run", "blocks").exit_code == 0
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("a", "b"):
        shutil.copy(data, inputs / f"{name}.parquet")

    def predict(out: Path, *options: str) -> Ending:
        return here("predict", tmp_path / "run", inputs, "--out", out, "--quiet", "--json", *options)

    assert predict(tmp_path / "new").exit_code == predict(tmp_path / "old", "--keep", "x").exit_code == 0
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    found: Counter[bool] = Counter()
    for n in range(1, 1_000):
        fault = "killed" if killed else list(EXIT_CODES)[n % 3]
        out, files = tmp_path / f"out-{n}", FaultyFiles(n, FAULTS[fault][0])
        shutil.copytree(tmp_path / "old", out)
        with on(files):
            try:
                ending = predict(out)
            except Killed:
                ending = None
        if ending is not None and ending.exit_code:
            message(ending, EXIT_CODES[fault], str(out))
            assert not list(out.glob(".*")), "only a kill leaves temporary files"
        for name in old:
            content = (out / name).read_bytes()
            assert content in (old[name], new[name])
            found[content == new[name]] += 1
        if ending is not None and not ending.exit_code:
            break
        assert predict(out).exit_code == 0
        assert contents(out) == new
    else:
        pytest.fail("never ran to its end")
    assert n > 10
    assert min(found.values()) > 5


# Killed in earnest


class DeadlyFiles(FaultyFiles):
    """Half of operation ``n`` is done, and the process is gone."""

    def due(self, operation: str) -> bool:
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().due(operation)


def die_at(n: int, arguments: list[str]) -> None:
    """What the child process does: the command, on files that kill it right after half of operation ``n``."""
    blocks.BLOCK_ROWS = 60
    prepare.MOST_BUNDLES, prepare.SPARE_REGIONS = 3, 2
    with on(DeadlyFiles(n, Killed())):
        try:
            exit_code = here(*arguments).exit_code
        except Killed:  # and no operation came after the half one
            os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(exit_code)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_sigkill_at_every_operation(way: str, data: Path, tmp_path: Path) -> None:
    expected = outcome(train(data, tmp_path / "undisturbed", way))
    for n in range(1, 1_000):
        run = tmp_path / str(n)
        child = Process(die_at, n, arguments_of(data, run, way))
        assert child.wait() in (0, -signal.SIGKILL)
        numbers = sequences(run)
        assert len(numbers) >= min(2, max(numbers, default=0))
        assert outcome(train(data, run, way)) == expected
        if child.returncode == 0:
            break
    print(f"{way}: killed at each of {n - 1} operations")
    assert n > 30
