"""SIGTERM and SIGINT in every phase: one line, exit 75 or 130, and the same command goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Generated
from displays import RESOLVED, Listener
from faults import UnsynchronisedFiles, on
from histories import without_times
from mistakes import ROOT, here, message

from streamgd import console
from streamgd.data import blocks, prepare
from streamgd.show import show
from streamgd.training import train as training
from streamgd.training.holdout import ReducedHoldout, StreamedHoldout

STEPS = ["--batch-size", "64"]
WAYS = {
    "blocks": ["--optimizer", "adam", "--epochs", "3", "--holdout", "0.2"],
    "window": ["--shuffle", "window", "--epochs", "3", "--holdout", "0.2"],
    "sgd": ["--method", "sgd", "--epochs", "3", "--holdout", "0.2"],
    "batch": ["--method", "batch", "--optimizer", "backtracking", "--epochs", "9", "--holdout", "0.2"],
    "auto": ["--holdout", "0.2"],
}
PHASES = {
    "blocks": ["start", RESOLVED, "prepare", "finalise", "epoch 2/3", "evaluate", "writing"],
    "window": [RESOLVED, "epoch 1/3", "epoch 3/3", "evaluate", "writing"],
    "sgd": ["epoch 2/3", "writing"],
    "batch": ["start", "prepare", "pass 1", "pass 5", "writing"],
    "auto": ["finalise", "epoch 1/1", "evaluate", "pass 1", "pass 2", "writing"],
}
SIGNALS = {signal.SIGTERM: 75, signal.SIGINT: 130}


@pytest.fixture
def data(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> Path:
    """4,000 rows in blocks of 400, finished two at a time."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    monkeypatch.setattr(prepare, "SPARE_REGIONS", 2)
    return generated(rows=4_000, features=5, categorical=2, files=2, row_group_rows=900, loss="squared", seed=7)


class StrikesWhileWriting(UnsynchronisedFiles):
    """The signal comes in the middle of the second checkpoint."""

    def __init__(self, strike: Callable[[], None]):
        self.checkpoints = 0
        self._strike = strike

    def fsync(self, file: Any) -> None:
        self.checkpoints += "checkpoints" in file.name
        if self.checkpoints == 2:
            self.checkpoints += 1
            self._strike()


def command(data: Path, run: Path, way: str) -> list[str | Path]:
    options = ["--target", "y", "--checkpoint-every", "1ms", "--row-log", f"{run}.rows"]
    steps = [] if way == "auto" else STEPS
    return ["train", data, "--run", run, *options, *steps, *WAYS[way], "--json", "--quiet"]


def outcome(data: Path, run: Path, way: str) -> dict[str, Any]:
    """All that must not depend on when or where the run was stopped."""
    ending = here(*command(data, run, way))
    assert ending.exit_code == 0, ending.err
    facts = json.loads(ending.out)
    facts["history"] = without_times(facts["history"])
    rows = Path(f"{run}.rows")
    return {**facts, "seconds": 0, "run": "", "rows_used": rows.read_bytes() if rows.exists() else b""}


@pytest.mark.parametrize(
    ("way", "phase", "number"),
    [
        pytest.param(way, phase, number, marks=pytest.mark.slow if number == signal.SIGINT and way != "blocks" else ())
        for number in SIGNALS for way in WAYS for phase in PHASES[way]
    ],
)  # fmt: skip
def test_a_signal_in_any_phase_stops_where_the_same_command_goes_on(
    way: str, phase: str, number: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def strike() -> None:
        os.kill(os.getpid(), number)

    display, files = Listener(phase, strike), UnsynchronisedFiles()
    with monkeypatch.context() as patch:
        patch.setattr(console, "make_display", lambda _: display)
        if phase == "start":
            discover = training.discover
            patch.setattr(
                training, "discover", lambda *sources, **options: (strike(), discover(*sources, **options))[1]
            )
        elif phase == "writing":
            files = StrikesWhileWriting(strike)
        with on(files):
            ending = here(*command(data, run, way))
    message(ending, SIGNALS[number])
    with on(UnsynchronisedFiles()):
        assert outcome(data, run, way) == outcome(data, tmp_path / "undisturbed", way)


@pytest.mark.parametrize("evaluation", [1, 2])
@pytest.mark.parametrize("way", ["validated", "window", "sgd-window", "batch"])
def test_a_signal_while_the_holdout_loss_is_evaluated_keeps_the_epoch_before_it(
    way: str, evaluation: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "validated": ["--optimizer", "adam", "--epochs", "3", "--validation", data],
        "sgd-window": ["--method", "sgd", "--shuffle", "window", "--epochs", "3", "--holdout", "0.2"],
        "window": [*WAYS["window"], "--optimizer", "adagrad"],
    }.get(way, WAYS.get(way, []))  # fmt: skip
    kind = ReducedHoldout if way == "batch" else StreamedHoldout
    run, evaluations, mean_loss = tmp_path / "run", 0, kind.mean_loss
    shared = ["train", data, "--target", "y", *STEPS, *options, "--json", "--quiet"]

    def struck(*arguments: Any) -> float | None:
        nonlocal evaluations
        evaluations += 1
        if evaluations == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        return mean_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "mean_loss", struck)
        message(here(*shared, "--run", run), 75)
    stands = show(run)
    whole = json.loads(here(*shared, "--run", tmp_path / "undisturbed").out)
    epochs = evaluation - (way == "batch")
    assert stands["epochs"] == evaluation - 1
    assert stands["rows_seen"] == epochs * whole["train_rows"]
    gone_on = json.loads(here(*shared, "--run", run).out)
    assert gone_on["theta_sha256"] == whole["theta_sha256"]
    assert without_times(gone_on["history"]) == without_times(whole["history"])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_result_changes_nothing(number: int, generated: Generated, tmp_path: Path) -> None:
    data = generated(rows=4_000, features=3, files=1, seed=2)
    command = [sys.executable, "-m", "streamgd", "inspect", data, "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["rows"] == 4_000
        process.send_signal(number)
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_at_once(number: int, generated: Generated, tmp_path: Path) -> None:
    """The first would be answered at the next step; in between two are sent."""
    script = (
        "import os, sys\n"
        "from streamgd.training.display import Silent\n"
        "from streamgd.training.train import train\n"
        "class Twice(Silent):\n"
        "    def progress(self, phase, *rest):\n"
        "        if phase == 'epoch 2/3':\n"
        "            for _ in range(2): os.kill(os.getpid(), int(sys.argv[3]))\n"
        "            print('still here', flush=True)\n"
        "train(sys.argv[1], 'y', run=sys.argv[2], epochs=3, display=Twice())\n"
    )
    data, run = generated(rows=4_000, features=3, files=1, seed=2), tmp_path / "run"
    found = subprocess.run(
        [sys.executable, "-c", script, data, run, str(int(number))], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.returncode == -number
    assert "still here" not in found.stdout
    assert here("train", data, "--target", "y", "--run", run, "--epochs", "3", "--quiet").exit_code == 0
