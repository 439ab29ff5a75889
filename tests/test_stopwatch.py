"""Every run tells where its time went: seconds of each stage, added up over threads, for each epoch."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd import stopwatch as module
from streamgd.console import ConsoleDisplay, PlainLines
from streamgd.stopwatch import STAGES, Stopwatch
from streamgd.training.train import train


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_seconds_add_up_over_threads_until_the_lap_ends(clock: list[float]) -> None:
    stopwatch = Stopwatch()
    threads = [threading.Thread(target=lambda: [stopwatch.add("decode", 0.5) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock[0] += 60.0
    lap = stopwatch.lap()
    assert lap["thread_s"] == dict.fromkeys(STAGES, 0.0) | {"decode": 200.0}
    assert (lap["seconds"], lap["bottleneck"]) == (60.0, "decode")
    assert stopwatch.lap() == {"seconds": 0.0, "thread_s": dict.fromkeys(STAGES, 0.0), "bottleneck": None}


def test_what_is_done_with_an_item_does_not_count_and_a_failure_does(clock: list[float]) -> None:
    def slow_items() -> Any:
        for item in range(3):
            clock[0] += 1.0
            yield item

    stopwatch = Stopwatch()
    for _ in stopwatch.timed_items("decode", slow_items()):
        clock[0] += 10.0

    @stopwatch.timed("compute")
    def fails() -> None:
        clock[0] += 7.0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert stopwatch.lap()["thread_s"] == dict.fromkeys(STAGES, 0.0) | {"decode": 3.0, "compute": 7.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stopwatch") / "data.parquet"
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=40_000) for i in range(4)}
    # The epoch of auto must come below the best constant, or a pass more follows.
    target = columns["x0"] + rng.normal(size=40_000)
    pq.write_table(pa.table({**columns, "y": target}), path, row_group_size=5_000)
    return str(path)


#: The stages that must have taken time while the rows were made ready, and in each epoch or pass.
ORDERS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "full": ({}, {"decode", "encode", "scatter", "finalise", "waiting"}, {"compute"}),
    "window": ({"shuffle": "window"}, {"decode", "encode"}, {"decode", "encode", "finalise", "compute", "waiting"}),
    "batch": ({"method": "batch"}, {"decode", "encode"}, {"compute"}),
    "auto": ({"epochs": None}, {"decode", "encode", "scatter", "finalise", "waiting"}, {"compute"}),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_history_has_the_seconds_of_each_stage_of_each_epoch(order: str, data: str, tmp_path: Path) -> None:
    options, of_prepare, of_epoch = ORDERS[order]
    told = io.StringIO()
    result = train(data, "y", run=str(tmp_path), display=ConsoleDisplay(PlainLines(told)), **{"epochs": 2, **options})
    prepare, *epochs = result.to_json()["history"]
    assert prepare["event"] == "prepare"
    assert len(epochs) == (2 if order != "auto" else 3)  # two passes: the squared loss is a parabola
    for line, stages in [(prepare, of_prepare), *((epoch, of_epoch) for epoch in epochs)]:
        assert list(line["thread_s"]) == list(STAGES)
        assert {stage for stage in stages if line["thread_s"][stage] == 0.0} == set()
        assert line["thread_s"][line["bottleneck"]] == max(line["thread_s"].values())
        assert line["seconds"] > 0.0
    assert f"bottleneck {epochs[-1]['bottleneck']}" in told.getvalue()
