"""The process of one run of one system. It speaks with its parent (`benchmarks.measure`) in lines of JSON.

    <- what to run    -> ready (warm)    <- go    -> seconds, measures    <- evaluate or end    -> way closed

Everything else that libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

from benchmarks.reference import Reference
from benchmarks.systems import make_system
from benchmarks.systems.base import DataFiles, Participant, System, WholeProcess


def main() -> None:
    """Do what the first line asks for."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    data, scratch = DataFiles.from_json(task["data"]), Path(task["scratch"])
    system = _loaded(task, data, scratch) if task["load"] else _run(task, data, scratch, answers)
    if sys.stdin.readline().strip() == "evaluate":
        reference = Reference.from_json(task["reference"])
        _answer(answers, way_closed=reference.way_closed(system.raw_prediction))


def _loaded(task: dict[str, Any], data: DataFiles, scratch: Path) -> Participant:
    """The model that whole processes left behind."""
    system = make_system(task["system"], scratch, task["options"])
    assert isinstance(system, WholeProcess)
    system.load(data)
    return system


def _run(task: dict[str, Any], data: DataFiles, scratch: Path, answers: TextIO) -> System:
    """Warm up on a small data set, then do the work between `go` and the answer."""
    warm = _prepared(task, DataFiles.from_json(task["warm"]), scratch / "warm")
    warm.run()
    del warm
    shutil.rmtree(scratch / "warm")
    system = _prepared(task, data, scratch / "work")
    _answer(answers, ready=True)
    assert sys.stdin.readline().strip() == "go"
    started_s = time.perf_counter()
    system.run()
    seconds = time.perf_counter() - started_s
    _answer(answers, seconds=seconds, measures=system.measures())
    return system


def _prepared(task: dict[str, Any], data: DataFiles, scratch: Path) -> System:
    scratch.mkdir(parents=True)
    system = make_system(task["system"], scratch, task["options"])
    assert isinstance(system, System)
    system.prepare(data)
    return system


def _answer(answers: TextIO, **values: Any) -> None:
    answers.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
