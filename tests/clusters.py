"""Real schedulers and workers of Dask as processes on loopback, and what is wrong with them.

A worker's ``faults`` are Python lines that run in it before its first task; they can change how it works on chunks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from distributed import Client
from processes import Process, module, python_path

#: Changes how a worker works on chunks: ``around(work, start)`` is called in place of ``work()``.
_PRELOAD = """
import os, random, signal, sys, time
from pathlib import Path
from streamgd.training import workers

real = getattr(workers.sums_of_chunk, "real", workers.sums_of_chunk)  # this may be run more than once

def once(name):
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def until(condition, seconds=60):
    while not condition() and seconds > 0:
        time.sleep(0.02)
        seconds -= 0.02

{faults}

def sums_of_chunk(spec, common, start, stop):
    return around(lambda: real(spec, common, start, stop), start, common)

sums_of_chunk.__module__, sums_of_chunk.__qualname__ = real.__module__, "sums_of_chunk"
sums_of_chunk.real = real
workers.sums_of_chunk = sums_of_chunk
"""
DELAYS = "def around(work, start, common):\n    time.sleep(random.uniform(0.0, 0.02))\n    return work()"


class Cluster:
    """A scheduler, and workers that are added to it; all are killed at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.workers: list[Process | subprocess.Popen[bytes]] = []
        self._file = folder / "scheduler.json"
        self.scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"
        )
        wait_until(self._file.exists)
        with Client(scheduler_file=str(self._file), set_as_default=False) as client:
            self.address = str(client.scheduler.address)  # type: ignore[union-attr]

    def _start(self, program: str, *arguments: str, **environment: str) -> Process | subprocess.Popen[bytes]:
        name, arguments = f"distributed.cli.{program}", ("--scheduler-file", str(self._file), *arguments)
        if "--nanny" in arguments:  # it starts a process itself, which one that was forked here may not
            environment = {**os.environ, **environment, "PYTHONPATH": python_path()}
            return subprocess.Popen([sys.executable, "-m", name, *arguments], env=environment)
        return module(name, *arguments, environment=environment)

    def add(self, faults: str = DELAYS, nanny: bool = False, *arguments: str, **environment: str) -> int:
        """Start a worker; returns its process id."""
        number = len(self.workers)
        preload = self.folder / f"preload-{number}.py"
        preload.write_text(_PRELOAD.format(faults=faults))
        self.workers.append(
            self._start(
                "dask_worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--preload", str(preload),
                "--local-directory", str(self.folder), "--death-timeout", "60", "--nanny" if nanny else "--no-nanny",
                *arguments, **environment,
            )
        )  # fmt: skip
        return self.workers[-1].pid

    def wait(self, workers: int) -> None:
        """Until so many workers are there."""
        with self.client() as client:
            client.wait_for_workers(workers, timeout=60)

    def client(self) -> Client:
        return Client(self.address, set_as_default=False)

    def on_scheduler(self, function: Callable[..., Any]) -> Any:
        with self.client() as client:
            return client.run_on_scheduler(function)

    def blocks(self) -> list[Path]:
        """The blocks that workers keep."""
        return list(self.folder.glob("dask-scratch-space/*/streamgd-*/blocks-0.bin"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers, self.scheduler]:
            process.terminate()
        for process in [*self.workers, self.scheduler]:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(
    condition: Callable[[], Any], seconds: float = 30.0, found: Callable[[], Any] = lambda: "nothing to tell"
) -> None:
    """Wait; an error tells what was ``found`` instead."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"waited in vain: {found()}"
        time.sleep(0.02)
