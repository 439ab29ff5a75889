"""The parent of a run: warms the page cache, starts the process, takes time and memory, asks for the quality."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.reference import Reference
from benchmarks.systems import make_system
from benchmarks.systems.base import DataFiles, WholeProcess

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_EVERY_S = 0.02
#: Looking for new children means a look at every process of the machine.
CHILDREN_EVERY_SAMPLES = 5


class RunFailedError(Exception):
    """A process ended before it was done; the text is the end of what it wrote to stderr."""


@dataclass(frozen=True)
class Work:
    """One system, its options, and the data it works on."""

    system: str
    options: dict[str, Any]
    data: DataFiles
    warm: DataFiles
    reference: Reference


@dataclass
class Measurement:
    """What one run gave.

    Attributes
    ----------
    seconds : float
        The work of a warm process, or whole processes from start to end.
    measures : dict of float
        Parts, as the system tells them; for whole processes the seconds of each.
    way_closed : float or None
        Quality, where it was asked for.
    """

    seconds: float
    peak_anonymous_bytes: int
    measures: dict[str, float] = field(default_factory=dict)
    way_closed: float | None = None


class MemorySampler:
    """The largest sum of anonymous resident memory over a process and all below it, looked at every 20 ms.

    It reads RssAnon of `/proc/PID/status`: `smaps_rollup` walks all page tables, and so slows down what it measures
    when gigabytes are mapped.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pids = [pid]
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        count = 0
        while True:
            if count % CHILDREN_EVERY_SAMPLES == 0:
                self._pids = process_tree(self._pid)
            self.peak_bytes = max(self.peak_bytes, sum(map(anonymous_bytes, self._pids)))
            count += 1
            if self._stop.wait(SAMPLE_EVERY_S):
                return


def anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of a process, 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def process_tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The name stands in parentheses and may hold anything; what follows is state and parent.
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry))
    tree = [pid]
    for each in tree:
        tree.extend(children.get(each, []))
    return tree


def warm_page_cache(data: DataFiles) -> None:
    """Read all files, and let the disk finish what earlier runs wrote."""
    for path in data.paths:
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    os.sync()


def measure(work: Work, scratch: Path, evaluate: bool, warm_processes: bool) -> Measurement:
    """Run a system once.

    Parameters
    ----------
    scratch : path
        A folder that is not there; it is removed at the end.
    evaluate : bool
        Whether to take the quality.
    warm_processes : bool
        Whether whole processes run once on the small data set before, so that compiled loops are in their cache.

    Raises
    ------
    RunFailedError
        A process failed.
    """
    scratch.mkdir(parents=True)
    try:
        system = make_system(work.system, scratch, work.options)
        if isinstance(system, WholeProcess):
            return _measure_processes(work, scratch, evaluate, warm_processes)
        return _measure_work(work, scratch, evaluate)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # An installed package has its bytecode; the first run of a checkout shall write that down too.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path}


class _Child:
    """A process that runs `benchmarks.child`."""

    def __init__(self, work: Work, scratch: Path, load: bool) -> None:
        self._errors = scratch / "stderr.txt"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=_environment(), text=True, bufsize=1,
            )  # fmt: skip
        task = {
            "system": work.system, "options": work.options, "scratch": str(scratch if load else scratch / "run"),
            "data": work.data.to_json(), "warm": work.warm.to_json(), "reference": work.reference.to_json(),
            "load": load,
        }  # fmt: skip
        self.tell(json.dumps(task))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if error is not None:
            self.process.kill()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RunFailedError(_last_lines(self._errors)) from None

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RunFailedError(_last_lines(self._errors))
        found: dict[str, Any] = json.loads(line)
        return found


def _last_lines(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-3:]) or "ended without a word"


def _measure_work(work: Work, scratch: Path, evaluate: bool) -> Measurement:
    with _Child(work, scratch, load=False) as child:
        child.answer()
        warm_page_cache(work.data)
        with MemorySampler(child.process.pid) as memory:
            child.tell("go")
            found = child.answer()
        result = Measurement(found["seconds"], memory.peak_bytes, found["measures"])
        result.way_closed = _quality(child, evaluate)
        return result


def _quality(child: _Child, evaluate: bool) -> float | None:
    child.tell("evaluate" if evaluate else "end")
    return float(child.answer()["way_closed"]) if evaluate else None


def _measure_processes(work: Work, scratch: Path, evaluate: bool, warm: bool) -> Measurement:
    if warm:
        warm_scratch = scratch / "warm"
        warm_scratch.mkdir()
        _run_processes(work, work.warm, warm_scratch)
    (scratch / "work").mkdir()
    warm_page_cache(work.data)
    result = _run_processes(work, work.data, scratch / "work")
    if evaluate:
        with _Child(work, scratch / "work", load=True) as child:
            result.way_closed = _quality(child, evaluate)
    return result


def _run_processes(work: Work, data: DataFiles, scratch: Path) -> Measurement:
    system = make_system(work.system, scratch, work.options)
    assert isinstance(system, WholeProcess)
    seconds, peak_bytes = {}, 0
    for name, command in system.commands(data).items():
        errors = scratch / f"{name}.stderr.txt"
        with errors.open("wb") as file:
            started_s = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=_environment())
            try:
                with MemorySampler(process.pid) as memory:
                    code = process.wait()
                    seconds[f"{name}_s"] = time.perf_counter() - started_s
            finally:
                process.kill()
        if code != 0:
            raise RunFailedError(f"exit code {code}: {_last_lines(errors)}")
        peak_bytes = max(peak_bytes, memory.peak_bytes)
    return Measurement(sum(seconds.values()), peak_bytes, seconds)
