"""What runs inside the worker processes of a Dask cluster: a task a chunk, and the folds of what they give.

    spec (sent once) ──> opened once a process: footers, encoder, blocks on the worker's disk ──┐
    common (theta, once a pass) ────────────────────────────────────────────────────────────────┴──> chunk ──> fold

An error of data or storage is a value here, so that Dask does not try the chunk again; a worker that dies is Dask's to
replace. What a worker keeps on disk goes when the client lets go of it, dies, or the worker ends.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Worker, get_worker
from distributed.versions import get_package_info
from threadpoolctl import ThreadpoolController

from streamgd.data.footers import read_footer
from streamgd.data.source import DataFile, Manifest
from streamgd.errors import (
    AccessError,
    ConfigError,
    DataChangedError,
    NoInputError,
    StorageError,
    StreamgdError,
    from_os_error,
)
from streamgd.stopwatch import Stopwatch
from streamgd.training.kept import Keep, kept_bytes
from streamgd.training.reduce import Work, folded_in_pairs

#: Packages that decide bits, or whether processes understand each other.
PACKAGES = ("streamgd", "numpy", "pyarrow", "numba", "dask", "distributed")
#: Footers that a worker has in memory at once.
MOST_FOOTERS = 64
#: Between looks at whether a run is still wanted, and the time in which its client says so.
WATCH_S = 0.3
NEVER_HELD_S = 120.0


def package_versions() -> dict[str, str | None]:
    """Versions in this process of Python and of ``PACKAGES``; None: not there."""
    found = get_package_info(PACKAGES)
    return {name: found[name] for name in ("python", *PACKAGES)}


def other_versions(here: dict[str, str | None], there: dict[str, str | None], where: str) -> str | None:
    """What differs between the versions of this process and of another one, if anything does."""
    differing = [name for name in here if here[name] != there.get(name)]
    listed = "; ".join(f"{name} {here[name] or 'none'} here, {there.get(name) or 'none'} there" for name in differing)
    return f"the versions of {where} differ: {listed}. Install the same on both." if differing else None


class Sealed:
    """A value on its way through Dask, which looks into tuples and lists and takes what it finds for tasks."""

    def __init__(self, data: bytes):
        self._data = data

    @staticmethod
    def pickled(value: Any) -> bytes:
        return pickle.dumps(value, protocol=5)

    @cached_property
    def value(self) -> Any:
        return pickle.loads(self._data)

    def __reduce__(self) -> tuple[Any, ...]:
        return Sealed, (self._data,)


@dataclass(frozen=True)
class Spec:
    """Work as it is sent: without footers, which each worker reads itself.

    ``blocks_bytes`` is what the ``workers`` (addresses) may keep on disk, all together and each an equal share; those
    who come later keep none. None where nothing is kept.
    """

    key: str
    work: Work
    versions: dict[str, str | None]
    blocks_bytes: int | None
    workers: tuple[str, ...]

    @classmethod
    def of(cls, key: str, work: Work, blocks_bytes: int | None, workers: tuple[str, ...]) -> Spec:
        files = tuple(replace(file, metadata=None) for file in work.manifest.files)
        bare = work.with_manifest(replace(work.manifest, files=files))
        return cls(key, bare, package_versions(), blocks_bytes, workers)


@dataclass(frozen=True)
class Part:
    """The sums over one chunk or several, and the thread-seconds they took by stage."""

    value: Any
    thread_s: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """An error of the data or the storage, as a value."""

    kind: type[StreamgdError]
    message: str

    def error(self) -> StreamgdError:
        return self.kind(self.message)


def sums_of_chunk(spec: Sealed, common: Sealed, start: int, stop: int) -> Part | Failure:
    """Read, encode and sum a chunk: the row groups ``start … stop - 1`` of the manifest."""
    try:
        with _one_blas_thread, np.errstate(all="ignore"), _at_work(spec.value) as run:
            return run.part(common.value, start, stop)
    except StreamgdError as error:
        return Failure(type(error), str(error))


def fold(parts: list[Part | Failure]) -> Part | Failure:
    """The sum of neighbours, by the tree that threads fold. The first failure is the sum."""
    return folded_in_pairs(parts, _added)


def _added(first: Part | Failure, later: Part | Failure) -> Part | Failure:
    if isinstance(first, Failure):
        return first
    if isinstance(later, Failure):
        return later
    thread_s = {stage: seconds + later.thread_s[stage] for stage, seconds in first.thread_s.items()}
    return Part(first.value + later.value, thread_s)


def held_key(key: str, address: str) -> tuple[str, str]:
    """Dask's key of what a worker has in memory as long as the client wants it to keep a run."""
    return "streamgd-held", f"{key} {address}"


def forget(key: str) -> None:
    """Let go of what this process keeps for a run; tasks at work in it come to their end before."""
    with _lock:
        run = _runs.pop(key, None)
        _forgotten.add(key)
        idle = run is not None and not run.tasks
    if run is not None and idle:
        run.close()


def _forget_when_released(key: str, worker: Worker) -> None:
    """Wait until the client has let go of a run, or has died; it may also die before it could say that it wants it."""
    held, seen, began_s = held_key(key, worker.address), False, time.monotonic()
    while key in _runs:
        there = held in worker.data
        if not there and (seen or time.monotonic() - began_s > NEVER_HELD_S):
            forget(key)
        seen = seen or there
        time.sleep(WATCH_S)


_runs: dict[str, _Run] = {}
#: Runs whose last tasks may still come by; they must not put anything on the disk again.
_forgotten: set[str] = set()
_lock = threading.Lock()


@contextmanager
def _at_work(spec: Spec) -> Iterator[_Run]:
    """The run of a spec; it stays open inside, also when it is forgotten meanwhile."""
    with _lock:
        run = _run_of(spec)
        run.tasks += 1
    try:
        yield run
    finally:
        with _lock:
            run.tasks -= 1
            last = not run.tasks and _runs.get(spec.key) is not run
        if last:
            run.close()


def _run_of(spec: Spec) -> _Run:
    if spec.key not in _runs:
        problem = other_versions(spec.versions, package_versions(), _name())
        if problem is not None:
            raise ConfigError(problem)
        _runs[spec.key] = _Run(spec, keeps_blocks=spec.key not in _forgotten)
        watch = threading.Thread(target=_forget_when_released, args=(spec.key, get_worker()), daemon=True)
        watch.start()
    return _runs[spec.key]


class _Run:
    """Work opened in this process; ``tasks`` are those at work in it."""

    def __init__(self, spec: Spec, keeps_blocks: bool):
        self.tasks = 0
        self._files = _Files(spec.work.manifest)
        self._work = spec.work.with_manifest(self._files.manifest)
        self._stopwatch = Stopwatch()
        keep = None
        worker = get_worker()
        if spec.blocks_bytes is not None and keeps_blocks and worker.address in spec.workers:
            folder = Path(worker.local_directory) / f"streamgd-{spec.key}"
            keep = Keep(folder, kept_bytes(spec.blocks_bytes, folder) // len(spec.workers), partly=True)
        with _named_errors():
            self._opened = self._work.opened(keep, self._stopwatch)

    def part(self, common: Any, start: int, stop: int) -> Part:
        chunk = self._work.manifest.row_groups[start:stop]
        with _named_errors():
            self._files.need({row_group.file_index for row_group in chunk})
            value = self._opened.result(common, chunk)
        # Threads of one worker share the stopwatch: who takes the seconds does not matter, they are added up.
        return Part(value, self._stopwatch.lap()["thread_s"])

    def close(self) -> None:
        with suppress(StreamgdError):  # what cannot be removed goes with the worker's directory
            self._opened.close()


class _Files:
    """The files of a manifest, with the footers of those that were needed last."""

    def __init__(self, manifest: Manifest):
        self._bare = manifest.files
        self._files: list[DataFile] = list(manifest.files)
        self.manifest = replace(manifest, files=self._files)  # type: ignore[arg-type]
        self._recent: list[int] = []
        self._lock = threading.Lock()

    def need(self, files: set[int]) -> None:
        with self._lock:
            for index in sorted(files):
                if index in self._recent:
                    self._recent.remove(index)
                else:
                    self._files[index] = self._with_footer(self._bare[index])
                self._recent.append(index)
            while len(self._recent) > max(MOST_FOOTERS, len(files)):
                gone = self._recent.pop(0)
                self._files[gone] = self._bare[gone]

    def _with_footer(self, file: DataFile) -> DataFile:
        try:
            footer = read_footer(self.manifest.filesystem, file.path)
        except NoInputError:
            raise NoInputError(
                f"{file.path} is not there. Put the data where every worker sees them under the same path."
            ) from None
        if footer.digest != file.footer_digest:
            raise DataChangedError(
                f"{file.path} is another file than the one the run began with, or has changed. Put the same data"
                f" where every worker sees them, or train afresh with --restart."
            )
        return replace(file, metadata=footer.metadata)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Errors that may be those of one machine are told with the worker's name."""
    try:
        yield
    except (NoInputError, DataChangedError, StorageError, AccessError) as error:
        raise type(error)(f"{_name()}: {error}") from error
    except OSError as error:
        # What storage answers may come through from a library.
        raise from_os_error(error, f"use {error.filename or 'a file'} on {_name()}") from error


def _name() -> str:
    return f"worker {get_worker().address}"


class _OneBlasThread:
    """While any task is in here, BLAS has one thread: their number changes bits, and is the same for all of a process.

    Workers of others may have tasks of their own, so it is given back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limits = _libraries().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limits.restore_original_limits()


@cache
def _libraries() -> ThreadpoolController:
    """Looking for them takes longer than a small chunk."""
    return ThreadpoolController()


_one_blas_thread = _OneBlasThread()
