"""Full-batch passes on the processes of a Dask cluster: one that is there, or one started for the run.

    spec ── once ─────────────────┐
    theta ── one task a pass ─────┼──> chunk 0 … chunk n ──> folds of eight neighbours ──> … ──> sum
    chunks ── each at its worker ─┘

A chunk goes to the worker that had it in the pass before, whose disk has its blocks, unless another one is idle. Sums
are folded as threads fold them. Nothing is kept in the scheduler between passes but the spec.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster

from streamgd.data.storage_failures import one_line
from streamgd.data.store import WORKERS_FOLDER, remove_blocks
from streamgd.errors import ClusterLostError, ConfigError
from streamgd.limits import usable_cores
from streamgd.plain import byte_size, count_noun
from streamgd.state import make_folder
from streamgd.training.progress import RunContext
from streamgd.training.reduce import FOLDED, Pass, Reduction, RowGroups, Work
from streamgd.training.task import Task
from streamgd.training.workers import (
    PACKAGES,
    Failure,
    Part,
    Sealed,
    Spec,
    fold,
    held_key,
    other_versions,
    package_versions,
    sums_of_chunk,
)

#: Between looks at signals, and at which workers are there.
POLL_S = 0.1
LOOK_S = 2.0
#: For the scheduler to answer.
CONNECT_S = 15.0
#: For our own processes to end by themselves.
CLOSE_S = 2.0
#: For a worker to come, or to come back.
NO_WORKERS_S = 60.0
#: Dask warns of graphs beyond this; theta and the spec travel in it, once each.
LARGE_GRAPH_BYTES = 10_000_000

_SETTINGS = {
    "distributed.comm.timeouts.connect": "5s",
    # One chunk after another may be at work when workers are killed; ten deaths over the same one are no chance.
    "distributed.scheduler.allowed-failures": 10,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.low-level-log-length": 100,
}


class ClusterReduction(Reduction):
    """The workers of ``--cluster``, or ``--workers`` processes of our own.

    Raises
    ------
    ClusterLostError
        The scheduler does not answer, there are no workers, or processes of our own do not start.
    ConfigError
        Versions differ, or a worker may use too little memory.
    """

    def __init__(self, task: Task, context: RunContext):
        self._config = task.config
        self._context = context
        self._held: dict[tuple[str, str], Future[Any]] = {}
        self._blocks_dir = task.blocks_dir
        self._key = f"{os.getpid()}-{time.time_ns():x}"
        self._passes = 0
        self._stack = ExitStack()
        try:
            self._stack.enter_context(_quiet())
            self._stack.enter_context(dask.config.set(_SETTINGS))
            self.client = self._own() if task.config.workers else self._connected(str(task.config.cluster))
            workers = self.workers()
            self._check_versions()
            self._check_memory()
        except BaseException:
            self.close()
            raise
        context.display.message(f"workers: {len(workers)} with {count_noun(sum(workers.values()), 'thread')}")

    def _own(self) -> Client:
        """Processes of one thread each, which end with this one."""
        asked, folder = self._config.workers or 1, self._blocks_dir / WORKERS_FOLDER
        if asked > usable_cores():
            self._context.display.warn(
                f"--workers {asked}: more than the processors here, which are {usable_cores()}; each takes memory and"
                f" time to start, and none makes a pass shorter"
            )
        make_folder(folder)
        self._stack.callback(remove_blocks, self._blocks_dir)
        try:
            with _ctrl_c_kept_here():
                cluster = LocalCluster(
                    n_workers=asked, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0",
                    memory_limit=None, local_directory=str(folder), silence_logs=logging.CRITICAL,
                )  # fmt: skip
        except (RuntimeError, OSError) as error:  # Dask tells of what went wrong in a worker by a RuntimeError
            raise ClusterLostError(
                f"--workers {asked}: the processes did not start ({one_line(error)}). Ask for fewer, or look at the"
                f" free memory and at {folder}, and run the same command again."
            ) from error
        self._stack.callback(_close_cluster, cluster)
        return self._client(cluster)

    def _connected(self, address: str) -> Client:
        began_s = time.monotonic()
        while True:
            self._context.interrupt.check_repeated()
            try:
                return self._client(address)
            except (OSError, TimeoutError) as error:
                if time.monotonic() - began_s > CONNECT_S:
                    raise ClusterLostError(
                        f"--cluster {address}: no scheduler answers there. Look at the address and whether it runs, and"
                        f" run the same command again."
                    ) from error
            time.sleep(POLL_S)

    def _client(self, address: str | LocalCluster) -> Client:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared below
            client = Client(address, set_as_default=False, timeout=4)
        self._stack.callback(_close_client, client)
        return client

    def open(self, work: Work, threads: int, keeps_blocks: bool = False) -> Pass:  # noqa: ARG002
        self._passes += 1
        key = f"{self._key}-{self._passes}"
        spec = Spec.of(key, work, self._config.blocks_max if keeps_blocks else None, tuple(self.workers()))
        return _ClusterPass(self, key, self.sealed(spec, "spec", key), work.chunks, self._context)

    def workers(self) -> dict[str, int]:
        """Threads of each worker, by address; waits for the first."""
        began_s = time.monotonic()
        while True:
            self._context.interrupt.check_repeated()
            with _loss_told():
                workers: dict[str, int] = dict(self.client.nthreads())
            if workers:
                return dict(sorted(workers.items()))
            if time.monotonic() - began_s > NO_WORKERS_S:
                raise ClusterLostError(
                    "the cluster has no workers. Start some, and run the same command again; it goes on from the last"
                    " checkpoint."
                )
            time.sleep(POLL_S)

    def sealed(self, value: Any, name: str, token: str) -> Future[Any]:
        """A value as one task, which Dask brings to the workers that need it and makes again where one has died."""
        data = Sealed.pickled(value)
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE_GRAPH_BYTES + 2 * len(data)}):
            return self.client.submit(Sealed, data, key=(f"streamgd-{name}", token), pure=False)

    def hold(self, key: str, workers: dict[str, int]) -> None:
        """Have each worker keep what it has for ``key`` while this client lives."""
        wanted = {held_key(key, address): address for address in workers}
        for name in [name for name in self._held if name not in wanted and name[1].startswith(f"{key} ")]:
            del self._held[name]
        for name in wanted.keys() - self._held.keys():
            # Before the chunks that a newcomer has been given already.
            self._held[name] = self.client.submit(str, key, workers=[wanted[name]], key=name, pure=False, priority=1)

    def _check_versions(self) -> None:
        with _loss_told():
            found: Any = self.client.get_versions(packages=list(PACKAGES))
        here = package_versions()
        ours = ("python", "dask", "distributed")
        scheduler = found["scheduler"]["packages"]
        problems = [
            other_versions({name: here[name] for name in ours}, scheduler, "the scheduler"),
            *(other_versions(here, each["packages"], f"worker {at}") for at, each in sorted(found["workers"].items())),
        ]
        for problem in problems:
            if problem is not None:
                raise ConfigError(problem)

    def _check_memory(self) -> None:
        with _loss_told():
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
        for address, worker in sorted(workers.items()):
            limit, needed = worker["memory_limit"], self._config.memory * worker["nthreads"]
            if limit and limit < needed:
                raise ConfigError(
                    f"worker {address} may use {byte_size(limit)}, its {worker['nthreads']} threads need"
                    f" {byte_size(needed)} by --memory. Start it with a larger --memory-limit or fewer --nthreads, or"
                    f" lower --memory."
                )

    def close(self) -> None:
        self._held.clear()
        self._stack.close()


class _ClusterPass(Pass):
    def __init__(
        self, cluster: ClusterReduction, key: str, spec: Future[Any], chunks: tuple[RowGroups, ...], context: RunContext
    ):
        self._cluster = cluster
        self._key = key
        self._spec = spec
        self._chunks = chunks
        self._context = context
        self._starts = [0, *accumulate(map(len, chunks))]
        self._homes = [""] * len(chunks)
        self._number = 0

    def __call__(self, common: Any, done: Callable[[int], None] | None = None, every: int = 1) -> Any:
        workers = self._cluster.workers()
        with _loss_told():
            self._cluster.hold(self._key, workers)
            self._homes = assigned(self._homes, workers)
            self._number += 1
            shared = self._cluster.sealed(common, "common", f"{self._key}-{self._number}")
            total, milestones = self._submit(shared, every)
            futures = [shared, total, *milestones]
            try:
                part = self._wait(total, milestones, done)
            finally:
                # By name: an error keeps its frames, and these the futures; the scheduler would keep the sums as long.
                for future in futures:
                    future.release()
        for stage, seconds in part.thread_s.items():
            self._context.stopwatch.add(stage, seconds)  # type: ignore[arg-type]
        return part.value

    def _submit(self, shared: Future[Any], every: int) -> tuple[Future[Any], dict[Future[Any], int]]:
        """All tasks of a pass: the sum, and the folds over eight chunks with the rows of these."""
        client, token = self._cluster.client, f"{self._key}-{self._number}"
        chosen = range(0, len(self._chunks), every)
        leaves: dict[int, Future[Any]] = {}
        for home in dict.fromkeys(self._homes):
            indices = [index for index in chosen if self._homes[index] == home]
            many = len(indices)
            futures = client.map(
                sums_of_chunk, [self._spec] * many, [shared] * many,
                [self._starts[index] for index in indices], [self._starts[index + 1] for index in indices],
                key=[("streamgd-chunk", token, index) for index in indices],
                workers=[home], allow_other_workers=True, pure=False,
            )  # fmt: skip
            leaves |= dict(zip(indices, futures, strict=True))
        level = [leaves[index] for index in chosen]
        milestones: dict[Future[Any], int] = {}
        depth = 0
        while len(level) > 1 or not depth:
            depth += 1
            groups = [level[start : start + FOLDED] for start in range(0, len(level), FOLDED)]
            keys = [("streamgd-fold", token, depth, index) for index in range(len(groups))]
            level = client.map(fold, groups, key=keys, pure=False)
            if depth == 1:
                rows = [sum(row_group.rows for row_group in chunk) for chunk in self._chunks[::every]]
                milestones = {
                    future: sum(rows[index * FOLDED : (index + 1) * FOLDED]) for index, future in enumerate(level)
                }
        return level[0], milestones

    def _wait(self, total: Future[Any], milestones: dict[Future[Any], int], done: Callable[[int], None] | None) -> Part:
        """The sum, when it is there; an error as soon as a fold has it."""
        finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        for future in {total, *milestones}:
            future.add_done_callback(finished.put)
        looked_s = time.monotonic()
        while True:
            self._context.interrupt.check_repeated()
            if time.monotonic() - looked_s > LOOK_S:
                # Those who came meanwhile are to keep the run too. Waits for one, and not for ever.
                self._cluster.hold(self._key, self._cluster.workers())
                looked_s = time.monotonic()
            try:
                future = finished.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if future.status == "error":
                raise future.exception()
            if future.status == "cancelled":
                raise CancelledError
            rows = milestones.pop(future, 0)
            if done is not None and rows:
                done(rows)
            if future == total or future.type is Failure:
                found = future.result()
                if isinstance(found, Failure):
                    raise found.error()
                if future == total:
                    return found  # type: ignore[no-any-return]


def assigned(homes: list[str], threads: dict[str, int]) -> list[str]:
    """A worker for each chunk: its home before, as far as all have equal shares.

    Parameters
    ----------
    homes : list
        Address of the worker that had each chunk, empty where none had.
    threads : dict
        Threads of each worker that is there, by address.
    """
    before, n_threads = Counter(homes), sum(threads.values())
    share, more = divmod(len(homes), n_threads)
    room = Counter({address: share * threads[address] for address in threads})
    # What is left over goes first to those that had more than their share, one for each thread.
    for wish in ({address: before[address] - room[address] for address in threads}, threads):
        for address, most in wish.items():
            extra = max(0, min(most, threads[address] - (room[address] - share * threads[address]), more))
            room[address] += extra
            more -= extra
    found: list[str] = []
    for home in homes:
        stays = room[home] > 0
        room[home] -= stays
        found.append(home if stays else "")
    free = (address for address in threads for _ in range(room[address]))
    return [home or next(free) for home in found]


def _close_client(client: Client) -> None:
    with suppress(Exception):  # a scheduler that is gone cannot be told
        client.close(timeout=2)


def _close_cluster(cluster: LocalCluster) -> None:
    """End our own processes. They have nothing to tidy up, and may be slow to do so."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully()  # it is not to start another one
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)
    with suppress(Exception):
        cluster.close(timeout=CLOSE_S)


@contextmanager
def _loss_told() -> Iterator[None]:
    """Tell what breaks when the scheduler is lost in one line."""
    try:
        yield
    except KilledWorker as error:
        raise ClusterLostError(
            f"workers died again and again ({error.allowed_failures + 1} times) over one chunk. Give them more memory,"
            f" or lower --memory, and run the same command again; it goes on from the last checkpoint."
        ) from error
    except (CancelledError, OSError, TimeoutError) as error:
        raise ClusterLostError(
            "the scheduler of the cluster was lost. Run the same command again; it goes on from the last checkpoint."
        ) from error


@contextmanager
def _ctrl_c_kept_here() -> Iterator[None]:
    """Threads and processes that begin inside do not get the SIGINT that a terminal sends to all; this thread does."""
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask tells of lost workers and schedulers at length; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
