"""Processes that start at once: forked from one that has imported streamgd.

They are processes as any other, with a number, signals, locks and memory of their own; what they save is the seconds of
imports before the first line of work, which most tests would spend most of their time on. What start-up itself does is
tested where the interpreter is started, by ``subprocess``.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = [
    "streamgd.cli", "streamgd.cli_job", "streamgd.failures", "streamgd.jobs.night", "streamgd.training.workers",
    "distributed.cli.dask_worker", "distributed.cli.dask_scheduler", "dask.threaded",
]  # fmt: skip

#: A start looks whether others have ended, too: of two threads that look at once, one would lose the exit code.
_LOOKING = threading.Lock()


class Process:
    """A function that runs in a process of its own; the rest is as ``subprocess.Popen`` has it."""

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: Any,
        cwd: str | Path = ".",
        environment: Mapping[str, str] | None = None,
    ):
        self._folder = tempfile.TemporaryDirectory()
        self._written = [Path(self._folder.name, name) for name in ("out", "err")]
        for path in self._written:
            path.touch()
        where = (str(Path(cwd).absolute()), dict(environment or {}), list(map(str, self._written)))
        self._process = _forkserver().Process(target=_run, args=(*where, function, arguments), daemon=True)
        with _LOOKING:
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with _LOOKING:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        connection.wait([self._process.sentinel], timeout)
        found = self.poll()
        if found is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return found

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (path.read_text() for path in self._written)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def command(*arguments: str | Path, cwd: str | Path = ".", environment: Mapping[str, str] | None = None) -> Process:
    """``streamgd ARGUMENTS``."""
    return Process(_main, *map(str, arguments), cwd=cwd, environment=environment)


def module(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
    """``python -m NAME ARGUMENTS``, for a module that may have been imported before."""
    return Process(_module, name, *arguments, environment=environment)


def _module(name: str, *arguments: str) -> None:
    sys.argv = [name, *arguments]
    importlib.import_module(name).main()


def _main(*arguments: str) -> None:
    from streamgd.cli import main

    main(arguments, prog_name="streamgd")


def _run(
    cwd: str, environment: dict[str, str], written: list[str], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    for descriptor, path in enumerate(written, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(cwd)
    os.environ.update(environment)
    function(*arguments)


def python_path() -> str:
    """Where a started interpreter finds the package and the tests."""
    return os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


@cache
def _forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context
